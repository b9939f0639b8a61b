//! Reads a part's file back: checks every block, hands out what is intact, and says which slots are not.

use super::entry::{self, Entry, EntryKind, Parsed, Trailer};
use super::{BLOCK_BYTES, BlockHeader, NO_ENTRY, NO_SLOT, PartFile, PartIndex, SlotState, block_seed};
use crate::storage::disk::{Disk, DiskErrorKind, DiskResult};
use crate::storage::owner::Owner;
use crate::storage::small_file::join;
use crate::types::{Hlc, RecordRef, Slot};
use alloc::vec::Vec;

/// Blocks of one read.
const READ_BLOCKS: usize = 4;

/// What a part holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// A slot begins; what follows up to the next is the slot's.
    Slot(SlotState),
    /// A record of a slot.
    Record(Slot, RecordRef<'a>),
    /// A carried entry of a slot.
    Carried(Slot, EntryKind, &'a [u8]),
    /// A carried entry of the core.
    Core(&'a [u8]),
}

/// How much of a part was intact.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartReport {
    /// Slots whose records may be incomplete, ascending. What was handed out of them is genuine.
    pub damaged: Vec<Slot>,
    /// Entries of the core may be missing.
    pub core_damaged: bool,
    /// Numbers of the blocks that could not be used.
    pub bad_blocks: Vec<u32>,
    /// Records handed out.
    pub records: u64,
    /// No version above it had left the core when the part was begun; zero if the header is damaged.
    pub hlc_bound: Hlc,
}

/// A part being read. `while reader.next().await? { for item in reader.items() { … } }`, then [`PartReader::finish`].
pub struct PartReader<D: Disk> {
    disk: D,
    file: Option<D::File>,
    source: Source,
    /// Blocks read and not yet looked at.
    ahead: Vec<u8>,
    ahead_at: usize,
    /// Entries of intact blocks, from the first that was not handed out.
    entries: Vec<u8>,
    entries_at: usize,
    track: Track,
}

/// The items of some blocks, each handed out once.
pub struct Items<'a> {
    entries: &'a [u8],
    at: &'a mut usize,
    track: &'a mut Track,
}

/// What the file should be.
struct Source {
    owner: Owner,
    part: PartIndex,
    expected: PartFile,
    seed: u32,
    /// The block to look at next.
    number: u32,
    blocks: u32,
}

/// Where in the stream of entries the reader is, and what it has found wrong.
struct Track {
    /// The part's slots, ascending, and whether each is damaged.
    slots: Vec<(Slot, bool)>,
    /// Entries were lost since the slot below: where the next intact block takes up is not known yet.
    lost: bool,
    /// The slot whose entries run.
    slot: Option<Slot>,
    /// Its end has not been seen.
    open: bool,
    slot_records: u64,
    slot_digest: u64,
    header: Option<entry::Header>,
    trailer: Option<Trailer>,
    /// Over the checksums of all intact blocks before the last.
    blocks_crc: u32,
    last_crc: Option<u32>,
    slots_begun: u32,
    report: PartReport,
}

impl PartReport {
    /// Is nothing missing?
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty() && !self.core_damaged
    }
}

impl<D: Disk> PartReader<D> {
    /// Opens the file that the manifest names. A file that is not there is a part whose every slot is damaged.
    pub async fn open(
        disk: &D,
        dir: &str,
        owner: &Owner,
        part: PartIndex,
        expected: &PartFile,
    ) -> DiskResult<PartReader<D>> {
        let file = match disk.open(&join(dir, &expected.name(part)), false).await {
            Ok(file) => Some(file),
            Err(error) if error.kind == DiskErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let source = Source {
            owner: *owner,
            part,
            expected: *expected,
            seed: block_seed(owner, part, expected.generation, expected.start),
            number: 0,
            blocks: u32::try_from(expected.bytes.div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX),
        };
        let track = Track::new(part.slots(owner.core, owner.cores));
        let (ahead, entries) = (Vec::new(), Vec::new());
        Ok(PartReader { disk: disk.clone(), file, source, ahead, ahead_at: 0, entries, entries_at: 0, track })
    }

    /// Reads on. False: there is nothing more, and every item has been handed out.
    pub async fn next(&mut self) -> DiskResult<bool> {
        // What the caller did not ask for still counts as read.
        self.items().for_each(drop);
        self.entries.drain(..self.entries_at);
        self.entries_at = 0;
        if self.source.number == self.source.blocks {
            return Ok(false);
        }
        if self.ahead_at == self.ahead.len() {
            self.read_ahead().await?;
        }
        let len = self.source.block_bytes(self.source.number);
        let block = self.ahead.get(self.ahead_at..self.ahead_at + len).unwrap_or(&[]);
        let number = self.source.number;
        match BlockHeader::open(block, number, self.source.seed) {
            Some((header, payload, crc)) => {
                self.track.take_up(&header, payload, &mut self.entries);
                self.track.count_block(crc);
            }
            None => {
                self.entries.clear();
                self.track.lose(number);
            }
        }
        self.ahead_at = (self.ahead_at + len).min(self.ahead.len());
        self.source.number += 1;
        Ok(true)
    }

    /// The items that the last call of [`PartReader::next`] completed.
    pub fn items(&mut self) -> Items<'_> {
        Items { entries: &self.entries, at: &mut self.entries_at, track: &mut self.track }
    }

    /// How much was intact; call it when `next` has said that there is nothing more.
    pub fn finish(mut self) -> PartReport {
        assert!(self.source.number == self.source.blocks, "the file was read to its end");
        self.items().for_each(drop);
        self.track.finish(&self.source)
    }

    /// Fetches the next blocks. A place that the device cannot read is a damaged block, not an error.
    async fn read_ahead(&mut self) -> DiskResult<()> {
        self.ahead.clear();
        self.ahead_at = 0;
        let Some(file) = &self.file else { return Ok(()) };
        let last = self.source.blocks.min(self.source.number.saturating_add(READ_BLOCKS as u32));
        let offset = u64::from(self.source.number) * BLOCK_BYTES as u64;
        let len = (self.source.number..last).map(|number| self.source.block_bytes(number)).sum();
        match self.disk.read(file, offset, len).await {
            Ok(read) => self.ahead = read,
            Err(error) if error.kind == DiskErrorKind::Io => {
                // One block alone: the others of the same read may be readable.
                let alone = self.source.block_bytes(self.source.number);
                match self.disk.read(file, offset, alone).await {
                    Ok(read) => self.ahead = read,
                    Err(error) if error.kind == DiskErrorKind::Io => self.ahead = Vec::new(),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            let rest = &self.entries[*self.at..];
            match entry::parse(rest) {
                Parsed::Entry(entry, bytes) if self.track.accepts(&entry) => {
                    *self.at += bytes;
                    if let Some(item) = self.track.take(entry) {
                        return Some(item);
                    }
                }
                Parsed::Partial => return None,
                // Sealed by a checksum, yet not what a writer writes: whatever follows cannot be trusted.
                Parsed::Entry(..) | Parsed::Nonsense => {
                    *self.at = self.entries.len();
                    self.track.lost = true;
                    return None;
                }
            }
        }
    }
}

impl Source {
    fn block_bytes(&self, number: u32) -> usize {
        let begin = u64::from(number) * BLOCK_BYTES as u64;
        (self.expected.bytes.saturating_sub(begin)).min(BLOCK_BYTES as u64) as usize
    }
}

impl Track {
    fn new(slots: impl Iterator<Item = Slot>) -> Track {
        Track {
            slots: slots.map(|slot| (slot, false)).collect(),
            lost: false,
            slot: None,
            open: true,
            slot_records: 0,
            slot_digest: 0,
            header: None,
            trailer: None,
            blocks_crc: 0,
            last_crc: None,
            slots_begun: 0,
            report: PartReport::default(),
        }
    }

    /// Appends an intact block's entries; after a loss, from the first that begins in it.
    fn take_up(&mut self, header: &BlockHeader, payload: &[u8], entries: &mut Vec<u8>) {
        if !self.lost {
            entries.extend_from_slice(payload);
            return;
        }
        entries.clear();
        let slot = (header.slot_before != NO_SLOT).then_some(Slot(header.slot_before));
        self.mark_lost_through(slot);
        if header.first_entry == NO_ENTRY {
            return;
        }
        entries.extend_from_slice(&payload[header.first_entry as usize..]);
        (self.lost, self.slot, self.open) = (false, slot, true);
    }

    fn count_block(&mut self, crc: u32) {
        if let Some(before) = self.last_crc.replace(crc) {
            self.blocks_crc = crc32c::crc32c_append(self.blocks_crc, &before.to_le_bytes());
        }
    }

    fn lose(&mut self, number: u32) {
        self.report.bad_blocks.push(number);
        self.lost = true;
    }

    /// Entries between here and somewhere in `slot` are lost: so are all slots from the open one to that.
    fn mark_lost_through(&mut self, slot: Option<Slot>) {
        let (from, open) = (self.slot, self.open);
        self.report.core_damaged |= from.is_none();
        for (candidate, damaged) in &mut self.slots {
            let after = from.is_none_or(|from| if open { *candidate >= from } else { *candidate > from });
            *damaged |= after && slot.is_some_and(|slot| *candidate <= slot);
        }
    }

    /// A slot without its end was not counted: it may be incomplete.
    fn mark_unended(&mut self) {
        if let (true, Some(slot)) = (self.open, self.slot) {
            self.mark_lost_through(Some(slot));
        }
    }

    /// Can this entry stand here?
    fn accepts(&self, entry: &Entry<'_>) -> bool {
        if self.trailer.is_some() {
            return false;
        }
        let of_part = |slot: Slot| self.slots.binary_search_by_key(&slot, |&(slot, _)| slot).is_ok();
        match entry {
            Entry::Header(_) => self.header.is_none() && self.slot.is_none(),
            Entry::SlotBegin(state) => of_part(state.slot) && self.slot.is_none_or(|slot| slot < state.slot),
            Entry::SlotEnd { slot, .. } => self.open && self.slot == Some(*slot),
            Entry::Record(_) => self.open && self.slot.is_some(),
            Entry::Carried(EntryKind::Core, _) => self.slot.is_none(),
            Entry::Carried(..) => self.open && self.slot.is_some(),
            Entry::Trailer(_) => true,
        }
    }

    fn take<'a>(&mut self, entry: Entry<'a>) -> Option<Item<'a>> {
        match (entry, self.slot) {
            (Entry::Header(header), _) => {
                self.report.hlc_bound = header.hlc_bound;
                self.header = Some(header);
                None
            }
            (Entry::SlotBegin(state), _) => {
                self.mark_unended();
                (self.slot, self.open) = (Some(state.slot), true);
                (self.slot_records, self.slot_digest) = (0, 0);
                self.slots_begun += 1;
                Some(Item::Slot(state))
            }
            (Entry::SlotEnd { slot, records, digest }, _) => {
                if (records, digest) != (self.slot_records, self.slot_digest) {
                    self.mark_lost_through(Some(slot));
                }
                self.open = false;
                None
            }
            (Entry::Record(record), Some(slot)) => {
                self.report.records += 1;
                self.slot_records += 1;
                self.slot_digest = self.slot_digest.wrapping_add(entry::record_digest(&record));
                Some(Item::Record(slot, record))
            }
            (Entry::Carried(kind, bytes), Some(slot)) => Some(Item::Carried(slot, kind, bytes)),
            (Entry::Carried(_, bytes), None) => Some(Item::Core(bytes)),
            (Entry::Trailer(trailer), _) => {
                self.mark_unended();
                self.trailer = Some(trailer);
                None
            }
            (Entry::Record(_), None) => unreachable!("a record outside of every slot was not accepted"),
        }
    }

    fn finish(mut self, source: &Source) -> PartReport {
        if self.lost || self.trailer.is_none() {
            self.mark_lost_through(self.slots.last().map(|&(slot, _)| slot));
        }
        if !self.is_the_file(source) {
            self.report.core_damaged = true;
            self.slots.iter_mut().for_each(|(_, damaged)| *damaged = true);
        }
        let damaged = self.slots.iter().filter(|&&(_, damaged)| damaged);
        self.report.damaged = damaged.map(|&(slot, _)| slot).collect();
        self.report
    }

    /// Do all intact blocks belong to one file, the one that the manifest names? Blocks of an earlier attempt at the
    /// same file would pass their own checksums.
    fn is_the_file(&self, source: &Source) -> bool {
        let Source { owner, part, expected, blocks, .. } = source;
        let header = self.header.is_none_or(|header| {
            (header.owner, header.part, header.generation, header.start)
                == (*owner, part.get(), expected.generation, expected.start)
        });
        let last_is_bad = self.report.bad_blocks.last().is_some_and(|&number| number + 1 == *blocks);
        let trailer = self
            .trailer
            .is_none_or(|trailer| (trailer.end, trailer.records) == (expected.end, expected.records));
        let complete = match (self.report.bad_blocks.is_empty(), self.header, self.trailer) {
            (true, Some(header), Some(trailer)) => {
                trailer.blocks_crc == self.blocks_crc
                    && trailer.records == self.report.records
                    && trailer.slots == header.slots
                    && trailer.slots == self.slots_begun
            }
            (true, _, _) => false,
            (false, _, _) => true,
        };
        header && trailer && complete && (last_is_bad || self.last_crc == Some(expected.crc))
    }
}
