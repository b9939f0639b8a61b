//! `ringcore start`: settings in, diagnostics on, the node run, its end turned into an exit code.

use super::engine;
use super::exit::{self, Exit};
use super::settings::{Durability, Settings};
use super::trace;

/// Runs a node until it is told to stop.
pub fn run(settings: &Settings) -> Exit {
    let trace = match trace::init(settings) {
        Ok(trace) => trace,
        Err(refusal) => return exit::refuse(&[refusal]),
    };
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    if settings.durability == Durability::None {
        tracing::warn!("durability is none: writes are acknowledged before they are on stable storage");
    }
    if settings.accept_data_loss {
        tracing::warn!("accept_data_loss is on: damaged writes are given up; take it away after this start");
    }
    let outcome = engine::run_node(settings);
    // What was traced stands before the sentence that ends it all.
    drop(trace);
    match outcome {
        Ok(()) => Exit::OK,
        Err(refusal) => exit::refuse(&[refusal]),
    }
}
