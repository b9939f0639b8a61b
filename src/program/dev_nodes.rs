//! The processes of `ringcore dev`: started in order, watched, and stopped together.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::dev::Ports;
use super::exit::{self, Exit};

/// How long a node may take to stop: its own limit.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often children and signals are looked at.
const GLANCE: Duration = Duration::from_millis(25);
/// How long one question to the admin port may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// When to say that a start takes long.
const LONG_START: Duration = Duration::from_secs(10);

/// A node to be started.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) ports: Ports,
    pub(super) command: Command,
}

/// One that was started.
struct Running {
    node: Node,
    child: Child,
    ready: bool,
    /// What it ended with.
    ended: Option<Exit>,
}

/// Starts the first node, and the others once it is ready: they join it. Says so when all are, and waits until all have
/// ended. Once asked to stop, tells them so, and ends those that do not. Gives the first code that is not 0; 0 if it was
/// we who had them stopped.
pub(super) fn supervise(
    nodes: Vec<Node>,
    asked: impl Fn() -> bool,
    welcome: impl FnOnce(),
) -> io::Result<Exit> {
    let mut waiting = nodes.into_iter().peekable();
    let mut running: Vec<Running> = Vec::new();
    let (begun, mut said, mut welcome) = (Instant::now(), false, Some(welcome));
    while !asked() {
        if running.iter().all(|node| node.ready) {
            let next = if running.is_empty() { 1 } else { usize::MAX };
            for node in waiting.by_ref().take(next) {
                match Running::start(node) {
                    Ok(node) => running.push(node),
                    Err(error) => {
                        stop_all(&mut running, STOP_GRACE)?;
                        return Err(error);
                    }
                }
            }
        }
        let many = running.len() > 1 || waiting.peek().is_some();
        for node in &mut running {
            node.look(many)?;
        }
        let failed = running.iter().any(|node| node.ended.is_some() && !node.ready);
        if failed || running.iter().all(|node| node.ended.is_some()) {
            break;
        }
        if waiting.peek().is_none() && running.iter().all(|node| node.ready) {
            if let Some(welcome) = welcome.take() {
                welcome();
            }
        } else if !said && begun.elapsed() >= LONG_START {
            said = true;
            exit::complain("still starting: a node with much data takes its time");
        }
        thread::sleep(GLANCE);
    }
    stop_all(&mut running, STOP_GRACE)?;
    let codes = running.iter().filter_map(|node| node.ended);
    Ok(codes.into_iter().find(|code| *code != Exit(0)).unwrap_or(Exit(0)))
}

impl Running {
    fn start(mut node: Node) -> io::Result<Running> {
        let child = node.command.spawn()?;
        Ok(Running { node, child, ready: false, ended: None })
    }

    /// Has it become ready, or ended? Of a node among `many` that ends after it was ready, the others are told.
    fn look(&mut self, many: bool) -> io::Result<()> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            self.ended = Some(code(status));
            if many {
                let (name, again) = (&self.node.name, command_line(&self.node.command));
                exit::complain(format!("{name} has ended ({status}); to start it again:\n  {again}"));
            }
        }
        self.ready = self.ready || is_ready(loopback(self.node.ports.admin));
        Ok(())
    }
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Tells all that still run to stop, and ends those that have not after `grace`.
fn stop_all(running: &mut [Running], grace: Duration) -> io::Result<()> {
    let begun = Instant::now();
    for node in running.iter().filter(|node| node.ended.is_none()) {
        // One that has just ended cannot be told: try_wait finds it.
        kill_process(Pid::from_child(&node.child), Signal::TERM).ok();
    }
    for node in running {
        while node.ended.is_none() {
            node.ended = node.child.try_wait()?.map(code);
            if node.ended.is_none() && begun.elapsed() >= grace {
                let (name, seconds) = (&node.node.name, grace.as_secs());
                exit::complain(format!("error: {name} did not stop within {seconds} s: ended by force"));
                node.child.kill()?;
                node.child.wait()?;
                node.ended = Some(Exit::FAILURE);
            }
            if node.ended.is_none() {
                thread::sleep(GLANCE);
            }
        }
    }
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn code(status: ExitStatus) -> Exit {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(Exit::FAILURE, Exit)
}

/// One plain HTTP/1.1 question. Anything but a 200 means not yet.
fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&admin, ASK_TIMEOUT)?;
        stream.set_read_timeout(Some(ASK_TIMEOUT))?;
        stream.set_write_timeout(Some(ASK_TIMEOUT))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::process::Stdio;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn shell(name: &str, admin: u16, script: &str) -> Node {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
        Node { name: name.into(), ports: Ports { client: 1, peer: 1, admin }, command }
    }

    /// Answers SIGTERM with `reaction`, and waits: it reads from a pipe that nobody writes to.
    fn waiting(name: &str, admin: u16, reaction: &str) -> Node {
        shell(name, admin, &format!("trap '{reaction}' TERM; while read line; do :; done"))
    }

    /// A node's admin port: the first question is answered 503.
    fn admin(listener: &TcpListener, asked: &AtomicUsize, end: &AtomicBool) {
        for stream in listener.incoming() {
            if end.load(Ordering::Relaxed) {
                return;
            }
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            // On a busy machine the asker gives up and asks again.
            answer(stream.unwrap(), if first { "503 Service Unavailable" } else { "200 OK" }).ok();
        }
    }

    fn answer(mut stream: TcpStream, status: &str) -> io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.extend(byte);
        }
        assert!(request.starts_with(b"GET /readyz HTTP/1.1\r\n"));
        write!(stream, "HTTP/1.1 {status}\r\n\r\n")
    }

    #[test]
    fn a_node_that_fails_passes_its_code_on() {
        let exit = supervise(vec![shell("n1", 1, "exit 78")], || false, || ()).unwrap();
        assert_eq!(exit, Exit::SETTING);
        let exit = supervise(vec![shell("n1", 1, "kill -9 $$")], || false, || ()).unwrap();
        assert_eq!(exit, Exit::FAILURE);
    }

    /// Runs nodes that share one admin port until they were announced; how often that was, and how they ended.
    fn announced(nodes: impl FnOnce(u16) -> Vec<Node>) -> (usize, Exit, usize) {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, end, announced) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
        let exit = thread::scope(|scope| {
            scope.spawn(|| admin(&listener, &asked, &end));
            let stop = || announced.load(Ordering::Relaxed) > 0;
            let count = || {
                announced.fetch_add(1, Ordering::Relaxed);
            };
            let exit = supervise(nodes(port), stop, count);
            end.store(true, Ordering::Relaxed);
            TcpStream::connect(loopback(port)).unwrap();
            exit
        });
        (announced.into_inner(), exit.unwrap(), asked.into_inner())
    }

    #[test]
    fn a_ready_node_is_announced_once_and_told_to_stop() {
        // Told before the shell has set its trap, it would end by the signal: it is ready only later.
        let node = |port| vec![waiting("n1", port, "exit 7")];
        let (count, exit, asked) = announced(node);
        assert!(exit == Exit(7) || exit == Exit::FAILURE, "{exit:?}");
        assert_eq!(count, 1);
        assert!(asked > 1, "the first answer was no");
    }

    #[test]
    fn all_nodes_are_started_and_stopped_together() {
        let nodes = |port| (1..=3).map(|n| waiting(&format!("n{n}"), port, "exit 0")).collect();
        let (count, ..) = announced(nodes);
        assert_eq!(count, 1);
    }

    #[test]
    fn a_node_that_does_not_stop_is_ended() {
        let mut node = waiting("n1", 1, "");
        let child = node.command.spawn().unwrap();
        let mut running = [Running { node, child, ready: true, ended: None }];
        stop_all(&mut running, Duration::from_millis(1)).unwrap();
        assert_eq!(running[0].ended, Some(Exit::FAILURE));
    }
}
