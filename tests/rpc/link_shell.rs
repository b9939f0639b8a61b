//! A core's links over real sockets, on the node's own kind of executor: the other end comes, goes, and comes again.

use super::fake::Fake;
use super::frames::random;
use super::links::two;
use ringcore::rpc::peer::Frame;
use ringcore::rpc::server::{self, Server, Settings};
use ringcore::rpc::stats::Counters;
use ringcore::runtime::acceptor::{Accepting, Acceptor, Listener, Place, Port};
use ringcore::runtime::clock;
use ringcore::runtime::executor::{CoreContext, Task, start};
use ringcore::runtime::links::{Links, LinksParts};
use ringcore::types::prng::Prng;
use ringcore::types::{ClusterId, MemberId};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const HERE: MemberId = MemberId(2);
const THERE: MemberId = MemberId(1);
const CLUSTER: ClusterId = ClusterId([3; 16]);

/// The node at the other end. Dropped, it is gone as if it had been killed.
struct Node {
    address: SocketAddr,
    fake: Fake,
    server: Rc<Server<Fake>>,
    _accepting: Accepting,
    _serving: Task<()>,
}

impl Node {
    async fn start(context: &CoreContext, address: SocketAddr) -> Node {
        let fake = fake(context);
        fake.change_view(two);
        let server = Server::new(fake.clone(), Settings::default(), [Counters::new()].into());
        let (acceptor, mut intakes) = Acceptor::new(1);
        let mut arrivals = intakes.remove(0).open().await;
        let listener = Listener::bind(address, Port::Peers, Place::LeastLoaded, 100).unwrap();
        let accepting = acceptor.start(vec![listener]).unwrap();
        let serving = {
            let (server, sockets, queue) =
                (Rc::clone(&server), context.sockets.clone(), context.queues.requests.clone());
            context.queues.requests.spawn(async move {
                let mut connections = Vec::new();
                while let Some(arrival) = arrivals.next().await {
                    let stream = arrival.into_stream(&sockets).unwrap();
                    connections.push(queue.spawn(Rc::clone(&server).serve(stream, server::Port::Peer)));
                }
            })
        };
        Node { address, fake, server, _accepting: accepting, _serving: serving }
    }

    fn take(&self) -> Vec<Frame> {
        self.fake.take_frames().into_iter().map(|(_, frame)| frame).collect()
    }
}

fn fake(context: &CoreContext) -> Fake {
    let queue = context.queues.requests.clone();
    Fake::new(1, move |task| queue.spawn(task).detach())
}

/// This node's links, and what was said of their state.
struct Ours {
    links: Links<Fake>,
    counters: Arc<[Counters]>,
    states: Rc<RefCell<Vec<bool>>>,
}

impl Ours {
    fn new(context: &CoreContext) -> Ours {
        let counters: Arc<[Counters]> = [Counters::new()].into();
        let states = Rc::<RefCell<Vec<bool>>>::default();
        let said = Rc::clone(&states);
        let links = Links::new(LinksParts {
            backend: fake(context),
            counters: Arc::clone(&counters),
            sockets: context.sockets.clone(),
            ticker: context.ticker.clone(),
            queue: context.queues.requests.clone(),
            seed: 1,
            on_state: Box::new(move |member, up| {
                assert_eq!(member, THERE);
                said.borrow_mut().push(up);
            }),
        });
        Ours { links, counters, states }
    }

    fn link_to(&self, address: &str) {
        self.links.set_members(CLUSTER, HERE, [(THERE, address), (HERE, "nowhere:1")]);
    }

    fn send(&self, frames: &[Frame]) {
        frames.iter().for_each(|frame| self.links.send(clock::mono(), THERE, frame.clone()));
    }

    fn dropped(&self) -> u64 {
        self.counters[0].link_frames_dropped.get()
    }
}

fn some(seed: u64, count: usize) -> Vec<Frame> {
    let mut prng = Prng::new(seed);
    (0..count).map(|_| random(&mut prng)).collect()
}

/// Waits until it is so.
async fn until(context: &CoreContext, what: &str, mut so: impl FnMut() -> bool) {
    let deadline = clock::mono().after_ms(20_000);
    while !so() {
        assert!(clock::mono() < deadline, "still not: {what}");
        context.ticker.sleep(Duration::from_millis(5)).await;
    }
}

fn on_core(test: impl AsyncFn(&CoreContext) + Clone + Send + 'static) {
    let main = move |context: CoreContext| {
        let test = test.clone();
        async move { test(&context).await }
    };
    start(&[None], main).unwrap().join().unwrap();
}

fn anywhere() -> SocketAddr {
    super::ports::free_addresses()[0]
}

#[test]
fn link_comes_up_again_after_the_other_end_restarts() {
    on_core(async |context| {
        let ours = Ours::new(context);
        let node = Node::start(context, anywhere()).await;
        let address = node.address;
        // A name: looked up anew at each attempt.
        ours.link_to(&format!("localhost:{}", address.port()));
        let frames = some(1, 5_000);
        ours.send(&frames);
        let mut arrived = Vec::new();
        until(context, "all has arrived", || {
            arrived.extend(node.take());
            arrived.len() == frames.len()
        })
        .await;
        assert_eq!(arrived, frames);
        assert_eq!((&ours.states.borrow()[..], ours.counters[0].links_up.get()), (&[true][..], 1));
        drop(node);
        until(context, "the break is noticed", || *ours.states.borrow() == [true, false]).await;
        assert_eq!(ours.counters[0].links_up.get(), 0);
        let node = Node::start(context, address).await;
        ours.send(&frames[..10]);
        until(context, "the link is up again", || *ours.states.borrow() == [true, false, true]).await;
        let mut arrived = Vec::new();
        until(context, "what was sent meanwhile arrives", || {
            arrived.extend(node.take());
            arrived.len() == 10
        })
        .await;
        assert_eq!(arrived, frames[..10]);
        assert!(ours.counters[0].link_reconnects.get() > 0);
        assert_eq!(ours.dropped(), 0);
        ours.send(&frames[10..20]);
        ours.links.end(clock::mono().after_ms(10_000)).await;
        assert_eq!(*ours.states.borrow(), [true, false, true, false]);
        assert_eq!(node.take(), frames[10..20], "what is queued at the end still leaves");
        until(context, "the connection has gone", || node.server.connections() == 0).await;
    });
}

#[test]
fn frames_for_who_is_away_grow_old_and_are_bounded() {
    on_core(async |context| {
        let ours = Ours::new(context);
        let address = anywhere();
        ours.link_to(&address.to_string());
        ours.send(&some(2, 100));
        until(context, "they have grown old", || ours.links.waiting_bytes(THERE) == 0).await;
        assert_eq!(ours.dropped(), 100);
        let many = some(3, 60_000);
        ours.send(&many);
        let waiting = ours.links.waiting_bytes(THERE);
        assert!((7 << 20..=8 << 20).contains(&waiting), "{waiting} bytes wait");
        assert!(ours.dropped() > 10_000);
        until(context, "those too", || ours.links.waiting_bytes(THERE) == 0).await;
        assert_eq!(ours.dropped(), 60_100);
        let node = Node::start(context, address).await;
        let fresh = some(4, 10);
        ours.send(&fresh);
        let mut arrived = Vec::new();
        until(context, "the fresh ones arrive", || {
            arrived.extend(node.take());
            arrived.len() >= fresh.len()
        })
        .await;
        assert_eq!(arrived, fresh);
        ours.links.end(clock::mono().after_ms(10_000)).await;
    });
}

#[test]
fn members_leave_and_move() {
    on_core(async |context| {
        let ours = Ours::new(context);
        ours.links.send(clock::mono(), THERE, some(5, 1).remove(0));
        assert_eq!(ours.dropped(), 1, "nobody known");
        let first = Node::start(context, anywhere()).await;
        ours.link_to(&first.address.to_string());
        until(context, "the link is up", || *ours.states.borrow() == [true]).await;
        ours.links.set_members(CLUSTER, HERE, [(HERE, "nowhere:1")]);
        assert_eq!(*ours.states.borrow(), [true, false]);
        until(context, "the connection has gone", || first.server.connections() == 0).await;
        ours.send(&some(5, 1));
        assert_eq!(ours.dropped(), 2);
        ours.link_to(&first.address.to_string());
        until(context, "the link is up", || ours.states.borrow().len() == 3).await;
        let second = Node::start(context, anywhere()).await;
        ours.link_to(&second.address.to_string());
        ours.send(&some(6, 1));
        until(context, "a link that works stays", || first.take().len() == 1).await;
        drop(first);
        until(context, "the new address is used", || second.server.connections() == 1).await;
        until(context, "the link is up", || ours.states.borrow().len() == 5).await;
        ours.links.end(clock::mono().after_ms(10_000)).await;
    });
}

#[test]
fn end_does_not_wait_for_who_is_away_or_does_not_listen() {
    on_core(async |context| {
        let ours = Ours::new(context);
        ours.link_to(&anywhere().to_string());
        ours.send(&some(7, 10));
        ours.links.end(clock::mono().after_ms(10_000)).await;
        let deaf = Node::start(context, anywhere()).await;
        deaf.fake.set_frames_room(0);
        let ours = Ours::new(context);
        ours.link_to(&deaf.address.to_string());
        until(context, "the link is up", || *ours.states.borrow() == [true]).await;
        ours.send(&some(8, 30_000));
        ours.links.end(clock::mono().after_ms(50)).await;
        assert_eq!(*ours.states.borrow(), [true, false]);
        assert_eq!(ours.counters[0].links_up.get(), 0);
    });
}
