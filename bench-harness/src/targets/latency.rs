//! Comparisons of latencies: of one Put alone, and of Puts beside a snapshot.

use super::{Bench, GENERATOR_CPU, SERVER_CORE, closed, fill};
use crate::drive::burst;
use crate::empty::Stack;
use crate::load::{Load, Pace, Until};
use crate::measure::latencies;
use crate::process::{Kind as Program, Server};
use crate::report::table::{Finding, Outcome, Target};
use crate::rounds::Spread;
use crate::workload::arrivals::Arrivals;
use crate::workload::mix::{Kind, Mix};
use hdrhistogram::Histogram;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Slices that a round of `snapshot` is cut into: each lies within a snapshot's writing, or outside, or is left out.
const SLICES: usize = 60;
/// Of a slice: long enough for a p99 of thousands, shorter than a part takes to be written.
const SLICE: Duration = Duration::from_millis(100);
/// Before each slice, while its connections are made.
const SLICE_WARM_UP: Duration = Duration::from_millis(50);

/// A block as the disk takes it.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Writes one block after another past the page cache, each on the disk before the next, as a log would.
struct RawWriter {
    file: OwnedFd,
    block: Block,
    next: u64,
}

impl RawWriter {
    const BLOCKS: u64 = 4_096;

    /// A file that has all its blocks already.
    fn create(path: &Path) -> io::Result<RawWriter> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT;
        let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
        let mut writer = RawWriter { file, block: Block([0; 4096]), next: 0 };
        (0..RawWriter::BLOCKS).try_for_each(|_| writer.write(ReadWriteFlags::empty()))?;
        rustix::fs::fsync(&writer.file)?;
        writer.block.0.fill(b'v');
        Ok(writer)
    }

    fn write(&mut self, flags: ReadWriteFlags) -> io::Result<()> {
        let at = self.next % RawWriter::BLOCKS * 4_096;
        self.next += 1;
        let written = pwritev2(&self.file, &[IoSlice::new(&self.block.0)], at, flags)?;
        if written == self.block.0.len() { Ok(()) } else { Err(io::Error::other("a block was cut short")) }
    }

    /// Microseconds of the median write, of so long.
    fn median_us(&mut self, during: Duration) -> io::Result<f64> {
        let (begun, mut all) = (Instant::now(), latencies());
        while begun.elapsed() < during {
            let before = Instant::now();
            self.write(ReadWriteFlags::DSYNC)?;
            all.saturating_record(before.elapsed().as_nanos() as u64);
        }
        Ok(microseconds(&all, 0.5))
    }
}

impl Bench {
    pub(super) fn single(&self) -> io::Result<Outcome> {
        let node = self.start_filled(&self.node("flushed"), SERVER_CORE, "node")?;
        let empty = self.start(&Program::Empty(Stack::Plain), SERVER_CORE, "empty")?;
        let mut disk = RawWriter::create(&self.dir.join("raw"))?;
        let until = Until::Time { warm_up: self.round / 10, measured: self.round };
        let alone = closed(Mix::only(Kind::Update), until, 1, self.records);
        let alone = Load { connections: 1, cpus: vec![GENERATOR_CPU], ..alone };
        let put_us = |server: &Server| {
            burst(&server.target(), &alone).map(|burst| microseconds(&burst.latencies, 0.5))
        };
        let (mut puts, mut calls, mut writes, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let (put, call, write) = (put_us(&node)?, put_us(&empty)?, disk.median_us(self.round)?);
            puts.push(put);
            calls.push(call);
            writes.push(write);
            ratios.push(put / (call + write));
        }
        let told = |what: &str, figures: &[f64]| Finding::new(what, Spread::of(figures), "us", Target::None);
        let findings = vec![
            told("p50 of one Put at a time", &puts),
            told("p50 of one call at a time, answered at once", &calls),
            told("p50 of one 4 KiB write to the disk", &writes),
            Finding::new("Put / (call + write)", Spread::of(&ratios), "", Target::AtMost(1.25)),
        ];
        Ok(Outcome { comparison: "single", figures: Vec::new(), findings })
    }

    pub(super) fn snapshot(&self) -> io::Result<Outcome> {
        let program =
            Program::Node { program: self.program.clone(), durability: "flushed", log_level: "debug" };
        let node = self.start(&program, SERVER_CORE, "node")?;
        fill(&node, self.many_records)?;
        let until = Until::Time { warm_up: SLICE_WARM_UP, measured: Duration::from_secs(2) };
        let full = closed(Mix::only(Kind::Update), until, self.in_flight, self.many_records);
        let full = Load { cpus: vec![GENERATOR_CPU], ..full };
        let saturated = burst(&node.target(), &full)?;
        let rate = saturated.operations as f64 / saturated.took.as_secs_f64() / 2.0;
        let half = Load {
            pace: Pace::Open { rate, arrivals: Arrivals::Poisson },
            until: Until::Time { warm_up: SLICE_WARM_UP, measured: SLICE },
            ..full
        };
        let (mut beside, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let mut slices = Vec::with_capacity(SLICES);
            for _ in 0..SLICES {
                let burst = burst(&node.target(), &half)?;
                slices.push((SystemTime::now(), burst.latencies));
            }
            // A part that is still being written is told of when it is done.
            std::thread::sleep(Duration::from_secs(2));
            let written = parts_written(&node)?;
            // Each slice's own p99, and of those the median: one stall of the machine spoils one slice.
            let (mut during, mut quiet) = (Vec::new(), Vec::new());
            for (end, slice) in &slices {
                let overlap = overlap(*end - SLICE, *end, &written);
                let into = if overlap.is_zero() {
                    &mut quiet
                } else if overlap >= SLICE / 2 {
                    &mut during
                } else {
                    continue;
                };
                into.push(microseconds(slice, 0.99));
            }
            if during.is_empty() || quiet.is_empty() {
                continue;
            }
            let (during, quiet) = (Spread::of(&during).median, Spread::of(&quiet).median);
            beside.push(during);
            without.push(quiet);
            ratios.push(during / quiet);
        }
        if ratios.is_empty() {
            return Err(io::Error::other(
                "no round had slices both beside a snapshot and without: --many-records changes how long one takes",
            ));
        }
        let told = |what: &str, figures: &[f64]| Finding::new(what, Spread::of(figures), "us", Target::None);
        let findings = vec![
            told(&format!("p99 at {rate:.0} Puts a second, beside a snapshot"), &beside),
            told("p99 without", &without),
            Finding::new("beside a snapshot / without", Spread::of(&ratios), "", Target::AtMost(1.5)),
        ];
        Ok(Outcome { comparison: "snapshot", figures: Vec::new(), findings })
    }
}

fn microseconds(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

/// From when to when the node has written each of its parts.
fn parts_written(node: &Server) -> io::Result<Vec<(SystemTime, SystemTime)>> {
    let unreadable = || io::Error::other("the node's trace is not as expected");
    let traced = node.traced("part written")?;
    let windows = traced.iter().map(|line| {
        let end = humantime::parse_rfc3339(line["timestamp"].as_str()?).ok()?;
        Some((end - Duration::from_millis(line["ms"].as_u64()?), end))
    });
    windows.collect::<Option<_>>().ok_or_else(unreadable)
}

/// How much of the time between two moments lies within any of the windows, which do not overlap.
fn overlap(from: SystemTime, to: SystemTime, windows: &[(SystemTime, SystemTime)]) -> Duration {
    let shared = |(begun, ended): &(SystemTime, SystemTime)| {
        (*ended).min(to).duration_since((*begun).max(from)).unwrap_or_default()
    };
    windows.iter().map(shared).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_what_both_share() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let windows = [(at(100), at(200)), (at(300), at(400))];
        let shared = |from, to| overlap(at(from), at(to), &windows).as_millis();
        assert_eq!([shared(0, 100), shared(0, 150), shared(150, 350), shared(200, 300)], [0, 50, 100, 0]);
        assert_eq!(shared(0, 1_000), 200);
    }
}
