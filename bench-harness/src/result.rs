//! What a run gave, as `run.json` holds it: everything that a report shows or a comparison needs.

use crate::measure::{Tally, latencies};
use crate::workload::mix::Kind;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Grows when a reader must know more than before.
pub(crate) const FORMAT: u32 = 1;
/// Rows of the heat map per power of ten of latency, from 1 µs on.
pub(crate) const HEAT_ROWS_PER_DECADE: u32 = 10;
/// 1 µs to 100 s.
pub(crate) const HEAT_ROWS: usize = 8 * HEAT_ROWS_PER_DECADE as usize;

/// A whole run.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct RunResult {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// The command line.
    pub(crate) command: String,
    /// When it began, milliseconds since 1970.
    pub(crate) begun_at_ms: u64,
    /// How long was measured, seconds.
    pub(crate) seconds: f64,
    /// In words, for the head of a report.
    pub(crate) workload: Workload,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// Programs and their versions.
    pub(crate) versions: BTreeMap<String, String>,
    /// Why its figures are not to be used; empty = they are.
    pub(crate) invalid: Vec<String>,
    /// What one should know who reads it.
    pub(crate) notes: Vec<String>,
    /// The generator's own lag; None in a closed loop, which has no intended times.
    pub(crate) lag_us: Option<Percentiles>,
    /// Everything together.
    pub(crate) total: Figures,
    /// By kind of operation.
    pub(crate) kinds: BTreeMap<Kind, Figures>,
    /// By second.
    pub(crate) seconds_of: Vec<Second>,
    /// CPU time.
    pub(crate) cpu: Cpu,
    /// Connections that were lost.
    pub(crate) connections_lost: u64,
    /// Requests without an answer when it was over.
    pub(crate) unanswered: u64,
    /// Requests that were due and that the server took no more.
    pub(crate) never_begun: u64,
}

/// What was asked.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Workload {
    /// Who was asked.
    pub(crate) server: String,
    /// Requests a second; None = closed loop.
    pub(crate) rate: Option<f64>,
    /// In flight; None = open loop.
    pub(crate) in_flight: Option<usize>,
    /// Pairs of words for a table: what, how.
    pub(crate) parts: Vec<(String, String)>,
}

/// The machine of the generator, which is often that of the server.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// CPUs that there are.
    pub(crate) cpus: usize,
    /// Of memory.
    pub(crate) memory_bytes: u64,
    /// The kernel's name and version.
    pub(crate) kernel: String,
}

/// Of the requests that were answered well.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Figures {
    /// Requests.
    pub(crate) requests: u64,
    /// Operations: keys, where a request has several.
    pub(crate) operations: u64,
    /// Operations a second.
    pub(crate) operations_per_second: f64,
    /// Keys read that had no record.
    pub(crate) absent: u64,
    /// By reason: requests, and single keys within batches.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Of a request, from when it was to begin, microseconds.
    pub(crate) latency_us: Percentiles,
    /// The whole distribution, nanoseconds: HdrHistogram V2, compressed, base64.
    pub(crate) histogram: String,
}

/// Of a distribution, in microseconds.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub(crate) struct Percentiles {
    /// The mean.
    pub(crate) mean: f64,
    /// Half are faster.
    pub(crate) p50: f64,
    /// 90 % are.
    pub(crate) p90: f64,
    /// 99 % are.
    pub(crate) p99: f64,
    /// 99.9 % are.
    pub(crate) p999: f64,
    /// 99.99 % are.
    pub(crate) p9999: f64,
    /// The slowest.
    pub(crate) max: f64,
}

/// One second of the run.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Second {
    /// Requests that were answered well.
    pub(crate) requests: u64,
    /// Operations of those.
    pub(crate) operations: u64,
    /// Failures.
    pub(crate) failed: u64,
    /// Of the requests.
    pub(crate) latency_us: Percentiles,
    /// Requests by latency: row r holds those from 10^(r / 10) µs on, up to the next.
    pub(crate) heat: Vec<u64>,
    /// CPU seconds of the server in it; None if it is not known.
    pub(crate) server_cpu: Option<f64>,
    /// CPU seconds of the generator.
    pub(crate) generator_cpu: f64,
}

/// CPU time of the measured part.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub(crate) struct Cpu {
    /// Microseconds of the server's per operation; None if its process is not known.
    pub(crate) server_us_per_operation: Option<f64>,
    /// The server's, in cores.
    pub(crate) server_cores: Option<f64>,
    /// Microseconds of the generator's per operation.
    pub(crate) generator_us_per_operation: f64,
    /// The generator's, in cores.
    pub(crate) generator_cores: f64,
}

impl Percentiles {
    /// Of a histogram of nanoseconds; zeros if it is empty.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

impl Figures {
    /// Of what was counted in so many seconds.
    pub(crate) fn of(tally: &Tally, seconds: f64) -> Figures {
        Figures {
            requests: tally.latencies.len(),
            operations: tally.operations,
            operations_per_second: if seconds > 0.0 { tally.operations as f64 / seconds } else { 0.0 },
            absent: tally.absent,
            failures: tally.failures.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            latency_us: Percentiles::of(&tally.latencies),
            histogram: crate::report::hdr::encode(&tally.latencies),
        }
    }

    /// Failures of all reasons.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The whole distribution, nanoseconds.
    pub(crate) fn latencies(&self) -> io::Result<Histogram<u64>> {
        if self.histogram.is_empty() {
            return Ok(latencies());
        }
        crate::report::hdr::decode(&self.histogram)
    }
}

/// A second's requests by latency, for the heat map.
pub(crate) fn heat(histogram: &Histogram<u64>) -> Vec<u64> {
    let mut rows = vec![0; HEAT_ROWS];
    for value in histogram.iter_recorded() {
        let us = (value.value_iterated_to() as f64 / 1e3).max(1.0);
        let row = (us.log10() * f64::from(HEAT_ROWS_PER_DECADE)) as usize;
        rows[row.min(HEAT_ROWS - 1)] += value.count_at_value();
    }
    rows
}

impl RunResult {
    /// Reads a `run.json`, or the one in a directory.
    pub(crate) fn read(path: &Path) -> io::Result<RunResult> {
        let path = if path.is_dir() { path.join("run.json") } else { path.to_owned() };
        let name = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read(&path).map_err(|error| io::Error::new(error.kind(), name(&error)))?;
        let invalid = |why: String| io::Error::new(ErrorKind::InvalidData, why);
        let result: RunResult = serde_json::from_slice(&text)
            .map_err(|error| invalid(name(&format!("no run of ringbench: {error}"))))?;
        if result.format != FORMAT {
            return Err(invalid(name(&format!("of format {}, this program reads {FORMAT}", result.format))));
        }
        Ok(result)
    }
}

#[cfg(test)]
impl RunResult {
    /// A run in which nothing happened.
    pub(crate) fn blank(seconds: f64) -> RunResult {
        RunResult {
            format: FORMAT,
            command: "ringbench run --server ringcore --ycsb a".to_owned(),
            begun_at_ms: 1_785_000_000_000,
            seconds,
            workload: Workload {
                server: "ringcore at 127.0.0.1:7000".to_owned(),
                rate: None,
                in_flight: Some(256),
                parts: vec![
                    ("operations".to_owned(), "50 % read, 50 % update".to_owned()),
                    ("keys".to_owned(), "zipfian over 1 000 000".to_owned()),
                    ("values".to_owned(), "100 bytes".to_owned()),
                ],
            },
            machine: Machine {
                processor: "Some Processor 9000 @ 2.60 GHz".to_owned(),
                cpus: 2,
                memory_bytes: 25 << 30,
                kernel: "Linux 6.1.0".to_owned(),
            },
            versions: BTreeMap::from([("ringbench".to_owned(), "0.1.0".to_owned())]),
            invalid: Vec::new(),
            notes: Vec::new(),
            lag_us: None,
            total: Figures::of(&Tally::default(), seconds),
            kinds: BTreeMap::new(),
            seconds_of: Vec::new(),
            cpu: Cpu {
                server_us_per_operation: Some(4.56),
                server_cores: Some(0.85),
                generator_us_per_operation: 2.04,
                generator_cores: 0.45,
            },
            connections_lost: 0,
            unanswered: 0,
            never_begun: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_rows_are_tenths_of_a_decade() {
        let mut histogram = latencies();
        for us in [0, 1, 10, 100, 1_000_000, 200_000_000] {
            histogram.saturating_record(us * 1_000);
        }
        let rows = heat(&histogram);
        assert_eq!((rows[0], rows[10], rows[20], rows[60], rows[79]), (2, 1, 1, 1, 1));
        assert_eq!(rows.iter().sum::<u64>(), 6);
    }
}
