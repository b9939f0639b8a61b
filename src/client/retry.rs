//! When a failed attempt is repeated, and after how long. Pure: time left, dice and failures are arguments.

use super::error::{Cause, ClientError};
use crate::types::error::{Outcome, Reason};
use crate::types::prng::Prng;
use std::time::Duration;
use tonic::Code;

/// How often a call is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Attempts of one call, the first included. 1 = never repeat.
    pub attempts_max: u32,
    /// The longest wait before the first repetition; it doubles with each.
    pub backoff_first: Duration,
    /// The longest wait before any.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts_max: 5,
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
        }
    }
}

impl RetryPolicy {
    /// The wait before attempt `attempt` (1 = the first repetition) after `error`: anything up to the doubled bound, so
    /// that clients that failed together do not return together, and never earlier than the node advised.
    pub(super) fn backoff(&self, attempt: u32, error: &ClientError, dice: &mut Prng) -> Duration {
        let doubled = self.backoff_first.saturating_mul(1u32 << attempt.saturating_sub(1).min(16));
        let bound_us = doubled.min(self.backoff_max).as_micros().min(u128::from(u64::MAX)) as u64;
        let drawn = Duration::from_micros(dice.between(0, bound_us));
        error.retry_after().unwrap_or(Duration::ZERO).saturating_add(drawn)
    }
}

/// May the same operation, with the same ids, be tried again with a chance of success?
///
/// Safe is every repetition, because writes carry their identity; this says where it makes sense: the node asks for
/// it, or the connection and not the cluster failed.
pub(super) fn worth_repeating(error: &ClientError) -> bool {
    match error.cause() {
        Cause::Unreachable | Cause::ConnectionLost => true,
        Cause::Refused(reason) => error.outcome() != Outcome::InDoubt && repeatable(reason),
        Cause::Status(code) => code == Code::Unavailable,
        Cause::Usage | Cause::DeadlineExceeded | Cause::Answer => false,
    }
}

/// Does the error speak of the node that was asked rather than of the cluster, so that another may do better?
pub(super) fn blames_the_node(error: &ClientError) -> bool {
    match error.cause() {
        Cause::Unreachable | Cause::ConnectionLost | Cause::Status(_) => true,
        Cause::Refused(reason) => matches!(
            reason,
            Reason::Starting
                | Reason::Stopping
                | Reason::ClockUnfit
                | Reason::SuspectData
                | Reason::TooFewReplicas
                | Reason::NotMember
        ),
        Cause::Usage | Cause::DeadlineExceeded | Cause::Answer => false,
    }
}

fn repeatable(reason: Reason) -> bool {
    match reason {
        Reason::Overloaded
        | Reason::TooFewReplicas
        | Reason::Starting
        | Reason::Stopping
        | Reason::ClockUnfit
        | Reason::SuspectData => true,
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
        | Reason::MemoryFull
        | Reason::DiskFull
        | Reason::ResponseFull
        | Reason::DeadlinePast
        | Reason::NoQuorumInTime
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
        | Reason::Bug => false,
    }
}

/// How many repetitions a client may add to what it was asked for (gRFC A6): each takes a whole token, each success
/// earns a tenth. A cluster in trouble therefore gets at most a tenth more load from it, not several times the load.
#[derive(Debug)]
pub(super) struct Budget {
    /// Tenths of a token.
    tenths: u32,
}

impl Budget {
    const TENTHS_MAX: u32 = 100;
    const REPETITION: u32 = 10;

    /// Full: ten repetitions.
    pub(super) fn full() -> Budget {
        Budget { tenths: Budget::TENTHS_MAX }
    }

    /// Takes a repetition's token; false if there is none.
    pub(super) fn take(&mut self) -> bool {
        match self.tenths.checked_sub(Budget::REPETITION) {
            Some(left) => {
                self.tenths = left;
                true
            }
            None => false,
        }
    }

    /// A call succeeded.
    pub(super) fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(Budget::TENTHS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason, outcome: Outcome) -> ClientError {
        ClientError::local(Cause::Refused(reason), outcome, "")
    }

    #[test]
    fn what_the_node_or_the_connection_could_not_do_now_is_repeated() {
        for (error, repeated) in [
            (refused(Reason::Overloaded, Outcome::NotApplied), true),
            (refused(Reason::Overloaded, Outcome::Read), true),
            (refused(Reason::TooFewReplicas, Outcome::NotApplied), true),
            (refused(Reason::Stopping, Outcome::NotApplied), true),
            (refused(Reason::MemoryFull, Outcome::NotApplied), false),
            (refused(Reason::KeyTooLong, Outcome::NotApplied), false),
            (refused(Reason::NoQuorumInTime, Outcome::InDoubt), false),
            (refused(Reason::DeadlinePast, Outcome::NotApplied), false),
            (ClientError::local(Cause::Unreachable, Outcome::NotApplied, ""), true),
            (ClientError::local(Cause::ConnectionLost, Outcome::InDoubt, ""), true),
            (ClientError::deadline(Outcome::InDoubt), false),
            (ClientError::local(Cause::Status(Code::Unavailable), Outcome::InDoubt, ""), true),
            (ClientError::local(Cause::Status(Code::Internal), Outcome::InDoubt, ""), false),
            (ClientError::local(Cause::Answer, Outcome::InDoubt, ""), false),
        ] {
            assert_eq!(worth_repeating(&error), repeated, "{error:?}");
        }
    }

    #[test]
    fn only_an_overloaded_node_keeps_its_clients() {
        assert!(!blames_the_node(&refused(Reason::Overloaded, Outcome::NotApplied)));
        assert!(blames_the_node(&refused(Reason::Stopping, Outcome::NotApplied)));
        assert!(blames_the_node(&ClientError::local(Cause::ConnectionLost, Outcome::Read, "")));
    }

    #[test]
    fn backoff_doubles_up_to_its_bound_and_is_spread() {
        let policy = RetryPolicy::default();
        let error = refused(Reason::Overloaded, Outcome::NotApplied);
        let longest = |attempt| {
            let mut dice = Prng::new(7);
            (0..1_000).map(|_| policy.backoff(attempt, &error, &mut dice)).max().unwrap()
        };
        for (attempt, bound_ms) in [(1, 20), (2, 40), (3, 80), (6, 500), (40, 500)] {
            let bound = Duration::from_millis(bound_ms);
            assert!(longest(attempt) <= bound, "attempt {attempt}");
            assert!(longest(attempt) > bound * 9 / 10, "attempt {attempt}");
        }
    }

    #[test]
    fn budget_allows_ten_and_then_a_tenth() {
        let mut budget = Budget::full();
        assert_eq!((0..100).filter(|_| budget.take()).count(), 10);
        for _ in 0..9 {
            budget.earn();
        }
        assert!(!budget.take());
        budget.earn();
        assert!(budget.take());
        assert!(!budget.take());
    }
}
