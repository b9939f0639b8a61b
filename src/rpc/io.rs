//! Between a connection's bytes and hyper. Bounds what one poll may read or write: h2 loops until its socket is empty,
//! and outside tokio nothing else would stop one busy client from owning the core.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A connected byte stream. Errors are passed on as they are; in particular a reset is an error, never an end of stream.
pub trait Transport: Unpin + 'static {
    /// Reads into `buffer`; 0 bytes = the other side has finished sending.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `buffers`, which are not all empty.
    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Ends sending.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Who is at the other end, where that is known.
    fn remote(&self) -> Option<SocketAddr> {
        None
    }
}

/// Where a core's connections read to, one at a time: hyper's buffer is not initialised memory, and copying what came
/// in costs less than zeroing all that might have.
pub type Scratch = Rc<RefCell<Box<[u8]>>>;

/// A core's scratch buffer.
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()))
}

/// Bytes of one read: as much as h2 asks for at most, a whole frame.
const READ_BYTES_MAX: usize = 64 << 10;

/// A transport as hyper wants it.
pub struct Io<T> {
    transport: T,
    /// Bytes that may yet pass before the task must let others run.
    allowance: usize,
    bytes_per_poll: usize,
    scratch: Scratch,
    seen: Rc<Seen>,
    lingers: bool,
}

/// What the owner of a connection sees of it while hyper has it.
#[derive(Default, Debug)]
pub struct Seen {
    /// Bytes that came in.
    pub received: Cell<u64>,
    /// All is said, and the other side has been told; what it still says is not listened to.
    pub ended: Cell<bool>,
}

impl<T: Transport> Io<T> {
    /// Lets `bytes_per_poll` pass per poll, at least one read or write more.
    pub fn new(transport: T, bytes_per_poll: usize, scratch: Scratch, seen: Rc<Seen>) -> Io<T> {
        assert!(bytes_per_poll > 0, "a connection that may not read never gets on");
        Io { transport, allowance: bytes_per_poll, bytes_per_poll, scratch, seen, lingers: false }
    }

    /// Once it has ended sending it waits until the other side has ended too; for how long is the owner's business. A
    /// socket that is closed while there is something to read resets its connection, and the other side loses what it has
    /// not read yet: answers, and the word which of its calls were not begun.
    pub fn lingering(self) -> Io<T> {
        Io { lingers: true, ..self }
    }

    /// Pending is where a poll of the connection ends: the next one has a fresh allowance.
    fn admit<R>(
        &mut self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<io::Result<R>>,
        bytes: impl FnOnce(&R) -> usize,
    ) -> Poll<io::Result<R>> {
        if self.allowance == 0 {
            self.allowance = self.bytes_per_poll;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let result = operation(&mut self.transport, cx);
        match &result {
            Poll::Ready(Ok(done)) => self.allowance = self.allowance.saturating_sub(bytes(done)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.allowance = self.bytes_per_poll,
        }
        result
    }
}

impl<T: Transport> hyper::rt::Read for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let scratch = Rc::clone(&self.scratch);
        let mut scratch = scratch.borrow_mut();
        let room = cursor.remaining().min(READ_BYTES_MAX);
        let buffer = &mut scratch[..room];
        match self.admit(cx, |transport, cx| transport.poll_read(cx, buffer), |&read| read) {
            Poll::Ready(Ok(read)) => {
                self.seen.received.set(self.seen.received.get() + read as u64);
                cursor.put_slice(&scratch[..read]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Transport> hyper::rt::Write for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.admit(cx, |transport, cx| transport.poll_write(cx, &[IoSlice::new(buffer)]), |&n| n)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.admit(cx, |transport, cx| transport.poll_write(cx, buffers), |&n| n)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a transport holds nothing back
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.seen.ended.get() {
            ready!(self.transport.poll_shutdown(cx))?;
            self.seen.ended.set(true);
        }
        if !self.lingers {
            return Poll::Ready(Ok(()));
        }
        let scratch = Rc::clone(&self.scratch);
        let buffer = &mut scratch.borrow_mut()[..];
        loop {
            match ready!(self.admit(cx, |transport, cx| transport.poll_read(cx, buffer), |&read| read)) {
                Ok(0) | Err(_) => return Poll::Ready(Ok(())),
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::{Read, ReadBuf, Write};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    /// Always readable and writable, until it is reset.
    struct Endless {
        reset: bool,
    }

    impl Transport for Endless {
        fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            if self.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buffer.fill(7);
            Poll::Ready(Ok(buffer.len()))
        }

        fn poll_write(&mut self, _: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()))
        }

        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn io(reset: bool) -> Io<Endless> {
        Io::new(Endless { reset }, 3_000, scratch(), Rc::default())
    }

    #[test]
    fn endless_sender_is_interrupted_and_woken_again() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut io = io(false);
        for pass in 1..=5 {
            let mut bytes = 0;
            loop {
                let mut memory = [0; 1_000];
                let mut buffer = ReadBuf::new(&mut memory);
                if Pin::new(&mut io).poll_read(&mut cx, buffer.unfilled()).is_pending() {
                    break;
                }
                bytes += buffer.filled().len();
            }
            assert_eq!((bytes, wakes.0.load(Ordering::Relaxed)), (3_000, pass));
        }
        assert_eq!(io.seen.received.get(), 15_000);
    }

    #[test]
    fn endless_receiver_is_interrupted_too() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut io = io(false);
        let part = [0; 700];
        let parts = [IoSlice::new(&part), IoSlice::new(&part)];
        let mut written = 0;
        while let Poll::Ready(result) = Pin::new(&mut io).poll_write_vectored(&mut cx, &parts) {
            written += result.expect("the transport writes");
        }
        assert_eq!(written, 4_200);
    }

    #[test]
    fn reset_is_an_error_and_not_an_end_of_stream() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut memory = [0; 16];
        let mut buffer = ReadBuf::new(&mut memory);
        match Pin::new(&mut io(true)).poll_read(&mut cx, buffer.unfilled()) {
            Poll::Ready(Err(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            other => panic!("a reset read as {other:?}"),
        }
    }

    /// Says what it was given, then nothing until it is ended.
    #[derive(Default)]
    struct Peer {
        says: usize,
        ended: Rc<Cell<bool>>,
        told: Rc<Cell<bool>>,
    }

    impl Transport for Peer {
        fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
            let read = buffer.len().min(self.says);
            self.says -= read;
            if read == 0 && !self.ended.get() { Poll::Pending } else { Poll::Ready(Ok(read)) }
        }

        fn poll_write(&mut self, _: &mut Context<'_>, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            assert!(!self.told.replace(true), "told twice");
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn shutdown_lingers_until_the_other_side_has_ended_too() {
        let mut cx = Context::from_waker(Waker::noop());
        let peer = Peer { says: 10_000, ..Peer::default() };
        let (ended, told) = (Rc::clone(&peer.ended), Rc::clone(&peer.told));
        let mut io = Io::new(peer, 3_000, scratch(), Rc::default()).lingering();
        for _ in 0..10 {
            assert!(Pin::new(&mut io).poll_shutdown(&mut cx).is_pending());
            assert!(told.get() && io.seen.ended.get());
        }
        assert_eq!(
            io.transport.says, 0,
            "it is listened to, so that a reset does not overtake what it was sent"
        );
        ended.set(true);
        assert!(Pin::new(&mut io).poll_shutdown(&mut cx).is_ready());
        let mut prompt = Io::new(Peer::default(), 3_000, scratch(), Rc::default());
        assert!(Pin::new(&mut prompt).poll_shutdown(&mut cx).is_ready());
    }
}
