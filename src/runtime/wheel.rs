//! A coarse timing wheel: many deadlines, one tick. Knows ticks only, neither clocks nor tasks; `tick` drives it.
//!
//! Three levels of 64 slots: 1, 64 and 4 096 ticks wide. An entry lies in the slot of its deadline on the lowest level
//! that reaches it, and falls to the level below when the wheel comes to its slot; deadlines beyond the span of all
//! levels wait in the last slot and are placed again from there. Insert and remove are O(1); a tick costs what it
//! fires, and once in 64 ticks one slot of the level above.

/// Slots of a level; a level's occupied slots fit one word.
const SLOTS: u64 = 64;
const LEVELS: usize = 3;
/// Ticks that the wheel can look ahead: later deadlines are placed again when they come into reach.
const SPAN: u64 = SLOTS.pow(LEVELS as u32);
const NONE: u32 = u32::MAX;

/// Names an entry for as long as it has not fired; afterwards it names nothing, never another entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// Entries by deadline, in ticks.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Every entry with a deadline at or before this tick has fired.
    now: u64,
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// First entry of each slot's list.
    heads: [[u32; SLOTS as usize]; LEVELS],
    /// Bit s of word l: slot s of level l is not empty.
    occupied: [u64; LEVELS],
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    /// Of a free entry: the next free one.
    next: u32,
    previous: u32,
    level: u8,
    slot: u8,
    deadline: u64,
    value: Option<T>,
}

impl<T> Wheel<T> {
    /// An empty wheel that stands at tick `now`.
    pub fn new(now: u64) -> Wheel<T> {
        Wheel {
            now,
            entries: Vec::new(),
            free: NONE,
            len: 0,
            heads: [[NONE; SLOTS as usize]; LEVELS],
            occupied: [0; LEVELS],
        }
    }

    /// The last tick that has been processed.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Entries that have not fired.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry; it fires when the wheel reaches `deadline`, or at the next tick if that is past.
    pub fn insert(&mut self, deadline: u64, value: T) -> Key {
        let deadline = deadline.max(self.now + 1);
        let index = self.allocate(deadline, value);
        self.link(index);
        self.len += 1;
        Key { index, generation: self.entries[index as usize].generation }
    }

    /// Takes an entry out before it fires; None if it has fired.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.position(key)?;
        self.unlink(key.index);
        Some(self.release(key.index))
    }

    /// The value of an entry that has not fired.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let position = self.position(key)?;
        self.entries[position].value.as_mut()
    }

    /// Moves to tick `to` and appends to `fired` what is due by then, in order of deadline.
    pub fn advance(&mut self, to: u64, fired: &mut Vec<T>) {
        while self.now < to {
            if self.len == 0 {
                self.now = to;
                return;
            }
            // An empty lowest level is crossed in one go: a machine that slept for an hour owes 720 000 ticks.
            if self.occupied[0] == 0 {
                self.now = to.min((self.now | (SLOTS - 1)) + 1) - 1;
            }
            self.now += 1;
            self.cascade();
            self.fire(fired);
        }
    }

    /// A tick after `now`, at or before the earliest deadline: when to look again.
    pub fn next_due(&self) -> Option<u64> {
        // The slot of `now` has been emptied: what lies there is a whole turn ahead, so it comes last.
        (0..LEVELS)
            .filter(|&level| self.occupied[level] != 0)
            .map(|level| {
                let width = SLOTS.pow(level as u32);
                let here = self.now / width;
                let turned = self.occupied[level].rotate_right(((here + 1) % SLOTS) as u32);
                (here + 1 + u64::from(turned.trailing_zeros())) * width
            })
            .min()
    }

    fn position(&self, key: Key) -> Option<usize> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation && entry.value.is_some()).then_some(key.index as usize)
    }

    fn allocate(&mut self, deadline: u64, value: T) -> u32 {
        let entry = Entry {
            generation: 0,
            next: NONE,
            previous: NONE,
            level: 0,
            slot: 0,
            deadline,
            value: Some(value),
        };
        if self.free == NONE {
            let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers fit the memory");
            self.entries.push(entry);
            return index;
        }
        let index = self.free;
        let old = &mut self.entries[index as usize];
        self.free = old.next;
        *old = Entry { generation: old.generation, ..entry };
        index
    }

    fn release(&mut self, index: u32) -> T {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        entry.value.take().expect("an entry that is linked holds a value")
    }

    /// Puts an entry into the slot of its deadline.
    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        debug_assert!(deadline >= self.now);
        let reach = deadline.min(self.now + SPAN - 1);
        let distance = reach - self.now;
        let level =
            (0..LEVELS - 1).find(|&level| distance < SLOTS.pow(level as u32 + 1)).unwrap_or(LEVELS - 1);
        let slot = (reach / SLOTS.pow(level as u32)) % SLOTS;
        let head = self.heads[level][slot as usize];
        let entry = &mut self.entries[index as usize];
        (entry.level, entry.slot, entry.next, entry.previous) = (level as u8, slot as u8, head, NONE);
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        self.heads[level][slot as usize] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, previous, level, slot, .. } = self.entries[index as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        self.heads[level as usize][slot as usize] = next;
        if next == NONE {
            self.occupied[level as usize] &= !(1 << slot);
        }
    }

    /// At the beginning of a slot of a higher level: its entries fall to the level below.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            let width = SLOTS.pow(level as u32);
            if !self.now.is_multiple_of(width) {
                continue;
            }
            let mut index = self.take_slot(level, (self.now / width) % SLOTS);
            while index != NONE {
                let next = self.entries[index as usize].next;
                self.link(index);
                index = next;
            }
        }
    }

    fn fire(&mut self, fired: &mut Vec<T>) {
        let mut index = self.take_slot(0, self.now % SLOTS);
        while index != NONE {
            let next = self.entries[index as usize].next;
            debug_assert_eq!(self.entries[index as usize].deadline, self.now);
            fired.push(self.release(index));
            index = next;
        }
    }

    /// Empties a slot; its list stays chained by `next`.
    fn take_slot(&mut self, level: usize, slot: u64) -> u32 {
        self.occupied[level] &= !(1 << slot);
        std::mem::replace(&mut self.heads[level][slot as usize], NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;

    fn advance(wheel: &mut Wheel<u64>, to: u64) -> Vec<u64> {
        let mut fired = Vec::new();
        wheel.advance(to, &mut fired);
        fired
    }

    #[test]
    fn entry_fires_at_its_tick_not_before() {
        for deadline in [1, 63, 64, 65, 127, 128, 4_095, 4_096, 4_097, 262_143, 262_144, 262_145, 1_000_000] {
            for start in [0, 1, 63, 64, 4_095, 262_143] {
                let mut wheel = Wheel::new(start);
                wheel.insert(start + deadline, 7);
                assert_eq!(
                    advance(&mut wheel, start + deadline - 1),
                    Vec::<u64>::new(),
                    "{start} + {deadline}"
                );
                assert_eq!(advance(&mut wheel, start + deadline), [7], "{start} + {deadline}");
                assert!(wheel.is_empty());
            }
        }
    }

    #[test]
    fn past_deadline_fires_at_the_next_tick() {
        let mut wheel = Wheel::new(500);
        wheel.insert(3, 1);
        wheel.insert(500, 2);
        let mut fired = advance(&mut wheel, 501);
        fired.sort_unstable();
        assert_eq!(fired, [1, 2]);
    }

    #[test]
    fn removed_entry_does_not_fire_and_its_key_names_nothing_afterwards() {
        let mut wheel = Wheel::new(0);
        let first = wheel.insert(10, 1);
        assert_eq!(wheel.remove(first), Some(1));
        let second = wheel.insert(10, 2);
        assert_eq!(wheel.remove(first), None);
        assert_eq!(wheel.get_mut(first), None);
        assert_eq!(wheel.get_mut(second), Some(&mut 2));
        assert_eq!(advance(&mut wheel, 10), [2]);
        assert_eq!(wheel.remove(second), None);
    }

    #[test]
    fn memory_is_reused() {
        let mut wheel = Wheel::new(0);
        for round in 0..10_000 {
            let key = wheel.insert(round + 50, round);
            assert_eq!(wheel.remove(key), Some(round));
        }
        assert_eq!(wheel.entries.len(), 1);
    }

    /// Deadlines that meet the borders of levels, with removals and jumps; the oracle is a plain list.
    #[test]
    fn wheel_agrees_with_a_list() {
        for seed in 0..300 {
            let mut prng = Prng::new(seed);
            let mut wheel = Wheel::new(prng.below(1 << 20));
            let mut list: Vec<(u64, u64, Key)> = Vec::new();
            for id in 0..400 {
                match prng.below(10) {
                    0..=5 => {
                        let reach = [3, 70, 5_000, 300_000, 1_000_000][prng.below(5) as usize];
                        let deadline = wheel.now() + 1 + prng.below(reach);
                        let key = wheel.insert(deadline, id);
                        list.push((deadline, id, key));
                    }
                    6 if !list.is_empty() => {
                        let (_, id, key) = list.swap_remove(prng.below(list.len() as u64) as usize);
                        assert_eq!(wheel.remove(key), Some(id), "seed {seed}");
                    }
                    _ => {
                        let due = list.iter().map(|&(deadline, ..)| deadline).min();
                        check_next_due(&wheel, due, seed);
                        let reach = [2, 100, 10_000, 600_000][prng.below(4) as usize];
                        let to = wheel.now() + prng.below(reach);
                        let mut expected: Vec<_> = list.extract_if(.., |entry| entry.0 <= to).collect();
                        expected.sort_unstable_by_key(|&(deadline, id, _)| (deadline, id));
                        let fired = advance(&mut wheel, to);
                        let mut ids = fired.clone();
                        // Entries of one tick fire in any order.
                        ids.sort_unstable_by_key(|id| expected.iter().position(|entry| entry.1 == *id));
                        assert_eq!(
                            ids,
                            expected.iter().map(|entry| entry.1).collect::<Vec<_>>(),
                            "seed {seed}"
                        );
                        assert_eq!(wheel.len(), list.len(), "seed {seed}");
                    }
                }
            }
        }
    }

    fn check_next_due(wheel: &Wheel<u64>, due: Option<u64>, seed: u64) {
        let Some(due) = due else {
            assert_eq!(wheel.next_due(), None, "seed {seed}");
            return;
        };
        let next = wheel.next_due().expect("something is due");
        assert!(wheel.now() < next && next <= due, "seed {seed}: {} < {next} <= {due}", wheel.now());
    }
}
