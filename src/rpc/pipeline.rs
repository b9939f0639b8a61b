//! `ringcore.v1.KV.Pipeline`: many operations in flight on one stream. The response body drives it all, so flow control
//! is the only queue: while the client takes no answers, nothing more is read from it, and no more answers are made than
//! its line has room for.

use super::backend::Backend;
use super::batch;
use super::body::{Chunk, PIECE_BYTES, ResponseBody, Source};
use super::budget::Held;
use super::call::{self, Call, Refusal};
use super::codec::{self, Cap, Messages, Received};
use super::kv;
use super::proto::v1;
use super::room::Line;
use super::router::Method;
use super::server::Raised;
use crate::types::{Failure, Reason};
use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use v1::pipeline_request::Operation;
use v1::pipeline_response::Result as Outcome;

/// Operations of one stream that wait for their answers; the next is not read until one is answered.
const UNANSWERED_MAX: usize = 1_024;
/// Operations begun before the core's other tasks get their turn.
const TURN: usize = 64;
/// Answers are sent when so much has gathered, or when no more are ready.
const FRAME_BYTES: usize = PIECE_BYTES / 2;

/// Begins the stream.
pub(crate) fn serve<B: Backend>(call: Call<B>, body: Incoming) -> Response<ResponseBody> {
    let limits = call.limits();
    let keys_max = limits.batch_keys_max;
    let deadline_ms_default = limits.deadline_ms_default;
    let deadline_ms_max = limits.deadline_ms_max;
    let call = Rc::new(call);
    let begin = {
        let (call, line) = (Rc::clone(&call), Rc::<Line>::default());
        move |request: v1::PipelineRequest, held| {
            let ms = match request.timeout_ms {
                0 => deadline_ms_default,
                ms => u64::from(ms).min(deadline_ms_max),
            };
            run(Rc::clone(&call), Rc::clone(&line), request, ms * 1_000_000, held)
        }
    };
    let stream = Pipeline {
        messages: call.messages(body),
        caps: [Cap { path: &[6, 1], elements_max: keys_max }, Cap { path: &[7, 1], elements_max: keys_max }],
        stopping: call.server.stopping.wait(),
        out: BytesMut::new(),
        out_held: call.hold(),
        running: FuturesUnordered::new(),
        end: None,
        ended: false,
        call,
        begin,
    };
    call::accepted(ResponseBody::Stream(Box::new(stream)))
}

struct Pipeline<B: Backend, F, Begin> {
    call: Rc<Call<B>>,
    messages: Messages<Incoming>,
    caps: [Cap; 2],
    begin: Begin,
    running: FuturesUnordered<F>,
    stopping: Raised,
    /// Answers that have gathered, behind their prefixes.
    out: BytesMut,
    out_held: Held,
    /// Set: nothing more is read; how the stream ends once all that is running is answered.
    end: Option<Result<(), Refusal>>,
    ended: bool,
}

impl<B, F, Begin> Source for Pipeline<B, F, Begin>
where
    B: Backend,
    F: Future<Output = v1::PipelineResponse> + 'static,
    Begin: Fn(v1::PipelineRequest, Held) -> F + 'static,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Chunk>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.take_in(cx);
        while self.out.len() < FRAME_BYTES
            && let Poll::Ready(Some(response)) = self.running.poll_next_unpin(cx)
        {
            codec::encode_to(&response, &mut self.out);
        }
        if !self.out.is_empty() {
            let bytes = self.out.split().freeze();
            self.out_held.grow_over(bytes.len());
            let held = self.out_held.split(bytes.len());
            return Poll::Ready(Some(Frame::data(Chunk::new(bytes, held))));
        }
        if self.running.is_empty()
            && let Some(end) = self.end.take()
        {
            self.ended = true;
            let trailers = match end {
                Ok(()) => self.call.succeed().headers(),
                Err(refusal) => self.call.fail(refusal),
            };
            return Poll::Ready(Some(Frame::trailers(trailers)));
        }
        Poll::Pending
    }
}

impl<B, F, Begin> Pipeline<B, F, Begin>
where
    B: Backend,
    F: Future<Output = v1::PipelineResponse> + 'static,
    Begin: Fn(v1::PipelineRequest, Held) -> F + 'static,
{
    /// Begins what has come in, as far as there is room.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        if self.end.is_none() && Pin::new(&mut self.stopping).poll(cx).is_ready() {
            self.end = Some(Err(Failure::not_applied(Reason::Stopping).into()));
        }
        let mut begun = 0;
        while self.end.is_none() && self.running.len() < UNANSWERED_MAX {
            if begun == TURN {
                cx.waker().wake_by_ref();
                return;
            }
            match self.messages.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(None)) => self.end = Some(Ok(())),
                Poll::Ready(Err(refusal)) => self.end = Some(Err(refusal)),
                Poll::Ready(Ok(Some(Received { bytes, held }))) => match codec::decode(bytes, &self.caps) {
                    Ok(request) => self.running.push((self.begin)(request, held)),
                    Err(failure) => self.end = Some(Err(failure.into())),
                },
            }
            begun += 1;
        }
    }
}

/// One operation, from its message to its answer; its bytes are charged until then.
async fn run<B: Backend>(
    stream: Rc<Call<B>>,
    line: Rc<Line>,
    request: v1::PipelineRequest,
    timeout_ns: u64,
    held: Held,
) -> v1::PipelineResponse {
    let seq = request.seq;
    let Some(operation) = request.operation else {
        let failure = Failure::not_applied(Reason::Malformed).message("the request has no operation");
        return v1::PipelineResponse { seq, result: Some(Outcome::Error(stream.error(failure))) };
    };
    let mut call = Call::new(&stream.server, &stream.connection, method(&operation), timeout_ns);
    call.line = Some(line);
    drop(stream);
    let result = match call.check_phase() {
        Ok(()) => answer(&call, operation).await,
        Err(failure) => Err(failure.into()),
    };
    drop(held);
    let result = match result {
        Ok(result) => {
            call.succeed();
            result
        }
        Err(refusal) => Outcome::Error(call.fail_operation(refusal)),
    };
    v1::PipelineResponse { seq, result: Some(result) }
}

async fn answer<B: Backend>(call: &Call<B>, operation: Operation) -> Result<Outcome, Refusal> {
    Ok(match operation {
        Operation::Get(request) => Outcome::Get(kv::get(call, request).await?),
        Operation::Put(request) => Outcome::Put(kv::put(call, request).await?),
        Operation::Delete(request) => Outcome::Delete(kv::delete(call, request).await?),
        Operation::Exists(request) => Outcome::Exists(kv::exists(call, request).await?),
        // Boxed: a batch's state would make every operation's task as large as its own.
        Operation::BatchRead(request) => Outcome::BatchRead(Box::pin(batch::read(call, request)).await?),
        Operation::BatchWrite(request) => Outcome::BatchWrite(Box::pin(batch::write(call, request)).await?),
    })
}

fn method(operation: &Operation) -> Method {
    match operation {
        Operation::Get(_) => Method::Get,
        Operation::Put(_) => Method::Put,
        Operation::Delete(_) => Method::Delete,
        Operation::Exists(_) => Method::Exists,
        Operation::BatchRead(_) => Method::BatchRead,
        Operation::BatchWrite(_) => Method::BatchWrite,
    }
}
