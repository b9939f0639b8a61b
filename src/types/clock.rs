//! Time as the pure part sees it: an argument, never a call.

use super::version::Hlc;
use core::ops::Add;

/// A point on the node's monotonic clock, nanoseconds since an arbitrary start. It does not stop while the machine
/// sleeps (CLOCK_BOOTTIME).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Never reached.
    pub const NEVER: Mono = Mono(u64::MAX);

    /// Nanoseconds from `earlier` to here; 0 if it is later.
    pub fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `ms` milliseconds later.
    pub fn after_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

impl Add<u64> for Mono {
    type Output = Mono;

    /// Nanoseconds later.
    fn add(self, ns: u64) -> Mono {
        Mono(self.0.saturating_add(ns))
    }
}

/// Both clocks, read once per reactor pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Milliseconds since 1970, as the machine's owner set them: may jump.
    pub wall_ms: u64,
    /// Never goes back.
    pub mono: Mono,
}

/// The node's own clock: starts at max(wall, persisted bound), then follows the monotonic clock, slewed towards the
/// wall by at most 10 %, and never steps (`PROTOCOL.md` §1).
#[derive(Clone, Debug)]
pub struct NodeClock {
    at: Mono,
    /// Microseconds since 1970 at `at`.
    us: u64,
}

impl NodeClock {
    /// A clock that starts now; nothing before `bound` is ever read from it.
    pub fn start(now: Now, bound: Hlc) -> NodeClock {
        NodeClock { at: now.mono, us: now.wall_ms.max(bound.ms()).min(Hlc::MS_MAX) * 1_000 }
    }

    /// Advances to `now` and returns milliseconds since 1970.
    pub fn read(&mut self, now: Now) -> u64 {
        let elapsed_us = now.mono.since(self.at) / 1_000;
        // A step shorter than ten microseconds has no tenth: read so often, the clock would never be corrected.
        if elapsed_us < 10 {
            return self.us / 1_000;
        }
        self.at = self.at + elapsed_us * 1_000;
        let straight = self.us.saturating_add(elapsed_us);
        let wall_us = now.wall_ms.saturating_mul(1_000);
        let slew = elapsed_us / 10;
        // Within a millisecond of the wall there is nothing to correct: the wall is only known to the millisecond.
        self.us = if wall_us > straight {
            straight + slew.min(wall_us - straight)
        } else if straight > wall_us.saturating_add(1_000) {
            straight - slew.min(straight - wall_us - 1_000)
        } else {
            straight
        };
        self.us / 1_000
    }
}

/// Issues versions: never the same reading twice, never one below what it has seen.
#[derive(Clone, Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A clock that has seen `last`.
    pub fn starting_after(last: Hlc) -> HlcClock {
        HlcClock { last }
    }

    /// A reading above every one before it, and not below the node's clock.
    pub fn issue(&mut self, clock_ms: u64) -> Hlc {
        self.last = self.last.next().max(Hlc::at_ms(clock_ms));
        self.last
    }

    /// What reads judge expiry by: the greatest reading seen, or the node's clock if that is later.
    pub fn peek(&self, clock_ms: u64) -> Hlc {
        self.last.max(Hlc::at_ms(clock_ms))
    }

    /// Takes note of a reading that came in with a record or a message.
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }

    /// The greatest reading issued or seen.
    pub fn last(&self) -> Hlc {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(wall_ms: u64, mono_ms: u64) -> Now {
        Now { wall_ms, mono: Mono(mono_ms * 1_000_000) }
    }

    #[test]
    fn wall_jump_is_followed_by_at_most_a_tenth() {
        let mut clock = NodeClock::start(now(1_000_000, 0), Hlc::ZERO);
        assert_eq!(clock.read(now(9_000_000, 1_000)), 1_001_100);
        let mut clock = NodeClock::start(now(1_000_000, 0), Hlc::ZERO);
        assert_eq!(clock.read(now(0, 1_000)), 1_000_900);
    }

    #[test]
    fn reading_often_does_not_change_the_pace() {
        let mut clock = NodeClock::start(now(1_000_000, 0), Hlc::ZERO);
        let mut last = 0;
        for ms in 1..=1_000 {
            let read = clock.read(now(9_000_000, ms));
            assert!(read >= last);
            last = read;
        }
        assert_eq!(last, 1_001_100);
    }

    #[test]
    fn reading_every_few_microseconds_still_follows_the_wall() {
        let mut clock = NodeClock::start(now(1_000_000, 0), Hlc::ZERO);
        for us in (0..=1_000_000).step_by(5) {
            clock.read(Now { wall_ms: 9_000_000, mono: Mono(us * 1_000) });
        }
        assert!(clock.read(now(9_000_000, 1_000)) >= 1_001_050);
    }

    #[test]
    fn clock_starts_at_the_persisted_bound() {
        let mut clock = NodeClock::start(now(5, 0), Hlc::at_ms(100));
        assert_eq!(clock.read(now(5, 0)), 100);
    }

    #[test]
    fn issued_readings_rise_whatever_the_clock_does() {
        let mut hlc = HlcClock::starting_after(Hlc::at_ms(50));
        let mut last = Hlc::ZERO;
        for ms in [10, 60, 60, 20, 61] {
            let issued = hlc.issue(ms);
            assert!(issued > last);
            last = issued;
        }
        assert_eq!(last, Hlc::at_ms(61));
    }
}
