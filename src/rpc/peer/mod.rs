//! Links: what the nodes of a cluster say to each other, one stream per core and peer, one way. What a frame says is the
//! machine's business; that it is well-formed, comes from a member, and waits where it has to, is this module's.
//!
//! `outgoing` holds what waits, `dial` carries it over a connection, `serve` takes it in at the other end, and `wire` is
//! the form in between.

pub(crate) mod control;
/// One connection of a link, at the side that sends.
pub mod dial;
mod exchange;
mod forward;
/// Requests to join.
pub mod join;
/// What a link has to say and has not said yet.
pub mod outgoing;
mod serve;
/// Frames as bytes, and back.
pub mod wire;

pub(crate) use serve::{Refused, serve};

use super::backend::{Phase, View};
use crate::cluster::messages::ControlMessage;
use crate::cluster::slot_set::SLOT_SET_BYTES;
use crate::replication::messages::{Message, MessageBody};
use crate::types::{ClusterId, CoreId, Failure, MemberId, Reason};
use bytes::Bytes;

/// Of everything in `proto/ringcore/peer/v1`. Nodes of different formats do not talk.
pub const FORMAT: u32 = 1;

/// One thing that a node says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are about slots, and allocate nothing")]
pub enum Frame {
    /// About a slot: for the core that owns it.
    Slot(Message),
    /// About membership, or that somebody lives: for core 0.
    Control(Box<ControlMessage>),
}

/// How a sender introduces itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Which member it is.
    pub from: MemberId,
    /// Which one it believes to talk to.
    pub to: MemberId,
    /// The core whose link this is.
    pub core: CoreId,
    /// How many cores it has.
    pub cores: u16,
}

/// What a sender is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// [`Hello::to`].
    pub member: MemberId,
    /// How many cores it has.
    pub cores: u16,
}

impl Frame {
    /// The core of a node with that many cores that the frame is for.
    pub fn core(&self, cores: u16) -> CoreId {
        match self {
            Frame::Slot(message) => message.slot.core(cores),
            Frame::Control(_) => CoreId(0),
        }
    }

    /// The key that will be looked up for it, if there is one, and whether to change it.
    pub(crate) fn key(&self) -> Option<(&Bytes, bool)> {
        let Frame::Slot(message) = self else { return None };
        match &message.body {
            MessageBody::Write { record, .. } => Some((&record.key, true)),
            MessageBody::Read { key, .. } => Some((key, false)),
            MessageBody::Forward { operation, .. } => operation.key().map(|key| (key, operation.is_write())),
            MessageBody::WriteAnswer { .. }
            | MessageBody::ReadAnswer { .. }
            | MessageBody::Survey { .. }
            | MessageBody::SurveyAnswer { .. }
            | MessageBody::Collect { .. }
            | MessageBody::Collected { .. }
            | MessageBody::Announce
            | MessageBody::Compare { .. }
            | MessageBody::Agree { .. }
            | MessageBody::Parts { .. }
            | MessageBody::Listing { .. }
            | MessageBody::Want { .. }
            | MessageBody::ForwardAnswer { .. } => None,
        }
    }

    /// What it takes up while it waits, about; on the wire it takes less.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Frame>()
            + match self {
                Frame::Slot(message) => message.body.bytes(),
                Frame::Control(message) => control_bytes(message),
            }
    }
}

/// What an epoch takes up, about.
const EPOCH_BYTES: usize = 64 << 10;

fn control_bytes(message: &ControlMessage) -> usize {
    match message {
        ControlMessage::News(_) | ControlMessage::Accept { .. } | ControlMessage::Promise { .. } => {
            EPOCH_BYTES
        }
        ControlMessage::Occupied { .. } => SLOT_SET_BYTES,
        ControlMessage::Probe(_)
        | ControlMessage::ProbeAnswer(_)
        | ControlMessage::Heartbeat(_)
        | ControlMessage::HeartbeatAnswer(_)
        | ControlMessage::FetchEpoch { .. }
        | ControlMessage::Prepare { .. }
        | ControlMessage::Accepted { .. }
        | ControlMessage::Refused { .. }
        | ControlMessage::AskOccupied { .. } => size_of::<ControlMessage>(),
    }
}

impl Hello {
    /// May the sender talk to the node that sees the cluster so? A refusal changes nothing.
    pub fn admit(&self, view: &View) -> Result<Welcome, Failure> {
        if view.phase == Phase::Starting && view.epoch == 0 {
            return Err(Failure::not_applied(Reason::Starting));
        }
        let own = view.own();
        let refuse = |why: String| Err(Failure::not_applied(Reason::NotMember).message(why));
        let Hello { cluster, from, to, .. } = *self;
        if cluster != view.cluster {
            return refuse(format!(
                "member {from} of cluster {cluster} was taken to one of {}",
                view.cluster
            ));
        }
        if to != own.id {
            return refuse(format!("member {from} looks for member {to}, and this is {}", own.id));
        }
        if from == own.id {
            return refuse(format!("member {from} came in from outside, and is this node"));
        }
        if !view.members.iter().any(|member| member.id == from) {
            return refuse(format!("{from} is no member of epoch {}", view.epoch));
        }
        Ok(Welcome { member: own.id, cores: own.cores })
    }
}
