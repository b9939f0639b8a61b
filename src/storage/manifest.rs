//! Which files of a core count.
