//! The control plane of a node, hosted by core 0: which epoch is in force, who becomes a member, how far slots have moved.
//! It agrees with the other members' control planes on the next epoch (`PROTOCOL.md` §2), and sees no data.
//!
//! Contract of [`Control::step`]: as of a core's machine, it never waits and reads no clock; the same events at the same
//! times give the same effects. Its host performs the effects **in order**, and performs what follows a
//! [`ControlEffect::Log`] only when that record is durable: so no promise, acceptance or epoch is spoken of that a crash
//! could take back. After a restart [`Control::recover`] takes the last record of each kind.

mod agreement;
mod census;
pub mod event;
mod joining;
mod movement;
mod peers;
mod record;
#[cfg(test)]
mod tests;

use self::agreement::Agreement;
use self::census::Census;
pub use self::event::{
    ControlEffect, ControlEffects, ControlEvent, CoreReport, JoinAnswer, Note, RecordKind, Vitals,
};
use self::joining::Joins;
use self::movement::Standing;
pub use self::peers::Peer;
use self::peers::Peers;
use super::epoch::{Epoch, EpochError};
use super::messages::{ControlMessage, Heartbeat};
use super::ring::Ring;
use crate::types::prng::Prng;
use crate::types::{MemberId, Mono};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Between two heartbeats to each member, milliseconds.
const HEARTBEAT_MS: u64 = 200;
/// Between two looks at how far a move is, milliseconds.
const MOVEMENT_MS: u64 = 200;
/// Who is joining and was not heard for so long is no longer waited for. Milliseconds.
const JOIN_LEASE_MS: u64 = 60_000;

/// What the control plane is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct ControlConfig {
    /// This node's member id.
    pub member: MemberId,
    /// Cores of this node; not 0.
    pub cores: u16,
    /// How often this node has started on its data directory.
    pub starts: u64,
    /// Of what must be random: differs from node to node and from start to start.
    pub seed: u64,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ControlStats {
    /// Messages from who is no member.
    pub strangers: u64,
    /// Messages that no member of this epoch could mean: not a voter, out of bounds, another's ballot, an unknown core.
    pub refused: u64,
    /// Epochs that cannot be, or do not follow this one.
    pub epochs_refused: u64,
    /// Epochs that are not newer than this one.
    pub epochs_stale: u64,
    /// Epochs that came into force here.
    pub epochs_taken: u64,
    /// Tries to have an epoch decided.
    pub proposals: u64,
    /// Tries that gave way to others.
    pub proposals_lost: u64,
}

/// The control plane of a node.
pub struct Control {
    config: ControlConfig,
    ring: Arc<Ring>,
    /// When that came into force here.
    taken_at: Mono,
    peers: Peers,
    census: Census,
    joins: Joins,
    agreement: Agreement,
    vitals: Vitals,
    prng: Prng,
    sequence: u64,
    heartbeat_at: Mono,
    movement_at: Mono,
    /// Not before this is an epoch sent to who is no longer a member.
    strangers_at: Mono,
    stats: ControlStats,
}

impl Control {
    /// The control plane after a start: `ring` is of the last epoch in the log, or of the one that founded the cluster,
    /// or of the one that an answered request to join came with; it must be durable. `acceptor` is the last record of
    /// that kind, if there is one. An error: the record is damaged, and nothing may be promised.
    pub fn recover(
        config: ControlConfig,
        ring: Arc<Ring>,
        acceptor: Option<&[u8]>,
        now: Mono,
    ) -> Result<Control, EpochError> {
        let mut prng = Prng::new(config.seed);
        let mut peers = Peers::default();
        peers.follow(ring.epoch(), config.member);
        Ok(Control {
            agreement: Agreement::recover(ring.epoch().number, acceptor, now)?,
            census: Census::new(config.cores),
            joins: Joins::default(),
            vitals: Vitals::default(),
            sequence: 0,
            heartbeat_at: now.after_ms(prng.below(HEARTBEAT_MS)),
            movement_at: now,
            strangers_at: now,
            stats: ControlStats::default(),
            taken_at: now,
            config,
            ring,
            peers,
            prng,
        })
    }

    /// One event. See the module's text for the contract.
    pub fn step(&mut self, now: Mono, event: ControlEvent, out: &mut ControlEffects) {
        match event {
            ControlEvent::Tick => self.tick(now, out),
            ControlEvent::Message { from, message } => self.message(now, from, message, out),
            ControlEvent::Join { asker, request, deadline } => {
                self.join(now, asker, request, deadline, out);
            }
            ControlEvent::Cores(report) => self.stats.refused += u64::from(!self.census.report(report)),
            ControlEvent::Occupied { round, core, slots } => {
                if let Some((slots, askers)) = self.census.answer(round, core, &slots) {
                    for (member, question) in askers {
                        let slots = slots.clone();
                        out.send(member, ControlMessage::Occupied { question, slots });
                    }
                }
            }
            ControlEvent::Vitals(vitals) => self.vitals = vitals,
        }
    }

    /// The newest epoch that is known.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Is this node a member?
    pub fn is_member(&self) -> bool {
        self.epoch().member(self.config.member).is_some()
    }

    /// Does this node take part in deciding the next epoch?
    pub fn is_voter(&self) -> bool {
        self.epoch().is_voter(self.config.member)
    }

    /// What is known of the other members, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = (MemberId, &Peer)> {
        self.peers.iter()
    }

    /// Up to which epoch this node's cores have finished their part of moves.
    pub fn moved(&self) -> u64 {
        self.census.moved()
    }

    /// Requests to join that wait.
    pub fn joins_waiting(&self) -> usize {
        self.joins.len()
    }

    /// What was counted.
    pub fn stats(&self) -> ControlStats {
        self.stats
    }

    /// What must be in a snapshot beside the epoch, so that the log before it can go: the acceptor's record as it is
    /// now, if it has promised anything.
    pub fn acceptor_record(&self) -> Option<Vec<u8>> {
        self.agreement.record()
    }

    fn epoch(&self) -> &Epoch {
        self.ring.epoch()
    }

    fn tick(&mut self, now: Mono, out: &mut ControlEffects) {
        if !self.is_member() {
            return;
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now.after_ms(HEARTBEAT_MS);
            self.sequence += 1;
            let heartbeat = self.heartbeat(self.sequence);
            for member in self.peers.ids() {
                out.send(member, ControlMessage::Heartbeat(heartbeat.clone()));
            }
        }
        self.serve_joins(now, out);
        self.ask_again(now, out);
        self.propose(now, out);
    }

    fn message(&mut self, now: Mono, from: MemberId, message: ControlMessage, out: &mut ControlEffects) {
        if !self.is_member() || self.epoch().member(from).is_none() {
            self.stats.strangers += 1;
            self.tell_removed(now, from, &message, out);
            return;
        }
        self.peers.hear(now, from);
        match message {
            // Its host's business: see `liveness`.
            ControlMessage::Probe(_) | ControlMessage::ProbeAnswer(_) => {}
            ControlMessage::Heartbeat(said) => {
                let answer = self.heartbeat(said.sequence);
                self.heard(now, from, said, out);
                out.send(from, ControlMessage::HeartbeatAnswer(answer));
            }
            ControlMessage::HeartbeatAnswer(said) => {
                self.heard(now, from, said, out);
            }
            ControlMessage::FetchEpoch { above } => self.compare(now, from, above, out),
            ControlMessage::News(epoch) => self.news(now, epoch, out),
            ControlMessage::Prepare { number, ballot } => self.prepare(now, from, number, ballot, out),
            ControlMessage::Promise { number, ballot, accepted } => {
                self.promised(now, from, number, ballot, accepted, out);
            }
            ControlMessage::Accept { ballot, epoch } => self.accept(now, from, ballot, epoch, out),
            ControlMessage::Accepted { number, ballot } => self.accepted(now, from, number, ballot, out),
            ControlMessage::Refused { number, ballot, promised } => {
                self.refused(now, number, ballot, promised);
            }
            ControlMessage::AskOccupied { question } => self.ask_cores(now, from, question, out),
            ControlMessage::Occupied { question, slots } => {
                self.occupied(now, from, question, &slots, out);
            }
        }
    }

    /// Who was removed must come to know it, or it would go on for ever: it is told the epoch, seldom.
    fn tell_removed(
        &mut self,
        now: Mono,
        from: MemberId,
        message: &ControlMessage,
        out: &mut ControlEffects,
    ) {
        let held = match message {
            ControlMessage::Heartbeat(said) => said.epoch,
            ControlMessage::FetchEpoch { above } => *above,
            _ => return,
        };
        let was_member = from != MemberId::NONE && from.0 < self.epoch().next_member;
        let is_due = self.is_member() && was_member && held < self.epoch().number;
        if is_due && peers::take(now, &mut self.strangers_at) {
            out.send(from, ControlMessage::News(Arc::clone(self.ring.shared_epoch())));
        }
    }

    /// What a member says of itself.
    fn heard(&mut self, now: Mono, from: MemberId, said: Heartbeat, out: &mut ControlEffects) {
        let epoch = said.epoch;
        self.peers.said(from, said);
        self.compare(now, from, epoch, out);
    }

    /// A member holds this epoch: whoever has the newer one gives it to the other.
    fn compare(&mut self, now: Mono, from: MemberId, number: u64, out: &mut ControlEffects) {
        let own = self.epoch().number;
        if number > own && self.peers.take_fetch(now, from) {
            out.send(from, ControlMessage::FetchEpoch { above: own });
        }
        if number < own && self.peers.take_news(now, from) {
            out.send(from, ControlMessage::News(Arc::clone(self.ring.shared_epoch())));
        }
    }

    fn heartbeat(&self, sequence: u64) -> Heartbeat {
        let Vitals { clock_ms, hlc } = self.vitals;
        let Standing { epoch, moved, refused, .. } = self.own_standing();
        let ControlConfig { starts, cores, .. } = self.config;
        Heartbeat { sequence, epoch, moved, refused, clock_ms, hlc, starts, cores }
    }

    fn own_standing(&self) -> Standing {
        let refused = self.epoch().slots.moving_since().and_then(|since| self.census.refused(since));
        let (epoch, moved) = (self.epoch().number, self.census.moved());
        Standing { silent: false, lost: false, epoch, moved, refused }
    }

    fn standing(&self, now: Mono, member: MemberId) -> Standing {
        if member == self.config.member {
            return self.own_standing();
        }
        let Some(peer) = self.peers.get(member) else {
            return Standing { silent: true, ..Standing::default() };
        };
        let is_old = now > self.taken_at.after_ms(JOIN_LEASE_MS);
        Standing {
            silent: self.peers.is_silent(now, member),
            lost: is_old && self.peers.is_unheard(now, member, JOIN_LEASE_MS),
            epoch: peer.said.epoch,
            moved: peer.said.moved,
            refused: peer.said.refused,
        }
    }

    /// Of the voters that are heard, this one included, the one with the lowest id proposes what nobody asked for.
    fn leads(&self, now: Mono) -> bool {
        let own = self.config.member;
        let is_heard = |voter: &MemberId| *voter == own || !self.peers.is_silent(now, *voter);
        self.is_voter() && self.epoch().voters().find(is_heard) == Some(own)
    }

    /// An epoch that another member knows as decided.
    fn news(&mut self, now: Mono, epoch: Arc<Epoch>, out: &mut ControlEffects) {
        if epoch.number <= self.epoch().number {
            self.stats.epochs_stale += 1;
        } else if self.could_be(&epoch) {
            self.take(now, epoch, out);
        } else {
            self.stats.epochs_refused += 1;
        }
    }

    /// Can this epoch have been decided after the one in force?
    fn could_be(&self, epoch: &Epoch) -> bool {
        let held = self.epoch();
        let is_next = Some(epoch.number) == held.number.checked_add(1);
        let is_later = epoch.cluster == held.cluster && epoch.number > held.number;
        let follows = !is_next || epoch.follows(held, self.ring.hash()).is_ok();
        is_later && follows && epoch.check().is_ok()
    }

    /// A decided epoch comes into force.
    fn take(&mut self, now: Mono, epoch: Arc<Epoch>, out: &mut ControlEffects) {
        assert!(epoch.number > self.epoch().number, "epochs rise");
        let number = epoch.number;
        out.push(ControlEffect::Log { kind: RecordKind::Epoch, bytes: epoch.encode() });
        self.ring = Arc::new(Ring::new(epoch));
        self.taken_at = now;
        self.stats.epochs_taken += 1;
        self.peers.follow(self.ring.epoch(), self.config.member);
        self.agreement.follow(number, now);
        self.joins.begin_anew();
        out.push(ControlEffect::Publish(Arc::clone(&self.ring)));
        out.push(ControlEffect::Note(Note::Epoch { number }));
        if !self.is_member() {
            self.joins.refuse_all(out);
            out.push(ControlEffect::Note(Note::Removed));
            return;
        }
        let behind: Vec<MemberId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.said.epoch < number)
            .map(|(member, _)| member)
            .collect();
        behind.into_iter().for_each(|member| self.compare(now, member, 0, out));
        self.serve_joins(now, out);
    }
}
