//! What the log says: a closed list of record kinds and their bytes. Knows nothing of blocks, or of what a record does.
//!
//! The list belongs to the block's format number: a kind or flag that is not listed is an error, never skipped,
//! because a skipped record is a lost write. Integers are little-endian. A record is
//!
//! `length 4 | kind 1 | flags 1 | …`, the length counting what follows it, and then by kind:
//!
//! | kind | content |
//! |---|---|
//! | 1 put, 2 delete, 3 expired | key length 2, version 12, \[expiry 8\], \[label 12\], \[operation 44\], key, value (put: the rest) |
//! | 4 collect | slot 2, round 12, floor 12, purged records 4, each: key length 2, version 12, key |
//! | 5 floor | slot 2, round 12, floor 12 |
//! | 6 adopt | slot 2, c 8, epoch 8 |
//! | 7 drop | slot 2, epoch 8 |
//! | 8 promise | operation id 16, attempt 8, key |
//! | 9 HLC bound | HLC 8 |
//! | 10 control | sub-kind 1, bytes |
//! | 11 hint | member 4, then kind, flags and content of a put, delete or expired |
//! | 12 hint done | member 4, version 12, key |
//! | 13 operations done | client 8, lowest open request 8 |
//!
//! version = HLC 8, member 4; round = c 8, i 4; attempt = count 4, member 4; operation = id 16, attempt 8, payload
//! hash 8, replaced version 12. Flags: 1 expiry, 2 label, 4 operation, 8 (with 4) a live value was replaced.
//! There is one encoding of each record: what decodes encodes to the same bytes.

use crate::types::{Body, Hlc, MemberId, OperationId, RecordRef, SLOTS, Slot, Token, Version};
use alloc::vec::Vec;

/// A collection round of a slot; as a *label*, the proof that no round up to it covers a record (`PROTOCOL.md` §3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Round {
    /// The configuration of the slot under which the round ran.
    pub c: u64,
    /// Rises with each round of one configuration.
    pub i: u32,
}

/// Who may complete an identified operation: the greatest promised attempt (`PROTOCOL.md` §1, "Retries").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Attempt {
    /// 0 = the first coordinator's own.
    pub count: u32,
    /// The member that took over.
    pub member: MemberId,
}

/// What is remembered of an identified operation, logged with the record that it wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationEntry {
    /// The client's name for it.
    pub id: OperationId,
    /// The attempt that the record belongs to.
    pub attempt: Attempt,
    /// Tells a retry from another operation under the same ids.
    pub payload_hash: u64,
    /// The version that it replaced here; zero if there was none.
    pub replaced: Version,
    /// Was there a live value at that version?
    pub had_old: bool,
}

/// A record with what travels with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The record.
    pub record: RecordRef<'a>,
    /// Its label, if it came with one.
    pub label: Option<Round>,
    /// The operation that wrote it, if that has a name that is still remembered.
    pub operation: Option<OperationEntry>,
}

/// What a control record holds; the bytes are the cluster's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ControlKind {
    /// The content of a decided epoch.
    Epoch = 1,
    /// Promised and accepted ballots.
    Acceptor = 2,
}

/// One record of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogRecord<'a> {
    /// A record was applied.
    Record(Entry<'a>),
    /// A collection round became news: round and floor rise, the listed records go if they are still current.
    Collect {
        /// The slot.
        slot: Slot,
        /// Its round from here on.
        round: Round,
        /// Its floor from here on.
        floor: Version,
        /// Exactly what goes.
        purge: Purge<'a>,
    },
    /// Round and floor were taken over without a purge.
    Floor {
        /// The slot.
        slot: Slot,
        /// Its round from here on.
        round: Round,
        /// Its floor from here on.
        floor: Version,
    },
    /// A newer configuration of a slot was adopted.
    Adopt {
        /// The slot.
        slot: Slot,
        /// The last epoch that changed the slot.
        c: u64,
        /// The epoch that it was learnt from.
        epoch: u64,
    },
    /// A slot moved away: all of it goes.
    Drop {
        /// The slot.
        slot: Slot,
        /// The epoch that moved it.
        epoch: u64,
    },
    /// No attempt of this operation below this one is accepted any more.
    Promise {
        /// The operation.
        operation: OperationId,
        /// The attempt that was promised.
        attempt: Attempt,
        /// The key that it is about: finds the slot that it is pulled with.
        key: &'a [u8],
    },
    /// No version above it has left the core: for a bound that must rise while there is nothing else to log. The
    /// header of its batch says as much.
    HlcBound(Hlc),
    /// Core 0 only.
    Control {
        /// What the bytes are.
        kind: ControlKind,
        /// Opaque here.
        bytes: &'a [u8],
    },
    /// A record kept for an absent replica.
    Hint {
        /// The absent one.
        member: MemberId,
        /// What it missed.
        entry: Entry<'a>,
    },
    /// A hint was delivered or given up.
    HintDone {
        /// The once absent one.
        member: MemberId,
        /// The hint's version.
        version: Version,
        /// The hint's key.
        key: &'a [u8],
    },
    /// Entries of a client's operations below a number can go.
    OperationsDone {
        /// The client.
        client: u64,
        /// Its lowest open request.
        done_below: u64,
    },
}

/// The list of a [`LogRecord::Collect`], where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Purge<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Purge<'a> {
    /// Records listed.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Is nothing listed?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The listed keys and versions, in the order in which they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Version)> + use<'a> {
        let mut reader = Reader { rest: self.bytes };
        core::iter::from_fn(move || reader.purged())
    }
}

/// Builds the list of a [`LogRecord::Collect`].
#[derive(Clone, Debug, Default)]
pub struct PurgeList {
    count: u32,
    bytes: Vec<u8>,
}

impl PurgeList {
    /// Lists a record. The whole list must fit a batch: see [`PurgeList::bytes`].
    pub fn push(&mut self, key: &[u8], version: Version) {
        put_key_length(&mut self.bytes, key);
        put_version(&mut self.bytes, version);
        self.bytes.extend_from_slice(key);
        self.count += 1;
    }

    /// Bytes that the list takes in the log.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The list.
    pub fn as_purge(&self) -> Purge<'_> {
        Purge { count: self.count, bytes: &self.bytes }
    }
}

/// Why bytes are not a record. In a batch whose checksums hold, either means that another program wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Not on the list.
    #[error("log record of kind {0}, which this version does not know")]
    UnknownKind(u8),
    /// On the list, but its content is not as described.
    #[error("log record of kind {0} with content that is not of that kind")]
    Malformed(u8),
    /// A length that reaches beyond the batch, or too short for a kind.
    #[error("log record that does not end in its batch")]
    Unframed,
}

/// Bytes before each record's kind.
pub(super) const LENGTH_BYTES: usize = 4;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const EXPIRED: u8 = 3;
const COLLECT: u8 = 4;
const FLOOR: u8 = 5;
const ADOPT: u8 = 6;
const DROP: u8 = 7;
const PROMISE: u8 = 8;
const HLC_BOUND: u8 = 9;
const CONTROL: u8 = 10;
const HINT: u8 = 11;
const HINT_DONE: u8 = 12;
const OPERATIONS_DONE: u8 = 13;

const HAS_EXPIRY: u8 = 1;
const HAS_LABEL: u8 = 2;
const HAS_OPERATION: u8 = 4;
const HAD_OLD: u8 = 8;

impl<'a> LogRecord<'a> {
    /// The slot that it is about; None if it concerns the whole core.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            LogRecord::Record(entry) => Some(Token::of(entry.record.key).slot()),
            LogRecord::Hint { entry, .. } => Some(Token::of(entry.record.key).slot()),
            LogRecord::Promise { key, .. } | LogRecord::HintDone { key, .. } => Some(Token::of(key).slot()),
            LogRecord::Collect { slot, .. }
            | LogRecord::Floor { slot, .. }
            | LogRecord::Adopt { slot, .. }
            | LogRecord::Drop { slot, .. } => Some(*slot),
            LogRecord::HlcBound(_) | LogRecord::Control { .. } | LogRecord::OperationsDone { .. } => None,
        }
    }

    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        match *self {
            LogRecord::Record(entry) => put_entry(out, &entry),
            LogRecord::Collect { slot, round, floor, purge } => {
                put_floor(out, COLLECT, slot, round, floor);
                out.extend_from_slice(&purge.count.to_le_bytes());
                out.extend_from_slice(purge.bytes);
            }
            LogRecord::Floor { slot, round, floor } => put_floor(out, FLOOR, slot, round, floor),
            LogRecord::Adopt { slot, c, epoch } => {
                out.extend_from_slice(&[ADOPT, 0]);
                out.extend_from_slice(&slot.0.to_le_bytes());
                out.extend_from_slice(&c.to_le_bytes());
                out.extend_from_slice(&epoch.to_le_bytes());
            }
            LogRecord::Drop { slot, epoch } => {
                out.extend_from_slice(&[DROP, 0]);
                out.extend_from_slice(&slot.0.to_le_bytes());
                out.extend_from_slice(&epoch.to_le_bytes());
            }
            LogRecord::Promise { operation, attempt, key } => {
                out.extend_from_slice(&[PROMISE, 0]);
                put_operation_id(out, operation);
                put_attempt(out, attempt);
                out.extend_from_slice(key);
            }
            LogRecord::HlcBound(bound) => {
                out.extend_from_slice(&[HLC_BOUND, 0]);
                out.extend_from_slice(&bound.0.to_le_bytes());
            }
            LogRecord::Control { kind, bytes } => {
                out.extend_from_slice(&[CONTROL, 0, kind as u8]);
                out.extend_from_slice(bytes);
            }
            LogRecord::Hint { member, entry } => {
                out.extend_from_slice(&[HINT, 0]);
                out.extend_from_slice(&member.0.to_le_bytes());
                put_entry(out, &entry);
            }
            LogRecord::HintDone { member, version, key } => {
                out.extend_from_slice(&[HINT_DONE, 0]);
                out.extend_from_slice(&member.0.to_le_bytes());
                put_version(out, version);
                out.extend_from_slice(key);
            }
            LogRecord::OperationsDone { client, done_below } => {
                out.extend_from_slice(&[OPERATIONS_DONE, 0]);
                out.extend_from_slice(&client.to_le_bytes());
                out.extend_from_slice(&done_below.to_le_bytes());
            }
        }
        let length = u32::try_from(out.len() - start - LENGTH_BYTES).expect("a record is far below 4 GiB");
        out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads the record that `bytes` begin with, and tells how many bytes it took. Never panics on any bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<(LogRecord<'a>, usize), RecordError> {
        let (length, rest) = bytes.split_first_chunk().ok_or(RecordError::Unframed)?;
        let length = u32::from_le_bytes(*length) as usize;
        let content = rest.get(..length).ok_or(RecordError::Unframed)?;
        let &[kind, flags, ref rest @ ..] = content else {
            return Err(RecordError::Unframed);
        };
        let known = (PUT..=OPERATIONS_DONE).contains(&kind);
        let record = Reader { rest }.record(kind, flags).ok_or(if known {
            RecordError::Malformed(kind)
        } else {
            RecordError::UnknownKind(kind)
        })?;
        Ok((record, LENGTH_BYTES + length))
    }
}

/// The records of a payload, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records that `payload` consists of.
    pub fn new(payload: &'a [u8]) -> Records<'a> {
        Records { rest: payload }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<LogRecord<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let decoded = LogRecord::decode(self.rest);
        self.rest = decoded.map_or(&[], |(_, taken)| &self.rest[taken..]);
        Some(decoded.map(|(record, _)| record))
    }
}

/// Bytes of the framed record that `payload` has at `at`.
pub(super) fn framed_bytes(payload: &[u8], at: usize) -> usize {
    let length = payload[at..at + LENGTH_BYTES].try_into().expect("four bytes");
    LENGTH_BYTES + u32::from_le_bytes(length) as usize
}

fn put_key_length(out: &mut Vec<u8>, key: &[u8]) {
    let length = u16::try_from(key.len()).expect("a key is at most 4 096 bytes");
    assert!(length > 0, "a key has at least one byte");
    out.extend_from_slice(&length.to_le_bytes());
}

fn put_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.hlc.0.to_le_bytes());
    out.extend_from_slice(&version.member.0.to_le_bytes());
}

fn put_round(out: &mut Vec<u8>, round: Round) {
    out.extend_from_slice(&round.c.to_le_bytes());
    out.extend_from_slice(&round.i.to_le_bytes());
}

fn put_floor(out: &mut Vec<u8>, kind: u8, slot: Slot, round: Round, floor: Version) {
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&slot.0.to_le_bytes());
    put_round(out, round);
    put_version(out, floor);
}

fn put_operation_id(out: &mut Vec<u8>, id: OperationId) {
    out.extend_from_slice(&id.client.to_le_bytes());
    out.extend_from_slice(&id.request.to_le_bytes());
}

fn put_attempt(out: &mut Vec<u8>, attempt: Attempt) {
    out.extend_from_slice(&attempt.count.to_le_bytes());
    out.extend_from_slice(&attempt.member.0.to_le_bytes());
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let record = &entry.record;
    let (kind, value): (u8, &[u8]) = match record.body {
        Body::Value(value) => (PUT, value),
        Body::Tombstone => (DELETE, &[]),
        Body::Expired => (EXPIRED, &[]),
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(record.expires_at_ms != 0, HAS_EXPIRY)
        | flag(entry.label.is_some(), HAS_LABEL)
        | flag(entry.operation.is_some(), HAS_OPERATION)
        | flag(entry.operation.is_some_and(|operation| operation.had_old), HAD_OLD);
    out.extend_from_slice(&[kind, flags]);
    put_key_length(out, record.key);
    put_version(out, record.version);
    if record.expires_at_ms != 0 {
        out.extend_from_slice(&record.expires_at_ms.to_le_bytes());
    }
    if let Some(label) = entry.label {
        put_round(out, label);
    }
    if let Some(operation) = &entry.operation {
        put_operation_id(out, operation.id);
        put_attempt(out, operation.attempt);
        out.extend_from_slice(&operation.payload_hash.to_le_bytes());
        put_version(out, operation.replaced);
    }
    out.extend_from_slice(record.key);
    out.extend_from_slice(value);
}

/// Takes a record's content apart. None = not as described.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn record(mut self, kind: u8, flags: u8) -> Option<LogRecord<'a>> {
        if kind > EXPIRED && flags != 0 {
            return None;
        }
        let record = match kind {
            PUT | DELETE | EXPIRED => LogRecord::Record(self.entry(kind, flags)?),
            COLLECT => {
                let (slot, round, floor) = (self.slot()?, self.round()?, self.version()?);
                LogRecord::Collect { slot, round, floor, purge: self.purge()? }
            }
            FLOOR => LogRecord::Floor { slot: self.slot()?, round: self.round()?, floor: self.version()? },
            ADOPT => LogRecord::Adopt { slot: self.slot()?, c: self.u64()?, epoch: self.u64()? },
            DROP => LogRecord::Drop { slot: self.slot()?, epoch: self.u64()? },
            PROMISE => {
                let (operation, attempt) = (self.operation_id()?, self.attempt()?);
                LogRecord::Promise { operation, attempt, key: self.last_key()? }
            }
            HLC_BOUND => LogRecord::HlcBound(Hlc(self.u64()?)),
            CONTROL => {
                let kind = match self.bytes(1)? {
                    [1] => ControlKind::Epoch,
                    [2] => ControlKind::Acceptor,
                    _ => return None,
                };
                LogRecord::Control { kind, bytes: self.take_rest() }
            }
            HINT => {
                let member = self.member()?;
                let &[kind @ PUT..=EXPIRED, flags] = self.bytes(2)? else { return None };
                LogRecord::Hint { member, entry: self.entry(kind, flags)? }
            }
            HINT_DONE => {
                let (member, version) = (self.member()?, self.version()?);
                LogRecord::HintDone { member, version, key: self.last_key()? }
            }
            OPERATIONS_DONE => LogRecord::OperationsDone { client: self.u64()?, done_below: self.u64()? },
            _ => return None,
        };
        self.rest.is_empty().then_some(record)
    }

    fn entry(&mut self, kind: u8, flags: u8) -> Option<Entry<'a>> {
        if flags & !(HAS_EXPIRY | HAS_LABEL | HAS_OPERATION | HAD_OLD) != 0
            || flags & (HAS_OPERATION | HAD_OLD) == HAD_OLD
        {
            return None;
        }
        let key_length = self.key_length()?;
        let version = self.version()?;
        let expires_at_ms = if flags & HAS_EXPIRY == 0 { 0 } else { self.u64().filter(|&ms| ms != 0)? };
        let label = if flags & HAS_LABEL == 0 { None } else { Some(self.round()?) };
        let operation = if flags & HAS_OPERATION == 0 { None } else { Some(self.operation(flags)?) };
        let key = self.bytes(key_length)?;
        let body = match kind {
            PUT => Body::Value(self.take_rest()),
            DELETE => Body::Tombstone,
            _ => Body::Expired,
        };
        Some(Entry { record: RecordRef { key, version, expires_at_ms, body }, label, operation })
    }

    fn operation(&mut self, flags: u8) -> Option<OperationEntry> {
        Some(OperationEntry {
            id: self.operation_id()?,
            attempt: self.attempt()?,
            payload_hash: self.u64()?,
            replaced: self.version()?,
            had_old: flags & HAD_OLD != 0,
        })
    }

    fn purge(&mut self) -> Option<Purge<'a>> {
        let count = self.u32()?;
        let purge = Purge { count, bytes: self.rest };
        for _ in 0..count {
            self.purged()?;
        }
        Some(purge)
    }

    fn purged(&mut self) -> Option<(&'a [u8], Version)> {
        let (length, version) = (self.key_length()?, self.version()?);
        Some((self.bytes(length)?, version))
    }

    fn slot(&mut self) -> Option<Slot> {
        self.array().map(u16::from_le_bytes).filter(|&slot| usize::from(slot) < SLOTS).map(Slot)
    }

    fn round(&mut self) -> Option<Round> {
        Some(Round { c: self.u64()?, i: self.u32()? })
    }

    fn version(&mut self) -> Option<Version> {
        Some(Version::new(Hlc(self.u64()?), self.member()?))
    }

    fn attempt(&mut self) -> Option<Attempt> {
        Some(Attempt { count: self.u32()?, member: self.member()? })
    }

    fn operation_id(&mut self) -> Option<OperationId> {
        OperationId::new(self.u64()?, self.u64()?)
    }

    fn member(&mut self) -> Option<MemberId> {
        self.u32().map(MemberId)
    }

    fn key_length(&mut self) -> Option<usize> {
        self.array().map(u16::from_le_bytes).filter(|&length| length > 0).map(usize::from)
    }

    fn last_key(&mut self) -> Option<&'a [u8]> {
        Some(self.take_rest()).filter(|key| (1..=usize::from(u16::MAX)).contains(&key.len()))
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn take_rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::String};

    fn version(hlc: u64, member: u32) -> Version {
        Version::new(Hlc(hlc), MemberId(member))
    }

    fn operation() -> OperationEntry {
        OperationEntry {
            id: OperationId { client: 0x11, request: 0x22 },
            attempt: Attempt { count: 1, member: MemberId(2) },
            payload_hash: 0x33,
            replaced: version(0x44, 3),
            had_old: true,
        }
    }

    fn entry<'a>(key: &'a [u8], body: Body<'a>) -> Entry<'a> {
        let record = RecordRef { key, version: version(0x0A0B, 7), expires_at_ms: 0, body };
        Entry { record, label: None, operation: None }
    }

    fn hex(record: &LogRecord<'_>) -> String {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn bytes_of_each_kind_are_fixed() {
        const VERSION: &str = "0b0a00000000000007000000";
        const ROUND: &str = "050000000000000006000000";
        let (slot, round, floor) = (Slot(0x0102), Round { c: 5, i: 6 }, version(0x0A0B, 7));
        let mut full = entry(b"k", Body::Value(b"v"));
        (full.record.expires_at_ms, full.label, full.operation) = (0x99, Some(round), Some(operation()));
        let mut purge = PurgeList::default();
        purge.push(b"ab", floor);
        purge.push(b"c", version(1, 2));
        let id = operation().id;
        let ids = "11000000000000002200000000000000";
        let golden = [
            (
                LogRecord::Record(entry(b"k", Body::Value(b"v"))),
                format!("12000000 0100 0100 {VERSION} 6b 76"),
            ),
            (
                LogRecord::Record(full),
                format!(
                    "52000000 010f 0100 {VERSION} 9900000000000000 {ROUND} {ids} 0100000002000000 \
                     3300000000000000 440000000000000003000000 6b 76"
                ),
            ),
            (LogRecord::Record(entry(b"k", Body::Tombstone)), format!("11000000 0200 0100 {VERSION} 6b")),
            (LogRecord::Record(entry(b"k", Body::Expired)), format!("11000000 0300 0100 {VERSION} 6b")),
            (
                LogRecord::Collect { slot, round, floor, purge: purge.as_purge() },
                format!(
                    "3f000000 0400 0201 {ROUND} {VERSION} 02000000 0200 {VERSION} 6162 \
                     0100 010000000000000002000000 63"
                ),
            ),
            (LogRecord::Floor { slot, round, floor }, format!("1c000000 0500 0201 {ROUND} {VERSION}")),
            (
                LogRecord::Adopt { slot, c: 8, epoch: 9 },
                "14000000 0600 0201 0800000000000000 0900000000000000".into(),
            ),
            (LogRecord::Drop { slot, epoch: 9 }, "0c000000 0700 0201 0900000000000000".into()),
            (
                LogRecord::Promise { operation: id, attempt: operation().attempt, key: b"k" },
                format!("1b000000 0800 {ids} 0100000002000000 6b"),
            ),
            (LogRecord::HlcBound(Hlc(0x0A0B)), "0a000000 0900 0b0a000000000000".into()),
            (LogRecord::Control { kind: ControlKind::Epoch, bytes: b"e" }, "04000000 0a00 01 65".into()),
            (LogRecord::Control { kind: ControlKind::Acceptor, bytes: b"" }, "03000000 0a00 02".into()),
            (
                LogRecord::Hint { member: MemberId(4), entry: entry(b"k", Body::Value(b"")) },
                format!("17000000 0b00 04000000 0100 0100 {VERSION} 6b"),
            ),
            (
                LogRecord::HintDone { member: MemberId(4), version: floor, key: b"k" },
                format!("13000000 0c00 04000000 {VERSION} 6b"),
            ),
            (
                LogRecord::OperationsDone { client: 0x11, done_below: 0x22 },
                "12000000 0d00 1100000000000000 2200000000000000".into(),
            ),
        ];
        for (record, expected) in golden {
            assert_eq!(hex(&record), expected.replace(' ', ""), "{record:?}");
        }
    }

    #[test]
    fn purge_list_reads_back() {
        let mut list = PurgeList::default();
        list.push(b"a", version(1, 1));
        list.push(b"bc", version(2, 1));
        let listed: Vec<_> = list.as_purge().iter().collect();
        assert_eq!(listed, [(&b"a"[..], version(1, 1)), (&b"bc"[..], version(2, 1))]);
    }

    #[test]
    fn unknown_kind_is_an_error() {
        for kind in [0, 14, 255] {
            assert_eq!(LogRecord::decode(&[2, 0, 0, 0, kind, 0]), Err(RecordError::UnknownKind(kind)));
        }
        assert_eq!(LogRecord::decode(&[1, 0, 0, 0, 1]), Err(RecordError::Unframed));
        assert_eq!(LogRecord::decode(&[3, 0, 0, 0, 1, 0]), Err(RecordError::Unframed));
    }
}
