//! A core as the source of its own snapshot parts: walks the machine's data in small steps between its other work.

use super::machine::Machine;
use crate::storage::disk::DiskResult;
use crate::storage::image::{self, Cursor};
use crate::storage::log::Ticket;
use crate::storage::log_record::{ControlKind, LogRecord};
use crate::storage::lsn::Lsn;
use crate::storage::part::{Entries, PartIndex, PartSource, PartStart, Walked};
use crate::types::mutant::{Mutant, planted};
use crate::types::{CoreId, Slot};
use alloc::vec::Vec;
use core::future::Future;

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
    at: Cursor,
    /// What core 0 carries of the cluster.
    controls: Vec<(ControlKind, Vec<u8>)>,
}

impl<H: Host> Image<H> {
    /// A source of parts of `core`, one of `cores`.
    pub fn new(host: H, core: CoreId, cores: u16) -> Image<H> {
        let part = PartIndex::new(0).expect("there is a first part");
        Image { host, part, core, cores, at: Cursor::START, controls: Vec::new() }
    }
}

impl<H: Host> PartSource for Image<H> {
    fn begin(&mut self, part: PartIndex) -> PartStart {
        (self.part, self.at) = (part, Cursor::START);
        let (core, cores) = (self.core, self.cores);
        let (start, records) = self.host.with(|machine| {
            let replica = machine.replica();
            let start = PartStart {
                start: replica.log().durable().1,
                hlc_bound: replica.log().durable_hlc_bound(),
                slots: image::slot_states(replica.shard(), part, core, cores),
            };
            (start, machine.control_records())
        });
        self.controls = records;
        start
    }

    fn walk_core(&mut self, out: &mut Entries<'_>) -> Walked {
        if self.core == CoreId(0) && self.part.index() == 0 {
            for (kind, bytes) in core::mem::take(&mut self.controls) {
                image::put_control(out, LogRecord::Control { kind, bytes: &bytes });
            }
        }
        Walked::Wholly
    }

    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked {
        let at = &mut self.at;
        self.host.with(|machine| image::walk_slot(machine.replica().shard(), slot, at, out))
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
