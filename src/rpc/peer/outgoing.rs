//! What one core has to say to one member and has not said yet: bounded in bytes, in order, and the only place where it
//! waits. A connection takes from it no more than its peer's windows admit.

use super::Frame;
use super::wire::Batch;
use crate::types::Mono;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A request is closed when it has so much: with its prefix it fits one DATA frame, which is read where it lies.
const BATCH_BYTES: usize = 56 << 10;

/// What waits for one member.
pub struct Outgoing {
    bytes_max: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Each with its time and its weight.
    frames: VecDeque<(Mono, usize, Frame)>,
    bytes: usize,
    ended: bool,
    /// Of the connection that takes from here.
    taker: Option<Waker>,
    /// Of who waits for the end.
    owner: Option<Waker>,
}

impl Outgoing {
    /// Nothing yet, and never more than about so many bytes.
    pub fn new(bytes_max: usize) -> Rc<Outgoing> {
        Rc::new(Outgoing { bytes_max, state: RefCell::default() })
    }

    /// Adds a frame at the end. False: there is no room for it, or the end was called for, and it is dropped.
    #[must_use]
    pub fn push(&self, now: Mono, frame: Frame) -> bool {
        let mut state = self.state.borrow_mut();
        let weight = frame.weight();
        if state.ended || state.bytes + weight > self.bytes_max {
            return false;
        }
        state.bytes += weight;
        state.frames.push_back((now, weight, frame));
        // Once per pass: whoever is woken takes all that has come by then.
        if let Some(waker) = state.taker.take() {
            waker.wake();
        }
        true
    }

    /// Drops what was added before `then`; how many.
    pub fn drop_before(&self, then: Mono) -> usize {
        let mut state = self.state.borrow_mut();
        let before = state.frames.len();
        while let Some(&(at, weight, _)) = state.frames.front()
            && at < then
        {
            state.bytes -= weight;
            state.frames.pop_front();
        }
        before - state.frames.len()
    }

    /// What waits, bytes.
    pub fn bytes(&self) -> usize {
        self.state.borrow().bytes
    }

    /// Takes no more in. What waits may still leave.
    pub fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.ended = true;
        state.taker.take().into_iter().chain(state.owner.take()).for_each(Waker::wake);
    }

    /// Was the end called for?
    pub fn is_ended(&self) -> bool {
        self.state.borrow().ended
    }

    /// Completes when the end is called for. One waiter at a time.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.ended {
                return Poll::Ready(());
            }
            state.owner = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Moves what waits into the batch, as much as goes into one request. False: the end has come and nothing is left.
    pub(super) fn poll_batch(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<bool> {
        let mut state = self.state.borrow_mut();
        if state.frames.is_empty() {
            if state.ended {
                return Poll::Ready(false);
            }
            state.taker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = 0;
        while let Some(&(_, weight, _)) = state.frames.front()
            && batch.has_room()
            && (bytes == 0 || bytes + weight <= BATCH_BYTES)
        {
            let (_, _, frame) = state.frames.pop_front().expect("the front was just looked at");
            (state.bytes, bytes) = (state.bytes - weight, bytes + weight);
            batch.push(frame);
        }
        Poll::Ready(true)
    }
}
