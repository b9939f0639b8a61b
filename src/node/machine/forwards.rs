//! Who coordinates an operation, and requests handed on to them: one hop at most (`PROTOCOL.md` §1, "Forwarding").
//!
//! Writes of a key meet in the first live replica of its slot, so that they reach every replica in one order. That is
//! routing only: two coordinators at once are slower, never wrong. A read is coordinated by any replica.

use super::Machine;
use crate::node::effect::Effects;
use crate::replication::coordinator::Operation as Open;
use crate::replication::forward::{ForwardOperation, Requester};
use crate::replication::messages::{AttemptId, MessageBody};
use crate::replication::quorum::{ReplicaSets, Replicas};
use crate::types::request::{Answer, Reply, Request};
use crate::types::{Failure, MemberId, Now, Outcome, Reason, Slot};

/// Who coordinates.
pub(super) enum Route {
    /// This core.
    Here,
    /// Another member.
    To(MemberId),
    /// It was handed on to this member, which is no replica.
    NotOwned,
}

impl Machine {
    /// Who coordinates an operation on a key with these replicas.
    pub(super) fn route(&self, from: Requester, sets: &ReplicaSets, write: bool) -> Result<Route, Failure> {
        let is_replica = sets.contains(self.config.member);
        if let Requester::Member { .. } = from {
            return Ok(if is_replica { Route::Here } else { Route::NotOwned });
        }
        if is_replica && !write {
            return Ok(Route::Here);
        }
        match self.first_live(sets, &[]) {
            Some(member) if member == self.config.member => Ok(Route::Here),
            Some(member) => Ok(Route::To(member)),
            None => Err(Failure { retry_after_ms: 100, ..Failure::not_applied(Reason::TooFewReplicas) }),
        }
    }

    /// The first replica that is believed alive, beside these.
    fn first_live(&self, sets: &ReplicaSets, beside: &[MemberId]) -> Option<MemberId> {
        sets.base.iter().copied().find(|member| !self.is_suspected(*member) && !beside.contains(member))
    }

    /// Hands a request on.
    pub(super) fn forward(
        &mut self,
        now: Now,
        from: Requester,
        request: &Request,
        (slot, to): (Slot, MemberId),
        out: &mut Effects,
    ) -> Result<(), Failure> {
        if self.coordinator.len() >= self.config.limits.operations_max {
            return Err(Failure { retry_after_ms: 10, ..Failure::not_applied(Reason::Overloaded) });
        }
        self.stats.forwarded += 1;
        let operation =
            ForwardOperation { requester: from, request: request.clone(), slot, to, tried: Replicas::new() };
        let body = forward_body(&operation, now);
        let attempt = self.coordinator.open(now.mono, Open::Forward(operation.into()));
        self.send(None, to, slot, body(attempt), out);
        Ok(())
    }

    /// Coordinates what another member has handed on.
    pub(super) fn forwarded(&mut self, now: Now, requester: Requester, request: Request, out: &mut Effects) {
        self.stats.taken_on += 1;
        self.request(now, requester, request, out);
    }

    pub(super) fn answer_not_owned(&mut self, from: Requester, slot: Slot, out: &mut Effects) {
        if let Requester::Member { member, attempt, .. } = from {
            let wait = self.replica.wait_for_adoption();
            self.send(wait, member, slot, MessageBody::ForwardAnswer { attempt, reply: None }, out);
        }
    }

    /// What became of a request that was handed on.
    pub(super) fn forward_answered(
        &mut self,
        now: Now,
        from: MemberId,
        attempt: AttemptId,
        reply: Option<Reply>,
        out: &mut Effects,
    ) {
        let Some(forward) = self.coordinator.forward_mut(attempt).filter(|forward| forward.to == from) else {
            return;
        };
        forward.tried.push(from);
        let refusal = match reply {
            // It has done nothing, and somebody else may do better.
            None => Failure::not_applied(Reason::NotReplica),
            Some(Err(failure))
                if failure.outcome != Outcome::InDoubt && failure.reason == Reason::Stopping =>
            {
                failure
            }
            Some(reply) => return self.end_forward(attempt, reply, out),
        };
        self.hand_on_again(now, attempt, refusal, out);
    }

    /// Whoever was asked did nothing, or is believed dead: somebody else is asked, if a second doing could do no harm.
    fn hand_on_again(&mut self, now: Now, attempt: AttemptId, refusal: Failure, out: &mut Effects) {
        let Some(forward) = self.coordinator.forward_mut(attempt) else { return };
        let (slot, tried) = (forward.slot, forward.tried.clone());
        let Some(to) = self.first_live(&self.sets(slot), &tried) else {
            return self.end_forward(attempt, Err(refusal), out);
        };
        if to == self.config.member {
            // The slot has become this member's.
            let Some(Open::Forward(forward)) = self.coordinator.close(attempt) else { return };
            return self.request(now, forward.requester, forward.request, out);
        }
        let Some(attempt) = self.coordinator.rename(now.mono, attempt) else { return };
        let Some(forward) = self.coordinator.forward_mut(attempt) else { return };
        forward.to = to;
        let body = forward_body(forward, now)(attempt);
        self.send(None, to, slot, body, out);
    }

    /// A member is believed dead: what was handed on to it will hardly be answered.
    pub(super) fn forwards_lost(&mut self, now: Now, member: MemberId, out: &mut Effects) {
        for attempt in self.coordinator.attempts() {
            let Some(forward) = self.coordinator.forward_mut(attempt).filter(|forward| forward.to == member)
            else {
                continue;
            };
            let failure = forward.lost(Reason::NoQuorumInTime);
            if failure.outcome == Outcome::InDoubt {
                self.end_forward(attempt, Err(failure), out);
            } else {
                forward.tried.push(member);
                self.hand_on_again(now, attempt, failure, out);
            }
        }
    }

    fn end_forward(&mut self, attempt: AttemptId, reply: Reply, out: &mut Effects) {
        let Some(Open::Forward(forward)) = self.coordinator.close(attempt) else { return };
        let Request { operation, value_bytes_max, .. } = forward.request;
        // A write has been done: its answer is given, however long.
        if let Ok(Answer::Read(answer)) = &reply
            && answer.value.len() > value_bytes_max
        {
            return out.too_long(forward.requester, operation, answer.value.len());
        }
        if let Err(failure) = &reply {
            self.stats.failures += 1;
            self.stats.in_doubt += u64::from(failure.outcome == Outcome::InDoubt);
        }
        out.reply(None, forward.requester, reply);
    }
}

fn forward_body(forward: &ForwardOperation, now: Now) -> impl FnOnce(AttemptId) -> MessageBody + use<> {
    let Request { operation, level, identity, done_below, deadline, .. } = forward.request.clone();
    let remaining_ms = u32::try_from(deadline.since(now.mono) / 1_000_000).unwrap_or(u32::MAX);
    move |attempt| MessageBody::Forward { attempt, operation, level, identity, done_below, remaining_ms }
}
