//! A node in a map: all the cores, all the time and all the disk that the gRPC layer needs.

use bytes::Bytes;
use ringcore::rpc::backend::{
    Backend, CoreStatus, Liveness, MemberState, MemberView, NodeStatus, Phase, Setting, View,
};
use ringcore::rpc::peer::{Frame, Hello, Welcome};
use ringcore::types::request::{
    Answer, Expiry, Operation, Page, ReadAnswer, Reply, Request, ScanRange, ScannedRecord, TooLong,
    WriteAnswer,
};
use ringcore::types::{
    ClusterId, CoreId, Failure, Hlc, Limits, MemberId, Mono, Now, Reason, SLOTS, Token, Version,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn, ready};
use std::ops::Bound;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The wall clock's start, milliseconds since 1970.
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

#[derive(Clone)]
pub(crate) struct Fake(Rc<Inner>);

pub(crate) struct Inner {
    cores: u16,
    spawn: Box<dyn Fn(Task)>,
    limits: Limits,
    now: Cell<Mono>,
    sleepers: RefCell<BTreeMap<(Mono, u64), Waker>>,
    next_sleeper: Cell<u64>,
    view: RefCell<Rc<View>>,
    table: RefCell<BTreeMap<(Token, Bytes), Record>>,
    last: Cell<u64>,
    /// While set, requests are taken and not answered before their deadline.
    stalled: Cell<bool>,
    resumed: RefCell<Vec<Waker>>,
    /// Every request, as it came.
    requests: RefCell<Vec<Request>>,
    /// Every frame that was taken in, as it came.
    frames: RefCell<Vec<(MemberId, Frame)>>,
    /// Frames that will yet be taken in.
    frames_room: Cell<usize>,
}

#[derive(Clone)]
struct Record {
    version: Version,
    value: Option<Bytes>,
    expires_at_ms: u64,
}

impl Fake {
    pub(crate) fn new(cores: u16, spawn: impl Fn(Task) + 'static) -> Fake {
        Fake(Rc::new(Inner {
            cores,
            spawn: Box::new(spawn),
            limits: Limits::default(),
            now: Cell::new(Mono(1_000_000_000)),
            sleepers: RefCell::default(),
            next_sleeper: Cell::new(0),
            view: RefCell::new(Rc::new(view(cores))),
            table: RefCell::default(),
            last: Cell::new(Hlc::at_ms(WALL_MS).0),
            stalled: Cell::new(false),
            resumed: RefCell::default(),
            requests: RefCell::default(),
            frames: RefCell::default(),
            frames_room: Cell::new(usize::MAX),
        }))
    }

    /// Takes in so many frames more, and then none.
    pub(crate) fn set_frames_room(&self, frames: usize) {
        self.0.frames_room.set(frames);
    }

    /// The frames that came since the last call.
    pub(crate) fn take_frames(&self) -> Vec<(MemberId, Frame)> {
        self.0.frames.take()
    }

    /// Shows another cluster from now on.
    pub(crate) fn change_view(&self, change: impl FnOnce(&mut View)) {
        let mut view = (**self.0.view.borrow()).clone();
        change(&mut view);
        *self.0.view.borrow_mut() = Rc::new(view);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.0.requests.borrow().clone()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let view = View { phase, ..(**self.0.view.borrow()).clone() };
        *self.0.view.borrow_mut() = Rc::new(view);
    }

    pub(crate) fn stall(&self) {
        self.0.stalled.set(true);
    }

    pub(crate) fn resume(&self) {
        self.0.stalled.set(false);
        self.0.resumed.take().into_iter().for_each(Waker::wake);
    }

    /// Puts a record past the gRPC layer.
    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> Version {
        let version = self.stamp();
        let record = Record { version, value: Some(Bytes::copy_from_slice(value)), expires_at_ms: 0 };
        self.0.table.borrow_mut().insert((Token::of(key), Bytes::copy_from_slice(key)), record);
        version
    }

    /// Moves the clock, waking sleepers in their order.
    pub(crate) async fn advance(&self, ms: u64) {
        let end = self.0.now.get().after_ms(ms);
        settle().await;
        loop {
            let next = self.0.sleepers.borrow().keys().next().copied().filter(|key| key.0 <= end);
            let Some(key) = next else { break };
            self.0.now.set(self.0.now.get().max(key.0));
            let waker = self.0.sleepers.borrow_mut().remove(&key);
            waker.expect("found above").wake();
            settle().await;
        }
        self.0.now.set(end);
        settle().await;
    }

    fn stamp(&self) -> Version {
        self.0.last.set(self.0.last.get() + 1);
        Version::new(Hlc(self.0.last.get()), MemberId::FIRST)
    }

    fn wall_ms(&self) -> u64 {
        WALL_MS + self.0.now.get().0 / 1_000_000
    }

    fn answer(&self, request: Request) -> Reply {
        if request.deadline <= self.0.now.get() {
            return Err(Failure::not_applied(Reason::DeadlinePast));
        }
        self.check(&request.operation)?;
        if let Some(bytes) =
            self.value_bytes(&request.operation).filter(|&bytes| bytes > request.value_bytes_max)
        {
            let too_long = TooLong { operation: request.operation, value_bytes: bytes };
            return Ok(Answer::TooLong(Box::new(too_long)));
        }
        match request.operation {
            Operation::Read { key, value } => Ok(Answer::Read(self.read(&key, value))),
            Operation::Put { key, value, expiry, previous } => {
                let expires_at_ms = match expiry {
                    Expiry::Never => 0,
                    Expiry::InMs(ms) => self.wall_ms() + ms,
                    Expiry::AtMs(ms) => ms,
                };
                Ok(self.write(key, Some(value), expires_at_ms, previous))
            }
            Operation::Delete { key, previous } => Ok(self.write(key, None, 0, previous)),
            Operation::Replicate { key, value, timestamp } => {
                let limit = Hlc::at_ms(self.wall_ms() + self.0.limits.skew_ms_max);
                if timestamp > limit {
                    let failure = Failure::not_applied(Reason::ClockUnfit);
                    return Err(failure.message("timestamp ahead of clock"));
                }
                let version = Version::new(timestamp, MemberId::NONE);
                let record = Record { version, value: Some(value), expires_at_ms: 0 };
                let mut table = self.0.table.borrow_mut();
                let held = table.entry((Token::of(&key), key)).or_insert_with(|| record.clone());
                if held.version < version {
                    *held = record;
                }
                Ok(Answer::Replicated)
            }
            Operation::Scan(_) | Operation::Join(_) => panic!("it needs a core"),
        }
    }

    /// Bytes of the value that its answer would hold.
    fn value_bytes(&self, operation: &Operation) -> Option<usize> {
        let key = operation.key().filter(|_| operation.wants_value())?;
        Some(self.read(key, true).value.len())
    }

    fn check(&self, operation: &Operation) -> Result<(), Failure> {
        let limits = &self.0.limits;
        let key = operation.key().expect("about a key");
        if key.is_empty() {
            return Err(Failure::not_applied(Reason::KeyEmpty));
        }
        if key.len() > limits.key_bytes_max {
            let failure = Failure::not_applied(Reason::KeyTooLong);
            return Err(failure.limit(limits.key_bytes_max as u64, key.len() as u64));
        }
        if let Operation::Put { value, .. } = operation
            && value.len() > limits.value_bytes_max
        {
            let failure = Failure::not_applied(Reason::ValueTooLarge);
            return Err(failure.limit(limits.value_bytes_max as u64, value.len() as u64));
        }
        Ok(())
    }

    fn read(&self, key: &Bytes, with_value: bool) -> ReadAnswer {
        let table = self.0.table.borrow();
        table
            .get(&(Token::of(key), key.clone()))
            .map_or_else(ReadAnswer::default, |record| self.seen(record, with_value))
    }

    fn seen(&self, record: &Record, with_value: bool) -> ReadAnswer {
        let expired = record.expires_at_ms != 0 && record.expires_at_ms <= self.wall_ms();
        let value = record.value.clone().filter(|_| !expired);
        ReadAnswer {
            version: record.version,
            exists: value.is_some(),
            value_bytes: value.as_ref().map_or(0, |value| value.len() as u32),
            value: value.filter(|_| with_value).unwrap_or_default(),
            expires_at_ms: record.expires_at_ms,
        }
    }

    fn write(&self, key: Bytes, value: Option<Bytes>, expires_at_ms: u64, previous: bool) -> Answer {
        let old = self.read(&key, true);
        let version = self.stamp();
        let record = Record { version, value, expires_at_ms };
        self.0.table.borrow_mut().insert((Token::of(&key), key), record);
        Answer::Write(WriteAnswer {
            version,
            had_old: old.exists,
            old: if previous { old.value } else { Bytes::new() },
        })
    }

    fn scan(&self, core: CoreId, range: &ScanRange) -> Page {
        let from = match &range.after_key {
            Some(key) => Bound::Excluded((range.first, key.clone())),
            None => Bound::Included((range.first, Bytes::new())),
        };
        let table = self.0.table.borrow();
        let mut page = Page::default();
        let mut bytes = 0;
        for ((token, key), record) in table.range((from, Bound::Unbounded)) {
            if *token > range.last {
                break;
            }
            if token.slot().core(self.0.cores) != core {
                continue;
            }
            if page.records.len() == range.records_max || bytes >= range.bytes_max {
                page.covered = page.records.last().map(|last| (last.token, last.key.clone()));
                break;
            }
            page.examined += 1;
            let answer = self.seen(record, !range.omit_values);
            if key.starts_with(&range.prefix) && (answer.exists || range.dead) {
                bytes += key.len() + answer.value.len();
                page.records.push(ScannedRecord { token: *token, key: key.clone(), answer });
            }
        }
        page
    }

    fn later(&self, deadline: Mono, answer: impl FnOnce(&Fake) -> Reply + 'static) -> Pending {
        if !self.0.stalled.get() {
            return Box::pin(ready(answer(self)));
        }
        let fake = self.clone();
        let mut deadline_sleep = self.sleep_until(deadline);
        let mut answer = Some(answer);
        Box::pin(poll_fn(move |cx| {
            if !fake.0.stalled.get() {
                return Poll::Ready(answer.take().expect("polled to its end once")(&fake));
            }
            if deadline_sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Failure::in_doubt(Reason::NoQuorumInTime)));
            }
            fake.0.resumed.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        }))
    }
}

type Pending = Pin<Box<dyn Future<Output = Reply>>>;

impl Backend for Fake {
    type Reply = Pending;
    type Sleep = Task;

    fn submit(&self, request: Request) -> Pending {
        self.0.requests.borrow_mut().push(request.clone());
        self.later(request.deadline, |fake| fake.answer(request))
    }

    /// Lets the other calls go first, as a core does.
    async fn expect(&self, _key: &[u8], _write: bool) {
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn submit_to(&self, core: CoreId, request: Request) -> Pending {
        self.0.requests.borrow_mut().push(request.clone());
        self.later(request.deadline, move |fake| match &request.operation {
            Operation::Scan(range) => Ok(Answer::Page(fake.scan(core, range))),
            other => panic!("{other:?} is not for a core"),
        })
    }

    fn peer_hello(&self, hello: Hello) -> Result<Welcome, Failure> {
        hello.admit(&self.view())
    }

    fn peer_frame(&self, from: MemberId, frame: Frame) -> Result<(), Frame> {
        let room = self.0.frames_room.get();
        if room == 0 {
            return Err(frame);
        }
        self.0.frames_room.set(room - 1);
        self.0.frames.borrow_mut().push((from, frame));
        Ok(())
    }

    fn core(&self) -> CoreId {
        CoreId(0)
    }

    fn cores(&self) -> u16 {
        self.0.cores
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.wall_ms(), mono: self.0.now.get() }
    }

    fn sleep_until(&self, at: Mono) -> Self::Sleep {
        let inner = Rc::clone(&self.0);
        let id = inner.next_sleeper.get();
        inner.next_sleeper.set(id + 1);
        Box::pin(poll_fn(move |cx| {
            if inner.now.get() >= at {
                return Poll::Ready(());
            }
            inner.sleepers.borrow_mut().insert((at, id), cx.waker().clone());
            Poll::Pending
        }))
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        (self.0.spawn)(Box::pin(task));
    }

    fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn view(&self) -> Rc<View> {
        Rc::clone(&self.0.view.borrow())
    }

    fn status(&self) -> NodeStatus {
        let core = CoreStatus { records: 7, flushes: 3, ..CoreStatus::default() };
        NodeStatus { uptime_ms: 5_000, cores: vec![core; usize::from(self.0.cores)], ..NodeStatus::default() }
    }

    fn settings(&self) -> Vec<Setting> {
        vec![Setting { key: "cores".into(), value: "2".into(), origin: "flag".into() }]
    }
}

/// Lets every task run until none has anything left to do.
pub(crate) async fn settle() {
    for _ in 0..200 {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

fn view(cores: u16) -> View {
    View {
        phase: Phase::Serving,
        cluster: ClusterId([3; 16]),
        epoch: 4,
        epoch_hash: [9; 8],
        ring: 0x0A0B_0C0D,
        updated_at_ms: WALL_MS,
        replication_target: 3,
        replication: 1,
        own: 0,
        members: vec![MemberView {
            id: MemberId::FIRST,
            name: "n1".into(),
            client_address: "127.0.0.1:7717".into(),
            peer_address: "127.0.0.1:7718".into(),
            admin_address: "127.0.0.1:7719".into(),
            core_addresses: Vec::new(),
            zone: String::new(),
            weight_percent: 100,
            state: MemberState::Normal,
            liveness: Liveness::Alive,
            cores,
            placement: MemberId::FIRST,
            tokens: vec![Token(1), Token(2)],
            build: "0.1.0".into(),
        }],
        slot_replicas: vec![0; SLOTS],
    }
}
