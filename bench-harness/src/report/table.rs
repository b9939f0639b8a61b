//! What comes out: a table for people, one JSON object for programs.

use crate::rounds::{Figures, Spread};
use serde::Serialize;

/// Which side of its target a figure must be on.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// It is only told.
    None,
}

/// One figure that has a target.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct Finding {
    /// What it is of.
    pub(crate) what: String,
    /// Over the rounds.
    pub(crate) value: Spread,
    /// What it is measured in; empty for ratios.
    pub(crate) unit: &'static str,
    /// What it should be.
    pub(crate) target: Target,
    /// Is it?
    pub(crate) met: bool,
}

impl Finding {
    /// Judges a figure.
    pub(crate) fn new(what: impl Into<String>, value: Spread, unit: &'static str, target: Target) -> Finding {
        let met = match target {
            Target::AtLeast(least) => value.median >= least,
            Target::AtMost(most) => value.median <= most,
            Target::None => true,
        };
        Finding { what: what.into(), value, unit, target, met }
    }
}

/// What one comparison gave.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct Outcome {
    /// Its name on the command line.
    pub(crate) comparison: &'static str,
    /// What was compared.
    pub(crate) figures: Vec<Figures>,
    /// What follows.
    pub(crate) findings: Vec<Finding>,
}

/// Prints an outcome as it comes.
pub(crate) fn print(outcome: &Outcome) {
    println!("{}", outcome.comparison);
    if !outcome.figures.is_empty() {
        println!(
            "  {:<28}{:>10}{:>12}{:>8}{:>10}{:>10}",
            "", "ops/s", "CPU us/op", "cores", "p50 us", "p99 us"
        );
    }
    for row in &outcome.figures {
        println!(
            "  {:<28}{:>10.0}{:>12.2}{:>8.2}{:>10}{:>10}",
            row.name, row.ops_per_second, row.cpu_us_per_op, row.cores_busy, row.p50_us, row.p99_us
        );
    }
    for finding in &outcome.findings {
        let Spread { median, min, max } = finding.value;
        let (target, verdict) = match (finding.target, finding.met) {
            (Target::None, _) => (String::new(), ""),
            (Target::AtLeast(least), true) => (format!("target >= {least}"), "met"),
            (Target::AtLeast(least), false) => (format!("target >= {least}"), "MISSED"),
            (Target::AtMost(most), true) => (format!("target <= {most}"), "met"),
            (Target::AtMost(most), false) => (format!("target <= {most}"), "MISSED"),
        };
        let value = format!("{median:.3} {} ({min:.3} to {max:.3})", finding.unit);
        println!("  {:<50} {value:<36} {target:<16} {verdict}", finding.what);
    }
    println!();
}
