//! `ringcore.v1.KV`, one key at a time. Checks nothing about keys and values: the core that owns the key does.

use super::backend::Backend;
use super::call::{Call, Refusal, level};
use super::proto::v1;
use crate::types::request::{Answer, Expiry, Level, Operation, ReadAnswer, Reply, TooLong, WriteAnswer};
use crate::types::{Failure, Hlc, MemberId, OperationId, Reason, Version};
use bytes::Bytes;
use tonic::Code;

pub(crate) async fn get<B: Backend>(
    call: &Call<B>,
    request: v1::GetRequest,
) -> Result<v1::GetResponse, Refusal> {
    let level = read_level(call, request.level, request.local)?;
    let read = read_at(call, request.key, true, level, request.session_floor).await?;
    Ok(v1::GetResponse {
        value: read.value.into(),
        timestamp: read.version.hlc.0,
        exists: read.exists,
        member: read.version.member.0,
        expires_at_ms: read.expires_at_ms,
        epoch: if request.local { call.view.epoch } else { 0 },
        ring: call.view.ring,
    })
}

pub(crate) async fn exists<B: Backend>(
    call: &Call<B>,
    request: v1::ExistsRequest,
) -> Result<v1::ExistsResponse, Refusal> {
    let level = level(request.level)?;
    let read = read_at(call, request.key, false, level, request.session_floor).await?;
    Ok(v1::ExistsResponse {
        timestamp: read.version.hlc.0,
        exists: read.exists,
        member: read.version.member.0,
        expires_at_ms: read.expires_at_ms,
        value_bytes: read.value_bytes,
        ring: call.view.ring,
    })
}

pub(crate) async fn put<B: Backend>(
    call: &Call<B>,
    request: v1::PutRequest,
) -> Result<v1::PutResponse, Refusal> {
    use v1::put_request::Expiry as Wire;
    let expiry = match request.expiry {
        None => Expiry::Never,
        Some(Wire::TtlMs(ms)) => Expiry::InMs(ms),
        Some(Wire::ExpiresAtMs(ms)) => expiry_at(ms)?,
    };
    let operation =
        Operation::Put { key: request.key, value: request.value, expiry, previous: request.return_previous };
    let identity = OperationId::new(request.client_id, request.request_id);
    let reply = call.ask(operation, level(request.level)?, identity, request.done_below);
    let written = written(reply.await)?;
    Ok(v1::PutResponse {
        old_value: written.old.into(),
        had_old_value: written.had_old,
        timestamp: written.version.hlc.0,
        member: written.version.member.0,
        ring: call.view.ring,
    })
}

pub(crate) async fn delete<B: Backend>(
    call: &Call<B>,
    request: v1::DeleteRequest,
) -> Result<v1::DeleteResponse, Refusal> {
    let operation = Operation::Delete { key: request.key, previous: request.return_previous };
    let identity = OperationId::new(request.client_id, request.request_id);
    let reply = call.ask(operation, level(request.level)?, identity, request.done_below);
    let written = written(reply.await)?;
    Ok(v1::DeleteResponse {
        old_value: written.old.into(),
        had_old_value: written.had_old,
        timestamp: written.version.hlc.0,
        member: written.version.member.0,
        ring: call.view.ring,
    })
}

/// The level of a read that may ask for this node's own record. While this node is the only member, its record is what
/// any level reads; with more of them there is no way yet to ask a core for its own record alone.
pub(crate) fn read_level<B: Backend>(call: &Call<B>, number: i32, local: bool) -> Result<Level, Refusal> {
    match (local, call.view.members.len()) {
        (false, _) => Ok(level(number)?),
        (true, 1) => Ok(Level::One),
        (true, _) => Err(Refusal::Protocol(Code::Unimplemented, "local reads are not served yet")),
    }
}

/// Milliseconds since 1970 at which a record ends; 0 is a past time, not "never".
pub(crate) fn expiry_at(ms: u64) -> Result<Expiry, Failure> {
    if ms == 0 {
        return Err(Failure::not_applied(Reason::ExpiryInvalid));
    }
    Ok(Expiry::AtMs(ms))
}

/// What a read was answered.
pub(crate) fn read(reply: Reply) -> Result<ReadAnswer, Failure> {
    match reply? {
        Answer::Read(answer) => Ok(answer),
        other => panic!("a read was answered {other:?}"),
    }
}

/// What a write was answered.
pub(crate) fn written(reply: Reply) -> Result<WriteAnswer, Failure> {
    match reply? {
        Answer::Write(answer) => Ok(answer),
        other => panic!("a write was answered {other:?}"),
    }
}

/// A session's floor, if the wire has one.
pub(crate) fn floor(version: Option<v1::Version>) -> Version {
    version.map_or(Version::ZERO, |v| Version::new(Hlc(v.timestamp), MemberId(v.member)))
}

/// A read under a session's floor: what one replica does not know yet a quorum is asked for. The quorum's answer stands
/// even below the floor: the floor may be greater than any version of the key (see `session_floor` in kv.proto).
async fn read_at<B: Backend>(
    call: &Call<B>,
    key: Bytes,
    value: bool,
    level: Level,
    session_floor: Option<v1::Version>,
) -> Result<ReadAnswer, Failure> {
    let floor = floor(session_floor);
    let operation = Operation::Read { key: key.clone(), value };
    let answer = read(call.ask(operation, level, None, 0).await)?;
    if level != Level::One || answer.version >= floor {
        return Ok(answer);
    }
    let asked = TooLong { operation: Operation::Read { key, value }, value_bytes: answer.value.len() };
    drop(answer); // its room is given back
    read(Box::pin(call.ask_again(asked, Level::Quorum, None, 0)).await)
}
