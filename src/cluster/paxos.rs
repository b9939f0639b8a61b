//! Single-decree Paxos: which value is the one of an epoch number. Knows neither what the values are nor how messages
//! travel.
//!
//! Two things are the caller's. What an acceptor answers leaves only after its state is durable; that goes for a
//! proposer's own acceptor too, which has promised its ballot before anybody else hears of it, so that no ballot is ever
//! used for two proposals. And who the voters are: those of the epoch before.

use crate::types::MemberId;
use crate::types::mutant::{Mutant, planted};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// One try at a number. Totally ordered, and never the same of two proposers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ballot {
    /// From 1; 0 = before any.
    pub round: u64,
    /// The proposer.
    pub member: MemberId,
}

/// A value that an acceptor took, and under which ballot.
pub type Taken<V> = Option<(Ballot, V)>;

/// A voter's memory of one number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acceptor<V> {
    number: u64,
    promised: Ballot,
    accepted: Taken<V>,
}

impl<V: Clone> Acceptor<V> {
    /// It has heard of nothing.
    pub fn new(number: u64) -> Acceptor<V> {
        Acceptor { number, promised: Ballot::default(), accepted: None }
    }

    /// After a restart: what was durable.
    pub fn recovered(number: u64, promised: Ballot, accepted: Taken<V>) -> Acceptor<V> {
        let promised = if planted(Mutant::PaxosPromiseForgotten) { Ballot::default() } else { promised };
        Acceptor { number, promised, accepted }
    }

    /// What is agreed on.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// No lower ballot is taken any more.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The value taken last.
    pub fn accepted(&self) -> &Taken<V> {
        &self.accepted
    }

    /// A promise to take nothing below this ballot, with the value taken until now; or the ballot that forbids it. The
    /// same question again gets the same answer.
    pub fn prepare(&mut self, ballot: Ballot) -> Result<Taken<V>, Ballot> {
        if ballot < self.promised {
            return Err(self.promised);
        }
        self.promised = ballot;
        Ok(self.accepted.clone())
    }

    /// Takes a value, or names the ballot that forbids it.
    pub fn accept(&mut self, ballot: Ballot, value: V) -> Result<(), Ballot> {
        if ballot < self.promised && !planted(Mutant::PaxosAcceptBelowPromise) {
            return Err(self.promised);
        }
        self.promised = ballot;
        self.accepted = Some((ballot, value));
        Ok(())
    }
}

/// One try at a number, from its first question to its decision.
#[derive(Clone, Debug)]
pub struct Proposer<V> {
    number: u64,
    ballot: Ballot,
    voters: Vec<MemberId>,
    /// Proposed if no voter has taken another value before.
    wish: V,
    /// Answered the question of the present phase.
    answered: BTreeSet<MemberId>,
    /// While promises are gathered: the value under the highest ballot that they told of.
    highest: Taken<V>,
    /// What voters are asked to take, once a majority has promised.
    value: Option<V>,
}

impl<V: Clone> Proposer<V> {
    /// A try under a ballot that was never used; it begins by asking each voter to promise.
    pub fn new(number: u64, ballot: Ballot, voters: Vec<MemberId>, wish: V) -> Proposer<V> {
        Proposer { number, ballot, voters, wish, answered: BTreeSet::new(), highest: None, value: None }
    }

    /// What is agreed on.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The try's own.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// What voters are asked to take; None while promises are gathered, and nothing was asked for yet.
    pub fn value(&self) -> Option<&V> {
        self.value.as_ref()
    }

    /// Voters whose answer is missing: to be asked again.
    pub fn unanswered(&self) -> impl Iterator<Item = MemberId> {
        self.voters.iter().copied().filter(|voter| !self.answered.contains(voter))
    }

    /// A voter promised. The value that all are to be asked to take, when that promise made the majority.
    pub fn promised(&mut self, from: MemberId, ballot: Ballot, accepted: Taken<V>) -> Option<V> {
        if ballot != self.ballot || self.value.is_some() || !self.counts(from) {
            return None;
        }
        let is_higher =
            |(ballot, _): &(Ballot, V)| self.highest.as_ref().is_none_or(|(held, _)| held < ballot);
        if let Some(accepted) = accepted.filter(is_higher) {
            self.highest = Some(accepted);
        }
        if !self.is_majority() {
            return None;
        }
        let highest = self.highest.take().filter(|_| !planted(Mutant::PaxosAcceptedIgnored));
        self.value = Some(highest.map_or_else(|| self.wish.clone(), |(_, value)| value));
        self.answered.clear();
        self.value.clone()
    }

    /// A voter took the value. It is decided, and returned once, when that made the majority.
    pub fn accepted(&mut self, from: MemberId, ballot: Ballot) -> Option<V> {
        if ballot != self.ballot || self.value.is_none() || self.is_majority() || !self.counts(from) {
            return None;
        }
        if self.is_majority() { self.value.clone() } else { None }
    }

    /// Notes an answer; false if it counts for nothing: not a voter's, or a repeated one.
    fn counts(&mut self, from: MemberId) -> bool {
        let is_voter = self.voters.contains(&from) || planted(Mutant::PaxosNonVoterCounted);
        is_voter && self.answered.insert(from)
    }

    fn is_majority(&self) -> bool {
        self.answered.len() > self.voters.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(1);
    const B: MemberId = MemberId(2);
    const C: MemberId = MemberId(3);

    fn ballot(round: u64, member: MemberId) -> Ballot {
        Ballot { round, member }
    }

    fn proposer(wish: char) -> Proposer<char> {
        Proposer::new(7, ballot(2, A), [A, B, C].to_vec(), wish)
    }

    #[test]
    fn majority_of_promises_and_then_of_acceptances_decides() {
        let mut proposer = proposer('x');
        assert_eq!(proposer.promised(A, ballot(2, A), None), None);
        assert_eq!(proposer.promised(A, ballot(2, A), None), None, "the same voter twice");
        assert_eq!(proposer.promised(B, ballot(1, A), None), None, "a promise to another ballot");
        assert_eq!(proposer.promised(MemberId(9), ballot(2, A), None), None, "no voter");
        assert_eq!(proposer.accepted(B, ballot(2, A)), None, "nothing was asked for yet");
        assert_eq!(proposer.promised(B, ballot(2, A), None), Some('x'));
        assert_eq!(proposer.unanswered().count(), 3);
        assert_eq!(proposer.accepted(C, ballot(2, A)), None);
        assert_eq!(proposer.accepted(C, ballot(2, A)), None, "the same voter twice");
        assert_eq!(proposer.accepted(A, ballot(2, A)), Some('x'));
        assert_eq!(proposer.accepted(B, ballot(2, A)), None, "decided once");
    }

    #[test]
    fn value_under_the_highest_ballot_is_taken_on() {
        let mut proposer = Proposer::new(7, ballot(9, A), [A, B, C].to_vec(), 'x');
        assert_eq!(proposer.promised(B, ballot(9, A), Some((ballot(3, B), 'h'))), None);
        assert_eq!(proposer.promised(C, ballot(9, A), Some((ballot(2, C), 'l'))), Some('h'));
    }

    #[test]
    fn acceptor_keeps_its_promise() {
        let mut acceptor = Acceptor::new(7);
        assert_eq!(acceptor.prepare(ballot(2, B)), Ok(None));
        assert_eq!(acceptor.prepare(ballot(2, A)), Err(ballot(2, B)));
        assert_eq!(acceptor.accept(ballot(2, A), 'x'), Err(ballot(2, B)));
        assert_eq!(acceptor.accept(ballot(2, B), 'y'), Ok(()));
        assert_eq!(acceptor.prepare(ballot(3, A)), Ok(Some((ballot(2, B), 'y'))));
        assert_eq!(acceptor.prepare(ballot(3, A)), Ok(Some((ballot(2, B), 'y'))), "the same answer again");
        let same = Acceptor::recovered(7, acceptor.promised(), *acceptor.accepted());
        assert_eq!(same, acceptor);
    }
}
