//! Agreement on one number among acceptors that crash, over a network that loses, repeats and reorders.

use ringcore::cluster::paxos::{Acceptor, Ballot, Proposer, Taken};
use ringcore::types::MemberId;
use ringcore::types::prng::Prng;
use std::collections::{BTreeMap, BTreeSet};

/// Seeds of every ordinary run.
const SEEDS: u64 = 20_000;

#[derive(Clone)]
enum Message {
    Prepare(Ballot),
    Promise(Ballot, Taken<u64>),
    Accept(Ballot, u64),
    Accepted(Ballot),
    Refused(Ballot),
}

struct Node {
    id: MemberId,
    acceptor: Acceptor<u64>,
    durable: Acceptor<u64>,
    /// Leaves when what was changed before it is durable.
    waiting: Vec<(MemberId, Message)>,
    proposer: Option<Proposer<u64>>,
    proposals: u64,
}

struct World {
    prng: Prng,
    nodes: Vec<Node>,
    voters: Vec<MemberId>,
    net: Vec<(MemberId, MemberId, Message)>,
    loss: u64,
    repeat: u64,
    decided: BTreeSet<u64>,
    /// Who took which value under which ballot, durably: the decision as nobody in the world sees it.
    taken: BTreeMap<(Ballot, u64), BTreeSet<MemberId>>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut prng = Prng::new(seed);
        let (voters, others) = (prng.between(1, 5) as u32, prng.below(3) as u32);
        let node = |id| Node {
            id: MemberId(id),
            acceptor: Acceptor::new(1),
            durable: Acceptor::new(1),
            waiting: Vec::new(),
            proposer: None,
            proposals: 0,
        };
        World {
            nodes: (1..=voters + others).map(node).collect(),
            voters: (1..=voters).map(MemberId).collect(),
            net: Vec::new(),
            loss: [0, 50, 300][prng.below(3) as usize],
            repeat: [0, 100, 300][prng.below(3) as usize],
            decided: BTreeSet::new(),
            taken: BTreeMap::new(),
            prng,
        }
    }

    fn run(seed: u64) -> World {
        let mut world = World::new(seed);
        let crash = [0, 15, 60][world.prng.below(3) as usize];
        let propose = [10, 40][world.prng.below(2) as usize];
        for _ in 0..world.prng.between(100, 500) {
            let any = world.prng.below(world.nodes.len() as u64) as usize;
            if world.prng.chance(300) {
                world.flush(any);
            }
            if world.prng.chance(crash) {
                world.crash(any);
            }
            if world.prng.chance(propose) && world.voters.contains(&world.nodes[any].id) {
                world.propose(any);
            }
            if !world.net.is_empty() {
                let at = world.prng.below(world.net.len() as u64) as usize;
                let (from, to, message) = world.net.swap_remove(at);
                world.deliver(from, to.0 as usize - 1, message);
            }
            world.judge(seed);
        }
        world
    }

    fn judge(&self, seed: u64) {
        let majority = |takers: &&BTreeSet<MemberId>| takers.len() > self.voters.len() / 2;
        let chosen = self.taken.iter().filter(|(_, takers)| majority(takers)).map(|((_, value), _)| *value);
        let values: BTreeSet<u64> = chosen.chain(self.decided.iter().copied()).collect();
        assert!(values.len() <= 1, "seed {seed}: {values:?} are decided for one number");
    }

    fn send(&mut self, from: MemberId, to: MemberId, message: Message) {
        if !self.prng.chance(self.loss) {
            self.net.push((from, to, message.clone()));
        }
        if self.prng.chance(self.repeat) {
            self.net.push((from, to, message));
        }
    }

    fn flush(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.durable = node.acceptor.clone();
        let id = node.id;
        if let Some((ballot, value)) = *node.durable.accepted()
            && self.voters.contains(&id)
        {
            self.taken.entry((ballot, value)).or_default().insert(id);
        }
        for (to, message) in std::mem::take(&mut self.nodes[at].waiting) {
            if to == id { self.net.push((id, id, message)) } else { self.send(id, to, message) }
        }
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let durable = &node.durable;
        node.acceptor = Acceptor::recovered(durable.number(), durable.promised(), *durable.accepted());
        node.durable = node.acceptor.clone();
        (node.proposer, node.waiting) = (None, Vec::new());
        // What it had sent to itself was in memory.
        let id = node.id;
        self.net.retain(|(from, to, _)| !(*from == id && *to == id));
    }

    /// Everybody is asked, those without a vote too: what they answer must not count.
    fn propose(&mut self, at: usize) {
        let everybody: Vec<MemberId> = self.nodes.iter().map(|node| node.id).collect();
        let voters = self.voters.clone();
        let node = &mut self.nodes[at];
        node.proposals += 1;
        let ballot = Ballot { round: node.acceptor.promised().round + 1, member: node.id };
        let wish = u64::from(node.id.0) * 1_000_000 + node.proposals;
        node.proposer = Some(Proposer::new(1, ballot, voters, wish));
        let promise = node.acceptor.prepare(ballot).expect("it is above what was promised");
        node.waiting.push((node.id, Message::Promise(ballot, promise)));
        let others = everybody.into_iter().filter(|id| *id != node.id);
        node.waiting.extend(others.map(|id| (id, Message::Prepare(ballot))));
    }

    fn deliver(&mut self, from: MemberId, at: usize, message: Message) {
        let everybody: Vec<MemberId> = self.nodes.iter().map(|node| node.id).collect();
        let node = &mut self.nodes[at];
        let id = node.id;
        match message {
            Message::Prepare(ballot) => {
                let answer = match node.acceptor.prepare(ballot) {
                    Ok(accepted) => Message::Promise(ballot, accepted),
                    Err(_) => Message::Refused(ballot),
                };
                node.waiting.push((from, answer));
            }
            Message::Accept(ballot, value) => {
                let answer = match node.acceptor.accept(ballot, value) {
                    Ok(()) => Message::Accepted(ballot),
                    Err(_) => Message::Refused(ballot),
                };
                node.waiting.push((from, answer));
            }
            Message::Promise(ballot, accepted) => {
                let Some(proposer) = &mut node.proposer else { return };
                if let Some(value) = proposer.promised(from, ballot, accepted) {
                    everybody.into_iter().for_each(|to| match to == id {
                        true => self.net.push((id, id, Message::Accept(ballot, value))),
                        false => self.send(id, to, Message::Accept(ballot, value)),
                    });
                }
            }
            Message::Accepted(ballot) => {
                let Some(proposer) = &mut node.proposer else { return };
                self.decided.extend(proposer.accepted(from, ballot));
            }
            Message::Refused(ballot) => {
                if node.proposer.as_ref().is_some_and(|proposer| proposer.ballot() == ballot) {
                    node.proposer = None;
                }
            }
        }
    }
}

pub(crate) fn run(seed: u64) -> bool {
    !World::run(seed).decided.is_empty()
}

#[cfg(not(mutants))]
#[test]
fn one_value_is_decided_for_a_number_whatever_happens() {
    if let Some(seed) = crate::seed("PAXOS_SEED") {
        run(seed);
        return;
    }
    let decided = (1..=SEEDS).filter(|seed| crate::replayable("PAXOS_SEED", *seed, || run(*seed))).count();
    println!("{SEEDS} seeds, {decided} decided");
    assert!(decided > SEEDS as usize / 2, "too little was decided: {decided}");
}
