//! One core's life within a node: it listens, recovers, serves, and ends in order.
//!
//! Connections are taken from the first moment on, so that probes and clients are told that the node is starting. Nothing
//! is read or written before every core has recovered and made its start batch durable.

use super::acceptor::{Arrivals, Port};
use super::clock;
use super::core::{Core, CoreParts};
use super::disk::DirDisk;
use super::executor::{CoreContext, Stop, Task};
use super::links::{Links, LinksParts};
use super::log_writer::LogWriter;
use super::net::Stream;
use super::node::{NodeError, Plan, open_options};
use super::snapshots::Snapshots;
use super::sockets::Sockets;
use super::tick::Ticker;
use crate::admin;
use crate::cluster::control::{Control, ControlConfig};
use crate::cluster::epoch::{self, Epoch, EpochError, Member};
use crate::cluster::ring::Ring;
use crate::node::event::Event;
use crate::node::image::Host;
use crate::node::machine::{Machine, MachineConfig, Plane};
use crate::rpc::backend::{Liveness, MemberState, MemberView, Phase, View};
use crate::rpc::http1::Pages;
use crate::rpc::io::Transport;
use crate::rpc::server::{self, Server};
use crate::rpc::stats::Counters;
use crate::storage::data_dir::{self, DataDirError, NodeFile, core_dir};
use crate::storage::disk::DiskError;
use crate::storage::log::{Log, Ticket};
use crate::storage::log_record::{ControlKind, LogRecord};
use crate::storage::manifest::Manifest;
use crate::storage::open::{Opened, open_core, prepare_segment};
use crate::storage::recovery::Restart;
use crate::storage::segment::{LogShape, SegmentId};
use crate::types::{CoreId, MemberId, Mono, SLOTS, Slot};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// How long requests in progress may take to end once the node is told to stop, milliseconds.
const DRAIN_MS: u64 = 8_000;
/// How long the last frames may then take to leave, and the links of others to end, milliseconds.
const LINKS_END_MS: u64 = 500;

/// Between looks at the other members, and for some while there are none.
const WATCH: Duration = Duration::from_millis(25);
const WATCH_ALONE: Duration = Duration::from_millis(500);

/// Runs one core until the node is told to stop.
pub(super) async fn run(plan: Arc<Plan>, context: CoreContext) {
    let id = context.core;
    let share = plan.take_share(id);
    let layout = *plan.node.active().expect("a layout was begun before the cores started");
    let (outbox, inbox) = share.seat.open(&context.queues.requests).await;
    let arrivals = share.intake.open().await;
    let core = Core::new(CoreParts {
        id,
        cores: plan.cores,
        outbox,
        ticker: context.ticker.clone(),
        queues: context.queues.clone(),
        disk: DirDisk::new(&plan.claim, &context.ticker, &context.reactor),
        dir: core_dir(layout.id, id),
        flush: plan.config.flush,
        shared: Arc::clone(&plan.shared),
        view: starting_view(&plan),
        viewer: {
            let plan = Arc::clone(&plan);
            Box::new(move |ring| view(&plan, ring))
        },
    });
    core.set_links(Links::new(LinksParts {
        backend: core.clone(),
        counters: Arc::clone(&plan.counters),
        sockets: context.sockets.clone(),
        ticker: context.ticker.clone(),
        queue: context.queues.requests.clone(),
        seed: plan.seed ^ u64::from(id.0),
        on_state: {
            let core = core.clone();
            Box::new(move |member, up| {
                if !up && core.id() == CoreId(0) && core.is_installed() {
                    core.step(Event::Unreachable(member));
                }
            })
        },
    }));
    let ticking = core.clone();
    context.ticker.on_tick(move |_| ticking.tick());
    let server = Server::new(core.clone(), server::Settings::default(), Arc::clone(&plan.counters));
    let mut tasks = vec![
        context.queues.requests.spawn(accept(
            core.clone(),
            Rc::clone(&server),
            Arc::clone(&plan.counters),
            context.sockets.clone(),
            arrivals,
        )),
        context.queues.log.spawn(LogWriter::run(core.clone())),
        context.queues.requests.spawn(core.clone().run_mail(inbox)),
        context.queues.requests.spawn(core.clone().run_post()),
    ];
    match recover(&plan, &core, &context.stop).await {
        Ok(Some(manifest)) => {
            tasks.extend(serve(&plan, &core, manifest));
            context.stopped().await;
        }
        Ok(None) => {}
        Err(error) => plan.fail(error),
    }
    end(&plan, &core, &server).await;
    for task in tasks {
        task.cancel().await;
    }
}

/// Reads the core's data, starts its log, and waits for the other cores. Its manifest; None: the node is to end.
async fn recover(plan: &Plan, core: &Core, stop: &Stop) -> Result<Option<Manifest>, NodeError> {
    let begun = clock::mono();
    let _busy = core.ticker().busy();
    let mut opened =
        open_core(core.disk(), &plan.node, core.id(), &open_options(&plan.config, plan.seed)).await?;
    if !opened.restart.segments.iter().any(|(_, first)| first.is_none()) {
        core.disk().hurry();
        add_segment(core.disk(), core.dir(), &opened.shape, &mut opened.restart).await?;
    }
    let founding =
        core.id() == CoreId(0) && !opened.controls.iter().any(|control| epoch_of(control).is_some());
    if core.id() == CoreId(0) {
        let logged = opened.controls.iter().rev().find_map(|control| epoch_of(control));
        let joined = || plan.joined.as_deref().map(Epoch::decode);
        let epoch = logged.or_else(joined).unwrap_or_else(|| Ok(founding_epoch(plan)))?;
        assert!(plan.ring.set(Arc::new(Ring::new(epoch))).is_ok(), "core 0 alone finds the ring");
    }
    if !all(core.ticker(), stop, || plan.ring.get().is_some()).await {
        return Ok(None);
    }
    let ring = plan.ring.get().expect("it was just looked at");
    let acceptor = opened.controls.iter().rev().find_map(|control| acceptor_of(control));
    let Opened { manifest, report, .. } = install(plan, core, Arc::clone(ring), opened);
    if core.id() == CoreId(0) {
        host(plan, core, Arc::clone(ring), acceptor.as_deref())?;
    }
    let mut awaited = Ticket::START;
    if founding {
        awaited = core.with_machine(Machine::log_epoch);
    }
    core.log().ring();
    core.durable(awaited).await?;
    let ms = clock::mono().since(begun) / 1_000_000;
    tracing::info!(
        core = core.id().0,
        parts = report.part_records,
        log = report.log_records,
        ms,
        "recovered"
    );
    for damage in &report.damage {
        tracing::warn!(core = core.id().0, %damage, "damage accepted");
    }
    plan.shared.recovered.fetch_add(1, Ordering::AcqRel);
    let ready = all(core.ticker(), stop, || is_reached(&plan.shared.recovered, plan.cores)).await;
    Ok(ready.then_some(manifest))
}

/// Puts the machine together and into its core; what is left of what was opened.
fn install(plan: &Plan, core: &Core, ring: Arc<Ring>, mut opened: Opened) -> Opened {
    let limits = plan.config.limits.clone();
    let log = Log::start(opened.shape, limits.gathering_bytes_max, &opened.restart);
    let shard = opened.take_shard();
    let config = MachineConfig {
        member: plan.node.member,
        core: core.id(),
        cores: plan.cores,
        limits,
        memory_limit: plan.config.memory_limit as usize / usize::from(plan.cores),
        hlc_bound: opened.hlc_bound,
    };
    core.log().set_shape(opened.shape);
    let view = view(plan, &ring);
    core.set_ring(plan.node.member, &ring);
    core.install(Machine::new(config, ring, shard, log, clock::now()), view);
    opened
}

/// Core 0 speaks for the node: it takes part in deciding epochs, and watches who lives.
fn host(plan: &Plan, core: &Core, ring: Arc<Ring>, acceptor: Option<&[u8]>) -> Result<(), NodeError> {
    let (member, starts, seed) = (plan.node.member, u64::from(plan.node.starts), plan.seed);
    let config = ControlConfig { member, cores: plan.cores, starts, seed };
    let now = clock::now();
    let control = Control::recover(config, ring, acceptor, now.mono)?;
    let plane = Plane::new(control, member, starts, seed.rotate_left(32));
    core.with_machine(|machine| machine.host(now, plane));
    Ok(())
}

/// Waits for something that other cores do; false if the node is to end before.
async fn all(ticker: &Ticker, stop: &Stop, done: impl Fn() -> bool) -> bool {
    while !done() {
        if stop.is_requested() {
            return false;
        }
        ticker.next_tick().await;
    }
    true
}

fn is_reached(count: &AtomicUsize, cores: u16) -> bool {
    count.load(Ordering::Acquire) >= usize::from(cores)
}

/// Lets requests in; the tasks of a serving core.
fn serve(plan: &Plan, core: &Core, manifest: Manifest) -> Vec<Task<()>> {
    let has_sources = !plan.node.sources().is_empty();
    let queue = &core.queues().background;
    let mut tasks = vec![queue.spawn(Snapshots::new(core.clone(), manifest, has_sources).run())];
    if core.id() == CoreId(0) {
        let (name, cluster, listen) = (&plan.node.name, plan.node.cluster, plan.config.listen);
        tracing::info!(name, %cluster, %listen, "serving");
        tasks.push(queue.spawn(drop_sources(core.clone(), plan.node.clone())));
        tasks.push(core.queues().requests.spawn(watch(core.clone())));
    }
    core.enter(Phase::Serving);
    tasks
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
    restart.next_segment = SegmentId(segment.0 + 1);
    Ok(())
}

fn epoch_of(control: &[u8]) -> Option<Result<Epoch, EpochError>> {
    match LogRecord::decode(control) {
        Ok((LogRecord::Control { kind: ControlKind::Epoch, bytes }, _)) => Some(Epoch::decode(bytes)),
        Ok(_) | Err(_) => None,
    }
}

fn acceptor_of(control: &[u8]) -> Option<Vec<u8>> {
    match LogRecord::decode(control) {
        Ok((LogRecord::Control { kind: ControlKind::Acceptor, bytes }, _)) => Some(bytes.to_vec()),
        Ok(_) | Err(_) => None,
    }
}

/// The first epoch of a cluster: a function of what NODE says, so every core computes the same.
fn founding_epoch(plan: &Plan) -> Epoch {
    let [client_address, peer_address, admin_address] = plan.config.advertise.clone();
    let first = Member {
        zone: plan.config.zone.clone(),
        client_address,
        peer_address,
        admin_address,
        ..Member::new(plan.node.member, plan.node.name.clone())
    };
    Epoch::bootstrap(plan.node.cluster, plan.config.replication, first)
}

/// Serves the connections that this core is given, until the acceptor ends.
async fn accept(
    core: Core,
    server: Rc<Server<Core>>,
    counters: Arc<[Counters]>,
    sockets: Sockets,
    mut arrivals: Arrivals,
) {
    let pages = Pages::new(core.clone());
    while let Some(arrival) = arrivals.next().await {
        let port = arrival.port;
        match arrival.into_stream(&sockets) {
            Ok(stream) => serve_connection(&core, &server, &pages, &counters, port, stream),
            Err(error) => tracing::warn!(%error, "a connection cannot be taken over"),
        }
    }
}

fn serve_connection(
    core: &Core,
    server: &Rc<Server<Core>>,
    pages: &Rc<Pages<Core>>,
    counters: &Arc<[Counters]>,
    port: Port,
    stream: Stream,
) {
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

/// Lets core 0 watch the other members, at a pace of its own: an idle core's tick is too slow for that, and a busy one's
/// would cost an idle node more than all else.
async fn watch(core: Core) {
    loop {
        let watches = core.with_machine(|machine| machine.is_watching());
        core.ticker().sleep(if watches { WATCH } else { WATCH_ALONE }).await;
        if watches {
            core.step(Event::Watch);
        }
    }
}

/// Drops the layouts that the last one replaces, once every core has written all its parts.
async fn drop_sources(core: Core, mut node: NodeFile) {
    while !node.sources().is_empty() {
        core.ticker().sleep(Duration::from_millis(250)).await;
        if !core.are_parts_complete() {
            continue;
        }
        match data_dir::retire_layouts(core.disk(), &mut node).await {
            Err(DataDirError::PartMissing { .. }) => {}
            Ok(()) => {
                tracing::info!("data of another number of cores dropped: all of it is in the new parts")
            }
            Err(error) => core.halt(&error.to_string()),
        }
    }
}

/// Finishes what is in flight and closes the log.
async fn end(plan: &Plan, core: &Core, server: &Rc<Server<Core>>) {
    let _busy = core.ticker().busy();
    let deadline = clock::mono().after_ms(DRAIN_MS);
    server.stop();
    if !server.drained(deadline).await {
        tracing::warn!(core = core.id().0, "connections were still open after {DRAIN_MS} ms");
    }
    // A call in progress on another core may still need keys of this one.
    all_counted(&plan.drained, plan.cores, core.ticker(), deadline).await;
    core.enter(Phase::Stopping);
    if core.is_installed() {
        core.step(Event::Stop);
        while !core.with_machine(|machine| machine.is_closed()) && clock::mono() < deadline {
            core.ticker().next_tick().await;
        }
    }
    // What this core's mail tasks still owe the others leaves while those close.
    all_counted(&plan.closed, plan.cores, core.ticker(), deadline).await;
    // Links last: what was in flight needed answers from others, and others need the answers of this node.
    let deadline = clock::mono().after_ms(LINKS_END_MS);
    server.end_links();
    core.links().end(deadline).await;
    server.drained(deadline).await;
}

/// Counts this core, and waits for all others or the deadline.
async fn all_counted(count: &AtomicUsize, cores: u16, ticker: &Ticker, deadline: Mono) {
    count.fetch_add(1, Ordering::AcqRel);
    while !is_reached(count, cores) && clock::mono() < deadline {
        ticker.next_tick().await;
    }
}

/// Before the ring is known: this node alone, starting.
fn starting_view(plan: &Plan) -> View {
    let own = founding_epoch(plan);
    let ring = Ring::new(own);
    View { epoch: 0, replication: 0, slot_replicas: Vec::new(), ..view(plan, &ring) }
}

fn view(plan: &Plan, ring: &Ring) -> View {
    let epoch = ring.epoch();
    let members: Vec<MemberView> =
        epoch.members.iter().map(|member| member_view(plan, ring, member)).collect();
    let index =
        |id: &MemberId| members.iter().position(|member| member.id == *id).expect("replicas are members");
    // While slots move to a greater N some have more replicas than others: those that all have, in preference order.
    let replication = epoch.slots.distinct().map(|slot| slot.base.len()).min().unwrap_or(0);
    let slots = (0..SLOTS as u16).map(Slot);
    let slot_replicas =
        slots.flat_map(|slot| ring.replicas(slot)[..replication].iter().map(|id| index(id) as u16)).collect();
    let hash = ring.hash();
    View {
        phase: Phase::Starting,
        cluster: epoch.cluster,
        epoch: epoch.number,
        epoch_hash: *hash.first_chunk().expect("a hash of 16 bytes has 8"),
        ring: ring.fingerprint().max(1),
        updated_at_ms: clock::now().wall_ms,
        replication_target: u32::from(epoch.replication),
        replication: replication as u32,
        // A node that was removed sees the cluster from outside.
        own: members.iter().position(|member| member.id == plan.node.member).unwrap_or(0),
        members,
        slot_replicas,
    }
}

fn member_view(plan: &Plan, ring: &Ring, member: &Member) -> MemberView {
    let is_own = member.id == plan.node.member;
    // This node's own addresses are those that it listens on now.
    let [client_address, peer_address, admin_address] = match is_own {
        true => plan.config.advertise.clone(),
        false => [&member.client_address, &member.peer_address, &member.admin_address].map(Clone::clone),
    };
    MemberView {
        id: member.id,
        name: member.name.clone(),
        client_address,
        peer_address,
        admin_address,
        core_addresses: Vec::new(),
        zone: member.zone.clone(),
        weight_percent: member.weight_percent,
        state: match member.state {
            epoch::MemberState::Joining => MemberState::Joining,
            epoch::MemberState::Normal => MemberState::Normal,
        },
        liveness: Liveness::Alive,
        // What others have is not known before they say so.
        cores: if is_own { plan.cores } else { 0 },
        placement: MemberId(member.placement),
        tokens: ring
            .vnodes()
            .iter()
            .filter(|vnode| vnode.member == member.id)
            .map(|vnode| vnode.token)
            .collect(),
        build: if is_own { env!("CARGO_PKG_VERSION").to_owned() } else { String::new() },
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

    fn remote(&self) -> Option<SocketAddr> {
        Stream::remote(self).ok()
    }
}
