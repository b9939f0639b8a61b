//! Operations that were named by their clients: a retry is recognised and gets the first answer again.
//!
//! One table per core, for the keys of that core. An entry lives until its client says that it is done, or until its
//! version is older than the window. The table is bounded: full, it refuses operations with a name and no others.

use crate::types::{OperationId, SLOTS, Slot, Version};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use slotmap::{Key, SlotMap, new_key_type};

new_key_type! {
    /// Where a name is kept.
    struct NameKey;
}

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
    names: SlotMap<NameKey, Name>,
    by_id: BTreeMap<OperationId, NameKey>,
    /// Of each slot that a core can have: its newest name. What a snapshot writes beside the slot's records.
    by_slot: Vec<NameKey>,
    cores: u16,
    /// By the millisecond of their entry's version: the newest of those names.
    by_age: BTreeMap<u64, NameKey>,
    /// Names whose entry may hold a value, in the order they came.
    with_value: VecDeque<OperationId>,
    value_bytes: usize,
    /// Names remembered since the start.
    serial: u64,
    entries_max: usize,
    value_bytes_max: usize,
    window_ms: u64,
}

/// A name, in two lists: of its slot's names and of those of its millisecond. Both from new to old.
#[derive(Debug)]
struct Name {
    id: OperationId,
    entry: Entry,
    serial: u64,
    of_slot: Links,
    of_age: Links,
}

/// A name's neighbours in a list; null at its ends.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    newer: NameKey,
    older: NameKey,
}

/// Where a walk over the names of a slot goes on, whatever was forgotten since.
#[derive(Clone, Copy, Debug)]
pub struct NamePlace {
    key: NameKey,
    serial: u64,
}

impl Identities {
    /// An empty table of a core, one of `cores`, with these bounds: entries, bytes of replaced values, milliseconds that
    /// an entry lives.
    pub fn new(cores: u16, entries_max: usize, value_bytes_max: usize, window_ms: u64) -> Identities {
        Identities {
            // All at once: memory that is not used costs addresses only, and growing would copy everything in one step.
            names: SlotMap::with_capacity_and_key(entries_max),
            by_id: BTreeMap::new(),
            by_slot: alloc::vec![NameKey::null(); SLOTS.div_ceil(usize::from(cores))],
            cores,
            by_age: BTreeMap::new(),
            with_value: VecDeque::new(),
            value_bytes: 0,
            serial: 0,
            entries_max,
            value_bytes_max,
            window_ms,
        }
    }

    /// What is remembered of an operation.
    pub fn get(&self, id: OperationId) -> Option<&Entry> {
        self.by_id.get(&id).map(|&key| &self.names[key].entry)
    }

    /// Is there room for another name?
    pub fn has_room(&self) -> bool {
        self.names.len() < self.entries_max
    }

    /// Names remembered.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Is no name remembered?
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Remembers an operation. An entry of the same name is replaced only by one of a greater version, so replaying a
    /// log in pieces ends where replaying it at once does.
    pub fn remember(&mut self, id: OperationId, mut entry: Entry) {
        match self.by_id.get(&id) {
            Some(&known) if self.names[known].entry.version >= entry.version => return,
            Some(&known) => self.forget(known),
            None => {}
        }
        if value_len(&entry) > self.value_bytes_max {
            entry.old = None;
        }
        self.value_bytes += value_len(&entry);
        if value_len(&entry) > 0 {
            self.with_value.push_back(id);
        }
        self.add(id, entry);
        while self.value_bytes > self.value_bytes_max {
            let oldest = self.with_value.pop_front().expect("bytes are counted only for names in the list");
            if let Some(&key) = self.by_id.get(&oldest) {
                let entry = &mut self.names[key].entry;
                self.value_bytes -= value_len(entry);
                entry.old = None;
            }
        }
    }

    /// The client waits for no answer below `request`: what is remembered of those goes, at most `entries` of them.
    /// Returns how many.
    pub fn done_below(&mut self, client: u64, request: u64, entries: usize) -> usize {
        let done = OperationId { client, request: 0 }..OperationId { client, request };
        let mut gone = 0;
        while gone < entries
            && let Some((_, &key)) = self.by_id.range(done.clone()).next()
        {
            self.forget(key);
            gone += 1;
        }
        gone
    }

    /// Forgets entries that are older than the window at `clock_ms`, at most `entries` of them.
    pub fn expire(&mut self, clock_ms: u64, entries: usize) {
        for _ in 0..entries {
            match self.by_age.first_key_value() {
                Some((at, &key)) if at.saturating_add(self.window_ms) <= clock_ms => self.forget(key),
                Some(_) | None => return,
            }
        }
    }

    /// What is remembered of a slot's operations, from new to old, from a place on. What is remembered while a walk is
    /// under way is not shown.
    pub fn of_slot(
        &self,
        slot: Slot,
        from: Option<NamePlace>,
    ) -> impl Iterator<Item = (NamePlace, OperationId, &Entry)> {
        let newest = self.by_slot[self.position(slot)];
        let (first, serial_max) = match from {
            Some(place) if self.names.contains_key(place.key) => (place.key, place.serial),
            Some(place) => (newest, place.serial),
            None => (newest, u64::MAX),
        };
        let known = |key: NameKey| self.names.get(key).map(|name| (key, name));
        core::iter::successors(known(first), move |(_, name)| known(name.of_slot.older))
            .skip_while(move |(_, name)| name.serial > serial_max)
            .map(|(key, name)| (NamePlace { key, serial: name.serial }, name.id, &name.entry))
    }

    /// Recovery has met the names in any order: from now on the oldest lose their values first.
    pub fn recovered(&mut self) {
        let (names, by_id) = (&self.names, &self.by_id);
        let version = |id: &OperationId| by_id.get(id).map(|&key| names[key].entry.version);
        self.with_value.make_contiguous().sort_by_key(version);
    }

    fn position(&self, slot: Slot) -> usize {
        usize::from(slot.0 / self.cores)
    }

    fn add(&mut self, id: OperationId, entry: Entry) {
        let (slot, ms) = (self.position(entry.slot), entry.version.hlc.ms());
        let next = |older| Links { newer: NameKey::null(), older };
        let of_slot = next(self.by_slot[slot]);
        let newest = self.by_age.entry(ms).or_default();
        let of_age = next(*newest);
        self.serial += 1;
        let key = self.names.insert(Name { id, entry, serial: self.serial, of_slot, of_age });
        *newest = key;
        self.by_slot[slot] = key;
        if let Some(older) = self.names.get_mut(of_slot.older) {
            older.of_slot.newer = key;
        }
        if let Some(older) = self.names.get_mut(of_age.older) {
            older.of_age.newer = key;
        }
        self.by_id.insert(id, key);
    }

    fn forget(&mut self, key: NameKey) {
        let Some(Name { id, entry, of_slot, of_age, .. }) = self.names.remove(key) else { return };
        let slot = self.position(entry.slot);
        self.by_id.remove(&id);
        self.value_bytes -= value_len(&entry);
        if let Some(older) = self.names.get_mut(of_slot.older) {
            older.of_slot.newer = of_slot.newer;
        }
        match self.names.get_mut(of_slot.newer) {
            Some(newer) => newer.of_slot.older = of_slot.older,
            None => self.by_slot[slot] = of_slot.older,
        }
        if let Some(older) = self.names.get_mut(of_age.older) {
            older.of_age.newer = of_age.newer;
        }
        let ms = entry.version.hlc.ms();
        match self.names.get_mut(of_age.newer) {
            Some(newer) => newer.of_age.older = of_age.older,
            None if of_age.older.is_null() => drop(self.by_age.remove(&ms)),
            None => drop(self.by_age.insert(ms, of_age.older)),
        }
        // Names that are gone are dropped from the list when they reach the front, and at once when they pile up.
        if self.with_value.len() > 2 * self.names.len() + 64 {
            let (names, by_id) = (&self.names, &self.by_id);
            self.with_value.retain(|id| by_id.get(id).is_some_and(|&key| value_len(&names[key].entry) > 0));
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
        let mut table = Identities::new(1, 10, 100, 600);
        table.remember(id(1, 1), entry(1_000, None));
        table.expire(1_599, 10);
        assert!(table.get(id(1, 1)).is_some());
        table.expire(1_600, 10);
        assert!(table.get(id(1, 1)).is_none());
    }

    #[test]
    fn done_below_frees_that_client_only() {
        let mut table = Identities::new(1, 10, 100, 600);
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
        let mut table = Identities::new(1, 100, 100, 600);
        for request in 1..=50 {
            table.remember(id(1, request), entry(1, None));
        }
        assert_eq!((table.done_below(1, 50, 10), table.done_below(1, 50, 100)), (10, 39));
        assert!(table.get(id(1, 50)).is_some());
    }

    #[test]
    fn entries_expire_by_their_time_in_whatever_order_they_came() {
        let mut table = Identities::new(1, 10, 100, 600);
        table.remember(id(1, 1), entry(5_000, None));
        table.remember(id(1, 2), entry(1_000, None));
        table.expire(1_600, 10);
        assert!(table.get(id(1, 1)).is_some() && table.get(id(1, 2)).is_none());
    }

    #[test]
    fn oldest_values_go_first_when_the_budget_is_spent() {
        let mut table = Identities::new(1, 10, 8, 600);
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
    fn after_a_recovery_the_oldest_values_go_first() {
        let mut table = Identities::new(1, 10, 8, 600);
        table.remember(id(1, 2), entry(2, Some(b"1234")));
        table.remember(id(1, 1), entry(1, Some(b"1234")));
        table.recovered();
        table.remember(id(1, 3), entry(3, Some(b"1234")));
        let held = |request| table.get(id(1, request)).expect("kept").old.is_some();
        assert_eq!([held(1), held(2), held(3)], [false, true, true]);
    }

    #[test]
    fn lists_stay_as_short_as_the_table() {
        let mut table = Identities::new(1, 10, 1_000, 600);
        for request in 1..10_000 {
            table.remember(id(1, request), entry(request, Some(b"v")));
            table.done_below(1, request, 10);
        }
        assert!(table.len() <= 2 && table.by_age.len() <= 2 && table.with_value.len() < 100);
        assert_eq!(table.value_bytes, table.names.values().map(|name| value_len(&name.entry)).sum::<usize>());
        assert_eq!(table.of_slot(Slot(0), None).count(), table.len());
    }

    #[test]
    fn names_are_found_by_their_slot_and_a_walk_goes_on_whatever_was_forgotten() {
        let mut table = Identities::new(1, 10, 100, 600);
        for request in 1..=6 {
            let slot = Slot(request as u16 % 2);
            table.remember(id(1, request), Entry { slot, ..entry(request, None) });
        }
        let names = |table: &Identities, from| {
            table.of_slot(Slot(0), from).map(|(_, id, _)| id.request).collect::<Vec<u64>>()
        };
        assert_eq!(names(&table, None), [6, 4, 2]);
        let (place, ..) = table.of_slot(Slot(0), None).nth(1).expect("three names");
        assert_eq!(names(&table, Some(place)), [4, 2]);
        table.remember(id(1, 8), Entry { slot: Slot(0), ..entry(8, None) });
        assert_eq!(names(&table, Some(place)), [4, 2], "what came since is not shown");
        table.forget(table.by_id[&id(1, 4)]);
        assert_eq!(names(&table, Some(place)), [2]);
        table.done_below(1, 3, 10);
        assert_eq!((names(&table, Some(place)), names(&table, None)), (Vec::new(), Vec::from([8, 6])));
    }

    #[test]
    fn lists_agree_with_the_names_whatever_is_remembered_and_forgotten() {
        let mut prng = crate::types::prng::Prng::new(7);
        let mut table = Identities::new(1, 1_000, 64, 40);
        for step in 0..20_000u64 {
            let (client, request) = (prng.below(3), prng.below(60));
            match prng.below(8) {
                0 => drop(table.done_below(client, request, 3)),
                1 => table.expire(step / 16, 3),
                _ => {
                    let slot = Slot(prng.below(5) as u16);
                    let ms = (step / 16).saturating_sub(prng.below(30));
                    let old = (prng.below(4) == 0).then_some(&b"old"[..]);
                    table.remember(id(client, request), Entry { slot, ..entry(ms, old) });
                }
            }
            if step % 50 > 0 {
                continue;
            }
            let mut of_slots: Vec<(Slot, OperationId)> = (0..5)
                .flat_map(|slot| table.of_slot(Slot(slot), None).map(move |(_, id, _)| (Slot(slot), id)))
                .collect();
            of_slots.sort_unstable();
            let names = table.by_id.iter().map(|(&id, &key)| (table.names[key].entry.slot, id));
            let mut expected: Vec<(Slot, OperationId)> = names.collect();
            expected.sort_unstable();
            assert_eq!(of_slots, expected);
            let mut aged = 0;
            for (&ms, &newest) in &table.by_age {
                let list = core::iter::successors(table.names.get(newest), |name| {
                    table.names.get(name.of_age.older)
                });
                aged += list.inspect(|name| assert_eq!(name.entry.version.hlc.ms(), ms)).count();
            }
            assert_eq!(aged, table.len());
        }
        assert!(!table.is_empty());
    }

    #[test]
    fn older_entry_does_not_replace_a_newer_one() {
        let mut table = Identities::new(1, 10, 100, 600);
        table.remember(id(1, 1), entry(5, None));
        table.remember(id(1, 1), entry(4, None));
        assert_eq!(table.get(id(1, 1)).expect("kept").version.hlc.ms(), 5);
    }
}
