//! One connection, on its core: glommio's stream, which passes errors on, without its timers.

use super::acceptor::Counted;
use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use socket2::Socket;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A connection on its core. A reset by the other side is an error, never an end of file.
pub struct Stream {
    stream: TcpStream,
    _counted: Option<Counted>,
}

impl Stream {
    pub(super) fn accepted(socket: Socket, counted: Counted) -> Stream {
        Stream { stream: TcpStream::from(socket), _counted: Some(counted) }
    }

    /// Connects to an address, or gives up with `TimedOut`.
    pub async fn connect(address: SocketAddr, within: Duration) -> io::Result<Stream> {
        // The kernel's own time-out, not a timer of the executor's.
        let stream = TcpStream::connect_timeout(address, within).await?;
        stream.set_nodelay(true)?;
        Ok(Stream { stream, _counted: None })
    }

    /// Reads what is there; 0 is the end of what the other side sends.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }

    /// Writes as much as there is room for.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Writes as much of several pieces as there is room for, in one system call.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    /// Says that nothing more will be written; what was written is still delivered.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx, Shutdown::Write).map_err(io::Error::from)
    }

    /// Who is at the other end.
    pub fn remote(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr().map_err(io::Error::from)
    }
}

/// Looks up the addresses of `host:port`, on a thread of its own: a name server may take seconds.
pub async fn resolve(name: String) -> io::Result<Vec<SocketAddr>> {
    glommio::executor().spawn_blocking(move || Ok(name.to_socket_addrs()?.collect())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::{CoreContext, start};
    use std::future::{Future, poll_fn};
    use std::io::{Read, Write};
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
        let main = move |_: CoreContext| {
            let body = body.clone();
            async move { body(Stream::connect(address, Duration::from_secs(5)).await.unwrap()).await }
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
        let main = move |_: CoreContext| async move {
            Stream::connect(free, Duration::from_secs(5)).await.map(drop).map_err(|error| error.kind())
        };
        let result = start(&[None], main).unwrap().join().unwrap();
        assert_eq!(result, [Err(io::ErrorKind::ConnectionRefused)]);
    }
}
