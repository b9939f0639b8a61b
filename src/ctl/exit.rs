//! How a command ends: its exit code, and the sentence on stderr that says why and what to do. Prints nothing itself.

use crate::client::{Cause, ClientError, Outcome, Reason};
use std::fmt;
use std::io;
use std::process::ExitCode;
use tonic::Code;

/// ringctl's exit codes, the same in every command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Exit {
    /// Done.
    Ok = 0,
    /// A negative answer: no such key.
    Negative = 1,
    /// The command cannot be carried out as typed.
    Usage = 2,
    /// No node serves at the endpoints.
    Unreachable = 3,
    /// Deadline or quorum missed: of a write, the outcome may be unknown.
    Unknown = 4,
    /// Not healthy.
    Unhealthy = 5,
    /// A node refused.
    Refused = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command does not go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// One sentence.
    pub(super) what: String,
    /// What to do about it; empty if the sentence says it all.
    pub(super) fix: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, what: impl Into<String>) -> Failure {
        Failure { exit, what: what.into(), fix: String::new() }
    }

    pub(super) fn usage(what: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what)
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Failure {
        self.fix = fix.into();
        self
    }

    /// Standard output could not be written. Its reader's going away (`ringctl export | head`) is no failure and needs
    /// no words.
    pub(super) fn of_output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Ok, ""),
            _ => Failure::usage(format!("cannot write the output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.fix) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure { exit: exit_of(&error), fix: fix_of(&error).to_owned(), what: error.to_string() }
    }
}

/// Which exit code a failed call ends with.
pub(super) fn exit_of(error: &ClientError) -> Exit {
    if error.outcome() == Outcome::InDoubt {
        return Exit::Unknown;
    }
    match error.cause() {
        Cause::Usage => Exit::Usage,
        Cause::Unreachable | Cause::ConnectionLost => Exit::Unreachable,
        Cause::DeadlineExceeded => Exit::Unknown,
        Cause::Refused(reason) => match reason {
            Reason::Starting | Reason::Stopping => Exit::Unreachable,
            Reason::TooFewReplicas
            | Reason::ClockUnfit
            | Reason::SuspectData
            | Reason::DeadlinePast
            | Reason::NoQuorumInTime => Exit::Unknown,
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
            | Reason::Bug => Exit::Refused,
        },
        Cause::Status(Code::DeadlineExceeded) => Exit::Unknown,
        Cause::Status(Code::Unavailable) => Exit::Unreachable,
        Cause::Status(_) | Cause::Answer => Exit::Refused,
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
            assert_eq!(exit_of(&error) as u8, exit, "{cause:?} {outcome:?}");
        }
    }

    #[test]
    fn closed_pipe_ends_quietly_and_a_full_disk_does_not() {
        let closed = Failure::of_output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.exit, closed.what.as_str()), (Exit::Ok, ""));
        let full = Failure::of_output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit, Exit::Usage);
    }

    #[test]
    fn failure_is_a_sentence_and_a_way_out() {
        let error = ClientError::local(Cause::Unreachable, Outcome::Read, "connection refused").at("h:1");
        let text = Failure::from(error).to_string();
        assert!(
            text.starts_with("error: cannot connect to h:1: connection refused\n  is a node running"),
            "{text}"
        );
        assert_eq!(Failure::usage("no").to_string(), "error: no");
    }
}
