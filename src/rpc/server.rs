//! One core's gRPC server: what its connections share, and their orderly end. Accepts nothing itself: whoever does hands
//! each connection over.

use super::backend::Backend;
use super::budget::Budget;
use super::connection;
use super::io::{self, Transport};
use super::peer::Refused;
use super::reflection::Index;
use super::stats::Counters;
use crate::types::Mono;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Which services a connection may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// `KV`, `Cluster`, `Admin`, the seed's `KVStore`, and of its `NodeInternal` what strangers may ask.
    Client,
    /// The seed's `NodeInternal`, whole, and the links of other nodes.
    Peer,
}

/// Limits of connections, per core unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections open at a time, of each port: clients do not take the room of peers. More are closed at once.
    pub connections_max: usize,
    /// Bytes of requests and answers held at a time; a connection may hold a quarter.
    pub bytes_in_flight_max: usize,
    /// Calls in progress, per connection.
    pub streams_max: u32,
    /// Calls cancelled before they were begun, per connection, until it counts as an attack.
    pub resets_max: usize,
    /// Until the client has sent HTTP/2's preface and settings, milliseconds.
    pub handshake_ms: u64,
    /// Without a call in progress until a connection is closed, milliseconds.
    pub idle_ms: u64,
    /// With answers that the client does not take until a connection is closed, milliseconds.
    pub stalled_ms: u64,
    /// Between pings to a silent client, milliseconds.
    pub keep_alive_ms: u64,
    /// Until a ping must be answered, milliseconds.
    pub keep_alive_timeout_ms: u64,
    /// Read, and written, before the core's other tasks get their turn.
    pub bytes_per_poll: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            connections_max: 1_024,
            bytes_in_flight_max: 256 << 20,
            streams_max: 1_024,
            resets_max: 20,
            handshake_ms: 5_000,
            idle_ms: 300_000,
            stalled_ms: 75_000,
            keep_alive_ms: 30_000,
            keep_alive_timeout_ms: 10_000,
            bytes_per_poll: 128 << 10,
        }
    }
}

/// One core's server.
pub struct Server<B: Backend> {
    pub(crate) backend: B,
    pub(crate) settings: Settings,
    pub(crate) budget: Rc<Budget>,
    pub(crate) scratch: io::Scratch,
    pub(crate) stopping: Rc<Signal>,
    /// Raised last: what is in flight may need them.
    pub(crate) links_end: Rc<Signal>,
    /// Links that were turned away.
    pub(crate) refused: Refused,
    pub(crate) reflection: Index,
    /// Of all cores; this core writes its own.
    counters: Arc<[Counters]>,
    /// By port.
    connections: [Cell<usize>; 2],
    /// Those of them that carry a link.
    linked: Cell<usize>,
    /// Woken when the last connection without a link has gone.
    drained: Cell<Option<Waker>>,
}

impl<B: Backend> Server<B> {
    /// A server for the core that `backend` belongs to; `counters` has one entry per core.
    pub fn new(backend: B, settings: Settings, counters: Arc<[Counters]>) -> Rc<Server<B>> {
        assert_eq!(counters.len(), usize::from(backend.cores()), "each core counts for itself");
        // A request holds its bytes, without progress, until its deadline: that must not count as stalled.
        assert!(settings.stalled_ms > backend.limits().deadline_ms_max, "slow is not stalled");
        let core = usize::from(backend.core().0);
        Rc::new(Server {
            budget: Budget::new(settings.bytes_in_flight_max, Arc::clone(&counters), core),
            scratch: io::scratch(),
            stopping: Signal::new(),
            links_end: Signal::new(),
            refused: Refused::default(),
            reflection: Index::new(),
            backend,
            settings,
            counters,
            connections: Default::default(),
            linked: Cell::new(0),
            drained: Cell::new(None),
        })
    }

    /// Serves a connection until it ends; to be run as a task of its own on this core.
    pub async fn serve<T: Transport>(self: Rc<Self>, transport: T, port: Port) {
        let counters = self.counters();
        let open = self.connections[port as usize].get();
        if open >= self.settings.connections_max || self.stopping.is_raised() {
            counters.connections_refused.add(1);
            return;
        }
        let _open = Open::new(&self, port);
        connection::serve(&self, transport, port).await;
    }

    /// Connections open on this core.
    pub fn connections(&self) -> usize {
        self.connections.iter().map(Cell::get).sum()
    }

    /// Asks every client to go elsewhere. Calls in progress are finished; [`Server::drained`] says when they are.
    pub fn stop(&self) {
        self.stopping.raise();
    }

    /// Ends the links of other nodes, once nothing in flight needs them any more; [`Server::drained`] says when they are
    /// gone.
    pub fn end_links(&self) {
        self.links_end.raise();
    }

    /// Completes when no connection is left that carries no link, or at the deadline; true = none is left. One waiter at a
    /// time.
    pub async fn drained(&self, deadline: Mono) -> bool {
        let gone = poll_fn(|cx| {
            if self.is_drained() {
                return Poll::Ready(());
            }
            self.drained.set(Some(cx.waker().clone()));
            Poll::Pending
        });
        super::call::until(&self.backend, deadline, gone).await.is_some()
    }

    fn is_drained(&self) -> bool {
        self.connections() == self.linked.get()
    }

    /// A connection has got its first link, or lost its last.
    pub(crate) fn count_linked(&self, linked: bool) {
        self.linked.set(if linked { self.linked.get() + 1 } else { self.linked.get() - 1 });
        self.tell_drained();
    }

    fn tell_drained(&self) {
        if self.is_drained()
            && let Some(waker) = self.drained.take()
        {
            waker.wake();
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters[usize::from(self.backend.core().0)]
    }

    pub(crate) fn all_counters(&self) -> &[Counters] {
        &self.counters
    }
}

/// An open connection, counted.
struct Open<'a, B: Backend>(&'a Server<B>, Port);

impl<'a, B: Backend> Open<'a, B> {
    fn new(server: &'a Server<B>, port: Port) -> Open<'a, B> {
        let open = &server.connections[port as usize];
        open.set(open.get() + 1);
        server.counters().connections_accepted.add(1);
        server.counters().connections.set(server.connections() as u64);
        Open(server, port)
    }
}

impl<B: Backend> Drop for Open<'_, B> {
    fn drop(&mut self) {
        let Open(server, port) = *self;
        let open = &server.connections[port as usize];
        open.set(open.get() - 1);
        server.counters().connections.set(server.connections() as u64);
        server.tell_drained();
    }
}

/// Raised once, seen by all who wait.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Signal {
    fn new() -> Rc<Signal> {
        Rc::default()
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Completes when the signal is raised.
    pub(crate) fn wait(self: &Rc<Self>) -> Raised {
        let id = self.next.get();
        self.next.set(id + 1);
        Raised { signal: Rc::clone(self), id }
    }

    fn raise(&self) {
        self.raised.set(true);
        for waker in std::mem::take(&mut *self.waiting.borrow_mut()).into_values() {
            waker.wake();
        }
    }
}

/// Waits for a signal; may be polled again after it has completed.
pub(crate) struct Raised {
    signal: Rc<Signal>,
    id: u64,
}

impl Future for Raised {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.is_raised() {
            return Poll::Ready(());
        }
        self.signal.waiting.borrow_mut().insert(self.id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.signal.waiting.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_reaches_all_who_wait_and_keeps_none_who_left() {
        let mut cx = Context::from_waker(Waker::noop());
        let signal = Signal::new();
        let (mut one, mut two) = (signal.wait(), signal.wait());
        assert!(Pin::new(&mut one).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut two).poll(&mut cx).is_pending());
        drop(one);
        assert_eq!(signal.waiting.borrow().len(), 1);
        signal.raise();
        assert!(Pin::new(&mut two).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut signal.wait()).poll(&mut cx).is_ready());
    }
}
