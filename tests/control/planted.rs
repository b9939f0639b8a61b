//! Plants one bug after the other and demands that a world within so many seeds catches it.

use crate::paxos;
use ringcore::types::mutant::{Mutant, plant};
use std::panic::catch_unwind;

/// What each must be caught within.
const SEEDS: u64 = 20_000;

const IN_AGREEMENT: [Mutant; 4] = [
    Mutant::PaxosAcceptBelowPromise,
    Mutant::PaxosPromiseForgotten,
    Mutant::PaxosNonVoterCounted,
    Mutant::PaxosAcceptedIgnored,
];

// One test: what is planted is planted in the whole process.
#[test]
fn every_planted_bug_is_caught() {
    plant(None);
    assert!((1..=500).filter(|seed| paxos::run(*seed)).count() > 100, "values are decided");
    for mutant in IN_AGREEMENT {
        plant(Some(mutant));
        let caught = (1..=SEEDS).find(|seed| catch_unwind(|| paxos::run(*seed)).is_err());
        plant(None);
        println!("{mutant:?}: seed {}", caught.expect("the planted bug must be caught"));
    }
}
