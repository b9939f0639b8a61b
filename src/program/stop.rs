//! Whether this process was asked to stop, for `dev`, which waits for a child and for that at once.
#![allow(unsafe_code, reason = "signal(2) has no safe form in the crates at hand")]

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

static ASKED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

extern "C" fn note(_number: i32) {
    ASKED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C, SIGTERM and a closed terminal set a flag instead of ending the process. Children start with the
/// usual handling again.
pub(super) fn listen() {
    [Signal::INT, Signal::TERM, Signal::HUP].into_iter().for_each(take);
}

/// Whether one of them came.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

fn take(number: Signal) {
    // SAFETY: the handler has the signature that signal(2) asks for, and only stores into an atomic, which a handler may.
    unsafe { signal(number.as_raw(), note) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_sets_the_flag() {
        take(Signal::USR2);
        assert!(!asked());
        rustix::process::kill_process(rustix::process::getpid(), Signal::USR2).unwrap();
        while !asked() {
            std::thread::yield_now();
        }
    }
}
