//! `grpc.health.v1`: does this node serve? The same answer for each of its services, because they start and stop
//! together.

use super::backend::{Backend, Phase};
use super::body::{Chunk, ResponseBody, Source};
use super::budget::Held;
use super::call::{self, Call, Refusal};
use super::codec;
use super::reflection;
use super::server::Raised;
use crate::types::{Failure, Reason};
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// How late a watcher may learn of a change.
const WATCH_MS: u64 = 1_000;

pub(crate) async fn check<B: Backend>(
    call: &Call<B>,
    request: HealthCheckRequest,
) -> Result<HealthCheckResponse, Refusal> {
    match status(call, &request.service) {
        ServingStatus::ServiceUnknown => Err(Refusal::Protocol(Code::NotFound, "no such service")),
        status => Ok(HealthCheckResponse { status: status as i32 }),
    }
}

/// Sends the status, and again whenever it has changed, until the node stops.
pub(crate) async fn watch<B: Backend>(call: Call<B>, body: Incoming) -> Response<ResponseBody> {
    let request: HealthCheckRequest = match call.single(body, &[]).await {
        Ok((request, _)) => request,
        Err(refusal) => return call.refuse(refusal),
    };
    let watch = Watch {
        service: request.service,
        told: None,
        ended: false,
        sleep: Box::pin(call.server.backend.sleep_until(call.server.backend.mono())),
        stopping: call.server.stopping.wait(),
        held: call.hold(),
        call,
    };
    call::accepted(ResponseBody::Stream(Box::new(watch)))
}

struct Watch<B: Backend> {
    call: Call<B>,
    service: String,
    told: Option<ServingStatus>,
    ended: bool,
    sleep: Pin<Box<B::Sleep>>,
    stopping: Raised,
    held: Held,
}

impl<B: Backend> Source for Watch<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Chunk>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let stopping = Pin::new(&mut self.stopping).poll(cx).is_ready();
        let status = match status(&self.call, &self.service) {
            ServingStatus::Serving if stopping => ServingStatus::NotServing,
            status => status,
        };
        if self.told != Some(status) {
            self.told = Some(status);
            let bytes = codec::encode(&HealthCheckResponse { status: status as i32 });
            self.held.grow_over(bytes.len());
            let held = self.held.split(bytes.len());
            return Poll::Ready(Some(Frame::data(Chunk::new(bytes, held))));
        }
        if stopping {
            self.ended = true;
            let trailers = self.call.fail(Failure::not_applied(Reason::Stopping).into());
            return Poll::Ready(Some(Frame::trailers(trailers)));
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let backend = &self.call.server.backend;
            self.sleep.set(backend.sleep_until(backend.mono().after_ms(WATCH_MS)));
        }
        Poll::Pending
    }
}

fn status<B: Backend>(call: &Call<B>, service: &str) -> ServingStatus {
    if !service.is_empty() && !reflection::SERVICES.iter().any(|(name, _)| *name == service) {
        return ServingStatus::ServiceUnknown;
    }
    match call.server.backend.view().phase {
        Phase::Serving => ServingStatus::Serving,
        Phase::Starting | Phase::Stopping => ServingStatus::NotServing,
    }
}
