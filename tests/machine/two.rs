//! Two machines that replicate every slot to each other.

use crate::bench::{BEGIN_MS, Bench, OTHER, Setup, get, put};
use bytes::Bytes;
use ringcore::node::event::Event;
use ringcore::replication::messages::{AttemptId, Message, MessageBody, News, OwnedRecord};
use ringcore::types::request::Answer;
use ringcore::types::{Hlc, Limits, MemberId, OperationId, Outcome, Token, Version};

#[test]
fn write_of_two_replicas_is_acknowledged_when_both_hold_it_durably() {
    let (mut here, mut there) = Bench::two();
    let asker = here.ask(put(b"k", b"v"));
    here.flush();
    assert_eq!(here.reply(asker), None);
    here.deliver(&mut there, MemberId(1));
    assert!(there.sent.is_empty(), "its answer waits for its log");
    there.flush();
    there.deliver(&mut here, OTHER);
    let version = here.written(asker).version;
    let held = there.machine.replica().shard().get(Token::of(b"k"), b"k").expect("it holds the key");
    assert_eq!(held.version, version);
}

#[test]
fn write_whose_peer_does_not_answer_is_in_doubt_at_its_deadline() {
    let (mut here, _) = Bench::two();
    let asker = here.ask(put(b"k", b"v"));
    here.flush();
    here.live_ms(10_000);
    assert_eq!(here.failed(asker).outcome, Outcome::InDoubt);
    assert!(here.machine.is_quiet());
}

#[test]
fn read_finds_what_only_the_other_of_two_holds_although_its_own_answer_comes_first() {
    for patient in [true, false] {
        let (mut here, mut there) = Bench::two();
        here.ask(put(b"k", b"old"));
        here.flush();
        here.sent.clear();
        let version = Version::new(Hlc::at_ms(BEGIN_MS + 5), OTHER);
        let (key, value) = (Bytes::from_static(b"k"), Some(Bytes::from_static(b"new")));
        let record = OwnedRecord { key, version, expires_at_ms: 0, value };
        let body = MessageBody::Write {
            attempt: AttemptId(1),
            record,
            label: None,
            naming: None,
            previous: false,
            repair: true,
        };
        let slot = Token::of(b"k").slot();
        let message = Message { slot, configuration: 1, hlc: Hlc::ZERO, news: News::default(), body };
        there.step(Event::Peer { from: MemberId(1), message });
        there.flush();
        there.sent.clear();
        let asker = here.ask(get(b"k"));
        for _ in 0..20 {
            // Each way takes longer than a read has patience.
            here.live_ms(if patient { 1 } else { 15 });
            here.deliver(&mut there, MemberId(1));
            there.flush();
            there.deliver(&mut here, OTHER);
        }
        let Some(Ok(Answer::Read(answer))) = here.reply(asker) else { panic!("it is not answered") };
        assert_eq!((answer.version, &answer.value[..]), (version, &b"new"[..]));
    }
}

#[test]
fn answer_that_comes_twice_counts_once() {
    let (mut here, mut there) = Bench::two();
    let asker = here.ask(put(b"k", b"v"));
    here.deliver(&mut there, MemberId(1));
    there.flush();
    let (_, answer) = there.sent.pop_front().expect("it answers");
    here.step(Event::Peer { from: OTHER, message: answer.clone() });
    here.step(Event::Peer { from: OTHER, message: answer });
    assert_eq!(here.reply(asker), None, "its own copy is not durable");
    here.flush();
    here.written(asker);
}

#[test]
fn record_that_arrives_again_at_rest_is_answered_at_once() {
    let (mut here, mut there) = Bench::two();
    here.ask(put(b"k", b"v"));
    here.flush();
    let (_, message) = here.sent.pop_front().expect("it is sent");
    there.step(Event::Peer { from: MemberId(1), message: message.clone() });
    there.flush();
    there.sent.clear();
    there.step(Event::Peer { from: MemberId(1), message });
    assert_eq!(there.sent.len(), 1, "it has been durable for long");
}

#[test]
fn repetition_is_not_acknowledged_before_the_quorum_holds_the_operation() {
    let (mut here, mut there) = Bench::two();
    let first = here.ask_named(put(b"k", b"v"), 5, 1, 0);
    here.flush();
    let again = here.ask_named(put(b"k", b"v"), 5, 1, 0);
    here.flush();
    assert_eq!((here.reply(first), here.reply(again)), (None, None));
    here.deliver(&mut there, MemberId(1));
    there.flush();
    there.deliver(&mut here, OTHER);
    assert_eq!(here.written(first), here.written(again));
}

#[test]
fn operation_in_doubt_is_completed_by_its_repetition_at_the_same_version() {
    let (mut here, mut there) = Bench::two();
    here.write_to_both(put(b"k", b"0"), &mut there);
    let first = here.ask_named(put(b"k", b"v"), 5, 1, 0);
    here.flush();
    here.live_ms(10_000);
    assert_eq!(here.failed(first).outcome, Outcome::InDoubt);
    here.sent.clear();
    let version = here.machine.replica().shard().identities().get(OperationId { client: 5, request: 1 });
    let version = version.expect("it is remembered").version;
    let again = here.ask_named(put(b"k", b"v"), 5, 1, 0);
    here.deliver(&mut there, MemberId(1));
    there.flush();
    there.deliver(&mut here, OTHER);
    let answer = here.written(again);
    assert_eq!((answer.version, answer.old.as_ref()), (version, &b"0"[..]));
}

#[test]
fn version_above_the_durable_bound_does_not_leave_before_its_own_record() {
    let (mut here, _) = Bench::two();
    here.ask(put(b"k", b"v"));
    here.flush();
    here.sent.clear();
    here.ask(put(b"k", b"w"));
    assert_eq!(here.sent.len(), 1, "the log's bound covers it");
    here.flush();
    here.sent.clear();
    here.pass_ms(60_000);
    here.ask(put(b"k", b"x"));
    assert!(here.sent.is_empty(), "after a crash the same version could be issued again");
    here.flush();
    assert_eq!(here.sent.len(), 1);
}

#[test]
fn message_of_a_stranger_changes_nothing() {
    let (mut here, mut there) = Bench::two();
    here.ask(put(b"k", b"v"));
    let (_, message) = here.sent.pop_front().expect("it is sent");
    there.step(Event::Peer { from: MemberId(9), message: message.clone() });
    there.step(Event::Peer { from: OTHER, message });
    assert!(there.plan().is_empty() && there.sent.is_empty());
    assert_eq!(there.machine.stats().peer_refusals, 2);
}

#[test]
fn record_of_another_slot_or_beyond_the_limits_is_refused() {
    let mut here = Bench::new(Setup { members: 2, ..Setup::default() });
    let offer = |slot_of: &'static [u8], key: Bytes, value: Bytes| {
        let version = Version::new(Hlc::at_ms(BEGIN_MS), OTHER);
        let record = OwnedRecord { key, version, expires_at_ms: 0, value: Some(value) };
        let body = MessageBody::Write {
            attempt: AttemptId(1),
            record,
            label: None,
            naming: None,
            previous: false,
            repair: false,
        };
        let (slot, news) = (Token::of(slot_of).slot(), News::default());
        Event::Peer { from: OTHER, message: Message { slot, configuration: 1, hlc: Hlc::ZERO, news, body } }
    };
    here.step(offer(b"other", Bytes::from_static(b"k"), Bytes::new()));
    here.step(offer(b"", Bytes::new(), Bytes::new()));
    here.step(offer(b"k", Bytes::from_static(b"k"), Bytes::from(vec![1; 5 << 20])));
    assert!(here.plan().is_empty());
    assert_eq!(here.machine.replica().shard().counts().records, 0);
}

#[test]
fn requests_of_a_peer_are_let_fall_while_too_many_answers_wait_for_the_log() {
    let limits = Limits { operations_max: 8, ..Limits::default() };
    let mut here = Bench::new(Setup { members: 2, limits, ..Setup::default() });
    let slot = Token::of(b"k").slot();
    let mut say = |body| {
        let (configuration, hlc, news) = (1, Hlc::ZERO, News::default());
        here.step(Event::Peer { from: OTHER, message: Message { slot, configuration, hlc, news, body } });
        here.sent.len()
    };
    let key = Bytes::from_static(b"k");
    let version = Version::new(Hlc::at_ms(BEGIN_MS), OTHER);
    let record = OwnedRecord { key: key.clone(), version, expires_at_ms: 0, value: Some(Bytes::new()) };
    let attempt = AttemptId(1);
    say(MessageBody::Write { attempt, record, label: None, naming: None, previous: false, repair: false });
    for _ in 0..100 {
        assert_eq!(say(MessageBody::Read { attempt, key: key.clone(), record: true }), 0, "the log stalls");
    }
    assert_eq!(here.out.waiting(), 4 * 8);
    assert_eq!(here.machine.stats().peers_unheard, 101 - 4 * 8);
    here.flush();
    assert_eq!(here.sent.len(), 4 * 8);
}
