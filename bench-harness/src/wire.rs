//! The client's half of one HTTP/2 connection that makes unary gRPC calls of one method, as cheaply as it can be done:
//! every call's headers are the same few bytes, answers are counted and not decoded. Own code because a client made of
//! the server's own parts needs as much CPU as the server, and on a small machine would never saturate it.
#![allow(clippy::big_endian_bytes, reason = "HTTP/2 is big-endian")]

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What is asked of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    /// `ringcore.v1.KV/Get`.
    Get,
    /// `ringcore.v1.KV/Put`.
    Put,
}

impl Method {
    fn path(self) -> &'static str {
        match self {
            Method::Get => "/ringcore.v1.KV/Get",
            Method::Put => "/ringcore.v1.KV/Put",
        }
    }
}

/// Without a byte from the server for so long, a connection has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 128 << 10;
const FRAME_HEADER_BYTES: usize = 9;
/// Received until the server's window is opened again by as much.
const WINDOW_STEP: u32 = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A call that waits for its answer.
struct Call {
    begun: Instant,
    /// Bytes of DATA so far.
    bytes: usize,
}

/// A call that has ended.
pub(crate) struct Ended {
    /// From its frames being made to its last byte being read.
    pub(crate) took: Duration,
    /// Bytes of its message with the prefix. 0: it was refused, because only a failed call has no message.
    pub(crate) bytes: usize,
}

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    method: Method,
    address: SocketAddr,
    out: Vec<u8>,
    incoming: Vec<u8>,
    /// Bytes of `incoming` that hold something.
    filled: usize,
    next_stream: u32,
    calls: HashMap<u32, Call>,
    /// Bytes of DATA since the window was last opened.
    received: u32,
}

impl Connection {
    /// Connects; the server's settings are not waited for.
    pub(crate) fn open(address: SocketAddr, method: Method) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let window = (i32::MAX as u32).to_be_bytes();
        // ENABLE_PUSH = 0, INITIAL_WINDOW_SIZE = the greatest.
        let settings = [&[0, 2, 0, 0, 0, 0, 0, 4][..], &window[..]].concat();
        frame(&mut out, SETTINGS, 0, 0, &settings);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes());
        Ok(Connection {
            stream,
            method,
            address,
            out,
            incoming: vec![0; READ_BYTES],
            filled: 0,
            next_stream: 1,
            calls: HashMap::new(),
            received: 0,
        })
    }

    /// Calls without an answer.
    pub(crate) fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// Begins a call; sent by [`Connection::exchange`].
    pub(crate) fn call(&mut self, message: &[u8], now: Instant) {
        let id = self.next_stream;
        self.next_stream += 2;
        self.headers(id);
        let length = u32::try_from(message.len()).expect("messages are small");
        frame_header(&mut self.out, length + 5, DATA, END_STREAM, id);
        self.out.push(0);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(message);
        self.calls.insert(id, Call { begun: now, bytes: 0 });
    }

    /// Sends what was begun, waits for the server, and hands out the calls that have ended.
    pub(crate) fn exchange(&mut self, mut ended: impl FnMut(Ended)) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        let read =
            self.stream.read(&mut self.incoming[self.filled..]).map_err(|error| match error.kind() {
                ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "the server answers no more"),
                _ => error,
            })?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.filled += read;
        let now = Instant::now();
        let mut at = 0;
        while let Some(header) = self.incoming[at..self.filled].first_chunk::<FRAME_HEADER_BYTES>() {
            let [a, b, c, kind, flags, id @ ..] = *header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let whole = FRAME_HEADER_BYTES + length;
            if length > READ_BYTES / 2 {
                return Err(broken("a frame longer than any answer"));
            }
            if self.filled - at < whole {
                break;
            }
            let payload = at + FRAME_HEADER_BYTES..at + whole;
            let id = u32::from_be_bytes(id) & i32::MAX as u32;
            if let Some(end) = self.frame(kind, flags, id, payload, now)? {
                ended(end);
            }
            at += whole;
        }
        self.incoming.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: std::ops::Range<usize>,
        now: Instant,
    ) -> io::Result<Option<Ended>> {
        match kind {
            DATA => {
                let call = self.calls.get_mut(&id).ok_or_else(|| broken("data of no call"))?;
                call.bytes += payload.len();
                self.received += payload.len() as u32;
                if self.received >= WINDOW_STEP {
                    frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
                    self.received = 0;
                }
            }
            HEADERS if flags & END_STREAM != 0 => {
                let call = self.calls.remove(&id).ok_or_else(|| broken("the end of no call"))?;
                return Ok(Some(Ended { took: now.duration_since(call.begun), bytes: call.bytes }));
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => {
                let payload = self.incoming[payload].to_vec();
                frame(&mut self.out, PING, ACK, 0, &payload);
            }
            RST_STREAM => return Err(broken("the server has reset a call")),
            GOAWAY => return Err(broken("the server has sent the client away")),
            // The rest of a call's headers, or of no concern: calls are far smaller than the server's windows.
            _ => {}
        }
        Ok(None)
    }

    /// A call's headers: written out and put into the HPACK table by the first call, pointed at by every other.
    fn headers(&mut self, id: u32) {
        const METHOD_POST: u8 = 0x83;
        const SCHEME_HTTP: u8 = 0x86;
        let mut block = vec![METHOD_POST, SCHEME_HTTP];
        if id == 1 {
            // Static names: 1 = :authority, 31 = content-type, 4 = :path; 0 = a new name.
            let authority = self.address.to_string();
            literal(&mut block, 1, "", &authority);
            literal(&mut block, 4, "", self.method.path());
            literal(&mut block, 31, "", "application/grpc");
            literal(&mut block, 0, "te", "trailers");
        } else {
            // The newest entry is 62. Names that begin with a colon come first.
            block.extend([0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        }
        frame(&mut self.out, HEADERS, END_HEADERS, id, &block);
    }
}

/// A header to be remembered, its text not compressed.
fn literal(block: &mut Vec<u8>, name_index: u8, name: &str, value: &str) {
    block.push(0x40 | name_index);
    let texts: &[&str] = if name_index == 0 { &[name, value] } else { &[value] };
    for text in texts {
        assert!(text.len() < 127, "the length fits its byte");
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    frame_header(out, payload.len() as u32, kind, flags, id);
    out.extend_from_slice(payload);
}

fn frame_header(out: &mut Vec<u8>, length: u32, kind: u8, flags: u8, id: u32) {
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that reads until `client` frames have come, then sends `answers`.
    fn served(answers: Vec<u8>) -> (Connection, std::thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = vec![0; 4_096];
            let read = stream.read(&mut seen).unwrap();
            stream.write_all(&answers).unwrap();
            seen.truncate(read);
            seen
        });
        (Connection::open(address, Method::Get).unwrap(), server)
    }

    #[test]
    fn answers_end_their_calls_in_any_order() {
        let mut answers = Vec::new();
        frame(&mut answers, SETTINGS, 0, 0, &[]);
        frame(&mut answers, HEADERS, END_HEADERS, 3, &[0x88]);
        frame(&mut answers, DATA, 0, 3, &[0; 25]);
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 3, &[0x80 | 62]);
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        let (mut connection, server) = served(answers);
        let now = Instant::now();
        connection.call(b"one", now);
        connection.call(b"two", now);
        let mut ended = Vec::new();
        while connection.open_calls() > 0 {
            connection.exchange(|end| ended.push(end.bytes)).unwrap();
        }
        assert_eq!(ended, [25, 0]);
        let seen = server.join().unwrap();
        assert!(seen.starts_with(b"PRI * HTTP/2.0"));
        assert!(seen.ends_with(&[0, 0, 8, DATA, END_STREAM, 0, 0, 0, 3, 0, 0, 0, 0, 3, b't', b'w', b'o']));
    }

    #[test]
    fn reset_and_goodbye_are_errors() {
        for kind in [RST_STREAM, GOAWAY] {
            let mut answers = Vec::new();
            frame(&mut answers, kind, 0, 1, &[0; 8]);
            let (mut connection, server) = served(answers);
            connection.call(b"one", Instant::now());
            assert_eq!(connection.exchange(|_| ()).unwrap_err().kind(), ErrorKind::InvalidData);
            server.join().unwrap();
        }
    }
}
