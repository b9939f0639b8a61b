//! What each core shows of itself to the others: padded numbers with one writer each, read by status and metrics.

use super::padded::Padded;
use crate::rpc::backend::CoreStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One core's numbers; see [`CoreStatus`] for what they mean.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    pub(crate) cpu: AtomicU64,
    pub(crate) busy_permille: AtomicU64,
    pub(crate) operations: AtomicU64,
    pub(crate) operations_per_second: AtomicU64,
    pub(crate) queued: AtomicU64,
    pub(crate) p50_us: AtomicU64,
    pub(crate) p99_us: AtomicU64,
    pub(crate) flush_p99_us: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) wal_written_bytes: AtomicU64,
    pub(crate) wal_bytes: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) tombstones: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) hops: AtomicU64,
    pub(crate) tick_late_us: AtomicU64,
    /// Clients' writes are refused: 0 or 1.
    pub(crate) full: AtomicU64,
    pub(crate) disk_free_bytes: AtomicU64,
}

/// The numbers of all cores.
pub(crate) type Gauges = Arc<[Padded<Gauge>]>;

/// Numbers for so many cores, all zero.
pub(crate) fn gauges(cores: usize) -> Gauges {
    (0..cores).map(|_| Padded::default()).collect()
}

impl Gauge {
    /// As status shows it.
    pub(crate) fn status(&self) -> CoreStatus {
        let small = |gauge: &AtomicU64| u32::try_from(gauge.load(Relaxed)).unwrap_or(u32::MAX);
        CoreStatus {
            cpu: small(&self.cpu),
            busy_permille: small(&self.busy_permille),
            operations_per_second: self.operations_per_second.load(Relaxed),
            queued: small(&self.queued),
            p50_us: small(&self.p50_us),
            p99_us: small(&self.p99_us),
            flush_p99_us: small(&self.flush_p99_us),
            flushes: self.flushes.load(Relaxed),
            wal_written_bytes: self.wal_written_bytes.load(Relaxed),
            wal_bytes: self.wal_bytes.load(Relaxed),
            records: self.records.load(Relaxed),
            tombstones: self.tombstones.load(Relaxed),
            memory_bytes: self.memory_bytes.load(Relaxed),
            hops: self.hops.load(Relaxed),
            tick_late_us: self.tick_late_us.load(Relaxed),
        }
    }
}
