//! Clients that are too many, too slow or hostile; and one that must not notice.

use super::node::{Home, Node, alone, block_on, connect, until};
use super::writer::raw_client;
use futures_util::future::join_all;
use prost::Message as _;
use ringcore::rpc::proto::v1;
use ringcore::types::prng::Prng;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 256;
const STREAMS: usize = 16;
/// How long each crowd is there at least.
const PHASE: Duration = Duration::from_secs(3);
/// Below this a p99 says more of the machine than of the node.
const P99_FLOOR: Duration = Duration::from_millis(50);
/// What memory may have grown by after a crowd has gone: the allocator keeps some.
const GROWN_BYTES_MAX: u64 = 64 << 20;
/// What two cores hold for requests and answers at most, and as much again for the copies on their way to the sockets.
const HELD_BYTES_MAX: u64 = 2 * 2 * (256 << 20);
/// Streams that nobody reads.
const UNREAD: usize = 16;
/// For each the answers under way, 4 MiB, and the one that is sent; as much again for the copies; and what the allocator
/// keeps.
const UNREAD_BYTES_MAX: u64 = 2 * UNREAD as u64 * (5 << 20) + GROWN_BYTES_MAX;
const RESETS: u32 = 10_000;

/// Windows of HTTP/2 at their largest.
const WINDOW_MAX: u32 = 0x7FFF_FFFF;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const GET: &str = "/ringcore.v1.KV/Get";

/// Comes to the address and stays for the phase, some even until what they returned is dropped.
type Crowd = fn(SocketAddr) -> Vec<TcpStream>;

#[test]
fn a_crowd_harms_nobody_and_leaves_nothing_behind() {
    let _alone = alone();
    let home = Home::new("crowds");
    let node = Node::start(&home, &["--cores", "2"]);
    block_on(async {
        let client = node.client().await;
        for index in 0..64 {
            client.put(format!("large-{index}"), vec![b'l'; 1 << 20]).await.unwrap();
        }
    });
    // How long calls take is the machine's business too: `tests/campaign/crowds.sh` asks for it on a quiet one.
    let timed = std::env::var_os("RINGCORE_TEST_TIMED").is_some();
    let bystander = Bystander::start(node.address);
    std::thread::sleep(PHASE);
    let quiet = bystander.p99();
    let (sockets, memory) = (node.sockets(), node.resident_bytes());
    let bound = (quiet * 3).max(P99_FLOOR);
    println!("quiet: p99 {quiet:?}, {sockets} sockets, {} MiB", memory >> 20);
    let crowds: [(&str, Crowd, u64); 7] = [
        ("many connections", many_connections, HELD_BYTES_MAX),
        ("slow readers", slow_readers, HELD_BYTES_MAX),
        ("unread pipelines", unread_pipelines, UNREAD_BYTES_MAX),
        ("unread pipelines of one connection", unread_pipelines_of_one, UNREAD_BYTES_MAX),
        ("resets", resets, HELD_BYTES_MAX),
        ("garbage", garbage, HELD_BYTES_MAX),
        ("HTTP/1", http1, HELD_BYTES_MAX),
    ];
    for (name, crowd, held_max) in crowds {
        bystander.forget();
        let begun = Instant::now();
        while begun.elapsed() < PHASE {
            let connections = crowd(node.address);
            let held = node.resident_bytes();
            drop(connections);
            assert!(held < memory + held_max, "{name}: {} MiB", held >> 20);
        }
        let p99 = bystander.p99();
        println!("{name}: p99 {p99:?}, {} MiB", node.resident_bytes() >> 20);
        assert!(!timed || p99 <= bound, "{name}: the bystander's p99 was {quiet:?} and is {p99:?}");
        until("the crowd's connections are gone", || node.metric_sum("ringcore_connections") <= 1.0);
        until("its sockets are closed", || node.sockets() <= sockets);
        until("its memory is free", || node.resident_bytes() <= memory + GROWN_BYTES_MAX);
    }
    bystander.stop();
    node.stop();
}

/// A client with one call at a time on a thread of its own.
struct Bystander {
    stop: Arc<AtomicBool>,
    latencies: Arc<std::sync::Mutex<Vec<Duration>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Bystander {
    fn start(address: SocketAddr) -> Bystander {
        let (stop, latencies) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let thread = {
            let (stop, latencies) = (Arc::clone(&stop), Arc::<std::sync::Mutex<Vec<_>>>::clone(&latencies));
            std::thread::spawn(move || block_on(look_on(address, &stop, &latencies)))
        };
        Bystander { stop, latencies, thread }
    }

    fn forget(&self) {
        self.latencies.lock().expect("nobody panics with it").clear();
    }

    fn p99(&self) -> Duration {
        assert!(!self.thread.is_finished(), "the bystander met an error");
        let mut latencies = self.latencies.lock().expect("nobody panics with it").clone();
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100);
        *p99.expect("the bystander made a call")
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

async fn look_on(address: SocketAddr, stop: &AtomicBool, latencies: &std::sync::Mutex<Vec<Duration>>) {
    let client = connect(address).await;
    for round in 0u32.. {
        if stop.load(Relaxed) {
            return;
        }
        let (key, begun) = (format!("bystander-{}", round % 100), Instant::now());
        if round % 2 == 0 {
            client.put(key, vec![b'b'; 100]).await.expect("a crowd is no reason for an error");
        } else {
            client.get(key).await.expect("a crowd is no reason for an error");
        }
        latencies.lock().expect("nobody panics with it").push(begun.elapsed());
    }
}

/// All streams of all connections at once, then each with some rest between its calls.
fn many_connections(address: SocketAddr) -> Vec<TcpStream> {
    block_on(join_all((0..CONNECTIONS).map(|connection| async move {
        let client = raw_client(address).await;
        join_all((0..STREAMS).map(|stream| {
            let mut client = client.clone();
            async move {
                let key = format!("crowd-{connection}-{stream}");
                let mut prng = Prng::new((connection * STREAMS + stream) as u64);
                for _ in 0..2 {
                    let put =
                        v1::PutRequest { key: key.clone().into(), value: "v".into(), ..Default::default() };
                    client.put(put).await.expect("a crowd is served");
                    tokio::time::sleep(Duration::from_millis(prng.below(1_500))).await;
                    let get = v1::GetRequest { key: key.clone().into(), ..Default::default() };
                    assert!(client.get(get).await.expect("a crowd is served").get_ref().exists);
                }
            }
        }))
        .await;
    })));
    Vec::new()
}

/// Ask for a lot, and do not read it.
fn slow_readers(address: SocketAddr) -> Vec<TcpStream> {
    let mut readers: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = opened(address);
            let mut asked = Vec::new();
            for index in 0..64u32 {
                asked.extend(get(2 * index + 1, format!("large-{index}").as_bytes()));
            }
            stream.write_all(&asked).expect("the node takes the questions");
            stream
        })
        .collect();
    std::thread::sleep(PHASE);
    for reader in &mut readers {
        let mut some = [0; 1_000];
        reader.read_exact(&mut some).expect("the answers have begun");
    }
    readers
}

/// Connections with a stream each that asks for a thousand large values and takes none: answers are made as they are
/// taken.
fn unread_pipelines(address: SocketAddr) -> Vec<TcpStream> {
    unread_streams(address, UNREAD, 1)
}

/// The same on one connection, which has to go on.
fn unread_pipelines_of_one(address: SocketAddr) -> Vec<TcpStream> {
    unread_streams(address, 1, UNREAD as u32)
}

fn unread_streams(address: SocketAddr, connections: usize, streams: u32) -> Vec<TcpStream> {
    let asked: Vec<u8> = (0..1_000u32)
        .flat_map(|seq| {
            let key = format!("large-{}", seq % 64).into();
            let operation =
                v1::pipeline_request::Operation::Get(v1::GetRequest { key, ..Default::default() });
            let request =
                v1::PipelineRequest { seq: seq.into(), operation: Some(operation), ..Default::default() };
            let message = request.encode_to_vec();
            [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
        })
        .collect();
    let calls: Vec<u8> = (0..streams)
        .flat_map(|index| {
            let id = 2 * index + 1;
            let frames = asked.chunks(16_000).flat_map(|piece| frame(DATA, 0, id, piece)).collect();
            [headers(id, "/ringcore.v1.KV/Pipeline"), frames].concat()
        })
        .collect();
    let mut connections: Vec<TcpStream> = (0..connections)
        .map(|_| {
            let mut connection = opened(address);
            connection.write_all(&calls).expect("the node takes the questions");
            connection
        })
        .collect();
    std::thread::sleep(PHASE);
    for connection in &mut connections {
        is_served(connection, 2 * streams + 1);
    }
    connections
}

/// Another call of the same connection is answered: until then, what the node sends is taken.
fn is_served(connection: &mut TcpStream, id: u32) {
    connection.write_all(&get(id, b"nobody")).expect("the node takes a question");
    loop {
        match read_frame(connection) {
            (DATA, _, stream, _) if stream == id => return,
            (HEADERS, flags, stream, _) => {
                assert!(stream != id || flags & END_STREAM == 0, "the node refuses the call");
            }
            (PING, 0, _, payload) => {
                let answer = frame(PING, ACK, 0, &payload);
                connection.write_all(&answer).expect("the node takes a ping's answer");
            }
            (GOAWAY, _, _, why) => panic!("the node ends the connection: {why:?}"),
            _ => {}
        }
    }
}

/// Calls given up before they are begun, on as many connections as it takes.
fn resets(address: SocketAddr) -> Vec<TcpStream> {
    let mut sent = 0;
    while sent < RESETS {
        let mut stream = opened(address);
        for index in 0..RESETS - sent {
            let id = 2 * index + 1;
            let call = [headers(id, GET), frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat();
            // Closed by the node: a new one goes on.
            if stream.write_all(&call).is_err() {
                break;
            }
            sent += 1;
        }
    }
    Vec::new()
}

fn garbage(address: SocketAddr) -> Vec<TcpStream> {
    let mut prng = Prng::new(7);
    for length in [1, 8, 24, 100, 10_000] {
        let noise: Vec<u8> = (0..length).map(|_| prng.next_u64() as u8).collect();
        for before in [&[][..], PREFACE] {
            closes(address, &[before, &noise].concat());
        }
    }
    Vec::new()
}

fn http1(address: SocketAddr) -> Vec<TcpStream> {
    for question in
        ["GET / HTTP/1.1\r\nHost: n\r\n\r\n", "POST /KVStore/Get HTTP/1.0\r\nContent-Length: 0\r\n\r\n"]
    {
        closes(address, question.as_bytes());
    }
    Vec::new()
}

/// Says something that makes no sense; ends its side, so that a node that waits for more sees that there is none.
fn closes(address: SocketAddr, nonsense: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    let written = stream.write_all(nonsense).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset is an end as well.
    let open = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
    };
    assert!(!read.as_ref().is_err_and(open), "the node keeps {nonsense:?} open ({written:?})");
    assert!(answer.len() < 4_096, "the node said {} bytes to nonsense", answer.len());
}

/// A connection that takes all that the node sends, as far as HTTP/2 is asked.
fn opened(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_nodelay(true).expect("it can be set");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    let initial_window = [&[0, 4][..], &WINDOW_MAX.to_be_bytes()].concat();
    let opening = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &initial_window),
        &frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes()),
    ];
    stream.write_all(&opening.concat()).expect("the node takes the preface");
    // Before it has widened the connection's window, 64 KiB of questions would be more than it allows.
    while read_frame(&mut stream).0 != WINDOW_UPDATE {}
    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).expect("the node takes an acknowledgement");
    stream
}

/// Kind, flags, stream and payload.
fn read_frame(stream: &mut TcpStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("the connection stays open");
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).expect("the connection stays open");
    (kind, flags, u32::from_be_bytes(id), payload)
}

/// A whole call of KV.Get.
fn get(stream: u32, key: &[u8]) -> Vec<u8> {
    let message = [&[0x0A, key.len() as u8][..], key].concat();
    let body = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    [headers(stream, GET), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// HEADERS of a POST, literal and unindexed: the stream stays open.
fn headers(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in
        [(":path", path), (":authority", "n"), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        block.extend([0, name.len() as u8]);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
