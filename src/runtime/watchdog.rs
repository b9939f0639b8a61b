//! Ends the node when a core stands still: a node that half works is worse for its cluster than one that is gone.
//!
//! A plain thread looks at the tick counters once a second. It only counts a core against itself while the machine
//! lets this thread run on time: a paused virtual machine, or one without CPU, must not kill a healthy node.

use super::tick::Heartbeat;
use crate::types::CoreId;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that is later than this proves nothing about the cores.
const LATE: Duration = Duration::from_millis(1_250);
/// Looks on time, in a row, in which a core has not moved.
const LOOKS: u32 = 5;

/// The running watchdog; dropping it ends it.
pub struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Watches `heartbeats`, by core, and calls `stuck` once for the first core that stands still for 5 s.
    /// [`Watchdog::abort`] is what a node does then.
    pub fn start(
        heartbeats: Vec<Arc<Heartbeat>>,
        stuck: impl FnOnce(CoreId) + Send + 'static,
    ) -> io::Result<Watchdog> {
        let (stop, stopped) = mpsc::channel();
        let body = move || {
            if let Some(core) = watch(&heartbeats, &stopped) {
                stuck(core);
            }
        };
        let thread = thread::Builder::new().name("watchdog".into()).spawn(body)?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }

    /// Says which core hangs and ends the process with a core dump.
    pub fn abort(core: CoreId) {
        eprintln!(
            "ringcore: core {core} has not ticked for {} s although this machine runs on time: it hangs; aborting",
            LOOK_EVERY.as_secs() * u64::from(LOOKS)
        );
        std::process::abort();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only if `stuck` does, which has been printed.
            let _panicked = thread.join();
        }
    }
}

fn watch(heartbeats: &[Arc<Heartbeat>], stopped: &mpsc::Receiver<()>) -> Option<CoreId> {
    let mut judge = Judge::default();
    let mut last = Instant::now();
    loop {
        match stopped.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
        }
        let now = Instant::now();
        let ticks: Vec<_> = heartbeats.iter().map(|heartbeat| heartbeat.ticks()).collect();
        // Held up together with its timers, a core may sleep on although it has work (`tick`).
        for (core, heartbeat) in heartbeats.iter().enumerate() {
            if judge.ticks.get(core) == Some(&ticks[core]) {
                heartbeat.wake();
            }
        }
        if let Some(core) = judge.look(now - last, &ticks) {
            return Some(core);
        }
        last = now;
    }
}

/// What the looks so far say.
#[derive(Default)]
struct Judge {
    ticks: Vec<Option<u64>>,
    /// Looks on time in a row without a move, by core.
    still: Vec<u32>,
}

impl Judge {
    /// Takes note of the tick counters, `elapsed` after the last look; None for a core that has ended. Returns the core
    /// that hangs.
    fn look(&mut self, elapsed: Duration, ticks: &[Option<u64>]) -> Option<CoreId> {
        let comparable = self.ticks.len() == ticks.len() && elapsed <= LATE;
        self.still.resize(ticks.len(), 0);
        for (core, still) in self.still.iter_mut().enumerate() {
            let stands = comparable && ticks[core].is_some() && ticks[core] == self.ticks[core];
            *still = if stands { *still + 1 } else { 0 };
        }
        self.ticks = ticks.to_vec();
        let core = self.still.iter().position(|&still| still >= LOOKS)?;
        Some(CoreId(u16::try_from(core).expect("a node has at most 256 cores")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON_TIME: Duration = Duration::from_millis(1_001);
    const PAUSED: Duration = Duration::from_secs(40);

    #[test]
    fn core_that_stands_still_for_five_looks_on_time_hangs() {
        let mut judge = Judge::default();
        assert_eq!(judge.look(ON_TIME, &[Some(7), Some(7)]), None);
        for look in 1..5 {
            assert_eq!(judge.look(ON_TIME, &[Some(7 + look), Some(7)]), None);
        }
        assert_eq!(judge.look(ON_TIME, &[Some(12), Some(7)]), Some(CoreId(1)));
    }

    #[test]
    fn pause_of_the_machine_starts_the_count_again() {
        let mut judge = Judge::default();
        for _ in 0..5 {
            assert_eq!(judge.look(ON_TIME, &[Some(7)]), None);
        }
        assert_eq!(judge.look(PAUSED, &[Some(7)]), None);
        for _ in 0..4 {
            assert_eq!(judge.look(ON_TIME, &[Some(7)]), None);
        }
        assert_eq!(judge.look(ON_TIME, &[Some(7)]), Some(CoreId(0)));
    }

    #[test]
    fn core_that_moves_or_has_ended_is_left_alone() {
        let mut judge = Judge::default();
        for look in 0..100 {
            assert_eq!(judge.look(ON_TIME, &[Some(look / 4), None]), None);
        }
    }

    #[test]
    fn dropping_the_watchdog_ends_its_thread_at_once() {
        let watchdog = Watchdog::start(vec![Arc::default()], |core| panic!("core {core} hangs")).unwrap();
        drop(watchdog);
    }
}
