//! Plants one bug after the other and demands that a scenario, or the world within so many seeds, catches it.
//! `RINGCORE_MUTANT=PartBeforeLog` runs the world with that one only.

use crate::cluster::Options;
use crate::world::World;
use crate::{cluster, data_dir, snapshot};
use ringcore::types::mutant::{Mutant, plant};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SCENARIOS: [(Mutant, fn()); 6] = [
    (Mutant::NoDirectorySync, || data_dir::replacing_a_file(2)),
    (Mutant::NoDirectorySync, || data_dir::beginning_a_layout(2)),
    (Mutant::NoDirectorySync, || data_dir::retiring_layouts(1)),
    (Mutant::NoDirectorySync, || snapshot::rewriting_parts(2)),
    (Mutant::SegmentRecycledEarly, || snapshot::rewriting_parts(2)),
    (Mutant::SourceDroppedEarly, data_dir::retiring_too_early),
];

/// What the world of one node catches, from which seed on, and within how many. A segment that is recycled early it meets too rarely: the
/// segment must be written anew before the crash, and the part that needs it must not be.
const IN_THE_WORLD: [(Mutant, u64, u64); 11] = [
    (Mutant::ReadBeforeDurable, 1, 1_000),
    (Mutant::IdentityNotLogged, 1, 1_000),
    (Mutant::FloorForgotten, 1, 1_000),
    (Mutant::ExpiryUnhappens, 1, 1_000),
    (Mutant::RelativeTtl, 1, 1_000),
    (Mutant::PartBeforeLog, 900, 4_000),
    (Mutant::SourceDroppedEarly, 1, 1_000),
    (Mutant::RetriedFlush, 1, 1_000),
    (Mutant::AckEarly, 1, 1_000),
    (Mutant::EndToldEarly, 1_150, 4_000),
    (Mutant::HlcBoundIgnored, 1, 1_000),
];

/// What whole clusters catch, and from which seed on within how many. Two coordinators must fight over a key.
const IN_A_CLUSTER: [(Mutant, u64, u64, fn(&mut Options)); 15] = [
    (Mutant::ReadBeforeDurable, 1, 200, as_drawn),
    (Mutant::AckEarly, 1, 200, as_drawn),
    (Mutant::RetriedFlush, 1, 200, as_drawn),
    (Mutant::HlcBoundIgnored, 1, 200, as_drawn),
    (Mutant::OneIsEnough, 1, 200, as_drawn),
    (Mutant::SupersededCounts, 1, 200, as_drawn),
    (Mutant::UnknownIsNever, 1, 400, as_drawn),
    (Mutant::ForgottenIsNever, 1, 400, as_drawn),
    (Mutant::RestampEarly, 1, 400, as_drawn),
    (Mutant::NeverUnflushed, 1, 400, as_drawn),
    (Mutant::AnswersUnflushed, 1, 200, as_drawn),
    (Mutant::StoreBlindly, 1, 200, as_drawn),
    (Mutant::NoWriteBack, 1, 200, as_drawn),
    (Mutant::SupersededWriteBack, 1, 200, as_drawn),
    (Mutant::ExpiryUnhappensAtAnother, 1, 400, Options::dwell_on_ends),
];

/// What the checker catches that knows values only, in a cluster whose nodes rarely agree who coordinates.
const BY_VALUES_ALONE: [(Mutant, u64, u64); 6] = [
    (Mutant::OneIsEnough, 1, 400),
    (Mutant::SupersededCounts, 1, 400),
    (Mutant::RestampEarly, 1, 400),
    (Mutant::StoreBlindly, 1, 400),
    (Mutant::NoWriteBack, 1, 400),
    (Mutant::SupersededWriteBack, 1, 400),
];

fn as_drawn(_: &mut Options) {}

/// What the log's own test plants (`tests/log_damage`).
const IN_THE_LOG: [Mutant; 14] = [
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

/// What agreement on epochs plants (`tests/control`).
const IN_AGREEMENT: [Mutant; 4] = [
    Mutant::PaxosAcceptBelowPromise,
    Mutant::PaxosPromiseForgotten,
    Mutant::PaxosNonVoterCounted,
    Mutant::PaxosAcceptedIgnored,
];

fn catches(mutant: Mutant, run: impl FnOnce()) -> bool {
    plant(Some(mutant));
    let caught = catch_unwind(AssertUnwindSafe(run)).is_err();
    plant(None);
    caught
}

// One test: what is planted is planted in the whole process.
#[test]
fn every_planted_bug_is_caught() {
    plant(None);
    data_dir::replacing_a_file(1);
    data_dir::beginning_a_layout(1);
    data_dir::retiring_layouts(1);
    data_dir::retiring_too_early();
    snapshot::rewriting_parts(1);
    for (mutant, scenario) in SCENARIOS {
        assert!(catches(mutant, scenario), "{mutant:?} was not caught");
    }
    let only = std::env::var("RINGCORE_MUTANT").ok();
    let mut missed = Vec::new();
    for (mutant, first, seeds) in IN_THE_WORLD {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let sees = |seed: &u64| catches(mutant, || drop(World::run(*seed)));
        match (first..first + seeds).find(sees) {
            Some(seed) => println!("{mutant:?}: seed {seed}"),
            None => missed.push(mutant),
        }
    }
    for (mutant, first, seeds, change) in IN_A_CLUSTER {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let sees = |seed: &u64| catches(mutant, || drop(cluster::run_with(*seed, change)));
        match (first..first + seeds).find(sees) {
            Some(seed) => println!("{mutant:?}: seed {seed} of clusters"),
            None => missed.push(mutant),
        }
    }
    // Nothing planted, nothing caught.
    for seed in 1..=20 {
        drop(cluster::run_with(seed, Options::check_values_only));
        drop(cluster::run_with(seed, Options::dwell_on_ends));
    }
    for (mutant, first, seeds) in BY_VALUES_ALONE {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let sees =
            |seed: &u64| catches(mutant, || drop(cluster::run_with(*seed, Options::check_values_only)));
        match (first..first + seeds).find(sees) {
            Some(seed) => println!("{mutant:?}: seed {seed} of clusters, by values alone"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn every_bug_that_can_be_planted_is_planted_somewhere() {
    let planted = SCENARIOS.map(|(mutant, _)| mutant).into_iter();
    let planted: Vec<Mutant> = planted
        .chain(IN_THE_WORLD.map(|(mutant, ..)| mutant))
        .chain(IN_A_CLUSTER.map(|(mutant, ..)| mutant))
        .chain(IN_THE_LOG)
        .chain(IN_AGREEMENT)
        .collect();
    for mutant in Mutant::ALL {
        assert!(planted.contains(&mutant), "{mutant:?} is planted nowhere");
    }
}
