//! The records of one core in memory: found by key, walked in the order of (token, key). Knows nothing of versions'
//! order, time, log or disk: the caller has merged before it writes here.
//!
//! Records lie in chunks (`heap`, `arena`), named by handles of 32 bits; the `index` has a handle and one byte of a
//! keyed hash per record. Nothing is ever rehashed: a put moves the records of one full bucket at most, and what
//! deletions leave behind is gathered in steps whose size the caller chooses.

mod arena;
mod bucket;
mod class;
mod directory;
mod heap;
mod index;
mod large;
#[cfg(test)]
mod oracle;
mod packed;

use crate::types::{CoreId, RecordRef, SLOTS, Slot, Token};
use arena::CHUNKS_MAX;
use bucket::{Bucket, Item};
use core::ops::ControlFlow;
use heap::Heap;
use index::{Found, Index};

/// One core's records. Records are values, tombstones and expired ones alike.
pub struct Table {
    heap: Heap,
    index: Index,
    hasher: ahash::RandomState,
    records: usize,
    live_bytes: usize,
}

/// What a [`Table::set`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// No record of that key.
    New,
    /// A record, which is gone.
    Replaced,
}

/// Why a record was not taken. The table is as before; a record that fits over the one it replaces is never refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableFull {
    /// Some 768 records have nearly this token: someone chooses tokens. Other keys can be written.
    #[error("too many keys with nearly the same token")]
    ChainTooLong,
    /// 32 GiB of records: a core has no more handles.
    #[error("the core's table has reached 32 GiB")]
    HandlesSpent,
}

/// Where the record of a key is, or that there is none; until the table changes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    tag: u8,
    found: Option<Found>,
}

/// A look-up that is to come.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    token: Token,
    tag: u8,
}

impl Table {
    /// An empty table for the slots of `core`, one of `cores`. The seed keeps others from guessing which keys look
    /// alike; no answer depends on it.
    pub fn new(seed: u64, core: CoreId, cores: u16) -> Table {
        Table::with(seed, core, cores, Token::of, CHUNKS_MAX)
    }

    /// The record of a key.
    pub fn get(&self, token: Token, key: &[u8]) -> Option<RecordRef<'_>> {
        self.at(self.find(token, key))
    }

    /// Looks for a key once: what is there, and a record in its stead, are then had without another search.
    pub fn find(&self, token: Token, key: &[u8]) -> Place {
        let tag = self.tag(key);
        Place { tag, found: self.index.find(&self.heap, token, tag, key) }
    }

    /// The record at a place.
    pub fn at(&self, place: Place) -> Option<RecordRef<'_>> {
        place.found.map(|found| packed::read(self.heap.cell(found.record)))
    }

    /// A look-up that is to come. Begins to bring into the cache what says where its key would be.
    pub fn expect(&self, token: Token, key: &[u8]) -> Expected {
        self.index.fetch(token);
        Expected { token, tag: self.tag(key) }
    }

    /// Begins to bring what these look-ups read into the cache. Worth its while for many: the waits for memory overlap.
    pub fn prefetch(&self, expected: &[Expected]) {
        let first_buckets =
            || expected.iter().filter_map(|one| Some((self.index.first_bucket(one.token)?, one.tag)));
        first_buckets().for_each(|(bucket, _)| self.heap.fetch(bucket));
        for (bucket, tag) in first_buckets() {
            Bucket::at(&self.heap, bucket).tagged(tag).for_each(|(_, record)| self.heap.fetch(record));
        }
    }

    /// Takes a record in, in place of the one of its key, whichever is newer.
    ///
    /// `token` is the key's. The key has 1 ..= 65 535 bytes, the value less than 16 MiB.
    pub fn set(&mut self, token: Token, record: &RecordRef<'_>) -> Result<Written, TableFull> {
        let place = self.find(token, record.key);
        self.set_at(token, place, record)
    }

    /// As [`Table::set`], for the place that was just found for the record's key.
    pub fn set_at(
        &mut self,
        token: Token,
        place: Place,
        record: &RecordRef<'_>,
    ) -> Result<Written, TableFull> {
        debug_assert_eq!(token, self.index.token_of(record.key), "the token is the key's");
        assert!(!record.key.is_empty(), "limits are checked before");
        let bytes = packed::bytes_of(record);
        if let Some(found) = place.found {
            let bytes_before = packed::bytes_of(&packed::read(self.heap.cell(found.record)));
            if self.heap.fits_in_place(found.record, bytes) {
                packed::write(record, self.heap.cell_mut(found.record));
            } else {
                let moved = self.store(record, bytes)?;
                self.index.replace(&mut self.heap, found, moved);
                self.heap.give_back(found.record);
            }
            self.live_bytes = self.live_bytes - bytes_before + bytes;
            return Ok(Written::Replaced);
        }
        let stored = self.store(record, bytes)?;
        if let Err(full) = self.index.insert(&mut self.heap, token, Item { tag: place.tag, record: stored }) {
            self.heap.give_back(stored);
            return Err(full);
        }
        self.records += 1;
        self.live_bytes += bytes;
        Ok(Written::New)
    }

    /// Takes the record of a key out; false if there is none.
    pub fn remove(&mut self, token: Token, key: &[u8]) -> bool {
        let Some(found) = self.index.find(&self.heap, token, self.tag(key), key) else { return false };
        self.live_bytes -= packed::bytes_of(&packed::read(self.heap.cell(found.record)));
        self.records -= 1;
        self.index.remove(&mut self.heap, token, found);
        self.heap.give_back(found.record);
        true
    }

    /// Shows the records with `from` < (token, key) and token <= `last` in the order of (token, key), until `visit`
    /// breaks.
    ///
    /// `from` is a token, to begin with its first key, or a place after a key, which need not exist (any more): so a
    /// walk can go on after any number of changes. Slots of other cores are passed over.
    pub fn walk<'a, B>(
        &'a self,
        from: (Token, Option<&[u8]>),
        last: Token,
        mut visit: impl FnMut(Token, RecordRef<'a>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let (first, after) = from;
        for slot in self.index.slots(first.slot(), last.slot()) {
            let directory = self.index.directory(slot);
            let entries = directory.len();
            let mut entry = if slot == first.slot() && entries > 0 { directory.entry_of(first) } else { 0 };
            while entry < entries {
                for placed in self.index.sorted_run(&self.heap, slot, entry) {
                    if placed.token > last {
                        return ControlFlow::Continue(());
                    }
                    let record = packed::read(self.heap.cell(placed.item.record));
                    let passed = placed.token == first && after.is_some_and(|key| record.key <= key);
                    if placed.token >= first && !passed {
                        visit(placed.token, record)?;
                    }
                }
                entry = directory.run_end(entry);
            }
        }
        ControlFlow::Continue(())
    }

    /// Gathers what deletions and replacements left behind: first chunks less than half full, then blocks that the
    /// others have room for. Goes over about `bytes_max` of them (a record, a bucket or a chunk of 64 KiB is never cut);
    /// true if there is more to do. Nothing that was read before changes, but where it lies.
    pub fn compact_step(&mut self, bytes_max: usize) -> bool {
        let mut done = 0;
        while done < bytes_max {
            let index = &mut self.index;
            let mut step = self.heap.compact_cells(bytes_max - done, |heap, moved| {
                if moved.is_bucket {
                    index.bucket_moved(heap, moved.from, moved.to);
                } else {
                    index.record_moved(heap, moved.from, moved.to);
                }
            });
            if step == 0 {
                step = self.heap.compact_blocks();
            }
            if step == 0 {
                return false;
            }
            done += step;
        }
        self.heap.is_worth_compacting()
    }

    /// Records.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Has the table no records?
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Records of a slot of this core.
    pub fn slot_len(&self, slot: Slot) -> usize {
        self.index.directory(slot).records as usize
    }

    /// Bytes of the records themselves: keys, values and headers of 18 or 26 bytes.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Bytes that the table has allocated: blocks, large records, index. A new block counts as a whole, though the
    /// system provides its pages only as they are written to.
    pub fn memory_bytes(&self) -> usize {
        self.heap.memory_bytes() + self.index.memory_bytes()
    }

    fn with(seed: u64, core: CoreId, cores: u16, token_of: fn(&[u8]) -> Token, chunks_max: u32) -> Table {
        assert!(usize::from(cores) <= SLOTS, "every core has a slot");
        Table {
            heap: Heap::new(chunks_max),
            index: Index::new(core, cores, token_of),
            hasher: ahash::RandomState::with_seeds(
                seed,
                !seed,
                seed.rotate_left(32),
                seed ^ u64::from(core.0),
            ),
            records: 0,
            live_bytes: 0,
        }
    }

    fn store(&mut self, record: &RecordRef<'_>, bytes: usize) -> Result<arena::Handle, TableFull> {
        let stored = self.heap.take(bytes).ok_or(TableFull::HandlesSpent)?;
        packed::write(record, self.heap.cell_mut(stored));
        Ok(stored)
    }

    /// 1 ..= 255, from the upper bits of the hash.
    fn tag(&self, key: &[u8]) -> u8 {
        let hash = self.hasher.hash_one(key) >> 32;
        ((hash * 255) >> 32) as u8 + 1
    }
}
