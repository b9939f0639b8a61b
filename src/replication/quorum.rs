//! Quorum arithmetic: how many of whom must answer. Knows nothing of what was asked.
//!
//! While a slot moves it has two replica sets, and "W of the slot" means W of the base **and** W of the target
//! (`PROTOCOL.md` §1); a replica in both counts in both.

use crate::types::MemberId;
use crate::types::request::Level;
use smallvec::SmallVec;

/// Replicas of a slot, in preference order.
pub type Replicas = SmallVec<[MemberId; 3]>;

/// Who owns a slot, and who will.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaSets {
    /// The replicas that own it; never empty.
    pub base: Replicas,
    /// Those that will own it; empty while the slot does not move.
    pub target: Replicas,
}

/// The smallest number that any two of share a member, of `n`.
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

impl ReplicaSets {
    /// Have enough of them durably taken a write at this level, if `held` did?
    pub fn write_reached(&self, level: Level, held: &[MemberId]) -> bool {
        match level {
            Level::One => count(&self.base, held) >= 1,
            Level::Quorum => self.each_set(|set| count(set, held) >= majority(set.len())),
            Level::All => self.each_set(|set| count(set, held) == set.len()),
        }
    }

    /// Have enough of the base answered a read at this level, if `answered` did?
    pub fn read_reached(&self, level: Level, answered: &[MemberId]) -> bool {
        match level {
            Level::One => count(&self.base, answered) >= 1,
            Level::Quorum => count(&self.base, answered) >= majority(self.base.len()),
            Level::All => self.each_set(|set| count(set, answered) == set.len()),
        }
    }

    /// Every replica of either set, once.
    pub fn all(&self) -> impl Iterator<Item = MemberId> {
        let late = self.target.iter().filter(|member| !self.base.contains(member));
        self.base.iter().chain(late).copied()
    }

    fn each_set(&self, reached: impl Fn(&Replicas) -> bool) -> bool {
        reached(&self.base) && (self.target.is_empty() || reached(&self.target))
    }
}

fn count(set: &Replicas, members: &[MemberId]) -> usize {
    set.iter().filter(|member| members.contains(member)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use alloc::vec::Vec;

    fn draw(prng: &mut Prng, at_least: usize) -> Vec<MemberId> {
        loop {
            let members: Vec<MemberId> = (1..=7).filter(|_| prng.chance(500)).map(MemberId).collect();
            if members.len() >= at_least {
                return members;
            }
        }
    }

    fn sets(prng: &mut Prng) -> ReplicaSets {
        ReplicaSets { base: draw(prng, 1).into(), target: draw(prng, 0).into() }
    }

    #[test]
    fn any_two_write_quorums_and_any_read_and_write_quorum_share_a_base_replica() {
        let mut prng = Prng::new(7);
        let mut met = 0;
        for _ in 0..200_000 {
            let sets = sets(&mut prng);
            let (a, b) = (draw(&mut prng, 0), draw(&mut prng, 0));
            if sets.write_reached(Level::Quorum, &a)
                && (sets.write_reached(Level::Quorum, &b) || sets.read_reached(Level::Quorum, &b))
            {
                met += 1;
                assert!(sets.base.iter().any(|m| a.contains(m) && b.contains(m)));
            }
        }
        assert!(met > 1_000, "the law was hardly tried: {met}");
    }

    #[test]
    fn strangers_and_more_answers_never_undo_a_quorum() {
        let mut prng = Prng::new(8);
        for _ in 0..50_000 {
            let sets = sets(&mut prng);
            let mut held = draw(&mut prng, 0);
            for level in [Level::One, Level::Quorum, Level::All] {
                let before = sets.write_reached(level, &held);
                held.push(MemberId(99));
                assert_eq!(before, sets.write_reached(level, &held));
            }
            let all: Vec<MemberId> = sets.all().collect();
            for level in [Level::One, Level::Quorum, Level::All] {
                assert!(sets.write_reached(level, &all) && sets.read_reached(level, &all));
            }
        }
    }

    #[test]
    fn a_moving_slot_needs_a_majority_of_both_sets() {
        let sets = ReplicaSets {
            base: [1, 2, 3].map(MemberId).as_slice().into(),
            target: [3, 4, 5].map(MemberId).as_slice().into(),
        };
        assert!(!sets.write_reached(Level::Quorum, &[1, 2].map(MemberId)));
        assert!(!sets.write_reached(Level::Quorum, &[1, 3].map(MemberId)));
        assert!(sets.write_reached(Level::Quorum, &[1, 3, 4].map(MemberId)));
    }

    #[test]
    fn one_replica_is_its_own_quorum() {
        let sets = ReplicaSets { base: [MemberId(1)].as_slice().into(), target: Replicas::new() };
        for level in [Level::One, Level::Quorum, Level::All] {
            assert!(sets.write_reached(level, &[MemberId(1)]) && !sets.write_reached(level, &[]));
        }
    }
}
