//! The client's half of an HTTP/2 connection that makes gRPC calls: unary ones, and one stream that stays open. Every call's
//! headers are the same few bytes; an answer's message is looked at where it lies. Own code because a client made of the
//! server's own parts needs as much CPU as the server, and on a small machine would never saturate it.
#![allow(clippy::big_endian_bytes, reason = "HTTP/2 is big-endian")]

use super::{Answer, Ended, INTERNAL, Refusal, broken};
use loona_hpack::Decoder;
use std::collections::VecDeque;
use std::io;

const FRAME_HEADER_BYTES: usize = 9;
/// Received until the server's window is opened again by as much.
const WINDOW_STEP: u32 = 1 << 30;
/// What may wait for the stream's window before no more is taken.
const STREAM_QUEUE_BYTES: usize = 1 << 20;
/// Calls at a time until the server's settings are there: a server should not admit fewer (RFC 9113, 6.5.2).
const STREAMS_UNTOLD: usize = 100;
/// Streams have 31 bits.
const LAST_STREAM: u32 = i32::MAX as u32;
/// gRPC's prefix: a byte that says "not compressed", the length of the message.
pub(crate) const PREFIX_BYTES: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

const SETTING_STREAMS_MAX: u16 = 3;
const SETTING_WINDOW: u16 = 4;
const SETTING_FRAME_MAX: u16 = 5;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// Entries of HPACK's static table.
const STATIC_ENTRIES: usize = 61;

/// How the answer to a call of a path is read: its message, without the prefix.
pub(crate) type Read = fn(path: usize, message: &[u8]) -> Answer;

/// A call that waits for its answer.
struct Call {
    tag: u32,
    path: usize,
    answer: Option<Answer>,
    /// What has come of a message in several frames.
    partial: Vec<u8>,
}

/// A message, or the rest of it, that the server's windows do not admit yet.
struct Waiting {
    id: u32,
    window: i64,
    out: Vec<u8>,
}

/// The call that stays open.
struct Stream {
    id: u32,
    window: i64,
    out: Vec<u8>,
    incoming: Vec<u8>,
    received: u32,
}

/// One connection's HTTP/2.
pub(crate) struct Http2 {
    paths: &'static [&'static str],
    read: Read,
    authority: String,
    out: Vec<u8>,
    /// Names and values that the server remembers, oldest first.
    table: Vec<(&'static str, String)>,
    next_stream: u32,
    /// By stream; the first is that of `first_stream`.
    calls: VecDeque<Option<Call>>,
    first_stream: u32,
    open: usize,
    stream: Option<Stream>,
    waiting: Option<Waiting>,
    window: i64,
    window_of_streams: i64,
    frame_max: usize,
    streams_max: usize,
    /// The server has sent its settings.
    told: bool,
    /// Bytes of DATA since the window was last opened.
    received: u32,
    leaving: bool,
    decoder: Decoder<'static>,
    /// The last block of trailers that only points into the table, and its status.
    known: Option<(Vec<u8>, u8)>,
    /// A block that goes on: its stream, whether it ends the stream, and its beginning.
    block: Option<(u32, bool, Vec<u8>)>,
}

impl Http2 {
    /// The server's settings are not waited for. `paths`: those that will be called.
    pub(crate) fn new(authority: String, paths: &'static [&'static str], read: Read) -> Http2 {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let window = (i32::MAX as u32).to_be_bytes();
        // ENABLE_PUSH = 0, INITIAL_WINDOW_SIZE = the greatest.
        let settings = [&[0, 2, 0, 0, 0, 0, 0, 4][..], &window[..]].concat();
        frame(&mut out, SETTINGS, 0, 0, &settings);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes());
        Http2 {
            paths,
            read,
            authority,
            out,
            table: Vec::new(),
            next_stream: 1,
            calls: VecDeque::new(),
            first_stream: 1,
            open: 0,
            stream: None,
            waiting: None,
            window: 65_535,
            window_of_streams: 65_535,
            frame_max: 16 << 10,
            streams_max: STREAMS_UNTOLD,
            told: false,
            received: 0,
            leaving: false,
            decoder: Decoder::new(),
            known: None,
            block: None,
        }
    }

    /// May a call be begun, or a message be sent on the stream?
    pub(crate) fn has_room(&self) -> bool {
        !self.leaving
            && self.waiting.is_none()
            && self.open < self.streams_max
            && self.stream.as_ref().is_none_or(|stream| stream.out.len() < STREAM_QUEUE_BYTES)
    }

    /// Will it begin no call any more, and has none open? The server has sent it away, or its streams are used up.
    pub(crate) fn is_spent(&self) -> bool {
        self.leaving && self.open == 0
    }

    /// Calls without an answer, the open stream left out.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// What is to be sent.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Begins a call of `paths[path]`, for which there is room; `message` has room for the prefix in front.
    pub(crate) fn unary(&mut self, path: usize, tag: u32, message: &mut [u8]) {
        assert!(self.waiting.is_none(), "no call is begun while another's message waits");
        write_prefix(message);
        let id = self.begin(path);
        self.calls.push_back(Some(Call { tag, path, answer: None, partial: Vec::new() }));
        self.open += 1;
        let mut window = self.window_of_streams;
        let windows = [&mut self.window, &mut window];
        let sent = data_frames(&mut self.out, windows, self.frame_max, id, message, END_STREAM);
        if sent < message.len() {
            self.waiting = Some(Waiting { id, window, out: message[sent..].to_vec() });
        }
    }

    /// Sends a message on the call of `paths[path]` that stays open; begun by its first message. `message` has room for the
    /// prefix in front.
    pub(crate) fn send(&mut self, path: usize, message: &mut [u8]) {
        write_prefix(message);
        if self.stream.is_none() {
            let id = self.begin(path);
            // Its place among the calls stays empty: its answers are none of theirs.
            self.calls.push_back(None);
            let window = self.window_of_streams;
            self.stream = Some(Stream { id, window, out: Vec::new(), incoming: Vec::new(), received: 0 });
        }
        if let Some(stream) = &mut self.stream {
            stream.out.extend_from_slice(message);
        }
    }

    /// Puts what the open stream has to say into frames.
    pub(crate) fn pump_stream(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let windows = [&mut self.window, &mut stream.window];
        let sent = data_frames(&mut self.out, windows, self.frame_max, stream.id, &stream.out, 0);
        stream.out.drain(..sent);
    }

    fn pump(&mut self) {
        let Some(waiting) = &mut self.waiting else { return };
        let windows = [&mut self.window, &mut waiting.window];
        let sent = data_frames(&mut self.out, windows, self.frame_max, waiting.id, &waiting.out, END_STREAM);
        waiting.out.drain(..sent);
        if waiting.out.is_empty() {
            self.waiting = None;
        }
    }

    /// Takes in what has come. `ended`: calls that are complete; `message`: those of the open stream. Returns the bytes
    /// that were used up.
    pub(crate) fn take_in(
        &mut self,
        bytes: &[u8],
        ended: &mut dyn FnMut(Ended),
        message: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<usize> {
        let mut at = 0;
        while let Some(header) = bytes[at..].first_chunk::<FRAME_HEADER_BYTES>() {
            let [a, b, c, kind, flags, id @ ..] = *header;
            let whole = FRAME_HEADER_BYTES + u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(payload) = bytes[at..].get(FRAME_HEADER_BYTES..whole) else { break };
            let id = u32::from_be_bytes(id) & i32::MAX as u32;
            self.frame(kind, flags, id, payload, ended, message)?;
            at += whole;
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        payload: &[u8],
        ended: &mut dyn FnMut(Ended),
        message: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match kind {
            DATA => {
                self.data(flags, id, payload, message)?;
                if flags & END_STREAM != 0 {
                    // gRPC's answers end with trailers.
                    self.answered(id, INTERNAL, ended)?;
                }
            }
            HEADERS => {
                let block = unpadded(flags, payload)?;
                let block = if flags & PRIORITY == 0 { block } else { block.get(5..).ok_or_else(short)? };
                let ends = flags & END_STREAM != 0;
                if flags & END_HEADERS == 0 {
                    self.block = Some((id, ends, block.to_vec()));
                } else {
                    self.headers(id, ends, block, ended)?;
                }
            }
            CONTINUATION => {
                let (stream, ends, mut block) =
                    self.block.take().ok_or_else(|| broken("a continuation of nothing"))?;
                block.extend_from_slice(payload);
                if flags & END_HEADERS == 0 {
                    self.block = Some((stream, ends, block));
                } else {
                    self.headers(stream, ends, &block, ended)?;
                }
            }
            RST_STREAM => {
                let refused = word(payload, 0)? == REFUSED_STREAM;
                let refusal = if refused { Refusal::NotBegun } else { Refusal::Cut };
                self.forget_waiting(id);
                self.end(id, |_| Answer::Refused(refusal), ended)?;
            }
            SETTINGS if flags & ACK == 0 => self.settings(payload)?,
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            GOAWAY => {
                self.leaving = true;
                let last = word(payload, 0)? & i32::MAX as u32;
                for stream in (self.first_stream..self.next_stream).step_by(2).filter(|stream| *stream > last)
                {
                    self.forget_waiting(stream);
                    self.end(stream, |_| Answer::Refused(Refusal::NotBegun), ended)?;
                }
            }
            WINDOW_UPDATE => {
                let more = i64::from(word(payload, 0)?);
                if id == 0 {
                    self.window += more;
                } else if let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.id == id) {
                    waiting.window += more;
                } else if let Some(stream) = self.stream.as_mut().filter(|stream| stream.id == id) {
                    stream.window += more;
                }
                self.pump();
                self.pump_stream();
            }
            PUSH_PROMISE => return Err(broken("a push that was not asked for")),
            _ => {}
        }
        Ok(())
    }

    fn data(
        &mut self,
        flags: u8,
        id: u32,
        payload: &[u8],
        message: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let bytes = payload.len() as u32;
        self.received += bytes;
        if self.received >= WINDOW_STEP {
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        let payload = unpadded(flags, payload)?;
        if let Some(stream) = self.stream.as_mut().filter(|stream| stream.id == id) {
            stream.received += bytes;
            if stream.received >= WINDOW_STEP {
                frame(&mut self.out, WINDOW_UPDATE, 0, id, &stream.received.to_be_bytes());
                stream.received = 0;
            }
            if stream.incoming.is_empty() {
                let used = messages(payload, message)?;
                stream.incoming.extend_from_slice(&payload[used..]);
            } else {
                stream.incoming.extend_from_slice(payload);
                let used = messages(&stream.incoming, message)?;
                stream.incoming.drain(..used);
            }
            return Ok(());
        }
        let read = self.read;
        // Of a call that has ended already, by our own fault or the server's haste: nobody waits for it.
        let Some(call) = self.call(id) else { return Ok(()) };
        if call.partial.is_empty() && whole(payload) {
            call.answer = Some(read(call.path, &payload[PREFIX_BYTES..]));
        } else {
            call.partial.extend_from_slice(payload);
            if whole(&call.partial) {
                call.answer = Some(read(call.path, &call.partial[PREFIX_BYTES..]));
            }
        }
        Ok(())
    }

    fn headers(&mut self, id: u32, ends: bool, block: &[u8], ended: &mut dyn FnMut(Ended)) -> io::Result<()> {
        // A block that only points into the table leaves the table as it is.
        let points = block.iter().all(|byte| byte & 0x80 != 0 && *byte != 0xFF);
        if points && !ends {
            return Ok(());
        }
        let known = self.known.as_ref().filter(|(known, _)| points && known == block);
        let status = match known {
            Some((_, status)) => *status,
            None => {
                let status = self.status(block)?;
                self.known = points.then(|| (block.to_vec(), status));
                status
            }
        };
        if !ends {
            return Ok(());
        }
        self.answered(id, status, ended)
    }

    /// gRPC's status in a block of headers; 2 (UNKNOWN) where it ends a call without one.
    fn status(&mut self, block: &[u8]) -> io::Result<u8> {
        let mut status = 2;
        let each = |name: std::borrow::Cow<'_, [u8]>, value: std::borrow::Cow<'_, [u8]>| {
            if &*name == b"grpc-status" {
                status = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).unwrap_or(2);
            }
        };
        self.decoder.decode_with_cb(block, each).map_err(|_| broken("headers that cannot be read"))?;
        Ok(status)
    }

    fn call(&mut self, id: u32) -> Option<&mut Call> {
        let slot = self.slot(id);
        self.calls.get_mut(slot)?.as_mut()
    }

    fn slot(&self, id: u32) -> usize {
        (id.wrapping_sub(self.first_stream) / 2) as usize
    }

    /// The server has said all that it says to a call: its message, if it has sent one, and gRPC's status.
    fn answered(&mut self, id: u32, status: u8, ended: &mut dyn FnMut(Ended)) -> io::Result<()> {
        if self.forget_waiting(id) {
            // It did not wait for the whole request, and gets no more of it (RFC 9113, 8.1).
            frame(&mut self.out, RST_STREAM, 0, id, &CANCEL.to_be_bytes());
        }
        let told = |answer| match (status, answer) {
            (0, Some(answer)) => answer,
            // Neither a message nor a failure: no gRPC.
            (0, None) => Answer::Refused(Refusal::Code(INTERNAL)),
            (status, _) => Answer::Refused(Refusal::Code(status)),
        };
        self.end(id, told, ended)
    }

    /// Does a message that waits belong to this call? Then it is sent no more.
    fn forget_waiting(&mut self, id: u32) -> bool {
        self.waiting.take_if(|waiting| waiting.id == id).is_some()
    }

    /// Ends a call, unless it has ended before; `told`: what its message makes of it.
    fn end(
        &mut self,
        id: u32,
        told: impl FnOnce(Option<Answer>) -> Answer,
        ended: &mut dyn FnMut(Ended),
    ) -> io::Result<()> {
        if self.stream.as_ref().is_some_and(|stream| stream.id == id) {
            return Err(broken("the server has ended the stream"));
        }
        let slot = self.slot(id);
        if let Some(call) = self.calls.get_mut(slot).and_then(Option::take) {
            self.forget_ended();
            ended(Ended { tag: call.tag, answer: told(call.answer) });
        }
        Ok(())
    }

    fn forget_ended(&mut self) {
        self.open -= 1;
        while let Some(None) = self.calls.front() {
            self.calls.pop_front();
            self.first_stream += 2;
        }
    }

    /// The connection is gone: what is open ends so.
    pub(crate) fn cut(&mut self, ended: &mut dyn FnMut(Ended)) {
        for call in self.calls.drain(..).flatten() {
            ended(Ended { tag: call.tag, answer: Answer::Refused(Refusal::Cut) });
        }
        self.open = 0;
    }

    fn settings(&mut self, payload: &[u8]) -> io::Result<()> {
        if !std::mem::replace(&mut self.told, true) {
            // Unless it says otherwise.
            self.streams_max = usize::MAX;
        }
        for setting in payload.chunks_exact(6) {
            let value = word(setting, 2)?;
            match u16::from_be_bytes([setting[0], setting[1]]) {
                SETTING_STREAMS_MAX => self.streams_max = value as usize,
                SETTING_WINDOW => {
                    let more = i64::from(value) - self.window_of_streams;
                    self.window_of_streams += more;
                    if let Some(waiting) = &mut self.waiting {
                        waiting.window += more;
                    }
                    if let Some(stream) = &mut self.stream {
                        stream.window += more;
                    }
                }
                SETTING_FRAME_MAX => self.frame_max = value as usize,
                _ => {}
            }
        }
        frame(&mut self.out, SETTINGS, ACK, 0, &[]);
        self.pump();
        self.pump_stream();
        Ok(())
    }

    /// A call's headers: each is written out and put into the HPACK table the first time, pointed at every other time.
    fn begin(&mut self, path: usize) -> u32 {
        const METHOD_POST: u8 = 0x83;
        const SCHEME_HTTP: u8 = 0x86;
        let id = self.next_stream;
        self.next_stream += 2;
        self.leaving |= self.next_stream > LAST_STREAM;
        if self.calls.is_empty() {
            self.first_stream = id;
        }
        let at = self.out.len();
        frame_header(&mut self.out, 0, HEADERS, END_HEADERS, id);
        let from = self.out.len();
        self.out.extend([METHOD_POST, SCHEME_HTTP]);
        self.header(":path", self.paths[path]);
        let authority = std::mem::take(&mut self.authority);
        self.header(":authority", &authority);
        self.authority = authority;
        self.header("content-type", "application/grpc");
        self.header("te", "trailers");
        let bytes = (self.out.len() - from) as u32;
        self.out[at..at + 3].copy_from_slice(&bytes.to_be_bytes()[1..]);
        id
    }

    fn header(&mut self, name: &'static str, value: &str) {
        if let Some(index) = self.table.iter().position(|entry| entry.0 == name && entry.1 == value) {
            // The newest entry comes right behind the static ones.
            self.out.push(0x80 | (STATIC_ENTRIES + self.table.len() - index) as u8);
            return;
        }
        let static_name = match name {
            ":authority" => 1,
            ":path" => 4,
            "content-type" => 31,
            _ => 0,
        };
        self.out.push(0x40 | static_name);
        let texts = [name, value];
        for text in &texts[usize::from(static_name != 0)..] {
            assert!(text.len() < 127, "the length fits its byte");
            self.out.push(text.len() as u8);
            self.out.extend_from_slice(text.as_bytes());
        }
        self.table.push((name, value.to_owned()));
    }
}

/// Writes gRPC's prefix into the first bytes of a message.
fn write_prefix(message: &mut [u8]) {
    let bytes = (message.len() - PREFIX_BYTES) as u32;
    message[0] = 0;
    message[1..PREFIX_BYTES].copy_from_slice(&bytes.to_be_bytes());
}

/// Is this one message with its prefix?
fn whole(bytes: &[u8]) -> bool {
    word(bytes, 1).is_ok_and(|length| bytes.len() == PREFIX_BYTES + length as usize)
}

/// Hands out the messages that are complete; the bytes that they took.
fn messages(bytes: &[u8], message: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<usize> {
    let mut at = 0;
    while let Ok(length) = word(&bytes[at..], 1) {
        let Some(body) = bytes[at..].get(PREFIX_BYTES..PREFIX_BYTES + length as usize) else { break };
        message(body)?;
        at += PREFIX_BYTES + length as usize;
    }
    Ok(at)
}

fn unpadded(flags: u8, payload: &[u8]) -> io::Result<&[u8]> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or_else(short)?;
    rest.get(..rest.len().wrapping_sub(usize::from(*padding))).ok_or_else(short)
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u32::from_be_bytes(*word)).ok_or_else(short)
}

/// Puts as many of a message's bytes into frames as both windows admit, the connection's and the stream's; how many.
/// `last`: flags of the frame that ends the message.
fn data_frames(
    out: &mut Vec<u8>,
    [connection, stream]: [&mut i64; 2],
    frame_max: usize,
    id: u32,
    message: &[u8],
    last: u8,
) -> usize {
    let mut sent = 0;
    while sent < message.len() {
        let most = (*connection).min(*stream).clamp(0, frame_max as i64) as usize;
        let bytes = most.min(message.len() - sent);
        if bytes == 0 {
            break;
        }
        let flags = if sent + bytes == message.len() { last } else { 0 };
        frame(out, DATA, flags, id, &message[sent..sent + bytes]);
        *connection -= bytes as i64;
        *stream -= bytes as i64;
        sent += bytes;
    }
    sent
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

fn short() -> io::Error {
    broken("a frame that is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: &[&str] = &["/a", "/b"];

    fn http2() -> Http2 {
        Http2::new("n:1".to_owned(), PATHS, |path, message| Answer::Done {
            absent: message.len() as u32,
            failed: path as u32,
        })
    }

    fn message(body: &[u8]) -> Vec<u8> {
        [&[0; PREFIX_BYTES], body].concat()
    }

    fn prefixed(body: &[u8]) -> Vec<u8> {
        let mut message = message(body);
        write_prefix(&mut message);
        message
    }

    /// Frames of what was sent: kind, flags, stream, payload.
    fn sent(http2: &mut Http2) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut out = std::mem::take(http2.out());
        if out.starts_with(b"PRI") {
            out.drain(..24);
        }
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < out.len() {
            let length = u32::from_be_bytes([0, out[at], out[at + 1], out[at + 2]]) as usize;
            let id = u32::from_be_bytes(out[at + 5..at + 9].try_into().unwrap());
            frames.push((out[at + 3], out[at + 4], id, out[at + 9..at + 9 + length].to_vec()));
            at += 9 + length;
        }
        frames
    }

    fn take_in(http2: &mut Http2, bytes: &[u8]) -> Vec<Ended> {
        let mut ended = Vec::new();
        let used = http2.take_in(bytes, &mut |end| ended.push(end), &mut |_| Ok(())).unwrap();
        assert_eq!(used, bytes.len());
        ended
    }

    fn done(tag: u32, absent: u32, failed: u32) -> Ended {
        Ended { tag, answer: Answer::Done { absent, failed } }
    }

    /// grpc-status: 0, to be remembered.
    const STATUS_0: &[u8] = b"\x40\x0bgrpc-status\x010";

    #[test]
    fn answers_end_their_calls_in_any_order() {
        let mut http2 = http2();
        http2.unary(0, 70, &mut message(b"one"));
        http2.unary(1, 71, &mut message(b"two"));
        let mut answers = Vec::new();
        frame(&mut answers, SETTINGS, 0, 0, &[]);
        frame(&mut answers, HEADERS, END_HEADERS, 3, &[0x88]);
        frame(&mut answers, DATA, 0, 3, &prefixed(b"12345"));
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 3, STATUS_0);
        frame(&mut answers, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut answers, DATA, PADDED, 1, &[&[2][..], &prefixed(b"123")[..], &[0, 0]].concat());
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 1, &[0x80 | 62]);
        assert_eq!(take_in(&mut http2, &answers), [done(71, 5, 1), done(70, 3, 0)]);
        assert_eq!((http2.open(), http2.first_stream), (0, 5));
        let frames = sent(&mut http2);
        let data: Vec<_> = frames.iter().filter(|frame| frame.0 == DATA).collect();
        assert_eq!(data[0], &(DATA, END_STREAM, 1, prefixed(b"one")));
        assert_eq!((frames.last().unwrap().0, frames.last().unwrap().1), (SETTINGS, ACK));
    }

    #[test]
    fn headers_decode_to_the_same_for_every_call() {
        let mut http2 = http2();
        for call in 0..6 {
            http2.unary(call % 2, call as u32, &mut message(b""));
        }
        let mut decoder = Decoder::new();
        let blocks = sent(&mut http2).into_iter().filter(|frame| frame.0 == HEADERS);
        for (call, (_, _, _, block)) in blocks.enumerate() {
            let texts: Vec<String> = decoder
                .decode(&block)
                .unwrap()
                .into_iter()
                .map(|(name, value)| {
                    format!("{}={}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&value))
                })
                .collect();
            let path = format!(":path={}", PATHS[call % 2]);
            let expected = [
                ":method=POST",
                ":scheme=http",
                &path,
                ":authority=n:1",
                "content-type=application/grpc",
                "te=trailers",
            ];
            assert_eq!(texts, expected, "call {call}");
            assert!(call < 2 || block.len() == 6);
        }
    }

    #[test]
    fn failures_are_told_by_their_status() {
        let mut http2 = http2();
        (0..5).for_each(|tag| http2.unary(0, tag, &mut message(b"")));
        let mut answers = Vec::new();
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x40\x0bgrpc-status\x0214");
        frame(&mut answers, HEADERS, END_STREAM, 3, &[0x88]);
        frame(&mut answers, CONTINUATION, END_HEADERS, 3, &[0x80 | 62]);
        frame(&mut answers, RST_STREAM, 0, 5, &[0, 0, 0, 7]);
        frame(&mut answers, RST_STREAM, 0, 7, &[0, 0, 0, 2]);
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 9, &[0x8D]); // 404, and no word of gRPC
        let refused: Vec<_> = take_in(&mut http2, &answers).into_iter().map(|end| end.answer).collect();
        let codes = [Refusal::Code(14), Refusal::Code(14), Refusal::NotBegun, Refusal::Cut, Refusal::Code(2)];
        assert_eq!(refused, codes.map(Answer::Refused));
    }

    #[test]
    fn who_is_sent_away_learns_what_was_not_begun() {
        let mut http2 = http2();
        (0..3).for_each(|tag| http2.unary(0, tag, &mut message(b"")));
        let mut answers = Vec::new();
        frame(&mut answers, GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        let ended: Vec<_> = take_in(&mut http2, &answers);
        assert!(ended.iter().all(|end| end.answer == Answer::Refused(Refusal::NotBegun)));
        assert_eq!((ended.len(), http2.open(), http2.has_room(), http2.is_spent()), (2, 1, false, false));
        let mut cut = Vec::new();
        http2.cut(&mut |end| cut.push(end));
        assert!(http2.is_spent());
        assert_eq!(cut, [Ended { tag: 0, answer: Answer::Refused(Refusal::Cut) }]);
    }

    #[test]
    fn connection_whose_streams_are_used_up_is_spent() {
        let mut http2 = http2();
        (http2.next_stream, http2.first_stream) = (LAST_STREAM - 2, LAST_STREAM - 2);
        http2.unary(0, 1, &mut message(b""));
        assert!(http2.has_room());
        http2.unary(0, 2, &mut message(b""));
        assert!(!http2.has_room() && !http2.is_spent(), "the last one has no answer yet");
    }

    #[test]
    fn what_a_call_does_not_wait_for_is_not_sent() {
        let mut http2 = http2();
        http2.unary(0, 1, &mut message(&vec![7; 100_000]));
        sent(&mut http2);
        let mut answers = Vec::new();
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x40\x0bgrpc-status\x018");
        assert_eq!(
            take_in(&mut http2, &answers),
            [Ended { tag: 1, answer: Answer::Refused(Refusal::Code(8)) }]
        );
        assert_eq!(sent(&mut http2), [(RST_STREAM, 0, 1, CANCEL.to_be_bytes().to_vec())]);
        assert!(http2.has_room(), "nothing waits any more");
        let mut after = Vec::new();
        frame(&mut after, RST_STREAM, 0, 1, &[0; 4]); // NO_ERROR: the server wants no more of it either
        frame(&mut after, WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes());
        assert_eq!(take_in(&mut http2, &after), []);
        assert_eq!(sent(&mut http2), []);
        http2.unary(0, 2, &mut message(b"short"));
        sent(&mut http2);
        let mut answers = Vec::new();
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 3, &[0x80 | 62]);
        take_in(&mut http2, &answers);
        assert_eq!(sent(&mut http2), [], "a request that was sent whole is not taken back");
    }

    #[test]
    fn answer_without_trailers_is_none() {
        let mut http2 = http2();
        http2.unary(0, 5, &mut message(b""));
        let mut answers = Vec::new();
        frame(&mut answers, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut answers, DATA, END_STREAM, 1, &prefixed(b"123"));
        let ended = take_in(&mut http2, &answers);
        assert_eq!(ended, [Ended { tag: 5, answer: Answer::Refused(Refusal::Code(INTERNAL)) }]);
        assert_eq!(http2.open(), 0);
        http2.send(0, &mut message(b""));
        let mut end = Vec::new();
        frame(&mut end, DATA, END_STREAM, 3, &[]);
        assert!(http2.take_in(&end, &mut |_| (), &mut |_| Ok(())).is_err(), "the stream is to stay open");
    }

    #[test]
    fn answer_before_a_reset_counts() {
        let mut http2 = http2();
        http2.unary(0, 5, &mut message(b""));
        let mut answers = Vec::new();
        frame(&mut answers, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut answers, DATA, 0, 1, &prefixed(b"123"));
        frame(&mut answers, HEADERS, END_HEADERS | END_STREAM, 1, STATUS_0);
        frame(&mut answers, RST_STREAM, 0, 1, &[0; 4]);
        assert_eq!(take_in(&mut http2, &answers), [done(5, 3, 0)]);
    }

    #[test]
    fn calls_at_a_time_are_what_the_server_admits() {
        let mut http2 = http2();
        (0..99).for_each(|tag| http2.unary(0, tag, &mut message(b"")));
        assert!(http2.has_room());
        http2.unary(0, 99, &mut message(b""));
        assert!(!http2.has_room(), "its settings are not known");
        let mut settings = Vec::new();
        frame(&mut settings, SETTINGS, 0, 0, &[]);
        take_in(&mut http2, &settings);
        assert!(http2.has_room(), "they name no limit");
        let mut settings = Vec::new();
        frame(&mut settings, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 101]);
        frame(&mut settings, SETTINGS, 0, 0, &[]);
        take_in(&mut http2, &settings);
        assert!(http2.has_room());
        http2.unary(0, 100, &mut message(b""));
        assert!(!http2.has_room(), "what a later frame does not name stays");
    }

    #[test]
    fn long_messages_wait_for_the_servers_windows() {
        let mut http2 = http2();
        http2.unary(0, 1, &mut message(&vec![7; 100_000]));
        assert!(!http2.has_room(), "another would have to wait too");
        let bytes = |frames: Vec<(u8, u8, u32, Vec<u8>)>| {
            frames.iter().filter(|frame| frame.0 == DATA).map(|frame| frame.3.len()).sum::<usize>()
        };
        assert_eq!(bytes(sent(&mut http2)), 65_535);
        let mut more = Vec::new();
        frame(&mut more, WINDOW_UPDATE, 0, 0, &50_000_u32.to_be_bytes());
        take_in(&mut http2, &more);
        assert_eq!(bytes(sent(&mut http2)), 0, "the stream's own window is shut");
        let mut wider = Vec::new();
        frame(&mut wider, SETTINGS, 0, 0, &[0, 4, 0, 1, 0x86, 0xA5]); // 100 005
        take_in(&mut http2, &wider);
        let frames = sent(&mut http2);
        assert_eq!(bytes(frames.clone()), 100_005 - 65_535);
        assert!(frames.iter().any(|frame| frame.0 == DATA && frame.1 == END_STREAM));
        assert!(http2.has_room());
    }

    #[test]
    fn stream_carries_messages_both_ways_whatever_the_frames() {
        let mut http2 = http2();
        http2.send(1, &mut message(b"one"));
        http2.send(1, &mut message(b"two"));
        http2.pump_stream();
        let data: Vec<u8> = sent(&mut http2).into_iter().filter(|f| f.0 == DATA).flat_map(|f| f.3).collect();
        assert_eq!(data, [prefixed(b"one"), prefixed(b"two")].concat());
        let said = [prefixed(b"first"), prefixed(b""), prefixed(b"third")].concat();
        let mut answers = Vec::new();
        frame(&mut answers, HEADERS, END_HEADERS, 1, &[0x88]);
        for piece in said.chunks(7) {
            frame(&mut answers, DATA, 0, 1, piece);
        }
        let mut heard = Vec::new();
        let mut hear = |message: &[u8]| {
            heard.push(message.to_vec());
            Ok(())
        };
        http2.take_in(&answers, &mut |_| panic!("no call was made"), &mut hear).unwrap();
        assert_eq!(heard, [b"first".to_vec(), b"".to_vec(), b"third".to_vec()]);
    }

    #[test]
    fn half_a_frame_is_left_for_later() {
        let mut http2 = http2();
        http2.unary(0, 1, &mut message(b""));
        let mut answers = Vec::new();
        frame(&mut answers, PING, 0, 0, &[1; 8]);
        let used = http2.take_in(&answers[..12], &mut |_| (), &mut |_| Ok(())).unwrap();
        assert_eq!(used, 0);
        take_in(&mut http2, &answers);
        assert_eq!(sent(&mut http2).last(), Some(&(PING, ACK, 0, vec![1; 8])));
    }
}
