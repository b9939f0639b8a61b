//! `ringbench load`: writes every record once.

use super::{Asked, Data, Work, describe, versions};
use crate::drive::{Drive, Passed};
use crate::load::{Pace, Until};
use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Between two lines where nobody watches them change.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The command line.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Fill {
    /// Requests in flight, over all connections.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    inflight: u32,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    asked: Asked,
}

/// Fills the servers.
pub(crate) fn run(told: &Fill, stop: &Arc<AtomicBool>) -> Result<(), Box<dyn Error>> {
    let records = told.data.records;
    let pace = Pace::Closed { in_flight: told.inflight as usize };
    let load = told.asked.load(&told.data, &Work::default(), pace, Until::Filled { records })?;
    let target = told.asked.target()?;
    let workload = describe(told.asked.endpoints(), &load, target.protocol);
    let drive = Drive { target: &target, load: &load, server: None, workload, versions: versions() };
    let terminal = std::io::stdout().is_terminal();
    let (mut written, begun, mut lined) = (0, Instant::now(), Instant::now());
    let driven = drive.run(stop, |passed| {
        let Passed::Filled(more) = passed else { return };
        written += more;
        if terminal {
            print!("\r{}", progress(written, records, begun.elapsed()));
            // Nobody reads a line that cannot be shown.
            let _unseen = std::io::stdout().flush();
        } else if lined.elapsed() >= LINE_EVERY {
            lined = Instant::now();
            println!("{}", progress(written, records, begun.elapsed()));
        }
    })?;
    let total = &driven.result.total;
    println!("{}{}", if terminal { "\r" } else { "" }, progress(total.operations, records, begun.elapsed()));
    if total.operations == records {
        return Ok(());
    }
    let mut why: Vec<String> = total.failures.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if driven.result.unanswered > 0 {
        why.push(format!("{} without an answer", driven.result.unanswered));
    }
    Err(format!("{} of {records} records were not written: {}", records - total.operations, why.join(", "))
        .into())
}

fn progress(written: u64, records: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let rate = written as f64 / seconds;
    let percent = written as f64 * 100.0 / records as f64;
    let left = if rate > 0.0 { (records - written.min(records)) as f64 / rate } else { 0.0 };
    format!(
        "{written} of {records} records, {percent:.0} %, {rate:.0} records/s, {seconds:.1} s, {left:.0} s left  "
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_what_is_left() {
        let line = progress(250, 1_000, Duration::from_secs(5));
        assert_eq!(line.trim_end(), "250 of 1000 records, 25 %, 50 records/s, 5.0 s, 15 s left");
    }
}
