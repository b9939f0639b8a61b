//! The entries of a part: how each is written and read back. Borrows keys and values from where they lie.
//!
//! The table in the parent module describes the bytes.

use super::SlotState;
use crate::storage::lsn::Lsn;
use crate::storage::owner::Owner;
use crate::types::{Body, Hlc, MemberId, RecordRef, Slot, Version};
use bytes::{Buf, BufMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longer lengths are not believed, whatever their checksum says.
pub(super) const ENTRY_BYTES_MAX: usize = 64 << 20;
/// Bytes of an encoded trailer.
pub(super) const TRAILER_BYTES: usize = 25;

const HEADER: u8 = 1;
const SLOT_BEGIN: u8 = 2;
const SLOT_END: u8 = 3;
const VALUE: u8 = 4;
const TOMBSTONE: u8 = 5;
const EXPIRED: u8 = 6;
const TRAILER: u8 = 32;
const WITH_EXPIRY: u8 = 0x80;

/// Entries whose bytes the part only carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Of the core, not of a slot. Comes before the first slot.
    Core = 16,
    /// An operation that its client named.
    Identity = 17,
    /// A promise not to take a smaller attempt of an operation.
    Promise = 18,
    /// A record kept for an absent replica.
    Hint = 19,
}

/// One decoded entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry<'a> {
    Header(Header),
    SlotBegin(SlotState),
    SlotEnd { slot: Slot, records: u64, digest: u64 },
    Record(RecordRef<'a>),
    Carried(EntryKind, &'a [u8]),
    Trailer(Trailer),
}

/// What the file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) owner: Owner,
    pub(super) part: u8,
    pub(super) generation: u32,
    pub(super) start: Lsn,
    pub(super) hlc_bound: Hlc,
    pub(super) slots: u32,
}

/// The file's last words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trailer {
    pub(super) end: Lsn,
    pub(super) slots: u32,
    pub(super) records: u64,
    pub(super) blocks_crc: u32,
}

/// What lies at the front of some bytes.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Parsed<'a> {
    /// An entry, and how many bytes it takes.
    Entry(Entry<'a>, usize),
    /// The beginning of one.
    Partial,
    /// Nothing that a writer puts there.
    Nonsense,
}

/// A record's share of its slot's digest: the sum of these does not depend on the order of the records.
pub(super) fn record_digest(record: &RecordRef<'_>) -> u64 {
    let (tag, value) = tag_and_value(record);
    let seed = record.version.hlc.0 ^ u64::from(record.version.member.0).rotate_left(32);
    let seed = seed ^ record.expires_at_ms.rotate_left(16) ^ u64::from(tag).rotate_left(56);
    xxh3_64_with_seed(value, xxh3_64_with_seed(record.key, seed))
}

/// Everything of an encoded record but its key and value, which follow.
pub(super) fn put_record_head(record: &RecordRef<'_>, out: &mut impl BufMut) {
    let (tag, value) = tag_and_value(record);
    out.put_u8(tag);
    out.put_u16_le(u16::try_from(record.key.len()).expect("keys are far below 64 KiB"));
    if tag & !WITH_EXPIRY == VALUE {
        out.put_u32_le(u32::try_from(value.len()).expect("values are far below 4 GiB"));
    }
    put_version(record.version, out);
    if record.expires_at_ms != 0 {
        out.put_u64_le(record.expires_at_ms);
    }
}

/// Everything of a carried entry but its bytes, which follow.
pub(super) fn put_carried_head(kind: EntryKind, len: usize, out: &mut impl BufMut) {
    assert!(len <= ENTRY_BYTES_MAX, "the reader takes it for nonsense");
    out.put_u8(kind as u8);
    out.put_u32_le(len as u32);
}

impl Entry<'_> {
    /// Writes an entry of fixed size.
    pub(super) fn put(&self, out: &mut impl BufMut) {
        match self {
            Entry::Header(header) => {
                out.put_u8(HEADER);
                header.owner.encode(out);
                out.put_u8(header.part);
                out.put_u32_le(header.generation);
                out.put_u64_le(header.start.0);
                out.put_u64_le(header.hlc_bound.0);
                out.put_u32_le(header.slots);
            }
            Entry::SlotBegin(state) => {
                out.put_u8(SLOT_BEGIN);
                out.put_u16_le(state.slot.0);
                put_version(state.floor, out);
                out.put_u64_le(state.round.0);
                out.put_u32_le(state.round.1);
                out.put_u64_le(state.adopted);
                out.put_u64_le(state.epoch);
            }
            Entry::SlotEnd { slot, records, digest } => {
                out.put_u8(SLOT_END);
                out.put_u16_le(slot.0);
                out.put_u64_le(*records);
                out.put_u64_le(*digest);
            }
            Entry::Trailer(trailer) => {
                out.put_u8(TRAILER);
                out.put_u64_le(trailer.end.0);
                out.put_u32_le(trailer.slots);
                out.put_u64_le(trailer.records);
                out.put_u32_le(trailer.blocks_crc);
            }
            Entry::Record(_) | Entry::Carried(..) => {
                unreachable!("their bytes are written without being gathered first")
            }
        }
    }
}

/// Reads the entry at the front of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut rest = bytes;
    let Ok(tag) = rest.try_get_u8() else { return Parsed::Partial };
    let entry = match tag {
        HEADER => parse_header(&mut rest),
        SLOT_BEGIN => parse_slot_begin(&mut rest),
        SLOT_END => parse_slot_end(&mut rest),
        TRAILER => parse_trailer(&mut rest),
        _ => match (tag & !WITH_EXPIRY, carried_kind(tag)) {
            (VALUE | TOMBSTONE | EXPIRED, _) => return parse_record(tag, bytes, rest),
            (_, Some(kind)) => return parse_carried(kind, bytes, rest),
            _ => return Parsed::Nonsense,
        },
    };
    match entry {
        Some(entry) => Parsed::Entry(entry, bytes.len() - rest.len()),
        None => Parsed::Partial,
    }
}

fn parse_header(rest: &mut &[u8]) -> Option<Entry<'static>> {
    Some(Entry::Header(Header {
        owner: Owner::decode(rest)?,
        part: rest.try_get_u8().ok()?,
        generation: rest.try_get_u32_le().ok()?,
        start: Lsn(rest.try_get_u64_le().ok()?),
        hlc_bound: Hlc(rest.try_get_u64_le().ok()?),
        slots: rest.try_get_u32_le().ok()?,
    }))
}

fn parse_slot_begin(rest: &mut &[u8]) -> Option<Entry<'static>> {
    Some(Entry::SlotBegin(SlotState {
        slot: Slot(rest.try_get_u16_le().ok()?),
        floor: get_version(rest)?,
        round: (rest.try_get_u64_le().ok()?, rest.try_get_u32_le().ok()?),
        adopted: rest.try_get_u64_le().ok()?,
        epoch: rest.try_get_u64_le().ok()?,
    }))
}

fn parse_slot_end(rest: &mut &[u8]) -> Option<Entry<'static>> {
    Some(Entry::SlotEnd {
        slot: Slot(rest.try_get_u16_le().ok()?),
        records: rest.try_get_u64_le().ok()?,
        digest: rest.try_get_u64_le().ok()?,
    })
}

fn parse_trailer(rest: &mut &[u8]) -> Option<Entry<'static>> {
    Some(Entry::Trailer(Trailer {
        end: Lsn(rest.try_get_u64_le().ok()?),
        slots: rest.try_get_u32_le().ok()?,
        records: rest.try_get_u64_le().ok()?,
        blocks_crc: rest.try_get_u32_le().ok()?,
    }))
}

/// The lengths of a record, its version and its expiry.
fn get_record_head(tag: u8, rest: &mut &[u8]) -> Option<(usize, usize, Version, u64)> {
    let key_bytes = usize::from(rest.try_get_u16_le().ok()?);
    let has_value = tag & !WITH_EXPIRY == VALUE;
    let value_bytes = if has_value { rest.try_get_u32_le().ok()? as usize } else { 0 };
    let version = get_version(rest)?;
    let expires_at_ms = if tag & WITH_EXPIRY != 0 { rest.try_get_u64_le().ok()? } else { 0 };
    Some((key_bytes, value_bytes, version, expires_at_ms))
}

fn parse_record<'a>(tag: u8, bytes: &'a [u8], mut rest: &'a [u8]) -> Parsed<'a> {
    let Some((key_bytes, value_bytes, version, expires_at_ms)) = get_record_head(tag, &mut rest) else {
        return Parsed::Partial;
    };
    let has_expiry = tag & WITH_EXPIRY != 0;
    if key_bytes == 0 || value_bytes > ENTRY_BYTES_MAX || has_expiry != (expires_at_ms != 0) {
        return Parsed::Nonsense;
    }
    let Some((key, rest)) = rest.split_at_checked(key_bytes) else { return Parsed::Partial };
    let Some((value, rest)) = rest.split_at_checked(value_bytes) else { return Parsed::Partial };
    let body = match tag & !WITH_EXPIRY {
        VALUE => Body::Value(value),
        TOMBSTONE => Body::Tombstone,
        _ => Body::Expired,
    };
    let record = RecordRef { key, version, expires_at_ms, body };
    Parsed::Entry(Entry::Record(record), bytes.len() - rest.len())
}

fn parse_carried<'a>(kind: EntryKind, bytes: &'a [u8], mut rest: &'a [u8]) -> Parsed<'a> {
    let Ok(len) = rest.try_get_u32_le() else { return Parsed::Partial };
    if len as usize > ENTRY_BYTES_MAX {
        return Parsed::Nonsense;
    }
    match rest.split_at_checked(len as usize) {
        Some((carried, rest)) => Parsed::Entry(Entry::Carried(kind, carried), bytes.len() - rest.len()),
        None => Parsed::Partial,
    }
}

fn carried_kind(tag: u8) -> Option<EntryKind> {
    [EntryKind::Core, EntryKind::Identity, EntryKind::Promise, EntryKind::Hint]
        .into_iter()
        .find(|kind| *kind as u8 == tag)
}

fn tag_and_value<'a>(record: &RecordRef<'a>) -> (u8, &'a [u8]) {
    let (tag, value) = match record.body {
        Body::Value(value) => (VALUE, value),
        Body::Tombstone => (TOMBSTONE, &[][..]),
        Body::Expired => (EXPIRED, &[][..]),
    };
    (if record.expires_at_ms == 0 { tag } else { tag | WITH_EXPIRY }, value)
}

fn put_version(version: Version, out: &mut impl BufMut) {
    out.put_u64_le(version.hlc.0);
    out.put_u32_le(version.member.0);
}

fn get_version(rest: &mut &[u8]) -> Option<Version> {
    let hlc = Hlc(rest.try_get_u64_le().ok()?);
    Some(Version::new(hlc, MemberId(rest.try_get_u32_le().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use alloc::vec::Vec;

    fn encoded(record: &RecordRef<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        put_record_head(record, &mut out);
        out.put_slice(record.key);
        out.put_slice(tag_and_value(record).1);
        out
    }

    fn records() -> [RecordRef<'static>; 4] {
        let version = Version::new(Hlc(0x0102_0304_0506_0708), MemberId(9));
        let record = RecordRef { key: b"key", version, expires_at_ms: 0, body: Body::Value(b"value") };
        [
            record,
            RecordRef { expires_at_ms: 0x11, body: Body::Value(b""), ..record },
            RecordRef { body: Body::Tombstone, ..record },
            RecordRef { expires_at_ms: 0x12, body: Body::Expired, ..record },
        ]
    }

    #[test]
    fn every_prefix_of_an_entry_is_partial_and_the_whole_reads_back() {
        for record in records() {
            let bytes = encoded(&record);
            for len in 0..bytes.len() {
                assert_eq!(parse(&bytes[..len]), Parsed::Partial, "{record:?} cut at {len}");
            }
            assert_eq!(parse(&bytes), Parsed::Entry(Entry::Record(record), bytes.len()));
        }
    }

    #[test]
    fn record_entries_have_not_drifted() {
        let golden: [&[u8]; 4] = [
            b"\x04\x03\0\x05\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0keyvalue",
            b"\x84\x03\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\x11\0\0\0\0\0\0\0key",
            b"\x05\x03\0\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0key",
            b"\x86\x03\0\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\x12\0\0\0\0\0\0\0key",
        ];
        for (record, golden) in records().iter().zip(golden) {
            assert_eq!(encoded(record), golden);
        }
    }

    #[test]
    fn trailer_has_its_fixed_length() {
        let mut out = Vec::new();
        let trailer = Trailer { end: Lsn(1), slots: 2, records: 3, blocks_crc: 4 };
        Entry::Trailer(trailer).put(&mut out);
        assert_eq!(out.len(), TRAILER_BYTES);
        assert_eq!(parse(&out), Parsed::Entry(Entry::Trailer(trailer), TRAILER_BYTES));
    }

    #[test]
    fn digest_tells_every_field_apart() {
        let record = records()[0];
        let others = [
            RecordRef { key: b"kez", ..record },
            RecordRef { version: Version::new(Hlc(1), MemberId(9)), ..record },
            RecordRef { version: Version::new(record.version.hlc, MemberId(8)), ..record },
            RecordRef { expires_at_ms: 1, ..record },
            RecordRef { body: Body::Value(b"valuf"), ..record },
            RecordRef { body: Body::Tombstone, ..record },
        ];
        assert!(others.iter().all(|other| record_digest(other) != record_digest(&record)));
    }

    #[test]
    fn any_bytes_are_parsed_without_panic() {
        let mut prng = Prng::new(11);
        for round in 0..50_000 {
            let mut bytes = encoded(&records()[round % 4]);
            for _ in 0..prng.below(4) {
                let at = prng.below(bytes.len() as u64) as usize;
                bytes[at] = prng.next_u64() as u8;
            }
            bytes.truncate(prng.below(bytes.len() as u64 + 1) as usize);
            if let Parsed::Entry(_, used) = parse(&bytes) {
                assert!(used <= bytes.len());
            }
        }
    }
}
