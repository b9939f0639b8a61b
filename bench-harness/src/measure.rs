//! What a run measures while it goes on: per kind of operation and second, how many ended, how, and how long they took.

use crate::client::{Answer, Refusal};
use crate::workload::mix::Kind;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Latencies are told apart from here on, ns.
const LATENCY_NS_MIN: u64 = 1_000;
/// Longer ones are recorded as this, ns.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Latencies of the requests that were answered well, ns from their intended start.
    pub(crate) latencies: Histogram<u64>,
    /// Operations of those requests: keys of batches.
    pub(crate) operations: u64,
    /// Keys that were read and had no record.
    pub(crate) absent: u64,
    /// Requests that failed, and keys that failed within batches (under [`IN_BATCH`]).
    pub(crate) failures: BTreeMap<&'static str, u64>,
}

/// What failures of single keys within an answered batch are counted under.
pub(crate) const IN_BATCH: &str = "within a batch";

impl Default for Tally {
    fn default() -> Tally {
        Tally { latencies: latencies(), operations: 0, absent: 0, failures: BTreeMap::new() }
    }
}

impl Tally {
    /// A request of `keys` keys ended.
    pub(crate) fn record(&mut self, answer: &Answer, keys: u64, ns: u64) {
        match *answer {
            Answer::Done { absent, failed } => {
                self.latencies.saturating_record(ns);
                self.operations += keys - u64::from(failed);
                self.absent += u64::from(absent);
                if failed > 0 {
                    *self.failures.entry(IN_BATCH).or_default() += u64::from(failed);
                }
            }
            Answer::Refused(refusal) => self.fail(refusal),
        }
    }

    fn fail(&mut self, refusal: Refusal) {
        *self.failures.entry(refusal.name()).or_default() += 1;
    }

    /// Adds another's.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.latencies.add(&other.latencies).expect("all have the same bounds");
        self.operations += other.operations;
        self.absent += other.absent;
        for (name, count) in &other.failures {
            *self.failures.entry(name).or_default() += count;
        }
    }

    /// Failures of all reasons.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// All kinds together.
pub(crate) type Tallies = BTreeMap<Kind, Tally>;

/// Adds the second to the first.
pub(crate) fn add(to: &mut Tallies, from: &Tallies) {
    for (kind, tally) in from {
        to.entry(*kind).or_default().add(tally);
    }
}

/// An empty histogram of latencies: three digits, 1 µs to 2 minutes, in nanoseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("bounds and digits are in range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_count_by_key_and_failures_by_name() {
        let mut tally = Tally::default();
        tally.record(&Answer::Done { absent: 2, failed: 1 }, 64, 5_000_000);
        tally.record(&Answer::Refused(Refusal::Code(8)), 64, 1);
        let mut sum = Tally::default();
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!((sum.operations, sum.absent, sum.latencies.len(), sum.failed()), (126, 4, 2, 4));
        assert_eq!(sum.failures[IN_BATCH], 2);
        assert_eq!(sum.failures["RESOURCE_EXHAUSTED"], 2);
    }

    #[test]
    fn latencies_keep_three_digits() {
        let mut histogram = latencies();
        histogram.saturating_record(1_234_567);
        let value = histogram.value_at_quantile(1.0);
        assert!(value.abs_diff(1_234_567) < 1_500, "{value}");
        histogram.saturating_record(u64::MAX);
        assert!(histogram.max() >= LATENCY_NS_MAX);
    }
}
