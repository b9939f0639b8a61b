//! What the programs of `bin` are made of: command lines, settings, texts for people. Knows nothing of how a node
//! works: `engine` is the one door to that.
//!
//! [`setting`] is the table that flags, environment, file, help and example are all drawn from; [`sources`] gathers the
//! texts and remembers where each came from; [`settings`] makes values of them and refuses what cannot be.

// Shared by both programs.
#[cfg(any(feature = "server", feature = "client"))]
pub mod exit;
#[cfg(any(feature = "server", feature = "client"))]
pub mod manual;
#[cfg(any(feature = "server", feature = "client"))]
pub mod quantity;
#[cfg(any(feature = "server", feature = "client"))]
pub mod table;

// The node's alone.
#[cfg(feature = "server")]
pub mod check;
#[cfg(feature = "server")]
pub mod command;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod dev;
#[cfg(feature = "server")]
mod dev_nodes;
#[cfg(feature = "server")]
pub mod disk_probe;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod entry;
#[cfg(feature = "server")]
pub mod generate;
#[cfg(feature = "server")]
pub mod inspect;
#[cfg(feature = "server")]
pub mod machine;
#[cfg(feature = "server")]
pub mod offline_log;
#[cfg(feature = "server")]
pub mod offline_snapshot;
#[cfg(feature = "server")]
mod parse;
#[cfg(feature = "server")]
pub mod place;
#[cfg(feature = "server")]
pub mod read_only_disk;
#[cfg(feature = "server")]
pub mod setting;
#[cfg(feature = "server")]
pub mod settings;
#[cfg(feature = "server")]
pub mod sources;
#[cfg(feature = "server")]
pub mod start;
#[cfg(feature = "server")]
pub mod trace;
