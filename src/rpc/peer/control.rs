//! What is said of membership and liveness in protobuf, both ways, and requests to join.

use super::wire::WireError;
use crate::cluster::epoch::Epoch;
use crate::cluster::liveness::{Belief, OPINIONS_MAX, Opinion, Standing};
use crate::cluster::messages::{ControlMessage, Heartbeat, Probing};
use crate::cluster::paxos::Ballot;
use crate::cluster::slot_set::{SLOT_SET_BYTES, SlotSet};
use crate::rpc::proto::peer as pb;
use crate::types::join::{JoinRequest, Joined, Nonce};
use crate::types::{ClusterId, Hlc, MemberId, SLOTS, Slot};
use bytes::Bytes;
use pb::frame::Body;
use std::sync::Arc;

/// Peer addresses in an answer to a request to join.
const VOTERS_MAX: usize = 64;

pub(super) fn from_message(message: ControlMessage) -> Body {
    match message {
        ControlMessage::Probe(probing) => Body::Probe(from_probing(probing)),
        ControlMessage::ProbeAnswer(probing) => Body::ProbeAnswer(from_probing(probing)),
        ControlMessage::Heartbeat(said) => Body::Heartbeat(from_heartbeat(said)),
        ControlMessage::HeartbeatAnswer(said) => Body::HeartbeatAnswer(from_heartbeat(said)),
        ControlMessage::FetchEpoch { above } => Body::FetchEpoch(pb::FetchEpoch { above }),
        ControlMessage::News(epoch) => Body::News(from_epoch(&epoch)),
        ControlMessage::Prepare { number, ballot } => Body::Prepare(from_ballot(number, ballot)),
        ControlMessage::Promise { number, ballot, accepted } => {
            let (taken, epoch) = accepted.unzip();
            Body::Promise(pb::Promise {
                ballot: Some(from_ballot(number, ballot)),
                accepted: taken.map(|taken| from_ballot(number, taken)),
                epoch: epoch.map(|epoch| from_epoch(&epoch)),
            })
        }
        ControlMessage::Accept { ballot, epoch } => Body::Accept(pb::Accept {
            ballot: Some(from_ballot(epoch.number, ballot)),
            epoch: Some(from_epoch(&epoch)),
        }),
        ControlMessage::Accepted { number, ballot } => Body::Accepted(from_ballot(number, ballot)),
        ControlMessage::Refused { number, ballot, promised } => Body::Refused(pb::Refused {
            ballot: Some(from_ballot(number, ballot)),
            promised: Some(from_ballot(number, promised)),
        }),
        ControlMessage::AskOccupied { question } => Body::AskOccupied(pb::AskOccupied { question }),
        ControlMessage::Occupied { question, slots } => {
            let slots = Bytes::copy_from_slice(&slots.to_bytes()[..]);
            Body::Occupied(pb::Occupied { question, slots })
        }
    }
}

/// None: it is about a slot.
pub(super) fn to_message(body: &Body) -> Option<Result<ControlMessage, WireError>> {
    Some(match body {
        Body::Probe(probe) => to_probing(probe).map(ControlMessage::Probe),
        Body::ProbeAnswer(probe) => to_probing(probe).map(ControlMessage::ProbeAnswer),
        Body::Heartbeat(said) => to_heartbeat(said).map(ControlMessage::Heartbeat),
        Body::HeartbeatAnswer(said) => to_heartbeat(said).map(ControlMessage::HeartbeatAnswer),
        Body::FetchEpoch(pb::FetchEpoch { above }) => Ok(ControlMessage::FetchEpoch { above: *above }),
        Body::News(epoch) => to_epoch(Some(epoch)).map(ControlMessage::News),
        Body::Prepare(asked) => {
            Ok(ControlMessage::Prepare { number: asked.number, ballot: to_ballot(asked) })
        }
        Body::Promise(promise) => to_promise(promise),
        Body::Accept(pb::Accept { ballot, epoch }) => to_accept(ballot.as_ref(), epoch.as_ref()),
        Body::Accepted(taken) => {
            Ok(ControlMessage::Accepted { number: taken.number, ballot: to_ballot(taken) })
        }
        Body::Refused(pb::Refused { ballot, promised }) => match (ballot, promised) {
            (Some(ballot), Some(promised)) => Ok(ControlMessage::Refused {
                number: ballot.number,
                ballot: to_ballot(ballot),
                promised: to_ballot(promised),
            }),
            _ => Err(WireError::Missing("ballot")),
        },
        Body::AskOccupied(pb::AskOccupied { question }) => {
            Ok(ControlMessage::AskOccupied { question: *question })
        }
        Body::Occupied(pb::Occupied { question, slots }) => SlotSet::from_bytes(slots)
            .map(|slots| ControlMessage::Occupied { question: *question, slots })
            .ok_or(WireError::TooLong { what: "set of slots", got: slots.len(), limit: SLOT_SET_BYTES }),
        _ => return None,
    })
}

pub(super) fn from_join(request: JoinRequest) -> pb::JoinRequest {
    let [client_address, peer_address, admin_address] = request.addresses;
    pb::JoinRequest {
        cluster: request.cluster.map_or_else(Bytes::new, |cluster| Bytes::copy_from_slice(&cluster.0)),
        nonce: Bytes::copy_from_slice(&request.nonce.0),
        name: request.name,
        zone: request.zone,
        weight_percent: request.weight_percent,
        client_address,
        peer_address,
        admin_address,
    }
}

/// What it must hold beside its form is checked where it is decided on.
pub(crate) fn to_join(request: pb::JoinRequest) -> Result<JoinRequest, WireError> {
    let cluster = match &request.cluster[..] {
        [] => None,
        bytes => Some(ClusterId(bytes.try_into().map_err(|_| WireError::Missing("cluster"))?)),
    };
    Ok(JoinRequest {
        cluster,
        nonce: Nonce(request.nonce[..].try_into().map_err(|_| WireError::Missing("nonce"))?),
        name: request.name,
        zone: request.zone,
        weight_percent: request.weight_percent,
        addresses: [request.client_address, request.peer_address, request.admin_address],
    })
}

pub(crate) fn from_joined(joined: Joined) -> pb::JoinResponse {
    match joined {
        Joined::Member { cluster, member, epoch } => pb::JoinResponse {
            cluster: Bytes::copy_from_slice(&cluster.0),
            member: member.0,
            epoch: Some(pb::Epoch { encoded: epoch }),
            voters: Vec::new(),
        },
        Joined::AskVoters { addresses } => {
            pb::JoinResponse { voters: addresses, ..pb::JoinResponse::default() }
        }
    }
}

pub(super) fn to_joined(response: pb::JoinResponse) -> Result<Joined, WireError> {
    if response.member == 0 {
        let addresses = response.voters.into_iter().take(VOTERS_MAX).collect();
        return Ok(Joined::AskVoters { addresses });
    }
    let epoch = to_epoch(response.epoch.as_ref())?;
    Ok(Joined::Member {
        cluster: ClusterId(response.cluster[..].try_into().map_err(|_| WireError::Missing("cluster"))?),
        member: MemberId(response.member),
        epoch: Bytes::from(epoch.encode()),
    })
}

fn from_probing(probing: Probing) -> pb::Probe {
    let opinion = |Opinion { member, standing }: Opinion| pb::probe::Opinion {
        member: member.0,
        incarnation: standing.incarnation,
        number: standing.number,
        suspected: standing.belief == Belief::Suspected,
    };
    pb::Probe {
        sequence: probing.sequence,
        incarnation: probing.incarnation,
        opinions: probing.opinions.into_iter().map(opinion).collect(),
    }
}

fn to_probing(probe: &pb::Probe) -> Result<Probing, WireError> {
    if probe.opinions.len() > OPINIONS_MAX {
        let got = probe.opinions.len();
        return Err(WireError::TooLong { what: "list of opinions", got, limit: OPINIONS_MAX });
    }
    let opinion = |said: &pb::probe::Opinion| Opinion {
        member: MemberId(said.member),
        standing: Standing {
            incarnation: said.incarnation,
            number: said.number,
            belief: if said.suspected { Belief::Suspected } else { Belief::Alive },
        },
    };
    Ok(Probing {
        sequence: probe.sequence,
        incarnation: probe.incarnation,
        opinions: probe.opinions.iter().map(opinion).collect(),
    })
}

fn from_heartbeat(said: Heartbeat) -> pb::Heartbeat {
    pb::Heartbeat {
        sequence: said.sequence,
        epoch: said.epoch,
        moved: said.moved,
        refused: said.refused.map(|slot| slot.0.into()),
        clock_ms: said.clock_ms,
        hlc: said.hlc.0,
        starts: said.starts,
        cores: said.cores.into(),
    }
}

fn to_heartbeat(said: &pb::Heartbeat) -> Result<Heartbeat, WireError> {
    let slot = |slot: u32| match slot {
        slot if (slot as usize) < SLOTS => Ok(Slot(slot as u16)),
        slot => Err(WireError::Slot(slot)),
    };
    let number = i64::from(said.cores);
    Ok(Heartbeat {
        sequence: said.sequence,
        epoch: said.epoch,
        moved: said.moved,
        refused: said.refused.map(slot).transpose()?,
        clock_ms: said.clock_ms,
        hlc: Hlc(said.hlc),
        starts: said.starts,
        cores: u16::try_from(said.cores)
            .map_err(|_| WireError::Unknown { what: "number of cores", number })?,
    })
}

fn from_epoch(epoch: &Epoch) -> pb::Epoch {
    pb::Epoch { encoded: Bytes::from(epoch.encode()) }
}

fn to_epoch(epoch: Option<&pb::Epoch>) -> Result<Arc<Epoch>, WireError> {
    let encoded = &epoch.ok_or(WireError::Missing("epoch"))?.encoded;
    Epoch::decode(encoded).map(Arc::new).map_err(|_| WireError::Missing("epoch that can be"))
}

fn from_ballot(number: u64, ballot: Ballot) -> pb::Ballot {
    pb::Ballot { number, round: ballot.round, member: ballot.member.0 }
}

fn to_ballot(ballot: &pb::Ballot) -> Ballot {
    Ballot { round: ballot.round, member: MemberId(ballot.member) }
}

fn to_promise(promise: &pb::Promise) -> Result<ControlMessage, WireError> {
    let ballot = promise.ballot.as_ref().ok_or(WireError::Missing("ballot"))?;
    let accepted = match &promise.accepted {
        None => None,
        Some(taken) => Some((to_ballot(taken), to_epoch(promise.epoch.as_ref())?)),
    };
    Ok(ControlMessage::Promise { number: ballot.number, ballot: to_ballot(ballot), accepted })
}

fn to_accept(ballot: Option<&pb::Ballot>, epoch: Option<&pb::Epoch>) -> Result<ControlMessage, WireError> {
    let ballot = ballot.ok_or(WireError::Missing("ballot"))?;
    let epoch = to_epoch(epoch)?;
    if epoch.number != ballot.number {
        return Err(WireError::Missing("epoch of the ballot's number"));
    }
    Ok(ControlMessage::Accept { ballot: to_ballot(ballot), epoch })
}
