//! Three machines that replicate every slot: writes, reads and requests that are handed on.

use crate::bench::{BEGIN_MS, Bench, Setup, delete, get, put, put_until};
use crate::net::{N1, N2, N3, Three, anything_but_answers_to_clients, between};
use bytes::Bytes;
use ringcore::node::event::Event;
use ringcore::replication::messages::{AttemptId, Message, MessageBody, News, Replaced, Verdict};
use ringcore::types::request::{Answer, Asker, Expiry, Level, Operation, Request};
use ringcore::types::{Failure, Hlc, MemberId, Outcome, Reason, Token};

#[test]
fn write_is_acknowledged_by_two_of_three_and_read_through_any() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::Quorum);
    three.run(between(N1, N2));
    let version = three.written(write).version;
    three.lose();
    for at in [N1, N2, N3] {
        let read = three.coordinate(at, get(b"k"), Level::Quorum);
        three.run(anything_but_answers_to_clients);
        let answer = three.found(read);
        assert_eq!((answer.version, &answer.value[..]), (version, &b"v"[..]), "through {at}");
    }
    assert_eq!(three.held(N3, b"k"), None, "two that agreed were enough");
}

#[test]
fn request_that_arrives_at_another_node_is_handed_on_once_and_answered() {
    let mut three = Three::new();
    let [first, second, _] = three.order(b"k");
    let asker = three.node(second).ask(put(b"k", b"v"));
    three.settle();
    let version = three.node(second).written(asker).version;
    assert_eq!(version.member, first, "its first replica has stamped it");
    assert_eq!(three.node(second).machine.stats().forwarded, 1);
    assert_eq!(three.node(first).machine.stats().taken_on, 1);
}

#[test]
fn write_goes_to_the_next_replica_while_the_first_is_believed_dead() {
    let mut three = Three::new();
    let [first, second, third] = three.order(b"k");
    three.suspect(third, &[first]);
    three.suspect(second, &[first]);
    let asker = three.node(third).ask(put(b"k", b"v"));
    three.run(between(second, third));
    // The answer to the node that handed it on.
    three.settle();
    assert_eq!(three.node(third).written(asker).version.member, second);
}

#[test]
fn handed_on_write_without_an_answer_is_in_doubt_as_soon_as_its_coordinator_is_believed_dead() {
    let mut three = Three::new();
    let [first, second, third] = three.order(b"k");
    let write = three.node(second).ask(put(b"k", b"v"));
    three.lose();
    three.suspect(second, &[first]);
    assert_eq!(three.node(second).failed(write).outcome, Outcome::InDoubt);
    // A read can be done by anybody: it is this node's own, and needs the third.
    let read = three.node(second).ask(get(b"k"));
    three.run(between(second, third));
    assert!(matches!(three.node(second).reply(read), Some(Ok(Answer::Read(_)))));
}

#[test]
fn too_few_live_replicas_are_said_at_once_and_nothing_is_written() {
    let mut three = Three::new();
    three.suspect(N1, &[N2, N3]);
    let [put, get] = [put(b"k", b"v"), get(b"k")].map(|operation| three.node(N1).ask(operation));
    let failure: Failure = three.node(N1).failed(put);
    assert_eq!((failure.reason, failure.outcome), (Reason::TooFewReplicas, Outcome::NotApplied));
    assert_eq!(three.node(N1).failed(get).reason, Reason::TooFewReplicas);
    assert_eq!(three.held(N1, b"k"), None);
}

#[test]
fn version_that_was_held_and_replaced_counts_as_held() {
    let mut three = Three::new();
    let early = three.coordinate(N1, put(b"k", b"early"), Level::Quorum);
    // It reaches node 2, but the answer does not come back.
    three.run(|from, to, _| (from, to) == (N1, N2));
    three.lose();
    three.nodes.iter_mut().for_each(|node| node.pass_ms(10));
    let late = three.coordinate(N2, put(b"k", b"late"), Level::Quorum);
    three.run(between(N2, N3));
    three.written(late);
    assert!(three.answer(early).is_none());
    // Asked again, node 2 says that it once held it.
    three.lose();
    three.live_ms(300);
    three.run(between(N1, N2));
    three.written(early);
    assert_eq!(three.node(N1).machine.stats().restamps, 0);
}

#[test]
fn version_that_two_never_held_is_stamped_anew_as_the_same_operation() {
    let mut three = Three::new();
    three.node(N2).pass_ms(100);
    let late = three.coordinate(N2, put(b"k", b"late"), Level::Quorum);
    three.run(between(N2, N3));
    let beaten = three.written(late).version;
    three.lose();
    let write = three.coordinate(N1, put(b"k", b"early"), Level::Quorum);
    three.run(between(N1, N2));
    assert!(three.answer(write).is_none(), "one refusal proves nothing");
    three.run(anything_but_answers_to_clients);
    let answer = three.written(write);
    assert!(answer.version > beaten);
    assert_eq!((answer.had_old, &answer.old[..]), (true, &b"late"[..]));
    assert_eq!(three.node(N1).machine.stats().restamps, 1);
    assert_eq!(three.held(N3, b"k").as_deref(), Some(&b"early"[..]));
}

#[test]
fn operation_that_was_asked_for_twice_takes_one_version_although_both_tries_lose_theirs() {
    let mut three = Three::new();
    let [first, second, third] = three.order(b"k");
    three.node(third).pass_ms(100);
    let late = three.coordinate(third, put(b"k", b"late"), Level::Quorum);
    three.run(between(second, third));
    let beaten = three.written(late).version;
    three.lose();
    let tries = [(); 2].map(|()| three.node(first).ask_named(put(b"k", b"early"), 5, 1, 0));
    three.settle();
    let versions = tries.map(|asker| three.node(first).written(asker).version);
    assert!(versions[0] > beaten);
    assert_eq!(versions[0], versions[1]);
    assert_eq!(three.node(first).machine.stats().restamps, 1);
}

#[test]
fn named_operation_that_took_another_version_never_replaces_itself_and_is_answered_alike() {
    let mut three = Three::new();
    let [first, second, third] = three.order(b"k");
    three.node(third).pass_ms(100);
    let late = three.coordinate(third, put(b"k", b"late"), Level::Quorum);
    three.run(between(second, third));
    three.written(late);
    three.lose();
    let asker = three.node(first).ask_named(put(b"k", b"early"), 5, 1, 0);
    three.settle();
    let answer = three.node(first).written(asker);
    assert_eq!(&answer.old[..], b"late");
    let again = three.node(first).ask_named(put(b"k", b"early"), 5, 1, 0);
    three.settle();
    assert_eq!(three.node(first).written(again), answer);
    assert_eq!(three.node(first).machine.stats().restamps, 1);
}

#[test]
fn version_that_one_never_held_waits_for_the_third() {
    let mut three = Three::new();
    three.node(N2).pass_ms(100);
    three.coordinate(N2, put(b"k", b"late"), Level::Quorum);
    three.lose();
    let write = three.coordinate(N1, put(b"k", b"early"), Level::Quorum);
    three.run(between(N1, N2));
    assert!(three.answer(write).is_none());
    three.run(between(N1, N3));
    three.written(write);
    assert_eq!(three.node(N1).machine.stats().restamps, 0, "the third has taken it");
}

#[test]
fn read_writes_back_what_too_few_hold_and_only_then_answers() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::Quorum);
    three.lose();
    assert!(three.answer(write).is_none());
    let read = three.coordinate(N1, get(b"k"), Level::Quorum);
    // Node 2 says that it has nothing; node 3 is silent, and waited for a little.
    three.run(between(N1, N2));
    assert!(three.answer(read).is_none());
    three.live_ms(10);
    three.run(|from, to, body| {
        between(N1, N2)(from, to, body) && !matches!(body, MessageBody::WriteAnswer { .. })
    });
    assert!(three.answer(read).is_none(), "it is not known to be held");
    assert_eq!(three.held(N2, b"k").as_deref(), Some(&b"v"[..]));
    three.run(between(N1, N2));
    assert_eq!(&three.found(read).value[..], b"v");
    assert_eq!(three.node(N1).machine.stats().write_backs, 1);
}

#[test]
fn read_fetches_what_it_does_not_hold_itself() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::Quorum);
    three.run(between(N1, N2));
    three.written(write);
    three.lose();
    let read = three.coordinate(N3, get(b"k"), Level::Quorum);
    three.run(anything_but_answers_to_clients);
    assert_eq!(&three.found(read).value[..], b"v");
    assert_eq!(three.node(N3).machine.stats().write_backs, 0, "two others hold it");
}

#[test]
fn read_that_fetched_a_record_writes_it_back_although_one_replica_is_silent() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::Quorum);
    three.lose();
    assert!(three.answer(write).is_none());
    let read = three.coordinate(N2, get(b"k"), Level::Quorum);
    three.run(between(N1, N2));
    assert!(three.answer(read).is_none(), "node 1 alone holds it");
    // Node 3 is waited for a little; then node 2 takes the record itself.
    three.live_ms(10);
    three.run(between(N1, N2));
    assert_eq!(&three.found(read).value[..], b"v");
    assert_eq!(three.node(N2).machine.stats().reads_again, 0);
}

#[test]
fn tombstone_travels_like_any_record() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::All);
    three.run(anything_but_answers_to_clients);
    three.written(write);
    let gone = three.coordinate(N1, delete(b"k"), Level::Quorum);
    three.run(between(N1, N2));
    let version = three.written(gone).version;
    three.lose();
    let read = three.coordinate(N3, get(b"k"), Level::All);
    three.run(anything_but_answers_to_clients);
    let answer = three.found(read);
    assert_eq!((answer.exists, answer.version), (false, version));
    assert_eq!(three.held(N3, b"k"), None, "it was written back");
}

#[test]
fn all_waits_for_every_replica_and_one_for_none() {
    let mut three = Three::new();
    let all = three.coordinate(N1, put(b"k", b"v"), Level::All);
    three.run(between(N1, N2));
    assert!(three.answer(all).is_none());
    three.run(between(N1, N3));
    three.written(all);
    let one = three.coordinate(N1, put(b"k", b"w"), Level::One);
    three.node(N1).flush();
    three.written(one);
    three.lose();
    let read = three.coordinate(N2, get(b"k"), Level::One);
    assert_eq!(&three.found(read).value[..], b"v", "its own copy, which is older");
}

#[test]
fn what_one_reader_saw_ended_no_other_sees_again() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put_until(b"k", b"v", Expiry::InMs(400)), Level::All);
    three.run(anything_but_answers_to_clients);
    three.written(write);
    // Node 1's clock runs ahead, and its reader sees the end.
    three.node(N1).pass_ms(400);
    let read = three.coordinate(N1, get(b"k"), Level::Quorum);
    three.run(between(N1, N2));
    assert!(!three.found(read).exists);
    three.lose();
    // Node 3's does not, but node 2 has heard of the later time.
    let read = three.coordinate(N3, get(b"k"), Level::Quorum);
    three.run(between(N3, N2));
    assert!(!three.found(read).exists);
    assert!(three.node(N3).machine.stats().reads_again > 0);
    let wall = three.node(N3).now.wall_ms;
    assert!(wall < BEGIN_MS + 400, "by its own clock it lives");
}

#[test]
fn answer_to_what_an_earlier_process_asked_is_an_answer_to_nobody() {
    let mut three = Three::new();
    three.coordinate(N1, put(b"k", b"v"), Level::Quorum);
    three.run(|from, to, _| (from, to) == (N1, N2));
    // Node 2's answer is under way when node 1 starts again and asks for something else.
    let setup = Setup { members: 3, hlc_bound: Hlc::at_ms(BEGIN_MS + 100), ..Setup::default() };
    *three.node(N1) = Bench::of_member(N1, setup);
    let write = three.coordinate(N1, put(b"j", b"w"), Level::Quorum);
    three.run(|from, to, _| (from, to) == (N2, N1));
    assert!(three.answer(write).is_none(), "only this node holds it");
    three.settle();
    assert!(three.held(N2, b"j").is_some());
}

#[test]
fn lost_messages_are_sent_again_until_the_deadline() {
    let mut three = Three::new();
    let write = three.coordinate(N1, put(b"k", b"v"), Level::Quorum);
    three.node(N1).flush();
    three.lose();
    three.live_ms(250);
    three.run(between(N1, N3));
    three.written(write);
    let write = three.coordinate(N1, put(b"k", b"w"), Level::Quorum);
    let read = three.coordinate(N1, get(b"j"), Level::Quorum);
    for _ in 0..40 {
        three.node(N1).live_ms(250);
        let answers = |(_, _, message): &(MemberId, MemberId, Message)| {
            matches!(message.body, MessageBody::ForwardAnswer { .. })
        };
        three.collect();
        three.under_way.retain(answers);
    }
    let Some(Err(failure)) = three.answer(write) else { panic!("it ends") };
    assert_eq!((failure.reason, failure.outcome), (Reason::NoQuorumInTime, Outcome::InDoubt));
    let Some(Err(failure)) = three.answer(read) else { panic!("it ends") };
    assert_eq!((failure.reason, failure.outcome), (Reason::NoQuorumInTime, Outcome::Read));
    assert!(three.node(N1).machine.is_quiet());
}

#[test]
fn answers_to_a_version_that_was_given_up_count_for_nothing() {
    let mut three = Three::new();
    three.node(N2).pass_ms(100);
    let late = three.coordinate(N2, put(b"k", b"late"), Level::Quorum);
    three.run(between(N2, N3));
    three.written(late);
    three.lose();
    let write = three.coordinate(N1, put(b"k", b"early"), Level::Quorum);
    three.node(N1).flush();
    three.collect();
    let offered = three.under_way.iter().find_map(|(_, _, message)| match &message.body {
        MessageBody::Write { attempt, .. } => Some((*attempt, message.clone())),
        _ => None,
    });
    let (attempt, message) = offered.expect("it was offered");
    // Both refuse, and the operation takes another version, of which nobody has heard yet.
    for at in [N2, N3] {
        three.run(|from, to, body| {
            (from, to) == (N1, at)
                && matches!(body, MessageBody::Write { attempt: asked, .. } if *asked == attempt)
        });
        three.run(|from, to, body| (from, to) == (at, N1) && matches!(body, MessageBody::WriteAnswer { .. }));
    }
    assert_eq!(three.node(N1).machine.stats().restamps, 1);
    let writes = three.node(N1).machine.stats().writes;
    let (verdict, replaced) = (Verdict::Held, Replaced::default());
    let body = MessageBody::WriteAnswer { attempt, verdict, replaced, label: None };
    three.node(N1).step(Event::Peer { from: N2, message: Message { body, ..message } });
    assert_eq!(three.node(N1).machine.stats().writes, writes);
    assert!(three.answer(write).is_none());
    three.run(anything_but_answers_to_clients);
    three.written(write);
}

#[test]
fn request_for_a_node_that_owns_nothing_of_it_is_given_back() {
    let mut bench = Bench::of_member(MemberId(4), Setup { members: 4, ..Setup::default() });
    let keys = (0..200u32).map(|n| Bytes::from(n.to_string()));
    let ring = bench.machine.ring().clone();
    let foreign = keys.into_iter().find(|key| !ring.replicas(Token::of(key).slot()).contains(&MemberId(4)));
    let key = foreign.expect("four members share the keys");
    let slot = Token::of(&key).slot();
    let operation = Operation::Read { key, value: true };
    let body = MessageBody::Forward {
        attempt: AttemptId(7),
        operation: operation.clone(),
        level: Level::Quorum,
        identity: None,
        done_below: 0,
        remaining_ms: 1_000,
    };
    let message = Message { slot, configuration: 1, hlc: Hlc::ZERO, news: News::default(), body };
    bench.step(Event::Peer { from: N1, message });
    let (to, answer) = bench.sent.pop_front().expect("it is answered");
    assert_eq!(to, N1);
    assert_eq!(answer.body, MessageBody::ForwardAnswer { attempt: AttemptId(7), reply: None });
    // A client's own request goes to somebody who does.
    let request: Request = bench.request(operation);
    let asker: Asker = bench.submit(request);
    let (to, message) = bench.sent.pop_front().expect("it is handed on");
    assert!(matches!(message.body, MessageBody::Forward { .. }) && to != MemberId(4));
    assert_eq!(bench.reply(asker), None);
}
