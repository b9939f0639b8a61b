//! What a core asks for. A closed list, gathered in a buffer that the shell drains and reuses.
//!
//! An effect leaves at once, or after a ticket of the log is durable; the buffer holds it until then. An
//! acknowledgement is made from [`Acknowledged`] only, so one that leaves early cannot be written down.

use super::event::Opinion;
use crate::cluster::control::{CoreReport, Note};
use crate::cluster::messages::ControlMessage;
use crate::cluster::ring::Ring;
use crate::cluster::slot_set::SlotSet;
use crate::replication::forward::Requester;
use crate::replication::messages::{Message, MessageBody, News};
use crate::replication::write::Acknowledged;
use crate::storage::log::Ticket;
use crate::storage::segment::SegmentId;
use crate::types::request::{Answer, Asker, Operation, Reply, TooLong};
use crate::types::{Failure, Hlc, MemberId};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;

/// What a core asks for.
#[derive(Debug)]
pub enum Effect {
    /// Answer a request.
    Reply {
        /// Whose.
        to: Asker,
        /// With what.
        reply: Reply,
    },
    /// Send a message to the core that owns its slot at another member.
    Send {
        /// Which member.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// Tell core 0 that this member knows of a newer epoch.
    AskEpoch(MemberId),
    /// Send this to core 0 of another member.
    SendControl {
        /// Which member.
        to: MemberId,
        /// What.
        message: Box<ControlMessage>,
    },
    /// Tell core 0 how far this core is with the moves that epochs ask for.
    Moved(CoreReport),
    /// Tell core 0 which slots of this core hold any record.
    Occupied {
        /// The question that is answered.
        round: u64,
        /// Those that do.
        slots: SlotSet,
    },
    /// Tell every core, this one too, of the epoch.
    Publish(Arc<Ring>),
    /// Tell every core, this one too, what is believed of the other members.
    Opine(Opinion),
    /// Ask every core, this one too, which of its slots hold any record.
    AskCores {
        /// Echoed by the answers.
        round: u64,
    },
    /// A line for the diagnostics.
    Note(Note),
    /// Write this segment file full of zeros, make it durable under its name, and say so.
    PrepareSegment(SegmentId),
    /// End the process: going on could break a promise.
    Halt(String),
}

/// Effects of the steps since the last drain, and those that wait for the log.
#[derive(Debug, Default)]
pub struct Effects {
    ready: VecDeque<Effect>,
    /// In the order of tickets; each is above `durable`.
    held: VecDeque<(Ticket, Effect)>,
    durable: Ticket,
    /// Answers to requests among those.
    held_answers: usize,
    /// Of keys and values in `held`.
    held_bytes: usize,
}

impl Effects {
    /// The next effect to perform.
    pub fn pop(&mut self) -> Option<Effect> {
        self.ready.pop_front()
    }

    /// Answers to requests that wait for the log.
    pub fn held(&self) -> usize {
        self.held_answers
    }

    /// Answers and messages, of whatever kind, that wait for the log.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Bytes of keys and values in answers and messages that wait for the log.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// An effect that speaks of nothing that could be lost.
    pub(super) fn at_once(&mut self, effect: Effect) {
        self.ready.push_back(effect);
    }

    /// An effect that leaves when the ticket, if any, is durable.
    pub(super) fn after(&mut self, ticket: Option<Ticket>, effect: Effect) {
        match ticket {
            // Tickets rise, but a read may wait for one that is older than the last: keep the list sorted.
            Some(ticket) if ticket > self.durable => {
                self.held_bytes += held_length(&effect);
                self.held_answers += usize::from(matches!(effect, Effect::Reply { .. }));
                let at = self.held.partition_point(|(held, _)| *held <= ticket);
                self.held.insert(at, (ticket, effect));
            }
            // Nothing would come to release what waits for a ticket that is durable already.
            Some(_) | None => self.ready.push_back(effect),
        }
    }

    /// Everything up to `durable` may leave.
    pub(super) fn release(&mut self, durable: Ticket) {
        self.durable = self.durable.max(durable);
        while self.held.front().is_some_and(|(ticket, _)| *ticket <= durable) {
            let (_, effect) = self.held.pop_front().expect("the front was just looked at");
            self.held_bytes -= held_length(&effect);
            self.held_answers -= usize::from(matches!(effect, Effect::Reply { .. }));
            self.ready.push_back(effect);
        }
    }

    /// A write reached its quorum.
    pub(super) fn acknowledge(&mut self, done: Acknowledged) {
        let (to, answer) = done.into_parts();
        self.reply(None, to, Ok(answer));
    }

    /// An operation's end, which leaves once the ticket is durable.
    pub(super) fn reply(&mut self, ticket: Option<Ticket>, to: Requester, reply: Reply) {
        let effect = match to {
            Requester::Here(to) => Effect::Reply { to, reply },
            Requester::Member { member, slot, configuration, attempt } => {
                let body = MessageBody::ForwardAnswer { attempt, reply: Some(reply) };
                let news = News::default();
                Effect::Send {
                    to: member,
                    message: Message { slot, configuration, hlc: Hlc::ZERO, news, body },
                }
            }
        };
        self.after(ticket, effect);
    }

    /// A request's answer would be longer than there is room for. Waits for no ticket: it stays between this core and
    /// the asker's, and nobody else is told.
    pub(super) fn too_long(&mut self, to: Requester, operation: Operation, value_bytes: usize) {
        let too_long = TooLong { operation, value_bytes };
        self.reply(None, to, Ok(Answer::TooLong(Box::new(too_long))));
    }

    /// A request failed, and that speaks of nothing that could be lost.
    pub(super) fn refuse(&mut self, to: Requester, failure: Failure) {
        self.reply(None, to, Err(failure));
    }
}

fn held_length(effect: &Effect) -> usize {
    match effect {
        Effect::Reply { reply: Ok(answer), .. } => answer.bytes(),
        Effect::Send { message, .. } => message.body.bytes(),
        Effect::Reply { reply: Err(_), .. }
        | Effect::AskEpoch(_)
        | Effect::SendControl { .. }
        | Effect::Moved(_)
        | Effect::Occupied { .. }
        | Effect::Publish(_)
        | Effect::Opine(_)
        | Effect::AskCores { .. }
        | Effect::Note(_)
        | Effect::PrepareSegment(_)
        | Effect::Halt(_) => 0,
    }
}
