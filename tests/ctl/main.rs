//! The client library and ringctl, from outside: against a node that misbehaves by script, and against a real one.
#![cfg(all(feature = "server", feature = "client"))]

mod client;
mod commands;
mod fake;
mod node;
#[path = "../cluster/ports.rs"]
mod ports;
mod process;
