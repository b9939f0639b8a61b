//! The log under damage: crashes, power cuts, torn writes and rot, against the real log and the real recovery rule.
//!
//! One seed again: `LOG_DAMAGE_SEED=17 cargo test --no-default-features --test log_damage`. More of them:
//! `LOG_DAMAGE_SEEDS=100000`. The planted bugs: `RUSTFLAGS="--cfg mutants"`, and `CARGO_TARGET_DIR=target/mutants`.

mod disk;
mod world;

use world::Met;

/// The number in an environment variable.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[cfg(not(mutants))]
mod rule {
    use super::*;
    use ringcore::storage::recovery::Verdict;

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_cut_returns() {
        let mut met = Met::new();
        let seeds = match number("LOG_DAMAGE_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("LOG_DAMAGE_SEEDS").unwrap_or(3_000),
        };
        let several = seeds.clone().count() > 1_000;
        for seed in seeds {
            if let Err(violation) = world::run(seed, &mut met) {
                panic!(
                    "{violation}\nagain: LOG_DAMAGE_SEED={seed} cargo test --no-default-features --test log_damage"
                );
            }
        }
        println!("verdicts met, (verdict, after rot, blocks atomic): {met:?}");
        if several {
            for verdict in [Verdict::Clean, Verdict::Cut, Verdict::Suspect, Verdict::Corrupt] {
                let count: u64 = met.iter().filter(|((met, ..), _)| *met == verdict).map(|(_, n)| n).sum();
                assert!(count > 100, "{verdict:?} was met {count} times only");
            }
        }
    }
}

#[cfg(mutants)]
mod planted {
    use super::*;
    use ringcore::types::mutant::{Mutant, plant};

    /// Each looser rule, and within how many seeds it is caught.
    const LOOSER: [Mutant; 14] = [
        Mutant::CutFirstBad,
        Mutant::NoGeneration,
        Mutant::NoDurable,
        Mutant::LaterProves,
        Mutant::TrustLength,
        Mutant::ReuseLsn,
        Mutant::AckOrder,
        Mutant::AckEarly,
        Mutant::NoFlush,
        Mutant::KnownEarly,
        Mutant::InPlace,
        Mutant::CutAtJump,
        Mutant::CutOnce,
        Mutant::RetriedFlush,
    ];

    #[test]
    fn every_looser_rule_is_caught() {
        let seeds = number("LOG_DAMAGE_SEEDS").unwrap_or(3_000);
        let mut missed = Vec::new();
        for mutant in LOOSER {
            plant(Some(mutant));
            let caught: Vec<(u64, String)> = (0..seeds)
                .filter_map(|seed| Some((seed, world::run(seed, &mut Met::new()).err()?)))
                .collect();
            plant(None);
            match caught.first() {
                Some((seed, violation)) => {
                    println!("{mutant:?}: {} of {seeds} seeds, first {seed}: {violation}", caught.len());
                }
                None => missed.push(mutant),
            }
        }
        assert!(missed.is_empty(), "not caught within {seeds} seeds: {missed:?}");
    }
}
