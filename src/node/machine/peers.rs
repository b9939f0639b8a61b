//! What other members say, and what this core answers as their replica.

use super::{Machine, borrowed};
use crate::node::effect::{Effect, Effects};
use crate::node::scan;
use crate::replication::ever_held::Ever;
use crate::replication::forward::Requester;
use crate::replication::messages::{
    AttemptId, Found, Holding, Message, MessageBody, News, OwnedRecord, Replaced, UNANSWERED, Verdict,
};
use crate::replication::replica::{Naming, Taken};
use crate::storage::log::Ticket;
use crate::storage::log_record::Round;
use crate::types::mutant::{Mutant, planted};
use crate::types::request::Request;
use crate::types::{Body, MemberId, Now, Slot, Token, Version};
use bytes::Bytes;
use core::cmp::Ordering;

/// How often a newer epoch is asked for, milliseconds.
const ASK_EPOCH_MS: u64 = 20;

/// While the log stalls, answers to peers pile up: beyond so many times what clients' answers may take, peers' requests are
/// let fall. Whoever waits for an answer asks again.
const PEERS_SHARE: usize = 4;

/// A record as a peer offers it.
struct Offered {
    record: OwnedRecord,
    label: Option<Round>,
    naming: Option<Naming>,
    previous: bool,
    repair: bool,
}

impl Machine {
    pub(super) fn peer(&mut self, now: Now, from: MemberId, message: Message, out: &mut Effects) {
        let known = self.ring.epoch().member(from).is_some() && from != self.config.member;
        if !known || message.slot.core(self.config.cores) != self.config.core {
            self.stats.peer_refusals += 1;
            return;
        }
        if !message.body.is_answer() && !self.has_room_for_peers(out) {
            self.stats.peers_unheard += 1;
            return;
        }
        let clock_ms = self.clock.read(now);
        let Message { slot, configuration, hlc, news, body } = message;
        for seen in [hlc, news.floor.hlc] {
            if !self.is_ahead(clock_ms, Version::new(seen, from)) {
                self.hlc.observe(seen);
            }
        }
        let here = self.configuration(slot);
        if configuration > here {
            self.ask_epoch(now, from, out);
        }
        if configuration == here {
            self.take_news(now, slot, news);
        }
        match body {
            MessageBody::Write { attempt, record, label, naming, previous, repair } => {
                if !self.is_of(slot, &record.key) {
                    self.stats.peer_refusals += 1;
                    return;
                }
                let (wait, verdict, replaced) = match configuration.cmp(&here) {
                    Ordering::Equal => {
                        let offered = Offered { record, label, naming, previous, repair };
                        self.take(now, clock_ms, slot, &offered)
                    }
                    Ordering::Less => (None, Verdict::Stale, Replaced::default()),
                    // It is answered once this node has caught up, and it is asked again.
                    Ordering::Greater => return,
                };
                if attempt == UNANSWERED {
                    return;
                }
                let label = self.label(slot).filter(|_| verdict == Verdict::Held);
                let body = MessageBody::WriteAnswer { attempt, verdict, replaced, label };
                self.answer(wait, from, slot, body, out);
            }
            MessageBody::Read { attempt, key, record } => {
                if !self.is_of(slot, &key) {
                    self.stats.peer_refusals += 1;
                    return;
                }
                let (wait, found) = match configuration.cmp(&here) {
                    Ordering::Equal => self.find(now, clock_ms, slot, &key, record),
                    Ordering::Less => (None, Found::Stale),
                    Ordering::Greater => return,
                };
                self.answer(wait, from, slot, MessageBody::ReadAnswer { attempt, found }, out);
            }
            MessageBody::Announce => {}
            MessageBody::Collect { .. }
            | MessageBody::Collected { .. }
            | MessageBody::Compare { .. }
            | MessageBody::Agree { .. }
            | MessageBody::Parts { .. }
            | MessageBody::Listing { .. }
            | MessageBody::Want { .. } => {
                // What is said under another configuration may be about a slot that is not this member's.
                if configuration == here && self.sets(slot).contains(self.config.member) {
                    self.exchange(now, (from, slot), (news, body), out);
                }
            }
            MessageBody::Survey { attempt } => self.survey_asked(from, (slot, configuration), attempt, out),
            MessageBody::Forward { attempt, operation, level, identity, done_below, remaining_ms } => {
                if !operation.key().is_some_and(|key| self.is_of(slot, key)) {
                    self.stats.peer_refusals += 1;
                    return;
                }
                let requester = Requester::Member { member: from, slot, configuration: here, attempt };
                let deadline = now.mono.after_ms(u64::from(remaining_ms));
                // Whoever handed it on knows what there is room for.
                let value_bytes_max = usize::MAX;
                let request = Request { operation, level, identity, done_below, deadline, value_bytes_max };
                self.forwarded(now, requester, request, out);
            }
            MessageBody::WriteAnswer { attempt, verdict, replaced, .. } => {
                self.heed(now, from, verdict == Verdict::Stale, out);
                self.write_back_answered(now, from, attempt, verdict, out);
                self.write_answered(now, from, attempt, (verdict, replaced), out);
            }
            MessageBody::ReadAnswer { attempt, found } => {
                self.heed(now, from, found == Found::Stale, out);
                self.read_answered(now, (from, hlc), attempt, found, out);
            }
            MessageBody::SurveyAnswer { attempt, holding } => {
                self.heed(now, from, holding.is_none(), out);
                self.survey_answered(from, (slot, configuration), attempt, holding, out);
            }
            MessageBody::ForwardAnswer { attempt, reply } => {
                self.forward_answered(now, from, attempt, reply, out);
            }
        }
    }

    /// A step of anti-entropy or of collection with another replica of the slot.
    fn exchange(
        &mut self,
        now: Now,
        (from, slot): (MemberId, Slot),
        (news, body): (News, MessageBody),
        out: &mut Effects,
    ) {
        match body {
            MessageBody::Collect { round, listed } => {
                self.collect_asked(now, (from, slot), (round, news.round), &listed, out);
            }
            MessageBody::Collected { round } => self.collect_confirmed(from, slot, round),
            // Digests are compared at equal rounds only; whoever is behind has just taken the news, or is told it.
            MessageBody::Compare { .. } if news.round != self.replica.shard().mark(slot).round => {
                self.send(None, from, slot, MessageBody::Announce, out);
            }
            MessageBody::Compare { digest } => self.compared(now, from, slot, digest, out),
            MessageBody::Agree { digest } => self.agreed(from, slot, digest),
            MessageBody::Parts { range, digests } => self.parts_told(now, (from, slot), range, &digests, out),
            MessageBody::Listing { range, entries } => {
                self.listing_told(now, (from, slot), range, &entries, out);
            }
            MessageBody::Want { tokens } => self.wanted(now, (from, slot), &tokens),
            MessageBody::Announce
            | MessageBody::Write { .. }
            | MessageBody::WriteAnswer { .. }
            | MessageBody::Read { .. }
            | MessageBody::ReadAnswer { .. }
            | MessageBody::Survey { .. }
            | MessageBody::SurveyAnswer { .. }
            | MessageBody::Forward { .. }
            | MessageBody::ForwardAnswer { .. } => unreachable!("these are no steps of an exchange"),
        }
    }

    /// A refusal because this node's configuration of the slot is old: it must catch up.
    fn heed(&mut self, now: Now, from: MemberId, stale: bool, out: &mut Effects) {
        if stale {
            self.ask_epoch(now, from, out);
        }
    }

    fn ask_epoch(&mut self, now: Now, from: MemberId, out: &mut Effects) {
        self.stats.other_configuration += 1;
        if now.mono >= self.ask_epoch_at {
            self.ask_epoch_at = now.mono.after_ms(ASK_EPOCH_MS);
            out.at_once(Effect::AskEpoch(from));
        }
    }

    /// Answers a peer, when what the answer speaks of is durable and so is the configuration that it is given under.
    pub(super) fn answer(
        &self,
        wait: Option<Ticket>,
        to: MemberId,
        slot: Slot,
        body: MessageBody,
        out: &mut Effects,
    ) {
        self.send(wait.max(self.replica.wait_for_adoption()), to, slot, body, out);
    }

    /// Is there room for another answer that may have to wait for the log?
    fn has_room_for_peers(&self, out: &Effects) -> bool {
        let limits = &self.config.limits;
        out.waiting() < PEERS_SHARE * limits.operations_max
            && out.held_bytes() < PEERS_SHARE * limits.held_bytes_max
    }

    /// Is it a key of that slot?
    fn is_of(&self, slot: Slot, key: &[u8]) -> bool {
        self.check_key(key).is_ok() && Token::of(key).slot() == slot
    }

    /// Takes a peer's record. The answer leaves after the ticket.
    fn take(
        &mut self,
        now: Now,
        clock_ms: u64,
        slot: Slot,
        offered: &Offered,
    ) -> (Option<Ticket>, Verdict, Replaced) {
        let Offered { record, label, naming, previous, repair } = offered;
        let refuse = |verdict| (None, verdict, Replaced::default());
        let sets = self.sets(slot);
        if !sets.contains(self.config.member) {
            self.stats.peer_refusals += 1;
            return refuse(Verdict::NoRoom);
        }
        if !self.has_floor(slot, &sets) {
            return refuse(Verdict::NoRoom);
        }
        let ahead = match repair {
            true => self.is_beyond(now, record.version),
            false => self.is_ahead(clock_ms, record.version),
        };
        if ahead {
            self.stats.clock_refusals += 1;
            return refuse(Verdict::ClockAhead);
        }
        let bytes = record.bytes();
        let fits = record.value.as_deref().is_none_or(|value| self.check_value(value).is_ok());
        let memory_max = if record.value.is_some() { self.config.memory_limit } else { usize::MAX };
        if !fits || self.check_room(bytes, memory_max).is_err() {
            return refuse(Verdict::NoRoom);
        }
        if naming.is_some() && !self.replica.shard().identities().has_room() {
            return refuse(Verdict::NoRoom);
        }
        self.hlc.observe(record.version.hlc);
        let hlc = record.version.hlc;
        let (taken, replaced) = self.replica.write(&borrowed(record), *label, *naming, hlc, *previous);
        match taken {
            Taken::Held(ticket) => {
                let wait = Some(ticket).filter(|_| !planted(Mutant::AnswersUnflushed));
                (wait, Verdict::Held, replaced)
            }
            Taken::Superseded(newer, wait, ever) => {
                let verdict = match ever {
                    Ever::Held => Verdict::Held,
                    Ever::Never | Ever::Unknown if planted(Mutant::SupersededCounts) => Verdict::Held,
                    Ever::Unknown if planted(Mutant::ForgottenIsNever) => Verdict::Never(newer),
                    Ever::Never => Verdict::Never(newer),
                    Ever::Unknown => Verdict::Unknown(newer),
                };
                let wait = wait.filter(|_| verdict == Verdict::Held || !planted(Mutant::NeverUnflushed));
                (wait, verdict, Replaced::default())
            }
            Taken::BelowFloor => {
                self.stats.floor_refusals += 1;
                refuse(Verdict::BelowFloor)
            }
            Taken::NoPlace => refuse(Verdict::NoRoom),
        }
    }

    /// What this core holds of a key, for a peer's read. The answer leaves after the ticket.
    fn find(
        &mut self,
        now: Now,
        clock_ms: u64,
        slot: Slot,
        key: &Bytes,
        whole: bool,
    ) -> (Option<Ticket>, Found) {
        let at = self.reading(now, clock_ms);
        let label = self.label(slot);
        let (record, wait) = self.replica.read(Token::of(key), key);
        let version = record.map_or(Version::ZERO, |record| record.version);
        let expires_at_ms = record.map_or(0, |record| record.expires_at_ms);
        let ended_ms = record.map_or(0, |record| scan::ended_ms(&record, at));
        let found = match record {
            Some(record) if whole => {
                let value = match record.body {
                    Body::Value(value) => Some(Bytes::copy_from_slice(value)),
                    Body::Tombstone | Body::Expired => None,
                };
                let record = OwnedRecord { key: key.clone(), version, expires_at_ms, value };
                Found::Record { record, label }
            }
            Some(_) | None => Found::Version { version, expires_at_ms, label },
        };
        (wait.max(self.tell_end(ended_ms, at)), found)
    }

    /// Adopts nothing itself: only says what is held of the whole slot, under the configuration that was asked for.
    fn survey_asked(
        &mut self,
        from: MemberId,
        (slot, configuration): (Slot, u64),
        attempt: AttemptId,
        out: &mut Effects,
    ) {
        let holding = match configuration.cmp(&self.configuration(slot)) {
            Ordering::Equal => {
                let digest = self.replica.shard().mark(slot).digest;
                Some(Holding { digest, records: self.replica.holds_any(slot) })
            }
            Ordering::Less => None,
            Ordering::Greater => return,
        };
        let wait = self.replica.wait_for_all();
        self.answer(wait, from, slot, MessageBody::SurveyAnswer { attempt, holding }, out);
    }

    /// Does a foreign version lie too far ahead of both the clocks and what this core has already seen? Of a write on its
    /// way.
    pub(super) fn is_ahead(&self, clock_ms: u64, version: Version) -> bool {
        let ms = version.hlc.ms();
        ms > self.hlc.last().ms() && ms > self.cluster_ms(clock_ms) + self.config.limits.skew_ms_max
    }

    /// Does a version that others hold already lie too far ahead of the clocks and of what this core has promised never to
    /// fall below?
    pub(super) fn is_beyond(&mut self, now: Now, version: Version) -> bool {
        let clock_ms = self.clock.read(now);
        let bound = self.replica.log().durable_hlc_bound().ms();
        version.hlc.ms() > self.cluster_ms(clock_ms).max(bound) + self.config.limits.skew_ms_max
    }

    /// The later of this node's clock and cluster time, milliseconds since 1970.
    fn cluster_ms(&self, clock_ms: u64) -> u64 {
        clock_ms.max(clock_ms.saturating_add_signed(self.opinion.ahead_ms))
    }
}
