//! One core at work: the machine in its cell, the events that reach it, the effects that leave it. Decides nothing.
//!
//! Events come from tasks of this core (requests), from the mailbox (requests of other cores, and replies to ours), from
//! the disk and from the tick. Each is a call of [`Core::step`], which performs what the machine asks for before it
//! returns; nothing is borrowed across an await.

use super::calls::{Calls, origin};
use super::clock;
use super::disk::{DirDisk, Flush};
use super::executor::Queues;
use super::gauges::Gauges;
use super::links::Links;
use super::log_writer::LogWriter;
use super::mailbox::{Inbox, Mail, Outbox};
use super::padded::Padded;
use super::tick::{Busy, Sleep, Ticker};
use crate::cluster::control::Note;
use crate::cluster::ring::Ring;
use crate::node::effect::{Effect, Effects};
use crate::node::event::{Event, Opinion};
use crate::node::image::Host;
use crate::node::machine::Machine;
use crate::rpc::backend::{Backend, Liveness, NodeStatus, Phase, Setting, View};
use crate::rpc::call::yield_now;
use crate::rpc::peer::{Frame, Hello, Welcome};
use crate::storage::disk::{DiskError, DiskErrorKind, DiskResult};
use crate::storage::log::Ticket;
use crate::storage::table::Expected;
use crate::types::request::{Asker, Reply, Request};
use crate::types::{CoreId, Failure, Limits, MemberId, Mono, Now, Reason, Token};
use hdrhistogram::Histogram;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed};
use std::task::{Context, Poll, Waker};

/// Messages taken from each other core per look into the mailbox.
const MAIL_PER_LOOK: usize = 128;
/// Look-ups whose memory is asked for together: what they read has room in the second cache.
const EXPECTED_MAX: usize = 256;
/// Bytes of long frames that one core has handed to others, and these have not looked at: short ones are bounded by the
/// mailboxes' room alone.
const FRAMES_BYTES_MAX: usize = 32 << 20;
/// A frame is long from here on.
const LONG_FRAME_BYTES: usize = 4 << 10;
/// Latencies are shown for the last ten seconds.
const WINDOW_NS: u64 = 10_000_000_000;

/// What cores send each other.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A request for a key of the receiver's.
    Request(Asker, Request),
    /// What became of it.
    Reply(Asker, Reply),
    /// What another node's core says, to the core that it concerns.
    Peer(MemberId, Frame),
    /// Something that another core of this node tells the receiver's machine.
    Event(Box<Event>),
    /// The sender has written all its parts since the node's layout began: to core 0.
    PartsComplete,
}

/// What all cores of a node share: nothing of it is on a request's path but reads of words that hardly ever change.
#[derive(Debug)]
pub(crate) struct NodeShared {
    /// Cores that have recovered. The node serves from the moment that the last one has.
    pub(crate) recovered: AtomicUsize,
    pub(crate) gauges: Gauges,
    /// Bytes of long frames on their way to other cores, by the core that sent them.
    pub(crate) frames_bytes: Box<[Padded<AtomicUsize>]>,
    pub(crate) started: Mono,
    pub(crate) limits: Limits,
    pub(crate) memory_limit: u64,
    pub(crate) settings: Vec<Setting>,
}

/// What a core is put together from.
pub(crate) struct CoreParts {
    pub(crate) id: CoreId,
    pub(crate) cores: u16,
    pub(crate) outbox: Outbox<Letter>,
    pub(crate) ticker: Ticker,
    pub(crate) queues: Queues,
    pub(crate) disk: DirDisk,
    pub(crate) dir: String,
    pub(crate) flush: Flush,
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) view: View,
    /// How a ring looks to whoever asks this node.
    pub(crate) viewer: Viewer,
}

/// The view of a ring: of a node that serves.
pub(crate) type Viewer = Box<dyn Fn(&Ring) -> View>;

/// A core at work. Clones are the same core.
#[derive(Clone)]
pub(crate) struct Core(Rc<Inner>);

struct Inner {
    parts: Fixed,
    /// None until it has recovered.
    machine: RefCell<Option<Machine>>,
    effects: RefCell<Effects>,
    calls: RefCell<Calls>,
    log: LogWriter,
    /// To the other members.
    links: OnceCell<Links<Core>>,
    /// Look-ups of this pass whose memory has not been asked for; fewer than [`EXPECTED_MAX`].
    expected: RefCell<Vec<Expected>>,
    /// Letters were sent since the others were last told.
    unposted: Bell,
    /// Events that the machine's own effects ask for, and what others told before there was a machine: taken after each
    /// step.
    own_events: RefCell<VecDeque<Event>>,
    /// Letters that a mailbox had no room for: tried again at the next tick, in order.
    unsent: RefCell<VecDeque<(CoreId, Letter)>>,
    /// Who waits for the log, with the ticket.
    waiting: RefCell<Vec<(Ticket, Waker)>>,
    busy: RefCell<Option<Busy>>,
    view: RefCell<Rc<View>>,
    measured: RefCell<Measured>,
    /// Of core 0: how many cores have written all their parts.
    parts_complete: Cell<u16>,
    /// The core gives up: nothing is done any more.
    halted: Cell<bool>,
}

/// What does not change while the core works.
struct Fixed {
    id: CoreId,
    cores: u16,
    outbox: Outbox<Letter>,
    ticker: Ticker,
    queues: Queues,
    disk: DirDisk,
    dir: String,
    shared: Arc<NodeShared>,
    viewer: Viewer,
}

/// What the core measures of itself.
struct Measured {
    latencies: Histogram<u32>,
    flushes: Histogram<u32>,
    hops: u64,
    operations: u64,
    operations_before: u64,
    window_from: Mono,
    busy_ns_before: u64,
}

/// Wakes a task of the same core.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Completes when the bell was rung since the last time.
    pub(crate) async fn heard(&self) {
        std::future::poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Core {
    /// A core that recovers: it answers that it is starting, until [`Core::install`].
    pub(crate) fn new(parts: CoreParts) -> Core {
        let CoreParts { id, cores, outbox, ticker, queues, disk, dir, flush, shared, view, viewer } = parts;
        let log = LogWriter::new(disk.clone(), dir.clone(), flush);
        let histogram =
            || Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("bounds and digits are in range");
        let measured = Measured {
            latencies: histogram(),
            flushes: histogram(),
            hops: 0,
            operations: 0,
            operations_before: 0,
            window_from: clock::mono(),
            busy_ns_before: clock::thread_cpu_ns(),
        };
        Core(Rc::new(Inner {
            parts: Fixed { id, cores, outbox, ticker, queues, disk, dir, shared, viewer },
            machine: RefCell::new(None),
            effects: RefCell::default(),
            calls: RefCell::new(Calls::new(id)),
            log,
            links: OnceCell::new(),
            expected: RefCell::default(),
            unposted: Bell::default(),
            own_events: RefCell::default(),
            unsent: RefCell::default(),
            waiting: RefCell::default(),
            busy: RefCell::default(),
            view: RefCell::new(Rc::new(view)),
            measured: RefCell::new(measured),
            parts_complete: Cell::new(0),
            halted: Cell::new(false),
        }))
    }

    pub(crate) fn id(&self) -> CoreId {
        self.0.parts.id
    }

    pub(crate) fn queues(&self) -> &Queues {
        &self.0.parts.queues
    }

    pub(crate) fn disk(&self) -> &DirDisk {
        &self.0.parts.disk
    }

    pub(crate) fn dir(&self) -> &str {
        &self.0.parts.dir
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.0.parts.ticker
    }

    pub(crate) fn log(&self) -> &LogWriter {
        &self.0.log
    }

    /// Gives the core its links; once.
    pub(crate) fn set_links(&self, links: Links<Core>) {
        assert!(self.0.links.set(links).is_ok(), "a core's links are made once");
    }

    pub(crate) fn links(&self) -> &Links<Core> {
        self.0.links.get().expect("a core has its links before it has anything to say")
    }

    /// Links to the members of this ring, at the addresses that it names.
    pub(crate) fn set_ring(&self, own: MemberId, ring: &Ring) {
        let epoch = ring.epoch();
        let members = epoch.members.iter().map(|member| (member.id, &*member.peer_address));
        self.links().set_members(epoch.cluster, own, members);
    }

    pub(crate) fn with_machine<R>(&self, look: impl FnOnce(&mut Machine) -> R) -> R {
        look(self.0.machine.borrow_mut().as_mut().expect("who asks for the machine waits until it is there"))
    }

    /// Has it recovered?
    pub(crate) fn is_installed(&self) -> bool {
        self.0.machine.borrow().is_some()
    }

    /// The machine has recovered. It begins its log; requests reach it from [`Phase::Serving`] on.
    pub(crate) fn install(&self, machine: Machine, view: View) {
        let before = self.0.machine.replace(Some(machine));
        assert!(before.is_none(), "a core recovers once");
        *self.0.view.borrow_mut() = Rc::new(view);
        self.after_steps();
    }

    /// Lets the machine take an event, and performs what it asks for.
    pub(crate) fn step(&self, event: Event) {
        self.step_at(clock::now(), event);
    }

    fn step_at(&self, now: Now, event: Event) {
        let inner = &self.0;
        if inner.halted.get() {
            return;
        }
        let mut effects = inner.effects.borrow_mut();
        self.with_machine(|machine| machine.step(now, event, &mut effects));
        while let Some(effect) = effects.pop() {
            self.perform(now, effect);
        }
        drop(effects);
        self.after_steps();
        while let Some(event) = { inner.own_events.borrow_mut().pop_front() } {
            self.take_event(event);
        }
    }

    fn perform(&self, now: Now, effect: Effect) {
        match effect {
            Effect::Reply { to, reply } if origin(to) == self.0.parts.id => self.reply(now, to, reply),
            Effect::Reply { to, reply } => {
                self.0.parts.outbox.answer(origin(to), Letter::Reply(to, reply));
                self.0.unposted.ring();
            }
            Effect::PrepareSegment(segment) => self.prepare_segment(segment),
            Effect::Halt(why) => self.halt(&why),
            Effect::Send { to, message } => self.links().send(now.mono, to, Frame::Slot(message)),
            Effect::SendControl { to, message } => self.links().send(now.mono, to, Frame::Control(message)),
            Effect::AskEpoch(member) => self.tell(CoreId(0), Event::AskEpoch(member)),
            Effect::Moved(report) => self.tell(CoreId(0), Event::Moved(report)),
            Effect::Occupied { round, slots } => {
                self.tell(CoreId(0), Event::Occupied { round, core: self.0.parts.id, slots });
            }
            Effect::AskCores { round } => self.tell_all(|| Event::AskOccupied { round }),
            Effect::Publish(ring) => self.tell_all(|| Event::Epoch(Arc::clone(&ring))),
            Effect::Opine(opinion) => self.tell_all(|| Event::Opinion(opinion.clone())),
            Effect::Note(note) => tell_note(note),
        }
    }

    /// Tells another core's machine of an event, or this core's own when its effects have been performed.
    fn tell(&self, core: CoreId, event: Event) {
        let inner = &self.0;
        if core == inner.parts.id {
            inner.own_events.borrow_mut().push_back(event);
            return;
        }
        inner.unsent.borrow_mut().push_back((core, Letter::Event(Box::new(event))));
        self.send_unsent();
    }

    fn tell_all(&self, event: impl Fn() -> Event) {
        (0..self.0.parts.cores).for_each(|core| self.tell(CoreId(core), event()));
    }

    /// Sends letters that must not be lost, each core's in order; one that finds no room is tried again at the next tick, and
    /// holds up none to other cores.
    fn send_unsent(&self) {
        let inner = &self.0;
        let mut full = Vec::new();
        for (core, letter) in std::mem::take(&mut *inner.unsent.borrow_mut()) {
            let told =
                if full.contains(&core) { Err(letter) } else { inner.parts.outbox.try_tell(core, letter) };
            if let Err(letter) = told {
                full.push(core);
                inner.unsent.borrow_mut().push_back((core, letter));
            }
        }
        inner.unposted.ring();
    }

    /// What a core of this node tells this one. Told before it has recovered, it takes it up with its first step.
    fn take_event(&self, event: Event) {
        if !self.is_installed() {
            self.0.own_events.borrow_mut().push_back(event);
            return;
        }
        match &event {
            Event::Epoch(ring) => self.follow(ring),
            Event::Opinion(opinion) => self.show_opinion(opinion),
            _ => {}
        }
        self.step(event);
    }

    /// A newer epoch: links and what is shown of the cluster follow it.
    fn follow(&self, ring: &Ring) {
        let mut view = (self.0.parts.viewer)(ring);
        let before = Rc::clone(&self.0.view.borrow());
        if view.epoch <= before.epoch {
            return;
        }
        self.set_ring(view.own().id, ring);
        view.phase = before.phase;
        for member in &mut view.members {
            let known = before.members.iter().find(|known| known.id == member.id);
            member.liveness = known.map_or(Liveness::Alive, |known| known.liveness);
        }
        *self.0.view.borrow_mut() = Rc::new(view.with_fingerprint());
    }

    fn show_opinion(&self, opinion: &Opinion) {
        let mut view = (**self.0.view.borrow()).clone();
        for member in &mut view.members {
            let suspected = opinion.suspects.binary_search(&member.id).is_ok();
            member.liveness = if suspected { Liveness::Suspect } else { Liveness::Alive };
        }
        view.updated_at_ms = clock::now().wall_ms;
        *self.0.view.borrow_mut() = Rc::new(view.with_fingerprint());
    }

    fn reply(&self, now: Now, to: Asker, reply: Reply) {
        let Some((waker, begun)) = self.0.calls.borrow_mut().answer(to, reply) else { return };
        let mut measured = self.0.measured.borrow_mut();
        measured.operations += 1;
        measured.latencies.saturating_record((now.mono.since(begun) / 1_000).max(1));
        drop(measured);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What follows from new state: the log may have work, and the tick its pace.
    fn after_steps(&self) {
        let inner = &self.0;
        let (busy, durable) =
            self.with_machine(|machine| (machine.is_busy(), machine.replica().log().durable().0));
        if busy {
            inner.log.ring();
        }
        let mut tick = inner.busy.borrow_mut();
        if busy && tick.is_none() {
            *tick = Some(inner.parts.ticker.busy());
        } else if !busy && tick.is_some() {
            *tick = None;
        }
        inner.waiting.borrow_mut().retain(|(ticket, waker)| {
            let done = *ticket <= durable;
            if done {
                waker.wake_by_ref();
            }
            !done
        });
    }

    /// A tick: time for the machine, for calls whose deadline is past, and for the gauges.
    pub(crate) fn tick(&self) {
        if self.0.machine.borrow().is_none() {
            return;
        }
        self.step(Event::Tick);
        self.send_unsent();
        let now = clock::mono();
        let late = self.0.calls.borrow_mut().expire(now);
        late.into_iter().for_each(Waker::wake);
        self.0.parts.disk.follow(now, self.0.log.written_bytes());
        self.show(now);
    }

    /// Publishes the core's numbers.
    fn show(&self, now: Mono) {
        let inner = &self.0;
        let gauge = &inner.parts.shared.gauges[usize::from(inner.parts.id.0)];
        let mut measured = inner.measured.borrow_mut();
        self.with_machine(|machine| {
            let (shard, log) = (machine.replica().shard(), machine.replica().log());
            gauge.records.store(shard.counts().records, Relaxed);
            gauge.tombstones.store(shard.counts().dead, Relaxed);
            gauge.memory_bytes.store(shard.table().memory_bytes() as u64, Relaxed);
            gauge.full.store(u64::from(machine.is_full()), Relaxed);
            gauge.wal_bytes.store(log.segments_held() as u64 * inner.log.segment_bytes(), Relaxed);
        });
        gauge.queued.store(inner.calls.borrow().open() as u64, Relaxed);
        gauge.hops.store(measured.hops, Relaxed);
        gauge.operations.store(measured.operations, Relaxed);
        gauge.flushes.store(inner.log.flushes(), Relaxed);
        gauge.wal_written_bytes.store(inner.log.written_bytes(), Relaxed);
        gauge.tick_late_us.store(inner.parts.ticker.late_us(), Relaxed);
        let window = now.since(measured.window_from);
        if window < WINDOW_NS {
            return;
        }
        let busy_ns = clock::thread_cpu_ns();
        let busy = (busy_ns - measured.busy_ns_before).saturating_mul(1_000) / window;
        let done = measured.operations - measured.operations_before;
        gauge.busy_permille.store(busy, Relaxed);
        gauge.operations_per_second.store(done.saturating_mul(1_000_000_000) / window, Relaxed);
        gauge.p50_us.store(measured.latencies.value_at_quantile(0.5), Relaxed);
        gauge.p99_us.store(measured.latencies.value_at_quantile(0.99), Relaxed);
        gauge.flush_p99_us.store(measured.flushes.value_at_quantile(0.99), Relaxed);
        measured.latencies.reset();
        measured.flushes.reset();
        (measured.operations_before, measured.busy_ns_before) = (measured.operations, busy_ns);
        measured.window_from = now;
    }

    /// A batch was written; how long that took.
    pub(crate) fn flushed(&self, ns: u64) {
        self.0.measured.borrow_mut().flushes.saturating_record((ns / 1_000).max(1));
    }

    /// Takes letters in and sends them out, until cancelled.
    pub(crate) async fn run_mail(self, mut inbox: Inbox<Letter>) {
        loop {
            inbox.ready().await;
            let mut letters = Vec::new();
            inbox.drain(MAIL_PER_LOOK, |from, mail| letters.push((from, mail)));
            self.expect_letters(&letters);
            for (from, mail) in letters {
                self.take(from, mail);
            }
        }
    }

    fn expect_letters(&self, letters: &[(CoreId, Mail<Letter>)]) {
        for (_, mail) in letters {
            let expected = match mail {
                Mail::Ask(Letter::Request(_, Request { operation, .. })) => {
                    operation.key().map(|key| (key, operation.is_write()))
                }
                Mail::Tell(Letter::Peer(_, frame)) => frame.key(),
                Mail::Ask(_) | Mail::Tell(_) | Mail::Answer(_) => None,
            };
            if let Some((key, write)) = expected {
                self.note_expected(key, write);
            }
        }
        self.prefetch_expected();
    }

    /// True if the key is this core's: it is looked up here.
    fn note_expected(&self, key: &[u8], write: bool) -> bool {
        let inner = &self.0;
        let token = Token::of(key);
        let machine = inner.machine.borrow();
        let Some(machine) =
            machine.as_ref().filter(|_| token.slot().core(inner.parts.cores) == inner.parts.id)
        else {
            return false;
        };
        let mut expected = inner.expected.borrow_mut();
        expected.push(machine.replica().shard().expect(token, key, write));
        if expected.len() >= EXPECTED_MAX {
            machine.replica().shard().table().prefetch(&expected);
            expected.clear();
        }
        true
    }

    fn prefetch_expected(&self) {
        let mut expected = self.0.expected.borrow_mut();
        if !expected.is_empty() {
            self.with_machine(|machine| machine.replica().shard().table().prefetch(&expected));
            expected.clear();
        }
    }

    /// Tells other cores of the letters sent to them, once per pass over this core's tasks.
    pub(crate) async fn run_post(self) {
        loop {
            self.0.unposted.heard().await;
            self.0.parts.outbox.flush();
        }
    }

    fn take(&self, from: CoreId, mail: Mail<Letter>) {
        match mail {
            Mail::Ask(Letter::Request(asker, request)) => self.step(Event::Request { from: asker, request }),
            Mail::Answer(Letter::Reply(asker, reply)) => self.reply(clock::now(), asker, reply),
            Mail::Tell(Letter::Peer(member, frame)) => {
                self.count_long(from, &frame, AtomicUsize::fetch_sub);
                self.take_frame(member, frame);
            }
            Mail::Tell(Letter::Event(event)) => self.take_event(*event),
            Mail::Tell(Letter::PartsComplete) => self.count_complete(),
            Mail::Ask(letter) | Mail::Answer(letter) | Mail::Tell(letter) => {
                unreachable!("core {from} sent {letter:?} in the wrong way")
            }
        }
    }

    /// Counts a frame that `sender` hands to another core, if it is long.
    fn count_long(&self, sender: CoreId, frame: &Frame, count: fn(&AtomicUsize, usize, Ordering) -> usize) {
        let bytes = frame.weight();
        if bytes >= LONG_FRAME_BYTES {
            count(&self.0.parts.shared.frames_bytes[usize::from(sender.0)], bytes, Relaxed);
        }
    }

    /// What a member says to this core. Before it has recovered it hears nothing: who waits for an answer asks again.
    fn take_frame(&self, from: MemberId, frame: Frame) {
        if !self.is_installed() {
            return;
        }
        match frame {
            Frame::Slot(message) => self.step(Event::Peer { from, message }),
            Frame::Control(message) => self.step(Event::Control { from, message }),
        }
    }

    /// Tells core 0 that this core has written all its parts. False: its mailbox is full, try again.
    pub(crate) fn tell_parts_complete(&self) -> bool {
        if self.0.parts.id == CoreId(0) {
            self.count_complete();
            return true;
        }
        let told = self.0.parts.outbox.try_tell(CoreId(0), Letter::PartsComplete).is_ok();
        self.0.unposted.ring();
        told
    }

    /// Of core 0: have all cores written all their parts?
    pub(crate) fn are_parts_complete(&self) -> bool {
        self.0.parts_complete.get() == self.0.parts.cores
    }

    fn count_complete(&self) {
        self.0.parts_complete.set(self.0.parts_complete.get() + 1);
    }

    fn prepare_segment(&self, segment: crate::storage::segment::SegmentId) {
        let core = self.clone();
        let task = async move {
            match core.log().prepare(segment).await {
                Ok(()) => core.step(Event::SegmentReady(segment)),
                Err(error) if error.kind == DiskErrorKind::Full => {
                    tracing::warn!(core = core.id().0, %error, "no room for another log segment");
                    core.step(Event::SegmentRefused(segment));
                }
                Err(error) => core.halt(&error.to_string()),
            }
        };
        self.queues().background.spawn(task).detach();
    }

    /// Ends the process: going on could break a promise.
    pub(crate) fn halt(&self, why: &str) {
        self.0.halted.set(true);
        super::node::halt(self.0.parts.id, why);
    }

    /// The phase of the node's life, as this core knows it. Whichever core hears first that the last one has recovered,
    /// none may call the node ready while another refuses.
    fn phase(&self) -> Phase {
        let phase = self.0.view.borrow().phase;
        let recovered = || self.0.parts.shared.recovered.load(Acquire) >= usize::from(self.0.parts.cores);
        if phase != Phase::Starting || !recovered() {
            return phase;
        }
        self.enter(Phase::Serving);
        Phase::Serving
    }

    /// Shows another phase of the node's life to whoever asks this core.
    pub(crate) fn enter(&self, phase: Phase) {
        let view = View { phase, ..(**self.0.view.borrow()).clone() };
        *self.0.view.borrow_mut() = Rc::new(view);
    }

    /// Bytes free on the disk, as last looked at.
    pub(crate) fn show_free_bytes(&self, bytes: u64) {
        self.0.parts.shared.gauges[usize::from(self.0.parts.id.0)].disk_free_bytes.store(bytes, Relaxed);
    }
}

/// A line of the control plane's.
fn tell_note(note: Note) {
    match note {
        Note::Epoch { number } => tracing::info!(epoch = number, "an epoch is in force"),
        Note::GivingUp { joining, refused } => {
            let (by, slot) = refused.unzip();
            let (joining, by) = (joining.map(|member| member.0), by.map(|member| member.0));
            tracing::warn!(joining, by, slot = slot.map(|slot| slot.0), "a move of slots is given up");
        }
        Note::Removed => tracing::error!("this node is no longer a member of its cluster"),
    }
}

impl Host for Core {
    fn with<R>(&self, look: impl FnOnce(&mut Machine) -> R) -> R {
        self.with_machine(look)
    }

    async fn durable(&self, ticket: Ticket) -> DiskResult<()> {
        std::future::poll_fn(|cx: &mut Context<'_>| {
            if self.0.halted.get() {
                let context = "the log has failed".to_owned();
                return Poll::Ready(Err(DiskError { kind: DiskErrorKind::Io, context }));
            }
            if ticket <= self.with_machine(|machine| machine.replica().log().durable().0) {
                return Poll::Ready(Ok(()));
            }
            self.0.waiting.borrow_mut().push((ticket, cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

/// Waits for a reply; dropped, it gives the reply up.
pub(crate) struct ReplyFuture {
    core: Core,
    asker: Asker,
    done: bool,
}

impl Future for ReplyFuture {
    type Output = Reply;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let polled = self.core.0.calls.borrow_mut().poll(self.asker, cx.waker());
        self.done = polled.is_ready();
        polled
    }
}

impl Drop for ReplyFuture {
    fn drop(&mut self) {
        if !self.done {
            self.core.0.calls.borrow_mut().end(self.asker);
        }
    }
}

impl Backend for Core {
    type Reply = ReplyFuture;
    type Sleep = Sleep;

    fn submit(&self, request: Request) -> ReplyFuture {
        let key = request.operation.key().expect("a request without a key names its core");
        let core = Token::of(key).slot().core(self.0.parts.cores);
        self.submit_to(core, request)
    }

    async fn expect(&self, key: &[u8], write: bool) {
        if self.note_expected(key, write) {
            // The other calls of this pass say what they expect; the first that goes on asks for all of it.
            yield_now().await;
            self.prefetch_expected();
        }
    }

    fn expect_all<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, write: bool) {
        for key in keys {
            self.note_expected(key, write);
        }
        self.prefetch_expected();
    }

    fn submit_to(&self, core: CoreId, request: Request) -> ReplyFuture {
        let inner = &self.0;
        let write = request.operation.is_write();
        let now = clock::now();
        let asker = inner.calls.borrow_mut().begin(now.mono, request.deadline, write);
        let refusal = match self.phase() {
            Phase::Serving if core == inner.parts.id => {
                self.step_at(now, Event::Request { from: asker, request });
                None
            }
            Phase::Serving => {
                inner.measured.borrow_mut().hops += 1;
                let sent = inner.parts.outbox.try_ask(core, Letter::Request(asker, request));
                inner.unposted.ring();
                sent.is_err()
                    .then(|| Failure { retry_after_ms: 10, ..Failure::not_applied(Reason::Overloaded) })
            }
            Phase::Starting => Some(Failure::not_applied(Reason::Starting)),
            Phase::Stopping => Some(Failure::not_applied(Reason::Stopping)),
        };
        if let Some(failure) = refusal {
            let failure = if write { failure } else { failure.of_read() };
            self.reply(now, asker, Err(failure));
        }
        ReplyFuture { core: self.clone(), asker, done: false }
    }

    fn peer_hello(&self, hello: Hello) -> Result<Welcome, Failure> {
        hello.admit(&self.view())
    }

    fn peer_frame(&self, from: MemberId, frame: Frame) -> Result<(), Frame> {
        let core = frame.core(self.0.parts.cores);
        if core == self.0.parts.id {
            self.take_frame(from, frame);
            return Ok(());
        }
        let own = self.0.parts.id;
        if self.0.parts.shared.frames_bytes[usize::from(own.0)].load(Relaxed) > FRAMES_BYTES_MAX {
            return Err(frame);
        }
        self.count_long(own, &frame, AtomicUsize::fetch_add);
        let told = self.0.parts.outbox.try_tell(core, Letter::Peer(from, frame));
        self.0.unposted.ring();
        told.map_err(|letter| match letter {
            Letter::Peer(_, frame) => {
                self.count_long(own, &frame, AtomicUsize::fetch_sub);
                frame
            }
            Letter::Request(..) | Letter::Reply(..) | Letter::Event(_) | Letter::PartsComplete => {
                unreachable!("what comes back is what was sent")
            }
        })
    }

    fn core(&self) -> CoreId {
        self.0.parts.id
    }

    fn cores(&self) -> u16 {
        self.0.parts.cores
    }

    fn now(&self) -> Now {
        clock::now()
    }

    fn mono(&self) -> Mono {
        clock::mono()
    }

    fn last_tick(&self) -> Mono {
        self.0.parts.ticker.last_tick()
    }

    fn sleep_until(&self, at: Mono) -> Sleep {
        self.0.parts.ticker.sleep_until(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.parts.queues.requests.spawn(task).detach();
    }

    fn limits(&self) -> &Limits {
        &self.0.parts.shared.limits
    }

    fn view(&self) -> Rc<View> {
        self.phase();
        Rc::clone(&self.0.view.borrow())
    }

    fn status(&self) -> NodeStatus {
        let shared = &self.0.parts.shared;
        NodeStatus {
            uptime_ms: clock::mono().since(shared.started) / 1_000_000,
            memory_limit_bytes: shared.memory_limit,
            disk_free_bytes: shared.gauges[0].disk_free_bytes.load(Relaxed),
            read_only: shared.gauges.iter().any(|gauge| gauge.full.load(Relaxed) != 0),
            clock_offset_ms: 0,
            trace_dropped: 0,
            cores: shared.gauges.iter().map(|gauge| gauge.status()).collect(),
        }
    }

    fn settings(&self) -> Vec<Setting> {
        self.0.parts.shared.settings.clone()
    }
}
