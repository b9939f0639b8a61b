//! Links between nodes, over pipes in memory: what one core says to a member arrives there, in order, and nowhere else.

use super::client::{Bench, Tokio, framed, run, still_pending};
use super::fake::settle;
use super::frames::{hello, random, random_message};
use bytes::Bytes;
use ringcore::rpc::backend::View;
use ringcore::rpc::peer::dial::{Dialer, LinkError};
use ringcore::rpc::peer::outgoing::Outgoing;
use ringcore::rpc::peer::{Frame, Hello, Welcome, wire};
use ringcore::rpc::proto::{peer as pb, v1};
use ringcore::rpc::server::Port;
use ringcore::rpc::stats::Counters;
use ringcore::rpc::stats::Operation as Op;
use ringcore::types::prng::Prng;
use ringcore::types::{ClusterId, MemberId, Mono};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tonic::Code;

const PATH: &str = "/ringcore.peer.v1.Peer/Link";
const QUEUE_BYTES: usize = 8 << 20;

/// The node of the bench, as one of a cluster of two.
pub(crate) fn two(view: &mut View) {
    let mut other = view.members[0].clone();
    (other.id, other.name) = (MemberId(2), "n2".into());
    view.members.push(other);
}

/// The other node's end of a link.
struct Sender {
    outgoing: Rc<Outgoing>,
    counters: Arc<[Counters]>,
    /// What it was answered.
    welcome: Rc<Cell<Option<Welcome>>>,
    end: JoinHandle<Result<(), LinkError>>,
}

impl Sender {
    fn new(bench: &Bench, hello: Hello, pipe_bytes: usize) -> Sender {
        Sender::over(bench, hello, Outgoing::new(QUEUE_BYTES), bench.pipe_of(Port::Peer, pipe_bytes))
    }

    fn over(bench: &Bench, hello: Hello, outgoing: Rc<Outgoing>, pipe: DuplexStream) -> Sender {
        let counters: Arc<[Counters]> = (0..2).map(|_| Counters::new()).collect();
        let welcome = Rc::<Cell<_>>::default();
        let end = {
            let dialer = Dialer::new(bench.fake.clone(), Arc::clone(&counters));
            let (outgoing, welcome) = (Rc::clone(&outgoing), Rc::clone(&welcome));
            let up = move |answer| welcome.set(Some(answer));
            tokio::task::spawn_local(async move { dialer.carry(Tokio(pipe), &hello, &outgoing, up).await })
        };
        Sender { outgoing, counters, welcome, end }
    }

    fn send(&self, frames: &[Frame]) {
        for frame in frames {
            assert!(self.outgoing.push(Mono(0), frame.clone()), "the queue is full");
        }
    }

    async fn ended(self) -> Result<(), LinkError> {
        self.end.await.unwrap()
    }
}

fn some(seed: u64, count: usize) -> Vec<Frame> {
    let mut prng = Prng::new(seed);
    (0..count).map(|_| random(&mut prng)).collect()
}

fn received(bench: &Bench) -> Vec<Frame> {
    let frames = bench.fake.take_frames().into_iter();
    frames.inspect(|(from, _)| assert_eq!(*from, MemberId(2))).map(|(_, frame)| frame).collect()
}

/// Runs everything until nothing more arrives.
async fn all_received(bench: &Bench) -> Vec<Frame> {
    let mut all = Vec::new();
    loop {
        settle().await;
        let more = received(bench);
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

fn linked(test: impl AsyncFnOnce(Bench)) {
    run(async |bench| {
        bench.fake.change_view(two);
        test(bench).await;
    });
}

#[test]
fn frames_arrive_in_order_and_are_counted_on_both_sides() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 64 << 10);
        let frames = some(1, 3_000);
        sender.send(&frames[..1_000]);
        assert_eq!(all_received(&bench).await, frames[..1_000]);
        assert_eq!(sender.welcome.get(), Some(Welcome { member: MemberId(1), cores: 2 }));
        for piece in frames[1_000..].chunks(7) {
            sender.send(piece);
            settle().await;
        }
        assert_eq!(all_received(&bench).await, frames[1_000..]);
        let (sent, here) = (&sender.counters[0], &bench.counters[0]);
        assert_eq!((sent.link_frames_sent.get(), here.link_frames_received.get()), (3_000, 3_000));
        assert!(sent.link_bytes_sent.get() > here.link_bytes_received.get());
        assert_eq!(sender.outgoing.bytes(), 0);
    });
}

#[test]
fn what_is_queued_when_the_end_is_called_for_still_leaves() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 4 << 10);
        let frames = some(2, 500);
        sender.send(&frames);
        sender.outgoing.end();
        assert!(!sender.outgoing.push(Mono(0), frames[0].clone()), "nothing is taken after the end");
        assert_eq!(all_received(&bench).await, frames);
        sender.ended().await.expect("an end in order");
        settle().await;
        assert_eq!((bench.server.connections(), bench.counters[0].connections_failed.get()), (0, 0));
        assert_eq!(bench.counters[0].requests(Op::Link, Code::Ok), 1);
    });
}

#[test]
fn next_connection_goes_on_where_the_queue_stands() {
    linked(async |bench| {
        let frames = some(3, 3_000);
        let outgoing = Outgoing::new(QUEUE_BYTES);
        let mut arrived = Vec::new();
        for piece in frames[..2_990].chunks(1_000) {
            let sender =
                Sender::over(&bench, hello(), Rc::clone(&outgoing), bench.pipe_of(Port::Peer, 2 << 10));
            sender.send(piece);
            let before = arrived.len();
            while arrived.len() < before + 200 {
                tokio::task::yield_now().await;
                arrived.extend(received(&bench));
            }
            // Broken in the middle: what had left the queue may be lost, the rest is not.
            sender.end.abort();
            arrived.extend(all_received(&bench).await);
        }
        let last = Sender::over(&bench, hello(), outgoing, bench.pipe(Port::Peer));
        last.send(&frames[2_990..]);
        arrived.extend(all_received(&bench).await);
        assert!(last.welcome.get().is_some());
        let mut sent = frames.iter();
        assert!(arrived.iter().all(|frame| sent.any(|one| one == frame)), "an order of its own, or twice");
        assert!(arrived.ends_with(&frames[2_990..]));
        assert!((300..3_000).contains(&arrived.len()), "{} arrived", arrived.len());
    });
}

#[test]
fn receiver_without_room_holds_up_the_sender_and_loses_nothing() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 64 << 10);
        bench.fake.set_frames_room(100);
        let frames = some(4, 20_000);
        let mut queued = 0;
        for frame in &frames {
            if !sender.outgoing.push(Mono(0), frame.clone()) {
                break;
            }
            queued += 1;
        }
        settle().await;
        let mut arrived = received(&bench);
        assert_eq!(arrived, frames[..100]);
        for _ in 0..50 {
            bench.fake.advance(5).await;
        }
        assert_eq!(received(&bench), []);
        // The receiver holds one request, its connection's window and its pipe; the sender its send buffer.
        let held = bench.counters[0].bytes_in_flight.get();
        assert!(held < 2 << 20, "{held} bytes are held");
        let gone = 2 << 20;
        assert!(sender.outgoing.bytes() + gone > QUEUE_BYTES / 2, "{} bytes wait", sender.outgoing.bytes());
        bench.fake.set_frames_room(usize::MAX);
        for _ in 0..200 {
            bench.fake.advance(5).await;
            arrived.extend(received(&bench));
        }
        assert_eq!(arrived.len(), queued);
        assert_eq!(arrived, frames[..queued]);
        assert!(!sender.end.is_finished());
    });
}

/// Many small requests that nobody reads: h2 must not take them for an attack.
#[test]
fn held_up_link_survives_a_window_full_of_small_requests() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 4 << 20);
        settle().await;
        bench.fake.set_frames_room(0);
        let survey = |attempt| {
            let body = ringcore::replication::messages::MessageBody::Survey {
                attempt: ringcore::replication::messages::AttemptId(attempt),
            };
            let message = random_message(&mut Prng::new(1));
            Frame::Slot(ringcore::replication::messages::Message { body, ..message })
        };
        for attempt in 0..30_000 {
            assert!(sender.outgoing.push(Mono(0), survey(attempt)));
            while sender.outgoing.bytes() > 0 && sender.counters[0].link_bytes_sent.get() < 900_000 {
                tokio::task::yield_now().await;
            }
        }
        settle().await;
        assert!(!sender.end.is_finished(), "{:?}", sender.end.await);
        bench.fake.set_frames_room(usize::MAX);
        let mut arrived = 0;
        for _ in 0..400 {
            bench.fake.advance(5).await;
            arrived += received(&bench).len();
        }
        assert_eq!(arrived, 30_000);
    });
}

#[test]
fn strangers_are_refused_and_change_nothing() {
    linked(async |bench| {
        let strangers = [
            Hello { cluster: ClusterId([4; 16]), ..hello() },
            Hello { from: MemberId(3), ..hello() },
            Hello { from: MemberId(1), ..hello() },
            Hello { to: MemberId(2), ..hello() },
        ];
        for stranger in strangers {
            let sender = Sender::new(&bench, stranger, 64 << 10);
            sender.send(&some(5, 10));
            let waiting = sender.outgoing.bytes();
            settle().await;
            assert_eq!((sender.welcome.get(), sender.outgoing.bytes()), (None, waiting), "{stranger:?}");
            match sender.ended().await {
                Err(LinkError::Ended(status)) => {
                    assert_eq!(status.code(), Code::FailedPrecondition);
                    assert_eq!(super::client::reason(&status), v1::Reason::NotMember);
                }
                other => panic!("{stranger:?}: {other:?}"),
            }
        }
        assert_eq!(received(&bench), []);
        assert_eq!(bench.counters[0].link_hellos_refused.get(), 4);
        bench.fake.change_view(|view| {
            view.epoch = 0;
            view.phase = ringcore::rpc::backend::Phase::Starting;
        });
        match Sender::new(&bench, hello(), 64 << 10).ended().await {
            Err(LinkError::Ended(status)) => assert_eq!(status.code(), Code::Unavailable),
            other => panic!("a node without a ring: {other:?}"),
        }
    });
}

#[test]
fn peer_that_does_not_answer_is_given_up() {
    linked(async |bench| {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let sender = Sender::over(&bench, hello(), Outgoing::new(QUEUE_BYTES), ours);
        bench.fake.advance(999).await;
        assert!(!sender.end.is_finished());
        bench.fake.advance(1).await;
        assert!(matches!(sender.ended().await, Err(LinkError::Silent)));
        drop(theirs);
    });
}

#[test]
fn peer_that_falls_silent_is_found_by_pings() {
    linked(async |bench| {
        let (ours, mut near) = tokio::io::duplex(64 << 10);
        let mut far = bench.pipe_of(Port::Peer, 64 << 10);
        let cut = Rc::new(Cell::new(false));
        let between = Rc::clone(&cut);
        tokio::task::spawn_local(async move {
            let mut copying = Box::pin(tokio::io::copy_bidirectional(&mut near, &mut far));
            let passing = poll_fn(|cx| if between.get() { Poll::Pending } else { copying.as_mut().poll(cx) });
            passing.await.ok();
        });
        let sender = Sender::over(&bench, hello(), Outgoing::new(QUEUE_BYTES), ours);
        settle().await;
        assert!(sender.welcome.get().is_some());
        for _ in 0..10 {
            bench.fake.advance(5_000).await;
            assert!(!sender.end.is_finished(), "an idle link is a good one");
        }
        cut.set(true);
        bench.fake.advance(11_000).await;
        assert!(matches!(sender.ended().await, Err(LinkError::Broken(_))));
    });
}

#[test]
fn malformed_and_oversized_requests_end_the_link() {
    linked(async |bench| {
        let hello_bytes = wire::encode_hello(&hello());
        let many = pb::LinkRequest { hello: None, frames: vec![pb::Frame::default(); 1_000_000] };
        let cases: [(Bytes, Code); 5] = [
            (framed(&pb::LinkRequest::default()), Code::InvalidArgument),
            (
                framed(&pb::LinkRequest { hello: None, frames: vec![pb::Frame::default()] }),
                Code::InvalidArgument,
            ),
            (hello_bytes.clone(), Code::InvalidArgument),
            (framed(&many), Code::InvalidArgument),
            // Of 5 MiB: refused by its prefix.
            (Bytes::from_static(&[0, 0, 0x50, 0, 0]), Code::ResourceExhausted),
        ];
        for (index, (second, code)) in cases.into_iter().enumerate() {
            let mut channel = bench.channel(Port::Peer).await;
            let body = [&hello_bytes[..], &second[..]].concat();
            let answer = channel.call(PATH, &[], body).await;
            assert_eq!(answer.code(), code, "case {index}: {:?}", answer.status());
            let welcome = framed(&pb::LinkResponse { welcome: Some(pb::Welcome { member: 1, cores: 2 }) });
            assert_eq!(answer.body, welcome);
        }
        let garbage =
            bench.channel(Port::Peer).await.call(PATH, &[], framed(&pb::LinkRequest::default())).await;
        assert_eq!((garbage.code(), garbage.body.len()), (Code::InvalidArgument, 0));
        assert_eq!(bench.counters[0].link_requests_malformed.get(), 4);
        assert_eq!(received(&bench), []);
    });
}

#[test]
fn values_of_every_length_pass_and_their_bytes_are_given_back() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 64 << 10);
        let message = random_message(&mut Prng::new(9));
        let frames: Vec<Frame> = [0, 1, 16_000, 57_000, 65_536, 300_000, 1 << 20]
            .into_iter()
            .map(|length| {
                let mut message = message.clone();
                message.body = ringcore::replication::messages::MessageBody::Forward {
                    attempt: ringcore::replication::messages::AttemptId(7),
                    operation: ringcore::types::request::Operation::Put {
                        key: "k".into(),
                        value: vec![5; length].into(),
                        expiry: Default::default(),
                        previous: false,
                    },
                    level: Default::default(),
                    identity: None,
                    done_below: 0,
                    remaining_ms: 1,
                };
                Frame::Slot(message)
            })
            .collect();
        sender.send(&frames);
        assert_eq!(all_received(&bench).await, frames);
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}

#[test]
fn clients_port_names_the_peers() {
    run(async |bench| {
        let answer = bench.channel(Port::Client).await.call(PATH, &[], Bytes::new()).await;
        assert_eq!((answer.code(), answer.reason()), (Code::Unimplemented, v1::Reason::OtherPort));
        assert!(answer.status().message().contains("127.0.0.1:7718"));
    });
}

#[test]
fn idle_link_stays_and_a_stop_ends_it_last() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 64 << 10);
        settle().await;
        bench.fake.advance(3_600_000).await;
        assert!(!sender.end.is_finished());
        let mut kv = bench.kv().await;
        bench.fake.stall();
        let mut call = Box::pin(kv.get(v1::GetRequest { key: "k".into(), ..Default::default() }));
        assert!(still_pending(&mut call).await);
        bench.server.stop();
        let mut drained = Box::pin(bench.server.drained(Mono::NEVER));
        assert!(still_pending(&mut drained).await, "a client's call is in flight");
        let frames = some(6, 50);
        sender.send(&frames);
        assert_eq!(all_received(&bench).await, frames, "the link is as good as ever");
        bench.fake.resume();
        call.await.unwrap();
        drop(kv);
        assert!(drained.await, "but for the link");
        assert!(!sender.end.is_finished());
        bench.server.end_links();
        match sender.ended().await {
            Err(LinkError::Ended(status)) => assert_eq!(super::client::reason(&status), v1::Reason::Stopping),
            other => panic!("{other:?}"),
        }
        assert!(bench.server.drained(Mono::NEVER).await);
        settle().await;
        assert_eq!(bench.server.connections(), 0);
    });
}

#[test]
fn link_works_while_clients_hold_the_whole_budget_and_all_connections() {
    let settings = ringcore::rpc::server::Settings {
        bytes_in_flight_max: 1_000,
        connections_max: 2,
        ..Default::default()
    };
    super::client::run_with(settings, async |bench| {
        bench.fake.change_view(two);
        let _clients = [bench.pipe(Port::Client), bench.pipe(Port::Client)];
        settle().await;
        let sender = Sender::new(&bench, hello(), 64 << 10);
        let frames = some(7, 400);
        sender.send(&frames);
        assert_eq!(all_received(&bench).await, frames);
    });
}

#[test]
fn more_than_one_message_before_the_welcome_is_taken_in_order() {
    linked(async |bench| {
        let frames = some(8, 20);
        let body = [&wire::encode_hello(&hello())[..], &wire::encode(frames.clone())[..]].concat();
        let answer = bench.channel(Port::Peer).await.call(PATH, &[], body).await;
        assert_eq!(answer.code(), Code::Ok);
        assert_eq!(received(&bench), frames);
    });
}

#[test]
fn old_frames_are_dropped_from_the_front_only() {
    let outgoing = Outgoing::new(1 << 20);
    let frames = some(9, 10);
    for (at, frame) in frames.iter().enumerate() {
        assert!(outgoing.push(Mono(at as u64), frame.clone()));
    }
    assert_eq!(outgoing.drop_before(Mono(4)), 4);
    assert_eq!(outgoing.drop_before(Mono(4)), 0);
    assert!(outgoing.bytes() > 0);
    assert_eq!(outgoing.drop_before(Mono(100)), 6);
    assert_eq!(outgoing.bytes(), 0);
}

#[test]
fn link_that_breaks_leaves_nothing_behind() {
    linked(async |bench| {
        let sender = Sender::new(&bench, hello(), 64 << 10);
        bench.fake.set_frames_room(3);
        sender.send(&some(10, 100));
        settle().await;
        assert!(bench.counters[0].bytes_in_flight.get() > 0);
        sender.end.abort();
        settle().await;
        assert_eq!((bench.server.connections(), bench.counters[0].bytes_in_flight.get()), (0, 0));
        assert!(bench.server.drained(Mono::NEVER).await);
    });
}
