//! Comparing servers on a machine that is not alone: short rounds in turn, ratios within each round, and their median
//! with the spread. Figures of different rounds are never set against each other.

use crate::drive::burst;
use crate::load::Load;
use crate::measure::latencies;
use crate::process::Server;
use crate::target::Target;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::io;

/// A server in a comparison.
pub(crate) struct Side<'a> {
    /// As the table calls it.
    pub(crate) name: &'a str,
    /// The process whose CPU time counts.
    pub(crate) server: &'a Server,
    /// Where it is asked, and how.
    pub(crate) target: Target,
    /// What is done to it in each round.
    pub(crate) load: Load,
}

/// The figures of one side, medians of its rounds.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct Figures {
    /// As the table calls it.
    pub(crate) name: String,
    /// Operations a second.
    pub(crate) ops_per_second: f64,
    /// CPU time of the server per operation, microseconds.
    pub(crate) cpu_us_per_op: f64,
    /// CPU time of the server per second, of one core.
    pub(crate) cores_busy: f64,
    /// Of all rounds together, microseconds.
    pub(crate) p50_us: u64,
    /// Of all rounds together, microseconds.
    pub(crate) p99_us: u64,
}

/// A median and what it is the median of.
#[derive(Serialize, Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// Half of the rounds lie below.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
}

/// What rounds in turn showed.
pub(crate) struct Rounds {
    /// In the order of the sides.
    pub(crate) figures: Vec<Figures>,
    ops: Vec<Vec<f64>>,
    cpu: Vec<Vec<f64>>,
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(figures: &[f64]) -> Spread {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Spread { median: (low + high) / 2.0, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

impl Rounds {
    /// Runs each side once per round. A first round warms up and does not count.
    pub(crate) fn run(sides: &mut [Side<'_>], rounds: usize) -> io::Result<Rounds> {
        let mut ops = vec![Vec::new(); sides.len()];
        let mut cpu = vec![Vec::new(); sides.len()];
        let mut busy = vec![Vec::new(); sides.len()];
        let mut all: Vec<Histogram<u64>> = sides.iter().map(|_| latencies()).collect();
        for round in 0..=rounds {
            for index in order(sides.len(), round) {
                let side = &mut sides[index];
                let before = side.server.cpu_time()?;
                let burst = burst(&side.target, &side.load)?;
                let spent = (side.server.cpu_time()? - before).as_secs_f64();
                if round == 0 {
                    continue;
                }
                ops[index].push(burst.operations as f64 / burst.took.as_secs_f64());
                cpu[index].push(spent * 1e6 / burst.operations as f64);
                busy[index].push(spent / burst.took.as_secs_f64());
                all[index].add(&burst.latencies).expect("all histograms have the same bounds");
            }
        }
        let figures = sides.iter().enumerate().map(|(index, side)| Figures {
            name: side.name.to_owned(),
            ops_per_second: Spread::of(&ops[index]).median,
            cpu_us_per_op: Spread::of(&cpu[index]).median,
            cores_busy: Spread::of(&busy[index]).median,
            p50_us: all[index].value_at_quantile(0.5) / 1_000,
            p99_us: all[index].value_at_quantile(0.99) / 1_000,
        });
        Ok(Rounds { figures: figures.collect(), ops, cpu })
    }

    /// Throughput of one side in units of another's, round by round.
    pub(crate) fn throughput(&self, side: usize, unit: usize) -> Spread {
        ratios(&self.ops[side], &self.ops[unit])
    }

    /// CPU time per operation of one side in units of another's, round by round.
    pub(crate) fn cpu(&self, side: usize, unit: usize) -> Spread {
        ratios(&self.cpu[side], &self.cpu[unit])
    }
}

/// Every other round goes the other way, so that no side always follows the same one.
fn order(sides: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..sides).map(move |index| if round.is_multiple_of(2) { index } else { sides - 1 - index })
}

fn ratios(side: &[f64], unit: &[f64]) -> Spread {
    Spread::of(&side.iter().zip(unit).map(|(side, unit)| side / unit).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_taken_within_each_round() {
        // The machine was twice as fast in the second round: both sides were.
        let spread = ratios(&[2.0, 4.4, 6.0], &[1.0, 2.0, 3.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 2.0, 2.2));
    }

    #[test]
    fn median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }

    #[test]
    fn sides_take_turns_in_going_first() {
        assert_eq!(order(2, 0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(order(2, 1).collect::<Vec<_>>(), [1, 0]);
    }
}
