//! A node beside other stores: each started here with its disk flushed before it answers, each asked the same by the same
//! generator, in short rounds by turns.

use crate::generator::{Load, Until};
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

    /// What it calls a batch.
    fn batch(self) -> &'static str {
        match self {
            Peer::Etcd => "transactions",
            Peer::Redis => "pipelined",
        }
    }

    /// What its acknowledgement promises, beside ours.
    fn promise(self) -> &'static str {
        match self {
            Peer::Etcd => {
                "etcd: on its disk and in the order of one log for all keys (linearizable over all keys, revisions, \
                 transactions are atomic); a read asks for nothing from the disk"
            }
            Peer::Redis => {
                "Redis: in the append-only file, flushed once per turn of its loop (appendfsync always); one thread; \
                 commands in order, pipelines not atomic"
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
    println!("\nWhat an acknowledgement of a write promises here");
    println!(
        "  ringcore: on the disk of one of one replicas (fdatasync or O_DSYNC), linearizable per key; batches are"
    );
    println!("  not atomic");
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

fn compare(
    bench: &Bench,
    name: &'static str,
    kind: Kind,
    batch: usize,
    node: &Server,
    servers: &[(Peer, Server)],
) -> Result<Outcome, Box<dyn Error>> {
    let until = Until::Time { warm_up: Duration::ZERO, measured: bench.round };
    let in_flight = if batch == 1 { bench.in_flight } else { (bench.in_flight / batch).max(BATCHES_MIN) };
    let load = Load {
        batch,
        cpus: bench.generator_cpus(),
        ..closed(Mix::only(kind), until, in_flight, bench.records)
    };
    let mut names = vec!["ringcore".to_owned()];
    if batch == 1 {
        names.push("ringcore, Pipeline".to_owned());
    }
    let ours = names.len();
    for (peer, _) in servers {
        let way = if batch == 1 { String::new() } else { format!(", {}", peer.batch()) };
        names.push(format!("{}{way}", peer.program()));
    }
    let mut sides: Vec<Side<'_>> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let server = if index < ours { node } else { &servers[index - ours].1 };
        let mut target = server.target();
        if index == 1 && ours == 2 {
            target = piped(target);
        }
        sides.push(Side { name, server, target, load: load.clone() });
    }
    let rounds = Rounds::run(&mut sides, bench.rounds)?;
    let mut findings = Vec::new();
    for (index, (peer, _)) in servers.iter().enumerate() {
        let what = |what: &str| format!("{what}, ringcore / {}", peer.program());
        let side = ours + index;
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
