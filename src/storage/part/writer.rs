//! Writes a part's file: pulls entries from a core in small steps, at the disk's pace, until the file is durable.
//!
//! What makes the file count (the log durable up to its end, the manifest) is `snapshot`'s business.

use super::entry::{Entry, Header};
use super::packer::{Entries, Packer};
use super::{PartFile, PartIndex, SlotState, block_seed};
use crate::storage::disk::{Disk, DiskResult};
use crate::storage::lsn::Lsn;
use crate::storage::owner::Owner;
use crate::storage::small_file::{TEMPORARY_SUFFIX, join, publish, undecided};
use crate::types::{Hlc, Slot};
use alloc::format;
use alloc::vec::Vec;
use core::future::Future;

/// Entries of one step: about 20 us of a core.
const STEP_BYTES: usize = 32 << 10;

/// What a walk begins from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartStart {
    /// The log is durable below it, and everything logged below it is in the table.
    pub start: Lsn,
    /// No version above it has left this core.
    pub hlc_bound: Hlc,
    /// Every slot of the part of which the core holds anything, ascending.
    pub slots: Vec<SlotState>,
}

/// Has a walk come to its end?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walked {
    /// Call again: there is more.
    Partly,
    /// All entries have been put.
    Wholly,
}

/// The core that a part is an image of. Called between the core's other work: no call may take long.
pub trait PartSource {
    /// Begins a walk over a part's slots and takes note of what is known of them now.
    fn begin(&mut self, part: PartIndex) -> PartStart;
    /// Puts the next entries of the core itself that belong into this part, until `out` is full.
    fn walk_core(&mut self, out: &mut Entries<'_>) -> Walked;
    /// Puts the next entries of a slot until `out` is full, going on where the last call for that slot ended. A slot
    /// that was dropped meanwhile is simply at its end.
    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked;
    /// Returns when everything that the walk has shown is durable, with an LSN below which all of it lies: so the part
    /// shows nothing that the log could still lose.
    fn log_end(&mut self) -> impl Future<Output = DiskResult<Lsn>>;
    /// The log below `low` is not needed any more.
    fn recycle_below(&mut self, low: Lsn);
}

/// Writes one part's file under its name, durably. After an error the temporary file is gone if the disk lets it go.
pub async fn write_part<D: Disk, S: PartSource>(
    disk: &D,
    source: &mut S,
    owner: &Owner,
    dir: &str,
    part: PartIndex,
    generation: u32,
) -> DiskResult<PartFile> {
    let path = join(dir, &super::part_name(part, generation));
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    let written = write_temporary(disk, source, owner, &temporary, part, generation).await;
    if written.is_err() && disk.remove(&temporary).await.is_err() {
        // The cause is in `written`; the next start removes the file.
    }
    let file = written?;
    publish(disk, dir, &temporary, &path).await?;
    Ok(file)
}

async fn write_temporary<D: Disk, S: PartSource>(
    disk: &D,
    source: &mut S,
    owner: &Owner,
    temporary: &str,
    part: PartIndex,
    generation: u32,
) -> DiskResult<PartFile> {
    let file = disk.create(temporary).await?;
    let PartStart { start, hlc_bound, slots } = source.begin(part);
    let packer = Packer::new(block_seed(owner, part, generation, start));
    let mut output = Output { disk, file, packer, paced: 0, offset: 0 };
    output.packer.fixed(&Entry::Header(Header {
        owner: *owner,
        part: part.get(),
        generation,
        start,
        hlc_bound,
        slots: slots.len() as u32,
    }));
    while source.walk_core(&mut output.step()) == Walked::Partly {
        output.pause().await?;
    }
    for state in &slots {
        output.packer.begin_slot(state);
        while source.walk(state.slot, &mut output.step()) == Walked::Partly {
            output.pause().await?;
        }
        output.packer.end_slot(state);
        // Many small slots make one step.
        if output.step().is_full() {
            output.pause().await?;
        }
    }
    let end = source.log_end().await.map_err(undecided)?;
    let totals = output.packer.finish(end);
    output.pause().await?;
    assert!(output.offset == totals.bytes, "every piece was written");
    disk.sync(&output.file).await?;
    Ok(PartFile { generation, start, end, records: totals.records, bytes: totals.bytes, crc: totals.crc })
}

/// The file, as far as it has been written.
struct Output<'a, D: Disk> {
    disk: &'a D,
    file: D::File,
    packer: Packer,
    /// Bytes packed when the walk last paused.
    paced: u64,
    /// Bytes of the file written.
    offset: u64,
}

impl<D: Disk> Output<'_, D> {
    /// What is left of the step since the last pause.
    fn step(&mut self) -> Entries<'_> {
        let used = self.packer.packed() - self.paced;
        self.packer.step(STEP_BYTES.saturating_sub(used as usize))
    }

    /// Ends a step: lets others run, and writes what is finished, one write at a time.
    async fn pause(&mut self) -> DiskResult<()> {
        self.disk.pace(self.packer.packed() - self.paced).await;
        self.paced = self.packer.packed();
        while let Some(piece) = self.packer.take_finished() {
            let bytes = piece.len() as u64;
            self.disk.write(&self.file, self.offset, piece).await?;
            self.offset += bytes;
        }
        Ok(())
    }
}
