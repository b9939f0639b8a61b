//! One core's share of a page of a scan.

use crate::storage::shard::Shard;
use crate::types::request::{Page, ReadAnswer, ScanRange, ScannedRecord};
use crate::types::{Body, Hlc, RecordRef, Token};
use bytes::Bytes;
use core::ops::ControlFlow;

/// Records looked at for one page at most: about 1 ms, so that a scan with a rare prefix does not hold up the core.
const EXAMINED_MAX: u64 = 8_192;
/// Bytes that a record takes beside its key and value in an answer.
const RECORD_OVERHEAD: usize = 48;

/// Gathers a page, as a reader at the clock reading `at` sees it; and the latest end that it tells of, by a record or by
/// its absence.
pub fn page(shard: &Shard, range: &ScanRange, at: Hlc) -> (Page, u64) {
    let mut page = Page::default();
    let (mut bytes, mut ended) = (0, 0);
    let mut last = None;
    let from = (range.first, range.after_key.as_deref());
    let walked = shard.table().walk(from, range.last, |token, record| {
        let matches = record.key.starts_with(&range.prefix) && (range.dead || !record.is_dead(at));
        if matches {
            let scanned = scanned(token, &record, range.omit_values, at);
            let size = scanned.key.len() + scanned.answer.value.len() + RECORD_OVERHEAD;
            if !page.records.is_empty() && bytes + size > range.bytes_max {
                return ControlFlow::Break(());
            }
            bytes += size;
            page.records.push(scanned);
        }
        ended = ended.max(ended_ms(&record, at));
        page.examined += 1;
        last = Some((token, record.key));
        if page.records.len() >= range.records_max || page.examined >= EXAMINED_MAX {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    page.covered = match walked {
        ControlFlow::Break(()) => last.map(|(token, key)| (token, Bytes::copy_from_slice(key))),
        ControlFlow::Continue(()) => None,
    };
    (page, ended)
}

fn scanned(token: Token, record: &RecordRef<'_>, omit_value: bool, at: Hlc) -> ScannedRecord {
    ScannedRecord {
        token,
        key: Bytes::copy_from_slice(record.key),
        answer: read_answer(Some(*record), if omit_value { 0 } else { usize::MAX }, at),
    }
}

/// The end of a record that has ended at the clock reading `at`, milliseconds since 1970; 0 = it was deleted, or lives.
pub fn ended_ms(record: &RecordRef<'_>, at: Hlc) -> u64 {
    if record.is_expired(at) { record.expires_at_ms } else { 0 }
}

/// What a reader at the clock reading `at` is told of a record: its value too, if it is no longer than `value_bytes_max`.
pub fn read_answer(record: Option<RecordRef<'_>>, value_bytes_max: usize, at: Hlc) -> ReadAnswer {
    let Some(record) = record else { return ReadAnswer::default() };
    let live = record.live_value(at);
    ReadAnswer {
        version: record.version,
        exists: live.is_some(),
        value: match live {
            Some(bytes) if bytes.len() <= value_bytes_max => Bytes::copy_from_slice(bytes),
            Some(_) | None => Bytes::new(),
        },
        value_bytes: live.map_or(0, |bytes| bytes.len() as u32),
        expires_at_ms: if matches!(record.body, Body::Tombstone) { 0 } else { record.expires_at_ms },
    }
}
