//! What must hold of all epochs and answers of a world, whoever they come from.

use ringcore::cluster::epoch::{Epoch, Nonce};
use ringcore::types::MemberId;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) struct Judge {
    /// By number: the epoch, and its hash.
    epochs: BTreeMap<u64, (Arc<Epoch>, [u8; 16])>,
    ids: BTreeMap<MemberId, Nonce>,
    /// Up to which epoch each member has really finished its part of moves.
    moved: BTreeMap<MemberId, u64>,
}

impl Judge {
    pub(crate) fn new(first: Arc<Epoch>) -> Judge {
        let hash = first.hash();
        Judge { epochs: BTreeMap::from([(1, (first, hash))]), ids: BTreeMap::new(), moved: BTreeMap::new() }
    }

    pub(crate) fn newest(&self) -> &(Arc<Epoch>, [u8; 16]) {
        self.epochs.last_key_value().expect("there is a first").1
    }

    /// A node has this epoch in force.
    pub(crate) fn epoch(&mut self, epoch: &Arc<Epoch>, hash: [u8; 16]) {
        if let Some((known, other)) = self.epochs.get(&epoch.number) {
            assert_eq!(
                *other, hash,
                "two epochs of number {}: {:?} {:?}",
                epoch.number, known.members, epoch.members
            );
            return;
        }
        assert_eq!(epoch.check(), Ok(()));
        self.epochs.insert(epoch.number, (Arc::clone(epoch), hash));
        if let Some((before, _)) = self.epochs.get(&(epoch.number - 1)) {
            self.retired_in_order(&Arc::clone(before), epoch);
        }
    }

    /// Slots belong to their targets only after W of these, and who joins, have finished.
    fn retired_in_order(&self, before: &Epoch, after: &Epoch) {
        let (olds, news): (Vec<_>, Vec<_>) =
            (before.slots.distinct().collect(), after.slots.distinct().collect());
        let mut seen = vec![false; olds.len() * news.len()];
        for (old, new) in before.slots.indices().iter().zip(after.slots.indices()) {
            let (old, new) = (usize::from(*old), usize::from(*new));
            if std::mem::replace(&mut seen[old * news.len() + new], true) {
                continue;
            }
            let (old, new) = (olds[old], news[new]);
            if old.target.is_empty() || new.base != old.target {
                continue;
            }
            let finished = |member: &&MemberId| self.moved.get(member).is_some_and(|moved| *moved >= old.c);
            let count = old.target.iter().filter(finished).count();
            let wanted = before.write_quorum(old.target.len());
            assert!(count >= wanted, "{count} of {wanted} had finished when epoch {} retired", after.number);
            let joining = before.joining().map(|member| member.id);
            assert!(joining.is_none_or(|member| !old.target.contains(&member) || finished(&&member)));
        }
    }

    pub(crate) fn moved(&mut self, member: MemberId, epoch: u64) {
        self.moved.insert(member, epoch);
    }

    /// A node was told that it is this member.
    pub(crate) fn joined(&mut self, member: MemberId, epoch: &Epoch) {
        let drawn = epoch.member(member).expect("the epoch has the member").nonce;
        let known = self.ids.entry(member).or_insert(drawn);
        assert_eq!(*known, drawn, "member {member} was issued twice");
    }

    /// Everything has come to rest: the whole chain.
    pub(crate) fn end(&self, seed: u64) {
        for (number, (epoch, _)) in self.epochs.iter().skip(1) {
            let (before, hash) = self
                .epochs
                .get(&(number - 1))
                .unwrap_or_else(|| panic!("seed {seed}: no epoch {}", number - 1));
            assert_eq!(epoch.follows(before, *hash), Ok(()), "seed {seed}: epoch {number}");
        }
    }
}
