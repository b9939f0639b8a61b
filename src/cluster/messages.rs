//! What members say to each other about membership. Plain data; its wire form lives in `rpc`.

use super::epoch::Epoch;
use super::paxos::{Ballot, Taken};
use super::slot_set::SlotSet;
use crate::types::{Hlc, MemberId, Slot};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Opinions in a heartbeat, at most.
pub const OPINIONS_MAX: usize = 64;

/// What a member thinks of another one's life: gossip, never a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opinion {
    /// Whom it is about.
    pub member: MemberId,
    /// Raised by that member alone, to contradict what was said of it.
    pub incarnation: u64,
    /// Orders what is said of one incarnation.
    pub number: u64,
    /// Believed to answer?
    pub alive: bool,
}

/// What a member says of itself, again and again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heartbeat {
    /// Of the sender's heartbeats since its start; an answer carries that of the heartbeat that it answers.
    pub sequence: u64,
    /// Number of the newest epoch that the sender holds durably.
    pub epoch: u64,
    /// The sender's cores have finished, durably, their part of every move up to this epoch.
    pub moved: u64,
    /// A slot that a core of the sender cannot take part in moving, under `epoch`.
    pub refused: Option<Slot>,
    /// The sender's own clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// The greatest clock reading that the sender has issued or seen.
    pub hlc: Hlc,
    /// How often the sender has started on its data directory.
    pub starts: u64,
    /// The sender's cores.
    pub cores: u16,
    /// Records on all cores of the sender.
    pub records: u64,
    /// Of others: [`OPINIONS_MAX`] at most.
    pub opinions: Vec<Opinion>,
}

/// What members say to each other. A message from who is no member changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlMessage {
    /// I am here.
    Heartbeat(Heartbeat),
    /// So am I.
    HeartbeatAnswer(Heartbeat),
    /// Send the newest epoch if its number is greater.
    FetchEpoch {
        /// The greatest that the sender has.
        above: u64,
    },
    /// A decided epoch.
    News(Arc<Epoch>),
    /// Promise this ballot for this epoch number.
    Prepare {
        /// The epoch's.
        number: u64,
        /// Of the sender.
        ballot: Ballot,
    },
    /// Promised.
    Promise {
        /// The epoch's.
        number: u64,
        /// The one that was asked for.
        ballot: Ballot,
        /// What the sender took before.
        accepted: Taken<Arc<Epoch>>,
    },
    /// Take this epoch.
    Accept {
        /// Of the sender.
        ballot: Ballot,
        /// The value; its number is that which is agreed on.
        epoch: Arc<Epoch>,
    },
    /// Taken.
    Accepted {
        /// The epoch's.
        number: u64,
        /// The one that was asked for.
        ballot: Ballot,
    },
    /// A higher ballot was promised.
    Refused {
        /// The epoch's.
        number: u64,
        /// The one that was asked for.
        ballot: Ballot,
        /// The one that forbids it.
        promised: Ballot,
    },
    /// Which slots hold a record at the receiver, dead ones included?
    AskOccupied {
        /// Echoed by the answer.
        question: u64,
    },
    /// These.
    Occupied {
        /// The question that is answered.
        question: u64,
        /// Slots of all cores of the sender.
        slots: SlotSet,
    },
}
