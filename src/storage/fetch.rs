//! Asks for memory before it is read, so that waits overlap. Changes no answer.

#![allow(unsafe_code, reason = "the standard library's safe prefetch is not stable yet")]

/// Bytes that memory is fetched by.
const LINE_BYTES: usize = 64;
/// More of a value is left to the processor's own read-ahead.
const LINES_MAX: usize = 4;

/// Begins to bring a value into the cache, the beginning of a large one; waits for nothing.
///
/// Nothing is done on processors other than x86-64: there is no stable way to ask them.
#[inline]
pub(super) fn fetch<T: ?Sized>(value: &T) {
    let first = core::ptr::from_ref(value).cast::<u8>();
    let into_line = first.addr() % LINE_BYTES;
    for at in (0..into_line + size_of_val(value)).step_by(LINE_BYTES).take(LINES_MAX) {
        line(first.wrapping_sub(into_line).wrapping_add(at));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line(at: *const u8) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn line(_at: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_size_are_taken() {
        let bytes = [7; 1_000];
        (0..bytes.len()).for_each(|length| fetch(&bytes[..length]));
        fetch(&());
    }
}
