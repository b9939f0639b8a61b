//! Room for answers, taken from the connection's budget before they are asked for: an answer on its way between cores,
//! or that waits for its stream's turn, is charged to nobody else. Knows nothing of what is asked.
//!
//! No answer holds a longer value than there is room for: a core that would have to say more says how much, and is asked
//! again. So the budget holds whatever the estimate of [`Share::expected`] is worth.

use super::budget::{Held, Share};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes of answers that one stream of many operations has under way: enough for a few values of the longest, or for a
/// thousand short ones. The next operations wait their turn; one alone may take more.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Room for answers; given back when dropped, which is when their bytes are charged as what they have become.
#[derive(Debug)]
pub(crate) struct Room {
    held: Held,
    line: Option<Rc<Line>>,
}

/// The operations of one stream: those whose answers are under way, and behind them those that wait for room, in the
/// order they came.
#[derive(Debug, Default)]
pub(crate) struct Line {
    bytes: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
    /// The place of the first that waits; later ones count on from it. Who waits is dropped with all others of its
    /// stream, so nobody leaves from the middle.
    first: Cell<u64>,
}

impl Room {
    /// Takes room, or None if the budget is spent; Pending: its turn has not come.
    pub(crate) fn try_take(share: &Rc<Share>, line: Option<&Rc<Line>>, bytes: usize) -> Poll<Option<Room>> {
        match line {
            None => {
                let mut held = share.hold();
                Poll::Ready(held.grow(bytes).then_some(Room { held, line: None }))
            }
            Some(line) if line.waiting.borrow().is_empty() => line.try_take(share, bytes),
            Some(_) => Poll::Pending,
        }
    }

    /// As [`Room::try_take`], when its turn has come.
    pub(crate) async fn take(share: &Rc<Share>, line: Option<&Rc<Line>>, bytes: usize) -> Option<Room> {
        let mut place = None;
        poll_fn(|cx| match line {
            None => Room::try_take(share, None, bytes),
            Some(line) => line.poll_turn(cx, &mut place, share, bytes),
        })
        .await
    }

    pub(crate) fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Takes more or gives back; false, and nothing changed, if the budget is spent.
    #[must_use]
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let before = self.held.bytes();
        if !self.held.resize(bytes) {
            return false;
        }
        if let Some(line) = &self.line {
            line.bytes.set(line.bytes.get() - before + bytes);
            line.wake_first();
        }
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.bytes.set(line.bytes.get() - self.held.bytes());
            line.wake_first();
        }
    }
}

impl Line {
    /// For who is the first.
    fn try_take(self: &Rc<Self>, share: &Rc<Share>, bytes: usize) -> Poll<Option<Room>> {
        let under_way = self.bytes.get();
        if under_way > 0 && (under_way + bytes > LINE_BYTES_MAX || share.is_tight()) {
            return Poll::Pending;
        }
        let mut held = share.hold();
        if held.grow(bytes) {
            self.bytes.set(under_way + bytes);
            return Poll::Ready(Some(Room { held, line: Some(Rc::clone(self)) }));
        }
        // With nothing under way nobody would wake it: it is refused.
        if under_way == 0 { Poll::Ready(None) } else { Poll::Pending }
    }

    fn poll_turn(
        self: &Rc<Self>,
        cx: &Context<'_>,
        place: &mut Option<u64>,
        share: &Rc<Share>,
        bytes: usize,
    ) -> Poll<Option<Room>> {
        let mut waiting = self.waiting.borrow_mut();
        let own = *place.get_or_insert(self.first.get() + waiting.len() as u64);
        let ahead = (own - self.first.get()) as usize;
        if ahead == 0
            && let Poll::Ready(room) = self.try_take(share, bytes)
        {
            if waiting.pop_front().is_some() {
                self.first.set(own + 1);
            }
            drop(waiting);
            self.wake_first();
            return Poll::Ready(room);
        }
        match waiting.get_mut(ahead) {
            Some(known) => known.clone_from(cx.waker()),
            None => waiting.push_back(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn wake_first(&self) {
        if let Some(first) = self.waiting.borrow().front() {
            first.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::super::stats::Counters;
    use super::*;
    use std::pin::{Pin, pin};
    use std::sync::Arc;

    const MIB: usize = 1 << 20;

    fn share(bytes_max: usize) -> Rc<Share> {
        Budget::new(4 * bytes_max, Arc::new([Counters::new()]), 0).share()
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn now(share: &Rc<Share>, line: Option<&Rc<Line>>, bytes: usize) -> Option<Room> {
        match poll(pin!(Room::take(share, line, bytes))) {
            Poll::Ready(room) => room,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn without_a_line_no_room_is_a_refusal() {
        let share = share(3 * MIB);
        let rooms: Vec<_> = (0..3).map(|_| now(&share, None, MIB).expect("there is room")).collect();
        assert!(now(&share, None, 1).is_none());
        drop(rooms);
        assert_eq!(share.bytes(), 0);
    }

    #[test]
    fn line_goes_on_in_its_order() {
        let (share, line) = (share(64 * MIB), Rc::default());
        let mut rooms: Vec<_> =
            (0..4).map(|_| now(&share, Some(&line), MIB).expect("there is room")).collect();
        let mut large = pin!(Room::take(&share, Some(&line), 2 * MIB));
        let mut small = pin!(Room::take(&share, Some(&line), 1));
        assert!(poll(large.as_mut()).is_pending() && poll(small.as_mut()).is_pending());
        rooms.pop();
        assert!(poll(small.as_mut()).is_pending(), "it would fit, and waits behind who came before");
        assert!(poll(large.as_mut()).is_pending());
        rooms.pop();
        let large = poll(large.as_mut());
        assert!(matches!(&large, Poll::Ready(Some(room)) if room.bytes() == 2 * MIB));
        assert!(poll(small.as_mut()).is_pending(), "the line is full");
        drop(large);
        assert!(matches!(poll(small.as_mut()), Poll::Ready(Some(_))));
        drop(rooms);
        assert_eq!((share.bytes(), line.bytes.get()), (0, 0));
    }

    #[test]
    fn line_with_nothing_under_way_is_refused_as_others_are() {
        let (share, line) = (share(2 * MIB), Rc::default());
        let other = now(&share, None, 2 * MIB);
        assert!(other.is_some() && now(&share, Some(&line), MIB).is_none());
        drop(other);
        assert!(now(&share, Some(&line), MIB).is_some());
    }

    #[test]
    fn tight_budget_leaves_each_line_one_answer() {
        let (share, lines) = (share(8 * MIB), [Rc::<Line>::default(), Rc::default(), Rc::default()]);
        let mut rooms: Vec<_> = (0..4).map(|_| now(&share, Some(&lines[0]), MIB)).collect();
        rooms.extend([now(&share, Some(&lines[1]), MIB), now(&share, Some(&lines[2]), MIB)]);
        assert!(rooms.iter().all(Option::is_some));
        assert!(poll(pin!(Room::take(&share, Some(&lines[1]), MIB))).is_pending());
    }

    #[test]
    fn resized_room_is_charged_as_it_is() {
        let (share, line) = (share(8 * MIB), Rc::default());
        let mut room = now(&share, Some(&line), MIB).expect("there is room");
        assert!(room.resize(3 * MIB));
        assert_eq!((share.bytes(), line.bytes.get()), (3 * MIB, 3 * MIB));
        assert!(!room.resize(9 * MIB) && room.resize(1));
        assert_eq!((room.bytes(), share.bytes(), line.bytes.get()), (1, 1, 1));
    }
}
