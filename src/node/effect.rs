//! What a core asks for. A closed list, gathered in a buffer that the shell drains and reuses.
//!
//! An effect leaves at once, or after a ticket of the log is durable; the buffer holds it until then. An
//! acknowledgement is made from [`Acknowledged`] only, so one that leaves early cannot be written down.

use crate::replication::coordinator::Acknowledged;
use crate::replication::messages::Message;
use crate::storage::log::Ticket;
use crate::storage::segment::SegmentId;
use crate::types::request::{Answer, Asker, Reply, Request, TooLong};
use crate::types::{Failure, MemberId};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;

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
    /// Of the answers in `held`.
    held_bytes: usize,
}

impl Effects {
    /// The next effect to perform.
    pub fn pop(&mut self) -> Option<Effect> {
        self.ready.pop_front()
    }

    /// Effects that wait for the log.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Bytes of keys and values in answers that wait for the log.
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
                self.held_bytes += answer_bytes(&effect);
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
            self.held_bytes -= answer_bytes(&effect);
            self.ready.push_back(effect);
        }
    }

    /// A write reached its quorum.
    pub(super) fn acknowledge(&mut self, done: Acknowledged) {
        let (to, answer) = done.into_parts();
        self.ready.push_back(Effect::Reply { to, reply: Ok(answer) });
    }

    /// A request is answered from what is durable once the ticket is.
    pub(super) fn answer(&mut self, ticket: Option<Ticket>, to: Asker, answer: Answer) {
        self.after(ticket, Effect::Reply { to, reply: Ok(answer) });
    }

    /// A request's answer would be longer than there is room for. Waits for no ticket: it stays between this core and
    /// the asker's, and nobody else is told.
    pub(super) fn too_long(&mut self, to: Asker, request: &Request, value_bytes: usize) {
        let too_long = TooLong { operation: request.operation.clone(), value_bytes };
        self.ready.push_back(Effect::Reply { to, reply: Ok(Answer::TooLong(Box::new(too_long))) });
    }

    /// A request failed.
    pub(super) fn refuse(&mut self, to: Asker, failure: Failure) {
        self.ready.push_back(Effect::Reply { to, reply: Err(failure) });
    }
}

fn answer_bytes(effect: &Effect) -> usize {
    let Effect::Reply { reply: Ok(answer), .. } = effect else { return 0 };
    match answer {
        Answer::Read(read) => read.value.len(),
        Answer::Write(write) => write.old.len(),
        Answer::Page(page) => {
            page.records.iter().map(|record| record.key.len() + record.answer.value.len()).sum()
        }
        Answer::Replicated | Answer::TooLong(_) => 0,
    }
}
