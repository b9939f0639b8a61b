//! One call and its rules: deadlines, framing, content types, limits, and inputs that break them.

use super::client::{Answer, Bench, framed, outcome, reason, run, run_with, still_pending};
use bytes::Bytes;
use http_body_util::BodyExt;
use ringcore::rpc::backend::Phase;
use ringcore::rpc::proto::{seed, v1};
use ringcore::rpc::server::{Port, Settings};
use ringcore::rpc::stats::Operation as Op;
use ringcore::types::request::{Expiry, Level, Operation};
use ringcore::types::{Hlc, Mono, OperationId};
use tonic::Code;

const GET: &str = "/ringcore.v1.KV/Get";
const PUT: &str = "/ringcore.v1.KV/Put";

fn get(key: &str) -> v1::GetRequest {
    v1::GetRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn put(key: &str, value: &'static [u8]) -> v1::PutRequest {
    v1::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), ..Default::default() }
}

async fn raw(bench: &Bench, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    bench.channel(Port::Client).await.call(path, headers, body).await
}

#[test]
fn one_key_calls_answer_with_version_ring_and_expiry() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let ttl = v1::put_request::Expiry::TtlMs(5_000);
        let request = v1::PutRequest { expiry: Some(ttl), ..put("k", b"\xff\x00value") };
        let written = kv.put(request).await.unwrap().into_inner();
        assert_eq!((written.member, written.ring, written.had_old_value), (1, 0x0A0B_0C0D, false));
        let read = kv.get(get("k")).await.unwrap().into_inner();
        assert_eq!(
            (&read.value[..], read.timestamp, read.member),
            (&b"\xff\x00value"[..], written.timestamp, 1)
        );
        assert!(read.exists && read.expires_at_ms > 0 && read.epoch == 0, "{read:?}");
        let exists = kv.exists(v1::ExistsRequest { key: "k".into(), ..Default::default() }).await.unwrap();
        let exists = exists.into_inner();
        assert_eq!((exists.exists, exists.value_bytes, exists.expires_at_ms), (true, 7, read.expires_at_ms));
        bench.fake.advance(5_000).await;
        assert!(!kv.get(get("k")).await.unwrap().into_inner().exists, "the TTL has passed");
        let delete = v1::DeleteRequest { key: "k".into(), return_previous: true, ..Default::default() };
        let deleted = kv.delete(delete).await.unwrap().into_inner();
        assert!(!deleted.had_old_value && deleted.timestamp > written.timestamp, "{deleted:?}");
    });
}

#[test]
fn replaced_value_that_is_longer_than_expected_is_answered_whole() {
    run(async |bench| {
        let (mut kv, old) = (bench.kv().await, vec![7; 100_000]);
        bench.fake.insert(b"k", &old);
        let request = v1::PutRequest { client_id: 5, request_id: 6, return_previous: true, ..put("k", b"v") };
        assert_eq!(kv.put(request).await.unwrap().into_inner().old_value, old);
        let sent = bench.fake.requests();
        assert_eq!(sent.len(), 2, "once with too little room, once with enough");
        assert!(sent.iter().all(|request| request.identity == OperationId::new(5, 6)));
        assert_eq!(sent[1].value_bytes_max, 100_000);
    });
}

#[test]
fn what_the_client_asks_reaches_the_core_unchanged() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let request = v1::PutRequest {
            client_id: 5,
            request_id: 6,
            done_below: 4,
            level: v1::Level::All as i32,
            expiry: Some(v1::put_request::Expiry::ExpiresAtMs(u64::MAX)),
            return_previous: true,
            ..put("k", b"v")
        };
        kv.put(request).await.unwrap();
        let sent = bench.fake.requests().pop().unwrap();
        assert_eq!((sent.identity, sent.done_below, sent.level), (OperationId::new(5, 6), 4, Level::All));
        assert_eq!(sent.deadline, Mono(11_000_000_000), "10 s from the clock's 1 s");
        match sent.operation {
            Operation::Put { key, value, expiry, previous } => {
                assert_eq!((&key[..], &value[..], previous), (&b"k"[..], &b"v"[..], true));
                assert_eq!(expiry, Expiry::AtMs(u64::MAX));
            }
            other => panic!("{other:?}"),
        }
        let zero = v1::PutRequest { expiry: Some(v1::put_request::Expiry::ExpiresAtMs(0)), ..put("k", b"v") };
        assert_eq!(reason(&kv.put(zero).await.unwrap_err()), v1::Reason::ExpiryInvalid);
    });
}

#[test]
fn session_floor_turns_a_stale_one_into_a_quorum() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let version = bench.fake.insert(b"k", b"v");
        let at = |timestamp| v1::GetRequest {
            level: v1::Level::One as i32,
            session_floor: Some(v1::Version { timestamp, member: 1 }),
            ..get("k")
        };
        assert!(kv.get(at(version.hlc.0)).await.unwrap().into_inner().exists);
        assert_eq!(bench.fake.requests().len(), 1, "the replica is not below the floor");
        assert!(kv.get(at(Hlc(version.hlc.0).next().0)).await.unwrap().into_inner().exists);
        let levels: Vec<Level> = bench.fake.requests().iter().map(|request| request.level).collect();
        assert_eq!(levels, [Level::One, Level::One, Level::Quorum]);
    });
}

#[test]
fn local_read_names_its_epoch() {
    run(async |bench| {
        let read = bench.kv().await.get(v1::GetRequest { local: true, ..get("k") }).await.unwrap();
        assert_eq!(read.into_inner().epoch, 4);
        assert_eq!(bench.fake.requests()[0].level, Level::One);
    });
}

#[test]
fn unknown_level_is_refused() {
    run(async |bench| {
        let status = bench.kv().await.get(v1::GetRequest { level: 9, ..get("k") }).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, v1::Reason::LevelInvalid));
    });
}

#[test]
fn past_deadline_does_no_work() {
    run(async |bench| {
        for timeout in ["0n", "1n", "0S", "1u"] {
            let answer = raw(&bench, PUT, &[("grpc-timeout", timeout)], framed(&put("k", b"v"))).await;
            let status = answer.status();
            assert_eq!((status.code(), reason(&status)), (Code::DeadlineExceeded, v1::Reason::DeadlinePast));
            assert_eq!(outcome(&status), v1::Outcome::NotApplied, "{timeout}");
        }
        assert!(bench.fake.requests().is_empty());
    });
}

#[test]
fn deadline_is_the_clients_or_ours() {
    run(async |bench| {
        for (timeout, ms) in [("250m", 250), ("99999999H", 60_000), ("nonsense", 60_000)] {
            raw(&bench, GET, &[("grpc-timeout", timeout)], framed(&get("k"))).await;
            let deadline = bench.fake.requests().pop().unwrap().deadline;
            assert_eq!(deadline, Mono(1_000_000_000).after_ms(ms), "{timeout}");
        }
    });
}

#[test]
fn unanswered_write_is_in_doubt_at_its_deadline() {
    run(async |bench| {
        bench.fake.stall();
        let mut channel = bench.channel(Port::Client).await;
        let mut call = Box::pin(channel.call(PUT, &[("grpc-timeout", "100m")], framed(&put("k", b"v"))));
        assert!(still_pending(&mut call).await);
        bench.fake.advance(99).await;
        assert!(still_pending(&mut call).await);
        bench.fake.advance(1).await;
        let status = call.await.status();
        assert_eq!((status.code(), outcome(&status)), (Code::DeadlineExceeded, v1::Outcome::InDoubt));
    });
}

#[test]
fn message_that_never_comes_ends_at_the_deadline() {
    run(async |bench| {
        let mut channel = bench.channel(Port::Client).await;
        let silent = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, tonic::Status>>();
        let body = tonic::body::Body::new(http_body_util::StreamBody::new(silent));
        let mut call = Box::pin(channel.send(PUT, &[("grpc-timeout", "1S")], body));
        assert!(still_pending(&mut call).await);
        bench.fake.advance(1_000).await;
        let status = call.await.status();
        assert_eq!((status.code(), outcome(&status)), (Code::DeadlineExceeded, v1::Outcome::NotApplied));
    });
}

#[test]
fn too_long_message_is_refused_before_it_has_come() {
    run(async |bench| {
        for length in [(4 << 20) + 1, u32::MAX] {
            let mut prefix = vec![0];
            prefix.extend(length.to_be_bytes());
            let first =
                futures_util::stream::once(async move { Ok(http_body::Frame::data(Bytes::from(prefix))) });
            let rest = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, tonic::Status>>();
            let body = http_body_util::StreamBody::new(futures_util::StreamExt::chain(first, rest));
            let mut channel = bench.channel(Port::Client).await;
            let answer = channel.send(PUT, &[], tonic::body::Body::new(body)).await;
            let status = answer.status();
            assert_eq!(
                (status.code(), reason(&status)),
                (Code::ResourceExhausted, v1::Reason::MessageTooLarge)
            );
            let detail = ringcore::rpc::status::detail_of(&status).unwrap();
            assert_eq!((detail.limit, detail.got), (4 << 20, u64::from(length)));
            assert_eq!(detail.outcome(), v1::Outcome::NotApplied);
        }
    });
}

#[test]
fn message_in_many_pieces_is_one_message() {
    run(async |bench| {
        let value: Vec<u8> = (0..300_000u32).map(|index| index as u8).collect();
        let request = v1::PutRequest { value: value.clone().into(), ..put("k", b"") };
        let pieces: Vec<Bytes> = framed(&request).chunks(7_001).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, tonic::Status>(http_body::Frame::data(piece)));
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let mut channel = bench.channel(Port::Client).await;
        let answer = channel.send(PUT, &[], tonic::body::Body::new(body)).await;
        assert_eq!(answer.code(), Code::Ok);
        let read = bench.kv().await.get(get("k")).await.unwrap().into_inner();
        assert_eq!(&read.value[..], &value[..]);
    });
}

#[test]
fn broken_framing_is_refused_and_applies_nothing() {
    let message = framed(&put("k", b"v"));
    let twice = [&message[..], &message[..]].concat();
    let mut flagged = message.to_vec();
    flagged[0] = 1;
    let mut odd_flag = message.to_vec();
    odd_flag[0] = 255;
    let cases = [
        (Vec::new(), Code::Unimplemented),
        (twice, Code::Unimplemented),
        (message[..message.len() - 1].to_vec(), Code::Internal),
        (message[..3].to_vec(), Code::Internal),
        (flagged, Code::Internal),
        (odd_flag, Code::Internal),
    ];
    run(async |bench| {
        for (body, code) in &cases {
            let answer = raw(&bench, PUT, &[], body.clone()).await;
            assert_eq!(answer.code(), *code, "{body:?}");
        }
        assert!(bench.fake.requests().is_empty());
    });
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let cases: [(&str, &[u8]); 8] = [
        (PUT, b"\x0a"),                                             // a field without its length
        (PUT, b"\x0a\x05ab"),                                       // longer than the message
        (PUT, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), // an 11-byte varint
        (PUT, b"\x08\x01"),                                         // a number where bytes are asked for
        (PUT, b"\x00\x01"),                                         // field number 0
        (PUT, b"\x0f\x01"),                                         // wire type 7
        ("/KVStore/Put", b"\x0a\x02\xff\xfe"),                      // a string that is not UTF-8
        ("/KVStore/Get", b"\x0a\x01\xc3"),                          // half a character
    ];
    run(async |bench| {
        for (path, message) in cases {
            let mut body = vec![0, 0, 0, 0, message.len() as u8];
            body.extend(message);
            let answer = raw(&bench, path, &[], body).await;
            assert_eq!((answer.code(), answer.reason()), (Code::InvalidArgument, v1::Reason::Malformed));
        }
        let nested = [b"\x0b".repeat(10_000), b"\x0c".repeat(10_000)].concat();
        let mut body = vec![0];
        body.extend((nested.len() as u32).to_be_bytes());
        body.extend(nested);
        assert_eq!(raw(&bench, PUT, &[], body).await.reason(), v1::Reason::Malformed, "10 000 nested groups");
        assert!(bench.fake.requests().is_empty());
    });
}

#[test]
fn unknown_fields_are_ignored() {
    run(async |bench| {
        let mut message = prost::Message::encode_to_vec(&put("k", b"v"));
        message.extend(b"\xfa\x3f\x03abc");
        let mut body = vec![0, 0, 0, 0, message.len() as u8];
        body.extend(message);
        assert_eq!(raw(&bench, PUT, &[], body).await.code(), Code::Ok);
    });
}

#[test]
fn unknown_methods_are_unimplemented() {
    run(async |bench| {
        for path in ["/", "//", "/KVStore", "/KVStore/Get/x", "/ringcore.v1.Admin/Repair", "/%00/x"] {
            assert_eq!(raw(&bench, path, &[], framed(&get("k"))).await.code(), Code::Unimplemented, "{path}");
        }
        let mut peer = bench.channel(Port::Peer).await;
        for path in [GET, "/KVStore/Put", "/ringcore.v1.Cluster/GetRing"] {
            assert_eq!(peer.call(path, &[], framed(&get("k"))).await.code(), Code::Unimplemented, "{path}");
        }
    });
}

#[test]
fn what_is_not_grpc_gets_an_http_status() {
    run(async |bench| {
        for content in ["text/html", "application/json", "application/grpc-web", "application/grpc+json", ""]
        {
            let answer = raw(&bench, GET, &[("content-type", content)], framed(&get("k"))).await;
            assert_eq!(answer.http, 415, "{content}");
        }
        for content in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            let answer = raw(&bench, GET, &[("content-type", content)], framed(&get("k"))).await;
            assert_eq!(answer.code(), Code::Ok, "{content}");
        }
        let mut channel = bench.channel(Port::Client).await;
        let request = http::Request::get("http://node/KVStore/Get").body(tonic::body::Body::empty()).unwrap();
        assert_eq!(channel.0.send_request(request).await.unwrap().status(), 405);
    });
}

#[test]
fn compression_is_declined_by_name() {
    run(async |bench| {
        for encoding in ["gzip", "snappy", "x"] {
            let answer = raw(&bench, GET, &[("grpc-encoding", encoding)], framed(&get("k"))).await;
            assert_eq!(answer.code(), Code::Unimplemented, "{encoding}");
            assert_eq!(answer.headers["grpc-accept-encoding"], "identity");
        }
        let plain = raw(&bench, GET, &[("grpc-encoding", "identity")], framed(&get("k"))).await;
        assert_eq!(plain.code(), Code::Ok);
    });
}

#[test]
fn node_that_does_not_serve_says_so_and_what_became_of_the_write() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        for (phase, expected) in
            [(Phase::Starting, v1::Reason::Starting), (Phase::Stopping, v1::Reason::Stopping)]
        {
            bench.fake.set_phase(phase);
            let status = kv.put(put("k", b"v")).await.unwrap_err();
            assert_eq!((status.code(), reason(&status)), (Code::Unavailable, expected));
            assert_eq!(outcome(&status), v1::Outcome::NotApplied);
            bench.node(Port::Client).await.heartbeat(seed::Ping::default()).await.unwrap();
        }
        assert!(bench.fake.requests().is_empty());
    });
}

#[test]
fn bytes_in_flight_are_bounded_and_given_back() {
    let settings = Settings { bytes_in_flight_max: 4_000, ..Settings::default() };
    run_with(settings, async |bench| {
        bench.fake.stall();
        let mut first = bench.kv().await;
        let mut held = Box::pin(first.put(put("k", &[7; 900])));
        assert!(still_pending(&mut held).await);
        let mut second = bench.channel(Port::Client).await;
        let refused = second.call(PUT, &[], framed(&put("k", &[7; 1_100]))).await;
        assert_eq!((refused.code(), refused.reason()), (Code::ResourceExhausted, v1::Reason::Overloaded));
        assert_eq!(outcome(&refused.status()), v1::Outcome::NotApplied);
        bench.fake.resume();
        held.await.unwrap();
        let mut third = bench.kv().await;
        third.put(put("k", &[7; 900])).await.unwrap();
        super::fake::settle().await;
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}

#[test]
fn calls_are_counted_by_operation_and_code() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        kv.put(put("k", b"v")).await.unwrap();
        kv.get(get("k")).await.unwrap();
        kv.get(get("")).await.unwrap_err();
        bench.fake.stall();
        let mut call = Box::pin(kv.get(get("k")));
        assert!(still_pending(&mut call).await);
        drop(call); // the client gives up
        super::fake::settle().await;
        let counters = &bench.counters[0];
        assert_eq!(counters.requests(Op::Put, Code::Ok), 1);
        assert_eq!(counters.requests(Op::Get, Code::Ok), 1);
        assert_eq!(counters.requests(Op::Get, Code::InvalidArgument), 1);
        assert_eq!(counters.requests(Op::Get, Code::Cancelled), 1);
        assert_eq!(counters.latencies(Op::Get).count(), 3);
    });
}

#[test]
fn large_answer_comes_whole() {
    run(async |bench| {
        let value: Vec<u8> = (0..1u32 << 20).map(|index| (index / 251) as u8).collect();
        bench.fake.insert(b"k", &value);
        let mut channel = bench.channel(Port::Client).await;
        channel.0.ready().await.unwrap();
        let request = http::Request::post("http://node/ringcore.v1.KV/Get")
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(http_body_util::Full::new(framed(&get("k")))))
            .unwrap();
        let mut body = channel.0.send_request(request).await.unwrap().into_body();
        let (mut bytes, mut largest) = (0, 0);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.unwrap().into_data() {
                bytes += data.len();
                largest = largest.max(data.len());
            }
        }
        assert!(bytes > 1 << 20 && largest <= 64 << 10, "{bytes} in frames of up to {largest}");
    });
}
