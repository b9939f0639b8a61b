//! etcd's protocol: `etcdserverpb.KV`, its v3 API; batches as transactions without a condition.

use super::http2::{Http2, PREFIX_BYTES};
use super::protobuf::{Fields, Writer};
use super::{Action, Answer, Ended, INTERNAL, Refusal, Request, Session, broken};
use std::io;

const PATHS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
];
const RANGE: usize = 0;
const PUT: usize = 1;
const DELETE_RANGE: usize = 2;
const TXN: usize = 3;

/// One connection's session.
pub(crate) struct Etcd {
    http2: Http2,
    message: Vec<u8>,
}

impl Etcd {
    /// `authority`: the server's address.
    pub(crate) fn new(authority: String) -> Etcd {
        Etcd { http2: Http2::new(authority, PATHS, read_answer), message: Vec::new() }
    }
}

impl Session for Etcd {
    fn has_room(&self) -> bool {
        self.http2.has_room()
    }

    fn is_spent(&self) -> bool {
        self.http2.is_spent()
    }

    fn begin(&mut self, request: &Request, tag: u32) {
        self.message.clear();
        self.message.resize(PREFIX_BYTES, 0);
        let path = match (request.only(), request.action) {
            (None, _) => TXN,
            (_, Action::Read) => RANGE,
            (_, Action::Write) => PUT,
            (_, Action::Delete) => DELETE_RANGE,
            (_, Action::Scan) => unreachable!("not offered for this server"),
        };
        let mut writer = Writer(&mut self.message);
        match (path, request.only()) {
            (RANGE | DELETE_RANGE, Some((key, _))) => writer.bytes(1, key),
            (PUT, Some((key, value))) => write_put(&mut writer, key, value),
            _ => write_transaction(&mut writer, request),
        }
        self.http2.unary(path, tag, &mut self.message);
    }

    fn out(&mut self) -> &mut Vec<u8> {
        self.http2.out()
    }

    fn take_in(&mut self, bytes: &[u8], ended: &mut dyn FnMut(Ended)) -> io::Result<usize> {
        self.http2.take_in(bytes, ended, &mut |_| Err(broken("no stream was opened")))
    }

    fn open(&self) -> usize {
        self.http2.open()
    }

    fn cut(&mut self, ended: &mut dyn FnMut(Ended)) {
        self.http2.cut(ended);
    }
}

fn write_put(writer: &mut Writer<'_>, key: &[u8], value: &[u8]) {
    writer.bytes(1, key);
    writer.bytes(2, value);
}

/// TxnRequest with only a `success`: RequestOp is one of range (1), put (2), delete (3).
fn write_transaction(writer: &mut Writer<'_>, request: &Request) {
    match request.action {
        Action::Write => request.pairs().for_each(|(key, value)| {
            writer.message(2, |op| op.message(2, |put| write_put(put, key, value)));
        }),
        Action::Read => request.keys().for_each(|key| {
            writer.message(2, |op| op.message(1, |range| range.bytes(1, key)));
        }),
        Action::Delete | Action::Scan => request.keys().for_each(|key| {
            writer.message(2, |op| op.message(3, |delete| delete.bytes(1, key)));
        }),
    }
}

fn read_answer(path: usize, message: &[u8]) -> Answer {
    let mut fields = Fields::of(message);
    let mut absent = 0;
    match path {
        RANGE => absent = u32::from(!has_record(&mut fields)),
        TXN => {
            for (_, op) in fields.by_ref().filter(|(field, _)| *field == 3) {
                for (field, response) in Fields::of(op.bytes()) {
                    absent += u32::from(field == 1 && !has_record(&mut Fields::of(response.bytes())));
                }
            }
        }
        _ => {}
    }
    if fields.is_whole() {
        Answer::Done { absent, failed: 0 }
    } else {
        Answer::Refused(Refusal::Code(INTERNAL))
    }
}

/// RangeResponse: kvs = 2.
fn has_record(fields: &mut Fields<'_>) -> bool {
    fields.any(|(field, _)| field == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_has_an_operation_per_key() {
        let mut request = Request::new(1);
        request.reset(Action::Write);
        request.keys.extend_from_slice(b"ab");
        request.values.extend_from_slice(b"xyz");
        request.value_ends.extend([1, 3]);
        let mut message = Vec::new();
        write_transaction(&mut Writer(&mut message), &request);
        // success { request_put { key: "b" value: "yz" } }
        assert_eq!(message[10..], [0x12, 9, 0x12, 7, 0x0A, 1, b'b', 0x12, 2, b'y', b'z']);
    }

    #[test]
    fn missing_records_are_counted() {
        let mut message = Vec::new();
        let mut writer = Writer(&mut message);
        writer.message(1, |header| header.number(1, 7));
        writer.number(2, 1);
        writer.message(3, |op| op.message(1, |range| range.message(2, |kv| kv.bytes(1, b"a"))));
        writer.message(3, |op| op.message(1, |range| range.message(1, |header| header.number(1, 7))));
        assert_eq!(read_answer(TXN, &message), Answer::Done { absent: 1, failed: 0 });
        assert_eq!(read_answer(RANGE, &[]), Answer::Done { absent: 1, failed: 0 });
    }
}
