//! The writes that one core drives to their quorum: who holds each, and what that means. Knows neither disk nor
//! network: it is told what replicas answered, and says when an operation has ended.

use super::messages::{AttemptId, Replaced};
use super::quorum::ReplicaSets;
use crate::storage::log::Durable;
use crate::types::request::{Answer, Asker, Level, WriteAnswer};
use crate::types::{MemberId, Mono, Version};
use alloc::vec::Vec;
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use smallvec::SmallVec;

new_key_type! {
    struct OperationKey;
}

/// A write on its way.
#[derive(Debug)]
pub struct WriteOperation {
    /// Who asked.
    pub asker: Asker,
    /// The version that is being written.
    pub version: Version,
    /// Who must hold it.
    pub sets: ReplicaSets,
    /// How many of them.
    pub level: Level,
    /// Until when.
    pub deadline: Mono,
    /// What the answer is: the seed's Replicate says less than a put.
    pub kind: WriteKind,
    held: SmallVec<[MemberId; 3]>,
    replaced: Replaced,
}

/// Which answer a write gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteKind {
    /// With the version and what was replaced.
    Write,
    /// Only that it is held.
    Replicate,
}

/// Why a replica counts as a holder. An acknowledgement cannot be made from anything else.
#[derive(Debug)]
pub enum Evidence {
    /// This core's own log says so.
    Own(Durable),
    /// A peer's answer says so.
    Peer,
}

/// An operation that reached its quorum: the only thing that an acknowledgement is made from.
#[derive(Debug)]
pub struct Acknowledged {
    asker: Asker,
    answer: Answer,
}

impl Acknowledged {
    /// Who asked, and the answer.
    pub fn into_parts(self) -> (Asker, Answer) {
        (self.asker, self.answer)
    }
}

/// The operations that one core coordinates.
#[derive(Debug, Default)]
pub struct Coordinator {
    operations: SlotMap<OperationKey, WriteOperation>,
}

impl WriteOperation {
    /// A write that nobody is known to hold yet.
    pub fn new(
        asker: Asker,
        version: Version,
        sets: ReplicaSets,
        level: Level,
        deadline: Mono,
        kind: WriteKind,
    ) -> Self {
        WriteOperation {
            asker,
            version,
            sets,
            level,
            deadline,
            kind,
            held: SmallVec::new(),
            replaced: Replaced::default(),
        }
    }

    fn answer(&mut self) -> Answer {
        match self.kind {
            WriteKind::Replicate => Answer::Replicated,
            WriteKind::Write => {
                let replaced = core::mem::take(&mut self.replaced);
                Answer::Write(WriteAnswer {
                    version: self.version,
                    had_old: replaced.value.is_some(),
                    old: replaced.value.unwrap_or_default(),
                })
            }
        }
    }
}

impl Coordinator {
    /// Operations that wait for their quorum.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Takes an operation on, and names it for its messages.
    pub fn open(&mut self, operation: WriteOperation) -> AttemptId {
        AttemptId(self.operations.insert(operation).data().as_ffi())
    }

    /// A replica holds it durably. Returns the operation if that made its quorum; one that has ended is ignored.
    pub fn held(
        &mut self,
        attempt: AttemptId,
        member: MemberId,
        evidence: &Evidence,
        replaced: Replaced,
    ) -> Option<Acknowledged> {
        let key = OperationKey::from(KeyData::from_ffi(attempt.0));
        let operation = self.operations.get_mut(key)?;
        match evidence {
            Evidence::Own(_) | Evidence::Peer if operation.held.contains(&member) => return None,
            Evidence::Own(_) | Evidence::Peer => operation.held.push(member),
        }
        // The old value is that of the highest version replaced among the replicas that make the success.
        if replaced.version >= operation.replaced.version {
            operation.replaced = replaced;
        }
        if !operation.sets.write_reached(operation.level, &operation.held) {
            return None;
        }
        let mut operation = self.operations.remove(key).expect("it was just looked at");
        Some(Acknowledged { asker: operation.asker, answer: operation.answer() })
    }

    /// Ends the operations whose deadline is past: each may or may not take effect.
    pub fn expire(&mut self, now: Mono) -> Vec<Asker> {
        // Open operations are few (what is in flight), so looking at each once per tick costs less than a wheel's
        // insertion and removal per operation.
        let late: Vec<OperationKey> = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.deadline <= now)
            .map(|(key, _)| key)
            .collect();
        late.into_iter()
            .filter_map(|key| self.operations.remove(key))
            .map(|operation| operation.asker)
            .collect()
    }
}
