//! `ringcore.v1.Cluster`: the view and the counters, in its messages.

use super::backend::{Backend, CoreStatus, Liveness, MemberState, MemberView, Phase, View};
use super::call::{Call, Refusal};
use super::proto::v1;
use super::stats::Operation;
use crate::types::token::SLOT_BITS;
use crate::types::{Failure, Reason, SLOTS, Slot, Token};

pub(crate) async fn ring<B: Backend>(
    call: &Call<B>,
    request: v1::GetRingRequest,
) -> Result<v1::GetRingResponse, Refusal> {
    let view = &call.view;
    if request.known_ring == view.ring {
        return Ok(v1::GetRingResponse { ring: view.ring, ..Default::default() });
    }
    let slots = slots_of_members(view);
    let members = view.members.iter().zip(slots);
    Ok(v1::GetRingResponse {
        ring: view.ring,
        cluster_id: view.cluster.0.to_vec(),
        epoch: view.epoch,
        epoch_hash: view.epoch_hash.to_vec(),
        replication_target: view.replication_target,
        replication: view.replication,
        quorum: view.replication / 2 + 1,
        members: members.map(|(member, slots)| wire_member(member, slots, request.include_tokens)).collect(),
        token_hash: "xxh3-64".to_owned(),
        slot_bits: SLOT_BITS,
        slot_replicas: if request.include_slots { slot_table(view) } else { Vec::new() },
        updated_at_ms: view.updated_at_ms as i64,
        movement: None,
    })
}

pub(crate) async fn status<B: Backend>(
    call: &Call<B>,
    request: v1::GetStatusRequest,
) -> Result<v1::GetStatusResponse, Refusal> {
    let view = &call.view;
    let others = view.members.iter().enumerate().filter(|&(index, _)| index != view.own);
    // The others' counters do not travel yet, so they count as members that did not answer.
    let silent: Vec<String> = match request.all_nodes {
        true => others.map(|(_, member)| member.name.clone()).collect(),
        false => Vec::new(),
    };
    let problems = problems(call);
    Ok(v1::GetStatusResponse {
        nodes: vec![own_status(call)],
        silent,
        healthy: view.phase == Phase::Serving && every_slot_has_its_quorum(view),
        problems,
    })
}

pub(crate) async fn locate<B: Backend>(
    call: &Call<B>,
    request: v1::LocateRequest,
) -> Result<v1::LocateResponse, Refusal> {
    if request.key.is_empty() {
        return Err(Failure::not_applied(Reason::KeyEmpty).into());
    }
    let token = Token::of(&request.key);
    let slot = token.slot();
    let place = |member: &MemberView| v1::ReplicaPlace {
        member: member.id.0,
        name: member.name.clone(),
        core: u32::from(slot.core(member.cores).0),
        liveness: wire_liveness(member.liveness) as i32,
        incoming: false,
    };
    Ok(v1::LocateResponse {
        token: token.0,
        slot: u32::from(slot.0),
        replicas: call.view.replicas(slot).map(place).collect(),
        epoch: call.view.epoch,
    })
}

fn own_status<B: Backend>(call: &Call<B>) -> v1::NodeStatus {
    let (view, counters) = (&call.view, call.server.all_counters());
    let status = call.server.backend.status();
    let sum = |of: fn(&CoreStatus) -> u64| status.cores.iter().map(of).sum();
    let requests = counters
        .iter()
        .flat_map(|core| Operation::ALL.map(|operation| core.latencies(operation).count()))
        .sum();
    let cores = status.cores.iter().enumerate().map(|(index, core)| v1::CoreStatus {
        core: index as u32,
        cpu: core.cpu,
        busy_permille: core.busy_permille,
        connections: counters.get(index).map_or(0, |core| core.connections.get()) as u32,
        operations_per_second: core.operations_per_second,
        queued: core.queued,
        p50_us: core.p50_us,
        p99_us: core.p99_us,
        flush_p99_us: core.flush_p99_us,
        wal_bytes: core.wal_bytes,
        records: core.records,
    });
    v1::NodeStatus {
        id: view.own().id.0,
        name: view.own().name.clone(),
        build: view.own().build.clone(),
        uptime_ms: status.uptime_ms,
        ready: view.phase == Phase::Serving,
        records: sum(|core| core.records),
        tombstones: sum(|core| core.tombstones),
        memory_bytes: sum(|core| core.memory_bytes),
        memory_limit_bytes: status.memory_limit_bytes,
        disk_free_bytes: status.disk_free_bytes,
        read_only: status.read_only,
        clock_offset_ms: status.clock_offset_ms,
        requests_total: requests,
        cores: cores.collect(),
        links: Vec::new(),
    }
}

/// What somebody should do something about, worst first.
fn problems<B: Backend>(call: &Call<B>) -> Vec<String> {
    let (view, status) = (&call.view, call.server.backend.status());
    let mut problems = Vec::new();
    match view.phase {
        Phase::Starting => problems.push("the node is starting: it does not serve yet".to_owned()),
        Phase::Stopping => problems.push("the node is stopping".to_owned()),
        Phase::Serving => {}
    }
    for member in view.members.iter().filter(|member| member.liveness == Liveness::Suspect) {
        problems.push(format!("{} does not answer", member.name));
    }
    if status.read_only {
        problems.push("disk or memory is full: writes are refused".to_owned());
    }
    problems
}

fn every_slot_has_its_quorum(view: &View) -> bool {
    let quorum = (view.replication / 2 + 1) as usize;
    (0..SLOTS as u16).all(|slot| {
        view.replicas(Slot(slot)).filter(|member| member.liveness == Liveness::Alive).count() >= quorum
    })
}

/// Slot replicas that each member owns.
fn slots_of_members(view: &View) -> Vec<u32> {
    let mut slots = vec![0; view.members.len()];
    for &member in &view.slot_replicas {
        slots[usize::from(member)] += 1;
    }
    slots
}

fn slot_table(view: &View) -> Vec<u8> {
    view.slot_replicas.iter().flat_map(|member| member.to_le_bytes()).collect()
}

fn wire_member(member: &MemberView, slots: u32, tokens: bool) -> v1::Member {
    let state = match member.state {
        MemberState::Joining => v1::MemberState::Joining,
        MemberState::Normal => v1::MemberState::Normal,
        MemberState::Leaving => v1::MemberState::Leaving,
        MemberState::Removed => v1::MemberState::Removed,
    };
    v1::Member {
        id: member.id.0,
        name: member.name.clone(),
        client_address: member.client_address.clone(),
        peer_address: member.peer_address.clone(),
        admin_address: member.admin_address.clone(),
        core_addresses: member.core_addresses.clone(),
        zone: member.zone.clone(),
        weight_percent: member.weight_percent,
        state: state as i32,
        liveness: wire_liveness(member.liveness) as i32,
        cores: u32::from(member.cores),
        placement_id: member.placement.0,
        tokens: if tokens { member.tokens.iter().map(|token| token.0).collect() } else { Vec::new() },
        build: member.build.clone(),
        slots,
    }
}

fn wire_liveness(liveness: Liveness) -> v1::Liveness {
    match liveness {
        Liveness::Alive => v1::Liveness::Alive,
        Liveness::Suspect => v1::Liveness::Suspect,
        Liveness::Starting => v1::Liveness::Starting,
    }
}
