//! Many seeds of the whole world. `CONTROL_SEED=N` replays one; `CONTROL_FIRST` and `CONTROL_SEEDS` run others.

use crate::world::{Met, World};

/// Seeds of every ordinary run.
const SEEDS: u64 = 1_500;
/// Every so many seeds, one runs twice and must leave the same trace.
const TWICE: u64 = 50;

/// What a campaign must have met, or it proved nothing.
const RARE: [&str; 10] = [
    "a node crashed",
    "the network was cut",
    "a move was refused",
    "a joining member was lost",
    "a removed member came to know it",
    "a node without a vote was asked",
    "a node that had asked to join began anew",
    "a join was refused for good",
    "a join ended in doubt",
    "a proposal gave way",
];

/// What was met, and how many epochs were decided.
fn run_some(seeds: impl Iterator<Item = u64>) -> (Met, u64) {
    let (mut met, mut epochs) = (Met::new(), 0);
    for seed in seeds {
        let world = crate::replayable("CONTROL_SEED", seed, || World::run(seed, false));
        if seed.is_multiple_of(TWICE) {
            let again = World::run(seed, false).trace;
            assert_eq!(world.trace, again, "seed {seed} does not give the same run twice");
        }
        epochs += world.judge.newest().0.number;
        world.met.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times);
    }
    (met, epochs)
}

#[test]
fn cluster_forms_and_agrees_whatever_happens_to_its_nodes() {
    if let Some(seed) = crate::seed("CONTROL_SEED") {
        println!("{:#?}", World::run(seed, false).met);
        return;
    }
    let (first, count) =
        (crate::seed("CONTROL_FIRST").unwrap_or(1), crate::seed("CONTROL_SEEDS").unwrap_or(SEEDS));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64).min(8);
    let (met, epochs) = std::thread::scope(|scope| {
        let part = |part: u64| {
            scope
                .spawn(move || run_some((first..first + count).skip(part as usize).step_by(threads as usize)))
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        let (mut met, mut epochs) = (Met::new(), 0);
        for part in parts {
            let (more, count) = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            more.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times);
            epochs += count;
        }
        (met, epochs)
    });
    println!("{count} seeds, {epochs} epochs; met: {met:#?}");
    for rare in RARE {
        assert!(count < SEEDS || met.contains_key(rare), "never met: {rare}");
    }
}

#[test]
fn host_that_does_not_wait_for_its_log_is_caught() {
    let caught = (1..=SEEDS).find(|seed| std::panic::catch_unwind(|| World::run(*seed, true)).is_err());
    println!("caught at seed {caught:?}");
    assert!(caught.is_some(), "the judge sees nothing");
}
