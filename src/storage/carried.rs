//! What a snapshot part carries besides records: named operations and, on core 0, the cluster's control records. One
//! encoding, described here; parts see bytes.
//!
//! An entry's first byte is its kind. 1, a named operation: client 8, request 8, slot 2, version 8 + 4, payload hash 8,
//! replaced version 8 + 4, flags 1 (1: a live value was replaced, 2: it is kept), value to the end. 2, a record as the log
//! has it. All numbers little-endian.

use super::identity::Entry;
use super::log_record::LogRecord;
use crate::types::{Hlc, MemberId, OperationId, Slot, Version};
use alloc::vec::Vec;
use bytes::{Buf, BufMut, Bytes};

const NAMED: u8 = 1;
const RECORD: u8 = 2;
const HAD_OLD: u8 = 1;
const OLD_KEPT: u8 = 2;

/// One carried entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Carried<'a> {
    /// An operation that its client named.
    Named(OperationId, Entry),
    /// A record of the log that belongs to no key: core 0's control records.
    Record(LogRecord<'a>),
}

impl<'a> Carried<'a> {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Carried::Named(id, entry) => {
                out.put_u8(NAMED);
                out.put_u64_le(id.client);
                out.put_u64_le(id.request);
                out.put_u16_le(entry.slot.0);
                put_version(out, entry.version);
                out.put_u64_le(entry.payload_hash);
                put_version(out, entry.replaced);
                let kept = entry.old.as_ref().map_or(0, |_| OLD_KEPT);
                out.put_u8(kept | if entry.had_old { HAD_OLD } else { 0 });
                out.put_slice(entry.old.as_deref().unwrap_or_default());
            }
            Carried::Record(record) => {
                out.put_u8(RECORD);
                record.encode(out);
            }
        }
    }

    /// Reads what [`Carried::encode`] wrote; None for anything else.
    pub fn decode(mut bytes: &'a [u8]) -> Option<Carried<'a>> {
        match bytes.try_get_u8().ok()? {
            NAMED => {
                let (client, request) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
                let slot = Slot(bytes.try_get_u16_le().ok()?);
                let version = get_version(&mut bytes)?;
                let payload_hash = bytes.try_get_u64_le().ok()?;
                let replaced = get_version(&mut bytes)?;
                let flags = bytes.try_get_u8().ok()?;
                let old = (flags & OLD_KEPT != 0).then(|| Bytes::copy_from_slice(bytes));
                let had_old = flags & HAD_OLD != 0;
                let entry = Entry { slot, version, payload_hash, replaced, had_old, old };
                Some(Carried::Named(OperationId::new(client, request)?, entry))
            }
            RECORD => LogRecord::decode(bytes).ok().map(|(record, _)| Carried::Record(record)),
            _ => None,
        }
    }
}

fn put_version(out: &mut Vec<u8>, version: Version) {
    out.put_u64_le(version.hlc.0);
    out.put_u32_le(version.member.0);
}

fn get_version(bytes: &mut &[u8]) -> Option<Version> {
    let hlc = Hlc(bytes.try_get_u64_le().ok()?);
    Some(Version::new(hlc, MemberId(bytes.try_get_u32_le().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::log_record::ControlKind;
    use crate::types::prng::Prng;

    fn named(old: Option<&'static [u8]>, had_old: bool) -> Carried<'static> {
        let entry = Entry {
            slot: Slot(16_383),
            version: Version::new(Hlc(77), MemberId(1)),
            payload_hash: u64::MAX - 1,
            replaced: Version::new(Hlc(5), MemberId(2)),
            had_old,
            old: old.map(Bytes::from_static),
        };
        Carried::Named(OperationId { client: 8, request: 9 }, entry)
    }

    #[test]
    fn every_entry_survives_its_encoding() {
        let empty_value = named(Some(b""), true);
        for entry in [named(None, false), named(None, true), named(Some(b"old"), true), empty_value] {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            assert_eq!(Carried::decode(&bytes), Some(entry));
        }
        let control = Carried::Record(LogRecord::Control { kind: ControlKind::Epoch, bytes: b"content" });
        let mut bytes = Vec::new();
        control.encode(&mut bytes);
        assert_eq!(Carried::decode(&bytes), Some(control));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut prng = Prng::new(11);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..prng.below(60)).map(|_| prng.next_u64() as u8 & 3).collect();
            Carried::decode(&bytes);
        }
    }
}
