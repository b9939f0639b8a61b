//! Reads the machine's clocks: the one place where time enters the node. Decides nothing about it: what a jump of the
//! wall clock means is the pure part's business (`types::clock`).

use crate::types::{Mono, Now};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cell::Cell;

/// For so long the wall clock is taken to go as the monotonic one does, nanoseconds.
const WALL_GOES_ON_NS: u64 = 1_000_000;

thread_local! {
    /// When this thread last read the wall clock, and what it said, nanoseconds.
    static WALL: Cell<(Mono, u64)> = const { Cell::new((Mono(0), 0)) };
}

/// Both clocks, mostly by one read, about 25 ns: a step of the wall clock may be seen a millisecond late.
pub fn now() -> Now {
    let mono = mono();
    let (read, mut wall_ns) = WALL.get();
    if mono.since(read) >= WALL_GOES_ON_NS {
        wall_ns = nanoseconds(clock_gettime(ClockId::Realtime));
        WALL.set((mono, wall_ns));
    } else {
        wall_ns += mono.since(read);
    }
    Now { wall_ms: wall_ns / 1_000_000, mono }
}

/// The monotonic clock alone. It goes on while the machine sleeps, so a deadline passes in a suspended machine too.
pub fn mono() -> Mono {
    Mono(nanoseconds(clock_gettime(ClockId::Boottime)))
}

/// CPU time of this thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

/// A clock before 1970 reads as 1970.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).expect("the kernel gives 0 to 999 999 999");
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_clock_does_not_go_back_and_wall_is_in_milliseconds() {
        let first = now();
        let second = now();
        assert!(second.mono >= first.mono);
        // After 2020 and before 2200: neither seconds nor microseconds.
        assert!((1_577_836_800_000..7_258_118_400_000).contains(&first.wall_ms));
    }

    #[test]
    fn wall_clock_between_two_reads_is_that_of_the_machine() {
        let wall_ms = || nanoseconds(clock_gettime(ClockId::Realtime)) / 1_000_000;
        for _ in 0..10_000 {
            let (before, now, after) = (wall_ms(), now().wall_ms, wall_ms());
            // It is slewed by NTP, so a step of a millisecond may be seen a little early or late.
            assert!(before <= now + 1 && now <= after + 1, "{before} {now} {after}");
        }
    }

    #[test]
    fn time_before_1970_reads_as_1970() {
        assert_eq!(nanoseconds(Timespec { tv_sec: -5, tv_nsec: 7 }), 7);
    }
}
