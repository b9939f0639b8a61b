//! How a command ends: which exit code, and what the user can do about it. Prints nothing itself.

use crate::client::{Cause, ClientError, Code, Outcome, Reason};
pub(super) use crate::program::exit::{Exit, Refusal};
use std::io;

/// A negative answer: no such key.
pub(super) const NEGATIVE: Exit = Exit(1);
/// No node serves at the endpoints.
pub(super) const UNREACHABLE: Exit = Exit(3);
/// Deadline or quorum missed: of a write, the outcome may be unknown.
pub(super) const UNKNOWN: Exit = Exit(4);
/// Not healthy.
pub(super) const UNHEALTHY: Exit = Exit(5);
/// A node refused.
pub(super) const REFUSED: Exit = Exit(6);

/// The command cannot be carried out as typed.
pub(super) fn usage(what: impl Into<String>) -> Refusal {
    Refusal::new(Exit::USAGE, what)
}

/// Standard output could not be written. Its reader's going away (`ringctl export | head`) is no failure and needs no
/// words.
pub(super) fn output_failed(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Refusal::new(Exit::OK, ""),
        _ => usage(format!("cannot write the output: {error}")),
    }
}

/// Of several keys' endings, the command's.
pub(super) fn worse(one: Exit, other: Exit) -> Exit {
    Exit(one.0.max(other.0))
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Refusal {
        let refusal = Refusal::new(exit_of(&error), error.to_string());
        match fix_of(&error) {
            "" => refusal,
            fix => refusal.fix(fix),
        }
    }
}

/// Which exit code a failed call ends with.
pub(super) fn exit_of(error: &ClientError) -> Exit {
    if error.outcome() == Outcome::InDoubt {
        return UNKNOWN;
    }
    match error.cause() {
        Cause::Usage => Exit::USAGE,
        Cause::Unreachable | Cause::ConnectionLost => UNREACHABLE,
        Cause::DeadlineExceeded => UNKNOWN,
        Cause::Refused(reason) => match reason {
            Reason::Starting | Reason::Stopping => UNREACHABLE,
            Reason::TooFewReplicas
            | Reason::ClockUnfit
            | Reason::SuspectData
            | Reason::DeadlinePast
            | Reason::NoQuorumInTime => UNKNOWN,
            Reason::KeyEmpty
            | Reason::KeyTooLong
            | Reason::ValueTooLarge
            | Reason::Malformed
            | Reason::ExpiryInvalid
            | Reason::BatchTooLarge
            | Reason::DuplicateKey
            | Reason::CursorInvalid
            | Reason::LevelInvalid
            | Reason::MessageTooLarge
            | Reason::Overloaded
            | Reason::MemoryFull
            | Reason::DiskFull
            | Reason::ResponseFull
            | Reason::ValueNotUtf8
            | Reason::RequestIdReused
            | Reason::NotMember
            | Reason::ChangeInProgress
            | Reason::ChangeRefused
            | Reason::ClusterNotEmpty
            | Reason::NotReplica
            | Reason::AnswerGone
            | Reason::MemberUnknown
            | Reason::SnapshotUnknown
            | Reason::OtherPort
            | Reason::Corrupt
            | Reason::Bug => REFUSED,
        },
        Cause::Status(Code::DeadlineExceeded) => UNKNOWN,
        Cause::Status(Code::Unavailable) => UNREACHABLE,
        Cause::Status(_) | Cause::Answer => REFUSED,
    }
}

/// What the user can do about a failed call; empty if there is nothing to add to the sentence.
fn fix_of(error: &ClientError) -> &'static str {
    match error.cause() {
        Cause::Unreachable => {
            "is a node running there? `ringcore dev` starts one; --endpoints or RINGCTL_ENDPOINTS names another"
        }
        Cause::DeadlineExceeded | Cause::ConnectionLost if error.outcome() == Outcome::InDoubt => {
            "read the key to learn what became of it; --timeout allows more time"
        }
        Cause::DeadlineExceeded => "--timeout allows more time; `ringctl status` shows how the nodes are",
        Cause::Refused(reason) => match reason {
            Reason::TooFewReplicas => {
                "`ringctl status` shows which nodes are missing; --level one asks one replica"
            }
            Reason::NoQuorumInTime => "read the key to learn what became of it; --timeout allows more time",
            Reason::Starting => "`ringctl health --wait` returns once the node serves",
            Reason::MemoryFull => "delete something, or raise the node's --memory-limit",
            Reason::DiskFull => "make room on the node's disk: writes go on by themselves",
            Reason::Overloaded => "try again later, or with less at once",
            _ => "",
        },
        Cause::Status(Code::Unimplemented) => {
            "does the endpoint name the client port (7717) of a node of this version?"
        }
        Cause::Usage | Cause::ConnectionLost | Cause::Status(_) | Cause::Answer => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_documented_exit_code() {
        let refused = |reason| Cause::Refused(reason);
        for (cause, outcome, exit) in [
            (Cause::Usage, Outcome::Read, 2),
            (Cause::Unreachable, Outcome::NotApplied, 3),
            (Cause::Unreachable, Outcome::Read, 3),
            (Cause::ConnectionLost, Outcome::Read, 3),
            (refused(Reason::Starting), Outcome::NotApplied, 3),
            (Cause::Status(Code::Unavailable), Outcome::Read, 3),
            (Cause::Unreachable, Outcome::InDoubt, 4),
            (Cause::ConnectionLost, Outcome::InDoubt, 4),
            (Cause::DeadlineExceeded, Outcome::InDoubt, 4),
            (Cause::DeadlineExceeded, Outcome::Read, 4),
            (refused(Reason::TooFewReplicas), Outcome::NotApplied, 4),
            (refused(Reason::NoQuorumInTime), Outcome::InDoubt, 4),
            (refused(Reason::DeadlinePast), Outcome::NotApplied, 4),
            (Cause::Status(Code::Internal), Outcome::InDoubt, 4),
            (Cause::Answer, Outcome::InDoubt, 4),
            (refused(Reason::KeyTooLong), Outcome::NotApplied, 6),
            (refused(Reason::MemoryFull), Outcome::NotApplied, 6),
            (refused(Reason::Corrupt), Outcome::Read, 6),
            (Cause::Status(Code::Unimplemented), Outcome::NotApplied, 6),
            (Cause::Answer, Outcome::Read, 6),
        ] {
            let error = ClientError::local(cause, outcome, "");
            assert_eq!(exit_of(&error), Exit(exit), "{cause:?} {outcome:?}");
        }
    }

    #[test]
    fn closed_pipe_ends_quietly_and_a_full_disk_does_not() {
        let closed = output_failed(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.exit, closed.what.as_str()), (Exit::OK, ""));
        let full = output_failed(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit, Exit::USAGE);
    }

    #[test]
    fn failure_is_a_sentence_and_a_way_out() {
        let error = ClientError::local(Cause::Unreachable, Outcome::Read, "connection refused").at("h:1");
        let text = Refusal::from(error).to_string();
        assert!(
            text.starts_with("error: cannot connect to h:1: connection refused\n  is a node running"),
            "{text}"
        );
    }
}
