//! The records of one core in memory.
