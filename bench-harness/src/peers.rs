//! A node beside other stores: each started here with its disk flushed before it answers, each asked the same by the same
//! generator, in short rounds by turns.

use crate::load::{Load, Until};
use crate::process::{Kind as Program, Server};
use crate::report::table::{Finding, Outcome, Target};
use crate::rounds::{Rounds, Side};
use crate::target::{Protocol, Target as Asked};
use crate::targets::{Bench, SERVER_CORE, closed, fill};
use crate::workload::mix::{Kind, Mix};
use std::error::Error;
use std::process::Command;
use std::time::Duration;

/// Keys of a batch.
const BATCH: usize = 64;
/// The least keys in flight in batches: a store that waits for its disk per batch must have some to wait for.
const BATCHES_MIN: usize = 16;

/// What a node can be compared with.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// etcd, one member.
    Etcd,
    /// Redis, with `appendfsync always`.
    Redis,
}

impl Peer {
    fn program(self) -> &'static str {
        match self {
            Peer::Etcd => "etcd",
            Peer::Redis => "redis-server",
        }
    }

    /// Debian's package of it.
    fn package(self) -> &'static str {
        match self {
            Peer::Etcd => "etcd-server",
            Peer::Redis => "redis-server",
        }
    }

    fn kind(self) -> Program {
        match self {
            Peer::Etcd => Program::Etcd,
            Peer::Redis => Program::Redis,
        }
    }

    /// What its acknowledgement promises, beside ours.
    fn promise(self) -> &'static str {
        match self {
            Peer::Etcd => {
                "etcd: on its disk, linearizable over all keys, which share one log; batches are atomic"
            }
            Peer::Redis => {
                "Redis: on its disk (appendfsync always: one flush per turn of its loop); pipelines are not atomic"
            }
        }
    }

    /// What `PROGRAM --version` says first, if it is installed.
    fn version(self) -> Option<String> {
        let output = Command::new(self.program()).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
    }
}

/// Compares a node with those of `peers` that are installed; says which are not.
pub(crate) fn run(bench: &Bench, peers: &[Peer]) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let mut there = Vec::new();
    for peer in peers {
        match peer.version() {
            Some(version) => {
                println!("{}: {version}", peer.program());
                there.push(*peer);
            }
            None => println!(
                "{} is not installed: skipped (Debian: apt-get install {})",
                peer.program(),
                peer.package()
            ),
        }
    }
    println!("\nWhat an acknowledgement of a write promises here:");
    println!("  ringcore: on the disk of one replica of one, linearizable per key; batches are not atomic");
    there.iter().for_each(|peer| println!("  {}", peer.promise()));
    println!();
    let node = bench.start_filled(&bench.node("flushed"), SERVER_CORE, "node")?;
    let mut servers = Vec::new();
    for peer in &there {
        let server = bench.start(&peer.kind(), SERVER_CORE, peer.program())?;
        fill(&server, bench.records)?;
        servers.push((*peer, server));
    }
    let mut outcomes = Vec::new();
    for (kind, name, batch) in [
        (Kind::Update, "writes, one key a request", 1),
        (Kind::Read, "reads, one key a request", 1),
        (Kind::Update, "writes, 64 keys a request", BATCH),
        (Kind::Read, "reads, 64 keys a request", BATCH),
    ] {
        let outcome = compare(bench, name, kind, batch, &node, &servers)?;
        crate::report::table::print(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn compare<'a>(
    bench: &Bench,
    name: &'static str,
    kind: Kind,
    batch: usize,
    node: &'a Server,
    servers: &'a [(Peer, Server)],
) -> Result<Outcome, Box<dyn Error>> {
    let until = Until::Time { warm_up: Duration::ZERO, measured: bench.round };
    let in_flight = if batch == 1 { bench.in_flight } else { (bench.in_flight / batch).max(BATCHES_MIN) };
    let load = Load {
        batch,
        cpus: bench.generator_cpus(),
        ..closed(Mix::only(kind), until, in_flight, bench.records)
    };
    // One command on its way per connection, as clients that do not pipeline have it.
    let apart = Load { connections: in_flight, ..load.clone() };
    let side = |name, server: &'a Server, load: &Load| Side {
        name,
        server,
        target: server.target(),
        load: load.clone(),
    };
    let mut sides = vec![side("ringcore", node, &load)];
    if batch == 1 {
        sides.push(Side { target: piped(node.target()), ..side("ringcore, Pipeline", node, &load) });
        sides.push(side("ringcore, a connection each", node, &apart));
    }
    let mut theirs = Vec::new();
    for (peer, server) in servers {
        theirs.push(sides.len());
        sides.push(match (peer, batch) {
            (Peer::Etcd, 1) => side("etcd", server, &load),
            (Peer::Etcd, _) => side("etcd, transactions", server, &load),
            (Peer::Redis, 1) => side("redis, a connection each", server, &apart),
            (Peer::Redis, _) => side("redis, pipelined", server, &load),
        });
        if (*peer, batch) == (Peer::Redis, 1) {
            sides.push(side("redis, pipelined", server, &load));
        }
    }
    let rounds = Rounds::run(&mut sides, bench.rounds)?;
    let mut findings = Vec::new();
    for side in theirs {
        let what = |what: &str| format!("{what}, ringcore / {}", sides[side].name);
        findings.push(Finding::new(what("keys/s"), rounds.throughput(0, side), "", Target::None));
        findings.push(Finding::new(what("CPU per key"), rounds.cpu(0, side), "", Target::None));
    }
    Ok(Outcome { comparison: name, figures: rounds.figures, findings })
}

/// The same, over one stream per connection.
fn piped(target: Asked) -> Asked {
    match target.protocol {
        Protocol::Ringcore(manner) => Asked {
            protocol: Protocol::Ringcore(crate::client::ringcore::Manner { pipeline: true, ..manner }),
            ..target
        },
        Protocol::Etcd | Protocol::Redis => target,
    }
}
