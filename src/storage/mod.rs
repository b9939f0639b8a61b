//! One core's data on disk and in memory: table, log, snapshots, recovery. Knows nothing of other nodes.

pub mod block;
pub mod carried;
pub mod data_dir;
pub mod digest;
pub mod disk;
mod fetch;
pub mod identity;
pub mod image;
pub mod join_file;
pub mod log;
pub mod log_record;
pub mod lsn;
pub mod manifest;
pub mod open;
pub mod owner;
pub mod part;
pub mod recovery;
pub mod replay;
pub mod segment;
pub mod shard;
pub mod small_file;
pub mod snapshot;
pub mod table;
