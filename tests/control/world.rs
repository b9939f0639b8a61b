//! Some nodes, a network between them, and what goes wrong. One of them founds a cluster; the others want to join.

use crate::judge::Judge;
use crate::node::Node;
use ringcore::cluster::change::JoinRequest;
use ringcore::cluster::control::{ControlEffect, ControlEvent, CoreReport, JoinAnswer, Note, Vitals};
use ringcore::cluster::epoch::{Epoch, Member};
use ringcore::cluster::messages::ControlMessage;
use ringcore::cluster::ring::Ring;
use ringcore::cluster::slot_set::SlotSet;
use ringcore::types::prng::Prng;
use ringcore::types::request::Asker;
use ringcore::types::{ClusterId, CoreId, Failure, MemberId, Mono, Reason, SLOTS, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ticks of a control plane, milliseconds.
const TICK_MS: u64 = 50;
/// After the faults end everything must have come to rest within this, milliseconds: a lease, and what follows it.
const REST_MS: u64 = 120_000;

/// What a world must have met at times, or it proved nothing.
pub(crate) type Met = BTreeMap<&'static str, u64>;

enum Happening {
    Tick,
    Deliver {
        from: MemberId,
        message: ControlMessage,
    },
    /// The record being written is durable.
    Written,
    /// A core finishes its part of the moves of an epoch, or cannot.
    Core(CoreReport),
    Occupied {
        round: u64,
        core: CoreId,
    },
    /// A node that is no member asks to be one.
    Ask,
    JoinCall {
        from: usize,
        request: JoinRequest,
        deadline: Mono,
    },
    JoinAnswer(Result<JoinAnswer, Failure>),
    Start,
    /// Something goes wrong, somewhere.
    Fault,
}

/// What this world suffers from.
struct Faults {
    loss: u64,
    repeat: u64,
    delay_ms: u64,
    flush_ms: u64,
    crash: u64,
    /// As soon as a record is durable, and before anybody hears of it.
    crash_at_record: u64,
    cut: u64,
    /// A core refuses its part of a move.
    refuse: u64,
    /// A node that asks to join asks another at once.
    hurry: u64,
    /// A node that asked to join dies for good.
    abandon: u64,
    end: Mono,
}

pub(crate) struct World {
    pub(crate) prng: Prng,
    now: Mono,
    nodes: Vec<Node>,
    queue: BTreeMap<(Mono, u64), (usize, u64, Happening)>,
    happened: u64,
    faults: Faults,
    /// Who hears whom: cut links, from and to.
    cut: Vec<(usize, usize)>,
    by_member: BTreeMap<MemberId, usize>,
    /// All slots of all members hold records from then on.
    filled_at: Mono,
    /// Effects are performed without waiting for the log: a host that does not honour the contract.
    careless: bool,
    pub(crate) judge: Judge,
    pub(crate) met: Met,
    pub(crate) trace: u64,
}

impl World {
    pub(crate) fn run(seed: u64, careless: bool) -> World {
        let mut world = World::new(seed, careless);
        while world.now < world.faults.end {
            world.next();
        }
        world.heal();
        let deadline = world.now.after_ms(REST_MS);
        let mut quiet_since = None;
        while quiet_since.is_none_or(|since: Mono| world.now < since.after_ms(1_000)) {
            assert!(world.now < deadline, "seed {seed}: no rest: {}", world.why_restless());
            for _ in 0..50 {
                world.next();
            }
            quiet_since = world.is_at_rest().then(|| quiet_since.unwrap_or(world.now));
        }
        world.judge.end(seed);
        world
    }

    fn new(seed: u64, careless: bool) -> World {
        let mut prng = Prng::new(seed);
        let count = prng.between(1, 7) as usize;
        let pick = |prng: &mut Prng, from: [u64; 3]| from[prng.below(3) as usize];
        let faults = Faults {
            loss: pick(&mut prng, [0, 30, 200]),
            repeat: pick(&mut prng, [0, 30, 200]),
            delay_ms: pick(&mut prng, [2, 20, 400]),
            flush_ms: pick(&mut prng, [1, 5, 100]),
            crash: pick(&mut prng, [0, 100, 300]),
            crash_at_record: pick(&mut prng, [0, 50, 300]),
            cut: pick(&mut prng, [0, 100, 300]),
            refuse: pick(&mut prng, [0, 0, 100]),
            hurry: pick(&mut prng, [0, 300, 900]),
            abandon: pick(&mut prng, [0, 0, 100]),
            end: Mono(0).after_ms(prng.between(2_000, 15_000)),
        };
        let filled_at = if prng.chance(100) { Mono(0).after_ms(prng.below(8_000)) } else { Mono::NEVER };
        let mut nodes: Vec<Node> = (0..count).map(|index| Node::new(index, &mut prng)).collect();
        let cluster = ClusterId([(seed % 251) as u8; 16]);
        let first = Member { peer_address: "p:0".into(), ..Member::new(MemberId::FIRST, "node0") };
        let epoch = Arc::new(Epoch::bootstrap(cluster, prng.between(1, 5) as u8, first));
        (nodes[0].disk.member, nodes[0].disk.epoch) = (Some(MemberId::FIRST), Some(Arc::clone(&epoch)));
        let mut world = World {
            now: Mono(0),
            queue: BTreeMap::new(),
            happened: 0,
            faults,
            cut: Vec::new(),
            by_member: BTreeMap::from([(MemberId::FIRST, 0)]),
            filled_at,
            careless,
            judge: Judge::new(epoch),
            met: Met::new(),
            trace: 0,
            nodes,
            prng,
        };
        for index in 0..count {
            let at = if index == 0 { 0 } else { world.prng.below(4_000) };
            world.begin(index, at);
        }
        world.plan(0, 100, Happening::Fault);
        world
    }

    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn is_faulty(&self) -> bool {
        self.now < self.faults.end
    }

    fn plan(&mut self, node: usize, ms: u64, what: Happening) {
        self.happened += 1;
        let life = self.nodes[node].life;
        self.queue.insert((self.now.after_ms(ms), self.happened), (node, life, what));
    }

    fn next(&mut self) {
        let ((now, number), (node, life, what)) = self.queue.pop_first().expect("ticks never end");
        self.now = now;
        self.trace = (self.trace ^ now.0 ^ number << 40 ^ node as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let is_of_network =
            matches!(what, Happening::Deliver { .. } | Happening::JoinCall { .. } | Happening::Fault);
        if life == self.nodes[node].life || is_of_network {
            self.happen(node, what);
            self.perform(node);
        }
    }

    fn happen(&mut self, at: usize, what: Happening) {
        match what {
            Happening::Tick => {
                let vitals = Vitals { clock_ms: self.now.0 / 1_000_000, ..Vitals::default() };
                self.nodes[at].step(self.now, ControlEvent::Vitals(vitals));
                self.nodes[at].step(self.now, ControlEvent::Tick);
                self.plan(at, TICK_MS, Happening::Tick);
            }
            Happening::Deliver { from, message } => {
                self.nodes[at].step(self.now, ControlEvent::Message { from, message });
            }
            Happening::Written => {
                self.nodes[at].written();
                if self.is_faulty() && self.prng.chance(self.faults.crash_at_record) {
                    self.crash(at, 30);
                }
            }
            Happening::Core(report) => self.core_reports(at, report),
            Happening::Occupied { round, core } => {
                let mut slots = SlotSet::default();
                if self.now >= self.filled_at {
                    slots.extend(Slot::of_core(core, self.nodes[at].cores));
                }
                self.nodes[at].step(self.now, ControlEvent::Occupied { round, core, slots });
            }
            Happening::Ask => self.ask_to_join(at),
            Happening::JoinCall { from, request, deadline } => {
                let asker = Asker(from as u64);
                self.nodes[at].step(self.now, ControlEvent::Join { asker, request, deadline });
            }
            Happening::JoinAnswer(answer) => self.join_answered(at, answer),
            Happening::Start => self.start(at),
            Happening::Fault => self.fault(),
        }
    }

    /// Does what the node's control plane asks for, up to the first record that must be durable first.
    fn perform(&mut self, at: usize) {
        while let Some(effect) = self.nodes[at].asked.front() {
            if matches!(effect, ControlEffect::Log { .. }) {
                if !self.nodes[at].is_flushing {
                    self.nodes[at].is_flushing = true;
                    let ms = 1 + self.prng.below(self.faults.flush_ms);
                    self.plan(at, ms, Happening::Written);
                }
                if !self.careless {
                    return;
                }
            }
            let log_first = usize::from(self.careless && self.nodes[at].is_flushing);
            let Some(effect) = self.nodes[at].asked.remove(log_first) else { return };
            if matches!(effect, ControlEffect::Log { .. }) {
                self.nodes[at].asked.insert(log_first, effect);
                return;
            }
            self.do_effect(at, effect);
        }
    }

    fn do_effect(&mut self, at: usize, effect: ControlEffect) {
        match effect {
            ControlEffect::Log { .. } => unreachable!("records are written before"),
            ControlEffect::Send { to, message } => self.send(at, to, message),
            ControlEffect::Publish(ring) => self.publish(at, &ring),
            ControlEffect::AnswerJoin { asker, answer } => {
                let to = asker.0 as usize;
                if let Ok(JoinAnswer::Member { member, epoch }) = &answer {
                    self.judge.joined(*member, epoch);
                }
                if self.passes(at, to) {
                    let ms = self.delay();
                    self.plan(to, ms, Happening::JoinAnswer(answer));
                }
            }
            ControlEffect::AskCores { round } => {
                for core in (0..self.nodes[at].cores).map(CoreId) {
                    let ms = self.prng.below(5);
                    self.plan(at, ms, Happening::Occupied { round, core });
                }
            }
            ControlEffect::Note(Note::GivingUp { refused: Some(_), .. }) => self.meet("a move was refused"),
            ControlEffect::Note(Note::GivingUp { refused: None, .. }) => {
                self.meet("a joining member was lost")
            }
            ControlEffect::Note(Note::Epoch { .. }) => {}
            ControlEffect::Note(Note::Removed) => self.removed(at),
        }
    }

    fn removed(&mut self, at: usize) {
        self.meet("a removed member came to know it");
        let mut prng = self.prng.fork();
        self.nodes[at].begin_anew(&mut prng);
        self.begin(at, 10);
    }

    fn publish(&mut self, at: usize, ring: &Arc<Ring>) {
        let number = ring.epoch().number;
        let node = &mut self.nodes[at];
        assert!(number > node.published, "published epochs rise");
        node.published = number;
        self.judge.epoch(ring.shared_epoch(), ring.hash());
        let refuse = ring.epoch().slots.moving_since().is_some() && self.is_faulty();
        self.cores_work(at, number, refuse);
    }

    /// Each core takes some time over its part of an epoch's moves.
    fn cores_work(&mut self, at: usize, epoch: u64, may_refuse: bool) {
        for core in (0..self.nodes[at].cores).map(CoreId) {
            let refuses = may_refuse && self.prng.chance(self.faults.refuse);
            let refused = refuses.then(|| Slot(self.prng.below(SLOTS as u64) as u16));
            let ms = self.prng.below(300);
            self.plan(at, ms, Happening::Core(CoreReport { core, epoch, refused }));
        }
    }

    fn core_reports(&mut self, at: usize, report: CoreReport) {
        self.nodes[at].step(self.now, ControlEvent::Cores(report));
        let node = &mut self.nodes[at];
        let (Some(control), Some(member)) = (&node.control, node.disk.member) else { return };
        node.disk.moved = node.disk.moved.max(control.moved());
        self.judge.moved(member, node.disk.moved);
    }

    fn passes(&mut self, from: usize, to: usize) -> bool {
        !(self.cut.contains(&(from, to)) || self.is_faulty() && self.prng.chance(self.faults.loss))
    }

    fn delay(&mut self) -> u64 {
        self.prng.below(if self.is_faulty() { self.faults.delay_ms } else { 3 })
    }

    fn send(&mut self, at: usize, to: MemberId, message: ControlMessage) {
        let from = self.nodes[at].disk.member.expect("only members say something");
        self.nodes[at].says(&message);
        let Some(index) = self.by_member.get(&to).copied() else { return };
        if to == from {
            return self.nodes[at].step(self.now, ControlEvent::Message { from, message });
        }
        if self.passes(at, index) {
            let ms = self.delay();
            self.plan(index, ms, Happening::Deliver { from, message: message.clone() });
        }
        if self.is_faulty() && self.prng.chance(self.faults.repeat) {
            let ms = self.delay() * 3;
            self.plan(index, ms, Happening::Deliver { from, message });
        }
    }

    fn begin(&mut self, at: usize, ms: u64) {
        self.plan(at, ms, Happening::Start);
    }

    fn start(&mut self, at: usize) {
        let seed = self.prng.next_u64();
        self.nodes[at].start(self.now, seed);
        // Durable, and perhaps in force nowhere else: it crashed between the two.
        if let Some(control) = &self.nodes[at].control {
            self.judge.epoch(control.ring().shared_epoch(), control.ring().hash());
        }
        // Removed, and gone before that was told to anybody.
        if self.nodes[at].control.as_ref().is_some_and(|control| !control.is_member()) {
            return self.removed(at);
        }
        self.plan(at, 0, Happening::Tick);
        if self.nodes[at].control.is_some() {
            let epoch = self.nodes[at].published;
            self.cores_work(at, epoch, false);
        } else {
            self.plan(at, 0, Happening::Ask);
        }
    }

    fn ask_to_join(&mut self, at: usize) {
        if self.nodes[at].control.is_some() || self.nodes[at].is_refused {
            return;
        }
        let (to, request) = (self.nodes[at].ask, self.nodes[at].request());
        let patience = self.prng.between(200, 5_000);
        let deadline = self.now.after_ms(patience);
        if self.passes(at, to) {
            let ms = self.delay();
            self.plan(to, ms, Happening::JoinCall { from: at, request, deadline });
        }
        // Every other time the one that is a member for certain.
        let ask = self.prng.below(2 * self.nodes.len() as u64) as usize;
        self.nodes[at].ask = if ask < self.nodes.len() { ask } else { 0 };
        // Not always patient: then several members are asked at once, and propose at once.
        let pause = if self.prng.chance(self.faults.hurry) { 30 } else { patience + 100 };
        self.plan(at, pause, Happening::Ask);
    }

    fn join_answered(&mut self, at: usize, answer: Result<JoinAnswer, Failure>) {
        if self.nodes[at].control.is_some() {
            return;
        }
        match answer {
            Ok(JoinAnswer::Member { member, epoch }) => {
                let node = &mut self.nodes[at];
                // Another answer may have been given to the nonce that it had before it was removed.
                if epoch.member(member).is_none_or(|member| member.nonce != node.nonce) {
                    return;
                }
                (node.disk.member, node.disk.epoch) = (Some(member), Some(epoch));
                self.by_member.insert(member, at);
                self.begin(at, 1);
            }
            Ok(JoinAnswer::AskVoters { addresses }) => {
                self.meet("a node without a vote was asked");
                let address = &addresses[self.prng.below(addresses.len() as u64) as usize];
                self.nodes[at].ask = address[2..].parse().expect("an address of this world");
            }
            Err(failure) => match failure.reason {
                Reason::ChangeRefused => {
                    self.meet("a join was refused for good");
                    self.nodes[at].is_refused = self.now >= self.filled_at;
                }
                Reason::ChangeInProgress => self.meet("a join had to wait too long"),
                Reason::NoQuorumInTime => self.meet("a join ended in doubt"),
                Reason::Overloaded | Reason::TooFewReplicas | Reason::NotMember => {}
                other => panic!("a join was answered {other:?}"),
            },
        }
    }

    fn crash(&mut self, at: usize, ms_max: u64) {
        self.meet("a node crashed");
        let written = self.prng.chance(500);
        self.nodes[at].crash(written);
        let ms = self.prng.between(1, ms_max);
        self.begin(at, ms);
    }

    fn fault(&mut self) {
        if !self.is_faulty() {
            return;
        }
        self.plan(0, 100, Happening::Fault);
        let count = self.nodes.len() as u64;
        let at = self.prng.below(count) as usize;
        if self.prng.chance(self.faults.crash) && self.nodes[at].is_up {
            let ms_max = if self.prng.chance(200) { 4_000 } else { 300 };
            self.crash(at, ms_max);
        }
        if self.prng.chance(self.faults.abandon) && self.nodes[at].disk.member.is_none() {
            self.meet("a node that had asked to join began anew");
            let mut prng = self.prng.fork();
            self.nodes[at].begin_anew(&mut prng);
            self.begin(at, 100);
        }
        if self.prng.chance(self.faults.cut) {
            self.cut.clear();
            if self.prng.chance(600) {
                self.meet("the network was cut");
                let side: Vec<bool> = (0..count).map(|_| self.prng.chance(500)).collect();
                let one_way = self.prng.chance(300);
                let pairs = (0..side.len()).flat_map(|from| (0..side.len()).map(move |to| (from, to)));
                self.cut = pairs
                    .filter(|(from, to)| side[*from] != side[*to] && (side[*from] || !one_way))
                    .collect();
            }
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        self.met.entry("seeds").or_insert(1);
        let lost: u64 = self
            .nodes
            .iter()
            .filter_map(|node| node.control.as_ref())
            .map(|control| control.stats().proposals_lost)
            .sum();
        if lost > 0 {
            self.meet("a proposal gave way");
        }
    }

    fn is_at_rest(&self) -> bool {
        self.why_restless().is_empty()
    }

    /// What is still to be done; empty = nothing.
    fn why_restless(&self) -> String {
        let newest = self.judge.newest();
        for node in &self.nodes {
            let name = node.index;
            let Some(control) = &node.control else {
                if node.is_refused {
                    continue;
                }
                return format!("node {name} is no member");
            };
            if control.ring().hash() != newest.1 {
                return format!(
                    "node {name} knows epoch {} of {}",
                    control.ring().epoch().number,
                    newest.0.number
                );
            }
        }
        match newest.0.joining() {
            Some(member) => format!("member {} is joining", member.id),
            None if newest.0.slots.moving_since().is_some() => "slots move".into(),
            None => String::new(),
        }
    }
}
