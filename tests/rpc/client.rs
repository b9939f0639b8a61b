//! A server and its clients in one thread, joined by pipes in memory.

use super::fake::{Fake, settle};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use ringcore::rpc::io::Transport;
use ringcore::rpc::proto::{seed, v1};
use ringcore::rpc::server::{Port, Server, Settings};
use ringcore::rpc::stats::Counters;
use ringcore::rpc::status::detail_of;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tonic::{Code, Status};

pub(crate) type KvClient = v1::kv_client::KvClient<Channel>;
pub(crate) type StoreClient = seed::kv_store_client::KvStoreClient<Channel>;
pub(crate) type NodeClient = seed::node_internal_client::NodeInternalClient<Channel>;

/// Bytes in flight between the two ends of a pipe.
const PIPE_BYTES: usize = 64 << 10;

pub(crate) struct Bench {
    pub(crate) fake: Fake,
    pub(crate) server: Rc<Server<Fake>>,
    pub(crate) counters: Arc<[Counters]>,
}

/// Runs a test in one thread.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    run_with(Settings::default(), test);
}

pub(crate) fn run_with<F: Future<Output = ()>>(settings: Settings, test: impl FnOnce(Bench) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let fake = Fake::new(2, |task| {
            tokio::task::spawn_local(task);
        });
        let counters: Arc<[Counters]> = (0..2).map(|_| Counters::new()).collect();
        let server = Server::new(fake.clone(), settings, Arc::clone(&counters));
        test(Bench { fake, server, counters }).await;
    });
}

impl Bench {
    /// A raw connection: what a client does with it is the test's business.
    pub(crate) fn pipe(&self, port: Port) -> DuplexStream {
        self.pipe_of(port, PIPE_BYTES)
    }

    pub(crate) fn pipe_of(&self, port: Port, bytes: usize) -> DuplexStream {
        let (client, server) = tokio::io::duplex(bytes);
        tokio::task::spawn_local(Rc::clone(&self.server).serve(Tokio(server), port));
        client
    }

    pub(crate) async fn channel(&self, port: Port) -> Channel {
        Channel::over(self.pipe(port)).await
    }

    pub(crate) async fn kv(&self) -> KvClient {
        KvClient::new(self.channel(Port::Client).await)
    }

    pub(crate) async fn store(&self) -> StoreClient {
        StoreClient::new(self.channel(Port::Client).await)
    }

    pub(crate) async fn node(&self, port: Port) -> NodeClient {
        NodeClient::new(self.channel(port).await)
    }
}

/// One HTTP/2 connection, for generated clients and for calls made by hand.
#[derive(Clone)]
pub(crate) struct Channel(pub(crate) SendRequest<tonic::body::Body>);

impl Channel {
    pub(crate) async fn over(pipe: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Channel {
        let (send, connection) = hyper::client::conn::http2::Builder::new(LocalExecutor)
            .handshake(Tokio(pipe))
            .await
            .expect("a handshake");
        tokio::task::spawn_local(connection);
        Channel(send)
    }

    /// A call by hand: these headers, these bytes.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let body = http_body_util::Full::new(body.into());
        self.send(path, headers, tonic::body::Body::new(body)).await
    }

    pub(crate) async fn send(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: tonic::body::Body,
    ) -> Answer {
        let mut request = Request::post(format!("http://node{path}"));
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.0.ready().await.expect("an open connection");
        let response = self.0.send_request(request.body(body).unwrap()).await.expect("an answer");
        Answer::read(response).await
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    async fn read(response: Response<Incoming>) -> Answer {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body");
        let trailers = body.trailers().cloned().unwrap_or_default();
        Answer { http: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes(), trailers }
    }

    pub(crate) fn status(&self) -> Status {
        let found = Status::from_header_map(&self.trailers);
        found.or_else(|| Status::from_header_map(&self.headers)).expect("a grpc-status")
    }

    pub(crate) fn code(&self) -> Code {
        self.status().code()
    }

    pub(crate) fn reason(&self) -> v1::Reason {
        reason(&self.status())
    }
}

/// The reason in a status' detail.
pub(crate) fn reason(status: &Status) -> v1::Reason {
    detail_of(status).unwrap_or_else(|| panic!("{status:?} has no detail")).reason()
}

/// What the detail of a failed write says became of it.
pub(crate) fn outcome(status: &Status) -> v1::Outcome {
    detail_of(status).unwrap_or_else(|| panic!("{status:?} has no detail")).outcome()
}

/// A message behind its prefix.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend((body.len() as u32).to_be_bytes());
    framed.extend(body);
    framed.into()
}

/// Polls a future until everything else has come to rest; is it still not ready?
pub(crate) async fn still_pending<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..3 {
        let pending = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending()));
        if !pending.await {
            return false;
        }
        settle().await;
    }
    true
}

impl tower_service::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        *request.uri_mut() = format!("http://node{path}").parse().unwrap();
        Box::pin(self.0.send_request(request))
    }
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// tokio's streams, for hyper's clients and for our server.
pub(crate) struct Tokio<T>(pub(crate) T);

impl<T: AsyncRead + Unpin> hyper::rt::Read for Tokio<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut memory = vec![0; cursor.remaining().min(64 << 10)];
        let mut buffer = ReadBuf::new(&mut memory);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        cursor.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Tokio<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Transport for Tokio<T> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
