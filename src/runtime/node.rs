//! A node's life: opens the data directory, starts the cores, listens, serves, and ends in order.

use super::acceptor::{Acceptor, Intake, Listener, Place, Port};
use super::clock;
use super::core::{Letter, NodeShared};
use super::cpus::{Available, CoresWanted, CpuError};
use super::directory::{Claim, ClaimError};
use super::disk::{DirDisk, Flush};
use super::executor::{self, CoreContext, Cpu, StartError};
use super::gauges::gauges;
use super::join::join;
use super::mailbox::{Room, Seat, seats};
use super::padded::Padded;
use super::probe::{ProbeError, probe};
use super::service;
use super::signals::SignalWatch;
use super::watchdog::Watchdog;
use crate::cluster::epoch::EpochError;
use crate::cluster::ring::Ring;
use crate::rpc::backend::Setting;
use crate::rpc::server;
use crate::rpc::stats::Counters;
use crate::storage::block::BLOCK_BYTES;
use crate::storage::data_dir::{self, DataDirError, NodeFile};
use crate::storage::disk::{Disk as _, DiskError};
use crate::storage::join_file;
use crate::storage::open::{OpenError, OpenOptions, begin_layout, layout_bytes, needs_layout};
use crate::storage::segment::LogShape;
use crate::types::{ClusterId, CoreId, Limits, MemberId};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

/// Connections at a time, of all cores, to the admin port.
const ADMIN_CONNECTIONS_MAX: usize = 256;
/// Segments of a core that has little data: the one that is written, a spare, and one that is being made.
const SEGMENTS_AT_LEAST: u64 = 3;
const SEGMENT_BYTES: u64 = LogShape::SEGMENT_BLOCKS as u64 * BLOCK_BYTES as u64;

/// What a start does about the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Founding {
    /// Go on as the member that the directory belongs to.
    Resume,
    /// Found a cluster of one.
    Bootstrap,
    /// Join the cluster of these nodes, by their peer addresses.
    Join(Vec<String>),
}

/// Decides that, given the name of the member that the directory belongs to, if any; None = it is refused.
pub type Decide = Arc<dyn Fn(Option<&str>) -> Option<Founding> + Send + Sync>;

/// What a node is told. Every value has been checked.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Its name, if the directory has none yet.
    pub name: String,
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
    /// What to do about the cluster.
    pub founding: Decide,
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
    /// [`NodeConfig::founding`] refused the directory of this member, or one of none.
    #[error("the data directory {} is not to be used", path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        member: Option<String>,
    },
    /// Another number of cores needs room for a second copy of the data until all of it has been taken over.
    #[error(
        "a start with {cores} cores instead of {before} needs {needed} bytes of disk until the data is taken over, \
         and there are {free}"
    )]
    NoRoom {
        /// Cores asked for.
        cores: u16,
        /// Cores of the last start.
        before: u16,
        /// Bytes to be had at least.
        needed: u64,
        /// Bytes that can be had.
        free: u64,
    },
    /// A member says that this node cannot become one.
    #[error("{peer} does not let this node join: {why}")]
    JoinRefused {
        /// Who.
        peer: String,
        /// Its words.
        why: String,
    },
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
pub(super) struct Share {
    pub(super) seat: Seat<Letter>,
    pub(super) intake: Intake,
}

/// What every core gets.
pub(super) struct Plan {
    pub(super) config: NodeConfig,
    pub(super) claim: Claim,
    pub(super) node: NodeFile,
    /// Of a node that has joined a cluster: the epoch that let it in, encoded.
    pub(super) joined: Option<Vec<u8>>,
    pub(super) seed: u64,
    pub(super) shared: Arc<NodeShared>,
    pub(super) counters: Arc<[Counters]>,
    /// The ring, once core 0 has found it in its log.
    pub(super) ring: OnceLock<Arc<Ring>>,
    /// Cores that have no connection left, that have closed their logs.
    pub(super) drained: AtomicUsize,
    pub(super) closed: AtomicUsize,
    pub(super) cores: u16,
    /// Taken by its core.
    shares: Vec<Mutex<Option<Share>>>,
    /// The first failure of a core.
    failure: Mutex<Option<NodeError>>,
    /// Wakes the thread that waits for the node's end.
    end: mpsc::Sender<()>,
}

impl Plan {
    /// A core's share; once.
    pub(super) fn take_share(&self, core: CoreId) -> Share {
        let mut share = self.shares[usize::from(core.0)].lock().expect("no thread panicked while it held it");
        share.take().expect("each core takes its own")
    }

    /// A core cannot go on: the node ends.
    pub(super) fn fail(&self, error: NodeError) {
        self.failure.lock().expect("no thread panicked while it held it").get_or_insert(error);
        self.end.send(()).ok();
    }
}

/// Runs a node until it is told to stop by a signal.
pub fn run(config: NodeConfig) -> Result<(), NodeError> {
    let cpus = Available::read()?.plan(&config.cores, config.pin)?;
    probe()?;
    let listeners = listen(&config)?;
    let claim = Claim::new(&config.data_dir, config.allow_any_fs)?;
    let (claim, Prepared { node, joined }) = prepare(claim, &config, cpus.len())?;
    let cores = cpus.len();
    let room = Room { messages: (4_096 / cores).max(128), asks: (4_096 / cores).max(128) };
    let (acceptor, intakes) = Acceptor::new(cores);
    let shares = seats(cores, room).into_iter().zip(intakes);
    let mut seed = [0; 8];
    fill_random(&mut seed)?;
    let (end, ended) = mpsc::channel();
    let plan = Arc::new(Plan {
        claim,
        node,
        joined,
        seed: u64::from_le_bytes(seed),
        shared: Arc::new(NodeShared {
            recovered: AtomicUsize::new(0),
            gauges: gauges(cores),
            frames_bytes: (0..cores).map(|_| Padded::default()).collect(),
            started: clock::mono(),
            limits: config.limits.clone(),
            memory_limit: config.memory_limit,
            settings: config.settings.clone(),
        }),
        counters: (0..cores).map(|_| Counters::new()).collect(),
        shares: shares.map(|(seat, intake)| Mutex::new(Some(Share { seat, intake }))).collect(),
        failure: Mutex::new(None),
        ring: OnceLock::new(),
        drained: AtomicUsize::new(0),
        closed: AtomicUsize::new(0),
        cores: cores as u16,
        end,
        config,
    });
    run_cores(&plan, &cpus, acceptor, listeners, &ended)?;
    let failure = plan.failure.lock().expect("no thread panicked while it held it").take();
    failure.map_or(Ok(()), Err)
}

fn run_cores(
    plan: &Arc<Plan>,
    cpus: &[Cpu],
    acceptor: Acceptor,
    listeners: Vec<Listener>,
    ended: &mpsc::Receiver<()>,
) -> Result<(), NodeError> {
    for (gauge, cpu) in plan.shared.gauges.iter().zip(cpus) {
        gauge.cpu.store(cpu.unwrap_or(0) as u64, Relaxed);
    }
    let main = {
        let plan = Arc::clone(plan);
        move |context: CoreContext| service::run(Arc::clone(&plan), context)
    };
    let cores = executor::start(cpus, main)?;
    let end = plan.end.clone();
    let _signals = SignalWatch::start(move |signal| {
        tracing::info!(signal, "stopping");
        end.send(()).ok();
    })?;
    let _watchdog = Watchdog::start(cores.heartbeats().to_vec(), Watchdog::abort)?;
    let accepting = acceptor.start(listeners)?;
    ended.recv().expect("the plan holds a sender");
    // In this order: who is asked to leave comes back at once, and must find a closed door, not a queue behind it.
    drop(accepting);
    cores.stop().request();
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
fn prepare(claim: Claim, config: &NodeConfig, cores: usize) -> Result<(Claim, Prepared), NodeError> {
    let claim = Arc::new(claim);
    let main = {
        let (claim, config) = (Arc::clone(&claim), config.clone());
        move |context: CoreContext| {
            let (claim, config) = (Arc::clone(&claim), config.clone());
            async move {
                let disk = DirDisk::new(&claim, &context.ticker, &context.reactor);
                prepare_directory(&disk, &config, cores as u16, &context).await
            }
        }
    };
    let core = executor::start(&[None], main)?;
    let watchdog = Watchdog::start(core.heartbeats().to_vec(), Watchdog::abort)?;
    let prepared = core.join();
    drop(watchdog);
    let mut prepared = prepared.map_err(|panicked| NodeError::Panicked(panicked.to_string()))?;
    let prepared = prepared.pop().expect("one executor was started")?;
    let claim = Arc::into_inner(claim).expect("the executor that shared it has ended");
    Ok((claim, prepared))
}

/// What a directory says before its logs are read.
struct Prepared {
    node: NodeFile,
    joined: Option<Vec<u8>>,
}

async fn prepare_directory(
    disk: &DirDisk,
    config: &NodeConfig,
    cores: u16,
    context: &CoreContext,
) -> Result<Prepared, NodeError> {
    let found = data_dir::find(disk).await?;
    let member = found.as_ref().map(|node| node.name.as_str());
    let mut node = match ((config.founding)(member), found) {
        (Some(Founding::Resume), Some(node)) => node,
        (Some(Founding::Bootstrap), None) => {
            let mut cluster = ClusterId::default();
            fill_random(&mut cluster.0)?;
            data_dir::create(disk, cluster, MemberId::FIRST, &config.name).await?
        }
        (Some(Founding::Join(peers)), None) => {
            let (cluster, member) = join(disk, config, &peers, context).await?;
            data_dir::create(disk, cluster, member, &config.name).await?
        }
        (None, found) => {
            let member = found.map(|node| node.name);
            return Err(NodeError::Refused { path: config.data_dir.clone(), member });
        }
        (Some(_), _) => unreachable!("a member resumes, and only that"),
    };
    data_dir::sweep(disk, &node).await?;
    let new_layout = needs_layout(disk, &node, cores).await?;
    if new_layout {
        require_room(disk, &node, cores).await?;
    }
    data_dir::count_start(disk, &mut node).await?;
    if new_layout {
        begin_layout(disk, &mut node, cores, &open_options(config, 0)).await?;
    }
    let join = join_file::find(disk).await.map_err(DataDirError::from)?;
    let joined = join.and_then(|join| join.joined).filter(|(member, _)| *member == node.member);
    Ok(Prepared { node, joined: joined.map(|(_, epoch)| epoch) })
}

/// The old files stay until every new core has written all its parts: by then the new ones have grown as large.
async fn require_room(disk: &DirDisk, node: &NodeFile, cores: u16) -> Result<(), NodeError> {
    let Some(active) = node.active() else { return Ok(()) };
    let mut needed = u64::from(cores) * SEGMENTS_AT_LEAST * SEGMENT_BYTES;
    for layout in node.layouts() {
        needed += layout_bytes(disk, layout).await?;
    }
    let free = disk.free_bytes().await?;
    if free < needed {
        return Err(NodeError::NoRoom { cores, before: active.cores, needed, free });
    }
    Ok(())
}

pub(super) fn open_options(config: &NodeConfig, seed: u64) -> OpenOptions {
    OpenOptions {
        seed,
        limits: config.limits.clone(),
        segment_blocks: LogShape::SEGMENT_BLOCKS,
        accept_data_loss: config.accept_data_loss,
    }
}

pub(super) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}
