//! Many seeds of the world of one node. `RINGCORE_SEED=N` replays one; `RINGCORE_SEEDS=N` runs so many fresh ones.

use crate::world::{Met, World};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds of every ordinary run.
const SEEDS: u64 = 300;
/// Every so many seeds, one runs twice and must leave the same trace.
const TWICE: u64 = 20;

/// What a campaign must have met, or it proved nothing.
const RARE: [&str; 12] = [
    "the power went",
    "the process was killed",
    "opening was interrupted",
    "the number of cores changed",
    "the clock jumped",
    "nothing was asked for for a while",
    "the node gave up after a failed write",
    "the disk was full",
    "records were read from parts",
    "a named write was repeated after a crash",
    "an old version was refused by the floor",
    "a write ended in doubt",
];

fn run(seed: u64) -> World {
    match catch_unwind(AssertUnwindSafe(|| World::run(seed))) {
        Ok(world) => world,
        Err(panic) => {
            eprintln!("replay: RINGCORE_SEED={seed} cargo test --no-default-features --test sim campaign");
            std::panic::resume_unwind(panic)
        }
    }
}

#[test]
fn no_answer_contradicts_another_whatever_happens_to_the_node() {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    if let Some(seed) = number("RINGCORE_SEED") {
        run(seed);
        return;
    }
    let (mut met, mut checked, mut lasted_ns) = (Met::default(), 0, 0);
    let (first, count) = (number("RINGCORE_FIRST").unwrap_or(1), number("RINGCORE_SEEDS").unwrap_or(SEEDS));
    for seed in first..first + count {
        let world = run(seed);
        if seed % TWICE == 0 {
            assert_eq!(world.trace, run(seed).trace, "seed {seed} does not give the same run twice");
        }
        met.add(&world.met);
        checked += world.checked();
        lasted_ns += world.lasted_ns();
    }
    println!(
        "{count} seeds, {checked} answers checked, {} s of the world; met: {:#?}",
        lasted_ns / 1_000_000_000,
        met.0
    );
    for rare in RARE {
        assert!(met.0.get(rare).is_some_and(|count| *count > 0), "never met: {rare}");
    }
}
