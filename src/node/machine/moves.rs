//! This core's part in a move of slots (`PROTOCOL.md` §2): it asks those that own a slot what they hold, under the new
//! configuration, takes over their floor, and confirms the slot once it holds as much as they. What was written while the
//! change was decided comes by anti-entropy; a slot that goes on to differ refuses the move. Whether a change may be begun
//! that moves slots with data is decided elsewhere.

use super::Machine;
use crate::cluster::control::CoreReport;
use crate::node::effect::{Effect, Effects};
use crate::replication::messages::{AttemptId, Holding, MessageBody};
use crate::replication::quorum::{ReplicaSets, Replicas};
use crate::types::{MemberId, Mono, Now, Slot};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Slots asked about at a time.
const ASKED_MAX: usize = 512;
/// Until who has not answered is asked again, milliseconds.
const ASK_AGAIN_MS: u64 = 250;
/// How often a slot's replicas may hold what this core lacks before the move is refused: writes under way arrive here too.
const TRIES_MAX: u32 = 40;

/// The moves that this core takes part in.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// The epoch that the core speaks of.
    epoch: u64,
    /// Slots of this core that are not confirmed, whose new owners this member is one of.
    waiting: BTreeMap<Slot, Moving>,
    /// The core has finished its part, or refuses, and has said so.
    told: bool,
}

#[derive(Debug, Default)]
struct Moving {
    /// Owners that have answered, and whose floor was taken over.
    told: Replicas,
    /// Those of them that hold nothing that this core lacks.
    agreed: Replicas,
    tries: u32,
    /// None = not asked yet.
    ask_at: Option<Mono>,
}

impl Machine {
    /// A newer epoch is in force: takes up the slots that move here.
    pub(super) fn begin_moves(&mut self) {
        let epoch = self.ring.epoch().number;
        let member = self.config.member;
        let moving = |slot: &Slot| self.ring.target(*slot).contains(&member);
        let slots: Vec<Slot> = Slot::of_core(self.config.core, self.config.cores).filter(moving).collect();
        let waiting = slots.into_iter().map(|slot| (slot, Moving::default())).collect();
        self.moves = Moves { epoch, waiting, told: false };
    }

    /// Asks for what is due, and tells core 0 when this core's part is done.
    pub(super) fn step_moves(&mut self, now: Now, out: &mut Effects) {
        if self.moves.told {
            return;
        }
        let member = self.config.member;
        let due = |(_, moving): &(&Slot, &Moving)| moving.ask_at.is_none_or(|at| at <= now.mono);
        let asked = self
            .moves
            .waiting
            .values()
            .filter(|moving| moving.ask_at.is_some_and(|at| at > now.mono))
            .count();
        let room = ASKED_MAX.saturating_sub(asked);
        let due: Vec<Slot> =
            self.moves.waiting.iter().filter(due).map(|(slot, _)| *slot).take(room).collect();
        for slot in due {
            let sets = self.sets(slot);
            let Some(moving) = self.moves.waiting.get_mut(&slot) else { continue };
            moving.ask_at = Some(now.mono.after_ms(ASK_AGAIN_MS));
            if sets.base.contains(&member) && !moving.agreed.contains(&member) {
                moving.agreed.push(member);
            }
            let silent: Replicas =
                sets.base.iter().copied().filter(|owner| !moving.agreed.contains(owner)).collect();
            for owner in silent {
                let attempt = AttemptId(self.moves.epoch);
                self.send(
                    self.replica.wait_for_adoption(),
                    owner,
                    slot,
                    MessageBody::Survey { attempt },
                    out,
                );
            }
            self.confirm(slot);
        }
        if self.moves.waiting.is_empty() {
            self.tell_moves(None, out);
        }
    }

    /// Is anything of a move left to do here? Ticks must then come.
    pub(super) fn is_moving(&self) -> bool {
        !self.moves.told
    }

    /// An owner says what it holds of a slot.
    pub(super) fn survey_answered(
        &mut self,
        from: MemberId,
        (slot, configuration): (Slot, u64),
        attempt: AttemptId,
        holding: Option<Holding>,
        out: &mut Effects,
    ) {
        let current = configuration == self.configuration(slot) && attempt.0 == self.moves.epoch;
        let (Some(holding), true) = (holding, current) else { return };
        let (base, own) = (self.sets(slot).base, self.replica.shard().mark(slot).digest);
        let Some(moving) = self.moves.waiting.get_mut(&slot).filter(|_| base.contains(&from)) else { return };
        if !moving.told.contains(&from) {
            moving.told.push(from);
        }
        if !holding.records || holding.digest == own {
            if !moving.agreed.contains(&from) {
                moving.agreed.push(from);
            }
            self.confirm(slot);
        } else {
            moving.tries += 1;
            if moving.tries > TRIES_MAX {
                self.tell_moves(Some(slot), out);
            }
        }
        if self.moves.waiting.is_empty() {
            self.tell_moves(None, out);
        }
    }

    /// As many owners as meet every write quorum hold nothing that this core lacks: the slot is confirmed.
    fn confirm(&mut self, slot: Slot) {
        let sets = self.sets(slot);
        let enough = sets.base.len() + 1 - sets.base_quorum.write;
        if self.moves.waiting.get(&slot).is_some_and(|moving| moving.agreed.len() >= enough) {
            self.moves.waiting.remove(&slot);
        }
    }

    /// May this core take records of the slot? Not before it has the floor of as many owners as meet every round: what was
    /// collected must not come in through a new replica.
    pub(super) fn has_floor(&self, slot: Slot, sets: &ReplicaSets) -> bool {
        let Some(moving) = self.moves.waiting.get(&slot) else { return true };
        sets.base.contains(&self.config.member)
            || moving.told.len() > sets.base.len() - sets.base_quorum.write
    }

    fn tell_moves(&mut self, refused: Option<Slot>, out: &mut Effects) {
        if core::mem::replace(&mut self.moves.told, true) {
            return;
        }
        let report = CoreReport { core: self.config.core, epoch: self.moves.epoch, refused };
        out.after(self.replica.wait_for_adoption(), Effect::Moved(report));
    }
}
