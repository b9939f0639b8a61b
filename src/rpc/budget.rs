//! Bytes in flight: what requests and answers of one core hold in memory, bounded per core and per connection. Knows
//! nothing of what the bytes are.

use super::stats::Counters;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// One core's budget. What is held is the core's counter itself: metrics read what decides.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    counters: Arc<[Counters]>,
    core: usize,
}

/// One connection's share of its core's budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Rc<Budget>,
    bytes_max: usize,
    bytes: Cell<usize>,
    /// Has anything been given back since [`Share::take_progress`]?
    progress: Cell<bool>,
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    share: Rc<Share>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize, counters: Arc<[Counters]>, core: usize) -> Rc<Budget> {
        Rc::new(Budget { bytes_max, counters, core })
    }

    /// A share for one more connection: a quarter at most, so that one connection cannot starve the others.
    pub(crate) fn share(self: &Rc<Self>) -> Rc<Share> {
        Rc::new(Share {
            budget: Rc::clone(self),
            bytes_max: self.bytes_max / 4,
            bytes: Cell::new(0),
            progress: Cell::new(false),
        })
    }

    fn bytes(&self) -> usize {
        self.counters[self.core].bytes_in_flight.get() as usize
    }

    fn set_bytes(&self, bytes: usize) {
        self.counters[self.core].bytes_in_flight.set(bytes as u64);
    }
}

impl Share {
    /// Nothing yet.
    pub(crate) fn hold(self: &Rc<Self>) -> Held {
        Held { share: Rc::clone(self), bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Is any of the core's and the connection's budget left?
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.get() <= self.bytes_max && self.budget.bytes() <= self.budget.bytes_max
    }

    /// Was anything given back since the last call?
    pub(crate) fn take_progress(&self) -> bool {
        self.progress.replace(false)
    }

    fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
        self.budget.set_bytes(self.budget.bytes() + bytes);
    }
}

impl Held {
    /// Takes more; false, and nothing taken, if the core's or the connection's budget is spent.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let fits = |held: usize, max: usize| held.checked_add(bytes).is_some_and(|sum| sum <= max);
        let (share, budget) = (&self.share, &self.share.budget);
        if !fits(share.bytes.get(), share.bytes_max) || !fits(budget.bytes(), budget.bytes_max) {
            return false;
        }
        share.add(bytes);
        self.bytes += bytes;
        true
    }

    /// Takes more, whatever is left: for an answer, which exists already. Requests are refused until it is given back.
    pub(crate) fn grow_over(&mut self, bytes: usize) {
        self.share.add(bytes);
        self.bytes += bytes;
    }

    /// Hands over up to `bytes` of what is held.
    pub(crate) fn split(&mut self, bytes: usize) -> Held {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Held { share: Rc::clone(&self.share), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let (share, budget) = (&self.share, &self.share.budget);
        assert!(share.bytes.get() >= self.bytes && budget.bytes() >= self.bytes, "given back once");
        share.bytes.set(share.bytes.get() - self.bytes);
        budget.set_bytes(budget.bytes() - self.bytes);
        share.progress.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes_max: usize) -> Rc<Budget> {
        Budget::new(bytes_max, Arc::new([Counters::new()]), 0)
    }

    #[test]
    fn one_connection_takes_a_quarter_and_four_take_all() {
        let budget = budget(400);
        let shares: Vec<_> = (0..5).map(|_| budget.share()).collect();
        let mut held: Vec<_> = shares.iter().map(Share::hold).collect();
        assert!(!held[0].grow(101));
        for one in &mut held[..4] {
            assert!(one.grow(100));
        }
        assert!(!held[4].grow(1));
        held.remove(0);
        assert!(held[3].grow(100));
        drop(held);
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn split_parts_are_given_back_apart() {
        let budget = budget(400);
        let share = budget.share();
        let mut whole = share.hold();
        assert!(whole.grow(10));
        let part = whole.split(4);
        assert!(!share.take_progress());
        drop(whole);
        assert_eq!((share.bytes(), budget.bytes()), (4, 4));
        drop(part);
        assert_eq!((share.bytes(), budget.bytes()), (0, 0));
        assert!(share.take_progress() && !share.take_progress());
    }

    #[test]
    fn answers_overdraw_and_requests_then_wait() {
        let budget = budget(40);
        let share = budget.share();
        let mut answer = share.hold();
        answer.grow_over(100);
        assert!(!share.hold().grow(1));
        drop(answer);
        assert!(share.hold().grow(1));
    }

    #[test]
    fn overflow_is_a_refusal() {
        let share = budget(usize::MAX).share();
        let mut held = share.hold();
        assert!(held.grow(8));
        assert!(!held.grow(usize::MAX - 4));
    }
}
