//! `ringbench run`: one load, measured, and its report.

use super::{Task, rate};
use crate::load::Pace;
use crate::workload::arrivals::Arrivals;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    task: Task,
}

/// Runs it; 4 if the run is invalid.
pub(crate) fn run(told: &Run, stop: &Arc<AtomicBool>) -> Result<ExitCode, Box<dyn Error>> {
    let pace = match told.rate {
        Some(rate) => Pace::Open { rate, arrivals: told.arrivals },
        None => Pace::Closed { in_flight: told.inflight as usize },
    };
    let driven = told.task.drive(pace, &told.task.asked.target()?, told.task.asked.endpoints(), stop)?;
    told.task.report(&driven)?;
    Ok(if driven.result.invalid.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(INVALID) })
}
