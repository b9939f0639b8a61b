//! A measured server: a child process, where it listens, the CPU time that it has used, its end.

use crate::empty::Stack;
use crate::wire::{Connection, Method};
use clap::ValueEnum as _;
use rustix::param::clock_ticks_per_second;
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
    /// A node of this program, with `--durability`.
    Node {
        /// The program.
        program: PathBuf,
        /// flushed or none.
        durability: &'static str,
    },
}

/// A running server; killed when dropped.
pub(crate) struct Server {
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
        fs::create_dir_all(dir)?;
        let address = free_address()?;
        let mut command = match kind {
            Kind::Empty(stack) => {
                let mut command = Command::new(std::env::current_exe()?);
                let stack = stack.to_possible_value().expect("no stack is hidden");
                command.args(["empty", "--listen", &address.to_string(), "--cores", cores]);
                command.args(["--stack", stack.get_name()]);
                command
            }
            Kind::Node { program, durability } => {
                let mut command = Command::new(program);
                command.args(["start", "--bootstrap", "--name", "n1", "--admin-listen", "off"]);
                command.args([
                    "--listen",
                    &address.to_string(),
                    "--peer-listen",
                    &free_address()?.to_string(),
                ]);
                command.args(["--cores", cores, "--durability", durability, "--log-format", "json"]);
                command.arg("--data-dir").arg(dir.join("data"));
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RINGCORE_")) {
                command.env_remove(name);
            }
        }
        let stderr = dir.join("stderr");
        let process =
            command.stderr(File::create(&stderr)?).stdin(Stdio::null()).spawn().map_err(|error| {
                let program = command.get_program().display().to_string();
                io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
            })?;
        let mut server = Server { process, address, stderr };
        server.await_answer()?;
        Ok(server)
    }

    /// CPU time of all its threads, user and system.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The program's name, in brackets, may hold anything; 11 and 12 fields after its state come the two times.
        let times = stat.rsplit_once(") ").and_then(|(_, fields)| {
            let mut fields = fields.split(' ').skip(11);
            let mut ticks = || fields.next()?.parse::<u64>().ok();
            Some(ticks()? + ticks()?)
        });
        let ticks = times
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "/proc/PID/stat is not as expected"))?;
        Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
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

    /// Does a Get succeed, whatever it finds?
    fn answers(&self) -> io::Result<bool> {
        let mut connection = Connection::open(self.address, Method::Get)?;
        connection.call(&[0x0A, 1, b'k'], Instant::now());
        let mut well = false;
        while connection.open_calls() > 0 {
            connection.exchange(|ended| well = ended.bytes > 0)?;
        }
        Ok(well)
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
