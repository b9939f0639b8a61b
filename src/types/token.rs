//! Where a key lies: its token on the ring, the slot that is placed, moved and repaired as one, the core that owns it.

use super::ids::CoreId;
use xxhash_rust::xxh3::xxh3_64;

/// Slots of the token space. Stable for ever: files and peers name slots by number.
pub const SLOTS: usize = 1 << SLOT_BITS;
/// The top bits of a token that name its slot.
pub const SLOT_BITS: u32 = 14;

/// xxh3-64 of a key, seed 0. Stable for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Token(pub u64);

impl Token {
    /// The token of a key.
    pub fn of(key: &[u8]) -> Token {
        Token(xxh3_64(key))
    }

    /// The slot that the token lies in.
    pub fn slot(self) -> Slot {
        Slot((self.0 >> (64 - SLOT_BITS)) as u16)
    }
}

/// One 1/16 384 of the token space: 0 .. [`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Slot(pub u16);

impl Slot {
    /// The core that owns the slot on a node with that many cores.
    pub fn core(self, cores: u16) -> CoreId {
        assert!(cores > 0, "a node has at least one core");
        CoreId(self.0 % cores)
    }

    /// The lowest token in the slot.
    pub fn first_token(self) -> Token {
        Token(u64::from(self.0) << (64 - SLOT_BITS))
    }

    /// The highest token in the slot.
    pub fn last_token(self) -> Token {
        Token(self.first_token().0 | (u64::MAX >> SLOT_BITS))
    }

    /// All slots that a core owns, ascending.
    pub fn of_core(core: CoreId, cores: u16) -> impl Iterator<Item = Slot> {
        (core.0..SLOTS as u16).step_by(usize::from(cores)).map(Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_stable_for_ever() {
        assert_eq!(Token::of(b""), Token(0x2d06_8005_38d3_94c2));
        assert_eq!(Token::of(b"a"), Token(0xe6c6_32b6_1e96_4e1f));
        assert_eq!(Token::of(b"ringcore"), Token(7_965_508_089_081_001_489));
    }

    #[test]
    fn every_slot_belongs_to_exactly_one_core() {
        for cores in [1u16, 2, 3, 7, 64] {
            let mut owned = alloc::vec![0u8; SLOTS];
            for core in 0..cores {
                for slot in Slot::of_core(CoreId(core), cores) {
                    assert_eq!(slot.core(cores), CoreId(core));
                    owned[usize::from(slot.0)] += 1;
                }
            }
            assert!(owned.iter().all(|&count| count == 1));
        }
    }

    #[test]
    fn first_and_last_token_lie_in_their_slot() {
        for slot in [0u16, 1, 8_191, 16_383] {
            assert_eq!(Slot(slot).first_token().slot(), Slot(slot));
            assert_eq!(Slot(slot).last_token().slot(), Slot(slot));
            assert_eq!(Slot(slot).last_token().0.wrapping_add(1) >> 50, (u64::from(slot) + 1) % SLOTS as u64);
        }
    }
}
