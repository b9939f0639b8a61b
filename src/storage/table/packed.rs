//! A record's bytes in memory. Knows nothing of where they lie.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 1 | flags: bit 7 always set, bit 0 has an expiry, bits 1-2 body: 0 value, 1 tombstone, 2 expired |
//! | 1 | 2 | key length |
//! | 3 | 3 | value length |
//! | 6 | 4 | member |
//! | 10 | 8 | hlc |
//! | 18 | 8 | expiry, only if flagged |
//! | | | key, value |
//!
//! Little-endian; never leaves the process. The first byte is never zero, which is how a chunk tells it from a free cell.

use crate::types::{Body, Hlc, MemberId, RecordRef, Version};

/// Bytes before the key of a record that never expires.
const HEADER_BYTES: usize = 18;

const KEY_BYTES_MAX: usize = (1 << 16) - 1;
const VALUE_BYTES_MAX: usize = (1 << 24) - 1;

const PRESENT: u8 = 1 << 7;
const HAS_EXPIRY: u8 = 1;
const BODY: u8 = 0b110;
const TOMBSTONE: u8 = 0b010;
const EXPIRED: u8 = 0b100;

/// Bytes that [`write`] needs.
pub(super) fn bytes_of(record: &RecordRef<'_>) -> usize {
    key_at(flags_of(record)) + record.key.len() + value_of(record).len()
}

/// Writes a record to the beginning of `cell`.
pub(super) fn write(record: &RecordRef<'_>, cell: &mut [u8]) {
    let (key, value, flags) = (record.key, value_of(record), flags_of(record));
    assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX, "limits are checked before");
    cell[0] = flags;
    cell[1..3].copy_from_slice(&(key.len() as u16).to_le_bytes());
    cell[3..6].copy_from_slice(&(value.len() as u32).to_le_bytes()[..3]);
    cell[6..10].copy_from_slice(&record.version.member.0.to_le_bytes());
    cell[10..18].copy_from_slice(&record.version.hlc.0.to_le_bytes());
    if flags & HAS_EXPIRY != 0 {
        cell[18..26].copy_from_slice(&record.expires_at_ms.to_le_bytes());
    }
    let value_at = key_at(flags) + key.len();
    cell[key_at(flags)..value_at].copy_from_slice(key);
    cell[value_at..value_at + value.len()].copy_from_slice(value);
}

/// The record at the beginning of `cell`.
pub(super) fn read(cell: &[u8]) -> RecordRef<'_> {
    let flags = cell[0];
    debug_assert!(flags & PRESENT != 0, "a free cell is named by nothing");
    let value_at = key_at(flags) + key_bytes(cell);
    let value_bytes = u32::from_le_bytes([cell[3], cell[4], cell[5], 0]) as usize;
    let body = match flags & BODY {
        TOMBSTONE => Body::Tombstone,
        EXPIRED => Body::Expired,
        _ => Body::Value(&cell[value_at..value_at + value_bytes]),
    };
    RecordRef {
        key: key(cell),
        version: Version::new(Hlc(u64_at(cell, 10)), MemberId(u32_at(cell, 6))),
        expires_at_ms: if flags & HAS_EXPIRY == 0 { 0 } else { u64_at(cell, 18) },
        body,
    }
}

/// The key of the record at the beginning of `cell`.
pub(super) fn key(cell: &[u8]) -> &[u8] {
    &cell[key_at(cell[0])..][..key_bytes(cell)]
}

fn value_of<'a>(record: &RecordRef<'a>) -> &'a [u8] {
    match record.body {
        Body::Value(value) => value,
        Body::Tombstone | Body::Expired => &[],
    }
}

fn flags_of(record: &RecordRef<'_>) -> u8 {
    let body = match record.body {
        Body::Value(_) => 0,
        Body::Tombstone => TOMBSTONE,
        Body::Expired => EXPIRED,
    };
    PRESENT | body | if record.expires_at_ms == 0 { 0 } else { HAS_EXPIRY }
}

fn key_at(flags: u8) -> usize {
    HEADER_BYTES + 8 * usize::from(flags & HAS_EXPIRY)
}

fn key_bytes(cell: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([cell[1], cell[2]]))
}

fn u32_at(cell: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*cell[at..].first_chunk().expect("a cell holds a whole header"))
}

fn u64_at(cell: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*cell[at..].first_chunk().expect("a cell holds a whole header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn what_is_written_is_read() {
        let version = Version::new(Hlc(u64::MAX - 1), MemberId(u32::MAX - 2));
        let value = vec![7; VALUE_BYTES_MAX];
        let key = vec![b'k'; KEY_BYTES_MAX];
        for body in [Body::Value(b""), Body::Value(&value), Body::Tombstone, Body::Expired] {
            for expires_at_ms in [0, 1, u64::MAX] {
                for key in [&key[..1], &key] {
                    let record = RecordRef { key, version, expires_at_ms, body };
                    let mut cell = vec![0xAA; bytes_of(&record) + 3];
                    write(&record, &mut cell);
                    assert_eq!(read(&cell), record);
                    assert_ne!(cell[0], 0);
                    assert_eq!(cell[cell.len() - 3..], [0xAA; 3]);
                }
            }
        }
    }

    #[test]
    fn header_costs_18_bytes_and_an_expiry_8_more() {
        let mut record =
            RecordRef { key: b"k", version: Version::ZERO, expires_at_ms: 0, body: Body::Value(b"v") };
        assert_eq!(bytes_of(&record), 20);
        record.expires_at_ms = 1;
        assert_eq!(bytes_of(&record), 28);
    }
}
