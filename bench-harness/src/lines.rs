//! The connections of one thread of the generator: made, watched, made again. One that is slow to be made delays no other.

use crate::client::connection::Connection;
use crate::client::{Ended, Request, Session};
use crate::load::Load;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Between two tries to connect.
const RECONNECT_NS: u64 = 100_000_000;
/// What is not connected so long after it was begun is begun anew.
const CONNECT_NS: u64 = 5_000_000_000;
/// Events that are taken at once.
const EVENTS: usize = 256;

/// Makes a session per connection, told the number of its thread.
pub(crate) trait Dial: Sync {
    /// What is spoken.
    type Session: Session + Send;

    /// A session of a thread's connection, and where it goes. `connection`: its number among those of all threads.
    fn dial(&self, thread: usize, connection: usize) -> (SocketAddr, Self::Session);
}

/// A connection, or the time to try for one.
enum Line<S> {
    Up(Connection<S>),
    Opening { connection: Connection<S>, until_ns: u64 },
    Down { retry_ns: u64 },
}

/// All of a thread's.
pub(crate) struct Lines<'a, D: Dial> {
    dial: &'a D,
    thread: usize,
    threads: usize,
    lines: Vec<Line<D::Session>>,
    /// The one that is asked next.
    turn: usize,
    poll: OwnedFd,
    lost: u64,
    up_ns: u64,
}

impl<'a, D: Dial> Lines<'a, D> {
    /// Makes the connections of a thread and waits for them.
    pub(crate) fn connect(load: &Load, dial: &'a D, thread: usize) -> io::Result<Self> {
        let mut lines = Lines {
            dial,
            thread,
            threads: load.threads,
            lines: Vec::new(),
            turn: 0,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            lost: 0,
            up_ns: 0,
        };
        for number in (thread..load.connections).step_by(load.threads) {
            let (address, session) = dial.dial(thread, number);
            let opened = Connection::open(address, session).and_then(|connection| {
                connection.await_opened(Duration::from_nanos(CONNECT_NS))?;
                Ok(connection)
            });
            let connection = opened.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
            })?;
            let (data, flags) = watched(lines.lines.len(), false);
            epoll::add(&lines.poll, &connection, data, flags)?;
            lines.lines.push(Line::Up(connection));
        }
        Ok(lines)
    }

    /// How many there are, connected or not.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }

    /// Connections that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// When any of them was last connected.
    pub(crate) fn up_ns(&self) -> u64 {
        self.up_ns
    }

    /// One that takes a request and has fewer than `depth` under way; in turn.
    pub(crate) fn with_room(&mut self, depth: usize) -> Option<usize> {
        let count = self.lines.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            if let Line::Up(connection) = &self.lines[at]
                && connection.open_requests() < depth
                && connection.has_room()
            {
                self.turn = (at + 1) % count;
                return Some(at);
            }
        }
        None
    }

    /// Begins a request on one that has room; sent by [`Lines::flush`].
    pub(crate) fn begin(&mut self, line: usize, request: &Request, tag: u32) {
        let Line::Up(connection) = &mut self.lines[line] else { unreachable!("it had room") };
        connection.begin(request, tag);
    }

    /// Sends what there is to send, and makes again what is gone.
    pub(crate) fn flush(&mut self, now: u64) {
        for line in 0..self.lines.len() {
            match &mut self.lines[line] {
                Line::Up(connection) if connection.is_spent() => self.redial(line, now),
                Line::Up(connection) => {
                    self.up_ns = now;
                    let blocked = connection.is_blocked();
                    // What is wrong with a socket is told when it is read, after the answers that have come.
                    let _told = connection.flush();
                    if blocked != connection.is_blocked() {
                        let (data, flags) = watched(line, connection.is_blocked());
                        epoll::modify(&self.poll, &*connection, data, flags).expect("it is watched");
                    }
                }
                Line::Opening { until_ns: at, .. } | Line::Down { retry_ns: at } if *at <= now => {
                    self.redial(line, now);
                }
                Line::Opening { .. } | Line::Down { .. } => {}
            }
        }
    }

    /// Begins to connect in the place of what was there.
    fn redial(&mut self, line: usize, now: u64) {
        let (address, session) = self.dial.dial(self.thread, self.thread + line * self.threads);
        let (data, flags) = watched(line, true);
        let opening = Connection::open(address, session).and_then(|connection| {
            epoll::add(&self.poll, &connection, data, flags)?;
            Ok(Line::Opening { connection, until_ns: now + CONNECT_NS })
        });
        self.lines[line] = opening.unwrap_or(Line::Down { retry_ns: now + RECONNECT_NS });
    }

    /// Waits until there is something to receive, for `within_ns` at most; takes it in and tells what has ended.
    pub(crate) fn receive(&mut self, within_ns: u64, now: u64, ended: &mut Vec<Ended>) -> io::Result<()> {
        let timeout = Timespec::try_from(Duration::from_nanos(within_ns)).expect("less than a second");
        // ppoll first: epoll's own wait counts in milliseconds.
        let mut ready = [PollFd::new(&self.poll, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            // A signal is no failure; what does not wait is not interrupted.
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            polled => polled?,
        };
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        let (events, _) = epoll::wait(&self.poll, &mut room[..], Some(&Timespec::default()))?;
        for event in events {
            self.receive_from(event.data.u64() as usize, now, ended);
        }
        Ok(())
    }

    /// A socket has something to tell: that it is connected, answers, or its end.
    fn receive_from(&mut self, line: usize, now: u64, ended: &mut Vec<Ended>) {
        let down = Line::Down { retry_ns: now + RECONNECT_NS };
        match &mut self.lines[line] {
            Line::Up(connection) => {
                if connection.receive(&mut |end| ended.push(end)).is_err() {
                    connection.cut(&mut |end| ended.push(end));
                    self.lost += 1;
                    self.lines[line] = down;
                }
            }
            Line::Opening { .. } => {
                let opening = std::mem::replace(&mut self.lines[line], down);
                let (data, flags) = watched(line, false);
                if let Line::Opening { connection, .. } = opening
                    && connection.opened().is_ok()
                    && epoll::modify(&self.poll, &connection, data, flags).is_ok()
                {
                    self.lines[line] = Line::Up(connection);
                }
            }
            Line::Down { .. } => {}
        }
    }
}

/// How a line's socket is waited for: until it can be read, or also written to.
fn watched(line: usize, writable: bool) -> (epoll::EventData, epoll::EventFlags) {
    let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    flags.set(epoll::EventFlags::OUT, writable);
    (epoll::EventData::new_u64(line as u64), flags)
}

/// Servers that answer what they are sent, for tests.
#[cfg(test)]
pub(crate) mod echo {
    use super::Dial;
    use crate::client::{Answer, Ended, Refusal, Request, Session};
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    /// What all sessions of a test go by.
    pub(crate) struct Echo {
        pub(crate) address: SocketAddr,
        /// Requests that a connection takes at a time.
        pub(crate) room: AtomicUsize,
        /// Connections are of no more use.
        pub(crate) spent: AtomicBool,
        /// Threads and connections that were dialled.
        pub(crate) dialled: Mutex<Vec<(usize, usize)>>,
    }

    /// A request is its tag in four bytes, and so is its answer.
    pub(crate) struct EchoSession<'a> {
        echo: &'a Echo,
        out: Vec<u8>,
        open: Vec<u32>,
    }

    impl Echo {
        pub(crate) fn at(address: SocketAddr) -> Echo {
            Echo {
                address,
                room: AtomicUsize::new(usize::MAX),
                spent: AtomicBool::new(false),
                dialled: Mutex::new(Vec::new()),
            }
        }
    }

    impl<'a> Dial for &'a Echo {
        type Session = EchoSession<'a>;

        fn dial(&self, thread: usize, connection: usize) -> (SocketAddr, EchoSession<'a>) {
            self.dialled.lock().unwrap().push((thread, connection));
            (self.address, EchoSession { echo: self, out: Vec::new(), open: Vec::new() })
        }
    }

    impl Session for EchoSession<'_> {
        fn has_room(&self) -> bool {
            self.open.len() < self.echo.room.load(Relaxed)
        }

        fn is_spent(&self) -> bool {
            self.echo.spent.load(Relaxed)
        }

        fn begin(&mut self, _: &Request, tag: u32) {
            self.out.extend(tag.to_le_bytes());
            self.open.push(tag);
        }

        fn out(&mut self) -> &mut Vec<u8> {
            &mut self.out
        }

        fn take_in(&mut self, bytes: &[u8], ended: &mut dyn FnMut(Ended)) -> io::Result<usize> {
            let (tags, rest) = bytes.as_chunks();
            for tag in tags.iter().map(|tag| u32::from_le_bytes(*tag)) {
                self.open.retain(|open| *open != tag);
                ended(Ended { tag, answer: Answer::Done { absent: 0, failed: 0 } });
            }
            Ok(bytes.len() - rest.len())
        }

        fn open(&self) -> usize {
            self.open.len()
        }

        fn cut(&mut self, ended: &mut dyn FnMut(Ended)) {
            let cut = |tag| ended(Ended { tag, answer: Answer::Refused(Refusal::Cut) });
            self.open.drain(..).for_each(cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::echo::Echo;
    use super::*;
    use crate::client::{Answer, Refusal};
    use crate::load::Until;
    use crate::targets::closed;
    use crate::workload::mix::{Kind, Mix};
    use rustix::net::sockopt::set_socket_linger;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::atomic::Ordering::Relaxed;

    /// The load of `threads` threads with two connections each.
    fn load(threads: usize) -> Load {
        let until = Until::Filled { records: 1 };
        Load { connections: 2 * threads, threads, ..closed(Mix::only(Kind::Insert), until, 64, 1) }
    }

    fn is_opening<D: Dial>(line: &Line<D::Session>) -> bool {
        matches!(line, Line::Opening { .. })
    }

    #[test]
    fn connections_are_made_again_while_others_go_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = &Echo::at(listener.local_addr().unwrap());
        let mut lines = Lines::connect(&load(2), &echo, 1).unwrap();
        assert_eq!(std::mem::take(&mut *echo.dialled.lock().unwrap()), [(1, 1), (1, 3)]);
        lines.redial(1, 50);
        assert!(is_opening::<&Echo>(&lines.lines[1]), "nobody waits for it");
        assert_eq!((lines.with_room(9), lines.with_room(9)), (Some(0), Some(0)), "the other one goes on");
        lines.flush(50 + CONNECT_NS - 1);
        assert_eq!(*echo.dialled.lock().unwrap(), [(1, 3)], "the same as it was, once");
        lines.flush(50 + CONNECT_NS);
        assert_eq!(*echo.dialled.lock().unwrap(), [(1, 3), (1, 3)], "so long is too long");
        while is_opening::<&Echo>(&lines.lines[1]) {
            lines.receive(1_000_000, 60, &mut Vec::new()).unwrap();
        }
        assert_eq!((lines.with_room(9), lines.with_room(9)), (Some(1), Some(0)));
        assert_eq!(lines.lost(), 0);
    }

    #[test]
    fn who_is_not_there_is_tried_again_later() {
        // An address of its own: nobody else may take the port over.
        let listener = TcpListener::bind("127.0.19.1:0").unwrap();
        let echo = &Echo::at(listener.local_addr().unwrap());
        let mut lines = Lines::connect(&load(1), &echo, 0).unwrap();
        drop(listener);
        // Connections that were never accepted end with their listener.
        while lines.lost() < 2 {
            lines.receive(1_000_000, 7, &mut Vec::new()).unwrap();
        }
        assert_eq!((lines.with_room(9), lines.up_ns()), (None, 0));
        let dialled = || echo.dialled.lock().unwrap().len();
        lines.flush(7 + RECONNECT_NS - 1);
        assert_eq!(dialled(), 2);
        lines.flush(7 + RECONNECT_NS);
        assert_eq!((dialled(), lines.up_ns()), (4, 0));
        while lines.lines.iter().any(is_opening::<&Echo>) {
            lines.receive(1_000_000, 8, &mut Vec::new()).unwrap();
        }
        assert_eq!((lines.with_room(9), lines.lost()), (None, 2), "nothing was there to be lost");
    }

    #[test]
    fn spent_connections_are_replaced_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = &Echo::at(listener.local_addr().unwrap());
        let mut lines = Lines::connect(&load(1), &echo, 0).unwrap();
        echo.spent.store(true, Relaxed);
        lines.flush(5);
        assert!(lines.lines.iter().all(is_opening::<&Echo>));
        assert_eq!(lines.lost(), 0);
    }

    #[test]
    fn answers_before_the_end_of_a_connection_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = &Echo::at(listener.local_addr().unwrap());
        let load = Load { connections: 1, ..load(1) };
        let mut lines = Lines::connect(&load, &echo, 0).unwrap();
        let request = Request::new(1);
        [4, 5].iter().for_each(|tag| lines.begin(0, &request, *tag));
        lines.flush(1);
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(&4_u32.to_le_bytes()).unwrap();
        set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        drop(server);
        let Line::Up(connection) = &lines.lines[0] else { panic!("it was made") };
        let mut ready = [PollFd::new(connection, PollFlags::empty())];
        poll(&mut ready, None).unwrap();
        // The socket does not take it: the connection was reset.
        lines.begin(0, &request, 6);
        lines.flush(2);
        let mut ended = Vec::new();
        while lines.lost() == 0 {
            lines.receive(1_000_000, 3, &mut ended).unwrap();
        }
        let cut = |tag| Ended { tag, answer: Answer::Refused(Refusal::Cut) };
        assert_eq!(ended[0], Ended { tag: 4, answer: Answer::Done { absent: 0, failed: 0 } });
        assert_eq!(ended[1..], [cut(5), cut(6)]);
    }

    #[test]
    fn who_refuses_at_first_is_named() {
        let nobody =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                .unwrap();
        rustix::net::bind(&nobody, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&nobody).unwrap()).unwrap();
        let error = Lines::connect(&load(1), &&Echo::at(address), 0).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&format!("cannot connect to {address}")), "{error}");
    }
}
