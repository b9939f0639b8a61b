//! One connection: hyper's HTTP/2 with every limit set, and its end: by the client, by a time-out, by the server's stop.
//! Knows no service.

use super::backend::Backend;
use super::budget::Share;
use super::io::{Io, Seen, Transport};
use super::router;
use super::server::{Port, Server};
use super::timer::Timer;
use crate::types::Mono;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Bytes that a stream may send before we take them: a message of the longest value needs no round trip.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes that a connection may send before we take them, at least. h2 takes many unread tiny frames for an attack and
/// allows half the window's worth: so also at least 512 a stream.
const CONNECTION_WINDOW_BYTES_MIN: u32 = 4 << 20;
/// The same between nodes: a link whose frames wait for their core may be sent its stream's window full of the shortest
/// requests, about 24 bytes each, without being taken for an attack.
const PEER_WINDOW_BYTES: u32 = 24 << 20;
/// Longer frames only let one stream hold up the others.
pub(crate) const FRAME_BYTES_MAX: u32 = 64 << 10;
/// Of a call's headers, uncompressed.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Of one stream, buffered by h2.
const SEND_BUFFER_BYTES_MAX: usize = 256 << 10;
/// Streams that we had to reset because the client broke a rule on them.
const LOCAL_RESETS_MAX: usize = 1_024;
/// How long the other side has to hang up once all is said, milliseconds.
const LINGER_MS: u64 = 1_000;
/// HTTP/2's preface and an empty SETTINGS frame: less than this is not yet a client.
const HANDSHAKE_BYTES: u64 = 24 + 9;

/// What a connection's calls and its guard share.
pub(crate) struct State {
    pub(crate) share: Rc<Share>,
    /// Calls in progress, streams included.
    calls: Cell<usize>,
    /// Links among them.
    links: Cell<usize>,
    /// When a call last began or ended.
    active_at: Cell<Mono>,
    seen: Rc<Seen>,
    /// Who is at the other end, where that is known.
    pub(crate) remote: Option<SocketAddr>,
}

impl State {
    /// A call has begun.
    pub(crate) fn begin(&self, now: Mono) {
        self.calls.set(self.calls.get() + 1);
        self.active_at.set(now);
    }

    /// A call has ended.
    pub(crate) fn end(&self, now: Mono) {
        self.calls.set(self.calls.get() - 1);
        self.active_at.set(now);
    }
}

/// A link on its connection: such connections end last.
pub(crate) struct Linked<B: Backend> {
    server: Rc<Server<B>>,
    connection: Rc<State>,
}

impl<B: Backend> Linked<B> {
    pub(crate) fn new(server: &Rc<Server<B>>, connection: &Rc<State>) -> Linked<B> {
        connection.links.set(connection.links.get() + 1);
        if connection.links.get() == 1 {
            server.count_linked(true);
        }
        Linked { server: Rc::clone(server), connection: Rc::clone(connection) }
    }
}

impl<B: Backend> Drop for Linked<B> {
    fn drop(&mut self) {
        let links = &self.connection.links;
        links.set(links.get() - 1);
        if links.get() == 0 {
            self.server.count_linked(false);
        }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve<B: Backend, T: Transport>(server: &Rc<Server<B>>, transport: T, port: Port) {
    let backend = &server.backend;
    let state = Rc::new(State {
        share: server.budget.share(),
        calls: Cell::new(0),
        links: Cell::new(0),
        active_at: Cell::new(backend.mono()),
        seen: Rc::default(),
        remote: transport.remote(),
    });
    let bytes_per_poll = server.settings.bytes_per_poll;
    let io =
        Io::new(transport, bytes_per_poll, Rc::clone(&server.scratch), Rc::clone(&state.seen)).lingering();
    let service = {
        let (server, state) = (Rc::clone(server), Rc::clone(&state));
        service_fn(move |request| router::route(&server, &state, port, request))
    };
    let mut connection = pin!(builder(server, port).serve_connection(io, service));
    let mut guard = Guard::new(server, &state);
    let mut sleep = pin!(backend.sleep_until(guard.next));
    let mut stopping = server.stopping.wait();
    let (mut leaving, mut lingering) = (false, false);
    let end = poll_fn(|cx| {
        if !leaving && Pin::new(&mut stopping).poll(cx).is_ready() {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if lingering {
                return Poll::Ready(None);
            }
            match guard.check(leaving) {
                Verdict::Stay => {}
                Verdict::Leave => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                Verdict::Close(why) => return Poll::Ready(Some(End::Closed(why))),
            }
            sleep.set(backend.sleep_until(guard.next));
        }
        let polled = connection.as_mut().poll(cx);
        if polled.is_pending() && state.seen.ended.get() && !lingering {
            lingering = true;
            sleep.set(backend.sleep_until(backend.mono().after_ms(LINGER_MS)));
            cx.waker().wake_by_ref();
        }
        polled.map(|result| match result {
            // A client that was asked to leave may hang up while we still say goodbye.
            Err(error) if !leaving => Some(End::Broken(error)),
            Err(_) | Ok(()) => None,
        })
    })
    .await;
    if let Some(end) = end {
        server.counters().connections_failed.add(1);
        tracing::debug!(?end, "connection failed");
    }
}

/// How a connection fails.
#[derive(Debug)]
enum End {
    /// By our decision.
    Closed(#[allow(dead_code, reason = "for the trace")] &'static str),
    /// The client broke HTTP/2's rules, or the connection itself broke.
    Broken(#[allow(dead_code, reason = "for the trace")] hyper::Error),
}

fn builder<B: Backend>(server: &Server<B>, port: Port) -> Builder<Calls<B>> {
    let settings = &server.settings;
    let window_bytes_min = match port {
        Port::Client => CONNECTION_WINDOW_BYTES_MIN,
        Port::Peer => PEER_WINDOW_BYTES,
    };
    let mut builder = Builder::new(Calls(server.backend.clone()));
    builder
        .timer(Timer::new(server.backend.clone()))
        .max_concurrent_streams(settings.streams_max)
        .max_pending_accept_reset_streams(settings.resets_max)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(window_bytes_min.max(settings.streams_max.saturating_mul(512)))
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(Duration::from_millis(settings.keep_alive_ms))
        .keep_alive_timeout(Duration::from_millis(settings.keep_alive_timeout_ms))
        .auto_date_header(false);
    builder
}

/// Ends connections that only take up room.
struct Guard<'a, B: Backend> {
    server: &'a Server<B>,
    state: &'a State,
    /// When to look again.
    next: Mono,
    handshaken: bool,
    /// Since when the client has taken nothing of what it is owed.
    stalled_since: Option<Mono>,
}

enum Verdict {
    Stay,
    /// Gracefully: no call is in progress.
    Leave,
    /// At once.
    Close(&'static str),
}

impl<'a, B: Backend> Guard<'a, B> {
    fn new(server: &'a Server<B>, state: &'a State) -> Guard<'a, B> {
        let next = server.backend.mono().after_ms(server.settings.handshake_ms);
        Guard { server, state, next, handshaken: false, stalled_since: None }
    }

    fn check(&mut self, leaving: bool) -> Verdict {
        let (now, settings) = (self.server.backend.mono(), &self.server.settings);
        // Looking more often than the shortest time-out would find nothing.
        self.next = now.after_ms(settings.stalled_ms.min(settings.idle_ms) / 4 + 1);
        if !self.handshaken {
            if self.state.seen.received.get() < HANDSHAKE_BYTES {
                return Verdict::Close("no HTTP/2 preface in time");
            }
            self.handshaken = true;
        }
        if self.state.share.bytes() == 0 || self.state.share.take_progress() {
            self.stalled_since = None;
        } else {
            let since = *self.stalled_since.get_or_insert(now);
            if now.since(since) >= settings.stalled_ms * 1_000_000 {
                return Verdict::Close("the client does not take its answers");
            }
        }
        let idle_ns = now.since(self.state.active_at.get());
        if self.state.calls.get() > 0
            || self.state.share.bytes() > 0
            || idle_ns < settings.idle_ms * 1_000_000
        {
            return Verdict::Stay;
        }
        // A client that was asked to leave and stays has had as long again.
        if leaving { Verdict::Close("idle, and does not leave") } else { Verdict::Leave }
    }
}

/// Runs each call as a task of its core.
#[derive(Clone)]
struct Calls<B>(B);

impl<B: Backend, F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Calls<B> {
    fn execute(&self, call: F) {
        self.0.spawn(call);
    }
}
