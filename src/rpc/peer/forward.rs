//! Operations that a node coordinates for another, and their replies, in protobuf.

use super::wire::{WireError, key, value, version};
use crate::rpc::proto::peer as pb;
use crate::types::request::{Answer, Expiry, Level, Operation, ReadAnswer, Reply, WriteAnswer};
use crate::types::{Failure, Limits, Outcome, Reason};
use pb::forward::{self, Level as PbLevel, Operation as PbOperation};
use pb::forward_answer::{self, Outcome as PbOutcome, Reply as PbReply};

/// Bytes of a failure's words. Ours are a sentence.
const WORDS_BYTES_MAX: usize = 1_024;

pub(super) fn from_level(level: Level) -> PbLevel {
    match level {
        Level::One => PbLevel::One,
        Level::Quorum => PbLevel::Quorum,
        Level::All => PbLevel::All,
    }
}

pub(super) fn to_level(level: i32) -> Result<Level, WireError> {
    match PbLevel::try_from(level) {
        Ok(PbLevel::One) => Ok(Level::One),
        Ok(PbLevel::Quorum) => Ok(Level::Quorum),
        Ok(PbLevel::All) => Ok(Level::All),
        Ok(PbLevel::Unspecified) | Err(_) => Err(WireError::Unknown { what: "level", number: level.into() }),
    }
}

pub(super) fn from_operation(operation: Operation) -> PbOperation {
    match operation {
        Operation::Read { key, value } => PbOperation::Get(forward::Get { key, value }),
        Operation::Put { key, value, expiry, previous } => {
            let expiry = match expiry {
                Expiry::Never => None,
                Expiry::InMs(ms) => Some(forward::put::Expiry::InMs(ms)),
                Expiry::AtMs(ms) => Some(forward::put::Expiry::AtMs(ms)),
            };
            PbOperation::Put(forward::Put { key, value, expiry, previous })
        }
        Operation::Delete { key, previous } => PbOperation::Delete(forward::Delete { key, previous }),
        Operation::Replicate { .. } | Operation::Scan(_) | Operation::Join(_) => {
            unreachable!("none of these is ever forwarded")
        }
    }
}

pub(super) fn to_operation(operation: PbOperation, limits: &Limits) -> Result<Operation, WireError> {
    Ok(match operation {
        PbOperation::Get(get) => Operation::Read { key: key(get.key, limits)?, value: get.value },
        PbOperation::Put(put) => Operation::Put {
            key: key(put.key, limits)?,
            value: value(put.value, limits)?,
            expiry: match put.expiry {
                None => Expiry::Never,
                Some(forward::put::Expiry::InMs(ms)) => Expiry::InMs(ms),
                Some(forward::put::Expiry::AtMs(ms)) => Expiry::AtMs(ms),
            },
            previous: put.previous,
        },
        PbOperation::Delete(delete) => {
            Operation::Delete { key: key(delete.key, limits)?, previous: delete.previous }
        }
    })
}

pub(super) fn from_reply(reply: Reply) -> PbReply {
    match reply {
        Ok(Answer::Read(answer)) => PbReply::Found(forward_answer::Found {
            clock: answer.version.hlc.0,
            member: answer.version.member.0,
            exists: answer.exists,
            value: answer.value,
            value_bytes: answer.value_bytes,
            expires_at_ms: answer.expires_at_ms,
        }),
        Ok(Answer::Write(answer)) => PbReply::Written(forward_answer::Written {
            clock: answer.version.hlc.0,
            member: answer.version.member.0,
            had_old: answer.had_old,
            old: answer.old,
        }),
        Ok(Answer::Replicated | Answer::Page(_) | Answer::Joined(_) | Answer::TooLong(_)) => {
            unreachable!("what they answer is never forwarded")
        }
        Err(failure) => PbReply::Failure(from_failure(failure)),
    }
}

pub(super) fn to_reply(reply: PbReply, limits: &Limits) -> Result<Reply, WireError> {
    Ok(match reply {
        PbReply::Found(found) => Ok(Answer::Read(ReadAnswer {
            version: version(found.clock, found.member),
            exists: found.exists,
            value: value(found.value, limits)?,
            value_bytes: found.value_bytes,
            expires_at_ms: found.expires_at_ms,
        })),
        PbReply::Written(written) => Ok(Answer::Write(WriteAnswer {
            version: version(written.clock, written.member),
            had_old: written.had_old,
            old: value(written.old, limits)?,
        })),
        PbReply::Failure(failure) => Err(to_failure(failure)?),
    })
}

fn from_failure(failure: Failure) -> forward_answer::Failure {
    let Failure { reason, outcome, limit, got, retry_after_ms, mut message } = failure;
    let outcome = match outcome {
        Outcome::Read => PbOutcome::Read,
        Outcome::NotApplied => PbOutcome::NotApplied,
        Outcome::InDoubt => PbOutcome::InDoubt,
        Outcome::Applied => PbOutcome::Applied,
    };
    message.truncate(message.floor_char_boundary(WORDS_BYTES_MAX));
    forward_answer::Failure {
        reason: reason as u32,
        outcome: outcome as i32,
        limit,
        got,
        retry_after_ms,
        message,
    }
}

fn to_failure(failure: forward_answer::Failure) -> Result<Failure, WireError> {
    let unknown = |what, number| WireError::Unknown { what, number };
    let reason = Reason::ALL.into_iter().find(|reason| *reason as u32 == failure.reason);
    let outcome = match PbOutcome::try_from(failure.outcome) {
        Ok(PbOutcome::Read) => Outcome::Read,
        Ok(PbOutcome::NotApplied) => Outcome::NotApplied,
        Ok(PbOutcome::InDoubt) => Outcome::InDoubt,
        Ok(PbOutcome::Applied) => Outcome::Applied,
        Ok(PbOutcome::Unspecified) | Err(_) => return Err(unknown("outcome", failure.outcome.into())),
    };
    if failure.message.len() > WORDS_BYTES_MAX {
        let got = failure.message.len();
        return Err(WireError::TooLong { what: "message", got, limit: WORDS_BYTES_MAX });
    }
    Ok(Failure {
        reason: reason.ok_or_else(|| unknown("reason", failure.reason.into()))?,
        outcome,
        limit: failure.limit,
        got: failure.got,
        retry_after_ms: failure.retry_after_ms,
        message: failure.message,
    })
}
