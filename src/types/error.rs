//! Why an operation failed, and what became of it. The one place where reasons are listed; `rpc::status` gives each its
//! gRPC code.

use alloc::string::String;
use core::fmt;

/// What happened to a write that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Not a write.
    Read,
    /// No replica has it, nor will: retry freely.
    NotApplied,
    /// It takes effect once, at one version, or never: retry with the same ids, or read.
    InDoubt,
    /// It took effect when it was asked for before; only the rest of its answer is gone.
    Applied,
}

/// Why an operation failed. Numbers are those of `ringcore.v1.Reason`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Reason {
    /// A key needs at least one byte.
    KeyEmpty = 1,
    /// Limit and got: bytes.
    KeyTooLong = 2,
    /// Limit and got: bytes.
    ValueTooLarge = 3,
    /// Not a message, or not UTF-8 where a string is asked for.
    Malformed = 4,
    /// Zero, in the past, or beyond the longest.
    ExpiryInvalid = 5,
    /// Limit and got: keys.
    BatchTooLarge = 6,
    /// The same key twice in one batch of writes.
    DuplicateKey = 7,
    /// Not a cursor that this system gave.
    CursorInvalid = 8,
    /// Not a level.
    LevelInvalid = 9,
    /// Limit and got: bytes.
    MessageTooLarge = 20,
    /// A budget of the core is spent.
    Overloaded = 21,
    /// Limit: bytes.
    MemoryFull = 22,
    /// The reserve is reached.
    DiskFull = 23,
    /// In a batch: no room left in the answer; ask again for this key.
    ResponseFull = 24,
    /// Too few replicas are alive.
    TooFewReplicas = 40,
    /// The node does not serve yet.
    Starting = 41,
    /// The node no longer serves.
    Stopping = 42,
    /// The coordinator's clock is too far from the majority's.
    ClockUnfit = 43,
    /// The node repairs the slot after corruption.
    SuspectData = 44,
    /// Before any work.
    DeadlinePast = 60,
    /// Some replicas may have it.
    NoQuorumInTime = 61,
    /// On the seed's API only.
    ValueNotUtf8 = 80,
    /// The ids named another payload before.
    RequestIdReused = 81,
    /// Unknown, removed, or of another cluster.
    NotMember = 82,
    /// One membership change at a time.
    ChangeInProgress = 83,
    /// The message says what to do instead.
    ChangeRefused = 84,
    /// Only into an empty cluster.
    ClusterNotEmpty = 85,
    /// The node does not own the slot.
    NotReplica = 86,
    /// The operation was applied; the value that it replaced is no longer kept.
    AnswerGone = 87,
    /// No such member.
    MemberUnknown = 100,
    /// No such snapshot.
    SnapshotUnknown = 101,
    /// Served on the peer port.
    OtherPort = 120,
    /// Data is damaged.
    Corrupt = 140,
    /// A defect of ours.
    Bug = 160,
}

impl Reason {
    /// Every reason, in the order of its number.
    pub const ALL: [Reason; 34] = [
        Reason::KeyEmpty,
        Reason::KeyTooLong,
        Reason::ValueTooLarge,
        Reason::Malformed,
        Reason::ExpiryInvalid,
        Reason::BatchTooLarge,
        Reason::DuplicateKey,
        Reason::CursorInvalid,
        Reason::LevelInvalid,
        Reason::MessageTooLarge,
        Reason::Overloaded,
        Reason::MemoryFull,
        Reason::DiskFull,
        Reason::ResponseFull,
        Reason::TooFewReplicas,
        Reason::Starting,
        Reason::Stopping,
        Reason::ClockUnfit,
        Reason::SuspectData,
        Reason::DeadlinePast,
        Reason::NoQuorumInTime,
        Reason::ValueNotUtf8,
        Reason::RequestIdReused,
        Reason::NotMember,
        Reason::ChangeInProgress,
        Reason::ChangeRefused,
        Reason::ClusterNotEmpty,
        Reason::NotReplica,
        Reason::AnswerGone,
        Reason::MemberUnknown,
        Reason::SnapshotUnknown,
        Reason::OtherPort,
        Reason::Corrupt,
        Reason::Bug,
    ];
}

/// A failed operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What became of it.
    pub outcome: Outcome,
    /// The limit that was reached, in the reason's unit; 0 = none.
    pub limit: u64,
    /// What was asked for, in the reason's unit.
    pub got: u64,
    /// When to try again, milliseconds; 0 = no advice.
    pub retry_after_ms: u32,
    /// A sentence for people; empty = the reason's own.
    pub message: String,
}

impl Failure {
    /// A failure that left nothing behind.
    pub fn not_applied(reason: Reason) -> Failure {
        Failure {
            reason,
            outcome: Outcome::NotApplied,
            limit: 0,
            got: 0,
            retry_after_ms: 0,
            message: String::new(),
        }
    }

    /// A failure of a write that may yet take effect.
    pub fn in_doubt(reason: Reason) -> Failure {
        Failure { outcome: Outcome::InDoubt, ..Failure::not_applied(reason) }
    }

    /// With the limit that was reached and what was asked for.
    pub fn limit(mut self, limit: u64, got: u64) -> Failure {
        (self.limit, self.got) = (limit, got);
        self
    }

    /// With a sentence of its own.
    pub fn message(mut self, message: impl Into<String>) -> Failure {
        self.message = message.into();
        self
    }

    /// Of a read: nothing could have been applied.
    pub fn of_read(mut self) -> Failure {
        self.outcome = Outcome::Read;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            return f.write_str(&self.message);
        }
        let (limit, got) = (self.limit, self.got);
        match self.reason {
            Reason::KeyEmpty => f.write_str("the key is empty"),
            Reason::KeyTooLong => write!(f, "the key has {got} bytes, the limit is {limit}"),
            Reason::ValueTooLarge => write!(f, "the value has {got} bytes, the limit is {limit}"),
            Reason::Malformed => f.write_str("the message cannot be read"),
            Reason::ExpiryInvalid => {
                write!(f, "the time to live must be 1 ms to {limit} ms and end in the future")
            }
            Reason::BatchTooLarge => write!(f, "the batch has {got} keys, the limit is {limit}"),
            Reason::DuplicateKey => f.write_str("the batch names a key twice"),
            Reason::CursorInvalid => f.write_str("the cursor is not one that a scan returned"),
            Reason::LevelInvalid => write!(f, "{got} is not a consistency level"),
            Reason::MessageTooLarge => write!(f, "the message has {got} bytes, the limit is {limit}"),
            Reason::Overloaded => f.write_str("this core has no room for more operations now"),
            Reason::MemoryFull => {
                write!(f, "the memory limit of {limit} bytes is reached; deletes still work")
            }
            Reason::DiskFull => f.write_str("the disk is full; reads still work"),
            Reason::ResponseFull => f.write_str("the answer is full: ask again for this key"),
            Reason::TooFewReplicas => f.write_str("too few replicas are alive"),
            Reason::Starting => f.write_str("the node is starting"),
            Reason::Stopping => f.write_str("the node is stopping"),
            Reason::ClockUnfit => f.write_str("this node's clock is out of step: it does not coordinate"),
            Reason::SuspectData => f.write_str("this node repairs damaged data of the key's slot"),
            Reason::DeadlinePast => f.write_str("the deadline was past on arrival"),
            Reason::NoQuorumInTime => f.write_str("too few replicas answered in time"),
            Reason::ValueNotUtf8 => f.write_str("the stored value is not UTF-8: read it with ringcore.v1.KV"),
            Reason::RequestIdReused => f.write_str("these ids named another operation before"),
            Reason::NotMember => f.write_str("not a member of this cluster"),
            Reason::ChangeInProgress => f.write_str("another change of the members is in progress"),
            Reason::ChangeRefused => f.write_str("this change of the members is refused"),
            Reason::ClusterNotEmpty => f.write_str("the cluster holds data"),
            Reason::NotReplica => f.write_str("this node holds no replica of the key's slot"),
            Reason::AnswerGone => {
                f.write_str("the operation was applied before; the value that it replaced is no longer kept")
            }
            Reason::MemberUnknown => f.write_str("no such member"),
            Reason::SnapshotUnknown => f.write_str("no such snapshot"),
            Reason::OtherPort => f.write_str("served on the peer port"),
            Reason::Corrupt => f.write_str("stored data is damaged"),
            Reason::Bug => f.write_str("internal error"),
        }
    }
}

impl core::error::Error for Failure {}
