//! What the generator is told: which operations on which records, when they begin, over how many connections.

use crate::workload::arrivals::Arrivals;
use crate::workload::keys::{Chooser, Records};
use crate::workload::mix::Mix;
use crate::workload::values::Sizes;
use std::sync::Arc;
use std::time::Duration;

/// When operations begin.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// By the clock: so many requests a second, of all threads.
    Open {
        /// Requests a second.
        rate: f64,
        /// Their distances.
        arrivals: Arrivals,
    },
    /// Whenever one of so many in flight, over all connections, has ended.
    Closed {
        /// In flight.
        in_flight: usize,
    },
}

/// How long it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// So long, after a warm-up that is not measured.
    Time {
        /// Of the part that is not measured.
        warm_up: Duration,
        /// Of the part that is.
        measured: Duration,
    },
    /// Until records 0 .. `records` have been written once.
    Filled {
        /// How many.
        records: u64,
    },
}

/// What all threads are told.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// When operations begin.
    pub(crate) pace: Pace,
    /// When they end.
    pub(crate) until: Until,
    /// Which they are.
    pub(crate) mix: Mix,
    /// On which records.
    pub(crate) chooser: Chooser,
    /// The records that there are.
    pub(crate) records: Arc<Records>,
    /// Length of a key.
    pub(crate) key_bytes: usize,
    /// Length of a value.
    pub(crate) value_bytes: Sizes,
    /// Keys per request.
    pub(crate) batch: usize,
    /// Connections of all threads; in a closed loop no more than are in flight.
    pub(crate) connections: usize,
    /// Threads; no more than connections.
    pub(crate) threads: usize,
    /// CPUs that they stay on, in turn; empty: wherever they are put.
    pub(crate) cpus: Vec<usize>,
    /// Tries of a request after the first, if its failure says that another may help.
    pub(crate) retries: u32,
    /// Writes have names.
    pub(crate) named: bool,
    /// Of all choices.
    pub(crate) seed: u64,
}

impl Load {
    /// What thread `index` keeps in flight: the shares of all threads make the whole. No bound in an open loop.
    pub(crate) fn in_flight_of(&self, index: usize) -> usize {
        match self.pace {
            Pace::Open { .. } => usize::MAX,
            Pace::Closed { in_flight } => {
                in_flight / self.threads + usize::from(index < in_flight % self.threads)
            }
        }
    }
}
