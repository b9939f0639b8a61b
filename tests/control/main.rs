//! Agreement on epochs in a simulated world: messages are lost, repeated, delayed and cut off, nodes crash and come back
//! with what their logs held.
//!
//! `cargo test --no-default-features --test control`. Built with `--cfg mutants` it runs one test instead, which plants
//! one bug after the other and demands that each is caught:
//! `RUSTFLAGS="--cfg mutants" CARGO_TARGET_DIR=target/mutants cargo test --no-default-features --test control`.

#![cfg_attr(mutants, allow(dead_code, unused_imports, reason = "only what a planted bug can fail is run"))]

mod judge;
mod node;
mod paxos;
mod world;

#[cfg(not(mutants))]
mod campaign;
#[cfg(mutants)]
mod planted;

/// A number in the environment.
fn seed(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs one seed, and says how to run it again if it fails.
fn replayable<R>(variable: &str, seed: u64, run: impl FnOnce() -> R) -> R {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(done) => done,
        Err(panic) => {
            eprintln!("replay: {variable}={seed} cargo test --no-default-features --test control");
            std::panic::resume_unwind(panic)
        }
    }
}
