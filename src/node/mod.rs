//! One core's state machine: every decision of the node is made in [`machine::Machine::step`].

pub mod effect;
pub mod event;
pub mod image;
pub mod machine;
mod payload;
pub mod scan;
pub mod stats;
pub mod sweep;
