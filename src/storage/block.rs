//! The log's block: 4 096 bytes that carry their own place, history and checksum. Knows bytes, not records.
//!
//! A block is the unit in which a log is damaged, so each one says by itself where it belongs, in which life of the
//! process it was written, and what was durable then. Header of every block, little-endian, 64 bytes:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | crc32c of bytes 4 .. 4 096, continued from the log's [`Seal`] |
//! | 4 | 1 | format, [`FORMAT`] |
//! | 5 | 1 | kind, [`BlockKind`] |
//! | 6 | 2 | payload bytes used in this block |
//! | 8 | 8 | LSN of this block |
//! | 16 | 4 | incarnation: which start of the process wrote it |
//! | 20 | 2 | index of this block in its batch |
//! | 22 | 2 | blocks in the batch |
//! | 24 | 8 | durable: every batch below this LSN was durable when this one was built |
//! | 32 | 8 | prev: where the batch before this one ends; differs from this batch's first LSN after a skipped segment's rest and after a cut |
//! | 40 | 8 | cut: where the previous incarnation's log ends |
//! | 48 | 8 | HLC bound: no version above it has left this core |
//! | 56 | 2 | offset in the payload of the first record that begins in this block, [`NO_RECORD`] if none does |
//! | 58 | 6 | zero |
//!
//! The payload follows, then zeros.

use super::lsn::Lsn;
use crate::types::{ClusterId, CoreId, Hlc, MemberId};
use crc32c::{crc32c, crc32c_append};

/// Bytes of a block: what one O_DIRECT write may be as small as.
pub const BLOCK_BYTES: usize = 4_096;
/// Bytes of its header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of payload that fit.
pub const PAYLOAD_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;
/// Blocks of the largest batch: holds a message of 4 MiB and its overhead.
pub const BATCH_BLOCKS_MAX: u16 = 1_100;
/// The format that this program writes, and the only one that it reads. It covers the record kinds too.
pub const FORMAT: u8 = 1;
/// Above every LSN: 2^62 blocks are never written, so sums of LSNs and lengths cannot overflow.
pub const LSN_END: Lsn = Lsn(1 << 62);
/// No record begins in the block.
pub const NO_RECORD: u16 = 0xFFFF;

const AT_FORMAT: usize = 4;
const AT_KIND: usize = 5;
const AT_USED: usize = 6;
const AT_LSN: usize = 8;
const AT_INCARNATION: usize = 16;
const AT_INDEX: usize = 20;
const AT_COUNT: usize = 22;
const AT_DURABLE: usize = 24;
const AT_PREV: usize = 32;
const AT_CUT: usize = 40;
const AT_HLC_BOUND: usize = 48;
const AT_FIRST_RECORD: usize = 56;
const AT_ZERO: usize = 58;

/// Where every checksum of one log starts: a block of another cluster, member, layout or core is never intact here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal(u32);

impl Seal {
    /// The seal of one core's log.
    pub fn new(cluster: ClusterId, member: MemberId, core: CoreId, layout: u32) -> Seal {
        let mut bytes = [0; 26];
        bytes[..16].copy_from_slice(&cluster.0);
        bytes[16..20].copy_from_slice(&member.0.to_le_bytes());
        bytes[20..22].copy_from_slice(&core.0.to_le_bytes());
        bytes[22..].copy_from_slice(&layout.to_le_bytes());
        Seal(crc32c(&bytes))
    }

    fn checksum(self, block: &[u8]) -> u32 {
        crc32c_append(self.0, &block[AT_FORMAT..])
    }
}

/// Why a batch was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BlockKind {
    /// It holds records.
    Data = 1,
    /// The first of an incarnation: names the cut.
    Start = 2,
    /// The core fell quiet: proves the batch before it.
    Close = 3,
}

/// What a block says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Why its batch was written.
    pub kind: BlockKind,
    /// Payload bytes used in this block.
    pub used: u16,
    /// Its own number.
    pub lsn: Lsn,
    /// Which start of the process wrote it, from 1.
    pub incarnation: u32,
    /// Its index in its batch.
    pub index: u16,
    /// Blocks of its batch, 1 .. [`BATCH_BLOCKS_MAX`].
    pub count: u16,
    /// Every batch below was durable when this one was built.
    pub durable: Lsn,
    /// Where the batch before this one ends.
    pub prev: Lsn,
    /// Where the previous incarnation's log ends.
    pub cut: Lsn,
    /// No version above it had left the core.
    pub hlc_bound: Hlc,
    /// Offset in the payload of the first record that begins here, or [`NO_RECORD`].
    pub first_record: u16,
}

impl Header {
    /// The LSN of the batch's first block.
    pub fn batch(&self) -> Lsn {
        Lsn(self.lsn.0 - u64::from(self.index))
    }

    /// Writes the header and the checksum of a block whose payload is already in place, zeros after it.
    pub fn seal(&self, seal: Seal, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a block has one size");
        assert!(self.index < self.count && self.count <= BATCH_BLOCKS_MAX, "the index lies in the batch");
        assert!(usize::from(self.used) <= PAYLOAD_BYTES, "the payload fits its block");
        block[AT_FORMAT] = FORMAT;
        block[AT_KIND] = self.kind as u8;
        block[AT_USED..AT_LSN].copy_from_slice(&self.used.to_le_bytes());
        block[AT_LSN..AT_INCARNATION].copy_from_slice(&self.lsn.0.to_le_bytes());
        block[AT_INCARNATION..AT_INDEX].copy_from_slice(&self.incarnation.to_le_bytes());
        block[AT_INDEX..AT_COUNT].copy_from_slice(&self.index.to_le_bytes());
        block[AT_COUNT..AT_DURABLE].copy_from_slice(&self.count.to_le_bytes());
        block[AT_DURABLE..AT_PREV].copy_from_slice(&self.durable.0.to_le_bytes());
        block[AT_PREV..AT_CUT].copy_from_slice(&self.prev.0.to_le_bytes());
        block[AT_CUT..AT_HLC_BOUND].copy_from_slice(&self.cut.0.to_le_bytes());
        block[AT_HLC_BOUND..AT_FIRST_RECORD].copy_from_slice(&self.hlc_bound.0.to_le_bytes());
        block[AT_FIRST_RECORD..AT_ZERO].copy_from_slice(&self.first_record.to_le_bytes());
        block[AT_ZERO..HEADER_BYTES].fill(0);
        let checksum = seal.checksum(block);
        block[..AT_FORMAT].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// What lies where a block should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// The checksum holds and the header makes sense.
    Intact(Header),
    /// Never written since the file was made.
    Zero,
    /// Neither.
    Damaged,
    /// The checksum holds, but the header is not of [`FORMAT`]: a newer program wrote it.
    Foreign,
}

/// Reads one block. Never panics on any bytes of the right length.
pub fn open(seal: Seal, block: &[u8]) -> Reading {
    assert_eq!(block.len(), BLOCK_BYTES, "a block has one size");
    if u32_at(block, 0) != seal.checksum(block) {
        return if is_zero(block) { Reading::Zero } else { Reading::Damaged };
    }
    match header_of(block) {
        Some(header) => Reading::Intact(header),
        None => Reading::Foreign,
    }
}

/// The blocks-in-batch field of a block that failed its checksum.
#[cfg(mutants)]
pub(super) fn unverified_count(block: &[u8]) -> u16 {
    u16_at(block, AT_COUNT)
}

fn header_of(block: &[u8]) -> Option<Header> {
    let kind = match block[AT_KIND] {
        1 => BlockKind::Data,
        2 => BlockKind::Start,
        3 => BlockKind::Close,
        _ => return None,
    };
    let header = Header {
        kind,
        used: u16_at(block, AT_USED),
        lsn: Lsn(u64_at(block, AT_LSN)),
        incarnation: u32_at(block, AT_INCARNATION),
        index: u16_at(block, AT_INDEX),
        count: u16_at(block, AT_COUNT),
        durable: Lsn(u64_at(block, AT_DURABLE)),
        prev: Lsn(u64_at(block, AT_PREV)),
        cut: Lsn(u64_at(block, AT_CUT)),
        hlc_bound: Hlc(u64_at(block, AT_HLC_BOUND)),
        first_record: u16_at(block, AT_FIRST_RECORD),
    };
    let known = block[AT_FORMAT] == FORMAT
        && usize::from(header.used) <= PAYLOAD_BYTES
        && header.index < header.count
        && header.count <= BATCH_BLOCKS_MAX
        && header.lsn.0 >= u64::from(header.index)
        && [header.lsn, header.durable, header.prev, header.cut].iter().all(|&lsn| lsn < LSN_END)
        && block[AT_ZERO..HEADER_BYTES].iter().all(|&byte| byte == 0);
    known.then_some(header)
}

// Folding 64 bytes at a time lets the compiler use wide registers: a fresh segment is 16 MiB of zeros.
fn is_zero(block: &[u8]) -> bool {
    block.chunks_exact(64).all(|chunk| chunk.iter().fold(0, |seen, &byte| seen | byte) == 0)
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(block[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use alloc::vec::Vec;
    use alloc::{format, string::String};

    fn seal() -> Seal {
        Seal::new(ClusterId([7; 16]), MemberId(3), CoreId(2), 1)
    }

    fn header() -> Header {
        Header {
            kind: BlockKind::Data,
            used: 5,
            lsn: Lsn(0x0102_0304),
            incarnation: 9,
            index: 1,
            count: 2,
            durable: Lsn(0x0102_0300),
            prev: Lsn(0x0102_0303),
            cut: Lsn(0x0102_0000),
            hlc_bound: Hlc(0x1122_3344_5566_7788),
            first_record: 3,
        }
    }

    fn sealed(header: &Header) -> Vec<u8> {
        let mut block = alloc::vec![0; BLOCK_BYTES];
        block[HEADER_BYTES..HEADER_BYTES + 5].copy_from_slice(b"hello");
        header.seal(seal(), &mut block);
        block
    }

    #[test]
    fn bytes_of_a_block_are_fixed() {
        let block = sealed(&header());
        let hex: String = block[..72].iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = [
            "aa334442",         // checksum, found with another implementation of crc32c
            "01010500",         // format 1, data, 5 bytes
            "0403020100000000", // LSN
            "0900000001000200", // incarnation, index, count
            "0003020100000000", // durable
            "0303020100000000", // prev
            "0000020100000000", // cut
            "8877665544332211", // HLC bound
            "0300000000000000", // first record, zeros
            "68656c6c6f000000", // payload, zeros
        ];
        assert_eq!(hex, golden.concat());
        assert!(block[72..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn sealed_block_reads_back() {
        assert_eq!(open(seal(), &sealed(&header())), Reading::Intact(header()));
    }

    #[test]
    fn block_of_another_log_is_damaged() {
        let block = sealed(&header());
        for other in [
            Seal::new(ClusterId([8; 16]), MemberId(3), CoreId(2), 1),
            Seal::new(ClusterId([7; 16]), MemberId(4), CoreId(2), 1),
            Seal::new(ClusterId([7; 16]), MemberId(3), CoreId(1), 1),
            Seal::new(ClusterId([7; 16]), MemberId(3), CoreId(2), 2),
        ] {
            assert_eq!(open(other, &block), Reading::Damaged);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut block = sealed(&header());
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(seal(), &block), Reading::Damaged, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn unwritten_block_is_zero_and_one_set_bit_is_damage() {
        let mut block = alloc::vec![0; BLOCK_BYTES];
        assert_eq!(open(seal(), &block), Reading::Zero);
        for at in [0, 4, 63, 64, BLOCK_BYTES - 1] {
            block[at] = 0x10;
            assert_eq!(open(seal(), &block), Reading::Damaged);
            block[at] = 0;
        }
    }

    #[test]
    fn intact_block_of_an_unknown_format_is_told_apart_from_damage() {
        for (at, byte) in
            [(AT_FORMAT, 2), (AT_KIND, 0), (AT_KIND, 4), (AT_ZERO + 5, 1), (AT_COUNT, 1), (AT_CUT + 7, 0x40)]
        {
            let mut block = sealed(&header());
            block[at] = byte;
            let checksum = seal().checksum(&block);
            block[..AT_FORMAT].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(open(seal(), &block), Reading::Foreign, "byte {at}");
        }
    }

    #[test]
    fn random_bytes_are_damage() {
        let mut prng = Prng::new(1);
        let mut block = alloc::vec![0; BLOCK_BYTES];
        for _ in 0..200 {
            block.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&prng.next_u64().to_le_bytes()));
            assert_eq!(open(seal(), &block), Reading::Damaged);
        }
    }
}
