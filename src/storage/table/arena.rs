//! Memory by the chunk: carves chunks from blocks, gives blocks back. Knows nothing of what a chunk holds.
//!
//! A chunk is named by an id that stays while its bytes are moved to another block: so a block that is nearly empty
//! can be emptied, one copy of 64 KiB at a time, without a handle changing.

use super::class::{CHUNK_BYTES, UNIT_BYTES};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Index of a chunk: the upper 19 bits of a [`Handle`].
pub(super) type ChunkId = u32;

/// Ids that a handle has room for: 32 GiB of chunks.
pub(super) const CHUNKS_MAX: u32 = 1 << (32 - UNIT_BITS);
/// Cells that a chunk can have at most.
pub(super) const UNITS: usize = 1 << UNIT_BITS;

const UNIT_BITS: u32 = 13;
const _: () = assert!(UNITS * UNIT_BYTES == CHUNK_BYTES);

/// Chunks of a full-grown block: 32 MiB, which an allocator maps for itself and huge pages fit into.
const BLOCK_CHUNKS_MAX: usize = 512;
/// Chunks of the first block: an empty core costs little.
const BLOCK_CHUNKS_MIN: usize = 4;
/// A new block is this part of what there is, so at most so much of a growing table lies idle.
const GROWTH_PART: usize = 16;
/// A block is given back only if this part of the chunks in use stays free, so that it is not asked for again at once.
const SLACK_PART: usize = 16;
/// Blocks begin at a cache line, whatever the allocator gives.
const LINE_BYTES: usize = 64;
/// Marks a place without a chunk in it.
const NO_CHUNK: ChunkId = u32::MAX;

/// Names a cell: chunk id and 8-byte unit within the chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Handle(pub(super) u32);

/// Chunks, and the blocks they lie in.
pub(super) struct Arena {
    blocks: Vec<Block>,
    /// By chunk id.
    places: Vec<Place>,
    /// Ids that name nothing.
    ids_free: Vec<ChunkId>,
    chunks_max: u32,
    /// The block that new chunks come from.
    filling: usize,
    /// The block that is being emptied.
    leaving: Option<usize>,
    /// Chunks that fit into all blocks.
    room: usize,
    /// Chunks in them.
    used: usize,
    blocks_bytes: usize,
}

/// Where a chunk lies: block and position in it; or the page of large records that its id stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place(u32);

/// One allocation.
#[derive(Default)]
struct Block {
    /// Empty: given back.
    memory: Box<[u8]>,
    /// Where the first chunk begins in it.
    base: usize,
    /// The chunk at each position.
    owners: Box<[ChunkId]>,
    used: usize,
    /// Every position before this one is taken.
    free_from: usize,
}

impl Handle {
    pub(super) fn new(chunk: ChunkId, unit: usize) -> Handle {
        debug_assert!(chunk < CHUNKS_MAX && unit < UNITS);
        Handle(chunk << UNIT_BITS | unit as u32)
    }

    pub(super) fn chunk(self) -> ChunkId {
        self.0 >> UNIT_BITS
    }

    pub(super) fn unit(self) -> usize {
        self.0 as usize % UNITS
    }
}

impl Arena {
    /// No chunks yet, and never more than that many at a time.
    pub(super) fn new(chunks_max: u32) -> Arena {
        assert!(chunks_max <= CHUNKS_MAX, "a handle has 19 bits for the chunk");
        Arena {
            blocks: Vec::new(),
            places: Vec::new(),
            ids_free: Vec::new(),
            chunks_max,
            filling: 0,
            leaving: None,
            room: 0,
            used: 0,
            blocks_bytes: 0,
        }
    }

    /// A chunk whose bytes are anything; None if all ids are given out.
    pub(super) fn take(&mut self) -> Option<ChunkId> {
        let id = self.take_id()?;
        let block = self.block_with_room();
        self.settle(id, block);
        Some(id)
    }

    /// An id that stands for a page of large records instead of a chunk; it is never given back.
    pub(super) fn take_for_page(&mut self, page: usize) -> Option<ChunkId> {
        let id = self.take_id()?;
        self.places[id as usize] = Place::of_page(page);
        Some(id)
    }

    /// Takes a chunk back.
    pub(super) fn give_back(&mut self, id: ChunkId) {
        self.vacate(self.places[id as usize]);
        self.ids_free.push(id);
    }

    /// The page of large records that the id stands for, if it does.
    pub(super) fn page(&self, id: ChunkId) -> Option<usize> {
        self.places[id as usize].page()
    }

    /// From the named cell to the end of its chunk; None if it is a large record.
    pub(super) fn cell(&self, handle: Handle) -> Option<&[u8]> {
        let place = self.places[handle.chunk() as usize];
        if place.page().is_some() {
            return None;
        }
        let block = &self.blocks[place.block()];
        let chunk = block.range(place.position());
        Some(&block.memory[chunk.start + handle.unit() * UNIT_BYTES..chunk.end])
    }

    /// Like [`Arena::cell`].
    pub(super) fn cell_mut(&mut self, handle: Handle) -> Option<&mut [u8]> {
        let place = self.places[handle.chunk() as usize];
        if place.page().is_some() {
            return None;
        }
        let block = &mut self.blocks[place.block()];
        let chunk = block.range(place.position());
        Some(&mut block.memory[chunk.start + handle.unit() * UNIT_BYTES..chunk.end])
    }

    /// Copies the first `bytes` of one cell to another.
    pub(super) fn copy_cell(&mut self, from: Handle, to: Handle, bytes: usize) {
        let place = |handle: Handle| self.places[handle.chunk() as usize];
        let (source, target) = (place(from), place(to));
        self.copy(source, from.unit() * UNIT_BYTES, target, to.unit() * UNIT_BYTES, bytes);
    }

    /// Bytes of all blocks and of what is noted about chunks.
    pub(super) fn memory_bytes(&self) -> usize {
        self.blocks_bytes
            + self.blocks.capacity() * size_of::<Block>()
            + self.places.capacity() * size_of::<Place>()
            + self.ids_free.capacity() * size_of::<ChunkId>()
    }

    /// Moves one chunk out of the emptiest block, or gives that block back; false if no block is worth it.
    pub(super) fn compact_one(&mut self) -> bool {
        let Some(leaving) = self.leaving.or_else(|| self.emptiest_to_spare()) else { return false };
        self.leaving = Some(leaving);
        let Some(&id) = self.blocks[leaving].owners.iter().find(|&&id| id != NO_CHUNK) else {
            let emptied = core::mem::take(&mut self.blocks[leaving]);
            self.room -= emptied.owners.len();
            self.blocks_bytes -= emptied.memory_bytes();
            self.leaving = None;
            return true;
        };
        let Some(target) = self.fullest_with_room() else {
            // The chunks that were free when it began are taken.
            self.leaving = None;
            return false;
        };
        let from = self.places[id as usize];
        self.settle(id, target);
        self.copy(from, 0, self.places[id as usize], 0, CHUNK_BYTES);
        self.vacate(from);
        true
    }

    /// Would [`Arena::compact_one`] find something?
    pub(super) fn is_worth_compacting(&self) -> bool {
        self.leaving.is_some() || self.emptiest_to_spare().is_some()
    }

    /// Panics if places and owners disagree; returns the ids of all chunks.
    #[cfg(test)]
    pub(super) fn check(&self) -> Vec<ChunkId> {
        let mut ids = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let owned = block.owners.iter().enumerate().filter(|(_, id)| **id != NO_CHUNK);
            assert_eq!(block.used, owned.clone().count());
            assert!(block.owners[..block.free_from].iter().all(|&id| id != NO_CHUNK));
            assert_eq!(block.owners.is_empty(), block.memory.is_empty());
            for (position, &id) in owned {
                assert_eq!(self.places[id as usize], Place::of_chunk(at, position));
                ids.push(id);
            }
        }
        let pages = self.places.iter().filter(|place| place.page().is_some() && **place != Place::NOWHERE);
        assert_eq!(self.places.len(), ids.len() + pages.count() + self.ids_free.len());
        assert_eq!(self.used, ids.len());
        assert_eq!(self.room, self.blocks.iter().map(|block| block.owners.len()).sum::<usize>());
        assert_eq!(self.blocks_bytes, self.blocks.iter().map(Block::memory_bytes).sum::<usize>());
        ids
    }

    fn take_id(&mut self) -> Option<ChunkId> {
        if let Some(id) = self.ids_free.pop() {
            return Some(id);
        }
        let id = self.places.len() as ChunkId;
        (id < self.chunks_max).then(|| {
            self.places.push(Place::NOWHERE);
            id
        })
    }

    /// Puts a chunk at the first free position of a block.
    fn settle(&mut self, id: ChunkId, block: usize) {
        let position = self.blocks[block].take(id);
        self.places[id as usize] = Place::of_chunk(block, position);
        self.used += 1;
    }

    fn vacate(&mut self, place: Place) {
        self.blocks[place.block()].free(place.position());
        self.used -= 1;
    }

    fn block_with_room(&mut self) -> usize {
        let filling = self.blocks.get(self.filling).is_some_and(Block::has_room);
        if !filling || self.leaving == Some(self.filling) {
            self.filling = match self.fullest_with_room() {
                Some(block) => block,
                None => self.grow(),
            };
        }
        self.filling
    }

    /// The fullest, so that the others can become empty.
    fn fullest_with_room(&self) -> Option<usize> {
        if self.room == self.used {
            return None;
        }
        let open = self
            .blocks
            .iter()
            .enumerate()
            .filter(|(at, block)| block.has_room() && self.leaving != Some(*at));
        open.max_by_key(|(_, block)| block.used).map(|(at, _)| at)
    }

    fn emptiest_to_spare(&self) -> Option<usize> {
        let spare = (self.room - self.used).checked_sub(self.used / SLACK_PART)?;
        if spare < BLOCK_CHUNKS_MIN {
            return None;
        }
        let blocks = self.blocks.iter().enumerate();
        let to_spare = blocks.filter(|(_, block)| !block.owners.is_empty() && block.owners.len() <= spare);
        to_spare.min_by_key(|(_, block)| block.used).map(|(at, _)| at)
    }

    /// A block with room: the one that was being emptied, else a new one.
    fn grow(&mut self) -> usize {
        if let Some(block) = self.leaving.take().filter(|&block| self.blocks[block].has_room()) {
            return block;
        }
        let block = Block::new((self.room / GROWTH_PART).clamp(BLOCK_CHUNKS_MIN, BLOCK_CHUNKS_MAX));
        self.room += block.owners.len();
        self.blocks_bytes += block.memory_bytes();
        if let Some(at) = self.blocks.iter().position(|block| block.owners.is_empty()) {
            self.blocks[at] = block;
            return at;
        }
        self.blocks.push(block);
        self.blocks.len() - 1
    }

    fn copy(&mut self, from: Place, from_at: usize, to: Place, to_at: usize, bytes: usize) {
        let source = self.blocks[from.block()].range(from.position()).start + from_at;
        let target = self.blocks[to.block()].range(to.position()).start + to_at;
        if from.block() == to.block() {
            self.blocks[from.block()].memory.copy_within(source..source + bytes, target);
            return;
        }
        let [from, to] = self
            .blocks
            .get_disjoint_mut([from.block(), to.block()])
            .expect("two blocks that chunks lie in, and not the same");
        to.memory[target..target + bytes].copy_from_slice(&from.memory[source..source + bytes]);
    }
}

impl Place {
    const PAGE: u32 = 1 << 31;
    const POSITION_BITS: u32 = BLOCK_CHUNKS_MAX.ilog2();
    /// Of an id that has just been made.
    const NOWHERE: Place = Place(u32::MAX);

    fn of_chunk(block: usize, position: usize) -> Place {
        Place((block as u32) << Place::POSITION_BITS | position as u32)
    }

    fn of_page(page: usize) -> Place {
        Place(Place::PAGE | page as u32)
    }

    fn page(self) -> Option<usize> {
        (self.0 & Place::PAGE != 0).then_some((self.0 & !Place::PAGE) as usize)
    }

    fn block(self) -> usize {
        (self.0 >> Place::POSITION_BITS) as usize
    }

    fn position(self) -> usize {
        self.0 as usize % BLOCK_CHUNKS_MAX
    }
}

impl Block {
    fn new(chunks: usize) -> Block {
        // Zeroed memory of this size comes from the system, page by page as it is first touched.
        let memory = vec![0u8; chunks * CHUNK_BYTES + LINE_BYTES].into_boxed_slice();
        let base = memory.as_ptr().align_offset(LINE_BYTES);
        assert!(base < LINE_BYTES, "an aligned byte is at most a line away");
        Block { memory, base, owners: vec![NO_CHUNK; chunks].into_boxed_slice(), used: 0, free_from: 0 }
    }

    fn range(&self, position: usize) -> Range<usize> {
        let start = self.base + position * CHUNK_BYTES;
        start..start + CHUNK_BYTES
    }

    fn has_room(&self) -> bool {
        self.used < self.owners.len()
    }

    fn take(&mut self, id: ChunkId) -> usize {
        let free = self.owners[self.free_from..].iter().position(|&owner| owner == NO_CHUNK);
        let position = self.free_from + free.expect("the block has room");
        self.owners[position] = id;
        self.free_from = position + 1;
        self.used += 1;
        position
    }

    fn free(&mut self, position: usize) {
        assert!(self.owners[position] != NO_CHUNK, "a chunk is given back once");
        self.owners[position] = NO_CHUNK;
        self.free_from = self.free_from.min(position);
        self.used -= 1;
    }

    fn memory_bytes(&self) -> usize {
        self.memory.len() + size_of_val::<[ChunkId]>(&self.owners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_id_and_bytes_while_blocks_are_given_back() {
        let mut arena = Arena::new(CHUNKS_MAX);
        let ids: Vec<ChunkId> = (0..300).map(|_| arena.take().expect("there are ids")).collect();
        for &id in &ids {
            arena.cell_mut(Handle::new(id, 0)).expect("a chunk").fill(id as u8);
        }
        let full = arena.memory_bytes();
        let (kept, dropped): (Vec<ChunkId>, Vec<ChunkId>) = ids.iter().partition(|&&id| id % 10 == 3);
        dropped.iter().for_each(|&id| arena.give_back(id));
        while arena.compact_one() {
            arena.check();
        }
        assert!(!arena.is_worth_compacting());
        for &id in &kept {
            assert!(arena.cell(Handle::new(id, 0)).expect("a chunk").iter().all(|&byte| byte == id as u8));
        }
        assert!(arena.memory_bytes() < full / 5);
        kept.iter().for_each(|&id| arena.give_back(id));
        while arena.compact_one() {}
        assert_eq!(arena.room, 0);
    }

    #[test]
    fn block_that_is_being_emptied_is_used_when_there_is_no_other_room() {
        let mut arena = Arena::new(CHUNKS_MAX);
        let ids: Vec<ChunkId> = (0..60).map(|_| arena.take().expect("there are ids")).collect();
        ids[..24].iter().filter(|&&id| id % 4 > 0).for_each(|&id| arena.give_back(id));
        assert!(arena.compact_one() && arena.leaving.is_some());
        let room = arena.room;
        while arena.used < room {
            arena.take();
            arena.check();
        }
        assert_eq!((arena.room, arena.leaving), (room, None));
        assert!(!arena.compact_one());
    }

    #[test]
    fn chunks_begin_at_a_cache_line() {
        let mut arena = Arena::new(CHUNKS_MAX);
        for _ in 0..20 {
            let id = arena.take().expect("there are ids");
            let chunk = arena.cell(Handle::new(id, 0)).expect("a chunk");
            assert_eq!((chunk.as_ptr().addr() % LINE_BYTES, chunk.len()), (0, CHUNK_BYTES));
        }
    }
}
