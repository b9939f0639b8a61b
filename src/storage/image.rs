//! What a part shows of a core's data: its slots, named operations and records, in steps. Knows no machine and no file.

use super::carried::Carried;
use super::disk::{Disk, DiskResult};
use super::identity::NamePlace;
use super::log_record::LogRecord;
use super::lsn::Lsn;
use super::manifest::Manifest;
use super::part::{Entries, EntryKind, PartIndex, PartSource, PartStart, SlotState, Walked, write_part};
use super::shard::Shard;
use crate::types::{CoreId, Hlc, Slot, Token};
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// Where the walk over a slot goes on. A slot's records come first, then its named operations: so a replay of the log
/// from the part's start finds, for each operation that is not among them, exactly the value that it replaced.
#[derive(Debug)]
pub enum Cursor {
    /// After this record; None = at the slot's beginning.
    Records(Option<(Token, Vec<u8>)>),
    /// From this name on; None = from the newest.
    Names(Option<NamePlace>),
}

impl Cursor {
    /// At the beginning of whatever slot comes next.
    pub const START: Cursor = Cursor::Records(None);
}

/// The slots of a part of which the core holds anything, ascending.
pub fn slot_states(shard: &Shard, part: PartIndex, core: CoreId, cores: u16) -> Vec<SlotState> {
    let state = |slot: Slot| {
        let (mark, records) = (shard.mark(slot), shard.table().slot_len(slot));
        let named = shard.identities().of_slot(slot, None).next().is_some();
        (records > 0 || named || mark.is_marked()).then_some(SlotState {
            slot,
            floor: mark.floor,
            round: (mark.round.c, mark.round.i),
            adopted: mark.configuration,
            epoch: mark.configuration,
        })
    };
    part.slots(core, cores).filter_map(state).collect()
}

/// Puts the records and named operations of a slot until `out` is full.
pub fn walk_slot(shard: &Shard, slot: Slot, at: &mut Cursor, out: &mut Entries<'_>) -> Walked {
    if let Cursor::Records(after) = at {
        let last = walk_records(shard, slot, after.as_ref(), out);
        let wholly = last.is_none();
        *at = if wholly { Cursor::Names(None) } else { Cursor::Records(last) };
        if !wholly || out.is_full() {
            return Walked::Partly;
        }
    }
    let Cursor::Names(from) = *at else { unreachable!("records were walked above") };
    match walk_names(shard, slot, from, out) {
        Some(next) => {
            *at = Cursor::Names(Some(next));
            Walked::Partly
        }
        None => {
            *at = Cursor::START;
            Walked::Wholly
        }
    }
}

/// Puts records until `out` is full; the last one put, or None if there are no more.
fn walk_records(
    shard: &Shard,
    slot: Slot,
    after: Option<&(Token, Vec<u8>)>,
    out: &mut Entries<'_>,
) -> Option<(Token, Vec<u8>)> {
    let from = match after {
        Some((token, key)) => (*token, Some(key.as_slice())),
        None => (slot.first_token(), None),
    };
    let mut last = None;
    let walked = shard.table().walk(from, slot.last_token(), |token, record| {
        out.record(&record);
        if out.is_full() {
            last = Some((token, record.key.to_vec()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    last.filter(|_| walked.is_break())
}

/// Puts named operations until `out` is full; the name to go on from, or None if there are no more.
fn walk_names(
    shard: &Shard,
    slot: Slot,
    from: Option<NamePlace>,
    out: &mut Entries<'_>,
) -> Option<NamePlace> {
    for (place, id, entry) in shard.identities().of_slot(slot, from) {
        if out.is_full() {
            return Some(place);
        }
        put(out, EntryKind::Identity, &Carried::Named(id, entry.clone()));
    }
    None
}

/// Puts a control record, which belongs to the core as a whole.
pub fn put_control(out: &mut Entries<'_>, record: LogRecord<'_>) {
    put(out, EntryKind::Core, &Carried::Record(record));
}

fn put(out: &mut Entries<'_>, kind: EntryKind, carried: &Carried<'_>) {
    let mut bytes = Vec::new();
    carried.encode(&mut bytes);
    out.carried(kind, &bytes);
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
        at: Cursor::START,
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
    at: Cursor,
}

impl PartSource for Still<'_> {
    fn begin(&mut self, part: PartIndex) -> PartStart {
        (self.part, self.at) = (part, Cursor::START);
        let slots = slot_states(self.shard, part, self.core, self.cores);
        PartStart { start: self.end, hlc_bound: self.hlc_bound, slots }
    }

    fn walk_core(&mut self, out: &mut Entries<'_>) -> Walked {
        if self.part.index() == 0 {
            for bytes in self.controls {
                let (record, _) = LogRecord::decode(bytes).expect("it was encoded when it was read");
                put_control(out, record);
            }
        }
        Walked::Wholly
    }

    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked {
        walk_slot(self.shard, slot, &mut self.at, out)
    }

    async fn log_end(&mut self) -> DiskResult<Lsn> {
        Ok(self.end)
    }

    fn recycle_below(&mut self, _low: Lsn) {}
}
