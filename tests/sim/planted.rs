//! Plants one bug after the other and demands that a scenario catches it.

use crate::{data_dir, snapshot};
use ringcore::types::mutant::{Mutant, plant};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn every_planted_bug_is_caught() {
    plant(None);
    data_dir::replacing_a_file(1);
    data_dir::beginning_a_layout(1);
    data_dir::retiring_layouts(1);
    data_dir::retiring_too_early();
    snapshot::rewriting_parts(1);
    let scenarios: [(Mutant, fn()); 6] = [
        (Mutant::NoDirectorySync, || data_dir::replacing_a_file(2)),
        (Mutant::NoDirectorySync, || data_dir::beginning_a_layout(2)),
        (Mutant::NoDirectorySync, || data_dir::retiring_layouts(1)),
        (Mutant::NoDirectorySync, || snapshot::rewriting_parts(2)),
        (Mutant::SegmentRecycledEarly, || snapshot::rewriting_parts(2)),
        (Mutant::SourceDroppedEarly, data_dir::retiring_too_early),
    ];
    for (mutant, scenario) in scenarios {
        plant(Some(mutant));
        let caught = catch_unwind(AssertUnwindSafe(scenario)).is_err();
        plant(None);
        assert!(caught, "{mutant:?} was not caught");
    }
}
