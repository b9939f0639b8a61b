//! Collection of tombstones and of what has expired, in slots with several replicas (`PROTOCOL.md` §3). The slot's first
//! replica runs the rounds; what all have confirmed to hold is purged by each, in one log entry, when the round is news.

use super::Machine;
use crate::node::effect::Effects;
use crate::replication::ever_held::Ever;
use crate::replication::messages::{Dead, MessageBody, News};
use crate::replication::quorum::Replicas;
use crate::replication::replica::{Collection, Taken};
use crate::storage::log_record::{LogRecord, Round};
use crate::types::{Body, Hlc, MemberId, Mono, Now, RecordRef, Slot, Token, Version};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// What died later than this is not collected yet, milliseconds: most of what could still arrive of it has.
const IN_FLIGHT_MS: u64 = 30_000;
/// How long a round waits for its confirmations, milliseconds.
const ROUND_MS: u64 = 5_000;
/// Rounds of a core under way, and lists that it remembers for others.
const ROUNDS_MAX: usize = 64;
const LISTS_MAX: usize = 256;
/// Records of one round.
const LISTED_MAX: usize = 1_024;

/// The rounds that a core takes part in.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Of slots whose first replica this member is.
    open: BTreeMap<Slot, OpenRound>,
    /// Numbers up to this may have been used before the start.
    before: u32,
    /// The last number used for a slot since, if its round was not confirmed: no number is used twice.
    used: BTreeMap<Slot, u32>,
    /// Of the others: the list of the last round that was confirmed here.
    lists: BTreeMap<Slot, (Round, Vec<(Bytes, Version)>)>,
}

#[derive(Debug)]
struct OpenRound {
    round: Round,
    listed: Vec<Dead>,
    confirmed: Replicas,
    until: Mono,
}

impl Machine {
    /// Numbers of rounds are seconds of the clock's durable bound, so that none is used twice, whatever is lost.
    pub(super) fn begin_rounds(&mut self) {
        self.rounds.before = second(self.config.hlc_bound);
    }

    /// The slot's replicas are others now: its round, and the list of one, are void.
    pub(super) fn end_round(&mut self, slot: Slot) {
        self.rounds.open.remove(&slot);
        self.rounds.lists.remove(&slot);
    }

    /// Begins rounds for what was found dead in slots whose first replica this member is.
    pub(super) fn collect_dead(
        &mut self,
        now: Now,
        at: Hlc,
        found: Vec<(Slot, Vec<Dead>)>,
        out: &mut Effects,
    ) {
        self.rounds.open.retain(|_, open| open.until > now.mono);
        for (slot, mut dead) in found {
            let sets = self.sets(slot);
            let runs = sets.base.first() == Some(&self.config.member) && sets.target.is_empty();
            let all_there = sets.base.iter().all(|member| !self.is_suspected(*member));
            if !runs || !all_there || self.rounds.open.contains_key(&slot) {
                continue;
            }
            let died_ms = |dead: &Dead| dead.version.hlc.ms().max(dead.expires_at_ms);
            dead.retain(|dead| died_ms(dead) + IN_FLIGHT_MS <= at.ms());
            dead.truncate(LISTED_MAX);
            if dead.is_empty() || self.rounds.open.len() >= ROUNDS_MAX {
                continue;
            }
            let next = second(self.replica.log().durable_hlc_bound());
            let last = self.rounds.used.get(&slot).copied().unwrap_or(0).max(self.rounds.before);
            if next <= last {
                // The bound rises with what is logged, and nothing was.
                if second(at) > last && self.replica.log().is_idle() {
                    self.replica.log_mut().append(&LogRecord::HlcBound(at));
                }
                continue;
            }
            let round = Round { c: self.configuration(slot), i: next };
            if round <= self.replica.shard().mark(slot).round {
                continue;
            }
            for member in sets.base.iter().copied().filter(|member| *member != self.config.member) {
                let body = MessageBody::Collect { round, listed: dead.clone() };
                self.answer(self.replica.wait_for_all(), member, slot, body, out);
            }
            let confirmed = Replicas::from_slice(&[self.config.member]);
            let until = now.mono.after_ms(ROUND_MS);
            self.rounds.used.insert(slot, next);
            self.rounds.open.insert(slot, OpenRound { round, listed: dead, confirmed, until });
        }
    }

    /// Takes the list of a round into table and log, remembers it, and says so. Nothing is said if not all of it is held.
    /// `label`: the round that the sender knows, which does not cover what it lists from its table.
    pub(super) fn collect_asked(
        &mut self,
        now: Now,
        (from, slot): (MemberId, Slot),
        (round, label): (Round, Round),
        listed: &[Dead],
        out: &mut Effects,
    ) {
        let sets = self.sets(slot);
        let is_runs =
            sets.base.first() == Some(&from) && sets.target.is_empty() && round.c == self.configuration(slot);
        let fits = listed.len() <= LISTED_MAX
            && listed
                .iter()
                .all(|dead| self.check_key(&dead.key).is_ok() && Token::of(&dead.key).slot() == slot);
        if !is_runs || !fits || !sets.base.contains(&self.config.member) {
            self.stats.peer_refusals += 1;
            return;
        }
        let is_known = self.rounds.lists.contains_key(&slot);
        if round <= self.replica.shard().mark(slot).round
            || (!is_known && self.rounds.lists.len() >= LISTS_MAX)
        {
            return;
        }
        for Dead { key, version, expires_at_ms } in listed {
            if self.is_beyond(now, *version) || self.check_room(key.len(), usize::MAX).is_err() {
                return;
            }
            let body = if *expires_at_ms == 0 { Body::Tombstone } else { Body::Expired };
            let record = RecordRef { key, version: *version, expires_at_ms: *expires_at_ms, body };
            self.hlc.observe(version.hlc);
            match self.replica.write(&record, Some(label), None, version.hlc, false).0 {
                Taken::Held(_) | Taken::Superseded(_, _, Ever::Held | Ever::Never | Ever::Unknown) => {}
                // The sender is behind: with the news it labels afresh.
                Taken::BelowFloor => return self.send(None, from, slot, MessageBody::Announce, out),
                Taken::NoPlace => return,
            }
        }
        let list = listed.iter().map(|dead| (dead.key.clone(), dead.version)).collect();
        self.rounds.lists.insert(slot, (round, list));
        self.answer(self.replica.wait_for_all(), from, slot, MessageBody::Collected { round }, out);
    }

    /// A replica holds all that a round lists. With the last of them the round is news.
    pub(super) fn collect_confirmed(&mut self, from: MemberId, slot: Slot, round: Round) {
        let base = self.sets(slot).base;
        let Some(open) = self.rounds.open.get_mut(&slot).filter(|open| open.round == round) else { return };
        if base.contains(&from) && !open.confirmed.contains(&from) {
            open.confirmed.push(from);
        }
        if open.confirmed.len() < base.len() {
            return;
        }
        let Some(open) = self.rounds.open.remove(&slot) else { return };
        self.rounds.used.remove(&slot);
        let listed: Vec<(Bytes, Version)> =
            open.listed.into_iter().map(|dead| (dead.key, dead.version)).collect();
        let greatest = listed.iter().map(|(_, version)| *version).max().unwrap_or_default();
        let floor = greatest.max(self.replica.shard().mark(slot).floor);
        self.sweep.apply(&mut self.replica, Collection { slot, round, floor, listed });
    }

    /// A round has been applied here: those who were not told by other messages are told now.
    pub(super) fn announce(&self, slot: Slot, out: &mut Effects) {
        let sets = self.sets(slot);
        if sets.base.first() != Some(&self.config.member) {
            return;
        }
        for member in sets.base.iter().copied().filter(|member| *member != self.config.member) {
            self.send(None, member, slot, MessageBody::Announce, out);
        }
    }

    /// News of a slot's collection: round and floor are taken over, and what the round lists is purged, if the list is
    /// remembered.
    pub(super) fn take_news(&mut self, now: Now, slot: Slot, news: News) {
        let known = self.sweep.last_round(slot).unwrap_or(self.replica.shard().mark(slot).round);
        if news.round <= known || self.is_beyond(now, news.floor) {
            return;
        }
        let is_moving = !self.sets(slot).target.is_empty();
        let list = self.rounds.lists.remove(&slot).filter(|(round, _)| *round == news.round && !is_moving);
        let listed = list.map(|(_, listed)| listed).unwrap_or_default();
        let floor = news.floor.max(self.replica.shard().mark(slot).floor);
        self.hlc.observe(floor.hlc);
        self.sweep.apply(&mut self.replica, Collection { slot, round: news.round, floor, listed });
    }
}

fn second(bound: Hlc) -> u32 {
    u32::try_from(bound.ms() / 1_000).unwrap_or(u32::MAX)
}
