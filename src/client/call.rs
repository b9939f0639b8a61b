//! One call from its first attempt to its end: the deadline over all attempts, fail-over between nodes, repetition,
//! and what may be said of its outcome. Does not know what is called.

use super::Client;
use super::endpoints::Node;
use super::error::{Cause, ClientError};
use super::identity::Issued;
use super::retry::{blames_the_node, worth_repeating};
use crate::types::error::Outcome;
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// A node grants no more, whatever it is asked for.
const ATTEMPT_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What the loop must know of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Does it change data?
    pub(super) write: bool,
    /// For all attempts together.
    pub(super) deadline: Duration,
}

/// One try at one node.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The connection to use.
    pub(super) channel: Channel,
    /// 0 for the first, 1 for the first repetition, ...
    pub(super) number: u32,
    timeout: Duration,
}

impl Attempt {
    /// The message with the time that is left as its grpc-timeout.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// A call that was answered.
#[derive(Debug)]
pub(super) struct Answered<T> {
    pub(super) message: T,
    /// An attempt before the one that was answered was lost: a copy of it may still be under way.
    pub(super) doubted: bool,
}

/// An operation's ids, open until this is dropped.
#[derive(Debug)]
pub(super) struct OpenIds<'a> {
    client: &'a Client,
    pub(super) issued: Issued,
    /// Until the end is known, suppose that a copy is under way: the call's future may be dropped at any time.
    linger: bool,
}

impl OpenIds<'_> {
    /// Takes note of how the call ended.
    pub(super) fn settle<T>(mut self, end: &Result<Answered<T>, ClientError>) {
        self.linger = match end {
            Ok(answered) => answered.doubted,
            Err(error) => error.outcome() == Outcome::InDoubt,
        };
    }
}

impl Drop for OpenIds<'_> {
    fn drop(&mut self) {
        self.client.state().identities.close(self.issued, self.linger, Instant::now());
    }
}

impl Client {
    /// Ids for an operation on `count` keys.
    pub(super) fn open_ids(&self, count: usize) -> OpenIds<'_> {
        let issued = self.state().identities.issue(count, Instant::now());
        OpenIds { client: self, issued, linger: true }
    }

    /// Makes a call: `attempt` is asked again, at this node or another, as long as that is safe and makes sense.
    pub(super) async fn call<T, F>(
        &self,
        terms: Terms,
        attempt: impl Fn(Attempt) -> F,
    ) -> Result<Answered<T>, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let end = Instant::now() + terms.deadline;
        let mut number = 0;
        let mut doubted = false;
        loop {
            let error = match self.round(terms, end, number, &attempt).await {
                Ok(message) => {
                    self.state().budget.earn();
                    return Ok(Answered { message, doubted });
                }
                Err(error) => error,
            };
            doubted |= error.outcome() == Outcome::InDoubt;
            number += 1;
            let left = end.saturating_duration_since(Instant::now());
            match self.repeat_after(number, &error, left) {
                Some(wait) => tokio::time::sleep(wait).await,
                // A later attempt's refusal says nothing of the earlier one that was lost.
                None => return Err(if doubted { error.doubted() } else { error }),
            }
        }
    }

    /// One attempt, at the first node that takes a connection.
    async fn round<T, F>(
        &self,
        terms: Terms,
        end: Instant,
        number: u32,
        attempt: &impl Fn(Attempt) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let outcome = |of_write| if terms.write { of_write } else { Outcome::Read };
        let mut last = None;
        for _ in 0..self.shared.endpoints.len() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Node { index, address, channel } = self.shared.endpoints.preferred();
            let timeout = left.min(ATTEMPT_TIMEOUT_MAX);
            let attempt = attempt(Attempt { channel: channel.clone(), number, timeout });
            let error = match tokio::time::timeout(timeout, attempt).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => ClientError::from_status(&status, terms.write),
                Err(_) => ClientError::deadline(outcome(Outcome::InDoubt)),
            };
            let error = error.at(address);
            if blames_the_node(&error) {
                self.shared.endpoints.leave(*index);
            }
            if error.cause() != Cause::Unreachable {
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| ClientError::deadline(outcome(Outcome::NotApplied))))
    }

    /// How long to wait before attempt `number`; None = the call ends with this error.
    pub(super) fn repeat_after(&self, number: u32, error: &ClientError, left: Duration) -> Option<Duration> {
        let policy = &self.shared.retry;
        if number >= policy.attempts_max || !worth_repeating(error) {
            return None;
        }
        let mut state = self.state();
        let wait = policy.backoff(number, error, &mut state.dice);
        (wait < left && state.budget.take()).then_some(wait)
    }
}
