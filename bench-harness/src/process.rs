//! A measured server: a child process, where it listens, the CPU time that it has used, its end.

use crate::client::connection::Connection;
use crate::client::etcd::Etcd;
use crate::client::redis::Redis;
use crate::client::ringcore::Ringcore;
use crate::client::{Action, Answer, Request, Session};
use crate::empty::Stack;
use crate::machine;
use crate::target::{Protocol, Target};
use clap::ValueEnum as _;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take until it answers: a node with much data reads it first.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// Between two looks whether it does.
const GLANCE: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A service that does nothing.
    Empty(Stack),
    /// A node.
    Node {
        /// The program.
        program: PathBuf,
        /// Its `--durability`: flushed or none.
        durability: &'static str,
        /// Its `--log-level`.
        log_level: &'static str,
    },
    /// etcd, a cluster of one.
    Etcd,
    /// Redis, which acknowledges what it has flushed.
    Redis,
}

impl Kind {
    /// A node as it comes.
    pub(crate) fn node(program: &Path) -> Kind {
        Kind::Node { program: program.to_owned(), durability: "flushed", log_level: "info" }
    }
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    kind: Kind,
    process: Child,
    /// Where it serves.
    pub(crate) address: SocketAddr,
    /// What it says of itself.
    stderr: PathBuf,
}

impl Server {
    /// Starts a server on `cores` (as `ringcore start --cores` has it), its data and its trace in `dir`, and waits until
    /// it answers.
    pub(crate) fn start(kind: &Kind, cores: &str, dir: &Path) -> io::Result<Server> {
        Server::start_at(kind, cores, dir, free_address()?)
    }

    /// As [`Server::start`], at that address.
    pub(crate) fn start_at(kind: &Kind, cores: &str, dir: &Path, address: SocketAddr) -> io::Result<Server> {
        fs::create_dir_all(dir)?;
        let mut command = match kind {
            Kind::Empty(stack) => {
                let mut command = Command::new(std::env::current_exe()?);
                let stack = stack.to_possible_value().expect("no stack is hidden");
                command.args(["empty", "--listen", &address.to_string(), "--cores", cores]);
                command.args(["--stack", stack.get_name()]);
                command
            }
            Kind::Node { program, durability, log_level } => {
                let mut command = Command::new(program);
                command.args(["start", "--bootstrap", "--name", "n1", "--admin-listen", "off"]);
                command.args([
                    "--listen",
                    &address.to_string(),
                    "--peer-listen",
                    &free_address()?.to_string(),
                ]);
                command.args(["--cores", cores, "--durability", durability]);
                command.args(["--log-format", "json", "--log-level", log_level]);
                command.arg("--data-dir").arg(dir.join("data"));
                command
            }
            Kind::Etcd => {
                let (client, peer) = (format!("http://{address}"), format!("http://{}", free_address()?));
                let mut command = Command::new("etcd");
                command.args([
                    "--name",
                    "n1",
                    "--listen-client-urls",
                    &client,
                    "--advertise-client-urls",
                    &client,
                ]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("n1={peer}"), "--log-level", "warn"]);
                // What is measured is the store, not how it says no: as much space as it can have.
                command.args(["--quota-backend-bytes", "8589934592"]).arg("--data-dir").arg(dir.join("data"));
                command
            }
            Kind::Redis => {
                fs::create_dir_all(dir.join("data"))?;
                let mut command = Command::new("redis-server");
                command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
                command.args([
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "always",
                    "--auto-aof-rewrite-percentage",
                    "0",
                ]);
                command.arg("--dir").arg(dir.join("data")).stdout(Stdio::null());
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RINGCORE_")) {
                command.env_remove(name);
            }
        }
        let stderr = dir.join("stderr");
        // A node pins itself; another store stays where it is put, with all its threads.
        let cpu = match kind {
            Kind::Empty(_) | Kind::Node { .. } => None,
            Kind::Etcd | Kind::Redis => cores.split('-').next().and_then(|cpu| cpu.parse().ok()),
        };
        command.stderr(File::create(&stderr)?).stdin(Stdio::null());
        let process = spawn_on(cpu, &mut command).map_err(|error| {
            let program = command.get_program().display().to_string();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        let mut server = Server { kind: kind.clone(), process, address, stderr };
        server.await_answer()?;
        Ok(server)
    }

    /// CPU time of all its threads, user and system.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        machine::cpu_time(self.process.id())
    }

    /// The lines of its trace with that message.
    pub(crate) fn traced(&self, message: &str) -> io::Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(&self.stderr)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(lines.filter(|line| line["message"] == message).collect())
    }

    /// Ends it as a power cut of the process would.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }

    /// Stops it as an operator does; an exit code other than 0 is an error.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let status = self.process.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("the server ended with {status}: {}", self.last_words())))
    }

    fn await_answer(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < READY_WITHIN {
            if let Some(status) = self.process.try_wait()? {
                return Err(io::Error::other(format!(
                    "the server ended with {status}: {}",
                    self.last_words()
                )));
            }
            if self.answers().unwrap_or(false) {
                return Ok(());
            }
            thread::sleep(GLANCE);
        }
        Err(io::Error::new(ErrorKind::TimedOut, format!("the server does not answer: {}", self.last_words())))
    }

    /// Does a read succeed, whatever it finds?
    fn answers(&self) -> io::Result<bool> {
        let authority = self.address.to_string();
        match self.target().protocol {
            Protocol::Ringcore(manner) => answers(self.address, Ringcore::new(authority, manner)),
            Protocol::Etcd => answers(self.address, Etcd::new(authority)),
            Protocol::Redis => answers(self.address, Redis::default()),
        }
    }

    /// Where it serves, and what it speaks.
    pub(crate) fn target(&self) -> Target {
        let node = Target::node(self.address);
        match self.kind {
            Kind::Empty(_) | Kind::Node { .. } => node,
            Kind::Etcd => Target { protocol: Protocol::Etcd, ..node },
            Kind::Redis => Target { protocol: Protocol::Redis, ..node },
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.stderr).unwrap_or_default();
        text.lines().last().unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already over after a stop.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A port that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn answers<S: Session>(address: SocketAddr, session: S) -> io::Result<bool> {
    const WITHIN: Duration = Duration::from_secs(2);
    let mut connection = Connection::open(address, session)?;
    connection.await_opened(WITHIN)?;
    let mut request = Request::new(1);
    request.reset(Action::Read);
    request.keys.push(b'k');
    connection.begin(&request, 0);
    let mut well = false;
    connection.settle(WITHIN, &mut |end| well = matches!(end.answer, Answer::Done { .. }))?;
    Ok(well)
}

/// Starts a program on one CPU: it inherits that from the thread that starts it.
fn spawn_on(cpu: Option<usize>, command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        let spawn = scope.spawn(|| {
            if let Some(id) = cpu {
                // If it may not be pinned it is still measured, with more spread.
                let _pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            command.spawn()
        });
        spawn.join().expect("starting a program does not panic")
    })
}
