//! What nodes say to each other about keys. Plain data; its wire form lives in `rpc`.

use super::replica::Naming;
use crate::storage::digest::Digest;
use crate::storage::log_record::Round;
use crate::types::request::{Level, Operation, Reply};
use crate::types::{Hlc, OperationId, Slot, Version};
use bytes::Bytes;

/// A record that travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedRecord {
    /// The user's key.
    pub key: Bytes,
    /// Its version.
    pub version: Version,
    /// Milliseconds since 1970; 0 = never.
    pub expires_at_ms: u64,
    /// None = tombstone.
    pub value: Option<Bytes>,
}

/// Names one message of one operation to its coordinator: the answer carries it back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AttemptId(pub u64);

/// What every message about a slot says of collection: rounds and floors spread with the traffic (`PROTOCOL.md` §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// The last round that the sender knows to be confirmed by all.
    pub round: Round,
    /// The floor that goes with it.
    pub floor: Version,
}

/// A message about a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The slot.
    pub slot: Slot,
    /// Number of the last epoch that changed the slot's replicas, as the sender knows it.
    pub configuration: u64,
    /// The sender's clock: merged before the message is answered.
    pub hlc: Hlc,
    /// What the sender knows of the slot's collection.
    pub news: News,
    /// What it says.
    pub body: MessageBody,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MessageBody {
    /// Take this record.
    Write {
        /// Echoed by the answer.
        attempt: AttemptId,
        /// The record.
        record: OwnedRecord,
        /// The round of collection that its sender proves not to cover it.
        label: Option<Round>,
        /// The operation that wrote it, if its client named it and that is still remembered.
        naming: Option<Naming>,
        /// Answer with the value that it replaced.
        previous: bool,
        /// Not a client's write on its way, but one that others hold already: stricter rules for its clock.
        repair: bool,
    },
    /// What became of it.
    WriteAnswer {
        /// The message that is answered.
        attempt: AttemptId,
        /// What became of it.
        verdict: Verdict,
        /// What the record replaced here.
        replaced: Replaced,
        /// Of a replica that owns the slot and holds exactly this version: the round that does not cover it.
        label: Option<Round>,
    },
    /// Say what you hold of this key.
    Read {
        /// Echoed by the answer.
        attempt: AttemptId,
        /// The key.
        key: Bytes,
        /// Send the record, not only its version.
        record: bool,
    },
    /// What is held.
    ReadAnswer {
        /// The message that is answered.
        attempt: AttemptId,
        /// What is held.
        found: Found,
    },
    /// Adopt this message's configuration, and say what you hold of the whole slot.
    Survey {
        /// Echoed by the answer.
        attempt: AttemptId,
    },
    /// What is held.
    SurveyAnswer {
        /// The message that is answered.
        attempt: AttemptId,
        /// None: this node knows a greater configuration of the slot (the message's own).
        holding: Option<Holding>,
    },
    /// Coordinate this for me. One hop: what arrives so is never forwarded again.
    Forward {
        /// Echoed by the answer.
        attempt: AttemptId,
        /// What is asked for: of one key, and no Replicate.
        operation: Operation,
        /// How many replicas must take part.
        level: Level,
        /// The client's name for it.
        identity: Option<OperationId>,
        /// The lowest open request number of that client; 0 = unknown.
        done_below: u64,
        /// Time left, milliseconds: deadlines travel as durations.
        remaining_ms: u32,
    },
    /// What became of it.
    ForwardAnswer {
        /// The message that is answered.
        attempt: AttemptId,
        /// None: this node does not own the slot under the configuration of this message, and has done nothing.
        reply: Option<Reply>,
    },
}

/// What a replica says of a record that it was offered. It leaves only when all it speaks of is durable there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Held durably, or was so until something newer replaced it.
    Held,
    /// Never held, nor will be: this newer version is held durably. Never counts as held.
    Never(Version),
    /// A newer version is held durably; whether this one ever was is not remembered. Counts for nothing.
    Unknown(Version),
    /// Refused: the key is absent and its slot's floor covers the version.
    BelowFloor,
    /// Refused: the version is too far ahead of this node's clock. Counts for nothing.
    ClockAhead,
    /// Refused: no room. Counts for nothing.
    NoRoom,
    /// Refused: this node knows a greater configuration of the slot (the message's own). Counts for nothing.
    Stale,
}

/// What a replica holds of a key. It leaves only when that is durable there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// The record's version; zero if the key is not known.
    Version {
        /// Dead or alive.
        version: Version,
        /// Milliseconds since 1970; 0 = never.
        expires_at_ms: u64,
        /// The round that does not cover the record, of a replica that owns the slot.
        label: Option<Round>,
    },
    /// The record itself.
    Record {
        /// Dead or alive.
        record: OwnedRecord,
        /// The round that does not cover it, of a replica that owns the slot.
        label: Option<Round>,
    },
    /// Refused: this node knows a greater configuration of the slot (the message's own). Counts for nothing.
    Stale,
}

/// What a replica holds of a slot. It leaves only when all of that is durable there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Over its records.
    pub digest: Digest,
    /// Is there any, dead or alive?
    pub records: bool,
}

/// The record that a write replaced at one replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replaced {
    /// Zero if the key was not known.
    pub version: Version,
    /// The live value, if there was one; empty bytes if its content was not asked for.
    pub value: Option<Bytes>,
}
