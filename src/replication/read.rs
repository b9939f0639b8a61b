//! One read on its way to its quorum (`PROTOCOL.md` §1, "Read"): the greatest version among enough answers is returned
//! once a write quorum is known to hold it, or to have held it since the read began. Until then it is written back.

use super::forward::Requester;
use super::messages::OwnedRecord;
use super::quorum::{ReplicaSets, Replicas};
use crate::storage::log_record::Round;
use crate::types::mutant::{Mutant, planted};
use crate::types::request::Level;
use crate::types::{Hlc, MemberId, Mono, Version};
use bytes::Bytes;
use smallvec::SmallVec;

/// A read on its way.
#[derive(Debug)]
pub struct ReadOperation {
    /// Whom the answer is for.
    pub requester: Requester,
    /// For which key.
    pub key: Bytes,
    /// Is the value wanted, or only what is known of it?
    pub value: bool,
    /// There is room for a value no longer than this.
    pub value_bytes_max: usize,
    /// How many replicas must take part.
    pub level: Level,
    /// Until when.
    pub deadline: Mono,
    /// Who is asked.
    pub sets: ReplicaSets,
    /// The configuration of the slot that the sets are of: only answers under it are counted.
    pub configuration: u64,
    /// Ends are judged by this clock reading, which the requests carry.
    pub at: Hlc,
    /// The greatest clock reading of an answer.
    seen: Hlc,
    answers: SmallVec<[Heard; 3]>,
    /// The greatest record whose bytes are here.
    best: Option<(OwnedRecord, Option<Round>)>,
    /// What is returned, once it was decided.
    chosen: Option<Version>,
    /// Holders of the chosen version that took it from us, or said that they once held it.
    holders: Replicas,
    /// The chosen version was offered to the others.
    offered: bool,
    /// Who was asked for the chosen record's bytes.
    fetched_from: Option<MemberId>,
    /// It has waited for long enough: what was heard must do.
    hurried: bool,
}

/// What one replica holds.
#[derive(Clone, Copy, Debug)]
struct Heard {
    member: MemberId,
    version: Version,
    label: Option<Round>,
}

/// What follows from what the replicas have said.
#[derive(Debug)]
pub enum ReadNext {
    /// More must be heard.
    Wait,
    /// The answer; None = the key is not known.
    Done(Option<OwnedRecord>),
    /// The record's bytes are wanted from this replica.
    Fetch(MemberId),
    /// The record is offered to these.
    WriteBack {
        /// What they may lack.
        record: OwnedRecord,
        /// The round that does not cover it.
        label: Option<Round>,
        /// Who is not known to hold it.
        to: Replicas,
    },
    /// What was heard does not fit together any more.
    StartOver,
}

impl ReadOperation {
    /// A read that nobody has answered yet.
    pub fn new(
        requester: Requester,
        (key, value, value_bytes_max): (Bytes, bool, usize),
        (sets, configuration): (ReplicaSets, u64),
        level: Level,
        deadline: Mono,
        at: Hlc,
    ) -> ReadOperation {
        ReadOperation {
            requester,
            key,
            value,
            value_bytes_max,
            level,
            deadline,
            sets,
            configuration,
            at,
            seen: at,
            answers: SmallVec::new(),
            best: None,
            chosen: None,
            holders: Replicas::new(),
            offered: false,
            fetched_from: None,
            hurried: false,
        }
    }

    /// Begins again, at a later clock reading and with the replicas that the slot has now.
    pub fn start_over(&mut self, (sets, configuration): (ReplicaSets, u64), at: Hlc) {
        let Self { requester, ref key, value, value_bytes_max, level, deadline, .. } = *self;
        *self = ReadOperation::new(
            requester,
            (key.clone(), value, value_bytes_max),
            (sets, configuration),
            level,
            deadline,
            at,
        );
    }

    /// A replica's clock, as its answer carried it.
    pub fn saw_clock(&mut self, hlc: Hlc) {
        self.seen = self.seen.max(hlc);
    }

    /// A replica holds this version; zero = nothing.
    pub fn heard(&mut self, member: MemberId, version: Version, label: Option<Round>) -> ReadNext {
        match self.answers.iter_mut().find(|heard| heard.member == member) {
            // Its record was fetched, and by then it had another.
            Some(heard) if heard.version != version && self.chosen.is_some() => return ReadNext::StartOver,
            Some(heard) => *heard = Heard { member, version, label },
            None => self.answers.push(Heard { member, version, label }),
        }
        self.next()
    }

    /// A replica holds this record.
    pub fn heard_record(&mut self, member: MemberId, record: OwnedRecord, label: Option<Round>) -> ReadNext {
        let version = record.version;
        if self.best.as_ref().is_none_or(|(best, _)| best.version < version) {
            self.best = Some((record, label));
        }
        self.heard(member, version, label)
    }

    /// A replica holds this version instead of the one that it was offered: that is an answer too.
    pub fn passed(&mut self, member: MemberId, newer: Version) -> ReadNext {
        self.answers.retain(|heard| heard.member != member);
        self.holders.clear();
        (self.offered, self.hurried) = (false, false);
        self.heard(member, newer, None)
    }

    /// A replica holds the chosen version, or once held it.
    pub fn holds(&mut self, member: MemberId) -> ReadNext {
        if !self.holders.contains(&member) {
            self.holders.push(member);
        }
        self.next()
    }

    /// It has waited for long, or for all that it can hope to hear: what was heard must do.
    pub fn hurry(&mut self) -> ReadNext {
        let again = core::mem::replace(&mut self.hurried, true);
        let is_here = self.best.as_ref().map(|(best, _)| best.version) == self.chosen;
        if again && self.fetched_from.is_some() && !is_here {
            // Whoever was asked for the record does not answer.
            return ReadNext::StartOver;
        }
        self.next()
    }

    /// Replicas that have not answered; once the record was offered, those not known to hold it.
    pub fn silent(&self) -> Replicas {
        let holders = self.holders();
        let is_silent = |member: &MemberId| match self.offered {
            true => !holders.contains(member),
            false => !self.answers.iter().any(|heard| heard.member == *member),
        };
        self.sets.all().filter(is_silent).collect()
    }

    /// What was offered to the others, if anything was.
    pub fn offer(&self) -> Option<(OwnedRecord, Option<Round>)> {
        self.best.clone().filter(|_| self.offered)
    }

    /// Does the record's end lie between the clock that judges it and one that answered? Then another reader may have
    /// seen it gone, and this one must judge by the later clock.
    pub fn ends_between(&self, record: &OwnedRecord) -> bool {
        let end = record.expires_at_ms;
        end != 0 && self.at.ms() < end && end <= self.seen.ms() && !planted(Mutant::ExpiryUnhappensAtAnother)
    }

    fn next(&mut self) -> ReadNext {
        let answered: Replicas = self.answers.iter().map(|heard| heard.member).collect();
        if !self.offered {
            if !self.sets.read_reached(self.level, &answered) {
                return ReadNext::Wait;
            }
            let greatest = self.answers.iter().map(|heard| heard.version).max().unwrap_or_default();
            if greatest == Version::ZERO {
                let enough = self.sets.absence_reached(self.level, &answered);
                return if enough { ReadNext::Done(None) } else { ReadNext::Wait };
            }
            // Until it is offered, what comes late counts as well: this core's own answer always comes first.
            if self.chosen != Some(greatest) {
                (self.chosen, self.fetched_from) = (Some(greatest), None);
            }
        }
        let chosen = self.chosen.expect("it was just chosen");
        let held = self.sets.write_reached(self.level, &self.holders())
            || self.level == Level::One
            || planted(Mutant::NoWriteBack);
        let best = self.best.as_ref().filter(|(best, _)| best.version == chosen);
        let Some((record, label)) = best else {
            return self.fetch(chosen);
        };
        if held {
            return ReadNext::Done(Some(record.clone()));
        }
        // Those still to be heard most likely hold it too: an offer would be a whole record for nothing.
        if self.offered || !(self.hurried || self.sets.all_reached(&answered)) {
            return ReadNext::Wait;
        }
        // Any holder's proof will do; the greatest covers most.
        let labels =
            self.answers.iter().filter(|heard| heard.version == chosen).filter_map(|heard| heard.label);
        let (record, label) = (record.clone(), labels.max().max(*label));
        self.offered = true;
        if let Some((_, best_label)) = &mut self.best {
            *best_label = label;
        }
        ReadNext::WriteBack { record, label, to: self.silent() }
    }

    fn fetch(&mut self, chosen: Version) -> ReadNext {
        let asked = self.fetched_from;
        let holder = self.answers.iter().find(|heard| heard.version == chosen).map(|heard| heard.member);
        match (asked, holder) {
            (None, Some(holder)) => {
                self.fetched_from = Some(holder);
                ReadNext::Fetch(holder)
            }
            (Some(_), _) => ReadNext::Wait,
            (None, None) => ReadNext::StartOver,
        }
    }

    fn holders(&self) -> Replicas {
        let mut holders = self.holders.clone();
        for heard in &self.answers {
            if Some(heard.version) == self.chosen && !holders.contains(&heard.member) {
                holders.push(heard.member);
            }
        }
        holders
    }
}
