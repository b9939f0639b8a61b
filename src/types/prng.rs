//! A small seeded generator for what must be random and repeatable: simulations, jitter, keyed hashes.

/// SplitMix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    /// The generator of a seed: the same seed gives the same numbers, on every machine.
    pub fn new(seed: u64) -> Prng {
        Prng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0 .. `end`; `end` is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "an empty range has no member");
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// Uniform in `low ..= high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no member");
        low + self.below(high - low + 1)
    }

    /// True in `permille` of 1 000 cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// A generator of its own, so that draws here and there do not shift each other.
    pub fn fork(&mut self) -> Prng {
        Prng::new(self.next_u64())
    }
}
