//! Keeps a value on cache lines of its own, so that cores which write neighbours do not slow each other.

use std::ops::Deref;

/// A value alone on its 128 bytes: two lines, because the prefetcher of current CPUs fetches pairs.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct Padded<T>(T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn neighbours_share_no_line() {
        let pair: [Padded<AtomicU64>; 2] = Default::default();
        let distance = (&raw const *pair[1]).addr() - (&raw const *pair[0]).addr();
        assert_eq!(distance, 128);
    }
}
