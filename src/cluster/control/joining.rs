//! Requests to join: they wait in a queue and are served one after the other.

use super::Control;
use super::event::{ControlEffect, ControlEffects, JoinAnswer};
use crate::cluster::change::{self, JoinRequest, Refusal};
use crate::cluster::epoch::{Epoch, Nonce};
use crate::cluster::messages::ControlMessage;
use crate::cluster::slot_set::SlotSet;
use crate::types::request::Asker;
use crate::types::{Failure, MemberId, Mono, Reason, Slot};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::sync::Arc;

/// Requests that wait, at most.
const WAITING_MAX: usize = 16;
/// Voters that an asker is sent to, at most.
const ADDRESSES_MAX: usize = 8;
/// After this, who has not answered is asked again. Milliseconds.
const ASK_AGAIN_MS: u64 = 300;
/// After which time a node that was refused because of others may ask again. Milliseconds.
const RETRY_MS: u32 = 1_000;

#[derive(Default)]
pub(super) struct Joins {
    waiting: VecDeque<Waiting>,
    /// About the first that waits.
    inquiry: Option<Inquiry>,
    questions: u64,
}

struct Waiting {
    asker: Asker,
    request: JoinRequest,
    deadline: Mono,
    /// An epoch in which it joins may have been sent to others.
    proposed: bool,
}

/// All members are asked which slots hold records.
struct Inquiry {
    question: u64,
    nonce: Nonce,
    /// The epoch in which it joins.
    candidate: Arc<Epoch>,
    missing: BTreeSet<MemberId>,
    occupied: SlotSet,
    asked_at: Mono,
}

impl Joins {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Another epoch is in force: what was asked under the one before is void, and so is what was proposed.
    pub(super) fn begin_anew(&mut self) {
        self.inquiry = None;
        self.waiting.iter_mut().for_each(|waiting| waiting.proposed = false);
    }

    pub(super) fn refuse_all(&mut self, out: &mut ControlEffects) {
        for waiting in self.waiting.drain(..) {
            out.answer(waiting.asker, Err(Failure::not_applied(Reason::NotMember)));
        }
    }

    /// The epoch to be proposed for the first that waits, once nothing stands against it.
    pub(super) fn candidate(&mut self) -> Option<(Nonce, Arc<Epoch>)> {
        let inquiry = self.inquiry.as_ref().filter(|inquiry| inquiry.missing.is_empty())?;
        self.waiting.front_mut()?.proposed = true;
        Some((inquiry.nonce, Arc::clone(&inquiry.candidate)))
    }

    /// Takes the first out, with what was asked about it.
    fn take_first(&mut self) -> Option<Waiting> {
        self.inquiry = None;
        self.waiting.pop_front()
    }
}

impl Control {
    pub(super) fn join(
        &mut self,
        now: Mono,
        asker: Asker,
        request: JoinRequest,
        deadline: Mono,
        out: &mut ControlEffects,
    ) {
        if !self.is_member() {
            out.answer(asker, Err(Failure::not_applied(Reason::NotMember)));
        } else if !self.is_voter() {
            out.answer(asker, Ok(self.voters_to_ask()));
        } else if self.joins.len() >= WAITING_MAX {
            let failure = Failure::not_applied(Reason::Overloaded);
            out.answer(asker, Err(Failure { retry_after_ms: RETRY_MS, ..failure }));
        } else {
            self.joins.waiting.push_back(Waiting { asker, request, deadline, proposed: false });
            self.serve_joins(now, out);
            self.propose(now, out);
        }
    }

    fn voters_to_ask(&self) -> JoinAnswer {
        let voters = self.epoch().members.iter().filter(|member| member.voter);
        let addresses = voters.map(|member| member.peer_address.clone()).take(ADDRESSES_MAX).collect();
        JoinAnswer::AskVoters { addresses }
    }

    /// Answers what can be answered, and asks about the first that may join.
    pub(super) fn serve_joins(&mut self, now: Mono, out: &mut ControlEffects) {
        self.answer_joins(now, out);
        self.ask_members_again(now, out);
        while self.joins.inquiry.is_none()
            && let Some(first) = self.joins.waiting.front()
        {
            match change::join(self.epoch(), self.ring.hash(), &first.request) {
                Ok(candidate) => self.inquire(now, candidate, out),
                Err(Refusal::ChangeInProgress(_) | Refusal::SlotsMove) => return,
                Err(refusal) => {
                    let first = self.joins.take_first().expect("it was just looked at");
                    out.answer(first.asker, self.refusal(&refusal));
                }
            }
        }
    }

    /// Answers those whose time is over and those that are decided about, wherever they stand.
    fn answer_joins(&mut self, now: Mono, out: &mut ControlEffects) {
        let nonce_asked = self.joins.inquiry.as_ref().map(|inquiry| inquiry.nonce);
        let mut first_ended = false;
        for (at, waiting) in core::mem::take(&mut self.joins.waiting).into_iter().enumerate() {
            let answer = match change::may_join(self.epoch(), &waiting.request) {
                _ if waiting.deadline <= now => Err(self.too_late(&waiting)),
                Ok(()) | Err(Refusal::ChangeInProgress(_) | Refusal::SlotsMove) => {
                    self.joins.waiting.push_back(waiting);
                    continue;
                }
                Err(refusal) => self.refusal(&refusal),
            };
            first_ended |= at == 0;
            self.agreement.forget_join(waiting.request.nonce);
            out.answer(waiting.asker, answer);
        }
        if first_ended || self.joins.waiting.front().map(|first| first.request.nonce) != nonce_asked {
            self.joins.inquiry = None;
        }
    }

    fn refusal(&self, refusal: &Refusal) -> Result<JoinAnswer, Failure> {
        match refusal {
            Refusal::AlreadyMember(member) => {
                Ok(JoinAnswer::Member { member: *member, epoch: Arc::clone(self.ring.shared_epoch()) })
            }
            other => Err(Failure::not_applied(Reason::ChangeRefused).message(format!("{other}"))),
        }
    }

    fn too_late(&self, waiting: &Waiting) -> Failure {
        if waiting.proposed || self.agreement.is_joining(waiting.request.nonce) {
            return Failure::in_doubt(Reason::NoQuorumInTime)
                .message("too few voters answered in time: ask again with the same nonce");
        }
        let reason = match change::may_join(self.epoch(), &waiting.request) {
            Err(Refusal::ChangeInProgress(_) | Refusal::SlotsMove) => Reason::ChangeInProgress,
            Ok(()) | Err(_) => Reason::TooFewReplicas,
        };
        Failure { retry_after_ms: RETRY_MS, ..Failure::not_applied(reason) }
    }

    /// Asks every member, this one included, which slots hold records.
    fn inquire(&mut self, now: Mono, candidate: Epoch, out: &mut ControlEffects) {
        let first = self.joins.waiting.front().expect("somebody is asked about");
        let nonce = first.request.nonce;
        self.joins.questions += 1;
        let question = self.joins.questions;
        let missing: BTreeSet<MemberId> = self.epoch().members.iter().map(|member| member.id).collect();
        for member in &missing {
            out.send(*member, ControlMessage::AskOccupied { question });
        }
        let (candidate, occupied) = (Arc::new(candidate), SlotSet::default());
        self.joins.inquiry = Some(Inquiry { question, nonce, candidate, missing, occupied, asked_at: now });
    }

    fn ask_members_again(&mut self, now: Mono, out: &mut ControlEffects) {
        let Some(inquiry) = &mut self.joins.inquiry else { return };
        if now < inquiry.asked_at.after_ms(ASK_AGAIN_MS) {
            return;
        }
        inquiry.asked_at = now;
        for member in &inquiry.missing {
            out.send(*member, ControlMessage::AskOccupied { question: inquiry.question });
        }
    }

    /// A member wants to know which slots hold records here.
    pub(super) fn ask_cores(&mut self, now: Mono, from: MemberId, question: u64, out: &mut ControlEffects) {
        if let Some(round) = self.census.ask(now, from, question) {
            out.push(ControlEffect::AskCores { round });
        }
    }

    /// A member says which slots hold records there.
    pub(super) fn occupied(
        &mut self,
        now: Mono,
        from: MemberId,
        question: u64,
        slots: &SlotSet,
        out: &mut ControlEffects,
    ) {
        let Some(inquiry) = &mut self.joins.inquiry else { return };
        if inquiry.question != question || !inquiry.missing.remove(&from) {
            return;
        }
        inquiry.occupied.add(slots);
        if !inquiry.missing.is_empty() {
            return;
        }
        let occupied = |slot: &Slot| inquiry.occupied.contains(*slot);
        let count = change::moving(&inquiry.candidate).filter(occupied).count();
        if count > 0
            && let Some(first) = self.joins.take_first()
        {
            let message = format!(
                "{count} slots that would move hold records: moving data is not possible yet, only an empty cluster \
                 can grow"
            );
            out.answer(first.asker, Err(Failure::not_applied(Reason::ChangeRefused).message(message)));
            self.serve_joins(now, out);
        }
        self.propose(now, out);
    }
}
