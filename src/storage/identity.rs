//! Operations that were named by their clients: a retry is recognised and gets the first answer again.
//!
//! One table per core, for the keys of that core. An entry lives until its client says that it is done, or until its
//! version is older than the window. The table is bounded: full, it refuses operations with a name and no others.

use crate::types::{OperationId, Slot, Version};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use bytes::Bytes;

/// What is remembered of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The slot of its key.
    pub slot: Slot,
    /// The version that it wrote.
    pub version: Version,
    /// xxh3-64 over what was asked for: another payload under the same name is refused.
    pub payload_hash: u64,
    /// The version that it replaced; zero if there was none.
    pub replaced: Version,
    /// Was there a live value before?
    pub had_old: bool,
    /// That value, while the budget for such values lasts.
    pub old: Option<Bytes>,
}

/// The operations that one core remembers.
#[derive(Debug)]
pub struct Identities {
    entries: BTreeMap<OperationId, Entry>,
    /// The names of each slot: what a snapshot writes beside the slot's records.
    by_slot: BTreeSet<(Slot, OperationId)>,
    /// All names, by their entry's time.
    by_age: BTreeSet<(u64, OperationId)>,
    /// Names whose entry may hold a value, oldest first.
    with_value: VecDeque<OperationId>,
    value_bytes: usize,
    entries_max: usize,
    value_bytes_max: usize,
    window_ms: u64,
}

impl Identities {
    /// An empty table with these bounds: entries, bytes of replaced values, milliseconds that an entry lives.
    pub fn new(entries_max: usize, value_bytes_max: usize, window_ms: u64) -> Identities {
        Identities {
            entries: BTreeMap::new(),
            by_slot: BTreeSet::new(),
            by_age: BTreeSet::new(),
            with_value: VecDeque::new(),
            value_bytes: 0,
            entries_max,
            value_bytes_max,
            window_ms,
        }
    }

    /// What is remembered of an operation.
    pub fn get(&self, id: OperationId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Is there room for another name?
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.entries_max
    }

    /// Names remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is no name remembered?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Remembers an operation. An entry of the same name is replaced only by one of a greater version, so replaying a
    /// log in pieces ends where replaying it at once does.
    pub fn remember(&mut self, id: OperationId, mut entry: Entry) {
        match self.entries.get(&id) {
            Some(known) if known.version >= entry.version => return,
            Some(known) => {
                self.value_bytes -= value_len(known);
                self.by_slot.remove(&(known.slot, id));
                self.by_age.remove(&(known.version.hlc.ms(), id));
            }
            None => {}
        }
        if value_len(&entry) > self.value_bytes_max {
            entry.old = None;
        }
        self.by_age.insert((entry.version.hlc.ms(), id));
        self.by_slot.insert((entry.slot, id));
        self.value_bytes += value_len(&entry);
        if value_len(&entry) > 0 {
            self.with_value.push_back(id);
        }
        self.entries.insert(id, entry);
        while self.value_bytes > self.value_bytes_max {
            let oldest = self.with_value.pop_front().expect("bytes are counted only for names in the list");
            if let Some(entry) = self.entries.get_mut(&oldest) {
                self.value_bytes -= value_len(entry);
                entry.old = None;
            }
        }
    }

    /// The client waits for no answer below `request`: what is remembered of those goes, at most `entries` of them.
    /// Returns how many.
    pub fn done_below(&mut self, client: u64, request: u64, entries: usize) -> usize {
        let first = OperationId { client, request: 0 };
        let mut gone = 0;
        while gone < entries
            && let Some((&id, _)) = self.entries.range(first..OperationId { client, request }).next()
        {
            self.forget(id);
            gone += 1;
        }
        gone
    }

    /// Forgets entries that are older than the window at `clock_ms`, at most `entries` of them.
    pub fn expire(&mut self, clock_ms: u64, entries: usize) {
        for _ in 0..entries {
            match self.by_age.first() {
                Some(&(at, id)) if at.saturating_add(self.window_ms) <= clock_ms => self.forget(id),
                Some(_) | None => return,
            }
        }
    }

    /// What is remembered of a slot's operations, in the order of names, from a name on.
    pub fn of_slot(&self, slot: Slot, from: OperationId) -> impl Iterator<Item = (OperationId, &Entry)> {
        let last = OperationId { client: u64::MAX, request: u64::MAX };
        let names = self.by_slot.range((slot, from)..=(slot, last));
        names.map(|&(_, id)| (id, self.entries.get(&id).expect("each name listed has its entry")))
    }

    fn forget(&mut self, id: OperationId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.value_bytes -= value_len(&entry);
            self.by_slot.remove(&(entry.slot, id));
            self.by_age.remove(&(entry.version.hlc.ms(), id));
        }
        // Names that are gone are dropped from the list when they reach the front, and at once when they pile up.
        if self.with_value.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.with_value.retain(|id| entries.get(id).is_some_and(|entry| value_len(entry) > 0));
        }
    }
}

fn value_len(entry: &Entry) -> usize {
    entry.old.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Hlc, MemberId};

    fn id(client: u64, request: u64) -> OperationId {
        OperationId { client, request }
    }

    fn entry(ms: u64, old: Option<&'static [u8]>) -> Entry {
        Entry {
            slot: Slot(0),
            version: Version::new(Hlc::at_ms(ms), MemberId::FIRST),
            payload_hash: 1,
            replaced: Version::ZERO,
            had_old: old.is_some(),
            old: old.map(Bytes::from_static),
        }
    }

    #[test]
    fn entry_lives_for_the_window_and_no_longer() {
        let mut table = Identities::new(10, 100, 600);
        table.remember(id(1, 1), entry(1_000, None));
        table.expire(1_599, 10);
        assert!(table.get(id(1, 1)).is_some());
        table.expire(1_600, 10);
        assert!(table.get(id(1, 1)).is_none());
    }

    #[test]
    fn done_below_frees_that_client_only() {
        let mut table = Identities::new(10, 100, 600);
        for request in 1..=3 {
            table.remember(id(1, request), entry(1, None));
            table.remember(id(2, request), entry(1, None));
        }
        assert_eq!(table.done_below(1, 3, 10), 2);
        assert_eq!(table.len(), 4);
        assert!(
            table.get(id(1, 2)).is_none() && table.get(id(1, 3)).is_some() && table.get(id(2, 1)).is_some()
        );
    }

    #[test]
    fn one_request_frees_no_more_than_it_may() {
        let mut table = Identities::new(100, 100, 600);
        for request in 1..=50 {
            table.remember(id(1, request), entry(1, None));
        }
        assert_eq!((table.done_below(1, 50, 10), table.done_below(1, 50, 100)), (10, 39));
        assert!(table.get(id(1, 50)).is_some());
    }

    #[test]
    fn entries_expire_by_their_time_in_whatever_order_they_came() {
        let mut table = Identities::new(10, 100, 600);
        table.remember(id(1, 1), entry(5_000, None));
        table.remember(id(1, 2), entry(1_000, None));
        table.expire(1_600, 10);
        assert!(table.get(id(1, 1)).is_some() && table.get(id(1, 2)).is_none());
    }

    #[test]
    fn oldest_values_go_first_when_the_budget_is_spent() {
        let mut table = Identities::new(10, 8, 600);
        table.remember(id(1, 1), entry(1, Some(b"12345")));
        table.remember(id(1, 2), entry(2, Some(b"1234")));
        assert_eq!(table.get(id(1, 1)).expect("kept").old, None);
        assert!(table.get(id(1, 1)).expect("kept").had_old);
        assert_eq!(table.get(id(1, 2)).expect("kept").old.as_deref(), Some(&b"1234"[..]));
        table.remember(id(1, 3), entry(3, Some(b"more than the whole budget")));
        assert_eq!(table.get(id(1, 3)).expect("kept").old, None);
        assert_eq!(table.get(id(1, 2)).expect("kept").old.as_deref(), Some(&b"1234"[..]));
    }

    #[test]
    fn lists_stay_as_short_as_the_table() {
        let mut table = Identities::new(10, 1_000, 600);
        for request in 1..10_000 {
            table.remember(id(1, request), entry(request, Some(b"v")));
            table.done_below(1, request, 10);
        }
        assert!(table.len() <= 2 && table.by_age.len() < 100 && table.with_value.len() < 100);
        assert_eq!(table.value_bytes, table.entries.values().map(value_len).sum::<usize>());
        assert_eq!(table.by_slot.len(), table.len());
    }

    #[test]
    fn names_are_found_by_their_slot() {
        let mut table = Identities::new(10, 100, 600);
        for request in 1..=4 {
            let slot = Slot(request as u16 % 2);
            table.remember(id(1, request), Entry { slot, ..entry(request, None) });
        }
        let names = |table: &Identities, from| {
            table.of_slot(Slot(0), from).map(|(id, _)| id.request).collect::<alloc::vec::Vec<u64>>()
        };
        assert_eq!(names(&table, id(0, 0)), [2, 4]);
        assert_eq!(names(&table, id(1, 3)), [4]);
        table.done_below(1, 3, 10);
        assert_eq!(names(&table, id(0, 0)), [4]);
    }

    #[test]
    fn older_entry_does_not_replace_a_newer_one() {
        let mut table = Identities::new(10, 100, 600);
        table.remember(id(1, 1), entry(5, None));
        table.remember(id(1, 1), entry(4, None));
        assert_eq!(table.get(id(1, 1)).expect("kept").version.hlc.ms(), 5);
    }
}
