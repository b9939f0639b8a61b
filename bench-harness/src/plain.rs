//! The plain service: tonic on hyper as its generated code drives them, on the node's executors and sockets, with nothing
//! behind it. It is what a service of this kind costs at least whose author takes the stack as it comes.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use ringcore::rpc::io::{Io, Scratch, Transport};
use ringcore::rpc::proto::v1;
use ringcore::rpc::server::Settings;
use ringcore::runtime::executor::Queue;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::rc::Rc;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// The node's windows, so that neither side has less to work with.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A clock's number of usual size, so that it is as long on the wire.
const TIMESTAMP: u64 = 1_800_000_000_000 << 16;

/// Serves a connection until it ends.
pub(crate) async fn serve<T: Transport>(transport: T, scratch: Scratch, queue: Queue) {
    let node = Settings::default();
    let io = Io::new(transport, node.bytes_per_poll, scratch, Rc::default());
    let mut builder = Builder::new(Calls(queue));
    builder
        .max_concurrent_streams(node.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .auto_date_header(false);
    // A client that goes away without a word is no event here.
    let _ended = builder.serve_connection(io, service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    // As generated servers do: by the path, and boxed.
    let answer: std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>> = match request.uri().path() {
        "/ringcore.v1.KV/Get" => {
            Box::pin(async move { Grpc::new(ProstCodec::default()).unary(Get, request).await })
        }
        "/ringcore.v1.KV/Put" => {
            Box::pin(async move { Grpc::new(ProstCodec::default()).unary(Put, request).await })
        }
        _ => Box::pin(async { Status::new(Code::Unimplemented, "").into_http() }),
    };
    Ok(answer.await)
}

struct Get;

impl UnaryService<v1::GetRequest> for Get {
    type Response = v1::GetResponse;
    type Future = Ready<Result<tonic::Response<v1::GetResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<v1::GetRequest>) -> Self::Future {
        ready(Ok(tonic::Response::new(v1::GetResponse {
            value: vec![b'v'; crate::targets::VALUE_BYTES],
            timestamp: TIMESTAMP,
            exists: true,
            member: 1,
            ring: 1,
            ..v1::GetResponse::default()
        })))
    }
}

struct Put;

impl UnaryService<v1::PutRequest> for Put {
    type Response = v1::PutResponse;
    type Future = Ready<Result<tonic::Response<v1::PutResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<v1::PutRequest>) -> Self::Future {
        let answer =
            v1::PutResponse { timestamp: TIMESTAMP, member: 1, ring: 1, ..v1::PutResponse::default() };
        ready(Ok(tonic::Response::new(answer)))
    }
}

/// Runs each call as a task of its core.
#[derive(Clone)]
struct Calls(Queue);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Calls {
    fn execute(&self, call: F) {
        self.0.spawn(call).detach();
    }
}
