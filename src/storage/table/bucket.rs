//! A bucket of the index: one cache line that names up to twelve records. Knows nothing of keys or tokens.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 12 x 1 | tags, each 1 ..= 255; 0 = no record. Without gaps, so that only the first zero ends them |
//! | 12 | 12 x 4 | handles of the records |
//! | 60 | 4 | handle of the next bucket of a chain; all ones = none |

use super::arena::Handle;
use super::heap::{BUCKET_BYTES, Heap};

/// Records that a bucket names.
pub(super) const BUCKET_ITEMS: usize = 12;

const HANDLES_AT: usize = BUCKET_ITEMS;
const NEXT_AT: usize = 60;
/// No bucket begins at the last 8 bytes of a chunk.
const NO_BUCKET: u32 = u32::MAX;

/// A record as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// A keyed hash of its key, never 0.
    pub(super) tag: u8,
    pub(super) record: Handle,
}

/// A bucket, to be read.
#[derive(Clone, Copy)]
pub(super) struct Bucket<'a>(&'a [u8; BUCKET_BYTES]);

/// A bucket, to be changed.
pub(super) struct BucketMut<'a>(&'a mut [u8; BUCKET_BYTES]);

impl<'a> Bucket<'a> {
    /// The bucket in that cell.
    pub(super) fn at(heap: &'a Heap, handle: Handle) -> Bucket<'a> {
        Bucket(heap.cell(handle).first_chunk().expect("a bucket's cell"))
    }

    /// Records in it.
    pub(super) fn len(self) -> usize {
        self.tags().iter().position(|&tag| tag == 0).unwrap_or(BUCKET_ITEMS)
    }

    /// Has it no room for another record?
    pub(super) fn is_full(self) -> bool {
        self.tags()[BUCKET_ITEMS - 1] != 0
    }

    /// The records with that tag, by position.
    pub(super) fn tagged(self, tag: u8) -> impl Iterator<Item = (usize, Handle)> + 'a {
        let mut mask = 0u32;
        for (position, &held) in self.tags().iter().enumerate() {
            mask |= u32::from(held == tag) << position;
        }
        core::iter::from_fn(move || {
            let position = mask.trailing_zeros() as usize;
            mask &= mask.wrapping_sub(1);
            (position < BUCKET_ITEMS).then(|| (position, self.record(position)))
        })
    }

    /// All its records.
    pub(super) fn items(self) -> impl Iterator<Item = Item> + 'a {
        (0..self.len()).map(move |position| self.item(position))
    }

    /// The record at that position.
    pub(super) fn item(self, position: usize) -> Item {
        Item { tag: self.tags()[position], record: self.record(position) }
    }

    /// The bucket after this one in a chain.
    pub(super) fn next(self) -> Option<Handle> {
        let next = self.u32_at(NEXT_AT);
        (next != NO_BUCKET).then_some(Handle(next))
    }

    fn tags(self) -> &'a [u8; BUCKET_ITEMS] {
        self.0.first_chunk().expect("a bucket begins with its tags")
    }

    fn record(self, position: usize) -> Handle {
        Handle(self.u32_at(HANDLES_AT + 4 * position))
    }

    fn u32_at(self, at: usize) -> u32 {
        u32::from_le_bytes(*self.0[at..].first_chunk().expect("within the bucket"))
    }
}

impl<'a> BucketMut<'a> {
    /// The bucket in that cell.
    pub(super) fn at(heap: &'a mut Heap, handle: Handle) -> BucketMut<'a> {
        BucketMut(heap.cell_mut(handle).first_chunk_mut().expect("a bucket's cell"))
    }

    /// Makes the cell a bucket of exactly these records. A bucket holds at least one.
    pub(super) fn fill(&mut self, items: impl IntoIterator<Item = Item>) {
        self.0[..BUCKET_ITEMS].fill(0);
        for (position, item) in items.into_iter().enumerate() {
            self.set(position, item);
        }
        assert!(self.0[0] != 0, "no bucket is empty");
        self.set_next(None);
    }

    /// Adds a record; there is room.
    pub(super) fn push(&mut self, item: Item) {
        self.set(self.read().len(), item);
    }

    /// Takes the last record out. The bucket may be empty for a moment.
    pub(super) fn pop(&mut self) -> Item {
        let last = self.read().len() - 1;
        let item = self.read().item(last);
        self.0[last] = 0;
        item
    }

    /// Replaces the record at that position.
    pub(super) fn set(&mut self, position: usize, item: Item) {
        self.0[position] = item.tag;
        let at = HANDLES_AT + 4 * position;
        self.0[at..at + 4].copy_from_slice(&item.record.0.to_le_bytes());
    }

    /// Links the bucket that follows it.
    pub(super) fn set_next(&mut self, next: Option<Handle>) {
        self.0[NEXT_AT..].copy_from_slice(&next.map_or(NO_BUCKET, |next| next.0).to_le_bytes());
    }

    fn read(&self) -> Bucket<'_> {
        Bucket(self.0)
    }
}
