//! One core's links to the other members: a queue and a task for each, which connects, says what there is to say, and
//! connects again when that breaks.
//!
//! Nothing here waits for a peer: what finds no room is dropped, and what waits for a link that is down is dropped when it
//! has grown old, because by then its operation asks again or is past its deadline. So after a break the peer meets
//! neither a flood of stale frames nor an empty line: frames of the last second still go out, in order.

use super::clock;
use super::executor::{Queue, Task};
use super::names::resolve;
use super::net::Stream;
use super::sockets::Sockets;
use super::tick::Ticker;
use crate::rpc::backend::Backend;
use crate::rpc::peer::dial::{Dialer, LinkError};
use crate::rpc::peer::outgoing::Outgoing;
use crate::rpc::peer::{Frame, Hello};
use crate::rpc::stats::Counters;
use crate::types::prng::Prng;
use crate::types::{ClusterId, MemberId, Mono};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What may wait for one member, bytes.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// How long a frame waits for a link that is down, milliseconds.
const WAITING_MS_MAX: u64 = 1_000;
/// Until a connection is made.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Until written bytes must be acknowledged: a path that is cut is given up, and tried anew, so soon that a healed one is
/// noticed at once.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_millis(2_000);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Between attempts, milliseconds: doubled from one to the next, and less by up to a half, at random.
const PAUSE_MS_MIN: u64 = 20;
const PAUSE_MS_MAX: u64 = 1_000;
/// A link that lived so long, milliseconds, was a good one: the next attempt is made at once.
const GOOD_MS: u64 = 1_000;

/// What a core's links are made with.
pub struct LinksParts<B: Backend> {
    /// The core's.
    pub backend: B,
    /// Of all cores; this core writes its own.
    pub counters: Arc<[Counters]>,
    /// The core's.
    pub sockets: Sockets,
    /// The core's.
    pub ticker: Ticker,
    /// Where the tasks of the links run.
    pub queue: Queue,
    /// For pauses of random length.
    pub seed: u64,
    /// Called when a link has come up (true) or gone down.
    pub on_state: Box<dyn Fn(MemberId, bool)>,
}

/// One core's links. Without other members there is no task and no timer.
pub struct Links<B: Backend>(Rc<Inner<B>>);

struct Inner<B: Backend> {
    dialer: Dialer<B>,
    backend: B,
    sockets: Sockets,
    ticker: Ticker,
    queue: Queue,
    on_state: Box<dyn Fn(MemberId, bool)>,
    prng: RefCell<Prng>,
    /// By member.
    links: RefCell<Vec<Link>>,
}

struct Link {
    peer: Rc<Peer>,
    task: Task<()>,
}

/// The other end of a link, as this one knows it.
struct Peer {
    hello: Hello,
    /// host:port.
    address: RefCell<String>,
    outgoing: Rc<Outgoing>,
    /// When it was let in, while it is up.
    up_since: Cell<Option<Mono>>,
}

impl<B: Backend> Links<B> {
    /// None yet.
    pub fn new(parts: LinksParts<B>) -> Links<B> {
        let LinksParts { backend, counters, sockets, ticker, queue, seed, on_state } = parts;
        Links(Rc::new(Inner {
            dialer: Dialer::new(backend.clone(), counters),
            backend,
            sockets,
            ticker,
            queue,
            on_state,
            prng: RefCell::new(Prng::new(seed)),
            links: RefCell::default(),
        }))
    }

    /// Links to exactly these members, `own` left out, from now on. A member that was there keeps its link and what waits
    /// for it; another address is used at the next attempt.
    pub fn set_members<'a>(
        &self,
        cluster: ClusterId,
        own: MemberId,
        members: impl IntoIterator<Item = (MemberId, &'a str)>,
    ) {
        let inner = &self.0;
        let mut before = inner.links.take();
        let mut links = Vec::new();
        for (member, address) in members.into_iter().filter(|(member, _)| *member != own) {
            match before.iter().position(|link| link.peer.hello.to == member) {
                Some(index) => {
                    let link = before.swap_remove(index);
                    address.clone_into(&mut link.peer.address.borrow_mut());
                    links.push(link);
                }
                None => links.push(inner.begin(cluster, own, member, address)),
            }
        }
        links.sort_unstable_by_key(|link| link.peer.hello.to);
        inner.links.replace(links);
        for Link { peer, task } in before {
            drop(task);
            inner.went_down(&peer, "it is no member any more");
        }
    }

    /// Sends a frame to a member, if its link has room for it; otherwise it is dropped.
    pub fn send(&self, now: Mono, to: MemberId, frame: Frame) {
        let links = self.0.links.borrow();
        let found = links.binary_search_by_key(&to, |link| link.peer.hello.to);
        if !found.is_ok_and(|index| links[index].peer.outgoing.push(now, frame)) {
            self.0.dialer.counters().link_frames_dropped.add(1);
        }
    }

    /// What waits for a member, bytes.
    pub fn waiting_bytes(&self, member: MemberId) -> usize {
        let links = self.0.links.borrow();
        links.iter().filter(|link| link.peer.hello.to == member).map(|link| link.peer.outgoing.bytes()).sum()
    }

    /// Ends all links: what waits still leaves, until the deadline.
    pub async fn end(&self, deadline: Mono) {
        let links = self.0.links.take();
        links.iter().for_each(|link| link.peer.outgoing.end());
        for Link { peer, task } in links {
            match select(task, self.0.ticker.sleep_until(deadline)).await {
                Either::Left(((), _)) => {}
                Either::Right(((), task)) => {
                    task.cancel().await;
                    self.0.went_down(&peer, "the node stops");
                }
            }
        }
    }
}

impl<B: Backend> Inner<B> {
    fn begin(self: &Rc<Self>, cluster: ClusterId, own: MemberId, to: MemberId, address: &str) -> Link {
        let (core, cores) = (self.backend.core(), self.backend.cores());
        let peer = Rc::new(Peer {
            hello: Hello { cluster, from: own, to, core, cores },
            address: RefCell::new(address.to_owned()),
            outgoing: Outgoing::new(WAITING_BYTES_MAX),
            up_since: Cell::new(None),
        });
        let task = self.queue.spawn(run(Rc::clone(self), Rc::clone(&peer)));
        Link { peer, task }
    }

    fn came_up(&self, peer: &Peer, cores: u16) {
        let now = clock::mono();
        self.drop_old(peer, now);
        peer.up_since.set(Some(now));
        let up = &self.dialer.counters().links_up;
        up.set(up.get() + 1);
        let Hello { core, to, .. } = peer.hello;
        tracing::info!(core = core.0, member = to.0, cores, "link is up");
        (self.on_state)(to, true);
    }

    /// Nothing, if it was not up.
    fn went_down(&self, peer: &Peer, why: &str) {
        if peer.up_since.take().is_none() {
            return;
        }
        let up = &self.dialer.counters().links_up;
        up.set(up.get() - 1);
        let Hello { core, to, .. } = peer.hello;
        tracing::info!(core = core.0, member = to.0, why, "link is down");
        (self.on_state)(to, false);
    }

    fn drop_old(&self, peer: &Peer, now: Mono) {
        let then = Mono(now.0.saturating_sub(WAITING_MS_MAX * 1_000_000));
        let dropped = peer.outgoing.drop_before(then);
        self.dialer.counters().link_frames_dropped.add(dropped as u64);
    }

    async fn connect(&self, address: String) -> io::Result<Stream> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in resolve(address, &self.ticker).await?.into_iter().take(ADDRESSES_MAX) {
            match Stream::connect(address, CONNECT_WITHIN, &self.sockets, &self.ticker).await {
                Ok(stream) => {
                    stream.set_user_timeout(UNACKNOWLEDGED_MAX)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects once and carries what there is, until it breaks or the link's end has come.
    async fn attempt(&self, peer: &Peer) -> Result<(), Break> {
        let address = peer.address.borrow().clone();
        let Some(stream) = unless_ended(peer, self.connect(address)).await else { return Ok(()) };
        let up = |welcome: crate::rpc::peer::Welcome| self.came_up(peer, welcome.cores);
        Ok(self.dialer.carry(stream?, &peer.hello, &peer.outgoing, up).await?)
    }
}

/// Why an attempt has ended.
#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("it cannot be connected to: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What the future gives; None if the link's end is called for before.
async fn unless_ended<T>(peer: &Peer, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(peer.outgoing.ended())).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// A link's life.
async fn run<B: Backend>(inner: Rc<Inner<B>>, peer: Rc<Peer>) {
    let mut pause_ms = PAUSE_MS_MIN;
    let mut told = false;
    loop {
        let result = inner.attempt(&peer).await;
        let now = clock::mono();
        let lived_ns = peer.up_since.get().map(|since| now.since(since));
        let why = result.map_or_else(|error| error.to_string(), |()| "all is said".to_owned());
        if lived_ns.is_some() {
            inner.went_down(&peer, &why);
        } else if !told {
            let Hello { core, to, .. } = peer.hello;
            let address = &**peer.address.borrow();
            tracing::info!(
                core = core.0,
                member = to.0,
                address,
                why,
                "link does not come up; it is tried again"
            );
        }
        // Once for each time that it is down.
        told = true;
        if peer.outgoing.is_ended() {
            return;
        }
        inner.drop_old(&peer, now);
        if lived_ns.is_some_and(|ns| ns >= GOOD_MS * 1_000_000) {
            pause_ms = PAUSE_MS_MIN;
        }
        let pause = inner.prng.borrow_mut().between(pause_ms / 2, pause_ms);
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
        if unless_ended(&peer, inner.ticker.sleep(Duration::from_millis(pause))).await.is_none() {
            return;
        }
        inner.dialer.counters().link_reconnects.add(1);
    }
}
