//! One write on its way to its quorum: what replicas said of its version, and what that means (`PROTOCOL.md` §1, "Write").

use super::forward::Requester;
use super::messages::{OwnedRecord, Replaced, Verdict};
use super::quorum::{ReplicaSets, Replicas};
use super::replica::Naming;
use crate::storage::log::Durable;
use crate::types::mutant::{Mutant, planted};
use crate::types::request::{Answer, Level, WriteAnswer};
use crate::types::{MemberId, Mono, Version};
use alloc::boxed::Box;
use smallvec::SmallVec;

/// A write on its way.
#[derive(Debug)]
pub struct WriteOperation {
    /// Whom the answer is for.
    pub requester: Requester,
    /// The version that is being written.
    pub version: Version,
    /// Who must hold it.
    pub sets: ReplicaSets,
    /// The configuration of the slot that the sets are of: only answers under it are counted.
    pub configuration: u64,
    /// How many of them.
    pub level: Level,
    /// Until when.
    pub deadline: Mono,
    /// What the answer is: the seed's Replicate says less than a put.
    pub kind: WriteKind,
    /// What is offered to the others; None if there are no others.
    pub offer: Option<Box<Offer>>,
    held: Replicas,
    never: Replicas,
    below_floor: Replicas,
    /// The greatest version that somebody holds instead.
    newest: Version,
    /// Earlier versions of this operation: they replace nothing but each other.
    earlier: SmallVec<[Version; 1]>,
    replaced: Replaced,
}

/// What other replicas are asked to take.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The record, of the operation's present version.
    pub record: OwnedRecord,
    /// The operation's name, if it has one.
    pub naming: Option<Naming>,
    /// Is the replaced value wanted?
    pub previous: bool,
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
    requester: Requester,
    answer: Answer,
}

/// What follows from what the replicas have said.
#[derive(Debug)]
pub enum WriteNext {
    /// More must be heard.
    Wait,
    /// It has its quorum.
    Done(Acknowledged),
    /// No quorum has this version, nor will: the operation takes another one, above this.
    Restamp(Version),
}

impl Acknowledged {
    /// Whom the answer is for, and the answer.
    pub fn into_parts(self) -> (Requester, Answer) {
        (self.requester, self.answer)
    }
}

impl WriteOperation {
    /// A write that nobody is known to hold yet.
    pub fn new(
        requester: Requester,
        version: Version,
        (sets, configuration): (ReplicaSets, u64),
        level: Level,
        deadline: Mono,
        kind: WriteKind,
    ) -> WriteOperation {
        WriteOperation {
            requester,
            version,
            sets,
            configuration,
            level,
            deadline,
            kind,
            offer: None,
            held: Replicas::new(),
            never: Replicas::new(),
            below_floor: Replicas::new(),
            newest: Version::ZERO,
            earlier: SmallVec::new(),
            replaced: Replaced::default(),
        }
    }

    /// A replica holds it durably.
    pub fn held(&mut self, member: MemberId, evidence: &Evidence, replaced: Replaced) -> WriteNext {
        match evidence {
            Evidence::Own(_) | Evidence::Peer if self.held.contains(&member) => return WriteNext::Wait,
            Evidence::Own(_) | Evidence::Peer => self.held.push(member),
        }
        // The old value is that of the highest version replaced among the replicas that make the success.
        if replaced.version >= self.replaced.version && !self.earlier.contains(&replaced.version) {
            self.replaced = replaced;
        }
        if !self.sets.write_reached(self.level, &self.held) {
            return WriteNext::Wait;
        }
        WriteNext::Done(Acknowledged { requester: self.requester, answer: self.answer() })
    }

    /// A peer does not hold it.
    pub fn refused(&mut self, member: MemberId, verdict: Verdict) -> WriteNext {
        match verdict {
            Verdict::Never(newer) => {
                self.newest = self.newest.max(newer);
                note(&mut self.never, member);
            }
            Verdict::Unknown(newer) => {
                self.newest = self.newest.max(newer);
                if planted(Mutant::UnknownIsNever) {
                    note(&mut self.never, member);
                }
            }
            Verdict::BelowFloor => note(&mut self.below_floor, member),
            Verdict::Held | Verdict::ClockAhead | Verdict::NoRoom | Verdict::Stale => {}
        }
        let lost = self.sets.never_reached(&self.never);
        let early = planted(Mutant::RestampEarly) && !self.never.is_empty();
        let mut refused = self.never.clone();
        refused.extend_from_slice(&self.below_floor);
        if lost || early || self.sets.all_reached(&refused) {
            WriteNext::Restamp(self.newest)
        } else {
            WriteNext::Wait
        }
    }

    /// Takes another version, of which nothing is known yet.
    pub fn restamp(&mut self, version: Version) {
        self.earlier.push(self.version);
        self.version = version;
        if let Some(offer) = &mut self.offer {
            offer.record.version = version;
        }
        self.begin_again();
    }

    /// Counts from zero, with the slot's new replicas.
    pub fn reconfigure(&mut self, sets: ReplicaSets, configuration: u64) {
        (self.sets, self.configuration) = (sets, configuration);
        self.begin_again();
    }

    /// Replicas that have said nothing that counts yet.
    pub fn silent(&self) -> impl Iterator<Item = MemberId> {
        let heard = [&self.held, &self.never, &self.below_floor];
        self.sets.all().filter(move |member| !heard.iter().any(|said| said.contains(member)))
    }

    fn begin_again(&mut self) {
        self.held.clear();
        self.never.clear();
        self.below_floor.clear();
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

fn note(list: &mut Replicas, member: MemberId) {
    if !list.contains(&member) {
        list.push(member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Hlc;
    use crate::types::request::Asker;
    use bytes::Bytes;

    fn version(hlc: u64, member: u32) -> Version {
        Version::new(Hlc(hlc), MemberId(member))
    }

    fn of_three() -> WriteOperation {
        let sets = ReplicaSets::of(Replicas::from_slice(&[1, 2, 3].map(MemberId)));
        WriteOperation::new(
            Requester::Here(Asker(1)),
            version(10, 1),
            (sets, 1),
            Level::Quorum,
            Mono(0),
            WriteKind::Write,
        )
    }

    fn replaced(hlc: u64, value: &'static str) -> Replaced {
        Replaced { version: version(hlc, 9), value: Some(Bytes::from_static(value.as_bytes())) }
    }

    fn written(next: WriteNext) -> WriteAnswer {
        match next {
            WriteNext::Done(done) => match done.into_parts() {
                (_, Answer::Write(answer)) => answer,
                other => panic!("not the answer of a write: {other:?}"),
            },
            next => panic!("not done: {next:?}"),
        }
    }

    #[test]
    fn one_refusal_is_not_enough_for_another_version_and_two_are() {
        let mut write = of_three();
        write.held(MemberId(1), &Evidence::Peer, Replaced::default());
        assert!(matches!(write.refused(MemberId(2), Verdict::Never(version(20, 2))), WriteNext::Wait));
        assert!(matches!(write.refused(MemberId(2), Verdict::Never(version(20, 2))), WriteNext::Wait));
        let next = write.refused(MemberId(3), Verdict::Never(version(30, 2)));
        assert!(matches!(next, WriteNext::Restamp(above) if above == version(30, 2)), "{next:?}");
    }

    #[test]
    fn what_is_not_remembered_counts_for_nothing() {
        let mut write = of_three();
        for member in [2, 3] {
            let next = write.refused(MemberId(member), Verdict::Unknown(version(20, 2)));
            assert!(matches!(next, WriteNext::Wait));
        }
        assert_eq!(write.silent().count(), 3);
    }

    #[test]
    fn floors_alone_move_the_version_only_when_nobody_took_it() {
        let mut write = of_three();
        for member in [1, 2] {
            assert!(matches!(write.refused(MemberId(member), Verdict::BelowFloor), WriteNext::Wait));
        }
        assert!(matches!(write.refused(MemberId(3), Verdict::BelowFloor), WriteNext::Restamp(_)));
    }

    #[test]
    fn old_value_is_the_newest_that_was_replaced_and_never_the_operations_own() {
        let mut write = of_three();
        write.held(MemberId(1), &Evidence::Peer, replaced(5, "five"));
        write.restamp(version(40, 1));
        // Its own first version, replaced by its second.
        let own = Replaced { version: version(10, 1), value: Some(Bytes::from_static(b"own")) };
        assert!(matches!(write.held(MemberId(1), &Evidence::Peer, own), WriteNext::Wait));
        let answer = written(write.held(MemberId(2), &Evidence::Peer, replaced(4, "four")));
        assert_eq!((answer.version, &answer.old[..]), (version(40, 1), &b"five"[..]));
    }

    #[test]
    fn new_replicas_are_counted_from_zero() {
        let mut write = of_three();
        write.held(MemberId(1), &Evidence::Peer, Replaced::default());
        let sets = ReplicaSets::of(Replicas::from_slice(&[1, 2, 4].map(MemberId)));
        write.reconfigure(sets, 2);
        assert!(matches!(write.held(MemberId(2), &Evidence::Peer, Replaced::default()), WriteNext::Wait));
        assert!(matches!(write.held(MemberId(4), &Evidence::Peer, Replaced::default()), WriteNext::Done(_)));
    }
}
