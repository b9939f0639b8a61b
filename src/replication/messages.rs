//! What nodes say to each other about keys. Plain data; its wire form lives in `rpc`.

use super::replica::Naming;
use crate::storage::digest::Digest;
use crate::storage::log_record::Round;
use crate::types::request::{Level, Operation, Reply};
use crate::types::{Hlc, OperationId, Slot, Token, Version};
use alloc::vec::Vec;
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

/// The name of a write that nobody waits for: it is not answered.
pub const UNANSWERED: AttemptId = AttemptId(0);
/// Pieces that a differing range is cut into.
pub const PARTS: usize = 64;
/// Tokens and versions in one message, at most.
pub const LISTED_MAX: usize = 2_048;

/// Tokens from the first to the last, both inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenRange {
    /// First.
    pub first: Token,
    /// Last.
    pub last: Token,
}

/// A tombstone, or a record whose end has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dead {
    /// The key.
    pub key: Bytes,
    /// The record's version.
    pub version: Version,
    /// Milliseconds since 1970; 0 = it was deleted.
    pub expires_at_ms: u64,
}

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
    /// A round of collection: take these dead records, remember the list, and say so.
    Collect {
        /// Its number.
        round: Round,
        /// What it lists.
        listed: Vec<Dead>,
    },
    /// All of that round's list is held here, durably.
    Collected {
        /// Its number.
        round: Round,
    },
    /// Nothing but the news.
    Announce,
    /// Over what I hold of the slot. Answered by Agree or, if it is not the same here, by what narrows the difference.
    Compare {
        /// The sum.
        digest: Digest,
    },
    /// The same here.
    Agree {
        /// What was compared.
        digest: Digest,
    },
    /// What I hold of a range of the slot's tokens, cut into [`PARTS`] equal pieces.
    Parts {
        /// Both inclusive.
        range: TokenRange,
        /// Over each piece, in order.
        digests: Vec<Digest>,
    },
    /// All that I hold of a range of the slot's tokens, as far as it is not quite new.
    Listing {
        /// Both inclusive.
        range: TokenRange,
        /// In the order of tokens.
        entries: Vec<(Token, Version)>,
    },
    /// Send me your records with these tokens.
    Want {
        /// Keys' tokens.
        tokens: Vec<Token>,
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

impl OwnedRecord {
    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl MessageBody {
    /// Does it answer what this node has asked, and cause no answer itself?
    pub fn is_answer(&self) -> bool {
        match self {
            MessageBody::WriteAnswer { .. }
            | MessageBody::ReadAnswer { .. }
            | MessageBody::SurveyAnswer { .. }
            | MessageBody::ForwardAnswer { .. }
            | MessageBody::Collected { .. }
            | MessageBody::Agree { .. }
            | MessageBody::Announce => true,
            MessageBody::Write { .. }
            | MessageBody::Read { .. }
            | MessageBody::Survey { .. }
            | MessageBody::Forward { .. }
            | MessageBody::Collect { .. }
            | MessageBody::Compare { .. }
            | MessageBody::Parts { .. }
            | MessageBody::Listing { .. }
            | MessageBody::Want { .. } => false,
        }
    }

    /// Bytes of keys, values and lists in it: what it takes up beside its own size.
    pub fn bytes(&self) -> usize {
        match self {
            MessageBody::Write { record, .. }
            | MessageBody::ReadAnswer { found: Found::Record { record, .. }, .. } => record.bytes(),
            MessageBody::WriteAnswer { replaced, .. } => replaced.value.as_ref().map_or(0, Bytes::len),
            MessageBody::Read { key, .. } => key.len(),
            MessageBody::Forward { operation, .. } => operation.bytes(),
            MessageBody::ForwardAnswer { reply: Some(Ok(answer)), .. } => answer.bytes(),
            MessageBody::ForwardAnswer { reply: Some(Err(failure)), .. } => failure.message.len(),
            MessageBody::Collect { listed, .. } => {
                listed.iter().map(|dead| size_of::<Dead>() + dead.key.len()).sum()
            }
            MessageBody::Parts { digests, .. } => size_of_val(&digests[..]),
            MessageBody::Listing { entries, .. } => size_of_val(&entries[..]),
            MessageBody::Want { tokens } => size_of_val(&tokens[..]),
            MessageBody::ForwardAnswer { reply: None, .. }
            | MessageBody::ReadAnswer { .. }
            | MessageBody::Collected { .. }
            | MessageBody::Announce
            | MessageBody::Compare { .. }
            | MessageBody::Agree { .. }
            | MessageBody::Survey { .. }
            | MessageBody::SurveyAnswer { .. } => 0,
        }
    }
}
