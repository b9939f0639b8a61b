//! Who owns each slot, and who will: the part of an epoch that is decided slot by slot (`PROTOCOL.md` §1, "Slot
//! configuration").
//!
//! Many slots share a configuration: each different one is kept once, in the order of the first slot that has it. So
//! equal contents have equal forms, and a change is computed once per configuration instead of once per slot.

use crate::types::{MemberId, SLOTS, Slot};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use smallvec::SmallVec;

/// The greatest number of replicas of a slot in one set.
pub const REPLICAS_MAX: usize = 15;

/// One slot's owners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configuration<'a> {
    /// The replicas that own it, in preference order.
    pub base: &'a [MemberId],
    /// Those that will, in preference order; empty while the slot does not move.
    pub target: &'a [MemberId],
    /// Number of the last epoch that changed either set.
    pub c: u64,
}

/// The configuration of every slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slots {
    /// Index into `held`, by slot.
    of: Vec<u16>,
    held: Vec<Held>,
    replicas: Vec<MemberId>,
}

/// Where a configuration lies in `replicas`: base, and behind it target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    start: u32,
    base: u8,
    target: u8,
    c: u64,
}

impl Configuration<'_> {
    /// Is the slot owned, and to be owned, by the same members, in whatever order?
    pub fn is_owned_by(&self, members: &[MemberId]) -> bool {
        self.base.len() == members.len() && self.base.iter().all(|member| members.contains(member))
    }
}

impl Slots {
    /// Every slot with its own configuration, in the order of the slots; there are [`SLOTS`] of them, and none has more
    /// than [`REPLICAS_MAX`] replicas in a set.
    pub fn new<'a>(configurations: impl Iterator<Item = Configuration<'a>>) -> Slots {
        let mut builder = Builder::default();
        configurations.for_each(|configuration| {
            let index = builder.intern(configuration);
            builder.push(index, 1);
        });
        builder.finish()
    }

    /// Slots that do not move, last changed by epoch `c`; `replicas` holds `n` of each slot.
    pub(super) fn of_placement(replicas: &[MemberId], n: usize, c: u64) -> Slots {
        Slots::new(replicas.chunks_exact(n).map(|base| Configuration { base, target: &[], c }))
    }

    /// The owners of a slot.
    pub fn get(&self, slot: Slot) -> Configuration<'_> {
        self.held(usize::from(self.of[usize::from(slot.0)]))
    }

    /// The owners of each slot, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, Configuration<'_>)> {
        (0..).map(Slot).zip(self.of.iter().map(|index| self.held(usize::from(*index))))
    }

    /// Every different configuration once, in the order of the first slot that has it.
    pub fn distinct(&self) -> impl Iterator<Item = Configuration<'_>> {
        (0..self.held.len()).map(|index| self.held(index))
    }

    /// For each slot, the index of its configuration among the different ones.
    pub fn indices(&self) -> &[u16] {
        &self.of
    }

    /// The first slot that has this one of the different configurations.
    pub(super) fn first_with(&self, index: usize) -> Slot {
        let at = self.of.iter().position(|of| usize::from(*of) == index).expect("each belongs to some slot");
        Slot(at as u16)
    }

    /// The greatest epoch that set a target which is still there; None if no slot moves.
    pub fn moving_since(&self) -> Option<u64> {
        self.held.iter().filter(|held| held.target > 0).map(|held| held.c).max()
    }

    /// The same change made to each slot's configuration.
    pub(super) fn changed<'a>(&'a self, change: impl Fn(Configuration<'a>) -> Configuration<'a>) -> Slots {
        let mut builder = Builder::default();
        let mut translated: Vec<Option<u16>> = alloc::vec![None; self.held.len()];
        for index in self.of.iter().map(|index| usize::from(*index)) {
            let new = *translated[index].get_or_insert_with(|| builder.intern(change(self.held(index))));
            builder.push(new, 1);
        }
        builder.finish()
    }

    fn held(&self, index: usize) -> Configuration<'_> {
        let Held { start, base, target, c } = self.held[index];
        let (base, rest) = self.replicas[start as usize..].split_at(usize::from(base));
        Configuration { base, target: &rest[..usize::from(target)], c }
    }
}

/// Makes [`Slots`]: a configuration must be interned when the first slot that has it is reached.
#[derive(Default)]
pub(super) struct Builder {
    of: Vec<u16>,
    held: Vec<Held>,
    replicas: Vec<MemberId>,
    known: BTreeMap<Content, u16>,
}

/// c, length of base, base and target.
type Content = (u64, u8, SmallVec<[MemberId; 6]>);

impl Builder {
    pub(super) fn intern(&mut self, configuration: Configuration<'_>) -> u16 {
        let Configuration { base, target, c } = configuration;
        assert!(base.len() <= REPLICAS_MAX && target.len() <= REPLICAS_MAX, "sets are bounded");
        let mut content = SmallVec::from_slice(base);
        content.extend_from_slice(target);
        *self.known.entry((c, base.len() as u8, content)).or_insert_with(|| {
            let start = self.replicas.len() as u32;
            self.replicas.extend_from_slice(base);
            self.replicas.extend_from_slice(target);
            self.held.push(Held { start, base: base.len() as u8, target: target.len() as u8, c });
            (self.held.len() - 1) as u16
        })
    }

    pub(super) fn push(&mut self, index: u16, slots: usize) {
        self.of.extend(core::iter::repeat_n(index, slots));
    }

    pub(super) fn finish(self) -> Slots {
        assert_eq!(self.of.len(), SLOTS, "every slot has a configuration");
        Slots { of: self.of, held: self.held, replicas: self.replicas }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [MemberId; 2] = [MemberId(1), MemberId(2)];
    const B: [MemberId; 2] = [MemberId(2), MemberId(3)];

    fn by_turns() -> Slots {
        let configuration = |slot: usize| {
            if slot.is_multiple_of(2) {
                Configuration { base: &A, target: &[], c: 1 }
            } else {
                Configuration { base: &A, target: &B, c: 2 }
            }
        };
        Slots::new((0..SLOTS).map(configuration))
    }

    #[test]
    fn each_slot_has_what_it_was_given_and_equal_ones_are_kept_once() {
        let slots = by_turns();
        assert_eq!(slots.get(Slot(6)), Configuration { base: &A, target: &[], c: 1 });
        assert_eq!(slots.get(Slot(7)), Configuration { base: &A, target: &B, c: 2 });
        assert_eq!((slots.distinct().count(), slots.iter().count()), (2, SLOTS));
        assert_eq!(slots.moving_since(), Some(2));
    }

    #[test]
    fn changed_slots_are_those_that_were_built_so() {
        let retired = by_turns().changed(|slot| match slot.target {
            [] => slot,
            target => Configuration { base: target, target: &[], c: 3 },
        });
        let expected = |slot: usize| match slot.is_multiple_of(2) {
            true => Configuration { base: &A, target: &[], c: 1 },
            false => Configuration { base: &B, target: &[], c: 3 },
        };
        assert_eq!(retired, Slots::new((0..SLOTS).map(expected)));
        let same = by_turns().changed(|slot| Configuration { target: &[], c: 1, ..slot });
        assert_eq!(same.distinct().count(), 1);
        assert_eq!(same.moving_since(), None);
    }
}
