//! Frames in protobuf, both ways. Everything that comes in is checked against the limits before it becomes a frame: what
//! the machine is given has the form that its types promise. Keys and values are slices of what was received.

use super::{FORMAT, Frame, Hello, Welcome};
use super::{control, exchange, forward};
use crate::replication::messages::{
    AttemptId, Found, Holding, Message, MessageBody, News, OwnedRecord, Replaced, Verdict,
};
use crate::replication::replica::Naming;
use crate::rpc::codec::{self, Cap};
use crate::rpc::proto::peer as pb;
use crate::storage::digest::Digest;
use crate::storage::log_record::{Attempt, Round};
use crate::types::{
    ClusterId, CoreId, Failure, Hlc, Limits, MemberId, OperationId, Reason, SLOTS, Slot, Version,
};
use bytes::Bytes;
use pb::frame::Body;
use pb::read_answer::{self, Found as PbFound};
use pb::write_answer::Verdict as PbVerdict;

/// Frames of one request: each is worth more than a byte of decoding.
pub const FRAMES_MAX: usize = 4_096;
/// The frames of a request are counted before they are decoded.
const CAPS: [Cap; 1] = [Cap { path: &[2], elements_max: FRAMES_MAX }];
/// What a frame holds beside keys and values, at most: numbers, and a failure's words.
const NUMBERS_BYTES_MAX: usize = 2_048;
/// Cores of a node.
const CORES_MAX: u32 = 1 << 10;

/// Why a frame is refused. None of its request is acted upon.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// A part that is always there.
    #[error("a frame has no {0}")]
    Missing(&'static str),
    /// There are [`SLOTS`].
    #[error("{0} is no slot")]
    Slot(u32),
    /// A number that means nothing.
    #[error("{number} is no {what}")]
    Unknown {
        /// What it should name.
        what: &'static str,
        /// The number.
        number: i64,
    },
    /// A key needs at least one byte.
    #[error("a frame's key is empty")]
    KeyEmpty,
    /// Of a key, a value or a text.
    #[error("the {what} of a frame has {got} bytes, the limit is {limit}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its bytes.
        got: usize,
        /// The most.
        limit: usize,
    },
    /// A name of which one half is 0.
    #[error("a frame names half of an operation")]
    HalfNamed,
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        let failure = Failure::not_applied(Reason::Malformed).message(error.to_string());
        match error {
            WireError::TooLong { got, limit, .. } => failure.limit(limit as u64, got as u64),
            WireError::Missing(_)
            | WireError::Slot(_)
            | WireError::Unknown { .. }
            | WireError::KeyEmpty
            | WireError::HalfNamed => failure,
        }
    }
}

/// Bytes of a request of a link: a batch is far smaller, one frame with a long value must fit.
pub(crate) fn request_bytes_max(limits: &Limits) -> usize {
    limits.message_bytes_max.max(limits.key_bytes_max + limits.value_bytes_max + NUMBERS_BYTES_MAX)
}

/// A batch on its way out; its memory is used again.
#[derive(Default)]
pub(super) struct Batch {
    request: pb::LinkRequest,
}

impl Batch {
    pub(super) fn push(&mut self, frame: Frame) {
        self.request.frames.push(from_frame(frame));
    }

    pub(super) fn frames(&self) -> usize {
        self.request.frames.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.frames() < FRAMES_MAX
    }

    /// The request, behind its prefix; the batch is empty again.
    pub(super) fn take(&mut self) -> Bytes {
        let bytes = codec::encode(&self.request);
        self.request.frames.clear();
        bytes
    }
}

/// A request with these frames, behind gRPC's prefix.
pub fn encode(frames: impl IntoIterator<Item = Frame>) -> Bytes {
    let mut batch = Batch::default();
    frames.into_iter().for_each(|frame| batch.push(frame));
    batch.take()
}

/// The frames of a request, which comes without its prefix; never none.
pub fn decode(bytes: Bytes, limits: &Limits) -> Result<Vec<Frame>, Failure> {
    let request: pb::LinkRequest = codec::decode(bytes, &CAPS)?;
    if request.hello.is_some() || request.frames.is_empty() {
        return Err(WireError::Missing("place among batches").into());
    }
    let frames = request.frames.into_iter().map(|frame| to_frame(frame, limits));
    Ok(frames.collect::<Result<_, WireError>>()?)
}

/// A request that introduces its sender, behind gRPC's prefix.
pub fn encode_hello(hello: &Hello) -> Bytes {
    let Hello { cluster, from, to, core, cores } = *hello;
    let hello = pb::Hello {
        format: FORMAT,
        cluster: Bytes::copy_from_slice(&cluster.0),
        from: from.0,
        to: to.0,
        core: core.0.into(),
        cores: cores.into(),
    };
    codec::encode(&pb::LinkRequest { hello: Some(hello), frames: Vec::new() })
}

/// Who introduces itself. Another format is no malformed one: its sender is told that they cannot talk.
pub fn decode_hello(bytes: Bytes) -> Result<Hello, Failure> {
    let request: pb::LinkRequest = codec::decode(bytes, &CAPS)?;
    let hello = request.hello.filter(|_| request.frames.is_empty()).ok_or(WireError::Missing("hello"))?;
    if hello.format != FORMAT {
        let words = format!("the sender speaks format {} of links, this node {FORMAT}", hello.format);
        return Err(Failure::not_applied(Reason::NotMember).message(words));
    }
    let number = i64::from(hello.cores);
    let cores = Some(hello.cores).filter(|&cores| hello.core < cores && cores <= CORES_MAX);
    let cores = cores.ok_or(WireError::Unknown { what: "number of cores", number })?;
    Ok(Hello {
        cluster: ClusterId(hello.cluster[..].try_into().map_err(|_| WireError::Missing("cluster"))?),
        from: member(hello.from)?,
        to: member(hello.to)?,
        core: CoreId(hello.core as u16),
        cores: cores as u16,
    })
}

/// What a sender is answered, behind gRPC's prefix.
pub(super) fn encode_welcome(welcome: Welcome) -> Bytes {
    let welcome = pb::Welcome { member: welcome.member.0, cores: welcome.cores.into() };
    codec::encode(&pb::LinkResponse { welcome: Some(welcome) })
}

/// Reads [`encode_welcome`]'s bytes, without the prefix.
pub(super) fn decode_welcome(bytes: Bytes) -> Result<Welcome, Failure> {
    let response: pb::LinkResponse = codec::decode(bytes, &[])?;
    let welcome = response.welcome.ok_or(WireError::Missing("welcome"))?;
    let cores = Some(welcome.cores).filter(|cores| (1..=CORES_MAX).contains(cores));
    let number = i64::from(welcome.cores);
    let cores = cores.ok_or(WireError::Unknown { what: "number of cores", number })?;
    Ok(Welcome { member: member(welcome.member)?, cores: cores as u16 })
}

fn from_frame(frame: Frame) -> pb::Frame {
    let Message { slot, configuration, hlc, news, body } = match frame {
        Frame::Slot(message) => message,
        Frame::Control(message) => {
            return pb::Frame { body: Some(control::from_message(*message)), ..pb::Frame::default() };
        }
    };
    pb::Frame {
        slot: slot.0.into(),
        configuration,
        clock: hlc.0,
        round_configuration: news.round.c,
        round_number: news.round.i,
        floor_clock: news.floor.hlc.0,
        floor_member: news.floor.member.0,
        body: Some(from_body(body)),
    }
}

fn to_frame(frame: pb::Frame, limits: &Limits) -> Result<Frame, WireError> {
    if frame.slot as usize >= SLOTS {
        return Err(WireError::Slot(frame.slot));
    }
    let body = frame.body.ok_or(WireError::Missing("body"))?;
    if let Some(message) = control::to_message(&body) {
        return Ok(Frame::Control(Box::new(message?)));
    }
    let news = News {
        round: Round { c: frame.round_configuration, i: frame.round_number },
        floor: version(frame.floor_clock, frame.floor_member),
    };
    Ok(Frame::Slot(Message {
        slot: Slot(frame.slot as u16),
        configuration: frame.configuration,
        hlc: Hlc(frame.clock),
        news,
        body: to_body(body, limits)?,
    }))
}

fn from_body(body: MessageBody) -> Body {
    match body {
        MessageBody::Write { attempt, record, label, naming, previous, repair } => Body::Write(pb::Write {
            attempt: attempt.0,
            record: Some(from_record(record)),
            label: label.map(from_round),
            naming: naming.map(from_naming),
            previous,
            repair,
        }),
        MessageBody::WriteAnswer { attempt, verdict, replaced, label } => {
            Body::WriteAnswer(from_write_answer(attempt, verdict, replaced, label))
        }
        MessageBody::Read { attempt, key, record } => {
            Body::Read(pb::Read { attempt: attempt.0, key, record })
        }
        MessageBody::ReadAnswer { attempt, found } => {
            Body::ReadAnswer(pb::ReadAnswer { attempt: attempt.0, found: Some(from_found(found)) })
        }
        MessageBody::Survey { attempt } => Body::Survey(pb::Survey { attempt: attempt.0 }),
        MessageBody::SurveyAnswer { attempt, holding } => Body::SurveyAnswer(pb::SurveyAnswer {
            attempt: attempt.0,
            holding: holding
                .map(|Holding { digest, records }| pb::survey_answer::Holding { digest: digest.0, records }),
        }),
        MessageBody::Collect { round, listed } => {
            let listed = exchange::from_dead(listed);
            Body::Collect(pb::Collect { round: Some(from_round(round)), listed })
        }
        MessageBody::Collected { round } => Body::Collected(pb::Collected { round: Some(from_round(round)) }),
        MessageBody::Announce => Body::Announce(pb::Announce {}),
        MessageBody::Compare { digest } => Body::Compare(pb::Compare { digest: digest.0 }),
        MessageBody::Agree { digest } => Body::Agree(pb::Agree { digest: digest.0 }),
        MessageBody::Parts { range, digests } => Body::Parts(exchange::from_parts(range, &digests)),
        MessageBody::Listing { range, entries } => Body::Listing(exchange::from_listing(range, &entries)),
        MessageBody::Want { tokens } => {
            Body::Want(pb::Want { tokens: tokens.into_iter().map(|token| token.0).collect() })
        }
        MessageBody::Forward { attempt, operation, level, identity, done_below, remaining_ms } => {
            let identity = identity.map_or((0, 0), |id| (id.client, id.request));
            Body::Forward(pb::Forward {
                attempt: attempt.0,
                level: forward::from_level(level) as i32,
                client: identity.0,
                request: identity.1,
                done_below,
                remaining_ms,
                operation: Some(forward::from_operation(operation)),
            })
        }
        MessageBody::ForwardAnswer { attempt, reply } => Body::ForwardAnswer(pb::ForwardAnswer {
            attempt: attempt.0,
            reply: reply.map(forward::from_reply),
        }),
    }
}

fn to_body(body: Body, limits: &Limits) -> Result<MessageBody, WireError> {
    Ok(match body {
        Body::Write(write) => MessageBody::Write {
            attempt: AttemptId(write.attempt),
            record: to_record(write.record, limits)?,
            label: write.label.map(to_round),
            naming: write.naming.map(to_naming).transpose()?,
            previous: write.previous,
            repair: write.repair,
        },
        Body::WriteAnswer(answer) => to_write_answer(answer, limits)?,
        Body::Read(pb::Read { attempt, key: wanted, record }) => {
            MessageBody::Read { attempt: AttemptId(attempt), key: key(wanted, limits)?, record }
        }
        Body::ReadAnswer(pb::ReadAnswer { attempt, found }) => MessageBody::ReadAnswer {
            attempt: AttemptId(attempt),
            found: to_found(found.ok_or(WireError::Missing("answer to a read"))?, limits)?,
        },
        Body::Survey(pb::Survey { attempt }) => MessageBody::Survey { attempt: AttemptId(attempt) },
        Body::SurveyAnswer(pb::SurveyAnswer { attempt, holding }) => MessageBody::SurveyAnswer {
            attempt: AttemptId(attempt),
            holding: holding.map(|pb::survey_answer::Holding { digest, records }| Holding {
                digest: Digest(digest),
                records,
            }),
        },
        Body::Collect(pb::Collect { round, listed }) => MessageBody::Collect {
            round: round.map(to_round).ok_or(WireError::Missing("round"))?,
            listed: exchange::to_dead(listed, limits)?,
        },
        Body::Collected(pb::Collected { round }) => {
            MessageBody::Collected { round: round.map(to_round).ok_or(WireError::Missing("round"))? }
        }
        Body::Announce(pb::Announce {}) => MessageBody::Announce,
        Body::Compare(pb::Compare { digest }) => MessageBody::Compare { digest: Digest(digest) },
        Body::Agree(pb::Agree { digest }) => MessageBody::Agree { digest: Digest(digest) },
        Body::Parts(parts) => {
            let (range, digests) = exchange::to_parts(parts)?;
            MessageBody::Parts { range, digests }
        }
        Body::Listing(listing) => {
            let (range, entries) = exchange::to_listing(listing)?;
            MessageBody::Listing { range, entries }
        }
        Body::Want(pb::Want { tokens }) => MessageBody::Want { tokens: exchange::to_tokens(tokens)? },
        Body::Forward(asked) => MessageBody::Forward {
            attempt: AttemptId(asked.attempt),
            level: forward::to_level(asked.level)?,
            identity: identity(asked.client, asked.request)?,
            done_below: asked.done_below,
            remaining_ms: asked.remaining_ms,
            operation: forward::to_operation(
                asked.operation.ok_or(WireError::Missing("operation"))?,
                limits,
            )?,
        },
        Body::ForwardAnswer(pb::ForwardAnswer { attempt, reply }) => MessageBody::ForwardAnswer {
            attempt: AttemptId(attempt),
            reply: reply.map(|reply| forward::to_reply(reply, limits)).transpose()?,
        },
        Body::Probe(_)
        | Body::ProbeAnswer(_)
        | Body::Heartbeat(_)
        | Body::HeartbeatAnswer(_)
        | Body::FetchEpoch(_)
        | Body::News(_)
        | Body::Prepare(_)
        | Body::Promise(_)
        | Body::Accept(_)
        | Body::Accepted(_)
        | Body::Refused(_)
        | Body::AskOccupied(_)
        | Body::Occupied(_) => unreachable!("what is about no slot was taken out before"),
    })
}

fn from_write_answer(
    attempt: AttemptId,
    verdict: Verdict,
    replaced: Replaced,
    label: Option<Round>,
) -> pb::WriteAnswer {
    let (verdict, newer) = match verdict {
        Verdict::Held => (PbVerdict::Held, Version::ZERO),
        Verdict::Never(newer) => (PbVerdict::Never, newer),
        Verdict::Unknown(newer) => (PbVerdict::Unknown, newer),
        Verdict::BelowFloor => (PbVerdict::BelowFloor, Version::ZERO),
        Verdict::ClockAhead => (PbVerdict::ClockAhead, Version::ZERO),
        Verdict::NoRoom => (PbVerdict::NoRoom, Version::ZERO),
        Verdict::Stale => (PbVerdict::Stale, Version::ZERO),
    };
    pb::WriteAnswer {
        attempt: attempt.0,
        verdict: verdict as i32,
        newer_clock: newer.hlc.0,
        newer_member: newer.member.0,
        replaced_clock: replaced.version.hlc.0,
        replaced_member: replaced.version.member.0,
        replaced_value: replaced.value,
        label: label.map(from_round),
    }
}

fn to_write_answer(answer: pb::WriteAnswer, limits: &Limits) -> Result<MessageBody, WireError> {
    let newer = version(answer.newer_clock, answer.newer_member);
    let unknown = WireError::Unknown { what: "verdict", number: answer.verdict.into() };
    let verdict = match PbVerdict::try_from(answer.verdict) {
        Ok(PbVerdict::Held) => Verdict::Held,
        Ok(PbVerdict::Never) => Verdict::Never(newer),
        Ok(PbVerdict::Unknown) => Verdict::Unknown(newer),
        Ok(PbVerdict::BelowFloor) => Verdict::BelowFloor,
        Ok(PbVerdict::ClockAhead) => Verdict::ClockAhead,
        Ok(PbVerdict::NoRoom) => Verdict::NoRoom,
        Ok(PbVerdict::Stale) => Verdict::Stale,
        Ok(PbVerdict::Unspecified) | Err(_) => return Err(unknown),
    };
    let replaced = Replaced {
        version: version(answer.replaced_clock, answer.replaced_member),
        value: answer.replaced_value.map(|bytes| value(bytes, limits)).transpose()?,
    };
    let label = answer.label.map(to_round);
    Ok(MessageBody::WriteAnswer { attempt: AttemptId(answer.attempt), verdict, replaced, label })
}

fn from_found(found: Found) -> PbFound {
    match found {
        Found::Version { version, expires_at_ms, label } => PbFound::Version(read_answer::HeldVersion {
            clock: version.hlc.0,
            member: version.member.0,
            expires_at_ms,
            label: label.map(from_round),
        }),
        Found::Record { record, label } => PbFound::Record(read_answer::HeldRecord {
            record: Some(from_record(record)),
            label: label.map(from_round),
        }),
        Found::Stale => PbFound::Stale(read_answer::Stale {}),
    }
}

fn to_found(found: PbFound, limits: &Limits) -> Result<Found, WireError> {
    Ok(match found {
        PbFound::Version(held) => Found::Version {
            version: version(held.clock, held.member),
            expires_at_ms: held.expires_at_ms,
            label: held.label.map(to_round),
        },
        PbFound::Record(held) => {
            Found::Record { record: to_record(held.record, limits)?, label: held.label.map(to_round) }
        }
        PbFound::Stale(read_answer::Stale {}) => Found::Stale,
    })
}

fn from_record(record: OwnedRecord) -> pb::Record {
    let OwnedRecord { key, version, expires_at_ms, value } = record;
    pb::Record { key, clock: version.hlc.0, member: version.member.0, expires_at_ms, value }
}

fn to_record(record: Option<pb::Record>, limits: &Limits) -> Result<OwnedRecord, WireError> {
    let record = record.ok_or(WireError::Missing("record"))?;
    Ok(OwnedRecord {
        key: key(record.key, limits)?,
        version: version(record.clock, record.member),
        expires_at_ms: record.expires_at_ms,
        value: record.value.map(|bytes| value(bytes, limits)).transpose()?,
    })
}

fn from_naming(naming: Naming) -> pb::Naming {
    let Naming { id, attempt, payload_hash } = naming;
    pb::Naming {
        client: id.client,
        request: id.request,
        attempt_count: attempt.count,
        attempt_member: attempt.member.0,
        payload_hash,
    }
}

fn to_naming(naming: pb::Naming) -> Result<Naming, WireError> {
    Ok(Naming {
        id: OperationId::new(naming.client, naming.request).ok_or(WireError::HalfNamed)?,
        attempt: Attempt { count: naming.attempt_count, member: MemberId(naming.attempt_member) },
        payload_hash: naming.payload_hash,
    })
}

fn from_round(round: Round) -> pb::Round {
    pb::Round { configuration: round.c, number: round.i }
}

fn to_round(round: pb::Round) -> Round {
    Round { c: round.configuration, i: round.number }
}

pub(super) fn version(clock: u64, member: u32) -> Version {
    Version::new(Hlc(clock), MemberId(member))
}

fn identity(client: u64, request: u64) -> Result<Option<OperationId>, WireError> {
    match (client, request) {
        (0, 0) => Ok(None),
        (client, request) => OperationId::new(client, request).map(Some).ok_or(WireError::HalfNamed),
    }
}

/// One that was issued.
fn member(id: u32) -> Result<MemberId, WireError> {
    let known = Some(MemberId(id)).filter(|member| *member != MemberId::NONE);
    known.ok_or(WireError::Unknown { what: "member", number: id.into() })
}

pub(super) fn key(bytes: Bytes, limits: &Limits) -> Result<Bytes, WireError> {
    if bytes.is_empty() {
        return Err(WireError::KeyEmpty);
    }
    within("key", bytes, limits.key_bytes_max)
}

pub(super) fn value(bytes: Bytes, limits: &Limits) -> Result<Bytes, WireError> {
    within("value", bytes, limits.value_bytes_max)
}

fn within(what: &'static str, bytes: Bytes, limit: usize) -> Result<Bytes, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLong { what, got: bytes.len(), limit });
    }
    Ok(bytes)
}
