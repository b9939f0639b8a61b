//! The directory of one slot: which bucket covers which tokens. Knows nothing of what the buckets hold.
//!
//! Entry i of 2^d stands for the i-th of 2^d equal intervals of the slot's tokens. A bucket covers one or more entries
//! side by side, its *run*; every entry is covered. A run need not be a power of two: so a full bucket is always split
//! where it parts its records, and one that became empty leaves its run to a neighbour.

use super::arena::Handle;
use crate::types::{Token, token::SLOT_BITS};
use core::ops::Range;
use smallvec::{SmallVec, smallvec};

/// Entries that a directory may have for each bucket: tokens chosen by an enemy cannot make it larger.
const ENTRIES_PER_BUCKET_MAX: usize = 16;
/// A directory is not halved before it has more entries than this for each bucket: it would double again soon.
const ENTRIES_PER_BUCKET_MIN: usize = 4;
/// Entries that lie in the directory itself: as many as need no more room than the pointer to others.
const ENTRIES_INLINE: usize = 4;
/// Bits of a token that tell the tokens of a slot apart.
const DEPTH_MAX: u32 = 64 - SLOT_BITS;

/// Buckets of one slot in the order of their tokens.
#[derive(Default)]
pub(super) struct Directory {
    /// 2^depth of them, or none if the slot has no records. Few are looked up without another wait for memory.
    entries: SmallVec<[Handle; ENTRIES_INLINE]>,
    /// Records in the slot.
    pub(super) records: u32,
    /// Buckets of the slot, those in chains too.
    pub(super) buckets: u32,
    /// Runs that begin at an odd entry. While there is one, the directory cannot be halved.
    odd_starts: u32,
}

impl Directory {
    /// A directory with one bucket and its first record.
    pub(super) fn with_bucket(bucket: Handle) -> Directory {
        Directory { entries: smallvec![bucket], records: 1, buckets: 1, odd_starts: 0 }
    }

    /// Entries there are; 0 if the slot has no records.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the directory beyond the struct itself.
    pub(super) fn memory_bytes(&self) -> usize {
        if self.entries.spilled() { size_of_val::<[Handle]>(&self.entries) } else { 0 }
    }

    /// The entry for a token of the slot. There must be entries.
    pub(super) fn entry_of(&self, token: Token) -> usize {
        let within = (token.0 << SLOT_BITS) >> 1;
        (within >> (63 - self.depth())) as usize
    }

    /// First bucket of the chain that covers an entry.
    pub(super) fn bucket(&self, entry: usize) -> Handle {
        self.entries[entry]
    }

    /// The entries that the bucket of this one covers.
    pub(super) fn run(&self, entry: usize) -> Range<usize> {
        let bucket = self.entries[entry];
        let before = self.entries[..entry].iter().rev().take_while(|&&other| other == bucket).count();
        entry - before..self.run_end(entry)
    }

    /// One past the last entry of the run that holds this one.
    pub(super) fn run_end(&self, entry: usize) -> usize {
        let bucket = self.entries[entry];
        let after = self.entries[entry..].iter().take_while(|&&other| other == bucket).count();
        entry + after
    }

    /// Names another bucket for a whole run.
    pub(super) fn rename(&mut self, run: Range<usize>, bucket: Handle) {
        self.entries[run].fill(bucket);
    }

    /// Lets a new bucket begin at `start` and cover the rest of the run that holds it. No run begins there yet.
    pub(super) fn begin(&mut self, start: usize, bucket: Handle) {
        let end = self.run_end(start);
        debug_assert!(start > 0 && self.entries[start - 1] == self.entries[start]);
        self.rename(start..end, bucket);
        self.odd_starts += start as u32 % 2;
    }

    /// Leaves the entries of two runs, which meet at `meeting`, to one bucket of them.
    pub(super) fn join(&mut self, runs: Range<usize>, meeting: usize, bucket: Handle) {
        debug_assert!(runs.start < meeting && meeting < runs.end);
        self.rename(runs, bucket);
        self.odd_starts -= meeting as u32 % 2;
    }

    /// Doubles the directory until two tokens of the slot have entries of their own; false, and nothing is done, if the
    /// tokens are equal or the directory would become too large for one bucket more than there are.
    pub(super) fn part(&mut self, low: Token, high: Token) -> bool {
        let differ = (low.0 ^ high.0) << SLOT_BITS;
        let depth = differ.leading_zeros() + 1;
        if depth > DEPTH_MAX || 1 << depth > ENTRIES_PER_BUCKET_MAX * (self.buckets as usize + 1) {
            return false;
        }
        if let Some(doublings) = depth.checked_sub(self.depth()).filter(|&doublings| doublings > 0) {
            let copies = 1 << doublings;
            let entries = self.entries.iter().flat_map(|&bucket| core::iter::repeat_n(bucket, copies));
            let mut doubled = SmallVec::with_capacity(self.entries.len() * copies);
            doubled.extend(entries);
            self.entries = doubled;
            self.odd_starts = 0;
        }
        true
    }

    /// Halves the directory while it is larger than it need be.
    pub(super) fn shrink(&mut self) {
        while self.odd_starts == 0
            && self.entries.len() > (ENTRIES_PER_BUCKET_MIN * self.buckets as usize).max(1)
        {
            let mut halved = SmallVec::with_capacity(self.entries.len() / 2);
            halved.extend(self.entries.iter().step_by(2).copied());
            self.entries = halved;
            self.odd_starts = self.count_odd_starts();
        }
    }

    fn depth(&self) -> u32 {
        debug_assert!(self.entries.len().is_power_of_two());
        self.entries.len().trailing_zeros()
    }

    fn count_odd_starts(&self) -> u32 {
        self.entries.chunks_exact(2).filter(|pair| pair[0] != pair[1]).count() as u32
    }

    /// Panics if the directory is not as its fields say; returns its runs.
    #[cfg(test)]
    pub(super) fn check(&self) -> Vec<(Range<usize>, Handle)> {
        assert_eq!(self.entries.is_empty(), self.records == 0);
        assert_eq!(self.entries.is_empty(), self.buckets == 0);
        assert_eq!(self.odd_starts, self.count_odd_starts());
        let mut runs = Vec::new();
        let mut entry = 0;
        while entry < self.len() {
            assert!(self.len().is_power_of_two());
            let run = self.run(entry);
            assert_eq!(run.start, entry);
            entry = run.end;
            runs.push((run, self.entries[entry - 1]));
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(within: u64) -> Token {
        Token(5 << (64 - SLOT_BITS) | within)
    }

    #[test]
    fn directory_doubles_until_tokens_part() {
        let mut directory = Directory::with_bucket(Handle(8));
        assert_eq!(directory.entry_of(token(u64::MAX >> SLOT_BITS)), 0);
        let high = token(1 << (64 - SLOT_BITS - 3));
        assert!(directory.part(token(0), high));
        assert_eq!(directory.len(), 8);
        assert_eq!((directory.entry_of(token(0)), directory.entry_of(high)), (0, 1));
        directory.begin(1, Handle(16));
        directory.buckets += 1;
        assert_eq!(directory.check(), [(0..1, Handle(8)), (1..8, Handle(16))]);
        directory.join(0..8, 1, Handle(8));
        directory.buckets -= 1;
        directory.shrink();
        assert_eq!(directory.len(), 4);
        directory.check();
    }

    #[test]
    fn directory_is_bounded_by_its_buckets() {
        let mut directory = Directory::with_bucket(Handle(8));
        assert!(!directory.part(token(6), token(7)));
        assert!(!directory.part(token(7), token(7)));
        assert_eq!(directory.len(), 1);
        directory.buckets = u32::MAX - 1;
        assert!(!directory.part(token(7), token(7)));
    }
}
