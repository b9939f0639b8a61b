//! Why a call failed and what became of it: a node's status decoded, or what this side knows of a broken connection.
//! Decides nothing about retries.

use crate::rpc::proto::v1;
use crate::rpc::status::detail_of;
use crate::types::error::{Outcome, Reason};
use std::fmt;
use std::time::Duration;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// Why a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The call cannot be made as asked: no endpoint, or one that is no `host:port`. Nothing was sent.
    Usage,
    /// No endpoint took a connection. Nothing was sent.
    Unreachable,
    /// The connection broke while the request was on its way.
    ConnectionLost,
    /// The call's own deadline ended before an answer came.
    DeadlineExceeded,
    /// A node said why.
    Refused(Reason),
    /// Something else than a node of this system answered (a proxy, an unknown version), with this code.
    Status(Code),
    /// The answer does not fit the request.
    Answer,
}

/// A failed call.
///
/// [`ClientError::outcome`] is the question that matters for a write: [`Outcome::NotApplied`] means that it has no
/// effect and never will, [`Outcome::InDoubt`] that it takes effect once or never. The client has already retried what
/// can be retried safely.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientError(Box<Details>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Details {
    cause: Cause,
    outcome: Outcome,
    message: String,
    endpoint: String,
    node: String,
    acks: u32,
    acks_needed: u32,
    retry_after_ms: u32,
}

impl ClientError {
    /// Why it failed.
    pub fn cause(&self) -> Cause {
        self.0.cause
    }

    /// What became of the write; [`Outcome::Read`] if it was none.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The node's reason, if a node answered.
    pub fn reason(&self) -> Option<Reason> {
        match self.0.cause {
            Cause::Refused(reason) => Some(reason),
            Cause::Usage
            | Cause::Unreachable
            | Cause::ConnectionLost
            | Cause::DeadlineExceeded
            | Cause::Status(_)
            | Cause::Answer => None,
        }
    }

    /// A sentence for people, without the endpoint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The `host:port` that was asked last; empty if none was.
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Name of the member that decided; empty if none did.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Replicas that acknowledged, and how many it takes; (0, 0) if not told.
    pub fn acks(&self) -> (u32, u32) {
        (self.0.acks, self.0.acks_needed)
    }

    /// When the node advises to try again.
    pub fn retry_after(&self) -> Option<Duration> {
        (self.0.retry_after_ms > 0).then(|| Duration::from_millis(u64::from(self.0.retry_after_ms)))
    }

    /// An error of this side, of a call that has no effect.
    pub(crate) fn local(cause: Cause, outcome: Outcome, message: impl Into<String>) -> ClientError {
        ClientError(Box::new(Details {
            cause,
            outcome,
            message: message.into(),
            endpoint: String::new(),
            node: String::new(),
            acks: 0,
            acks_needed: 0,
            retry_after_ms: 0,
        }))
    }

    /// The call's own deadline ended. `outcome` is that of a call whose last request may have been sent.
    pub(crate) fn deadline(outcome: Outcome) -> ClientError {
        ClientError::local(Cause::DeadlineExceeded, outcome, "no answer before the deadline")
    }

    /// What a failed call returned, for an operation that is a write or is not.
    pub(crate) fn from_status(status: &Status, write: bool) -> ClientError {
        let outcome = |of_write| if write { of_write } else { Outcome::Read };
        match transport_cause(status) {
            Some(cause @ Cause::Unreachable) => {
                ClientError::local(cause, outcome(Outcome::NotApplied), root_cause(status))
            }
            Some(Cause::DeadlineExceeded) => ClientError::deadline(outcome(Outcome::InDoubt)),
            Some(cause) if is_not_begun(status) => {
                ClientError::local(cause, outcome(Outcome::NotApplied), root_cause(status))
            }
            Some(cause) => ClientError::local(cause, outcome(Outcome::InDoubt), root_cause(status)),
            None => match detail_of(status) {
                Some(detail) => ClientError::refused(status.code(), status.message(), &detail, write),
                None => ClientError::local(
                    Cause::Status(status.code()),
                    outcome(outcome_without_detail(status.code())),
                    status.message(),
                ),
            },
        }
    }

    /// One operation's failure inside a batch.
    pub(crate) fn from_item(error: &v1::Error, write: bool) -> ClientError {
        let code = Code::from_i32(error.code);
        match &error.detail {
            Some(detail) => ClientError::refused(code, &error.message, detail, write),
            None => {
                let outcome = if write { outcome_without_detail(code) } else { Outcome::Read };
                ClientError::local(Cause::Status(code), outcome, error.message.as_str())
            }
        }
    }

    /// The same error of an operation an earlier attempt of which may yet take effect.
    pub(crate) fn doubted(mut self) -> ClientError {
        self.0.outcome = Outcome::InDoubt;
        self
    }

    /// With the endpoint that was asked.
    pub(crate) fn at(mut self, endpoint: &str) -> ClientError {
        self.0.endpoint = endpoint.to_owned();
        self
    }

    /// A connection could not be made, whatever the transport calls it.
    pub(crate) fn unreachable_at(mut self, endpoint: &str) -> ClientError {
        self.0.cause = Cause::Unreachable;
        self.at(endpoint)
    }

    fn refused(code: Code, message: &str, detail: &v1::ErrorDetail, write: bool) -> ClientError {
        let outcome = match v1::Outcome::try_from(detail.outcome) {
            _ if !write => Outcome::Read,
            Ok(v1::Outcome::NotApplied) => Outcome::NotApplied,
            Ok(v1::Outcome::Applied) => Outcome::Applied,
            // A write whose outcome is not told, or told in a word of a later version: suppose the worse.
            Ok(v1::Outcome::InDoubt | v1::Outcome::Unspecified) | Err(_) => Outcome::InDoubt,
        };
        ClientError(Box::new(Details {
            cause: reason_of(detail.reason).map_or(Cause::Status(code), Cause::Refused),
            outcome,
            message: message.to_owned(),
            endpoint: String::new(),
            node: detail.node.clone(),
            acks: detail.acks,
            acks_needed: detail.acks_needed,
            retry_after_ms: detail.retry_after_ms,
        }))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.cause {
            Cause::Usage => {}
            Cause::Unreachable => write!(f, "cannot connect to {}: ", self.0.endpoint)?,
            Cause::ConnectionLost => write!(f, "lost the connection to {}: ", self.0.endpoint)?,
            Cause::Answer => write!(f, "{} answered something else than was asked: ", self.0.endpoint)?,
            Cause::DeadlineExceeded => {}
            Cause::Refused(_) => {}
            Cause::Status(code) => write!(f, "{} answered {code:?}: ", self.0.endpoint)?,
        }
        f.write_str(&self.0.message)?;
        if self.0.acks_needed > 0 {
            write!(f, " ({} of {} acknowledgements)", self.0.acks, self.0.acks_needed)?;
        }
        match self.0.outcome {
            Outcome::Read => Ok(()),
            Outcome::NotApplied => f.write_str("; the write was not applied"),
            Outcome::Applied => f.write_str("; the write was applied when it was asked for before"),
            Outcome::InDoubt => f.write_str("; the write is in doubt: it takes effect once or never"),
        }
    }
}

impl std::error::Error for ClientError {}

/// None for a reason that this version does not know.
fn reason_of(number: i32) -> Option<Reason> {
    Reason::ALL.into_iter().find(|&reason| reason as i32 == number)
}

/// What this side's transport reports. None: the status came from the other side.
fn transport_cause(status: &Status) -> Option<Cause> {
    let mut error = std::error::Error::source(status)?;
    loop {
        if error.is::<ConnectError>() {
            return Some(Cause::Unreachable);
        }
        if error.is::<TimeoutExpired>() {
            return Some(Cause::DeadlineExceeded);
        }
        match error.source() {
            Some(source) => error = source,
            None => return Some(Cause::ConnectionLost),
        }
    }
}

/// Is it certain that the node has not looked at the call? Either it was never sent, or the node said so: it names the last
/// stream that it takes when it leaves in order, and refuses single ones (RFC 9113, 6.8 and 8.7).
fn is_not_begun(status: &Status) -> bool {
    let mut chain = std::iter::successors(std::error::Error::source(status), |error| error.source());
    chain.any(|error| {
        let unsent = hyper::Error::is_canceled;
        error.downcast_ref().is_some_and(unsent) || error.downcast_ref().is_some_and(is_refusal)
    })
}

fn is_refusal(error: &h2::Error) -> bool {
    let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (left || refused)
}

/// The innermost message of a chain of errors: "Connection refused (os error 111)" rather than "transport error".
fn root_cause(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Without a node's word only what refuses a call before any work is known to have left nothing.
fn outcome_without_detail(code: Code) -> Outcome {
    match code {
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
            Outcome::NotApplied
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Outcome::InDoubt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::status::{Any, RpcStatus};
    use prost::Message as _;

    fn status_with(code: Code, detail: &v1::ErrorDetail) -> Status {
        let any = Any {
            type_url: "type.googleapis.com/ringcore.v1.ErrorDetail".to_owned(),
            value: detail.encode_to_vec().into(),
        };
        let details = RpcStatus { code: code.into(), message: String::new(), details: vec![any] };
        Status::with_details(code, "said the node", details.encode_to_vec().into())
    }

    #[test]
    fn every_reason_of_the_protocol_is_known() {
        let known = (1..=200).filter(|&number| v1::Reason::try_from(number).is_ok());
        for number in known {
            let reason = reason_of(number).unwrap_or_else(|| panic!("reason {number} is missing"));
            assert_eq!(reason as i32, number);
        }
    }

    #[test]
    fn detail_gives_reason_outcome_and_advice() {
        let detail = v1::ErrorDetail {
            reason: v1::Reason::NoQuorumInTime.into(),
            outcome: v1::Outcome::InDoubt.into(),
            acks: 1,
            acks_needed: 2,
            retry_after_ms: 30,
            node: "n1".to_owned(),
            ..Default::default()
        };
        let error = ClientError::from_status(&status_with(Code::DeadlineExceeded, &detail), true);
        assert_eq!(error.reason(), Some(Reason::NoQuorumInTime));
        assert_eq!(error.outcome(), Outcome::InDoubt);
        assert_eq!(error.acks(), (1, 2));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(30)));
        assert_eq!(error.node(), "n1");
        let sentence = error.to_string();
        assert!(sentence.contains("1 of 2 acknowledgements"), "{sentence}");
        assert!(sentence.contains("in doubt"), "{sentence}");
    }

    #[test]
    fn read_has_no_outcome_whatever_the_detail_says() {
        let detail = v1::ErrorDetail { outcome: v1::Outcome::InDoubt.into(), ..Default::default() };
        let error = ClientError::from_status(&status_with(Code::Unavailable, &detail), false);
        assert_eq!(error.outcome(), Outcome::Read);
    }

    #[test]
    fn unknown_reason_keeps_the_code_and_the_outcome() {
        let detail =
            v1::ErrorDetail { reason: 9_999, outcome: v1::Outcome::NotApplied.into(), ..Default::default() };
        let error = ClientError::from_status(&status_with(Code::Aborted, &detail), true);
        assert_eq!(error.cause(), Cause::Status(Code::Aborted));
        assert_eq!(error.outcome(), Outcome::NotApplied);
    }

    #[test]
    fn write_without_a_nodes_word_is_in_doubt_unless_it_was_refused_before_any_work() {
        for (code, outcome) in [
            (Code::Unavailable, Outcome::InDoubt),
            (Code::Internal, Outcome::InDoubt),
            (Code::ResourceExhausted, Outcome::InDoubt),
            (Code::Unimplemented, Outcome::NotApplied),
            (Code::PermissionDenied, Outcome::NotApplied),
        ] {
            let error = ClientError::from_status(&Status::new(code, ""), true);
            assert_eq!((error.cause(), error.outcome()), (Cause::Status(code), outcome));
        }
        // Details that are no ErrorDetail are no word of a node either.
        let garbage = Status::with_details(Code::Unavailable, "", vec![0xFF, 1, 2].into());
        assert_eq!(ClientError::from_status(&garbage, true).outcome(), Outcome::InDoubt);
    }

    #[test]
    fn failed_connect_is_not_applied_and_a_broken_one_in_doubt() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let connect = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        let error = ClientError::from_status(&connect, true).at("h:1");
        assert_eq!((error.cause(), error.outcome()), (Cause::Unreachable, Outcome::NotApplied));
        assert!(error.to_string().starts_with("cannot connect to h:1: connection refused"), "{error}");

        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        let error = ClientError::from_status(&broken, true);
        assert_eq!((error.cause(), error.outcome()), (Cause::ConnectionLost, Outcome::InDoubt));

        let late = Status::from_error(Box::new(TimeoutExpired(())));
        let error = ClientError::from_status(&late, true);
        assert_eq!((error.cause(), error.outcome()), (Cause::DeadlineExceeded, Outcome::InDoubt));
        assert_eq!(ClientError::from_status(&late, false).outcome(), Outcome::Read);
    }
}
