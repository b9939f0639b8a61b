//! Epochs and opinions as this core sees them: which configuration of each slot it has adopted, and what follows for the
//! operations that are under way (`PROTOCOL.md` §1, "Fence" and "Coordinators").

use super::{HLC_BOUND_MS, Machine};
use crate::cluster::ring::Ring;
use crate::node::effect::Effects;
use crate::node::event::Opinion;
use crate::replication::coordinator::Operation as Open;
use crate::replication::messages::AttemptId;
use crate::types::{Hlc, Now, Slot, Token};
use alloc::sync::Arc;

impl Machine {
    /// A newer epoch was decided. Slots that it leaves alone notice nothing.
    pub(super) fn epoch(&mut self, now: Now, ring: Arc<Ring>, out: &mut Effects) {
        if ring.epoch().number <= self.ring.epoch().number {
            return;
        }
        self.ring = ring;
        self.adopt_all();
        self.step_moves(now, out);
        for attempt in self.coordinator.attempts() {
            self.reconfigure(now, attempt, out);
        }
    }

    /// Adopts the ring's configuration of every slot of this core that has a newer one.
    pub(super) fn adopt_all(&mut self) {
        let (epoch, member) = (self.ring.epoch().number, self.config.member);
        // No version above this has been applied here.
        let bound = Hlc::at_ms(self.hlc.last().ms() + HLC_BOUND_MS);
        let mut alone = true;
        for slot in Slot::of_core(self.config.core, self.config.cores) {
            let sets = self.sets(slot);
            alone &= sets.is_alone(member);
            let configuration = self.ring.configuration(slot);
            if configuration > self.configuration(slot) {
                self.replica.adopt(slot, configuration, epoch, bound);
                self.end_round(slot);
                if !sets.contains(member) && self.replica.holds_any(slot) {
                    self.replica.drop_slot(slot, epoch);
                }
            }
        }
        self.replica.set_alone(alone);
        self.begin_moves();
        self.begin_exchanges(alone);
    }

    /// An operation goes on with the replicas that its slot has now, and counts from zero.
    fn reconfigure(&mut self, now: Now, attempt: AttemptId, out: &mut Effects) {
        let (key, configuration) = match self.coordinator.get_mut(attempt) {
            Some(Open::Write(write)) => match &write.offer {
                Some(offer) => (offer.record.key.clone(), write.configuration),
                // Of a slot whose only replica was this core: its own log is all that it waits for.
                None => return,
            },
            Some(Open::Read(read)) => (read.key.clone(), read.configuration),
            Some(Open::Forward(_)) | None => return,
        };
        let slot = Token::of(&key).slot();
        let newer = self.configuration(slot);
        if newer == configuration {
            return;
        }
        let sets = self.sets(slot);
        if self.coordinator.read_mut(attempt).is_some() {
            return self.start_over(now, attempt, out);
        }
        let Some(attempt) = self.coordinator.rename(now.mono, attempt) else { return };
        if let Some(write) = self.coordinator.write_mut(attempt) {
            write.reconfigure(sets, newer);
        }
        self.take_own(now, attempt, out);
    }

    /// What is believed of the others has changed.
    pub(super) fn opinion(&mut self, now: Now, opinion: Opinion, out: &mut Effects) {
        debug_assert!(opinion.suspects.is_sorted(), "they are searched");
        let before = core::mem::replace(&mut self.opinion, opinion);
        let suspects = self.opinion.suspects.clone();
        for member in suspects.into_iter().filter(|member| before.suspects.binary_search(member).is_err()) {
            self.forwards_lost(now, member, out);
        }
        for member in before.suspects {
            if !self.is_suspected(member) {
                self.compare_soon(now, member);
            }
        }
    }
}
