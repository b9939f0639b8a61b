//! Real nodes in processes of their own, over loopback: killed, stopped, starved and flooded, then asked what they still
//! hold. What the simulator proves of the machine, this shows of the whole program with a real disk and real sockets.
//!
//! Every test ends only processes that it started, and keeps its data below the build's directory. Drawn numbers come
//! from one seed, which a failing test prints: `RINGCORE_TEST_SEED` sets it. The moments at which processes die are the
//! machine's own. `RINGCORE_TEST_KILLS` makes the first test longer, `RINGCORE_TEST_TIMED` has calls
//! beside crowds timed: see `tests/campaign`.
#![cfg(all(feature = "server", feature = "client"))]
#![allow(clippy::big_endian_bytes, reason = "HTTP/2 is")]
#![allow(clippy::unwrap_used, reason = "a test's way to fail, in its helpers too")]

mod node;
mod ports;
mod writer;

mod bad_starts;
mod core_counts;
mod cores;
mod crowds;
mod dev;
mod full;
mod golden;
mod kills;
mod three;
mod transfer;
