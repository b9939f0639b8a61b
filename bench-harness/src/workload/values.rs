//! The sizes of values, and their bytes.

use super::keys::unit;
use ringcore::types::prng::Prng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest value that a node takes, bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 20;

/// How long values are, bytes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sizes {
    /// All the same.
    Fixed(usize),
    /// Each length between the two is as likely, both included.
    Uniform(usize, usize),
    /// Each power of two between is as likely as any other: many short ones, few long ones.
    Skewed(usize, usize),
}

impl Sizes {
    /// A length.
    pub(crate) fn choose(self, prng: &mut Prng) -> usize {
        match self {
            Sizes::Fixed(bytes) => bytes,
            Sizes::Uniform(least, most) => prng.between(least as u64, most as u64) as usize,
            Sizes::Skewed(least, most) => {
                let (low, high) = ((least as f64).ln(), (most as f64 + 1.0).ln());
                ((low + (high - low) * unit(prng)).exp() as usize).clamp(least, most)
            }
        }
    }

    /// The longest.
    pub(crate) fn most(self) -> usize {
        match self {
            Sizes::Fixed(bytes) | Sizes::Uniform(_, bytes) | Sizes::Skewed(_, bytes) => bytes,
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let wrong = || format!("BYTES, LEAST-MOST (uniform) or skewed:LEAST-MOST, 1 to {VALUE_BYTES_MAX}");
        let bytes = |text: &str| {
            let bytes = text.parse::<usize>().ok();
            bytes.filter(|bytes| (1..=VALUE_BYTES_MAX).contains(bytes)).ok_or_else(wrong)
        };
        let range = |text: &str| {
            let (least, most) = text.split_once('-').ok_or_else(wrong)?;
            let (least, most) = (bytes(least)?, bytes(most)?);
            if least <= most { Ok((least, most)) } else { Err(wrong()) }
        };
        if let Some(text) = text.strip_prefix("skewed:") {
            return range(text).map(|(least, most)| Sizes::Skewed(least, most));
        }
        if text.contains('-') {
            return range(text).map(|(least, most)| Sizes::Uniform(least, most));
        }
        bytes(text).map(Sizes::Fixed)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(bytes) => write!(f, "{bytes}"),
            Sizes::Uniform(least, most) => write!(f, "{least}-{most}"),
            Sizes::Skewed(least, most) => write!(f, "skewed:{least}-{most}"),
        }
    }
}

/// Bytes that no compression makes shorter, to cut values from.
#[derive(Clone, Debug)]
pub(crate) struct Filler(Vec<u8>);

impl Filler {
    /// For values of up to `most` bytes.
    pub(crate) fn new(most: usize) -> Filler {
        let mut prng = Prng::new(0xF111);
        Filler((0..most + 4_096).map(|_| b'!' + prng.below(94) as u8).collect())
    }

    /// A value: printable, another one nearly each time.
    pub(crate) fn value(&self, bytes: usize, prng: &mut Prng) -> &[u8] {
        let from = prng.below((self.0.len() - bytes) as u64 + 1) as usize;
        &self.0[from..from + bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_within_their_bounds_and_reach_them() {
        let mut prng = Prng::new(1);
        for sizes in [Sizes::Uniform(3, 9), Sizes::Skewed(3, 9)] {
            let chosen: Vec<usize> = (0..5_000).map(|_| sizes.choose(&mut prng)).collect();
            assert_eq!((chosen.iter().min(), chosen.iter().max()), (Some(&3), Some(&9)), "{sizes}");
        }
        let skewed: Vec<usize> = (0..9_000).map(|_| Sizes::Skewed(10, 10_000).choose(&mut prng)).collect();
        let short = skewed.iter().filter(|&&bytes| bytes < 100).count();
        assert!((2_700..3_300).contains(&short), "a third below 100: {short} of 9 000");
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["100", "10-200", "skewed:16-65536"] {
            assert_eq!(name.parse::<Sizes>().unwrap().to_string(), name);
        }
        for wrong in ["", "0", "9-3", "-", "skewed:5", "1048577"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn filler_has_room_for_the_longest_value() {
        let filler = Filler::new(100);
        let mut prng = Prng::new(1);
        for _ in 0..100_000 {
            assert_eq!(filler.value(100, &mut prng).len(), 100);
        }
    }
}
