//! The segment files of one core's log: which holds what, which may be written next. Touches no file.
//!
//! A segment is a file of a fixed number of blocks, written with zeros once and then recycled for ever, without
//! renaming or clearing it: block j of a file only ever holds LSNs equal to j modulo the blocks of a segment.

use super::block::{BATCH_BLOCKS_MAX, BLOCK_BYTES, Seal};
use super::lsn::Lsn;
use alloc::collections::VecDeque;
use core::fmt;

/// Number of a segment file within its core's directory, from 0. Says nothing of the LSNs in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// What never changes in the life of one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogShape {
    /// Binds each block to cluster, member, core and layout.
    pub seal: Seal,
    /// Blocks of a segment: 4 096 (16 MiB), fewer in tests.
    pub segment_blocks: u32,
}

impl LogShape {
    /// Blocks of a segment unless told otherwise: 16 MiB.
    pub const SEGMENT_BLOCKS: u32 = 4_096;

    /// Bytes of a segment file.
    pub fn segment_bytes(&self) -> usize {
        self.segment_blocks as usize * BLOCK_BYTES
    }

    /// Blocks of the largest batch: it lies within one segment.
    pub fn batch_blocks_max(&self) -> usize {
        usize::from(BATCH_BLOCKS_MAX).min(self.segment_blocks as usize)
    }

    /// First LSN of the segment that holds `lsn`.
    pub(super) fn base_of(&self, lsn: u64) -> u64 {
        lsn - lsn % u64::from(self.segment_blocks)
    }

    /// First LSN of the first segment that holds nothing below `lsn`.
    pub(super) fn base_from(&self, lsn: u64) -> u64 {
        lsn.next_multiple_of(u64::from(self.segment_blocks))
    }
}

/// Where each segment file stands. Ready files can be written at once; full ones are read-only until recycled.
#[derive(Debug)]
pub(super) struct SegmentPool {
    segment_blocks: u64,
    /// Ascending by first LSN.
    full: VecDeque<(Lsn, SegmentId)>,
    active: Option<(Lsn, SegmentId)>,
    ready: VecDeque<SegmentId>,
    preparing: bool,
    /// Names the next file to be made; all known ones are below.
    next_id: SegmentId,
}

impl SegmentPool {
    /// `segments` = all known files with the first LSN of what must be kept in them, None if nothing must be.
    pub(super) fn new(
        shape: &LogShape,
        segments: &[(SegmentId, Option<Lsn>)],
        next_id: SegmentId,
    ) -> SegmentPool {
        let mut full: VecDeque<_> = segments.iter().filter_map(|&(id, first)| Some((first?, id))).collect();
        full.make_contiguous().sort_unstable();
        let ready = segments.iter().filter(|(_, first)| first.is_none()).map(|&(id, _)| id).collect();
        assert!(segments.iter().all(|&(id, _)| id < next_id), "a new file gets a new number");
        SegmentPool {
            segment_blocks: u64::from(shape.segment_blocks),
            full,
            active: None,
            ready,
            preparing: false,
            next_id,
        }
    }

    /// The file that holds `first`, with room for `blocks` from there on; None if another segment must be opened.
    pub(super) fn active_with_room(&self, first: Lsn, blocks: u64) -> Option<SegmentId> {
        let (base, id) = self.active?;
        let fits = first >= base && first.0 + blocks <= base.0 + self.segment_blocks;
        fits.then_some(id)
    }

    /// Makes a ready file the active one; None if there is none.
    pub(super) fn open(&mut self, base: Lsn) -> Option<SegmentId> {
        let id = self.ready.pop_front()?;
        if let Some(filled) = self.active.replace((base, id)) {
            assert!(filled.0 < base, "segments are opened in LSN order");
            self.full.push_back(filled);
        }
        Some(id)
    }

    /// See [`super::log::Log::wants_segment`].
    pub(super) fn wants(&mut self) -> Option<SegmentId> {
        if self.preparing || !self.ready.is_empty() {
            return None;
        }
        self.preparing = true;
        Some(self.next_id)
    }

    /// The file that was wanted is there, zeroed and durable with its name.
    pub(super) fn prepared(&mut self, id: SegmentId) {
        assert!(self.preparing && id == self.next_id, "only a wanted segment can become ready");
        self.preparing = false;
        self.next_id = SegmentId(id.0 + 1);
        self.ready.push_back(id);
    }

    /// The file that was wanted cannot be made now; its number is asked for again.
    pub(super) fn refused(&mut self, id: SegmentId) {
        assert!(self.preparing && id == self.next_id, "only a wanted segment can be refused");
        self.preparing = false;
    }

    /// Makes files ready that end at or below `lsn`.
    pub(super) fn recycle_below(&mut self, lsn: Lsn) {
        while let Some(&(base, id)) = self.full.front() {
            if base.0 + self.segment_blocks > lsn.0 {
                return;
            }
            self.full.pop_front();
            self.ready.push_back(id);
        }
    }

    /// Gives up one ready file if there are more than `keep`.
    pub(super) fn surplus(&mut self, keep: usize) -> Option<SegmentId> {
        if self.ready.len() > keep { self.ready.pop_back() } else { None }
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Files that hold what must be kept, the active one included.
    pub(super) fn held(&self) -> usize {
        self.full.len() + usize::from(self.active.is_some())
    }

    /// Goes on in the file that holds `lsn`, as if the process had never ended.
    #[cfg(mutants)]
    pub(super) fn reopen(&mut self, lsn: Lsn) {
        let holds = |base: Lsn| base <= lsn && lsn.0 < base.0 + self.segment_blocks;
        if let Some(at) = self.full.iter().position(|&(base, _)| holds(base)) {
            self.active = self.full.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, CoreId, MemberId};

    fn pool(segments: &[(SegmentId, Option<Lsn>)], next: u32) -> SegmentPool {
        let seal = Seal::new(ClusterId::default(), MemberId::FIRST, CoreId(0), 1);
        SegmentPool::new(&LogShape { seal, segment_blocks: 8 }, segments, SegmentId(next))
    }

    #[test]
    fn one_segment_is_wanted_at_a_time_and_only_while_none_is_ready() {
        let mut pool = pool(&[], 0);
        assert_eq!(pool.wants(), Some(SegmentId(0)));
        assert_eq!(pool.wants(), None);
        pool.refused(SegmentId(0));
        assert_eq!(pool.wants(), Some(SegmentId(0)));
        pool.prepared(SegmentId(0));
        assert_eq!(pool.wants(), None);
        assert_eq!(pool.open(Lsn(0)), Some(SegmentId(0)));
        assert_eq!(pool.wants(), Some(SegmentId(1)));
        assert_eq!(pool.open(Lsn(8)), None);
    }

    #[test]
    fn only_files_that_end_at_or_below_the_low_lsn_are_recycled() {
        let known =
            [(SegmentId(4), Some(Lsn(16))), (SegmentId(1), Some(Lsn(0))), (SegmentId(2), Some(Lsn(8)))];
        let mut pool = pool(&known, 5);
        pool.recycle_below(Lsn(15));
        assert_eq!((pool.ready(), pool.held()), (1, 2));
        pool.recycle_below(Lsn(16));
        assert_eq!((pool.ready(), pool.held()), (2, 1));
        assert_eq!(pool.open(Lsn(24)), Some(SegmentId(1)));
        pool.recycle_below(Lsn(1_000));
        assert_eq!((pool.ready(), pool.held()), (2, 1), "the active file is never recycled");
        assert_eq!(pool.surplus(2), None);
        assert_eq!(pool.surplus(1), Some(SegmentId(4)));
    }
}
