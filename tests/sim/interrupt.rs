//! Interrupts a piece of work at each of its steps, in every way, and has the rest looked at.

use crate::disk::{Fault, Image, SimDisk, block_on};
use ringcore::types::prng::Prng;

/// What happens at the step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Killed,
    PowerCut,
    Fails(Fault),
}

const BLOWS: [Blow; 5] = [
    Blow::Killed,
    Blow::PowerCut,
    Blow::Fails(Fault::Io),
    Blow::Fails(Fault::Full),
    Blow::Fails(Fault::Short),
];

/// Says how to find a failing case again.
struct Case {
    seed: u64,
    step: u64,
    blow: Blow,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: seed {}, step {}, {:?}", self.seed, self.step, self.blow);
        }
    }
}

/// Runs `work` from `begin` once per seed, step and blow, and then `check`: right after the blow, and again after a
/// power cut, as a second process would find it. `check` is told whether the work had been done.
pub(crate) fn at_every_step<E: std::fmt::Debug>(
    seeds: u64,
    begin: &Image,
    work: impl AsyncFn(&SimDisk, u64) -> Result<(), E>,
    check: impl AsyncFn(&SimDisk, bool),
) {
    for seed in 0..seeds {
        let mut reached = true;
        let mut step = 0;
        while reached {
            reached = false;
            for (nth, blow) in BLOWS.into_iter().enumerate() {
                let case = Case { seed, step, blow };
                let mut prng = Prng::new(seed << 32 | step << 3 | nth as u64);
                let disk = SimDisk::of_image(begin.clone(), prng.next_u64());
                if prng.chance(300) {
                    disk.tear();
                }
                match blow {
                    Blow::Killed | Blow::PowerCut => disk.stop_at(step),
                    Blow::Fails(fault) => disk.fail_at(step, fault),
                }
                let outcome = block_on(&disk, work(&disk, seed));
                let done = matches!(outcome, Some(Ok(())));
                reached |= disk.steps() > step;
                assert!(done || disk.steps() > step, "failed without a reason: {outcome:?}");
                match blow {
                    Blow::Killed => disk.kill(),
                    Blow::PowerCut | Blow::Fails(_) => disk.crash(),
                }
                assert_eq!(block_on(&disk, check(&disk, done)), Some(()), "no step of the check may hang");
                disk.crash();
                assert_eq!(block_on(&disk, check(&disk, done)), Some(()), "no step of the check may hang");
                drop(case);
            }
            step += 1;
        }
    }
}
