//! Order-independent sums over a slot's records: equal sums mean equal records, whatever order they came in.
//!
//! A digest is the wrapping sum of [`Digest::of`] over everything that lies in the table for the slot, dead records
//! included (`PROTOCOL.md` §3). Equal versions mean equal records, so the value's bytes need not be hashed, and a
//! record whose bytes were dropped at its expiry counts as before. Versions of member 0 are not unique: there the body
//! is hashed too. Replicas compare these numbers, so they are stable for ever.

use crate::types::{Body, MemberId, RecordRef};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A sum over records; the empty sum is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(pub u64);

impl Digest {
    /// What one record contributes.
    pub fn of(record: &RecordRef<'_>) -> Digest {
        let version = record.version;
        let seed =
            version.hlc.0.rotate_left(32) ^ u64::from(version.member.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let seed = match (version.member, record.body) {
            (MemberId::NONE, Body::Value(value)) => xxh3_64_with_seed(value, seed),
            _ => seed,
        };
        Digest(xxh3_64_with_seed(record.key, seed))
    }

    /// A record came.
    pub fn add(&mut self, one: Digest) {
        self.0 = self.0.wrapping_add(one.0);
    }

    /// A record went.
    pub fn subtract(&mut self, one: Digest) {
        self.0 = self.0.wrapping_sub(one.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Hlc, Version};

    fn record(key: &'static [u8], hlc: u64, member: u32, body: Body<'static>) -> RecordRef<'static> {
        RecordRef { key, version: Version::new(Hlc(hlc), MemberId(member)), expires_at_ms: 0, body }
    }

    #[test]
    fn digest_is_stable_for_ever() {
        assert_eq!(Digest::of(&record(b"a", 1, 1, Body::Tombstone)).0, 13_912_175_272_965_964_835);
        assert_eq!(Digest::of(&record(b"a", 1, 0, Body::Value(b"x"))).0, 18_219_017_611_252_403_866);
    }

    #[test]
    fn bytes_dropped_at_expiry_do_not_change_it() {
        let live = record(b"a", 7, 1, Body::Value(b"x"));
        let gone = record(b"a", 7, 1, Body::Expired);
        assert_eq!(Digest::of(&live), Digest::of(&gone));
    }

    #[test]
    fn key_version_and_member_zero_values_each_count() {
        let base = Digest::of(&record(b"a", 7, 1, Body::Tombstone));
        assert_ne!(base, Digest::of(&record(b"b", 7, 1, Body::Tombstone)));
        assert_ne!(base, Digest::of(&record(b"a", 8, 1, Body::Tombstone)));
        assert_ne!(base, Digest::of(&record(b"a", 7, 2, Body::Tombstone)));
        let foreign = |value| Digest::of(&record(b"a", 7, 0, Body::Value(value)));
        assert_ne!(foreign(b"x"), foreign(b"y"));
    }

    #[test]
    fn removing_undoes_adding_in_any_order() {
        let (a, b) = (
            Digest::of(&record(b"a", 1, 1, Body::Tombstone)),
            Digest::of(&record(b"b", 2, 1, Body::Tombstone)),
        );
        let mut sum = Digest::default();
        sum.add(a);
        sum.add(b);
        sum.subtract(a);
        assert_eq!(sum, b);
    }
}
