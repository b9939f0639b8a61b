//! The comparisons: which servers, under which load, and what their figures should be to each other.

use crate::empty::Stack;
use crate::load::{Client, KEY_BYTES, Load, Until, VALUE_BYTES};
use crate::report::table::{Finding, Outcome, Target};
use crate::rounds::{Figures, Rounds, Side, Spread};
use crate::server::{Kind, Server};
use crate::wire::Method;
use ringcore::storage::table::Table;
use ringcore::types::{Body, CoreId, Hlc, MemberId, RecordRef, Token, Version};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections of every load: one alone gives a third of the throughput.
const CONNECTIONS: usize = 4;
/// The server's core where there is one, and the client's.
const SERVER_CORE: &str = "0-0";
const CLIENT_CPU: usize = 1;

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
    /// Records that are recovered, and those of the table.
    pub(crate) many_records: u64,
    /// How long an idle node is watched.
    pub(crate) idle: Duration,
}

impl Bench {
    /// Runs one comparison.
    pub(crate) fn run(&self, comparison: Comparison) -> io::Result<Outcome> {
        // Of an earlier comparison, or of a run that was interrupted.
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let outcome = match comparison {
            Comparison::Durable => self.durable(),
            Comparison::Get => self.beside_empty("get", Method::Get, 1.25),
            Comparison::Put => self.beside_empty("put", Method::Put, 1.40),
            Comparison::Cores => self.cores(),
            Comparison::Before => self.before(),
            Comparison::Idle => self.idle(),
            Comparison::Recovery => self.recovery(),
            Comparison::Table => Ok(self.table()),
        }?;
        fs::remove_dir_all(&self.dir).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(outcome)
    }

    fn node(&self, durability: &'static str) -> Kind {
        Kind::Node { program: self.program.clone(), durability }
    }

    fn start(&self, kind: &Kind, cores: &str, name: &str) -> io::Result<Server> {
        Server::start(kind, cores, &self.dir.join(name))
    }

    /// As [`Bench::start`], and every record is there.
    fn start_filled(&self, kind: &Kind, cores: &str, name: &str) -> io::Result<Server> {
        let server = self.start(kind, cores, name)?;
        fill(&server, self.records)?;
        Ok(server)
    }

    fn load(&self, method: Method, cpu: Option<usize>) -> Load {
        let (in_flight, records, until) = (self.in_flight, self.records, Until::Time(self.round));
        Load { method, in_flight, records, until, cpu }
    }

    fn side<'a>(&self, name: &'a str, server: &'a Server, load: Load) -> io::Result<Side<'a>> {
        let client = Client::open(server.address, load.method, CONNECTIONS)?;
        Ok(Side { name, server, client, load })
    }

    fn durable(&self) -> io::Result<Outcome> {
        let flushed = self.start_filled(&self.node("flushed"), SERVER_CORE, "flushed")?;
        let none = self.start_filled(&self.node("none"), SERVER_CORE, "none")?;
        let load = self.load(Method::Put, Some(CLIENT_CPU));
        let mut sides = [self.side("Put, flushed", &flushed, load)?, self.side("Put, none", &none, load)?];
        let rounds = Rounds::run(&mut sides, self.rounds)?;
        let finding =
            Finding::new("throughput, flushed / none", rounds.throughput(0, 1), "", Target::AtLeast(0.9));
        Ok(Outcome { comparison: "durable", figures: rounds.figures, findings: vec![finding] })
    }

    fn beside_empty(&self, comparison: &'static str, method: Method, target: f64) -> io::Result<Outcome> {
        let node = self.start_filled(&self.node("flushed"), SERVER_CORE, "node")?;
        let plain = self.start(&Kind::Empty(Stack::Plain), SERVER_CORE, "plain")?;
        let empty = self.start(&Kind::Empty(Stack::Node), SERVER_CORE, "empty")?;
        let load = self.load(method, Some(CLIENT_CPU));
        let mut sides = [
            self.side("node", &node, load)?,
            self.side("tonic and hyper, empty", &plain, load)?,
            self.side("node's stack, empty", &empty, load)?,
        ];
        let rounds = Rounds::run(&mut sides, self.rounds)?;
        let ratio = |name: &str, index, target| {
            Finding::new(format!("CPU per {method:?}, node / {name}"), rounds.cpu(0, index), "", target)
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
        for method in [Method::Get, Method::Put] {
            let load = self.load(method, None);
            let names = [format!("{method:?}, two cores"), format!("{method:?}, one core")];
            let mut sides = [self.side(&names[0], &two, load)?, self.side(&names[1], &one, load)?];
            let rounds = Rounds::run(&mut sides, self.rounds)?;
            let what = format!("CPU per {method:?}, two cores / one");
            findings.push(Finding::new(what, rounds.cpu(0, 1), "", Target::AtMost(1.25)));
            figures.extend(rounds.figures);
        }
        Ok(Outcome { comparison: "cores", figures, findings })
    }

    fn before(&self) -> io::Result<Outcome> {
        let program =
            self.before.clone().ok_or_else(|| io::Error::other("--before names the older program"))?;
        let now = self.start_filled(&self.node("flushed"), SERVER_CORE, "now")?;
        let before =
            self.start_filled(&Kind::Node { program, durability: "flushed" }, SERVER_CORE, "before")?;
        let (mut figures, mut findings) = (Vec::new(), Vec::new());
        for method in [Method::Get, Method::Put] {
            let load = self.load(method, Some(CLIENT_CPU));
            let names = [format!("{method:?}, now"), format!("{method:?}, before")];
            let mut sides = [self.side(&names[0], &now, load)?, self.side(&names[1], &before, load)?];
            let rounds = Rounds::run(&mut sides, self.rounds)?;
            findings.push(Finding::new(
                format!("CPU per {method:?}, now / before"),
                rounds.cpu(0, 1),
                "",
                Target::None,
            ));
            findings.push(Finding::new(
                format!("{method:?}s a second, now / before"),
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
        findings.push(Finding::new(what, Spread::of(&rates), "M/s per core", Target::AtLeast(1.0)));
        server.stop()?;
        Ok(Outcome { comparison: "recovery", figures: Vec::new(), findings })
    }

    fn table(&self) -> Outcome {
        let mut table = Table::new(1, CoreId(0), 1);
        let value = [b'v'; VALUE_BYTES];
        for number in 0..self.many_records {
            let key = crate::load::key(number);
            let version = Version::new(Hlc(number), MemberId::FIRST);
            let record = RecordRef { key: &key, version, expires_at_ms: 0, body: Body::Value(&value) };
            table.set(Token::of(&key), &record).expect("the table has room");
        }
        let bytes = table.memory_bytes() as f64 / self.many_records as f64 - (KEY_BYTES + VALUE_BYTES) as f64;
        let what = format!("memory beside key and value, {} records", self.many_records);
        let finding = Finding::new(what, Spread::of(&[bytes]), "B/record", Target::AtMost(48.0));
        Outcome { comparison: "table", figures: Vec::new(), findings: vec![finding] }
    }
}

/// Writes every record once.
fn fill(server: &Server, records: u64) -> io::Result<()> {
    let mut client = Client::open(server.address, Method::Put, CONNECTIONS)?;
    let load = Load { method: Method::Put, in_flight: 512, records, until: Until::Filled, cpu: None };
    client.run(&load).map(drop)
}

/// A node under a little of everything, stopped in order and started again: does it work at all, and what does it do?
pub(crate) fn smoke(program: &Path, dir: &Path, seconds: u64) -> io::Result<Vec<Figures>> {
    let kind = Kind::Node { program: program.to_owned(), durability: "flushed" };
    let records = 20_000;
    let server = Server::start(&kind, "1", dir)?;
    fill(&server, records)?;
    let until = Until::Time(Duration::from_millis(seconds * 1_000 / 2));
    let mut figures = Vec::new();
    for method in [Method::Put, Method::Get] {
        let load = Load { method, in_flight: 64, records, until, cpu: None };
        let before = server.cpu_time()?;
        let seen = Client::open(server.address, method, CONNECTIONS)?.run(&load)?;
        let spent = (server.cpu_time()? - before).as_secs_f64();
        figures.push(Figures {
            name: format!("{method:?}"),
            ops_per_second: seen.calls as f64 / seen.took.as_secs_f64(),
            cpu_us_per_op: spent * 1e6 / seen.calls as f64,
            cores_busy: spent / seen.took.as_secs_f64(),
            p50_us: seen.latencies.value_at_quantile(0.5),
            p99_us: seen.latencies.value_at_quantile(0.99),
        });
    }
    server.stop()?;
    let server = Server::start(&kind, "1", dir)?;
    // Every key that is asked for must be there again.
    let until = Until::Time(Duration::from_millis(200));
    let load = Load { method: Method::Get, in_flight: 16, records, until, cpu: None };
    Client::open(server.address, Method::Get, CONNECTIONS)?.run(&load)?;
    server.stop()?;
    fs::remove_dir_all(dir)?;
    Ok(figures)
}
