//! One connection of a link, at the side that sends: hyper's HTTP/2 client, one call, and the request body that takes from
//! `outgoing`. How one comes to a connection, and what follows when it breaks, is the owner's business.
//!
//! hyper spreads a connection over several tasks. Here they are one future: it wakes once for all that there is to say,
//! and dropping it drops the connection.

use super::outgoing::Outgoing;
use super::wire::{self, Batch};
use super::{Hello, Welcome};
use crate::rpc::backend::Backend;
use crate::rpc::call::until;
use crate::rpc::codec::PREFIX_BYTES;
use crate::rpc::connection::FRAME_BYTES_MAX;
use crate::rpc::io::{self, Io, Transport};
use crate::rpc::stats::Counters;
use crate::rpc::timer::Timer;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Request, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tonic::{Code, Status};

/// Until a Hello is answered, milliseconds.
const HELLO_MS: u64 = 1_000;
/// Between pings to a silent peer, and until one must be answered, milliseconds. A dead path shows sooner where there is
/// something to say: by TCP's own time-out.
const PING_MS: u64 = 5_000;
/// What h2 holds of a link beside what the network does; the rest waits in [`Outgoing`].
const SEND_BUFFER_BYTES_MAX: usize = 256 << 10;
/// Written before the core's other tasks get their turn.
const BYTES_PER_POLL: usize = 256 << 10;
/// The peer says hardly anything.
const WINDOW_BYTES: u32 = 64 << 10;
/// Of a peer's answer, which is a few numbers.
const ANSWER_BYTES_MAX: usize = 256;

/// Why a link ended, other than in order.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection broke, or does not speak HTTP/2.
    #[error("the connection broke: {}", whole(.0))]
    Broken(#[from] hyper::Error),
    /// The peer ended the call, at once or later.
    #[error("ended by the peer: {}: {}", .0.code(), .0.message())]
    Ended(Status),
    /// No answer to the Hello.
    #[error("no answer within {HELLO_MS} ms")]
    Silent,
    /// An answer that is none of this protocol's.
    #[error("the peer answers what is no welcome")]
    NoWelcome,
}

/// What hyper says, and what made it say so.
fn whole(error: &hyper::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// One core's end of all its links.
pub struct Dialer<B: Backend> {
    backend: B,
    /// Of all cores; this core writes its own.
    counters: Arc<[Counters]>,
    scratch: io::Scratch,
}

impl<B: Backend> Dialer<B> {
    /// For the core that `backend` belongs to; `counters` has one entry per core.
    pub fn new(backend: B, counters: Arc<[Counters]>) -> Dialer<B> {
        Dialer { backend, counters, scratch: io::scratch() }
    }

    /// This core's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters[usize::from(self.backend.core().0)]
    }

    /// Sends what comes into `outgoing` until its end was called for and all has been taken, or until the connection
    /// breaks: what had left `outgoing` by then may be lost. `up` is called when the peer has let the sender in.
    pub async fn carry<T: Transport>(
        &self,
        transport: T,
        hello: &Hello,
        outgoing: &Rc<Outgoing>,
        up: impl FnOnce(Welcome),
    ) -> Result<(), LinkError> {
        let io = Io::new(transport, BYTES_PER_POLL, Rc::clone(&self.scratch), Rc::default());
        let deadline = self.backend.mono().after_ms(HELLO_MS);
        let tasks = Tasks::default();
        let handshake = builder(self.backend.clone(), tasks.clone()).handshake(io);
        let (send, connection) =
            until(&self.backend, deadline, handshake).await.ok_or(LinkError::Silent)??;
        let mut driver = Driver::new(connection, tasks);
        let gate = Rc::<Gate>::default();
        let body = LinkBody {
            hello: Some(wire::encode_hello(hello)),
            gate: Rc::clone(&gate),
            outgoing: Rc::clone(outgoing),
            batch: Batch::default(),
            counters: Arc::clone(&self.counters),
            core: usize::from(self.backend.core().0),
        };
        let greeting = driver.drive(greet(send, body, hello));
        let greeted = until(&self.backend, deadline, greeting).await.ok_or(LinkError::Silent)?;
        let (welcome, mut answers) = greeted?;
        up(welcome);
        gate.open();
        driver.drive(answers.end()).await
    }
}

fn builder<B: Backend>(backend: B, tasks: Tasks) -> Builder<Tasks> {
    let mut builder = Builder::new(tasks);
    builder
        .timer(Timer::new(backend))
        .adaptive_window(false)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(Duration::from_millis(PING_MS))
        .keep_alive_timeout(Duration::from_millis(PING_MS))
        .keep_alive_while_idle(true);
    builder
}

/// Introduces this side and waits for the welcome.
async fn greet(
    mut send: SendRequest<LinkBody>,
    body: LinkBody,
    hello: &Hello,
) -> Result<(Welcome, Answers), LinkError> {
    let request = Request::post("http://peer/ringcore.peer.v1.Peer/Link")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(body)
        .expect("the parts are valid");
    let response = send.send_request(request).await?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Err(LinkError::Ended(status));
    }
    if response.status() != http::StatusCode::OK {
        return Err(LinkError::NoWelcome);
    }
    let mut answers = Answers { body: response.into_body(), gathered: BytesMut::new() };
    let welcome = wire::decode_welcome(answers.first().await?).map_err(|_| LinkError::NoWelcome)?;
    if welcome.member != hello.to {
        return Err(LinkError::NoWelcome);
    }
    Ok((welcome, answers))
}

/// What the peer answers.
struct Answers {
    body: Incoming,
    gathered: BytesMut,
}

impl Answers {
    /// The first message, without its prefix.
    #[allow(clippy::big_endian_bytes, reason = "gRPC's prefix is")]
    async fn first(&mut self) -> Result<Bytes, LinkError> {
        loop {
            if let Some(&[flag, a, b, c, d]) = self.gathered.first_chunk::<PREFIX_BYTES>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if flag != 0 || length > ANSWER_BYTES_MAX {
                    return Err(LinkError::NoWelcome);
                }
                if self.gathered.len() >= PREFIX_BYTES + length {
                    self.gathered.advance(PREFIX_BYTES);
                    return Ok(self.gathered.split_to(length).freeze());
                }
            }
            let data = self.data().await?.ok_or(LinkError::NoWelcome)?;
            if self.gathered.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(LinkError::NoWelcome);
            }
            self.gathered.extend_from_slice(&data);
        }
    }

    /// Waits until the peer has nothing more to say.
    async fn end(&mut self) -> Result<(), LinkError> {
        while self.data().await?.is_some() {}
        Ok(())
    }

    /// More of what the peer says; None at the end of a call that went well.
    async fn data(&mut self) -> Result<Option<Bytes>, LinkError> {
        let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
        let Some(frame) = frame.transpose()? else {
            return Err(LinkError::Ended(Status::new(Code::Internal, "no status")));
        };
        match frame.into_data() {
            Ok(data) => Ok(Some(data)),
            Err(frame) => match frame.trailers_ref().and_then(Status::from_header_map) {
                Some(status) if status.code() == Code::Ok => Ok(None),
                Some(status) => Err(LinkError::Ended(status)),
                None => Err(LinkError::Ended(Status::new(Code::Internal, "trailers without a status"))),
            },
        }
    }
}

/// Opened by the welcome: nothing is taken out to be sent to who may refuse it.
#[derive(Default)]
struct Gate {
    open: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Gate {
    fn open(&self) {
        self.open.set(true);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open.get() {
            return Poll::Ready(());
        }
        self.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// The request: the Hello, then batches as they come.
struct LinkBody {
    hello: Option<Bytes>,
    gate: Rc<Gate>,
    outgoing: Rc<Outgoing>,
    batch: Batch,
    counters: Arc<[Counters]>,
    core: usize,
}

impl Body for LinkBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(Ok(Frame::data(hello))));
        }
        ready!(this.gate.poll_open(cx));
        if !ready!(this.outgoing.poll_batch(cx, &mut this.batch)) {
            return Poll::Ready(None);
        }
        let frames = this.batch.frames();
        let bytes = this.batch.take();
        let counters = &this.counters[this.core];
        counters.link_frames_sent.add(frames as u64);
        counters.link_bytes_sent.add(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// hyper's executor: tasks that its owner runs.
#[derive(Clone, Default)]
pub(super) struct Tasks(Rc<RefCell<Vec<Task>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

/// A connection with all its tasks.
pub(super) struct Driver<T: Transport, B: Sent> {
    /// None once it takes no more calls.
    connection: Option<Connection<Io<T>, B, Tasks>>,
    tasks: Tasks,
    running: FuturesUnordered<Task>,
}

/// A body that such a connection sends.
pub(super) trait Sent: Body<Data = Bytes, Error = Infallible> + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error = Infallible> + Unpin + 'static> Sent for B {}

impl<T: Transport, B: Sent> Driver<T, B> {
    pub(super) fn new(connection: Connection<Io<T>, B, Tasks>, tasks: Tasks) -> Driver<T, B> {
        Driver { connection: Some(connection), tasks, running: FuturesUnordered::new() }
    }

    /// Runs the connection while something is waited for that happens on it.
    pub(super) async fn drive<R>(&mut self, wanted: impl Future<Output = R>) -> R {
        let mut wanted = pin!(wanted);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = wanted.as_mut().poll(cx) {
                    return Poll::Ready(result);
                }
                if let Some(connection) = &mut self.connection
                    && Pin::new(connection).poll(cx).is_ready()
                {
                    // How it ended is told to its calls, too.
                    self.connection = None;
                }
                self.running.extend(self.tasks.0.take());
                while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {}
                if self.tasks.0.borrow().is_empty() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}
