//! Records too large for a chunk: one allocation each, named by page and cell. Knows nothing of chunks but the id
//! that each page has in place of one.

use super::arena::{ChunkId, UNITS};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The large records of a table.
#[derive(Default)]
pub(super) struct LargeRecords {
    pages: Vec<Page>,
    /// Pages with a free cell; the last one is filled first.
    open: Vec<usize>,
    bytes: usize,
}

/// As many records as a chunk's id can be followed by.
struct Page {
    /// What handles name it by.
    id: ChunkId,
    /// An empty one is free.
    cells: Vec<Box<[u8]>>,
    free: Vec<u16>,
}

impl LargeRecords {
    /// Has every page as many records as it can name?
    pub(super) fn is_full(&self) -> bool {
        self.open.is_empty()
    }

    /// Pages there are; they are numbered from 0.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// One page more, with that id.
    pub(super) fn add_page(&mut self, id: ChunkId) {
        self.open.push(self.pages.len());
        self.pages.push(Page { id, cells: Vec::new(), free: Vec::new() });
    }

    /// Id of the page and cell of a new record of zeros. There must be room.
    pub(super) fn take(&mut self, bytes: usize) -> (ChunkId, usize) {
        let at = *self.open.last().expect("not full");
        let page = &mut self.pages[at];
        let record = alloc::vec![0u8; bytes].into_boxed_slice();
        self.bytes += bytes;
        let cell = match page.free.pop() {
            Some(cell) => {
                page.cells[usize::from(cell)] = record;
                usize::from(cell)
            }
            None => {
                page.cells.push(record);
                page.cells.len() - 1
            }
        };
        let id = page.id;
        if page.is_full() {
            self.open.pop();
        }
        (id, cell)
    }

    /// Takes a record back.
    pub(super) fn give_back(&mut self, page: usize, cell: usize) {
        let at = page;
        let page = &mut self.pages[at];
        if page.is_full() {
            self.open.push(at);
        }
        let record = core::mem::take(&mut page.cells[cell]);
        assert!(!record.is_empty(), "a record is given back once");
        self.bytes -= record.len();
        page.free.push(cell as u16);
        if page.free.len() == page.cells.len() {
            (page.cells, page.free) = (Vec::new(), Vec::new());
        }
    }

    /// A record's bytes.
    pub(super) fn record(&self, page: usize, cell: usize) -> &[u8] {
        &self.pages[page].cells[cell]
    }

    /// A record's bytes.
    pub(super) fn record_mut(&mut self, page: usize, cell: usize) -> &mut [u8] {
        &mut self.pages[page].cells[cell]
    }

    /// Records there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pages.iter().map(|page| page.cells.len() - page.free.len()).sum()
    }

    /// Bytes of the records and of what is noted about them.
    pub(super) fn memory_bytes(&self) -> usize {
        let pages = self.pages.iter().map(|page| {
            page.cells.capacity() * size_of::<Box<[u8]>>() + page.free.capacity() * size_of::<u16>()
        });
        self.bytes
            + pages.sum::<usize>()
            + self.pages.capacity() * size_of::<Page>()
            + self.open.capacity() * size_of::<usize>()
    }
}

impl Page {
    fn is_full(&self) -> bool {
        self.cells.len() == UNITS && self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fill_up_and_their_cells_are_used_again() {
        let mut large = LargeRecords::default();
        assert!(large.is_full());
        large.add_page(5);
        for cell in 0..UNITS {
            assert!(!large.is_full());
            assert_eq!(large.take(1), (5, cell));
        }
        assert!(large.is_full());
        large.add_page(9);
        assert_eq!(large.take(1), (9, 0));
        large.give_back(0, 77);
        assert_eq!(large.take(1), (5, 77));
        assert_eq!(large.take(1), (9, 1));
    }

    #[test]
    fn memory_of_an_emptied_page_is_returned() {
        let mut large = LargeRecords::default();
        large.add_page(5);
        let empty = large.memory_bytes();
        for _ in 0..100 {
            large.take(1_000);
        }
        assert!(large.memory_bytes() > empty + 100_000);
        (0..100).for_each(|cell| large.give_back(0, cell));
        assert_eq!(large.memory_bytes(), empty);
    }
}
