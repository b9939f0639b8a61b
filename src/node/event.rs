//! What can happen to a core. A closed list.

use crate::cluster::control::CoreReport;
use crate::cluster::messages::ControlMessage;
use crate::cluster::ring::Ring;
use crate::cluster::slot_set::SlotSet;
use crate::replication::messages::Message;
use crate::storage::log::Ticket;
use crate::storage::segment::SegmentId;
use crate::types::request::{Asker, Request};
use crate::types::{CoreId, MemberId};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What can happen to a core.
#[derive(Debug)]
pub enum Event {
    /// A client asks for something, through whichever core or node.
    Request {
        /// Who.
        from: Asker,
        /// What.
        request: Request,
    },
    /// Another member says something about a slot of this core.
    Peer {
        /// Who.
        from: MemberId,
        /// What.
        message: Message,
    },
    /// The write of a batch returned: its blocks are on stable storage.
    Written(Ticket),
    /// The write of a batch failed or was short. What reached the disk is not known.
    WriteFailed(Ticket),
    /// A segment file was written full of zeros and is durable under its name.
    SegmentReady(SegmentId),
    /// There is no room on the disk for the segment that was asked for.
    SegmentRefused(SegmentId),
    /// A new epoch was decided.
    Epoch(Arc<Ring>),
    /// Another member says something about membership, or that it lives: to core 0.
    Control {
        /// Who.
        from: MemberId,
        /// What.
        message: Box<ControlMessage>,
    },
    /// The link to this member broke: it may be dead. To core 0.
    Unreachable(MemberId),
    /// A core says how far it is with the moves that epochs ask for: to core 0.
    Moved(CoreReport),
    /// A core was told of a newer epoch by this member: to core 0.
    AskEpoch(MemberId),
    /// Core 0 wants to know which slots of this core hold any record.
    AskOccupied {
        /// Echoed by the answer.
        round: u64,
    },
    /// A core's answer to that: to core 0.
    Occupied {
        /// What is answered.
        round: u64,
        /// Whose slots.
        core: CoreId,
        /// Those that hold any record.
        slots: SlotSet,
    },
    /// Who is believed to live has changed, or what the members' clocks say.
    Opinion(Opinion),
    /// Time has passed.
    Tick,
    /// Time has passed for who watches the other members: to core 0.
    Watch,
    /// Take on no more work.
    Stop,
}

/// What a node believes of the others: routing follows it, ownership never does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opinion {
    /// Members that are believed dead, in the order of their ids.
    pub suspects: Vec<MemberId>,
    /// How far cluster time, the median of the live members' clocks, is ahead of this node's clock, milliseconds.
    pub ahead_ms: i64,
}
