//! What one node saw on its own link to one member: probes, answers, refused connections, and the verdict that they add
//! up to. Knows nothing of what others say.
//!
//! Silence is counted from the oldest probe that nothing answered since: neither that probe nor any later one.

use super::Belief;
use super::accrual::Accrual;
use crate::types::Mono;
use alloc::vec::Vec;

/// What is new or has just begun again is not suspected for so long, ms.
pub const GRACE_MS: u64 = 1_000;
/// An answer outweighs what others say for so long, ms.
pub const FRESH_MS: u64 = 1_000;
/// So many probes must be unanswered before silence counts.
pub const PROBES_TO_SUSPECT: usize = 3;

/// Unanswered probes remembered per link.
const UNANSWERED_MAX: usize = 16;

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u64,
    at: Mono,
}

/// One node's link to one member. All instants are of the time that the node watched.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Oldest first; at most [`UNANSWERED_MAX`].
    unanswered: Vec<Sent>,
    answered_at: Option<Mono>,
    /// The first refusal since the last answer.
    refused_at: Option<Mono>,
    grace_until: Mono,
    /// The verdict: silent for longer than the patience with it, and not answering since.
    silent: bool,
    history: Accrual,
}

impl Link {
    /// A link that was never used.
    pub(super) fn new(at: Mono) -> Link {
        Link {
            unanswered: Vec::new(),
            answered_at: None,
            refused_at: None,
            grace_until: at.after_ms(GRACE_MS),
            silent: false,
            history: Accrual::default(),
        }
    }

    /// The member began anew: what its earlier process left unanswered says nothing about this one. How fast the link
    /// is stays known.
    pub(super) fn restarted(&mut self, at: Mono) {
        let history = core::mem::take(&mut self.history);
        *self = Link { history, answered_at: self.answered_at, ..Link::new(at) };
    }

    /// A probe leaves.
    pub(super) fn probed(&mut self, at: Mono, sequence: u64) {
        if self.unanswered.len() == UNANSWERED_MAX {
            // The first stays: silence is counted from it.
            self.unanswered.remove(1);
        }
        self.unanswered.push(Sent { sequence, at });
    }

    /// An answer came to probe `sequence`. False if that is not waited for: it came twice, or after that of a later
    /// probe. `learn` is false for an answer that says nothing about the link's pace.
    pub(super) fn answered(&mut self, at: Mono, sequence: u64, learn: bool) -> bool {
        let Some(place) = self.unanswered.iter().position(|sent| sent.sequence == sequence) else {
            return false;
        };
        let delay_us = at.since(self.unanswered[place].at) / 1_000;
        let silence_us = at.since(self.unanswered[0].at) / 1_000;
        // Judged before it teaches patience. A later answer revives only if it is in time itself: else a link slower
        // than the patience with it would be believed and suspected by turns.
        let in_time = delay_us <= self.history.patience_us(at);
        if learn {
            self.history.learn(at, delay_us, silence_us);
        }
        self.unanswered.drain(..=place);
        self.answered_at = Some(at);
        self.refused_at = None;
        self.silent &= !in_time;
        true
    }

    /// A connection was refused or reset.
    pub(super) fn refused(&mut self, at: Mono) {
        self.refused_at.get_or_insert(at);
    }

    /// Passes the verdict; true if the link is found silent that was not before.
    pub(super) fn judge(&mut self, at: Mono) -> bool {
        let Some(oldest) = self.unanswered.first() else {
            return false;
        };
        if self.silent || at < self.grace_until {
            return false;
        }
        let exceeded = at.since(oldest.at) / 1_000 >= self.history.patience_us(at)
            && self.unanswered.len() >= PROBES_TO_SUSPECT;
        self.silent = exceeded || self.refusal_stands(at);
        self.silent
    }

    /// What this link alone says of the member; None if it has not been used lately.
    pub(super) fn verdict(&self, at: Mono) -> Option<Belief> {
        if self.silent {
            return Some(Belief::Suspected);
        }
        let fresh = self.answered_at.is_some_and(|answered| at <= answered.after_ms(FRESH_MS));
        (fresh || at < self.grace_until).then_some(Belief::Alive)
    }

    /// Found silent, and not answering since.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Not silent yet, but an answer is later than usual.
    pub(super) fn is_doubted(&self, at: Mono) -> bool {
        let late = |oldest: &Sent| at.since(oldest.at) / 1_000 > self.history.usual_us();
        !self.silent && self.unanswered.first().is_some_and(late)
    }

    /// The smoothed delay of answers, µs; None before the first.
    pub(super) fn delay_us(&self) -> Option<u64> {
        self.history.delay_us()
    }

    /// A refusal, a probe sent after it, and no answer for the time that one takes.
    fn refusal_stands(&self, at: Mono) -> bool {
        let patience_us = self.history.patience_refused_us(at);
        let since = |refused: Mono| self.unanswered.iter().find(|sent| sent.at >= refused);
        self.refused_at.and_then(since).is_some_and(|sent| at.since(sent.at) / 1_000 >= patience_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::liveness::accrual::{PATIENCE_US_MIN, REFUSED_US_MIN};

    fn at_ms(ms: u64) -> Mono {
        Mono(0).after_ms(ms)
    }

    /// Ten probes 200 ms apart, each answered 1 ms later; the next is due at 2 000 ms.
    fn fast() -> Link {
        let mut link = Link::new(at_ms(0));
        for sequence in 0..10 {
            link.probed(at_ms(sequence * 200), sequence);
            assert!(link.answered(at_ms(sequence * 200 + 1), sequence, true));
        }
        link
    }

    /// The first millisecond from `from` on at which the link is found silent, probed every 200 ms.
    fn silent_at(link: &mut Link, from: u64) -> u64 {
        for ms in from.. {
            if (ms - from).is_multiple_of(200) {
                link.probed(at_ms(ms), ms);
            }
            if link.judge(at_ms(ms)) {
                return ms;
            }
        }
        unreachable!("the loop has no end")
    }

    #[test]
    fn link_that_never_answers_is_silent_after_its_grace() {
        assert_eq!(silent_at(&mut Link::new(at_ms(0)), 0), GRACE_MS);
    }

    #[test]
    fn fast_link_is_silent_after_the_least_patience() {
        assert_eq!(silent_at(&mut fast(), 2_000), 2_000 + PATIENCE_US_MIN / 1_000);
    }

    #[test]
    fn few_probes_are_no_silence_however_long() {
        let mut link = fast();
        link.probed(at_ms(2_000), 10);
        link.probed(at_ms(2_200), 11);
        assert!(!link.judge(at_ms(60_000)));
        assert!(link.is_doubted(at_ms(60_000)));
        link.probed(at_ms(60_000), 12);
        assert!(link.judge(at_ms(60_000)));
    }

    #[test]
    fn refusal_speeds_suspicion_up_and_an_answer_takes_it_back() {
        let mut link = fast();
        link.refused(at_ms(2_000));
        assert_eq!(silent_at(&mut link, 2_010), 2_010 + REFUSED_US_MIN / 1_000);
        let mut link = fast();
        link.refused(at_ms(2_000));
        link.probed(at_ms(2_100), 10);
        assert!(link.answered(at_ms(2_101), 10, true));
        assert_eq!(silent_at(&mut link, 2_200), 2_200 + PATIENCE_US_MIN / 1_000);
    }

    #[test]
    fn refusal_alone_proves_nothing() {
        let mut link = fast();
        link.refused(at_ms(2_000));
        assert!(!link.judge(at_ms(60_000)), "no probe was sent since");
    }

    #[test]
    fn answers_that_are_not_waited_for_are_no_evidence() {
        let mut link = fast();
        link.probed(at_ms(2_000), 10);
        link.probed(at_ms(2_200), 11);
        assert!(!link.answered(at_ms(2_250), 9, true), "came twice");
        assert!(!link.answered(at_ms(2_250), 77, true), "never sent");
        assert!(link.answered(at_ms(2_250), 11, true));
        assert!(!link.answered(at_ms(2_260), 10, true), "overtaken");
    }

    #[test]
    fn silence_is_counted_from_the_oldest_probe_however_many_follow() {
        let mut link = fast();
        for sequence in 10..200 {
            link.probed(at_ms(1_000 + sequence * 100), sequence);
        }
        assert_eq!(link.unanswered.len(), UNANSWERED_MAX);
        assert_eq!(link.unanswered[0].at, at_ms(2_000));
        assert_eq!(link.unanswered.last().map(|sent| sent.sequence), Some(199));
        assert!(link.judge(at_ms(20_900)) && link.answered(at_ms(20_900), 199, true));
        assert!(!link.is_silent());
    }

    #[test]
    fn late_answer_does_not_revive_a_link_that_would_be_silent_again_at_once() {
        let mut link = fast();
        silent_at(&mut link, 2_000);
        // Each answer takes 2 500 ms: longer than anything that is learnt from.
        for turn in 0..100 {
            link.probed(at_ms(3_000 + turn * 200), 10_000 + turn);
            if let Some(answered) = turn.checked_sub(12) {
                assert!(link.answered(at_ms(3_100 + turn * 200), 10_000 + answered, true));
            }
            assert!(link.is_silent());
        }
        assert!(link.answered(at_ms(23_000), 10_099, true) && !link.is_silent(), "one that is in time does");
    }

    #[test]
    fn restart_forgives_and_keeps_the_history() {
        let mut link = fast();
        let silent = silent_at(&mut link, 2_000);
        link.restarted(at_ms(silent));
        assert_eq!(link.verdict(at_ms(silent)), Some(Belief::Alive));
        assert_eq!(link.delay_us(), Some(1_000));
        assert_eq!(silent_at(&mut link, silent), silent + GRACE_MS);
    }

    #[test]
    fn old_answer_leaves_the_verdict_to_others() {
        let link = fast();
        assert_eq!(link.verdict(at_ms(1_801 + FRESH_MS)), Some(Belief::Alive));
        assert_eq!(link.verdict(at_ms(1_802 + FRESH_MS)), None);
    }
}
