//! One control plane, told what happens step by step. What whole clusters do is tried in `tests/control`.

use super::*;
use crate::cluster::change::{self, JoinRequest};
use crate::cluster::epoch::{Member, Nonce};
use crate::cluster::paxos::Ballot;
use crate::cluster::slot_set::SlotSet;
use crate::types::request::Asker;
use crate::types::{ClusterId, CoreId, Failure, Outcome, Reason, Slot};
use alloc::format;
use alloc::string::String;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const ONE: MemberId = MemberId(1);
const TWO: MemberId = MemberId(2);

/// Member 1, whose log is always durable at once, and whose messages to itself arrive.
struct Bench {
    control: Control,
    now: Mono,
    /// Slots that hold records.
    occupied: SlotSet,
    /// Do the cores answer?
    answering: bool,
    sent: Vec<(MemberId, ControlMessage)>,
    answers: Vec<(Asker, Result<JoinAnswer, Failure>)>,
    published: Vec<u64>,
    records: [Option<Vec<u8>>; 2],
    notes: Vec<Note>,
}

impl Bench {
    fn new(epoch: Epoch) -> Bench {
        Bench::recover(epoch, None)
    }

    fn recover(epoch: Epoch, acceptor: Option<&[u8]>) -> Bench {
        let config = ControlConfig { member: ONE, cores: 1, starts: 1, seed: 1 };
        let now = Mono(0).after_ms(1_000);
        let control = Control::recover(config, Arc::new(Ring::new(epoch)), acceptor, now);
        Bench {
            control: control.expect("an acceptor's record"),
            now,
            occupied: SlotSet::default(),
            answering: true,
            sent: Vec::new(),
            answers: Vec::new(),
            published: Vec::new(),
            records: [None, None],
            notes: Vec::new(),
        }
    }

    fn step(&mut self, event: ControlEvent) {
        let mut out = ControlEffects::default();
        self.control.step(self.now, event, &mut out);
        while let Some(effect) = out.pop() {
            match effect {
                ControlEffect::Log { kind, bytes } => {
                    self.records[usize::from(kind == RecordKind::Acceptor)] = Some(bytes);
                }
                ControlEffect::Send { to: ONE, message } => {
                    self.control.step(self.now, ControlEvent::Message { from: ONE, message }, &mut out);
                }
                ControlEffect::Send { to, message } => self.sent.push((to, message)),
                ControlEffect::Publish(ring) => self.published.push(ring.epoch().number),
                ControlEffect::AnswerJoin { asker, answer } => self.answers.push((asker, answer)),
                ControlEffect::AskCores { round } if self.answering => {
                    let slots = self.occupied.clone();
                    let event = ControlEvent::Occupied { round, core: CoreId(0), slots };
                    self.control.step(self.now, event, &mut out);
                }
                ControlEffect::AskCores { .. } => {}
                ControlEffect::Note(note) => self.notes.push(note),
            }
        }
    }

    fn says(&mut self, from: MemberId, message: ControlMessage) {
        self.step(ControlEvent::Message { from, message });
    }

    fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now = self.now.after_ms(50);
            self.step(ControlEvent::Tick);
        }
    }

    fn join(&mut self, asker: u64, request: JoinRequest) {
        let deadline = self.now.after_ms(3_000);
        self.step(ControlEvent::Join { asker: Asker(asker), request, deadline });
    }

    /// The reason why the last request to join was refused, and what became of it.
    fn refusal(&self) -> Option<(Reason, Outcome)> {
        let (_, answer) = self.answers.last()?;
        answer.as_ref().err().map(|failure| (failure.reason, failure.outcome))
    }

    fn heartbeats(&self) -> usize {
        self.sent.iter().filter(|(_, message)| matches!(message, ControlMessage::Heartbeat(_))).count()
    }

    fn news(&self) -> usize {
        self.sent.iter().filter(|(_, message)| matches!(message, ControlMessage::News(_))).count()
    }

    /// Heartbeats left out.
    fn last_sent(&self) -> Option<&ControlMessage> {
        let told =
            |(_, message): &&(MemberId, ControlMessage)| !matches!(message, ControlMessage::Heartbeat(_));
        self.sent.iter().rev().find(told).map(|(_, message)| message)
    }
}

fn lone() -> Epoch {
    Epoch::bootstrap(CLUSTER, 3, Member::new(ONE, "n1"))
}

fn two() -> Epoch {
    Epoch::of_members(CLUSTER, 3, 2)
}

fn request(number: u8) -> JoinRequest {
    JoinRequest {
        cluster: None,
        nonce: Nonce([number; 16]),
        name: format!("new{number}"),
        zone: String::new(),
        weight_percent: 100,
        addresses: ["c:1".into(), format!("p:{number}"), String::new()],
    }
}

fn after(epoch: &Epoch) -> Epoch {
    let addresses = ["c:9".into(), "p:9".into(), String::new()];
    change::update_addresses(epoch, epoch.hash(), ONE, addresses).expect("they are others")
}

fn said(epoch: u64) -> Heartbeat {
    Heartbeat { epoch, ..Heartbeat::default() }
}

#[test]
fn lone_node_admits_a_second_moves_its_slots_and_lets_it_vote() {
    let mut bench = Bench::new(lone());
    bench.join(5, request(1));
    let Some((Asker(5), Ok(JoinAnswer::Member { member: TWO, epoch }))) = bench.answers.pop() else {
        panic!("it joins at once: {:?}", bench.answers)
    };
    assert_eq!((epoch.number, &bench.published[..]), (2, &[2][..]));
    let done = |core| ControlEvent::Cores(CoreReport { core: CoreId(core), epoch: 2, refused: None });
    bench.step(done(0));
    bench.says(TWO, ControlMessage::Heartbeat(said(2)));
    bench.pass_ms(400);
    assert_eq!(bench.published, [2], "the second has not finished");
    bench.says(TWO, ControlMessage::Heartbeat(Heartbeat { moved: 2, ..said(2) }));
    bench.pass_ms(400);
    assert_eq!(bench.published, [2, 3], "retired, and the second does not know it yet");
    assert!(!bench.control.ring().epoch().is_voter(TWO));
    bench.says(TWO, ControlMessage::HeartbeatAnswer(Heartbeat { moved: 2, ..said(3) }));
    bench.pass_ms(400);
    assert_eq!(bench.published, [2, 3, 4]);
    assert!(bench.control.ring().epoch().is_voter(TWO));
    assert!((0..64).map(Slot).all(|slot| bench.control.ring().replicas(slot).len() == 2));
    let logged = bench.records[0].as_deref().map(Epoch::decode);
    assert_eq!(logged, Some(Ok(bench.control.ring().epoch().clone())));
}

#[test]
fn same_nonce_is_given_the_same_member() {
    let mut bench = Bench::new(lone());
    bench.join(1, request(1));
    bench.join(2, request(1));
    let is_second = |(_, answer): &(Asker, _)| matches!(answer, Ok(JoinAnswer::Member { member: TWO, .. }));
    assert!(bench.answers.len() == 2 && bench.answers.iter().all(is_second), "{:?}", bench.answers);
}

#[test]
fn joins_are_refused_with_a_reason() {
    let mut bench = Bench::new(lone());
    let refused = Some((Reason::ChangeRefused, Outcome::NotApplied));
    bench.join(1, JoinRequest { name: "n1".into(), ..request(1) });
    assert_eq!(bench.refusal(), refused);
    bench.join(2, JoinRequest { cluster: Some(ClusterId([8; 16])), ..request(1) });
    assert_eq!(bench.refusal(), refused);
    bench.occupied.insert(Slot(77));
    bench.join(3, request(1));
    assert_eq!(bench.refusal(), refused);
    let (_, answer) = &bench.answers[2];
    let message = &answer.as_ref().expect_err("a slot is occupied").message;
    assert!(message.contains("moving data is not possible yet"), "{message}");
    assert_eq!((bench.answers.len(), bench.published.len()), (3, 0));
}

#[test]
fn one_join_at_a_time_and_those_that_wait_too_long_are_told() {
    let mut bench = Bench::new(lone());
    bench.join(1, request(1));
    bench.join(2, request(2));
    assert_eq!((bench.answers.len(), bench.control.joins_waiting()), (1, 1));
    bench.pass_ms(2_900);
    assert_eq!(bench.answers.len(), 1);
    bench.pass_ms(100);
    assert_eq!(bench.refusal(), Some((Reason::ChangeInProgress, Outcome::NotApplied)));
}

#[test]
fn waiting_joins_are_bounded() {
    let mut bench = Bench::new(lone());
    bench.answering = false;
    (1..=16).for_each(|number| bench.join(number.into(), request(number)));
    assert_eq!((bench.answers.len(), bench.control.joins_waiting()), (0, 16));
    bench.join(17, request(17));
    assert_eq!(bench.refusal(), Some((Reason::Overloaded, Outcome::NotApplied)));
    bench.pass_ms(3_000);
    assert_eq!((bench.answers.len(), bench.control.joins_waiting()), (17, 0));
    assert_eq!(bench.refusal(), Some((Reason::TooFewReplicas, Outcome::NotApplied)));
}

#[test]
fn join_that_no_majority_answers_ends_in_doubt() {
    let mut bench = Bench::new(two());
    bench.join(1, request(1));
    let Some((TWO, ControlMessage::AskOccupied { question })) = bench.sent.pop() else {
        panic!("the other is asked")
    };
    bench.says(TWO, ControlMessage::Occupied { question, slots: SlotSet::default() });
    assert!(matches!(bench.last_sent(), Some(ControlMessage::Prepare { number: 2, .. })));
    let asked = bench.sent.len();
    bench.pass_ms(350);
    assert!(bench.sent.len() > asked && bench.answers.is_empty(), "who does not answer is asked again");
    bench.pass_ms(2_700);
    assert_eq!(bench.refusal(), Some((Reason::NoQuorumInTime, Outcome::InDoubt)));
}

#[test]
fn node_without_a_vote_names_those_who_have_one() {
    let joining = change::join(&two(), two().hash(), &request(1)).expect("it may join");
    let config = ControlConfig { member: MemberId(3), cores: 1, starts: 1, seed: 1 };
    let ring = Arc::new(Ring::new(joining));
    let mut control = Control::recover(config, ring, None, Mono(0)).expect("no record");
    let mut out = ControlEffects::default();
    let join = |request| ControlEvent::Join { asker: Asker(1), request, deadline: Mono(1) };
    control.step(Mono(0), join(request(2)), &mut out);
    let Some(ControlEffect::AnswerJoin { answer: Ok(JoinAnswer::AskVoters { addresses }), .. }) = out.pop()
    else {
        panic!("it has no vote")
    };
    assert_eq!(addresses, [String::new(), String::new()], "those of both voters");
    let ballot = Ballot { round: 1, member: ONE };
    let prepare = ControlMessage::Prepare { number: 3, ballot };
    control.step(Mono(0), ControlEvent::Message { from: ONE, message: prepare }, &mut out);
    assert!(out.pop().is_none() && control.stats().refused == 1);
}

#[test]
fn promise_is_kept_over_a_restart() {
    let mut bench = Bench::new(two());
    let ballot = |round| Ballot { round, member: TWO };
    bench.says(TWO, ControlMessage::Prepare { number: 2, ballot: ballot(5) });
    assert!(matches!(bench.last_sent(), Some(ControlMessage::Promise { accepted: None, .. })));
    bench.says(TWO, ControlMessage::Accept { ballot: ballot(5), epoch: Arc::new(after(&two())) });
    assert!(matches!(bench.last_sent(), Some(ControlMessage::Accepted { number: 2, .. })));
    assert_eq!(bench.records[1], bench.control.acceptor_record());
    let mut again = Bench::recover(two(), bench.records[1].as_deref());
    again.says(TWO, ControlMessage::Prepare { number: 2, ballot: ballot(4) });
    assert_eq!(
        again.last_sent(),
        Some(&ControlMessage::Refused { number: 2, ballot: ballot(4), promised: ballot(5) })
    );
    again.says(TWO, ControlMessage::Prepare { number: 2, ballot: ballot(6) });
    let Some(ControlMessage::Promise { accepted: Some((taken, epoch)), .. }) = again.last_sent() else {
        panic!("it tells what it took")
    };
    assert_eq!((*taken, epoch.number), (ballot(5), 2));
    // For a number that is decided the record is void.
    let later = Bench::recover(after(&two()), bench.records[1].as_deref());
    assert_eq!(later.control.acceptor_record(), None);
}

#[test]
fn accepted_epoch_that_nobody_finishes_is_finished_by_who_leads() {
    let mut bench = Bench::new(two());
    let ballot = Ballot { round: 5, member: TWO };
    let epoch = Arc::new(after(&two()));
    bench.says(TWO, ControlMessage::Accept { ballot, epoch: Arc::clone(&epoch) });
    bench.pass_ms(1_100);
    let Some(ControlMessage::Prepare { number: 2, ballot }) = bench.last_sent().cloned() else {
        panic!("it is proposed again: {:?}", bench.last_sent())
    };
    assert_eq!(ballot, Ballot { round: 6, member: ONE });
    bench.says(TWO, ControlMessage::Promise { number: 2, ballot, accepted: None });
    bench.says(TWO, ControlMessage::Accepted { number: 2, ballot });
    assert_eq!((&bench.published[..], bench.control.ring().epoch()), (&[2][..], &*epoch));
}

#[test]
fn questions_that_nobody_may_ask_are_counted_and_change_nothing() {
    let mut bench = Bench::new(two());
    let ballot = |round, member| Ballot { round, member };
    for (number, ballot) in [(2, ballot(1, ONE)), (2, ballot(0, TWO)), (2, ballot(u64::MAX, TWO))] {
        bench.says(TWO, ControlMessage::Prepare { number, ballot });
    }
    assert_eq!((bench.control.stats().refused, bench.sent.len()), (3, 0));
    bench.says(TWO, ControlMessage::Prepare { number: 9, ballot: ballot(1, TWO) });
    assert!(matches!(bench.sent.pop(), Some((TWO, ControlMessage::FetchEpoch { above: 1 }))));
    let core = CoreReport { core: CoreId(1), epoch: 1, refused: None };
    bench.step(ControlEvent::Cores(core));
    assert_eq!(bench.control.stats().refused, 4);
    let other = Arc::new(Epoch { previous: [9; 16], ..after(&two()) });
    bench.says(TWO, ControlMessage::Accept { ballot: ballot(1, TWO), epoch: other });
    assert_eq!((bench.control.stats().epochs_refused, bench.control.acceptor_record()), (1, None));
}

#[test]
fn epochs_that_cannot_be_are_refused_and_change_nothing() {
    let mut bench = Bench::new(two());
    let bad = |change: &dyn Fn(&mut Epoch)| {
        let mut epoch = after(&two());
        change(&mut epoch);
        ControlMessage::News(Arc::new(epoch))
    };
    bench.says(TWO, bad(&|epoch| epoch.cluster = ClusterId([8; 16])));
    bench.says(TWO, bad(&|epoch| epoch.previous = [9; 16]));
    bench.says(TWO, bad(&|epoch| epoch.members[1].weight_percent = 0));
    bench.says(TWO, bad(&|epoch| (epoch.number, epoch.replication) = (7, 16)));
    assert_eq!(bench.control.stats().epochs_refused, 4);
    bench.says(TWO, ControlMessage::News(Arc::new(two())));
    assert_eq!((bench.control.stats().epochs_stale, bench.published.len()), (1, 0));
    bench.says(TWO, bad(&|_| ()));
    assert_eq!(bench.published, [2]);
}

#[test]
fn whoever_has_the_newer_epoch_gives_it_seldom() {
    let mut bench = Bench::new(after(&two()));
    (0..5).for_each(|_| bench.says(TWO, ControlMessage::Heartbeat(said(1))));
    assert_eq!(bench.news(), 1);
    bench.pass_ms(500);
    bench.says(TWO, ControlMessage::FetchEpoch { above: 1 });
    assert_eq!(bench.news(), 2);
    bench.sent.clear();
    (0..5).for_each(|_| bench.says(TWO, ControlMessage::HeartbeatAnswer(said(3))));
    assert_eq!(bench.sent, [(TWO, ControlMessage::FetchEpoch { above: 2 })]);
}

#[test]
fn strangers_are_ignored_but_who_was_removed_is_told() {
    let joining = change::join(&two(), two().hash(), &request(1)).expect("it may join");
    let mut bench = Bench::new(change::give_up(&joining, joining.hash()).expect("nothing was retired"));
    for from in [MemberId(0), MemberId(4), MemberId(u32::MAX)] {
        bench.says(from, ControlMessage::Heartbeat(said(1)));
    }
    bench.says(MemberId(3), ControlMessage::AskOccupied { question: 1 });
    assert_eq!((bench.sent.len(), bench.control.stats().strangers), (0, 4));
    (0..5).for_each(|_| bench.says(MemberId(3), ControlMessage::Heartbeat(said(2))));
    assert_eq!((bench.news(), bench.control.stats().strangers), (1, 9));
}

#[test]
fn removed_node_says_nothing_any_more() {
    let joining = change::join(&two(), two().hash(), &request(1)).expect("it may join");
    let config = ControlConfig { member: MemberId(3), cores: 1, starts: 1, seed: 1 };
    let ring = Arc::new(Ring::new(joining.clone()));
    let mut control = Control::recover(config, ring, None, Mono(0)).expect("no record");
    let mut out = ControlEffects::default();
    let news = Arc::new(change::give_up(&joining, joining.hash()).expect("nothing was retired"));
    let event = ControlEvent::Message { from: ONE, message: ControlMessage::News(news) };
    control.step(Mono(0), event, &mut out);
    let effects: Vec<_> = core::iter::from_fn(|| out.pop()).collect();
    assert!(matches!(effects.last(), Some(ControlEffect::Note(Note::Removed))));
    control.step(Mono(0).after_ms(1_000), ControlEvent::Tick, &mut out);
    assert!(out.pop().is_none() && !control.is_member());
}

#[test]
fn heartbeats_come_as_often_as_they_must_and_carry_what_the_node_knows() {
    let mut bench = Bench::new(two());
    bench.step(ControlEvent::Vitals(Vitals { clock_ms: 5, ..Vitals::default() }));
    bench.step(ControlEvent::Cores(CoreReport { core: CoreId(0), epoch: 1, refused: None }));
    bench.pass_ms(2_000);
    assert_eq!(bench.heartbeats(), 10);
    let Some((TWO, ControlMessage::Heartbeat(said))) = bench.sent.last() else { panic!("to the other") };
    assert_eq!((said.sequence, said.epoch, said.moved, said.clock_ms), (10, 1, 1, 5));
    assert_eq!((said.starts, said.cores, said.refused), (1, 1, None));
}

#[test]
fn member_that_refuses_its_part_ends_the_move() {
    let mut bench = Bench::new(lone());
    bench.join(1, request(1));
    bench.says(TWO, ControlMessage::Heartbeat(Heartbeat { refused: Some(Slot(9)), ..said(2) }));
    bench.pass_ms(400);
    let noted = Note::GivingUp { joining: Some(TWO), refused: Some((TWO, Slot(9))) };
    assert!(bench.notes.contains(&noted), "{:?}", bench.notes);
    assert_eq!((bench.published.last(), bench.control.ring().epoch().members.len()), (Some(&3), 1));
    bench.join(2, request(1));
    assert!(matches!(&bench.answers[1].1, Ok(JoinAnswer::Member { member: MemberId(3), .. })), "another id");
}

#[test]
fn joining_member_that_never_comes_is_given_up_after_its_lease() {
    let mut bench = Bench::new(lone());
    bench.join(1, request(1));
    bench.pass_ms(JOIN_LEASE_MS);
    assert_eq!(bench.published, [2]);
    bench.pass_ms(500);
    assert_eq!(bench.published, [2, 3]);
    assert!(bench.notes.contains(&Note::GivingUp { joining: Some(TWO), refused: None }));
}
