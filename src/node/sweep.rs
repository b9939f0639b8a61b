//! Walks a core's table in small steps for records whose end has come, and has them collected.
//!
//! The sole replica of a slot is all replicas of it: what it finds dead is confirmed by all at once, so it runs a round
//! (`PROTOCOL.md` §3) straight away. A replica among several drops the bytes of what has expired and tells what it found
//! dead: rounds are the business of the slot's first replica, with everybody's confirmation (`machine/rounds.rs`).

use crate::replication::messages::Dead;
use crate::replication::quorum::ReplicaSets;
use crate::replication::replica::{Collection, Replica};
use crate::storage::log::Ticket;
use crate::storage::log_record::Round;
use crate::types::{Body, Hlc, Mono, Slot, Token, Version};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// Records looked at per step: about 100 us.
const STEP_RECORDS: usize = 1_024;
/// Bytes of keys listed per step.
const STEP_KEY_BYTES: usize = 64 << 10;
/// A new walk begins no sooner after the last.
const WALK_PAUSE_MS: u64 = 1_000;

/// Where the walk is, and the rounds that wait for the log.
#[derive(Debug, Default)]
pub struct Sweep {
    /// The next record is the first after this place; None = the walk rests.
    at: Option<(Token, Option<Bytes>)>,
    next_walk: Mono,
    waiting: VecDeque<(Ticket, Collection)>,
}

/// What a step of the walk found.
struct Found {
    dead: Vec<(Token, Dead)>,
    expired: Vec<(Token, Bytes)>,
    next: Option<(Token, Bytes)>,
}

impl Sweep {
    /// One step of the walk, at the time `now` and the clock reading `at`. `sets` says whose a slot is. Returns what was
    /// found dead in slots with several replicas.
    pub fn step(
        &mut self,
        replica: &mut Replica,
        now: Mono,
        at: Hlc,
        sets: impl Fn(Slot) -> ReplicaSets,
    ) -> Vec<(Slot, Vec<Dead>)> {
        let mut shared = Vec::new();
        let from = match self.at.take() {
            Some(place) => place,
            None => {
                let counts = replica.shard().counts();
                if now < self.next_walk || counts.dead + counts.expiring == 0 {
                    return shared;
                }
                (Token(0), None)
            }
        };
        let found = find(replica, &from, at);
        for (token, key) in &found.expired {
            if sets(token.slot()).all().nth(1).is_some() {
                replica.shard_mut().drop_expired(*token, key, at);
            }
        }
        for dead in found.dead.chunk_by(|(a, _), (b, _)| a.slot() == b.slot()) {
            let slot = dead[0].0.slot();
            let dead: Vec<Dead> = dead.iter().map(|(_, dead)| dead.clone()).collect();
            if sets(slot).all().nth(1).is_some() {
                shared.push((slot, dead));
                continue;
            }
            let mark = replica.shard().mark(slot);
            let (c, last) = (mark.configuration, self.last_round(slot).unwrap_or(mark.round));
            let round = if last.c == c { Round { c, i: last.i + 1 } } else { Round { c, i: 1 } };
            let listed: Vec<(Bytes, Version)> =
                dead.into_iter().map(|dead| (dead.key, dead.version)).collect();
            let floor = listed.iter().map(|(_, version)| *version).max().unwrap_or_default();
            self.apply(replica, Collection { slot, round, floor, listed });
        }
        self.at = found.next.map(|(token, key)| (token, Some(key)));
        if self.at.is_none() {
            self.next_walk = now.after_ms(WALK_PAUSE_MS);
        }
        shared
    }

    /// The log is durable up to a ticket: applies the rounds that it holds. Returns their slots, and how many records were
    /// removed.
    pub fn durable(&mut self, replica: &mut Replica, ticket: Ticket) -> (Vec<Slot>, u64) {
        let (mut rounds, mut records) = (Vec::new(), 0);
        while self.waiting.front().is_some_and(|(waits_for, _)| *waits_for <= ticket) {
            let (_, round) = self.waiting.pop_front().expect("the front was just looked at");
            let before = replica.shard().counts().records;
            replica.collected(&round);
            rounds.push(round.slot);
            records += before - replica.shard().counts().records;
        }
        (rounds, records)
    }

    /// A round is confirmed by all replicas: logs it, and applies it once that is durable. Returns the ticket.
    pub fn apply(&mut self, replica: &mut Replica, collection: Collection) -> Ticket {
        let ticket = replica.collect(&collection);
        self.waiting.push_back((ticket, collection));
        ticket
    }

    /// The last round of a slot that waits for the log.
    pub fn last_round(&self, slot: Slot) -> Option<Round> {
        let waiting = self.waiting.iter().rev().find(|(_, collection)| collection.slot == slot);
        waiting.map(|(_, collection)| collection.round)
    }
}

fn find(replica: &Replica, from: &(Token, Option<Bytes>), at: Hlc) -> Found {
    let mut found = Found { dead: Vec::new(), expired: Vec::new(), next: None };
    let (mut records, mut key_bytes) = (0, 0);
    let mut last = None;
    let walked =
        replica.shard().table().walk((from.0, from.1.as_deref()), Token(u64::MAX), |token, record| {
            records += 1;
            last = Some((token, record.key));
            if record.is_dead(at) {
                let key = Bytes::copy_from_slice(record.key);
                key_bytes += key.len();
                if matches!(record.body, Body::Value(_)) {
                    found.expired.push((token, key.clone()));
                }
                let (version, expires_at_ms) = (record.version, record.expires_at_ms);
                found.dead.push((token, Dead { key, version, expires_at_ms }));
            }
            match records < STEP_RECORDS && key_bytes < STEP_KEY_BYTES {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
    if walked.is_break() {
        found.next = last.map(|(token, key)| (token, Bytes::copy_from_slice(key)));
    }
    found
}
