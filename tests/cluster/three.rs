//! Three nodes that form a cluster: any one of them can be killed under load, or all at once, and nothing that was
//! acknowledged is lost.

use super::node::{Home, Node, among_others, block_on, seed, until};
use super::writer::{Load, Writer, audit, cluster_writers};
use ringcore::client::{Outcome, Reason};
use ringcore::rpc::proto::v1;
use ringcore::types::prng::Prng;
use rustix::process::Signal;
use std::time::Duration;
use tonic::transport::Channel;
use v1::cluster_client::ClusterClient;

const WRITERS: u64 = 8;

struct Three {
    homes: Vec<Home>,
    /// None: killed.
    nodes: Vec<Option<Node>>,
}

impl Three {
    /// The first founds the cluster, the others join it, and each has its slots.
    fn form(name: &str) -> Three {
        let homes: Vec<Home> = (1..=3).map(|n| Home::new(&format!("{name}-n{n}"))).collect();
        let mut three = Three { homes, nodes: Vec::new() };
        three.nodes.push(Some(Node::start(&three.homes[0], &["--cores", "2"])));
        for at in 1..3 {
            three.nodes.push(None);
            three.start(at);
        }
        three.whole();
        three
    }

    /// Starts a node: one that has data finds its place by itself, whatever it is told.
    fn start(&mut self, at: usize) {
        let (name, seed) = (format!("n{}", at + 1), self.homes[0].peer.to_string());
        let flags: &[&str] = match at {
            0 => &["--bootstrap"],
            _ => &["--join", &seed],
        };
        // Another number of cores than the first has: slots lie on other cores there.
        let cores = if at == 2 { "1" } else { "2" };
        let flags = [flags, &["--name", &name, "--cores", cores]].concat();
        self.nodes[at] = Some(Node::start_as(&self.homes[at], &flags));
    }

    fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("it runs").kill();
    }

    fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("it runs")
    }

    /// Waits until every node sees three members that live, and three replicas of every slot.
    fn whole(&self) {
        for node in self.nodes.iter().flatten() {
            until("the cluster is whole", || {
                let ring = ring_of(node);
                let alive =
                    ring.members.iter().filter(|member| member.liveness() == v1::Liveness::Alive).count();
                ring.replication == 3 && alive == 3 && ring.epoch >= 7
            });
        }
    }

    /// Waits until all hold as many records, and then for as long as it takes that nobody has anything to say.
    fn level(&self) {
        until("all hold as much", || {
            let keys: Vec<f64> =
                self.nodes.iter().flatten().map(|node| node.metric_sum("ringcore_keys")).collect();
            keys.windows(2).all(|two| two[0].to_bits() == two[1].to_bits())
        });
    }

    fn audit(&self, writers: &mut [Writer]) {
        for node in self.nodes.iter().flatten() {
            audit(node.address, writers);
        }
    }
}

fn ring_of(node: &Node) -> v1::GetRingResponse {
    block_on(async {
        let channel = Channel::from_shared(format!("http://{}", node.address)).unwrap().connect_lazy();
        let mut client = ClusterClient::new(channel);
        client.get_ring(v1::GetRingRequest::default()).await.expect("it answers").into_inner()
    })
}

/// What a cluster may say while nodes die: that it does not know, that too few live, or that a connection broke.
fn assert_errors(writers: &mut [Writer]) {
    for error in writers.iter_mut().flat_map(|writer| writer.errors.drain(..)) {
        let honest = error.outcome() == Outcome::InDoubt
            || super::writer::is_of_absence(&error)
            || matches!(
                error.reason(),
                Some(
                    Reason::TooFewReplicas | Reason::NoQuorumInTime | Reason::NotReplica | Reason::Overloaded
                )
            );
        assert!(honest, "{error:?}");
    }
}

#[test]
fn any_node_can_be_killed_under_load_and_nothing_acknowledged_is_lost() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let mut three = Three::form("any");
    let mut writers = cluster_writers(WRITERS, &mut prng);
    for victim in [1, 2, 1] {
        let load = Load::start(three.node(0).address, writers);
        until("writes are acknowledged", || load.acknowledged() > 100);
        std::thread::sleep(Duration::from_millis(prng.below(200)));
        three.kill(victim);
        let before = load.acknowledged();
        until("writes go on without it", || load.acknowledged() > before + 300);
        three.start(victim);
        three.whole();
        writers = load.finish();
        assert_errors(&mut writers);
        three.audit(&mut writers);
    }
    three.level();
}

#[test]
fn all_nodes_can_be_killed_at_once() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let mut three = Three::form("all");
    let mut writers = cluster_writers(WRITERS, &mut prng);
    for _ in 0..2 {
        let load = Load::start(three.node(1).address, writers);
        until("writes are acknowledged", || load.acknowledged() > 300);
        (0..3).for_each(|at| three.kill(at));
        writers = load.finish();
        assert_errors(&mut writers);
        (0..3).for_each(|at| three.start(at));
        three.whole();
        three.audit(&mut writers);
    }
    three.level();
}

#[test]
fn node_that_stands_still_for_a_while_is_done_without() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let three = Three::form("still");
    let load = Load::start(three.node(0).address, cluster_writers(WRITERS, &mut prng));
    until("writes are acknowledged", || load.acknowledged() > 100);
    three.node(2).signal(Signal::STOP);
    let before = load.acknowledged();
    until("writes go on without it", || load.acknowledged() > before + 300);
    three.node(2).signal(Signal::CONT);
    three.whole();
    let mut writers = load.finish();
    assert_errors(&mut writers);
    three.audit(&mut writers);
    three.level();
}

#[test]
fn cluster_that_holds_data_lets_nobody_in_and_says_why() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let first = Home::new("full-n1");
    let node = Node::start(&first, &["--cores", "1"]);
    let load = Load::start(node.address, cluster_writers(2, &mut prng));
    until("writes are acknowledged", || load.acknowledged() > 50);
    load.finish();
    let second = Home::new("full-n2");
    let (code, said) = second.refused(&["--name", "n2", "--cores", "1", "--join", &first.peer.to_string()]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("only an empty cluster can grow"), "{said}");
    let same = Home::new("full-n3");
    let (code, said) = same.refused(&["--name", "n1", "--cores", "1", "--join", &first.peer.to_string()]);
    assert_eq!((code, said.contains("the name is taken")), (78, true), "{said}");
    node.stop();
}
