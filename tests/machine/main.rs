//! One machine, driven by events and looked at through its effects: each promise of a core by name.
//!
//! `cargo test --no-default-features --test machine`. Disks, crashes and replay are the simulator's (`tests/sim`); here the
//! log is durable exactly when a test says so.

mod alone;
mod bench;
mod moves;
mod net;
mod repair;
mod three;
mod two;
