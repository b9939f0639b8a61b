//! `ringcore dev`: a cluster on this machine in one command. Its nodes are real `ringcore start` processes; this one only
//! starts them, says how to talk to them, and stops them.

use std::env;
use std::fs::DirBuilder;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::exit::{self, Exit, Refusal};
use super::file_system::{FileSystem, Fitness};
use super::setting::{Key, setting};
use super::stop;

/// The usual ports, and how far apart those of the next try are.
const PORTS: [u16; 3] = [7717, 7718, 7719];
const PORTS_STEP: u16 = 10;
const PORTS_TRIES: u16 = 100;
/// How long a node may take to stop: its own limit.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often child and signals are looked at.
const GLANCE: Duration = Duration::from_millis(25);
/// How long one question to the admin port may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// When to say that a start takes long.
const LONG_START: Duration = Duration::from_secs(10);
/// Settings of a node that are ours to choose.
const OURS: [Key; 7] =
    [Key::Name, Key::DataDir, Key::Listen, Key::PeerListen, Key::AdminListen, Key::Bootstrap, Key::Join];

/// What `dev` can be told.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
pub struct DevFlags {
    /// Nodes of the cluster. This version runs one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: u32,
    /// Where the nodes keep their data, one directory each.
    #[arg(long, value_name = "DIR", default_value = "./ringcore-dev")]
    pub dir: PathBuf,
    /// Flags for `ringcore start`, after `--`.
    #[arg(last = true, value_name = "START FLAGS")]
    pub start: Vec<String>,
}

/// Where a node listens, all on loopback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For other nodes.
    pub peer: u16,
    /// For probes.
    pub admin: u16,
}

/// Runs the cluster until Ctrl-C, SIGTERM or the end of a node; gives the node's code then.
pub fn run(flags: &DevFlags) -> Exit {
    stop::listen();
    match start(flags) {
        Ok((child, ports)) => match supervise(child, ports, STOP_GRACE, stop::asked, welcome) {
            Ok(exit) => exit,
            Err(error) => exit::refuse(&[Refusal::new(Exit::IO, format!("cannot watch the node: {error}"))]),
        },
        Err(refusal) => exit::refuse(&[refusal]),
    }
}

fn start(flags: &DevFlags) -> Result<(Child, Ports), Refusal> {
    if flags.nodes != 1 {
        let what = format!("--nodes {}: this version runs clusters of one node only", flags.nodes);
        return Err(Refusal::new(Exit::SETTING, what).fix("fix: leave --nodes away"));
    }
    let ours = OURS.map(|key| format!("--{}", setting(key).flag().expect("only limits have none")));
    let names = |argument: &String| ours.iter().any(|flag| argument.split('=').next() == Some(flag));
    if let Some(argument) = flags.start.iter().find(|argument| names(argument)) {
        let what = format!("{argument}: `dev` chooses this itself");
        return Err(Refusal::new(Exit::USAGE, what).fix("fix: leave it away, or run `ringcore start`"));
    }
    let dir = flags.dir.join("n1");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NOT_PERMITTED,
            _ => Exit::SETTING,
        };
        let refusal = Refusal::new(exit, format!("cannot make {}: {error}", dir.display()));
        refusal.fix("fix: run in another directory, or name one with --dir")
    })?;
    let unfit = match FileSystem::of(&dir) {
        Ok(FileSystem { name, fitness: Fitness::Unfit(reason) }) => {
            exit::complain(format!("warning: {} lies on {name} ({reason}): data may be lost", dir.display()));
            true
        }
        Ok(_) | Err(_) => false,
    };
    let ports = free_ports(is_free)?;
    let program = env::current_exe()
        .map_err(|error| Refusal::new(Exit::FAILURE, format!("cannot find this program: {error}")))?;
    let mut command = command(&program, &dir, ports, unfit, &flags.start);
    let child = command.spawn().map_err(|error| {
        Refusal::new(Exit::FAILURE, format!("cannot start {}: {error}", program.display()))
    })?;
    Ok((child, ports))
}

/// The node's own command line. Its environment is ours but for settings: those of another node would disturb it. A
/// process group of its own keeps Ctrl-C away from it: it is told once, by us.
fn command(program: &Path, dir: &Path, ports: Ports, unfit: bool, more: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(["start", "--name", "n1", "--bootstrap", "--no-pin"]).arg("--data-dir").arg(dir);
    for (flag, port) in
        [("--listen", ports.client), ("--peer-listen", ports.peer), ("--admin-listen", ports.admin)]
    {
        command.arg(flag).arg(loopback(port).to_string());
    }
    if unfit {
        command.arg("--allow-any-fs");
    }
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("RINGCORE_")) {
            command.env_remove(name);
        }
    }
    command.args(more).process_group(0);
    command
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The usual ports, or the next three beside each other that are free.
fn free_ports(is_free: impl Fn(u16) -> bool) -> Result<Ports, Refusal> {
    for attempt in 0..PORTS_TRIES {
        let [client, peer, admin] = PORTS.map(|port| port + attempt * PORTS_STEP);
        if [client, peer, admin].into_iter().all(&is_free) {
            return Ok(Ports { client, peer, admin });
        }
    }
    let last = PORTS[0] + (PORTS_TRIES - 1) * PORTS_STEP;
    let what = format!("no free ports between {} and {last}", PORTS[0]);
    Err(Refusal::new(Exit::FAILURE, what).fix("fix: stop other clusters of `ringcore dev`"))
}

/// A short gap remains until the node listens itself; it ends with 1 and a sentence if somebody was faster.
fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

/// Waits until the node is ready, says so, and until it ends. Once asked to stop, tells it so, and ends it after `grace`.
/// Gives its code, 1 if a signal ended it, and 0 if it was we who had it stopped.
fn supervise(
    mut child: Child,
    ports: Ports,
    grace: Duration,
    asked: impl Fn() -> bool,
    ready: impl FnOnce(Ports),
) -> io::Result<Exit> {
    let begun = Instant::now();
    let (mut ready, mut said) = (Some(ready), false);
    while !asked() {
        if let Some(status) = child.try_wait()? {
            return Ok(code(status));
        }
        if ready.is_some() && is_ready(loopback(ports.admin)) {
            ready.take().expect("it is some")(ports);
        }
        if ready.is_some() && !said && begun.elapsed() >= LONG_START {
            said = true;
            exit::complain("still starting: a node with much data takes its time");
        }
        thread::sleep(GLANCE);
    }
    stop_child(child, grace)
}

fn stop_child(mut child: Child, grace: Duration) -> io::Result<Exit> {
    let begun = Instant::now();
    // One that has just ended cannot be told: try_wait finds it.
    kill_process(Pid::from_child(&child), Signal::TERM).ok();
    while begun.elapsed() < grace {
        if let Some(status) = child.try_wait()? {
            return Ok(code(status));
        }
        thread::sleep(GLANCE);
    }
    exit::complain(format!("error: the node did not stop within {} s: ended by force", grace.as_secs()));
    child.kill()?;
    child.wait()?;
    Ok(Exit::FAILURE)
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

fn welcome(ports: Ports) {
    let search = |program: &str| find(program, env::var_os("PATH"), env::current_exe().ok());
    exit::print(&greeting(ports, search));
}

/// How a program is called: by its name if the shell finds it, else by its path if it lies beside this one.
fn find(program: &str, path: Option<std::ffi::OsString>, own: Option<PathBuf>) -> Option<String> {
    let in_path = path.is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if in_path {
        return Some(program.to_owned());
    }
    let beside = own?.parent()?.join(program);
    beside.is_file().then(|| beside.display().to_string())
}

/// What can be typed now. Only for programs that are there.
fn greeting(ports: Ports, find: impl Fn(&str) -> Option<String>) -> String {
    let client = loopback(ports.client);
    let mut text = format!(
        "\nA cluster of one node is ready.\n  clients  {client}\n  metrics  http://{}/metrics\n",
        loopback(ports.admin)
    );
    if let Some(ringctl) = find("ringctl") {
        text.push_str(&format!(
            "\nTry it:\n  {ringctl} --endpoints {client} put hello world\n  {ringctl} --endpoints {client} get hello\n"
        ));
    }
    if let Some(grpcurl) = find("grpcurl") {
        text.push_str(&format!(
            "\ngRPC by hand:\n  {grpcurl} -plaintext -d '{{\"key\":\"hello\",\"value\":\"world\"}}' {client} KVStore/Put\n  \
             {grpcurl} -plaintext -d '{{\"key\":\"hello\"}}' {client} KVStore/Get\n"
        ));
    }
    if let Some(python) = find("python3") {
        let script = include_str!("../assets/hello.py").replace("127.0.0.1:7717", &client.to_string());
        text.push_str(&format!(
            "\nPython:\n{python} -m pip install grpcio grpcio-reflection\n{python} - <<'END'\n{script}END\n"
        ));
    }
    text.push_str("\nCtrl-C stops it; the data stays.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        command.spawn().unwrap()
    }

    /// A node that answers SIGTERM with `reaction`, and waits: it reads from a pipe that nobody writes to.
    fn waiting(reaction: &str) -> Child {
        let mut child = shell(&format!("trap '{reaction}' TERM; echo up; while read line; do :; done"));
        let mut up = [0; 3];
        child.stdout.as_mut().expect("it is piped").read_exact(&mut up).unwrap();
        child
    }

    fn unused_ports() -> Ports {
        Ports { client: 1, peer: 1, admin: 1 }
    }

    #[test]
    fn the_next_free_ports_are_taken_together() {
        let usual = Ports { client: 7717, peer: 7718, admin: 7719 };
        assert_eq!(free_ports(|_| true).unwrap(), usual);
        let next = Ports { client: 7737, peer: 7738, admin: 7739 };
        assert_eq!(free_ports(|port| port != 7718 && port != 7729).unwrap(), next);
        assert_eq!(free_ports(|_| false).unwrap_err().exit, Exit::FAILURE);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let taken = TcpListener::bind(loopback(0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }

    #[test]
    fn more_nodes_than_one_are_refused() {
        for nodes in [0, 3] {
            let flags = DevFlags { nodes, dir: "/nonexistent".into(), start: Vec::new() };
            let refusal = start(&flags).unwrap_err();
            assert_eq!(refusal.exit, Exit::SETTING);
            assert!(refusal.what.contains(&format!("--nodes {nodes}")), "{refusal}");
        }
    }

    #[test]
    fn what_dev_chooses_cannot_be_chosen_for_the_node() {
        for argument in ["--listen", "--admin-listen=off", "--data-dir=/x"] {
            let flags = DevFlags { nodes: 1, dir: "/nonexistent".into(), start: vec![argument.into()] };
            let refusal = start(&flags).unwrap_err();
            assert_eq!((refusal.exit, refusal.what.contains(argument)), (Exit::USAGE, true), "{refusal}");
        }
    }

    #[test]
    fn a_node_that_fails_passes_its_code_on() {
        let exit = supervise(shell("exit 78"), unused_ports(), STOP_GRACE, || false, |_| ()).unwrap();
        assert_eq!(exit, Exit::SETTING);
        let exit = supervise(shell("kill -9 $$"), unused_ports(), STOP_GRACE, || false, |_| ()).unwrap();
        assert_eq!(exit, Exit::FAILURE);
    }

    /// Answers one question to a node's admin port.
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
    fn a_ready_node_is_announced_once_and_told_to_stop() {
        let admin = TcpListener::bind(loopback(0)).unwrap();
        let ports = Ports { admin: admin.local_addr().unwrap().port(), ..unused_ports() };
        let (announced, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let exit = thread::scope(|scope| {
            scope.spawn(|| {
                for stream in admin.incoming() {
                    if announced.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                    // On a busy machine the asker gives up and asks again.
                    answer(stream.unwrap(), if first { "503 Service Unavailable" } else { "200 OK" }).ok();
                }
            });
            let child = waiting("exit 7");
            let stop = || announced.load(Ordering::Relaxed) > 0;
            let count = |_| {
                announced.fetch_add(1, Ordering::Relaxed);
            };
            let exit = supervise(child, ports, STOP_GRACE, stop, count);
            TcpStream::connect(loopback(ports.admin)).unwrap();
            exit
        });
        assert_eq!((exit.unwrap(), announced.into_inner()), (Exit(7), 1));
        assert!(asked.into_inner() > 1, "the first answer was no");
    }

    #[test]
    fn a_node_that_does_not_stop_is_ended() {
        let exit = stop_child(waiting(""), Duration::from_millis(1)).unwrap();
        assert_eq!(exit, Exit::FAILURE);
    }

    #[test]
    fn the_node_gets_no_settings_but_ours() {
        let ports = Ports { client: 10, peer: 11, admin: 12 };
        let more = ["--cores".to_owned(), "2".to_owned()];
        let command = command(Path::new("ringcore"), Path::new("d/n1"), ports, true, &more);
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
        assert_eq!(
            arguments.join(" "),
            "start --name n1 --bootstrap --no-pin --data-dir d/n1 --listen 127.0.0.1:10 \
             --peer-listen 127.0.0.1:11 --admin-listen 127.0.0.1:12 --allow-any-fs --cores 2"
        );
    }

    #[test]
    fn only_programs_that_are_there_are_told_of() {
        let ports = Ports { client: 7727, peer: 7728, admin: 7729 };
        let text = greeting(ports, |_| None);
        assert!(
            text.contains("http://127.0.0.1:7729/metrics\n")
                && !text.contains("Python")
                && !text.contains("grpcurl")
        );
        let text = greeting(ports, |program| Some(format!("/opt/{program}")));
        for line in [
            "  /opt/ringctl --endpoints 127.0.0.1:7727 put hello world\n",
            "  /opt/grpcurl -plaintext -d '{\"key\":\"hello\"}' 127.0.0.1:7727 KVStore/Get\n",
            "/opt/python3 - <<'END'\n",
            "insecure_channel(\"127.0.0.1:7727\")",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("7717"), "{text}");
    }
}
