//! Three machines that replicate every slot: what one has missed it is sent, and what is dead goes when all know it.

use crate::bench::{delete, get, put, put_until};
use crate::net::{N1, N2, N3, Three, anything_but_answers_to_clients, between};
use ringcore::node::event::Event;
use ringcore::replication::messages::{AttemptId, Message, MessageBody, News, OwnedRecord, Verdict};
use ringcore::storage::log_record::Round;
use ringcore::types::request::{Expiry, Level};
use ringcore::types::{Hlc, MemberId, Token};

/// Time passes and every message arrives, but for those between the pairs that `cut` names.
fn live(three: &mut Three, ms: u64, cut: impl Fn(MemberId, MemberId) -> bool) {
    for _ in 0..ms.div_ceil(20) {
        three.live_ms(20);
        three.run(|from, to, _| !cut(from, to) && !cut(to, from));
        three.under_way.retain(|(from, to, _)| !cut(*from, *to) && !cut(*to, *from));
    }
}

fn records(three: &mut Three, at: MemberId) -> u64 {
    three.node(at).machine.replica().shard().counts().records
}

fn digest(three: &mut Three, at: MemberId, key: &[u8]) -> u64 {
    three.node(at).machine.replica().shard().mark(Token::of(key).slot()).digest.0
}

#[test]
fn replica_that_was_away_is_sent_what_it_missed() {
    let mut three = Three::new();
    let before = three.coordinate(N1, put(b"gone", b"v"), Level::All);
    three.run(anything_but_answers_to_clients);
    three.written(before);
    for operation in [put(b"a", b"1"), put_until(b"b", b"2", Expiry::InMs(3_600_000)), delete(b"gone")] {
        let write = three.coordinate(N1, operation, Level::Quorum);
        three.run(between(N1, N2));
        three.written(write);
        three.lose();
    }
    assert_eq!((three.held(N3, b"a"), three.held(N3, b"gone").is_some()), (None, true));
    live(&mut three, 12_000, |_, _| false);
    assert_eq!(three.held(N3, b"a").as_deref(), Some(&b"1"[..]));
    assert_eq!(three.held(N3, b"gone"), None, "its end has come too");
    for key in [&b"a"[..], b"b", b"gone"] {
        assert_eq!(digest(&mut three, N1, key), digest(&mut three, N3, key));
    }
    let ends = |three: &mut Three, at| {
        let shard = three.node(at).machine.replica().shard();
        shard.get(Token::of(b"b"), b"b").expect("it is there").expires_at_ms
    };
    assert_eq!(ends(&mut three, N3), ends(&mut three, N1));
    let repaired: u64 = three.nodes.iter().map(|node| node.machine.stats().repaired).sum();
    assert!((3..=6).contains(&repaired), "only what differed has travelled: {repaired}");
}

#[test]
fn equal_replicas_have_little_to_say() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::All);
    three.run(anything_but_answers_to_clients);
    three.written(write);
    live(&mut three, 30_000, |_, _| false);
    let compared = |three: &Three| three.nodes.iter().map(|node| node.machine.stats().compared).sum::<u64>();
    let before = compared(&three);
    live(&mut three, 10_000, |_, _| false);
    let more = compared(&three) - before;
    assert!((10..=66).contains(&more), "two comparisons a second and node: {more}");
}

#[test]
fn tombstone_goes_when_all_have_confirmed_it_and_nothing_older_returns() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::All);
    three.run(anything_but_answers_to_clients);
    let version = three.written(write).version;
    let gone = three.coordinate(N1, delete(b"k"), Level::All);
    three.run(anything_but_answers_to_clients);
    three.written(gone);
    live(&mut three, 45_000, |_, _| false);
    for at in [N1, N2, N3] {
        assert_eq!(records(&mut three, at), 0, "at {at}");
    }
    // What a hint or a late message may bring.
    let first = three.order(b"k")[0];
    let late = OwnedRecord {
        key: bytes::Bytes::from_static(b"k"),
        version,
        expires_at_ms: 0,
        value: Some(bytes::Bytes::from_static(b"v")),
    };
    let other = if first == N1 { N2 } else { N1 };
    let mut offer = |label: Option<Round>| {
        let record = late.clone();
        let attempt = AttemptId(77);
        let body = MessageBody::Write { attempt, record, label, naming: None, previous: false, repair: true };
        let (slot, news) = (Token::of(b"k").slot(), News::default());
        let message = Message { slot, configuration: 1, hlc: Hlc::ZERO, news, body };
        three.node(first).step(Event::Peer { from: other, message });
        three.node(first).flush();
        let answer = three.node(first).sent.pop_back().expect("it is answered").1;
        let MessageBody::WriteAnswer { verdict, .. } = answer.body else {
            panic!("not an answer: {answer:?}")
        };
        verdict
    };
    assert_eq!(offer(None), Verdict::BelowFloor);
    assert_eq!(offer(Some(Round::default())), Verdict::BelowFloor, "an old label proves nothing");
    let read = three.coordinate(N2, get(b"k"), Level::Quorum);
    three.run(anything_but_answers_to_clients);
    assert!(!three.found(read).exists);
}

#[test]
fn tombstone_stays_while_one_replica_has_not_confirmed_it() {
    let mut three = Three::new();
    let away = three.order(b"k")[2];
    let write = three.coordinate(N1, put(b"k", b"v"), Level::All);
    three.run(anything_but_answers_to_clients);
    three.written(write);
    let coordinator = if away == N1 { N2 } else { N1 };
    let gone = three.coordinate(coordinator, delete(b"k"), Level::Quorum);
    three.run(|from, to, body| {
        from != away && to != away && !matches!(body, MessageBody::ForwardAnswer { .. })
    });
    three.written(gone);
    three.lose();
    live(&mut three, 60_000, |from, _| from == away);
    for at in [N1, N2, N3] {
        assert_eq!(records(&mut three, at), 1, "at {at}");
    }
    assert!(three.held(away, b"k").is_some(), "it has not heard of the deletion");
    live(&mut three, 60_000, |_, _| false);
    for at in [N1, N2, N3] {
        assert_eq!(records(&mut three, at), 0, "at {at}");
    }
}

#[test]
fn what_has_expired_is_collected_too() {
    let mut three = Three::new();
    let write = three.coordinate(N2, put_until(b"k", b"v", Expiry::InMs(1_000)), Level::Quorum);
    three.run(anything_but_answers_to_clients);
    three.written(write);
    live(&mut three, 60_000, |_, _| false);
    for at in [N1, N2, N3] {
        assert_eq!(records(&mut three, at), 0, "at {at}");
    }
}
