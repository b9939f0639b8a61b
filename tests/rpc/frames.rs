//! Frames between nodes: every message there is, from a seed, through its form on the wire and back; and bytes that are
//! none.

use bytes::Bytes;
use prost::Message as _;
use ringcore::cluster::epoch::Epoch;
use ringcore::cluster::liveness::{Belief, OPINIONS_MAX, Opinion, Standing};
use ringcore::cluster::messages::{ControlMessage, Heartbeat, Probing};
use ringcore::cluster::paxos::Ballot;
use ringcore::cluster::slot_set::SlotSet;
use ringcore::replication::messages::{
    AttemptId, Dead, Found, Holding, LISTED_MAX, Message, MessageBody, News, OwnedRecord, PARTS, Replaced,
    TokenRange, Verdict,
};
use ringcore::replication::replica::Naming;
use ringcore::rpc::peer::wire::{self, FRAMES_MAX, WireError};
use ringcore::rpc::peer::{FORMAT, Frame, Hello};
use ringcore::rpc::proto::peer as pb;
use ringcore::storage::digest::Digest;
use ringcore::storage::log_record::{Attempt, Round};
use ringcore::types::prng::Prng;
use ringcore::types::request::{Answer, Expiry, Level, Operation, ReadAnswer, Reply, WriteAnswer};
use ringcore::types::{
    ClusterId, CoreId, Failure, Hlc, Limits, MemberId, OperationId, Outcome, Reason, SLOTS, Slot, Token,
    Version,
};
use std::sync::Arc;

/// Bodies that a message may have.
const BODIES: u64 = 16;

/// Messages about membership and liveness.
const CONTROLS: u64 = 13;

/// A message about a slot that any node might send.
pub(crate) fn random(prng: &mut Prng) -> Frame {
    Frame::Slot(random_message(prng))
}

pub(crate) fn random_message(prng: &mut Prng) -> Message {
    let kind = prng.below(BODIES);
    message_of(prng, kind)
}

fn random_of(prng: &mut Prng, kind: u64) -> Frame {
    match kind.checked_sub(BODIES) {
        None => Frame::Slot(message_of(prng, kind)),
        Some(kind) => Frame::Control(Box::new(control(prng, kind))),
    }
}

fn control(prng: &mut Prng, kind: u64) -> ControlMessage {
    let epoch = Arc::new(Epoch::of_members(ClusterId([7; 16]), 3, 1 + prng.below(4) as u32));
    let (number, ballot) = (epoch.number, ballot(prng));
    match kind {
        0 => ControlMessage::Probe(probing(prng)),
        1 => ControlMessage::ProbeAnswer(probing(prng)),
        2 => ControlMessage::Heartbeat(heartbeat(prng)),
        3 => ControlMessage::HeartbeatAnswer(heartbeat(prng)),
        4 => ControlMessage::FetchEpoch { above: self::number(prng) },
        5 => ControlMessage::News(epoch),
        6 => ControlMessage::Prepare { number: self::number(prng), ballot },
        7 => {
            let accepted = prng.chance(500).then(|| (self::ballot(prng), epoch));
            ControlMessage::Promise { number, ballot, accepted }
        }
        8 => ControlMessage::Accept { ballot, epoch },
        9 => ControlMessage::Accepted { number: self::number(prng), ballot },
        10 => ControlMessage::Refused { number: self::number(prng), ballot, promised: self::ballot(prng) },
        11 => ControlMessage::AskOccupied { question: self::number(prng) },
        _ => {
            let mut slots = SlotSet::default();
            slots.extend((0..prng.below(50)).map(|_| Slot(prng.below(SLOTS as u64) as u16)));
            ControlMessage::Occupied { question: self::number(prng), slots }
        }
    }
}

fn ballot(prng: &mut Prng) -> Ballot {
    Ballot { round: number(prng), member: MemberId(number(prng) as u32) }
}

fn probing(prng: &mut Prng) -> Probing {
    let opinion = |prng: &mut Prng| Opinion {
        member: MemberId(number(prng) as u32),
        standing: Standing {
            incarnation: number(prng),
            number: number(prng) as u32,
            belief: if prng.chance(500) { Belief::Alive } else { Belief::Suspected },
        },
    };
    let opinions = (0..prng.below(1 + OPINIONS_MAX as u64)).map(|_| opinion(prng)).collect();
    Probing { sequence: number(prng), incarnation: number(prng), opinions }
}

fn heartbeat(prng: &mut Prng) -> Heartbeat {
    Heartbeat {
        sequence: number(prng),
        epoch: number(prng),
        moved: number(prng),
        refused: prng.chance(500).then(|| Slot(prng.below(SLOTS as u64) as u16)),
        clock_ms: number(prng),
        hlc: Hlc(number(prng)),
        starts: number(prng),
        cores: number(prng) as u16,
    }
}

fn message_of(prng: &mut Prng, kind: u64) -> Message {
    let news = News { round: round(prng), floor: version(prng) };
    Message {
        slot: Slot(prng.below(SLOTS as u64) as u16),
        configuration: number(prng),
        hlc: Hlc(number(prng)),
        news: if prng.chance(500) { News::default() } else { news },
        body: body(prng, kind),
    }
}

fn body(prng: &mut Prng, kind: u64) -> MessageBody {
    let attempt = AttemptId(number(prng));
    match kind {
        0 => MessageBody::Write {
            attempt,
            record: record(prng),
            label: label(prng),
            naming: naming(prng),
            previous: prng.chance(500),
            repair: prng.chance(500),
        },
        1 => MessageBody::WriteAnswer {
            attempt,
            verdict: verdict(prng),
            replaced: Replaced { version: version(prng), value: value(prng) },
            label: label(prng),
        },
        2 => MessageBody::Read { attempt, key: key(prng), record: prng.chance(500) },
        3 => MessageBody::ReadAnswer { attempt, found: found(prng) },
        4 => MessageBody::Survey { attempt },
        5 => {
            let holding = Holding { digest: Digest(number(prng)), records: prng.chance(500) };
            MessageBody::SurveyAnswer { attempt, holding: prng.chance(700).then_some(holding) }
        }
        6 => MessageBody::Forward {
            attempt,
            operation: operation(prng),
            level: [Level::One, Level::Quorum, Level::All][prng.below(3) as usize],
            identity: prng.chance(500).then(|| identity(prng)),
            done_below: number(prng),
            remaining_ms: number(prng) as u32,
        },
        7..=14 => exchange(prng, kind),
        _ => MessageBody::ForwardAnswer { attempt, reply: prng.chance(900).then(|| reply(prng)) },
    }
}

fn exchange(prng: &mut Prng, kind: u64) -> MessageBody {
    let mut ends = [number(prng), number(prng)];
    ends.sort_unstable();
    let range = TokenRange { first: Token(ends[0]), last: Token(ends[1]) };
    let digest = Digest(number(prng));
    match kind {
        7 => {
            let mut dead = || Dead { key: key(prng), version: version(prng), expires_at_ms: number(prng) };
            let listed = vec![dead(), dead()];
            MessageBody::Collect { round: round(prng), listed }
        }
        8 => MessageBody::Collected { round: round(prng) },
        9 => MessageBody::Announce,
        10 => MessageBody::Compare { digest },
        11 => MessageBody::Agree { digest },
        12 => MessageBody::Parts { range, digests: (0..PARTS).map(|_| Digest(number(prng))).collect() },
        13 => {
            let count = if prng.chance(100) { LISTED_MAX } else { 3 };
            let entries = (0..count).map(|_| (Token(number(prng)), version(prng))).collect();
            MessageBody::Listing { range, entries }
        }
        _ => MessageBody::Want { tokens: (0..prng.below(5)).map(|_| Token(number(prng))).collect() },
    }
}

/// Of any length, so that every length of a varint occurs.
fn number(prng: &mut Prng) -> u64 {
    let shift = prng.below(64);
    prng.next_u64() >> shift
}

fn bytes(prng: &mut Prng, least: u64, most: u64) -> Bytes {
    let length = prng.between(least, most);
    (0..length).map(|_| prng.next_u64() as u8).collect()
}

fn key(prng: &mut Prng) -> Bytes {
    let most = if prng.chance(20) { 4_096 } else { 40 };
    bytes(prng, 1, most)
}

fn value(prng: &mut Prng) -> Option<Bytes> {
    let most = if prng.chance(20) { 70_000 } else { 200 };
    prng.chance(800).then(|| bytes(prng, 0, most))
}

fn version(prng: &mut Prng) -> Version {
    Version::new(Hlc(number(prng)), MemberId(number(prng) as u32))
}

fn round(prng: &mut Prng) -> Round {
    Round { c: number(prng), i: number(prng) as u32 }
}

/// A round of zeros is another thing than none.
fn label(prng: &mut Prng) -> Option<Round> {
    let round = if prng.chance(200) { Round::default() } else { round(prng) };
    prng.chance(700).then_some(round)
}

fn identity(prng: &mut Prng) -> OperationId {
    OperationId { client: number(prng).max(1), request: number(prng).max(1) }
}

fn naming(prng: &mut Prng) -> Option<Naming> {
    let attempt = Attempt { count: number(prng) as u32, member: MemberId(number(prng) as u32) };
    let naming = Naming { id: identity(prng), attempt, payload_hash: number(prng) };
    prng.chance(500).then_some(naming)
}

fn record(prng: &mut Prng) -> OwnedRecord {
    OwnedRecord { key: key(prng), version: version(prng), expires_at_ms: number(prng), value: value(prng) }
}

fn verdict(prng: &mut Prng) -> Verdict {
    match prng.below(7) {
        0 => Verdict::Held,
        1 => Verdict::Never(version(prng)),
        2 => Verdict::Unknown(version(prng)),
        3 => Verdict::BelowFloor,
        4 => Verdict::ClockAhead,
        5 => Verdict::NoRoom,
        _ => Verdict::Stale,
    }
}

fn found(prng: &mut Prng) -> Found {
    match prng.below(3) {
        0 => Found::Version { version: version(prng), expires_at_ms: number(prng), label: label(prng) },
        1 => Found::Record { record: record(prng), label: label(prng) },
        _ => Found::Stale,
    }
}

fn operation(prng: &mut Prng) -> Operation {
    let expiry = [Expiry::Never, Expiry::InMs(number(prng)), Expiry::AtMs(number(prng))];
    match prng.below(3) {
        0 => Operation::Read { key: key(prng), value: prng.chance(500) },
        1 => Operation::Put {
            key: key(prng),
            value: value(prng).unwrap_or_default(),
            expiry: expiry[prng.below(3) as usize],
            previous: prng.chance(500),
        },
        _ => Operation::Delete { key: key(prng), previous: prng.chance(500) },
    }
}

fn reply(prng: &mut Prng) -> Reply {
    let outcomes = [Outcome::Read, Outcome::NotApplied, Outcome::InDoubt, Outcome::Applied];
    match prng.below(3) {
        0 => Ok(Answer::Read(ReadAnswer {
            version: version(prng),
            exists: prng.chance(500),
            value: value(prng).unwrap_or_default(),
            value_bytes: number(prng) as u32,
            expires_at_ms: number(prng),
        })),
        1 => Ok(Answer::Write(WriteAnswer {
            version: version(prng),
            had_old: prng.chance(500),
            old: value(prng).unwrap_or_default(),
        })),
        _ => Err(Failure {
            reason: Reason::ALL[prng.below(Reason::ALL.len() as u64) as usize],
            outcome: outcomes[prng.below(4) as usize],
            limit: number(prng),
            got: number(prng),
            retry_after_ms: number(prng) as u32,
            message: "zu groß ".repeat(prng.below(9) as usize),
        }),
    }
}

/// Without gRPC's prefix.
fn body_of(request: Bytes) -> Bytes {
    request.slice(5..)
}

fn request(frames: Vec<pb::Frame>) -> Bytes {
    pb::LinkRequest { hello: None, frames }.encode_to_vec().into()
}

#[test]
fn every_message_survives_the_wire() {
    let limits = Limits::default();
    for seed in 0..4_000 {
        let mut prng = Prng::new(seed);
        let count = prng.between(1, 4);
        let frames: Vec<Frame> =
            (0..count).map(|index| random_of(&mut prng, (seed + index) % (BODIES + CONTROLS))).collect();
        let decoded = wire::decode(body_of(wire::encode(frames.clone())), &limits);
        assert_eq!(decoded.expect("well-formed"), frames, "seed {seed}");
    }
}

#[test]
fn keys_and_values_are_slices_of_what_was_received() {
    let write = body(&mut Prng::new(1), 0);
    let MessageBody::Write { ref record, .. } = write else { panic!("kind 0 is a write") };
    let (key, value) = (record.key.clone(), Bytes::from(vec![7; 1_000]));
    let record = OwnedRecord { value: Some(value), ..record.clone() };
    let body = MessageBody::Write {
        attempt: AttemptId(1),
        record,
        label: None,
        naming: None,
        previous: false,
        repair: false,
    };
    let message = message_of(&mut Prng::new(1), 4);
    let received = body_of(wire::encode([Frame::Slot(Message { body, ..message })]));
    let here = received.as_ptr() as usize..received.as_ptr() as usize + received.len();
    let frames = wire::decode(received.clone(), &Limits::default()).unwrap();
    let Frame::Slot(Message { body: MessageBody::Write { record, .. }, .. }) = &frames[0] else {
        panic!("a write was sent")
    };
    assert_eq!(record.key, key);
    assert!(here.contains(&(record.key.as_ptr() as usize)));
    assert!(here.contains(&(record.value.as_ref().unwrap().as_ptr() as usize)));
}

#[test]
fn damaged_bytes_are_refused_or_read_and_never_more() {
    let limits = Limits::default();
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut prng = Prng::new(seed);
        let frames = [random(&mut prng), random(&mut prng)];
        let mut damaged = body_of(wire::encode(frames)).to_vec();
        for _ in 0..prng.between(1, 4) {
            let at = prng.below(damaged.len() as u64) as usize;
            damaged[at] ^= 1 << prng.below(8);
        }
        if prng.chance(200) {
            damaged.truncate(prng.below(damaged.len() as u64) as usize);
        }
        match wire::decode(damaged.into(), &limits) {
            Ok(frames) => assert!(!frames.is_empty(), "seed {seed}"),
            Err(failure) => {
                refused += 1;
                assert!(
                    matches!(failure.reason, Reason::Malformed | Reason::BatchTooLarge),
                    "seed {seed}: {failure}"
                );
            }
        }
    }
    assert!(refused > 2_000, "{refused} were refused");
    for seed in 0..5_000 {
        let mut prng = Prng::new(seed);
        let noise = bytes(&mut prng, 0, 200);
        drop(wire::decode(noise.clone(), &limits)); // must not panic; either answer will do
        drop(wire::decode_hello(noise)); // the same
    }
}

/// One frame with one thing changed, and what is said of it.
#[test]
fn malformed_frames_are_named() {
    use pb::frame::Body;
    let limits = Limits::default();
    let refused = |frame: pb::Frame| {
        let failure = wire::decode(request(vec![frame]), &limits).expect_err("it is malformed");
        assert_eq!(failure.reason, Reason::Malformed);
        failure
    };
    let of = |body| pb::Frame { body: Some(body), ..Default::default() };
    let record = || pb::Record { key: "k".into(), ..Default::default() };
    let write = |record| of(Body::Write(pb::Write { record, ..Default::default() }));
    let unknown = |what, number| WireError::Unknown { what, number };
    let long = vec![0; limits.value_bytes_max + 1];
    let found = |found| of(Body::ReadAnswer(pb::ReadAnswer { attempt: 1, found }));
    let forward = |level, client, operation| {
        of(Body::Forward(pb::Forward { level, client, operation, ..Default::default() }))
    };
    let failure = |failure| {
        let reply = Some(pb::forward_answer::Reply::Failure(failure));
        of(Body::ForwardAnswer(pb::ForwardAnswer { attempt: 1, reply }))
    };
    let get = |key: &'static str| {
        Some(pb::forward::Operation::Get(pb::forward::Get { key: key.into(), value: true }))
    };
    let failed = pb::forward_answer::Failure { reason: 1, outcome: 1, ..Default::default() };
    let cases = [
        (pb::Frame::default(), WireError::Missing("body")),
        (pb::Frame { slot: 16_384, ..write(Some(record())) }, WireError::Slot(16_384)),
        (write(None), WireError::Missing("record")),
        (write(Some(pb::Record::default())), WireError::KeyEmpty),
        (
            write(Some(pb::Record { key: vec![1; 4_097].into(), ..Default::default() })),
            WireError::TooLong { what: "key", got: 4_097, limit: 4_096 },
        ),
        (
            write(Some(pb::Record { value: Some(long.into()), ..record() })),
            WireError::TooLong { what: "value", got: (1 << 20) + 1, limit: 1 << 20 },
        ),
        (of(Body::WriteAnswer(pb::WriteAnswer::default())), unknown("verdict", 0)),
        (of(Body::WriteAnswer(pb::WriteAnswer { verdict: 8, ..Default::default() })), unknown("verdict", 8)),
        (of(Body::Read(pb::Read::default())), WireError::KeyEmpty),
        (found(None), WireError::Missing("answer to a read")),
        (found(Some(pb::read_answer::Found::Record(Default::default()))), WireError::Missing("record")),
        (forward(2, 0, None), WireError::Missing("operation")),
        (forward(2, 0, get("")), WireError::KeyEmpty),
        (forward(0, 0, get("k")), unknown("level", 0)),
        (forward(4, 0, get("k")), unknown("level", 4)),
        (forward(2, 1, get("k")), WireError::HalfNamed),
        (failure(pb::forward_answer::Failure { reason: 10, ..failed.clone() }), unknown("reason", 10)),
        (failure(pb::forward_answer::Failure { outcome: 0, ..failed.clone() }), unknown("outcome", 0)),
        (
            failure(pb::forward_answer::Failure { message: "x".repeat(1_025), ..failed }),
            WireError::TooLong { what: "message", got: 1_025, limit: 1_024 },
        ),
    ];
    for (frame, error) in cases {
        assert_eq!(refused(frame).message, error.to_string());
    }
}

#[test]
fn requests_that_are_no_batches_and_too_many_frames_are_refused() {
    let limits = Limits::default();
    let reason = |bytes| wire::decode(bytes, &limits).expect_err("it is refused").reason;
    assert_eq!(reason(Bytes::new()), Reason::Malformed);
    assert_eq!(reason(body_of(wire::encode_hello(&hello()))), Reason::Malformed);
    assert_eq!(reason(request(vec![pb::Frame::default(); FRAMES_MAX + 1])), Reason::BatchTooLarge);
    // A million entries of two bytes each: counted before anything is made of them.
    let million: Bytes = [0x12, 0x00].repeat(1_000_000).into();
    assert_eq!(reason(million), Reason::BatchTooLarge);
}

pub(crate) fn hello() -> Hello {
    Hello { cluster: ClusterId([3; 16]), from: MemberId(2), to: MemberId(1), core: CoreId(1), cores: 4 }
}

#[test]
fn hello_survives_the_wire_and_strange_ones_are_refused() {
    assert_eq!(wire::decode_hello(body_of(wire::encode_hello(&hello()))), Ok(hello()));
    let good = pb::Hello { format: FORMAT, cluster: vec![3; 16].into(), from: 2, to: 1, core: 1, cores: 4 };
    let reason = |hello: Option<pb::Hello>| {
        let request = pb::LinkRequest { hello, frames: Vec::new() }.encode_to_vec();
        wire::decode_hello(request.into()).expect_err("it is refused").reason
    };
    for strange in [
        pb::Hello { cluster: vec![3; 15].into(), ..good.clone() },
        pb::Hello { from: 0, ..good.clone() },
        pb::Hello { to: 0, ..good.clone() },
        pb::Hello { core: 4, ..good.clone() },
        pb::Hello { cores: 0, core: 0, ..good.clone() },
        pb::Hello { cores: 70_000, ..good.clone() },
    ] {
        assert_eq!(reason(Some(strange.clone())), Reason::Malformed, "{strange:?}");
    }
    assert_eq!(reason(None), Reason::Malformed);
    assert_eq!(reason(Some(pb::Hello { format: 2, ..good })), Reason::NotMember);
}
