//! What one core has held and does not hold any more: the memory that lets a replica say of a superseded version that it
//! held it, that it never did, or that it does not know (`PROTOCOL.md` §1, "Ever-held memory").
//!
//! A version is named by its key's token: of keys with one token, one core issues all versions, so a token and a version
//! name one record. The memory is a ring of the last replacements, found by chains of equal hashes.

use crate::types::{Hlc, MemberId, Slot, Token, Version};
use alloc::vec::Vec;

/// Replacements remembered: 2 MiB per core.
const ENTRIES_MAX: usize = 1 << 16;
const CHAINS: usize = 1 << 14;

/// What a replica can say of a version that it does not hold now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ever {
    /// It was held here.
    Held,
    /// It was not, nor will it be while the newer one is here.
    Never,
    /// Not remembered.
    Unknown,
}

/// The memory of one core.
#[derive(Debug)]
pub struct EverHeld {
    /// A ring: the entry of serial s is at s mod its greatest length.
    entries: Vec<Entry>,
    entries_max: usize,
    /// Serial of the next entry; the first is 1.
    next: u64,
    /// Of each chain: the serial of its newest entry; 0 = none.
    chains: Vec<u64>,
    /// The greatest version that fell out of the ring.
    forgotten: Version,
    /// Of each slot of the core: nothing at or below it is remembered.
    slots: Vec<Version>,
    cores: u16,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: Token,
    version: Version,
    /// The serial of the chain's entry before this one.
    before: u64,
}

impl EverHeld {
    /// The memory of a core that has just started, one of `cores` with `slots` slots: nothing at or below `bound`, the
    /// clock's persisted bound, is known.
    pub fn new(slots: usize, cores: u16, bound: Hlc) -> EverHeld {
        EverHeld::with_entries(ENTRIES_MAX, slots, cores, bound)
    }

    fn with_entries(entries_max: usize, slots: usize, cores: u16, bound: Hlc) -> EverHeld {
        EverHeld {
            entries: Vec::new(),
            entries_max,
            next: 1,
            chains: Vec::new(),
            forgotten: Version::ZERO,
            slots: alloc::vec![up_to(bound); slots],
            cores,
        }
    }

    /// A version was replaced here.
    pub fn remember(&mut self, token: Token, version: Version) {
        if self.chains.is_empty() {
            self.chains = alloc::vec![0; CHAINS];
        }
        let chain = &mut self.chains[chain_of(token)];
        let entry = Entry { token, version, before: *chain };
        *chain = self.next;
        let at = (self.next % self.entries_max as u64) as usize;
        if self.entries.len() < self.entries_max {
            if self.entries.is_empty() {
                // Serial 1 is at place 1; place 0 is the last to be taken.
                self.entries.push(Entry { token: Token(0), version: Version::ZERO, before: 0 });
            }
            self.entries.push(entry);
        } else {
            self.forgotten = self.forgotten.max(self.entries[at].version);
            self.entries[at] = entry;
        }
        self.next += 1;
    }

    /// The slot's replicas have changed: what was held before counts for nothing any more. No version above `bound` has
    /// been applied here.
    pub fn forget_slot(&mut self, slot: Slot, bound: Hlc) {
        let known = &mut self.slots[usize::from(slot.0 / self.cores)];
        *known = (*known).max(up_to(bound));
    }

    /// Was this version, superseded now, held here?
    pub fn ask(&self, token: Token, version: Version) -> Ever {
        if version <= self.slots[usize::from(token.slot().0 / self.cores)] {
            return Ever::Unknown;
        }
        let mut serial = self.chains.get(chain_of(token)).copied().unwrap_or(0);
        while serial > 0 && serial + self.entries_max as u64 > self.next - 1 {
            let entry = &self.entries[(serial % self.entries_max as u64) as usize];
            if entry.token == token && entry.version == version {
                return Ever::Held;
            }
            serial = entry.before;
        }
        if version <= self.forgotten { Ever::Unknown } else { Ever::Never }
    }
}

/// The greatest version that the clock reading allows.
fn up_to(bound: Hlc) -> Version {
    Version::new(bound, MemberId(u32::MAX))
}

fn chain_of(token: Token) -> usize {
    // The top bits name the slot, and with it the core: only the low ones spread the keys of one core.
    token.0 as usize & (CHAINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use alloc::collections::VecDeque;

    fn version(hlc: u64) -> Version {
        Version::new(Hlc(hlc), MemberId(1))
    }

    #[test]
    fn ring_agrees_with_a_list_that_is_searched() {
        const MAX: usize = 64;
        let mut prng = Prng::new(11);
        let mut ring = EverHeld::with_entries(MAX, 1 << 14, 1, Hlc(3));
        let mut list: VecDeque<(Token, Version)> = VecDeque::new();
        let mut forgotten = Version::ZERO;
        let mut told = [0; 3];
        for step in 0..50_000 {
            // Few tokens, and chains that several share; versions rise, more or less.
            let token = Token((prng.below(4) << 60) | prng.below(6));
            let drawn = version(step / 20 + prng.below(40));
            if prng.chance(300) {
                ring.remember(token, drawn);
                list.push_back((token, drawn));
                if list.len() > MAX {
                    let (_, oldest) = list.pop_front().expect("it is full");
                    forgotten = forgotten.max(oldest);
                }
            }
            let expected = if drawn <= up_to(Hlc(3)) {
                Ever::Unknown
            } else if list.contains(&(token, drawn)) {
                Ever::Held
            } else if drawn <= forgotten {
                Ever::Unknown
            } else {
                Ever::Never
            };
            let answer = ring.ask(token, drawn);
            assert_eq!(answer, expected);
            told[answer as usize] += 1;
        }
        assert!(told.iter().all(|&count| count > 500), "{told:?}");
    }

    #[test]
    fn after_a_start_nothing_below_the_bound_is_known() {
        let memory = EverHeld::new(1 << 14, 1, Hlc(100));
        assert_eq!(memory.ask(Token(1), version(100)), Ever::Unknown);
        assert_eq!(memory.ask(Token(1), version(101)), Ever::Never);
    }

    #[test]
    fn slot_that_changed_hands_knows_nothing_of_before_and_others_still_do() {
        let mut memory = EverHeld::new(1 << 14, 1, Hlc::ZERO);
        let (here, there) = (Token(5), Token(u64::MAX));
        memory.remember(here, version(10));
        memory.remember(there, version(10));
        memory.forget_slot(here.slot(), Hlc(20));
        assert_eq!(memory.ask(here, version(10)), Ever::Unknown);
        assert_eq!(memory.ask(here, version(21)), Ever::Never);
        assert_eq!(memory.ask(there, version(10)), Ever::Held);
    }
}
