//! What nodes say to each other about keys. Plain data; its wire form lives in `rpc`.

use crate::storage::log_record::Round;
use crate::types::{Hlc, Slot, Version};
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

/// A message about a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The slot.
    pub slot: Slot,
    /// Number of the last epoch that changed the slot's replicas, as the sender knows it.
    pub configuration: u64,
    /// The sender's clock: merged before the message is answered.
    pub hlc: Hlc,
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
    },
    /// What became of it.
    WriteAnswer {
        /// The message that is answered.
        attempt: AttemptId,
        /// What became of it.
        verdict: Verdict,
        /// What the record replaced here.
        replaced: Replaced,
    },
}

/// What a replica says of a record that it was offered. It leaves only when all it speaks of is durable there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Held durably.
    Held,
    /// A newer version is held durably. Never counts as held.
    Superseded(Version),
    /// Refused: the key is absent and its slot's floor covers the version.
    BelowFloor,
    /// Refused: the version is too far ahead of this node's clock. Counts for nothing.
    ClockAhead,
    /// Refused: no room. Counts for nothing.
    NoRoom,
    /// Refused: the sender's configuration of the slot is not this node's. Counts for nothing.
    StaleEpoch(u64),
}

/// The record that a write replaced at one replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replaced {
    /// Zero if the key was not known.
    pub version: Version,
    /// The live value, if there was one; empty bytes if its content was not asked for.
    pub value: Option<Bytes>,
}
