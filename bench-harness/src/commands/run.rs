//! `ringbench run`: one load, measured, and its report.

use super::{Asked, Data, Work, describe, duration, rate, versions};
use crate::drive::{Drive, Driven, Passed};
use crate::generator::{Load, Pace, Until};
use crate::machine;
use crate::report::{self, summary};
use crate::target::Target;
use crate::workload::arrivals::Arrivals;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The exit code of a run whose figures are not to be used.
const INVALID: u8 = 4;

/// The command line.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Run {
    /// Open loop: so many requests a second, whatever the answers do; latency counts from the intended start.
    #[arg(long, value_name = "REQUESTS/S", value_parser = rate, required_unless_present = "closed", conflicts_with = "closed")]
    rate: Option<f64>,
    /// Closed loop: always --inflight requests on their way. For the greatest throughput; its latencies hide stalls.
    #[arg(long)]
    closed: bool,
    /// Requests in flight of a closed loop, over all connections.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    inflight: u32,
    /// Distances of an open loop's requests.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    #[command(flatten)]
    pub(crate) measured: Measured,
    #[command(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) asked: Asked,
}

/// How long, and what is kept of it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Measured {
    /// How long is measured.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) duration: Duration,
    /// How long the load goes on before that.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "3s")]
    pub(crate) warmup: Duration,
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

/// Runs it; 4 if the run is invalid.
pub(crate) fn run(told: &Run, stop: &Arc<AtomicBool>) -> Result<ExitCode, Box<dyn Error>> {
    let pace = match told.rate {
        Some(rate) => Pace::Open { rate, arrivals: told.arrivals },
        None => Pace::Closed { in_flight: told.inflight as usize },
    };
    let until = Until::Time { warm_up: told.measured.warmup, measured: told.measured.duration };
    let load = told.asked.load(&told.data, &told.work, pace, until)?;
    let driven = drive(&told.asked.target()?, &load, &told.measured, told.asked.endpoints(), stop)?;
    summary::print_run(&driven.result);
    if let Some(dir) = &told.measured.out {
        report::write(dir, &driven.result, &driven.log)?;
        println!("report: {}", dir.join("report.html").display());
    }
    Ok(if driven.result.invalid.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(INVALID) })
}

/// Runs a load and prints a line per second.
pub(crate) fn drive(
    target: &Target,
    load: &Load,
    measured: &Measured,
    server: String,
    stop: &Arc<AtomicBool>,
) -> Result<Driven, Box<dyn Error>> {
    let server_pid = measured.server_pid.or_else(|| machine::listener_of(target.addresses[0]));
    let mut versions = versions();
    if let Some(program) = server_pid.and_then(machine::program_of) {
        versions.insert("server".to_owned(), program);
    }
    let workload = describe(server, load, target.protocol);
    let drive = Drive { target, load, server: server_pid, workload, versions };
    let driven = drive.run(stop, |passed| {
        if let Passed::Second(second, figures) = passed
            && !measured.quiet
        {
            summary::print_second(second, figures);
        }
    })?;
    Ok(driven)
}
