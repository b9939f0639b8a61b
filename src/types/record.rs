//! The record: the unit of merge, log and repair, and its one conflict rule.

use super::ids::MemberId;
use super::version::{Hlc, Version};

/// What a record says about its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// The user's bytes, possibly none.
    Value(&'a [u8]),
    /// Deleted at the record's version.
    Tombstone,
    /// Expired, and its bytes dropped since: reads as a tombstone of the same version.
    Expired,
}

/// A record where it lies, in a table, a log or a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordRef<'a> {
    /// The user's key, 1 .. 4 096 bytes.
    pub key: &'a [u8],
    /// When and by whom it was written.
    pub version: Version,
    /// Milliseconds since 1970 from which on it reads as a tombstone of its version; 0 = never.
    pub expires_at_ms: u64,
    /// Value or end.
    pub body: Body<'a>,
}

impl<'a> RecordRef<'a> {
    /// Does this record replace `old`, a record of the same key?
    ///
    /// The greater version wins; that is the only conflict rule of the system, and it is commutative, associative and
    /// idempotent. Versions are unique but for member 0 (the seed's Replicate): there, of equal versions, a tombstone
    /// wins over a value and the greater bytes win among values.
    pub fn supersedes(&self, old: &RecordRef<'_>) -> bool {
        if self.version != old.version || self.version.member != MemberId::NONE {
            return self.version > old.version;
        }
        let rank = |body: &Body<'a>| !matches!(body, Body::Value(_));
        match (&self.body, &old.body) {
            (Body::Value(new), Body::Value(held)) => new > held,
            (new, _) => rank(new) && matches!(old.body, Body::Value(_)),
        }
    }

    /// Is there no value to read at the clock reading `at`?
    pub fn is_dead(&self, at: Hlc) -> bool {
        match self.body {
            Body::Value(_) => self.is_expired(at),
            Body::Tombstone | Body::Expired => true,
        }
    }

    /// Has its end come at the clock reading `at`?
    pub fn is_expired(&self, at: Hlc) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= at.ms()
    }

    /// The value, if there is one that has not expired at `at`.
    pub fn live_value(&self, at: Hlc) -> Option<&'a [u8]> {
        match self.body {
            Body::Value(value) if !self.is_expired(at) => Some(value),
            Body::Value(_) | Body::Tombstone | Body::Expired => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use alloc::vec::Vec;

    fn merge<'a>(a: RecordRef<'a>, b: RecordRef<'a>) -> RecordRef<'a> {
        if b.supersedes(&a) { b } else { a }
    }

    fn any(prng: &mut Prng) -> RecordRef<'static> {
        const VALUES: [&[u8]; 3] = [b"", b"a", b"b"];
        let version = Version::new(Hlc(prng.below(3)), MemberId(prng.below(3) as u32));
        let body = match prng.below(4) {
            0 => Body::Tombstone,
            n => Body::Value(VALUES[n as usize - 1]),
        };
        RecordRef { key: b"k", version, expires_at_ms: 0, body }
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent() {
        let mut prng = Prng::new(1);
        // Of members other than 0 only one record per version exists.
        let mut issued: Vec<RecordRef<'static>> = Vec::new();
        let mut draw = |prng: &mut Prng| {
            let record = any(prng);
            if record.version.member == MemberId::NONE {
                return record;
            }
            match issued.iter().find(|known| known.version == record.version) {
                Some(known) => *known,
                None => {
                    issued.push(record);
                    record
                }
            }
        };
        for _ in 0..20_000 {
            let (a, b, c) = (draw(&mut prng), draw(&mut prng), draw(&mut prng));
            assert_eq!(merge(a, b), merge(b, a));
            assert_eq!(merge(merge(a, b), c), merge(a, merge(b, c)));
            assert_eq!(merge(a, a), a);
        }
    }

    #[test]
    fn expiry_counts_from_its_millisecond_on() {
        let record =
            RecordRef { key: b"k", version: Version::ZERO, expires_at_ms: 10, body: Body::Value(b"v") };
        assert_eq!(record.live_value(Hlc(Hlc::at_ms(10).0 - 1)), Some(&b"v"[..]));
        assert_eq!(record.live_value(Hlc::at_ms(10)), None);
    }
}
