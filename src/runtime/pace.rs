//! Holds background writing to a rate, so that the log's flushes stay fast beside it, and to no less than keeps up with
//! the log. Arithmetic only; `disk` waits.
//!
//! Flat out, zeroing or snapshotting another file makes a flush of the log 9 to 15 times slower; at 50 MB/s in pieces of
//! 128 KiB it does not.

use crate::types::Mono;

/// Bytes per second that are always allowed.
pub const RATE_MIN: u64 = 50_000_000;
/// Time that may be made up for: waits end on ticks of 5 ms, so one comes up to a tick late.
const CATCH_UP_NS: u64 = 10_000_000;

/// The log's rate is that of so long.
const FOLLOW_NS: u64 = 250_000_000;

/// A rate and what has been taken of it.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When the log was last looked at, and the bytes that it had written by then.
    log: Option<(Mono, u64)>,
    /// When all that was taken so far is written, at this rate.
    free_at: Mono,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { bytes_per_second: RATE_MIN, log: None, free_at: Mono(0) }
    }
}

impl Pace {
    /// Lets all that is taken pass at once, until the log is followed: nothing is served beside it yet.
    pub fn hurry(&mut self) {
        self.bytes_per_second = u64::MAX;
    }

    /// Allows twice the rate at which the log is written, for its next segment and for the parts that free the ones before;
    /// never less than [`RATE_MIN`]. `written` = the log's bytes so far.
    pub fn follow(&mut self, now: Mono, written: u64) {
        let Some((from, before)) = self.log else {
            (self.log, self.bytes_per_second) = (Some((now, written)), RATE_MIN);
            return;
        };
        let ns = now.since(from);
        if ns >= FOLLOW_NS {
            let rate = u128::from(2 * (written - before)) * 1_000_000_000 / u128::from(ns);
            self.bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX).max(RATE_MIN);
            self.log = Some((now, written));
        }
    }

    /// Takes `bytes` and returns when they may be written.
    pub fn take(&mut self, now: Mono, bytes: u64) -> Mono {
        let start = self.free_at.max(Mono(now.0.saturating_sub(CATCH_UP_NS)));
        let cost_ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.free_at = start + u64::try_from(cost_ns).unwrap_or(u64::MAX);
        start.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 128 << 10;

    /// Bytes written in 10 s by one who waits as told and then to the end of the tick.
    fn bytes_in_ten_seconds(pace: &mut Pace, tick_ns: u64) -> u64 {
        let (mut now, mut bytes) = (Mono(1_000_000_000), 0);
        while now < Mono(11_000_000_000) {
            let at = pace.take(now, PIECE);
            if at > now {
                now = Mono(at.0.next_multiple_of(tick_ns));
            }
            bytes += PIECE;
        }
        bytes
    }

    #[test]
    fn rate_is_kept_though_waits_end_on_ticks() {
        for tick_ns in [1, 1_000_000, 5_000_000] {
            for rate in [RATE_MIN, 80_000_000] {
                let mut pace = Pace::default();
                pace.follow(Mono(0), 0);
                pace.follow(Mono(1_000_000_000), rate / 2);
                let bytes = bytes_in_ten_seconds(&mut pace, tick_ns);
                assert!(bytes.abs_diff(rate * 10) < rate / 10, "{bytes} bytes at {rate}, tick {tick_ns}");
            }
        }
    }

    #[test]
    fn rate_is_twice_the_logs_and_no_less_than_the_least() {
        let mut pace = Pace::default();
        pace.hurry();
        assert_eq!(pace.take(Mono(5), u64::MAX), Mono(5));
        assert!(pace.take(Mono(5), PIECE).0 < 5_000_000_000, "what was hurried through is not paid for");
        let mut seen = Vec::new();
        for (ms, written) in [(0, 7_000), (100, 900_000_000), (250, 100_007_000), (500, 100_007_000)] {
            pace.follow(Mono(ms * 1_000_000), written);
            seen.push(pace.bytes_per_second);
        }
        assert_eq!(seen, [RATE_MIN, RATE_MIN, 800_000_000, RATE_MIN]);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut pace = Pace::default();
        let now = Mono(3_600_000_000_000);
        let mut bytes = 0;
        while pace.take(now, PIECE) <= now {
            bytes += PIECE;
        }
        assert!(bytes <= RATE_MIN / 100 + PIECE, "{bytes} bytes at once");
    }
}
