//! What the executor's crate is known to get wrong, under load, through our own runtime: an upgrade of the crate or a
//! broken rule of ours shows here. Numbers S1 to S11 are those of the survey that found the defects. Each check counts
//! (messages, descriptors, bytes, progress); none judges a noisy machine by its clock, but a hang ends the test run.
#![cfg(feature = "server")]

use ringcore::runtime::executor::{CoreContext, Cores, start};
use ringcore::runtime::mailbox::{Inbox, Mail, Outbox, Room, Seat, seats};
use ringcore::runtime::tick::idle_tick;
use ringcore::types::CoreId;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// One at a time, and the whole process ends if `limit` passes: a hung executor cannot be joined.
struct Soak {
    _turn: MutexGuard<'static, ()>,
    _done: mpsc::Sender<()>,
}

fn soak(name: &'static str, limit: Duration) -> Soak {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (done, watched) = mpsc::channel::<()>();
    thread::spawn(move || {
        if watched.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name} hung: not done after {} s", limit.as_secs());
            std::process::abort();
        }
    });
    Soak { _turn: turn, _done: done }
}

fn run<T: Send + 'static, Main: Future<Output = T> + 'static>(
    cores: usize,
    main: impl Fn(CoreContext) -> Main + Clone + Send + 'static,
) -> Vec<T> {
    started(cores, main).join().unwrap()
}

fn started<T: Send + 'static, Main: Future<Output = T> + 'static>(
    cores: usize,
    main: impl Fn(CoreContext) -> Main + Clone + Send + 'static,
) -> Cores<T> {
    start(&vec![None; cores], main).unwrap()
}

/// Threads that leave the executors no CPU of their own.
struct Hogs(Arc<AtomicBool>);

impl Hogs {
    fn start(count: usize) -> Hogs {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..count {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Hogs(stop)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Hands each core its seat, once.
struct Seats<M>(Mutex<Vec<Option<Seat<M>>>>);

impl<M: Send + 'static> Seats<M> {
    fn new(cores: usize, room: Room) -> Arc<Seats<M>> {
        Arc::new(Seats(Mutex::new(seats(cores, room).into_iter().map(Some).collect())))
    }

    async fn open(&self, context: &CoreContext) -> (Outbox<M>, Inbox<M>) {
        let seat = self.0.lock().unwrap()[usize::from(context.core.0)].take().unwrap();
        seat.open(&context.queues.requests).await
    }
}

/// S2: two cores pass one message back and forth while two threads take their CPUs: the crate parks executors with work
/// to do, and only the tick wakes them.
#[test]
fn ping_pong_beside_busy_threads_does_not_hang() {
    let _soak = soak("ping-pong", Duration::from_secs(60));
    let _hogs = Hogs::start(2);
    let seats = Seats::<u32>::new(2, Room::default());
    const ROUNDS: u32 = 20_000;
    let rounds = run(2, move |context| {
        let seats = Arc::clone(&seats);
        async move {
            let _busy = context.ticker.busy();
            let (outbox, mut inbox) = seats.open(&context).await;
            let other = CoreId(1 - context.core.0);
            let mut round = 0;
            if context.core.0 == 0 {
                outbox.try_ask(other, 0).unwrap();
                outbox.flush();
            }
            while round < ROUNDS {
                inbox.ready().await;
                inbox.drain(16, |from, mail| match mail {
                    Mail::Ask(n) => {
                        assert_eq!(n, round);
                        round += 1;
                        outbox.answer(from, n);
                    }
                    Mail::Answer(n) => {
                        assert_eq!(n, round);
                        round += 1;
                        if round < ROUNDS {
                            outbox.try_ask(other, round).unwrap();
                        }
                    }
                    Mail::Tell(_) => unreachable!("nobody tells"),
                });
                outbox.flush();
            }
            inbox.close().await;
            round
        }
    });
    assert_eq!(rounds, [ROUNDS, ROUNDS]);
}
