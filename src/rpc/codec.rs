//! gRPC's message framing over HTTP/2 data, and protobuf within it. Own code rather than tonic's, because tonic's cannot
//! say why a message is refused, nor charge its bytes to a budget while they come in, nor count the elements of a
//! message before it makes them; and because a call that arrives in one frame is decoded where it lies.

use super::budget::Held;
use super::call::Refusal;
use crate::types::{Failure, Reason};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use prost::Message;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Code;

/// Bytes before each message: a flag and the length, u32 big-endian.
const PREFIX_BYTES: usize = 5;

/// Reads messages from a request's body.
pub(crate) struct Messages<T> {
    body: T,
    /// Data frames that do not yet make a message.
    gathered: BytesMut,
    /// The newest data frame.
    chunk: Bytes,
    /// The charge for both.
    held: Held,
    message_bytes_max: usize,
    ended: bool,
}

/// A message as it came, charged until `held` is dropped.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) held: Held,
}

/// A repeated field whose elements are counted before the message is decoded: an element can be two bytes on the wire
/// and a hundred in memory.
#[derive(Clone, Copy)]
pub(crate) struct Cap {
    /// Field numbers from the message down to the repeated field.
    pub(crate) path: &'static [u32],
    pub(crate) elements_max: usize,
}

impl<T: Body<Data = Bytes> + Unpin> Messages<T> {
    pub(crate) fn new(body: T, held: Held, message_bytes_max: usize) -> Messages<T> {
        Messages {
            body,
            gathered: BytesMut::new(),
            chunk: Bytes::new(),
            held,
            message_bytes_max,
            ended: false,
        }
    }

    /// The next message; None when the client has sent all. A refusal is final.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Received>, Refusal>> {
        loop {
            if let Some(received) = self.take_message()? {
                return Poll::Ready(Ok(Some(received)));
            }
            if self.ended {
                return Poll::Ready(match self.buffered() {
                    0 => Ok(None),
                    _ => Err(Refusal::Protocol(Code::Internal, "the stream ended inside a message")),
                });
            }
            ready!(self.poll_frame(cx))?;
        }
    }

    /// The only message of a unary call.
    pub(crate) async fn single(&mut self) -> Result<Received, Refusal> {
        let received = std::future::poll_fn(|cx| self.poll_next(cx)).await?;
        let received = received.ok_or(Refusal::Protocol(Code::Unimplemented, "the call has no message"))?;
        match std::future::poll_fn(|cx| self.poll_next(cx)).await? {
            None => Ok(received),
            Some(_) => Err(Refusal::Protocol(Code::Unimplemented, "the call has more than one message")),
        }
    }

    fn buffered(&self) -> usize {
        self.gathered.len() + self.chunk.len()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Some(Err(_)) => {
                return Poll::Ready(Err(Refusal::Protocol(Code::Cancelled, "the client gave up")));
            }
            Some(Ok(frame)) => frame,
        };
        let Ok(data) = frame.into_data() else {
            self.ended = true; // trailers: nothing in them concerns a server
            return Poll::Ready(Ok(()));
        };
        if !self.held.grow(data.len()) {
            return Poll::Ready(Err(Failure::not_applied(Reason::Overloaded).into()));
        }
        self.gathered.extend_from_slice(&self.chunk);
        self.chunk = data;
        Poll::Ready(Ok(()))
    }

    fn take_message(&mut self) -> Result<Option<Received>, Refusal> {
        let Some(length) = self.message_length()? else {
            return Ok(None);
        };
        let whole = PREFIX_BYTES + length;
        if self.buffered() < whole {
            return Ok(None);
        }
        let mut bytes = if self.gathered.is_empty() {
            self.chunk.split_to(whole)
        } else {
            // What is gathered was too short for its message, or it would have been taken before the chunk came.
            let missing = whole - self.gathered.len();
            self.gathered.extend_from_slice(&self.chunk.split_to(missing));
            self.gathered.split().freeze()
        };
        bytes.advance(PREFIX_BYTES);
        Ok(Some(Received { bytes, held: self.held.split(whole) }))
    }

    /// Of the message at the front, once its prefix is here. The limit is checked before anything is made for it.
    fn message_length(&self) -> Result<Option<usize>, Refusal> {
        let mut front = Buf::chain(&self.gathered[..], &self.chunk[..]);
        if front.remaining() < PREFIX_BYTES {
            return Ok(None);
        }
        match front.get_u8() {
            0 => {}
            1 => return Err(Refusal::Protocol(Code::Internal, "a compressed message without grpc-encoding")),
            _ => return Err(Refusal::Protocol(Code::Internal, "a message flag other than 0 and 1")),
        }
        let length = front.get_u32() as usize;
        if length > self.message_bytes_max {
            let failure = Failure::not_applied(Reason::MessageTooLarge);
            return Err(failure.limit(self.message_bytes_max as u64, length as u64).into());
        }
        Ok(Some(length))
    }
}

/// A message from its bytes; `bytes` fields share them.
pub(crate) fn decode<M: Message + Default>(bytes: Bytes, caps: &[Cap]) -> Result<M, Failure> {
    for cap in caps {
        let elements = occurrences(&bytes, cap.path).ok_or_else(malformed)?;
        if elements > cap.elements_max {
            let failure = Failure::not_applied(Reason::BatchTooLarge);
            return Err(failure.limit(cap.elements_max as u64, elements as u64));
        }
    }
    M::decode(bytes).map_err(|_| malformed())
}

/// A message behind its prefix.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    encode_to(message, &mut out);
    out.freeze()
}

/// Appends a message behind its prefix.
pub(crate) fn encode_to(message: &impl Message, out: &mut BytesMut) {
    let length = u32::try_from(message.encoded_len()).expect("answers are bounded far below 4 GiB");
    out.reserve(PREFIX_BYTES + length as usize);
    out.put_u8(0);
    out.put_u32(length);
    message.encode(out).expect("a growing buffer has room");
}

fn malformed() -> Failure {
    Failure::not_applied(Reason::Malformed)
}

/// How often the field at the end of `path` occurs; None if this is no message, or has a group, which none of ours has.
fn occurrences(mut message: &[u8], path: &[u32]) -> Option<usize> {
    let (&wanted, deeper) = path.split_first()?;
    let mut count = 0;
    while !message.is_empty() {
        let key = prost::decode_length_delimiter(&mut message).ok()?;
        let is_wanted = key >> 3 == wanted as usize;
        match key & 7 {
            0 => {
                prost::decode_length_delimiter(&mut message).ok()?;
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = prost::decode_length_delimiter(&mut message).ok()?;
                let (field, rest) = message.split_at_checked(length)?;
                message = rest;
                if is_wanted && deeper.is_empty() {
                    count += 1;
                } else if is_wanted {
                    count += occurrences(field, deeper)?;
                }
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(count)
}
