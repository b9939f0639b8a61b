//! A node's own protocol: `ringcore.v1.KV`, one call per request, or one message per request of a Pipeline.

use super::http2::{Http2, PREFIX_BYTES};
use super::protobuf::{Fields, Writer};
use super::{Action, Answer, Ended, INTERNAL, Refusal, Request, Session, broken};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;

const PATHS: &[&str] = &[
    "/ringcore.v1.KV/Get",
    "/ringcore.v1.KV/Put",
    "/ringcore.v1.KV/Delete",
    "/ringcore.v1.KV/BatchRead",
    "/ringcore.v1.KV/BatchWrite",
    "/ringcore.v1.KV/Scan",
    "/ringcore.v1.KV/Pipeline",
];
const GET: usize = 0;
const PUT: usize = 1;
const DELETE: usize = 2;
const BATCH_READ: usize = 3;
const BATCH_WRITE: usize = 4;
const SCAN: usize = 5;
const PIPELINE: usize = 6;

/// Records of a page that a scan asks for.
const PAGE_RECORDS: u64 = 100;

/// How requests are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Manner {
    /// `ringcore.v1.Level`; 0 = the node's default.
    pub(crate) level: u64,
    /// Records expire so long after they were written, milliseconds; 0 = never.
    pub(crate) ttl_ms: u64,
    /// The client that names its writes; 0 = they have no names.
    pub(crate) client_id: u64,
    /// All requests of a connection go over one stream.
    pub(crate) pipeline: bool,
}

impl Default for Manner {
    /// A client that names its writes, with the node's own level.
    fn default() -> Manner {
        Manner { level: 0, ttl_ms: 0, client_id: client_id(), pipeline: false }
    }
}

/// An id that no other client has: random, and below that of its last thread room for theirs.
pub(crate) fn client_id() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    (hasher.finish() >> 8).max(1)
}

/// One connection's session.
pub(crate) struct Ringcore {
    http2: Http2,
    manner: Manner,
    message: Vec<u8>,
    /// Requests of the pipeline without an answer, by tag.
    piped: Vec<bool>,
    piped_open: usize,
}

impl Ringcore {
    /// `authority`: the server's address.
    pub(crate) fn new(authority: String, manner: Manner) -> Ringcore {
        Ringcore {
            http2: Http2::new(authority, PATHS, read_answer),
            manner,
            message: Vec::new(),
            piped: Vec::new(),
            piped_open: 0,
        }
    }
}

impl Session for Ringcore {
    fn has_room(&self) -> bool {
        self.http2.has_room()
    }

    fn is_spent(&self) -> bool {
        self.http2.is_spent() && self.piped_open == 0
    }

    fn begin(&mut self, request: &Request, tag: u32) {
        self.message.clear();
        self.message.resize(PREFIX_BYTES, 0);
        let path = path_of(request);
        if !self.manner.pipeline {
            write_request(&mut Writer(&mut self.message), request, self.manner);
            self.http2.unary(path, tag, &mut self.message);
            return;
        }
        let mut writer = Writer(&mut self.message);
        writer.number(1, u64::from(tag));
        let field = [2, 3, 4, 6, 7][path];
        writer.message(field, |writer| write_request(writer, request, self.manner));
        self.http2.send(PIPELINE, &mut self.message);
        let slot = tag as usize;
        if self.piped.len() <= slot {
            self.piped.resize(slot + 1, false);
        }
        self.piped[slot] = true;
        self.piped_open += 1;
    }

    fn out(&mut self) -> &mut Vec<u8> {
        self.http2.pump_stream();
        self.http2.out()
    }

    fn take_in(&mut self, bytes: &[u8], ended: &mut dyn FnMut(Ended)) -> io::Result<usize> {
        let mut piped: Vec<Ended> = Vec::new();
        let (tags, open) = (&mut self.piped, &mut self.piped_open);
        let mut message = |message: &[u8]| {
            let end = read_piped(message);
            match tags.get_mut(end.tag as usize) {
                Some(waits) if *waits => {
                    *waits = false;
                    *open -= 1;
                    piped.push(end);
                    Ok(())
                }
                _ => Err(broken("an answer to nothing")),
            }
        };
        // What was answered before the connection broke was answered.
        let used = self.http2.take_in(bytes, ended, &mut message);
        piped.into_iter().for_each(ended);
        used
    }

    fn open(&self) -> usize {
        self.http2.open() + self.piped_open
    }

    fn cut(&mut self, ended: &mut dyn FnMut(Ended)) {
        self.http2.cut(ended);
        for (tag, waits) in self.piped.iter_mut().enumerate() {
            if std::mem::take(waits) {
                ended(Ended { tag: tag as u32, answer: Answer::Refused(Refusal::Cut) });
            }
        }
        self.piped_open = 0;
    }
}

fn path_of(request: &Request) -> usize {
    match (request.action, request.only()) {
        (Action::Read, Some(_)) => GET,
        (Action::Write, Some(_)) => PUT,
        (Action::Delete, Some(_)) => DELETE,
        (Action::Read, None) => BATCH_READ,
        (Action::Write | Action::Delete, None) => BATCH_WRITE,
        (Action::Scan, _) => SCAN,
    }
}

fn write_request(writer: &mut Writer<'_>, request: &Request, manner: Manner) {
    let named = request.request_id != 0;
    let (client_id, done_below) = if named { (manner.client_id, request.done_below) } else { (0, 0) };
    match path_of(request) {
        GET => {
            writer.bytes(1, &request.keys);
            writer.number(4, manner.level);
        }
        PUT => {
            writer.bytes(1, &request.keys);
            writer.bytes(2, &request.values);
            writer.number(3, client_id);
            writer.number(4, request.request_id);
            writer.number(5, manner.level);
            writer.number(6, manner.ttl_ms);
            writer.number(13, done_below);
        }
        DELETE => {
            writer.bytes(1, &request.keys);
            writer.number(3, client_id);
            writer.number(4, request.request_id);
            writer.number(5, manner.level);
            writer.number(13, done_below);
        }
        BATCH_READ => {
            request.keys().for_each(|key| writer.bytes(1, key));
            writer.number(4, manner.level);
        }
        BATCH_WRITE => {
            for (key, value) in request.pairs() {
                writer.message(1, |write| {
                    write.bytes(1, key);
                    write.bytes(2, value);
                    write.number(6, manner.ttl_ms);
                });
            }
            if request.action == Action::Delete {
                request.keys().for_each(|key| {
                    writer.message(1, |write| {
                        write.bytes(1, key);
                        write.number(3, 1);
                    });
                });
            }
            writer.number(3, client_id);
            writer.number(4, request.request_id);
            writer.number(5, manner.level);
            writer.number(13, done_below);
        }
        _ => {
            writer.number(3, PAGE_RECORDS);
            writer.number(5, manner.level);
            writer.fixed64(7, request.token);
        }
    }
}

/// Counts in an answer the records that were not there and the operations that failed.
fn read_answer(path: usize, message: &[u8]) -> Answer {
    let mut fields = Fields::of(message);
    let (mut absent, mut failed) = (0, 0);
    match path {
        GET => {
            let exists = fields.by_ref().any(|(field, value)| field == 3 && value.number() != 0);
            absent = u32::from(!exists);
        }
        BATCH_READ | BATCH_WRITE => {
            for (_, result) in fields.by_ref().filter(|(field, _)| *field == 1) {
                let (mut exists, mut error) = (false, false);
                for (field, value) in Fields::of(result.bytes()) {
                    exists |= field == 3 && value.number() != 0;
                    error |= field == 14;
                }
                failed += u32::from(error);
                absent += u32::from(path == BATCH_READ && !error && !exists);
            }
        }
        _ => {}
    }
    if fields.is_whole() { Answer::Done { absent, failed } } else { Answer::Refused(Refusal::Code(INTERNAL)) }
}

fn read_piped(message: &[u8]) -> Ended {
    let mut end = Ended { tag: 0, answer: Answer::Refused(Refusal::Code(INTERNAL)) };
    for (field, value) in Fields::of(message) {
        match field {
            1 => end.tag = value.number() as u32,
            2 => end.answer = read_answer(GET, value.bytes()),
            3 => end.answer = read_answer(PUT, value.bytes()),
            4 => end.answer = read_answer(DELETE, value.bytes()),
            6 => end.answer = read_answer(BATCH_READ, value.bytes()),
            7 => end.answer = read_answer(BATCH_WRITE, value.bytes()),
            15 => {
                let code = Fields::of(value.bytes()).find(|(field, _)| *field == 1);
                end.answer = Answer::Refused(Refusal::Code(code.map_or(2, |(_, code)| code.number() as u8)));
            }
            _ => {}
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringcore::rpc::proto::v1::{self, pipeline_request, pipeline_response, write_operation};

    const MANNER: Manner = Manner { level: 2, ttl_ms: 5_000, client_id: 9, pipeline: false };

    fn request(action: Action, pairs: &[(&str, &str)]) -> Request {
        let mut request = Request::new(2);
        request.reset(action);
        for (key, value) in pairs {
            request.keys.extend_from_slice(key.as_bytes());
            if action == Action::Write {
                request.values.extend_from_slice(value.as_bytes());
                request.value_ends.push(request.values.len());
            }
        }
        (request.request_id, request.done_below) = (4, 3);
        request
    }

    fn written<M: prost::Message + Default>(request: &Request) -> M {
        let mut message = Vec::new();
        write_request(&mut Writer(&mut message), request, MANNER);
        M::decode(&message[..]).unwrap()
    }

    #[test]
    fn requests_are_what_the_service_reads() {
        let put: v1::PutRequest = written(&request(Action::Write, &[("k1", "value")]));
        assert_eq!(
            (&put.key[..], &put.value[..], put.client_id, put.request_id),
            (&b"k1"[..], &b"value"[..], 9, 4)
        );
        assert_eq!(put.done_below, 3);
        assert_eq!((put.level, put.expiry), (2, Some(v1::put_request::Expiry::TtlMs(5_000))));
        let delete: v1::DeleteRequest = written(&request(Action::Delete, &[("k1", "")]));
        assert_eq!(
            (&delete.key[..], delete.client_id, delete.request_id, delete.level),
            (&b"k1"[..], 9, 4, 2)
        );
        let get: v1::GetRequest = written(&request(Action::Read, &[("k1", "")]));
        assert_eq!((&get.key[..], get.level, get.client_id), (&b"k1"[..], 2, 0));
        let reads: v1::BatchReadRequest = written(&request(Action::Read, &[("k1", ""), ("k2", "")]));
        assert_eq!((reads.keys.len(), &reads.keys[1][..]), (2, &b"k2"[..]));
        let writes: v1::BatchWriteRequest = written(&request(Action::Write, &[("k1", "a"), ("k2", "bc")]));
        assert_eq!(writes.writes[1].action, Some(write_operation::Action::Value("bc".into())));
        assert_eq!((writes.writes.len(), writes.client_id, writes.request_id, writes.level), (2, 9, 4, 2));
        assert_eq!((writes.done_below, delete.done_below), (3, 3));
        let deletes: v1::BatchWriteRequest = written(&request(Action::Delete, &[("k1", ""), ("k2", "")]));
        assert_eq!(deletes.writes[1].action, Some(write_operation::Action::Delete(true)));
        let scan: v1::ScanRequest = written(&request(Action::Scan, &[]));
        assert_eq!((scan.records_max, scan.token_first), (100, Some(0)));
    }

    #[test]
    fn answers_are_counted() {
        use prost::Message as _;
        let found = v1::ReadResult { value: "v".into(), exists: true, ..Default::default() };
        let failed = v1::ReadResult { error: Some(v1::Error::default()), ..Default::default() };
        let batch =
            v1::BatchReadResponse { results: vec![found, v1::ReadResult::default(), failed], ring: 7 };
        assert_eq!(read_answer(BATCH_READ, &batch.encode_to_vec()), Answer::Done { absent: 1, failed: 1 });
        let get = v1::GetResponse { exists: true, timestamp: 5, ..Default::default() };
        assert_eq!(read_answer(GET, &get.encode_to_vec()), Answer::Done { absent: 0, failed: 0 });
        assert_eq!(read_answer(GET, &[]), Answer::Done { absent: 1, failed: 0 });
        assert_eq!(read_answer(GET, &[0x0A]), Answer::Refused(Refusal::Code(INTERNAL)));
    }

    /// A session with requests 0 and 300 in its pipeline.
    fn piped() -> Ringcore {
        let mut session = Ringcore::new("n:1".to_owned(), Manner { pipeline: true, ..MANNER });
        for tag in [0, 300] {
            session.begin(&request(Action::Write, &[("k1", "v")]), tag);
        }
        session
    }

    /// A message of the pipeline, with gRPC's prefix.
    fn answer(seq: u64, result: pipeline_response::Result) -> Vec<u8> {
        use prost::Message as _;
        let body = v1::PipelineResponse { seq, result: Some(result) }.encode_to_vec();
        [&[0, 0, 0, 0, body.len() as u8][..], &body].concat()
    }

    /// A DATA frame of the pipeline's stream.
    fn data(payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, 0, 0, 0, 0, 0, 1][..], payload].concat()
    }

    #[test]
    fn answer_before_a_reset_of_the_pipeline_counts() {
        let mut session = piped();
        let done = data(&answer(300, pipeline_response::Result::Put(v1::PutResponse::default())));
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        let mut ended = Vec::new();
        let read = session.take_in(&[&done[..], &reset].concat(), &mut |end| ended.push(end));
        assert!(read.is_err(), "the connection is of no more use");
        assert_eq!(ended, [Ended { tag: 300, answer: Answer::Done { absent: 0, failed: 0 } }]);
        ended.clear();
        session.cut(&mut |end| ended.push(end));
        assert_eq!(ended, [Ended { tag: 0, answer: Answer::Refused(Refusal::Cut) }]);
    }

    #[test]
    fn pipeline_answers_find_their_requests() {
        use prost::Message as _;
        let mut session = piped();
        let out = session.out().clone();
        // Both messages are of one frame, the last.
        let first = out.windows(2).rposition(|pair| pair == [0x0A, 2]).unwrap();
        let second = out[..first].windows(4).rposition(|prefix| prefix[..4] == [0, 0, 0, 0]).unwrap() + 5;
        let second = v1::PipelineRequest::decode(&out[second..]).unwrap();
        assert_eq!(second.seq, 300);
        assert!(
            matches!(second.operation, Some(pipeline_request::Operation::Put(put)) if put.request_id == 4)
        );
        let done = answer(300, pipeline_response::Result::Put(v1::PutResponse::default()));
        let error = v1::Error { code: 8, ..Default::default() };
        let refused = answer(0, pipeline_response::Result::Error(error));
        let frame = data(&[done, refused].concat());
        let mut ended = Vec::new();
        session.take_in(&frame, &mut |end| ended.push(end)).unwrap();
        assert_eq!(ended[0], Ended { tag: 300, answer: Answer::Done { absent: 0, failed: 0 } });
        assert_eq!(ended[1], Ended { tag: 0, answer: Answer::Refused(Refusal::Code(8)) });
        assert_eq!(session.open(), 0);
        assert!(session.take_in(&frame, &mut |_| ()).is_err(), "answered twice");
    }
}
