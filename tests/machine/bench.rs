//! A machine on a fresh log, and what it has asked for.

use bytes::Bytes;
use ringcore::cluster::control::CoreReport;
use ringcore::cluster::epoch::Epoch;
use ringcore::cluster::ring::Ring;
use ringcore::node::effect::{Effect, Effects};
use ringcore::node::event::Event;
use ringcore::node::machine::{Machine, MachineConfig};
use ringcore::replication::messages::Message;
use ringcore::storage::block::{self, BLOCK_BYTES, HEADER_BYTES, Reading, Seal};
use ringcore::storage::log::{BatchPlan, Log};
use ringcore::storage::log_record::Records;
use ringcore::storage::lsn::Lsn;
use ringcore::storage::recovery::Restart;
use ringcore::storage::segment::{LogShape, SegmentId};
use ringcore::storage::shard::Shard;
use ringcore::types::request::{
    Answer, Asker, Expiry, Level, Operation, Page, ReadAnswer, Reply, Request, ScanRange, WriteAnswer,
};
use ringcore::types::{ClusterId, CoreId, Failure, Hlc, Limits, MemberId, Mono, Now, OperationId, Token};
use std::collections::VecDeque;
use std::sync::Arc;

/// Wall clock at the beginning: some day in 2026.
pub(crate) const BEGIN_MS: u64 = 1_790_000_000_000;
pub(crate) const OTHER: MemberId = MemberId(2);

/// What varies between the machines of these tests.
pub(crate) struct Setup {
    pub(crate) members: u32,
    pub(crate) limits: Limits,
    pub(crate) memory_limit: usize,
    pub(crate) segments: u32,
    pub(crate) hlc_bound: Hlc,
    /// None = that of a cluster founded with so many members.
    pub(crate) ring: Option<Arc<Ring>>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            members: 1,
            limits: Limits::default(),
            memory_limit: 1 << 30,
            segments: 4,
            hlc_bound: Hlc::ZERO,
            ring: None,
        }
    }
}

/// A core whose start batch is durable, and everything that it has asked for.
pub(crate) struct Bench {
    member: MemberId,
    pub(crate) machine: Machine,
    pub(crate) out: Effects,
    pub(crate) now: Now,
    pub(crate) asked: u64,
    pub(crate) replies: VecDeque<(Asker, Reply)>,
    pub(crate) sent: VecDeque<(MemberId, Message)>,
    pub(crate) epochs_asked: Vec<MemberId>,
    pub(crate) moved: Vec<CoreReport>,
    pub(crate) segments_wanted: Vec<SegmentId>,
    pub(crate) halted: Option<String>,
    /// All blocks of the log, in order.
    pub(crate) logged: Vec<u8>,
}

pub(crate) fn ring(members: u32) -> Arc<Ring> {
    Arc::new(Ring::new(Epoch::of_members(ClusterId([9; 16]), 3, members)))
}

fn empty_log(setup: &Setup, member: MemberId) -> Log {
    let seal = Seal::new(ClusterId([9; 16]), member, CoreId(0), 1);
    let shape = LogShape { seal, segment_blocks: 512 };
    let restart = Restart {
        incarnation: 1,
        cut: Lsn(0),
        first: Lsn(0),
        hlc_bound: setup.hlc_bound,
        segments: (0..setup.segments).map(|id| (SegmentId(id), None)).collect(),
        set_aside: Vec::new(),
        next_segment: SegmentId(setup.segments),
        sync: Vec::new(),
    };
    Log::start(shape, setup.limits.gathering_bytes_max, &restart)
}

impl Bench {
    pub(crate) fn new(setup: Setup) -> Bench {
        Bench::of_member(MemberId(1), setup)
    }

    pub(crate) fn of_member(member: MemberId, setup: Setup) -> Bench {
        let now = Now { wall_ms: BEGIN_MS, mono: Mono(1_000_000) };
        let config = MachineConfig {
            member,
            core: CoreId(0),
            cores: 1,
            limits: setup.limits.clone(),
            memory_limit: setup.memory_limit,
            hlc_bound: setup.hlc_bound,
        };
        let shard = Shard::new(7, CoreId(0), 1, &setup.limits);
        let ring = setup.ring.clone().unwrap_or_else(|| ring(setup.members));
        let machine = Machine::new(config, ring, shard, empty_log(&setup, member), now);
        let mut bench = Bench {
            member,
            machine,
            out: Effects::default(),
            now,
            asked: 0,
            replies: VecDeque::new(),
            sent: VecDeque::new(),
            epochs_asked: Vec::new(),
            moved: Vec::new(),
            segments_wanted: Vec::new(),
            halted: None,
            logged: Vec::new(),
        };
        bench.flush();
        bench
    }

    /// One machine of a cluster of one.
    pub(crate) fn alone() -> Bench {
        Bench::new(Setup::default())
    }

    /// Two machines, each of them a replica of every slot.
    pub(crate) fn two() -> (Bench, Bench) {
        let of = |id| Bench::of_member(MemberId(id), Setup { members: 2, ..Setup::default() });
        (of(1), of(2))
    }

    pub(crate) fn step(&mut self, event: Event) {
        self.machine.step(self.now, event, &mut self.out);
        while let Some(effect) = self.out.pop() {
            match effect {
                Effect::Reply { to, reply } => self.replies.push_back((to, reply)),
                Effect::Send { to, message } => self.sent.push_back((to, message)),
                Effect::AskEpoch(member) => self.epochs_asked.push(member),
                Effect::Moved(report) => self.moved.push(report),
                Effect::SendControl { .. }
                | Effect::Occupied { .. }
                | Effect::Publish(_)
                | Effect::Opine(_)
                | Effect::AskCores { .. }
                | Effect::Note(_) => panic!("no machine here speaks for its node"),
                Effect::PrepareSegment(segment) => self.segments_wanted.push(segment),
                Effect::Halt(why) => self.halted = Some(why),
            }
        }
    }

    /// Plans the writes that are due. They are not durable yet.
    pub(crate) fn plan(&mut self) -> Vec<BatchPlan> {
        let mut plans = Vec::new();
        while let Some(plan) = self.machine.next_batch(self.now) {
            let mut blocks = vec![0; plan.blocks * BLOCK_BYTES];
            self.machine.replica_mut().log_mut().encode(&plan, &mut blocks);
            self.logged.extend(blocks);
            plans.push(plan);
        }
        plans
    }

    /// What a start would find of this core: everything that was logged, replayed.
    pub(crate) fn replayed(&self, limits: &Limits) -> Shard {
        let seal = Seal::new(ClusterId([9; 16]), MemberId(1), CoreId(0), 1);
        let mut shard = Shard::new(7, CoreId(0), 1, limits);
        let mut payload = Vec::new();
        for block in self.logged.chunks_exact(BLOCK_BYTES) {
            let Reading::Intact(header) = block::open(seal, block) else { panic!("a block of the log") };
            payload.extend(&block[HEADER_BYTES..HEADER_BYTES + usize::from(header.used)]);
            if header.index + 1 < header.count {
                continue;
            }
            for record in Records::new(&std::mem::take(&mut payload)) {
                shard.replay(&record.expect("it was just written")).expect("there is room");
            }
        }
        shard
    }

    /// Makes everything durable that was appended.
    pub(crate) fn flush(&mut self) {
        loop {
            let plans = self.plan();
            if plans.is_empty() {
                return;
            }
            plans.into_iter().for_each(|plan| self.step(Event::Written(plan.ticket)));
        }
    }

    /// Lets time pass without a tick.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now = Now { wall_ms: self.now.wall_ms + ms, mono: self.now.mono.after_ms(ms) };
    }

    /// Lets time pass, tick by tick, with the log written at once.
    pub(crate) fn live_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(5) {
            self.pass_ms(5);
            self.step(Event::Tick);
            self.flush();
        }
    }

    pub(crate) fn submit(&mut self, request: Request) -> Asker {
        self.asked += 1;
        let from = Asker(self.asked);
        self.step(Event::Request { from, request });
        from
    }

    pub(crate) fn request(&self, operation: Operation) -> Request {
        let deadline = self.now.mono.after_ms(10_000);
        Request {
            operation,
            level: Level::Quorum,
            identity: None,
            done_below: 0,
            deadline,
            value_bytes_max: usize::MAX,
        }
    }

    pub(crate) fn ask(&mut self, operation: Operation) -> Asker {
        self.submit(self.request(operation))
    }

    pub(crate) fn ask_named(
        &mut self,
        operation: Operation,
        client: u64,
        request: u64,
        done_below: u64,
    ) -> Asker {
        let identity = OperationId::new(client, request);
        self.submit(Request { identity, done_below, ..self.request(operation) })
    }

    /// The reply to that request, if it has left.
    pub(crate) fn reply(&mut self, to: Asker) -> Option<Reply> {
        let at = self.replies.iter().position(|(asker, _)| *asker == to)?;
        let (_, reply) = self.replies.remove(at)?;
        assert!(self.replies.iter().all(|(asker, _)| *asker != to), "each request is answered once");
        Some(reply)
    }

    pub(crate) fn written(&mut self, to: Asker) -> WriteAnswer {
        match self.reply(to) {
            Some(Ok(Answer::Write(answer))) => answer,
            other => panic!("no write was acknowledged: {other:?}"),
        }
    }

    pub(crate) fn failed(&mut self, to: Asker) -> Failure {
        match self.reply(to) {
            Some(Err(failure)) => failure,
            other => panic!("not a failure: {other:?}"),
        }
    }

    /// Asks, makes the log durable, and expects success.
    pub(crate) fn write(&mut self, operation: Operation) -> WriteAnswer {
        let asker = self.ask(operation);
        self.flush();
        self.written(asker)
    }

    pub(crate) fn read(&mut self, key: &'static [u8]) -> ReadAnswer {
        let asker = self.ask(get(key));
        self.flush();
        match self.reply(asker) {
            Some(Ok(Answer::Read(answer))) => answer,
            other => panic!("no read was answered: {other:?}"),
        }
    }

    pub(crate) fn scan(&mut self, range: ScanRange) -> Page {
        let asker = self.ask(Operation::Scan(range));
        self.flush();
        match self.reply(asker) {
            Some(Ok(Answer::Page(page))) => page,
            other => panic!("no page was answered: {other:?}"),
        }
    }

    /// A write that both replicas hold.
    pub(crate) fn write_to_both(&mut self, operation: Operation, there: &mut Bench) {
        let asker = self.ask(operation);
        self.flush();
        self.deliver(there, MemberId(1));
        there.flush();
        there.deliver(self, OTHER);
        self.written(asker);
    }

    /// Hands over what this machine has sent to that one; the rest is lost.
    pub(crate) fn deliver(&mut self, to: &mut Bench, from: MemberId) {
        while let Some((member, message)) = self.sent.pop_front() {
            if member == to.member {
                to.step(Event::Peer { from, message });
            }
        }
    }
}

pub(crate) fn get(key: &'static [u8]) -> Operation {
    Operation::Read { key: Bytes::from_static(key), value: true }
}

pub(crate) fn put(key: &'static [u8], value: &'static [u8]) -> Operation {
    put_until(key, value, Expiry::Never)
}

pub(crate) fn put_until(key: &'static [u8], value: &'static [u8], expiry: Expiry) -> Operation {
    let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
    Operation::Put { key, value, expiry, previous: true }
}

pub(crate) fn delete(key: &'static [u8]) -> Operation {
    Operation::Delete { key: Bytes::from_static(key), previous: true }
}

pub(crate) fn replicate(key: &'static [u8], value: &'static [u8], timestamp: Hlc) -> Operation {
    Operation::Replicate { key: Bytes::from_static(key), value: Bytes::from_static(value), timestamp }
}

pub(crate) fn whole() -> ScanRange {
    ScanRange {
        first: Token(0),
        last: Token(u64::MAX),
        after_key: None,
        prefix: Bytes::new(),
        records_max: 1_000,
        bytes_max: 1 << 20,
        omit_values: false,
        dead: false,
    }
}
