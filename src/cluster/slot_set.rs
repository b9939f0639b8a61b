//! A set of slots: 2 KiB, whatever is in it.

use crate::types::{SLOTS, Slot};
use alloc::boxed::Box;
use core::fmt;

const WORDS: usize = SLOTS / 64;
/// Bytes of a set's wire form.
pub const SLOT_SET_BYTES: usize = SLOTS / 8;

/// A set of slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    /// Adds a slot.
    pub fn insert(&mut self, slot: Slot) {
        self.0[usize::from(slot.0) / 64] |= 1 << (slot.0 % 64);
    }

    /// Is the slot in it?
    pub fn contains(&self, slot: Slot) -> bool {
        self.0[usize::from(slot.0) / 64] & (1 << (slot.0 % 64)) != 0
    }

    /// Adds all slots of another set.
    pub fn add(&mut self, other: &SlotSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word |= other);
    }

    /// Slots in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Is none in it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slot 0 is the lowest bit of the first byte.
    pub fn to_bytes(&self) -> Box<[u8; SLOT_SET_BYTES]> {
        let mut bytes = Box::new([0; SLOT_SET_BYTES]);
        let words = bytes.chunks_exact_mut(8).zip(self.0.iter());
        words.for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// What [`SlotSet::to_bytes`] gave; None if there are more or fewer.
    pub fn from_bytes(bytes: &[u8]) -> Option<SlotSet> {
        let bytes: &[u8; SLOT_SET_BYTES] = bytes.try_into().ok()?;
        let mut set = SlotSet::default();
        for (word, bytes) in set.0.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(set)
    }
}

impl Extend<Slot> for SlotSet {
    fn extend<I: IntoIterator<Item = Slot>>(&mut self, slots: I) {
        slots.into_iter().for_each(|slot| self.insert(slot));
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_holds_what_was_added_and_survives_its_bytes() {
        let (mut set, mut other) = (SlotSet::default(), SlotSet::default());
        assert!(set.is_empty());
        set.extend([0, 63, 64, 16_383].map(Slot));
        other.insert(Slot(5));
        set.add(&other);
        let held: alloc::vec::Vec<u16> = (0..SLOTS as u16).filter(|slot| set.contains(Slot(*slot))).collect();
        assert_eq!(held, [0, 5, 63, 64, 16_383]);
        assert_eq!(set.to_bytes()[..9], [0b10_0001, 0, 0, 0, 0, 0, 0, 0x80, 1]);
        assert_eq!(SlotSet::from_bytes(&*set.to_bytes()), Some(set));
        assert_eq!(SlotSet::from_bytes(&[0; SLOT_SET_BYTES - 1]), None);
    }
}
