//! Which record an operation is for, and what its key is.

use ringcore::types::prng::Prng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// YCSB's constant.
const ZIPFIAN_THETA: f64 = 0.99;

/// How records are chosen.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Distribution {
    /// Each record is as likely as any other.
    Uniform,
    /// The record of rank r is chosen in proportion to 1 / r^0.99, and ranks are scattered over the records, as YCSB does.
    Zipfian,
    /// Zipfian by age: the newest record is the likeliest.
    Latest,
    /// A share of the records gets a share of the operations; both uniformly.
    Hot {
        /// Of the records, 0 to 1.
        records: f64,
        /// Of the operations, 0 to 1.
        operations: f64,
    },
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        match text {
            "uniform" => return Ok(Distribution::Uniform),
            "zipfian" => return Ok(Distribution::Zipfian),
            "latest" => return Ok(Distribution::Latest),
            "hot" => return Ok(Distribution::Hot { records: 0.2, operations: 0.8 }),
            _ => {}
        }
        let shares = text.strip_prefix("hot:").and_then(|shares| shares.split_once('/'));
        let share = |text: &str| text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
        match shares.and_then(|(records, operations)| Some((share(records)?, share(operations)?))) {
            Some((records, operations)) if records > 0.0 => {
                Ok(Distribution::Hot { records: records / 100.0, operations: operations / 100.0 })
            }
            _ => {
                Err("uniform, zipfian, latest, hot, or hot:RECORDS/OPERATIONS in per cent (hot:20/80)"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipfian => f.write_str("zipfian"),
            Distribution::Latest => f.write_str("latest"),
            Distribution::Hot { records, operations } => {
                write!(f, "hot:{}/{}", records * 100.0, operations * 100.0)
            }
        }
    }
}

/// The records that there are: those loaded before, and those that the run inserts.
#[derive(Debug)]
pub(crate) struct Records {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

impl Records {
    /// With records 0 .. `loaded` there.
    pub(crate) fn new(loaded: u64) -> Records {
        Records { begun: AtomicU64::new(loaded), acknowledged: AtomicU64::new(loaded) }
    }

    /// The next record to insert: nobody else's.
    pub(crate) fn insert(&self) -> u64 {
        self.begun.fetch_add(1, Relaxed)
    }

    /// A record is there now. Those before it may still be on their way.
    pub(crate) fn inserted(&self, record: u64) {
        self.acknowledged.fetch_max(record + 1, Relaxed);
    }

    /// Records up to the newest that is there.
    pub(crate) fn count(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }
}

/// Chooses records. One per thread; the same seed makes the same choices among the same records.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    distribution: Distribution,
    records: Arc<Records>,
    zipf: Option<Arc<Zipf>>,
}

impl Chooser {
    /// Takes time in proportion to the records if the distribution is a Zipfian one: make one and clone it.
    pub(crate) fn new(distribution: Distribution, records: Arc<Records>) -> Chooser {
        let zipf = match distribution {
            Distribution::Zipfian | Distribution::Latest => Some(Arc::new(Zipf::new(records.count().max(1)))),
            Distribution::Uniform | Distribution::Hot { .. } => None,
        };
        Chooser { distribution, records, zipf }
    }

    /// How it chooses.
    pub(crate) fn distribution(&self) -> Distribution {
        self.distribution
    }

    /// A record, 0 .. the number of records.
    pub(crate) fn choose(&self, prng: &mut Prng) -> u64 {
        let count = self.records.count().max(1);
        match self.distribution {
            Distribution::Uniform => prng.below(count),
            Distribution::Zipfian => scatter(self.rank(prng)) % count,
            Distribution::Latest => count - 1 - self.rank(prng).min(count - 1),
            Distribution::Hot { records, operations } => {
                let hot = ((count as f64 * records) as u64).clamp(1, count);
                if unit(prng) < operations || hot == count {
                    scatter(prng.below(hot)) % count
                } else {
                    scatter(hot + prng.below(count - hot)) % count
                }
            }
        }
    }

    fn rank(&self, prng: &mut Prng) -> u64 {
        self.zipf.as_ref().expect("made for this distribution").rank(unit(prng))
    }
}

/// Ranks with probability in proportion to 1 / (rank + 1)^theta, after Gray et al., "Quickly generating billion-record
/// synthetic databases", SIGMOD 1994, as YCSB has it.
#[derive(Debug)]
struct Zipf {
    count: u64,
    alpha: f64,
    zeta: f64,
    eta: f64,
    /// Below it, times zeta, the rank is 1 or 0.
    second: f64,
}

impl Zipf {
    fn new(count: u64) -> Zipf {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-ZIPFIAN_THETA)).sum();
        let second = 1.0 + 0.5_f64.powf(ZIPFIAN_THETA);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - ZIPFIAN_THETA)) / (1.0 - second / zeta);
        Zipf { count, alpha: 1.0 / (1.0 - ZIPFIAN_THETA), zeta, eta, second }
    }

    /// `unit` in 0 .. 1.
    fn rank(&self, unit: f64) -> u64 {
        let scaled = unit * self.zeta;
        if scaled < 1.0 || self.count == 1 {
            return 0;
        }
        if scaled < self.second || self.count == 2 {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

/// A number in 0 .. 1, with 53 random bits.
pub(crate) fn unit(prng: &mut Prng) -> f64 {
    (prng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Neighbours become strangers; one to one (the finaliser of splitmix64).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Bytes of the shortest key: the record's number in hexadecimal, scattered.
pub(crate) const KEY_BYTES_MIN: usize = 16;

/// Writes a record's key of `bytes` bytes, at least [`KEY_BYTES_MIN`], behind what `into` holds. Printable; two records
/// never share one.
pub(crate) fn write_key(record: u64, bytes: usize, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = scatter(record);
    into.extend((0..KEY_BYTES_MIN).rev().map(|digit| DIGITS[(number >> (4 * digit)) as usize & 15]));
    into.extend(std::iter::repeat_n(b'-', bytes - KEY_BYTES_MIN));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn chosen(distribution: Distribution, records: u64, count: usize) -> Vec<u64> {
        let chooser = Chooser::new(distribution, Arc::new(Records::new(records)));
        let mut prng = Prng::new(7);
        (0..count).map(|_| chooser.choose(&mut prng)).collect()
    }

    fn counts(chosen: &[u64]) -> Vec<usize> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for record in chosen {
            *counts.entry(*record).or_default() += 1;
        }
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn zipfian_ranks_have_the_probabilities_of_their_formula() {
        const RECORDS: u64 = 1_000;
        const DRAWS: usize = 400_000;
        let counts = counts(&chosen(Distribution::Zipfian, RECORDS, DRAWS));
        let zeta: f64 = (1..=RECORDS).map(|rank| (rank as f64).powf(-0.99)).sum();
        // Two ranks may be scattered onto one record, so only the likeliest are compared: the formula is exact for the
        // first two and an approximation beyond.
        for (rank, within) in [(0_usize, 0.05), (1, 0.05), (9, 0.35)] {
            let expected = DRAWS as f64 * ((rank + 1) as f64).powf(-0.99) / zeta;
            let off = (counts[rank] as f64 - expected).abs() / expected;
            assert!(off < within, "rank {rank}: {} instead of {expected}", counts[rank]);
        }
    }

    #[test]
    fn zipfian_favourites_are_no_neighbours() {
        let chosen = chosen(Distribution::Zipfian, 1 << 20, 100_000);
        let low = chosen.iter().filter(|&&record| record < 1 << 19).count();
        assert!((30_000..70_000).contains(&low), "{low} of 100 000 in the lower half");
    }

    #[test]
    fn latest_prefers_what_was_inserted_last() {
        let records = Arc::new(Records::new(1_000));
        let chooser = Chooser::new(Distribution::Latest, Arc::clone(&records));
        for _ in 0..500 {
            let record = records.insert();
            records.inserted(record);
        }
        let mut prng = Prng::new(3);
        let newest = (0..10_000).filter(|_| chooser.choose(&mut prng) >= 1_400).count();
        assert!(newest > 5_000, "{newest} of 10 000 among the last hundred");
    }

    #[test]
    fn hot_records_get_their_share() {
        let chosen = chosen("hot:10/90".parse().unwrap(), 10_000, 100_000);
        let hot: usize = counts(&chosen).iter().take(1_000).sum();
        assert!((87_000..95_000).contains(&hot), "{hot} of 100 000");
    }

    #[test]
    fn uniform_choices_reach_every_record() {
        let chosen: HashSet<u64> = chosen(Distribution::Uniform, 100, 5_000).into_iter().collect();
        assert_eq!(chosen.len(), 100);
    }

    #[test]
    fn keys_are_printable_distinct_and_of_the_length_asked_for() {
        let key = |record, bytes| {
            let mut key = Vec::new();
            write_key(record, bytes, &mut key);
            assert_eq!(key.len(), bytes);
            assert!(key.iter().all(u8::is_ascii_graphic));
            key
        };
        let keys: HashSet<_> = (0..10_000).map(|record| key(record, 16)).collect();
        assert_eq!(keys.len(), 10_000);
        key(1, 40);
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["uniform", "zipfian", "latest", "hot:5/95"] {
            assert_eq!(name.parse::<Distribution>().unwrap().to_string(), name);
        }
        for wrong in ["", "hot:", "hot:0/80", "hot:20/120", "gauss"] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }
}
