//! The tick: the one timer that an executor has, and the deadlines that hang on it.
//!
//! glommio's executor can park with runnable tasks, until a timer, a bell or a file's completion wakes it; a socket does not
//! if the task left lying is the one that listens to all of them (`sockets`). So every executor has a timer that
//! comes again and again, and every other deadline of the core lies on a wheel (`wheel`) that this one turns. While
//! somebody holds a [`Busy`] it ticks every 5 ms, else far more rarely: a tick every 10 ms costs 1 % of a core.
//!
//! What may be left lying while the executor parks is the tick itself: its timer has fired and is gone, its task does not
//! run. Timers behind it (`BACKSTOPS`) then wake the executor again; they are dropped unfired whenever the tick runs. They
//! all fire at once if the core was held up for long: then the watchdog wakes it ([`Heartbeat::wake`]). The first tick is
//! armed before anything else runs on an executor (`Ticker::start`).

use super::clock;
use super::executor::{Queue, Task};
use super::padded::Padded;
use super::wheel::{Key, Wheel};
use crate::types::Mono;
use glommio::timer::Timer;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The tick while anything is in flight, and the unit of the wheel.
pub const BUSY_TICK: Duration = Duration::from_millis(5);
const TICK_NS: u64 = BUSY_TICK.as_nanos() as u64;
/// How long after the tick each of the timers behind it fires.
const BACKSTOPS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(500)];
/// A wake this close to the due time is taken for the timer's, whatever two clocks make of it: a tick that mistook its
/// own wake for a stranger's would be the last.
const SPURIOUS_NS: u64 = 1_000_000;
/// Idle ticks are not further apart than this, so that the watchdog (`watchdog`) sees a healthy core move.
const IDLE_TICK_MAX: Duration = Duration::from_secs(1);

/// The tick of a node without work: max(100 ms, 20 ms × cores), so that all cores together stay under 1 % of one.
pub fn idle_tick(cores: usize) -> Duration {
    let all = Duration::from_millis(20).saturating_mul(u32::try_from(cores).unwrap_or(u32::MAX));
    all.clamp(Duration::from_millis(100), IDLE_TICK_MAX)
}

/// What other threads may know of a core's tick: written by the core, read by the watchdog and at scrape.
#[derive(Default, Debug)]
pub struct Heartbeat {
    counters: Padded<Counters>,
    /// The tick's task, until it ends: the last waker of a task is to be dropped on its own thread.
    task: Mutex<Option<Waker>>,
}

#[derive(Default, Debug)]
struct Counters {
    ticks: AtomicU64,
    late_us: AtomicU64,
    late_us_max: AtomicU64,
}

/// The number of ticks of a core that has ended in order: nobody waits for its next one.
const RETIRED: u64 = u64::MAX;

impl Heartbeat {
    /// Ticks so far; None once the core has ended in order.
    pub fn ticks(&self) -> Option<u64> {
        let ticks = self.counters.ticks.load(Relaxed);
        (ticks != RETIRED).then_some(ticks)
    }

    /// How late the last tick was, microseconds. Over 50 ms: the core is held up, by long steps or by the machine.
    pub fn late_us(&self) -> u64 {
        self.counters.late_us.load(Relaxed)
    }

    /// The latest tick so far, microseconds.
    pub fn late_us_max(&self) -> u64 {
        self.counters.late_us_max.load(Relaxed)
    }

    /// Has the core look at its tick, from any thread: a core that is parked with runnable tasks runs them.
    pub fn wake(&self) {
        if let Some(task) = &*self.task() {
            task.wake_by_ref();
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().expect("nothing panics while it is held")
    }

    fn beat(&self, late_us: u64) {
        // One writer: a load and a store, no read-modify-write.
        let counters = &*self.counters;
        counters.late_us.store(late_us, Relaxed);
        counters.late_us_max.store(late_us.max(counters.late_us_max.load(Relaxed)), Relaxed);
        counters.ticks.store(counters.ticks.load(Relaxed) + 1, Relaxed);
    }

    fn retire(&self) {
        self.counters.ticks.store(RETIRED, Relaxed);
        *self.task() = None;
    }
}

/// A core's tick and deadlines. Clones are the same ticker; it stays on its core.
#[derive(Clone)]
pub struct Ticker(Rc<Inner>);

type Callback = Box<dyn FnMut(Mono)>;

struct Inner {
    idle: Duration,
    /// Time of the wheel's tick 0.
    start: Mono,
    wheel: RefCell<Wheel<Waker>>,
    callbacks: RefCell<Vec<Callback>>,
    heartbeat: Arc<Heartbeat>,
    busy: Cell<usize>,
    ticks: Cell<u64>,
    last: Cell<Mono>,
    /// Who waits for the next tick.
    waiting: RefCell<Vec<Waker>>,
    /// When the armed timer fires.
    due: Cell<Mono>,
    /// The armed timer is too far away: replace it.
    rearm: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// While it lives the core ticks every 5 ms.
#[must_use = "the core is busy while this lives"]
pub struct Busy(Rc<Inner>);

impl Drop for Busy {
    fn drop(&mut self) {
        // The armed tick stays: work that comes and goes within 5 ms costs no timer.
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

impl Ticker {
    /// Starts the tick of this executor: once per executor. The task ends with the executor or when it is cancelled. Returns
    /// when its timers are armed: an executor without them may park for ever.
    pub(super) async fn start(
        queue: &Queue,
        idle: Duration,
        heartbeat: Arc<Heartbeat>,
    ) -> (Ticker, Task<()>) {
        let start = clock::mono();
        let ticker = Ticker(Rc::new(Inner {
            idle,
            start,
            wheel: RefCell::new(Wheel::new(0)),
            callbacks: RefCell::default(),
            heartbeat,
            busy: Cell::new(0),
            ticks: Cell::new(0),
            last: Cell::new(start),
            waiting: RefCell::default(),
            due: Cell::new(start),
            rearm: Cell::new(false),
            task: RefCell::new(None),
        }));
        let task = queue.spawn(run(Rc::clone(&ticker.0)));
        while ticker.0.task.borrow().is_none() {
            glommio::executor().yield_task_queue_now().await;
        }
        (ticker, task)
    }

    /// Makes the core tick every 5 ms, from now on, for as long as the answer lives.
    pub fn busy(&self) -> Busy {
        self.0.busy.set(self.0.busy.get() + 1);
        self.0.hurry(self.0.time_of(self.0.tick_at(clock::mono()) + 1));
        Busy(Rc::clone(&self.0))
    }

    /// Calls `callback` at every tick, with the time. It must be short; it may not add callbacks.
    pub fn on_tick(&self, callback: impl FnMut(Mono) + 'static) {
        self.0.callbacks.borrow_mut().push(Box::new(callback));
    }

    /// Waits until `deadline`, at most one tick longer, never shorter. Dropped, it leaves nothing behind.
    pub fn sleep_until(&self, deadline: Mono) -> Sleep {
        Sleep { inner: Rc::clone(&self.0), deadline, key: None }
    }

    /// Waits for `duration`, at most one tick longer, never shorter.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(clock_after(duration))
    }

    /// Waits for the next tick, whenever that is: an idle core is not woken for it.
    pub fn next_tick(&self) -> NextTick {
        NextTick { inner: Rc::clone(&self.0), seen: self.0.ticks.get() }
    }

    /// When the last tick was.
    pub fn last_tick(&self) -> Mono {
        self.0.last.get()
    }

    /// How late the last tick was, microseconds.
    pub fn late_us(&self) -> u64 {
        self.0.heartbeat.late_us()
    }

    /// Sleeps that have neither fired nor been dropped.
    pub fn sleeping(&self) -> usize {
        self.0.wheel.borrow().len()
    }
}

fn clock_after(duration: Duration) -> Mono {
    clock::mono() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Inner {
    /// Has the tick come by `by`; the armed timer is kept if it is early enough.
    fn hurry(&self, by: Mono) {
        if by >= self.due.get() || self.rearm.replace(true) {
            return;
        }
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// When the next tick is to come. Busy ticks fall on those of the wheel, so a sleep is late by one tick, not by two.
    fn next(&self, now: Mono) -> Mono {
        let soon = self.time_of(self.tick_at(now) + 1);
        if self.busy.get() > 0 {
            return soon;
        }
        let idle = now + self.idle.as_nanos() as u64;
        match self.wheel.borrow().next_due() {
            Some(tick) => self.time_of(tick).clamp(soon, idle),
            None => idle,
        }
    }

    /// The last tick at or before `time`.
    fn tick_at(&self, time: Mono) -> u64 {
        time.since(self.start) / TICK_NS
    }

    /// The tick that a deadline belongs to: rounded up, so that nothing fires early.
    fn tick_of(&self, deadline: Mono) -> u64 {
        deadline.since(self.start).div_ceil(TICK_NS)
    }

    fn time_of(&self, tick: u64) -> Mono {
        self.start + tick.saturating_mul(TICK_NS)
    }

    fn tick(&self) {
        let now = clock::mono();
        self.heartbeat.beat(now.since(self.due.get()) / 1_000);
        self.ticks.set(self.ticks.get() + 1);
        self.last.set(now);
        let mut fired = self.waiting.take();
        self.wheel.borrow_mut().advance(self.tick_at(now), &mut fired);
        fired.into_iter().for_each(Waker::wake);
        self.callbacks.borrow_mut().iter_mut().for_each(|callback| callback(now));
    }
}

async fn run(inner: Rc<Inner>) {
    let _retire = Retire(Rc::clone(&inner));
    let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    *inner.heartbeat.task() = Some(task);
    loop {
        Beat { inner: &inner, timers: None }.await;
        inner.tick();
    }
}

/// The watchdog must not wait for a tick that was cancelled; after a panic it need not, the process ends.
struct Retire(Rc<Inner>);

impl Drop for Retire {
    fn drop(&mut self) {
        self.0.heartbeat.retire();
    }
}

/// One wait for the next tick, cut short by `hurry`.
struct Beat<'a> {
    inner: &'a Inner,
    timers: Option<Timers>,
}

/// glommio's timers are registered at each poll, once more if they are already: polled when new and when due.
struct Timers {
    tick: Timer,
    _backstops: [Timer; BACKSTOPS.len()],
}

impl Timers {
    /// Armed: the tick's timer fires `wait` from now or later.
    fn new(wait: Duration, cx: &mut Context<'_>) -> Timers {
        let backstop = |after| {
            let mut timer = Timer::new(wait + after);
            // It cannot be due yet, and if it were the tick is.
            let _pending = Pin::new(&mut timer).poll(cx);
            timer
        };
        Timers { _backstops: BACKSTOPS.map(backstop), tick: Timer::new(wait) }
    }
}

impl Future for Beat<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = self.inner;
        let now = clock::mono();
        let rearm = inner.rearm.replace(false);
        if self.timers.is_none() || rearm {
            // The old ones are dropped first, which takes them out of the reactor.
            self.timers = None;
            let due = inner.next(now);
            inner.due.set(due);
            // They read their own clock after `now` was read, so the tick fires at `due` or later.
            self.timers = Some(Timers::new(Duration::from_nanos(due.since(now)), cx));
            inner.task.replace(Some(cx.waker().clone()));
        } else if now + SPURIOUS_NS < inner.due.get() {
            // A wake that was not the timer's. To poll the timer again would register it twice, until both fire.
            return Poll::Pending;
        }
        let timers = self.timers.as_mut().expect("set above or before");
        Pin::new(&mut timers.tick).poll(cx).map(|_| ())
    }
}

/// A wait for the next tick.
#[must_use = "futures do nothing unless polled"]
pub struct NextTick {
    inner: Rc<Inner>,
    seen: u64,
}

impl Future for NextTick {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.ticks.get() != self.seen {
            return Poll::Ready(());
        }
        self.inner.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }
}

/// A wait on the core's wheel.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    inner: Rc<Inner>,
    deadline: Mono,
    key: Option<Key>,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Mono {
        self.deadline
    }

    /// Moves the end, as if it were a new sleep.
    pub fn reset(&mut self, deadline: Mono) {
        self.cancel();
        self.deadline = deadline;
    }

    fn cancel(&mut self) {
        if let Some(key) = self.key.take() {
            self.inner.wheel.borrow_mut().remove(key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = Rc::clone(&self.inner);
        if let Some(key) = self.key {
            let mut wheel = inner.wheel.borrow_mut();
            return match wheel.get_mut(key) {
                Some(waker) => {
                    waker.clone_from(cx.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            };
        }
        if self.deadline <= clock::mono() {
            return Poll::Ready(());
        }
        let tick = inner.tick_of(self.deadline);
        self.key = Some(inner.wheel.borrow_mut().insert(tick, cx.waker().clone()));
        inner.hurry(inner.time_of(tick));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::{CoreContext, Cores, join_watched, start, start_preempted};
    use crate::types::prng::Prng;

    fn on_core<B: Future<Output = ()> + 'static>(
        body: impl Fn(CoreContext) -> B + Clone + Send + 'static,
    ) -> Cores<()> {
        start(&[None], body).unwrap()
    }

    #[test]
    fn idle_ticks_keep_all_cores_under_a_hundredth_and_in_sight_of_the_watchdog() {
        assert_eq!(idle_tick(1), Duration::from_millis(100));
        assert_eq!(idle_tick(16), Duration::from_millis(320));
        assert_eq!(idle_tick(256), Duration::from_secs(1));
    }

    #[test]
    fn sleeps_end_in_order_and_never_early() {
        let body = |context: CoreContext| async move {
            let mut prng = Prng::new(1);
            let ended = Rc::new(RefCell::new(Vec::new()));
            let sleeps: Vec<_> = (0..200)
                .map(|_| {
                    let sleep = context.ticker.sleep(Duration::from_micros(prng.below(100_000)));
                    let ended = Rc::clone(&ended);
                    context.queues.requests.spawn(async move {
                        let deadline = sleep.deadline();
                        sleep.await;
                        assert!(clock::mono() >= deadline);
                        ended.borrow_mut().push(deadline);
                    })
                })
                .collect();
            for sleep in sleeps {
                sleep.await;
            }
            // Those of one tick end in any order.
            let one_tick = BUSY_TICK.as_nanos() as u64;
            assert!(ended.borrow().windows(2).all(|pair| pair[0] <= pair[1] + one_tick));
            assert_eq!(context.ticker.sleeping(), 0);
        };
        on_core(body).join().unwrap();
    }

    #[test]
    fn idle_core_wakes_for_a_sleep_that_ends_before_its_tick() {
        let body = |context: CoreContext| async move {
            let start = clock::mono();
            for _ in 0..20 {
                context.ticker.sleep(Duration::from_millis(5)).await;
            }
            // Idle ticks alone would take 2 s.
            assert!(clock::mono().since(start) < 1_000_000_000);
        };
        on_core(body).join().unwrap();
    }

    #[test]
    fn reset_sleep_ends_at_its_new_deadline() {
        let body = |context: CoreContext| async move {
            let mut sleep = context.ticker.sleep(Duration::from_secs(3_600));
            let deadline = clock::mono().after_ms(10);
            poll_fn(|cx| {
                assert!(Pin::new(&mut sleep).poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            sleep.reset(deadline);
            assert_eq!(context.ticker.sleeping(), 0);
            sleep.await;
            assert!(clock::mono() >= deadline);
        };
        on_core(body).join().unwrap();
    }

    #[test]
    fn every_tick_calls_back_and_counts_until_the_core_ends() {
        let body = |context: CoreContext| async move {
            let calls = Rc::new(Cell::new(0));
            let counted = Rc::clone(&calls);
            context.ticker.on_tick(move |_| counted.set(counted.get() + 1));
            let _busy = context.ticker.busy();
            for _ in 0..10 {
                context.ticker.next_tick().await;
            }
            assert!(calls.get() >= 10);
        };
        let cores = on_core(body);
        let heartbeat = Arc::clone(&cores.heartbeats()[0]);
        cores.join().unwrap();
        assert_eq!(heartbeat.ticks(), None);
        assert!(heartbeat.late_us_max() >= heartbeat.late_us());
    }

    #[test]
    fn request_to_stop_is_seen() {
        let cores = on_core(|context: CoreContext| async move { context.stopped().await });
        assert!(cores.heartbeats()[0].ticks().is_some());
        cores.stop().request();
        cores.join().unwrap();
    }

    /// Preempted every 20 µs, executors that share a CPU often find their time over between taking a timer's wake and
    /// running what it woke: without the timers behind the tick and the watchdog, some tick is a core's last.
    #[test]
    fn tick_outlives_a_contended_cpu() {
        const CORES: usize = 12;
        const TICKS: usize = 500;
        let body = |context: CoreContext| async move {
            let _busy = context.ticker.busy();
            for _ in 0..TICKS {
                context.ticker.next_tick().await;
                let end = clock::mono() + 500_000;
                while clock::mono() < end {}
            }
        };
        let cpu = core_affinity::get_core_ids().unwrap()[0].id;
        let cores = start_preempted(Duration::from_micros(20), &[Some(cpu); CORES], body).unwrap();
        join_watched(cores);
    }
}
