//! When operations are to begin. An open loop: the schedule does not wait for answers, so a server that stalls is
//! measured as its users would feel it.

use super::keys::unit;
use ringcore::types::prng::Prng;
use serde::{Deserialize, Serialize};

/// The times between arrivals.
#[derive(Serialize, Deserialize, clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arrivals {
    /// All the same.
    Constant,
    /// Exponentially distributed, as those of many independent users are.
    Poisson,
}

/// One thread's share of the arrivals: nanoseconds since the run's beginning, rising.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// Mean time between two arrivals of this thread, ns.
    mean_ns: f64,
    /// The next one.
    next_ns: f64,
    prng: Prng,
}

impl Schedule {
    /// Thread `index` of `threads`, which make `rate` arrivals a second together.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, index: usize, threads: usize, prng: Prng) -> Schedule {
        let mean_ns = 1e9 * threads as f64 / rate;
        let mut schedule = Schedule { arrivals, mean_ns, next_ns: 0.0, prng };
        schedule.next_ns = match arrivals {
            Arrivals::Constant => mean_ns * index as f64 / threads as f64,
            Arrivals::Poisson => schedule.gap_ns(),
        };
        schedule
    }

    /// When the next operation is to begin.
    pub(crate) fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// It has begun.
    pub(crate) fn advance(&mut self) {
        self.next_ns += self.gap_ns();
    }

    fn gap_ns(&mut self) -> f64 {
        match self.arrivals {
            Arrivals::Constant => self.mean_ns,
            // 1 - unit is in (0, 1], so the logarithm is finite.
            Arrivals::Poisson => -self.mean_ns * (1.0 - unit(&mut self.prng)).ln(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals, count: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(arrivals, 1_000.0, 0, 1, Prng::new(5));
        let mut last = 0;
        let gap = |_| {
            schedule.advance();
            let gap = schedule.next_ns() - last;
            last = schedule.next_ns();
            gap as f64
        };
        (0..count).map(gap).collect()
    }

    #[test]
    fn constant_arrivals_of_several_threads_interleave_evenly() {
        let mut threads: Vec<_> =
            (0..3).map(|index| Schedule::new(Arrivals::Constant, 3_000.0, index, 3, Prng::new(1))).collect();
        let mut times: Vec<u64> = Vec::new();
        for _ in 0..100 {
            for thread in &mut threads {
                times.push(thread.next_ns());
                thread.advance();
            }
        }
        let apart = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(apart.clone().all(|ns| ns.abs_diff(333_333) < 2), "{:?}", apart.collect::<Vec<_>>());
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let gaps = gaps(Arrivals::Poisson, 100_000);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!(
            (mean / 1e6 - 1.0).abs() < 0.02 && (deviation / 1e6 - 1.0).abs() < 0.03,
            "{mean} {deviation}"
        );
    }
}
