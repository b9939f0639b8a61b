//! `ringcore.v1.KV.Scan`: one page out of the pages of all cores, and the cursor that names where it ended.

use super::backend::Backend;
use super::call::{Call, Refusal, level};
use super::proto::v1;
use crate::types::request::{Answer, Operation, Page, Reply, ScanRange, ScannedRecord};
use crate::types::{CoreId, Failure, Reason, Token};
use bytes::{Buf, BufMut, Bytes};

/// Of a page whose request does not say.
const RECORDS_DEFAULT: u32 = 1_000;
const RECORDS_MAX: u32 = 10_000;
/// Keys and values of a page whose request does not say.
pub(crate) const BYTES_DEFAULT: usize = 1 << 20;
const BYTES_MAX: usize = 3 << 20;

pub(crate) async fn scan<B: Backend>(
    call: &Call<B>,
    request: v1::ScanRequest,
) -> Result<v1::ScanResponse, Refusal> {
    let level = level(request.level)?;
    let records_max = or_default(request.records_max, RECORDS_DEFAULT).min(RECORDS_MAX) as usize;
    let bytes_max = match request.bytes_max {
        0 => BYTES_DEFAULT,
        bytes => (bytes as usize).min(BYTES_MAX),
    };
    let last = Token(request.token_last.unwrap_or(u64::MAX));
    let mut first = Token(request.token_first.unwrap_or(0));
    let mut after_key = None;
    if !request.cursor.is_empty() {
        let place = decode_cursor(request.cursor).ok_or(Failure::not_applied(Reason::CursorInvalid))?;
        // A cursor in front of the range is one of a wider scan: it begins where the range does.
        if place.0 >= first {
            (first, after_key) = (place.0, Some(place.1));
        }
    }
    if first > last {
        return Ok(v1::ScanResponse { ring: call.view.ring, ..Default::default() });
    }
    // Slots alternate between the cores, so of the next records each core has about its share.
    let cores = call.server.backend.cores();
    let range = ScanRange {
        first,
        last,
        after_key,
        prefix: request.prefix,
        records_max: records_max.div_ceil(usize::from(cores)),
        bytes_max: bytes_max.div_ceil(usize::from(cores)),
        omit_values: request.omit_values,
        dead: false,
    };
    // Each core returns one record at least, so with the longest of them the pages may be longer than that.
    let _room = call.room(bytes_max).await?;
    let replies: Vec<B::Reply> =
        (0..cores).map(|core| call.submit_to(CoreId(core), Operation::Scan(range.clone()), level)).collect();
    let mut pages = Vec::with_capacity(replies.len());
    for reply in replies {
        pages.push(page(reply.await)?);
    }
    let examined = pages.iter().map(|page| page.examined).sum();
    let (records, covered) = merge(pages, records_max, bytes_max);
    Ok(v1::ScanResponse {
        records: records.into_iter().map(record).collect(),
        cursor: covered.map_or_else(Vec::new, |(token, key)| encode_cursor(token, &key)),
        examined,
        ring: call.view.ring,
    })
}

/// What a scan was answered.
pub(crate) fn page(reply: Reply) -> Result<Page, Failure> {
    match reply? {
        Answer::Page(page) => Ok(page),
        other => panic!("a scan was answered {other:?}"),
    }
}

type Place = (Token, Bytes);

/// The records of all pages up to where every core has looked, cut at the page's size; and where that is.
fn merge(pages: Vec<Page>, records_max: usize, bytes_max: usize) -> (Vec<ScannedRecord>, Option<Place>) {
    let horizon = pages.iter().filter_map(|page| page.covered.clone()).min();
    let mut records: Vec<ScannedRecord> = pages
        .into_iter()
        .flat_map(|page| page.records)
        .filter(|record| {
            horizon.as_ref().is_none_or(|(token, key)| (record.token, &record.key) <= (*token, key))
        })
        .collect();
    records.sort_by(|a, b| (a.token, &a.key).cmp(&(b.token, &b.key)));
    let mut bytes = 0;
    let fitting = records
        .iter()
        .take(records_max)
        .take_while(|record| {
            bytes += record.key.len() + record.answer.value.len();
            bytes <= bytes_max
        })
        .count()
        .max(1);
    if fitting >= records.len() {
        return (records, horizon);
    }
    records.truncate(fitting);
    let covered = records.last().map(|record| (record.token, record.key.clone()));
    (records, covered)
}

fn record(scanned: ScannedRecord) -> v1::Record {
    let ScannedRecord { key, answer, .. } = scanned;
    v1::Record {
        key: key.into(),
        value: answer.value.into(),
        timestamp: answer.version.hlc.0,
        member: answer.version.member.0,
        expires_at_ms: answer.expires_at_ms,
        value_bytes: answer.value_bytes,
    }
}

/// Layout of a cursor, for ever: format 1, token u64 little-endian, key, crc32c of all before it.
const CURSOR_FORMAT: u8 = 1;
const CURSOR_BYTES_MIN: usize = 1 + 8 + 4;

fn encode_cursor(token: Token, key: &[u8]) -> Vec<u8> {
    let mut cursor = Vec::with_capacity(CURSOR_BYTES_MIN + key.len());
    cursor.put_u8(CURSOR_FORMAT);
    cursor.put_u64_le(token.0);
    cursor.put_slice(key);
    cursor.put_u32_le(crc32c::crc32c(&cursor));
    cursor
}

/// None if this is nothing that a scan returned.
fn decode_cursor(mut cursor: Bytes) -> Option<Place> {
    if cursor.len() < CURSOR_BYTES_MIN {
        return None;
    }
    let mut checksum = cursor.split_off(cursor.len() - 4);
    if checksum.get_u32_le() != crc32c::crc32c(&cursor) || cursor.get_u8() != CURSOR_FORMAT {
        return None;
    }
    let token = Token(cursor.get_u64_le());
    Some((token, cursor))
}

fn or_default(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use crate::types::request::ReadAnswer;

    fn scanned(token: u64) -> ScannedRecord {
        let key = Bytes::from(format!("k{token:03}"));
        ScannedRecord { token: Token(token), key, answer: ReadAnswer::default() }
    }

    /// The records of one core from a place on: `of` says which tokens are its own.
    fn core_page(all: &[u64], of: impl Fn(u64) -> bool, after: Option<u64>, records_max: usize) -> Page {
        let mut rest = all.iter().copied().filter(|&t| of(t) && after.is_none_or(|after| t > after));
        let records: Vec<_> = rest.by_ref().take(records_max).map(scanned).collect();
        let covered =
            rest.next().and(records.last()).map(|record: &ScannedRecord| (record.token, record.key.clone()));
        Page { examined: records.len() as u64, records, covered }
    }

    #[test]
    fn pages_of_all_cores_give_every_record_once_and_in_order() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let cores = prng.between(1, 5);
            let all: Vec<u64> = (0..prng.below(60)).filter(|_| prng.chance(700)).collect();
            let owner: Vec<u64> = (0..60).map(|_| prng.below(cores)).collect();
            let (records_max, mut after, mut seen) = (prng.between(1, 9) as usize, None, Vec::new());
            loop {
                let share = records_max.div_ceil(cores as usize);
                let pages = (0..cores)
                    .map(|core| core_page(&all, |t| owner[t as usize] == core, after, share))
                    .collect();
                let (records, covered) = merge(pages, records_max, 1 << 20);
                assert!(records.len() <= records_max, "seed {seed}");
                seen.extend(records.iter().map(|record| record.token.0));
                let Some((token, _)) = covered else { break };
                assert!(after.is_none_or(|after| token.0 > after), "seed {seed}: no progress");
                after = Some(token.0);
            }
            assert_eq!(seen, all, "seed {seed}");
        }
    }

    #[test]
    fn page_holds_one_record_however_large() {
        let pages = vec![Page { records: vec![scanned(1), scanned(2)], covered: None, examined: 2 }];
        let (records, covered) = merge(pages, 10, 0);
        assert_eq!((records.len(), covered.map(|place| place.0)), (1, Some(Token(1))));
    }

    #[test]
    fn cursor_comes_back_as_it_was_and_no_other_does() {
        let cursor = encode_cursor(Token(77), b"key");
        assert_eq!(decode_cursor(Bytes::from(cursor.clone())), Some((Token(77), Bytes::from_static(b"key"))));
        for bit in 0..cursor.len() * 8 {
            let mut damaged = cursor.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_cursor(damaged.into()), None, "bit {bit}");
        }
        for length in 0..cursor.len() {
            assert_eq!(decode_cursor(Bytes::copy_from_slice(&cursor[..length])), None);
        }
    }

    #[test]
    fn cursor_layout_is_stable_for_ever() {
        let cursor = encode_cursor(Token(0x0102_0304_0506_0708), b"k");
        assert_eq!(&cursor[..10], b"\x01\x08\x07\x06\x05\x04\x03\x02\x01k");
    }
}
