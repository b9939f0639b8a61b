//! What a client asks of the system and what it is answered, free of any wire format.

use super::clock::Mono;
use super::error::Failure;
use super::ids::OperationId;
use super::join::{JoinRequest, Joined};
use super::token::Token;
use super::version::{Hlc, Version};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;

/// How many replicas must take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// Any one replica.
    One,
    /// A majority: per-key linearizable.
    #[default]
    Quorum,
    /// Every replica.
    All,
}

/// When a put ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiry {
    /// Never; clears an earlier expiry of the key.
    #[default]
    Never,
    /// This many milliseconds from the coordinator's clock, which fixes the absolute end once.
    InMs(u64),
    /// Milliseconds since 1970.
    AtMs(u64),
}

/// What is asked for. Keys and values are the user's bytes, unchecked: the machine checks them against the limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Read one key.
    Read {
        /// The key.
        key: Bytes,
        /// Also the value, not only what is known of it.
        value: bool,
    },
    /// Write one key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// When it ends.
        expiry: Expiry,
        /// Answer with the replaced value.
        previous: bool,
    },
    /// Write a tombstone.
    Delete {
        /// The key.
        key: Bytes,
        /// Answer with the replaced value.
        previous: bool,
    },
    /// The seed's Replicate: one version of member 0, for this node alone.
    Replicate {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The offered version's clock.
        timestamp: Hlc,
    },
    /// Records of one core in (token, key) order.
    Scan(ScanRange),
    /// A node wants to become a member: to core 0.
    Join(Box<JoinRequest>),
}

/// One core's share of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanRange {
    /// First token, inclusive.
    pub first: Token,
    /// Last token, inclusive.
    pub last: Token,
    /// With `first`: continue after this key of that token; None = from the token on.
    pub after_key: Option<Bytes>,
    /// Only keys that begin so.
    pub prefix: Bytes,
    /// At most so many records, at least 1.
    pub records_max: usize,
    /// At most so many bytes of keys and values; one record is always returned.
    pub bytes_max: usize,
    /// Leave the values out.
    pub omit_values: bool,
    /// Also tombstones and expired records.
    pub dead: bool,
}

/// An operation with all that travels with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked for.
    pub operation: Operation,
    /// How many replicas must take part.
    pub level: Level,
    /// The client's name for it, if it gave one. Writes only.
    pub identity: Option<OperationId>,
    /// The lowest open request number of that client: entries below it can go. 0 = unknown.
    pub done_below: u64,
    /// Not a moment later.
    pub deadline: Mono,
    /// There is room for an answer with a value no longer than this; a page of a scan has its own limit.
    pub value_bytes_max: usize,
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadAnswer {
    /// Of the record, dead or alive; zero if the key is not known.
    pub version: Version,
    /// Is there a value?
    pub exists: bool,
    /// The value, if asked for and there.
    pub value: Bytes,
    /// Its length, also when it was not asked for.
    pub value_bytes: u32,
    /// Milliseconds since 1970; 0 = never.
    pub expires_at_ms: u64,
}

/// What a write did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteAnswer {
    /// The version that was written.
    pub version: Version,
    /// Was there a live value before?
    pub had_old: bool,
    /// That value, if asked for.
    pub old: Bytes,
}

/// A record on its way out of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedRecord {
    /// The key's token.
    pub token: Token,
    /// The key.
    pub key: Bytes,
    /// What is known of it.
    pub answer: ReadAnswer,
}

/// One core's share of a page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// In (token, key) order.
    pub records: Vec<ScannedRecord>,
    /// Everything up to and including this place was looked at; None = the whole range was.
    pub covered: Option<(Token, Bytes)>,
    /// Records looked at, matching or not.
    pub examined: u64,
}

/// A request that was not carried out: the value in its answer would be longer than there is room for. It may be made
/// again with more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TooLong {
    /// What was asked for.
    pub operation: Operation,
    /// The room that it needs, as things are.
    pub value_bytes: usize,
}

/// What a request is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Operation::Read`].
    Read(ReadAnswer),
    /// To [`Operation::Put`] and [`Operation::Delete`].
    Write(WriteAnswer),
    /// To [`Operation::Replicate`]: this version or a newer one is durable here.
    Replicated,
    /// To [`Operation::Scan`].
    Page(Page),
    /// To [`Operation::Join`].
    Joined(Joined),
    /// To [`Operation::Read`], [`Operation::Put`] and [`Operation::Delete`]: nothing was done.
    TooLong(Box<TooLong>),
}

/// Who asked, in the shell's terms: the reply carries it back unread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Asker(pub u64);

/// A request's end.
pub type Reply = Result<Answer, Failure>;

impl Answer {
    /// Bytes of keys and values in it.
    pub fn bytes(&self) -> usize {
        match self {
            Answer::Read(read) => read.value.len(),
            Answer::Write(write) => write.old.len(),
            Answer::Page(page) => {
                page.records.iter().map(|record| record.key.len() + record.answer.value.len()).sum()
            }
            Answer::Replicated | Answer::Joined(_) | Answer::TooLong(_) => 0,
        }
    }
}

impl Operation {
    /// Bytes of keys and values in it.
    pub fn bytes(&self) -> usize {
        let value = if let Operation::Put { value, .. } = self { value.len() } else { 0 };
        self.key().map_or(0, Bytes::len) + value
    }

    /// Does it change data?
    pub fn is_write(&self) -> bool {
        match self {
            Operation::Put { .. }
            | Operation::Delete { .. }
            | Operation::Replicate { .. }
            | Operation::Join(_) => true,
            Operation::Read { .. } | Operation::Scan(_) => false,
        }
    }

    /// Is a value answered?
    pub fn wants_value(&self) -> bool {
        match self {
            Operation::Read { value, .. } => *value,
            Operation::Put { previous, .. } | Operation::Delete { previous, .. } => *previous,
            Operation::Scan(range) => !range.omit_values,
            Operation::Replicate { .. } | Operation::Join(_) => false,
        }
    }

    /// The key, if it is about one.
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Operation::Read { key, .. }
            | Operation::Put { key, .. }
            | Operation::Delete { key, .. }
            | Operation::Replicate { key, .. } => Some(key),
            Operation::Scan(_) | Operation::Join(_) => None,
        }
    }
}
