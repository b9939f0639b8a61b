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
pub(crate) const PREFIX_BYTES: usize = 5;

/// Advice to who met a spent budget: by then most of what was in flight is answered.
const RETRY_AFTER_MS: u32 = 100;

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
    /// Nothing is refused because the budget is spent.
    overdraws: bool,
    ended: bool,
    /// What may turn out to be the only message.
    first: Option<Received>,
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
            overdraws: false,
            ended: false,
            first: None,
        }
    }

    /// Takes from the budget even when it is spent, so that others are refused first: for links, without which the cluster
    /// fails, and whose own bound is one request each.
    pub(crate) fn overdrawing(self) -> Messages<T> {
        Messages { overdraws: true, ..self }
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
    pub(crate) fn poll_single(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Refusal>> {
        if self.first.is_none() {
            let first = ready!(self.poll_next(cx))?;
            let none = Refusal::Protocol(Code::Unimplemented, "the call has no message");
            self.first = Some(first.ok_or(none)?);
        }
        match ready!(self.poll_next(cx))? {
            None => Poll::Ready(Ok(self.first.take().expect("set above"))),
            Some(_) => {
                let two = Refusal::Protocol(Code::Unimplemented, "the call has more than one message");
                Poll::Ready(Err(two))
            }
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
        if self.overdraws {
            self.held.grow_over(data.len());
        } else if !self.held.grow(data.len()) {
            return Poll::Ready(Err(overloaded().into()));
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

/// The core's or the connection's budget is spent.
pub(crate) fn overloaded() -> Failure {
    Failure { retry_after_ms: RETRY_AFTER_MS, ..Failure::not_applied(Reason::Overloaded) }
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

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::super::proto::v1;
    use super::super::stats::Counters;
    use super::*;
    use crate::types::prng::Prng;
    use futures_util::FutureExt;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::future::poll_fn;
    use std::sync::Arc;

    const MESSAGE_BYTES_MAX: usize = 1_000;

    type Outcome = Result<Vec<Bytes>, Refusal>;

    /// All messages of a body that comes in these pieces.
    fn read(pieces: Vec<Bytes>) -> Outcome {
        let counters: Arc<[Counters]> = Arc::new([Counters::new()]);
        let share = Budget::new(1 << 20, Arc::clone(&counters), 0).share();
        let frames = pieces.into_iter().map(|piece| Ok::<_, hyper::Error>(Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut messages = Messages::new(body, share.hold(), MESSAGE_BYTES_MAX);
        let mut found = Vec::new();
        let outcome = loop {
            match poll_fn(|cx| messages.poll_next(cx)).now_or_never().expect("nothing waits") {
                Ok(Some(received)) => found.push(received.bytes),
                Ok(None) => break Ok(found),
                Err(refusal) => break Err(refusal),
            }
        };
        drop(messages);
        assert_eq!(counters[0].bytes_in_flight.get(), 0, "every charge is given back");
        outcome
    }

    fn cut(prng: &mut Prng, mut bytes: Bytes) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let length = prng.between(1, 400).min(bytes.len() as u64) as usize;
            pieces.push(bytes.split_to(length));
            if prng.chance(100) {
                pieces.push(Bytes::new());
            }
        }
        pieces
    }

    #[test]
    fn messages_come_out_however_the_body_is_cut() {
        for seed in 0..500 {
            let mut prng = Prng::new(seed);
            let count = prng.below(12);
            let sent: Vec<Bytes> = (0..count)
                .map(|_| {
                    let length = prng.below(MESSAGE_BYTES_MAX as u64 + 1) as usize;
                    (0..length).map(|_| prng.next_u64() as u8).collect()
                })
                .collect();
            let mut body = BytesMut::new();
            for message in &sent {
                body.put_u8(0);
                body.put_u32(message.len() as u32);
                body.put_slice(message);
            }
            let pieces = cut(&mut prng, body.freeze());
            assert_eq!(read(pieces).expect("well-formed"), sent, "seed {seed}");
        }
    }

    #[test]
    fn damaged_body_is_refused_or_read_and_never_more() {
        for seed in 0..2_000 {
            let mut prng = Prng::new(seed);
            let mut body =
                encode(&v1::GetRequest { key: vec![7; 300].into(), ..Default::default() }).to_vec();
            for _ in 0..prng.between(1, 4) {
                let at = prng.below(body.len() as u64) as usize;
                body[at] ^= 1 << prng.below(8);
            }
            body.truncate(prng.between(1, body.len() as u64) as usize);
            if let Ok(messages) = read(cut(&mut prng, body.into())) {
                for message in messages {
                    assert!(message.len() <= MESSAGE_BYTES_MAX, "seed {seed}");
                    let caps = [Cap { path: &[5, 1], elements_max: 0 }];
                    drop(decode::<v1::GetRequest>(message, &caps)); // must not panic; either answer will do
                }
            }
        }
    }

    #[test]
    fn elements_are_counted_as_prost_makes_them() {
        for seed in 0..300 {
            let mut prng = Prng::new(seed);
            let keys: Vec<Bytes> =
                (0..prng.below(20)).map(|_| vec![1; prng.below(300) as usize].into()).collect();
            let batch = v1::BatchReadRequest { keys, level: prng.below(4) as i32, ..Default::default() };
            let bytes = batch.encode_to_vec();
            assert_eq!(occurrences(&bytes, &[1]), Some(batch.keys.len()), "seed {seed}");
            let operation = Some(v1::pipeline_request::Operation::BatchRead(batch.clone()));
            let nested = v1::PipelineRequest { seq: prng.next_u64(), operation, timeout_ms: 9 };
            assert_eq!(occurrences(&nested.encode_to_vec(), &[6, 1]), Some(batch.keys.len()), "seed {seed}");
            assert_eq!(occurrences(&nested.encode_to_vec(), &[7, 1]), Some(0), "seed {seed}");
        }
    }

    #[test]
    fn message_in_one_frame_is_not_copied() {
        let body = encode(&v1::GetRequest { key: Bytes::from_static(b"key"), ..Default::default() });
        let there = body.as_ptr() as usize;
        let messages = read(vec![body]).expect("well-formed");
        let request: v1::GetRequest = decode(messages[0].clone(), &[]).expect("a message");
        assert!((there..there + 20).contains(&(request.key.as_ptr() as usize)));
    }
}
