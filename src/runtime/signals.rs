//! SIGTERM and SIGINT, on a plain thread: the first asks to end in order, the second ends a node at once. SIGUSR1 stays
//! with the executor's stall detector.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::thread;

/// Ctrl-C.
pub const INTERRUPT: i32 = SIGINT;
/// What `kill` and a service manager send.
pub const TERMINATE: i32 = SIGTERM;
/// The terminal was closed. A node takes no notice of it of its own: `nohup` must work.
pub const HANGUP: i32 = SIGHUP;

/// Listens for as long as it lives; afterwards the signals are swallowed, not restored to their defaults.
pub struct SignalWatch {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl SignalWatch {
    /// Calls `first` with the number of the first signal, on the thread that listens. At the second one the process
    /// exits with 128 + its number, as a shell would report it.
    pub fn start(first: impl FnOnce(i32) + Send + 'static) -> io::Result<SignalWatch> {
        Self::start_with(&[TERMINATE, INTERRUPT], first, |signal| std::process::exit(128 + signal))
    }

    /// Calls `first` with the first of these signals, and `second` with each one after it.
    pub fn start_with(
        signals: &[i32],
        first: impl FnOnce(i32) + Send + 'static,
        second: impl Fn(i32) + Send + 'static,
    ) -> io::Result<SignalWatch> {
        let mut signals = Signals::new(signals)?;
        let handle = signals.handle();
        let body = move || {
            let mut first = Some(first);
            for signal in signals.forever() {
                match first.take() {
                    Some(first) => first(signal),
                    None => second(signal),
                }
            }
        };
        let thread = thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(SignalWatch { handle, thread: Some(thread) })
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It panics only if a callback does, which has been printed.
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn first_signal_asks_and_second_insists() {
        let (heard, hear) = mpsc::channel();
        let again = heard.clone();
        let watch = SignalWatch::start_with(
            &[TERMINATE, INTERRUPT],
            move |signal| heard.send(("first", signal)).unwrap(),
            move |signal| again.send(("second", signal)).unwrap(),
        )
        .unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(hear.recv().unwrap(), ("first", SIGTERM));
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(hear.recv().unwrap(), ("second", SIGINT));
        drop(watch);
        assert!(hear.recv().is_err(), "the thread has ended and dropped its callbacks");
    }
}
