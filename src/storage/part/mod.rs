//! Snapshot parts: which slots a part covers, and the format of its file. Knows neither table nor log.
//!
//! A part is the image of a contiguous sixteenth of a core's slots while the log ran from **start** to **end**: every
//! record of those slots that was logged below start, perhaps some logged between, none above end. So it means
//! something only together with the log from start on, and only once that is durable up to end.
//!
//! The file is a stream of **entries**, cut into a grid of **blocks** of 64 KiB (the last one may be shorter, a multiple
//! of 4 096). An entry may run on into the next blocks. A damaged block costs the slots that run through it, which its
//! neighbours name, and no others. All numbers little-endian.
//!
//! | at | size | field of a block's header |
//! |---|---|---|
//! | 0 | 4 | crc32c of bytes 4..end of the block, continued from crc32c(owner 28, part 1, generation 4, start 8) |
//! | 4 | 4 | "rcp" and the format, 1; a program that writes another one also raises the manifest's |
//! | 8 | 4 | number of this block in the file |
//! | 12 | 4 | payload bytes used |
//! | 16 | 4 | offset in the payload of the first entry that begins in this block; 0xFFFF_FFFF = none |
//! | 20 | 2 | the slot whose entries run when the block begins; 0xFFFF = none has begun |
//! | 22 | 2 | the same when it ends |
//! | 24 | 8 | zero |
//!
//! | tag | entry | then |
//! |---|---|---|
//! | 1 | header, the first entry | owner 28, part 1, generation 4, start 8, hlc bound 8, slots 4 |
//! | 2 | slot begins | slot 2, floor 8 + 4, round 8 + 4, adopted 8, epoch 8 |
//! | 3 | slot ends | slot 2, records 8, digest 8 |
//! | 4, 5, 6 | value, tombstone, expired; + 128: with expiry | key length 2, value length 4 (tag 4 only), version 8 + 4, \[expiry 8\], key, value |
//! | 16 | of the core, before any slot | length 4, bytes |
//! | 17, 18, 19 | of the slot: operation identity, promise, hint | length 4, bytes |
//! | 32 | trailer, the last entry, never split | end 8, slots 4, records 8, crc32c over the checksums of all blocks before its own 4 |

mod entry;
mod packer;
mod reader;
mod writer;

pub use entry::EntryKind;
pub use packer::Entries;
pub use reader::{Item, PartReader, PartReport};
pub use writer::{PartSource, PartStart, Walked, write_part};

use super::data_dir::part_name;
use super::lsn::Lsn;
use super::owner::Owner;
use super::small_file::PAGE_BYTES;
use crate::types::{CoreId, SLOTS, Slot, Version};
use bytes::{Buf, BufMut};
use core::fmt;

/// Parts of a core's snapshot.
pub const PARTS: usize = 16;
/// Blocks of a part's file begin at multiples of it.
pub const BLOCK_BYTES: usize = 64 << 10;

const MAGIC_AND_FORMAT: [u8; 4] = *b"rcp\x01";
const HEADER_BYTES: usize = 32;
const PAYLOAD_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;
const NO_ENTRY: u32 = u32::MAX;
const NO_SLOT: u16 = u16::MAX;

/// Which part of a core's snapshot: 0 .. [`PARTS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PartIndex(u8);

/// What the manifest says of a part's file: enough to tell this very file from every other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartFile {
    /// Which file of the part: rises by one each time.
    pub generation: u32,
    /// The log is needed from here on.
    pub start: Lsn,
    /// The log must be durable up to here.
    pub end: Lsn,
    /// Records in it.
    pub records: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Checksum of its last block, which holds the trailer and so binds all the others.
    pub crc: u32,
}

/// What a core knows of a slot besides its records, as of the part's start. The part only carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotState {
    /// The slot.
    pub slot: Slot,
    /// At or below it a record for an absent key is refused without a label.
    pub floor: Version,
    /// The collection round: c and i (`PROTOCOL.md` §3).
    pub round: (u64, u32),
    /// The greatest c adopted.
    pub adopted: u64,
    /// The epoch that it was adopted with.
    pub epoch: u64,
}

impl PartIndex {
    /// The part with that number; None from [`PARTS`] on.
    pub fn new(index: u8) -> Option<PartIndex> {
        (usize::from(index) < PARTS).then_some(PartIndex(index))
    }

    /// All parts, ascending.
    pub fn all() -> impl Iterator<Item = PartIndex> {
        (0..PARTS as u8).map(PartIndex)
    }

    /// The part that holds a slot, of the core that owns it.
    pub fn of_slot(slot: Slot, cores: u16) -> PartIndex {
        let nth = usize::from(slot.0 / cores);
        let slots = slots_of_core(slot.core(cores), cores);
        PartIndex(((nth * PARTS + PARTS - 1) / slots) as u8)
    }

    /// The slots of the part, ascending: a contiguous sixteenth of the core's.
    pub fn slots(self, core: CoreId, cores: u16) -> impl Iterator<Item = Slot> {
        let slots = slots_of_core(core, cores);
        let nth = slots * self.index() / PARTS..slots * (self.index() + 1) / PARTS;
        nth.map(move |nth| Slot((nth * usize::from(cores)) as u16 + core.0))
    }

    /// Its number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Its number, for arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PartIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl PartFile {
    /// The name of the file within its core's directory.
    pub fn name(&self, part: PartIndex) -> alloc::string::String {
        part_name(part, self.generation)
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.generation);
        out.put_u64_le(self.start.0);
        out.put_u64_le(self.end.0);
        out.put_u64_le(self.records);
        out.put_u64_le(self.bytes);
        out.put_u32_le(self.crc);
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<PartFile> {
        let file = PartFile {
            generation: bytes.try_get_u32_le().ok()?,
            start: Lsn(bytes.try_get_u64_le().ok()?),
            end: Lsn(bytes.try_get_u64_le().ok()?),
            records: bytes.try_get_u64_le().ok()?,
            bytes: bytes.try_get_u64_le().ok()?,
            crc: bytes.try_get_u32_le().ok()?,
        };
        let blocks = file.bytes.div_ceil(BLOCK_BYTES as u64);
        (file.bytes.is_multiple_of(PAGE_BYTES as u64) && blocks < u64::from(u32::MAX)).then_some(file)
    }
}

/// Slots that a core owns.
fn slots_of_core(core: CoreId, cores: u16) -> usize {
    assert!(core.0 < cores, "the core is one of the layout's");
    (SLOTS - usize::from(core.0)).div_ceil(usize::from(cores))
}

/// Where the checksums of a part's blocks start from: a block of another file never passes for one of this.
fn block_seed(owner: &Owner, part: PartIndex, generation: u32, start: Lsn) -> u32 {
    let mut bytes = [0; 13];
    let mut out = &mut bytes[..];
    out.put_u8(part.0);
    out.put_u32_le(generation);
    out.put_u64_le(start.0);
    crc32c::crc32c_append(owner.checksum(), &bytes)
}

/// A block's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BlockHeader {
    number: u32,
    used: u32,
    first_entry: u32,
    slot_before: u16,
    slot_after: u16,
}

impl BlockHeader {
    /// Fills in the header of a block that is otherwise complete; returns its checksum.
    fn seal(&self, block: &mut [u8], seed: u32) -> u32 {
        assert!(block.len() <= BLOCK_BYTES && block.len().is_multiple_of(PAGE_BYTES), "a block of the grid");
        let mut out = &mut block[4..HEADER_BYTES];
        out.put_slice(&MAGIC_AND_FORMAT);
        out.put_u32_le(self.number);
        out.put_u32_le(self.used);
        out.put_u32_le(self.first_entry);
        out.put_u16_le(self.slot_before);
        out.put_u16_le(self.slot_after);
        out.put_u64_le(0);
        let crc = crc32c::crc32c_append(seed, &block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Checks a block and takes it apart: header, payload, checksum. None: damaged, or not block `number` of this file.
    fn open(block: &[u8], number: u32, seed: u32) -> Option<(BlockHeader, &[u8], u32)> {
        let (mut head, rest) = block.split_at_checked(HEADER_BYTES)?;
        let crc = head.get_u32_le();
        if crc != crc32c::crc32c_append(seed, &block[4..]) || block[4..8] != MAGIC_AND_FORMAT {
            return None;
        }
        head.advance(MAGIC_AND_FORMAT.len());
        let header = BlockHeader {
            number: head.get_u32_le(),
            used: head.get_u32_le(),
            first_entry: head.get_u32_le(),
            slot_before: head.get_u16_le(),
            slot_after: head.get_u16_le(),
        };
        let payload = rest.get(..header.used as usize)?;
        let begins = header.first_entry == NO_ENTRY || header.first_entry < header.used;
        (header.number == number && begins).then_some((header, payload, crc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn every_slot_lies_in_one_part_of_its_core_and_parts_are_contiguous() {
        for cores in [1u16, 2, 3, 7, 64, 255, 1_500] {
            for core in (0..cores).map(CoreId) {
                let slots: Vec<Slot> = PartIndex::all().flat_map(|part| part.slots(core, cores)).collect();
                assert!(slots.iter().copied().eq(Slot::of_core(core, cores)), "core {core} of {cores}");
                for part in PartIndex::all() {
                    assert!(part.slots(core, cores).all(|slot| PartIndex::of_slot(slot, cores) == part));
                }
            }
        }
    }

    #[test]
    fn parts_of_a_core_differ_by_one_slot_at_most() {
        for cores in [1u16, 3, 7] {
            let sizes: Vec<usize> =
                PartIndex::all().map(|part| part.slots(CoreId(0), cores).count()).collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(most - least <= 1);
        }
    }
}
