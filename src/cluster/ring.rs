//! The ring of an epoch: vnodes by token, and for each slot the members that hold it. An immutable value.

use super::epoch::{Epoch, Member};
use super::slots::Configuration;
use crate::types::{MemberId, Slot, Token};
use alloc::sync::Arc;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_64;

/// Vnodes of a member of weight 100 %.
const VNODES: u32 = 256;

/// One token of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vnode {
    /// Where it lies.
    pub token: Token,
    /// Whose it is.
    pub member: MemberId,
}

/// The ring of one epoch. Looked into by every request: a slot's owners are found with two array reads.
#[derive(Clone, Debug)]
pub struct Ring {
    epoch: Arc<Epoch>,
    hash: [u8; 16],
    vnodes: Vec<Vnode>,
    /// By slot.
    places: Vec<Place>,
    /// Base and target of every different configuration, one after the other.
    replicas: Vec<MemberId>,
}

/// Where the replicas of a slot lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    c: u64,
    start: u32,
    base: u8,
    target: u8,
}

/// The token of a member's vnode: xxh3-64 of (placement id, index), both u32 little-endian. Stable for ever.
pub fn vnode_token(placement: u32, index: u32) -> Token {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&placement.to_le_bytes());
    bytes[4..].copy_from_slice(&index.to_le_bytes());
    Token(xxh3_64(&bytes))
}

impl Ring {
    /// The ring of an epoch: a pure function of its content.
    pub fn new(epoch: impl Into<Arc<Epoch>>) -> Ring {
        let epoch = epoch.into();
        let mut replicas = Vec::new();
        let mut place = |Configuration { base, target, c }: Configuration<'_>| {
            let start = replicas.len() as u32;
            replicas.extend_from_slice(base);
            replicas.extend_from_slice(target);
            Place { c, start, base: base.len() as u8, target: target.len() as u8 }
        };
        let distinct: Vec<Place> = epoch.slots.distinct().map(&mut place).collect();
        let places = epoch.slots.indices().iter().map(|index| distinct[usize::from(*index)]).collect();
        Ring { hash: epoch.hash(), vnodes: vnodes_of(&epoch.members), places, replicas, epoch }
    }

    /// The epoch that it was made from.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The same, to be kept or sent.
    pub fn shared_epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// The epoch's hash.
    pub fn hash(&self) -> [u8; 16] {
        self.hash
    }

    /// The replicas that own a slot, in preference order.
    #[inline]
    pub fn replicas(&self, slot: Slot) -> &[MemberId] {
        let place = &self.places[usize::from(slot.0)];
        &self.replicas[place.start as usize..][..usize::from(place.base)]
    }

    /// The replicas that will own a slot, in preference order; empty while it does not move.
    #[inline]
    pub fn target(&self, slot: Slot) -> &[MemberId] {
        let place = &self.places[usize::from(slot.0)];
        &self.replicas[place.start as usize + usize::from(place.base)..][..usize::from(place.target)]
    }

    /// Number of the last epoch that changed the slot's replicas: c, which every message about the slot carries.
    #[inline]
    pub fn configuration(&self, slot: Slot) -> u64 {
        self.places[usize::from(slot.0)].c
    }

    /// All vnodes, by token.
    pub fn vnodes(&self) -> &[Vnode] {
        &self.vnodes
    }

    /// Changes when the ring does: what clients compare theirs with.
    pub fn fingerprint(&self) -> u32 {
        u32::from_le_bytes([self.hash[0], self.hash[1], self.hash[2], self.hash[3]])
    }
}

/// The vnodes of members, by token.
pub(super) fn vnodes_of(members: &[Member]) -> Vec<Vnode> {
    let mut vnodes = Vec::new();
    for member in members {
        let count = (VNODES * member.weight_percent / 100).max(1);
        let vnode = |index| Vnode { token: vnode_token(member.placement, index), member: member.id };
        vnodes.extend((0..count).map(vnode));
    }
    vnodes.sort_unstable();
    vnodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;
    use crate::types::SLOTS;

    fn epoch(members: u32) -> Epoch {
        Epoch::of_members(ClusterId([1; 16]), 3, members)
    }

    #[test]
    fn vnode_tokens_are_stable_for_ever() {
        assert_eq!(vnode_token(1, 0), Token(3_439_722_301_264_460_078));
        assert_eq!(vnode_token(2, 255), Token(14_965_165_106_782_876_391));
    }

    #[test]
    fn one_member_holds_every_slot() {
        let ring = Ring::new(epoch(1));
        assert!((0..SLOTS as u16).all(|slot| ring.replicas(Slot(slot)) == [MemberId(1)]));
        assert_eq!(ring.vnodes().len(), 256);
    }

    #[test]
    fn replicas_are_distinct_and_as_many_as_wanted() {
        let ring = Ring::new(epoch(5));
        for slot in 0..SLOTS as u16 {
            let replicas = ring.replicas(Slot(slot));
            assert_eq!(replicas.len(), 3);
            assert!(replicas[0] != replicas[1] && replicas[1] != replicas[2] && replicas[0] != replicas[2]);
        }
    }

    #[test]
    fn moving_slot_shows_both_sets_and_its_mark() {
        let mut epoch = epoch(3);
        let target = [MemberId(3), MemberId(1)];
        epoch.number = 2;
        epoch.slots = epoch.slots.changed(|slot| match slot.base[0] {
            MemberId(1) => Configuration { target: &target, c: 2, ..slot },
            _ => slot,
        });
        assert_eq!(epoch.check(), Ok(()));
        let ring = Ring::new(epoch.clone());
        for (slot, held) in epoch.slots.iter() {
            let shown = (ring.replicas(slot), ring.target(slot), ring.configuration(slot));
            assert_eq!(shown, (held.base, held.target, held.c));
            let moves = held.base[0] == MemberId(1);
            assert_eq!((shown.1.len(), shown.2), if moves { (2, 2) } else { (0, 1) });
        }
    }

    #[test]
    fn fingerprint_follows_the_epoch() {
        assert_eq!(Ring::new(epoch(2)).fingerprint(), Ring::new(epoch(2)).fingerprint());
        assert_ne!(Ring::new(epoch(2)).fingerprint(), Ring::new(epoch(3)).fingerprint());
    }
}
