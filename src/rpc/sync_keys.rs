//! The seed's SyncKeys: which of this node's records are newer than what the caller has? Changes nothing.

use super::backend::Backend;
use super::call::{Call, Refusal, yield_now};
use super::codec::Cap;
use super::proto::seed;
use super::seed::text;
use super::{kv, scan};
use crate::types::request::{Level, Operation, ReadAnswer, ScanRange, ScannedRecord};
use crate::types::{CoreId, Failure, Reason, Token};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// Entries of `key_timestamps`.
const KEYS_MAX: usize = 10_000;
/// Entries of `key_ranges`.
const RANGES_MAX: usize = 16;
/// Keys and values of one answer.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Reads in flight: their answers may be a value of the longest each.
const OUTSTANDING_MAX: usize = 16;
/// Records asked of a core at a time.
const PAGE_RECORDS: usize = 256;

/// The maps' entries are counted before they are decoded.
pub(crate) const CAPS: [Cap; 2] =
    [Cap { path: &[1], elements_max: KEYS_MAX }, Cap { path: &[2], elements_max: RANGES_MAX }];

pub(crate) async fn sync_keys<B: Backend>(
    call: &Call<B>,
    request: seed::SyncRequest,
) -> Result<seed::SyncResponse, Refusal> {
    let mut news = News::default();
    let _room = call.room(ANSWER_BYTES_MAX).await?;
    let result = match listed(call, &request, &mut news).await {
        Ok(()) if !request.key_ranges.is_empty() => ranges(call, &request, &mut news).await,
        other => other,
    };
    match result {
        Ok(()) => Ok(news.response),
        // Cut by the deadline as it might have been by size; but an empty answer would say that nothing differs.
        Err(failure) if is_deadline(&failure) && news.bytes > 0 => Ok(news.response),
        Err(failure) => Err(failure.into()),
    }
}

/// What the caller lacks, gathered until it is enough for one answer.
#[derive(Default)]
struct News {
    response: seed::SyncResponse,
    bytes: usize,
}

impl News {
    fn is_full(&self) -> bool {
        self.bytes >= ANSWER_BYTES_MAX
    }

    /// Adds a record if it is newer than the caller's and can be said in text. False: no room left.
    fn add(&mut self, key: &str, answer: ReadAnswer, callers: u64) -> bool {
        let timestamp = answer.version.hlc.0;
        if timestamp <= callers {
            return true;
        }
        let bytes = key.len() * 2 + answer.value.len() + 16;
        if self.bytes > 0 && self.bytes + bytes > ANSWER_BYTES_MAX {
            self.bytes = ANSWER_BYTES_MAX;
            return false;
        }
        if !answer.exists {
            self.response.deletions.insert(key.to_owned(), timestamp);
        } else if let Some(value) = text(answer.value) {
            let record = seed::KeyValue { key: key.to_owned(), value, timestamp };
            self.response.missing.insert(key.to_owned(), record);
        } else {
            return true;
        }
        self.bytes += bytes;
        true
    }
}

/// The keys that the caller names, in their order, so that a cut answer is the same each time.
async fn listed<B: Backend>(
    call: &Call<B>,
    request: &seed::SyncRequest,
    news: &mut News,
) -> Result<(), Failure> {
    let mut keys: Vec<(&String, u64)> =
        request.key_timestamps.iter().map(|(key, &timestamp)| (key, timestamp)).collect();
    keys.sort_unstable();
    let mut keys = keys.into_iter();
    let mut waiting = VecDeque::new();
    loop {
        while waiting.len() < OUTSTANDING_MAX && !keys.as_slice().is_empty() {
            let room = match call.room(call.limits().value_bytes_max).await {
                Ok(room) => room,
                Err(failure) if waiting.is_empty() => return Err(failure),
                Err(_) => break, // what is under way gives some back
            };
            let (key, callers) = keys.next().expect("some are left");
            let operation = Operation::Read { key: Bytes::copy_from_slice(key.as_bytes()), value: true };
            waiting.push_back((key, callers, call.submit(operation, Level::One, usize::MAX), room));
        }
        let Some((key, callers, reply, _room)) = waiting.pop_front() else {
            return Ok(());
        };
        match kv::read(reply.await) {
            Ok(answer) => {
                if !news.add(key, answer, callers) {
                    return Ok(());
                }
            }
            // A key that no store can hold differs nowhere.
            Err(failure) if matches!(failure.reason, Reason::KeyEmpty | Reason::KeyTooLong) => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Every key of the ranges that the caller does not name: records lie in token order, so each core looks at all that
/// share the range's prefix.
async fn ranges<B: Backend>(
    call: &Call<B>,
    request: &seed::SyncRequest,
    news: &mut News,
) -> Result<(), Failure> {
    let mut ranges: Vec<(&String, &String)> = request.key_ranges.iter().collect();
    ranges.sort_unstable();
    for (first, end) in ranges {
        let prefix = Bytes::copy_from_slice(common_prefix(first.as_bytes(), end.as_bytes()));
        for core in 0..call.server.backend.cores() {
            range_of_core(call, request, CoreId(core), (first, end), &prefix, news).await?;
            if news.is_full() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn range_of_core<B: Backend>(
    call: &Call<B>,
    request: &seed::SyncRequest,
    core: CoreId,
    (first, end): (&str, &str),
    prefix: &Bytes,
    news: &mut News,
) -> Result<(), Failure> {
    let named: &HashMap<String, u64> = &request.key_timestamps;
    let mut range = ScanRange {
        first: Token(0),
        last: Token(u64::MAX),
        after_key: None,
        prefix: prefix.clone(),
        records_max: PAGE_RECORDS,
        bytes_max: scan::BYTES_DEFAULT,
        omit_values: false,
        dead: true,
    };
    loop {
        let operation = Operation::Scan(range.clone());
        let _room = call.room(range.bytes_max).await?;
        let page = scan::page(call.submit_to(core, operation, Level::One).await)?;
        for ScannedRecord { key, answer, .. } in page.records {
            let inside = &key[..] >= first.as_bytes() && (end.is_empty() || &key[..] < end.as_bytes());
            if let Ok(key) = std::str::from_utf8(&key)
                && inside
                && !named.contains_key(key)
                && !news.add(key, answer, 0)
            {
                return Ok(());
            }
        }
        let Some((token, key)) = page.covered else {
            return Ok(());
        };
        (range.first, range.after_key) = (token, Some(key));
        yield_now().await;
    }
}

/// What every key from `first` to `end` begins with; an empty `end` is no bound.
fn common_prefix<'a>(first: &'a [u8], end: &[u8]) -> &'a [u8] {
    let length = first.iter().zip(end).take_while(|(a, b)| a == b).count();
    &first[..length]
}

fn is_deadline(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::DeadlinePast | Reason::NoQuorumInTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_shared_by_all_keys_between() {
        assert_eq!(common_prefix(b"user:1", b"user:9"), b"user:");
        assert_eq!(common_prefix(b"a", b""), b"");
        assert_eq!(common_prefix(b"a", b"ab"), b"a");
        assert_eq!(common_prefix(b"", b"z"), b"");
    }
}
