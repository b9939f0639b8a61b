//! One call: its deadline, its way to the cores, its end. Knows no service.

use super::backend::{Backend, Phase, View};
use super::body::{OkTrailers, ResponseBody};
use super::budget::Held;
use super::codec::{self, Cap, Messages, Received};
use super::connection;
use super::proto::v1;
use super::room::{Line, Room};
use super::router::Method;
use super::server::Server;
use super::status::{self, Origin};
use crate::types::request::{Answer, Level, Operation, Reply, Request, TooLong};
use crate::types::{CoreId, Failure, Limits, Mono, OperationId, Reason};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use prost::Message;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tonic::{Code, Status};

/// Nothing can be done within a microsecond: such a deadline is past on arrival.
const DEADLINE_NS_MIN: u64 = 1_000;

/// A call in progress, or one operation of a pipeline. Counted when it ends; dropped before that, it was cancelled.
pub(crate) struct Call<B: Backend> {
    pub(crate) server: Rc<Server<B>>,
    pub(crate) connection: Rc<connection::State>,
    /// As it was when the call came.
    pub(crate) view: Rc<View>,
    pub(crate) method: Method,
    pub(crate) deadline: Mono,
    /// Of an operation of a pipeline: its stream's.
    pub(crate) line: Option<Rc<Line>>,
    /// One trailer beside the status.
    pub(crate) trailer: Cell<Option<(&'static str, &'static str)>>,
    since: Mono,
    ended: Cell<Code>,
}

/// Why a call is not answered with its message.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The operation failed; the detail says how.
    Failure(Failure),
    /// The call breaks gRPC's own rules, or asks for what is not served.
    Protocol(Code, &'static str),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failure(failure)
    }
}

impl<B: Backend> Call<B> {
    pub(crate) fn new(
        server: &Rc<Server<B>>,
        connection: &Rc<connection::State>,
        method: Method,
        timeout_ns: u64,
    ) -> Call<B> {
        let now = server.backend.mono();
        connection.begin(now);
        Call {
            server: Rc::clone(server),
            connection: Rc::clone(connection),
            view: server.backend.view(),
            method,
            deadline: now + timeout_ns,
            line: None,
            trailer: Cell::new(None),
            since: now,
            ended: Cell::new(Code::Cancelled),
        }
    }

    /// Sends an operation without a name to the core that owns its key; the caller has room for an answer with a value
    /// of `value_bytes_max`.
    pub(crate) fn submit(&self, operation: Operation, level: Level, value_bytes_max: usize) -> B::Reply {
        self.submit_as(operation, level, None, 0, value_bytes_max)
    }

    /// As [`Call::submit`], with the client's name for the operation.
    pub(crate) fn submit_as(
        &self,
        operation: Operation,
        level: Level,
        identity: Option<OperationId>,
        done_below: u64,
        value_bytes_max: usize,
    ) -> B::Reply {
        let deadline = self.deadline;
        let request = Request { operation, level, identity, done_below, deadline, value_bytes_max };
        self.server.backend.submit(request)
    }

    /// Sends an operation on a key when that is cheapest and there is room for its answer, and waits for its reply.
    pub(crate) async fn ask(
        &self,
        operation: Operation,
        level: Level,
        identity: Option<OperationId>,
        done_below: u64,
    ) -> Reply {
        let key = operation.key().expect("only a scan has no key");
        self.server.backend.expect(key, operation.is_write()).await;
        let share = &self.connection.share;
        let mut room = None;
        if operation.wants_value() {
            let bytes = share.expected();
            room = match Room::try_take(share, self.line.as_ref(), bytes) {
                Poll::Ready(room) => room,
                // Boxed, as below: it is rare, and its state would make every operation's task larger.
                Poll::Pending => Some(Box::pin(self.room(bytes)).await?),
            };
        }
        // The calls that waited beside this one may have been answered with more than there is room for.
        if room.is_none() && (operation.wants_value() || !share.has_room()) {
            return Err(codec::overloaded());
        }
        let bytes = room.as_ref().map_or(0, Room::bytes);
        let reply = self.submit_as(operation, level, identity, done_below, bytes).await;
        if let Ok(Answer::TooLong(asked)) = reply {
            drop(room);
            return Box::pin(self.ask_again(*asked, level, identity, done_below)).await;
        }
        if room.is_some() {
            share.saw(value_bytes(&reply));
        }
        // The room is given back: nothing else runs before the answer is charged with its frame.
        reply
    }

    /// Asks with as much room as is needed, until it is enough: the value may have grown meanwhile.
    pub(crate) async fn ask_again(
        &self,
        mut asked: TooLong,
        level: Level,
        identity: Option<OperationId>,
        done_below: u64,
    ) -> Reply {
        loop {
            self.connection.share.saw(asked.value_bytes);
            let room = self.room(asked.value_bytes).await?;
            match self.submit_as(asked.operation, level, identity, done_below, room.bytes()).await {
                Ok(Answer::TooLong(longer)) => asked = *longer,
                reply => return reply,
            }
        }
    }

    /// Room for answers of so many bytes; an operation of a pipeline waits its turn for it.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Room, Failure> {
        let room = Room::take(&self.connection.share, self.line.as_ref(), bytes).await;
        room.ok_or_else(codec::overloaded)
    }

    /// Operations on these keys are about to be sent.
    pub(crate) fn expect_all<'k>(&self, keys: impl Iterator<Item = &'k Bytes>, write: bool) {
        self.server.backend.expect_all(keys.map(|key| &key[..]), write);
    }

    /// Sends a scan to a core; its range says how much is answered.
    pub(crate) fn submit_to(&self, core: CoreId, operation: Operation, level: Level) -> B::Reply {
        let deadline = self.deadline;
        let value_bytes_max = usize::MAX;
        let request = Request { operation, level, identity: None, done_below: 0, deadline, value_bytes_max };
        self.server.backend.submit_to(core, request)
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.server.backend.limits()
    }

    /// An error inside a batch or a pipeline.
    pub(crate) fn error(&self, failure: Failure) -> v1::Error {
        status::error(&self.of_method(failure), self.origin())
    }

    /// Reads the only message of the call and answers it.
    pub(crate) async fn unary<Q, A>(
        self,
        body: Incoming,
        caps: &[Cap],
        handler: impl AsyncFnOnce(&Call<B>, Q) -> Result<A, Refusal>,
    ) -> Response<ResponseBody>
    where
        Q: Message + Default,
        A: Message,
    {
        let answer = match self.single(body, caps).await {
            Ok((request, held)) => {
                let answer = handler(&self, request).await;
                drop(held); // the request is charged until it is answered
                answer
            }
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(message) => {
                let data = codec::encode(&message);
                let mut held = self.hold();
                held.grow_over(data.len());
                let trailers = Some(self.succeed());
                accepted(ResponseBody::Message { data, held, trailers })
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The only message of the call, and the charge for it.
    pub(crate) async fn single<Q: Message + Default>(
        &self,
        body: Incoming,
        caps: &[Cap],
    ) -> Result<(Q, Held), Refusal> {
        let past = || Failure::not_applied(Reason::DeadlinePast);
        let backend = &self.server.backend;
        if self.deadline.since(backend.mono()) <= DEADLINE_NS_MIN {
            return Err(past().into());
        }
        let mut messages = self.messages(body);
        let received = until(backend, self.deadline, poll_fn(|cx| messages.poll_single(cx))).await;
        let Received { bytes, held } = received.ok_or_else(past)??;
        Ok((codec::decode(bytes, caps)?, held))
    }

    /// The messages of the call, in the order they come.
    pub(crate) fn messages(&self, body: Incoming) -> Messages<Incoming> {
        Messages::new(body, self.hold(), self.limits().message_bytes_max)
    }

    /// A charge to the call's connection, still of nothing.
    pub(crate) fn hold(&self) -> Held {
        self.connection.share.hold()
    }

    /// The trailers of success. Ends the call.
    pub(crate) fn succeed(&self) -> OkTrailers {
        self.ended.set(Code::Ok);
        OkTrailers { extra: self.trailer.take() }
    }

    /// The trailers of a stream that fails. Ends the call.
    pub(crate) fn fail(&self, refusal: Refusal) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        self.add_status(refusal, &mut trailers);
        trailers
    }

    /// The answer, all in its headers, to a call that fails. Ends the call.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        let mut response = accepted(ResponseBody::Empty);
        self.add_status(refusal, response.headers_mut());
        response
    }

    /// An operation's failure in its pipeline. Ends the operation.
    pub(crate) fn fail_operation(&self, refusal: Refusal) -> v1::Error {
        let error = match refusal {
            Refusal::Failure(failure) => self.error(failure),
            Refusal::Protocol(code, message) => {
                v1::Error { code: code as i32, message: message.into(), detail: None }
            }
        };
        self.ended.set(Code::from(error.code));
        error
    }

    /// Data is served only by a node that takes part in quorums.
    pub(crate) fn check_phase(&self) -> Result<(), Failure> {
        match self.view.phase {
            Phase::Starting if self.method.needs_data() => Err(Failure::not_applied(Reason::Starting)),
            Phase::Stopping if self.method.needs_data() => Err(Failure::not_applied(Reason::Stopping)),
            Phase::Starting | Phase::Serving | Phase::Stopping => Ok(()),
        }
    }

    fn add_status(&self, refusal: Refusal, headers: &mut HeaderMap) {
        let status = match refusal {
            Refusal::Failure(failure) => status::status(&self.of_method(failure), self.origin()),
            Refusal::Protocol(code, message) => Status::new(code, message),
        };
        self.ended.set(status.code());
        status.add_header(headers).expect("tonic escapes what a header cannot hold");
    }

    /// A failed read applied nothing because there was nothing to apply.
    fn of_method(&self, failure: Failure) -> Failure {
        if self.method.is_write() { failure } else { failure.of_read() }
    }

    fn origin(&self) -> Origin<'_> {
        Origin { node: &self.view.own().name, epoch: self.view.epoch }
    }
}

impl<B: Backend> Drop for Call<B> {
    fn drop(&mut self) {
        let now = self.server.backend.mono();
        self.server.counters().record(self.method.operation(), self.ended.get(), now.since(self.since));
        self.connection.end(now);
    }
}

/// HTTP's part of every gRPC answer, failures included.
pub(crate) fn accepted(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer to what is not gRPC at all.
pub(crate) fn not_grpc(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = status;
    response
}

/// The time that a call has, nanoseconds: none named = the default, too long or unreadable = the longest.
pub(crate) fn timeout_ns(headers: &HeaderMap, limits: &Limits) -> u64 {
    let max = limits.deadline_ms_max.saturating_mul(1_000_000);
    match headers.get("grpc-timeout") {
        None => limits.deadline_ms_default.saturating_mul(1_000_000).min(max),
        Some(value) => parse_timeout(value.as_bytes()).map_or(max, |ns| ns.min(max)),
    }
}

/// gRPC's timeout: one to eight digits and a unit.
fn parse_timeout(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let unit_ns = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    Some(number.saturating_mul(unit_ns))
}

/// What the future gives, or None at the deadline. Arms no timer unless it has to wait.
pub(crate) async fn until<B: Backend, T>(
    backend: &B,
    deadline: Mono,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        if sleep.is_none() {
            sleep.set(Some(backend.sleep_until(deadline)));
        }
        sleep.as_mut().as_pin_mut().expect("set above").poll(cx).map(|()| None)
    })
    .await
}

fn value_bytes(reply: &Reply) -> usize {
    match reply {
        Ok(Answer::Read(read)) => read.value.len(),
        Ok(Answer::Write(write)) => write.old.len(),
        Ok(Answer::Page(_) | Answer::Replicated | Answer::Joined(_) | Answer::TooLong(_)) | Err(_) => 0,
    }
}

/// Lets the core's other tasks run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A level from the wire; 0 = QUORUM.
pub(crate) fn level(number: i32) -> Result<Level, Failure> {
    match v1::Level::try_from(number) {
        Ok(v1::Level::Unspecified | v1::Level::Quorum) => Ok(Level::Quorum),
        Ok(v1::Level::One) => Ok(Level::One),
        Ok(v1::Level::All) => Ok(Level::All),
        Err(_) => Err(Failure::not_applied(Reason::LevelInvalid).limit(0, number as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout_ms(value: Option<&str>) -> u64 {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert("grpc-timeout", HeaderValue::from_str(value).unwrap());
        }
        timeout_ns(&headers, &Limits::default()) / 1_000_000
    }

    #[test]
    fn timeout_has_every_unit_of_the_grammar() {
        let cases = [("1S", 1_000), ("250m", 250), ("3000u", 3), ("2000000n", 2), ("1M", 60_000)];
        for (value, ms) in cases {
            assert_eq!(timeout_ms(Some(value)), ms, "{value}");
        }
    }

    #[test]
    fn no_timeout_is_the_default_and_a_long_or_unreadable_one_the_longest() {
        assert_eq!(timeout_ms(None), 10_000);
        for value in ["", "S", "abc", "-1S", "1x", "1", " 1S", "1 S", "999999999S", "61S", "1H", "99999999H"]
        {
            assert_eq!(timeout_ms(Some(value)), 60_000, "{value:?}");
        }
    }

    #[test]
    fn level_zero_is_quorum_and_unknown_ones_are_refused() {
        assert_eq!(level(0), Ok(Level::Quorum));
        assert_eq!(level(1), Ok(Level::One));
        assert_eq!(level(3), Ok(Level::All));
        for number in [4, -1, i32::MAX] {
            assert_eq!(level(number).map_err(|failure| failure.reason), Err(Reason::LevelInvalid));
        }
    }
}
