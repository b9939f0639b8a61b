//! The same layer on the node's own kind of executor, which has no fairness of its own: one pipe, one reactor, and a
//! neighbour that must get its turn.

use super::fake::Fake;
use futures_util::future::{Either, select};
use glommio::LocalExecutorBuilder;
use ringcore::rpc::io::Transport;
use ringcore::rpc::proto::v1;
use ringcore::rpc::server::{Port, Server, Settings};
use ringcore::rpc::stats::Counters;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// One direction of a connection.
#[derive(Default)]
struct Half {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

const HALF_BYTES_MAX: usize = 256 << 10;

#[derive(Clone)]
struct End {
    incoming: Rc<RefCell<Half>>,
    outgoing: Rc<RefCell<Half>>,
}

fn pipe() -> (End, End) {
    let (a, b) = (Rc::<RefCell<Half>>::default(), Rc::<RefCell<Half>>::default());
    (End { incoming: Rc::clone(&a), outgoing: Rc::clone(&b) }, End { incoming: b, outgoing: a })
}

impl Transport for End {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut half = self.incoming.borrow_mut();
        let count = half.bytes.len().min(buffer.len());
        if count == 0 && !half.closed {
            half.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for (to, from) in buffer.iter_mut().zip(half.bytes.drain(..count)) {
            *to = from;
        }
        half.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut half = self.outgoing.borrow_mut();
        if half.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if half.bytes.len() >= HALF_BYTES_MAX {
            half.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buffers.iter().for_each(|buffer| half.bytes.extend(&**buffer));
        half.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut half = self.outgoing.borrow_mut();
        half.closed = true;
        half.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for half in [&self.incoming, &self.outgoing] {
            let mut half = half.borrow_mut();
            half.closed = true;
            half.reader.take().into_iter().for_each(Waker::wake);
            half.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// The client's side, for hyper.
struct Client(End);

impl hyper::rt::Read for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut memory = vec![0; cursor.remaining().min(64 << 10)];
        self.0.poll_read(cx, &mut memory).map_ok(|read| cursor.put_slice(&memory[..read]))
    }
}

impl hyper::rt::Write for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}

#[derive(Clone, Copy)]
struct Executor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        glommio::spawn_local(future).detach();
    }
}

fn on_glommio<F: Future<Output = ()>>(test: impl FnOnce(Rc<Server<Fake>>) -> F + Send + 'static) {
    LocalExecutorBuilder::default()
        .io_memory(1 << 20)
        .spawn(move || async move {
            let fake = Fake::new(1, |task| {
                glommio::spawn_local(task).detach();
            });
            let counters: Arc<[Counters]> = [Counters::new()].into();
            test(Server::new(fake, Settings::default(), counters)).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn calls_are_answered_on_glommio() {
    on_glommio(async |server| {
        let (client, end) = pipe();
        glommio::spawn_local(Rc::clone(&server).serve(end, Port::Client)).detach();
        let builder = hyper::client::conn::http2::Builder::new(Executor);
        let (send, connection) = builder.handshake(Client(client)).await.unwrap();
        glommio::spawn_local(connection).detach();
        let mut kv = super::client::KvClient::new(super::client::Channel(send));
        for index in 0..500u32 {
            let key = bytes::Bytes::from(index.to_le_bytes().to_vec());
            let put = v1::PutRequest { key: key.clone(), value: key.clone(), ..Default::default() };
            kv.put(put).await.unwrap();
            let read = kv.get(v1::GetRequest { key: key.clone(), ..Default::default() }).await.unwrap();
            assert_eq!(read.into_inner().value, key);
        }
        server.stop();
        assert!(server.drained(ringcore::types::Mono::NEVER).await);
    });
}

/// Always has more bytes: PINGs, which h2 answers and forgets. Nothing but the adapter's bound ends a poll of it.
struct Endless {
    ping: Vec<u8>,
    sent: usize,
    turns: Rc<Cell<u64>>,
}

impl Transport for Endless {
    fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for byte in buffer.iter_mut() {
            *byte = match self.sent.checked_sub(HELLO.len()) {
                None => HELLO[self.sent],
                Some(at) => self.ping[at % self.ping.len()],
            };
            self.sent += 1;
        }
        self.turns.set(self.turns.get() + 1);
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn endless_sender_does_not_own_the_core() {
    on_glommio(async |server| {
        let turns = Rc::new(Cell::new(0));
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"pingpong"].concat();
        let endless = Endless { ping, sent: 0, turns: Rc::clone(&turns) };
        let serving = glommio::spawn_local(Rc::clone(&server).serve(endless, Port::Client));
        let neighbour = async {
            for _ in 0..50 {
                yield_now().await;
            }
        };
        match select(pin!(neighbour), pin!(serving)).await {
            Either::Left(((), serving)) => assert!(turns.get() > 0, "the sender had its turns: {serving:?}"),
            Either::Right(_) => panic!("the sender was served to its end, and it has none"),
        }
    });
}

/// Steps back behind every other task of this core.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
