//! Quorum arithmetic: how many of whom must answer. Knows nothing of what was asked.
//!
//! While a slot moves it has two replica sets, and "W of the slot" means W of the base **and** W of the target
//! (`PROTOCOL.md` §1); a replica in both counts in both.

use crate::types::MemberId;
use crate::types::mutant::{Mutant, planted};
use crate::types::request::Level;
use smallvec::SmallVec;

/// Replicas of a slot, in preference order.
pub type Replicas = SmallVec<[MemberId; 3]>;

/// How many of a set of replicas a quorum needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorum {
    /// W: to have taken a write.
    pub write: usize,
    /// R: to have answered a read.
    pub read: usize,
}

/// Who owns a slot, and who will.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaSets {
    /// The replicas that own it; never empty.
    pub base: Replicas,
    /// Of the base.
    pub base_quorum: Quorum,
    /// Those that will own it; empty while the slot does not move.
    pub target: Replicas,
    /// Of the target.
    pub target_quorum: Quorum,
}

impl Quorum {
    /// Of no replicas: nothing is needed.
    pub const NONE: Quorum = Quorum { write: 0, read: 0 };

    /// W = ⌊n/2⌋ + 1, R = n − W + 1: unless an epoch says otherwise.
    pub fn of(n: usize) -> Quorum {
        let write = n / 2 + 1;
        Quorum { write, read: n + 1 - write.min(n) }
    }

    /// So many replicas of `n` that never held a version leave too few for any quorum to have it: neither a write's nor
    /// a read's answer can rest on it any more (`PROTOCOL.md` §1, re-stamping).
    fn never_enough(self, n: usize) -> usize {
        (n - self.write).max(n - self.read)
    }
}

impl ReplicaSets {
    /// Of a slot that does not move, with quorums that nobody chose.
    pub fn of(base: Replicas) -> ReplicaSets {
        let base_quorum = Quorum::of(base.len());
        ReplicaSets { base, base_quorum, target: Replicas::new(), target_quorum: Quorum::NONE }
    }

    /// Is this member the only replica of the slot, now and later?
    pub fn is_alone(&self, member: MemberId) -> bool {
        self.base[..] == [member] && self.target.is_empty()
    }

    /// Is this member a replica of either set?
    pub fn contains(&self, member: MemberId) -> bool {
        self.base.contains(&member) || self.target.contains(&member)
    }

    /// Have enough of them durably taken a write at this level, if `held` did?
    pub fn write_reached(&self, level: Level, held: &[MemberId]) -> bool {
        match level {
            Level::One => count(&self.base, held) >= 1,
            Level::Quorum => self.each_set(|set, quorum| {
                let set_held = count(set, held);
                set_held >= quorum.write || (set_held >= 1 && planted(Mutant::OneIsEnough))
            }),
            Level::All => self.each_set(|set, _| count(set, held) == set.len()),
        }
    }

    /// Have enough of the base answered a read at this level, if `answered` did?
    pub fn read_reached(&self, level: Level, answered: &[MemberId]) -> bool {
        match level {
            Level::One => count(&self.base, answered) >= 1,
            Level::Quorum => count(&self.base, answered) >= self.base_quorum.read,
            Level::All => self.each_set(|set, _| count(set, answered) == set.len()),
        }
    }

    /// May "there is nothing" be said, if these answered so? While the slot moves the target is the fence against a
    /// coordinator that is an epoch behind.
    pub fn absence_reached(&self, level: Level, answered: &[MemberId]) -> bool {
        self.read_reached(level, answered)
            && (self.target.is_empty() || count(&self.target, answered) >= self.target_quorum.read)
    }

    /// Is it certain, if these never held a version, that no quorum has it, nor will?
    pub fn never_reached(&self, never: &[MemberId]) -> bool {
        self.each_set(|set, quorum| count(set, never) > quorum.never_enough(set.len()))
    }

    /// Are these all replicas of both sets?
    pub fn all_reached(&self, answered: &[MemberId]) -> bool {
        self.each_set(|set, _| count(set, answered) == set.len())
    }

    /// Are enough of these alive for a write to succeed?
    pub fn can_write(&self, level: Level, is_alive: impl Fn(MemberId) -> bool) -> bool {
        let alive: Replicas = self.all().filter(|member| is_alive(*member)).collect();
        self.write_reached(level, &alive)
    }

    /// Every replica of either set, once.
    pub fn all(&self) -> impl Iterator<Item = MemberId> {
        let late = self.target.iter().filter(|member| !self.base.contains(member));
        self.base.iter().chain(late).copied()
    }

    fn each_set(&self, reached: impl Fn(&Replicas, Quorum) -> bool) -> bool {
        reached(&self.base, self.base_quorum)
            && (self.target.is_empty() || reached(&self.target, self.target_quorum))
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

    /// Any W and R of a set that the rules allow.
    fn quorum(prng: &mut Prng, n: usize) -> Quorum {
        let write = n / 2 + 1 + prng.below((n - n / 2) as u64) as usize;
        Quorum { write, read: n + 1 - write + prng.below(write as u64) as usize }
    }

    fn sets(prng: &mut Prng) -> ReplicaSets {
        let (base, target) = (draw(prng, 1), draw(prng, 0));
        let base_quorum = quorum(prng, base.len());
        let target_quorum = if target.is_empty() { Quorum::NONE } else { quorum(prng, target.len()) };
        ReplicaSets { base: base.into(), base_quorum, target: target.into(), target_quorum }
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
    fn what_enough_never_held_no_quorum_can_have_or_see_alone() {
        let mut prng = Prng::new(9);
        let mut met = 0;
        for _ in 0..200_000 {
            let sets = sets(&mut prng);
            let never = draw(&mut prng, 0);
            if !sets.never_reached(&never) {
                continue;
            }
            met += 1;
            let others: Vec<MemberId> = sets.all().filter(|member| !never.contains(member)).collect();
            assert!(!sets.write_reached(Level::Quorum, &others), "{sets:?} {never:?}");
            assert!(!sets.read_reached(Level::Quorum, &others), "{sets:?} {never:?}");
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
            assert!(sets.all_reached(&all) && sets.never_reached(&all));
            for level in [Level::One, Level::Quorum, Level::All] {
                assert!(sets.write_reached(level, &all) && sets.absence_reached(level, &all));
            }
        }
    }

    #[test]
    fn a_moving_slot_needs_a_majority_of_both_sets() {
        let of = |ids: [u32; 3]| Replicas::from_slice(&ids.map(MemberId));
        let quorum = Quorum::of(3);
        let sets = ReplicaSets {
            base: of([1, 2, 3]),
            base_quorum: quorum,
            target: of([3, 4, 5]),
            target_quorum: quorum,
        };
        assert!(!sets.write_reached(Level::Quorum, &[1, 2].map(MemberId)));
        assert!(!sets.write_reached(Level::Quorum, &[1, 3].map(MemberId)));
        assert!(sets.write_reached(Level::Quorum, &[1, 3, 4].map(MemberId)));
        assert!(sets.read_reached(Level::Quorum, &[1, 2].map(MemberId)));
        assert!(!sets.absence_reached(Level::Quorum, &[1, 2].map(MemberId)));
    }

    #[test]
    fn defaults_are_majorities_that_meet() {
        let of = |n| (Quorum::of(n).write, Quorum::of(n).read);
        assert_eq!([1, 2, 3, 4, 5].map(of), [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]);
    }

    #[test]
    fn one_replica_is_its_own_quorum() {
        let sets = ReplicaSets::of([MemberId(1)].as_slice().into());
        assert!(sets.is_alone(MemberId(1)) && !sets.is_alone(MemberId(2)));
        for level in [Level::One, Level::Quorum, Level::All] {
            assert!(sets.write_reached(level, &[MemberId(1)]) && !sets.write_reached(level, &[]));
        }
    }
}
