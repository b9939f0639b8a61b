//! The position in one core's log: the number of a block, never used twice.

/// Number of a log block. Blocks are numbered from 0; a number is never reused, so order in the log is order in time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Lsn(pub u64);
