//! What core 0 does for the whole node: it hosts the control plane and the failure detector, writes their records into its
//! log, and tells the other cores what they need to know. Decides nothing of its own.

use super::Machine;
use crate::cluster::control::{
    Control, ControlEffect, ControlEffects, ControlEvent, JoinAnswer, RecordKind, Vitals,
};
use crate::cluster::liveness::{Liveness, Probe};
use crate::cluster::messages::{ControlMessage, Probing};
use crate::node::effect::{Effect, Effects};
use crate::node::event::Opinion;
use crate::replication::forward::Requester;
use crate::storage::log::Ticket;
use crate::storage::log_record::{ControlKind, LogRecord};
use crate::types::join::{JoinRequest, Joined};
use crate::types::request::{Answer, Asker};
use crate::types::{MemberId, Mono, Now};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// How often the members' clocks are compared, milliseconds.
const CLOCKS_MS: u64 = 1_000;
/// A difference that is not worth telling the cores of, milliseconds.
const CLOCKS_ALIKE_MS: i64 = 20;

/// The control plane and the failure detector of a node.
pub struct Plane {
    control: Control,
    effects: ControlEffects,
    liveness: Liveness,
    /// How often this node has started.
    starts: u64,
    /// The last record of the control plane: what it asked for after that leaves when it is durable.
    logged: Ticket,
    /// Messages to this node itself, with the ticket that each waits for.
    own: VecDeque<(Ticket, ControlMessage)>,
    probes: Vec<Probe>,
    clocks_at: Mono,
    /// What the cores were told last.
    told: Opinion,
}

impl Plane {
    /// Of a node that has started so often, with a seed that differs from node to node and from start to start.
    pub fn new(control: Control, member: MemberId, starts: u64, seed: u64) -> Plane {
        Plane {
            control,
            effects: ControlEffects::default(),
            liveness: Liveness::new(member, starts, seed),
            starts,
            logged: Ticket::default(),
            own: VecDeque::new(),
            probes: Vec::new(),
            clocks_at: Mono(0),
            told: Opinion::default(),
        }
    }

    fn probing(&mut self, to: MemberId, sequence: u64) -> Probing {
        Probing { sequence, incarnation: self.starts, opinions: self.liveness.gossip(to) }
    }

    /// How far the median of the live members' clocks is ahead of this node's, milliseconds. Of fewer than three no
    /// median says who is wrong.
    fn ahead_ms(&self, now: Now, clock_ms: u64) -> i64 {
        let alive: Vec<MemberId> = self.liveness.alive().collect();
        let mut ahead: Vec<i64> = Vec::from([0]);
        for (member, peer) in self.control.peers() {
            let Some(heard) = peer.heard.filter(|_| alive.contains(&member) && peer.said.clock_ms > 0) else {
                continue;
            };
            let theirs = peer.said.clock_ms + now.mono.since(heard) / 1_000_000;
            ahead.push(theirs.cast_signed().saturating_sub(clock_ms.cast_signed()));
        }
        if ahead.len() < 3 {
            return 0;
        }
        ahead.sort_unstable();
        ahead[ahead.len() / 2]
    }
}

impl Machine {
    /// Makes this core the one that speaks for the node.
    pub fn host(&mut self, now: Now, mut plane: Plane) {
        let members: Vec<MemberId> = self.ring.epoch().members.iter().map(|member| member.id).collect();
        plane.liveness.set_members(now.mono, &members);
        self.plane = Some(Box::new(plane));
    }

    /// The control plane, on the core that hosts it.
    pub fn control(&self) -> Option<&Control> {
        self.plane.as_ref().map(|plane| &plane.control)
    }

    /// What a snapshot of core 0 must hold of the cluster, so that the log before it can go.
    pub fn control_records(&self) -> Vec<(ControlKind, Vec<u8>)> {
        let mut records = Vec::from([(ControlKind::Epoch, self.ring.epoch().encode())]);
        if let Some(control) = self.control() {
            // It may know a later epoch than this core has been told of.
            records[0].1 = control.ring().epoch().encode();
            records.extend(control.acceptor_record().map(|bytes| (ControlKind::Acceptor, bytes)));
        }
        records
    }

    /// Is there anybody to watch? [`Event::Watch`](crate::node::event::Event::Watch) must then come every 50 ms, whatever
    /// the core has to do.
    pub fn is_watching(&self) -> bool {
        self.plane.is_some() && self.ring.epoch().members.len() > 1
    }

    pub(super) fn tick_plane(&mut self, now: Now, out: &mut Effects) {
        let clock_ms = self.clock.read(now);
        let hlc = self.hlc.last();
        let Some(plane) = self.plane.as_deref_mut() else { return };
        let changed = plane.liveness.tick(now.mono, &mut plane.probes);
        for Probe { to, sequence } in core::mem::take(&mut plane.probes) {
            let message = Box::new(ControlMessage::Probe(plane.probing(to, sequence)));
            out.at_once(Effect::SendControl { to, message });
        }
        if changed || now.mono >= plane.clocks_at {
            plane.clocks_at = now.mono.after_ms(CLOCKS_MS);
            let mut opinion = Opinion {
                suspects: plane.liveness.suspects().collect(),
                ahead_ms: plane.ahead_ms(now, clock_ms),
            };
            if (opinion.ahead_ms - plane.told.ahead_ms).abs() < CLOCKS_ALIKE_MS {
                opinion.ahead_ms = plane.told.ahead_ms;
            }
            if opinion != plane.told {
                plane.told = opinion.clone();
                out.at_once(Effect::Opine(opinion));
            }
        }
        self.plane_step(now, ControlEvent::Vitals(Vitals { clock_ms, hlc }), out);
        self.plane_step(now, ControlEvent::Tick, out);
    }

    /// A member says something about membership, or that it lives.
    pub(super) fn control_heard(
        &mut self,
        now: Now,
        from: MemberId,
        message: ControlMessage,
        out: &mut Effects,
    ) {
        let known = self.ring.epoch().member(from).is_some();
        let Some(plane) = self.plane.as_deref_mut() else { return };
        match message {
            ControlMessage::Probe(Probing { sequence, incarnation, opinions }) if known => {
                plane.liveness.ping_heard(now.mono, from, incarnation);
                plane.liveness.take_gossip(now.mono, from, &opinions);
                let message = Box::new(ControlMessage::ProbeAnswer(plane.probing(from, sequence)));
                out.at_once(Effect::SendControl { to: from, message });
            }
            ControlMessage::ProbeAnswer(Probing { sequence, incarnation, opinions }) if known => {
                plane.liveness.answer_heard(now.mono, from, incarnation, sequence);
                plane.liveness.take_gossip(now.mono, from, &opinions);
            }
            message => self.plane_step(now, ControlEvent::Message { from, message }, out),
        }
    }

    /// The link to a member broke.
    pub(super) fn unreachable(&mut self, now: Now, member: MemberId) {
        if let Some(plane) = self.plane.as_deref_mut() {
            plane.liveness.unreachable(now.mono, member);
        }
    }

    /// A core was told of a newer epoch than this node knows.
    pub(super) fn fetch_epoch(&self, member: MemberId, out: &mut Effects) {
        let Some(control) = self.control() else { return };
        let message = Box::new(ControlMessage::FetchEpoch { above: control.ring().epoch().number });
        out.at_once(Effect::SendControl { to: member, message });
    }

    pub(super) fn join(
        &mut self,
        now: Now,
        asker: Asker,
        request: JoinRequest,
        deadline: Mono,
        out: &mut Effects,
    ) {
        self.plane_step(now, ControlEvent::Join { asker, request, deadline }, out);
    }

    pub(super) fn plane_step(&mut self, now: Now, event: ControlEvent, out: &mut Effects) {
        let Some(plane) = self.plane.as_deref_mut() else { return };
        plane.control.step(now.mono, event, &mut plane.effects);
        self.perform_plane(now, out);
    }

    /// Records of the control plane are durable: it hears what it said to itself.
    pub(super) fn plane_written(&mut self, now: Now, durable: Ticket, out: &mut Effects) {
        while let Some((_, message)) = self
            .plane
            .as_deref_mut()
            .and_then(|plane| plane.own.pop_front_if(|(ticket, _)| *ticket <= durable))
        {
            let from = self.config.member;
            self.plane_step(now, ControlEvent::Message { from, message }, out);
        }
    }

    fn perform_plane(&mut self, now: Now, out: &mut Effects) {
        let own = self.config.member;
        while let Some(plane) = self.plane.as_deref_mut()
            && let Some(effect) = plane.effects.pop()
        {
            let logged = Some(plane.logged);
            match effect {
                ControlEffect::Log { kind, bytes } => {
                    let kind = match kind {
                        RecordKind::Epoch => ControlKind::Epoch,
                        RecordKind::Acceptor => ControlKind::Acceptor,
                    };
                    plane.logged = self.replica.log_mut().append(&LogRecord::Control { kind, bytes: &bytes });
                }
                ControlEffect::Send { to, message } if to == own => {
                    if plane.own.is_empty() && self.replica.log().proof(plane.logged).is_some() {
                        let event = ControlEvent::Message { from: own, message };
                        plane.control.step(now.mono, event, &mut plane.effects);
                    } else {
                        plane.own.push_back((plane.logged, message));
                    }
                }
                ControlEffect::Send { to, message } => {
                    out.after(logged, Effect::SendControl { to, message: Box::new(message) });
                }
                ControlEffect::Publish(ring) => {
                    let members: Vec<MemberId> =
                        ring.epoch().members.iter().map(|member| member.id).collect();
                    plane.liveness.set_members(now.mono, &members);
                    out.after(logged, Effect::Publish(ring));
                }
                ControlEffect::AnswerJoin { asker, answer } => {
                    let reply = answer.map(|answer| Answer::Joined(joined(answer)));
                    out.reply(logged, Requester::Here(asker), reply);
                }
                ControlEffect::AskCores { round } => out.after(logged, Effect::AskCores { round }),
                ControlEffect::Note(note) => out.after(logged, Effect::Note(note)),
            }
        }
    }
}

fn joined(answer: JoinAnswer) -> Joined {
    match answer {
        JoinAnswer::Member { member, epoch } => {
            Joined::Member { cluster: epoch.cluster, member, epoch: Bytes::from(epoch.encode()) }
        }
        JoinAnswer::AskVoters { addresses } => Joined::AskVoters { addresses },
    }
}
