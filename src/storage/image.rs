//! What a part shows of a core's data: its slots, named operations and records, in steps. Knows no machine and no file.

use super::carried::Carried;
use super::disk::{Disk, DiskResult};
use super::log_record::LogRecord;
use super::lsn::Lsn;
use super::manifest::Manifest;
use super::part::{Entries, EntryKind, PartIndex, PartSource, PartStart, SlotState, Walked, write_part};
use super::shard::Shard;
use crate::types::{CoreId, Hlc, OperationId, Slot, Token};
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// Operation identities looked at per step: most belong to other parts.
const NAMES_PER_STEP: usize = 1_024;

/// Before every name.
pub const FIRST_NAME: OperationId = OperationId { client: 0, request: 0 };

/// The slots of a part of which the core holds anything, ascending.
pub fn slot_states(shard: &Shard, part: PartIndex, core: CoreId, cores: u16) -> Vec<SlotState> {
    let state = |slot: Slot| {
        let (mark, records) = (shard.mark(slot), shard.table().slot_len(slot));
        (records > 0 || mark.is_marked()).then_some(SlotState {
            slot,
            floor: mark.floor,
            round: (mark.round.c, mark.round.i),
            adopted: mark.configuration,
            epoch: mark.configuration,
        })
    };
    part.slots(core, cores).filter_map(state).collect()
}

/// Puts the named operations of a part from `from` on, as far as one step goes. The name to go on from; None = all.
pub fn walk_names(
    shard: &Shard,
    from: OperationId,
    part: PartIndex,
    cores: u16,
    out: &mut Entries<'_>,
) -> Option<OperationId> {
    for (looked_at, (id, entry)) in shard.identities().iter_from(from).enumerate() {
        if looked_at == NAMES_PER_STEP || out.is_full() {
            return Some(id);
        }
        if PartIndex::of_slot(entry.slot, cores) == part {
            put(out, &Carried::Named(id, entry.clone()));
        }
    }
    None
}

/// Puts the records of a slot until `out` is full. `at` = the last record that was put, of whatever slot.
pub fn walk_slot(
    shard: &Shard,
    slot: Slot,
    at: &mut Option<(Token, Vec<u8>)>,
    out: &mut Entries<'_>,
) -> Walked {
    let last = at.take();
    let from = match &last {
        Some((token, key)) if token.slot() == slot => (*token, Some(key.as_slice())),
        Some(_) | None => (slot.first_token(), None),
    };
    let walked = shard.table().walk(from, slot.last_token(), |token, record| {
        out.record(&record);
        if out.is_full() {
            *at = Some((token, record.key.to_vec()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if walked.is_break() { Walked::Partly } else { Walked::Wholly }
}

/// Puts an entry of the core itself.
pub fn put(out: &mut Entries<'_>, carried: &Carried<'_>) {
    let mut bytes = Vec::new();
    carried.encode(&mut bytes);
    out.carried(EntryKind::Core, &bytes);
}

/// Writes all parts of a core whose log is left behind: they show everything below `end`, where its next log begins.
/// They come into force with the manifest, which the caller writes.
pub(super) async fn write_all<D: Disk>(
    disk: &D,
    dir: &str,
    shard: &Shard,
    controls: &[Vec<u8>],
    manifest: &mut Manifest,
    (end, hlc_bound): (Lsn, Hlc),
) -> DiskResult<()> {
    let owner = *manifest.owner();
    let mut still = Still {
        shard,
        controls,
        end,
        hlc_bound,
        core: owner.core,
        cores: owner.cores,
        part: PartIndex::new(0).expect("there is a first part"),
        at: None,
        names_at: None,
    };
    for part in PartIndex::all() {
        let generation = manifest.part(part).map_or(1, |before| before.generation + 1);
        let file = write_part(disk, &mut still, &owner, dir, part, generation).await?;
        manifest.name_part(part, file);
    }
    Ok(())
}

/// A core that nothing changes, all of it durable.
struct Still<'a> {
    shard: &'a Shard,
    controls: &'a [Vec<u8>],
    end: Lsn,
    hlc_bound: Hlc,
    core: CoreId,
    cores: u16,
    part: PartIndex,
    at: Option<(Token, Vec<u8>)>,
    names_at: Option<OperationId>,
}

impl PartSource for Still<'_> {
    fn begin(&mut self, part: PartIndex) -> PartStart {
        (self.part, self.at, self.names_at) = (part, None, Some(FIRST_NAME));
        let slots = slot_states(self.shard, part, self.core, self.cores);
        PartStart { start: self.end, hlc_bound: self.hlc_bound, slots }
    }

    fn walk_core(&mut self, out: &mut Entries<'_>) -> Walked {
        if self.part.index() == 0 && self.names_at == Some(FIRST_NAME) {
            for bytes in self.controls {
                let (record, _) = LogRecord::decode(bytes).expect("it was encoded when it was read");
                put(out, &Carried::Record(record));
            }
        }
        let Some(from) = self.names_at else { return Walked::Wholly };
        self.names_at = walk_names(self.shard, from, self.part, self.cores, out);
        if self.names_at.is_some() { Walked::Partly } else { Walked::Wholly }
    }

    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked {
        walk_slot(self.shard, slot, &mut self.at, out)
    }

    async fn log_end(&mut self) -> DiskResult<Lsn> {
        Ok(self.end)
    }

    fn recycle_below(&mut self, _low: Lsn) {}
}
