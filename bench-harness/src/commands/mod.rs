//! The commands that drive a load, and what their command lines have in common.

pub(crate) mod fill;
pub(crate) mod limit;
pub(crate) mod run;
pub(crate) mod sweep;

use crate::client::ringcore::{Manner, client_id};
use crate::drive::{Drive, Driven, Passed};
use crate::load::{Load, Pace, Until};
use crate::machine;
use crate::report::{self, summary};
use crate::result::Workload;
use crate::target::{Protocol, Target, resolve};
use crate::workload::arrivals::Arrivals;
use crate::workload::keys::{Chooser, Distribution, KEY_BYTES_MIN, Records};
use crate::workload::mix::{Kind, Mix, Ycsb};
use crate::workload::values::Sizes;
use ringcore::program::quantity::parse_duration_ms;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The longest key that a node takes, bytes.
const KEY_BYTES_MAX: u64 = 4_096;

/// A load that is measured, but for its pace.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Task {
    #[command(flatten)]
    pub(crate) measured: Measured,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// How long, and what is kept of it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Measured {
    /// How long is measured.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    duration: Duration,
    /// How long the load goes on before that.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "3s")]
    warmup: Duration,
    /// Where run.json, report.html, latency.hlog and latency.hgrm are written [default: only the summary is printed].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The server's process, for its CPU time [default: the one of this machine that listens on the first endpoint].
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// No line per second.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// What a load is asked with: servers, connections, manner.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Asked {
    /// Nodes, host:port, separated by commas; connections go to them in turn.
    #[arg(long, env = "RINGCTL_ENDPOINTS", value_delimiter = ',', default_value = "127.0.0.1:7717")]
    endpoints: Vec<String>,
    /// Connections of all threads; of a closed loop, no more than its requests in flight.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Threads of the generator, no more than connections; each needs a CPU of its own once it is busy.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    cores: u16,
    /// CPUs that the threads stay on, in turn, separated by commas [default: wherever they are put].
    #[arg(long, value_name = "CPUS", value_delimiter = ',')]
    pin: Vec<usize>,
    /// Keys per request: BatchRead and BatchWrite instead of Get, Put and Delete.
    #[arg(long, value_name = "KEYS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    /// All requests of a connection go over one Pipeline stream instead of one call each.
    #[arg(long)]
    pipeline: bool,
    /// Replicas that must answer.
    #[arg(long, value_enum, default_value_t = Level::Quorum)]
    level: Level,
    /// Records expire so long after they were written.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// Tries of a request after the first, if another may help; they count as part of its latency.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
    /// Writes have no ids: the node cannot tell a retry from a second write, and remembers less.
    #[arg(long)]
    no_ids: bool,
    /// Of all random choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// The records.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Data {
    /// Records: their keys are those of the numbers 0 to N - 1.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Length of a key.
    #[arg(long, value_name = "BYTES", default_value_t = KEY_BYTES_MIN as u64,
        value_parser = clap::value_parser!(u64).range(KEY_BYTES_MIN as u64..=KEY_BYTES_MAX))]
    key_bytes: u64,
    /// Length of a value: BYTES, LEAST-MOST (uniform), or skewed:LEAST-MOST (many short, few long).
    #[arg(long, value_name = "SIZE", default_value = "100")]
    value_bytes: Sizes,
}

/// The operations.
#[derive(clap::Args, Clone, Default, Debug)]
pub(crate) struct Work {
    /// A core workload of YCSB: its operations and its keys.
    #[arg(long, value_enum, conflicts_with_all = ["read", "write", "delete", "insert", "rmw", "scan"])]
    ycsb: Option<Ycsb>,
    /// Share of reads [default: 50, if no share is given].
    #[arg(long, value_name = "SHARE")]
    read: Option<u32>,
    /// Share of writes to records that are there [default: 50, if no share is given].
    #[arg(long, value_name = "SHARE")]
    write: Option<u32>,
    /// Share of deletes.
    #[arg(long, value_name = "SHARE")]
    delete: Option<u32>,
    /// Share of writes of new records.
    #[arg(long, value_name = "SHARE")]
    insert: Option<u32>,
    /// Share of reads that are followed by a write of the same record.
    #[arg(long, value_name = "SHARE")]
    rmw: Option<u32>,
    /// Share of scans: a page of 100 records, in the order of tokens (there is no order of keys).
    #[arg(long, value_name = "SHARE")]
    scan: Option<u32>,
    /// How records are chosen: uniform, zipfian, latest, hot, or hot:RECORDS/OPERATIONS in per cent [default: that of the
    /// YCSB workload, or uniform].
    #[arg(long, value_name = "DISTRIBUTION")]
    keys: Option<Distribution>,
}

/// `ringcore.v1.Level`.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// Any one.
    One = 1,
    /// More than half.
    Quorum = 2,
    /// All of them.
    All = 3,
}

impl Task {
    /// Runs it at that pace against `target`, called `server`, and prints a line per second.
    pub(crate) fn drive(
        &self,
        pace: Pace,
        target: &Target,
        server: String,
        stop: &Arc<AtomicBool>,
    ) -> Result<Driven, Box<dyn Error>> {
        let until = Until::Time { warm_up: self.measured.warmup, measured: self.measured.duration };
        let load = self.asked.load(&self.data, &self.work, pace, until)?;
        let server_pid = self.measured.server_pid.or_else(|| machine::listener_of(target.addresses[0]));
        let mut versions = versions();
        if let Some(program) = server_pid.and_then(machine::program_of) {
            versions.insert("server".to_owned(), program);
        }
        let workload = describe(server, &load, target.protocol);
        let drive = Drive { target, load: &load, server: server_pid, workload, versions };
        let driven = drive.run(stop, |passed| {
            if let Passed::Second(second, figures) = passed
                && !self.measured.quiet
            {
                summary::print_second(second, figures);
            }
        })?;
        Ok(driven)
    }

    /// Prints what it gave, and writes its report where it is wanted.
    pub(crate) fn report(&self, driven: &Driven) -> Result<(), Box<dyn Error>> {
        summary::print_run(&driven.result);
        if let Some(dir) = &self.measured.out {
            report::write(dir, &driven.result, &driven.log)?;
            println!("report: {}", dir.join("report.html").display());
        }
        Ok(())
    }
}

impl Asked {
    /// The servers.
    pub(crate) fn target(&self) -> Result<Target, Box<dyn Error>> {
        let manner = Manner {
            level: self.level as u64,
            ttl_ms: self.ttl.map_or(0, |ttl| ttl.as_millis() as u64),
            client_id: if self.no_ids { 0 } else { client_id() },
            pipeline: self.pipeline,
        };
        Ok(Target { addresses: resolve(&self.endpoints)?, protocol: Protocol::Ringcore(manner) })
    }

    /// A load of that work on that data.
    pub(crate) fn load(
        &self,
        data: &Data,
        work: &Work,
        pace: Pace,
        until: Until,
    ) -> Result<Load, Box<dyn Error>> {
        let records = Arc::new(Records::new(data.records));
        if work.mix()?.share(Kind::Scan) > 0.0 && self.pipeline {
            return Err("scans do not go over a Pipeline: leave out --pipeline or --scan".into());
        }
        if u64::from(self.batch) > data.records {
            return Err(format!("--batch {} needs as many --records", self.batch).into());
        }
        // A connection without a request, or a thread without a connection, has nothing to do.
        let connections = match pace {
            Pace::Open { .. } => usize::from(self.connections),
            Pace::Closed { in_flight } => usize::from(self.connections).min(in_flight),
        };
        Ok(Load {
            pace,
            until,
            mix: work.mix()?,
            chooser: Chooser::new(work.distribution(), Arc::clone(&records)),
            records,
            key_bytes: data.key_bytes as usize,
            value_bytes: data.value_bytes,
            batch: usize::from(self.batch),
            connections,
            threads: usize::from(self.cores).min(connections),
            cpus: self.pin.clone(),
            retries: self.retries,
            named: !self.no_ids,
            seed: self.seed,
        })
    }

    /// Where, for people.
    pub(crate) fn endpoints(&self) -> String {
        self.endpoints.join(", ")
    }
}

impl Work {
    /// Its operations.
    pub(crate) fn mix(&self) -> Result<Mix, Box<dyn Error>> {
        if let Some(ycsb) = self.ycsb {
            return Ok(ycsb.mix());
        }
        let given = [
            (Kind::Read, self.read),
            (Kind::Update, self.write),
            (Kind::Delete, self.delete),
            (Kind::Insert, self.insert),
            (Kind::ReadModifyWrite, self.rmw),
            (Kind::Scan, self.scan),
        ];
        if given.iter().all(|(_, share)| share.is_none()) {
            return Ok(Mix::new(&[(Kind::Read, 50), (Kind::Update, 50)]).expect("shares that are not zero"));
        }
        let shares = given.map(|(kind, share)| (kind, share.unwrap_or(0)));
        Mix::new(&shares).ok_or_else(|| "all shares are 0: nothing is to be done".into())
    }

    fn distribution(&self) -> Distribution {
        let of_ycsb = self.ycsb.map_or(Distribution::Uniform, Ycsb::distribution);
        self.keys.unwrap_or(of_ycsb)
    }
}

/// A load in words, for the head of a report.
pub(crate) fn describe(server: String, load: &Load, protocol: Protocol) -> Workload {
    let (rate, in_flight, pace) = match load.pace {
        Pace::Open { rate, arrivals } => {
            let arrivals = match arrivals {
                Arrivals::Constant => "evenly spaced",
                Arrivals::Poisson => "as of independent users (Poisson)",
            };
            (Some(rate), None, format!("{rate} requests/s, {arrivals}; latency from the intended start"))
        }
        Pace::Closed { in_flight } => {
            (None, Some(in_flight), format!("closed loop, {in_flight} requests in flight"))
        }
    };
    let mut parts = vec![
        ("operations".to_owned(), load.mix.describe()),
        ("pace".to_owned(), pace),
        ("records".to_owned(), format!("{} chosen {}", load.records.count(), load.chooser.distribution())),
        ("key, value".to_owned(), format!("{} B, {} B", load.key_bytes, load.value_bytes)),
        ("keys per request".to_owned(), load.batch.to_string()),
        ("connections".to_owned(), format!("{} from {} threads", load.connections, load.threads)),
    ];
    if let Protocol::Ringcore(manner) = protocol {
        let level = ["node's default", "one", "quorum", "all"][manner.level as usize];
        let way = if manner.pipeline { "one stream per connection (Pipeline)" } else { "a call per request" };
        let ids = if manner.client_id == 0 { "no" } else { "yes" };
        parts.push(("level".to_owned(), level.to_owned()));
        parts.push(("transport".to_owned(), way.to_owned()));
        parts.push(("ids of writes, retries".to_owned(), format!("{ids}, {}", load.retries)));
        if manner.ttl_ms > 0 {
            parts.push(("time to live".to_owned(), format!("{} ms", manner.ttl_ms)));
        }
    }
    Workload { server, rate, in_flight, parts }
}

/// This program's version.
pub(crate) fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([("ringbench".to_owned(), env!("CARGO_PKG_VERSION").to_owned())])
}

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_ms(text).map(Duration::from_millis)
}

/// Requests a second: 5000 or 5k.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().map_err(|_| "is no number: write 5000, or 5k")? * factor;
    if (0.01..=1e8).contains(&rate) { Ok(rate) } else { Err("is out of range: 0.01 to 100 000k".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        task: Task,
    }

    #[test]
    fn what_is_in_flight_bounds_connections_and_threads() {
        let line = Line::parse_from(["ringbench", "--connections", "8", "--cores", "6"]);
        let shares = |pace| {
            let until = Until::Filled { records: 1 };
            let load = line.task.asked.load(&line.task.data, &line.task.work, pace, until).unwrap();
            let shares: Vec<_> = (0..load.threads).map(|index| load.in_flight_of(index)).collect();
            (load.connections, shares)
        };
        assert_eq!(shares(Pace::Closed { in_flight: 3 }), (3, vec![1; 3]));
        assert_eq!(shares(Pace::Closed { in_flight: 7 }), (7, vec![2, 1, 1, 1, 1, 1]));
        assert_eq!(shares(Pace::Closed { in_flight: 100 }), (8, vec![17, 17, 17, 17, 16, 16]));
        let arrivals = Arrivals::Constant;
        assert_eq!(shares(Pace::Open { rate: 1.0, arrivals }), (8, vec![usize::MAX; 6]), "no bound");
    }

    #[test]
    fn rates_are_read() {
        assert_eq!((rate("5000"), rate("2.5k")), (Ok(5_000.0), Ok(2_500.0)));
        assert!(rate("fast").is_err() && rate("0").is_err() && rate("NaN").is_err());
    }
}
