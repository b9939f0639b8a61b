//! One simulated node: the real machines and storage code, a shell of a few lines, and the simulated disk.
//!
//! The shell does what `runtime` does with glommio: it writes what the log plans, makes segments, rewrites parts, ticks.
//! Its tasks are polled in a fixed order, so a seed gives one run. Messages to other members are the world's business:
//! they pile up in [`SimNode::sent`].

use crate::disk::{SimDisk, block_on};
use ringcore::cluster::epoch::Epoch;
use ringcore::cluster::ring::Ring;
use ringcore::node::effect::{Effect, Effects};
use ringcore::node::event::Event;
use ringcore::node::image::{Host, Image};
use ringcore::node::machine::{Machine, MachineConfig};
use ringcore::replication::messages::Message;
use ringcore::storage::block::{self, BLOCK_BYTES, HEADER_BYTES, Reading};
use ringcore::storage::data_dir::{self, DataDirError, NodeFile, core_dir, segment_name};
use ringcore::storage::disk::{Disk, DiskError, DiskErrorKind, DiskResult};
use ringcore::storage::log::{BatchPlan, Log, Ticket};
use ringcore::storage::log_record::{LogRecord, Records};
use ringcore::storage::manifest::Manifest;
use ringcore::storage::open::{
    OpenError, OpenOptions, begin_layout, needs_layout, open_core, prepare_segment,
};
use ringcore::storage::segment::{LogShape, SegmentId};
use ringcore::storage::small_file::join;
use ringcore::storage::snapshot::{DueRule, rewrite_part};
use ringcore::types::mutant::{Mutant, planted};
use ringcore::types::request::{Asker, Reply, Request};
use ringcore::types::{ClusterId, CoreId, Limits, MemberId, Now, Slot, Token, Version};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What varies between nodes of different seeds.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Blocks of a log segment.
    pub(crate) segment_blocks: u32,
    /// A round of parts begins after so many bytes of log.
    pub(crate) round_bytes: u64,
    /// Start although stored data is damaged.
    pub(crate) accept_data_loss: bool,
    /// What requests may ask for.
    pub(crate) limits: Limits,
    /// Bytes of the tables of all cores.
    pub(crate) memory_limit: usize,
}

/// Which member of which cluster a node is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) member: MemberId,
    pub(crate) ring: Arc<Ring>,
}

/// What a core asks of other members.
#[derive(Debug)]
pub(crate) enum Sent {
    Message(MemberId, Box<Message>),
    AskEpoch(MemberId),
}

/// A running node.
pub(crate) struct SimNode {
    pub(crate) cores: Vec<SimCore>,
    shared: Shared,
    /// Records that opening read from parts and from logs.
    pub(crate) read: (u64, u64),
}

/// A key and one of its versions.
pub(crate) type Written = (Vec<u8>, Version);

/// What the cores of one process share.
#[derive(Clone)]
struct Shared {
    now: Rc<Cell<Now>>,
    tasks: Rc<RefCell<Vec<Task>>>,
    /// Tasks begun so far.
    begun: Rc<Cell<u64>>,
    replies: Rc<RefCell<Vec<(Asker, Reply)>>>,
    /// Why a core gave up.
    halted: Rc<RefCell<Option<String>>>,
    sent: Rc<RefCell<Vec<Sent>>>,
    /// Versions of keys that have become durable, as the log's blocks say; not kept unless somebody wants to know.
    durable: Option<Rc<RefCell<Vec<Written>>>>,
}

/// One core of it. Clones are the same core.
#[derive(Clone)]
pub(crate) struct SimCore(Rc<Inner>);

struct Inner {
    machine: RefCell<Machine>,
    effects: RefCell<Effects>,
    disk: SimDisk,
    dir: String,
    shape: LogShape,
    shared: Shared,
    parts_done: Cell<bool>,
}

/// Opens the node with that many cores, founding its cluster if the disk is empty. None: the disk stopped on the way.
pub(crate) fn open(
    disk: &SimDisk,
    cores: u16,
    shape: &Shape,
    now: Rc<Cell<Now>>,
) -> Option<Result<SimNode, OpenError>> {
    let place = Place { member: MemberId::FIRST, ring: Arc::new(ring_of(1, 3)) };
    block_on(disk, open_node(disk, &place, cores, shape, now, false))
}

/// As [`open`], for one member of several; what becomes durable is told by [`SimNode::take_durable`].
pub(crate) fn open_member(
    disk: &SimDisk,
    place: &Place,
    cores: u16,
    shape: &Shape,
    now: Rc<Cell<Now>>,
) -> Option<Result<SimNode, OpenError>> {
    block_on(disk, open_node(disk, place, cores, shape, now, true))
}

/// The first epoch's ring of so many members.
pub(crate) fn ring_of(members: u32, replication: u8) -> Ring {
    Ring::new(Epoch::of_members(ClusterId([9; 16]), replication, members))
}

async fn open_node(
    disk: &SimDisk,
    place: &Place,
    cores: u16,
    shape: &Shape,
    now: Rc<Cell<Now>>,
    tells_durable: bool,
) -> Result<SimNode, OpenError> {
    let options = OpenOptions {
        seed: 7,
        limits: shape.limits.clone(),
        segment_blocks: shape.segment_blocks,
        accept_data_loss: shape.accept_data_loss,
    };
    let mut node = match data_dir::find(disk).await? {
        Some(node) => node,
        None => {
            let name = format!("n{}", place.member);
            data_dir::create(disk, ClusterId([9; 16]), place.member, &name).await?
        }
    };
    data_dir::sweep(disk, &node).await?;
    data_dir::count_start(disk, &mut node).await?;
    if needs_layout(disk, &node, cores).await? {
        begin_layout(disk, &mut node, cores, &options).await?;
    }
    let shared = Shared {
        now,
        tasks: Rc::default(),
        begun: Rc::default(),
        replies: Rc::default(),
        halted: Rc::default(),
        sent: Rc::default(),
        durable: tells_durable.then(Rc::default),
    };
    let mut sim = SimNode { cores: Vec::new(), shared, read: (0, 0) };
    for core in (0..cores).map(CoreId) {
        open_one(disk, &node, core, shape, &options, &place.ring, &mut sim).await?;
    }
    // As the real shell: nothing is served before every core's start batch is durable.
    sim.cores.iter().for_each(|core| core.write_log());
    poll_fn(|cx| {
        sim.poll(cx);
        let started =
            |core: &SimCore| core.with(|machine| machine.replica().log().durable().0 >= Ticket::START);
        if sim.cores.iter().all(started) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if !node.sources().is_empty() {
        sim.shared.tasks.borrow_mut().push(Box::pin(drop_sources(disk.clone(), node, sim.cores.clone())));
    }
    Ok(sim)
}

async fn open_one(
    disk: &SimDisk,
    node: &NodeFile,
    core: CoreId,
    shape: &Shape,
    options: &OpenOptions,
    ring: &Arc<Ring>,
    sim: &mut SimNode,
) -> Result<(), OpenError> {
    let layout = *node.active().expect("a layout was begun");
    let dir = core_dir(layout.id, core);
    let mut opened = open_core(disk, node, core, options).await?;
    sim.read.0 += opened.report.part_records;
    sim.read.1 += opened.report.log_records;
    if !opened.restart.segments.iter().any(|(_, first)| first.is_none()) {
        let segment = opened.restart.next_segment;
        prepare_segment(disk, &dir, segment, &opened.shape).await?;
        opened.restart.segments.push((segment, None));
        opened.restart.next_segment = SegmentId(segment.0 + 1);
    }
    let log = Log::start(opened.shape, shape.limits.gathering_bytes_max, &opened.restart);
    let config = MachineConfig {
        member: node.member,
        core,
        cores: layout.cores,
        limits: shape.limits.clone(),
        memory_limit: shape.memory_limit / usize::from(layout.cores),
        hlc_bound: opened.hlc_bound,
    };
    let machine = Machine::new(config, Arc::clone(ring), opened.take_shard(), log, sim.shared.now.get());
    let sim_core = SimCore(Rc::new(Inner {
        machine: RefCell::new(machine),
        effects: RefCell::default(),
        disk: disk.clone(),
        dir,
        shape: opened.shape,
        shared: sim.shared.clone(),
        parts_done: Cell::new(false),
    }));
    let rule = DueRule { round_bytes_min: shape.round_bytes };
    let task =
        snapshots(sim_core.clone(), core, layout.cores, opened.manifest, rule, !node.sources().is_empty());
    sim.shared.tasks.borrow_mut().push(Box::pin(task));
    sim.cores.push(sim_core);
    Ok(())
}

/// Rewrites parts as they fall due; with old layouts to drop, the missing ones at once.
async fn snapshots(
    core: SimCore,
    id: CoreId,
    cores: u16,
    mut manifest: Manifest,
    rule: DueRule,
    has_sources: bool,
) {
    let mut begun_at = manifest.known();
    loop {
        let end = core.with(|machine| machine.replica().log().durable().1);
        let grown = end.0.saturating_sub(begun_at.0) * BLOCK_BYTES as u64;
        let owed = has_sources && manifest.first_missing().is_some();
        let full = core.with(|machine| machine.is_disk_full());
        if owed || grown > 0 && (full || rule.is_due(grown, manifest.parts_bytes())) {
            begun_at = end;
            let part = manifest.next_part();
            let mut image = Image::new(core.clone(), id, cores);
            let (disk, dir) = (core.0.disk.clone(), core.0.dir.clone());
            match rewrite_part(&disk, &mut image, &mut manifest, &dir, part).await {
                Ok(()) => {}
                Err(error) if error.kind == DiskErrorKind::Full => {}
                Err(error) => core.halt(error.to_string()),
            }
        }
        core.0.parts_done.set(manifest.first_missing().is_none());
        // Once per poll: another look needs time or events to pass.
        let mut looked = false;
        poll_fn(|_| if std::mem::replace(&mut looked, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

async fn drop_sources(disk: SimDisk, mut node: NodeFile, cores: Vec<SimCore>) {
    poll_fn(|_| {
        let done = cores.iter().all(|core| core.0.parts_done.get()) || planted(Mutant::SourceDroppedEarly);
        if done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    match data_dir::retire_layouts(&disk, &mut node).await {
        Ok(()) | Err(DataDirError::PartMissing { .. }) => {}
        Err(error) => cores[0].halt(error.to_string()),
    }
}

impl SimNode {
    /// Sends a request to the core that owns its key.
    pub(crate) fn submit(&self, asker: Asker, request: Request) {
        let key = request.operation.key().expect("requests of this world name a key").clone();
        self.owner(&key).step(Event::Request { from: asker, request });
    }

    /// The core that owns a key.
    pub(crate) fn owner(&self, key: &[u8]) -> &SimCore {
        let core = Token::of(key).slot().core(self.cores.len() as u16);
        &self.cores[usize::from(core.0)]
    }

    /// Lets all tasks go on that can; returns the replies that came.
    pub(crate) fn run(&self) -> Vec<(Asker, Reply)> {
        self.poll(&mut Context::from_waker(Waker::noop()));
        std::mem::take(&mut self.shared.replies.borrow_mut())
    }

    /// As [`SimNode::run`], until nothing more happens at this moment.
    pub(crate) fn settle(&self) -> Vec<(Asker, Reply)> {
        loop {
            let begun = self.shared.begun.get();
            self.poll(&mut Context::from_waker(Waker::noop()));
            if self.shared.begun.get() == begun {
                return std::mem::take(&mut self.shared.replies.borrow_mut());
            }
        }
    }

    /// Why a core gave up, if one did.
    pub(crate) fn halted(&self) -> Option<String> {
        self.shared.halted.borrow().clone()
    }

    /// What the cores have asked of other members since this was last called.
    pub(crate) fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.shared.sent.borrow_mut())
    }

    /// Versions of keys whose log record has become durable since this was last called.
    pub(crate) fn take_durable(&self) -> Vec<Written> {
        self.shared.durable.as_ref().map_or(Vec::new(), |durable| std::mem::take(&mut durable.borrow_mut()))
    }

    /// The core that owns a slot.
    pub(crate) fn core_of(&self, slot: Slot) -> usize {
        usize::from(slot.core(self.cores.len() as u16).0)
    }

    /// A tick of every core.
    pub(crate) fn tick(&self) {
        self.cores.iter().for_each(|core| core.step(Event::Tick));
    }

    fn poll(&self, cx: &mut Context<'_>) {
        let mut running = std::mem::take(&mut *self.shared.tasks.borrow_mut());
        running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        let mut tasks = self.shared.tasks.borrow_mut();
        running.append(&mut tasks);
        *tasks = running;
    }
}

/// Tasks hold cores, and cores the list of tasks: a node that ends must let go of one of them.
impl Drop for SimNode {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut *self.shared.tasks.borrow_mut());
        drop(tasks);
    }
}

impl SimCore {
    pub(crate) fn step(&self, event: Event) {
        let inner = &self.0;
        let shared = &inner.shared;
        if shared.halted.borrow().is_some() {
            return;
        }
        let mut effects = inner.effects.borrow_mut();
        inner.machine.borrow_mut().step(shared.now.get(), event, &mut effects);
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Reply { to, reply } => shared.replies.borrow_mut().push((to, reply)),
                Effect::PrepareSegment(segment) => self.spawn(self.clone().prepare(segment)),
                Effect::Halt(why) => self.halt(why),
                // No core of this world speaks for its node.
                Effect::Moved(_) => {}
                Effect::Send { to, message } => {
                    shared.sent.borrow_mut().push(Sent::Message(to, message.into()))
                }
                Effect::AskEpoch(to) => shared.sent.borrow_mut().push(Sent::AskEpoch(to)),
                other => panic!("{other:?} of a core that hosts no control plane"),
            }
        }
        drop(effects);
        self.write_log();
    }

    /// Answers and messages that wait for the log: how many, and the bytes of their keys and values.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let effects = self.0.effects.borrow();
        (effects.held(), effects.held_bytes())
    }

    fn halt(&self, why: String) {
        self.0.shared.halted.borrow_mut().get_or_insert(why);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let shared = &self.0.shared;
        shared.begun.set(shared.begun.get() + 1);
        shared.tasks.borrow_mut().push(Box::pin(task));
    }

    /// Starts the writes that the log plans now.
    fn write_log(&self) {
        while let Some(plan) = self.with(|machine| machine.next_batch(self.0.shared.now.get())) {
            let mut blocks = vec![0; plan.bytes()];
            self.with(|machine| machine.replica_mut().log_mut().encode(&plan, &mut blocks));
            self.spawn(self.clone().write(plan, blocks));
        }
    }

    async fn write(self, plan: BatchPlan, blocks: Vec<u8>) {
        let durable = self.0.shared.durable.clone();
        let mut records = durable.as_ref().map_or(Vec::new(), |_| records_of(&self.0.shape, &blocks));
        let written = self.write_blocks(&plan, blocks).await;
        if let (Some(durable), true) = (durable, written.is_ok()) {
            durable.borrow_mut().append(&mut records);
        }
        self.step(match written {
            Ok(()) => Event::Written(plan.ticket),
            Err(_) if planted(Mutant::RetriedFlush) => Event::Written(plan.ticket),
            Err(_) => Event::WriteFailed(plan.ticket),
        });
    }

    async fn write_blocks(&self, plan: &BatchPlan, blocks: Vec<u8>) -> DiskResult<()> {
        let path = join(&self.0.dir, &segment_name(plan.segment.0));
        let file = self.0.disk.open(&path, true).await?;
        self.0.disk.write(&file, plan.offset, blocks).await
    }

    async fn prepare(self, segment: SegmentId) {
        let made = prepare_segment(&self.0.disk, &self.0.dir, segment, &self.0.shape).await;
        match made {
            Ok(()) => self.step(Event::SegmentReady(segment)),
            Err(error) if error.kind == DiskErrorKind::Full => self.step(Event::SegmentRefused(segment)),
            Err(error) => self.halt(error.to_string()),
        }
    }
}

/// The records that a batch makes durable, read from its blocks as a start would.
fn records_of(shape: &LogShape, blocks: &[u8]) -> Vec<Written> {
    let mut payload = Vec::new();
    for block in blocks.chunks_exact(BLOCK_BYTES) {
        let Reading::Intact(header) = block::open(shape.seal, block) else { panic!("a block just sealed") };
        payload.extend_from_slice(&block[HEADER_BYTES..HEADER_BYTES + usize::from(header.used)]);
    }
    let record = |record| match record {
        Ok(LogRecord::Record(entry)) => Some((entry.record.key.to_vec(), entry.record.version)),
        Ok(_) => None,
        Err(error) => panic!("a record just encoded: {error}"),
    };
    Records::new(&payload).filter_map(record).collect()
}

impl Host for SimCore {
    fn with<R>(&self, look: impl FnOnce(&mut Machine) -> R) -> R {
        look(&mut self.0.machine.borrow_mut())
    }

    async fn durable(&self, ticket: Ticket) -> DiskResult<()> {
        poll_fn(|_| {
            if let Some(why) = &*self.0.shared.halted.borrow() {
                let error = DiskError { kind: DiskErrorKind::Io, context: why.clone() };
                return Poll::Ready(Err(error));
            }
            let durable = self.with(|machine| machine.replica().log().durable().0);
            if ticket <= durable { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

/// The version that a node holds of a key, durable or not.
pub(crate) fn held(node: &SimNode, key: &[u8]) -> Option<Version> {
    let look = |machine: &mut Machine| {
        machine.replica().shard().get(Token::of(key), key).map(|record| record.version)
    };
    node.owner(key).with(look)
}
