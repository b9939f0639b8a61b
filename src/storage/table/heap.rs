//! Cells by handle: for records of every size and for the buckets of the index. Knows how full its chunks are, not what
//! its cells mean, except that the first byte of a used cell is not zero.

use super::arena::{Arena, ChunkId, Handle};
use super::class::{self, CHUNK_BYTES, CLASSES, UNIT_BYTES};
use super::large::LargeRecords;
use crate::storage::fetch::fetch;
use alloc::vec::Vec;

/// Bytes of a bucket: a cache line.
pub(super) const BUCKET_BYTES: usize = 64;

/// What buckets are cut into: not a class of records, because they are found in another way when they move.
const BUCKETS: usize = CLASSES;
const NO_CHUNK: ChunkId = ChunkId::MAX;
const NO_CELL: u16 = u16::MAX;

/// All cells of a table.
pub(super) struct Heap {
    arena: Arena,
    /// By chunk id; for a page of large records it says nothing.
    chunks: Vec<Chunk>,
    classes: [Class; CLASSES + 1],
    large: LargeRecords,
    victim: Option<Victim>,
}

/// What is known of one chunk.
#[derive(Clone, Copy)]
struct Chunk {
    /// Neighbours in its list.
    previous: ChunkId,
    next: ChunkId,
    /// Cells in use.
    used: u16,
    /// Cells that were ever in use; those beyond hold anything.
    carved: u16,
    /// First of the free cells below `carved`; each holds the next one's number in its bytes 1 and 2.
    free: u16,
    class: u8,
}

/// Chunks of one class.
#[derive(Clone, Copy)]
struct Class {
    cell_bytes: usize,
    /// Cells of a chunk.
    cells: u16,
    /// In all chunks of the class.
    chunks: usize,
    used: usize,
    /// Heads of the lists: at least half full, but not full; less than half full.
    open: ChunkId,
    sparse: ChunkId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    /// Full, or being emptied.
    None,
    Open,
    Sparse,
}

/// The chunk that is being emptied, and how far.
#[derive(Clone, Copy)]
struct Victim {
    chunk: ChunkId,
    cell: u16,
}

/// A cell that was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved {
    pub(super) from: Handle,
    pub(super) to: Handle,
    /// It is a bucket, not a record.
    pub(super) is_bucket: bool,
}

impl Heap {
    /// An empty heap that uses at most so many chunk ids.
    pub(super) fn new(chunks_max: u32) -> Heap {
        let classes = core::array::from_fn(|class| {
            Class::new(if class == BUCKETS { BUCKET_BYTES } else { class::cell_bytes(class) })
        });
        Heap {
            arena: Arena::new(chunks_max),
            chunks: Vec::new(),
            classes,
            large: LargeRecords::default(),
            victim: None,
        }
    }

    /// A cell for a record of `bytes`; None if the handles are spent. Its first byte must be written before anything
    /// else is asked of the heap.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Handle> {
        match class::class_of(bytes) {
            Some(class) => self.take_cell(class, true),
            None => self.take_large(bytes),
        }
    }

    /// A cell for a bucket, as for [`Heap::take`].
    pub(super) fn take_bucket(&mut self) -> Option<Handle> {
        self.take_cell(BUCKETS, true)
    }

    /// Takes a cell back.
    pub(super) fn give_back(&mut self, handle: Handle) {
        let id = handle.chunk();
        if let Some(page) = self.arena.page(id) {
            return self.large.give_back(page, handle.unit());
        }
        let before = self.list_of(id);
        let chunk = &mut self.chunks[id as usize];
        let class = &mut self.classes[usize::from(chunk.class)];
        let cell = self.arena.cell_mut(handle).expect("not large");
        assert!(cell[0] != 0, "a cell is given back once");
        cell[0] = 0;
        cell[1..3].copy_from_slice(&chunk.free.to_le_bytes());
        chunk.free = (handle.unit() * UNIT_BYTES / class.cell_bytes) as u16;
        chunk.used -= 1;
        class.used -= 1;
        if chunk.used > 0 {
            return self.relist(id, before);
        }
        self.unlink(id, before);
        self.classes[usize::from(self.chunks[id as usize].class)].chunks -= 1;
        if self.victim.is_some_and(|victim| victim.chunk == id) {
            self.victim = None;
        }
        self.arena.give_back(id);
    }

    /// The bytes of a cell, and what follows it in its chunk.
    pub(super) fn cell(&self, handle: Handle) -> &[u8] {
        match self.arena.cell(handle) {
            Some(cell) => cell,
            None => self.large.record(self.page(handle), handle.unit()),
        }
    }

    /// Begins to bring a cell into the cache, the beginning of a large one.
    pub(super) fn fetch(&self, handle: Handle) {
        match self.arena.cell(handle) {
            Some(cell) => {
                let class = &self.classes[usize::from(self.chunks[handle.chunk() as usize].class)];
                fetch(&cell[..class.cell_bytes]);
            }
            None => fetch(self.large.record(self.page(handle), handle.unit())),
        }
    }

    /// Like [`Heap::cell`].
    pub(super) fn cell_mut(&mut self, handle: Handle) -> &mut [u8] {
        match self.arena.page(handle.chunk()) {
            Some(page) => self.large.record_mut(page, handle.unit()),
            None => self.arena.cell_mut(handle).expect("not large"),
        }
    }

    /// Can a record of `bytes` be written over the one that is there?
    pub(super) fn fits_in_place(&self, handle: Handle, bytes: usize) -> bool {
        match self.arena.page(handle.chunk()) {
            Some(page) => self.large.record(page, handle.unit()).len() == bytes,
            None => class::class_of(bytes) == Some(usize::from(self.chunks[handle.chunk() as usize].class)),
        }
    }

    /// Bytes of memory that the heap holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.arena.memory_bytes() + self.chunks.capacity() * size_of::<Chunk>() + self.large.memory_bytes()
    }

    /// Goes over the next cells of a chunk that is less than half full, for as many bytes, and moves those in use to
    /// other chunks of its class. Each is told to `moved` once its bytes lie at the new place; the old cell is taken
    /// back afterwards. Returns the bytes gone over; 0 if there is no such chunk.
    pub(super) fn compact_cells(
        &mut self,
        bytes_max: usize,
        mut moved: impl FnMut(&mut Heap, Moved),
    ) -> usize {
        let Some(victim) = self.victim.or_else(|| self.choose_victim()) else { return 0 };
        let Chunk { carved, class: class_at, .. } = self.chunks[victim.chunk as usize];
        let class_at = usize::from(class_at);
        let cell_bytes = self.classes[class_at].cell_bytes;
        let cells = (bytes_max / cell_bytes).max(1).min(usize::from(carved - victim.cell));
        for at in victim.cell..victim.cell + cells as u16 {
            if self.victim.is_none() {
                // The last one in use was moved, and the chunk taken back.
                break;
            }
            let from = Handle::new(victim.chunk, usize::from(at) * cell_bytes / UNIT_BYTES);
            if self.arena.cell(from).expect("not large")[0] == 0 {
                continue;
            }
            let Some(to) = self.take_cell(class_at, false) else {
                // Others took the room since the chunk was chosen.
                self.victim = None;
                let list = self.list_of(victim.chunk);
                self.link(victim.chunk, list);
                return usize::from(at - victim.cell + 1) * cell_bytes;
            };
            self.arena.copy_cell(from, to, cell_bytes);
            moved(self, Moved { from, to, is_bucket: class_at == BUCKETS });
            self.give_back(from);
        }
        if let Some(victim) = &mut self.victim {
            victim.cell += cells as u16;
        }
        cells * cell_bytes
    }

    /// Moves one chunk to another block, or gives a block back. Returns the bytes moved; 0 if there is no need.
    pub(super) fn compact_blocks(&mut self) -> usize {
        if self.arena.compact_one() { CHUNK_BYTES } else { 0 }
    }

    /// Would a compaction find something to do?
    pub(super) fn is_worth_compacting(&self) -> bool {
        self.victim.is_some()
            || self.classes.iter().any(Class::can_spare_a_chunk)
            || self.arena.is_worth_compacting()
    }

    /// Cells in use, large records too.
    #[cfg(test)]
    pub(super) fn cells_used(&self) -> usize {
        self.classes.iter().map(|class| class.used).sum::<usize>() + self.large.len()
    }

    /// Buckets in use.
    #[cfg(test)]
    pub(super) fn buckets_used(&self) -> usize {
        self.classes[BUCKETS].used
    }

    /// Is the cell in use? Panics if it is none.
    #[cfg(test)]
    pub(super) fn is_used(&self, handle: Handle) -> bool {
        if self.arena.page(handle.chunk()).is_some() {
            return !self.cell(handle).is_empty();
        }
        let chunk = &self.chunks[handle.chunk() as usize];
        let at = handle.unit() * UNIT_BYTES;
        let cell_bytes = self.classes[usize::from(chunk.class)].cell_bytes;
        assert!(
            at.is_multiple_of(cell_bytes) && at / cell_bytes < usize::from(chunk.carved),
            "between two cells"
        );
        self.cell(handle)[0] != 0
    }

    /// Panics if the lists and counts do not agree with the cells.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let ids = self.arena.check();
        let mut counted = alloc::vec![(0usize, 0usize); self.classes.len()];
        for &id in &ids {
            let chunk = &self.chunks[id as usize];
            let class = &self.classes[usize::from(chunk.class)];
            let cells = (0..chunk.carved).map(|cell| usize::from(cell) * class.cell_bytes / UNIT_BYTES);
            let used = cells.filter(|&unit| self.cell(Handle::new(id, unit))[0] != 0).count();
            assert!(used == usize::from(chunk.used) && used > 0 && chunk.carved <= class.cells);
            counted[usize::from(chunk.class)].0 += 1;
            counted[usize::from(chunk.class)].1 += used;
        }
        let mut listed = 0;
        for (class, counted) in self.classes.iter().zip(&counted) {
            assert_eq!((class.chunks, class.used), *counted);
            for (head, list) in [(class.open, List::Open), (class.sparse, List::Sparse)] {
                let (mut id, mut previous) = (head, NO_CHUNK);
                while id != NO_CHUNK {
                    assert_eq!(self.chunks[id as usize].previous, previous);
                    assert_eq!(self.list_of(id), list);
                    listed += 1;
                    (previous, id) = (id, self.chunks[id as usize].next);
                }
            }
        }
        let unlisted = ids.iter().filter(|&&id| self.list_of(id) == List::None).count();
        assert_eq!(listed + unlisted, ids.len());
    }

    fn take_large(&mut self, bytes: usize) -> Option<Handle> {
        if self.large.is_full() {
            let id = self.arena.take_for_page(self.large.pages())?;
            self.note(id, Chunk::EMPTY);
            self.large.add_page(id);
        }
        let (id, cell) = self.large.take(bytes);
        Some(Handle::new(id, cell))
    }

    fn take_cell(&mut self, class_at: usize, may_grow: bool) -> Option<Handle> {
        let class = self.classes[class_at];
        let id = match (class.open, class.sparse) {
            (NO_CHUNK, NO_CHUNK) if may_grow => self.add_chunk(class_at)?,
            (NO_CHUNK, NO_CHUNK) => return None,
            (NO_CHUNK, sparse) => sparse,
            (open, _) => open,
        };
        let before = self.list_of(id);
        let chunk = &mut self.chunks[id as usize];
        let cell = if chunk.free == NO_CELL { chunk.carved } else { chunk.free };
        let handle = Handle::new(id, usize::from(cell) * class.cell_bytes / UNIT_BYTES);
        if chunk.free == NO_CELL {
            chunk.carved += 1;
        } else {
            let bytes = self.arena.cell(handle).expect("not large");
            chunk.free = u16::from_le_bytes([bytes[1], bytes[2]]);
        }
        chunk.used += 1;
        self.classes[class_at].used += 1;
        self.relist(id, before);
        Some(handle)
    }

    fn add_chunk(&mut self, class_at: usize) -> Option<ChunkId> {
        let id = self.arena.take()?;
        self.note(id, Chunk { class: class_at as u8, ..Chunk::EMPTY });
        self.classes[class_at].chunks += 1;
        self.link(id, List::Sparse);
        Some(id)
    }

    fn note(&mut self, id: ChunkId, chunk: Chunk) {
        if id as usize == self.chunks.len() {
            self.chunks.push(chunk);
        } else {
            self.chunks[id as usize] = chunk;
        }
    }

    /// A chunk of which every cell fits into others of its class.
    fn choose_victim(&mut self) -> Option<Victim> {
        let chunk = self.classes.iter().find(|class| class.can_spare_a_chunk())?.sparse;
        self.unlink(chunk, List::Sparse);
        self.victim = Some(Victim { chunk, cell: 0 });
        self.victim
    }

    fn list_of(&self, id: ChunkId) -> List {
        let chunk = &self.chunks[id as usize];
        let cells = self.classes[usize::from(chunk.class)].cells;
        if chunk.used == cells || self.victim.is_some_and(|victim| victim.chunk == id) {
            List::None
        } else if chunk.used >= cells.div_ceil(2) {
            List::Open
        } else {
            List::Sparse
        }
    }

    fn relist(&mut self, id: ChunkId, before: List) {
        let after = self.list_of(id);
        if after != before {
            self.unlink(id, before);
            self.link(id, after);
        }
    }

    fn link(&mut self, id: ChunkId, list: List) {
        let Some(head) = self.head(id, list) else { return };
        let next = core::mem::replace(head, id);
        if next != NO_CHUNK {
            self.chunks[next as usize].previous = id;
        }
        let chunk = &mut self.chunks[id as usize];
        (chunk.previous, chunk.next) = (NO_CHUNK, next);
    }

    fn unlink(&mut self, id: ChunkId, list: List) {
        let Chunk { previous, next, .. } = self.chunks[id as usize];
        let Some(head) = self.head(id, list) else { return };
        if previous == NO_CHUNK {
            assert_eq!(*head, id, "a chunk without a previous one is the head of its list");
            *head = next;
        } else {
            self.chunks[previous as usize].next = next;
        }
        if next != NO_CHUNK {
            self.chunks[next as usize].previous = previous;
        }
    }

    fn head(&mut self, id: ChunkId, list: List) -> Option<&mut ChunkId> {
        let class = &mut self.classes[usize::from(self.chunks[id as usize].class)];
        match list {
            List::None => None,
            List::Open => Some(&mut class.open),
            List::Sparse => Some(&mut class.sparse),
        }
    }

    fn page(&self, handle: Handle) -> usize {
        self.arena.page(handle.chunk()).expect("a cell is in a chunk or large")
    }
}

impl Chunk {
    const EMPTY: Chunk =
        Chunk { previous: NO_CHUNK, next: NO_CHUNK, used: 0, carved: 0, free: NO_CELL, class: BUCKETS as u8 };
}

impl Class {
    fn new(cell_bytes: usize) -> Class {
        let cells = (CHUNK_BYTES / cell_bytes) as u16;
        Class { cell_bytes, cells, chunks: 0, used: 0, open: NO_CHUNK, sparse: NO_CHUNK }
    }

    /// Is there a chunk less than half full, and room for its cells in others?
    fn can_spare_a_chunk(&self) -> bool {
        let cells = usize::from(self.cells);
        self.sparse != NO_CHUNK && self.chunks * cells - self.used >= cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell of `bytes` that begins with `first`.
    fn cell(heap: &mut Heap, bytes: usize, first: u8) -> Handle {
        let handle = heap.take(bytes).expect("there are handles");
        heap.cell_mut(handle)[0] = first;
        handle
    }

    #[test]
    fn cells_are_used_again_before_new_ones() {
        let mut heap = Heap::new(1);
        let cells: Vec<Handle> = (0..64).map(|_| cell(&mut heap, 1_024, 1)).collect();
        assert_eq!(heap.take(1_024), None);
        heap.give_back(cells[7]);
        heap.give_back(cells[9]);
        assert_eq!(cell(&mut heap, 1_024, 1), cells[9]);
        assert_eq!(cell(&mut heap, 1_024, 1), cells[7]);
        heap.check();
    }

    #[test]
    fn only_chunks_whose_cells_fit_elsewhere_are_emptied() {
        let mut heap = Heap::new(8);
        let cells: Vec<Handle> = (0..128).map(|_| cell(&mut heap, 1_024, 1)).collect();
        cells[..40].iter().for_each(|&cell| heap.give_back(cell));
        assert!(!heap.is_worth_compacting(), "24 cells have nowhere to go");
        cells[64..88].iter().for_each(|&cell| heap.give_back(cell));
        assert!(heap.is_worth_compacting());
        let mut moves = 0;
        // The first 40 cells are free: going over them counts, too.
        while heap.compact_cells(8 << 10, |_, moved| {
            assert!(!moved.is_bucket && moved.from.chunk() == cells[0].chunk());
            moves += 1;
        }) > 0
        {
            heap.check();
        }
        assert_eq!((moves, heap.cells_used()), (24, 64));
    }

    #[test]
    fn room_taken_meanwhile_ends_a_compaction() {
        let mut heap = Heap::new(8);
        let cells: Vec<Handle> = (0..128).map(|_| cell(&mut heap, 1_024, 1)).collect();
        cells[..40].iter().for_each(|&cell| heap.give_back(cell));
        cells[64..88].iter().for_each(|&cell| heap.give_back(cell));
        assert_eq!(heap.compact_cells(1, |_, _| ()), 1_024);
        let taken = (0..24).map(|_| cell(&mut heap, 1_024, 1)).count();
        assert_eq!(taken, 24);
        while heap.compact_cells(64 << 10, |_, _| panic!("there is no room")) > 0 {}
        heap.check();
        assert_eq!(heap.cells_used(), 88);
    }
}
