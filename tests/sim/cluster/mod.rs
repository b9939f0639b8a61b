//! The world of whole clusters: one to seven nodes, the network between them, clients at all of them; crashes, cuts,
//! clocks and wrong opinions. One thread, discrete events, one seed, one run.
//!
//! A run has three phases. Faults: nothing that is answered may contradict anything else. Heal: with a majority of every
//! slot connected, operations succeed again. Audit: every key is read through every node.
//!
//! The checkers stand apart from the cluster and from each other: `history` (versions and real time), `register` (values
//! and real time), `durable` (what the disks have held), `words` (what nodes say to each other).

mod answers;
#[cfg(not(mutants))]
mod campaign;
mod clients;
mod durable;
mod faults;
mod members;
mod network;
mod opinions;
mod options;
mod register;
mod trace;
mod words;

use self::clients::{Client, Try, WriteState};
use self::durable::DurableImages;
use self::members::Site;
use self::network::{Flight, Network, Sending};
pub(crate) use self::options::Options;
use self::register::{Deed, Judgement, judge};
use self::words::Words;
use crate::history::History;
use crate::node::{Sent, ring_of};
use crate::world::Met;
use ringcore::node::event::Event;
use ringcore::replication::messages::{Message, MessageBody};
use ringcore::types::prng::Prng;
use ringcore::types::request::{Asker, Reply};
use ringcore::types::{MemberId, Token, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Wall clock at the beginning: some day in 2026.
const BEGIN_MS: u64 = 1_790_000_000_000;
const MS: u64 = 1_000_000;
/// Ticks of a core that has work: as the real shell's.
const TICK_NS: u64 = 5 * MS;
/// From the last fault until operations must succeed.
const HEALED_NS: u64 = 10_000 * MS;
/// How long clients then ask.
const HEALING_NS: u64 = 500 * MS;
/// Replicas of a key become equal without being read (G10). To be switched on with anti-entropy: until then only reads
/// repair, and only what they read.
const REPLICAS_BECOME_EQUAL: bool = false;

/// What happens at a moment.
#[derive(Debug)]
enum Happening {
    /// The message of that number arrives.
    Arrives(u64),
    Tick {
        site: usize,
        core: usize,
        life: u64,
    },
    /// A client is ready for its next operation.
    Asks(usize),
    /// An impatient client asks for what it waits for a second time.
    AsksTwice(u64),
    /// A try should have been answered by now.
    Late(u64),
    /// Something goes wrong.
    Fault,
    /// And right again.
    Mends(faults::Mending),
    Starts {
        site: usize,
        life: u64,
    },
    Opinion(usize),
}

/// Where the world is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Phase {
    Faults,
    Healing,
    /// Clients fight over keys.
    Healed,
    /// One client only.
    Calm,
    Audit,
}

/// One run.
pub(crate) struct World {
    options: Options,
    /// For what clients do.
    prng: Prng,
    /// For what goes wrong.
    fate: Prng,
    now_ns: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    sites: Vec<Site>,
    network: Network,
    phase: Phase,
    /// Begin and end of times in which clients ask.
    bursts: Vec<(u64, u64)>,
    clients: Vec<Client>,
    open: BTreeMap<u64, Try>,
    writes: BTreeMap<u64, WriteState>,
    next_ask: u64,
    /// Orders what clients do and hear: real time, without ties.
    moment: u64,
    history: History,
    deeds: BTreeMap<Vec<u8>, Vec<Deed>>,
    durable: DurableImages,
    mending: faults::Mendings,
    words: Words,
    forwards_begun: u64,
    /// Operations of the last phase that had to succeed, and those that did.
    pub(crate) lively: (u64, u64),
    pub(crate) met: Met,
    /// Hash over what was seen: equal for equal seeds.
    pub(crate) trace: u64,
}

/// What a run was.
pub(crate) struct Ran {
    pub(crate) met: Met,
    pub(crate) trace: u64,
    pub(crate) lasted_ns: u64,
    pub(crate) checked: u64,
    pub(crate) lively: (u64, u64),
}

thread_local! {
    /// The key that was last looked at, for the account of a failed run.
    static LOOKED_AT: std::cell::RefCell<Option<Vec<u8>>> = const { std::cell::RefCell::new(None) };
}

/// Runs a seed to its end; panics at the first contradiction.
pub(crate) fn run(seed: u64) -> Ran {
    run_with(seed, |_| {})
}

/// As [`run`], with options that are changed before they take effect.
pub(crate) fn run_with(seed: u64, change: impl FnOnce(&mut Options)) -> Ran {
    let mut prng = Prng::new(seed);
    let mut options = Options::draw(&mut prng);
    change(&mut options);
    options.keep_within_bounds();
    trace::line(0, None, || format!("seed {seed}: {options:#?}"));
    let mut world = World::new(prng, options);
    world.live();
    Ran {
        checked: world.history.checked,
        lasted_ns: world.now_ns,
        met: world.met,
        trace: world.trace,
        lively: world.lively,
    }
}

impl World {
    fn new(mut prng: Prng, options: Options) -> World {
        let members = options.members as usize;
        let ring = Arc::new(ring_of(options.members, options.replication));
        let sites = (0..members).map(|at| Site::new(at, &ring, &options, &mut prng)).collect();
        let network = Network::new(prng.fork(), options.network.clone(), members);
        World {
            fate: prng.fork(),
            now_ns: MS,
            queue: BTreeMap::new(),
            queued: 0,
            sites,
            network,
            phase: Phase::Faults,
            bursts: Vec::new(),
            clients: (0..options.clients).map(|_| Client::default()).collect(),
            open: BTreeMap::new(),
            writes: BTreeMap::new(),
            next_ask: 1,
            moment: 0,
            history: History::default(),
            deeds: BTreeMap::new(),
            durable: DurableImages::new(members),
            mending: faults::Mendings::default(),
            words: Words::default(),
            forwards_begun: 0,
            lively: (0, 0),
            met: Met::default(),
            trace: 0,
            prng,
            options,
        }
    }

    fn live(&mut self) {
        (0..self.sites.len()).for_each(|at| self.start(at));
        self.plan_bursts();
        for client in 0..self.clients.len() {
            self.at(self.now_ns, Happening::Asks(client));
        }
        for site in 0..self.sites.len() {
            self.at(self.now_ns + site as u64, Happening::Opinion(site));
        }
        let end = self.bursts.last().expect("there is one").1;
        self.run_until(end);
        self.heal();
        let healed = self.now_ns + HEALED_NS;
        self.bursts.push((self.now_ns, self.now_ns + HEALING_NS));
        self.bursts.push((healed, healed + HEALING_NS));
        self.run_until(healed);
        self.phase = Phase::Healed;
        self.run_until(healed + HEALING_NS);
        let calm = self.now_ns + HEALED_NS;
        self.run_until(calm);
        self.phase = Phase::Calm;
        self.bursts.push((calm, calm + HEALING_NS));
        self.run_until(calm + HEALING_NS);
        self.rest();
        self.audit();
        self.judge();
    }

    /// Happens at that time, after what was to happen then already.
    fn at(&mut self, ns: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((ns.max(self.now_ns), self.queued), happening);
    }

    fn run_until(&mut self, until: u64) {
        loop {
            let queued = self.queue.first_key_value().map_or(u64::MAX, |((ns, _), _)| *ns);
            let due = |(at, site): (usize, &Site)| site.disk_due(self.now_ns).map(|due| (due, at));
            let disk = self.sites.iter().enumerate().filter_map(due).min();
            let next = queued.min(disk.map_or(u64::MAX, |(due, _)| due)).max(self.now_ns);
            if next > until {
                self.now_ns = until;
                return;
            }
            self.now_ns = next;
            match disk {
                Some((due, at)) if due <= queued => self.attend(at, |_| {}),
                Some(_) | None => {
                    let (_, happening) = self.queue.pop_first().expect("it was just looked at");
                    self.happen(happening);
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(number) => self.arrive(number),
            Happening::Tick { site, core, life } => self.tick(site, core, life),
            Happening::Asks(client) => self.ask(client),
            Happening::AsksTwice(asker) => self.ask_twice(asker),
            Happening::Late(asker) => self.check_late(asker),
            Happening::Fault => self.fault(),
            Happening::Mends(mending) => self.mend(mending),
            Happening::Starts { site, life } => {
                let here = &self.sites[site];
                if here.node.is_none() && here.life == life && !here.stays_down {
                    self.start(site);
                }
            }
            Happening::Opinion(site) => self.opinion(site),
        }
    }

    /// Gives a node something to do, and does what it asks for.
    fn attend(&mut self, at: usize, act: impl FnOnce(&crate::node::SimNode)) {
        let site = &mut self.sites[at];
        site.set_now(self.now_ns);
        let Some(node) = &site.node else { return };
        act(node);
        let replies = node.settle();
        let (durable, sent, halted) = (node.take_durable(), node.take_sent(), node.halted());
        for (key, version) in durable {
            self.durable.holds(at, &key, version);
        }
        let life = site.life;
        for sent in sent {
            match sent {
                Sent::Message(to, message) => self.send(at, to, *message),
                Sent::AskEpoch(to) => {
                    panic!("node {at} asks member {to} for an epoch, and there is one only")
                }
            }
        }
        for (asker, reply) in replies {
            self.replied(at, asker, reply);
        }
        if let Some(why) = halted {
            self.met.note("a node gave up after a failed step of its disk");
            trace::line(self.now_ns, None, || format!("node {at} halts: {why}"));
            self.crash(at, false);
        } else if self.sites[at].life == life {
            self.plan_ticks(at);
        }
    }

    fn send(&mut self, from: usize, to: MemberId, message: Message) {
        let to = to.0 as usize - 1;
        assert!(to < self.sites.len() && to != from, "a message to nobody");
        self.said(from, to, &message);
        let forward = matches!(message.body, MessageBody::Forward { .. } | MessageBody::ForwardAnswer { .. });
        let key = self.key_of(from, to, &message);
        trace::line(self.now_ns, key, || format!("  {from} -> {to}: {:?}", message.body));
        match self.network.send(self.now_ns, Flight { from, to, message }) {
            Sending::Lost => {
                if forward {
                    self.met.note("a request that was handed on, or its answer, was lost");
                }
            }
            Sending::Arrives(arrivals) => {
                if arrivals.len() > 1 {
                    self.met.note("a message was delivered twice");
                }
                for (ns, number) in arrivals {
                    self.at(ns, Happening::Arrives(number));
                }
            }
        }
    }

    fn arrive(&mut self, number: u64) {
        let Some(Flight { from, to, message }) = self.network.arrive(number) else { return };
        if let Some(resumes_ns) = self.sites[to].paused(self.now_ns) {
            // It waits in a socket.
            let number = self.network.hold(Flight { from, to, message });
            return self.at(resumes_ns, Happening::Arrives(number));
        }
        if self.sites[to].node.is_none() {
            return;
        }
        self.trace = self.trace.rotate_left(9) ^ (from as u64) << 8 ^ to as u64 ^ message.hlc.0;
        let key = self.key_of(from, to, &message);
        trace::line(self.now_ns, key, || format!("  {to} <- {from}: {}", name_of(&message.body)));
        let from = MemberId(from as u32 + 1);
        self.attend(to, |node| {
            let core = node.core_of(message.slot);
            node.cores[core].step(Event::Peer { from, message });
        });
    }

    fn replied(&mut self, at: usize, asker: Asker, reply: Reply) {
        self.trace = self.trace.rotate_left(7) ^ asker.0 ^ u64::from(reply.is_ok());
        self.answered(at, asker, reply);
    }

    /// Clients ask no more, and everything that is under way ends.
    fn rest(&mut self) {
        self.phase = Phase::Audit;
        for _ in 0..2_000 {
            if self.open.is_empty() {
                return;
            }
            self.run_until(self.now_ns + 10 * MS);
        }
        panic!("operations never ended: {:?}", self.open);
    }

    /// The values-only checker on every key, and what replicas hold.
    fn judge(&mut self) {
        for (operation, write) in &self.writes {
            write.tell(*operation, &mut self.deeds);
        }
        for (key, deeds) in &self.deeds {
            look_at(key);
            match judge(deeds) {
                Judgement::Linearizable => {}
                Judgement::Wrong(why) => {
                    panic!("{}: not linearizable: {why}", String::from_utf8_lossy(key))
                }
                Judgement::Undecided => self.met.note("a key's operations were too many to order"),
            }
        }
        self.gather_all();
        if self.words.forwards > self.forwards_begun {
            self.met.note("a request was handed on again");
        }
        if REPLICAS_BECOME_EQUAL {
            self.check_equal();
        }
    }

    fn check_equal(&self) {
        for key in self.history.keys() {
            let slot = Token::of(&key).slot();
            let replicas = self.replicas(slot);
            let held = replicas.iter().map(|at| {
                let node = self.sites[*at].node.as_ref().expect("all run");
                crate::node::held(node, &key)
            });
            let held: Vec<Option<Version>> = held.collect();
            assert!(held.windows(2).all(|two| two[0] == two[1]), "replicas differ: {held:?}");
        }
    }
}

/// The key that is looked at from now on.
fn look_at(key: &[u8]) {
    LOOKED_AT.with(|looked| *looked.borrow_mut() = Some(key.to_vec()));
}

fn name_of(body: &MessageBody) -> &'static str {
    match body {
        MessageBody::Write { .. } => "Write",
        MessageBody::WriteAnswer { .. } => "WriteAnswer",
        MessageBody::Read { .. } => "Read",
        MessageBody::ReadAnswer { .. } => "ReadAnswer",
        MessageBody::Survey { .. } => "Survey",
        MessageBody::SurveyAnswer { .. } => "SurveyAnswer",
        MessageBody::Collect { .. } => "Collect",
        MessageBody::Collected { .. } => "Collected",
        MessageBody::Announce => "Announce",
        MessageBody::Compare { .. } => "Compare",
        MessageBody::Agree { .. } => "Agree",
        MessageBody::Parts { .. } => "Parts",
        MessageBody::Listing { .. } => "Listing",
        MessageBody::Want { .. } => "Want",
        MessageBody::Forward { .. } => "Forward",
        MessageBody::ForwardAnswer { .. } => "ForwardAnswer",
    }
}
