//! Walks a core's table in small steps for records whose end has come, and has them collected.
//!
//! The sole replica of a slot is all replicas of it: what it finds dead is confirmed by all at once, so it runs a round
//! (`PROTOCOL.md` §3) straight away. A replica among several only drops the bytes of what has expired: rounds are the
//! business of the slot's first replica, with everybody's confirmation.

use crate::replication::quorum::ReplicaSets;
use crate::replication::replica::{Collection, Replica};
use crate::storage::log::Ticket;
use crate::storage::log_record::Round;
use crate::types::{Body, Hlc, Mono, Slot, Token};
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
    dead: Vec<(Token, Bytes, crate::types::Version)>,
    expired: Vec<(Token, Bytes)>,
    next: Option<(Token, Bytes)>,
}

impl Sweep {
    /// One step of the walk, at the time `now` and the clock reading `at`. `sets` says whose a slot is.
    pub fn step(&mut self, replica: &mut Replica, now: Mono, at: Hlc, sets: impl Fn(Slot) -> ReplicaSets) {
        let from = match self.at.take() {
            Some(place) => place,
            None => {
                let counts = replica.shard().counts();
                if now < self.next_walk || counts.dead + counts.expiring == 0 {
                    return;
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
        for slot in found.dead.chunk_by(|(a, ..), (b, ..)| a.slot() == b.slot()) {
            let number = slot[0].0.slot();
            if sets(number).all().nth(1).is_none() {
                self.begin_round(
                    replica,
                    number,
                    slot.iter().map(|(_, key, version)| (key.clone(), *version)).collect(),
                );
            }
        }
        self.at = found.next.map(|(token, key)| (token, Some(key)));
        if self.at.is_none() {
            self.next_walk = now.after_ms(WALK_PAUSE_MS);
        }
    }

    /// The log is durable up to a ticket: applies the rounds that it holds. Returns rounds and records removed.
    pub fn durable(&mut self, replica: &mut Replica, ticket: Ticket) -> (u64, u64) {
        let (mut rounds, mut records) = (0, 0);
        while self.waiting.front().is_some_and(|(waits_for, _)| *waits_for <= ticket) {
            let (_, round) = self.waiting.pop_front().expect("the front was just looked at");
            let before = replica.shard().counts().records;
            replica.collected(&round);
            rounds += 1;
            records += before - replica.shard().counts().records;
        }
        (rounds, records)
    }

    fn begin_round(
        &mut self,
        replica: &mut Replica,
        slot: Slot,
        listed: Vec<(Bytes, crate::types::Version)>,
    ) {
        let mark = replica.shard().mark(slot);
        let last = self
            .waiting
            .iter()
            .rev()
            .find(|(_, round)| round.slot == slot)
            .map_or(mark.round, |(_, r)| r.round);
        let c = mark.configuration;
        let round = if last.c == c { Round { c, i: last.i + 1 } } else { Round { c, i: 1 } };
        let floor =
            listed.iter().map(|(_, version)| *version).max().expect("a round lists at least one record");
        let collection = Collection { slot, round, floor, listed };
        let ticket = replica.collect(&collection);
        self.waiting.push_back((ticket, collection));
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
                found.dead.push((token, key, record.version));
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
