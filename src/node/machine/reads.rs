//! Reads that this core coordinates (`PROTOCOL.md` §1, "Read" and "Expiry").

use super::{Machine, OwnAnswer, borrowed, owned};
use crate::node::effect::Effects;
use crate::node::scan;
use crate::replication::coordinator::Operation as Open;
use crate::replication::ever_held::Ever;
use crate::replication::forward::Requester;
use crate::replication::messages::{AttemptId, Found, MessageBody, OwnedRecord, Verdict};
use crate::replication::quorum::{ReplicaSets, Replicas};
use crate::replication::read::{ReadNext, ReadOperation};
use crate::replication::replica::Taken;
use crate::storage::log_record::Round;
use crate::types::mutant::{Mutant, planted};
use crate::types::request::{Answer, Operation, Request};
use crate::types::{Failure, Hlc, MemberId, Now, Reason, Slot, Token, Version};
use bytes::Bytes;

impl Machine {
    /// A read that this core alone can answer.
    pub(super) fn read_here(
        &mut self,
        now: Now,
        clock_ms: u64,
        from: Requester,
        request: &Request,
        (token, key): (Token, &[u8]),
        out: &mut Effects,
    ) {
        let (at, value) = (self.reading(now, clock_ms), request.operation.wants_value());
        let (record, wait) = self.replica.read(token, key);
        let answer = scan::read_answer(record, if value { request.value_bytes_max } else { 0 }, at);
        if value && answer.value.len() < answer.value_bytes as usize {
            out.too_long(from, request.operation.clone(), answer.value_bytes as usize);
            return;
        }
        let ended_ms = record.map_or(0, |record| scan::ended_ms(&record, at));
        let wait = wait.max(self.tell_end(ended_ms, at));
        self.stats.reads += 1;
        out.reply(wait, from, Ok(Answer::Read(answer)));
    }

    /// A read that needs other replicas.
    #[expect(clippy::too_many_arguments, reason = "one operation's parts, borrowed apart from each other")]
    pub(super) fn read(
        &mut self,
        now: Now,
        clock_ms: u64,
        from: Requester,
        request: &Request,
        (key, value): (&Bytes, bool),
        (token, sets): (Token, ReplicaSets),
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if self.coordinator.len() >= self.config.limits.operations_max {
            return Err(Failure { retry_after_ms: 10, ..Failure::not_applied(Reason::Overloaded) });
        }
        let alive: Replicas = sets.all().filter(|member| !self.is_suspected(*member)).collect();
        // What is found must be held by a write quorum before it is returned.
        if !sets.read_reached(request.level, &alive) || !sets.write_reached(request.level, &alive) {
            return Err(Failure { retry_after_ms: 100, ..Failure::not_applied(Reason::TooFewReplicas) });
        }
        let at = self.reading(now, clock_ms);
        self.hlc.observe(at);
        let slots = (sets, self.configuration(token.slot()));
        let what = (key.clone(), value, request.value_bytes_max);
        let read = ReadOperation::new(from, what, slots, request.level, request.deadline, at);
        let attempt = self.coordinator.open(now.mono, Open::Read(read.into()));
        self.ask(now, attempt, out);
        Ok(())
    }

    /// Asks every replica, this core among them, for what it holds.
    fn ask(&mut self, now: Now, attempt: AttemptId, out: &mut Effects) {
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        let (key, at, own_too) = (read.key.clone(), read.at, read.sets.contains(self.config.member));
        self.ask_silent(attempt, out);
        if !own_too {
            return;
        }
        let token = Token::of(&key);
        let (record, wait) = self.replica.read(token, &key);
        let ended_ms = record.map_or(0, |record| scan::ended_ms(&record, at));
        let found = OwnAnswer::Found(record.map(|record| owned(&record)), self.label(token.slot()));
        let wait = wait.max(self.tell_end(ended_ms, at));
        self.own_answer(now, wait, attempt, found, out);
    }

    fn ask_silent(&mut self, attempt: AttemptId, out: &mut Effects) {
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        let (key, silent) = (read.key.clone(), read.silent());
        // One with the bytes is enough, and this core has its own.
        let mut record = !read.sets.contains(self.config.member);
        for member in silent {
            if member == self.config.member || self.is_suspected(member) {
                continue;
            }
            let body = MessageBody::Read { attempt, key: key.clone(), record };
            self.send(None, member, Token::of(&key).slot(), body, out);
            record = false;
        }
    }

    /// The round that does not cover what this core holds of a slot: known to replicas that own it.
    pub(super) fn label(&self, slot: Slot) -> Option<Round> {
        let mark = self.replica.shard().mark(slot);
        self.sets(slot).base.contains(&self.config.member).then_some(mark.round)
    }

    /// What this core itself says to a read of its own.
    pub(super) fn own_read_answer(
        &mut self,
        now: Now,
        attempt: AttemptId,
        answer: OwnAnswer,
        out: &mut Effects,
    ) {
        let member = self.config.member;
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        let next = match answer {
            OwnAnswer::Found(Some(record), label) => read.heard_record(member, record, label),
            OwnAnswer::Found(None, label) => read.heard(member, Version::ZERO, label),
            OwnAnswer::Holds => read.holds(member),
            OwnAnswer::Passed => ReadNext::StartOver,
            OwnAnswer::Held(_) => unreachable!("it answers a write"),
        };
        self.read_on(now, attempt, next, out);
    }

    /// What a peer holds of a key that is read.
    pub(super) fn read_answered(
        &mut self,
        now: Now,
        (from, hlc): (MemberId, Hlc),
        attempt: AttemptId,
        found: Found,
        out: &mut Effects,
    ) {
        let version = match &found {
            Found::Version { version, .. } => *version,
            Found::Record { record, .. } => record.version,
            Found::Stale => return,
        };
        if self.is_beyond(now, version) {
            self.stats.clock_refusals += 1;
            return;
        }
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        read.saw_clock(hlc);
        let next = match found {
            Found::Version { version, label, .. } => read.heard(from, version, label),
            Found::Record { record, label } => {
                if record.key != read.key {
                    self.stats.peer_refusals += 1;
                    return;
                }
                read.heard_record(from, record, label)
            }
            Found::Stale => return,
        };
        self.read_on(now, attempt, next, out);
    }

    /// What a peer says of the version that a read writes back to it.
    pub(super) fn write_back_answered(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: AttemptId,
        verdict: Verdict,
        out: &mut Effects,
    ) {
        let newer = match verdict {
            Verdict::Never(newer) | Verdict::Unknown(newer) => Some(newer),
            Verdict::Held | Verdict::BelowFloor => None,
            Verdict::ClockAhead | Verdict::NoRoom | Verdict::Stale => None,
        };
        if newer.is_some_and(|newer| self.is_beyond(now, newer)) {
            // As if it were silent.
            self.stats.clock_refusals += 1;
            return;
        }
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        let next = match newer {
            Some(_) if planted(Mutant::SupersededWriteBack) => read.holds(from),
            Some(newer) => return self.passed(now, from, attempt, newer, out),
            None if verdict == Verdict::Held => read.holds(from),
            // The label is too old: what was heard does not hold any more.
            None if verdict == Verdict::BelowFloor => ReadNext::StartOver,
            None => ReadNext::Wait,
        };
        self.read_on(now, attempt, next, out);
    }

    /// A replica holds something newer than what it was offered: the read goes on with that. Under another name, because
    /// an answer does not say which version it is about.
    fn passed(&mut self, now: Now, from: MemberId, attempt: AttemptId, newer: Version, out: &mut Effects) {
        let Some(attempt) = self.coordinator.rename(now.mono, attempt) else { return };
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        self.stats.reads_again += 1;
        let next = read.passed(from, newer);
        self.read_on(now, attempt, next, out);
    }

    fn read_on(&mut self, now: Now, attempt: AttemptId, next: ReadNext, out: &mut Effects) {
        match next {
            ReadNext::Wait => {}
            ReadNext::Done(record) => self.end_read(now, attempt, record, out),
            ReadNext::Fetch(member) => {
                let Some(read) = self.coordinator.read_mut(attempt) else { return };
                let (key, slot) = (read.key.clone(), Token::of(&read.key).slot());
                self.send(None, member, slot, MessageBody::Read { attempt, key, record: true }, out);
            }
            ReadNext::WriteBack { record, label, to } => {
                self.stats.write_backs += 1;
                self.write_back(now, attempt, &record, label, &to, out);
            }
            ReadNext::StartOver => self.start_over(now, attempt, out),
        }
    }

    /// Offers the record that a read has found to those not known to hold it.
    fn write_back(
        &mut self,
        now: Now,
        attempt: AttemptId,
        record: &OwnedRecord,
        label: Option<Round>,
        to: &Replicas,
        out: &mut Effects,
    ) {
        let slot = Token::of(&record.key).slot();
        for &member in to {
            if member == self.config.member || self.is_suspected(member) {
                continue;
            }
            let record = record.clone();
            let body =
                MessageBody::Write { attempt, record, label, naming: None, previous: false, repair: true };
            self.send(None, member, slot, body, out);
        }
        if !to.contains(&self.config.member) {
            return;
        }
        let (taken, _) = self.replica.write(&borrowed(record), label, None, record.version.hlc, false);
        match taken {
            Taken::Held(ticket) => self.own_answer(now, Some(ticket), attempt, OwnAnswer::Holds, out),
            Taken::Superseded(_, wait, Ever::Held) => {
                self.own_answer(now, wait, attempt, OwnAnswer::Holds, out);
            }
            Taken::Superseded(_, wait, Ever::Never | Ever::Unknown) => {
                self.own_answer(now, wait, attempt, OwnAnswer::Passed, out);
            }
            // The others may do; else the deadline ends it.
            Taken::BelowFloor | Taken::NoPlace => {}
        }
    }

    /// Nothing was heard for long: those that are silent are asked again.
    pub(super) fn read_again(&mut self, now: Now, attempt: AttemptId, out: &mut Effects) {
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        match read.hurry() {
            ReadNext::Wait => match read.offer() {
                Some((record, label)) => {
                    let to: Replicas =
                        read.silent().into_iter().filter(|member| *member != self.config.member).collect();
                    self.write_back(now, attempt, &record, label, &to, out);
                }
                None => self.ask_silent(attempt, out),
            },
            next => self.read_on(now, attempt, next, out),
        }
    }

    pub(super) fn start_over(&mut self, now: Now, attempt: AttemptId, out: &mut Effects) {
        let clock_ms = self.clock.read(now);
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        let slot = Token::of(&read.key).slot();
        let slots = (self.sets(slot), self.configuration(slot));
        let at = self.reading(now, clock_ms);
        self.hlc.observe(at);
        self.stats.reads_again += 1;
        let Some(attempt) = self.coordinator.rename(now.mono, attempt) else { return };
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        read.start_over(slots, at);
        self.ask(now, attempt, out);
    }

    /// A read has what it returns: ends are judged by the clock reading that its requests carried.
    fn end_read(&mut self, now: Now, attempt: AttemptId, record: Option<OwnedRecord>, out: &mut Effects) {
        let Some(read) = self.coordinator.read_mut(attempt) else { return };
        let (at, value) = (read.at, read.value);
        if record.as_ref().is_some_and(|record| read.ends_between(record)) {
            return self.start_over(now, attempt, out);
        }
        let Some(Open::Read(read)) = self.coordinator.close(attempt) else { return };
        let held = record.as_ref().map(borrowed);
        let ended_ms = held.map_or(0, |record| scan::ended_ms(&record, at));
        let answer = scan::read_answer(held, if value { read.value_bytes_max } else { 0 }, at);
        if value && answer.value.len() < answer.value_bytes as usize {
            let operation = Operation::Read { key: read.key, value };
            return out.too_long(read.requester, operation, answer.value_bytes as usize);
        }
        let wait = self.tell_end(ended_ms, at);
        self.stats.reads += 1;
        out.reply(wait, read.requester, Ok(Answer::Read(answer)));
    }
}
