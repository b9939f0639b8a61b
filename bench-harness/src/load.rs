//! Load: a closed loop of calls over several connections, one thread each, and what they saw. Knows nothing of the
//! server but its address.

use crate::wire::{Connection, Method};
use hdrhistogram::Histogram;
use ringcore::types::prng::Prng;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 100;
/// Bytes of a message's prefix in gRPC.
const PREFIX_BYTES: usize = 5;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After so long; calls begun before are waited for.
    Time(Duration),
    /// When every record has been written once.
    Filled,
}

/// What is done to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// One method for all calls.
    pub(crate) method: Method,
    /// Calls in flight, of all connections.
    pub(crate) in_flight: usize,
    /// Keys 0 .. `records` are asked for, uniformly.
    pub(crate) records: u64,
    /// When it ends.
    pub(crate) until: Until,
    /// The CPU that the client stays on; None = wherever it is put.
    pub(crate) cpu: Option<usize>,
}

/// What the client saw of a run.
pub(crate) struct Seen {
    /// Calls that ended well.
    pub(crate) calls: u64,
    /// From the first call to the last answer.
    pub(crate) took: Duration,
    /// Microseconds per call.
    pub(crate) latencies: Histogram<u32>,
}

/// Connections to one server, for one method.
pub(crate) struct Client {
    connections: Vec<Connection>,
    prng: Prng,
}

impl Client {
    /// Opens the connections.
    pub(crate) fn open(address: SocketAddr, method: Method, connections: usize) -> io::Result<Client> {
        let open = (0..connections).map(|_| Connection::open(address, method));
        Ok(Client { connections: open.collect::<io::Result<_>>()?, prng: Prng::new(1) })
    }

    /// Runs a load to its end. A refused call is an error: what is compared must be the same work.
    pub(crate) fn run(&mut self, load: &Load) -> io::Result<Seen> {
        let count = self.connections.len();
        assert!(load.in_flight >= count, "each connection has a call in flight");
        let begun = Instant::now();
        let results: Vec<io::Result<Seen>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..count as u64)
                .zip(&mut self.connections)
                .map(|(index, connection)| {
                    let share = Share { load: *load, index, of: count as u64, prng: self.prng.fork() };
                    scope.spawn(move || share.run(connection, begun))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
        });
        let mut all = Seen { calls: 0, took: Duration::ZERO, latencies: histogram() };
        for seen in results {
            let seen = seen?;
            all.calls += seen.calls;
            all.took = all.took.max(seen.took);
            all.latencies.add(seen.latencies).expect("all histograms have the same bounds");
        }
        Ok(all)
    }
}

/// One connection's part of a load.
struct Share {
    load: Load,
    index: u64,
    of: u64,
    prng: Prng,
}

impl Share {
    fn run(mut self, connection: &mut Connection, begun: Instant) -> io::Result<Seen> {
        if let Some(id) = self.load.cpu {
            // If it may not be pinned it still measures, with more spread.
            let _pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        let depth = self.load.in_flight / self.of as usize;
        // The answer to a Get that finds nothing is shorter than a value.
        let answer_bytes_min = PREFIX_BYTES + if self.load.method == Method::Get { VALUE_BYTES } else { 1 };
        let mut seen = Seen { calls: 0, took: Duration::ZERO, latencies: histogram() };
        let (mut next, mut failed) = (self.index, 0u64);
        loop {
            let now = Instant::now();
            while connection.open_calls() < depth {
                let Some(record) = self.next_record(&mut next, now.duration_since(begun)) else { break };
                connection.call(&message(self.load.method, record), now);
            }
            if connection.open_calls() == 0 {
                break;
            }
            connection.exchange(|ended| {
                failed += u64::from(ended.bytes < answer_bytes_min);
                seen.calls += 1;
                seen.latencies.saturating_record((ended.took.as_micros() as u64).max(1));
            })?;
        }
        seen.took = begun.elapsed();
        match failed {
            0 => Ok(seen),
            _ => Err(io::Error::other(format!(
                "{failed} of {} calls were refused or found nothing",
                seen.calls
            ))),
        }
    }

    fn next_record(&mut self, next: &mut u64, elapsed: Duration) -> Option<u64> {
        match self.load.until {
            Until::Time(limit) => (elapsed < limit).then(|| self.prng.below(self.load.records)),
            Until::Filled => {
                let record = *next;
                *next += self.of;
                (record < self.load.records).then_some(record)
            }
        }
    }
}

/// 1 µs to a minute, to 1 %.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("bounds and digits are in range")
}

/// The key of a record: its number, scattered over the token space by being hashed there anyway.
pub(crate) fn key(record: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&Prng::new(record).next_u64().to_le_bytes());
    key[8..].copy_from_slice(&record.to_le_bytes());
    key
}

/// A request's message: both have the key in field 1, a Put has the value in field 2.
fn message(method: Method, record: u64) -> Vec<u8> {
    let mut message = Vec::with_capacity(KEY_BYTES + VALUE_BYTES + 4);
    message.extend([0x0A, KEY_BYTES as u8]);
    message.extend(key(record));
    if method == Method::Put {
        message.extend([0x12, VALUE_BYTES as u8]);
        message.extend([b'v'; VALUE_BYTES]);
    }
    message
}
