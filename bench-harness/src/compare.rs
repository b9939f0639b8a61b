//! `ringbench compare`: two results set against each other, with a verdict; or, with `--with`, a node beside other stores.

use crate::report::summary::latency;
use crate::result::{Figures, RunResult};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// The exit code of a comparison that found something worse by more than the threshold.
const WORSE: u8 = 3;

/// What is compared, and which way is better.
struct Row {
    what: String,
    before: f64,
    after: f64,
    more_is_better: bool,
    shown: fn(f64) -> String,
}

impl Row {
    /// By how much it got worse, per cent; less than 0: it got better.
    fn worse_percent(&self) -> f64 {
        if self.before <= 0.0 {
            return if self.after > 0.0 && !self.more_is_better { f64::INFINITY } else { 0.0 };
        }
        let change = (self.after / self.before - 1.0) * 100.0;
        if self.more_is_better { -change } else { change }
    }
}

/// Compares two runs; 3 if anything got worse by more than `threshold` per cent.
pub(crate) fn files(before: &Path, after: &Path, threshold: f64) -> Result<ExitCode, Box<dyn Error>> {
    let (before, after) = (RunResult::read(before)?, RunResult::read(after)?);
    for run in [&before, &after] {
        if let Some(why) = run.invalid.first() {
            return Err(format!("a run that is invalid cannot be compared ({}): {why}", run.command).into());
        }
    }
    for (what, same) in differences(&before, &after) {
        println!("note: {what}: {same}");
    }
    println!("{:<34}{:>14}{:>14}{:>10}", "", "before", "after", "change");
    let mut worse = Vec::new();
    for row in rows(&before, &after) {
        let by = row.worse_percent();
        let change = if row.more_is_better { -by } else { by };
        let verdict = if by > threshold { "  worse" } else { "" };
        println!(
            "{:<34}{:>14}{:>14}{change:>+9.1}%{verdict}",
            row.what,
            (row.shown)(row.before),
            (row.shown)(row.after)
        );
        if by > threshold {
            worse.push(row.what);
        }
    }
    if worse.is_empty() {
        println!("\nnothing is worse by more than {threshold} %");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nworse by more than {threshold} %: {}", worse.join(", "));
    Ok(ExitCode::from(WORSE))
}

/// What was not the same in the two runs.
fn differences(before: &RunResult, after: &RunResult) -> Vec<(String, String)> {
    let mut differences = Vec::new();
    for (what, how) in &before.workload.parts {
        let now = after.workload.parts.iter().find(|(name, _)| name == what);
        let now = now.map_or("-", |(_, how)| how);
        if now != how {
            differences.push((what.clone(), format!("{how} before, {now} after")));
        }
    }
    if before.machine.processor != after.machine.processor || before.machine.kernel != after.machine.kernel {
        differences
            .push(("machine".to_owned(), "another one: figures of two machines tell little".to_owned()));
    }
    differences
}

fn rows(before: &RunResult, after: &RunResult) -> Vec<Row> {
    let mut rows = Vec::new();
    let kinds =
        before.kinds.iter().filter_map(|(kind, figures)| Some((*kind, figures, after.kinds.get(kind)?)));
    for (kind, before, after) in kinds {
        of_figures(kind.name(), before, after, &mut rows);
    }
    if rows.is_empty() || before.kinds.len() > 1 {
        of_figures("all", &before.total, &after.total, &mut rows);
    }
    let cpu = before.cpu.server_us_per_operation.zip(after.cpu.server_us_per_operation);
    if let Some((before, after)) = cpu {
        let what = "CPU of the server per operation".to_owned();
        rows.push(Row { what, before, after, more_is_better: false, shown: |us| format!("{us:.2} µs") });
    }
    let failed = (before.total.failed() as f64, after.total.failed() as f64);
    let shown = |count: f64| format!("{count:.0}");
    rows.push(Row {
        what: "failures".to_owned(),
        before: failed.0,
        after: failed.1,
        more_is_better: false,
        shown,
    });
    rows
}

fn of_figures(name: &str, before: &Figures, after: &Figures, rows: &mut Vec<Row>) {
    let what = format!("{name}, operations/s");
    let (rate_before, rate_after) = (before.operations_per_second, after.operations_per_second);
    let shown = |rate: f64| format!("{rate:.0}");
    rows.push(Row { what, before: rate_before, after: rate_after, more_is_better: true, shown });
    let (before, after) = (before.latency_us, after.latency_us);
    for (what, before, after) in
        [("p50", before.p50, after.p50), ("p99", before.p99, after.p99), ("p99.9", before.p999, after.p999)]
    {
        let what = format!("{name}, {what}");
        rows.push(Row { what, before, after, more_is_better: false, shown: latency });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(before: f64, after: f64, more_is_better: bool) -> Row {
        Row { what: String::new(), before, after, more_is_better, shown: |_| String::new() }
    }

    #[test]
    fn worse_is_less_throughput_or_more_latency() {
        assert!((row(100.0, 90.0, true).worse_percent() - 10.0).abs() < 1e-9);
        assert!((row(100.0, 125.0, false).worse_percent() - 25.0).abs() < 1e-9);
        assert!(row(100.0, 125.0, true).worse_percent() < 0.0);
        assert_eq!(row(0.0, 1.0, false).worse_percent(), f64::INFINITY, "failures where there were none");
        assert_eq!(row(0.0, 0.0, false).worse_percent(), 0.0);
    }
}
