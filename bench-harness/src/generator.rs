//! The generator: one thread per core, each with its own connections, none waiting for another. In an open loop it begins
//! operations by a schedule that answers do not slow down; latency counts from when an operation was to begin.

use crate::client::{Action, Answer, Ended, Refusal, Request};
use crate::lines::{Dial, Lines};
use crate::load::{Load, Pace, Until};
use crate::measure::{Tallies, latencies};
use crate::workload::arrivals::Schedule;
use crate::workload::keys::write_key;
use crate::workload::mix::Kind;
use crate::workload::values::Filler;
use hdrhistogram::Histogram;
use ringcore::types::prng::Prng;
use rustix::thread::set_current_timer_slack;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::num::NonZeroU64;
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
/// So long without any connection, a thread that fills a server leaves it.
const DESERTED_NS: u64 = 10 * SECOND_NS;
/// Without anything due a thread looks around this often, ns: at the clock, and whether it is to stop.
const GLANCE_NS: u64 = 50_000_000;
/// Between what two threads name their writes.
const THREAD_IDS: u64 = 1 << 40;

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
    /// The most requests that were in flight at once.
    pub(crate) in_flight_most: usize,
    /// Connections that were lost.
    pub(crate) connections_lost: u64,
    /// How long the measured part went on.
    pub(crate) measured: Duration,
}

/// Runs a load to its end, from when all its connections are made. Fails if one cannot be made then.
pub(crate) fn run<D: Dial>(
    load: &Load,
    dial: &D,
    stop: &AtomicBool,
    told: &Sender<Told>,
) -> io::Result<Vec<Seen>> {
    assert!(load.threads <= load.connections, "a thread without a connection has nothing to do");
    let connected =
        (0..load.threads).map(|index| Lines::connect(load, dial, index)).collect::<io::Result<Vec<_>>>()?;
    let begun = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(connected)
            .map(|(index, lines)| {
                let told = told.clone();
                let body = move || {
                    if let Some(cpu) = load.cpus.get(index % load.cpus.len().max(1)) {
                        // If it may not be pinned it still measures, with more spread.
                        let _pinned = core_affinity::set_for_current(core_affinity::CoreId { id: *cpu });
                    }
                    // The kernel may otherwise wake a thread 50 µs after its time.
                    let _coarse = set_current_timer_slack(NonZeroU64::new(1_000));
                    Thread::new(load, index, lines, begun, told).run(stop)
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

struct Thread<'a, D: Dial> {
    load: &'a Load,
    index: usize,
    lines: Lines<'a, D>,
    begun: Instant,
    told: Sender<Told>,
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
    open: usize,
    /// Requests that it keeps in flight.
    in_flight: usize,
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
    /// A pass of the open loop has found the end passed: nothing new is begun.
    over: bool,
    seen: Seen,
}

impl<'a, D: Dial> Thread<'a, D> {
    fn new(load: &'a Load, index: usize, lines: Lines<'a, D>, begun: Instant, told: Sender<Told>) -> Self {
        let (warm_up_ns, end_ns) = match load.until {
            Until::Time { warm_up, measured } => {
                (warm_up.as_nanos() as u64, (warm_up + measured).as_nanos() as u64)
            }
            Until::Filled { .. } => (0, u64::MAX - DRAIN_NS),
        };
        Thread {
            load,
            index,
            lines,
            begun,
            told,
            operations: Vec::new(),
            free: Vec::new(),
            open: 0,
            in_flight: load.in_flight_of(index),
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
            over: false,
            seen: Seen {
                lag: latencies(),
                unanswered: 0,
                never_begun: 0,
                in_flight_most: 0,
                connections_lost: 0,
                measured: Duration::ZERO,
            },
        }
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
        let mut ended = Vec::new();
        loop {
            let now = self.now_ns();
            if stop.load(Relaxed) || self.is_deserted(now) {
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
            self.lines.flush(now);
            let wait_ns = due_ns.map_or(GLANCE_NS, |due| due.saturating_sub(self.now_ns()).min(GLANCE_NS));
            self.lines.receive(wait_ns, now, &mut ended)?;
            let now = self.now_ns();
            for end in ended.drain(..) {
                self.end(&end, now);
            }
        }
        let now = self.now_ns();
        self.seen.measured = Duration::from_nanos(now.min(self.end_ns).saturating_sub(self.warm_up_ns));
        self.seen.unanswered = (self.open + self.again.len()) as u64;
        self.seen.never_begun = self.backlog.len() as u64;
        self.seen.connections_lost = self.lines.lost();
        self.tell_second();
        self.tell_filled();
        Ok(self.seen)
    }

    /// Is nobody there to be filled any more? What has a time of its own ends by that.
    fn is_deserted(&self, now: u64) -> bool {
        matches!(self.load.until, Until::Filled { .. }) && now >= self.lines.up_ns() + DESERTED_NS
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
        // The first pass that finds the end passed begins what was due before it. What finds no room by then is not begun
        // any more: the throughput is that of the time measured.
        while !self.over
            && let Some(intended) = self.backlog.front().copied()
        {
            let Some(line) = self.lines.with_room(usize::MAX) else { break };
            self.backlog.pop_front();
            self.begin(line, intended);
        }
        self.over = now >= self.end_ns;
        (schedule.next_ns() < self.end_ns).then(|| schedule.next_ns())
    }

    /// Begins as many as are to be in flight, evenly over the connections; None if nothing comes any more.
    fn begin_closed(&mut self, now: u64) -> Option<u64> {
        self.begin_again();
        let depth = self.in_flight.div_ceil(self.lines.count());
        while !self.all_begun(now)
            && self.open < self.in_flight
            && let Some(line) = self.lines.with_room(depth)
        {
            self.begin(line, now);
        }
        (!self.all_begun(now)).then_some(u64::MAX)
    }

    fn all_begun(&self, now: u64) -> bool {
        let filled = matches!(self.load.until, Until::Filled { records } if self.fill_next >= records);
        filled || now >= self.end_ns
    }

    fn begin_again(&mut self) {
        while !self.again.is_empty()
            && let Some(line) = self.lines.with_room(usize::MAX)
            && let Some((operation, request)) = self.again.pop()
        {
            self.send(line, operation, Some(request));
        }
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
        match request {
            Some(request) => {
                self.lines.begin(line, &request, tag);
                operation.request = Some(request);
            }
            None => {
                self.lines.begin(line, &self.request, tag);
                if self.load.retries > 0 {
                    operation.request = Some(Box::new(self.request.clone()));
                }
            }
        }
        self.operations[tag as usize] = Some(operation);
        self.open += 1;
        self.seen.in_flight_most = self.seen.in_flight_most.max(self.open);
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
        match self.lines.with_room(usize::MAX) {
            Some(line) => self.send(line, operation, None),
            None => {
                let request = Box::new(self.request.clone());
                self.again.push((operation, request));
            }
        }
    }
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
    use crate::lines::echo::Echo;
    use crate::targets::closed;
    use crate::workload::arrivals::Arrivals;
    use crate::workload::mix::Mix;
    use std::net::TcpListener;
    use std::sync::mpsc;

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

    /// A thread of a load, with its connections.
    fn thread<'a>(
        load: &'a Load,
        echo: &'a &'a Echo,
        index: usize,
        told: &Sender<Told>,
    ) -> Thread<'a, &'a Echo> {
        Thread::new(load, index, Lines::connect(load, echo, index).unwrap(), Instant::now(), told.clone())
    }

    fn server() -> (TcpListener, Echo) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = Echo::at(listener.local_addr().unwrap());
        (listener, echo)
    }

    #[test]
    fn what_is_due_before_the_end_is_begun_if_it_finds_room_then() {
        let (_listener, echo) = server();
        let until = Until::Time { warm_up: Duration::ZERO, measured: Duration::from_millis(10) };
        let pace = Pace::Open { rate: 1_000.0, arrivals: Arrivals::Constant };
        let load = Load { pace, connections: 1, ..closed(Mix::only(Kind::Read), until, 1, 100) };
        for (room, begun) in [(usize::MAX, 10), (7, 7)] {
            echo.room.store(room, Relaxed);
            let (echo, told) = (&echo, mpsc::channel().0);
            let mut thread = thread(&load, &echo, 0, &told);
            let mut schedule = Schedule::new(Arrivals::Constant, 1_000.0, 0, 1, Prng::new(1));
            assert_eq!(thread.begin_due(&mut schedule, 4_500_000), Some(5_000_000));
            assert_eq!(thread.open, 5);
            // The pass in which the rest is due is the first one past the end.
            assert_eq!(thread.begin_due(&mut schedule, 12_000_000), None);
            assert_eq!((thread.open, thread.backlog.len()), (begun, 10 - begun));
            echo.room.store(usize::MAX, Relaxed);
            thread.begin_due(&mut schedule, 13_000_000);
            assert_eq!(thread.open, begun, "room that is there after the end comes too late");
        }
    }

    #[test]
    fn closed_loop_has_in_flight_what_was_asked_for() {
        let (_listener, echo) = server();
        let echo = &echo;
        let until = Until::Time { warm_up: Duration::ZERO, measured: Duration::from_secs(1) };
        let load = closed(Mix::only(Kind::Read), until, 10, 100);
        let load = Load { connections: 7, threads: 3, retries: 1, ..load };
        let told = mpsc::channel().0;
        let mut threads: Vec<_> = (0..3).map(|index| thread(&load, &echo, index, &told)).collect();
        let open = |threads: &[Thread<'_, _>]| threads.iter().map(|thread| thread.open).collect::<Vec<_>>();
        threads.iter_mut().for_each(|thread| assert_eq!(thread.begin_closed(0), Some(u64::MAX)));
        assert_eq!(open(&threads), [4, 3, 3]);
        // A request that waits to be sent again is in flight too.
        echo.room.store(0, Relaxed);
        threads[0].end(&Ended { tag: 2, answer: Answer::Refused(Refusal::NotBegun) }, 1);
        threads[0].begin_closed(1);
        assert_eq!((threads[0].open, threads[0].again.len()), (3, 1));
        echo.room.store(usize::MAX, Relaxed);
        threads[0].begin_closed(1);
        assert_eq!((threads[0].open, threads[0].again.len()), (4, 0));
        assert_eq!(threads.iter().map(|thread| thread.seen.in_flight_most).sum::<usize>(), 10);
    }

    #[test]
    fn fill_writes_each_record_once_with_all_threads() {
        let (listener, echo) = server();
        let load = closed(Mix::only(Kind::Insert), Until::Filled { records: 1_001 }, 7, 1_001);
        let load = Load { connections: 3, threads: 2, batch: 4, ..load };
        let (told, tell) = mpsc::channel();
        let seen = thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    let (stream, _) = listener.accept().unwrap();
                    scope.spawn(move || io::copy(&mut &stream, &mut &stream).unwrap());
                }
            });
            run(&load, &&echo, &AtomicBool::new(false), &told).unwrap()
        });
        drop(told);
        let filled = |told| if let Told::Filled { more } = told { more } else { 0 };
        assert_eq!(tell.into_iter().map(filled).sum::<u64>(), 1_001);
        assert_eq!(seen.iter().map(|seen| seen.in_flight_most).collect::<Vec<_>>(), [4, 3]);
        assert!(seen.iter().all(|seen| seen.unanswered == 0 && seen.connections_lost == 0));
    }

    #[test]
    fn who_fills_a_server_leaves_it_when_it_is_gone() {
        let (listener, echo) = server();
        let echo = &echo;
        let load = closed(Mix::only(Kind::Insert), Until::Filled { records: 100 }, 4, 100);
        let told = mpsc::channel().0;
        let mut thread = thread(&load, &echo, 0, &told);
        thread.begin_closed(5);
        thread.lines.flush(5);
        drop(listener);
        let mut ended = Vec::new();
        while thread.lines.lost() < 4 {
            thread.lines.receive(1_000_000, 6, &mut ended).unwrap();
        }
        assert_eq!((ended.len(), thread.lines.with_room(9)), (4, None));
        assert!(!thread.is_deserted(4 + DESERTED_NS), "it may come back");
        assert!(thread.is_deserted(5 + DESERTED_NS));
    }
}
