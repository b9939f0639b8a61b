//! HdrHistogram's formats, as its standard tools read them: the compressed V2 encoding, the interval log (`.hlog`), the
//! percentile distribution (`.hgrm`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::time::{Duration, UNIX_EPOCH};

/// Nanoseconds of a unit in which logs and distributions are told: microseconds.
const UNIT_NS: f64 = 1e3;
/// Nanoseconds of the log's unit for maxima, a millisecond.
const MAX_DIVISOR: f64 = 1e6;
/// Points of a distribution per halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

/// The compressed V2 encoding, in base64.
pub(crate) fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("memory takes all that is written");
    STANDARD.encode(bytes)
}

/// What [`encode`] made.
pub(crate) fn decode(text: &str) -> io::Result<Histogram<u64>> {
    let broken = |why: String| io::Error::new(ErrorKind::InvalidData, format!("a histogram: {why}"));
    let bytes = STANDARD.decode(text).map_err(|error| broken(error.to_string()))?;
    Deserializer::new().deserialize(&mut &bytes[..]).map_err(|error| broken(error.to_string()))
}

/// An interval log. Values are nanoseconds; the log's own column of maxima is in milliseconds, as its tools expect.
pub(crate) struct IntervalLog {
    text: Vec<u8>,
    serializer: V2DeflateSerializer,
}

impl IntervalLog {
    /// That begins at a time, milliseconds since 1970.
    pub(crate) fn new(begun_at_ms: u64) -> IntervalLog {
        let (mut text, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
        let begun = UNIX_EPOCH + Duration::from_millis(begun_at_ms);
        IntervalLogWriterBuilder::new()
            .add_comment("latencies in nanoseconds; tags are kinds of operations")
            .with_start_time(begun)
            .with_base_time(begun)
            .with_max_value_divisor(MAX_DIVISOR)
            .begin_log_with(&mut text, &mut serializer)
            .expect("memory takes all that is written");
        IntervalLog { text, serializer }
    }

    /// Adds what one kind of operation did in one second.
    pub(crate) fn add(&mut self, second: u64, tag: &str, latencies: &Histogram<u64>) {
        let tag = Tag::new(tag).expect("a name without a comma or a space");
        let (start, length) = (Duration::from_secs(second), Duration::from_secs(1));
        // Its header is written once, by `new`.
        let mut line = Vec::new();
        IntervalLogWriterBuilder::new()
            .with_max_value_divisor(MAX_DIVISOR)
            .begin_log_with(&mut line, &mut self.serializer)
            .and_then(|mut log| {
                log.write_histogram(latencies, start, length, Some(tag))
                    .map_err(|_| io::ErrorKind::Other.into())
            })
            .expect("memory takes all that is written");
        let lines = line.split_inclusive(|byte| *byte == b'\n').filter(|line| line.starts_with(b"Tag="));
        lines.for_each(|line| self.text.extend_from_slice(line));
    }

    /// The log.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.text
    }
}

/// A percentile distribution in microseconds, as `HistogramLogProcessor` prints it.
pub(crate) fn percentile_text(histogram: &Histogram<u64>) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for value in histogram.iter_quantiles(TICKS_PER_HALF) {
        let quantile = value.quantile_iterated_to();
        count += value.count_since_last_iteration();
        write!(text, "{:12.3} {quantile:2.12} {count:10}", value.value_iterated_to() as f64 / UNIT_NS)
            .expect("a string takes all that is written");
        if quantile < 1.0 {
            write!(text, " {:14.2}", 1.0 / (1.0 - quantile)).expect("as above");
        }
        text.push('\n');
    }
    let us = |ns: f64| ns / UNIT_NS;
    let (mean, deviation) = (us(histogram.mean()), us(histogram.stdev()));
    let (max, count) = (us(histogram.max() as f64), histogram.len());
    writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]").expect("as above");
    writeln!(text, "#[Max     = {max:12.3}, Total count    = {count:12}]").expect("as above");
    let (buckets, sub) = (histogram.buckets(), histogram.distinct_values());
    writeln!(text, "#[Buckets = {buckets:12}, SubBuckets     = {sub:12}]").expect("as above");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::latencies;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn sample() -> Histogram<u64> {
        let mut histogram = latencies();
        (1..=10_000_u64).for_each(|us| histogram.saturating_record(us * 1_000));
        histogram
    }

    #[test]
    fn encoding_keeps_the_distribution() {
        let histogram = sample();
        let back = decode(&encode(&histogram)).unwrap();
        assert_eq!((back.len(), back.max()), (histogram.len(), histogram.max()));
        assert_eq!(back.value_at_quantile(0.99), histogram.value_at_quantile(0.99));
        assert!(decode("no base64!").is_err() && decode("AAAA").is_err());
    }

    #[test]
    fn log_is_read_by_the_formats_own_reader() {
        let histogram = sample();
        let mut log = IntervalLog::new(1_700_000_000_000);
        (0..3).for_each(|second| log.add(second, "read", &histogram));
        let log = log.into_bytes();
        let parsed: Vec<_> = IntervalLogIterator::new(&log).collect::<Result<_, _>>().unwrap();
        let intervals: Vec<_> = parsed
            .iter()
            .filter_map(|entry| match entry {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 3);
        assert_eq!(intervals[2].start_timestamp(), Duration::from_secs(2));
        assert_eq!(intervals[2].tag().unwrap().as_str(), "read");
        assert_eq!(decode(intervals[2].encoded_histogram()).unwrap().len(), 10_000);
    }

    #[test]
    fn percentile_text_rises_to_the_greatest_and_counts_all() {
        let text = percentile_text(&sample());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2], last.len()), (1.0, 10_000.0, 3));
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 5_000.0).abs() < 10.0 && (median[3] - 2.0).abs() < 0.1);
    }
}
