//! Requests of this core's tasks that wait for their reply, and who they are to the machines that answer them.
//!
//! A call's name is an [`Asker`]: the core that asks, the call's place in its list, and how often that place was used
//! before. So a reply that comes after its call was given up finds nobody, on whichever core the machine sat.

use crate::types::request::{Asker, Reply};
use crate::types::{CoreId, Failure, Mono, Reason};
use std::task::{Poll, Waker};

const PLACE_BITS: u32 = 24;
const USE_BITS: u32 = 24;

/// The open calls of one core.
#[derive(Debug)]
pub(crate) struct Calls {
    core: CoreId,
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Place {
    uses: u32,
    call: Option<Call>,
}

#[derive(Debug)]
struct Call {
    begun: Mono,
    deadline: Mono,
    write: bool,
    reply: Option<Reply>,
    waker: Option<Waker>,
}

/// The core that a call belongs to.
pub(crate) fn origin(asker: Asker) -> CoreId {
    CoreId((asker.0 >> (PLACE_BITS + USE_BITS)) as u16)
}

impl Calls {
    pub(crate) fn new(core: CoreId) -> Calls {
        Calls { core, places: Vec::new(), free: Vec::new() }
    }

    /// Calls without a reply, and replies that nobody has taken yet.
    pub(crate) fn open(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes a call down, now. It fails by itself when `deadline` is past; `write` says in what words.
    pub(crate) fn begin(&mut self, now: Mono, deadline: Mono, write: bool) -> Asker {
        let call = Some(Call { begun: now, deadline, write, reply: None, waker: None });
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize].call = call;
                place
            }
            None => {
                assert!(self.places.len() < 1 << PLACE_BITS, "budgets keep open calls far below 16 million");
                self.places.push(Place { uses: 0, call });
                self.places.len() as u32 - 1
            }
        };
        let uses = self.places[place as usize].uses;
        Asker(
            (u64::from(self.core.0) << (PLACE_BITS + USE_BITS))
                | (u64::from(uses) << PLACE_BITS)
                | u64::from(place),
        )
    }

    /// A reply has come: the waker of who waits for it, and when the call began. None: it was given up, or answered by
    /// its deadline.
    pub(crate) fn answer(&mut self, asker: Asker, reply: Reply) -> Option<(Option<Waker>, Mono)> {
        let call = self.call(asker).filter(|call| call.reply.is_none())?;
        call.reply = Some(reply);
        Some((call.waker.take(), call.begun))
    }

    /// Looks for the reply, and ends the call if it is there.
    pub(crate) fn poll(&mut self, asker: Asker, waker: &Waker) -> Poll<Reply> {
        let call = self.call(asker).expect("a call is polled until its reply is taken");
        match call.reply.take() {
            Some(reply) => {
                self.end(asker);
                Poll::Ready(reply)
            }
            None => {
                match &mut call.waker {
                    Some(known) => known.clone_from(waker),
                    None => call.waker = Some(waker.clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Gives a call up; its reply will find nobody.
    pub(crate) fn end(&mut self, asker: Asker) {
        if self.call(asker).is_some() {
            let index = asker.0 as u32 & ((1 << PLACE_BITS) - 1);
            let place = &mut self.places[index as usize];
            place.call = None;
            place.uses = (place.uses + 1) & ((1 << USE_BITS) - 1);
            self.free.push(index);
        }
    }

    /// Fails the calls whose deadline is past; the wakers of who waits for them.
    pub(crate) fn expire(&mut self, now: Mono) -> Vec<Waker> {
        let late = self.places.iter_mut().filter_map(|place| place.call.as_mut());
        late.filter(|call| call.deadline <= now && call.reply.is_none())
            .filter_map(|call| {
                let failure = Failure::in_doubt(Reason::NoQuorumInTime);
                call.reply = Some(Err(if call.write { failure } else { failure.of_read() }));
                call.waker.take()
            })
            .collect()
    }

    fn call(&mut self, asker: Asker) -> Option<&mut Call> {
        let uses = (asker.0 >> PLACE_BITS) as u32 & ((1 << USE_BITS) - 1);
        let place = self.places.get_mut((asker.0 & ((1 << PLACE_BITS) - 1)) as usize)?;
        place.call.as_mut().filter(|_| place.uses == uses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::request::Answer;

    #[test]
    fn reply_reaches_its_call_and_no_later_one_at_the_same_place() {
        let mut calls = Calls::new(CoreId(3));
        let first = calls.begin(Mono(0), Mono(10), false);
        assert_eq!(origin(first), CoreId(3));
        calls.end(first);
        let second = calls.begin(Mono(0), Mono(10), false);
        assert_ne!(first, second);
        assert!(calls.answer(first, Ok(Answer::Replicated)).is_none());
        assert!(calls.poll(second, Waker::noop()).is_pending());
        assert!(calls.answer(second, Ok(Answer::Replicated)).is_some_and(|(waker, _)| waker.is_some()));
        assert_eq!(calls.poll(second, Waker::noop()), Poll::Ready(Ok(Answer::Replicated)));
        assert_eq!(calls.open(), 0);
    }

    #[test]
    fn deadline_answers_and_what_comes_later_does_not_change_it() {
        let mut calls = Calls::new(CoreId(0));
        let (read, write) = (calls.begin(Mono(0), Mono(10), false), calls.begin(Mono(0), Mono(11), true));
        assert!(calls.poll(read, Waker::noop()).is_pending());
        assert_eq!(calls.expire(Mono(10)).len(), 1);
        assert!(calls.answer(read, Ok(Answer::Replicated)).is_none());
        let of_read = Failure::in_doubt(Reason::NoQuorumInTime).of_read();
        assert_eq!(calls.poll(read, Waker::noop()), Poll::Ready(Err(of_read)));
        calls.expire(Mono(11));
        assert_eq!(
            calls.poll(write, Waker::noop()),
            Poll::Ready(Err(Failure::in_doubt(Reason::NoQuorumInTime)))
        );
    }
}
