//! A bench of three machines that replicate every slot, and a network that a test holds in its hands.

use crate::bench::{Bench, Setup};
use ringcore::node::event::{Event, Opinion};
use ringcore::replication::messages::{AttemptId, Message, MessageBody, News};
use ringcore::types::request::{Answer, Level, Operation, ReadAnswer, Reply, WriteAnswer};
use ringcore::types::{Hlc, MemberId, Token};
use std::collections::VecDeque;

pub(crate) const N1: MemberId = MemberId(1);
pub(crate) const N2: MemberId = MemberId(2);
pub(crate) const N3: MemberId = MemberId(3);

/// Their cores, and what is under way between them.
pub(crate) struct Three {
    pub(crate) nodes: Vec<Bench>,
    pub(crate) under_way: VecDeque<(MemberId, MemberId, Message)>,
    /// Names of requests that a test has one node coordinate for another.
    handed: u64,
}

impl Three {
    pub(crate) fn new() -> Three {
        let of = |id| Bench::of_member(MemberId(id), Setup { members: 3, ..Setup::default() });
        Three { nodes: (1..=3).map(of).collect(), under_way: VecDeque::new(), handed: 0 }
    }

    pub(crate) fn node(&mut self, member: MemberId) -> &mut Bench {
        &mut self.nodes[member.0 as usize - 1]
    }

    /// Takes up what the nodes have sent.
    pub(crate) fn collect(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let from = MemberId(at as u32 + 1);
            self.under_way.extend(node.sent.drain(..).map(|(to, message)| (from, to, message)));
        }
    }

    /// Delivers what passes the filter, and what follows from it, until nothing more does. The rest stays under way.
    pub(crate) fn run(&mut self, passes: impl Fn(MemberId, MemberId, &MessageBody) -> bool) {
        loop {
            self.nodes.iter_mut().for_each(Bench::flush);
            self.collect();
            let found =
                self.under_way.iter().position(|(from, to, message)| passes(*from, *to, &message.body));
            let Some((from, to, message)) = found.and_then(|at| self.under_way.remove(at)) else { return };
            self.node(to).step(Event::Peer { from, message });
        }
    }

    /// Everything arrives.
    pub(crate) fn settle(&mut self) {
        self.run(|_, _, _| true);
    }

    /// What is under way is lost.
    pub(crate) fn lose(&mut self) {
        self.collect();
        self.under_way.clear();
    }

    /// Time passes everywhere, without a message.
    pub(crate) fn live_ms(&mut self, ms: u64) {
        self.nodes.iter_mut().for_each(|node| node.live_ms(ms));
        self.collect();
    }

    /// Has a node coordinate a request, whoever would be chosen for it: as if another had handed it on.
    pub(crate) fn coordinate(&mut self, at: MemberId, operation: Operation, level: Level) -> Handed {
        self.handed += 1;
        let from = if at == N1 { N2 } else { N1 };
        let handed = Handed { from, attempt: AttemptId(u64::MAX - self.handed) };
        let slot = Token::of(operation.key().expect("of one key")).slot();
        let body = MessageBody::Forward {
            attempt: handed.attempt,
            operation,
            level,
            identity: None,
            done_below: 0,
            remaining_ms: 10_000,
        };
        let message = Message { slot, configuration: 1, hlc: Hlc::ZERO, news: News::default(), body };
        self.node(at).step(Event::Peer { from, message });
        handed
    }

    /// The answer to such a request, if it has left.
    pub(crate) fn answer(&mut self, handed: Handed) -> Option<Reply> {
        self.collect();
        let is_it = |(_, to, message): &(MemberId, MemberId, Message)| {
            *to == handed.from
                && matches!(&message.body, MessageBody::ForwardAnswer { attempt, .. } if *attempt == handed.attempt)
        };
        let at = self.under_way.iter().position(is_it)?;
        match self.under_way.remove(at).map(|(_, _, message)| message.body) {
            Some(MessageBody::ForwardAnswer { reply: Some(reply), .. }) => Some(reply),
            other => panic!("not an answer: {other:?}"),
        }
    }

    pub(crate) fn written(&mut self, handed: Handed) -> WriteAnswer {
        match self.answer(handed) {
            Some(Ok(Answer::Write(answer))) => answer,
            other => panic!("no write was acknowledged: {other:?}"),
        }
    }

    pub(crate) fn found(&mut self, handed: Handed) -> ReadAnswer {
        match self.answer(handed) {
            Some(Ok(Answer::Read(answer))) => answer,
            other => panic!("no read was answered: {other:?}"),
        }
    }

    pub(crate) fn suspect(&mut self, at: MemberId, suspects: &[MemberId]) {
        let opinion = Opinion { suspects: suspects.to_vec(), ahead_ms: 0 };
        self.node(at).step(Event::Opinion(opinion));
    }

    /// The node that coordinates writes of a key, and the two others.
    pub(crate) fn order(&mut self, key: &[u8]) -> [MemberId; 3] {
        let ring = self.nodes[0].machine.ring().replicas(Token::of(key).slot()).to_vec();
        ring.try_into().expect("three replicas")
    }

    pub(crate) fn held(&mut self, at: MemberId, key: &[u8]) -> Option<Vec<u8>> {
        let record = self.node(at).machine.replica().shard().get(Token::of(key), key)?;
        record.live_value(Hlc::ZERO).map(<[u8]>::to_vec)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Handed {
    from: MemberId,
    attempt: AttemptId,
}

/// Of the messages between two nodes, those that are no answers to a request that was handed on.
pub(crate) fn between(a: MemberId, b: MemberId) -> impl Fn(MemberId, MemberId, &MessageBody) -> bool {
    move |from, to, body| {
        ((from, to) == (a, b) || (from, to) == (b, a)) && !matches!(body, MessageBody::ForwardAnswer { .. })
    }
}

pub(crate) fn anything_but_answers_to_clients(_: MemberId, _: MemberId, body: &MessageBody) -> bool {
    !matches!(body, MessageBody::ForwardAnswer { .. })
}
