//! The log under damage: crashes, power cuts, torn writes and rot, against the real log and the real recovery rule.
//!
//! One seed again: `LOG_DAMAGE_SEED=17 cargo test --no-default-features --test log_damage`. More of them:
//! `LOG_DAMAGE_SEEDS=100000`. The planted bugs: `RUSTFLAGS="--cfg mutants"`, and `CARGO_TARGET_DIR=target/mutants`.

mod disk;
#[cfg(not(mutants))]
mod image;
#[cfg(not(mutants))]
mod scenarios;
#[cfg(not(mutants))]
mod sweeps;
mod world;

use world::Met;

/// The number in an environment variable.
#[cfg(not(mutants))]
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

    /// Each looser rule, and within how many seeds it must be caught. All but the rarest are caught in every tenth.
    const LOOSER: [(Mutant, u64); 14] = [
        (Mutant::CutFirstBad, 200),
        (Mutant::NoGeneration, 200),
        (Mutant::NoDurable, 200),
        (Mutant::LaterProves, 200),
        (Mutant::TrustLength, 200),
        (Mutant::ReuseLsn, 200),
        (Mutant::AckOrder, 300),
        (Mutant::AckEarly, 200),
        (Mutant::NoFlush, 200),
        (Mutant::KnownEarly, 200),
        (Mutant::InPlace, 200),
        (Mutant::CutAtJump, 200),
        (Mutant::CutOnce, 2_000),
        (Mutant::RetriedFlush, 500),
    ];

    #[test]
    fn every_looser_rule_is_caught() {
        let mut missed = Vec::new();
        for (mutant, seeds) in LOOSER {
            plant(Some(mutant));
            let caught = (0..seeds).find_map(|seed| Some((seed, world::run(seed, &mut Met::new()).err()?)));
            plant(None);
            match caught {
                Some((seed, violation)) => println!("{mutant:?}: seed {seed}: {violation}"),
                None => missed.push(mutant),
            }
        }
        assert!(missed.is_empty(), "not caught: {missed:?}");
    }
}
