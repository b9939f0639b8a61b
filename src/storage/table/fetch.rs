//! Asks for memory before it is read, so that waits overlap. Changes no answer.

#![allow(unsafe_code, reason = "the standard library's safe prefetch is not stable yet")]

/// Bytes that memory is fetched by.
const LINE_BYTES: usize = 64;
/// More of a record is left to the processor's own read-ahead.
const LINES_MAX: usize = 4;

/// Begins to bring the first lines of `bytes` into the cache; waits for nothing.
#[inline]
pub(super) fn fetch(bytes: &[u8]) {
    bytes.chunks(LINE_BYTES).take(LINES_MAX).for_each(line);
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line(bytes: &[u8]) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) }
}

/// A read whose value nobody waits for.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn line(bytes: &[u8]) {
    core::hint::black_box(bytes[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_is_taken() {
        let bytes = [7; 1_000];
        (0..bytes.len()).for_each(|length| fetch(&bytes[..length]));
    }
}
