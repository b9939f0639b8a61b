//! ringctl against a real node, over its whole life.
