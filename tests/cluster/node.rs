//! A node in a process of its own, and what an operator sees of it from outside.

use super::ports::free_addresses;
use ringcore::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// Longest wait for anything that a process must do; only a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at another process: nothing tells when it has done something.
const GLANCE: Duration = Duration::from_millis(5);

/// Tests that measure time have the machine to themselves; all others share it.
static MACHINE: RwLock<()> = RwLock::new(());

/// Shares the machine with other tests. A test that failed leaves nothing behind that disturbs the next.
pub(crate) fn among_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no other test runs, and holds them off.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The seed of this run, printed: cargo shows it with a failure.
pub(crate) fn seed() -> u64 {
    let seed = number_from("RINGCORE_TEST_SEED", 1);
    println!("RINGCORE_TEST_SEED={seed}");
    seed
}

/// A number from the environment.
pub(crate) fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")),
        Err(_) => default,
    }
}

/// Looks until it is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
        std::thread::sleep(GLANCE);
    }
}

/// Runs a test's asynchronous part on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(future)
}

/// What stays when a process ends: a data directory and three addresses.
pub(crate) struct Home {
    root: PathBuf,
    data: PathBuf,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Home {
    /// A directory of this test's own, not made yet.
    pub(crate) fn new(name: &str) -> Home {
        let root = scratch(name);
        let data = root.join("data");
        Home::at(root, data)
    }

    /// With its data elsewhere.
    pub(crate) fn with_data(name: &str, data: &Path) -> Home {
        Home::at(scratch(name), data.to_owned())
    }

    fn at(root: PathBuf, data: PathBuf) -> Home {
        fs::create_dir_all(&root).expect("the build's directory takes another");
        let [client, peer, admin] = free_addresses();
        Home { root, data, client, peer, admin }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// A place for the test's own files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// `ringcore start` here; flags that are given again replace the usual ones.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = ringcore();
        command
            .args(["start", "--no-pin", "--allow-any-fs", "--log-format", "json", "--data-dir"])
            .arg(&self.data);
        for (flag, address) in
            [("--listen", self.client), ("--peer-listen", self.peer), ("--admin-listen", self.admin)]
        {
            if !flags.contains(&flag) {
                command.args([flag, &address.to_string()]);
            }
        }
        command.args(flags);
        command
    }

    /// Tries to start, and expects that the process ends by itself.
    pub(crate) fn refused(&self, flags: &[&str]) -> (i32, String) {
        let mut child = self.command(flags).stderr(Stdio::piped()).spawn().expect("the program starts");
        let status = end_of(&mut child, PATIENCE).unwrap_or_else(|| {
            child.kill().ok();
            panic!("it was to refuse {flags:?}, and goes on")
        });
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("diagnostics are text");
        (status.code().expect("it ends by itself"), said)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A failed test leaves its data to be looked at.
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.root).ok();
        }
    }
}

/// Not made yet, and of nobody else.
fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("cluster-{name}-{}-{count}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The node's program, without settings from the environment.
pub(crate) fn ringcore() -> Command {
    without_settings(Command::new(env!("CARGO_BIN_EXE_ringcore")))
}

/// The client's program at an endpoint.
pub(crate) fn ringctl(endpoint: SocketAddr, words: &[&str]) -> Command {
    let mut command = without_settings(Command::new(env!("CARGO_BIN_EXE_ringctl")));
    command.env("RINGCTL_ENDPOINTS", endpoint.to_string()).args(words);
    command
}

fn without_settings(mut command: Command) -> Command {
    let ours = |name: &str| name.starts_with("RINGCORE_") || name.starts_with("RINGCTL_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Waits for a child's end.
pub(crate) fn end_of(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is a child") {
            return Some(status);
        }
        if begun.elapsed() > at_most {
            return None;
        }
        std::thread::sleep(GLANCE);
    }
}

/// A running node; killed when dropped.
pub(crate) struct Node {
    process: Child,
    log: PathBuf,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// Starts as member n1, and waits until it serves.
    pub(crate) fn start(home: &Home, flags: &[&str]) -> Node {
        Node::start_as(home, &[flags, &["--bootstrap", "--name", "n1"]].concat())
    }

    /// Starts as the member that the flags name, and waits until it serves.
    pub(crate) fn start_as(home: &Home, flags: &[&str]) -> Node {
        let mut node = Node::launch(home, flags);
        until("the node is ready", || {
            if let Some(status) = node.process.try_wait().expect("it is a child") {
                panic!("{status} instead of serving: {}", node.log());
            }
            node.is_ready()
        });
        node
    }

    /// Starts, and does not wait.
    pub(crate) fn launch(home: &Home, flags: &[&str]) -> Node {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let log = home.file(&format!("start-{}.log", STARTS.fetch_add(1, Ordering::Relaxed)));
        let stderr = File::create(&log).expect("the test's directory takes a file");
        let mut command = home.command(flags);
        command.stdout(Stdio::null()).stderr(stderr);
        let process = command.spawn().expect("the program starts");
        Node { process, log, address: home.client, admin: home.admin }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.page("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// What it said on stderr.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is there")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it has not been waited for");
    }

    /// The end that no process can prepare for.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it has not been waited for");
        self.process.wait().expect("it is a child");
    }

    /// Stops it as an operator does: it must end with 0, within the 10 s that the manual promises. Gives what it said.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = end_of(&mut self.process, Duration::from_secs(10));
        let status = status.unwrap_or_else(|| panic!("no end 10 s after SIGTERM: {}", self.log()));
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }

    /// A client of the library, with its defaults.
    pub(crate) async fn client(&self) -> Client {
        connect(self.address).await
    }

    /// A page of the admin port; None: it does not answer.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// A metric of each core, in their order; one value if it is the node's.
    pub(crate) fn metric(&self, name: &str) -> Vec<f64> {
        let (status, page) = self.page("/metrics").expect("the admin port answers");
        assert_eq!(status, 200);
        let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok());
        page.lines().filter(own).map(|line| value(line).expect("a sample ends in a number")).collect()
    }

    pub(crate) fn metric_sum(&self, name: &str) -> f64 {
        self.metric(name).iter().sum()
    }

    /// Sockets that the process has open.
    pub(crate) fn sockets(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("the process is there");
        let targets = open.flatten().flat_map(|entry| fs::read_link(entry.path()));
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Memory that is the process's own and not a file's, bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("the process is there");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the node said:\n{}", self.log());
        }
        // Already over after a stop.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A client of the library, with its defaults.
pub(crate) async fn connect(address: SocketAddr) -> Client {
    Client::builder().endpoints([address.to_string()]).connect().await.expect("the node takes a connection")
}

/// Runs a program to its end, and gives its exit code and both streams.
pub(crate) fn ran(mut command: Command) -> (i32, String, String) {
    let done = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks text");
    (done.status.code().expect("it ends by itself"), text(done.stdout), text(done.stderr))
}
