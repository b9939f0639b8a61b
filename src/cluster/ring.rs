//! The ring of an epoch: vnodes by token, and for each slot the members that hold it. An immutable value.

use super::epoch::{Epoch, Member};
use super::placement;
use crate::types::{MemberId, Slot, Token};
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

/// The ring of one epoch.
#[derive(Clone, Debug)]
pub struct Ring {
    epoch: Epoch,
    vnodes: Vec<Vnode>,
    /// `replicas_per_slot` for each slot, in preference order.
    replicas: Vec<MemberId>,
    replicas_per_slot: usize,
    fingerprint: u32,
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
    pub fn new(epoch: Epoch) -> Ring {
        let vnodes = vnodes_of(&epoch.members);
        let replicas_per_slot = epoch.replicas_per_slot();
        let replicas = placement::replicas(&epoch.members, &vnodes, replicas_per_slot);
        let hash = epoch.hash();
        let fingerprint = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
        Ring { epoch, vnodes, replicas, replicas_per_slot, fingerprint }
    }

    /// The epoch that it was made from.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The replicas of a slot, in preference order.
    pub fn replicas(&self, slot: Slot) -> &[MemberId] {
        &self.replicas[usize::from(slot.0) * self.replicas_per_slot..][..self.replicas_per_slot]
    }

    /// Those that will own the slot; empty while it does not move.
    pub fn target(&self, _slot: Slot) -> &[MemberId] {
        &[]
    }

    /// The epoch that began the move under way; None if no slot moves.
    pub fn moving_since(&self) -> Option<u64> {
        None
    }

    /// Number of the last epoch that changed the slot's replicas.
    pub fn configuration(&self, _slot: Slot) -> u64 {
        1
    }

    /// All vnodes, by token.
    pub fn vnodes(&self) -> &[Vnode] {
        &self.vnodes
    }

    /// Changes when the ring does: what clients compare theirs with.
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint
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
    use alloc::string::String;

    fn epoch(members: u32) -> Epoch {
        let member = |id: u32| Member {
            id: MemberId(id),
            placement: id,
            name: alloc::format!("n{id}"),
            zone: String::new(),
            weight_percent: 100,
            client_address: String::new(),
            peer_address: String::new(),
            admin_address: String::new(),
        };
        let mut epoch = Epoch::bootstrap(ClusterId([1; 16]), 3, member(1));
        epoch.members = (1..=members).map(member).collect();
        epoch
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
    fn fingerprint_follows_the_epoch() {
        assert_eq!(Ring::new(epoch(2)).fingerprint(), Ring::new(epoch(2)).fingerprint());
        assert_ne!(Ring::new(epoch(2)).fingerprint(), Ring::new(epoch(3)).fingerprint());
    }
}
