//! One call: its deadline, its way to the cores, its end. Knows no service.

use super::backend::{Backend, Phase, View};
use super::body::ResponseBody;
use super::budget::{Held, Share};
use super::codec::{self, Cap, Messages, Received};
use super::router::Method;
use super::server::Server;
use super::status::{self, Origin};
use crate::types::request::{Level, Operation, Request};
use crate::types::{CoreId, Failure, Limits, Mono, OperationId, Reason};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use prost::Message;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tonic::{Code, Status};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Nothing can be done within a microsecond: such a deadline is past on arrival.
const DEADLINE_NS_MIN: u64 = 1_000;

/// A call in progress, or one operation of a pipeline.
pub(crate) struct Call<B: Backend> {
    pub(crate) server: Rc<Server<B>>,
    pub(crate) share: Rc<Share>,
    /// As it was when the call came.
    pub(crate) view: Rc<View>,
    pub(crate) method: Method,
    pub(crate) deadline: Mono,
    /// One trailer beside the status.
    pub(crate) trailer: Cell<Option<(&'static str, &'static str)>>,
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
    /// Sends an operation to the core that owns its key.
    pub(crate) fn submit(&self, operation: Operation, level: Level) -> B::Reply {
        self.submit_as(operation, level, None, 0)
    }

    /// As [`Call::submit`], with the client's name for the operation.
    pub(crate) fn submit_as(
        &self,
        operation: Operation,
        level: Level,
        identity: Option<OperationId>,
        done_below: u64,
    ) -> B::Reply {
        let deadline = self.deadline;
        self.server.backend.submit(Request { operation, level, identity, done_below, deadline })
    }

    /// Sends an operation to a core.
    pub(crate) fn submit_to(&self, core: CoreId, operation: Operation, level: Level) -> B::Reply {
        let deadline = self.deadline;
        let request = Request { operation, level, identity: None, done_below: 0, deadline };
        self.server.backend.submit_to(core, request)
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.server.backend.limits()
    }

    /// An error inside a batch or a pipeline.
    pub(crate) fn error(&self, failure: Failure) -> super::proto::v1::Error {
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
        let answer = self.answer(body, caps, handler).await;
        match answer {
            Ok(message) => {
                let data = codec::encode(&message);
                let mut held = self.share.hold();
                held.grow_over(data.len());
                let trailers = Some(self.ok_trailers());
                accepted(ResponseBody::Message { data, held, trailers })
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    async fn answer<Q, A>(
        &self,
        body: Incoming,
        caps: &[Cap],
        handler: impl AsyncFnOnce(&Call<B>, Q) -> Result<A, Refusal>,
    ) -> Result<A, Refusal>
    where
        Q: Message + Default,
        A: Message,
    {
        self.check_phase()?;
        let (request, held) = self.single(body, caps).await?;
        let answer = handler(self, request).await;
        drop(held); // the request is charged until it is answered
        answer
    }

    /// The only message of the call, and the charge for it.
    pub(crate) async fn single<Q: Message + Default>(
        &self,
        body: Incoming,
        caps: &[Cap],
    ) -> Result<(Q, Held), Refusal> {
        let Received { bytes, held } = self.receive(body).await?;
        Ok((codec::decode(bytes, caps)?, held))
    }

    /// The messages of a streaming call.
    pub(crate) fn messages(&self, body: Incoming) -> Messages<Incoming> {
        Messages::new(body, self.share.hold(), self.limits().message_bytes_max)
    }

    /// The headers-only answer of a failed call.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        let mut response = accepted(ResponseBody::Empty);
        self.status(refusal)
            .add_header(response.headers_mut())
            .expect("messages are escaped for the header by tonic");
        response
    }

    /// The trailers of a stream that fails.
    pub(crate) fn trailers(&self, refusal: Refusal) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        self.status(refusal).add_header(&mut trailers).expect("messages are escaped for the header by tonic");
        trailers
    }

    /// The trailers of success.
    pub(crate) fn ok_trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        if let Some((name, value)) = self.trailer.take() {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        trailers
    }

    /// Data is served only by a node that takes part in quorums.
    pub(crate) fn check_phase(&self) -> Result<(), Failure> {
        match self.view.phase {
            Phase::Starting if self.method.needs_data() => Err(Failure::not_applied(Reason::Starting)),
            Phase::Stopping if self.method.needs_data() => Err(Failure::not_applied(Reason::Stopping)),
            Phase::Starting | Phase::Serving | Phase::Stopping => Ok(()),
        }
    }

    async fn receive(&self, body: Incoming) -> Result<Received, Refusal> {
        let backend = &self.server.backend;
        let past = || Refusal::from(Failure::not_applied(Reason::DeadlinePast));
        if self.deadline.since(backend.now().mono) <= DEADLINE_NS_MIN {
            return Err(past());
        }
        let mut messages = self.messages(body);
        until(backend, self.deadline, messages.single()).await.ok_or_else(past)?
    }

    fn status(&self, refusal: Refusal) -> Status {
        match refusal {
            Refusal::Failure(failure) => status::status(&self.of_method(failure), self.origin()),
            Refusal::Protocol(code, message) => Status::new(code, message),
        }
    }

    /// A failed read applied nothing because there was nothing to apply.
    fn of_method(&self, failure: Failure) -> Failure {
        if self.method.is_write() { failure } else { failure.of_read() }
    }

    fn origin(&self) -> Origin<'_> {
        Origin { node: &self.view.own().name, epoch: self.view.epoch }
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

/// How a call ended, as far as its headers say.
pub(crate) fn code_of(response: &Response<ResponseBody>) -> Code {
    match response.headers().get(GRPC_STATUS) {
        Some(status) => Code::from_bytes(status.as_bytes()),
        None if response.status() == StatusCode::OK => Code::Ok,
        None => Code::Unknown,
    }
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
    use super::proto::v1;
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
