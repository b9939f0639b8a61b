//! One request that another member coordinates for this node, and whom it is for there (`PROTOCOL.md` §1, "Forwarding").

use super::messages::AttemptId;
use super::quorum::Replicas;
use crate::types::request::{Asker, Request};
use crate::types::{Failure, MemberId, Reason, Slot};

/// Whom an operation's answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requester {
    /// A request of this node's shell.
    Here(Asker),
    /// Another member handed it on.
    Member {
        /// Who.
        member: MemberId,
        /// The slot of its key.
        slot: Slot,
        /// The configuration of the slot that it was taken on under.
        configuration: u64,
        /// The message that is answered.
        attempt: AttemptId,
    },
}

/// A request on its way to whoever coordinates it.
#[derive(Debug)]
pub struct ForwardOperation {
    /// Who asked.
    pub requester: Requester,
    /// What.
    pub request: Request,
    /// The slot of its key.
    pub slot: Slot,
    /// Who was asked last.
    pub to: MemberId,
    /// Who answered that it does not own the slot, or did not answer a read in time.
    pub tried: Replicas,
}

impl ForwardOperation {
    /// What the client is told if no answer comes: a write may have been taken on there.
    pub fn lost(&self, reason: Reason) -> Failure {
        if self.request.operation.is_write() {
            Failure::in_doubt(reason)
        } else {
            Failure::not_applied(reason).of_read()
        }
    }
}
