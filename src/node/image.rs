//! A core as the source of its own snapshot parts: walks the machine's data in small steps between its other work.

use super::machine::Machine;
use crate::storage::carried::Carried;
use crate::storage::disk::DiskResult;
use crate::storage::log::Ticket;
use crate::storage::log_record::{ControlKind, LogRecord};
use crate::storage::lsn::Lsn;
use crate::storage::part::{Entries, EntryKind, PartIndex, PartSource, PartStart, SlotState, Walked};
use crate::types::mutant::{Mutant, planted};
use crate::types::{CoreId, OperationId, Slot, Token};
use alloc::vec::Vec;
use core::future::Future;
use core::ops::ControlFlow;

/// Below every name.
const FIRST_NAME: OperationId = OperationId { client: 0, request: 0 };

/// Where a machine lives: the shell's cell, or the simulator's.
pub trait Host {
    /// Shows the machine; the call is short and waits for nothing.
    fn with<R>(&self, look: impl FnOnce(&mut Machine) -> R) -> R;

    /// Returns once the log is durable up to `ticket`; an error if it never will be.
    fn durable(&self, ticket: Ticket) -> impl Future<Output = DiskResult<()>>;
}

/// One walk over one part.
pub struct Image<H: Host> {
    host: H,
    part: PartIndex,
    core: CoreId,
    cores: u16,
    /// Where the walk over the present slot goes on.
    at: At,
    epoch: Vec<u8>,
}

/// A slot's records come first, then its named operations. In this order a replay of the log from the part's start finds,
/// for each operation that is not among them, exactly the value that it replaced.
enum At {
    /// After this record; None = at the slot's beginning.
    Records(Option<(Token, Vec<u8>)>),
    /// From this name on.
    Names(OperationId),
}

impl<H: Host> Image<H> {
    /// A source of parts of `core`, one of `cores`.
    pub fn new(host: H, core: CoreId, cores: u16) -> Image<H> {
        let part = PartIndex::new(0).expect("there is a first part");
        Image { host, part, core, cores, at: At::Records(None), epoch: Vec::new() }
    }
}

impl<H: Host> Image<H> {
    /// Puts records until `out` is full; the last one put, or None if there are no more.
    fn walk_records(
        &self,
        slot: Slot,
        after: Option<&(Token, Vec<u8>)>,
        out: &mut Entries<'_>,
    ) -> Option<(Token, Vec<u8>)> {
        let from = match after {
            Some((token, key)) => (*token, Some(key.as_slice())),
            None => (slot.first_token(), None),
        };
        let mut last = None;
        let walked = self.host.with(|machine| {
            machine.replica().shard().table().walk(from, slot.last_token(), |token, record| {
                out.record(&record);
                if out.is_full() {
                    last = Some((token, record.key.to_vec()));
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
        });
        last.filter(|_| walked.is_break())
    }

    /// Puts named operations until `out` is full; the name to go on from, or None if there are no more.
    fn walk_names(&self, slot: Slot, from: OperationId, out: &mut Entries<'_>) -> Option<OperationId> {
        self.host.with(|machine| {
            for (id, entry) in machine.replica().shard().identities().of_slot(slot, from) {
                if out.is_full() {
                    return Some(id);
                }
                put(out, EntryKind::Identity, &Carried::Named(id, entry.clone()));
            }
            None
        })
    }
}

impl<H: Host> PartSource for Image<H> {
    fn begin(&mut self, part: PartIndex) -> PartStart {
        (self.part, self.at) = (part, At::Records(None));
        let (core, cores) = (self.core, self.cores);
        let (start, epoch) = self.host.with(|machine| {
            let replica = machine.replica();
            let slots = part.slots(core, cores).filter_map(|slot| {
                let (mark, records) = (replica.shard().mark(slot), replica.shard().table().slot_len(slot));
                let named = replica.shard().identities().of_slot(slot, FIRST_NAME).next().is_some();
                (records > 0 || named || mark.is_marked()).then_some(SlotState {
                    slot,
                    floor: mark.floor,
                    round: (mark.round.c, mark.round.i),
                    adopted: mark.configuration,
                    epoch: mark.configuration,
                })
            });
            let start = PartStart {
                start: replica.log().durable().1,
                hlc_bound: replica.log().durable_hlc_bound(),
                slots: slots.collect(),
            };
            (start, machine.ring().epoch().encode())
        });
        self.epoch = epoch;
        start
    }

    fn walk_core(&mut self, out: &mut Entries<'_>) -> Walked {
        if self.core == CoreId(0) && self.part.index() == 0 && !self.epoch.is_empty() {
            let bytes = core::mem::take(&mut self.epoch);
            let control = LogRecord::Control { kind: ControlKind::Epoch, bytes: &bytes };
            put(out, EntryKind::Core, &Carried::Record(control));
        }
        Walked::Wholly
    }

    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked {
        if let At::Records(after) = &self.at {
            let last = self.walk_records(slot, after.as_ref(), out);
            let wholly = last.is_none();
            self.at = if wholly { At::Names(FIRST_NAME) } else { At::Records(last) };
            if !wholly || out.is_full() {
                return Walked::Partly;
            }
        }
        let At::Names(from) = self.at else { unreachable!("records were walked above") };
        match self.walk_names(slot, from, out) {
            Some(next) => {
                self.at = At::Names(next);
                Walked::Partly
            }
            None => {
                self.at = At::Records(None);
                Walked::Wholly
            }
        }
    }

    async fn log_end(&mut self) -> DiskResult<Lsn> {
        // A record that still gathers has no position yet: only when everything that the walk has shown is durable is
        // there a position below which all of it lies.
        if planted(Mutant::PartBeforeLog) {
            return Ok(self.host.with(|machine| machine.replica().log().end()));
        }
        let seen = self.host.with(|machine| machine.replica().log().last_ticket());
        self.host.durable(seen).await?;
        let end = self.host.with(|machine| machine.replica().log().covered(seen));
        Ok(end.expect("what is durable is covered"))
    }

    fn recycle_below(&mut self, low: Lsn) {
        self.host.with(|machine| machine.replica_mut().log_mut().recycle_below(low));
    }
}

fn put(out: &mut Entries<'_>, kind: EntryKind, carried: &Carried<'_>) {
    let mut bytes = Vec::new();
    carried.encode(&mut bytes);
    out.carried(kind, &bytes);
}
