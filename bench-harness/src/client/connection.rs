//! One socket and its session. Never blocks, but for what says that it waits.

use super::{Ended, Request, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

const READ_BYTES: usize = 256 << 10;

/// A connection, from its first packet on.
pub(crate) struct Connection<S> {
    stream: TcpStream,
    session: S,
    incoming: Vec<u8>,
    /// Bytes of `incoming` that hold something.
    filled: usize,
    /// The socket took less than it was given.
    blocked: bool,
}

impl<S: Session> Connection<S> {
    /// Begins to connect. Once the socket can be written to, [`Connection::opened`] tells whether it is connected.
    pub(crate) fn open(address: SocketAddr, session: S) -> io::Result<Connection<S>> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Connection { stream, session, incoming: vec![0; READ_BYTES], filled: 0, blocked: false })
    }

    /// Has it been connected? What the session has to say is sent by [`Connection::flush`] from then on.
    pub(crate) fn opened(&self) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// Waits until it is connected: outside of a load.
    pub(crate) fn await_opened(&self, within: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(within).expect("a few seconds");
        let mut ready = [PollFd::new(&self.stream, PollFlags::OUT)];
        if retry_on_intr(|| poll(&mut ready, Some(&timeout)))? == 0 {
            return Err(io::Error::new(ErrorKind::TimedOut, "connection timed out"));
        }
        self.opened()
    }

    /// May a request be begun now?
    pub(crate) fn has_room(&self) -> bool {
        self.session.has_room()
    }

    /// Is another one to be made in its place? Nothing is open on it.
    pub(crate) fn is_spent(&self) -> bool {
        self.session.is_spent()
    }

    /// Requests without an answer.
    pub(crate) fn open_requests(&self) -> usize {
        self.session.open()
    }

    /// Begins a request; sent by [`Connection::flush`].
    pub(crate) fn begin(&mut self, request: &Request, tag: u32) {
        self.session.begin(request, tag);
    }

    /// Is the socket full? It is to be waited for until it can be written to.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Sends what there is to send, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let out = self.session.out();
        let mut sent = 0;
        self.blocked = false;
        while sent < out.len() {
            match self.stream.write(&out[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.drain(..sent);
        Ok(())
    }

    /// Reads what has come and tells the answers. One read: what is left wakes its owner again.
    pub(crate) fn receive(&mut self, ended: &mut dyn FnMut(Ended)) -> io::Result<()> {
        if self.filled == self.incoming.len() {
            self.incoming.resize(self.incoming.len() * 2, 0);
        }
        let read = match self.stream.read(&mut self.incoming[self.filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.filled += read;
        let used = self.session.take_in(&self.incoming[..self.filled], ended)?;
        self.incoming.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(())
    }

    /// Waits for the answers to all that is open, for `within` at most: for one request at a time, outside of a load.
    pub(crate) fn settle(&mut self, within: Duration, ended: &mut dyn FnMut(Ended)) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        let end = std::time::Instant::now() + within;
        let result = loop {
            if let Err(error) = self.flush() {
                break Err(error);
            }
            if self.session.open() == 0 {
                break Ok(());
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                break Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
            }
            self.stream.set_read_timeout(Some(left))?;
            if let Err(error) = self.receive(ended) {
                break Err(error);
            }
        };
        self.stream.set_nonblocking(true)?;
        result
    }

    /// The connection is gone: what is open ends so.
    pub(crate) fn cut(&mut self, ended: &mut dyn FnMut(Ended)) {
        self.session.cut(ended);
    }
}

impl<S> AsFd for Connection<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
