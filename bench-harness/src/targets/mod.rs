//! The comparisons: which servers, under which load, and what their figures should be to each other.

mod latency;

use crate::drive::burst;
use crate::empty::Stack;
use crate::load::{Load, Pace, Until};
use crate::process::{Kind as Program, Server};
use crate::report::table::{Finding, Outcome, Target};
use crate::rounds::{Figures, Rounds, Side, Spread};
use crate::workload::keys::{Chooser, Distribution, KEY_BYTES_MIN, Records, write_key};
use crate::workload::mix::{Kind, Mix};
use crate::workload::values::Sizes;
use ringcore::storage::table::Table;
use ringcore::types::{Body, CoreId, Hlc, MemberId, RecordRef, Token, Version};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections of every load: one alone gives a third of the throughput.
const CONNECTIONS: usize = 4;
/// The server's core where there is one, and the generator's.
pub(crate) const SERVER_CORE: &str = "0-0";
const GENERATOR_CPU: usize = 1;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 100;

/// What can be compared.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    /// A node that flushes beside one that does not: throughput of Puts.
    Durable,
    /// A node beside services that answer at once: CPU time of a Get.
    Get,
    /// A node that flushes beside services that answer at once: CPU time of a Put.
    Put,
    /// A node of two cores, half of whose requests change cores, beside one of one core: CPU time of Get and Put.
    Cores,
    /// A node beside an older program (--before): CPU time of Get and Put.
    Before,
    /// One Put at a time, beside a call that is answered at once and one write to the disk: latency.
    Single,
    /// Puts at half of what a node can take, while it writes a snapshot and while it does not: latency.
    Snapshot,
    /// A node of two cores that is asked nothing: its CPU time.
    Idle,
    /// A start after kill -9: records read a second.
    Recovery,
    /// The table alone: bytes of memory beside key and value.
    Table,
}

/// What every comparison is told.
pub(crate) struct Bench {
    /// The node's program.
    pub(crate) program: PathBuf,
    /// An older one.
    pub(crate) before: Option<PathBuf>,
    /// Where servers keep their data; emptied before each comparison.
    pub(crate) dir: PathBuf,
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Of one side in one round.
    pub(crate) round: Duration,
    /// Calls in flight.
    pub(crate) in_flight: usize,
    /// Keys that are asked for.
    pub(crate) records: u64,
    /// Records of a snapshot, those that are recovered, and those of the table.
    pub(crate) many_records: u64,
    /// How long an idle node is watched.
    pub(crate) idle: Duration,
}

impl Bench {
    /// Runs one comparison.
    pub(crate) fn run(&self, comparison: Comparison) -> io::Result<Outcome> {
        self.clear()?;
        let outcome = match comparison {
            Comparison::Durable => self.durable(),
            Comparison::Get => self.beside_empty("get", Kind::Read, 1.15),
            Comparison::Put => self.beside_empty("put", Kind::Update, 1.30),
            Comparison::Cores => self.cores(),
            Comparison::Before => self.before(),
            Comparison::Single => self.single(),
            Comparison::Snapshot => self.snapshot(),
            Comparison::Idle => self.idle(),
            Comparison::Recovery => self.recovery(),
            Comparison::Table => Ok(self.table()),
        }?;
        self.clear()?;
        Ok(outcome)
    }

    /// Removes what servers have left, also those of a run that was interrupted.
    pub(crate) fn clear(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }

    /// The CPUs of the generator where the server has one of its own.
    pub(crate) fn generator_cpus(&self) -> Vec<usize> {
        vec![GENERATOR_CPU]
    }

    pub(crate) fn node(&self, durability: &'static str) -> Program {
        Program::Node { program: self.program.clone(), durability, log_level: "info" }
    }

    pub(crate) fn start(&self, kind: &Program, cores: &str, name: &str) -> io::Result<Server> {
        Server::start(kind, cores, &self.dir.join(name))
    }

    /// As [`Bench::start`], and every record is there.
    pub(crate) fn start_filled(&self, kind: &Program, cores: &str, name: &str) -> io::Result<Server> {
        let server = self.start(kind, cores, name)?;
        fill(&server, self.records)?;
        Ok(server)
    }

    fn load(&self, kind: Kind, cpu: Option<usize>) -> Load {
        let until = Until::Time { warm_up: Duration::ZERO, measured: self.round };
        let load = closed(Mix::only(kind), until, self.in_flight, self.records);
        Load { cpus: cpu.into_iter().collect(), ..load }
    }

    fn side<'a>(&self, name: &'a str, server: &'a Server, load: &Load) -> Side<'a> {
        Side { name, server, target: server.target(), load: load.clone() }
    }

    fn durable(&self) -> io::Result<Outcome> {
        let flushed = self.start_filled(&self.node("flushed"), SERVER_CORE, "flushed")?;
        let none = self.start_filled(&self.node("none"), SERVER_CORE, "none")?;
        let load = self.load(Kind::Update, Some(GENERATOR_CPU));
        let mut sides = [self.side("Put, flushed", &flushed, &load), self.side("Put, none", &none, &load)];
        let rounds = Rounds::run(&mut sides, self.rounds)?;
        let finding =
            Finding::new("throughput, flushed / none", rounds.throughput(0, 1), "", Target::AtLeast(0.9));
        Ok(Outcome { comparison: "durable", figures: rounds.figures, findings: vec![finding] })
    }

    fn beside_empty(&self, comparison: &'static str, kind: Kind, target: f64) -> io::Result<Outcome> {
        let node = self.start_filled(&self.node("flushed"), SERVER_CORE, "node")?;
        let plain = self.start(&Program::Empty(Stack::Plain), SERVER_CORE, "plain")?;
        let empty = self.start(&Program::Empty(Stack::Node), SERVER_CORE, "empty")?;
        let load = self.load(kind, Some(GENERATOR_CPU));
        let mut sides = [
            self.side("node", &node, &load),
            self.side("tonic and hyper, empty", &plain, &load),
            self.side("node's stack, empty", &empty, &load),
        ];
        let rounds = Rounds::run(&mut sides, self.rounds)?;
        let ratio = |name: &str, index, target| {
            Finding::new(format!("CPU per {kind:?}, node / {name}"), rounds.cpu(0, index), "", target)
        };
        let findings = vec![
            ratio("tonic and hyper, empty", 1, Target::AtMost(target)),
            ratio("node's stack, empty", 2, Target::None),
        ];
        Ok(Outcome { comparison, figures: rounds.figures, findings })
    }

    fn cores(&self) -> io::Result<Outcome> {
        let two = self.start_filled(&self.node("flushed"), "2", "two")?;
        let one = self.start_filled(&self.node("flushed"), SERVER_CORE, "one")?;
        let (mut figures, mut findings) = (Vec::new(), Vec::new());
        for kind in [Kind::Read, Kind::Update] {
            let load = self.load(kind, None);
            let names = [format!("{kind:?}, two cores"), format!("{kind:?}, one core")];
            let mut sides = [self.side(&names[0], &two, &load), self.side(&names[1], &one, &load)];
            let rounds = Rounds::run(&mut sides, self.rounds)?;
            let what = format!("CPU per {kind:?}, two cores / one");
            findings.push(Finding::new(what, rounds.cpu(0, 1), "", Target::AtMost(1.25)));
            figures.extend(rounds.figures);
        }
        Ok(Outcome { comparison: "cores", figures, findings })
    }

    fn before(&self) -> io::Result<Outcome> {
        let program =
            self.before.clone().ok_or_else(|| io::Error::other("--before names the older program"))?;
        let now = self.start_filled(&self.node("flushed"), SERVER_CORE, "now")?;
        let before = self.start_filled(&Program::node(&program), SERVER_CORE, "before")?;
        let (mut figures, mut findings) = (Vec::new(), Vec::new());
        for kind in [Kind::Read, Kind::Update] {
            let load = self.load(kind, Some(GENERATOR_CPU));
            let names = [format!("{kind:?}, now"), format!("{kind:?}, before")];
            let mut sides = [self.side(&names[0], &now, &load), self.side(&names[1], &before, &load)];
            let rounds = Rounds::run(&mut sides, self.rounds)?;
            findings.push(Finding::new(
                format!("CPU per {kind:?}, now / before"),
                rounds.cpu(0, 1),
                "",
                Target::None,
            ));
            findings.push(Finding::new(
                format!("{kind:?}s a second, now / before"),
                rounds.throughput(0, 1),
                "",
                Target::None,
            ));
            figures.extend(rounds.figures);
        }
        Ok(Outcome { comparison: "before", figures, findings })
    }

    fn idle(&self) -> io::Result<Outcome> {
        let node = self.start_filled(&self.node("flushed"), "2", "node")?;
        // What follows a load is not idleness: the last part is written, the log closed.
        std::thread::sleep(Duration::from_secs(2));
        let mut shares = Vec::new();
        for _ in 0..self.rounds {
            let (before, begun) = (node.cpu_time()?, Instant::now());
            std::thread::sleep(self.idle / self.rounds as u32);
            let spent = node.cpu_time()? - before;
            shares.push(spent.as_secs_f64() * 100.0 / begun.elapsed().as_secs_f64());
        }
        let finding = Finding::new(
            "CPU of an idle node of two cores",
            Spread::of(&shares),
            "% of a core",
            Target::AtMost(1.0),
        );
        Ok(Outcome { comparison: "idle", figures: Vec::new(), findings: vec![finding] })
    }

    fn recovery(&self) -> io::Result<Outcome> {
        let mut server = self.start(&self.node("none"), SERVER_CORE, "node")?;
        fill(&server, self.many_records)?;
        let mut findings = Vec::new();
        let (mut rates, mut parts, mut logs) = (Vec::new(), 0, 0);
        for _ in 0..self.rounds {
            server.kill()?;
            server = self.start(&self.node("none"), SERVER_CORE, "node")?;
            let traced = server.traced("recovered")?;
            let number = |key: &str| traced.iter().filter_map(|line| line[key].as_u64()).sum::<u64>();
            (parts, logs) = (number("parts"), number("log"));
            let ms = number("ms").max(1);
            rates.push((parts + logs) as f64 / 1_000.0 / ms as f64);
        }
        let what = format!("records read, {parts} from parts, {logs} from the log");
        findings.push(Finding::new(what, Spread::of(&rates), "M/s per core", Target::AtLeast(1.5)));
        server.stop()?;
        Ok(Outcome { comparison: "recovery", figures: Vec::new(), findings })
    }

    fn table(&self) -> Outcome {
        let mut table = Table::new(1, CoreId(0), 1);
        let value = [b'v'; VALUE_BYTES];
        for number in 0..self.many_records {
            let mut key = Vec::with_capacity(KEY_BYTES_MIN);
            write_key(number, KEY_BYTES_MIN, &mut key);
            let version = Version::new(Hlc(number), MemberId::FIRST);
            let record = RecordRef { key: &key, version, expires_at_ms: 0, body: Body::Value(&value) };
            table.set(Token::of(&key), &record).expect("the table has room");
        }
        let bytes =
            table.memory_bytes() as f64 / self.many_records as f64 - (KEY_BYTES_MIN + VALUE_BYTES) as f64;
        let what = format!("memory beside key and value, {} records", self.many_records);
        let finding = Finding::new(what, Spread::of(&[bytes]), "B/record", Target::AtMost(48.0));
        Outcome { comparison: "table", figures: Vec::new(), findings: vec![finding] }
    }
}

/// A closed loop over records of the usual size, uniformly, from one thread wherever it is put.
pub(crate) fn closed(mix: Mix, until: Until, in_flight: usize, records: u64) -> Load {
    let records = Arc::new(Records::new(records));
    Load {
        pace: Pace::Closed { in_flight },
        until,
        mix,
        chooser: Chooser::new(Distribution::Uniform, Arc::clone(&records)),
        records,
        key_bytes: KEY_BYTES_MIN,
        value_bytes: Sizes::Fixed(VALUE_BYTES),
        batch: 1,
        connections: CONNECTIONS,
        threads: 1,
        cpus: Vec::new(),
        retries: 0,
        named: false,
        seed: 1,
    }
}

/// Writes every record once.
pub(crate) fn fill(server: &Server, records: u64) -> io::Result<()> {
    let load = closed(Mix::only(Kind::Insert), Until::Filled { records }, 512, records);
    burst(&server.target(), &load).map(drop)
}

/// A node under a little of everything, stopped in order and started again: does it work at all, and what does it do?
pub(crate) fn smoke(program: &Path, dir: &Path, seconds: u64) -> io::Result<Vec<Figures>> {
    const RECORDS: u64 = 20_000;
    let kind = Program::node(program);
    let server = Server::start(&kind, "1", dir)?;
    fill(&server, RECORDS)?;
    let until = |measured| Until::Time { warm_up: Duration::ZERO, measured };
    let mut figures = Vec::new();
    for kind in [Kind::Update, Kind::Read] {
        let load = closed(Mix::only(kind), until(Duration::from_millis(seconds * 500)), 64, RECORDS);
        let before = server.cpu_time()?;
        let burst = burst(&server.target(), &load)?;
        let spent = (server.cpu_time()? - before).as_secs_f64();
        figures.push(Figures {
            name: kind.name().to_owned(),
            ops_per_second: burst.operations as f64 / burst.took.as_secs_f64(),
            cpu_us_per_op: spent * 1e6 / burst.operations as f64,
            cores_busy: spent / burst.took.as_secs_f64(),
            p50_us: burst.latencies.value_at_quantile(0.5) / 1_000,
            p99_us: burst.latencies.value_at_quantile(0.99) / 1_000,
        });
    }
    server.stop()?;
    let server = Server::start(&kind, "1", dir)?;
    // Every key that is asked for must be there again.
    let load = closed(Mix::only(Kind::Read), until(Duration::from_millis(200)), 16, RECORDS);
    burst(&server.target(), &load)?;
    server.stop()?;
    fs::remove_dir_all(dir)?;
    Ok(figures)
}
