//! Packs entries into a part's blocks, in memory. Does no I/O: finished pieces of the file are taken from it.

use super::entry::{self, Entry, EntryKind, TRAILER_BYTES, Trailer};
use super::{BLOCK_BYTES, BlockHeader, HEADER_BYTES, NO_ENTRY, NO_SLOT, PAYLOAD_BYTES, SlotState};
use crate::storage::lsn::Lsn;
use crate::storage::small_file::PAGE_BYTES;
use crate::types::{Body, RecordRef};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Blocks of one write.
const WRITE_BLOCKS: usize = 2;

/// Where a source puts the entries of one step of its walk.
pub struct Entries<'a> {
    packer: &'a mut Packer,
    bytes_left: usize,
}

/// The file under construction.
pub(super) struct Packer {
    seed: u32,
    /// Blocks of the next write; the last of them is still being filled.
    write: Vec<u8>,
    /// Where in `write` the block being filled begins.
    block_at: usize,
    number: u32,
    first_entry: u32,
    slot_before: u16,
    slot: u16,
    finished: VecDeque<Vec<u8>>,
    packed: u64,
    blocks_crc: u32,
    slots: u32,
    records: u64,
    slot_records: u64,
    slot_digest: u64,
}

/// What became of the whole file.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

impl Entries<'_> {
    /// A record of the slot.
    pub fn record(&mut self, record: &RecordRef<'_>) {
        assert!(self.packer.slot != NO_SLOT, "records belong to a slot");
        let value = match record.body {
            Body::Value(value) => value,
            Body::Tombstone | Body::Expired => &[],
        };
        let head = Scratch::filled(|room| entry::put_record_head(record, room));
        self.put(&[head.bytes(), record.key, value]);
        self.packer.records += 1;
        self.packer.slot_records += 1;
        self.packer.slot_digest = self.packer.slot_digest.wrapping_add(entry::record_digest(record));
    }

    /// An entry whose bytes the part only carries.
    pub fn carried(&mut self, kind: EntryKind, bytes: &[u8]) {
        let of_core = kind == EntryKind::Core;
        assert!(of_core == (self.packer.slot == NO_SLOT), "entries of the core come before the first slot");
        let head = Scratch::filled(|room| entry::put_carried_head(kind, bytes.len(), room));
        self.put(&[head.bytes(), bytes]);
    }

    /// Has the step done its share? What is put in nevertheless only makes the step longer.
    pub fn is_full(&self) -> bool {
        self.bytes_left == 0
    }

    fn put(&mut self, pieces: &[&[u8]]) {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.packer.entry(pieces);
    }
}

impl Packer {
    pub(super) fn new(seed: u32) -> Packer {
        let mut packer = Packer {
            seed,
            write: Vec::new(),
            block_at: 0,
            number: 0,
            first_entry: NO_ENTRY,
            slot_before: NO_SLOT,
            slot: NO_SLOT,
            finished: VecDeque::new(),
            packed: 0,
            blocks_crc: 0,
            slots: 0,
            records: 0,
            slot_records: 0,
            slot_digest: 0,
        };
        packer.begin_block();
        packer
    }

    /// An entry of fixed size.
    pub(super) fn fixed(&mut self, entry: &Entry<'_>) {
        self.entry(&[Scratch::filled(|room| entry.put(room)).bytes()]);
    }

    /// From here on entries are the slot's.
    pub(super) fn begin_slot(&mut self, state: &SlotState) {
        assert!(self.slot == NO_SLOT || self.slot < state.slot.0, "slots come in order, each once");
        self.make_room();
        // A block that begins with this entry still runs the slot before it; a block into which this entry runs on
        // already runs the new one.
        self.slot = state.slot.0;
        self.fixed(&Entry::SlotBegin(*state));
        self.slots += 1;
        (self.slot_records, self.slot_digest) = (0, 0);
    }

    /// The slot's entries are complete.
    pub(super) fn end_slot(&mut self, state: &SlotState) {
        assert!(self.slot == state.slot.0, "the slot that was begun");
        let (records, digest) = (self.slot_records, self.slot_digest);
        self.fixed(&Entry::SlotEnd { slot: state.slot, records, digest });
    }

    /// Bytes of entries so far.
    pub(super) fn packed(&self) -> u64 {
        self.packed
    }

    /// Room for about that many bytes of entries.
    pub(super) fn step(&mut self, bytes: usize) -> Entries<'_> {
        Entries { packer: self, bytes_left: bytes }
    }

    /// The next piece of the file, if a whole one is ready; pieces follow each other without gaps.
    pub(super) fn take_finished(&mut self) -> Option<Vec<u8>> {
        self.finished.pop_front()
    }

    /// Ends the file: what was not taken yet is ready now.
    pub(super) fn finish(&mut self, end: Lsn) -> Totals {
        // The trailer's block binds all the blocks before it, so they must be complete when it begins.
        if PAYLOAD_BYTES - self.used() < TRAILER_BYTES {
            self.end_block();
            self.begin_block();
        }
        let (slots, records, blocks_crc) = (self.slots, self.records, self.blocks_crc);
        self.fixed(&Entry::Trailer(Trailer { end, slots, records, blocks_crc }));
        let bytes = u64::from(self.number) * BLOCK_BYTES as u64;
        let crc = self.seal_block();
        let last_bytes = (self.write.len() - self.block_at) as u64;
        self.finished.push_back(core::mem::take(&mut self.write));
        Totals { records, bytes: bytes + last_bytes, crc }
    }

    fn used(&self) -> usize {
        self.write.len() - self.block_at - HEADER_BYTES
    }

    fn entry(&mut self, pieces: &[&[u8]]) {
        self.make_room();
        if self.first_entry == NO_ENTRY {
            self.first_entry = self.used() as u32;
        }
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                self.make_room();
                let room = PAYLOAD_BYTES - self.used();
                let (now, later) = rest.split_at(room.min(rest.len()));
                self.write.extend_from_slice(now);
                self.packed += now.len() as u64;
                rest = later;
            }
        }
    }

    /// Leaves at least one byte of room in the block being filled.
    fn make_room(&mut self) {
        if self.used() == PAYLOAD_BYTES {
            self.end_block();
            self.begin_block();
        }
    }

    fn begin_block(&mut self) {
        if self.write.is_empty() {
            self.write.reserve_exact(WRITE_BLOCKS * BLOCK_BYTES);
        }
        self.block_at = self.write.len();
        self.first_entry = NO_ENTRY;
        self.slot_before = self.slot;
        self.write.resize(self.block_at + HEADER_BYTES, 0);
    }

    /// Closes a block that is not the last: it is stretched to its full length.
    fn end_block(&mut self) {
        let used = self.used();
        self.write.resize(self.block_at + HEADER_BYTES + PAYLOAD_BYTES, 0);
        let crc = self.seal(used);
        self.blocks_crc = crc32c::crc32c_append(self.blocks_crc, &crc.to_le_bytes());
        self.number = self.number.checked_add(1).expect("256 TiB are far above any part");
        if self.write.len() == WRITE_BLOCKS * BLOCK_BYTES {
            self.finished.push_back(core::mem::take(&mut self.write));
        }
    }

    /// Closes the last block.
    fn seal_block(&mut self) -> u32 {
        let used = self.used();
        self.write.resize(self.block_at + (HEADER_BYTES + used).next_multiple_of(PAGE_BYTES), 0);
        self.seal(used)
    }

    fn seal(&mut self, used: usize) -> u32 {
        let header = BlockHeader {
            number: self.number,
            used: used as u32,
            first_entry: self.first_entry,
            slot_before: self.slot_before,
            slot_after: self.slot,
        };
        header.seal(&mut self.write[self.block_at..], self.seed)
    }
}

/// The longest head or entry of fixed size, on the stack.
struct Scratch {
    bytes: [u8; 64],
    len: usize,
}

impl Scratch {
    fn filled(put: impl FnOnce(&mut &mut [u8])) -> Scratch {
        let mut bytes = [0; 64];
        let mut room = &mut bytes[..];
        put(&mut room);
        let len = 64 - room.len();
        Scratch { bytes, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
