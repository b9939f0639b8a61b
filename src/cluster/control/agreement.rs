//! Agreement on the next epoch: this node as an acceptor, and as a proposer of one epoch at a time.

use super::event::{ControlEffect, ControlEffects, Note, RecordKind};
use super::movement::{self, Step};
use super::{Control, MOVEMENT_MS, record};
use crate::cluster::change;
use crate::cluster::epoch::{Epoch, EpochError, Nonce};
use crate::cluster::messages::ControlMessage;
use crate::cluster::paxos::{Acceptor, Ballot, Proposer, Taken};
use crate::types::MemberId;
use crate::types::Mono;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// After this, who has not answered is asked again. Milliseconds.
const ASK_AGAIN_MS: u64 = 300;
/// An accepted epoch that nobody finishes is proposed again after this. Milliseconds.
const UNFINISHED_MS: u64 = 1_000;
/// After a lost try: up to this, doubled with each further one. Milliseconds.
const BACK_OFF_MS: u64 = 100;
/// Times that it is doubled, at most.
const DOUBLED_MAX: u32 = 5;
/// No try is ever so high: a member that names a higher round is out of its mind, and must not use up the rounds.
const ROUND_MAX: u64 = 1 << 48;

/// What is promised, accepted and proposed for the number after the epoch in force.
pub(super) struct Agreement {
    acceptor: Acceptor<Arc<Epoch>>,
    /// When the acceptor took a value last.
    accepted_at: Mono,
    attempt: Option<Attempt>,
    /// The highest round that somebody else was seen to use.
    round: u64,
    lost: u32,
    not_before: Mono,
}

struct Attempt {
    proposer: Proposer<Arc<Epoch>>,
    purpose: Purpose,
    asked_at: Mono,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Another's proposal is to be finished.
    Finish,
    /// A step of the move under way.
    Move,
    /// This node is to join.
    Join(Nonce),
}

impl Agreement {
    pub(super) fn recover(number: u64, record: Option<&[u8]>, now: Mono) -> Result<Agreement, EpochError> {
        let next = number.checked_add(1).ok_or(EpochError::Numbers)?;
        let recovered = record.map(record::decode).transpose()?;
        // What was promised for a number that is decided no longer counts.
        let acceptor = match recovered {
            Some(acceptor) if acceptor.number() == next => acceptor,
            Some(acceptor) if acceptor.number() > next => return Err(EpochError::Numbers),
            Some(_) | None => Acceptor::new(next),
        };
        Ok(Agreement { acceptor, accepted_at: now, attempt: None, round: 0, lost: 0, not_before: now })
    }

    pub(super) fn record(&self) -> Option<Vec<u8>> {
        (self.acceptor.promised() != Ballot::default()).then(|| record::encode(&self.acceptor))
    }

    /// An epoch of this number is in force.
    pub(super) fn follow(&mut self, number: u64, now: Mono) {
        self.acceptor = Acceptor::new(number.saturating_add(1));
        self.attempt = None;
        (self.round, self.lost, self.not_before) = (0, 0, now);
    }

    /// Is it under way that this node joins, and may the value have been sent?
    pub(super) fn is_joining(&self, nonce: Nonce) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.purpose == Purpose::Join(nonce))
    }

    /// Nobody waits for this join any more: a try that has sent no value yet ends.
    pub(super) fn forget_join(&mut self, nonce: Nonce) {
        let is_harmless =
            |attempt: &Attempt| attempt.purpose == Purpose::Join(nonce) && attempt.proposer.value().is_none();
        if self.attempt.as_ref().is_some_and(is_harmless) {
            self.attempt = None;
        }
    }
}

impl Control {
    /// Begins a try, if there is something to propose and nothing is being proposed.
    pub(super) fn propose(&mut self, now: Mono, out: &mut ControlEffects) {
        let busy = self.agreement.attempt.is_some() || now < self.agreement.not_before;
        if busy || !self.is_voter() {
            return;
        }
        let Some((purpose, wish)) = self.wish(now, out) else { return };
        assert_eq!(wish.number, self.agreement.acceptor.number(), "what is wanted follows what is in force");
        let round = self.agreement.acceptor.promised().round.max(self.agreement.round) + 1;
        let own = self.config.member;
        let ballot = Ballot { round, member: own };
        let voters: Vec<MemberId> = self.epoch().voters().collect();
        let proposer = Proposer::new(wish.number, ballot, voters, wish);
        self.stats.proposals += 1;
        // Its own promise first: when the others hear of the ballot, it is durable that it was used.
        self.prepare(now, own, proposer.number(), ballot, out);
        for voter in proposer.unanswered().filter(|voter| *voter != own) {
            out.send(voter, ControlMessage::Prepare { number: proposer.number(), ballot });
        }
        self.agreement.attempt = Some(Attempt { proposer, purpose, asked_at: now });
    }

    /// What this node wants decided, and why.
    fn wish(&mut self, now: Mono, out: &mut ControlEffects) -> Option<(Purpose, Arc<Epoch>)> {
        let leads = self.leads(now);
        if leads
            && let Some((_, epoch)) = self.agreement.acceptor.accepted()
            && now >= self.agreement.accepted_at.after_ms(UNFINISHED_MS)
        {
            return Some((Purpose::Finish, Arc::clone(epoch)));
        }
        if leads && now >= self.movement_at {
            self.movement_at = now.after_ms(MOVEMENT_MS);
            if let Some(epoch) = self.next_of_move(now, out) {
                return Some((Purpose::Move, Arc::new(epoch)));
            }
        }
        let (nonce, epoch) = self.joins.candidate()?;
        Some((Purpose::Join(nonce), epoch))
    }

    fn next_of_move(&self, now: Mono, out: &mut ControlEffects) -> Option<Epoch> {
        let (epoch, hash) = (self.epoch(), self.ring.hash());
        let changed = match movement::next(epoch, |member| self.standing(now, member))? {
            Step::Retire => change::retire(epoch, hash, |_| true),
            Step::Promote(member) => change::promote(epoch, hash, member),
            Step::GiveUp(refused) => {
                let joining = epoch.joining().map(|member| member.id);
                out.push(ControlEffect::Note(Note::GivingUp { joining, refused }));
                change::give_up(epoch, hash)
            }
        };
        changed.ok()
    }

    /// Asks those again who have not answered.
    pub(super) fn ask_again(&mut self, now: Mono, out: &mut ControlEffects) {
        let own = self.config.member;
        let Some(attempt) = &mut self.agreement.attempt else { return };
        if now < attempt.asked_at.after_ms(ASK_AGAIN_MS) {
            return;
        }
        attempt.asked_at = now;
        let proposer = &attempt.proposer;
        let (number, ballot) = (proposer.number(), proposer.ballot());
        // What it says to itself is not lost.
        for voter in proposer.unanswered().filter(|voter| *voter != own) {
            let message = match proposer.value() {
                None => ControlMessage::Prepare { number, ballot },
                Some(epoch) => ControlMessage::Accept { ballot, epoch: Arc::clone(epoch) },
            };
            out.send(voter, message);
        }
    }

    /// Is a question about this number one for this acceptor, from one who may ask? Who is behind is helped.
    fn may_ask(
        &mut self,
        now: Mono,
        from: MemberId,
        number: u64,
        ballot: Ballot,
        out: &mut ControlEffects,
    ) -> bool {
        if number != self.agreement.acceptor.number() {
            self.compare(now, from, number.saturating_sub(1), out);
            return false;
        }
        let voters = self.is_voter() && self.epoch().is_voter(from);
        let may = voters && ballot.member == from && (1..ROUND_MAX).contains(&ballot.round);
        self.stats.refused += u64::from(!may);
        may
    }

    pub(super) fn prepare(
        &mut self,
        now: Mono,
        from: MemberId,
        number: u64,
        ballot: Ballot,
        out: &mut ControlEffects,
    ) {
        if !self.may_ask(now, from, number, ballot, out) {
            return;
        }
        let before = self.agreement.acceptor.promised();
        match self.agreement.acceptor.prepare(ballot) {
            Ok(accepted) => {
                if before != ballot {
                    self.log_acceptor(out);
                }
                out.send(from, ControlMessage::Promise { number, ballot, accepted });
            }
            Err(promised) => out.send(from, ControlMessage::Refused { number, ballot, promised }),
        }
    }

    pub(super) fn accept(
        &mut self,
        now: Mono,
        from: MemberId,
        ballot: Ballot,
        epoch: Arc<Epoch>,
        out: &mut ControlEffects,
    ) {
        let number = epoch.number;
        if !self.may_ask(now, from, number, ballot, out) {
            return;
        }
        if !self.could_be(&epoch) {
            self.stats.epochs_refused += 1;
            return;
        }
        let repeated = matches!(self.agreement.acceptor.accepted(), Some((taken, _)) if *taken == ballot);
        match self.agreement.acceptor.accept(ballot, epoch) {
            Ok(()) => {
                if !repeated {
                    self.agreement.accepted_at = now;
                    self.log_acceptor(out);
                }
                out.send(from, ControlMessage::Accepted { number, ballot });
            }
            Err(promised) => out.send(from, ControlMessage::Refused { number, ballot, promised }),
        }
    }

    fn log_acceptor(&self, out: &mut ControlEffects) {
        let bytes = record::encode(&self.agreement.acceptor);
        out.push(ControlEffect::Log { kind: RecordKind::Acceptor, bytes });
    }

    pub(super) fn promised(
        &mut self,
        now: Mono,
        from: MemberId,
        number: u64,
        ballot: Ballot,
        accepted: Taken<Arc<Epoch>>,
        out: &mut ControlEffects,
    ) {
        let is_mine = |attempt: &Attempt| attempt.proposer.number() == number;
        if !self.agreement.attempt.as_ref().is_some_and(is_mine) {
            return;
        }
        let can_be = |(_, epoch): &(Ballot, Arc<Epoch>)| epoch.number == number && self.could_be(epoch);
        if !accepted.as_ref().is_none_or(can_be) {
            self.stats.epochs_refused += 1;
            return;
        }
        let own = self.config.member;
        let attempt = self.agreement.attempt.as_mut().expect("it was just looked at");
        let Some(epoch) = attempt.proposer.promised(from, ballot, accepted) else { return };
        attempt.asked_at = now;
        for voter in attempt.proposer.unanswered().filter(|voter| *voter != own) {
            out.send(voter, ControlMessage::Accept { ballot, epoch: Arc::clone(&epoch) });
        }
        // Last: what follows a record waits for it, and the others need not.
        self.accept(now, own, ballot, epoch, out);
    }

    pub(super) fn accepted(
        &mut self,
        now: Mono,
        from: MemberId,
        number: u64,
        ballot: Ballot,
        out: &mut ControlEffects,
    ) {
        let attempt = self.agreement.attempt.as_mut().filter(|attempt| attempt.proposer.number() == number);
        if let Some(epoch) = attempt.and_then(|attempt| attempt.proposer.accepted(from, ballot)) {
            self.take(now, epoch, out);
        }
    }

    /// Somebody has promised a higher ballot: this try gives way, for a while that differs from node to node.
    pub(super) fn refused(&mut self, now: Mono, number: u64, ballot: Ballot, promised: Ballot) {
        let is_mine = |attempt: &&mut Attempt| {
            attempt.proposer.number() == number && attempt.proposer.ballot() == ballot
        };
        if self.agreement.attempt.as_mut().filter(is_mine).is_none() || promised <= ballot {
            return;
        }
        let doubled = self.agreement.lost.min(DOUBLED_MAX);
        let pause = 1 + self.prng.below(BACK_OFF_MS << doubled);
        self.agreement.attempt = None;
        self.agreement.round = self.agreement.round.max(promised.round.min(ROUND_MAX));
        self.agreement.lost += 1;
        self.agreement.not_before = now.after_ms(pause);
        self.stats.proposals_lost += 1;
    }
}
