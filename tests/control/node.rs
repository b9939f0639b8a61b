//! A node around its control plane: a log that takes time, cores that take part in moves, a wish to be a member.

use ringcore::cluster::change::JoinRequest;
use ringcore::cluster::control::{
    Control, ControlConfig, ControlEffect, ControlEffects, ControlEvent, RecordKind,
};
use ringcore::cluster::epoch::{Epoch, Nonce};
use ringcore::cluster::messages::ControlMessage;
use ringcore::cluster::paxos::Ballot;
use ringcore::cluster::ring::Ring;
use ringcore::types::prng::Prng;
use ringcore::types::{MemberId, Mono};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a crash leaves.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) member: Option<MemberId>,
    pub(crate) epoch: Option<Arc<Epoch>>,
    pub(crate) acceptor: Option<Vec<u8>>,
    pub(crate) starts: u64,
    /// Up to which epoch each core has finished its part of moves.
    pub(crate) moved: u64,
}

/// A node, up or down.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) nonce: Nonce,
    pub(crate) cores: u16,
    pub(crate) disk: Disk,
    /// None: down, or no member yet.
    pub(crate) control: Option<Control>,
    pub(crate) is_up: bool,
    /// Raised at each crash and start: what was under way before is void.
    pub(crate) life: u64,
    /// Asked for, and not done yet.
    pub(crate) asked: VecDeque<ControlEffect>,
    pub(crate) is_flushing: bool,
    /// Refused for good.
    pub(crate) is_refused: bool,
    /// Who to ask next to be let in.
    pub(crate) ask: usize,
    /// Greatest epoch that was published since the start.
    pub(crate) published: u64,
}

impl Node {
    pub(crate) fn new(index: usize, prng: &mut Prng) -> Node {
        Node {
            index,
            nonce: draw(prng),
            cores: prng.between(1, 3) as u16,
            disk: Disk::default(),
            control: None,
            is_up: true,
            life: 0,
            asked: VecDeque::new(),
            is_flushing: false,
            is_refused: false,
            ask: 0,
            published: 0,
        }
    }

    pub(crate) fn request(&self) -> JoinRequest {
        JoinRequest {
            cluster: None,
            nonce: self.nonce,
            name: format!("node{}", self.index),
            zone: format!("z{}", self.index % 3),
            weight_percent: 100,
            addresses: [format!("c:{}", self.index), format!("p:{}", self.index), String::new()],
        }
    }

    /// Begins, with what the disk holds.
    pub(crate) fn start(&mut self, now: Mono, seed: u64) {
        self.life += 1;
        self.disk.starts += 1;
        self.is_up = true;
        let (Some(member), Some(epoch)) = (self.disk.member, &self.disk.epoch) else { return };
        let config = ControlConfig { member, cores: self.cores, starts: self.disk.starts, seed };
        let ring = Arc::new(Ring::new(Arc::clone(epoch)));
        self.published = epoch.number;
        let control = Control::recover(config, ring, self.disk.acceptor.as_deref(), now);
        self.control = Some(control.expect("the log holds what was written"));
    }

    /// Loses what was not durable; a record that was being written may be.
    pub(crate) fn crash(&mut self, written: bool) {
        if self.is_flushing && written {
            self.written();
        }
        self.life += 1;
        (self.control, self.is_up, self.is_flushing) = (None, false, false);
        self.asked.clear();
    }

    /// Becomes a member of no cluster, with nothing on its disk.
    pub(crate) fn begin_anew(&mut self, prng: &mut Prng) {
        self.crash(false);
        (self.disk, self.nonce, self.is_up) = (Disk::default(), draw(prng), true);
    }

    pub(crate) fn step(&mut self, now: Mono, event: ControlEvent) {
        let Some(control) = &mut self.control else { return };
        let mut out = ControlEffects::default();
        control.step(now, event, &mut out);
        while let Some(effect) = out.pop() {
            self.asked.push_back(effect);
        }
    }

    /// What it says it must not forget: the disk holds it.
    pub(crate) fn says(&self, message: &ControlMessage) {
        let held = self.disk.epoch.as_ref().map_or(0, |epoch| epoch.number);
        // As src/cluster/control/record.rs describes it: number, promised ballot, accepted ballot.
        let remembers = |number: u64, ballot: Ballot, at: usize| {
            held >= number
                || self.disk.acceptor.as_ref().is_some_and(|record| {
                    let u64_at =
                        |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("8 bytes"));
                    let member = u32::from_le_bytes(record[at + 8..at + 12].try_into().expect("4 bytes"));
                    u64_at(1) == number && ballot <= Ballot { round: u64_at(at), member: MemberId(member) }
                })
        };
        let is_durable = match message {
            ControlMessage::Heartbeat(said) | ControlMessage::HeartbeatAnswer(said) => said.epoch <= held,
            ControlMessage::News(epoch) => epoch.number <= held,
            ControlMessage::Promise { number, ballot, .. } => remembers(*number, *ballot, 9),
            ControlMessage::Accepted { number, ballot } => remembers(*number, *ballot, 21),
            ControlMessage::Prepare { number, ballot } => remembers(*number, *ballot, 9),
            ControlMessage::Accept { ballot, epoch } => remembers(epoch.number, *ballot, 9),
            ControlMessage::Probe(_)
            | ControlMessage::ProbeAnswer(_)
            | ControlMessage::FetchEpoch { .. }
            | ControlMessage::Refused { .. }
            | ControlMessage::AskOccupied { .. }
            | ControlMessage::Occupied { .. } => true,
        };
        assert!(is_durable, "node {} says what it could forget: {message:?}", self.index);
    }

    /// The record that is first among what was asked for is durable.
    pub(crate) fn written(&mut self) {
        let Some(ControlEffect::Log { kind, bytes }) = self.asked.pop_front() else {
            panic!("a record was being written")
        };
        match kind {
            RecordKind::Epoch => {
                let epoch = Epoch::decode(&bytes).expect("an epoch was logged");
                self.disk.epoch = Some(Arc::new(epoch));
            }
            RecordKind::Acceptor => self.disk.acceptor = Some(bytes),
        }
        self.is_flushing = false;
    }
}

fn draw(prng: &mut Prng) -> Nonce {
    let mut nonce = [1; 16];
    nonce[..8].copy_from_slice(&prng.next_u64().to_le_bytes());
    Nonce(nonce)
}
