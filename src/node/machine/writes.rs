//! Writes that this core coordinates (`PROTOCOL.md` §1, "Write"): one path for one replica and for several.

use super::{Machine, OwnAnswer, borrowed, no_place, owned, record_bytes, value_bytes};
use crate::node::effect::Effects;
use crate::node::payload::payload_hash;
use crate::replication::coordinator::Operation as Open;
use crate::replication::forward::Requester;
use crate::replication::messages::{AttemptId, MessageBody, OwnedRecord, Replaced, Verdict};
use crate::replication::quorum::{ReplicaSets, Replicas};
use crate::replication::replica::{Naming, Taken};
use crate::replication::write::{Evidence, Offer, WriteKind, WriteNext, WriteOperation};
use crate::storage::log::{Durable, Ticket};
use crate::storage::log_record::{Attempt, LogRecord, Round};
use crate::types::request::{Answer, Request, WriteAnswer};
use crate::types::{
    Body, Failure, Hlc, MemberId, Now, OperationId, Outcome, Reason, RecordRef, Token, Version,
};
use alloc::boxed::Box;
use bytes::Bytes;

/// Operation identities that one request frees, at most: a client with many must not hold up the others.
const FREED_NAMES_PER_REQUEST: usize = 1_024;
/// Clients whose freed identities are logged together at the next tick, at most.
const UNLOGGED_CLIENTS_MAX: usize = 1_024;

impl Machine {
    /// A put or a delete: the record without its version, its value as it came, and whether the replaced one is wanted.
    #[expect(clippy::too_many_arguments, reason = "one operation's parts, borrowed apart from each other")]
    pub(super) fn write(
        &mut self,
        now: Now,
        clock_ms: u64,
        from: Requester,
        request: &Request,
        (unstamped, value, previous): (RecordRef<'_>, Option<&Bytes>, bool),
        (token, sets): (Token, ReplicaSets),
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if previous {
            let bytes = self.previous_bytes(token, unstamped.key, request.identity);
            if bytes > request.value_bytes_max {
                out.too_long(from, request.operation.clone(), bytes);
                return Ok(());
            }
        }
        let naming = request.identity.map(|id| Naming {
            id,
            attempt: Attempt { count: 0, member: self.config.member },
            payload_hash: payload_hash(&request.operation),
        });
        if let Some(naming) = naming {
            self.free_names(naming.id.client, request.done_below);
            if self.repeat(now, from, unstamped.key, naming, previous, request, out) {
                return Ok(());
            }
        }
        if !sets.can_write(request.level, |member| !self.is_suspected(member)) {
            return Err(Failure { retry_after_ms: 100, ..Failure::not_applied(Reason::TooFewReplicas) });
        }
        self.check_write(token, &unstamped)?;
        if naming.is_some() && !self.replica.shard().identities().has_room() {
            return Err(Failure { retry_after_ms: 1_000, ..Failure::not_applied(Reason::Overloaded) }
                .message(
                    "this core remembers no more named operations now; operations without a name go on",
                ));
        }
        let version = self.stamp(clock_ms, token, unstamped.key);
        let record = RecordRef { version, ..unstamped };
        let (taken, replaced) = self.replica.write(&record, None, naming, version.hlc, previous);
        let ticket = match taken {
            Taken::Held(ticket) => ticket,
            Taken::NoPlace => return Err(no_place()),
            Taken::Superseded(..) | Taken::BelowFloor => {
                unreachable!("a stamped version is above all that is known here")
            }
        };
        let offer = (!sets.is_alone(self.config.member)).then(|| {
            let mut record = owned_but_value(request, &record);
            record.value = value.cloned();
            Offer { record, naming, previous }
        });
        self.drive(now, from, request, version, sets, (ticket, replaced), offer, out);
        Ok(())
    }

    /// Bytes that the replaced value in the answer to a write may have: of the key's value, or of what is remembered if
    /// this is a repetition. What another replica held instead is not known yet.
    fn previous_bytes(&self, token: Token, key: &[u8], identity: Option<OperationId>) -> usize {
        let shard = self.replica.shard();
        let held = shard.get(token, key).map_or(0, |record| value_bytes(&record));
        let known = identity.and_then(|id| shard.identities().get(id)).and_then(|entry| entry.old.as_ref());
        held.max(known.map_or(0, Bytes::len))
    }

    /// Is there room for a client's write?
    fn check_write(&self, token: Token, record: &RecordRef<'_>) -> Result<(), Failure> {
        let limit = self.config.memory_limit;
        let memory_max = match record.body {
            Body::Value(_) | Body::Expired => limit,
            // Deleting goes on in a full memory: but tombstones of what is not there free nothing, so they have an end.
            Body::Tombstone if self.replica.shard().get(token, record.key).is_none() => limit + limit / 16,
            Body::Tombstone => usize::MAX,
        };
        self.check_room(record_bytes(record), memory_max)
    }

    /// The client waits for no answer below `done_below`. The log is told at the next tick: what is forgotten here must
    /// not fill the table of names again at the next start.
    fn free_names(&mut self, client: u64, done_below: u64) {
        let names = self.replica.shard_mut().identities_mut();
        if names.done_below(client, done_below, FREED_NAMES_PER_REQUEST) > 0 {
            let known = self.done.entry(client).or_default();
            *known = done_below.max(*known);
            if self.done.len() >= UNLOGGED_CLIENTS_MAX {
                self.log_done();
            }
        }
    }

    pub(super) fn log_done(&mut self) {
        for (client, done_below) in core::mem::take(&mut self.done) {
            self.replica.log_mut().append(&LogRecord::OperationsDone { client, done_below });
        }
    }

    /// A version above everything that is known of the key, its slot and this clock.
    fn stamp(&mut self, clock_ms: u64, token: Token, key: &[u8]) -> Version {
        if let Some(held) = self.replica.shard().get(token, key) {
            self.hlc.observe(held.version.hlc);
        }
        self.hlc.observe(self.replica.shard().mark(token.slot()).floor.hlc);
        Version::new(self.hlc.issue(clock_ms), self.config.member)
    }

    /// Answers a named operation that is known, again; false: it is not known. Whatever is said of it waits until the
    /// operation is durable, and success until its quorum holds it.
    #[expect(clippy::too_many_arguments, reason = "one operation's parts, borrowed apart from each other")]
    fn repeat(
        &mut self,
        now: Now,
        from: Requester,
        key: &[u8],
        naming: Naming,
        previous: bool,
        request: &Request,
        out: &mut Effects,
    ) -> bool {
        let Some(entry) = self.replica.shard().identities().get(naming.id) else { return false };
        if entry.payload_hash != naming.payload_hash {
            self.refuse_durably(from, Failure::not_applied(Reason::RequestIdReused), out);
            return true;
        }
        self.stats.repeats += 1;
        if previous && entry.had_old && entry.old.is_none() {
            let failure = Failure { outcome: Outcome::Applied, ..Failure::not_applied(Reason::AnswerGone) };
            self.refuse_durably(from, failure, out);
            return true;
        }
        let old = entry.old.clone().filter(|_| previous).unwrap_or_default();
        let (version, had_old, replaced) = (entry.version, entry.had_old, entry.replaced);
        let token = Token::of(key);
        let wait = self.replica.wait_for(token);
        let sets = self.sets(token.slot());
        if sets.is_alone(self.config.member) {
            out.reply(wait, from, Ok(Answer::Write(WriteAnswer { version, had_old, old })));
            return true;
        }
        let held = self.replica.shard().get(token, key).filter(|held| held.version == version);
        match held.map(|held| owned(&held)) {
            Some(record) => {
                let replaced = Replaced { version: replaced, value: had_old.then_some(old) };
                let own = (wait.unwrap_or(Ticket::RECOVERED), replaced);
                let offer = Some(Offer { record, naming: Some(naming), previous });
                self.drive(now, from, request, version, sets, own, offer, out);
            }
            // It was replaced here since, and whether it ever had its quorum is not known.
            None => self.refuse_durably(from, Failure::in_doubt(Reason::NoQuorumInTime), out),
        }
        true
    }

    /// A refusal that speaks of what is in the log.
    fn refuse_durably(&mut self, from: Requester, failure: Failure, out: &mut Effects) {
        self.stats.failures += 1;
        self.stats.in_doubt += u64::from(failure.outcome == Outcome::InDoubt);
        out.reply(self.replica.wait_for_all(), from, Err(failure));
    }

    /// Drives a write to its quorum. `own`: this core's copy; `offer`: what the others are sent, if there are others.
    #[expect(clippy::too_many_arguments, reason = "one operation's parts, borrowed apart from each other")]
    fn drive(
        &mut self,
        now: Now,
        from: Requester,
        request: &Request,
        version: Version,
        sets: ReplicaSets,
        (ticket, replaced): (Ticket, Replaced),
        offer: Option<Offer>,
        out: &mut Effects,
    ) {
        let Request { level, deadline, .. } = *request;
        let slots = (sets, offer.as_ref().map_or(0, |offer| self.configuration_of(&offer.record.key)));
        let mut operation = WriteOperation::new(from, version, slots, level, deadline, WriteKind::Write);
        let has_others = offer.is_some();
        operation.offer = offer.map(Box::new);
        let attempt = self.coordinator.open(now.mono, Open::Write(operation));
        if has_others {
            self.offer(attempt, Some(ticket), None, out);
        }
        self.own_answer(now, Some(ticket), attempt, OwnAnswer::Held(replaced), out);
    }

    fn configuration_of(&self, key: &[u8]) -> u64 {
        self.configuration(Token::of(key).slot())
    }

    /// Sends a write's record to the replicas that have said nothing of it. A version above the durable bound leaves only
    /// with its own record, or with a bound that covers it: else a crash could let this core issue the same version again,
    /// for something else.
    fn offer(&mut self, attempt: AttemptId, own: Option<Ticket>, label: Option<Round>, out: &mut Effects) {
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        let Some(Offer { record, naming, previous }) = write.offer.as_deref().cloned() else { return };
        let silent: Replicas = write.silent().collect();
        let (hlc, slot) = (record.version.hlc, Token::of(&record.key).slot());
        let wait = (hlc > self.replica.log().durable_hlc_bound())
            .then(|| own.unwrap_or_else(|| self.replica.log_mut().append(&LogRecord::HlcBound(hlc))));
        for member in silent {
            if member == self.config.member || self.is_suspected(member) {
                continue;
            }
            let record = record.clone();
            let body = MessageBody::Write { attempt, record, label, naming, previous, repair: false };
            self.send(wait, member, slot, body, out);
        }
    }

    /// The proof that no round covers a record: this core holds exactly it, durably, and owns its slot.
    fn own_label(&self, record: &OwnedRecord) -> Option<Round> {
        let token = Token::of(&record.key);
        let (held, wait) = self.replica.read(token, &record.key);
        let holds = held.is_some_and(|held| held.version == record.version) && wait.is_none();
        self.label(token.slot()).filter(|_| holds)
    }

    /// Asks the replicas that have not answered again: a message may have been lost.
    pub(super) fn offer_again(&mut self, attempt: AttemptId, out: &mut Effects) {
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        let Some(record) = write.offer.as_ref().map(|offer| offer.record.clone()) else { return };
        let own = self.replica.wait_for(Token::of(&record.key));
        self.offer(attempt, own, self.own_label(&record), out);
    }

    /// This core's own copy is durable.
    pub(super) fn own_write_held(
        &mut self,
        now: Now,
        attempt: AttemptId,
        durable: Durable,
        replaced: Replaced,
        out: &mut Effects,
    ) {
        let member = self.config.member;
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        let next = write.held(member, &Evidence::Own(durable), replaced);
        self.go_on(now, attempt, next, out);
    }

    /// What a peer says of a version that it was offered.
    pub(super) fn write_answered(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: AttemptId,
        (verdict, replaced): (Verdict, Replaced),
        out: &mut Effects,
    ) {
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        let next = match verdict {
            Verdict::Held => write.held(from, &Evidence::Peer, replaced),
            refusal => write.refused(from, refusal),
        };
        self.go_on(now, attempt, next, out);
    }

    fn go_on(&mut self, now: Now, attempt: AttemptId, next: WriteNext, out: &mut Effects) {
        match next {
            WriteNext::Wait => {}
            WriteNext::Done(done) => {
                self.coordinator.close(attempt);
                self.stats.writes += 1;
                out.acknowledge(done);
            }
            WriteNext::Restamp(above) => self.restamp(now, attempt, above, out),
        }
    }

    /// No quorum has the version, nor will: the same operation takes another, above what was met instead. If it was asked
    /// for twice, the other try may have done so already: then it is that version, or it would take effect twice.
    fn restamp(&mut self, now: Now, attempt: AttemptId, above: Version, out: &mut Effects) {
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        let Some(Offer { record, naming, .. }) = write.offer.as_deref() else { return };
        let (key, present) = (record.key.clone(), record.version);
        let known = naming.and_then(|naming| self.replica.shard().identities().get(naming.id));
        let version = match known.map(|entry| entry.version).filter(|version| *version > present) {
            Some(taken) => taken,
            None => {
                let clock_ms = self.clock.read(now);
                if self.is_ahead(clock_ms, above) {
                    self.stats.clock_refusals += 1;
                    return;
                }
                self.hlc.observe(above.hlc);
                self.stats.restamps += 1;
                self.stamp(clock_ms, Token::of(&key), &key)
            }
        };
        let Some(attempt) = self.coordinator.rename(now.mono, attempt) else { return };
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        write.restamp(version);
        self.take_own(now, attempt, out);
    }

    /// Takes the present version of a write into this core's own table and log, if it is a replica, and offers it to the
    /// others.
    pub(super) fn take_own(&mut self, now: Now, attempt: AttemptId, out: &mut Effects) {
        let Some(write) = self.coordinator.write_mut(attempt) else { return };
        let Some(offer) = write.offer.as_deref().cloned() else { return };
        let is_replica = write.sets.contains(self.config.member);
        let mut own = None;
        if is_replica {
            let Offer { record, naming, previous } = &offer;
            let hlc = record.version.hlc;
            let (taken, replaced) = self.replica.write(&borrowed(record), None, *naming, hlc, *previous);
            match taken {
                Taken::Held(ticket) => own = Some((ticket, replaced)),
                // A version that was offered again, and was replaced here since: the others may have it.
                Taken::Superseded(..) | Taken::BelowFloor | Taken::NoPlace => {}
            }
        }
        self.offer(attempt, own.as_ref().map(|(ticket, _)| *ticket), None, out);
        if let Some((ticket, replaced)) = own {
            self.own_answer(now, Some(ticket), attempt, OwnAnswer::Held(replaced), out);
        }
    }

    /// The seed's Replicate: one version of member 0, for this node alone.
    pub(super) fn replicate(
        &mut self,
        now: Now,
        clock_ms: u64,
        from: Requester,
        request: &Request,
        record: RecordRef<'_>,
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if record.version.hlc == Hlc::ZERO {
            return Err(Failure::not_applied(Reason::Malformed).message("timestamp 0 is not a version"));
        }
        if self.is_ahead(clock_ms, record.version) {
            self.stats.clock_refusals += 1;
            return Err(Failure::not_applied(Reason::ClockUnfit).message("timestamp ahead of clock"));
        }
        let slot = Token::of(record.key).slot();
        if !self.sets(slot).contains(self.config.member) {
            return Err(Failure::not_applied(Reason::NotReplica).message("not a replica of this key"));
        }
        self.check_room(record_bytes(&record), self.config.memory_limit)?;
        self.hlc.observe(record.version.hlc);
        let (taken, replaced) = self.replica.write(&record, None, None, record.version.hlc, false);
        match taken {
            Taken::Held(ticket) => {
                let alone = ReplicaSets::of(Replicas::from_slice(&[self.config.member]));
                let Request { level, deadline, .. } = *request;
                let slots = (alone, self.configuration(slot));
                let operation =
                    WriteOperation::new(from, record.version, slots, level, deadline, WriteKind::Replicate);
                let attempt = self.coordinator.open(now.mono, Open::Write(operation));
                self.own_answer(now, Some(ticket), attempt, OwnAnswer::Held(replaced), out);
                Ok(())
            }
            Taken::Superseded(_, wait, _) => {
                out.reply(wait, from, Ok(Answer::Replicated));
                Ok(())
            }
            Taken::BelowFloor => {
                self.stats.floor_refusals += 1;
                Err(Failure::not_applied(Reason::NotReplica).message("below gc floor"))
            }
            Taken::NoPlace => Err(no_place()),
        }
    }
}

/// A record that travels, its key as the request has it; the value is left to the caller.
fn owned_but_value(request: &Request, record: &RecordRef<'_>) -> OwnedRecord {
    let key = request.operation.key().cloned().unwrap_or_default();
    OwnedRecord { key, version: record.version, expires_at_ms: record.expires_at_ms, value: None }
}
