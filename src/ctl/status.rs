//! `status` and `health`: how the cluster says that it is.

use super::args::Global;
use super::console::{Console, Format};
use super::exit::{Exit, Refusal, UNHEALTHY, worse};
use super::text::{show, show_ms};
use crate::client::{Cause, Client, ClientError, Code, RetryPolicy};
use crate::program::quantity::roughly_bytes;
use crate::rpc::proto::v1;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two questions of `health --wait`.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// How long another member may take to say how it is.
const ASK_WITHIN: Duration = Duration::from_secs(1);

pub(super) async fn status(client: &Client, console: &mut Console) -> Result<Exit, Refusal> {
    let mut status = client.status(true).await?;
    ask_the_others(client, &mut status).await?;
    if console.format == Format::Json {
        console.json(&status_json(&status))?;
        return Ok(Exit::OK);
    }
    if console.format == Format::Table {
        let nodes = status.nodes.len() + status.silent.len();
        let health = if status.healthy { console.good("healthy") } else { console.bad("NOT HEALTHY") };
        console.line(&format!("{nodes} {}, {health}\n", if nodes == 1 { "node" } else { "nodes" }))?;
    }
    console.rows(NODE_HEADINGS, &node_rows(&status))?;
    if console.format == Format::Table {
        console.line("")?;
        console.rows(CORE_HEADINGS, &core_rows(&status))?;
        for problem in &status.problems {
            let problem = console.bad(&show(problem.as_bytes()));
            console.line(&format!("\nproblem: {problem}"))?;
        }
    }
    Ok(Exit::OK)
}

/// A node speaks for itself only: the members that it did not answer for are asked, at the addresses that the ring names.
async fn ask_the_others(client: &Client, status: &mut v1::GetStatusResponse) -> Result<(), ClientError> {
    if status.silent.is_empty() {
        return Ok(());
    }
    let ring = client.ring().await?;
    let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    for name in std::mem::take(&mut status.silent) {
        let member = ring.members.iter().find(|member| member.name == name);
        let asked = async {
            let address = member.map(|member| member.client_address.clone())?;
            let builder = Client::builder().endpoints([address]).deadline(ASK_WITHIN).retry(once);
            let client = builder.connect_timeout(ASK_WITHIN).connect().await.ok()?;
            client.status(false).await.ok()
        };
        match asked.await {
            Some(answer) => status.nodes.extend(answer.nodes),
            None => status.silent.push(name),
        }
    }
    status.nodes.sort_by_key(|node| node.id);
    Ok(())
}

/// Asks every endpoint by itself: a client would be content with the first that serves.
pub(super) async fn health(global: &Global, wait: bool, console: &mut Console) -> Result<Exit, Refusal> {
    let end = Instant::now() + global.timeout;
    let mut exit = Exit::OK;
    let mut rows = Vec::new();
    for endpoint in &global.endpoints {
        let answer = loop {
            let left = end.saturating_duration_since(Instant::now());
            let deadline =
                if wait { left.min(Duration::from_secs(1)).max(WAIT_STEP) } else { global.timeout };
            let answer = ask(endpoint, deadline).await;
            let sick = !matches!(answer, Ok(Health::Serving));
            let hopeless = answer.as_ref().is_err_and(|error| error.cause() == Cause::Usage);
            if !wait || !sick || hopeless || left < WAIT_STEP {
                break answer;
            }
            tokio::time::sleep(WAIT_STEP).await;
        };
        let (state, reason, of_this) = judge(answer, wait)?;
        exit = worse(exit, of_this);
        if console.format == Format::Json {
            console
                .json(&json!({ "endpoint": endpoint, "serving": of_this == Exit::OK, "reason": reason }))?;
        }
        rows.push([endpoint.clone(), state.to_owned(), reason]);
    }
    if console.format != Format::Json {
        console.rows(["ENDPOINT", "STATE", "REASON"], &rows)?;
    }
    Ok(exit)
}

/// How an endpoint says that it is.
enum Health {
    Serving,
    /// It answers, but it does not serve yet, or no longer.
    NotServing,
    /// It serves, but some slots of the cluster lack a quorum: its worst problem.
    Degraded(String),
}

async fn ask(endpoint: &str, deadline: Duration) -> Result<Health, ClientError> {
    let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    let client = Client::builder().endpoints([endpoint]).deadline(deadline).retry(once).connect().await?;
    if !client.health().await? {
        return Ok(Health::NotServing);
    }
    match client.status(false).await {
        Ok(status) if !status.healthy => {
            let problem = status.problems.into_iter().next();
            Ok(Health::Degraded(problem.unwrap_or_else(|| "some slots lack a quorum".to_owned())))
        }
        // A proxy, or a node of another version, may serve the health service alone.
        Err(error) if error.cause() != Cause::Status(Code::Unimplemented) => Err(error),
        Ok(_) | Err(_) => Ok(Health::Serving),
    }
}

/// State and reason of one endpoint, and what they mean for the exit code.
fn judge(answer: Result<Health, ClientError>, waited: bool) -> Result<(&'static str, String, Exit), Refusal> {
    match answer {
        Ok(Health::Serving) => Ok(("serving", String::new(), Exit::OK)),
        Ok(Health::NotServing) => {
            Ok(("not serving", "it starts, stops or repairs its data".to_owned(), UNHEALTHY))
        }
        Ok(Health::Degraded(problem)) => Ok(("degraded", show(problem.as_bytes()), UNHEALTHY)),
        Err(error) if error.cause() == Cause::Usage => Err(error.into()),
        Err(error) => {
            let failure = Refusal::from(error);
            // Whoever waited for health and did not get it need not tell the reasons apart.
            Ok(("no answer", failure.what, if waited { UNHEALTHY } else { failure.exit }))
        }
    }
}

const NODE_HEADINGS: [&str; 10] =
    ["NODE", "READY", "CORES", "RECORDS", "TOMBSTONES", "MEMORY", "DISK FREE", "CLOCK", "UPTIME", "BUILD"];

fn node_rows(status: &v1::GetStatusResponse) -> Vec<[String; 10]> {
    let node = |node: &v1::NodeStatus| {
        let ready = match (node.ready, node.read_only) {
            (true, false) => "yes",
            (true, true) => "reads",
            (false, _) => "no",
        };
        [
            show(node.name.as_bytes()),
            ready.to_owned(),
            node.cores.len().to_string(),
            node.records.to_string(),
            node.tombstones.to_string(),
            roughly_bytes(node.memory_bytes),
            roughly_bytes(node.disk_free_bytes),
            format!("{:+}ms", node.clock_offset_ms),
            show_ms(node.uptime_ms),
            show(node.build.as_bytes()),
        ]
    };
    let silent = |name: &String| {
        let mut row = [const { String::new() }; NODE_HEADINGS.len()];
        row[0] = show(name.as_bytes());
        row[1] = "silent".to_owned();
        row
    };
    status.nodes.iter().map(node).chain(status.silent.iter().map(silent)).collect()
}

const CORE_HEADINGS: [&str; 11] =
    ["NODE", "CORE", "CPU", "BUSY", "CONNECTIONS", "OPS/S", "QUEUED", "P50", "P99", "FLUSH P99", "RECORDS"];

fn core_rows(status: &v1::GetStatusResponse) -> Vec<[String; 11]> {
    let of_node = |node: &v1::NodeStatus| {
        let name = show(node.name.as_bytes());
        let row = move |core: &v1::CoreStatus| {
            [
                name.clone(),
                core.core.to_string(),
                core.cpu.to_string(),
                format!("{}.{}%", core.busy_permille / 10, core.busy_permille % 10),
                core.connections.to_string(),
                core.operations_per_second.to_string(),
                core.queued.to_string(),
                format!("{}us", core.p50_us),
                format!("{}us", core.p99_us),
                format!("{}us", core.flush_p99_us),
                core.records.to_string(),
            ]
        };
        node.cores.iter().map(row).collect::<Vec<_>>()
    };
    status.nodes.iter().flat_map(of_node).collect()
}

fn status_json(status: &v1::GetStatusResponse) -> Value {
    json!({
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "silent": status.silent,
        "healthy": status.healthy,
        "problems": status.problems,
    })
}

fn node_json(node: &v1::NodeStatus) -> Value {
    json!({
        "id": node.id,
        "name": node.name,
        "build": node.build,
        "uptime_ms": node.uptime_ms,
        "ready": node.ready,
        "records": node.records,
        "tombstones": node.tombstones,
        "memory_bytes": node.memory_bytes,
        "memory_limit_bytes": node.memory_limit_bytes,
        "disk_free_bytes": node.disk_free_bytes,
        "read_only": node.read_only,
        "clock_offset_ms": node.clock_offset_ms,
        "requests_total": node.requests_total,
        "cores": node.cores.iter().map(core_json).collect::<Vec<_>>(),
        "links": node.links.iter().map(link_json).collect::<Vec<_>>(),
    })
}

fn core_json(core: &v1::CoreStatus) -> Value {
    json!({
        "core": core.core,
        "cpu": core.cpu,
        "busy_permille": core.busy_permille,
        "connections": core.connections,
        "operations_per_second": core.operations_per_second,
        "queued": core.queued,
        "p50_us": core.p50_us,
        "p99_us": core.p99_us,
        "flush_p99_us": core.flush_p99_us,
        "wal_bytes": core.wal_bytes,
        "records": core.records,
    })
}

fn link_json(link: &v1::LinkStatus) -> Value {
    json!({
        "member": link.member,
        "liveness": link.liveness().as_str_name(),
        "suspicion_permille": link.suspicion_permille,
        "round_trip_p99_us": link.round_trip_p99_us,
        "hints": link.hints,
        "hint_bytes": link.hint_bytes,
        "hint_oldest_ms": link.hint_oldest_ms,
        "slots_differing": link.slots_differing,
    })
}
