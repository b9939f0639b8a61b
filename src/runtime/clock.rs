//! Reads the machine's clocks: the one place where time enters the node. Decides nothing about it: what a jump of the
//! wall clock means is the pure part's business (`types::clock`).

use crate::types::{Mono, Now};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Both clocks. Two reads, about 50 ns; meant once or twice per reactor pass, not per operation.
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    Now { wall_ms: nanoseconds(wall) / 1_000_000, mono: mono() }
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
    fn time_before_1970_reads_as_1970() {
        assert_eq!(nanoseconds(Timespec { tv_sec: -5, tv_nsec: 7 }), 7);
    }
}
