//! Bytes in flight: what requests and answers of one core hold in memory, bounded per core and per connection. Knows
//! nothing of what the bytes are.

use super::stats::Counters;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Expected of an answer at least: so that a thousand short ones may be under way at once.
const EXPECTED_BYTES_MIN: usize = 1 << 10;

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
    /// Bytes that the next answer is expected to hold.
    expected: Cell<usize>,
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
            expected: Cell::new(EXPECTED_BYTES_MIN),
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

    /// Is more than half of the core's or the connection's budget taken?
    pub(crate) fn is_tight(&self) -> bool {
        self.bytes.get() > self.bytes_max / 2 || self.budget.bytes() > self.budget.bytes_max / 2
    }

    /// Bytes to ask for an answer with, before it is known how long it is: about the longest of the last few. Where room
    /// is scarce the least: what is longer is asked for twice.
    pub(crate) fn expected(&self) -> usize {
        if self.is_tight() { EXPECTED_BYTES_MIN } else { self.expected.get() }
    }

    /// An answer held, or would have held, this much.
    pub(crate) fn saw(&self, bytes: usize) {
        let expected = self.expected.get();
        // Rises at once, and has fallen by half after about ten shorter ones.
        let next = if bytes >= expected { bytes } else { expected - (expected - bytes) / 16 };
        self.expected.set(next.max(EXPECTED_BYTES_MIN));
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

    /// Takes more, whatever is left: for an answer as it is sent, whose value had its room before. Requests are refused
    /// until it is given back.
    pub(crate) fn grow_over(&mut self, bytes: usize) {
        self.share.add(bytes);
        self.bytes += bytes;
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more or gives back; false, and nothing changed, if more is wanted than is left.
    #[must_use]
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        drop(self.split(self.bytes - bytes));
        true
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
    fn expectation_follows_what_was_seen_and_asks_for_little_where_room_is_scarce() {
        let share = budget(4 << 20).share();
        assert_eq!(share.expected(), EXPECTED_BYTES_MIN);
        share.saw(50_000);
        assert_eq!(share.expected(), 50_000);
        (0..10).for_each(|_| share.saw(100));
        assert!((EXPECTED_BYTES_MIN..30_000).contains(&share.expected()));
        share.saw(50_000);
        let mut held = share.hold();
        assert!(held.grow(600_000));
        assert_eq!(share.expected(), EXPECTED_BYTES_MIN);
    }

    #[test]
    fn overflow_is_a_refusal() {
        let share = budget(usize::MAX).share();
        let mut held = share.hold();
        assert!(held.grow(8));
        assert!(!held.grow(usize::MAX - 4));
    }
}
