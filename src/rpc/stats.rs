//! What the gRPC layer counts: one writer per core, read by whoever is asked for metrics. Relaxed stores to lines of
//! its own, no read-modify-write: counting costs a call no more than the addition.

use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

/// One core's counters.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    requests: [[Counter; CODES]; Operation::ALL.len()],
    latencies: [Latencies; Operation::ALL.len()],
    /// Connections open now.
    pub connections: Counter,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Connections refused because there were too many.
    pub connections_refused: Counter,
    /// Connections that ended in an error: not HTTP/2, a broken rule of it, a time-out, a reset.
    pub connections_failed: Counter,
    /// Bytes of requests and answers held now.
    pub bytes_in_flight: Counter,
    /// Links to other nodes that are up now.
    pub links_up: Counter,
    /// Frames sent on them.
    pub link_frames_sent: Counter,
    /// Frames received from other nodes.
    pub link_frames_received: Counter,
    /// Bytes of requests sent on links.
    pub link_bytes_sent: Counter,
    /// Bytes of requests received on links.
    pub link_bytes_received: Counter,
    /// Frames that were dropped before they were sent: no room, too old, or to nobody known.
    pub link_frames_dropped: Counter,
    /// Attempts to bring a link up again.
    pub link_reconnects: Counter,
    /// Other nodes' links that were turned away.
    pub link_hellos_refused: Counter,
    /// Other nodes' links that were ended because a request was malformed.
    pub link_requests_malformed: Counter,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// What a call does, as metrics name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Get, of either API.
    Get,
    /// Put, of either API.
    Put,
    /// Delete.
    Delete,
    /// Exists.
    Exists,
    /// A batch of reads.
    BatchRead,
    /// A batch of writes.
    BatchWrite,
    /// A whole pipeline stream; its operations are counted as what they are.
    Pipeline,
    /// One page of a scan.
    Scan,
    /// The seed's Replicate.
    Replicate,
    /// The seed's SyncKeys.
    SyncKeys,
    /// Another node's link, from its beginning to its end.
    Link,
    /// Everything else.
    Other,
}

/// gRPC's codes are 0 to 16.
const CODES: usize = 17;

/// A histogram of microseconds: exact to 1/16, from 0 to over an hour.
#[derive(Debug)]
pub struct Latencies {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

const SUB_BITS: u32 = 4;
const SUBS: usize = 1 << SUB_BITS;
/// Readings of 2^32 µs and more count as the longest.
const BUCKETS: usize = SUBS * (32 - SUB_BITS as usize + 1);

impl Counters {
    /// All zero.
    pub fn new() -> Counters {
        Counters {
            requests: Default::default(),
            latencies: Default::default(),
            connections: Counter::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            connections_failed: Counter::default(),
            bytes_in_flight: Counter::default(),
            links_up: Counter::default(),
            link_frames_sent: Counter::default(),
            link_frames_received: Counter::default(),
            link_bytes_sent: Counter::default(),
            link_bytes_received: Counter::default(),
            link_frames_dropped: Counter::default(),
            link_reconnects: Counter::default(),
            link_hellos_refused: Counter::default(),
            link_requests_malformed: Counter::default(),
        }
    }

    /// Calls of an operation that ended with a code.
    pub fn requests(&self, operation: Operation, code: Code) -> u64 {
        self.requests[operation as usize][code as usize].get()
    }

    /// How long the calls of an operation took, from their headers to their answer.
    pub fn latencies(&self, operation: Operation) -> &Latencies {
        &self.latencies[operation as usize]
    }

    pub(crate) fn record(&self, operation: Operation, code: Code, ns: u64) {
        self.requests[operation as usize][code as usize].add(1);
        self.latencies[operation as usize].record(ns / 1_000);
    }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters::new()
    }
}

impl Counter {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, value: u64) {
        self.set(self.get().wrapping_add(value));
    }
}

impl Operation {
    /// Every operation, in the order of its number.
    pub const ALL: [Operation; 12] = [
        Operation::Get,
        Operation::Put,
        Operation::Delete,
        Operation::Exists,
        Operation::BatchRead,
        Operation::BatchWrite,
        Operation::Pipeline,
        Operation::Scan,
        Operation::Replicate,
        Operation::SyncKeys,
        Operation::Link,
        Operation::Other,
    ];

    /// Its label.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::Exists => "exists",
            Operation::BatchRead => "batch_read",
            Operation::BatchWrite => "batch_write",
            Operation::Pipeline => "pipeline",
            Operation::Scan => "scan",
            Operation::Replicate => "replicate",
            Operation::SyncKeys => "sync_keys",
            Operation::Link => "link",
            Operation::Other => "other",
        }
    }
}

impl Latencies {
    /// Each bucket's largest reading, microseconds, and its count; ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().enumerate().map(|(index, count)| (bucket_end_us(index), count.get()))
    }

    /// How many readings there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// All readings together, microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }

    fn record(&self, us: u64) {
        self.buckets[bucket(us)].add(1);
        self.sum_us.add(us);
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { buckets: [const { Counter(AtomicU64::new(0)) }; BUCKETS], sum_us: Counter::default() }
    }
}

/// Below 2^SUB_BITS one bucket per microsecond, above it 2^SUB_BITS per power of two.
fn bucket(us: u64) -> usize {
    let us = us.min(u64::from(u32::MAX));
    let magnitude = us.max(1).ilog2();
    if magnitude < SUB_BITS {
        return us as usize;
    }
    let sub = (us >> (magnitude - SUB_BITS)) as usize - SUBS;
    SUBS * (magnitude - SUB_BITS + 1) as usize + sub
}

fn bucket_end_us(index: usize) -> u64 {
    if index < SUBS {
        return index as u64;
    }
    let (octave, sub) = (index / SUBS - 1, index % SUBS);
    (((SUBS + sub + 1) as u64) << octave) - 1
}

/// The code with this number, for those who read the counters: every code in order.
pub fn codes() -> impl Iterator<Item = Code> {
    (0..CODES as i32).map(Code::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;

    #[test]
    fn every_reading_lies_in_its_bucket() {
        let mut prng = Prng::new(3);
        let random = (0..10_000).map(|_| {
            let shift = prng.below(32);
            prng.below(1 << 32) >> shift
        });
        for us in (0..5_000).chain(random) {
            let index = bucket(us);
            assert!(us <= bucket_end_us(index), "{us} in {index}");
            assert!(index == 0 || us > bucket_end_us(index - 1), "{us} in {index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_are_exact_to_a_sixteenth() {
        for index in SUBS..BUCKETS {
            let (low, high) = (bucket_end_us(index - 1) + 1, bucket_end_us(index));
            assert!((high - low + 1) * 16 <= low, "{low}..={high}");
        }
    }

    #[test]
    fn operations_are_numbered_as_listed() {
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, number);
        }
    }

    #[test]
    fn counters_of_two_cores_share_no_cache_line() {
        assert!(align_of::<Counters>() >= 128);
        let counters = Counters::new();
        counters.record(Operation::Put, Code::Ok, 5_000);
        assert_eq!(counters.requests(Operation::Put, Code::Ok), 1);
        assert_eq!(counters.latencies(Operation::Put).sum_us(), 5);
        assert_eq!(codes().count(), CODES);
    }
}
