//! The generator: one thread per core, each with its own connections, none waiting for another. In an open loop it begins
//! operations by a schedule that answers do not slow down; latency counts from when an operation was to begin.

use crate::client::connection::Connection;
use crate::client::{Action, Answer, Ended, Refusal, Request, Session};
use crate::measure::{Tallies, latencies};
use crate::workload::arrivals::{Arrivals, Schedule};
use crate::workload::keys::{Chooser, Records, write_key};
use crate::workload::mix::{Kind, Mix};
use crate::workload::values::{Filler, Sizes};
use hdrhistogram::Histogram;
use ringcore::types::prng::Prng;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::thread::set_current_timer_slack;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

/// A second.
const SECOND_NS: u64 = 1_000_000_000;
/// What still has no answer so long after the end is given up.
const DRAIN_NS: u64 = 10 * SECOND_NS;
/// Records that are told as filled at once.
const FILLED_STEP: u64 = 1_000;
/// Between two tries to connect.
const RECONNECT_NS: u64 = 100_000_000;
/// Without anything due a thread looks around this often, ns: at the clock, and whether it is to stop.
const GLANCE_NS: u64 = 50_000_000;
/// Between what two threads name their writes.
const THREAD_IDS: u64 = 1 << 40;

/// When operations begin.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// By the clock: so many requests a second, of all threads.
    Open {
        /// Requests a second.
        rate: f64,
        /// Their distances.
        arrivals: Arrivals,
    },
    /// Whenever one of so many in flight, over all connections, has ended.
    Closed {
        /// In flight.
        in_flight: usize,
    },
}

/// How long it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// So long, after a warm-up that is not measured.
    Time {
        /// Of the part that is not measured.
        warm_up: Duration,
        /// Of the part that is.
        measured: Duration,
    },
    /// Until records 0 .. `records` have been written once.
    Filled {
        /// How many.
        records: u64,
    },
}

/// What all threads are told.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// When operations begin.
    pub(crate) pace: Pace,
    /// When they end.
    pub(crate) until: Until,
    /// Which they are.
    pub(crate) mix: Mix,
    /// On which records.
    pub(crate) chooser: Chooser,
    /// The records that there are.
    pub(crate) records: Arc<Records>,
    /// Length of a key.
    pub(crate) key_bytes: usize,
    /// Length of a value.
    pub(crate) value_bytes: Sizes,
    /// Keys per request.
    pub(crate) batch: usize,
    /// Connections of all threads.
    pub(crate) connections: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// CPUs that they stay on, in turn; empty: wherever they are put.
    pub(crate) cpus: Vec<usize>,
    /// Tries of a request after the first, if its failure says that another may help.
    pub(crate) retries: u32,
    /// Writes have names.
    pub(crate) named: bool,
    /// Of all choices.
    pub(crate) seed: u64,
}

/// What a thread tells while it runs.
pub(crate) enum Told {
    /// The warm-up is over.
    Measuring,
    /// A second of the measured part has passed. In their order; none is left out.
    Second {
        /// Which, from 0.
        second: u64,
        /// What ended in it.
        tallies: Tallies,
    },
    /// Records that were filled so far, by this thread.
    Filled {
        /// Since it last told.
        more: u64,
    },
}

/// What a thread has seen when it ends.
#[derive(Debug)]
pub(crate) struct Seen {
    /// How late operations were begun that could have been begun in time, ns: the generator's own lag.
    pub(crate) lag: Histogram<u64>,
    /// Requests that had no answer when the run was over.
    pub(crate) unanswered: u64,
    /// Operations that were due and could not be begun before the end: the server took no more.
    pub(crate) never_begun: u64,
    /// Connections that were lost.
    pub(crate) connections_lost: u64,
    /// How long the measured part went on.
    pub(crate) measured: Duration,
}

/// Makes a session per connection, told the number of its thread.
pub(crate) trait Dial: Sync {
    /// What is spoken.
    type Session: Session;

    /// A session of a thread's connection, and where it goes.
    fn dial(&self, thread: usize, connection: usize) -> (SocketAddr, Self::Session);
}

/// Runs a load to its end. Fails if no connection can be made at first.
pub(crate) fn run<D: Dial>(
    load: &Load,
    dial: &D,
    stop: &AtomicBool,
    told: &Sender<Told>,
) -> io::Result<Vec<Seen>> {
    let begun = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..load.threads)
            .map(|index| {
                let told = told.clone();
                let body = move || {
                    if let Some(cpu) = load.cpus.get(index % load.cpus.len().max(1)) {
                        // If it may not be pinned it still measures, with more spread.
                        let _pinned = core_affinity::set_for_current(core_affinity::CoreId { id: *cpu });
                    }
                    // The kernel may otherwise wake a thread 50 µs after its time.
                    let _coarse = set_current_timer_slack(NonZeroU64::new(1_000));
                    Thread::new(load, dial, index, begun, told)?.run(stop)
                };
                thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, body)
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread?.join().expect("a load thread does not panic"));
        // All are waited for, even if the first one failed.
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

/// An operation under way.
struct Operation {
    kind: Kind,
    intended_ns: u64,
    keys: u64,
    /// Of single-key kinds, for what comes after the first answer.
    record: u64,
    tries: u32,
    /// The writing half of a read-modify-write.
    writing: bool,
    /// The name of its write; 0 = none.
    request_id: u64,
    /// To be sent again if it fails; only if there are retries.
    request: Option<Box<Request>>,
}

/// Names of writes that are under way, for the lowest of them: the node may forget what lies below it.
#[derive(Default)]
struct Names(VecDeque<(u64, bool)>);

impl Names {
    /// A name greater than all before.
    fn begin(&mut self, name: u64) {
        self.0.push_back((name, false));
    }

    fn end(&mut self, name: u64) {
        let Ok(at) = self.0.binary_search_by_key(&name, |(name, _)| *name) else { return };
        self.0[at].1 = true;
        while let Some((_, true)) = self.0.front() {
            self.0.pop_front();
        }
    }

    /// 0 if there is none.
    fn lowest(&self) -> u64 {
        self.0.front().map_or(0, |(name, _)| *name)
    }
}

/// A connection, or the time to try for one.
enum Line<S> {
    Up(Connection<S>),
    Down { retry_ns: u64 },
}

struct Thread<'a, D: Dial> {
    load: &'a Load,
    dial: &'a D,
    index: usize,
    begun: Instant,
    told: Sender<Told>,
    poll: OwnedFd,
    lines: Vec<Line<D::Session>>,
    /// The connection that is asked next.
    turn: usize,
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
    open: usize,
    /// Due operations that no connection has room for: when they were.
    backlog: VecDeque<u64>,
    /// Requests to be sent again.
    again: Vec<(Operation, Box<Request>)>,
    request: Request,
    distinct: HashSet<u64>,
    filler: Filler,
    prng: Prng,
    next_id: u64,
    names: Names,
    fill_next: u64,
    filled: u64,
    tallies: Tallies,
    second: u64,
    measuring: bool,
    warm_up_ns: u64,
    end_ns: u64,
    seen: Seen,
}

impl<'a, D: Dial> Thread<'a, D> {
    fn new(
        load: &'a Load,
        dial: &'a D,
        index: usize,
        begun: Instant,
        told: Sender<Told>,
    ) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (warm_up_ns, end_ns) = match load.until {
            Until::Time { warm_up, measured } => {
                (warm_up.as_nanos() as u64, (warm_up + measured).as_nanos() as u64)
            }
            Until::Filled { .. } => (0, u64::MAX - DRAIN_NS),
        };
        let mut thread = Thread {
            load,
            dial,
            index,
            begun,
            told,
            poll,
            lines: Vec::new(),
            turn: 0,
            operations: Vec::new(),
            free: Vec::new(),
            open: 0,
            backlog: VecDeque::new(),
            again: Vec::new(),
            request: Request::new(load.key_bytes),
            distinct: HashSet::new(),
            filler: Filler::new(load.value_bytes.most()),
            prng: Prng::new(load.seed ^ (index as u64).wrapping_mul(0x9E37_79B9)),
            next_id: 1 + index as u64 * THREAD_IDS,
            names: Names::default(),
            fill_next: index as u64,
            filled: 0,
            tallies: Tallies::new(),
            second: 0,
            measuring: false,
            warm_up_ns,
            end_ns,
            seen: Seen {
                lag: latencies(),
                unanswered: 0,
                never_begun: 0,
                connections_lost: 0,
                measured: Duration::ZERO,
            },
        };
        for number in (index..load.connections).step_by(load.threads) {
            let (address, session) = dial.dial(index, number);
            let connection = Connection::open(address, session).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
            })?;
            thread.watch(&connection, thread.lines.len())?;
            thread.lines.push(Line::Up(connection));
        }
        Ok(thread)
    }

    fn watch(&self, connection: &Connection<D::Session>, line: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(line as u64);
        Ok(epoll::add(&self.poll, connection, data, epoll::EventFlags::IN | epoll::EventFlags::RDHUP)?)
    }

    fn now_ns(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<Seen> {
        let mut schedule = match self.load.pace {
            Pace::Open { rate, arrivals } => {
                Some(Schedule::new(arrivals, rate, self.index, self.load.threads, self.prng.fork()))
            }
            Pace::Closed { .. } => None,
        };
        let mut events = Vec::with_capacity(256);
        let mut ended = Vec::new();
        loop {
            let now = self.now_ns();
            if stop.load(Relaxed) {
                self.end_ns = self.end_ns.min(now);
            }
            self.roll(now.min(self.end_ns));
            let due_ns = match &mut schedule {
                Some(schedule) => self.begin_due(schedule, now),
                None => self.begin_closed(now),
            };
            let idle = self.open == 0 && self.again.is_empty();
            if due_ns.is_none() && (idle || now >= self.end_ns.saturating_add(DRAIN_NS)) {
                break;
            }
            self.flush(now, &mut ended);
            let wait_ns = due_ns.map_or(GLANCE_NS, |due| due.saturating_sub(self.now_ns()).min(GLANCE_NS));
            let timeout = Timespec { tv_sec: 0, tv_nsec: wait_ns as i64 };
            // ppoll first: epoll's own wait counts in milliseconds.
            let mut ready = [PollFd::new(&self.poll, PollFlags::IN)];
            uninterrupted(poll(&mut ready, Some(&timeout)))?;
            let room = rustix::buffer::spare_capacity(&mut events);
            uninterrupted(epoll::wait(&self.poll, room, Some(&Timespec::default())))?;
            for event in events.drain(..) {
                self.receive(event.data.u64() as usize, &mut ended);
            }
            let now = self.now_ns();
            for end in ended.drain(..) {
                self.end(&end, now);
            }
        }
        let now = self.now_ns();
        self.seen.measured = Duration::from_nanos(now.min(self.end_ns).saturating_sub(self.warm_up_ns));
        self.seen.unanswered = (self.open + self.again.len()) as u64;
        self.seen.never_begun = self.backlog.len() as u64;
        self.tell_second();
        self.tell_filled();
        Ok(self.seen)
    }

    /// Tells the seconds that have passed.
    fn roll(&mut self, now: u64) {
        if !self.measuring && now >= self.warm_up_ns {
            self.measuring = true;
            let _unheard = self.told.send(Told::Measuring);
        }
        // The last second takes in what is still answered after it, and is told at the end.
        while let passed = self.warm_up_ns + (self.second + 1) * SECOND_NS
            && now >= passed
            && passed < self.end_ns
        {
            self.tell_second();
        }
        if self.filled >= FILLED_STEP {
            self.tell_filled();
        }
    }

    fn tell_second(&mut self) {
        let tallies = std::mem::take(&mut self.tallies);
        // Nobody listens any more: then nobody wants to know.
        let _unheard = self.told.send(Told::Second { second: self.second, tallies });
        self.second += 1;
    }

    fn tell_filled(&mut self) {
        if self.filled > 0 {
            let _unheard = self.told.send(Told::Filled { more: std::mem::take(&mut self.filled) });
        }
    }

    /// Begins what is due; when the next one is, None if nothing comes any more.
    fn begin_due(&mut self, schedule: &mut Schedule, now: u64) -> Option<u64> {
        self.begin_again();
        while schedule.next_ns() <= now.min(self.end_ns - 1) {
            let intended = schedule.next_ns();
            if intended >= self.warm_up_ns {
                self.seen.lag.saturating_record(now - intended);
            }
            self.backlog.push_back(intended);
            schedule.advance();
        }
        // What could not be begun before the end is not begun after it: the throughput is that of the time measured.
        while now < self.end_ns
            && let Some(intended) = self.backlog.front().copied()
        {
            let Some(line) = self.line_with_room(usize::MAX) else { break };
            self.backlog.pop_front();
            self.begin(line, intended);
        }
        (schedule.next_ns() < self.end_ns).then(|| schedule.next_ns())
    }

    /// Fills every connection up; None if nothing comes any more.
    fn begin_closed(&mut self, now: u64) -> Option<u64> {
        let Pace::Closed { in_flight } = self.load.pace else { unreachable!("an open loop has a schedule") };
        self.begin_again();
        if now >= self.end_ns {
            return None;
        }
        let depth = in_flight.div_ceil(self.load.connections);
        while let Some(line) = self.line_with_room(depth) {
            if let Until::Filled { records } = self.load.until
                && self.fill_next >= records
            {
                return None;
            }
            self.begin(line, now);
        }
        Some(u64::MAX)
    }

    fn begin_again(&mut self) {
        while !self.again.is_empty()
            && let Some(line) = self.line_with_room(usize::MAX)
            && let Some((operation, request)) = self.again.pop()
        {
            self.send(line, operation, Some(request));
        }
    }

    /// A connection that takes a request and has fewer than `depth` under way; in turn.
    fn line_with_room(&mut self, depth: usize) -> Option<usize> {
        let count = self.lines.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            if let Line::Up(connection) = &self.lines[at]
                && connection.open_requests() < depth
                && connection.has_room()
            {
                self.turn = (at + 1) % count;
                return Some(at);
            }
        }
        None
    }

    fn begin(&mut self, line: usize, intended_ns: u64) {
        let kind = match self.load.until {
            Until::Time { .. } => self.load.mix.choose(&mut self.prng),
            Until::Filled { .. } => Kind::Insert,
        };
        let action = match kind {
            Kind::Read | Kind::ReadModifyWrite => Action::Read,
            Kind::Update | Kind::Insert => Action::Write,
            Kind::Delete => Action::Delete,
            Kind::Scan => Action::Scan,
        };
        self.request.reset(action);
        self.request.token = if action == Action::Scan { self.prng.next_u64() } else { 0 };
        let keys = match kind {
            Kind::Scan => 0,
            Kind::ReadModifyWrite => 1,
            Kind::Read | Kind::Update | Kind::Insert | Kind::Delete => self.load.batch,
        };
        let mut record = 0;
        self.distinct.clear();
        for _ in 0..keys {
            let Some(next) = self.next_record(kind, keys > 1) else { break };
            record = next;
            write_key(record, self.load.key_bytes, &mut self.request.keys);
            if action == Action::Write {
                self.push_value();
            }
        }
        let keys = if action == Action::Scan { 1 } else { self.request.keys().len() as u64 };
        self.name(keys);
        let operation = Operation {
            kind,
            intended_ns,
            keys,
            record,
            tries: 0,
            writing: false,
            request_id: self.request.request_id,
            request: None,
        };
        self.send(line, operation, None);
    }

    /// None: all are written that were to be.
    fn next_record(&mut self, kind: Kind, batched: bool) -> Option<u64> {
        match (self.load.until, kind) {
            (Until::Filled { records }, _) => {
                let record = self.fill_next;
                self.fill_next += self.load.threads as u64;
                (record < records).then_some(record)
            }
            (Until::Time { .. }, Kind::Insert) => Some(self.load.records.insert()),
            (Until::Time { .. }, _) => Some(self.choose(batched)),
        }
    }

    /// A record; within a batch none twice.
    fn choose(&mut self, batched: bool) -> u64 {
        let mut record = self.load.chooser.choose(&mut self.prng);
        if batched {
            let count = self.load.records.count().max(1);
            while !self.distinct.insert(record) {
                record = (record + 1) % count;
                if self.distinct.len() as u64 >= count {
                    break;
                }
            }
        }
        record
    }

    fn push_value(&mut self) {
        let bytes = self.load.value_bytes.choose(&mut self.prng);
        let value = self.filler.value(bytes, &mut self.prng);
        self.request.values.extend_from_slice(value);
        self.request.value_ends.push(self.request.values.len());
    }

    fn name(&mut self, keys: u64) {
        let writes = matches!(self.request.action, Action::Write | Action::Delete);
        if !self.load.named || !writes {
            self.request.request_id = 0;
            return;
        }
        self.request.request_id = self.next_id;
        self.names.begin(self.next_id);
        self.request.done_below = self.names.lowest();
        self.next_id += keys;
    }

    fn send(&mut self, line: usize, mut operation: Operation, request: Option<Box<Request>>) {
        let tag = self.free.pop().unwrap_or_else(|| {
            self.operations.push(None);
            self.operations.len() as u32 - 1
        });
        let Line::Up(connection) = &mut self.lines[line] else { unreachable!("it had room") };
        match request {
            Some(request) => {
                connection.begin(&request, tag);
                operation.request = Some(request);
            }
            None => {
                connection.begin(&self.request, tag);
                if self.load.retries > 0 {
                    operation.request = Some(Box::new(self.request.clone()));
                }
            }
        }
        self.operations[tag as usize] = Some(operation);
        self.open += 1;
    }

    fn flush(&mut self, now: u64, ended: &mut Vec<Ended>) {
        for line in 0..self.lines.len() {
            match &mut self.lines[line] {
                Line::Up(connection) if connection.is_spent() => {
                    self.lines[line] = Line::Down { retry_ns: now }
                }
                Line::Up(connection) => {
                    let blocked = connection.is_blocked();
                    let result = connection.flush();
                    if blocked != connection.is_blocked() {
                        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
                        flags.set(epoll::EventFlags::OUT, connection.is_blocked());
                        let data = epoll::EventData::new_u64(line as u64);
                        // It fails only for a socket that is not watched; then it is not read either, and cut.
                        let _watched = epoll::modify(&self.poll, &*connection, data, flags);
                    }
                    if result.is_err() {
                        self.lose(line, ended);
                    }
                }
                Line::Down { retry_ns } if *retry_ns <= now => {
                    let (address, session) = self.dial.dial(self.index, line);
                    match Connection::open(address, session) {
                        Ok(connection) if self.watch(&connection, line).is_ok() => {
                            self.lines[line] = Line::Up(connection);
                        }
                        _ => self.lines[line] = Line::Down { retry_ns: now + RECONNECT_NS },
                    }
                }
                Line::Down { .. } => {}
            }
        }
    }

    fn receive(&mut self, line: usize, ended: &mut Vec<Ended>) {
        let Line::Up(connection) = &mut self.lines[line] else { return };
        if connection.receive(&mut |end| ended.push(end)).is_err() {
            self.lose(line, ended);
        }
    }

    fn lose(&mut self, line: usize, ended: &mut Vec<Ended>) {
        let retry_ns = self.now_ns() + RECONNECT_NS;
        if let Line::Up(mut connection) = std::mem::replace(&mut self.lines[line], Line::Down { retry_ns }) {
            connection.cut(&mut |end| ended.push(end));
            self.seen.connections_lost += 1;
        }
    }

    fn end(&mut self, end: &Ended, now: u64) {
        let Some(mut operation) = self.operations[end.tag as usize].take() else {
            unreachable!("a session answers each request once")
        };
        self.free.push(end.tag);
        self.open -= 1;
        if let Answer::Refused(refusal) = end.answer
            && operation.tries < self.load.retries
            && may_be_retried(refusal)
            && let Some(request) = operation.request.take()
        {
            operation.tries += 1;
            self.again.push((operation, request));
            return;
        }
        self.names.end(operation.request_id);
        let done = matches!(end.answer, Answer::Done { .. });
        if done && operation.kind == Kind::ReadModifyWrite && !operation.writing {
            self.write_back(operation);
            return;
        }
        if done && operation.kind == Kind::Insert {
            match self.load.until {
                Until::Filled { .. } => self.filled += operation.keys,
                Until::Time { .. } => self.load.records.inserted(operation.record),
            }
        }
        if operation.intended_ns >= self.warm_up_ns {
            let ns = now.saturating_sub(operation.intended_ns);
            self.tallies.entry(operation.kind).or_default().record(&end.answer, operation.keys, ns);
        }
    }

    /// The second half of a read-modify-write: sent again like a retry if no connection has room at once.
    fn write_back(&mut self, mut operation: Operation) {
        self.request.reset(Action::Write);
        write_key(operation.record, self.load.key_bytes, &mut self.request.keys);
        self.push_value();
        self.name(1);
        (operation.writing, operation.request_id) = (true, self.request.request_id);
        match self.line_with_room(usize::MAX) {
            Some(line) => self.send(line, operation, None),
            None => {
                let request = Box::new(self.request.clone());
                self.again.push((operation, request));
            }
        }
    }
}

/// A signal is no failure: nothing is ready then.
fn uninterrupted(waited: rustix::io::Result<usize>) -> io::Result<usize> {
    waited.or_else(|error| if error == rustix::io::Errno::INTR { Ok(0) } else { Err(error.into()) })
}

/// Does a failure say that the same request may be done later? A write that may have been done has the same name again.
fn may_be_retried(refusal: Refusal) -> bool {
    match refusal {
        // DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE.
        Refusal::Code(code) => matches!(code, 4 | 8 | 14),
        Refusal::Cut | Refusal::NotBegun => true,
        Refusal::Said => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_name_under_way_rises_when_it_ends() {
        let mut names = Names::default();
        assert_eq!(names.lowest(), 0);
        [3, 4, 70].into_iter().for_each(|name| names.begin(name));
        names.end(4);
        assert_eq!(names.lowest(), 3);
        names.end(3);
        assert_eq!(names.lowest(), 70);
        names.end(0);
        names.end(70);
        assert_eq!(names.lowest(), 0);
    }
}
