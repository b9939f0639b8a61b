//! `ringcore.v1.KV`, many keys in one message: each is an operation of its own, sent to its core while the others are
//! under way, answered in its place.

use super::backend::Backend;
use super::call::{Call, Refusal, level, yield_now};
use super::codec::{self, Cap};
use super::kv;
use super::proto::v1;
use super::room::Room;
use crate::types::request::{Answer, Expiry, Level, Operation, Reply, TooLong};
use crate::types::{Failure, Limits, OperationId, Reason, Version};
use bytes::Bytes;
use prost::Message;
use std::collections::{HashSet, VecDeque};

/// Operations of one batch that wait for their answers: enough to fill the log's batches, few enough that one client
/// does not fill a mailbox.
const OUTSTANDING_MAX: usize = 256;
/// Operations handled before the core's other tasks get their turn.
const TURN: usize = 64;
/// Of an answer's size, kept for each result that may have to say RESPONSE_FULL.
const RESULT_BYTES_MIN: usize = 32;

/// The keys of a batch are counted before they are decoded.
pub(crate) fn keys_cap(limits: &Limits) -> Cap {
    Cap { path: &[1], elements_max: limits.batch_keys_max }
}

pub(crate) async fn read<B: Backend>(
    call: &Call<B>,
    request: v1::BatchReadRequest,
) -> Result<v1::BatchReadResponse, Refusal> {
    let count = request.keys.len();
    check_size(count, call.limits())?;
    let reads = Reads {
        level: kv::read_level(call, request.level, request.local)?,
        floor: kv::floor(request.session_floor),
        values: !request.omit_values,
    };
    let mut left = call.limits().message_bytes_max.saturating_sub(count * RESULT_BYTES_MIN);
    let mut results = Vec::with_capacity(count);
    let mut waiting = VecDeque::new();
    let mut keys = request.keys.into_iter();
    let each = reads.expected(call);
    let mut window = window(left, each);
    // Of the results, and of the answers under way; in a pipeline the batch waits its turn for it.
    let mut room = call.room(each * window.min(count)).await?;
    let (mut taken, mut asked) = (0, 0);
    for index in 0..count {
        // Half a window or more at a time: what many read is waited for together.
        if waiting.len() <= window / 2 && !keys.as_slice().is_empty() {
            let each = reads.expected(call);
            window = self::window(left, each);
            let mut begun = window.saturating_sub(waiting.len()).min(keys.len());
            if !room.resize(taken + asked + begun * each) {
                begun = usize::from(waiting.is_empty());
                if begun > 0 && !room.resize(taken + each) {
                    if results.is_empty() {
                        return Err(codec::overloaded().into());
                    }
                    results.resize(count, full());
                    break;
                }
            }
            call.expect_all(keys.as_slice().iter().take(begun), false);
            for key in keys.by_ref().take(begun) {
                let again = reads.may_lag().then(|| key.clone());
                asked += each;
                waiting.push_back((again, each, reads.submit(call, key, reads.level, each)));
            }
        }
        let (again, bytes, reply) = waiting.pop_front().expect("the window is never empty");
        let result = match reads.finish(call, &mut room, again, reply.await).await {
            Ok(result) => result,
            Err(failure) => v1::ReadResult { error: Some(call.error(failure)), ..Default::default() },
        };
        asked -= bytes;
        let bytes = result.encoded_len();
        if bytes > left {
            results.resize(count, full());
            break;
        }
        left -= bytes;
        taken += bytes;
        results.push(result);
        if index % TURN == TURN - 1 {
            yield_now().await;
        }
    }
    Ok(v1::BatchReadResponse { results, ring: call.view.ring })
}

pub(crate) async fn write<B: Backend>(
    call: &Call<B>,
    request: v1::BatchWriteRequest,
) -> Result<v1::BatchWriteResponse, Refusal> {
    let writes = request.writes;
    check_size(writes.len(), call.limits())?;
    check_distinct(&writes)?;
    let level = level(request.level)?;
    let last = writes.len() as u64 - 1;
    if request.client_id != 0 && request.request_id.checked_add(last).is_none() {
        let failure = Failure::not_applied(Reason::Malformed);
        return Err(failure.message("request_id leaves no ids for all writes of the batch").into());
    }
    let count = writes.len();
    let mut results = Vec::with_capacity(count);
    let mut waiting = VecDeque::new();
    let mut writes = writes.into_iter();
    for index in 0..count {
        // As with reads.
        let waits = waiting.len();
        let begun = if waits <= OUTSTANDING_MAX / 2 { OUTSTANDING_MAX - waits } else { 0 };
        call.expect_all(writes.as_slice().iter().take(begun).map(|write| &write.key), true);
        for (position, write) in (index + waits..).zip(writes.by_ref().take(begun)) {
            // Without a request id none of the batch has an identity, although id + position would not be 0.
            let id = if request.request_id == 0 { 0 } else { request.request_id + position as u64 };
            let identity = OperationId::new(request.client_id, id);
            waiting.push_back(
                operation(write)
                    .map(|operation| call.submit_as(operation, level, identity, request.done_below, 0)),
            );
        }
        let outcome = match waiting.pop_front().expect("the window is never empty") {
            Ok(reply) => kv::written(reply.await),
            Err(failure) => Err(failure),
        };
        results.push(match outcome {
            Ok(written) => v1::WriteResult {
                had_old_value: written.had_old,
                timestamp: written.version.hlc.0,
                member: written.version.member.0,
                error: None,
            },
            Err(failure) => v1::WriteResult { error: Some(call.error(failure)), ..Default::default() },
        });
        if index % TURN == TURN - 1 {
            yield_now().await;
        }
    }
    Ok(v1::BatchWriteResponse { results, ring: call.view.ring })
}

/// How the keys of a batch are read.
struct Reads {
    level: Level,
    floor: Version,
    values: bool,
}

impl Reads {
    fn submit<B: Backend>(&self, call: &Call<B>, key: Bytes, level: Level, bytes: usize) -> B::Reply {
        call.submit(Operation::Read { key, value: self.values }, level, bytes)
    }

    /// Bytes to ask for each key with.
    fn expected<B: Backend>(&self, call: &Call<B>) -> usize {
        if self.values { call.connection.share.expected() } else { RESULT_BYTES_MIN }
    }

    /// Can one replica lag behind the session?
    fn may_lag(&self) -> bool {
        self.level == Level::One && self.floor > Version::ZERO
    }

    /// Asks a quorum for `again`, the key, where one replica lags behind the session.
    async fn finish<B: Backend>(
        &self,
        call: &Call<B>,
        room: &mut Room,
        again: Option<Bytes>,
        mut reply: Reply,
    ) -> Result<v1::ReadResult, Failure> {
        if let Ok(Answer::TooLong(asked)) = reply {
            reply = Box::pin(self.ask_again(call, room, self.level, *asked)).await;
        }
        let mut answer = kv::read(reply)?;
        if let Some(key) = again.filter(|_| answer.version < self.floor) {
            let operation = Operation::Read { key, value: self.values };
            let asked = TooLong { operation, value_bytes: answer.value.len() };
            drop(answer);
            answer = kv::read(Box::pin(self.ask_again(call, room, Level::Quorum, asked)).await)?;
        }
        if self.values {
            call.connection.share.saw(answer.value.len());
        }
        Ok(v1::ReadResult {
            value: answer.value.into(),
            timestamp: answer.version.hlc.0,
            exists: answer.exists,
            member: answer.version.member.0,
            expires_at_ms: answer.expires_at_ms,
            error: None,
        })
    }

    /// Asks with as much room as is needed, beside what the batch has, until it is enough.
    async fn ask_again<B: Backend>(
        &self,
        call: &Call<B>,
        room: &mut Room,
        level: Level,
        mut asked: TooLong,
    ) -> Reply {
        loop {
            let bytes = asked.value_bytes;
            call.connection.share.saw(bytes);
            if !room.resize(room.bytes() + bytes) {
                return Err(codec::overloaded());
            }
            match call.submit(asked.operation, level, bytes).await {
                Ok(Answer::TooLong(longer)) => asked = *longer,
                reply => return reply,
            }
        }
    }
}

/// Reads that may wait at a time, so that their answers do not come to more than the message has left.
fn window(left: usize, each: usize) -> usize {
    (left / each).clamp(1, OUTSTANDING_MAX)
}

fn full() -> v1::ReadResult {
    let detail = v1::ErrorDetail { reason: Reason::ResponseFull as i32, ..Default::default() };
    let code = super::status::code(Reason::ResponseFull) as i32;
    v1::ReadResult {
        error: Some(v1::Error { code, message: String::new(), detail: Some(detail) }),
        ..Default::default()
    }
}

fn operation(write: v1::WriteOperation) -> Result<Operation, Failure> {
    use v1::write_operation::{Action, Expiry as Wire};
    let key = write.key;
    let malformed = |message: &str| Failure::not_applied(Reason::Malformed).message(message);
    match (write.action, write.expiry) {
        (Some(Action::Value(value)), expiry) => {
            let expiry = match expiry {
                None => Expiry::Never,
                Some(Wire::TtlMs(ms)) => Expiry::InMs(ms),
                Some(Wire::ExpiresAtMs(ms)) => kv::expiry_at(ms)?,
            };
            Ok(Operation::Put { key, value, expiry, previous: false })
        }
        (Some(Action::Delete(true)), None) => Ok(Operation::Delete { key, previous: false }),
        (Some(Action::Delete(true)), Some(_)) => Err(malformed("a delete has no expiry")),
        (Some(Action::Delete(false)), _) => Err(malformed("delete: false says nothing")),
        (None, _) => Err(malformed("neither a value nor a delete")),
    }
}

fn check_size(keys: usize, limits: &Limits) -> Result<(), Failure> {
    let failure = Failure::not_applied(Reason::BatchTooLarge);
    if keys == 0 {
        return Err(Failure::not_applied(Reason::Malformed).message("the batch is empty"));
    }
    if keys > limits.batch_keys_max {
        return Err(failure.limit(limits.batch_keys_max as u64, keys as u64));
    }
    Ok(())
}

fn check_distinct(writes: &[v1::WriteOperation]) -> Result<(), Failure> {
    let mut seen = HashSet::with_capacity(writes.len());
    match writes.iter().all(|write| seen.insert(&write.key)) {
        true => Ok(()),
        false => Err(Failure::not_applied(Reason::DuplicateKey)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_shrinks_with_the_values_and_never_closes() {
        assert_eq!(window(4 << 20, 100), OUTSTANDING_MAX);
        assert_eq!(window(4 << 20, 1 << 20), 4);
        assert_eq!(window(10, 1 << 20), 1);
    }

    #[test]
    fn full_result_fits_what_is_kept_for_it() {
        let response = v1::BatchReadResponse { results: vec![full(); 100], ring: 0 };
        assert!(response.encoded_len() <= 100 * RESULT_BYTES_MIN);
    }

    #[test]
    fn write_without_a_clear_action_is_refused() {
        use v1::write_operation::{Action, Expiry as Wire};
        let write = |action, expiry| v1::WriteOperation { key: Bytes::from_static(b"k"), action, expiry };
        let refused = [
            write(None, None),
            write(Some(Action::Delete(false)), None),
            write(Some(Action::Delete(true)), Some(Wire::TtlMs(5))),
            write(Some(Action::Value(Bytes::new())), Some(Wire::ExpiresAtMs(0))),
        ];
        for write in refused {
            assert!(operation(write.clone()).is_err(), "{write:?}");
        }
        let put = operation(write(Some(Action::Value(Bytes::new())), Some(Wire::TtlMs(0))));
        assert!(put.is_ok(), "the core judges a time to live");
    }
}
