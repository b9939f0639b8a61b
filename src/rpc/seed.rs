//! The seed's services: `KVStore` and `NodeInternal`, whose keys and values are text.

use super::backend::{Backend, Liveness};
use super::call::{Call, Refusal};
use super::kv;
use super::proto::seed;
use crate::types::request::{Expiry, Level, Operation};
use crate::types::{Failure, Hlc, OperationId, Reason};
use bytes::Bytes;

pub(crate) async fn get<B: Backend>(
    call: &Call<B>,
    request: seed::GetRequest,
) -> Result<seed::GetResponse, Refusal> {
    let operation = Operation::Read { key: request.key.into(), value: true };
    let read = kv::read(call.ask(operation, Level::Quorum, None, 0).await)?;
    let value = text(read.value).ok_or(Failure::not_applied(Reason::ValueNotUtf8))?;
    Ok(seed::GetResponse { value, timestamp: read.version.hlc.0, exists: read.exists })
}

pub(crate) async fn put<B: Backend>(
    call: &Call<B>,
    request: seed::PutRequest,
) -> Result<seed::PutResponse, Refusal> {
    let operation = Operation::Put {
        key: request.key.into(),
        value: request.value.into(),
        expiry: Expiry::Never,
        previous: true,
    };
    let identity = OperationId::new(request.client_id, request.request_id);
    let written = kv::written(call.ask(operation, Level::Quorum, identity, 0).await)?;
    let old_value = text(written.old).unwrap_or_else(|| {
        // The write has succeeded: what it replaced is no reason to fail it.
        call.trailer.set(Some(("ringcore-old-value", "not-utf8")));
        String::new()
    });
    Ok(seed::PutResponse { old_value, had_old_value: written.had_old })
}

/// A refusal by the replica is part of the answer, not a failed call.
pub(crate) async fn replicate<B: Backend>(
    call: &Call<B>,
    request: seed::ReplicateRequest,
) -> Result<seed::ReplicateResponse, Refusal> {
    let refused = |error: String| Ok(seed::ReplicateResponse { success: false, error });
    if request.timestamp == 0 {
        return refused("the timestamp is 0".to_owned());
    }
    let operation = Operation::Replicate {
        key: request.key.into(),
        value: request.value.into(),
        timestamp: Hlc(request.timestamp),
    };
    match call.submit(operation, Level::One, 0).await {
        Ok(_) => Ok(seed::ReplicateResponse { success: true, error: String::new() }),
        Err(failure) => refused(failure.to_string()),
    }
}

pub(crate) async fn heartbeat<B: Backend>(_: &Call<B>, _: seed::Ping) -> Result<seed::Pong, Refusal> {
    Ok(seed::Pong {})
}

pub(crate) async fn ring_state<B: Backend>(
    call: &Call<B>,
    _: seed::RingStateRequest,
) -> Result<seed::RingStateResponse, Refusal> {
    let view = &call.view;
    let alive = |liveness| matches!(liveness, Liveness::Alive | Liveness::Starting);
    Ok(seed::RingStateResponse {
        version: view.epoch,
        nodes: view.members.iter().map(|member| (member.name.clone(), alive(member.liveness))).collect(),
        updated_at: view.updated_at_ms as i64,
    })
}

/// None if the bytes are not UTF-8.
pub(crate) fn text(bytes: Bytes) -> Option<String> {
    String::from_utf8(Vec::from(bytes)).ok()
}
