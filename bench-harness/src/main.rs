//! ringbench: measures a node.

fn main() {}
