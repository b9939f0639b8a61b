//! ringcore: a leaderless, replicated key-value store; thread per core, durable by default, over gRPC.
//!
//! The map, in order of dependency. `ARCHITECTURE.md` beside this file tells the life of a Put and of a Get, and the
//! invariants that hold between the modules.
//!
//! The pure part decides everything and touches nothing: no clock, no randomness, no file, no thread. It builds alone
//! (`cargo check --lib --no-default-features`), without the standard library, so the compiler refuses those things.
#![cfg_attr(not(any(test, feature = "server", feature = "client")), no_std)]

extern crate alloc;

// Pure.
pub mod types;

pub mod storage;

pub mod cluster;

pub mod replication;

pub mod node;

// Shell.
#[cfg(feature = "server")]
pub mod runtime;

#[cfg(feature = "wire")]
pub mod rpc;

#[cfg(feature = "server")]
pub mod admin;

// For applications.
#[cfg(feature = "client")]
pub mod client;

// For the programs of `bin`.
#[cfg(feature = "program")]
pub mod program;

#[cfg(feature = "client")]
pub mod ctl;
