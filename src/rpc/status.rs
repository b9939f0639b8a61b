//! The one place where a failure gets its gRPC status, and where a status is read back. Knows nothing of how the failure
//! came about.

use super::proto::v1;
use crate::types::{Failure, Outcome, Reason};
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

/// `google.rpc.Status`: what the trailer `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// `google.rpc.Code`.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// One `ringcore.v1.ErrorDetail`.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Names the message's type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

const DETAIL_TYPE: &str = "type.googleapis.com/ringcore.v1.ErrorDetail";

/// Who answers: told in every failure's detail.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Name of the member that decided.
    pub node: &'a str,
    /// Its epoch.
    pub epoch: u64,
}

/// The code that goes with a reason (`DESIGN.md` §8).
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::KeyEmpty
        | Reason::KeyTooLong
        | Reason::ValueTooLarge
        | Reason::Malformed
        | Reason::ExpiryInvalid
        | Reason::BatchTooLarge
        | Reason::DuplicateKey
        | Reason::CursorInvalid
        | Reason::LevelInvalid => Code::InvalidArgument,
        Reason::MessageTooLarge
        | Reason::Overloaded
        | Reason::MemoryFull
        | Reason::DiskFull
        | Reason::ResponseFull => Code::ResourceExhausted,
        Reason::TooFewReplicas
        | Reason::Starting
        | Reason::Stopping
        | Reason::ClockUnfit
        | Reason::SuspectData => Code::Unavailable,
        Reason::DeadlinePast | Reason::NoQuorumInTime => Code::DeadlineExceeded,
        Reason::ValueNotUtf8
        | Reason::RequestIdReused
        | Reason::NotMember
        | Reason::ChangeInProgress
        | Reason::ChangeRefused
        | Reason::ClusterNotEmpty
        | Reason::NotReplica
        | Reason::AnswerGone => Code::FailedPrecondition,
        Reason::MemberUnknown | Reason::SnapshotUnknown => Code::NotFound,
        Reason::OtherPort => Code::Unimplemented,
        Reason::Corrupt => Code::DataLoss,
        Reason::Bug => Code::Internal,
    }
}

/// A failed call's status, with its detail.
pub fn status(failure: &Failure, origin: Origin<'_>) -> Status {
    let code = code(failure.reason);
    let message = failure.to_string();
    let detail =
        Any { type_url: DETAIL_TYPE.to_owned(), value: Bytes::from(detail(failure, origin).encode_to_vec()) };
    let details = RpcStatus { code: code as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}

/// One operation's failure inside a batch or a pipeline.
pub fn error(failure: &Failure, origin: Origin<'_>) -> v1::Error {
    v1::Error {
        code: code(failure.reason) as i32,
        message: failure.to_string(),
        detail: Some(detail(failure, origin)),
    }
}

/// The detail that came with a status; None if it has none or another one.
pub fn detail_of(status: &Status) -> Option<v1::ErrorDetail> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let detail = details.into_iter().find(|detail| detail.type_url == DETAIL_TYPE)?;
    v1::ErrorDetail::decode(detail.value).ok()
}

fn detail(failure: &Failure, origin: Origin<'_>) -> v1::ErrorDetail {
    let outcome = match failure.outcome {
        Outcome::Read => v1::Outcome::Unspecified,
        Outcome::NotApplied => v1::Outcome::NotApplied,
        Outcome::InDoubt => v1::Outcome::InDoubt,
        Outcome::Applied => v1::Outcome::Applied,
    };
    v1::ErrorDetail {
        reason: failure.reason as i32,
        outcome: outcome as i32,
        acks: 0,
        acks_needed: 0,
        replicas_alive: 0,
        epoch: origin.epoch,
        retry_after_ms: failure.retry_after_ms,
        limit: failure.limit,
        got: failure.got,
        node: origin.node.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin { node: "n1", epoch: 7 };

    /// What proto/ringcore/v1/kv.proto says above each group of reasons.
    fn documented(reason: Reason) -> Code {
        match reason as i32 {
            1..20 => Code::InvalidArgument,
            20..40 => Code::ResourceExhausted,
            40..60 => Code::Unavailable,
            60..80 => Code::DeadlineExceeded,
            80..100 => Code::FailedPrecondition,
            100..120 => Code::NotFound,
            120..140 => Code::Unimplemented,
            140..160 => Code::DataLoss,
            _ => Code::Internal,
        }
    }

    #[test]
    fn every_reason_has_its_documented_number_and_code() {
        for reason in Reason::ALL {
            let wire = v1::Reason::try_from(reason as i32).expect("the reason is in the proto file");
            let name: String = format!("{reason:?}").to_uppercase();
            assert_eq!(wire.as_str_name().replace("REASON_", "").replace('_', ""), name);
            assert_eq!(code(reason), documented(reason), "{reason:?}");
        }
        let known = (1..=200).filter(|&number| v1::Reason::try_from(number).is_ok()).count();
        assert_eq!(known, Reason::ALL.len(), "the proto file has a reason that the types lack");
    }

    #[test]
    fn detail_survives_the_trailer() {
        let failure = Failure::in_doubt(Reason::NoQuorumInTime).limit(3, 2);
        let status = status(&failure, ORIGIN);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let detail = detail_of(&status).expect("a detail");
        assert_eq!(detail.reason(), v1::Reason::NoQuorumInTime);
        assert_eq!(detail.outcome(), v1::Outcome::InDoubt);
        assert_eq!((detail.limit, detail.got, detail.epoch, detail.node.as_str()), (3, 2, 7, "n1"));
    }

    #[test]
    fn status_without_detail_or_with_garbage_reads_as_none() {
        assert_eq!(detail_of(&Status::internal("x")), None);
        let garbage = Status::with_details(Code::Internal, "x", Bytes::from_static(b"\xff\xff"));
        assert_eq!(detail_of(&garbage), None);
    }
}
