//! One connection, on its core: its socket's own system calls, waited for through the core's [`Sockets`].

use super::acceptor::Counted;
use super::sockets::{Direction, Registered, Sockets};
use super::tick::Ticker;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A connection on its core. A reset by the other side is an error, never an end of file.
pub struct Stream {
    // Before the socket: what is closed is not waited for.
    registered: Registered,
    socket: TcpStream,
    _counted: Option<Counted>,
}

impl Stream {
    pub(super) fn accepted(socket: Socket, counted: Counted, sockets: &Sockets) -> io::Result<Stream> {
        Stream::new(socket, Some(counted), sockets)
    }

    fn new(socket: Socket, counted: Option<Counted>, sockets: &Sockets) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        let socket = TcpStream::from(socket);
        let registered = sockets.register(&socket)?;
        Ok(Stream { registered, socket, _counted: counted })
    }

    /// Connects to an address, or gives up with `TimedOut`.
    pub async fn connect(
        address: SocketAddr,
        within: Duration,
        sockets: &Sockets,
        ticker: &Ticker,
    ) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        let stream = Stream::new(socket, None, sockets)?;
        let mut too_late = pin!(ticker.sleep(within));
        poll_fn(|cx| {
            if let Poll::Ready(result) = stream.poll_connected(cx) {
                return Poll::Ready(result);
            }
            too_late.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
        })
        .await?;
        Ok(stream)
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered.poll(Direction::Write, cx, || match self.socket.peer_addr() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                Err(self.socket.take_error()?.unwrap_or_else(|| ErrorKind::WouldBlock.into()))
            }
            Err(error) => Err(error),
        })
    }

    /// Reads what is there; 0 is the end of what the other side sends.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut socket = &self.socket;
        let read = ready!(self.registered.poll(Direction::Read, cx, || socket.read(into)))?;
        if read > 0 && read < into.len() {
            // All that was there: another try would be told so by a system call.
            self.registered.exhausted(Direction::Read);
        }
        Poll::Ready(Ok(read))
    }

    /// Writes as much as there is room for.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = &self.socket;
        self.registered.poll(Direction::Write, cx, || socket.write(bytes))
    }

    /// Writes as much of several pieces as there is room for, in one system call.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut socket = &self.socket;
        self.registered.poll(Direction::Write, cx, || socket.write_vectored(pieces))
    }

    /// Says that nothing more will be written; what was written is still delivered.
    pub fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }

    /// Breaks the connection when what was written is not acknowledged for so long, even by a peer that only keeps its
    /// window shut.
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        SockRef::from(&self.socket).set_tcp_user_timeout(Some(timeout))
    }

    /// Who is at the other end.
    pub fn remote(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::{CoreContext, start};
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::sync::mpsc;
    use std::thread;

    /// Closes with a reset instead of an end of file.
    fn reset(stream: StdStream) {
        let socket = Socket::from(stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Runs `body` on a core with a connection whose other end is `client`.
    fn on_stream<T: Send + 'static, B: Future<Output = T> + 'static>(
        client: impl FnOnce(StdStream) + Send + 'static,
        body: impl Fn(Stream) -> B + Clone + Send + 'static,
    ) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (done, accepted) = mpsc::channel();
        thread::spawn(move || {
            client(listener.accept().unwrap().0);
            done.send(()).unwrap();
        });
        let main = move |context: CoreContext| {
            let body = body.clone();
            async move {
                let (sockets, ticker) = (&context.sockets, &context.ticker);
                let stream = Stream::connect(address, Duration::from_secs(5), sockets, ticker).await;
                body(stream.unwrap()).await
            }
        };
        let result = start(&[None], main).unwrap().join().unwrap().remove(0);
        accepted.recv().unwrap();
        result
    }

    #[test]
    fn bytes_go_both_ways_and_the_end_is_told() {
        let client = |mut client: StdStream| {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "abcdefgh");
            client.write_all(b"and back").unwrap();
        };
        let read = on_stream(client, async |mut stream: Stream| {
            let pieces = [IoSlice::new(b"abc"), IoSlice::new(b"def")];
            assert_eq!(poll_fn(|cx| stream.poll_write_vectored(cx, &pieces)).await.unwrap(), 6);
            assert_eq!(poll_fn(|cx| stream.poll_write(cx, b"gh")).await.unwrap(), 2);
            poll_fn(|cx| stream.poll_shutdown(cx)).await.unwrap();
            let mut bytes = Vec::new();
            loop {
                let mut piece = [0; 5];
                match poll_fn(|cx| stream.poll_read(cx, &mut piece)).await.unwrap() {
                    0 => return bytes,
                    len => bytes.extend_from_slice(&piece[..len]),
                }
            }
        });
        assert_eq!(read, b"and back");
    }

    #[test]
    fn writer_that_the_client_holds_up_goes_on_when_it_reads() {
        const BYTES: usize = 32 << 20;
        let client = |mut client: StdStream| {
            let mut read = Vec::new();
            client.read_to_end(&mut read).unwrap();
            assert_eq!((read.len(), read[BYTES - 1]), (BYTES, 7));
        };
        let blocked = on_stream(client, async |mut stream: Stream| {
            let (bytes, mut sent, mut blocked) = (vec![7; BYTES], 0, 0);
            while sent < BYTES {
                let write = poll_fn(|cx| {
                    let polled = stream.poll_write(cx, &bytes[sent..]);
                    blocked += u64::from(polled.is_pending());
                    polled
                });
                sent += write.await.unwrap();
            }
            poll_fn(|cx| stream.poll_shutdown(cx)).await.unwrap();
            blocked
        });
        assert!(blocked > 0, "the socket's buffer took everything at once");
    }

    /// More than one look at the kernel tells of, all at once.
    #[test]
    fn every_one_of_many_sockets_is_heard() {
        const SOCKETS: usize = 700;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients = thread::spawn(move || {
            let mut clients: Vec<_> = (0..SOCKETS).map(|_| listener.accept().unwrap().0).collect();
            // The last one has been registered when it says so.
            clients[SOCKETS - 1].read_exact(&mut [0]).unwrap();
            clients.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
            clients.iter_mut().for_each(|client| assert_eq!(client.read(&mut [0; 9]).unwrap(), 1));
        });
        let main = move |context: CoreContext| async move {
            let mut echoes = Vec::new();
            for number in 1..=SOCKETS {
                let (sockets, ticker) = (&context.sockets, &context.ticker);
                let stream = Stream::connect(address, Duration::from_secs(30), sockets, ticker).await;
                let mut stream = stream.unwrap();
                if number == SOCKETS {
                    assert_eq!(poll_fn(|cx| stream.poll_write(cx, b"!")).await.unwrap(), 1);
                }
                echoes.push(context.queues.requests.spawn(async move {
                    let mut piece = [0; 5];
                    assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut piece)).await.unwrap(), 1);
                    assert_eq!(poll_fn(|cx| stream.poll_write(cx, b"y")).await.unwrap(), 1);
                }));
            }
            for echo in echoes {
                echo.await;
            }
        };
        start(&[None], main).unwrap().join().unwrap();
        clients.join().unwrap();
    }

    #[test]
    fn reset_is_an_error_and_no_end() {
        let client = |mut client: StdStream| {
            client.read_exact(&mut [0]).unwrap();
            reset(client);
        };
        let read = on_stream(client, async |mut stream: Stream| {
            assert_eq!(poll_fn(|cx| stream.poll_write(cx, b"x")).await.unwrap(), 1);
            let mut piece = [0; 5];
            poll_fn(|cx| stream.poll_read(cx, &mut piece)).await.map_err(|error| error.kind())
        });
        assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn nobody_there_is_an_error() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let main = move |context: CoreContext| async move {
            let (sockets, ticker) = (&context.sockets, &context.ticker);
            let stream = Stream::connect(free, Duration::from_secs(5), sockets, ticker).await;
            stream.map(drop).map_err(|error| error.kind())
        };
        let result = start(&[None], main).unwrap().join().unwrap();
        assert_eq!(result, [Err(io::ErrorKind::ConnectionRefused)]);
    }
}
