//! Runs on the terminal: a line per second while they go on, a summary at the end, a line per rate of a sweep.

use crate::result::{Figures, RunResult, Second};

/// A latency in the unit that suits it: 950 µs, 1.23 ms, 2.50 s.
pub(crate) fn latency(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

/// Prints a second that has passed.
pub(crate) fn print_second(second: u64, figures: &Second) {
    let latencies = figures.latency_us;
    let failed = if figures.failed > 0 { format!("   {} failed", figures.failed) } else { String::new() };
    println!(
        "{:>5} s {:>9} ops/s   p50 {:>9}   p99 {:>9}   max {:>9}{failed}",
        second + 1,
        figures.operations,
        latency(latencies.p50),
        latency(latencies.p99),
        latency(latencies.max),
    );
}

/// Prints a whole run.
pub(crate) fn print_run(run: &RunResult) {
    println!("\n{}: {:.1} s", run.workload.server, run.seconds);
    for (what, how) in &run.workload.parts {
        println!("  {what:<24}{how}");
    }
    println!();
    println!(
        "  {:<18}{:>10}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "ops/s", "requests", "p50", "p90", "p99", "p99.9", "max"
    );
    for (kind, figures) in &run.kinds {
        print_figures(kind.name(), figures);
    }
    if run.kinds.len() != 1 {
        print_figures("all", &run.total);
    }
    println!();
    for (kind, figures) in &run.kinds {
        for (name, count) in &figures.failures {
            println!("  {} failed: {count} {name}", kind.name());
        }
    }
    let cpu = |us: f64, cores: f64| format!("{us:.2} µs per operation, {cores:.2} cores");
    if let (Some(us), Some(cores)) = (run.cpu.server_us_per_operation, run.cpu.server_cores) {
        println!("  {:<24}{}", "CPU of the server", cpu(us, cores));
    }
    let generator = cpu(run.cpu.generator_us_per_operation, run.cpu.generator_cores);
    println!("  {:<24}{generator}", "CPU of the generator");
    if let Some(lag) = run.lag_us {
        println!("  {:<24}p99 {}, max {}", "lag of the generator", latency(lag.p99), latency(lag.max));
    }
    for (count, what) in [
        (run.connections_lost, "connections were lost"),
        (run.unanswered, "requests had no answer when it was over"),
        (run.never_begun, "requests were due and could not be begun"),
    ] {
        if count > 0 {
            println!("  {count} {what}");
        }
    }
    run.notes.iter().for_each(|note| println!("  note: {note}"));
    run.invalid.iter().for_each(|why| println!("\nINVALID: {why}"));
}

fn print_figures(name: &str, figures: &Figures) {
    let latencies = figures.latency_us;
    println!(
        "  {name:<18}{:>10.0}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}",
        figures.operations_per_second,
        figures.requests,
        latency(latencies.p50),
        latency(latencies.p90),
        latency(latencies.p99),
        latency(latencies.p999),
        latency(latencies.max),
    );
}

/// Prints what the columns of [`print_step`] are.
pub(crate) fn print_steps_head() {
    println!(
        "{:>12}{:>12}{:>11}{:>11}{:>11}{:>11}{:>14}",
        "requests/s", "answered/s", "p50", "p99", "p99.9", "max", "CPU µs/op"
    );
}

/// Prints one rate of a sweep.
pub(crate) fn print_step(rate: f64, run: &RunResult) {
    let latencies = run.total.latency_us;
    let cpu = run.cpu.server_us_per_operation.map_or("-".to_owned(), |us| format!("{us:.2}"));
    let invalid = if run.invalid.is_empty() { "" } else { "   INVALID" };
    println!(
        "{rate:>12.0}{:>12.0}{:>11}{:>11}{:>11}{:>11}{cpu:>14}{invalid}",
        answered_per_second(run),
        latency(latencies.p50),
        latency(latencies.p99),
        latency(latencies.p999),
        latency(latencies.max),
    );
}

/// Requests that were answered well, a second.
pub(crate) fn answered_per_second(run: &RunResult) -> f64 {
    run.total.requests as f64 / run.seconds.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_the_unit_that_suits_them() {
        assert_eq!([0.4, 950.4, 1_234.0, 2_500_000.0].map(latency), ["0 µs", "950 µs", "1.23 ms", "2.50 s"]);
    }
}
