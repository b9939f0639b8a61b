//! `ringbench`: what a ringcore node costs, measured beside services that answer at once, on the same runtime. Servers run
//! as processes of their own, so that their CPU time is theirs; the load comes from this one.

mod client;
mod commands;
mod compare;
mod drive;
mod empty;
mod generator;
mod lines;
mod load;
mod machine;
mod measure;
mod micro;
mod peers;
mod plain;
mod process;
mod report;
mod result;
mod rounds;
mod target;
mod targets;
mod verify;
mod workload;

use crate::commands::fill::Fill;
use crate::commands::limit::Limit;
use crate::commands::run::Run;
use crate::commands::sweep::Sweep;
use crate::empty::Stack;
use crate::peers::Peer;
use crate::report::table::Outcome;
use crate::result::RunResult;
use crate::targets::{Bench, Comparison};
use crate::verify::Verify;
use clap::{Parser, Subcommand, ValueEnum};
use ringcore::runtime::cpus::CoresWanted;
use ringcore::runtime::signals::SignalWatch;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The node's program has it too, and the empty service runs in this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Loads a ringcore node and measures what it does.
///
/// `load` writes records, `run` measures one load, `sweep` one rate after the other; `report` and `compare` work on their
/// results. `limit`, `targets` and `compare --with` start the servers that they measure, and tell ratios of short rounds by
/// turns: on a machine that is not alone, absolute figures are the machine's.
#[derive(Parser)]
#[command(name = "ringbench", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a load and measures it: at a rate (open loop) or at saturation (closed loop).
    ///
    /// Ends with 4 if the figures are not to be used: the generator itself was late, or nothing was answered. It ends by its
    /// time whatever becomes of the server: connections that are lost are made again, and what has no answer 10 s after the
    /// end is given up.
    Run(Box<Run>),
    /// Writes every record once.
    ///
    /// Ends with 1 if any was not written; gives up after 10 s without a connection.
    Load(Fill),
    /// Runs a load at one rate after the other, or finds the greatest rate within a limit on p99.
    Sweep(Box<Sweep>),
    /// Runs a load against a service that answers at once, started here: what gRPC itself costs.
    Limit(Box<Limit>),
    /// Compares two results; or, with --with, a node with other stores, all started here.
    ///
    /// Two results: ends with 3 if anything got worse by more than the threshold.
    Compare(Compare),
    /// Shows a result, and writes its report.html and latency.hgrm again.
    Report {
        /// A run.json, or the directory that holds it.
        #[arg(value_name = "PATH")]
        result: PathBuf,
    },
    /// Writes while a node is killed and started again, then audits: no acknowledged write may be missing or wrong.
    ///
    /// The node is started here, on the disk of --dir. Ends with 1 if anything is wrong, and keeps the node's files then.
    Verify {
        #[command(flatten)]
        told: Verify,
        #[command(flatten)]
        places: Places,
    },
    /// Compares servers that are started here, and judges the figures by the project's targets.
    ///
    /// Ends with 0 when everything was measured, whether targets were met or not: the table says which were.
    Targets(Targets),
    /// Measures the parts that every request passes, by themselves: table, clock, ring, messages, log blocks, mailboxes.
    Micro {
        /// Rounds of all parts by turns.
        #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..))]
        rounds: u16,
    },
    /// Starts a node, writes and reads for a few seconds, restarts it, reads again. Ends with 0 if nothing failed.
    Smoke {
        /// How long the load lasts.
        #[arg(long, value_name = "SECONDS", default_value_t = 5)]
        seconds: u64,
        #[command(flatten)]
        places: Places,
    },
    /// A service that answers every call at once, without machine, table and log, as the comparisons start it.
    Empty {
        /// Where it serves.
        #[arg(long, value_name = "IP:PORT")]
        listen: SocketAddr,
        /// As `ringcore start --cores`: how many, or FIRST-LAST.
        #[arg(long, value_name = "N|FIRST-LAST")]
        cores: CoresWanted,
        /// What stands between the sockets and the answers.
        #[arg(long, value_enum, default_value_t = Stack::Node)]
        stack: Stack,
    },
}

#[derive(clap::Args)]
struct Places {
    /// The node's program [default: `ringcore` beside this program].
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Where servers keep their data, on ext4 or XFS. Everything in it is deleted.
    #[arg(long, value_name = "DIR", default_value = "target/ringbench")]
    dir: PathBuf,
}

#[derive(clap::Args)]
struct Compare {
    /// Two results, the older one first: run.json, or the directories that hold them.
    #[arg(value_name = "RESULT", num_args = 2, required_unless_present = "with", conflicts_with = "with")]
    results: Vec<PathBuf>,
    /// What may get worse, per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    threshold: f64,
    /// Other stores, separated by commas; what is not installed is skipped.
    #[arg(long, value_enum, value_name = "STORES", value_delimiter = ',')]
    with: Vec<Peer>,
    #[command(flatten)]
    bench: BenchArguments,
}

#[derive(clap::Args)]
struct Targets {
    /// What to compare [default: everything but `before`].
    #[arg(value_enum, value_name = "COMPARISON")]
    comparisons: Vec<Comparison>,
    /// An older program of the node, for `before`.
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// Records of `snapshot`, `recovery` and `table`.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    many_records: u64,
    /// How long the idle node is watched.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    idle: u64,
    #[command(flatten)]
    bench: BenchArguments,
}

/// What every comparison of servers is told.
#[derive(clap::Args)]
struct BenchArguments {
    #[command(flatten)]
    places: Places,
    /// Rounds that count; one more warms up.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Length of one side's turn in a round.
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    round_ms: u64,
    /// Calls in flight, over four connections.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(4..=2_048))]
    in_flight: u16,
    /// Keys that are asked for.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Also write the figures there, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Run(told) => return commands::run::run(&told, &stop_at_signals()?),
        Command::Load(told) => commands::fill::run(&told, &stop_at_signals()?)?,
        Command::Sweep(told) => commands::sweep::run(&told, &stop_at_signals()?)?,
        Command::Limit(told) => commands::limit::run(&told, &stop_at_signals()?)?,
        Command::Compare(told) => return compare(told),
        Command::Report { result } => report(&result)?,
        Command::Verify { told, places } => verify::run(&told, &program(&places)?, &places.dir)?,
        Command::Targets(told) => run_targets(told)?,
        Command::Micro { rounds } => micro::run(usize::from(rounds))?,
        Command::Smoke { seconds, places } => smoke(seconds, places)?,
        Command::Empty { listen, cores, stack } => empty::run(listen, cores, stack)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Set when the user has had enough: what was measured until then is still told.
fn stop_at_signals() -> Result<Arc<AtomicBool>, Box<dyn Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let watch = SignalWatch::start(move |_| raised.store(true, Ordering::Relaxed))?;
    // It is to watch for as long as the program runs.
    std::mem::forget(watch);
    Ok(stop)
}

fn compare(told: Compare) -> Result<ExitCode, Box<dyn Error>> {
    if let [before, after] = &told.results[..] {
        return compare::files(before, after, told.threshold);
    }
    let bench = bench(&told.bench, None, 0, Duration::ZERO)?;
    bench.clear()?;
    let outcomes = peers::run(&bench, &told.with)?;
    bench.clear()?;
    write_json(told.bench.json, &outcomes)?;
    Ok(ExitCode::SUCCESS)
}

fn report(result: &Path) -> Result<(), Box<dyn Error>> {
    let run = RunResult::read(result)?;
    let dir = if result.is_dir() { result } else { result.parent().unwrap_or(Path::new(".")) };
    report::write_derived(dir, &run)?;
    report::summary::print_run(&run);
    println!("report: {}", dir.join("report.html").display());
    Ok(())
}

fn bench(
    told: &BenchArguments,
    before: Option<PathBuf>,
    many_records: u64,
    idle: Duration,
) -> Result<Bench, Box<dyn Error>> {
    Ok(Bench {
        program: program(&told.places)?,
        before,
        dir: told.places.dir.join("compare"),
        rounds: usize::from(told.rounds),
        round: Duration::from_millis(told.round_ms),
        in_flight: usize::from(told.in_flight),
        records: told.records,
        many_records,
        idle,
    })
}

fn run_targets(told: Targets) -> Result<(), Box<dyn Error>> {
    let bench = bench(&told.bench, told.before, told.many_records, Duration::from_secs(told.idle))?;
    let mut comparisons = told.comparisons;
    if comparisons.is_empty() {
        let all = Comparison::value_variants().iter().copied();
        comparisons = all.filter(|comparison| *comparison != Comparison::Before).collect();
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for comparison in comparisons {
        let outcome = bench.run(comparison).map_err(|error| format!("{comparison:?}: {error}"))?;
        report::table::print(&outcome);
        outcomes.push(outcome);
    }
    write_json(told.bench.json, &outcomes)
}

fn write_json(path: Option<PathBuf>, outcomes: &[Outcome]) -> Result<(), Box<dyn Error>> {
    if let Some(path) = path {
        fs::write(path, serde_json::to_vec_pretty(&serde_json::json!({ "comparisons": outcomes }))?)?;
    }
    Ok(())
}

fn smoke(seconds: u64, places: Places) -> Result<(), Box<dyn Error>> {
    let dir = places.dir.join("smoke");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let figures = targets::smoke(&program(&places)?, &dir, seconds)?;
    report::table::print(&Outcome { comparison: "smoke", figures, findings: Vec::new() });
    Ok(())
}

fn program(places: &Places) -> Result<PathBuf, Box<dyn Error>> {
    let program = match &places.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("ringcore"),
    };
    if !program.is_file() {
        return Err(
            format!("{} is not there; build it, or name one with --program", program.display()).into()
        );
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
