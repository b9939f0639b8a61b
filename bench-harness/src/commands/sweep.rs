//! `ringbench sweep`: the same load at one rate after the other, to find where latency breaks away.

use super::{Task, duration, rate};
use crate::load::Pace;
use crate::report;
use crate::report::summary;
use crate::workload::arrivals::Arrivals;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Rates that are this near to each other are the same for a knee.
const NEAR: f64 = 0.05;
/// A rate is held if so much of it was answered well.
const HELD: f64 = 0.98;

/// The command line.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Sweep {
    /// Rates, requests a second, separated by commas.
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = rate, required_unless_present = "knee", conflicts_with = "knee")]
    rates: Vec<f64>,
    /// Looks for the greatest rate whose p99 stays below this; doubles from --from on, then halves the distance.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    knee: Option<Duration>,
    /// Where the search for the knee begins.
    #[arg(long, value_name = "REQUESTS/S", value_parser = rate, default_value = "1000")]
    from: f64,
    /// Distances of the requests.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    #[command(flatten)]
    task: Task,
}

/// Runs it.
pub(crate) fn run(told: &Sweep, stop: &Arc<AtomicBool>) -> Result<(), Box<dyn Error>> {
    let mut task = told.task.clone();
    task.measured.quiet = true;
    let target = task.asked.target()?;
    summary::print_steps_head();
    let mut step = |rate: f64| -> Result<bool, Box<dyn Error>> {
        let pace = Pace::Open { rate, arrivals: told.arrivals };
        let driven = task.drive(pace, &target, task.asked.endpoints(), stop)?;
        summary::print_step(rate, &driven.result);
        if let Some(dir) = &task.measured.out {
            report::write(&dir.join(format!("{rate:.0}")), &driven.result, &driven.log)?;
        }
        let limit_us = told.knee.map_or(f64::INFINITY, |knee| knee.as_secs_f64() * 1e6);
        let good = driven.result.total.latency_us.p99 <= limit_us
            && summary::answered_per_second(&driven.result) >= rate * HELD;
        Ok(good && !stop.load(Relaxed))
    };
    if let Some(knee) = told.knee {
        let found = find_knee(told.from, &mut step)?;
        match found {
            Some(rate) => println!("\nknee: {rate:.0} requests/s with p99 within {} ms", knee.as_millis()),
            None => {
                println!("\nno knee: even {} requests/s have a p99 beyond {} ms", told.from, knee.as_millis())
            }
        }
    } else {
        for rate in &told.rates {
            step(*rate)?;
            if stop.load(Relaxed) {
                break;
            }
        }
    }
    Ok(())
}

/// The greatest rate for which `good` says yes, to within [`NEAR`]; None if it says no at once.
fn find_knee<E>(from: f64, good: &mut impl FnMut(f64) -> Result<bool, E>) -> Result<Option<f64>, E> {
    if !good(from)? {
        return Ok(None);
    }
    let (mut low, mut high) = (from, from * 2.0);
    while good(high)? {
        (low, high) = (high, high * 2.0);
    }
    while high / low > 1.0 + NEAR {
        let middle = f64::midpoint(low, high);
        if good(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn knee_is_found_to_within_a_twentieth() {
        let mut asked = 0;
        let mut good = |rate: f64| {
            asked += 1;
            Ok::<_, Infallible>(rate <= 13_700.0)
        };
        let Ok(found) = find_knee(1_000.0, &mut good);
        let knee = found.unwrap();
        assert!(knee <= 13_700.0 && knee > 13_700.0 / 1.05, "{knee}");
        assert!(asked < 12, "{asked} rates were tried");
        assert_eq!(find_knee(1_000.0, &mut |_| Ok::<_, Infallible>(false)), Ok(None));
    }
}
