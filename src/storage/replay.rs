//! The second pass of a recovery: the records of the batches that count, one segment at a time. Applies nothing.

use super::block::{self, BLOCK_BYTES, HEADER_BYTES, Reading};
use super::log_record::Records;
use super::lsn::Lsn;
use super::recovery::{Accepted, Arrival, Recovery};
use super::segment::{LogShape, SegmentId};
use crate::types::Hlc;
use crate::types::mutant::{Mutant, planted};
use alloc::vec::Vec;

/// A batch as it was written.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// LSN of its first block.
    pub first: Lsn,
    /// The LSN after its last.
    pub end: Lsn,
    /// In what order it came.
    pub arrival: Arrival,
    /// None of its versions is above.
    pub hlc_bound: Hlc,
    payload: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Its records, in the order in which they were appended. An error among them means that another program wrote
    /// them: the node does not start.
    pub fn records(&self) -> Records<'a> {
        Records::new(self.payload)
    }

    /// Bytes of its records.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }
}

/// A block that was intact in the first pass is not in the second: the disk does not hold still. Start over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("segment {segment}: block {lsn:?} was readable and is not any more")]
pub struct Unsteady {
    /// The file.
    pub segment: SegmentId,
    /// The block.
    pub lsn: Lsn,
}

/// Reads the batches of one segment. Holds one of them at a time.
#[derive(Debug)]
pub struct BatchReader<'a> {
    shape: LogShape,
    segment: SegmentId,
    base: u64,
    bytes: &'a [u8],
    accepted: &'a [Accepted],
    payload: Vec<u8>,
}

impl Recovery {
    /// The segments that hold batches of that arrival, in LSN order. All [`Arrival::Replayed`] ones are read first, in
    /// this order; a segment may hold both.
    pub fn segments(&self, arrival: Arrival) -> impl Iterator<Item = SegmentId> + '_ {
        let mut last = None;
        let of_arrival = self.accepted.iter().filter(move |batch| batch.arrival == arrival);
        let first_of_file = of_arrival.filter(move |batch| last.replace(batch.file) != Some(batch.file));
        first_of_file.map(|batch| self.files[batch.file as usize].id)
    }

    /// The batches of that arrival in one of [`Recovery::segments`]; `bytes` is the file, read again.
    pub fn read<'a>(&'a self, segment: SegmentId, arrival: Arrival, bytes: &'a [u8]) -> BatchReader<'a> {
        let file = self.files.iter().position(|file| file.id == segment).expect("the segment was shown");
        let base = self.files[file].base.expect("a segment with batches has a first LSN");
        let key = |batch: &Accepted| (batch.arrival != Arrival::Replayed, batch.first);
        let from = self.accepted.partition_point(|batch| key(batch) < (arrival != Arrival::Replayed, base));
        let here = |batch: &&Accepted| batch.arrival == arrival && batch.file as usize == file;
        let count = self.accepted[from..].iter().take_while(here).count();
        let accepted = &self.accepted[from..from + count];
        BatchReader { shape: self.shape, segment, base, bytes, accepted, payload: Vec::new() }
    }
}

impl BatchReader<'_> {
    /// The next batch in LSN order; None after the last. Every block's checksum is verified before any length in it is
    /// used.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>, Unsteady> {
        let Some((batch, rest)) = self.accepted.split_first() else { return Ok(None) };
        self.accepted = rest;
        self.payload.clear();
        for index in 0..batch.blocks {
            let lsn = batch.first + u64::from(index);
            let from = (lsn - self.base) as usize * BLOCK_BYTES;
            let block = self.bytes.get(from..from + BLOCK_BYTES);
            let reading = block.map(|block| (block, block::open(self.shape.seal, block)));
            match reading {
                Some((block, Reading::Intact(header)))
                    if (header.lsn.0, header.incarnation) == (lsn, batch.incarnation)
                        || planted(Mutant::NoGeneration) =>
                {
                    let used = HEADER_BYTES..HEADER_BYTES + usize::from(header.used);
                    self.payload.extend_from_slice(&block[used]);
                }
                _ => return Err(Unsteady { segment: self.segment, lsn: Lsn(lsn) }),
            }
        }
        Ok(Some(Batch {
            first: Lsn(batch.first),
            end: Lsn(batch.first + u64::from(batch.blocks)),
            arrival: batch.arrival,
            hlc_bound: batch.hlc_bound,
            payload: &self.payload,
        }))
    }
}
