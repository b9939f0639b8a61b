//! The executor and what hangs on it: the only place that names glommio. Moves time, bytes, messages and descriptors;
//! decides nothing about data.
//!
//! glommio has defects that this module lives around: an executor can fall asleep with work to do, deaf to its sockets,
//! until the next tick (`tick`), its own timers leak (`wheel`), its listeners share ports with strangers (`acceptor`). `tests/soak.rs` shows that
//! each stays bounded, and is to be run before its version is changed.

pub mod acceptor;
pub mod bell;
mod calls;
pub mod clock;
mod core;
pub mod cpus;
pub mod directory;
pub mod disk;
pub mod executor;
pub mod file_system;
mod gauges;
mod join;
pub mod links;
mod log_writer;
pub mod mailbox;
pub mod names;
pub mod net;
pub mod node;
pub mod pace;
pub mod padded;
pub mod probe;
#[cfg(test)]
mod scratch;
mod service;
pub mod signals;
mod snapshots;
pub mod sockets;
pub mod tick;
pub mod watchdog;
pub mod wheel;
