//! Logs written by hand, batch by batch, for tests that damage them at a chosen place.

use crate::world::{value_of, with_record, written_id};
use ringcore::storage::block::{BLOCK_BYTES, Seal};
use ringcore::storage::log::Log;
use ringcore::storage::lsn::Lsn;
use ringcore::storage::recovery::{Announced, Arrival, ManifestFacts, Recovery, Restart, Scan, ScanError};
use ringcore::storage::segment::{LogShape, SegmentId};
use ringcore::types::{ClusterId, CoreId, Hlc, MemberId, Mono};
use std::collections::BTreeMap;

/// Of every batch.
pub(crate) const BOUND: Hlc = Hlc(1 << 16);

/// A batch that was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) ids: Vec<u64>,
}

/// The segment files of a log, all of whose batches were durable one after the other.
pub(crate) struct Image {
    pub(crate) shape: LogShape,
    pub(crate) files: BTreeMap<u32, Vec<u8>>,
    pub(crate) batches: Vec<Written>,
    pub(crate) facts: ManifestFacts,
    pub(crate) announced: Option<Announced>,
    pub(crate) log: Log,
    next_id: u64,
}

impl Image {
    /// A new log: its start batch is written.
    pub(crate) fn new(segment_blocks: u32) -> Image {
        let seal = Seal::new(ClusterId([1; 16]), MemberId(7), CoreId(3), 1);
        let shape = LogShape { seal, segment_blocks };
        let restart =
            Scan::new(shape, ManifestFacts::default(), None).judge().expect("it is empty").restart();
        let mut image = Image {
            shape,
            files: BTreeMap::new(),
            batches: Vec::new(),
            facts: ManifestFacts::default(),
            announced: None,
            log: Log::start(shape, 1 << 20, &restart),
            next_id: 1,
        };
        image.start(&restart);
        image
    }

    /// Begins the next incarnation.
    pub(crate) fn start(&mut self, restart: &Restart) {
        self.facts.incarnation = restart.incarnation;
        self.facts.cuts.push((restart.incarnation, restart.cut));
        self.log = Log::start(self.shape, 1 << 20, restart);
        self.write();
    }

    /// Appends a record with a value of that length to the batch that is being gathered.
    pub(crate) fn append(&mut self, value_bytes: usize) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        with_record(id, &value_of(id, value_bytes), |record| self.log.append(record));
        id
    }

    /// A batch of so many blocks, durable.
    pub(crate) fn batch(&mut self, blocks: usize) -> Written {
        let id = self.append(blocks * 4_032 - 600);
        let small = self.append(100);
        let mut written = self.write();
        assert_eq!(written.end - written.first, blocks as u64);
        written.ids = vec![id, small];
        self.batches.last_mut().expect("it was just written").ids = written.ids.clone();
        written
    }

    /// Writes the next batch.
    pub(crate) fn write(&mut self) -> Written {
        let plan = self.log.next_batch(Mono(0), BOUND).or_else(|| {
            let id = self.log.wants_segment()?;
            self.files.insert(id.0, vec![0; self.shape.segment_bytes()]);
            self.log.segment_ready(id);
            self.log.next_batch(Mono(0), BOUND)
        });
        let plan = plan.expect("a batch is due");
        let file = self.files.get_mut(&plan.segment.0).expect("the segment was made");
        self.log.encode(&plan, &mut file[plan.offset as usize..][..plan.bytes()]);
        self.log.written(plan.ticket, Mono(1)).expect("one at a time");
        let end = plan.first.0 + plan.blocks as u64;
        let written = Written { first: plan.first.0, end, ids: Vec::new() };
        self.batches.push(written.clone());
        written
    }

    /// The bytes of a block, by LSN, in a log whose segments lie in files of ascending numbers.
    pub(crate) fn block(&mut self, lsn: u64) -> &mut [u8] {
        let blocks = u64::from(self.shape.segment_blocks);
        let file = self.files.get_mut(&((lsn / blocks) as u32)).expect("the segment was made");
        &mut file[(lsn % blocks) as usize * BLOCK_BYTES..][..BLOCK_BYTES]
    }

    /// Damages a block.
    pub(crate) fn rot(&mut self, lsn: u64) {
        self.block(lsn)[2_000] ^= 4;
    }

    /// Makes a block as if it had never been written.
    pub(crate) fn unwrite(&mut self, lsn: u64) {
        self.block(lsn).fill(0);
    }

    pub(crate) fn try_recover(&self) -> Result<Recovery, ScanError> {
        let mut scan = Scan::new(self.shape, self.facts.clone(), self.announced);
        for (&id, bytes) in &self.files {
            scan.segment(SegmentId(id), bytes)?;
        }
        scan.judge()
    }

    pub(crate) fn recover(&self) -> Recovery {
        self.try_recover().expect("the log can be judged")
    }

    /// Ids of the records that a recovery gives.
    pub(crate) fn ids(&self, recovery: &Recovery, arrival: Arrival) -> Vec<u64> {
        let mut ids = Vec::new();
        for segment in recovery.segments(arrival) {
            let mut reader = recovery.read(segment, arrival, &self.files[&segment.0]);
            while let Some(batch) = reader.next_batch().expect("nothing has changed since") {
                for record in batch.records() {
                    let id = written_id(&record.expect("it was written so")).expect("it was written so");
                    let lies_here = |written: &&Written| written.first == batch.first.0;
                    let written = self.batches.iter().find(lies_here).expect("it was written there");
                    assert!(written.ids.contains(&id) && batch.end == Lsn(written.end));
                    ids.push(id);
                }
            }
        }
        ids
    }

    /// Ids of all records but those of the batches that begin at these LSNs.
    pub(crate) fn ids_but(&self, lost: &[u64]) -> Vec<u64> {
        let kept = self.batches.iter().filter(|batch| !lost.contains(&batch.first));
        kept.flat_map(|batch| batch.ids.clone()).collect()
    }
}
