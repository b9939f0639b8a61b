//! What members tell each other about third ones: opinions, the order in which one outdates another, and the news that
//! has yet to be passed on. Knows no time and no links.

use super::Belief;
use crate::types::MemberId;
use alloc::vec::Vec;

/// Opinions in one message.
pub const OPINIONS_MAX: usize = 8;
/// Of them, members suspected for long, of whom there is no news.
pub const OPINIONS_OLD_MAX: usize = 2;

/// How often a member says again what another did not know yet.
const CORRECTIONS: u32 = 4;

/// What is said of one member: 17 bytes, plainly encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opinion {
    /// Whom it is about.
    pub member: MemberId,
    /// What is said.
    pub standing: Standing,
}

/// Of two things said of one member the greater one holds. An incarnation outdates every earlier one; within it a greater number, which only the member itself issues; and at one
/// number suspicion outdates life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Standing {
    /// The member's count of starts, from 1; 0 = not heard of.
    pub incarnation: u64,
    /// From 0; the member raises it when it hears that it is suspected.
    pub number: u32,
    /// Alive or suspected.
    pub belief: Belief,
}

impl Standing {
    /// Nothing was heard.
    pub(super) const UNKNOWN: Standing = Standing { incarnation: 0, number: 0, belief: Belief::Alive };

    /// A process that has just begun.
    pub(super) fn begun(incarnation: u64) -> Standing {
        Standing { incarnation, ..Standing::UNKNOWN }
    }

    /// Not worth a word: nobody thinks otherwise unless it heard of an earlier incarnation.
    pub(super) fn is_plain(self) -> bool {
        self.number == 0 && self.belief == Belief::Alive
    }
}

/// Whom there is news of, and how often it is still to be told. At most one entry per member.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// The most recently changed last.
    entries: Vec<(MemberId, u32)>,
}

impl News {
    /// An opinion of `member` changed: told first from now on, so often that with `others` members around nobody misses
    /// it but by rare chance.
    pub(super) fn tell(&mut self, member: MemberId, others: usize) {
        self.push(member, times_told(others));
    }

    /// Somebody said of `member` what is outdated.
    pub(super) fn correct(&mut self, member: MemberId) {
        let left = self.entries.iter().find(|(other, _)| *other == member).map_or(0, |(_, left)| *left);
        self.push(member, left.max(CORRECTIONS));
    }

    /// Calls `take` for the members that there is news of, the most recently changed first, until it returns false:
    /// what it refuses stays untold.
    pub(super) fn take(&mut self, mut take: impl FnMut(MemberId) -> bool) {
        for (member, left) in self.entries.iter_mut().rev() {
            if !take(*member) {
                break;
            }
            *left -= 1;
        }
        self.entries.retain(|(_, left)| *left > 0);
    }

    /// Forgets those that `keep` refuses.
    pub(super) fn retain(&mut self, keep: impl Fn(MemberId) -> bool) {
        self.entries.retain(|(member, _)| keep(*member));
    }

    fn push(&mut self, member: MemberId, left: u32) {
        self.entries.retain(|(other, _)| *other != member);
        self.entries.push((member, left));
    }
}

/// Three times the doublings that it takes to reach `others`, and two.
fn times_told(others: usize) -> u32 {
    3 * (usize::BITS - others.leading_zeros()) + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next message of at most `room` opinions.
    fn told(news: &mut News, room: usize) -> Vec<u32> {
        let mut told = Vec::new();
        news.take(|member| {
            let fits = told.len() < room;
            if fits {
                told.push(member.0);
            }
            fits
        });
        told
    }

    #[test]
    fn standing_of_a_later_incarnation_number_or_suspicion_holds() {
        let mut rising = Vec::new();
        for incarnation in [0, 1, 2] {
            for number in [0, 1, u32::MAX] {
                for belief in [Belief::Alive, Belief::Suspected] {
                    rising.push(Standing { incarnation, number, belief });
                }
            }
        }
        assert!(rising.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn most_recently_changed_is_told_first_and_every_one_so_often() {
        let mut news = News::default();
        (1..=3).for_each(|id| news.tell(MemberId(id), 4));
        news.tell(MemberId(1), 4);
        assert_eq!(told(&mut news, 2), [1, 3]);
        let mut times = [0, 1, 0, 1];
        for _ in 0..1_000 {
            told(&mut news, 2).iter().for_each(|id| times[*id as usize] += 1);
        }
        assert_eq!(times[1..], [11, 11, 11]);
        assert!(news.entries.is_empty());
    }

    #[test]
    fn correction_never_shortens_what_is_being_told() {
        let mut news = News::default();
        news.tell(MemberId(1), 1_000);
        news.correct(MemberId(1));
        news.correct(MemberId(2));
        let mut times = [0; 3];
        for _ in 0..1_000 {
            told(&mut news, 8).iter().for_each(|id| times[*id as usize] += 1);
        }
        assert_eq!(times, [0, times_told(1_000), CORRECTIONS]);
    }
}
