//! One link, at the side that receives. The response body drives it all: frames that their core has no room for wait
//! here, nothing more is read meanwhile, and HTTP/2's windows hold up the sender.

use super::{Frame, wire};
use crate::rpc::backend::Backend;
use crate::rpc::body::{Chunk, ResponseBody, Source};
use crate::rpc::budget::Held;
use crate::rpc::call::{self, Call, Refusal};
use crate::rpc::codec::{Messages, Received};
use crate::rpc::connection::Linked;
use crate::rpc::server::Raised;
use crate::types::{Failure, MemberId, Reason};
use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

/// Frames handed on before the core's other tasks get their turn.
const TURN: usize = 256;
/// Until a frame that its core had no room for is offered again, milliseconds; at the next tick.
const RETRY_MS: u64 = 1;
/// Refusals that are remembered, so that each is told of once.
const REFUSALS_MAX: usize = 256;

/// Begins the stream.
pub(crate) fn serve<B: Backend>(call: Call<B>, body: Incoming) -> Response<ResponseBody> {
    let request_bytes_max = wire::request_bytes_max(call.limits());
    let link = Link {
        messages: Messages::new(body, call.hold(), request_bytes_max).overdrawing(),
        from: None,
        frames: Vec::new().into_iter(),
        refused: None,
        held: None,
        retry: None,
        ending: call.server.links_end.wait(),
        _linked: Linked::new(&call.server, &call.connection),
        ended: false,
        call,
    };
    call::accepted(ResponseBody::Stream(Box::new(link)))
}

/// Who was turned away, and why.
#[derive(Default)]
pub(crate) struct Refused(RefCell<BTreeSet<(Option<IpAddr>, String)>>);

impl Refused {
    /// Tells of it if it is new (true): who is turned away comes again. That a node starts is nothing to tell.
    fn note(&self, remote: Option<IpAddr>, failure: &Failure) -> bool {
        if failure.reason == Reason::Starting {
            return false;
        }
        let mut known = self.0.borrow_mut();
        if known.len() >= REFUSALS_MAX {
            known.clear();
        }
        let new = known.insert((remote, failure.to_string()));
        if new {
            let remote = remote.map(tracing::field::display);
            tracing::warn!(remote, why = %failure, "a link is refused");
        }
        new
    }
}

struct Link<B: Backend> {
    call: Call<B>,
    messages: Messages<Incoming>,
    /// None until it has introduced itself.
    from: Option<MemberId>,
    /// Of the request that was read last.
    frames: vec::IntoIter<Frame>,
    /// The frame before those, which its core had no room for.
    refused: Option<Frame>,
    /// The request's bytes, until its frames have been handed on.
    held: Option<Held>,
    /// When to offer it again.
    retry: Option<Pin<Box<B::Sleep>>>,
    /// The node stops, and has nothing in flight any more.
    ending: Raised,
    _linked: Linked<B>,
    ended: bool,
}

impl<B: Backend> Source for Link<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<http_body::Frame<Chunk>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let end = match ready!(self.poll_take_in(cx)) {
            Ok(Some(welcome)) => {
                let mut held = self.call.hold();
                held.grow_over(welcome.len());
                return Poll::Ready(Some(http_body::Frame::data(Chunk::new(welcome, held))));
            }
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        self.ended = true;
        let trailers = match end {
            Ok(()) => self.call.succeed().headers(),
            Err(refusal) => self.call.fail(refusal),
        };
        Poll::Ready(Some(http_body::Frame::trailers(trailers)))
    }
}

impl<B: Backend> Link<B> {
    /// Takes in what has come, as far as there is room: until there is a welcome to be sent, or the link ends.
    fn poll_take_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
        if Pin::new(&mut self.ending).poll(cx).is_ready() {
            return Poll::Ready(Err(Failure::not_applied(Reason::Stopping).into()));
        }
        let mut turn = TURN;
        loop {
            ready!(self.poll_hand_on(cx, &mut turn));
            let Some(Received { bytes, held }) = ready!(self.messages.poll_next(cx))? else {
                return Poll::Ready(Ok(None));
            };
            match self.from {
                Some(_) => self.take_in(bytes, held)?,
                None => return Poll::Ready(self.introduce(bytes).map(Some)),
            }
        }
    }

    fn introduce(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        let backend = &self.call.server.backend;
        let admitted =
            wire::decode_hello(bytes).and_then(|hello| Ok((hello.from, backend.peer_hello(hello)?)));
        match admitted {
            Ok((from, welcome)) => {
                self.from = Some(from);
                Ok(wire::encode_welcome(welcome))
            }
            Err(failure) => {
                self.call.server.counters().link_hellos_refused.add(1);
                let remote = self.call.connection.remote.map(|remote| remote.ip());
                self.call.server.refused.note(remote, &failure);
                Err(failure.into())
            }
        }
    }

    fn take_in(&mut self, bytes: Bytes, held: Held) -> Result<(), Refusal> {
        let counters = self.call.server.counters();
        let length = bytes.len();
        let frames = wire::decode(bytes, self.call.limits()).inspect_err(|failure| {
            counters.link_requests_malformed.add(1);
            let remote = self.call.connection.remote.map(|remote| remote.ip());
            self.call.server.refused.note(remote, failure);
        })?;
        counters.link_frames_received.add(frames.len() as u64);
        counters.link_bytes_received.add(length as u64);
        if frames.len() > 1 {
            for write in [false, true] {
                let keys = frames.iter().filter_map(Frame::key).filter(|(_, writes)| *writes == write);
                self.call.expect_all(keys.map(|(key, _)| key), write);
            }
        }
        self.frames = frames.into_iter();
        self.held = Some(held);
        Ok(())
    }

    /// Hands on what was read last. Pending: its core has no room, or others are to have their turn.
    fn poll_hand_on(&mut self, cx: &mut Context<'_>, turn: &mut usize) -> Poll<()> {
        let Some(from) = self.from else { return Poll::Ready(()) };
        let backend = &self.call.server.backend;
        if let Some(retry) = &mut self.retry {
            ready!(retry.as_mut().poll(cx));
            self.retry = None;
        }
        while let Some(frame) = self.refused.take().or_else(|| self.frames.next()) {
            if *turn == 0 {
                self.refused = Some(frame);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            *turn -= 1;
            if let Err(frame) = backend.peer_frame(from, frame) {
                self.refused = Some(frame);
                let mut retry = Box::pin(backend.sleep_until(backend.mono().after_ms(RETRY_MS)));
                if retry.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                } else {
                    self.retry = Some(retry);
                }
                return Poll::Pending;
            }
        }
        self.held = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_once_for_each_address_and_reason() {
        let refused = Refused::default();
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let stranger = Failure::not_applied(Reason::NotMember).message("3 is no member of epoch 4");
        assert!(refused.note(address(1), &stranger));
        assert!(!refused.note(address(1), &stranger));
        assert!(refused.note(address(2), &stranger));
        assert!(refused.note(address(1), &Failure::not_applied(Reason::Malformed)));
        assert!(!refused.note(address(1), &Failure::not_applied(Reason::Starting)));
        for last in 0..=255 {
            refused.note(address(last), &stranger);
            assert!(refused.0.borrow().len() <= REFUSALS_MAX);
        }
    }
}
