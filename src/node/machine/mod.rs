//! One core's state machine. It owns the core's data, clock and operations, and decides everything; it touches nothing.
//!
//! Contract of [`Machine::step`]: it never waits and is never re-entered. It reads no clock: one `now` serves all events
//! of one pass of the reactor. What it asks for is in `out` afterwards; the shell performs the effects in order. The
//! same events at the same times give the same effects.
//!
//! The shell also writes the log: after its steps it asks [`Machine::next_batch`] for what to write where, and reports
//! the end of the write with [`Event::Written`].

mod epochs;
mod exchanges;
mod forwards;
mod moves;
mod peers;
mod plane;
mod reads;
mod rounds;
mod writes;

use self::exchanges::Exchanges;
use self::forwards::Route;
use self::moves::Moves;
pub use self::plane::Plane;
use self::rounds::Rounds;
use super::effect::{Effect, Effects};
use super::event::{Event, Opinion};
use super::scan;
use super::stats::Stats;
use super::sweep::Sweep;
use crate::cluster::control::ControlEvent;
use crate::cluster::ring::Ring;
use crate::cluster::slot_set::SlotSet;
use crate::replication::coordinator::{Coordinator, Operation as Open};
use crate::replication::forward::Requester;
use crate::replication::messages::{AttemptId, Message, MessageBody, News, OwnedRecord, Replaced};
use crate::replication::quorum::{Quorum, ReplicaSets};
use crate::replication::replica::Replica;
use crate::storage::log::{BatchPlan, Log, Ticket};
use crate::storage::log_record::{ControlKind, LogRecord, Round};
use crate::storage::shard::Shard;
use crate::types::clock::{HlcClock, NodeClock};
use crate::types::mutant::{Mutant, planted};
use crate::types::request::{Answer, Expiry, Level, Operation, Request};
use crate::types::{
    Body, CoreId, Failure, Hlc, Limits, MemberId, Mono, Now, Outcome, Reason, RecordRef, Slot, Token, Version,
};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::sync::Arc;
use bytes::Bytes;

/// How far the clock's bound in the log rides ahead of the clock (`ENGINE.md` §2), milliseconds.
const HLC_BOUND_MS: u64 = 500;
/// Bytes that a record takes in the log beside its key and value, at most.
const RECORD_OVERHEAD: usize = 128;
/// How long after the disk was full it is tried again, milliseconds.
const SEGMENT_PAUSE_MS: u64 = 1_000;
/// Operation identities forgotten per tick, at most.
const EXPIRED_IDENTITIES_PER_TICK: usize = 4_096;

/// What a core is told at its start.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// This node's member id.
    pub member: MemberId,
    /// This core.
    pub core: CoreId,
    /// Cores of this node.
    pub cores: u16,
    /// What requests may ask for.
    pub limits: Limits,
    /// Bytes that this core's table may take.
    pub memory_limit: usize,
    /// No version of this core, before its start, lies above.
    pub hlc_bound: Hlc,
}

/// One core.
pub struct Machine {
    config: MachineConfig,
    ring: Arc<Ring>,
    clock: NodeClock,
    hlc: HlcClock,
    replica: Replica,
    coordinator: Coordinator,
    /// What this core says to its own operations, in the order of the tickets that make it count.
    own: VecDeque<(Ticket, AttemptId, OwnAnswer)>,
    /// Members that are believed dead, in the order of their ids, and how far cluster time is ahead of this clock.
    opinion: Opinion,
    /// Not before this is a newer epoch asked for again.
    ask_epoch_at: Mono,
    moves: Moves,
    exchanges: Exchanges,
    rounds: Rounds,
    /// Of core 0.
    plane: Option<Box<Plane>>,
    /// Below which number each client waits for no answer, as far as the log does not say so yet.
    done: BTreeMap<u64, u64>,
    /// The latest clock reading that was logged because somebody is told of an end by it, and its ticket.
    told: (Hlc, Ticket),
    sweep: Sweep,
    stats: Stats,
    /// The disk has no room for another segment.
    disk_full: bool,
    /// Not before this is a segment asked for again.
    ask_segment_at: Mono,
    stopping: bool,
}

/// What this core, as a replica, says to an operation that it coordinates.
#[derive(Debug)]
enum OwnAnswer {
    /// It holds the write's version.
    Held(Replaced),
    /// It holds this of the read's key.
    Found(Option<OwnedRecord>, Option<Round>),
    /// It holds the version that the read writes back, or once held it.
    Holds,
    /// It does not, and holds a newer one.
    Passed,
}

impl Machine {
    /// A core that has recovered its data and begun its log.
    pub fn new(config: MachineConfig, ring: Arc<Ring>, shard: Shard, log: Log, now: Now) -> Machine {
        let bound = if planted(Mutant::HlcBoundIgnored) { Hlc::ZERO } else { config.hlc_bound };
        let seen = if planted(Mutant::HlcBoundIgnored) { Hlc::ZERO } else { shard.hlc_max().max(bound) };
        let mut machine = Machine {
            clock: NodeClock::start(now, bound),
            hlc: HlcClock::starting_after(seen),
            replica: Replica::new(shard, log, bound),
            coordinator: Coordinator::new(bound),
            own: VecDeque::new(),
            opinion: Opinion::default(),
            ask_epoch_at: Mono(0),
            moves: Moves::default(),
            exchanges: Exchanges::default(),
            rounds: Rounds::default(),
            plane: None,
            done: BTreeMap::new(),
            told: (Hlc::ZERO, Ticket::RECOVERED),
            sweep: Sweep::default(),
            stats: Stats::default(),
            disk_full: false,
            ask_segment_at: Mono(0),
            stopping: false,
            config,
            ring,
        };
        machine.adopt_all();
        machine.begin_rounds();
        machine
    }

    /// One event. See the module's text for the contract.
    pub fn step(&mut self, now: Now, event: Event, out: &mut Effects) {
        match event {
            Event::Request { from, request } => self.request(now, Requester::Here(from), request, out),
            Event::Peer { from, message } => self.peer(now, from, message, out),
            Event::Written(ticket) => self.written(now, ticket, out),
            Event::WriteFailed(ticket) => {
                self.replica.log_mut().failed();
                out.at_once(Effect::Halt(format!(
                    "writing the log of core {} failed ({ticket:?}): what reached the disk is not known",
                    self.config.core
                )));
            }
            Event::SegmentReady(segment) => {
                self.disk_full = false;
                self.replica.log_mut().segment_ready(segment);
            }
            Event::SegmentRefused(segment) => {
                (self.disk_full, self.ask_segment_at) = (true, now.mono.after_ms(SEGMENT_PAUSE_MS));
                self.replica.log_mut().segment_refused(segment);
            }
            Event::Epoch(ring) => self.epoch(now, ring, out),
            Event::Opinion(opinion) => self.opinion(now, opinion, out),
            Event::Control { from, message } => self.control_heard(now, from, *message, out),
            Event::Unreachable(member) => self.unreachable(now, member),
            Event::Moved(report) => self.plane_step(now, ControlEvent::Cores(report), out),
            Event::AskEpoch(member) => self.fetch_epoch(member, out),
            Event::AskOccupied { round } => {
                out.after(self.replica.wait_for_all(), Effect::Occupied { round, slots: self.occupied() });
            }
            Event::Occupied { round, core, slots } => {
                self.plane_step(now, ControlEvent::Occupied { round, core, slots }, out);
            }
            Event::Tick => self.tick(now, out),
            Event::Watch => self.tick_plane(now, out),
            Event::Stop => self.stopping = true,
        }
        if now.mono >= self.ask_segment_at
            && let Some(segment) = self.replica.log_mut().wants_segment()
        {
            out.at_once(Effect::PrepareSegment(segment));
        }
    }

    /// Writes the epoch in force into the log: at the founding of a cluster, before anything is served. Returns the
    /// ticket to wait for.
    pub fn log_epoch(&mut self) -> Ticket {
        let bytes = self.ring.epoch().encode();
        self.replica.log_mut().append(&LogRecord::Control { kind: ControlKind::Epoch, bytes: &bytes })
    }

    /// What to write to the log now, if anything: call until None after each pass. The shell fills the batch's blocks
    /// with [`Log::encode`] and writes them.
    pub fn next_batch(&mut self, now: Now) -> Option<BatchPlan> {
        let bound = Hlc::at_ms(self.hlc.peek(self.clock.read(now)).ms() + HLC_BOUND_MS);
        self.replica.log_mut().next_batch(now.mono, bound)
    }

    /// The data and the log: for the shell's writer and for snapshots.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The data and the log, for upkeep that decides nothing.
    pub fn replica_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// Who owns which slot.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Does anything wait for the log or for time to pass? Ticks must then come every 5 ms.
    pub fn is_busy(&self) -> bool {
        !self.is_quiet() || self.replica.log().wants_tick() || self.is_moving() || self.is_exchanging()
    }

    /// Has everything that was taken on come to its end?
    pub fn is_quiet(&self) -> bool {
        self.coordinator.is_empty() && self.replica.log().is_idle()
    }

    /// Told to stop, with nothing open and the last batch proven by one that closes the log?
    pub fn is_closed(&self) -> bool {
        self.stopping && self.coordinator.is_empty() && !self.replica.log().wants_tick()
    }

    /// Is there no room on the disk for another segment, and none left to go on with?
    pub fn is_disk_full(&self) -> bool {
        self.disk_full && self.replica.log().segments_left() == 0
    }

    /// Is the disk or the memory full?
    pub fn is_full(&self) -> bool {
        self.is_disk_full() || self.replica.shard().table().memory_bytes() > self.config.memory_limit
    }

    /// Milliseconds since 1970 on this node's own clock.
    pub fn clock_ms(&mut self, now: Now) -> u64 {
        self.clock.read(now)
    }

    fn request(&mut self, now: Now, from: Requester, request: Request, out: &mut Effects) {
        let reply = if self.stopping {
            Err(Failure::not_applied(Reason::Stopping))
        } else if request.deadline <= now.mono {
            Err(Failure::not_applied(Reason::DeadlinePast))
        } else {
            self.dispatch(now, from, &request, out)
        };
        if let Err(failure) = reply {
            self.stats.failures += 1;
            self.stats.refused_room += u64::from(matches!(
                failure.reason,
                Reason::Overloaded | Reason::MemoryFull | Reason::DiskFull
            ));
            let failure = if request.operation.is_write() { failure } else { failure.of_read() };
            out.refuse(from, failure);
        }
    }

    /// Ok: the reply is on its way.
    fn dispatch(
        &mut self,
        now: Now,
        from: Requester,
        request: &Request,
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if let Some(key) = request.operation.key() {
            self.check_key(key)?;
        }
        let clock_ms = self.clock.read(now);
        if !request.operation.is_write() {
            self.check_held(out)?;
        }
        match &request.operation {
            Operation::Scan(range) => {
                let at = self.reading(now, clock_ms);
                let (page, ended_ms) = scan::page(self.replica.shard(), range, at);
                let wait = self.tell_end(ended_ms, at).max(self.replica.wait_for_all());
                self.stats.pages += 1;
                out.reply(wait, from, Ok(Answer::Page(page)));
                Ok(())
            }
            Operation::Join(join) => {
                let Requester::Here(asker) = from else { return Err(no_place()) };
                self.join(now, asker, (**join).clone(), request.deadline, out);
                Ok(())
            }
            Operation::Replicate { key, value, timestamp } => {
                self.check_value(value)?;
                let version = Version::new(*timestamp, MemberId::NONE);
                let record = RecordRef { key, version, expires_at_ms: 0, body: Body::Value(value) };
                self.replicate(now, clock_ms, from, request, record, out)
            }
            Operation::Read { key, .. } | Operation::Put { key, .. } | Operation::Delete { key, .. } => {
                let token = Token::of(key);
                let sets = self.sets(token.slot());
                match self.route(from, &sets, request.operation.is_write())? {
                    Route::Here => self.coordinate(now, clock_ms, from, request, (token, sets), out),
                    Route::To(member) => self.forward(now, from, request, (token.slot(), member), out),
                    Route::NotOwned => {
                        self.answer_not_owned(from, token.slot(), out);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Drives an operation on a key of which this core is a replica.
    fn coordinate(
        &mut self,
        now: Now,
        clock_ms: u64,
        from: Requester,
        request: &Request,
        (token, sets): (Token, ReplicaSets),
        out: &mut Effects,
    ) -> Result<(), Failure> {
        match &request.operation {
            Operation::Read { key, value } => {
                let local = sets.is_alone(self.config.member)
                    || (request.level == Level::One && sets.base.contains(&self.config.member));
                if local {
                    self.read_here(now, clock_ms, from, request, (token, key), out);
                    return Ok(());
                }
                self.read(now, clock_ms, from, request, (key, *value), (token, sets), out)
            }
            Operation::Put { key, value, expiry, previous } => {
                // Counted from the clock that will judge it: a life is never shorter than was asked for.
                let expires_at_ms = self.check_put(value, *expiry, self.hlc.peek(clock_ms).ms())?;
                let record =
                    RecordRef { key, version: Version::ZERO, expires_at_ms, body: Body::Value(value) };
                self.write(now, clock_ms, from, request, (record, Some(value), *previous), (token, sets), out)
            }
            Operation::Delete { key, previous } => {
                let record =
                    RecordRef { key, version: Version::ZERO, expires_at_ms: 0, body: Body::Tombstone };
                self.write(now, clock_ms, from, request, (record, None, *previous), (token, sets), out)
            }
            Operation::Scan(_) | Operation::Replicate { .. } | Operation::Join(_) => {
                unreachable!("they concern no key, or this node alone")
            }
        }
    }

    /// What reads judge ends by.
    fn reading(&self, now: Now, clock_ms: u64) -> Hlc {
        if planted(Mutant::ExpiryUnhappens) { Hlc::at_ms(now.wall_ms) } else { self.hlc.peek(clock_ms) }
    }

    /// Somebody is about to be told of an end, judged at the clock reading `at`. What has ended stays so over a restart
    /// with a clock set back: the bound that the log carries must have passed the end first. The ticket to wait for.
    fn tell_end(&mut self, ended_ms: u64, at: Hlc) -> Option<Ticket> {
        let log = self.replica.log_mut();
        if ended_ms <= log.durable_hlc_bound().ms() || planted(Mutant::EndToldEarly) {
            return None;
        }
        if self.told.0.ms() < ended_ms {
            self.hlc.observe(at);
            self.told = (at, log.append(&LogRecord::HlcBound(at)));
        }
        Some(self.told.1)
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Failure> {
        let limit = self.config.limits.key_bytes_max;
        match key.len() {
            0 => Err(Failure::not_applied(Reason::KeyEmpty)),
            got if got > limit => {
                Err(Failure::not_applied(Reason::KeyTooLong).limit(limit as u64, got as u64))
            }
            _ => Ok(()),
        }
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Failure> {
        let (limit, got) = (self.config.limits.value_bytes_max, value.len());
        if got > limit {
            return Err(Failure::not_applied(Reason::ValueTooLarge).limit(limit as u64, got as u64));
        }
        Ok(())
    }

    /// The put's end, absolute: milliseconds since 1970, 0 = never.
    fn check_put(&self, value: &[u8], expiry: Expiry, now_ms: u64) -> Result<u64, Failure> {
        self.check_value(value)?;
        let longest = self.config.limits.ttl_ms_max;
        let at_ms = match expiry {
            Expiry::Never => return Ok(0),
            Expiry::InMs(ttl_ms) if (1..=longest).contains(&ttl_ms) => now_ms + ttl_ms,
            Expiry::AtMs(at_ms) if at_ms > now_ms && at_ms - now_ms <= longest => at_ms,
            Expiry::InMs(_) | Expiry::AtMs(_) => {
                return Err(Failure::not_applied(Reason::ExpiryInvalid).limit(longest, 0));
            }
        };
        Ok(at_ms)
    }

    /// Is there room for another answer that may have to wait for the log? While it stalls, answers pile up.
    fn check_held(&self, out: &Effects) -> Result<(), Failure> {
        let limits = &self.config.limits;
        if out.held_bytes() >= limits.held_bytes_max || out.held() >= limits.operations_max {
            return Err(Failure { retry_after_ms: 10, ..Failure::not_applied(Reason::Overloaded) });
        }
        Ok(())
    }

    /// Is there room for a write of so many bytes, in a memory of `memory_max`?
    fn check_room(&self, bytes: usize, memory_max: usize) -> Result<(), Failure> {
        let limits = &self.config.limits;
        let log = self.replica.log();
        if self.coordinator.len() >= limits.operations_max || !log.has_room(bytes + RECORD_OVERHEAD) {
            return Err(Failure { retry_after_ms: 10, ..Failure::not_applied(Reason::Overloaded) });
        }
        if self.is_disk_full() {
            return Err(Failure { retry_after_ms: 1_000, ..Failure::not_applied(Reason::DiskFull) });
        }
        let memory = self.replica.shard().table().memory_bytes();
        if memory + bytes > memory_max {
            return Err(Failure::not_applied(Reason::MemoryFull).limit(self.config.memory_limit as u64, 0));
        }
        Ok(())
    }

    fn written(&mut self, now: Now, ticket: Ticket, out: &mut Effects) {
        let Some(durable) = self.replica.log_mut().written(ticket, now.mono) else { return };
        while let Some((ticket, attempt, answer)) =
            self.own.pop_front_if(|(waits_for, ..)| *waits_for <= durable)
        {
            self.own_answer(now, Some(ticket), attempt, answer, out);
        }
        let (rounds, collected) = self.sweep.durable(&mut self.replica, durable);
        self.stats.rounds += rounds.len() as u64;
        self.stats.collected += collected;
        out.release(durable);
        self.plane_written(now, durable, out);
        for slot in rounds {
            self.announce(slot, out);
        }
    }

    /// What this core itself says to an operation counts once its ticket, if any, is durable.
    fn own_answer(
        &mut self,
        now: Now,
        ticket: Option<Ticket>,
        attempt: AttemptId,
        answer: OwnAnswer,
        out: &mut Effects,
    ) {
        let ticket = ticket.unwrap_or(Ticket::RECOVERED);
        let Some(durable) = self.replica.log().proof(ticket) else {
            // Tickets rise, but a version that is offered again waits for the one that it was first taken with.
            let at = self.own.partition_point(|(last, ..)| *last <= ticket);
            self.own.insert(at, (ticket, attempt, answer));
            return;
        };
        match answer {
            OwnAnswer::Held(replaced) => self.own_write_held(now, attempt, durable, replaced, out),
            OwnAnswer::Found(..) | OwnAnswer::Holds | OwnAnswer::Passed => {
                self.own_read_answer(now, attempt, answer, out);
            }
        }
    }

    fn tick(&mut self, now: Now, out: &mut Effects) {
        for operation in self.coordinator.expire(now.mono) {
            self.end_late(operation, out);
        }
        for attempt in self.coordinator.due(now.mono) {
            self.look_again(now, attempt, out);
        }
        self.step_moves(now, out);
        self.step_exchanges(now, out);
        self.tick_plane(now, out);
        let clock_ms = self.clock.read(now);
        self.replica.shard_mut().identities_mut().expire(clock_ms, EXPIRED_IDENTITIES_PER_TICK);
        self.log_done();
        let limits = &self.config.limits;
        // On a full disk the rest of the log's last segment is for the parts, which free others: collection can wait.
        let may_collect = !self.stopping && !self.is_disk_full();
        if may_collect && self.replica.log().gathering_bytes() < limits.gathering_bytes_max / 2 {
            let at = self.hlc.peek(clock_ms);
            let ring = &self.ring;
            let found = self.sweep.step(&mut self.replica, now.mono, at, |slot| sets_of(ring, slot));
            self.collect_dead(now, at, found, out);
        }
        self.replica.shard_mut().compact_step(64 << 10);
        self.replica.log_mut().tick();
    }

    /// The deadline of an operation is past.
    fn end_late(&mut self, operation: Open, out: &mut Effects) {
        let reason = Reason::NoQuorumInTime;
        let (to, failure) = match operation {
            Open::Write(write) => (write.requester, Failure::in_doubt(reason)),
            Open::Read(read) => (read.requester, Failure::not_applied(reason).of_read()),
            Open::Forward(forward) => (forward.requester, forward.lost(reason)),
        };
        self.stats.failures += 1;
        self.stats.in_doubt += u64::from(failure.outcome == Outcome::InDoubt);
        out.refuse(to, failure);
    }

    /// An operation has waited for long: who has said nothing is asked again.
    fn look_again(&mut self, now: Now, attempt: AttemptId, out: &mut Effects) {
        match self.coordinator.get_mut(attempt) {
            Some(Open::Write(_)) => self.offer_again(attempt, out),
            Some(Open::Read(_)) => self.read_again(now, attempt, out),
            Some(Open::Forward(_)) | None => {}
        }
    }

    /// Slots of this core that hold any record, dead or alive.
    fn occupied(&self) -> SlotSet {
        let slots = Slot::of_core(self.config.core, self.config.cores);
        let mut occupied = SlotSet::default();
        occupied.extend(slots.filter(|slot| self.replica.holds_any(*slot)));
        occupied
    }

    fn is_suspected(&self, member: MemberId) -> bool {
        self.opinion.suspects.binary_search(&member).is_ok()
    }

    fn sets(&self, slot: Slot) -> ReplicaSets {
        sets_of(&self.ring, slot)
    }

    /// The configuration of a slot that this core has adopted: what its operations run under.
    fn configuration(&self, slot: Slot) -> u64 {
        self.replica.shard().mark(slot).configuration
    }

    fn message(&self, slot: Slot, body: MessageBody) -> Message {
        let mark = self.replica.shard().mark(slot);
        let news = News { round: mark.round, floor: mark.floor };
        Message { slot, configuration: mark.configuration, hlc: self.hlc.last(), news, body }
    }

    fn send(&self, wait: Option<Ticket>, to: MemberId, slot: Slot, body: MessageBody, out: &mut Effects) {
        out.after(wait, Effect::Send { to, message: self.message(slot, body) });
    }
}

fn sets_of(ring: &Ring, slot: Slot) -> ReplicaSets {
    let (epoch, base, target) = (ring.epoch(), ring.replicas(slot), ring.target(slot));
    let quorum = |n| Quorum { write: epoch.write_quorum(n), read: epoch.read_quorum(n) };
    ReplicaSets {
        base: base.into(),
        base_quorum: quorum(base.len()),
        target: target.into(),
        target_quorum: if target.is_empty() { Quorum::NONE } else { quorum(target.len()) },
    }
}

fn no_place() -> Failure {
    Failure::not_applied(Reason::Overloaded).message("too many keys of this node have nearly the same token")
}

fn record_bytes(record: &RecordRef<'_>) -> usize {
    record.key.len() + value_bytes(record)
}

fn value_bytes(record: &RecordRef<'_>) -> usize {
    if let Body::Value(value) = record.body { value.len() } else { 0 }
}

fn owned(record: &RecordRef<'_>) -> OwnedRecord {
    OwnedRecord {
        key: Bytes::copy_from_slice(record.key),
        version: record.version,
        expires_at_ms: record.expires_at_ms,
        value: match record.body {
            Body::Value(value) => Some(Bytes::copy_from_slice(value)),
            Body::Tombstone | Body::Expired => None,
        },
    }
}

fn borrowed(record: &OwnedRecord) -> RecordRef<'_> {
    RecordRef {
        key: &record.key,
        version: record.version,
        expires_at_ms: record.expires_at_ms,
        body: record.value.as_deref().map_or(Body::Tombstone, Body::Value),
    }
}
