//! Which of a core's sockets can be read or written: one epoll instance per core, of which the executor's ring waits for
//! one thing, that it has something to tell.
//!
//! A socket is registered once, edge-triggered, and read and written by its own system calls. To wait in the ring for each
//! socket by itself would take a submission and a completion per read, and each completion interrupts the core.

use super::executor::{Queue, Task};
use super::tick::Ticker;
use glommio::io::PollableFd;
use rustix::event::epoll::{self, EventData, EventFlags};
use slotmap::{DefaultKey, Key as _, KeyData, SlotMap};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Sockets that one look at the kernel tells of.
const EVENTS_PER_LOOK: usize = 256;
/// Looks, while each is full, before others have their turn.
const LOOKS: usize = 8;

/// A core's sockets. Clones are the same.
#[derive(Clone)]
pub struct Sockets(Rc<Inner>);

struct Inner {
    epoll: PollableFd<OwnedFd>,
    sides: RefCell<SlotMap<DefaultKey, [Side; 2]>>,
}

/// What can be waited for of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// It has bytes, or has ended.
    Read = 0,
    /// It takes bytes.
    Write = 1,
}

/// One direction of a socket.
#[derive(Default)]
struct Side {
    /// It may be tried: nothing says that it would have to wait.
    ready: bool,
    /// Its end has come: it stays ready, there is no further edge.
    ended: bool,
    waiting: Option<Waker>,
}

impl Sockets {
    /// What [`Sockets::start`] needs of the system.
    pub(super) fn epoll() -> io::Result<OwnedFd> {
        Ok(epoll::create(epoll::CreateFlags::CLOEXEC)?)
    }

    /// Starts to listen for what the kernel has to tell; the task ends when it is cancelled.
    pub(super) fn start(epoll: OwnedFd, queue: &Queue, ticker: Ticker) -> (Sockets, Task<()>) {
        let epoll = PollableFd::new(epoll).expect("called on an executor");
        let sockets = Sockets(Rc::new(Inner { epoll, sides: RefCell::default() }));
        let task = queue.spawn(listen(Rc::clone(&sockets.0), ticker));
        (sockets, task)
    }

    /// Registers a socket, which must not block.
    pub(super) fn register(&self, socket: &impl AsFd) -> io::Result<Registered> {
        let ready = || Side { ready: true, ..Side::default() };
        let key = self.0.sides.borrow_mut().insert([ready(), ready()]);
        let registered = Registered { sockets: self.clone(), key };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(key.data().as_ffi());
        epoll::add(self.0.epoll.get_ref(), socket, data, flags)?;
        Ok(registered)
    }
}

/// A registered socket. The kernel forgets it when its last descriptor is closed.
pub(super) struct Registered {
    sockets: Sockets,
    key: DefaultKey,
}

impl Registered {
    /// Tries `operation` whenever the socket may be ready for it, until it says something else than that it would block.
    pub(super) fn poll<T>(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if !self.side(direction, |side| side.ready) {
            self.side(direction, |side| side.wait(cx));
            return Poll::Pending;
        }
        loop {
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.side(direction, |side| {
                        side.ready = false;
                        side.wait(cx);
                    });
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// The last operation has left nothing to do: the next one waits for the kernel's word, unless the end has come.
    pub(super) fn exhausted(&self, direction: Direction) {
        self.side(direction, |side| side.ready = side.ended);
    }

    fn side<R>(&self, direction: Direction, with: impl FnOnce(&mut Side) -> R) -> R {
        let mut sides = self.sockets.0.sides.borrow_mut();
        with(&mut sides.get_mut(self.key).expect("it lives as long as this")[direction as usize])
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sockets.0.sides.borrow_mut().remove(self.key);
    }
}

impl Side {
    fn wait(&mut self, cx: &mut Context<'_>) {
        match &mut self.waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waiting = Some(cx.waker().clone()),
        }
    }
}

async fn listen(inner: Rc<Inner>, ticker: Ticker) {
    let mut events = Vec::with_capacity(EVENTS_PER_LOOK);
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        if inner.epoll.readable().await.is_err() {
            // The kernel has no memory for one more wait: what has come by the next tick is looked at then.
            ticker.next_tick().await;
        }
        for _ in 0..LOOKS {
            let spare = rustix::buffer::spare_capacity(&mut events);
            // A look that a signal cut short has found nothing; the next wait ends at once.
            let found = epoll::wait(inner.epoll.get_ref(), spare, Some(&now)).unwrap_or(0);
            for event in events.drain(..) {
                inner.tell(DefaultKey::from(KeyData::from_ffi(event.data.u64())), event.flags);
            }
            if found < EVENTS_PER_LOOK {
                break;
            }
        }
    }
}

impl Inner {
    fn tell(&self, key: DefaultKey, flags: EventFlags) {
        const BOTH: EventFlags = EventFlags::HUP.union(EventFlags::ERR);
        let of_reading = BOTH | EventFlags::RDHUP;
        let mut sides = self.sides.borrow_mut();
        // A socket that was closed since the kernel spoke of it.
        let Some([read, write]) = sides.get_mut(key) else { return };
        read.ended |= flags.intersects(of_reading);
        write.ended |= flags.intersects(BOTH);
        let told = [(read, of_reading | EventFlags::IN), (write, BOTH | EventFlags::OUT)];
        for (side, meant) in told {
            if flags.intersects(meant) {
                side.ready = true;
                if let Some(waker) = side.waiting.take() {
                    waker.wake();
                }
            }
        }
    }
}
