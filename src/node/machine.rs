//! One core's state machine. It owns the core's data, clock and operations, and decides everything; it touches nothing.
//!
//! Contract of [`Machine::step`]: it never waits and is never re-entered. It reads no clock: one `now` serves all events
//! of one pass of the reactor. What it asks for is in `out` afterwards; the shell performs the effects in order. The
//! same events at the same times give the same effects.
//!
//! The shell also writes the log: after its steps it asks [`Machine::next_batch`] for what to write where, and reports
//! the end of the write with [`Event::Written`].

use super::effect::{Effect, Effects};
use super::event::Event;
use super::payload::payload_hash;
use super::scan;
use super::stats::Stats;
use super::sweep::Sweep;
use crate::cluster::ring::Ring;
use crate::replication::coordinator::{Coordinator, Evidence, WriteKind, WriteOperation};
use crate::replication::messages::{AttemptId, Message, MessageBody, OwnedRecord, Replaced, Verdict};
use crate::replication::quorum::{ReplicaSets, Replicas};
use crate::replication::replica::{Naming, Replica, Taken};
use crate::storage::log::{BatchPlan, Log, Ticket};
use crate::storage::log_record::{Attempt, ControlKind, LogRecord, Round};
use crate::storage::shard::Shard;
use crate::types::clock::{HlcClock, NodeClock};
use crate::types::mutant::{Mutant, planted};
use crate::types::request::{Answer, Asker, Expiry, Operation, Request, WriteAnswer};
use crate::types::{
    Body, CoreId, Failure, Hlc, Limits, MemberId, Mono, Now, OperationId, Outcome, Reason, RecordRef, Slot,
    Token, Version,
};
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

/// Operation identities that one request frees, at most: a client with many must not hold up the others.
const FREED_NAMES_PER_REQUEST: usize = 1_024;
/// Clients whose freed identities are logged together at the next tick, at most.
const UNLOGGED_CLIENTS_MAX: usize = 1_024;

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
    /// This core's own copies of writes that it coordinates, in the order of the tickets that make them count.
    own: VecDeque<(Ticket, AttemptId, Replaced)>,
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

/// A write that passed all checks.
struct Accepted<'a> {
    from: Asker,
    record: RecordRef<'a>,
    naming: Option<Naming>,
    previous: bool,
}

impl Machine {
    /// A core that has recovered its data and begun its log.
    pub fn new(config: MachineConfig, ring: Arc<Ring>, shard: Shard, log: Log, now: Now) -> Machine {
        let bound = if planted(Mutant::HlcBoundIgnored) { Hlc::ZERO } else { config.hlc_bound };
        let seen = if planted(Mutant::HlcBoundIgnored) { Hlc::ZERO } else { shard.hlc_max().max(bound) };
        Machine {
            clock: NodeClock::start(now, bound),
            hlc: HlcClock::starting_after(seen),
            replica: Replica::new(shard, log),
            coordinator: Coordinator::default(),
            own: VecDeque::new(),
            done: BTreeMap::new(),
            told: (Hlc::ZERO, Ticket::RECOVERED),
            sweep: Sweep::default(),
            stats: Stats::default(),
            disk_full: false,
            ask_segment_at: Mono(0),
            stopping: false,
            config,
            ring,
        }
    }

    /// One event. See the module's text for the contract.
    pub fn step(&mut self, now: Now, event: Event, out: &mut Effects) {
        match event {
            Event::Request { from, request } => self.request(now, from, request, out),
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
            Event::Epoch(ring) => self.ring = ring,
            Event::Tick => self.tick(now, out),
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
        !self.is_quiet() || self.replica.log().wants_tick()
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

    fn request(&mut self, now: Now, from: Asker, request: Request, out: &mut Effects) {
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
        from: Asker,
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
            Operation::Read { key, value } => {
                let at = self.reading(now, clock_ms);
                let (record, wait) = self.replica.read(Token::of(key), key);
                let value_bytes_max = if *value { request.value_bytes_max } else { 0 };
                let answer = scan::read_answer(record, value_bytes_max, at);
                if *value && answer.value.len() < answer.value_bytes as usize {
                    out.too_long(from, request, answer.value_bytes as usize);
                    return Ok(());
                }
                let ended_ms = record.map_or(0, |record| scan::ended_ms(&record, at));
                let wait = wait.max(self.tell_end(ended_ms, at));
                self.stats.reads += 1;
                out.answer(wait, from, Answer::Read(answer));
                Ok(())
            }
            Operation::Scan(range) => {
                let at = self.reading(now, clock_ms);
                let (page, ended_ms) = scan::page(self.replica.shard(), range, at);
                let wait = self.tell_end(ended_ms, at).max(self.replica.wait_for_all());
                self.stats.pages += 1;
                out.answer(wait, from, Answer::Page(page));
                Ok(())
            }
            Operation::Put { key, value, expiry, previous } => {
                // Counted from the clock that will judge it: a life is never shorter than was asked for.
                let expires_at_ms = self.check_put(value, *expiry, self.hlc.peek(clock_ms).ms())?;
                let body = Body::Value(value);
                self.client_write(clock_ms, from, request, key, body, expires_at_ms, *previous, out)
            }
            Operation::Delete { key, previous } => {
                self.client_write(clock_ms, from, request, key, Body::Tombstone, 0, *previous, out)
            }
            Operation::Replicate { key, value, timestamp } => {
                self.check_value(value)?;
                let version = Version::new(*timestamp, MemberId::NONE);
                let record = RecordRef { key, version, expires_at_ms: 0, body: Body::Value(value) };
                self.replicate(clock_ms, from, request, record, out)
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

    #[expect(clippy::too_many_arguments, reason = "one operation's parts, borrowed apart from each other")]
    fn client_write(
        &mut self,
        clock_ms: u64,
        from: Asker,
        request: &Request,
        key: &Bytes,
        body: Body<'_>,
        expires_at_ms: u64,
        previous: bool,
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if previous {
            let bytes = self.previous_bytes(key, request.identity);
            if bytes > request.value_bytes_max {
                out.too_long(from, request, bytes);
                return Ok(());
            }
        }
        let naming = request.identity.map(|id| Naming {
            id,
            attempt: Attempt { count: 0, member: self.config.member },
            payload_hash: payload_hash(&request.operation),
        });
        if let Some(naming) = naming {
            self.free_names(naming.id.client, request.done_below);
            if self.repeat(from, key, naming, previous, request, out) {
                return Ok(());
            }
        }
        let unstamped = RecordRef { key, version: Version::ZERO, expires_at_ms, body };
        let limit = self.config.memory_limit;
        let memory_max = match body {
            Body::Value(_) | Body::Expired => limit,
            // Deleting goes on in a full memory: but tombstones of what is not there free nothing, so they have an end.
            Body::Tombstone if self.replica.shard().get(Token::of(key), key).is_none() => limit + limit / 16,
            Body::Tombstone => usize::MAX,
        };
        self.check_room(record_bytes(&unstamped), memory_max)?;
        if naming.is_some() && !self.replica.shard().identities().has_room() {
            return Err(Failure { retry_after_ms: 1_000, ..Failure::not_applied(Reason::Overloaded) }
                .message(
                    "this core remembers no more named operations now; operations without a name go on",
                ));
        }
        let version = self.stamp(clock_ms, Token::of(key), key);
        let record = RecordRef { version, ..unstamped };
        let accepted = Accepted { from, record, naming, previous };
        self.coordinate(accepted, request, out)
    }

    /// Bytes that the replaced value in the answer to a write may have: of the key's value, or of what is remembered if
    /// this is a repetition.
    fn previous_bytes(&self, key: &Bytes, identity: Option<OperationId>) -> usize {
        let shard = self.replica.shard();
        let held = shard.get(Token::of(key), key).map_or(0, |record| value_bytes(&record));
        let known = identity.and_then(|id| shard.identities().get(id)).and_then(|entry| entry.old.as_ref());
        held.max(known.map_or(0, Bytes::len))
    }

    /// The client waits for no answer below `done_below`. The log is told at the next tick: what is forgotten here must
    /// not fill the table of names again at the next start.
    fn free_names(&mut self, client: u64, done_below: u64) {
        let names = self.replica.shard_mut().identities_mut();
        if names.done_below(client, done_below, FREED_NAMES_PER_REQUEST) > 0 {
            let known = self.done.entry(client).or_default();
            *known = done_below.max(*known);
            if self.done.len() >= UNLOGGED_CLIENTS_MAX {
                self.log_done();
            }
        }
    }

    fn log_done(&mut self) {
        for (client, done_below) in core::mem::take(&mut self.done) {
            self.replica.log_mut().append(&LogRecord::OperationsDone { client, done_below });
        }
    }

    /// A version above everything that is known of the key, its slot and this clock.
    fn stamp(&mut self, clock_ms: u64, token: Token, key: &[u8]) -> Version {
        if let Some(held) = self.replica.shard().get(token, key) {
            self.hlc.observe(held.version.hlc);
        }
        self.hlc.observe(self.replica.shard().mark(token.slot()).floor.hlc);
        Version::new(self.hlc.issue(clock_ms), self.config.member)
    }

    /// Answers a named operation that is known, again; false: it is not known. Whatever is said of it waits until the
    /// operation is durable, and success until its quorum holds it.
    fn repeat(
        &mut self,
        from: Asker,
        key: &Bytes,
        naming: Naming,
        previous: bool,
        request: &Request,
        out: &mut Effects,
    ) -> bool {
        let Some(entry) = self.replica.shard().identities().get(naming.id) else { return false };
        if entry.payload_hash != naming.payload_hash {
            self.refuse_durably(from, Failure::not_applied(Reason::RequestIdReused), out);
            return true;
        }
        self.stats.repeats += 1;
        if previous && entry.had_old && entry.old.is_none() {
            let failure = Failure { outcome: Outcome::Applied, ..Failure::not_applied(Reason::AnswerGone) };
            self.refuse_durably(from, failure, out);
            return true;
        }
        let old = entry.old.clone().filter(|_| previous).unwrap_or_default();
        let (version, had_old, replaced) = (entry.version, entry.had_old, entry.replaced);
        let token = Token::of(key);
        let wait = self.replica.wait_for(token);
        let sets = self.sets(token.slot());
        if sets.all().all(|member| member == self.config.member) {
            out.answer(wait, from, Answer::Write(WriteAnswer { version, had_old, old }));
            return true;
        }
        match self
            .replica
            .shard()
            .get(token, key)
            .filter(|held| held.version == version)
            .map(|held| owned(&held))
        {
            Some(record) => {
                let replaced = Replaced { version: replaced, value: had_old.then_some(old) };
                let own = Some((wait.unwrap_or(Ticket::RECOVERED), replaced));
                self.drive(from, request, record.version, sets, own, || record, out);
            }
            // It was replaced here since, and whether it ever had its quorum is not known.
            None => self.refuse_durably(from, Failure::in_doubt(Reason::NoQuorumInTime), out),
        }
        true
    }

    /// A refusal that speaks of what is in the log.
    fn refuse_durably(&mut self, from: Asker, failure: Failure, out: &mut Effects) {
        self.stats.failures += 1;
        self.stats.in_doubt += u64::from(failure.outcome == Outcome::InDoubt);
        out.after(self.replica.wait_for_all(), Effect::Reply { to: from, reply: Err(failure) });
    }

    /// Takes an accepted write on: into this core's own table and log if it is a replica, and to the others.
    fn coordinate(
        &mut self,
        accepted: Accepted<'_>,
        request: &Request,
        out: &mut Effects,
    ) -> Result<(), Failure> {
        let Accepted { from, record, naming, previous } = accepted;
        let sets = self.sets(Token::of(record.key).slot());
        let mut own = None;
        if sets.all().any(|member| member == self.config.member) {
            let (taken, replaced) = self.replica.write(&record, None, naming, record.version.hlc, previous);
            match taken {
                Taken::Held(ticket) => own = Some((ticket, replaced)),
                Taken::NoPlace => return Err(no_place()),
                Taken::Superseded(..) | Taken::BelowFloor => {
                    unreachable!("a stamped version is above all that is known here")
                }
            }
        }
        self.drive(from, request, record.version, sets, own, || owned(&record), out);
        Ok(())
    }

    /// Drives a write to its quorum. `own`: this core's copy, if it is a replica; `record` is asked for only if there are
    /// others to send it to.
    #[expect(clippy::too_many_arguments, reason = "one operation's parts, borrowed apart from each other")]
    fn drive(
        &mut self,
        from: Asker,
        request: &Request,
        version: Version,
        sets: ReplicaSets,
        own: Option<(Ticket, Replaced)>,
        record: impl FnOnce() -> OwnedRecord,
        out: &mut Effects,
    ) {
        let others: Replicas = sets.all().filter(|member| *member != self.config.member).collect();
        let Request { level, deadline, .. } = *request;
        let operation = WriteOperation::new(from, version, sets, level, deadline, WriteKind::Write);
        let attempt = self.coordinator.open(operation);
        let ticket = own.as_ref().map(|(ticket, _)| *ticket);
        if let Some((ticket, replaced)) = own {
            self.wait_for_own(ticket, attempt, replaced, out);
        }
        if !others.is_empty() {
            self.offer(attempt, record(), ticket, &others, out);
        }
    }

    /// Sends a record to other replicas. A version above the durable bound leaves only with its own record, or with a
    /// bound that covers it: else a crash could let this core issue the same version again, for something else.
    fn offer(
        &mut self,
        attempt: AttemptId,
        record: OwnedRecord,
        own: Option<Ticket>,
        others: &[MemberId],
        out: &mut Effects,
    ) {
        let (hlc, slot) = (record.version.hlc, Token::of(&record.key).slot());
        let wait = (hlc > self.replica.log().durable_hlc_bound())
            .then(|| own.unwrap_or_else(|| self.replica.log_mut().append(&LogRecord::HlcBound(hlc))));
        for member in others {
            let body = MessageBody::Write { attempt, record: record.clone(), label: None };
            out.after(wait, Effect::Send { to: *member, message: self.message(slot, body) });
        }
    }

    /// The seed's Replicate: one version of member 0, for this node alone.
    fn replicate(
        &mut self,
        clock_ms: u64,
        from: Asker,
        request: &Request,
        record: RecordRef<'_>,
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if record.version.hlc == Hlc::ZERO {
            return Err(Failure::not_applied(Reason::Malformed).message("timestamp 0 is not a version"));
        }
        if self.is_ahead(clock_ms, record.version) {
            self.stats.clock_refusals += 1;
            return Err(Failure::not_applied(Reason::ClockUnfit).message("timestamp ahead of clock"));
        }
        let sets = self.sets(Token::of(record.key).slot());
        if !sets.all().any(|member| member == self.config.member) {
            return Err(Failure::not_applied(Reason::NotReplica).message("not a replica of this key"));
        }
        self.check_room(record_bytes(&record), self.config.memory_limit)?;
        self.hlc.observe(record.version.hlc);
        let (taken, replaced) = self.replica.write(&record, None, None, record.version.hlc, false);
        match taken {
            Taken::Held(ticket) => {
                let alone = ReplicaSets {
                    base: Replicas::from_slice(&[self.config.member]),
                    target: Replicas::new(),
                };
                let operation = WriteOperation::new(
                    from,
                    record.version,
                    alone,
                    request.level,
                    request.deadline,
                    WriteKind::Replicate,
                );
                let attempt = self.coordinator.open(operation);
                self.wait_for_own(ticket, attempt, replaced, out);
                Ok(())
            }
            Taken::Superseded(_, wait) => {
                out.answer(wait, from, Answer::Replicated);
                Ok(())
            }
            Taken::BelowFloor => {
                self.stats.floor_refusals += 1;
                Err(Failure::not_applied(Reason::NotReplica).message("below gc floor"))
            }
            Taken::NoPlace => Err(no_place()),
        }
    }

    /// This core's own copy counts once its ticket is durable.
    fn wait_for_own(&mut self, ticket: Ticket, attempt: AttemptId, replaced: Replaced, out: &mut Effects) {
        match self.replica.log().proof(ticket) {
            Some(durable) => {
                if let Some(done) =
                    self.coordinator.held(attempt, self.config.member, &Evidence::Own(durable), replaced)
                {
                    self.stats.writes += 1;
                    out.acknowledge(done);
                }
            }
            None => {
                // Tickets rise, but a version that is offered again waits for the one that it was first taken with.
                let at = self.own.partition_point(|(last, ..)| *last <= ticket);
                self.own.insert(at, (ticket, attempt, replaced));
            }
        }
    }

    fn written(&mut self, now: Now, ticket: Ticket, out: &mut Effects) {
        let Some(durable) = self.replica.log_mut().written(ticket, now.mono) else { return };
        while let Some((ticket, attempt, replaced)) =
            self.own.pop_front_if(|(waits_for, ..)| *waits_for <= durable)
        {
            self.wait_for_own(ticket, attempt, replaced, out);
        }
        let (rounds, collected) = self.sweep.durable(&mut self.replica, durable);
        self.stats.rounds += rounds;
        self.stats.collected += collected;
        out.release(durable);
    }

    fn tick(&mut self, now: Now, out: &mut Effects) {
        for asker in self.coordinator.expire(now.mono) {
            self.stats.failures += 1;
            self.stats.in_doubt += 1;
            out.refuse(asker, Failure::in_doubt(Reason::NoQuorumInTime));
        }
        let clock_ms = self.clock.read(now);
        self.replica.shard_mut().identities_mut().expire(clock_ms, EXPIRED_IDENTITIES_PER_TICK);
        self.log_done();
        let limits = &self.config.limits;
        // On a full disk the rest of the log's last segment is for the parts, which free others: collection can wait.
        let may_collect = !self.stopping && !self.is_disk_full();
        if may_collect && self.replica.log().gathering_bytes() < limits.gathering_bytes_max / 2 {
            let at = self.hlc.peek(clock_ms);
            let ring = &self.ring;
            self.sweep.step(&mut self.replica, now.mono, at, |slot| sets_of(ring, slot));
        }
        self.replica.shard_mut().compact_step(64 << 10);
        self.replica.log_mut().tick();
    }

    fn peer(&mut self, now: Now, from: MemberId, message: Message, out: &mut Effects) {
        if self.ring.epoch().member(from).is_none() || from == self.config.member {
            self.stats.peer_refusals += 1;
            return;
        }
        let clock_ms = self.clock.read(now);
        let Message { slot, configuration, hlc, body } = message;
        if !self.is_ahead(clock_ms, Version::new(hlc, from)) {
            self.hlc.observe(hlc);
        }
        match body {
            MessageBody::Write { record, .. } if !self.is_of(slot, &record.key) => {
                self.stats.peer_refusals += 1;
            }
            MessageBody::Write { attempt, record, label } => {
                let (wait, verdict, replaced) =
                    self.peer_write(clock_ms, slot, configuration, &record, label);
                let answer = MessageBody::WriteAnswer { attempt, verdict, replaced };
                out.after(wait, Effect::Send { to: from, message: self.message(slot, answer) });
            }
            MessageBody::WriteAnswer { attempt, verdict: Verdict::Held, replaced } => {
                if let Some(done) = self.coordinator.held(attempt, from, &Evidence::Peer, replaced) {
                    self.stats.writes += 1;
                    out.acknowledge(done);
                }
            }
            // Nothing else counts toward a quorum: the operation goes on until its deadline.
            MessageBody::WriteAnswer { .. } => self.stats.peer_refusals += 1,
        }
    }

    /// Is it a key of that slot, and the slot one of this core?
    fn is_of(&self, slot: Slot, key: &[u8]) -> bool {
        self.check_key(key).is_ok()
            && Token::of(key).slot() == slot
            && slot.core(self.config.cores) == self.config.core
    }

    /// Takes a peer's record. The answer leaves after the ticket.
    fn peer_write(
        &mut self,
        clock_ms: u64,
        slot: Slot,
        configuration: u64,
        record: &OwnedRecord,
        label: Option<Round>,
    ) -> (Option<Ticket>, Verdict, Replaced) {
        let held = self.replica.shard().mark(slot).configuration;
        if configuration != held {
            return (None, Verdict::StaleEpoch(held), Replaced::default());
        }
        if self.is_ahead(clock_ms, record.version) {
            self.stats.clock_refusals += 1;
            return (None, Verdict::ClockAhead, Replaced::default());
        }
        let bytes = record.key.len() + record.value.as_ref().map_or(0, Bytes::len);
        let fits = record.value.as_deref().is_none_or(|value| self.check_value(value).is_ok());
        let memory_max = if record.value.is_some() { self.config.memory_limit } else { usize::MAX };
        if !fits || self.check_room(bytes, memory_max).is_err() {
            return (None, Verdict::NoRoom, Replaced::default());
        }
        self.hlc.observe(record.version.hlc);
        let body = record.value.as_deref().map_or(Body::Tombstone, Body::Value);
        let borrowed = RecordRef {
            key: &record.key,
            version: record.version,
            expires_at_ms: record.expires_at_ms,
            body,
        };
        let (taken, replaced) = self.replica.write(&borrowed, label, None, record.version.hlc, true);
        match taken {
            Taken::Held(ticket) => (Some(ticket), Verdict::Held, replaced),
            Taken::Superseded(newer, wait) => (wait, Verdict::Superseded(newer), replaced),
            Taken::BelowFloor => {
                self.stats.floor_refusals += 1;
                (None, Verdict::BelowFloor, replaced)
            }
            Taken::NoPlace => (None, Verdict::NoRoom, replaced),
        }
    }

    /// Does a foreign version lie too far ahead of both this node's clock and what it has already seen?
    fn is_ahead(&self, clock_ms: u64, version: Version) -> bool {
        let ms = version.hlc.ms();
        ms > self.hlc.last().ms() && ms > clock_ms + self.config.limits.skew_ms_max
    }

    fn sets(&self, slot: Slot) -> ReplicaSets {
        sets_of(&self.ring, slot)
    }

    fn message(&self, slot: Slot, body: MessageBody) -> Message {
        let configuration = self.replica.shard().mark(slot).configuration;
        Message { slot, configuration, hlc: self.hlc.last(), body }
    }
}

fn sets_of(ring: &Ring, slot: Slot) -> ReplicaSets {
    ReplicaSets { base: ring.replicas(slot).into(), target: Replicas::new() }
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
