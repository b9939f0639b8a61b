//! The client's side of a connection, as cheap as it can be made: a generator of load must need less CPU than the server
//! that it drives. Each protocol is a [`Session`]: bytes in, bytes out, no socket and no clock.

pub(crate) mod connection;
pub(crate) mod etcd;
pub(crate) mod http2;
pub(crate) mod protobuf;
pub(crate) mod redis;
pub(crate) mod ringcore;

use std::io::{self, ErrorKind};

/// gRPC's code of an answer that is none.
const INTERNAL: u8 = 13;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Reads the keys.
    Read,
    /// Writes the keys with their values.
    Write,
    /// Deletes the keys.
    Delete,
    /// Reads a page of the records whose tokens are not below [`Request::token`].
    Scan,
}

/// One request, as every protocol can say it. Kept and filled again by its owner.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What it does.
    pub(crate) action: Action,
    /// Keys, one behind the other.
    pub(crate) keys: Vec<u8>,
    /// Length of each key, bytes.
    pub(crate) key_bytes: usize,
    /// Values of the keys, one behind the other; only of a write.
    pub(crate) values: Vec<u8>,
    /// Where each value ends.
    pub(crate) value_ends: Vec<usize>,
    /// Where a scan begins.
    pub(crate) token: u64,
    /// Names the write, if it has a name: a number that this client has not used before. A batch uses as many.
    pub(crate) request_id: u64,
    /// The lowest such number that this client still waits for.
    pub(crate) done_below: u64,
}

impl Request {
    /// For keys of that length.
    pub(crate) fn new(key_bytes: usize) -> Request {
        Request {
            action: Action::Read,
            keys: Vec::new(),
            key_bytes,
            values: Vec::new(),
            value_ends: Vec::new(),
            token: 0,
            request_id: 0,
            done_below: 0,
        }
    }

    /// Makes it an empty request.
    pub(crate) fn reset(&mut self, action: Action) {
        self.action = action;
        self.keys.clear();
        self.values.clear();
        self.value_ends.clear();
    }

    /// Its keys.
    pub(crate) fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keys.chunks_exact(self.key_bytes)
    }

    /// Its keys and their values.
    pub(crate) fn pairs(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        (0..self.value_ends.len()).map(|index| {
            let from = if index == 0 { 0 } else { self.value_ends[index - 1] };
            (
                &self.keys[index * self.key_bytes..][..self.key_bytes],
                &self.values[from..self.value_ends[index]],
            )
        })
    }

    /// The only key, and its value unless it is no write.
    pub(crate) fn only(&self) -> Option<(&[u8], &[u8])> {
        (self.keys.len() == self.key_bytes).then_some((&self.keys[..], &self.values[..]))
    }
}

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It was done.
    Done {
        /// Of the keys that were read, how many have no record.
        absent: u32,
        /// Of a batch, how many of its keys failed.
        failed: u32,
    },
    /// It failed as a whole; the server's word for why.
    Refused(Refusal),
}

/// Why a request failed: gRPC's status code, or what stands in its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Refusal {
    /// gRPC's code.
    Code(u8),
    /// The stream was reset, or the connection ended first.
    Cut,
    /// The other side would not begin it and said so: it was not done.
    NotBegun,
    /// An answer in Redis' protocol that is an error.
    Said,
}

impl Refusal {
    /// As reports call it.
    pub(crate) fn name(self) -> &'static str {
        const CODES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        match self {
            Refusal::Code(code) => CODES.get(usize::from(code)).copied().unwrap_or("UNKNOWN"),
            Refusal::Cut => "connection lost",
            Refusal::NotBegun => "not begun",
            Refusal::Said => "ERR",
        }
    }
}

/// An answer and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    /// As given to [`Session::begin`].
    pub(crate) tag: u32,
    /// What became of it.
    pub(crate) answer: Answer,
}

/// One connection's protocol. Errors are those of a server that breaks it: the connection is of no more use.
pub(crate) trait Session {
    /// May a request be begun now?
    fn has_room(&self) -> bool;

    /// Is it of no more use, with nothing open? Then its owner makes another one.
    fn is_spent(&self) -> bool {
        false
    }

    /// Begins a request. `tag` comes back with its answer; it is not in use.
    fn begin(&mut self, request: &Request, tag: u32);

    /// What is to be sent.
    fn out(&mut self) -> &mut Vec<u8>;

    /// Takes in what has come; tells the answers that are complete, and how many bytes it has used up: what it leaves comes
    /// again, with more behind it.
    fn take_in(&mut self, bytes: &[u8], ended: &mut dyn FnMut(Ended)) -> io::Result<usize>;

    /// Requests without an answer.
    fn open(&self) -> usize;

    /// The connection is gone: what is open ends so.
    fn cut(&mut self, ended: &mut dyn FnMut(Ended));
}

/// A server that breaks its protocol.
fn broken(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
