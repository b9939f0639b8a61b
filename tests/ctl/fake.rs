//! A node for tests: a map behind real gRPC on a loopback port, with a script of faults. It knows repeated operations
//! by their ids, as a node does, so that a write applied twice shows.

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use prost::Message;
use ringcore::client::{Outcome, Reason};
use ringcore::rpc::proto::v1;
use ringcore::rpc::status::{self, Origin};
use ringcore::types::error::Failure;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::Status;

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection breaks before the call is looked at.
    LostBefore,
    /// The connection breaks after the call has taken effect.
    LostAfter,
    /// The call is refused.
    Refuse(Reason, Outcome),
    /// Each key but the first of a batch is refused.
    RefuseKeys(Reason, Outcome),
    /// No answer, ever.
    Silence,
}

/// A running node. Ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    state: Arc<Mutex<Store>>,
    /// Told of each call.
    called: Arc<Notify>,
}

#[derive(Default)]
struct Store {
    records: BTreeMap<Bytes, Stored>,
    clock: u64,
    /// How many writes took effect.
    writes: u64,
    known: BTreeMap<(u64, u64), v1::WriteResult>,
    faults: VecDeque<Fault>,
    calls: Vec<(String, Bytes)>,
    serving: bool,
}

#[derive(Clone)]
struct Stored {
    value: Bytes,
    timestamp: u64,
    expires_at_ms: u64,
}

impl Fake {
    pub(crate) async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(Mutex::new(Store { serving: true, ..Store::default() }));
        let fake = Fake { address, state, called: Arc::new(Notify::new()) };
        let served = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve(stream));
            }
        });
        fake
    }

    /// What goes wrong with the calls to come, one each.
    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.store().faults.extend(faults);
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn forget_script(&self) {
        self.store().faults.clear();
    }

    /// Waits until a method was called so often.
    pub(crate) async fn asked(&self, method: &str, times: usize) {
        while self.store().calls.iter().filter(|(path, _)| path.ends_with(method)).count() < times {
            self.called.notified().await;
        }
    }

    /// How many writes took effect.
    pub(crate) fn writes(&self) -> u64 {
        self.store().writes
    }

    /// The messages of the calls to a method so far.
    pub(crate) fn calls<M: Message + Default>(&self, method: &str) -> Vec<M> {
        let store = self.store();
        let of_method = store.calls.iter().filter(|(path, _)| path.ends_with(method));
        of_method.map(|(_, message)| M::decode(message.clone()).expect("the client encoded it")).collect()
    }

    /// What the health service answers from now on.
    pub(crate) fn set_serving(&self, serving: bool) {
        self.store().serving = serving;
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    async fn serve(self, stream: TcpStream) {
        let broken = Arc::new(Notify::new());
        let service = {
            let broken = broken.clone();
            hyper::service::service_fn(move |request| self.clone().answer(request, broken.clone()))
        };
        let connection = http2::Builder::new(Spawn).serve_connection(Io(stream), service);
        tokio::select! {
            // A connection's end is the client's business.
            _ = connection => {}
            () = broken.notified() => {}
        }
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
        broken: Arc<Notify>,
    ) -> Result<http::Response<impl http_body::Body<Data = Bytes, Error = std::convert::Infallible>>, Status>
    {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map_err(|_| Status::cancelled("cut"))?.to_bytes();
        let message = body.slice(5..); // the gRPC frame: a flag and a length
        let answer = self.store().answer(&path, message);
        self.called.notify_one();
        let outcome = match answer {
            Answer::Given(outcome) => outcome,
            Answer::Broken => {
                broken.notify_one();
                return std::future::pending().await;
            }
            Answer::None => return std::future::pending().await,
        };
        let mut trailers = http::HeaderMap::new();
        let (status, data) = match outcome {
            Ok(message) => (Status::ok(""), frame(&message)),
            Err(status) => (status, Bytes::new()),
        };
        status.add_header(&mut trailers).expect("a test's status fits into a header");
        let body = Full::new(data).with_trailers(std::future::ready(Some(Ok(trailers))));
        let response = http::Response::builder().header("content-type", "application/grpc");
        Ok(response.body(body).expect("a constant head is one"))
    }
}

/// What becomes of a call.
enum Answer {
    Given(Result<Vec<u8>, Status>),
    /// The connection breaks.
    Broken,
    None,
}

impl Store {
    fn answer(&mut self, path: &str, message: Bytes) -> Answer {
        self.calls.push((path.to_owned(), message.clone()));
        match self.faults.pop_front() {
            None => Answer::Given(self.handle(path, message, None)),
            Some(Fault::Refuse(reason, outcome)) => Answer::Given(Err(refusal(reason, outcome))),
            Some(Fault::RefuseKeys(reason, outcome)) => {
                Answer::Given(self.handle(path, message, Some((reason, outcome))))
            }
            Some(Fault::LostBefore) => Answer::Broken,
            Some(Fault::LostAfter) => {
                self.handle(path, message, None).expect("a call that is lost is one that works");
                Answer::Broken
            }
            Some(Fault::Silence) => Answer::None,
        }
    }

    fn handle(
        &mut self,
        path: &str,
        message: Bytes,
        refused: Option<(Reason, Outcome)>,
    ) -> Result<Vec<u8>, Status> {
        let malformed = |_| Status::invalid_argument("no message");
        let answer = match path {
            "/ringcore.v1.KV/Get" => {
                let request = v1::GetRequest::decode(message).map_err(malformed)?;
                let found = self.records.get(&request.key).cloned();
                let answer = found.map(|record| v1::GetResponse {
                    value: record.value.into(),
                    timestamp: record.timestamp,
                    exists: true,
                    member: 1,
                    expires_at_ms: record.expires_at_ms,
                    ..Default::default()
                });
                answer.unwrap_or_default().encode_to_vec()
            }
            "/ringcore.v1.KV/Exists" => {
                let request = v1::ExistsRequest::decode(message).map_err(malformed)?;
                let found = self.records.get(&request.key).cloned();
                let answer = found.map(|record| v1::ExistsResponse {
                    timestamp: record.timestamp,
                    exists: true,
                    member: 1,
                    expires_at_ms: record.expires_at_ms,
                    value_bytes: record.value.len() as u32,
                    ..Default::default()
                });
                answer.unwrap_or_default().encode_to_vec()
            }
            "/ringcore.v1.KV/Put" => {
                let request = v1::PutRequest::decode(message).map_err(malformed)?;
                let expiry = request.expiry.map(|expiry| match expiry {
                    v1::put_request::Expiry::TtlMs(ms) | v1::put_request::Expiry::ExpiresAtMs(ms) => ms,
                });
                let old = self.records.get(&request.key).map(|record| record.value.clone());
                let ids = (request.client_id, request.request_id);
                let done = self.write(ids, request.key, Some(request.value), expiry);
                v1::PutResponse {
                    old_value: old.filter(|_| request.return_previous).unwrap_or_default().into(),
                    had_old_value: done.had_old_value,
                    timestamp: done.timestamp,
                    member: done.member,
                    ring: 0,
                }
                .encode_to_vec()
            }
            "/ringcore.v1.KV/Delete" => {
                let request = v1::DeleteRequest::decode(message).map_err(malformed)?;
                let done = self.write((request.client_id, request.request_id), request.key, None, None);
                v1::DeleteResponse {
                    had_old_value: done.had_old_value,
                    timestamp: done.timestamp,
                    member: done.member,
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "/ringcore.v1.KV/BatchRead" => self.batch_read(message, refused).map_err(malformed)?,
            "/ringcore.v1.KV/BatchWrite" => self.batch_write(message, refused).map_err(malformed)?,
            "/ringcore.v1.KV/Scan" => self.scan(message).map_err(malformed)?,
            "/ringcore.v1.Cluster/GetStatus" => status_answer().encode_to_vec(),
            "/ringcore.v1.Cluster/GetRing" => {
                v1::GetRingResponse { epoch: 1, replication: 1, ..Default::default() }.encode_to_vec()
            }
            // HealthCheckResponse { status: SERVING or NOT_SERVING }
            "/grpc.health.v1.Health/Check" => vec![8, if self.serving { 1 } else { 2 }],
            _ => return Err(Status::unimplemented("unknown method")),
        };
        Ok(answer)
    }

    fn write(
        &mut self,
        ids: (u64, u64),
        key: Bytes,
        value: Option<Bytes>,
        expiry: Option<u64>,
    ) -> v1::WriteResult {
        if let Some(done) = self.known.get(&ids) {
            return done.clone();
        }
        self.clock += 1 << 16;
        self.writes += 1;
        let timestamp = self.clock;
        let expires_at_ms = expiry.unwrap_or(0);
        let old = match value {
            Some(value) => self.records.insert(key, Stored { value, timestamp, expires_at_ms }),
            None => self.records.remove(&key),
        };
        let done =
            v1::WriteResult { had_old_value: old.is_some(), timestamp, member: 1, ..Default::default() };
        self.known.insert(ids, done.clone());
        done
    }

    fn batch_read(
        &mut self,
        message: Bytes,
        refused: Option<(Reason, Outcome)>,
    ) -> Result<Vec<u8>, prost::DecodeError> {
        let request = v1::BatchReadRequest::decode(message)?;
        let results = request.keys.iter().enumerate().map(|(index, key)| {
            if let Some(error) = refused.filter(|_| index > 0).map(key_refusal) {
                return v1::ReadResult { error: Some(error), ..Default::default() };
            }
            let found = self.records.get(key).cloned();
            let result = found.map(|record| v1::ReadResult {
                value: record.value.into(),
                timestamp: record.timestamp,
                exists: true,
                member: 1,
                expires_at_ms: record.expires_at_ms,
                error: None,
            });
            result.unwrap_or_default()
        });
        Ok(v1::BatchReadResponse { results: results.collect(), ring: 0 }.encode_to_vec())
    }

    fn batch_write(
        &mut self,
        message: Bytes,
        refused: Option<(Reason, Outcome)>,
    ) -> Result<Vec<u8>, prost::DecodeError> {
        let request = v1::BatchWriteRequest::decode(message)?;
        let results = request.writes.into_iter().enumerate().map(|(index, write)| {
            if let Some(error) = refused.filter(|_| index > 0).map(key_refusal) {
                return v1::WriteResult { error: Some(error), ..Default::default() };
            }
            let value = match write.action {
                Some(v1::write_operation::Action::Value(value)) => Some(value),
                Some(v1::write_operation::Action::Delete(_)) | None => None,
            };
            let expiry = write.expiry.map(|expiry| match expiry {
                v1::write_operation::Expiry::TtlMs(ms) | v1::write_operation::Expiry::ExpiresAtMs(ms) => ms,
            });
            self.write((request.client_id, request.request_id + index as u64), write.key, value, expiry)
        });
        let results = results.collect();
        Ok(v1::BatchWriteResponse { results, ring: 0 }.encode_to_vec())
    }

    /// In key order rather than in token order; the cursor is the last key. Each page but the last is followed by an
    /// empty one with the same cursor, as a node may do.
    fn scan(&mut self, message: Bytes) -> Result<Vec<u8>, prost::DecodeError> {
        let request = v1::ScanRequest::decode(message)?;
        let records_max = if request.records_max == 0 { 1_000 } else { request.records_max as usize };
        let (after, pause) = match request.cursor.strip_prefix(b"pause:") {
            Some(after) => (after.to_vec(), true),
            None => (request.cursor.to_vec(), false),
        };
        if pause {
            return Ok(v1::ScanResponse { cursor: after, ..Default::default() }.encode_to_vec());
        }
        let matching = self
            .records
            .iter()
            .filter(|(key, _)| key.starts_with(&request.prefix) && (after.is_empty() || key[..] > after[..]));
        let mut records: Vec<_> = matching.take(records_max + 1).collect();
        let more = records.len() > records_max;
        records.truncate(records_max);
        let cursor = match records.last() {
            Some((key, _)) if more => [b"pause:".as_slice(), key].concat().into(),
            _ => Bytes::new(),
        };
        let records = records.into_iter().map(|(key, record)| v1::Record {
            key: key.to_vec(),
            value: if request.omit_values { Vec::new() } else { record.value.to_vec() },
            timestamp: record.timestamp,
            member: 1,
            expires_at_ms: record.expires_at_ms,
            value_bytes: record.value.len() as u32,
        });
        let records: Vec<_> = records.collect();
        let examined = records.len() as u64;
        Ok(v1::ScanResponse { records, cursor: cursor.into(), examined, ring: 0 }.encode_to_vec())
    }
}

const ORIGIN: Origin<'static> = Origin { node: "fake", epoch: 1 };

fn refusal(reason: Reason, outcome: Outcome) -> Status {
    status::status(&failure(reason, outcome), ORIGIN)
}

fn key_refusal((reason, outcome): (Reason, Outcome)) -> v1::Error {
    status::error(&failure(reason, outcome), ORIGIN)
}

fn failure(reason: Reason, outcome: Outcome) -> Failure {
    Failure { outcome, ..Failure::not_applied(reason).message("said the node") }
}

fn status_answer() -> v1::GetStatusResponse {
    let core = v1::CoreStatus { core: 0, cpu: 0, records: 3, wal_bytes: 4096, ..Default::default() };
    let node = v1::NodeStatus {
        id: 1,
        name: "n1".to_owned(),
        ready: true,
        records: 3,
        uptime_ms: 61_000,
        cores: vec![core],
        ..Default::default()
    };
    v1::GetStatusResponse { nodes: vec![node], healthy: true, ..Default::default() }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0); // not compressed
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// hyper's executor on tokio.
#[derive(Clone)]
struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

/// tokio's socket as hyper's.
struct Io(TcpStream);

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut space = [0; 4096];
        let wanted = to.remaining().min(space.len());
        let mut read = ReadBuf::new(&mut space[..wanted]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        to.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
