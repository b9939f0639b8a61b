//! The pure modules in a simulated world: what must survive a crash, interrupted at every step.
//!
//! `world` is a node alone, `cluster` are several with a network between them.
//!
//! `cargo test --no-default-features --test sim`. Built with `--cfg mutants` it runs one test instead, which plants one
//! bug after the other and demands that each is caught:
//! `RUSTFLAGS="--cfg mutants" CARGO_TARGET_DIR=target/mutants cargo test --no-default-features --test sim`.

#![cfg_attr(
    mutants,
    allow(dead_code, unused_imports, reason = "only the scenarios that a planted bug can fail are run")
)]

mod cluster;
mod data_dir;
mod disk;
#[cfg(not(mutants))]
mod disk_laws;
mod history;
mod interrupt;
mod node;
mod part_file;
#[cfg(not(mutants))]
mod salvage;
mod snapshot;
mod world;

#[cfg(mutants)]
mod planted;

#[cfg(not(mutants))]
mod campaign;
