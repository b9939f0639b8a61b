//! One core's data: the table with what is kept per slot (digest, floor, round) and the operations it remembers.
//! Decides what a record may replace; knows neither log nor clock.
//!
//! The gate (`PROTOCOL.md` §3): a record at or below its slot's floor, for a key that is absent here, is refused, unless
//! its label proves that no round of collection covers it. That is what keeps deleted keys deleted. Replay alone does
//! not consult it: what the log holds was accepted in its time.

use super::digest::Digest;
use super::fetch::fetch;
use super::identity::{Entry, Identities};
use super::log_record::{self, LogRecord, OperationEntry, Round};
use super::table::{Expected, Place, Table, TableFull};
use crate::types::mutant::{Mutant, planted};
use crate::types::{Body, CoreId, Hlc, Limits, RecordRef, SLOTS, Slot, Token, Version};
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::ControlFlow;

/// What is kept per slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotMark {
    /// Sum over the slot's records.
    pub digest: Digest,
    /// The last round of collection that was applied here.
    pub round: Round,
    /// At or below it nothing absent may return.
    pub floor: Version,
    /// Number of the last epoch that changed the slot's replicas, as adopted here; the first epoch's is 1.
    pub configuration: u64,
}

impl SlotMark {
    /// Is there more to keep of the slot than its records?
    pub fn is_marked(&self) -> bool {
        self.round != Round::default() || self.floor != Version::ZERO || self.configuration != 1
    }
}

/// What a record would meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It wins over what is there.
    Wins,
    /// Exactly this version is there already.
    Held,
    /// A newer one is there.
    Superseded(Version),
    /// The key is absent and the floor covers it.
    BelowFloor,
}

/// Counts of a shard, for status and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardCounts {
    /// Records, dead or alive.
    pub records: u64,
    /// Tombstones, and records whose bytes were dropped at their expiry.
    pub dead: u64,
    /// Values that will expire.
    pub expiring: u64,
}

/// One core's data.
pub struct Shard {
    table: Table,
    marks: Vec<SlotMark>,
    identities: Identities,
    counts: ShardCounts,
    cores: u16,
    /// The greatest clock reading of any record that was ever here.
    hlc_max: Hlc,
}

impl Shard {
    /// An empty shard. `seed` keys the table's hash.
    pub fn new(seed: u64, core: CoreId, cores: u16, limits: &Limits) -> Shard {
        let slots = (SLOTS - usize::from(core.0)).div_ceil(usize::from(cores));
        Shard {
            table: Table::new(seed, core, cores),
            marks: alloc::vec![SlotMark { configuration: 1, ..SlotMark::default() }; slots],
            identities: Identities::new(
                cores,
                limits.identities_max,
                limits.identity_value_bytes_max,
                limits.identity_ms,
            ),
            counts: ShardCounts::default(),
            cores,
            hlc_max: Hlc::ZERO,
        }
    }

    /// The records.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The records, to tidy them up: nothing that changes what is stored.
    pub fn compact_step(&mut self, bytes_max: usize) -> bool {
        self.table.compact_step(bytes_max)
    }

    /// The operations that are remembered.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The operations that are remembered, to forget some.
    pub fn identities_mut(&mut self) -> &mut Identities {
        &mut self.identities
    }

    /// How much of what is here.
    pub fn counts(&self) -> ShardCounts {
        self.counts
    }

    /// The greatest clock reading of any record that was ever here.
    pub fn hlc_max(&self) -> Hlc {
        self.hlc_max
    }

    /// Slots of this core.
    pub fn slots(&self) -> usize {
        self.marks.len()
    }

    /// Cores of this node.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// What is kept of a slot of this core.
    pub fn mark(&self, slot: Slot) -> &SlotMark {
        &self.marks[usize::from(slot.0 / self.cores)]
    }

    /// The record of a key, dead or alive.
    pub fn get(&self, token: Token, key: &[u8]) -> Option<RecordRef<'_>> {
        self.table.get(token, key)
    }

    /// A read, or also a write, of a key that is to come: see [`Table::expect`].
    pub fn expect(&self, token: Token, key: &[u8], write: bool) -> Expected {
        if write {
            fetch(self.mark(token.slot()));
        }
        self.table.expect(token, key)
    }

    /// Looks for a key, dead or alive.
    pub fn find(&self, token: Token, key: &[u8]) -> Place {
        self.table.find(token, key)
    }

    /// The record at a place that was just found.
    pub fn at(&self, place: Place) -> Option<RecordRef<'_>> {
        self.table.at(place)
    }

    /// What would become of a record, labelled or not, that arrives at the place of its key.
    pub fn admit(
        &self,
        token: Token,
        place: Place,
        record: &RecordRef<'_>,
        label: Option<Round>,
    ) -> Admission {
        let Some(held) = self.at(place) else {
            let mark = self.mark(token.slot());
            let covered = record.version <= mark.floor && label.is_none_or(|round| round < mark.round);
            return if covered && !planted(Mutant::FloorForgotten) {
                Admission::BelowFloor
            } else {
                Admission::Wins
            };
        };
        if record.supersedes(&held) {
            Admission::Wins
        } else if record.version == held.version {
            Admission::Held
        } else {
            Admission::Superseded(held.version)
        }
    }

    /// Stores a record that was admitted, in place of what is there.
    pub fn insert(&mut self, token: Token, place: Place, record: &RecordRef<'_>) -> Result<(), TableFull> {
        let old = self.at(place).map(|old| (Digest::of(&old), classify(&old)));
        self.table.set_at(token, place, record)?;
        let digest = &mut self.marks[usize::from(token.slot().0 / self.cores)].digest;
        if let Some((old_digest, class)) = old {
            digest.subtract(old_digest);
            self.counts.count(class, -1);
        }
        digest.add(Digest::of(record));
        self.counts.count(classify(record), 1);
        self.hlc_max = self.hlc_max.max(record.version.hlc);
        Ok(())
    }

    /// Drops the bytes of a value that has expired at `at`, keeping key and version. True if there were any.
    pub fn drop_expired(&mut self, token: Token, key: &[u8], at: Hlc) -> bool {
        let place = self.find(token, key);
        let expired = match self.at(place) {
            Some(held) if matches!(held.body, Body::Value(_)) && held.is_expired(at) => {
                RecordRef { key, body: Body::Expired, ..held }
            }
            Some(_) | None => return false,
        };
        self.insert(token, place, &expired).is_ok()
    }

    /// A round of collection is confirmed by all replicas: raises the floor and removes exactly those listed records
    /// that are still current.
    pub fn collect<'a>(
        &mut self,
        slot: Slot,
        round: Round,
        floor: Version,
        listed: impl Iterator<Item = (&'a [u8], Version)>,
    ) {
        let cores = self.cores;
        let mark = &mut self.marks[usize::from(slot.0 / cores)];
        mark.round = mark.round.max(round);
        mark.floor = mark.floor.max(floor);
        self.hlc_max = self.hlc_max.max(floor.hlc);
        for (key, version) in listed {
            let token = Token::of(key);
            let Some(held) = self.table.get(token, key).filter(|held| held.version == version) else {
                continue;
            };
            let (digest, class) = (Digest::of(&held), classify(&held));
            self.table.remove(token, key);
            self.marks[usize::from(slot.0 / cores)].digest.subtract(digest);
            self.counts.count(class, -1);
        }
    }

    /// The slot is another member's now: records, round and floor go; its configuration stays.
    pub fn drop_slot(&mut self, slot: Slot) {
        let mut keys: Vec<(Token, Vec<u8>)> = Vec::new();
        let list = |token, record: RecordRef<'_>| {
            keys.push((token, record.key.to_vec()));
            ControlFlow::<()>::Continue(())
        };
        let walked = self.table.walk((slot.first_token(), None), slot.last_token(), list);
        assert!(walked.is_continue(), "the walk goes to the slot's end");
        for (token, key) in keys {
            if let Some(class) = self.table.get(token, &key).map(|held| classify(&held)) {
                self.table.remove(token, &key);
                self.counts.count(class, -1);
            }
        }
        let mark = &mut self.marks[usize::from(slot.0 / self.cores)];
        *mark = SlotMark { configuration: mark.configuration, ..SlotMark::default() };
    }

    /// Takes over what a snapshot part or a floor record says of a slot. Nothing of it ever goes back.
    pub fn raise_mark(&mut self, slot: Slot, round: Round, floor: Version, configuration: u64) {
        let mark = &mut self.marks[usize::from(slot.0 / self.cores)];
        mark.round = mark.round.max(round);
        mark.floor = mark.floor.max(floor);
        mark.configuration = mark.configuration.max(configuration);
        self.hlc_max = self.hlc_max.max(floor.hlc);
    }

    /// Remembers a named operation, with the value that it replaced if that is wanted and at hand.
    pub fn remember(&mut self, slot: Slot, operation: &OperationEntry, version: Version, old: Option<Bytes>) {
        let OperationEntry { id, payload_hash, replaced, had_old, .. } = *operation;
        self.identities.remember(id, Entry { slot, version, payload_hash, replaced, had_old, old });
    }

    /// Applies a record of the log, in the log's order.
    pub fn replay(&mut self, record: &LogRecord<'_>) -> Result<(), TableFull> {
        match record {
            LogRecord::Record(log_record::Entry { record, operation, .. }) => {
                let token = Token::of(record.key);
                let place = self.find(token, record.key);
                if let Some(operation) = operation {
                    let old = self
                        .at(place)
                        .filter(|held| operation.had_old && held.version == operation.replaced)
                        .and_then(|held| held.live_value(Hlc::ZERO))
                        .map(Bytes::copy_from_slice);
                    self.remember(token.slot(), operation, record.version, old);
                    // A log may hold the names of days: what was forgotten then is forgotten again as the log goes on.
                    self.identities.expire(record.version.hlc.ms(), usize::MAX);
                }
                self.merge_at(token, place, record)?;
            }
            LogRecord::Collect { slot, round, floor, purge } => {
                self.collect(*slot, *round, *floor, purge.iter());
            }
            LogRecord::Floor { slot, round, floor } => self.raise_mark(*slot, *round, *floor, 0),
            LogRecord::Adopt { slot, c, .. } => {
                self.raise_mark(*slot, Round::default(), Version::ZERO, *c);
            }
            LogRecord::HlcBound(bound) => self.hlc_max = self.hlc_max.max(*bound),
            LogRecord::OperationsDone { client, done_below } => {
                self.identities.done_below(*client, *done_below, usize::MAX);
            }
            LogRecord::Drop { slot, .. } => self.drop_slot(*slot),
            // Of a cluster with more members than one; the machine that issues them replays them.
            LogRecord::Promise { .. }
            | LogRecord::Control { .. }
            | LogRecord::Hint { .. }
            | LogRecord::HintDone { .. } => {}
        }
        Ok(())
    }

    /// Keeps the greater of a record and what is there: for replay and snapshots, which the gate does not concern.
    pub fn merge(&mut self, token: Token, record: &RecordRef<'_>) -> Result<(), TableFull> {
        self.merge_at(token, self.find(token, record.key), record)
    }

    fn merge_at(&mut self, token: Token, place: Place, record: &RecordRef<'_>) -> Result<(), TableFull> {
        match self.at(place) {
            Some(held) if !record.supersedes(&held) => {
                self.hlc_max = self.hlc_max.max(record.version.hlc);
                Ok(())
            }
            Some(_) | None => self.insert(token, place, record),
        }
    }
}

/// Which counters a record is counted in: (dead, expiring).
fn classify(record: &RecordRef<'_>) -> (bool, bool) {
    let dead = !matches!(record.body, Body::Value(_));
    (dead, !dead && record.expires_at_ms != 0)
}

impl ShardCounts {
    fn count(&mut self, (dead, expiring): (bool, bool), by: i64) {
        for (counter, counts) in
            [(&mut self.records, true), (&mut self.dead, dead), (&mut self.expiring, expiring)]
        {
            if counts {
                *counter =
                    counter.checked_add_signed(by).expect("a record is counted in before it is counted out");
            }
        }
    }
}
