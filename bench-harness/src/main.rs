//! `ringbench`: what a ringcore node costs, measured beside services that answer at once, on the same runtime. Servers run
//! as processes of their own, so that their CPU time is theirs; the load comes from this one.

mod client;
mod compare;
mod empty;
mod generator;
mod load;
mod measure;
mod result;
mod plain;
mod report;
mod rounds;
mod server;
mod wire;
mod workload;

use crate::empty::Stack;
use clap::{Parser, Subcommand, ValueEnum};
use compare::{Bench, Comparison};
use report::table::Outcome;
use ringcore::runtime::cpus::CoresWanted;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The node's program has it too, and the empty service runs in this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a ringcore node.
///
/// The figures are made for one machine with two CPUs or more that is not alone: what is compared runs in turn, in short
/// rounds, and ratios are taken within each round. Absolute figures are the machine's.
#[derive(Parser)]
#[command(name = "ringbench", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compares servers and judges the figures by their targets.
    ///
    /// Ends with 0 when everything was measured, whether targets were met or not: the table says which were.
    Compare(Compare),
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
    /// What to compare [default: everything but `before`].
    #[arg(value_enum, value_name = "COMPARISON")]
    comparisons: Vec<Comparison>,
    #[command(flatten)]
    places: Places,
    /// An older program of the node, for `before`.
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
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
    /// Records of `recovery` and `table`.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    many_records: u64,
    /// How long the idle node is watched.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    idle: u64,
    /// Also write the figures there, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Compare(compare) => run_comparisons(compare),
        Command::Smoke { seconds, places } => smoke(seconds, places),
        Command::Empty { listen, cores, stack } => empty::run(listen, cores, stack),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_comparisons(told: Compare) -> Result<(), Box<dyn Error>> {
    let bench = Bench {
        program: program(&told.places)?,
        before: told.before,
        dir: told.places.dir.join("compare"),
        rounds: usize::from(told.rounds),
        round: Duration::from_millis(told.round_ms),
        in_flight: usize::from(told.in_flight),
        records: told.records,
        many_records: told.many_records,
        idle: Duration::from_secs(told.idle),
    };
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
    if let Some(path) = told.json {
        fs::write(path, serde_json::to_vec_pretty(&serde_json::json!({ "comparisons": outcomes }))?)?;
    }
    Ok(())
}

fn smoke(seconds: u64, places: Places) -> Result<(), Box<dyn Error>> {
    let dir = places.dir.join("smoke");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let figures = compare::smoke(&program(&places)?, &dir, seconds)?;
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
