//! One executor per core: its thread, its CPU, its queues, its tick; starting all of them and waiting for their end.
//!
//! Executors are started once per process. What a core runs is its main future's business; before that returns it must
//! have cancelled and awaited its tasks and dropped its files, because an executor leaks what is still in flight.

use super::sockets::Sockets;
use super::tick::{Heartbeat, Ticker, idle_tick};
#[cfg(test)]
use super::watchdog::Watchdog;
use crate::types::CoreId;
use glommio::io::PollableFd;
use glommio::{
    Latency, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement, Shares, TaskQueueHandle,
};
use rustix::event::{EventfdFlags, eventfd};
use std::any::Any;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

/// Registered with each of an executor's three rings. glommio's own 10 MiB exceed the usual 8 MiB of locked memory.
const IO_MEMORY: usize = 1 << 20;
/// How long a task that does not yield may hold up others.
const PREEMPT: Duration = Duration::from_millis(1);
/// The same until the executor has its tick. An executor that finds itself preempted before it has looked at its first
/// task parks, and nothing would wake one that has neither a timer nor a waker yet: so it is not preempted till then.
const PREEMPT_AT_FIRST: Duration = Duration::from_secs(3_600);
/// Setting up rings takes 10 ms here; a machine that needs this long is not fit.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Where a core's executor runs: on one CPU, or wherever the scheduler puts it.
pub type Cpu = Option<usize>;

/// What a core's main future gets.
pub struct CoreContext {
    /// Which core this is.
    pub core: CoreId,
    /// How many there are.
    pub cores: usize,
    /// Where its tasks run.
    pub queues: Queues,
    /// Its tick and its deadlines.
    pub ticker: Ticker,
    /// Passes through its reactor.
    pub reactor: Reactor,
    /// Its connections are registered here.
    pub sockets: Sockets,
    /// Whether the node is to end.
    pub stop: Stop,
}

impl CoreContext {
    /// Waits until the node is to end. Seen at the next tick, so up to an idle tick late.
    pub async fn stopped(&self) {
        while !self.stop.is_requested() {
            self.ticker.next_tick().await;
        }
    }
}

/// The queues of a core. Tasks of one queue run in the order in which they were woken.
#[derive(Clone)]
pub struct Queues {
    /// Requests of clients and peers, and the messages of other cores.
    pub requests: Queue,
    /// The log's writer, so that no burst of requests delays a flush.
    pub log: Queue,
    /// Snapshots, repair, movement: a small share while there is other work, all of the core when there is none.
    pub background: Queue,
}

/// One queue of a core's tasks.
#[derive(Clone)]
pub struct Queue(TaskQueueHandle);

impl Queue {
    /// A queue that gets its share of the time where others have work too, and is preempted every `preempt`.
    fn new(name: &str, shares: usize, preempt: Duration) -> Queue {
        let latency = Latency::Matters(preempt);
        Queue(glommio::executor().create_task_queue(Shares::Static(shares), latency, name))
    }

    /// Runs a future as a task of this queue. Dropping the task cancels it.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        Task(glommio::spawn_local_into(future, self.0).expect("a core's queues live as long as its executor"))
    }
}

/// A task and the right to end it.
#[must_use = "a task is cancelled when this is dropped"]
pub struct Task<T>(glommio::Task<T>);

impl<T> Task<T> {
    /// Lets the task run to its end without an owner: only for what ends by itself.
    pub fn detach(self) {
        drop(self.0.detach());
    }

    /// Cancels the task and waits until it is gone; its result, if it was faster.
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Lets a long piece of work pass through the reactor between its steps. A bare yield would not: the executor polls its
/// rings only when its queues are empty or a millisecond is over.
#[derive(Clone)]
pub struct Reactor {
    /// An eventfd that is always readable: to wait for it takes one submission and one completion.
    ready: Rc<PollableFd<OwnedFd>>,
}

impl Reactor {
    fn new(always: OwnedFd) -> Reactor {
        Reactor { ready: Rc::new(PollableFd::new(always).expect("called on an executor")) }
    }

    /// Returns after the executor has been to the kernel and back, and others have had their turn.
    pub async fn pass(&self) {
        // It can only fail if the executor is gone, and then nobody polls this.
        self.ready.readable().await.expect("an open eventfd can be polled");
    }
}

/// The request to end, shared by all threads of the node.
#[derive(Clone, Default, Debug)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks all cores to end. They see it at their next tick.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why the executors could not be started. None runs afterwards.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused a thread.
    #[error("cannot start the thread of core {core}: {source}")]
    Thread {
        /// The core.
        core: CoreId,
        /// The system's words.
        source: io::Error,
    },
    /// io_uring could not be set up; `probe` says more.
    #[error("cannot start the executor of core {core}: {message}")]
    Executor {
        /// The core.
        core: CoreId,
        /// glommio's words.
        message: String,
    },
    /// The CPU cannot be had.
    #[error("cannot pin core {core} to CPU {cpu}")]
    Pin {
        /// The core.
        core: CoreId,
        /// The CPU.
        cpu: usize,
    },
    /// Not ready in time.
    #[error("{ready} of {cores} cores were ready within {} s", READY_WITHIN.as_secs())]
    Late {
        /// Cores that were.
        ready: usize,
        /// Cores to be started.
        cores: usize,
    },
}

/// A core ended by a panic (only where a panic unwinds: in tests).
#[derive(Debug, thiserror::Error)]
#[error("core {core} panicked: {message}")]
pub struct CorePanicked {
    /// The core.
    pub core: CoreId,
    /// What it said.
    pub message: String,
}

/// Running executors.
pub struct Cores<T> {
    threads: Vec<thread::JoinHandle<Option<T>>>,
    heartbeats: Vec<Arc<Heartbeat>>,
    stop: Stop,
}

impl<T> Cores<T> {
    /// Tick counters, by core.
    pub fn heartbeats(&self) -> &[Arc<Heartbeat>] {
        &self.heartbeats
    }

    /// The request to end.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Waits for all cores to end; the results of their main futures.
    pub fn join(self) -> Result<Vec<T>, CorePanicked> {
        let results = self.threads.into_iter().enumerate().map(|(core, thread)| {
            let panicked =
                |panic: Box<dyn Any + Send>| CorePanicked { core: core_id(core), message: words(&*panic) };
            Ok(thread.join().map_err(panicked)?.expect("the gates of all cores were opened"))
        });
        // Collected before looked at: all threads are waited for, even if the first one panicked.
        results.collect::<Vec<_>>().into_iter().collect()
    }
}

/// Starts one executor per entry of `cpus` and runs `main` on each. Returns when all have their rings; if one has not,
/// none runs `main`.
pub fn start<T, F, Main>(cpus: &[Cpu], main: F) -> Result<Cores<T>, StartError>
where
    T: Send + 'static,
    F: Fn(CoreContext) -> Main + Clone + Send + 'static,
    Main: Future<Output = T> + 'static,
{
    start_preempted(PREEMPT, cpus, main)
}

/// [`start`], with queues that are preempted every `preempt`.
pub(super) fn start_preempted<T, F, Main>(
    preempt: Duration,
    cpus: &[Cpu],
    main: F,
) -> Result<Cores<T>, StartError>
where
    T: Send + 'static,
    F: Fn(CoreContext) -> Main + Clone + Send + 'static,
    Main: Future<Output = T> + 'static,
{
    let mut cores = Cores { threads: Vec::new(), heartbeats: Vec::new(), stop: Stop::default() };
    let mut gates = Vec::new();
    let (ready, made) = mpsc::channel();
    for (index, &cpu) in cpus.iter().enumerate() {
        let core = core_id(index);
        let heartbeat = Arc::new(Heartbeat::default());
        let (go, gate) = mpsc::channel::<()>();
        let (ready, main, stop, count) = (ready.clone(), main.clone(), cores.stop.clone(), cpus.len());
        cores.heartbeats.push(Arc::clone(&heartbeat));
        gates.push(go);
        let body = move || {
            let (executor, files) = match make(core, cpu) {
                Ok(made) => made,
                Err(error) => {
                    // The starter may have given up already.
                    let _unheard = ready.send(Err(error));
                    return None;
                }
            };
            let _unheard = ready.send(Ok(()));
            drop(ready);
            // Blocking is harmless here: nothing runs on this executor yet.
            gate.recv().ok()?;
            Some(executor.run(run_core(core, count, preempt, heartbeat, stop, files, main)))
        };
        let thread = thread::Builder::new().name(format!("core-{core}")).spawn(body);
        cores.threads.push(thread.map_err(|source| StartError::Thread { core, source })?);
    }
    drop(ready);
    await_ready(&made, cpus.len())?;
    for gate in gates {
        gate.send(()).expect("a thread that reported ready waits at its gate");
    }
    Ok(cores)
}

fn await_ready(made: &mpsc::Receiver<Result<(), StartError>>, cores: usize) -> Result<(), StartError> {
    let deadline = Instant::now() + READY_WITHIN;
    for ready in 0..cores {
        let left = deadline.saturating_duration_since(Instant::now());
        made.recv_timeout(left).map_err(|_| StartError::Late { ready, cores })??;
    }
    Ok(())
}

/// Descriptors of an executor that are had before any core runs, so that a process out of them is told in order.
struct Files {
    /// Of the [`Reactor`].
    always: OwnedFd,
    /// Of the [`Sockets`].
    epoll: OwnedFd,
}

/// An executor on this thread, and what its core needs beside it.
fn make(core: CoreId, cpu: Cpu) -> Result<(LocalExecutor, Files), StartError> {
    let failed = |message: String| StartError::Executor { core, message };
    // Before the thread is pinned: glommio starts a thread for blocking calls here, which inherits the affinity, and it
    // must not take turns with the core.
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY)
        .preempt_timer(PREEMPT_AT_FIRST)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .map_err(|error| failed(error.to_string()))?;
    let always = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| failed(io::Error::from(error).to_string()))?;
    let epoll = Sockets::epoll().map_err(|error| failed(error.to_string()))?;
    if let Some(cpu) = cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        return Err(StartError::Pin { core, cpu });
    }
    Ok((executor, Files { always, epoll }))
}

async fn run_core<T: 'static, Main: Future<Output = T> + 'static>(
    core: CoreId,
    cores: usize,
    preempt: Duration,
    heartbeat: Arc<Heartbeat>,
    stop: Stop,
    files: Files,
    main: impl FnOnce(CoreContext) -> Main,
) -> T {
    let queue = |name, shares| Queue::new(name, shares, preempt);
    let (ticker, tick) = Ticker::start(&queue("tick", 1_000), idle_tick(cores), heartbeat).await;
    let queues = Queues {
        requests: queue("requests", 1_000),
        log: queue("log", 1_000),
        background: queue("background", 50),
    };
    let reactor = Reactor::new(files.always);
    let (sockets, listening) = Sockets::start(files.epoll, &queues.requests, ticker.clone());
    let context =
        CoreContext { core, cores, queues: queues.clone(), ticker, reactor: reactor.clone(), sockets, stop };
    // Not in this task's own queue, which is preempted as at first.
    let result = queues.requests.spawn(main(context)).await;
    listening.cancel().await;
    tick.cancel().await;
    // Files that were dropped close at the next submission, cancelled ones after the kernel's answer to that.
    reactor.pass().await;
    reactor.pass().await;
    result
}

fn core_id(index: usize) -> CoreId {
    CoreId(u16::try_from(index).expect("a node has at most 256 cores"))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Waits for the end of all cores, under the eyes of the watchdog, as a node does.
#[cfg(test)]
pub(super) fn join_watched<T: Send + 'static>(cores: Cores<T>) {
    let (ended, end) = mpsc::channel();
    let stuck = ended.clone();
    let stands_still = move |core| stuck.send(Some(core)).expect("the receiver waits");
    let _watchdog = Watchdog::start(cores.heartbeats().to_vec(), stands_still).expect("a thread can be had");
    thread::spawn(move || {
        cores.join().expect("no core panics");
        ended.send(None).expect("the receiver waits, or has heard of a core that stands still");
    });
    assert_eq!(end.recv(), Ok(None), "this core stands still");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn cores_run_on_their_cpus_and_know_their_number() {
        let ours = core_affinity::get_core_ids().unwrap();
        let cpus: Vec<_> = ours.iter().take(2).map(|cpu| Some(cpu.id)).collect();
        let here =
            |context: CoreContext| async move { (context.core, core_affinity::get_core_ids().unwrap()) };
        let cores = start(&cpus, here).unwrap().join().unwrap();
        for (index, (core, mask)) in cores.into_iter().enumerate() {
            assert_eq!(usize::from(core.0), index);
            assert_eq!(mask.into_iter().map(|cpu| Some(cpu.id)).collect::<Vec<_>>(), [cpus[index]]);
        }
    }

    #[test]
    fn one_core_that_cannot_start_stops_all() {
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ran);
        let main = move |_: CoreContext| {
            counted.fetch_add(1, Ordering::Relaxed);
            async {}
        };
        let Err(error) = start(&[None, Some(1_023)], main) else {
            panic!("pinned to a CPU that is not there")
        };
        assert!(matches!(error, StartError::Pin { core: CoreId(1), cpu: 1_023 }), "{error}");
        assert_eq!(ran.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn panic_of_a_core_is_told_at_the_end() {
        let main = |context: CoreContext| async move {
            assert!(context.core.0 == 0, "core 1 fell over");
        };
        let panicked = start(&[None, None], main).unwrap().join().unwrap_err();
        assert_eq!(panicked.to_string(), "core 1 panicked: core 1 fell over");
    }

    /// Preempted every 20 µs, most of the executors that share a CPU find their time over before they have looked at a
    /// task, and park: each must have been left something that wakes it.
    #[test]
    fn executors_start_on_a_contended_cpu() {
        const ROUNDS: usize = 100;
        const CORES: usize = 12;
        let cpu = core_affinity::get_core_ids().unwrap()[0].id;
        for _ in 0..ROUNDS {
            let main = |context: CoreContext| async move {
                let _busy = context.ticker.busy();
                context.ticker.next_tick().await;
            };
            let cores = start_preempted(Duration::from_micros(20), &[Some(cpu); CORES], main).unwrap();
            join_watched(cores);
        }
    }

    #[test]
    fn background_work_does_not_hold_up_requests() {
        let main = |context: CoreContext| async move {
            let reactor = context.reactor.clone();
            let steps = Rc::new(std::cell::Cell::new(0_u64));
            let counted = Rc::clone(&steps);
            let hog = context.queues.background.spawn(async move {
                loop {
                    counted.set(counted.get() + 1);
                    reactor.pass().await;
                }
            });
            for round in 0..1_000 {
                let before = steps.get();
                assert_eq!(context.queues.requests.spawn(async move { round }).await, round);
                // A step may be under way and another be due; a queue that waits its turn by shares would see hundreds.
                assert!(steps.get() - before < 20);
                context.reactor.pass().await;
            }
            assert!(steps.get() > 0);
            hog.cancel().await;
        };
        start(&[None], main).unwrap().join().unwrap();
    }
}
