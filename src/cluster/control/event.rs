//! What the control plane is told and what it asks for. Closed lists.

use crate::cluster::change::JoinRequest;
use crate::cluster::epoch::Epoch;
use crate::cluster::messages::ControlMessage;
use crate::cluster::ring::Ring;
use crate::cluster::slot_set::SlotSet;
use crate::types::request::Asker;
use crate::types::{CoreId, Failure, Hlc, MemberId, Mono, Slot};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What can happen to the control plane.
#[derive(Clone, Debug)]
pub enum ControlEvent {
    /// Time has passed: every 50 ms, or oftener.
    Tick,
    /// A member, this node included, says something.
    Message {
        /// Who, as the connection proves.
        from: MemberId,
        /// What.
        message: ControlMessage,
    },
    /// A node wants to become a member.
    Join {
        /// Carried back by the answer.
        asker: Asker,
        /// What it says of itself.
        request: JoinRequest,
        /// It is answered before.
        deadline: Mono,
    },
    /// A core of this node says how far it is.
    Cores(CoreReport),
    /// A core answers [`ControlEffect::AskCores`].
    Occupied {
        /// The round that is answered.
        round: u64,
        /// The core.
        core: CoreId,
        /// Its slots that hold any record, dead ones included.
        slots: SlotSet,
    },
    /// What heartbeats tell of this node.
    Vitals(Vitals),
}

/// How far a core is with the moves that epochs ask for. Sent after its start, and whenever it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreReport {
    /// The core.
    pub core: CoreId,
    /// The newest epoch that it speaks of.
    pub epoch: u64,
    /// None: its part of every move up to that epoch is finished, durably. Some: under that epoch it cannot take part
    /// in moving this slot.
    pub refused: Option<Slot>,
}

/// What heartbeats tell of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vitals {
    /// Its own clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// The greatest clock reading that it has issued or seen.
    pub hlc: Hlc,
    /// Records on all its cores.
    pub records: u64,
}

/// What the control plane asks for. In order: **what follows a [`ControlEffect::Log`] is done only when that record is
/// durable.**
#[derive(Clone, Debug)]
pub enum ControlEffect {
    /// Append this record to the log of core 0.
    Log {
        /// What the bytes are.
        kind: RecordKind,
        /// The record; the latest of its kind is what counts at a restart.
        bytes: Vec<u8>,
    },
    /// Send a message. One to this node itself comes back as an event.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: ControlMessage,
    },
    /// A new epoch was decided: tell all cores of this node.
    Publish(Arc<Ring>),
    /// Answer a request to join.
    AnswerJoin {
        /// Whose.
        asker: Asker,
        /// With what.
        answer: Result<JoinAnswer, Failure>,
    },
    /// Ask every core of this node which of its slots hold any record.
    AskCores {
        /// Echoed by the answers.
        round: u64,
    },
    /// For the diagnostics.
    Note(Note),
}

/// What a record of the control plane holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A decided epoch.
    Epoch,
    /// What was promised and accepted for the next one.
    Acceptor,
}

/// What a node is told that asked to join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JoinAnswer {
    /// It is a member.
    Member {
        /// Its id, for ever.
        member: MemberId,
        /// An epoch that it belongs to.
        epoch: Arc<Epoch>,
    },
    /// This node has no vote: ask one of those.
    AskVoters {
        /// Of peers: host:port, a few.
        addresses: Vec<String>,
    },
}

/// Worth a line in the diagnostics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// An epoch is in force here.
    Epoch {
        /// Its number.
        number: u64,
    },
    /// It is proposed that a move is given up.
    GivingUp {
        /// Who was joining.
        joining: Option<MemberId>,
        /// Who cannot take part, and in moving which slot; None: who was joining is silent for too long.
        refused: Option<(MemberId, Slot)>,
    },
    /// This node is no longer a member: it says nothing any more.
    Removed,
}

/// Effects of the steps since the last drain.
#[derive(Debug, Default)]
pub struct ControlEffects(VecDeque<ControlEffect>);

impl ControlEffects {
    /// The next effect to perform.
    pub fn pop(&mut self) -> Option<ControlEffect> {
        self.0.pop_front()
    }

    pub(super) fn push(&mut self, effect: ControlEffect) {
        self.0.push_back(effect);
    }

    pub(super) fn send(&mut self, to: MemberId, message: ControlMessage) {
        self.push(ControlEffect::Send { to, message });
    }

    pub(super) fn answer(&mut self, asker: Asker, answer: Result<JoinAnswer, Failure>) {
        self.push(ControlEffect::AnswerJoin { asker, answer });
    }
}
