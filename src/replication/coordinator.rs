//! The operations that one core drives or has handed on, by the name that their messages carry. Knows neither disk nor
//! network, and not what an answer means: that the operations know.
//!
//! A message's name is its operation's. An operation that begins again gets another one: so an answer to what it asked
//! before is an answer to nobody. Nor is one to a process that ran here before: each start names differently.

use super::forward::ForwardOperation;
use super::messages::AttemptId;
use super::read::ReadOperation;
use super::write::WriteOperation;
use crate::types::{Hlc, Mono};
use alloc::boxed::Box;
use alloc::vec::Vec;
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use xxhash_rust::xxh3::xxh3_64;

/// Until a replica that has not answered is asked again; doubles each time.
const RESEND_MS: u32 = 250;
/// At most.
const RESEND_MS_MAX: u32 = 2_000;
/// Until a read does with the answers that it has, and writes back rather than waits for the rest.
const PATIENCE_MS: u32 = 10;

new_key_type! {
    struct OperationKey;
}

/// An operation on its way.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a write is on every put's path and allocates nothing")]
pub enum Operation {
    /// Driven here.
    Write(WriteOperation),
    /// Driven here.
    Read(Box<ReadOperation>),
    /// Driven by another member.
    Forward(Box<ForwardOperation>),
}

/// The operations of one core.
#[derive(Debug)]
pub struct Coordinator {
    operations: SlotMap<OperationKey, Open>,
    /// What the names of this start are mixed with.
    salt: u64,
    /// No operation is due before.
    next_due: Mono,
}

#[derive(Debug)]
struct Open {
    operation: Operation,
    /// When it is looked at again, though nothing was heard.
    due_at: Mono,
    pause_ms: u32,
}

impl Operation {
    /// Until when.
    pub fn deadline(&self) -> Mono {
        match self {
            Operation::Write(write) => write.deadline,
            Operation::Read(read) => read.deadline,
            Operation::Forward(forward) => forward.request.deadline,
        }
    }
}

impl Coordinator {
    /// No operations. `bound`: the clock's bound that the start found, which no start before it has found.
    pub fn new(bound: Hlc) -> Coordinator {
        let salt = xxh3_64(&bound.0.to_le_bytes());
        Coordinator { operations: SlotMap::default(), salt, next_due: Mono(0) }
    }

    /// Operations on their way.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Is none on its way?
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Takes an operation on, and names it for its messages.
    pub fn open(&mut self, now: Mono, operation: Operation) -> AttemptId {
        let pause_ms = if matches!(operation, Operation::Read(_)) { PATIENCE_MS } else { RESEND_MS };
        let due_at = now.after_ms(u64::from(pause_ms));
        self.next_due = self.next_due.min(due_at);
        let key = self.operations.insert(Open { operation, due_at, pause_ms });
        name(key, self.salt)
    }

    /// The operation of that name; None: it has ended, or goes by another name now.
    pub fn get_mut(&mut self, attempt: AttemptId) -> Option<&mut Operation> {
        self.operations.get_mut(self.key(attempt)).map(|open| &mut open.operation)
    }

    /// The write of that name.
    pub fn write_mut(&mut self, attempt: AttemptId) -> Option<&mut WriteOperation> {
        match self.get_mut(attempt) {
            Some(Operation::Write(write)) => Some(write),
            Some(Operation::Read(_) | Operation::Forward(_)) | None => None,
        }
    }

    /// The read of that name.
    pub fn read_mut(&mut self, attempt: AttemptId) -> Option<&mut ReadOperation> {
        match self.get_mut(attempt) {
            Some(Operation::Read(read)) => Some(read),
            Some(Operation::Write(_) | Operation::Forward(_)) | None => None,
        }
    }

    /// The handed on request of that name.
    pub fn forward_mut(&mut self, attempt: AttemptId) -> Option<&mut ForwardOperation> {
        match self.get_mut(attempt) {
            Some(Operation::Forward(forward)) => Some(forward),
            Some(Operation::Write(_) | Operation::Read(_)) | None => None,
        }
    }

    /// The operation has ended.
    pub fn close(&mut self, attempt: AttemptId) -> Option<Operation> {
        self.operations.remove(self.key(attempt)).map(|open| open.operation)
    }

    /// The operation begins again: no answer to what it asked before will reach it.
    pub fn rename(&mut self, now: Mono, attempt: AttemptId) -> Option<AttemptId> {
        let operation = self.close(attempt)?;
        Some(self.open(now, operation))
    }

    /// Names of all operations.
    pub fn attempts(&self) -> Vec<AttemptId> {
        self.operations.keys().map(|key| name(key, self.salt)).collect()
    }

    /// Ends the operations whose deadline is past.
    pub fn expire(&mut self, now: Mono) -> Vec<Operation> {
        // Open operations are few (what is in flight), so looking at each once per tick costs less than a wheel's
        // insertion and removal per operation.
        let is_late = |(key, open): (OperationKey, &Open)| (open.operation.deadline() <= now).then_some(key);
        let late: Vec<OperationKey> = self.operations.iter().filter_map(is_late).collect();
        late.into_iter().filter_map(|key| self.operations.remove(key)).map(|open| open.operation).collect()
    }

    /// The operations that have waited for long; each is named again after a longer pause.
    pub fn due(&mut self, now: Mono) -> Vec<AttemptId> {
        if now < self.next_due {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.next_due = Mono::NEVER;
        for (key, open) in &mut self.operations {
            if open.due_at <= now {
                open.pause_ms = (open.pause_ms * 2).clamp(RESEND_MS, RESEND_MS_MAX);
                open.due_at = now.after_ms(u64::from(open.pause_ms));
                due.push(name(key, self.salt));
            }
            self.next_due = self.next_due.min(open.due_at);
        }
        due
    }

    fn key(&self, attempt: AttemptId) -> OperationKey {
        OperationKey::from(KeyData::from_ffi(attempt.0 ^ self.salt))
    }
}

fn name(key: OperationKey, salt: u64) -> AttemptId {
    AttemptId(key.data().as_ffi() ^ salt)
}
