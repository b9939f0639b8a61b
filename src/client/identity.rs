//! The names of this client's writes: a random client id and rising request ids, and which of them may still be
//! wanted. Knows nothing of connections; time is an argument.

use crate::types::ids::OperationId;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long the ids of a repeated or doubtful operation stay open after its end: a copy of it may lie in some buffer,
/// and a node that had forgotten the ids would take the late copy for a new write. The longest deadline that a node
/// grants.
const LINGER: Duration = Duration::from_secs(60);

/// Lingering operations; the oldest are let go beyond it.
const LINGERING_MAX: usize = 65_536;

/// Hands out operation ids.
#[derive(Debug)]
pub(super) struct Identities {
    client: u64,
    next: u64,
    /// First ids of the operations that are not over.
    open: BTreeSet<u64>,
    /// First ids of those that are over but not quite, with the moment when they are; oldest first.
    lingering: VecDeque<(Instant, u64)>,
}

/// The ids of one operation, or of the keys of one batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Issued {
    /// Of the first key.
    pub(super) first: OperationId,
    /// The lowest id that is still open.
    pub(super) done_below: u64,
}

impl Identities {
    /// `client` is not zero.
    pub(super) fn new(client: u64) -> Identities {
        assert!(client != 0, "zero means no identity");
        Identities { client, next: 1, open: BTreeSet::new(), lingering: VecDeque::new() }
    }

    /// Ids for `count` keys that are written together.
    pub(super) fn issue(&mut self, count: usize, now: Instant) -> Issued {
        assert!(count > 0, "an operation writes at least one key");
        while self.lingering.front().is_some_and(|&(until, _)| until <= now) {
            self.let_go();
        }
        let first = self.next;
        self.next += count as u64;
        self.open.insert(first);
        let done_below = *self.open.first().expect("the operation just opened");
        let first = OperationId::new(self.client, first).expect("ids start at 1");
        Issued { first, done_below }
    }

    /// The operation is over. `linger` if a copy of it may still be under way.
    pub(super) fn close(&mut self, issued: Issued, linger: bool, now: Instant) {
        if !linger {
            assert!(self.open.remove(&issued.first.request), "an operation ends once");
            return;
        }
        self.lingering.push_back((now + LINGER, issued.first.request));
        if self.lingering.len() > LINGERING_MAX {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        if let Some((_, request)) = self.lingering.pop_front() {
            assert!(self.open.remove(&request), "an operation ends once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_a_batch_uses_one_per_key() {
        let now = Instant::now();
        let mut ids = Identities::new(9);
        assert_eq!(ids.issue(1, now).first, OperationId { client: 9, request: 1 });
        assert_eq!(ids.issue(10, now).first, OperationId { client: 9, request: 2 });
        assert_eq!(ids.issue(1, now).first, OperationId { client: 9, request: 12 });
    }

    #[test]
    fn done_below_is_the_oldest_open_operation() {
        let now = Instant::now();
        let mut ids = Identities::new(9);
        let slow = ids.issue(1, now);
        let quick = ids.issue(3, now);
        assert_eq!((slow.done_below, quick.done_below), (1, 1));
        ids.close(quick, false, now);
        assert_eq!(ids.issue(1, now).done_below, 1);
        ids.close(slow, false, now);
        assert_eq!(ids.issue(1, now).done_below, 5);
    }

    #[test]
    fn ids_of_a_doubtful_operation_stay_open_for_a_while() {
        let now = Instant::now();
        let mut ids = Identities::new(9);
        let doubtful = ids.issue(1, now);
        ids.close(doubtful, true, now);
        let during = ids.issue(1, now + LINGER - Duration::from_nanos(1));
        assert_eq!(during.done_below, 1);
        ids.close(during, false, now);
        assert_eq!(ids.issue(1, now + LINGER).done_below, 3);
    }

    #[test]
    fn lingering_operations_are_bounded() {
        let now = Instant::now();
        let mut ids = Identities::new(9);
        for _ in 0..LINGERING_MAX + 5 {
            let issued = ids.issue(1, now);
            ids.close(issued, true, now);
        }
        assert_eq!(ids.lingering.len(), LINGERING_MAX);
        assert_eq!(ids.issue(1, now).done_below, 6);
    }
}
