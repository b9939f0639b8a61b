//! Which operations, in which shares; YCSB's by name.

use super::keys::Distribution;
use ringcore::types::prng::Prng;
use serde::{Deserialize, Serialize};

/// What an operation does.
#[derive(
    Serialize, Deserialize, clap::ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Reads a record that is there.
    Read,
    /// Writes a record that is there.
    Update,
    /// Writes the next record.
    Insert,
    /// Deletes a record.
    Delete,
    /// Reads a record, then writes it. Its latency is that of both.
    ReadModifyWrite,
    /// Reads one page of up to 100 records, in the order of their tokens, from a place of its own.
    Scan,
}

impl Kind {
    /// All of them, in the order of their shares in a [`Mix`].
    pub(crate) const ALL: [Kind; 6] =
        [Kind::Read, Kind::Update, Kind::Insert, Kind::Delete, Kind::ReadModifyWrite, Kind::Scan];

    /// As reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Update => "update",
            Kind::Insert => "insert",
            Kind::Delete => "delete",
            Kind::ReadModifyWrite => "read-modify-write",
            Kind::Scan => "scan",
        }
    }
}

/// Shares of the operations, in any unit.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mix([u32; Kind::ALL.len()]);

impl Mix {
    /// None if nothing is left to do.
    pub(crate) fn new(shares: &[(Kind, u32)]) -> Option<Mix> {
        let mut mix = [0; Kind::ALL.len()];
        for (kind, share) in shares {
            mix[*kind as usize] += share;
        }
        (mix.iter().any(|share| *share > 0)).then_some(Mix(mix))
    }

    /// Its kind of operation alone.
    pub(crate) fn only(kind: Kind) -> Mix {
        Mix::new(&[(kind, 1)]).expect("a share of one")
    }

    /// The kind of the next operation.
    pub(crate) fn choose(&self, prng: &mut Prng) -> Kind {
        let all: u32 = self.0.iter().sum();
        let mut at = prng.below(u64::from(all)) as u32;
        for (kind, share) in Kind::ALL.into_iter().zip(self.0) {
            match at.checked_sub(share) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        unreachable!("the shares add up to their sum")
    }

    /// A kind's share, 0 to 1.
    pub(crate) fn share(&self, kind: Kind) -> f64 {
        f64::from(self.0[kind as usize]) / f64::from(self.0.iter().sum::<u32>())
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let shares = Kind::ALL.into_iter().filter(|kind| self.share(*kind) > 0.0);
        let texts = shares.map(|kind| format!("{:.0} % {}", self.share(kind) * 100.0, kind.name()));
        texts.collect::<Vec<_>>().join(", ")
    }
}

/// The core workloads of the Yahoo! Cloud Serving Benchmark (Cooper et al., SoCC 2010).
#[derive(Serialize, Deserialize, clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ycsb {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads only.
    C,
    /// 95 % reads of the latest, 5 % inserts.
    D,
    /// 95 % scans, 5 % inserts. Scans go in the order of tokens, not of keys: ringcore has no order of keys.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

impl Ycsb {
    /// Its operations.
    pub(crate) fn mix(self) -> Mix {
        let shares: &[(Kind, u32)] = match self {
            Ycsb::A => &[(Kind::Read, 50), (Kind::Update, 50)],
            Ycsb::B => &[(Kind::Read, 95), (Kind::Update, 5)],
            Ycsb::C => &[(Kind::Read, 100)],
            Ycsb::D => &[(Kind::Read, 95), (Kind::Insert, 5)],
            Ycsb::E => &[(Kind::Scan, 95), (Kind::Insert, 5)],
            Ycsb::F => &[(Kind::Read, 50), (Kind::ReadModifyWrite, 50)],
        };
        Mix::new(shares).expect("shares that are not all zero")
    }

    /// Its keys.
    pub(crate) fn distribution(self) -> Distribution {
        match self {
            Ycsb::D => Distribution::Latest,
            Ycsb::A | Ycsb::B | Ycsb::C | Ycsb::E | Ycsb::F => Distribution::Zipfian,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_in_their_shares() {
        let mix = Mix::new(&[(Kind::Read, 3), (Kind::Delete, 1)]).unwrap();
        let mut prng = Prng::new(2);
        let reads = (0..10_000).filter(|_| mix.choose(&mut prng) == Kind::Read).count();
        assert!((7_300..7_700).contains(&reads), "{reads} of 10 000");
        assert_eq!((mix.share(Kind::Delete), mix.describe()), (0.25, "75 % read, 25 % delete".to_owned()));
        assert_eq!(Mix::new(&[(Kind::Read, 0)]), None);
    }

    #[test]
    fn ycsb_is_as_published() {
        let shares = |ycsb: Ycsb| ycsb.mix().describe();
        assert_eq!(shares(Ycsb::A), "50 % read, 50 % update");
        assert_eq!(shares(Ycsb::D), "95 % read, 5 % insert");
        assert_eq!(shares(Ycsb::E), "5 % insert, 95 % scan");
        assert_eq!(shares(Ycsb::F), "50 % read, 50 % read-modify-write");
        assert_eq!(
            (Ycsb::D.distribution(), Ycsb::A.distribution()),
            (Distribution::Latest, Distribution::Zipfian)
        );
    }
}
