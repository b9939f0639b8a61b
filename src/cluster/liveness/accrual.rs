//! How long one link may stay silent before its member is suspected, judged by what that link did before. Knows no
//! probes and no members.
//!
//! Two memories, in integers. The answer delay and its deviation, smoothed as TCP smooths its own (RFC 6298), say what is
//! usual. The longest silence that ended lately, halved every two minutes, says what is rare and yet no death: a pause of
//! a starved machine, a probe lost on the way.

use crate::types::Mono;

/// No link is suspected for a shorter silence, µs: three probes of a fast link may be lost.
pub const PATIENCE_US_MIN: u64 = 700_000;
/// Every link is suspected after this much silence, µs.
pub const PATIENCE_US_MAX: u64 = 3_000_000;
/// The patience with a link that never answered, µs.
pub const PATIENCE_US_NEW: u64 = 1_000_000;
/// A silence or a delay above this is an outage, µs: nothing is learnt from it, or the next death would be noticed late.
pub const OUTAGE_US: u64 = 2_000_000;
/// The least time without an answer that makes a refused connection count, µs.
pub const REFUSED_US_MIN: u64 = 300_000;

/// The longest silence weighs half as much after this time, µs.
const PEAK_HALF_LIFE_US: u64 = 120_000_000;

/// The history of one link.
#[derive(Clone, Debug, Default)]
pub(super) struct Accrual {
    /// Eight times the smoothed delay, µs; 0 = no answer yet.
    delay_us_8: u64,
    /// Four times the smoothed deviation from it, µs.
    deviation_us_4: u64,
    /// The longest silence that ended lately, µs, as it weighed at `peak_at`.
    peak_us: u64,
    peak_at: Mono,
}

impl Accrual {
    /// An answer came `delay_us` after its probe, and ended a silence of `silence_us`.
    pub(super) fn learn(&mut self, at: Mono, delay_us: u64, silence_us: u64) {
        if delay_us <= OUTAGE_US {
            self.learn_delay(delay_us.max(1));
        }
        let peak_us = self.peak_us(at);
        if silence_us <= OUTAGE_US && silence_us >= peak_us {
            (self.peak_us, self.peak_at) = (silence_us, at);
        }
    }

    /// The smoothed delay of answers, µs; None before the first.
    pub(super) fn delay_us(&self) -> Option<u64> {
        (self.delay_us_8 > 0).then_some(self.delay_us_8.div_ceil(8))
    }

    /// By when an answer has usually come, µs after its probe.
    pub(super) fn usual_us(&self) -> u64 {
        // Four deviations: the field holds four times the deviation.
        self.delay_us_8 / 8 + self.deviation_us_4
    }

    /// The silence after which the member is suspected, µs: [`PATIENCE_US_MIN`] ..= [`PATIENCE_US_MAX`].
    pub(super) fn patience_us(&self, at: Mono) -> u64 {
        if self.delay_us_8 == 0 {
            return PATIENCE_US_NEW;
        }
        self.usual_us().max(self.peak_us(at) * 3 / 2).clamp(PATIENCE_US_MIN, PATIENCE_US_MAX)
    }

    /// The same after a refused connection: time to connect anew and be answered.
    pub(super) fn patience_refused_us(&self, at: Mono) -> u64 {
        let reconnected_us = 6 * (self.delay_us_8 / 8) + self.deviation_us_4;
        reconnected_us.max(REFUSED_US_MIN).min(self.patience_us(at))
    }

    fn learn_delay(&mut self, delay_us: u64) {
        if self.delay_us_8 == 0 {
            (self.delay_us_8, self.deviation_us_4) = (delay_us * 8, delay_us * 2);
            return;
        }
        let mean_us = self.delay_us_8 / 8;
        self.deviation_us_4 = self.deviation_us_4 - self.deviation_us_4 / 4 + delay_us.abs_diff(mean_us);
        self.delay_us_8 = (self.delay_us_8 - mean_us + delay_us).max(1);
    }

    /// Straight between one half-life and the next.
    fn peak_us(&self, at: Mono) -> u64 {
        let age_us = at.since(self.peak_at) / 1_000;
        let halvings = (age_us / PEAK_HALF_LIFE_US).min(63);
        let halved = self.peak_us >> halvings;
        halved - halved * (age_us % PEAK_HALF_LIFE_US) / (2 * PEAK_HALF_LIFE_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;

    fn at_ms(ms: u64) -> Mono {
        Mono(0).after_ms(ms)
    }

    /// `count` answers, one in 200 ms, of delays drawn between the two; returns when the last came.
    fn taught(accrual: &mut Accrual, count: u64, low_us: u64, high_us: u64) -> Mono {
        let mut prng = Prng::new(1);
        for turn in 1..=count {
            let delay_us = prng.between(low_us, high_us);
            accrual.learn(at_ms(turn * 200), delay_us, delay_us);
        }
        at_ms(count * 200)
    }

    #[test]
    fn steady_link_has_the_least_patience_and_a_new_one_its_own() {
        for delay_us in [0, 1, 150, 100_000, 400_000] {
            let mut accrual = Accrual::default();
            assert_eq!(accrual.patience_us(at_ms(0)), PATIENCE_US_NEW);
            assert_eq!(accrual.delay_us(), None);
            let at = taught(&mut accrual, 100, delay_us, delay_us);
            assert_eq!(accrual.patience_us(at), PATIENCE_US_MIN);
            assert_eq!(accrual.delay_us(), Some(delay_us.max(1)));
        }
    }

    #[test]
    fn patience_is_above_every_delay_of_a_jittery_link() {
        let mut accrual = Accrual::default();
        let at = taught(&mut accrual, 200, 5_000, 1_200_000);
        assert!(accrual.patience_us(at) > 1_200_000, "{}", accrual.patience_us(at));
        assert!(accrual.patience_us(at) <= PATIENCE_US_MAX);
        let delay_us = accrual.delay_us().expect("answers came");
        assert!((300_000..900_000).contains(&delay_us), "{delay_us}");
    }

    #[test]
    fn rare_pause_is_remembered_for_minutes_and_then_forgotten() {
        let mut accrual = Accrual::default();
        let at = taught(&mut accrual, 100, 200, 300);
        accrual.learn(at, 900_000, 900_000);
        // Four hundred fast answers later.
        let later = at.after_ms(60_000);
        for ms in (200..60_000).step_by(200) {
            accrual.learn(at.after_ms(ms), 250, 250);
        }
        let patience_us = accrual.patience_us(later);
        assert!((900_000..1_350_000).contains(&patience_us), "{patience_us}");
        assert_eq!(accrual.patience_us(at.after_ms(240_000)), PATIENCE_US_MIN);
        assert_eq!(accrual.patience_us(Mono::NEVER), PATIENCE_US_MIN);
    }

    #[test]
    fn peak_halves_with_its_half_life() {
        let accrual = Accrual { peak_us: 800, ..Accrual::default() };
        let half_lives = |permille: u64| accrual.peak_us(Mono(PEAK_HALF_LIFE_US * permille));
        assert_eq!(
            [0, 500, 1_000, 1_500, 2_000, 90_000].map(half_lives),
            [800, 600, 400, 300, 200, 0],
            "in thousandths of a half-life"
        );
    }

    #[test]
    fn outage_teaches_nothing() {
        let mut accrual = Accrual::default();
        let at = taught(&mut accrual, 100, 200, 300);
        accrual.learn(at, OUTAGE_US + 1, u64::MAX);
        assert_eq!(accrual.patience_us(at), PATIENCE_US_MIN);
        accrual.learn(at, OUTAGE_US, OUTAGE_US);
        assert_eq!(accrual.patience_us(at), PATIENCE_US_MAX);
    }

    #[test]
    fn refused_connection_shortens_patience_but_leaves_a_slow_link_time_to_connect() {
        let mut fast = Accrual::default();
        let at = taught(&mut fast, 100, 200, 300);
        assert_eq!(fast.patience_refused_us(at), REFUSED_US_MIN);
        let mut slow = Accrual::default();
        let at = taught(&mut slow, 100, 100_000, 100_000);
        assert!((600_000..PATIENCE_US_MIN).contains(&slow.patience_refused_us(at)));
        assert!(Accrual::default().patience_refused_us(at) <= PATIENCE_US_NEW);
    }
}
