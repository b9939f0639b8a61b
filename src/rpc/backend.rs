//! What the gRPC layer needs of the node that it runs on, and what it is shown of it. Names no wire format: the owner of
//! a [`Backend`] need not know gRPC, and a test can be one.

use super::peer::{Frame, Hello, Welcome};
use crate::types::request::{Reply, Request};
use crate::types::{ClusterId, CoreId, Failure, Limits, MemberId, Mono, Now, Slot, Token};
use std::future::Future;
use std::rc::Rc;

/// One core's way into the node. A handle: cloned per connection and per call, so cloning must be as cheap as an `Rc`.
pub trait Backend: Clone + 'static {
    /// Waits for the answer to a request that is already on its way. Dropping it gives up the answer, not the request.
    type Reply: Future<Output = Reply> + 'static;
    /// Completes at its time, at most one tick late. May be polled often and dropped early, both in O(1).
    type Sleep: Future<Output = ()> + 'static;

    /// Sends a request to the core that owns its key. It is under way when this returns. Answers, with a failure if need
    /// be, at the latest one tick after the request's deadline.
    fn submit(&self, request: Request) -> Self::Reply;

    /// A request for this key is about to be sent. Completes when that is cheapest: once the memory that it will read
    /// has been asked for, together with that of all others that are expected, so that their waits overlap.
    fn expect(&self, key: &[u8], write: bool) -> impl Future<Output = ()> {
        let _ = (key, write);
        std::future::ready(())
    }

    /// As [`Backend::expect`], for requests that are sent at once.
    fn expect_all<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, write: bool) {
        let _ = (keys, write);
    }

    /// Sends a request that concerns a core rather than a key. As [`Backend::submit`].
    fn submit_to(&self, core: CoreId, request: Request) -> Self::Reply;

    /// The core that this handle belongs to.
    fn core(&self) -> CoreId;

    /// How many cores the node has.
    fn cores(&self) -> u16;

    /// Both clocks; may be as old as the reactor pass.
    fn now(&self) -> Now;

    /// The monotonic clock alone, for who needs no other.
    fn mono(&self) -> Mono {
        self.now().mono
    }

    /// The monotonic clock at the core's last tick: free, and as old as an idle tick is long, a second at most.
    fn last_tick(&self) -> Mono {
        self.mono()
    }

    /// Completes at `at`.
    fn sleep_until(&self, at: Mono) -> Self::Sleep;

    /// Runs a task on this core; it ends with its future, or with the core.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Another node wants to talk to this one. A refusal has changed nothing.
    fn peer_hello(&self, hello: Hello) -> Result<Welcome, Failure>;

    /// A member says something, to be handed to the core that it concerns. It comes back if that core's mailbox is full:
    /// to be offered again later, before anything else from the same link.
    #[allow(clippy::result_large_err, reason = "it comes back as it was given, and rarely")]
    fn peer_frame(&self, from: MemberId, frame: Frame) -> Result<(), Frame>;

    /// The limits in force.
    fn limits(&self) -> &Limits;

    /// The cluster as this core sees it now. Replaced, never changed.
    fn view(&self) -> Rc<View>;

    /// The counters of all cores.
    fn status(&self) -> NodeStatus;

    /// The configuration in force; secrets blanked.
    fn settings(&self) -> Vec<Setting>;
}

/// Does the node serve?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It recovers, joins or repairs: requests are answered STARTING.
    Starting,
    /// It takes part in quorums.
    Serving,
    /// It finishes what is in flight: requests are answered STOPPING.
    Stopping,
}

/// The cluster at one moment, as the answering node sees it.
#[derive(Clone, Debug)]
pub struct View {
    /// Does this node serve?
    pub phase: Phase,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Number of the epoch in force, from 1.
    pub epoch: u64,
    /// Chains to the epoch before.
    pub epoch_hash: [u8; 8],
    /// Fingerprint of ring and liveness; never 0. Clients that see it change fetch the ring.
    pub ring: u32,
    /// When epoch or liveness last changed, milliseconds since 1970.
    pub updated_at_ms: u64,
    /// The replicas wanted of each slot.
    pub replication_target: u32,
    /// The replicas that each slot has.
    pub replication: u32,
    /// Index into `members` of this node.
    pub own: usize,
    /// Every member of the epoch; before this node is in one, itself alone.
    pub members: Vec<MemberView>,
    /// `replication` indexes into `members` for each slot, in preference order; empty while `replication` is 0.
    pub slot_replicas: Vec<u16>,
}

impl View {
    /// This node.
    pub fn own(&self) -> &MemberView {
        &self.members[self.own]
    }

    /// With the fingerprint of what it now says of ring and liveness.
    pub fn with_fingerprint(mut self) -> View {
        let mut print = u32::from_le_bytes([
            self.epoch_hash[0],
            self.epoch_hash[1],
            self.epoch_hash[2],
            self.epoch_hash[3],
        ]);
        for member in self.members.iter().filter(|member| member.liveness != Liveness::Alive) {
            print = print.rotate_left(5) ^ member.id.0.wrapping_mul(0x9E37_79B9);
        }
        self.ring = print.max(1);
        self
    }

    /// The replicas of a slot, in preference order.
    pub fn replicas(&self, slot: Slot) -> impl Iterator<Item = &MemberView> {
        let (n, slot) = (self.replication as usize, usize::from(slot.0));
        self.slot_replicas[slot * n..(slot + 1) * n].iter().map(|&index| &self.members[usize::from(index)])
    }
}

/// What a decided epoch says of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Its slots are moving in.
    Joining,
    /// It owns its slots.
    Normal,
    /// Its slots are moving out.
    Leaving,
    /// Fenced for ever.
    Removed,
}

/// The answering node's opinion of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It does not.
    Suspect,
    /// It answers and does not vote yet.
    Starting,
}

/// One member.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Issued at its join.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// host:port for clients.
    pub client_address: String,
    /// host:port for peers.
    pub peer_address: String,
    /// host:port of the admin port; empty = off.
    pub admin_address: String,
    /// One per core, in core order; empty = only `client_address`.
    pub core_addresses: Vec<String>,
    /// Its zone; may be empty.
    pub zone: String,
    /// 100 = 256 vnodes.
    pub weight_percent: u32,
    /// Decided.
    pub state: MemberState,
    /// Believed.
    pub liveness: Liveness,
    /// Its cores.
    pub cores: u16,
    /// What its tokens are computed from.
    pub placement: MemberId,
    /// Its vnodes, ascending.
    pub tokens: Vec<Token>,
    /// Version of its program.
    pub build: String,
}

/// A configuration value and where it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Its name in the configuration file.
    pub key: String,
    /// In the file's syntax.
    pub value: String,
    /// "default", "file:LINE", "environment" or "flag".
    pub origin: String,
}

/// What a node counts, summed or listed by core.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeStatus {
    /// Since the process started.
    pub uptime_ms: u64,
    /// The memory limit of all tables, bytes.
    pub memory_limit_bytes: u64,
    /// Free on the data directory's file system.
    pub disk_free_bytes: u64,
    /// Clients' writes are refused because disk or memory is full.
    pub read_only: bool,
    /// Against the median of the members.
    pub clock_offset_ms: i64,
    /// Diagnostics lines dropped because nobody read them fast enough.
    pub trace_dropped: u64,
    /// In core order.
    pub cores: Vec<CoreStatus>,
}

/// What one core counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CoreStatus {
    /// The CPU that it is pinned to.
    pub cpu: u32,
    /// Share of the last 10 s that it was busy.
    pub busy_permille: u32,
    /// Over the last 10 s.
    pub operations_per_second: u64,
    /// Operations that wait.
    pub queued: u32,
    /// Median of the operations it coordinated in the last 10 s.
    pub p50_us: u32,
    /// Their 99th percentile.
    pub p99_us: u32,
    /// 99th percentile of its log flushes.
    pub flush_p99_us: u32,
    /// Log flushes since the start.
    pub flushes: u64,
    /// Bytes written to the log since the start.
    pub wal_written_bytes: u64,
    /// Bytes to replay at a restart.
    pub wal_bytes: u64,
    /// Live, expired and dead.
    pub records: u64,
    /// Dead.
    pub tombstones: u64,
    /// Bytes of its table.
    pub memory_bytes: u64,
    /// Requests that it handed to another core.
    pub hops: u64,
    /// The latest tick's lateness.
    pub tick_late_us: u64,
}
