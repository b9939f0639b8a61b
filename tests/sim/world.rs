//! The world of one node: clients, a clock that jumps, a disk that loses what was not flushed, crashes at any moment,
//! restarts with other numbers of cores. One seed, one run.

use crate::disk::{Fault, Latency, SimDisk};
use crate::history::{Before, History, Intent, Skew, value_of};
use crate::node::{Shape, SimNode, open};
use bytes::Bytes;
use ringcore::node::event::Event;
use ringcore::node::image::Host;
use ringcore::storage::disk::DiskErrorKind;
use ringcore::storage::open::OpenError;
use ringcore::types::prng::Prng;
use ringcore::types::request::{Answer, Asker, Expiry, Level, Operation, Reply, Request};
use ringcore::types::{Hlc, Limits, Mono, Now, OperationId, Outcome, Reason, SLOTS, Slot};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Wall clock at the beginning: some day in 2026.
const BEGIN_MS: u64 = 1_790_000_000_000;
const MS: u64 = 1_000_000;
const KEYS_MAX: u64 = 24;

/// What a seed switches on, and how strongly.
#[derive(Clone, Debug)]
struct Options {
    steps: u64,
    keys: u64,
    clients: usize,
    deletes_permille: u64,
    ttl_permille: u64,
    named_permille: u64,
    replicates_permille: u64,
    large_permille: u64,
    crash_permille: u64,
    /// Of crashes: the power goes, and with it what was not flushed.
    power_permille: u64,
    jumps_permille: u64,
    /// Nobody asks for anything for seconds: what the log says of the clock grows old.
    lulls_permille: u64,
    io_fault_permille: u64,
    full: bool,
    change_cores: bool,
    shape: Shape,
    latency_ms: u64,
}

impl Options {
    fn draw(prng: &mut Prng) -> Options {
        let some = |prng: &mut Prng, most: u64| if prng.chance(500) { prng.below(most) } else { 0 };
        let limits = Limits {
            identities_max: 64,
            identity_value_bytes_max: 1 << 20,
            operations_max: 64,
            gathering_bytes_max: 256 << 10,
            ..Limits::default()
        };
        Options {
            steps: 700,
            keys: prng.between(1, KEYS_MAX),
            clients: prng.between(1, 24) as usize,
            deletes_permille: some(prng, 600),
            ttl_permille: some(prng, 400),
            named_permille: some(prng, 1_000),
            replicates_permille: some(prng, 300),
            large_permille: some(prng, 60),
            crash_permille: prng.between(2, 25),
            power_permille: prng.between(0, 1_000),
            jumps_permille: some(prng, 20),
            lulls_permille: some(prng, 8),
            io_fault_permille: some(prng, 8),
            full: prng.chance(150),
            change_cores: prng.chance(600),
            shape: Shape {
                segment_blocks: *prng_choice(prng, &[64, 128, 256]),
                round_bytes: prng.between(16 << 10, 2 << 20),
                accept_data_loss: false,
                limits,
                memory_limit: 64 << 20,
            },
            latency_ms: prng.between(0, 4),
        }
    }
}

fn prng_choice<'a, T>(prng: &mut Prng, from: &'a [T]) -> &'a T {
    &from[prng.below(from.len() as u64) as usize]
}

/// Rare states, counted over a campaign: one that is never met makes the campaign worthless.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met(pub(crate) BTreeMap<&'static str, u64>);

impl Met {
    pub(crate) fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Met) {
        other.0.iter().for_each(|(what, count)| *self.0.entry(what).or_default() += count);
    }
}

/// An operation that waits for its answer.
#[derive(Clone, Debug)]
struct Open {
    key: Vec<u8>,
    before: Before,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Read { begun_ms: u64 },
    Write { operation: u64, named: Option<(OperationId, Request)>, repeated: bool },
    Replicate { operation: u64 },
}

/// One run.
pub(crate) struct World {
    options: Options,
    prng: Prng,
    disk: SimDisk,
    wall_offset_ms: i64,
    jumped: bool,
    now: Rc<Cell<Now>>,
    node: Option<SimNode>,
    cores: u16,
    starts: u64,
    history: History,
    open: BTreeMap<u64, Open>,
    /// Named writes whose answer was lost: to be asked again.
    unsure: Vec<(Vec<u8>, u64, OperationId, Request)>,
    next: u64,
    last_tick: u64,
    pub(crate) met: Met,
    /// Hash over what was seen: equal for equal seeds.
    pub(crate) trace: u64,
}

impl World {
    /// Runs a seed to its end; panics at the first contradiction.
    pub(crate) fn run(seed: u64) -> World {
        let mut prng = Prng::new(seed);
        let options = Options::draw(&mut prng);
        let disk = SimDisk::new(prng.next_u64());
        disk.delay(Latency { least_ns: 0, most_ns: options.latency_ms * MS, flush_hangs: false });
        let now = Now { wall_ms: BEGIN_MS, mono: Mono(0) };
        let mut world = World {
            prng,
            disk,
            wall_offset_ms: 0,
            jumped: false,
            now: Rc::new(Cell::new(now)),
            node: None,
            cores: 1,
            starts: 0,
            history: History::default(),
            open: BTreeMap::new(),
            unsure: Vec::new(),
            next: 1,
            last_tick: 0,
            met: Met::default(),
            trace: seed,
            options,
        };
        world.start();
        for _ in 0..world.options.steps {
            world.step();
        }
        world.audit();
        world
    }

    fn step(&mut self) {
        let dice = self.prng.below(1_000);
        if dice < self.options.crash_permille {
            self.crash();
            self.start();
        } else if dice < self.options.crash_permille + self.options.jumps_permille {
            self.jump();
        } else if dice
            < self.options.crash_permille + self.options.jumps_permille + self.options.io_fault_permille
        {
            let step = self.disk.steps() + self.prng.below(6);
            self.disk.fail_at(step, *prng_choice(&mut self.prng, &[Fault::Io, Fault::Short]));
            self.met.note("a step of the disk failed");
        } else if self.prng.chance(self.options.lulls_permille) {
            let ns = self.prng.between(500, 5_000) * MS;
            self.pass(ns);
            self.met.note("nothing was asked for for a while");
        } else if self.options.full && self.prng.chance(30) {
            self.fill_or_free();
        } else if self.open.len() < self.options.clients && self.prng.chance(700) {
            self.ask();
        } else {
            let ns = self.prng.below(3 * MS);
            self.pass(ns);
        }
        if self.node.as_ref().is_some_and(|node| node.halted().is_some()) {
            self.met.note("the node gave up after a failed write");
            self.crash();
            self.start();
        }
    }

    /// Lets virtual time pass, and everything happen that falls due.
    fn pass(&mut self, ns: u64) {
        let until = self.disk.now_ns() + ns;
        loop {
            let next = self.disk.next_due().unwrap_or(u64::MAX).min(self.last_tick + 5 * MS).min(until);
            self.disk.advance(next);
            self.set_now();
            let node = self.node.as_ref().expect("the node runs");
            if next >= self.last_tick + 5 * MS {
                self.last_tick = next;
                node.tick();
            }
            for (asker, reply) in node.run() {
                self.answered(asker, reply);
            }
            if next >= until {
                return;
            }
        }
    }

    fn set_now(&mut self) {
        let mono = Mono(self.disk.now_ns());
        let wall = (BEGIN_MS + mono.0 / MS).saturating_add_signed(self.wall_offset_ms);
        self.now.set(Now { wall_ms: wall, mono });
    }

    fn jump(&mut self) {
        let day = 86_400_000;
        self.wall_offset_ms += self.prng.below(2 * day) as i64 - day as i64;
        self.jumped = true;
        self.set_now();
        self.met.note("the clock jumped");
    }

    fn fill_or_free(&mut self) {
        if self.prng.chance(500) {
            self.disk.limit(0);
            self.met.note("the disk was full");
        } else {
            self.disk.limit(u64::MAX);
        }
    }

    fn ask(&mut self) {
        // A clock that jumps by hours ends the ten minutes for which a name is remembered.
        if !self.jumped && !self.unsure.is_empty() && self.prng.chance(400) {
            return self.ask_again();
        }
        let key = format!("key{}", self.prng.below(self.options.keys)).into_bytes();
        let before = self.history.before(&key);
        let now = self.now.get();
        let operation = self.next;
        self.next += 1;
        let tight = self.prng.chance(30);
        let deadline = if tight { now.mono + self.prng.below(4 * MS) } else { now.mono.after_ms(10_000) };
        let bytes = Bytes::from(key.clone());
        let (what, kind, identity) = match self.prng.below(1_000) {
            dice if dice < 350 => {
                (Operation::Read { key: bytes, value: true }, Kind::Read { begun_ms: now.wall_ms }, None)
            }
            dice if dice < 350 + self.options.replicates_permille => self.replicate(bytes, operation, now),
            _ => self.write(bytes, operation, now),
        };
        let request = Request {
            operation: what,
            level: Level::Quorum,
            identity,
            done_below: 0,
            deadline,
            value_bytes_max: usize::MAX,
        };
        let kind = match kind {
            Kind::Write { operation, .. } => {
                let named = identity.map(|id| (id, request.clone()));
                Kind::Write { operation, named, repeated: false }
            }
            other => other,
        };
        self.send(operation, Open { key, before, kind }, request);
    }

    fn write(&mut self, key: Bytes, operation: u64, now: Now) -> (Operation, Kind, Option<OperationId>) {
        let delete = self.prng.chance(self.options.deletes_permille);
        let ttl_ms = if !self.prng.chance(self.options.ttl_permille) {
            0
        } else if self.prng.chance(300) {
            self.prng.between(400, 4_000)
        } else {
            self.prng.between(1, 400)
        };
        let named = self.prng.chance(self.options.named_permille);
        let identity = named.then_some(OperationId { client: 5, request: operation });
        let intent = if delete { Intent::Delete } else { Intent::Put { ttl_ms } };
        self.history.ask(&key, operation, intent, now.wall_ms);
        let kind = Kind::Write { operation, named: None, repeated: false };
        if delete {
            return (Operation::Delete { key, previous: true }, kind, identity);
        }
        let large = self.prng.chance(self.options.large_permille);
        let len = if large { self.prng.between(5_000, 60_000) } else { self.prng.between(8, 300) };
        let value = Bytes::from(value_of(operation, len as usize));
        let expiry = if ttl_ms > 0 { Expiry::InMs(ttl_ms) } else { Expiry::Never };
        (Operation::Put { key, value, expiry, previous: true }, kind, identity)
    }

    /// A version of member 0 from the past: what another implementation's anti-entropy may offer late.
    fn replicate(&mut self, key: Bytes, operation: u64, now: Now) -> (Operation, Kind, Option<OperationId>) {
        let age = self.prng.below(2_000);
        let timestamp = Hlc(Hlc::at_ms(now.wall_ms - age).0 | (operation & 0xFFFF));
        self.history.ask(&key, operation, Intent::Put { ttl_ms: 0 }, now.wall_ms);
        let value = Bytes::from(value_of(operation, 16));
        (Operation::Replicate { key, value, timestamp }, Kind::Replicate { operation }, None)
    }

    /// Repeats a named write whose answer was lost.
    fn ask_again(&mut self) {
        let index = self.prng.below(self.unsure.len() as u64) as usize;
        let (key, operation, id, mut request) = self.unsure.swap_remove(index);
        request.deadline = self.now.get().mono.after_ms(10_000);
        let before = self.history.before(&key);
        let kind = Kind::Write { operation, named: Some((id, request.clone())), repeated: true };
        let asker = self.next;
        self.next += 1;
        self.met.note("a named write was repeated after a crash");
        self.send(asker, Open { key, before, kind }, request);
    }

    fn send(&mut self, asker: u64, open: Open, request: Request) {
        self.open.insert(asker, open);
        self.node.as_ref().expect("the node runs").submit(Asker(asker), request);
        self.pass(0);
    }

    fn answered(&mut self, asker: Asker, reply: Reply) {
        let open = self.open.remove(&asker.0).expect("each request is answered once");
        self.trace = self.trace.rotate_left(7) ^ asker.0 ^ u64::from(reply.is_ok());
        match (open.kind, reply) {
            (Kind::Read { begun_ms }, Ok(Answer::Read(answer))) => {
                self.trace ^= answer.version.hlc.0;
                let clock = (begun_ms, self.now.get().wall_ms);
                let skew = Skew { ahead_ms: 1_000 + 500 * self.starts, behind_ms: 0 };
                let skew = (!self.jumped).then_some(skew);
                self.history.read(&open.key, &open.before, &answer, clock, skew);
            }
            (Kind::Write { operation, repeated, .. }, Ok(Answer::Write(answer))) => {
                self.trace ^= answer.version.hlc.0;
                self.history.written(&open.key, operation, &open.before, repeated, &answer);
                let exact = self.history.check_old(&open.key, operation, &open.before, repeated, &answer);
                exact.unwrap_or_else(|why| panic!("{why}"));
            }
            (Kind::Replicate { .. }, Ok(Answer::Replicated)) => {}
            (Kind::Read { .. }, Err(failure)) => assert_eq!(failure.outcome, Outcome::Read, "{failure}"),
            (Kind::Write { operation, named, .. }, Err(failure)) => match failure.outcome {
                // The first try may have taken effect: the repetition's answer says nothing of it.
                Outcome::NotApplied if self.is_unsure(operation) => {}
                Outcome::NotApplied => self.refused(&open.key, operation, failure.reason),
                Outcome::InDoubt => self.in_doubt(&open.key, operation, named),
                Outcome::Applied => self.met.note("an answer was gone"),
                Outcome::Read => panic!("a write failed as a read: {failure}"),
            },
            (Kind::Replicate { operation }, Err(failure)) => match failure.outcome {
                Outcome::NotApplied => self.refused(&open.key, operation, failure.reason),
                Outcome::InDoubt => self.in_doubt(&open.key, operation, None),
                Outcome::Applied | Outcome::Read => panic!("{failure}"),
            },
            (kind, Ok(answer)) => panic!("{kind:?} was answered {answer:?}"),
        }
    }

    fn is_unsure(&mut self, operation: u64) -> bool {
        self.history.is_unsure(operation)
    }

    fn refused(&mut self, key: &[u8], operation: u64, reason: Reason) {
        match reason {
            Reason::DiskFull => self.met.note("a write was refused: disk full"),
            Reason::NotReplica => self.met.note("an old version was refused by the floor"),
            Reason::Overloaded => self.met.note("a write was refused: no room"),
            Reason::DeadlinePast => self.met.note("a deadline was past on arrival"),
            _ => {}
        }
        self.history.refused(key, operation);
    }

    fn in_doubt(&mut self, key: &[u8], operation: u64, named: Option<(OperationId, Request)>) {
        self.met.note("a write ended in doubt");
        self.history.doubt(operation);
        if let Some((id, request)) = named {
            self.unsure.push((key.to_vec(), operation, id, request));
        }
    }

    fn crash(&mut self) {
        self.node = None;
        for (_, open) in std::mem::take(&mut self.open) {
            match open.kind {
                Kind::Write { operation, named, .. } => {
                    self.history.doubt(operation);
                    if let Some((id, request)) = named {
                        self.unsure.push((open.key, operation, id, request));
                    }
                }
                Kind::Replicate { operation } => self.history.doubt(operation),
                Kind::Read { .. } => {}
            }
        }
        if self.prng.chance(self.options.power_permille) {
            self.met.note("the power went");
            self.disk.crash();
        } else {
            self.met.note("the process was killed");
            self.disk.kill();
        }
    }

    /// Starts the node, perhaps with another number of cores, perhaps interrupted on the way.
    fn start(&mut self) {
        self.disk.limit(u64::MAX);
        loop {
            // Also between two interrupted starts: what the first began is not what the second wants.
            if self.options.change_cores && self.prng.chance(400) {
                self.cores = self.prng.between(1, 4) as u16;
                self.met.note("the number of cores changed");
            }
            self.starts += 1;
            if self.prng.chance(250) {
                let step = self.prng.below(120);
                self.disk.stop_at(step);
            }
            self.set_now();
            match open(&self.disk, self.cores, &self.options.shape, Rc::clone(&self.now)) {
                Some(Ok(node)) => {
                    self.met
                        .0
                        .entry("records were read from parts")
                        .and_modify(|n| *n += node.read.0)
                        .or_insert(node.read.0);
                    self.node = Some(node);
                    self.last_tick = self.disk.now_ns();
                    // Steps are counted from the start of the process: none of them stops it any more.
                    self.disk.stop_at(u64::MAX);
                    return;
                }
                Some(Err(OpenError::Disk(error))) if error.kind == DiskErrorKind::Full => {
                    panic!("opening found no room: {error}")
                }
                Some(Err(error)) => panic!("the node does not open: {error}: {error:?}"),
                None => {
                    self.met.note("opening was interrupted");
                    self.crash();
                }
            }
        }
    }

    /// Everything comes to rest; the node is killed and opened again: what was, is.
    fn audit(&mut self) {
        self.disk.limit(u64::MAX);
        for _ in 0..2_000 {
            self.pass(5 * MS);
            let node = self.node.as_ref().expect("the node runs");
            if node.halted().is_some() {
                self.crash();
                self.start();
            } else if self.open.is_empty()
                && node.cores.iter().all(|core| core.with(|machine| machine.is_quiet()))
            {
                break;
            }
        }
        assert!(self.open.is_empty(), "operations never ended: {:?}", self.open.keys());
        let before = self.digests();
        self.node.as_ref().expect("it runs").cores.iter().for_each(|core| core.step(Event::Stop));
        self.node = None;
        self.disk.crash();
        self.options.change_cores = false;
        self.start();
        assert_eq!(before, self.digests(), "recovery is not the live state");
        for key in self.history.keys() {
            let request = Request {
                operation: Operation::Read { key: Bytes::from(key.clone()), value: true },
                level: Level::Quorum,
                identity: None,
                done_below: 0,
                deadline: Mono::NEVER,
                value_bytes_max: usize::MAX,
            };
            let before = self.history.before(&key);
            let kind = Kind::Read { begun_ms: self.now.get().wall_ms };
            let asker = self.next;
            self.next += 1;
            self.send(asker, Open { key, before, kind }, request);
        }
        self.pass(50 * MS);
        assert!(self.open.is_empty(), "reads never ended");
    }

    /// What each slot holds, as replicas would compare it.
    fn digests(&self) -> Vec<u64> {
        let node = self.node.as_ref().expect("the node runs");
        let cores = node.cores.len() as u16;
        let digest = |slot: Slot| {
            let core = &node.cores[usize::from(slot.core(cores).0)];
            core.with(|machine| machine.replica().shard().mark(slot).digest.0)
        };
        (0..SLOTS as u16).map(Slot).map(digest).collect()
    }

    /// Answers that were checked.
    pub(crate) fn checked(&self) -> u64 {
        self.history.checked
    }

    /// Virtual time, nanoseconds.
    pub(crate) fn lasted_ns(&self) -> u64 {
        self.disk.now_ns()
    }
}
