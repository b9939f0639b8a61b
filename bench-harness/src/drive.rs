//! Drives a load and makes a result of it: seconds as they pass, CPU times beside them, the verdict at the end.

use crate::generator::{Seen, Told};
use crate::load::{Load, Pace};
use crate::machine;
use crate::measure::{Tallies, Tally, add};
use crate::report::hdr::IntervalLog;
use crate::result::{Cpu, FORMAT, Figures, Percentiles, RunResult, Second, Workload, heat};
use crate::target::Target;
use crate::workload::mix::Kind;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A generator that begins one operation of a hundred so late has measured itself, microseconds.
const LAG_P99_US_MAX: f64 = 1_000.0;
/// So much lag is harmless if latencies are far above it.
const LAG_SHARE_MAX: f64 = 0.1;
/// Shares of the requests that was due and was not answered, from which on a rate is not held.
const UNHELD_SHARE_MAX: f64 = 0.01;

/// What to run, and how to call it.
pub(crate) struct Drive<'a> {
    /// Who is asked.
    pub(crate) target: &'a Target,
    /// What.
    pub(crate) load: &'a Load,
    /// The server's process, if it is on this machine.
    pub(crate) server: Option<u32>,
    /// For the head of the report.
    pub(crate) workload: Workload,
    /// Programs and their versions.
    pub(crate) versions: BTreeMap<String, String>,
}

/// A result and what is too long for it.
pub(crate) struct Driven {
    /// The figures.
    pub(crate) result: RunResult,
    /// The interval log.
    pub(crate) log: Vec<u8>,
}

/// What has passed, for who watches.
pub(crate) enum Passed<'a> {
    /// A second: which, from 0, and its figures.
    Second(u64, &'a Second),
    /// So many more records were filled.
    Filled(u64),
}

impl Drive<'_> {
    /// Runs the load to its end, or until `stop`; `watch` hears of each second.
    pub(crate) fn run(&self, stop: &AtomicBool, mut watch: impl FnMut(Passed<'_>)) -> io::Result<Driven> {
        let begun_at = SystemTime::now();
        let begun_at_ms = begun_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let (told, tell) = mpsc::channel();
        let mut log = IntervalLog::new(begun_at_ms);
        let mut gather = Gather::new(self.load, self.server);
        let seen = thread::scope(|scope| {
            let running = scope.spawn(|| self.target.run(self.load, stop, &told.clone()));
            loop {
                match tell.recv_timeout(Duration::from_millis(100)) {
                    Ok(Told::Second { second, tallies }) => {
                        for (second, tallies) in gather.take(second, &tallies) {
                            watch(Passed::Second(second, gather.close(second, &tallies, &mut log)));
                        }
                    }
                    Ok(Told::Measuring) => gather.read_clocks(),
                    Ok(Told::Filled { more }) => watch(Passed::Filled(more)),
                    // All threads have told all by now.
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                        if running.is_finished() {
                            break;
                        }
                    }
                }
            }
            running.join().expect("the load does not panic")
        })?;
        for (second, tallies) in std::mem::take(&mut gather.open) {
            gather.close(second, &tallies.1, &mut log);
        }
        let result = self.result(begun_at_ms, gather, seen, stop.load(Relaxed));
        Ok(Driven { result, log: log.into_bytes() })
    }

    fn result(&self, begun_at_ms: u64, gather: Gather, seen: Vec<Seen>, stopped: bool) -> RunResult {
        let measured = seen.iter().map(|seen| seen.measured).max().unwrap_or_default();
        let seconds = measured.as_secs_f64();
        let mut total = Tally::default();
        gather.total.values().for_each(|tally| total.add(tally));
        let mut lag = crate::measure::latencies();
        seen.iter().for_each(|seen| lag.add(&seen.lag).expect("all have the same bounds"));
        let open = matches!(self.load.pace, Pace::Open { .. });
        let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
        let mut seconds_of = gather.seconds;
        // What was told after the last whole second is the rest of it.
        seconds_of.truncate((seconds.ceil() as usize).max(1));
        let operations = total.operations.max(1) as f64;
        let cpu = |spent: f64| spent * 1e6 / operations;
        let generator: f64 = seconds_of.iter().map(|second| second.generator_cpu).sum();
        let server: Option<f64> = seconds_of.iter().map(|second| second.server_cpu).sum();
        let mut result = RunResult {
            format: FORMAT,
            command: command_line(),
            begun_at_ms,
            seconds,
            workload: self.workload.clone(),
            machine: machine::describe(),
            versions: self.versions.clone(),
            invalid: Vec::new(),
            notes: Vec::new(),
            lag_us: open.then(|| Percentiles::of(&lag)),
            total: Figures::of(&total, seconds),
            kinds: gather.total.iter().map(|(kind, tally)| (*kind, Figures::of(tally, seconds))).collect(),
            seconds_of,
            cpu: Cpu {
                server_us_per_operation: server.map(cpu),
                server_cores: server.map(|spent| spent / seconds),
                generator_us_per_operation: cpu(generator),
                generator_cores: generator / seconds,
            },
            connections_lost: sum(|seen| seen.connections_lost),
            unanswered: sum(|seen| seen.unanswered),
            never_begun: sum(|seen| seen.never_begun),
        };
        if stopped {
            result.notes.push("stopped before its time".to_owned());
        }
        let most = seen.iter().map(|seen| seen.in_flight_most).sum::<usize>();
        if let Pace::Closed { in_flight } = self.load.pace
            && most < in_flight
        {
            result
                .notes
                .push(format!("never more than {most} requests were in flight: the server took no more"));
        }
        judge(&mut result);
        result
    }
}

/// A short load that must succeed: what is compared must be the same work.
pub(crate) struct Burst {
    /// Operations that were answered: keys.
    pub(crate) operations: u64,
    /// From the first to the last.
    pub(crate) took: Duration,
    /// Of the requests, nanoseconds.
    pub(crate) latencies: Histogram<u64>,
}

/// Runs a load to its end. A request that fails, or a read that finds nothing, is an error.
pub(crate) fn burst(target: &Target, load: &Load) -> io::Result<Burst> {
    let (told, tell) = mpsc::channel();
    let seen = target.run(load, &AtomicBool::new(false), &told)?;
    drop(told);
    let mut all = Tally::default();
    for told in tell {
        if let Told::Second { tallies, .. } = told {
            tallies.values().for_each(|tally| all.add(tally));
        }
    }
    if all.failed() + all.absent > 0 {
        let (failed, absent) = (all.failed(), all.absent);
        return Err(io::Error::other(format!(
            "{failed} requests were refused, {absent} reads found nothing"
        )));
    }
    let took = seen.iter().map(|seen| seen.measured).max().unwrap_or_default();
    Ok(Burst { operations: all.operations, took, latencies: all.latencies })
}

/// Says why a run is invalid, and what else its reader should know.
fn judge(result: &mut RunResult) {
    let total = &result.total;
    if total.requests == 0 {
        result.invalid.push("no request was answered well".to_owned());
    }
    if let Some(lag) = result.lag_us
        && lag.p99 > LAG_P99_US_MAX.max(LAG_SHARE_MAX * total.latency_us.p99)
    {
        result.invalid.push(format!(
            "the generator itself was late: 1 % of the requests by {:.1} ms or more; give it more --cores, or ask for less",
            lag.p99 / 1e3
        ));
    }
    let reads: u64 = [Kind::Read, Kind::ReadModifyWrite]
        .iter()
        .filter_map(|kind| result.kinds.get(kind))
        .map(|figures| figures.operations)
        .sum();
    if total.absent * 10 > reads {
        let percent = total.absent as f64 * 100.0 / reads.max(1) as f64;
        result
            .notes
            .push(format!("{percent:.0} % of the reads found no record: `ringbench load` writes them"));
    }
    if let Some(rate) = result.workload.rate {
        let due = rate * result.seconds;
        let missing = (result.unanswered + result.never_begun) as f64;
        if missing > due * UNHELD_SHARE_MAX {
            let percent = missing * 100.0 / due;
            result.notes.push(format!(
                "the server did not hold the rate: {percent:.0} % of the requests that were due had no answer at the end"
            ));
        }
    }
    if result.kinds.contains_key(&Kind::Scan) {
        result.notes.push("scans go in the order of tokens: this store has no order of keys".to_owned());
    }
}

/// What the threads have told of each second, until all have.
struct Gather {
    threads: usize,
    /// By second: how many threads have told, and what.
    open: BTreeMap<u64, (usize, Tallies)>,
    total: Tallies,
    seconds: Vec<Second>,
    server: Option<u32>,
    server_before: Option<Duration>,
    generator_before: Duration,
}

impl Gather {
    fn new(load: &Load, server: Option<u32>) -> Gather {
        let mut gather = Gather {
            threads: load.threads,
            open: BTreeMap::new(),
            total: Tallies::new(),
            seconds: Vec::new(),
            server,
            server_before: None,
            generator_before: Duration::ZERO,
        };
        gather.read_clocks();
        gather
    }

    /// CPU times count from here on.
    fn read_clocks(&mut self) {
        self.server_before = self.server.and_then(|pid| machine::cpu_time(pid).ok());
        self.generator_before = machine::cpu_time(std::process::id()).unwrap_or_default();
    }

    /// Takes a thread's second; those that are complete now.
    fn take(&mut self, second: u64, tallies: &Tallies) -> Vec<(u64, Tallies)> {
        let (threads, sum) = self.open.entry(second).or_default();
        *threads += 1;
        add(sum, tallies);
        let mut complete = Vec::new();
        while let Some(entry) = self.open.first_entry()
            && entry.get().0 == self.threads
        {
            let (second, (_, tallies)) = entry.remove_entry();
            complete.push((second, tallies));
        }
        complete
    }

    fn close(&mut self, second: u64, tallies: &Tallies, log: &mut IntervalLog) -> &Second {
        let mut all = Tally::default();
        for (kind, tally) in tallies {
            all.add(tally);
            log.add(second, kind.name(), &tally.latencies);
        }
        add(&mut self.total, tallies);
        let server = self.server.and_then(|pid| machine::cpu_time(pid).ok());
        let generator = machine::cpu_time(std::process::id()).unwrap_or_default();
        let spent = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64();
        let server_cpu = server.zip(self.server_before).map(|(now, before)| spent(now, before));
        self.seconds.push(Second {
            requests: all.latencies.len(),
            operations: all.operations,
            failed: all.failed(),
            latency_us: Percentiles::of(&all.latencies),
            heat: heat(&all.latencies),
            server_cpu,
            generator_cpu: spent(generator, self.generator_before),
        });
        (self.server_before, self.generator_before) = (server, generator);
        self.seconds.last().expect("it was just pushed")
    }
}

/// The command line as it was typed, near enough.
fn command_line() -> String {
    let words = std::env::args().enumerate().map(|(index, word)| {
        let word = if index == 0 { word.rsplit('/').next().unwrap_or_default().to_owned() } else { word };
        if word.is_empty() || word.contains([' ', '"', '\'', '$', '*']) { format!("'{word}'") } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Answer;

    #[test]
    fn what_had_no_answer_is_counted_by_requests_and_not_by_keys() {
        let notes = |never_begun, unanswered| {
            let mut tally = Tally::default();
            // Of 1 000 requests that were due, 970 with a key each that failed.
            (0..970).for_each(|_| tally.record(&Answer::Done { absent: 0, failed: 1 }, 64, 1_000_000));
            let mut result = RunResult::blank(1.0);
            result.workload.rate = Some(1_000.0);
            result.total = Figures::of(&tally, 1.0);
            (result.never_begun, result.unanswered) = (never_begun, unanswered);
            judge(&mut result);
            result.notes
        };
        assert_eq!(notes(20, 10).len(), 1, "three of a hundred are missing");
        assert!(notes(20, 10)[0].contains(": 3 % of the requests"), "{:?}", notes(20, 10));
        assert_eq!(
            notes(0, 10),
            Vec::<String>::new(),
            "fewer were due than the rate has it: chance, or an early end"
        );
    }
}
