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

#[cfg(test)]
mod tests {
    use super::super::entry::Header;
    use super::super::{PartIndex, block_seed};
    use super::*;
    use crate::storage::data_dir::LayoutId;
    use crate::storage::owner::Owner;
    use crate::types::{ClusterId, CoreId, Hlc, MemberId, Slot, Version};

    fn owner() -> Owner {
        let (cluster, member) = (ClusterId(*b"0123456789abcdef"), MemberId(0x11));
        Owner { cluster, member, layout: LayoutId(0x12), cores: 0x13, core: CoreId(2) }
    }

    #[test]
    fn file_has_not_drifted() {
        let (part, start) = (PartIndex::new(0).expect("0 is below 16"), Lsn(0x21));
        let mut packer = Packer::new(block_seed(&owner(), part, 7, start));
        let (owner, hlc_bound) = (owner(), Hlc(0x22));
        packer.fixed(&Entry::Header(Header { owner, part: 0, generation: 7, start, hlc_bound, slots: 1 }));
        packer.step(1).carried(EntryKind::Core, b"epoch");
        let floor = Version::new(Hlc(0x31), MemberId(0x32));
        let state = SlotState { slot: Slot(2), floor, round: (0x33, 0x34), adopted: 0x35, epoch: 0x36 };
        packer.begin_slot(&state);
        let version = Version::new(Hlc(0x41), MemberId(0x42));
        let body = Body::Value(b"value");
        packer.step(1).record(&RecordRef { key: b"key", version, expires_at_ms: 0, body });
        packer.step(1).carried(EntryKind::Identity, b"id");
        packer.end_slot(&state);
        let totals = packer.finish(Lsn(0x51));
        let file = packer.take_finished().expect("it is finished");
        assert_eq!((totals.records, totals.bytes, file.len()), (1, 4_096, 4_096));
        assert_eq!(file[..4], totals.crc.to_le_bytes());
        let mut golden = b"rcp\x01\0\0\0\0\xb9\0\0\0\0\0\0\0\xff\xff\x02\0\0\0\0\0\0\0\0\0".to_vec();
        golden.extend(b"\x010123456789abcdef\x11\0\0\0\x12\0\0\0\x13\0\x02\0\0\x07\0\0\0");
        golden.extend(b"\x21\0\0\0\0\0\0\0\x22\0\0\0\0\0\0\0\x01\0\0\0");
        golden.extend(b"\x10\x05\0\0\0epoch");
        golden.extend(b"\x02\x02\0\x31\0\0\0\0\0\0\0\x32\0\0\0\x33\0\0\0\0\0\0\0\x34\0\0\0");
        golden.extend(b"\x35\0\0\0\0\0\0\0\x36\0\0\0\0\0\0\0");
        golden.extend(b"\x04\x03\0\x05\0\0\0\x41\0\0\0\0\0\0\0\x42\0\0\0keyvalue");
        golden.extend(b"\x11\x02\0\0\0id");
        golden.extend(b"\x03\x02\0\x01\0\0\0\0\0\0\0");
        golden.extend(b"\xc1\xa5\xda\x31\x85\x1e\x18\x9d"); // digest
        golden.extend(b"\x20\x51\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(file[4..4 + golden.len()], golden);
        assert_eq!(totals.crc, 0x5055_1f3f);
    }

    #[test]
    fn trailer_is_never_split_and_the_slot_running_is_named() {
        // Every fill of the first block, to where the trailer no longer fits.
        for fill in PAYLOAD_BYTES - 150..PAYLOAD_BYTES + 10 {
            let mut packer = Packer::new(0);
            packer.step(1).carried(EntryKind::Core, &alloc::vec![7; fill - 5]);
            packer.begin_slot(&SlotState::default());
            packer.end_slot(&SlotState::default());
            let totals = packer.finish(Lsn(1));
            let file = packer.take_finished().expect("it is finished");
            assert!(packer.take_finished().is_none());
            assert_eq!(file.len() as u64, totals.bytes);
            let mut before = NO_SLOT;
            let blocks = file.chunks(BLOCK_BYTES);
            let last = blocks.len() - 1;
            for (number, block) in blocks.enumerate() {
                let (header, payload, _) = BlockHeader::open(block, number as u32, 0).expect("intact");
                assert_eq!(header.slot_before, before, "fill {fill}");
                before = header.slot_after;
                if number == last {
                    let trailer = &payload[payload.len() - TRAILER_BYTES..];
                    let parsed = entry::parse(trailer);
                    assert!(matches!(parsed, entry::Parsed::Entry(Entry::Trailer(_), TRAILER_BYTES)));
                }
            }
            assert_eq!(before, 0);
        }
    }
}
