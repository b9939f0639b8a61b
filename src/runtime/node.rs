//! A node's life: opens the data directory, starts the cores, listens, serves, and ends in order.

use super::acceptor::{Acceptor, Arrival, Intake, Listener, Place, Port};
use super::clock;
use super::core::{Core, CoreParts, Letter, NodeShared};
use super::cpus::{Available, CoresWanted, CpuError};
use super::directory::{Claim, ClaimError};
use super::disk::{DirDisk, Flush};
use super::executor::{self, CoreContext, Cpu, StartError};
use super::gauges::gauges;
use super::log_writer::LogWriter;
use super::mailbox::{Room, Seat, seats};
use super::net::Stream;
use super::probe::{ProbeError, probe};
use super::signals::SignalWatch;
use super::snapshots::Snapshots;
use super::watchdog::Watchdog;
use crate::admin;
use crate::cluster::epoch::{Epoch, EpochError, Member};
use crate::cluster::ring::Ring;
use crate::node::event::Event;
use crate::node::machine::{Machine, MachineConfig};
use crate::rpc::backend::{Liveness, MemberState, MemberView, Phase, Setting, View};
use crate::rpc::http1::Pages;
use crate::rpc::io::Transport;
use crate::rpc::server::{self, Server};
use crate::rpc::stats::Counters;
use crate::storage::data_dir::{self, DataDirError, NodeFile, core_dir};
use crate::storage::disk::DiskError;
use crate::storage::log::{Log, Ticket};
use crate::storage::log_record::{ControlKind, LogRecord};
use crate::storage::open::{OpenError, OpenOptions, Opened, choose_layout, open_core, prepare_segment};
use crate::storage::recovery::Restart;
use crate::storage::segment::LogShape;
use crate::types::{ClusterId, CoreId, Limits, MemberId, Mono};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::atomic::{AtomicU8, AtomicU16};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

/// Connections at a time, of all cores, to the admin port.
const ADMIN_CONNECTIONS_MAX: usize = 256;
/// How long requests in progress may take to end once the node is told to stop, milliseconds.
const DRAIN_MS: u64 = 8_000;

/// What a directory that belongs to no member yet is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Founding {
    /// Nobody said.
    Unsaid,
    /// To found a cluster of one.
    Bootstrap,
    /// To join a cluster.
    Join,
}

/// What a node is told. Every value has been checked.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Its name, if the directory has none yet.
    pub name: String,
    /// The name was asked for: a directory of another member is refused.
    pub name_asked: bool,
    /// Its zone.
    pub zone: String,
    /// For clients.
    pub listen: SocketAddr,
    /// For other nodes.
    pub peer_listen: SocketAddr,
    /// For metrics and probes; None = off.
    pub admin_listen: Option<SocketAddr>,
    /// The same three as others should use them; the last one empty = off.
    pub advertise: [String; 3],
    /// What a directory without a member is for.
    pub founding: Founding,
    /// Replicas of each key when a cluster is founded.
    pub replication: u8,
    /// Which cores.
    pub cores: CoresWanted,
    /// One CPU for each.
    pub pin: bool,
    /// For records, bytes, of all cores.
    pub memory_limit: u64,
    /// Whether writes wait for stable storage.
    pub flush: Flush,
    /// Start although acknowledged writes are damaged.
    pub accept_data_loss: bool,
    /// Start on any file system.
    pub allow_any_fs: bool,
    /// What a request may ask for.
    pub limits: Limits,
    /// As the Admin service shows them.
    pub settings: Vec<Setting>,
}

/// Why a node did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// io_uring cannot be had.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The cores cannot be had.
    #[error(transparent)]
    Cpus(#[from] CpuError),
    /// The data directory cannot be had.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The data directory belongs to nobody, and nobody said what to do with it.
    #[error("the data directory {} belongs to no cluster yet", .0.display())]
    NoCluster(PathBuf),
    /// Nodes of this version form clusters of one.
    #[error("this version cannot join a cluster yet: it runs clusters of one node")]
    CannotJoin,
    /// A port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// An executor did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The data cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What the log says of the cluster cannot be read.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The system refused a thread, a descriptor or randomness.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A core ended by a defect.
    #[error("{0}")]
    Panicked(String),
}

impl From<DataDirError> for NodeError {
    fn from(error: DataDirError) -> NodeError {
        NodeError::Open(OpenError::DataDir(error))
    }
}

impl From<DiskError> for NodeError {
    fn from(error: DiskError) -> NodeError {
        NodeError::Open(OpenError::Disk(error))
    }
}

/// Ends the process because going on could break a promise.
pub(crate) fn halt(core: CoreId, why: &str) -> ! {
    tracing::error!(core = core.0, why, "the node gives up");
    // Diagnostics may be buffered by a thread that will not run again.
    eprintln!("error: core {core}: {why}");
    std::process::exit(74)
}

/// What one core gets to start with.
struct Share {
    seat: Seat<Letter>,
    intake: Intake,
}

/// What every core gets.
struct Plan {
    config: NodeConfig,
    claim: Claim,
    node: NodeFile,
    seed: u64,
    shared: Arc<NodeShared>,
    counters: Arc<[Counters]>,
    /// Taken by its core.
    shares: Vec<Mutex<Option<Share>>>,
    /// The first failure of a core.
    failure: Mutex<Option<NodeError>>,
    /// Cores that are open, that have no connection left, that have closed their logs. One that fails to open counts
    /// as through with the latter two.
    opened: AtomicU16,
    drained: AtomicU16,
    closed: AtomicU16,
    cores: u16,
}

/// Runs a node until it is told to stop by a signal.
pub fn run(config: NodeConfig) -> Result<(), NodeError> {
    let cpus = Available::read()?.plan(&config.cores, config.pin)?;
    probe()?;
    let listeners = listen(&config)?;
    let claim = Claim::new(&config.data_dir, config.allow_any_fs)?;
    let (claim, node) = prepare(claim, &config, cpus.len())?;
    let cores = cpus.len();
    let room = Room { messages: (4_096 / cores).max(128), asks: (4_096 / cores).max(128) };
    let (acceptor, intakes) = Acceptor::new(cores);
    let shares = seats(cores, room).into_iter().zip(intakes);
    let mut seed = [0; 8];
    fill_random(&mut seed)?;
    let plan = Arc::new(Plan {
        claim,
        node,
        seed: u64::from_le_bytes(seed),
        shared: Arc::new(NodeShared {
            phase: AtomicU8::new(Phase::Starting as u8),
            gauges: gauges(cores),
            started: clock::mono(),
            limits: config.limits.clone(),
            memory_limit: config.memory_limit,
            settings: config.settings.clone(),
        }),
        counters: (0..cores).map(|_| Counters::new()).collect(),
        shares: shares.map(|(seat, intake)| Mutex::new(Some(Share { seat, intake }))).collect(),
        failure: Mutex::new(None),
        opened: AtomicU16::new(0),
        drained: AtomicU16::new(0),
        closed: AtomicU16::new(0),
        cores: cores as u16,
        config,
    });
    run_cores(&plan, &cpus, acceptor, listeners)?;
    let failure = plan.failure.lock().expect("no core panicked while it held it").take();
    failure.map_or(Ok(()), Err)
}

fn run_cores(
    plan: &Arc<Plan>,
    cpus: &[Cpu],
    acceptor: Acceptor,
    listeners: Vec<Listener>,
) -> Result<(), NodeError> {
    for (gauge, cpu) in plan.shared.gauges.iter().zip(cpus) {
        gauge.cpu.store(cpu.unwrap_or(0) as u64, std::sync::atomic::Ordering::Relaxed);
    }
    let main = {
        let plan = Arc::clone(plan);
        move |context: CoreContext| run_core(Arc::clone(&plan), context)
    };
    let cores = executor::start(cpus, main)?;
    let stop = cores.stop().clone();
    let _signals = SignalWatch::start(move |signal| {
        tracing::info!(signal, "stopping");
        stop.request();
    })?;
    let _watchdog = Watchdog::start(cores.heartbeats().to_vec(), Watchdog::abort)?;
    let accepting = acceptor.start(listeners)?;
    let stop = cores.stop().clone();
    // The acceptor must end first, so that the cores' queues of arrivals do.
    while !stop.is_requested() {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(accepting);
    cores.join().map_err(|panicked| NodeError::Panicked(panicked.to_string()))?;
    Ok(())
}

fn listen(config: &NodeConfig) -> Result<Vec<Listener>, NodeError> {
    let per_core = server::Settings::default().connections_max;
    let bind = |address, port, most| {
        let bound = Listener::bind(address, port, Place::LeastLoaded, most);
        bound.map_err(|source| NodeError::Listen { address, source })
    };
    let mut listeners = vec![
        bind(config.listen, Port::Clients, per_core * 256)?,
        bind(config.peer_listen, Port::Peers, per_core * 256)?,
    ];
    if let Some(address) = config.admin_listen {
        listeners.push(bind(address, Port::Admin, ADMIN_CONNECTIONS_MAX)?);
    }
    Ok(listeners)
}

/// Opens the directory for this process: founds the cluster if told to, and begins a layout if the number of cores is
/// another one. On an executor of its own, before the cores start.
fn prepare(claim: Claim, config: &NodeConfig, cores: usize) -> Result<(Claim, NodeFile), NodeError> {
    let claim = Arc::new(claim);
    let main = {
        let (claim, config) = (Arc::clone(&claim), config.clone());
        move |context: CoreContext| {
            let (claim, config) = (Arc::clone(&claim), config.clone());
            async move {
                let disk = DirDisk::new(&claim, &context.ticker, &context.reactor);
                prepare_directory(&disk, &config, cores as u16).await
            }
        }
    };
    let prepared = executor::start(&[None], main)?.join();
    let mut nodes = prepared.map_err(|panicked| NodeError::Panicked(panicked.to_string()))?;
    let node = nodes.pop().expect("one executor was started")?;
    let claim = Arc::into_inner(claim).expect("the executor that shared it has ended");
    Ok((claim, node))
}

async fn prepare_directory(disk: &DirDisk, config: &NodeConfig, cores: u16) -> Result<NodeFile, NodeError> {
    let mut node = match data_dir::find(disk).await? {
        Some(node) => {
            if config.name_asked {
                node.require_name(&config.name)?;
            }
            if config.founding != Founding::Unsaid {
                tracing::info!(
                    name = node.name,
                    "--bootstrap and --join are ignored: the directory has a member"
                );
            }
            node
        }
        None if config.founding == Founding::Join => return Err(NodeError::CannotJoin),
        None if config.founding == Founding::Bootstrap => {
            let mut cluster = ClusterId::default();
            fill_random(&mut cluster.0)?;
            data_dir::create(disk, cluster, MemberId::FIRST, &config.name).await?
        }
        None => return Err(NodeError::NoCluster(config.data_dir.clone())),
    };
    data_dir::sweep(disk, &node).await?;
    data_dir::count_start(disk, &mut node).await?;
    choose_layout(disk, &mut node, cores, &open_options(config, 0)).await?;
    Ok(node)
}

fn open_options(config: &NodeConfig, seed: u64) -> OpenOptions {
    OpenOptions {
        seed,
        limits: config.limits.clone(),
        segment_blocks: LogShape::SEGMENT_BLOCKS,
        accept_data_loss: config.accept_data_loss,
    }
}

fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

async fn run_core(plan: Arc<Plan>, context: CoreContext) {
    let id = context.core;
    let share = plan.shares[usize::from(id.0)].lock().expect("taken once").take().expect("taken once");
    let stop = context.stop.clone();
    match open(&plan, &context).await {
        Ok(opened) => Box::pin(serve(&plan, context, share, opened)).await,
        Err(error) => {
            plan.failure.lock().expect("no core panicked while it held it").get_or_insert(error);
            plan.drained.fetch_add(1, AcqRel);
            plan.closed.fetch_add(1, AcqRel);
            stop.request();
        }
    }
}

/// An opened core, with a log that is about to be started.
struct Ready {
    machine: Machine,
    opened: Opened,
    disk: DirDisk,
    dir: String,
    ring: Arc<Ring>,
}

async fn open(plan: &Plan, context: &CoreContext) -> Result<Ready, NodeError> {
    let disk = DirDisk::new(&plan.claim, &context.ticker, &context.reactor);
    let layout = *plan.node.active().expect("prepare began a layout");
    let dir = core_dir(layout.id, context.core);
    let mut opened =
        open_core(&disk, &plan.node, context.core, &open_options(&plan.config, plan.seed)).await?;
    if !opened.restart.segments.iter().any(|(_, first)| first.is_none()) {
        add_segment(&disk, &dir, &opened.shape, &mut opened.restart).await?;
    }
    let epoch = match opened.controls.iter().rev().find_map(|bytes| epoch_of(bytes)) {
        Some(epoch) => epoch?,
        None => founding_epoch(plan),
    };
    let ring = Arc::new(Ring::new(epoch));
    let limits = plan.config.limits.clone();
    let log = Log::start(opened.shape, limits.gathering_bytes_max, &opened.restart);
    let config = MachineConfig {
        member: plan.node.member,
        core: context.core,
        cores: plan.cores,
        limits: limits.clone(),
        memory_limit: plan.config.memory_limit as usize / usize::from(plan.cores),
        hlc_bound: opened.hlc_bound,
    };
    let empty = crate::storage::shard::Shard::new(plan.seed, context.core, plan.cores, &limits);
    let shard = std::mem::replace(&mut opened.shard, empty);
    let machine = Machine::new(config, Arc::clone(&ring), shard, log, clock::now());
    Ok(Ready { machine, opened, disk, dir, ring })
}

/// Makes the segment that the start batch goes to.
async fn add_segment(
    disk: &DirDisk,
    dir: &str,
    shape: &LogShape,
    restart: &mut Restart,
) -> Result<(), DiskError> {
    let segment = restart.next_segment;
    prepare_segment(disk, dir, segment, shape).await?;
    restart.segments.push((segment, None));
    restart.next_segment = crate::storage::segment::SegmentId(segment.0 + 1);
    Ok(())
}

fn epoch_of(control: &[u8]) -> Option<Result<Epoch, EpochError>> {
    match LogRecord::decode(control) {
        Ok((LogRecord::Control { kind: ControlKind::Epoch, bytes }, _)) => Some(Epoch::decode(bytes)),
        Ok(_) | Err(_) => None,
    }
}

/// The first epoch of a cluster: a function of what NODE says, so every core computes the same.
fn founding_epoch(plan: &Plan) -> Epoch {
    let [client_address, peer_address, admin_address] = plan.config.advertise.clone();
    let first = Member {
        id: plan.node.member,
        placement: plan.node.member.0,
        name: plan.node.name.clone(),
        zone: plan.config.zone.clone(),
        weight_percent: 100,
        client_address,
        peer_address,
        admin_address,
    };
    Epoch::bootstrap(plan.node.cluster, plan.config.replication, first)
}

async fn serve(plan: &Arc<Plan>, context: CoreContext, share: Share, ready: Ready) {
    let CoreContext { core: id, ticker, queues, stop, .. } = context;
    let Ready { machine, opened, disk, dir, ring } = ready;
    let (outbox, inbox) = share.seat.open(&queues.requests).await;
    let mut arrivals = share.intake.open().await;
    let core = Core::new(CoreParts {
        id,
        cores: plan.cores,
        machine,
        outbox,
        ticker: ticker.clone(),
        queues: queues.clone(),
        disk,
        dir,
        flush: plan.config.flush,
        shared: Arc::clone(&plan.shared),
        view: view(plan, &ring),
    });
    core.log().set_shape(opened.shape);
    let mut tasks = vec![
        queues.log.spawn(LogWriter::run(core.clone())),
        queues.requests.spawn(core.clone().run_mail(inbox)),
        queues.requests.spawn(core.clone().run_post()),
    ];
    let ticking = core.clone();
    ticker.on_tick(move |_| ticking.tick());
    // Nothing is served before the start batch is durable.
    core.log().ring();
    let _busy = ticker.busy();
    use crate::node::image::Host as _;
    if core.durable(Ticket::START).await.is_err() {
        return;
    }
    drop(_busy);
    for damage in &opened.report.damage {
        tracing::warn!(core = id.0, %damage, "damage accepted");
    }
    let snapshots = Snapshots::new(core.clone(), opened.manifest, !plan.node.sources().is_empty());
    tasks.push(queues.background.spawn(snapshots.run()));
    let report = &opened.report;
    tracing::info!(core = id.0, parts = report.part_records, log = report.log_records, "recovered");
    all_opened(plan, &ticker, &stop).await;
    core.enter(Phase::Serving);
    if id == CoreId(0) {
        tracing::info!(
            name = plan.node.name,
            cluster = %plan.node.cluster,
            listen = %plan.config.listen,
            "serving"
        );
        tasks.push(queues.background.spawn(drop_sources(core.clone(), plan.node.clone())));
    }
    let server = Server::new(core.clone(), server::Settings::default(), Arc::clone(&plan.counters));
    let pages = Pages::new(core.clone());
    while let Some(arrival) = arrivals.next().await {
        accept(&core, &server, &pages, &plan.counters, arrival);
    }
    end(plan, &core, &server, tasks).await;
}

/// Waits until every core of the node has recovered: a request may be for any of them.
async fn all_opened(plan: &Plan, ticker: &super::tick::Ticker, stop: &executor::Stop) {
    plan.opened.fetch_add(1, AcqRel);
    let _busy = ticker.busy();
    while plan.opened.load(Acquire) < plan.cores && !stop.is_requested() {
        ticker.next_tick().await;
    }
}

/// Counts this core, and waits for all others or the deadline.
async fn all_counted(count: &AtomicU16, plan: &Plan, ticker: &super::tick::Ticker, deadline: Mono) {
    count.fetch_add(1, AcqRel);
    while count.load(Acquire) < plan.cores && clock::mono() < deadline {
        ticker.next_tick().await;
    }
}

fn accept(
    core: &Core,
    server: &Rc<Server<Core>>,
    pages: &Rc<Pages<Core>>,
    counters: &Arc<[Counters]>,
    arrival: Arrival,
) {
    let port = arrival.port;
    let stream = arrival.into_stream();
    let task = match port {
        Port::Clients => core.queues().requests.spawn(Rc::clone(server).serve(stream, server::Port::Client)),
        Port::Peers => core.queues().requests.spawn(Rc::clone(server).serve(stream, server::Port::Peer)),
        Port::Admin => {
            let (core, pages, counters) = (core.clone(), Rc::clone(pages), Arc::clone(counters));
            let queue = core.queues().requests.clone();
            queue.spawn(async move {
                pages.serve(stream, move |method, path| admin::page(&core, &counters, method, path)).await;
            })
        }
    };
    task.detach();
}

/// Drops the layouts that the last one replaces, once every core has written all its parts.
async fn drop_sources(core: Core, mut node: NodeFile) {
    while !node.sources().is_empty() {
        core.ticker().sleep(Duration::from_millis(250)).await;
        if !core.is_parts_complete() {
            continue;
        }
        match data_dir::retire_layouts(core.disk(), &mut node).await {
            Ok(()) => {
                tracing::info!("data of another number of cores dropped: all of it is in the new parts")
            }
            Err(error) => core.halt(&error.to_string()),
        }
    }
}

/// Finishes what is in flight, flushes, and ends the core's tasks.
async fn end(plan: &Plan, core: &Core, server: &Rc<Server<Core>>, tasks: Vec<executor::Task<()>>) {
    let _busy = core.ticker().busy();
    server.stop();
    let deadline = clock::mono().after_ms(DRAIN_MS);
    if !server.drained(deadline).await {
        tracing::warn!(core = core.id().0, "connections were still open after {DRAIN_MS} ms");
    }
    // A call in progress on another core may still need keys of this one.
    all_counted(&plan.drained, plan, core.ticker(), deadline).await;
    core.enter(Phase::Stopping);
    core.step(Event::Stop);
    while !core.with_machine(|machine| machine.is_closed()) && clock::mono() < deadline {
        core.ticker().next_tick().await;
    }
    // What this core's mail tasks still owe the others leaves while the others close.
    all_counted(&plan.closed, plan, core.ticker(), deadline).await;
    for task in tasks {
        task.cancel().await;
    }
}

fn view(plan: &Plan, ring: &Ring) -> View {
    let epoch = ring.epoch();
    let members: Vec<MemberView> =
        epoch.members.iter().map(|member| member_view(plan, ring, member)).collect();
    let index =
        |id: &MemberId| members.iter().position(|member| member.id == *id).expect("replicas are members");
    let slots = (0..crate::types::SLOTS as u16).map(crate::types::Slot);
    let slot_replicas =
        slots.flat_map(|slot| ring.replicas(slot).iter().map(|id| index(id) as u16)).collect();
    let hash = epoch.hash();
    View {
        phase: Phase::Starting,
        cluster: epoch.cluster,
        epoch: epoch.number,
        epoch_hash: *hash.first_chunk().expect("a hash of 16 bytes has 8"),
        ring: ring.fingerprint().max(1),
        updated_at_ms: clock::now().wall_ms,
        replication_target: u32::from(epoch.replication),
        replication: epoch.replicas_per_slot() as u32,
        own: index(&plan.node.member),
        members,
        slot_replicas,
    }
}

fn member_view(plan: &Plan, ring: &Ring, member: &Member) -> MemberView {
    // This node's own addresses are those that it listens on now.
    let [client_address, peer_address, admin_address] = plan.config.advertise.clone();
    MemberView {
        id: member.id,
        name: member.name.clone(),
        client_address,
        peer_address,
        admin_address,
        core_addresses: Vec::new(),
        zone: member.zone.clone(),
        weight_percent: member.weight_percent,
        state: MemberState::Normal,
        liveness: Liveness::Alive,
        cores: plan.cores,
        placement: MemberId(member.placement),
        tokens: ring
            .vnodes()
            .iter()
            .filter(|vnode| vnode.member == member.id)
            .map(|vnode| vnode.token)
            .collect(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

impl Transport for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Stream::poll_read(self, cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Stream::poll_write_vectored(self, cx, buffers)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_shutdown(self, cx)
    }
}
