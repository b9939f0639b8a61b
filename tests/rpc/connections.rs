//! Connections: their limits, their time-outs, their orderly and disorderly ends.

use super::client::{Bench, Channel, framed, run, run_with, still_pending};
use super::fake::settle;
use bytes::Bytes;
use ringcore::rpc::backend::Phase;
use ringcore::rpc::proto::v1;
use ringcore::rpc::server::{Port, Settings};
use ringcore::rpc::stats::Operation as Op;
use ringcore::types::{Mono, prng::Prng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tonic::Code;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Reads what the server says until it closes, or None if it does not.
async fn closed(pipe: &mut DuplexStream) -> Option<Vec<u8>> {
    let mut said = Vec::new();
    let mut reading = Box::pin(pipe.read_to_end(&mut said));
    if still_pending(&mut reading).await {
        return None;
    }
    drop(reading);
    Some(said)
}

/// The error code of the GOAWAY that ends what the server said.
fn goaway(said: &[u8]) -> Option<u32> {
    let (mut rest, mut code) = (said, None);
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let payload = rest.get(9..9 + length)?;
        if rest[3] == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = &rest[9 + length..];
    }
    code
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HEADERS of a POST to /KVStore/Get, literal and unindexed, without END_STREAM.
fn headers(stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in
        [(":path", "/KVStore/Get"), (":authority", "n"), ("content-type", "application/grpc")]
    {
        block.extend([0, name.len() as u8]);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    frame(1, 4, stream, &block)
}

async fn speak(bench: &Bench, frames: &[u8]) -> DuplexStream {
    let mut pipe = bench.pipe_of(Port::Client, 8 << 20);
    pipe.write_all(PREFACE).await.unwrap();
    pipe.write_all(SETTINGS).await.unwrap();
    pipe.write_all(frames).await.unwrap();
    pipe
}

fn failed(bench: &Bench) -> u64 {
    bench.counters[0].connections_failed.get()
}

#[test]
fn silent_and_slow_strangers_are_closed_after_the_handshake_time() {
    run(async |bench| {
        let mut silent = bench.pipe(Port::Client);
        let mut slow = bench.pipe(Port::Client);
        for byte in &PREFACE[..4] {
            slow.write_all(&[*byte]).await.unwrap();
            bench.fake.advance(1_000).await;
        }
        assert_eq!((closed(&mut silent).await, closed(&mut slow).await), (None, None));
        bench.fake.advance(1_000).await;
        assert!(closed(&mut silent).await.is_some() && closed(&mut slow).await.is_some());
        assert_eq!((failed(&bench), bench.server.connections()), (2, 0));
    });
}

#[test]
fn garbage_is_closed_and_counted_and_harms_nobody() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let mut prng = Prng::new(5);
        for round in 0..50 {
            let bytes: Vec<u8> = (0..prng.between(40, 5_000)).map(|_| prng.next_u64() as u8).collect();
            let mut pipe = bench.pipe(Port::Client);
            pipe.write_all(&bytes).await.unwrap();
            assert!(closed(&mut pipe).await.is_some(), "round {round}");
        }
        let hellos: [&[u8]; 2] =
            [b"GET / HTTP/1.1\r\nhost: n\r\nupgrade: h2c\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"];
        for hello in hellos {
            let mut pipe = bench.pipe(Port::Client);
            pipe.write_all(&hello.repeat(4)).await.unwrap();
            assert!(closed(&mut pipe).await.is_some(), "{hello:?}");
        }
        assert_eq!((failed(&bench), bench.server.connections()), (52, 1));
        kv.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    });
}

#[test]
fn broken_http2_is_answered_with_its_error() {
    const PROTOCOL: u32 = 1;
    const FLOW_CONTROL: u32 = 3;
    const STREAM_CLOSED: u32 = 5;
    const FRAME_SIZE: u32 = 6;
    const COMPRESSION: u32 = 9;
    // h2 says PROTOCOL_ERROR for some wrong sizes and compression errors: the connection ends all the same.
    let two = |a: Vec<u8>, b: Vec<u8>| [a, b].concat();
    let cases: Vec<(&str, Vec<u8>, &[u32])> = vec![
        ("frame over the limit", frame(0, 0, 1, &vec![0; (64 << 10) + 1]), &[FRAME_SIZE]),
        ("data on stream 0", frame(0, 0, 0, b"x"), &[PROTOCOL]),
        ("even stream", headers(2), &[PROTOCOL]),
        ("stream going back", two(headers(5), headers(3)), &[PROTOCOL, STREAM_CLOSED]),
        ("reset of an idle stream", frame(3, 0, 9, &[0; 4]), &[PROTOCOL]),
        ("window update of nothing", frame(8, 0, 0, &[0; 4]), &[PROTOCOL]),
        (
            "window beyond 2^31",
            two(frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
            &[FLOW_CONTROL],
        ),
        ("settings of five bytes", frame(4, 0, 0, &[0; 5]), &[FRAME_SIZE, PROTOCOL]),
        ("settings: push 2", frame(4, 0, 0, &[0, 2, 0, 0, 0, 2]), &[PROTOCOL]),
        ("ping of seven bytes", frame(6, 0, 0, &[0; 7]), &[FRAME_SIZE, PROTOCOL]),
        ("push promise", frame(5, 4, 1, &[0, 0, 0, 2]), &[PROTOCOL]),
        ("continuation alone", frame(9, 4, 1, b""), &[PROTOCOL]),
        ("headers interrupted", two(frame(1, 0, 1, b"\x83"), frame(6, 0, 0, &[0; 8])), &[PROTOCOL]),
        ("header index 0", frame(1, 4, 1, &[0x80]), &[COMPRESSION, PROTOCOL]),
        ("header index beyond the table", frame(1, 4, 1, &[0xff, 0xff, 0x01]), &[COMPRESSION, PROTOCOL]),
        ("header integer overflow", frame(1, 4, 1, &[0xff; 12]), &[COMPRESSION, PROTOCOL]),
        ("padding longer than the frame", two(headers(1), frame(0, 8, 1, &[9, 1])), &[PROTOCOL]),
    ];
    run(async |bench| {
        for (name, frames, codes) in cases {
            let mut pipe = speak(&bench, &frames).await;
            let said = closed(&mut pipe).await.unwrap_or_else(|| panic!("{name}: still open"));
            let code = goaway(&said).unwrap_or_else(|| panic!("{name}: no GOAWAY in {said:?}"));
            assert!(codes.contains(&code), "{name}: GOAWAY {code}");
        }
        settle().await;
        assert_eq!(bench.server.connections(), 0);
        bench.kv().await.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    });
}

/// A close before that would reset the connection, and the client lose the answers that it has not read.
#[test]
fn ended_connection_stays_until_its_client_hangs_up_but_a_second_at_most() {
    run(async |bench| {
        let broken = frame(0, 0, 0, b"x");
        let mut polite = speak(&bench, &broken).await;
        let mut silent = speak(&bench, &broken).await;
        assert!(closed(&mut polite).await.is_some() && closed(&mut silent).await.is_some());
        bench.fake.advance(999).await;
        assert_eq!(bench.server.connections(), 2);
        polite.write_all(&[7; 100_000]).await.unwrap();
        settle().await;
        assert_eq!(bench.server.connections(), 2, "what still comes in is taken, and is no end");
        drop(polite);
        settle().await;
        assert_eq!(bench.server.connections(), 1);
        bench.fake.advance(1).await;
        assert_eq!(bench.server.connections(), 0);
    });
}

#[test]
fn floods_are_ended_or_bounded_and_others_are_served_meanwhile() {
    let reset = |stream| [headers(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat();
    let rapid: Vec<u8> = (0..2_000).flat_map(|index| reset(index * 2 + 1)).collect();
    let continuation = [frame(1, 0, 1, b"\x83"), frame(9, 0, 1, &[0; 16_000]).repeat(200)].concat();
    let empty_data = [headers(1), frame(0, 0, 1, b"").repeat(10_000)].concat();
    let tiny_data = [headers(1), frame(0, 0, 1, b"\0\x10\0"), frame(0, 0, 1, &[0]).repeat(10_000)].concat();
    let streams: Vec<u8> = (0..3_000).flat_map(|index| headers(index * 2 + 1)).collect();
    let pings = frame(6, 0, 0, &[1; 8]).repeat(50_000);
    let settings = SETTINGS.repeat(50_000);
    let unknown = frame(0xbb, 0, 0, &[1; 64]).repeat(20_000);
    let floods = [
        ("rapid reset", rapid, true),
        ("continuation", continuation, true),
        ("empty data", empty_data, true),
        ("tiny data", tiny_data, false),
        ("streams", streams, false),
        ("pings", pings, false),
        ("settings", settings, false),
        ("unknown frames", unknown, false),
    ];
    run(async |bench| {
        let mut kv = bench.kv().await;
        for (name, frames, ends) in floods {
            let mut pipe = speak(&bench, &frames).await;
            kv.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
            for _ in 0..20 {
                settle().await;
            }
            let said = closed(&mut pipe).await;
            assert!(said.is_some() || !ends, "{name}: the flood goes on");
            drop(pipe);
            settle().await;
            bench.fake.advance(61_000).await;
            assert!(bench.counters[0].bytes_in_flight.get() == 0, "{name}");
        }
    });
}

#[test]
fn oversized_headers_are_refused() {
    run(async |bench| {
        let mut channel = bench.channel(Port::Client).await;
        let long = "x".repeat(20_000);
        channel.0.ready().await.unwrap();
        let request = http::Request::post("http://node/KVStore/Get")
            .header("content-type", "application/grpc")
            .header("x-long", long)
            .body(tonic::body::Body::empty())
            .unwrap();
        match channel.0.send_request(request).await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(error) => assert!(!error.is_timeout(), "{error}"),
        }
        bench.kv().await.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    });
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let settings = Settings { connections_max: 3, ..Settings::default() };
    run_with(settings, async |bench| {
        let mut open: Vec<_> = (0..3).map(|_| bench.pipe(Port::Client)).collect();
        settle().await;
        assert!(closed(&mut bench.pipe(Port::Client)).await.is_some());
        assert_eq!(bench.counters[0].connections_refused.get(), 1);
        open.pop();
        settle().await;
        bench.kv().await.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
        assert_eq!(bench.counters[0].connections_accepted.get(), 4);
    });
}

#[test]
fn idle_connection_is_asked_to_leave_and_a_busy_one_is_not() {
    let settings = Settings { idle_ms: 20_000, keep_alive_ms: 3_600_000, ..Settings::default() };
    run_with(settings, async |bench| {
        let mut idle = bench.kv().await;
        idle.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
        let mut busy = bench.kv().await;
        let stream = futures_util::stream::pending::<v1::PipelineRequest>();
        let mut answers = busy.pipeline(stream).await.unwrap().into_inner();
        assert!(still_pending(&mut futures_util::StreamExt::next(&mut answers)).await);
        assert_eq!(bench.server.connections(), 2);
        bench.fake.advance(60_000).await;
        assert_eq!(bench.server.connections(), 1);
        assert_eq!(failed(&bench), 0, "leaving is no failure");
    });
}

#[test]
fn dead_client_is_found_by_pings() {
    run(async |bench| {
        let pipe = speak(&bench, &[headers(1), frame(4, 1, 0, b"")].concat()).await;
        settle().await;
        assert_eq!(bench.server.connections(), 1);
        bench.fake.advance(45_000).await;
        assert_eq!(bench.server.connections(), 0, "no answer to the ping");
        drop(pipe);
    });
}

/// All of them wait for each other before the first is answered.
#[test]
fn calls_at_once_are_answered_with_no_more_than_their_connection_may_hold() {
    const VALUE_BYTES: usize = 1 << 20;
    let settings = Settings { bytes_in_flight_max: 8 * VALUE_BYTES, ..Settings::default() };
    run_with(settings, async |bench| {
        bench.fake.insert(b"k", &vec![7; VALUE_BYTES]);
        let mut pipe = bench.pipe_of(Port::Client, 64 << 10);
        // A stream window of 1 byte: no answer can leave.
        let mut asked = [PREFACE, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 1])].concat();
        let get = v1::GetRequest { key: "k".into(), ..Default::default() };
        for index in 0..16 {
            asked.extend([headers(2 * index + 1), frame(0, 1, 2 * index + 1, &framed(&get))].concat());
        }
        pipe.write_all(&asked).await.unwrap();
        settle().await;
        // A quarter of all is one connection's: not quite two values, since an answer is more than its value.
        let held = bench.counters[0].bytes_in_flight.get() as usize;
        assert!((VALUE_BYTES..2 * VALUE_BYTES).contains(&held), "{held} bytes");
        assert_eq!(bench.counters[0].requests(Op::Get, Code::ResourceExhausted), 15);
    });
}

#[test]
fn client_that_takes_no_answers_is_closed_and_its_bytes_are_freed() {
    let settings = Settings { keep_alive_ms: 3_600_000, ..Settings::default() };
    run_with(settings, async |bench| {
        bench.fake.insert(b"k", &vec![7; 1 << 20]);
        let mut pipe = bench.pipe_of(Port::Client, 64 << 10);
        pipe.write_all(PREFACE).await.unwrap();
        // A stream window of 1 byte: the answer cannot leave.
        pipe.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 1])).await.unwrap();
        pipe.write_all(&headers(1)).await.unwrap();
        let get = v1::GetRequest { key: "k".into(), ..Default::default() };
        pipe.write_all(&frame(0, 1, 1, &framed(&get))).await.unwrap();
        settle().await;
        assert!(bench.counters[0].bytes_in_flight.get() > 1 << 20);
        bench.fake.advance(60_000).await;
        assert_eq!(bench.server.connections(), 1);
        bench.fake.advance(60_000).await;
        assert_eq!(bench.server.connections(), 0);
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}

#[test]
fn stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    run(async |bench| {
        bench.fake.stall();
        let mut channel = bench.channel(Port::Client).await;
        let put = v1::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let mut late = channel.clone();
        let mut call = Box::pin(channel.call("/ringcore.v1.KV/Put", &[], framed(&put)));
        assert!(still_pending(&mut call).await);
        bench.fake.set_phase(Phase::Stopping);
        bench.server.stop();
        assert!(still_pending(&mut call).await);
        let mut drained = Box::pin(bench.server.drained(Mono::NEVER));
        assert!(still_pending(&mut drained).await, "a call is in flight");
        late.0.ready().await.unwrap();
        let request = http::Request::post("http://node/ringcore.v1.KV/Put").body(tonic::body::Body::empty());
        assert!(late.0.send_request(request.unwrap()).await.is_err(), "GOAWAY has come");
        let mut refused = bench.pipe(Port::Client);
        assert!(closed(&mut refused).await.is_some(), "no new connection");
        bench.fake.resume();
        assert_eq!(call.await.code(), Code::Ok);
        assert!(drained.await);
        assert_eq!((failed(&bench), bench.server.connections()), (0, 0));
    });
}

#[test]
fn drain_gives_up_at_its_deadline() {
    run(async |bench| {
        bench.fake.stall();
        let mut channel = bench.channel(Port::Client).await;
        let put = v1::PutRequest { key: "k".into(), ..Default::default() };
        let mut call = Box::pin(channel.call("/ringcore.v1.KV/Put", &[], framed(&put)));
        assert!(still_pending(&mut call).await);
        bench.server.stop();
        let deadline = Mono(1_000_000_000).after_ms(2_000);
        let mut drained = Box::pin(bench.server.drained(deadline));
        assert!(still_pending(&mut drained).await);
        bench.fake.advance(2_000).await;
        assert!(!drained.await);
    });
}

#[test]
fn client_that_vanishes_leaves_nothing_behind() {
    run(async |bench| {
        bench.fake.stall();
        for _ in 0..20 {
            let mut channel = bench.channel(Port::Client).await;
            let put =
                v1::PutRequest { key: "k".into(), value: Bytes::from(vec![1; 50_000]), ..Default::default() };
            let mut call = Box::pin(channel.call("/ringcore.v1.KV/Put", &[], framed(&put)));
            assert!(still_pending(&mut call).await);
        }
        settle().await;
        let mut half = bench.pipe(Port::Client);
        half.write_all(PREFACE).await.unwrap();
        drop(half);
        settle().await;
        assert_eq!(bench.server.connections(), 0);
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}

#[test]
fn tonics_own_channel_over_tcp_is_served() {
    run(async |bench| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::rc::Rc::clone(&bench.server);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = std::rc::Rc::clone(&server).serve(super::client::Tokio(stream), Port::Client);
                tokio::task::spawn_local(serving);
            }
        });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut kv = v1::kv_client::KvClient::new(endpoint.connect().await.unwrap());
        let put = v1::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        kv.put(put).await.unwrap();
        let read = kv.get(v1::GetRequest { key: "k".into(), ..Default::default() }).await.unwrap();
        assert_eq!(&read.into_inner().value[..], b"v");
        let status = kv.get(v1::GetRequest::default()).await.unwrap_err();
        assert_eq!(super::client::reason(&status), v1::Reason::KeyEmpty);
    });
}

#[test]
fn many_calls_on_one_connection_are_all_answered() {
    run(async |bench| {
        let channel: Channel = bench.channel(Port::Client).await;
        let calls = (0..3_000u32).map(|index| {
            let mut channel = channel.clone();
            async move {
                let key = Bytes::from(index.to_le_bytes().to_vec());
                let put = v1::PutRequest { key, value: "v".into(), ..Default::default() };
                channel.call("/ringcore.v1.KV/Put", &[], framed(&put)).await.code()
            }
        });
        let codes = futures_util::future::join_all(calls).await;
        assert!(codes.iter().all(|code| *code == Code::Ok));
        settle().await;
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}
