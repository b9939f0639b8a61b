//! The one system call that tells whether io_uring is there.
#![allow(
    unsafe_code,
    reason = "rustix marks io_uring_setup unsafe for what is done with the ring, not for its making"
)]

use rustix::io::Errno;
use rustix::io_uring::{io_uring_params, io_uring_setup};

/// Makes a ring of two entries and closes it.
pub(super) fn set_up() -> Result<(), Errno> {
    let mut parameters = io_uring_params::default();
    // SAFETY: the call reads and writes `parameters` only, which outlive it and name no other ring, buffer or thread;
    // the descriptor is owned by what it returns, is never mapped or submitted to, and is closed at once.
    unsafe { io_uring_setup(2, &mut parameters) }.map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ring_can_be_made_here() {
        assert_eq!(super::set_up(), Ok(()));
    }
}
