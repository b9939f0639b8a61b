//! Versions: the total order in which writes of a key win.

use super::ids::MemberId;
use core::fmt;

/// A hybrid logical clock reading: 48 bits of milliseconds since 1970, 16 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before every version.
    pub const ZERO: Hlc = Hlc(0);
    /// Milliseconds that fit: until the year 10 889.
    pub const MS_MAX: u64 = (1 << 48) - 1;

    /// The first reading of a millisecond. Saturates at [`Hlc::MS_MAX`].
    pub fn at_ms(ms: u64) -> Hlc {
        Hlc(ms.min(Hlc::MS_MAX) << 16)
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// Position within the millisecond.
    pub fn counter(self) -> u16 {
        (self.0 & 0xFFFF) as u16
    }

    /// The reading after this one; a full counter carries into the next millisecond. Saturates.
    pub fn next(self) -> Hlc {
        Hlc(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.counter())
    }
}

/// When and by whom a record was written. Unique for ever per key, because member ids are never reused.
///
/// Versions of member 0 are the exception: see [`super::record::RecordRef::supersedes`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Version {
    /// The issuing member's clock.
    pub hlc: Hlc,
    /// The issuing member.
    pub member: MemberId,
}

impl Version {
    /// Before every version that is ever issued.
    pub const ZERO: Version = Version { hlc: Hlc::ZERO, member: MemberId::NONE };

    /// The version with these parts.
    pub fn new(hlc: Hlc, member: MemberId) -> Version {
        Version { hlc, member }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_decides_before_member() {
        let early = Version::new(Hlc(5), MemberId(9));
        let late = Version::new(Hlc(6), MemberId(1));
        assert!(early < late);
        assert!(Version::new(Hlc(6), MemberId(0)) < late);
    }

    #[test]
    fn full_counter_carries_into_the_next_millisecond() {
        let last = Hlc((7 << 16) | 0xFFFF);
        assert_eq!(last.next(), Hlc::at_ms(8));
    }
}
