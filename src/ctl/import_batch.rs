//! From lines to batches of writes. Pure: lines and the time are arguments; nothing is read or sent here.

use super::record::{ImportRecord, parse_import_line};
use crate::client::Write;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;

/// A longer line is a bad one: the longest record there is, with every byte of it escaped, is half as long.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;

/// Writes in a batch: enough to share a message's costs, few enough that four batches are a small loss.
const BATCH_WRITES: usize = 1_000;
/// Bytes of keys and values in a batch, well below a message's limit of 4 MiB. A record that is larger travels alone.
const BATCH_BYTES: usize = 1 << 20;

/// What the reader hands over.
#[derive(Debug)]
pub(super) enum Piece {
    Batch(Batch),
    /// A line that is no record. Lines count from 1.
    Bad {
        line: u64,
        why: String,
    },
    /// The input ended in an error.
    Unreadable(io::Error),
}

/// Records to be written together; their keys differ.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) writes: Vec<Write>,
    /// Of each write: its line.
    pub(super) lines: Vec<u64>,
    /// Of each write: when it ends.
    pub(super) expiries: Vec<Option<u64>>,
    /// Bytes of the input up to the end of its last line.
    pub(super) end_offset: u64,
    /// Records among its lines that are left out because they have ended.
    pub(super) expired: u64,
    /// Records among its lines that are left out because a later line writes the same key.
    pub(super) replaced: u64,
}

/// Gathers lines.
#[derive(Debug)]
pub(super) struct Batcher {
    now_ms: u64,
    line: u64,
    offset: u64,
    batch: Batch,
    bytes: usize,
    /// Where in the batch a key is.
    places: HashMap<Bytes, usize>,
}

impl Batcher {
    /// Records that end at `now_ms` or before are left out.
    pub(super) fn new(now_ms: u64) -> Batcher {
        let (batch, places) = (Batch::default(), HashMap::new());
        Batcher { now_ms, line: 0, offset: 0, batch, bytes: 0, places }
    }

    /// Takes the next line, which took `bytes` of the input. Blank lines are nothing. What it hands back is the batch
    /// that this line found full, or word that this line is bad.
    pub(super) fn line(&mut self, line: &[u8], bytes: u64) -> Option<Piece> {
        self.line += 1;
        self.offset += bytes;
        if line.trim_ascii().is_empty() {
            return None;
        }
        if line.len() > LINE_BYTES_MAX {
            let why = format!("longer than {LINE_BYTES_MAX} bytes");
            return Some(Piece::Bad { line: self.line, why });
        }
        let record = match parse_import_line(line) {
            Ok(record) => record,
            Err(why) => return Some(Piece::Bad { line: self.line, why }),
        };
        if record.expires_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
            self.batch.expired += 1;
            return None;
        }
        let weight = record.key.len() + record.value.len();
        let full = self.batch.writes.len() >= BATCH_WRITES || self.bytes + weight > BATCH_BYTES;
        let ready = if full && !self.batch.writes.is_empty() { self.finish() } else { None };
        self.add(record, weight);
        ready
    }

    /// What has gathered, if anything.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        self.places.clear();
        let something = !batch.writes.is_empty() || batch.expired > 0;
        something.then_some(Piece::Batch(batch))
    }

    fn add(&mut self, record: ImportRecord, weight: usize) {
        let mut write = Write::put(record.key.clone(), record.value);
        if let Some(at_ms) = record.expires_at_ms {
            write = write.expires_at_ms(at_ms);
        }
        self.bytes += weight;
        let batch = &mut self.batch;
        batch.end_offset = self.offset;
        // A node refuses a batch that names a key twice; the later line wins, as it would line by line.
        match self.places.get(&record.key) {
            Some(&place) => {
                batch.writes[place] = write;
                batch.lines[place] = self.line;
                batch.expiries[place] = record.expires_at_ms;
                batch.replaced += 1;
            }
            None => {
                self.places.insert(record.key, batch.writes.len());
                batch.writes.push(write);
                batch.lines.push(self.line);
                batch.expiries.push(record.expires_at_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, value: &str) -> Vec<u8> {
        serde_json::json!({ "key": key, "value": value }).to_string().into_bytes()
    }

    fn take(batcher: &mut Batcher, line: &[u8]) -> Option<Piece> {
        batcher.line(line, line.len() as u64 + 1)
    }

    fn batch(piece: Option<Piece>) -> Batch {
        match piece {
            Some(Piece::Batch(batch)) => batch,
            other => panic!("no batch but {other:?}"),
        }
    }

    #[test]
    fn batches_are_full_by_count_and_by_bytes() {
        let mut batcher = Batcher::new(0);
        for index in 0..BATCH_WRITES {
            assert!(take(&mut batcher, &line(&format!("k{index}"), "v")).is_none());
        }
        assert_eq!(batch(take(&mut batcher, &line("one more", "v"))).writes.len(), BATCH_WRITES);
        let half = "x".repeat(BATCH_BYTES / 2);
        assert!(take(&mut batcher, &line("a", &half)).is_none());
        let ready = batch(take(&mut batcher, &line("b", &half)));
        assert_eq!(
            ready.writes.iter().map(|write| write.key().clone()).collect::<Vec<_>>(),
            ["one more", "a"]
        );
        let huge = batch(take(&mut batcher, &line("huge", &half.repeat(4))));
        assert_eq!(huge.writes[0].key(), "b");
        assert_eq!(batch(batcher.finish()).writes[0].key(), "huge");
        assert!(batcher.finish().is_none());
    }

    #[test]
    fn later_line_of_a_key_replaces_the_earlier() {
        let mut batcher = Batcher::new(0);
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            take(&mut batcher, &line(key, value));
        }
        let batch = batch(batcher.finish());
        assert_eq!(batch.writes, [Write::put("a", "3"), Write::put("b", "2")]);
        assert_eq!((batch.lines, batch.replaced), (vec![3, 2], 1));
    }

    #[test]
    fn expired_records_are_counted_and_blank_lines_are_not() {
        let mut batcher = Batcher::new(1_000);
        for text in [
            r#"{"key":"past","value":"","expires_at_ms":999}"#,
            "",
            "  \r",
            r#"{"key":"now","value":"","expires_at_ms":1000}"#,
            r#"{"key":"later","value":"","expires_at_ms":1001}"#,
        ] {
            assert!(take(&mut batcher, text.as_bytes()).is_none());
        }
        let batch = batch(batcher.finish());
        assert_eq!((batch.writes.len(), batch.expired), (1, 2));
        assert_eq!((batch.lines, batch.expiries), (vec![5], vec![Some(1_001)]));
    }

    #[test]
    fn bad_lines_have_their_number() {
        let mut batcher = Batcher::new(0);
        take(&mut batcher, &line("a", "1"));
        match take(&mut batcher, b"nonsense") {
            Some(Piece::Bad { line: 2, .. }) => {}
            other => panic!("{other:?}"),
        }
        match take(&mut batcher, &vec![b' '; LINE_BYTES_MAX + 1]) {
            None => {}
            other => panic!("{other:?}"),
        }
        match take(&mut batcher, &vec![b'x'; LINE_BYTES_MAX + 1]) {
            Some(Piece::Bad { line: 4, why }) => assert!(why.contains("longer"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(batch(batcher.finish()).writes.len(), 1);
    }
}
