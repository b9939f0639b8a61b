//! `ringcore.peer.v1.Peer.Join`: a node asks to become a member; both ends.

use super::control;
use super::dial::{Driver, LinkError, Tasks};
use crate::rpc::backend::Backend;
use crate::rpc::call::{Call, Refusal};
use crate::rpc::codec;
use crate::rpc::io::{self, Io, Transport};
use crate::rpc::proto::peer as pb;
use crate::types::join::{JoinRequest, Joined};
use crate::types::request::{Answer, Level, Operation};
use crate::types::{CoreId, Failure, Reason};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::Builder;
use std::rc::Rc;
use tonic::{Code, Status};

/// Of an answer: an epoch of a thousand members.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Written before the core's other tasks get their turn.
const BYTES_PER_POLL: usize = 64 << 10;

/// Why a node did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It may later, or at another node.
    #[error("{0}")]
    Later(String),
    /// It will not, as things are.
    #[error("{0}")]
    Refused(String),
}

/// Serves a request to join: decided by core 0.
pub(crate) async fn join<B: Backend>(
    call: &Call<B>,
    request: pb::JoinRequest,
) -> Result<pb::JoinResponse, Refusal> {
    let request = control::to_join(request).map_err(Failure::from)?;
    let operation = Operation::Join(Box::new(request));
    match call.submit_to(CoreId(0), operation, Level::Quorum).await? {
        Answer::Joined(joined) => Ok(control::from_joined(joined)),
        other => panic!("a request to join was answered {other:?}"),
    }
}

/// Asks over a fresh connection. How long that may take is the caller's business.
pub async fn ask<T: Transport>(transport: T, request: JoinRequest) -> Result<Joined, JoinError> {
    let later = |error: &dyn std::fmt::Display| JoinError::Later(error.to_string());
    let io = Io::new(transport, BYTES_PER_POLL, io::scratch(), Rc::default());
    let tasks = Tasks::default();
    let handshake = Builder::new(tasks.clone()).handshake(io);
    let (mut send, connection) = handshake.await.map_err(|error| later(&error))?;
    let mut driver = Driver::new(connection, tasks);
    let body = Full::new(codec::encode(&control::from_join(request)));
    let request = Request::post("http://peer/ringcore.peer.v1.Peer/Join")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(body)
        .expect("the parts are valid");
    let answer = async {
        let response = send.send_request(request).await.map_err(LinkError::Broken)?;
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Ok(Err(status));
        }
        let collected = response.into_body().collect().await.map_err(LinkError::Broken)?;
        match collected.trailers().and_then(Status::from_header_map) {
            Some(status) if status.code() == Code::Ok => Ok(Ok(collected.to_bytes())),
            Some(status) => Ok(Err(status)),
            None => Err(LinkError::NoWelcome),
        }
    };
    let answered: Result<Result<Bytes, Status>, LinkError> = driver.drive(answer).await;
    match answered.map_err(|error| later(&error))? {
        Ok(bytes) => read(&bytes).ok_or_else(|| JoinError::Later("the answer cannot be read".to_owned())),
        Err(status) => Err(refusal(&status)),
    }
}

#[allow(clippy::big_endian_bytes, reason = "gRPC's prefix is")]
fn read(bytes: &Bytes) -> Option<Joined> {
    let &[0, a, b, c, d] = bytes.first_chunk()? else { return None };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let message = bytes.slice(codec::PREFIX_BYTES..);
    if message.len() != length || length > ANSWER_BYTES_MAX {
        return None;
    }
    control::to_joined(codec::decode(message, &[]).ok()?).ok()
}

fn refusal(status: &Status) -> JoinError {
    let message = status.message().to_owned();
    let in_progress = message == Failure::not_applied(Reason::ChangeInProgress).to_string();
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented if !in_progress => {
            JoinError::Refused(message)
        }
        _ => JoinError::Later(message),
    }
}
