//! Machines through changes of membership: configurations adopted, slots confirmed or refused, operations that go on.

use crate::bench::{Bench, OTHER, Setup, delete, get, put, ring};
use ringcore::cluster::change::{self, JoinRequest};
use ringcore::cluster::epoch::{Epoch, Nonce};
use ringcore::cluster::ring::Ring;
use ringcore::node::event::Event;
use ringcore::replication::messages::{Message, MessageBody, News, Verdict};
use ringcore::types::{Hlc, MemberId, Slot, Token};
use std::sync::Arc;

const N1: MemberId = MemberId(1);

/// The epoch in which another node begins to join, and the one in which it owns its slots.
fn joining(epoch: &Epoch) -> (Arc<Ring>, Arc<Ring>) {
    let request = JoinRequest {
        cluster: None,
        nonce: Nonce([5; 16]),
        name: format!("joiner{}", epoch.next_member),
        zone: String::new(),
        weight_percent: 100,
        addresses: ["c:1".into(), "p:1".into(), String::new()],
    };
    let begun = change::join(epoch, epoch.hash(), &request).expect("it may join");
    let owned = change::retire(&begun, begun.hash(), |_| true).expect("all slots");
    (Arc::new(Ring::new(begun)), Arc::new(Ring::new(owned)))
}

fn joiner(ring: &Arc<Ring>, id: MemberId) -> Bench {
    Bench::of_member(id, Setup { ring: Some(Arc::clone(ring)), ..Setup::default() })
}

/// Both live, and what they say arrives.
fn together(here: &mut Bench, there: &mut Bench, ms: u64) {
    together_but(here, there, ms, |_| false);
}

fn together_but(here: &mut Bench, there: &mut Bench, ms: u64, lost: impl Fn(&MessageBody) -> bool) {
    for _ in 0..ms.div_ceil(5) {
        here.live_ms(5);
        there.live_ms(5);
        for bench in [&mut *here, &mut *there] {
            bench.sent.retain(|(_, message)| !lost(&message.body));
        }
        here.deliver(there, N1);
        there.deliver(here, OTHER);
    }
}

#[test]
fn empty_slots_are_confirmed_by_both_and_then_written_by_both() {
    let mut here = Bench::alone();
    let (begun, owned) = joining(here.machine.ring().epoch());
    here.step(Event::Epoch(Arc::clone(&begun)));
    let mut there = joiner(&begun, OTHER);
    together(&mut here, &mut there, 2_000);
    for bench in [&here, &there] {
        let last = bench.moved.last().map(|report| (report.epoch, report.refused));
        assert_eq!(last, Some((2, None)));
    }
    here.step(Event::Epoch(Arc::clone(&owned)));
    there.step(Event::Epoch(owned));
    let first = here.machine.ring().replicas(Token::of(b"k").slot())[0];
    let first = if first == N1 { &mut here } else { &mut there };
    let asker = first.ask(put(b"k", b"v"));
    first.flush();
    assert_eq!(first.reply(asker), None, "both must hold it");
    together(&mut here, &mut there, 20);
    let [a, b] = [&here, &there].map(|bench| bench.machine.replica().shard().counts().records);
    assert_eq!((a, b), (1, 1));
}

/// One node with a record, and another that begins to join.
fn with_a_record() -> (Bench, Bench) {
    let mut here = Bench::alone();
    here.write(put(b"k", b"v"));
    let (begun, _) = joining(here.machine.ring().epoch());
    here.step(Event::Epoch(Arc::clone(&begun)));
    (here, joiner(&begun, OTHER))
}

#[test]
fn record_that_was_written_meanwhile_moves_before_its_slot_is_confirmed() {
    let (mut here, mut there) = with_a_record();
    together(&mut here, &mut there, 4_000);
    assert_eq!(there.moved.iter().map(|report| report.refused).collect::<Vec<_>>(), [None]);
    assert_eq!(there.machine.replica().shard().counts().records, 1);
}

#[test]
fn slot_that_goes_on_to_differ_refuses_to_move() {
    let (mut here, mut there) = with_a_record();
    let is_repair = |body: &MessageBody| matches!(body, MessageBody::Write { .. });
    together_but(&mut here, &mut there, 15_000, is_repair);
    let slot = Token::of(b"k").slot();
    assert_eq!(there.moved.iter().map(|report| report.refused).collect::<Vec<_>>(), [Some(slot)]);
}

#[test]
fn message_of_an_older_configuration_is_refused_and_of_a_newer_one_waits_for_the_epoch() {
    let (mut here, mut there) = Bench::two();
    let (begun, _) = joining(here.machine.ring().epoch());
    let moving = (0..100u32).map(|n| n.to_string());
    let moves = |key: &String| {
        let slot = Token::of(key.as_bytes()).slot();
        !begun.target(slot).is_empty() && begun.replicas(slot)[0] == OTHER
    };
    let key: &'static [u8] = Box::leak(
        moving.into_iter().find(moves).expect("most slots move").into_boxed_str().into_boxed_bytes(),
    );
    here.step(Event::Epoch(Arc::clone(&begun)));
    here.flush();
    // From the old configuration to the new.
    let asker = there.ask(put(key, b"v"));
    there.deliver(&mut here, OTHER);
    here.flush();
    let stale = here.sent.iter().any(|(_, message)| {
        matches!(message.body, MessageBody::WriteAnswer { verdict: Verdict::Stale, .. })
            && message.configuration == 2
    });
    assert!(stale, "{:?}", here.sent);
    here.deliver(&mut there, N1);
    assert_eq!(there.epochs_asked, [N1]);
    assert_eq!(there.reply(asker), None);
    // From the new to the old: no answer, and the epoch is asked for.
    there.epochs_asked.clear();
    there.live_ms(30);
    there.sent.clear();
    here.ask(get(key));
    here.deliver(&mut there, N1);
    there.flush();
    assert_eq!(there.epochs_asked, [N1]);
    assert!(there.sent.iter().all(|(_, message)| !matches!(message.body, MessageBody::ReadAnswer { .. })));
}

#[test]
fn answers_under_a_new_configuration_wait_until_it_is_durable() {
    let (mut here, mut there) = Bench::two();
    let (begun, _) = joining(here.machine.ring().epoch());
    here.step(Event::Epoch(Arc::clone(&begun)));
    here.flush();
    there.step(Event::Epoch(begun));
    here.ask(get(b"k"));
    here.deliver(&mut there, N1);
    let answers = |bench: &Bench| {
        bench
            .sent
            .iter()
            .filter(|(_, message)| matches!(message.body, MessageBody::ReadAnswer { .. }))
            .count()
    };
    assert_eq!(answers(&there), 0);
    there.flush();
    assert_eq!(answers(&there), 1);
}

#[test]
fn write_under_way_goes_on_with_the_new_replicas_and_counts_from_zero() {
    let (mut here, mut there) = Bench::two();
    let (begun, _) = joining(here.machine.ring().epoch());
    let slot = Token::of(b"k").slot();
    if begun.target(slot).is_empty() {
        panic!("choose a key whose slot moves");
    }
    let (first, second, at) = match here.machine.ring().replicas(slot)[0] {
        N1 => (&mut here, &mut there, N1),
        other => (&mut there, &mut here, other),
    };
    let asker = first.ask(put(b"k", b"v"));
    first.flush();
    first.deliver(second, at);
    second.flush();
    let before = second.sent.clone();
    first.step(Event::Epoch(Arc::clone(&begun)));
    first.flush();
    second.step(Event::Epoch(begun));
    second.flush();
    for (_, message) in before {
        let from = if at == N1 { OTHER } else { N1 };
        first.step(Event::Peer { from, message });
    }
    assert_eq!(first.reply(asker), None, "an answer under the old configuration counts for nothing");
    let offered: Vec<MemberId> = first
        .sent
        .iter()
        .filter(|(_, message)| {
            matches!(message.body, MessageBody::Write { .. }) && message.configuration == 2
        })
        .map(|(to, _)| *to)
        .collect();
    assert!(offered.contains(&MemberId(3)), "the new one is asked too: {offered:?}");
    first.deliver(second, at);
    second.flush();
    let held = second
        .sent
        .iter()
        .any(|(_, message)| matches!(message.body, MessageBody::WriteAnswer { verdict: Verdict::Held, .. }));
    assert!(held, "it holds it already");
}

#[test]
fn member_that_loses_a_slot_drops_it_and_replay_agrees() {
    let mut here = Bench::new(Setup { ring: Some(ring(1)), ..Setup::default() });
    here.write(put(b"k", b"v"));
    let slot: Slot = Token::of(b"k").slot();
    // Four members with one replica each: most slots go to others.
    let mut epoch = Epoch::of_members(here.machine.ring().epoch().cluster, 1, 4);
    epoch.number = 2;
    let configurations: Vec<_> = epoch.slots.iter().map(|(slot, held)| (slot, held.base.to_vec())).collect();
    let (_, base) = configurations.iter().find(|(of, _)| *of == slot).expect("every slot has owners");
    assert_ne!(base[..], [N1], "choose a key whose slot goes");
    epoch.slots = ringcore::cluster::slots::Slots::new(
        configurations.iter().map(|(_, base)| ringcore::cluster::slots::Configuration {
            base,
            target: &[],
            c: 2,
        }),
    );
    here.step(Event::Epoch(Arc::new(Ring::new(epoch))));
    here.flush();
    assert_eq!(here.machine.replica().shard().counts().records, 0);
    let replayed = here.replayed(&Setup::default().limits);
    assert_eq!(replayed.counts().records, 0);
    assert_eq!(replayed.mark(slot), here.machine.replica().shard().mark(slot));
}

#[test]
fn round_of_collection_ends_where_a_move_begins() {
    let mut here = Bench::new(Setup { members: 2, ..Setup::default() });
    let (begun, _) = joining(here.machine.ring().epoch());
    let first = |key: &String| here.machine.ring().replicas(Token::of(key.as_bytes()).slot())[0] == N1;
    let key = (0..100u32).map(|n| n.to_string()).find(first).expect("it is first for half of them");
    let key: &'static [u8] = Box::leak(key.into_boxed_str().into_boxed_bytes());
    let slot = Token::of(key).slot();
    here.ask(delete(key));
    here.live_ms(40_000);
    let round = here.sent.iter().rev().find_map(|(_, message)| match message.body {
        MessageBody::Collect { round, .. } => Some(round),
        _ => None,
    });
    let body = MessageBody::Collected { round: round.expect("it has asked the other replica") };
    here.step(Event::Epoch(begun));
    here.flush();
    let message = Message { slot, configuration: 2, hlc: Hlc::ZERO, news: News::default(), body };
    here.step(Event::Peer { from: OTHER, message });
    here.flush();
    assert_eq!(here.machine.replica().shard().counts().records, 1);
    assert_eq!(here.machine.stats().rounds, 0);
}
