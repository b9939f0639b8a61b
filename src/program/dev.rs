//! `ringcore dev`: a cluster on this machine in one command. Its nodes are real `ringcore start` processes; this one only
//! starts them, says how to talk to them, and stops them.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::runtime::file_system::{FileSystem, Fitness};
use crate::runtime::signals::{HANGUP, INTERRUPT, SignalWatch, TERMINATE};

use super::dev_nodes::{Node, supervise};
use super::exit::{self, Exit, Refusal};
use super::setting::{Key, setting};

/// The usual ports, and how far apart those of the next try are.
const PORTS: [u16; 3] = [7717, 7718, 7719];
const PORTS_STEP: u16 = 10;
const PORTS_TRIES: u16 = 100;
/// Where clients of the first cluster connect; the script and ringctl know it.
const USUAL_CLIENT: &str = "127.0.0.1:7717";
/// A first program for the cluster, in the directory that is given.
const SCRIPT: &str = "hello.py";
/// Which ports an existing cluster uses: its nodes know each other by them.
const PORTS_FILE: &str = "ports";
/// Nodes, at most: on one machine, more only stand in each other's way.
const NODES_MAX: u32 = 9;
/// Settings of a node that are ours to choose.
const OURS: [Key; 7] =
    [Key::Name, Key::DataDir, Key::Listen, Key::PeerListen, Key::AdminListen, Key::Bootstrap, Key::Join];

/// What `dev` can be told.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
pub struct DevFlags {
    /// Nodes of the cluster, 1 to 9. Later it may be left away, or be greater: nodes are added while the cluster is empty.
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
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

impl Ports {
    fn all(self) -> [u16; 3] {
        [self.client, self.peer, self.admin]
    }
}

/// Runs the cluster until Ctrl-C, SIGTERM or the end of a node; gives the node's code then.
pub fn run(flags: &DevFlags) -> Exit {
    let asked = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&asked);
    // Asked twice it still waits for the node, which is told once and has its own limit.
    let watch = SignalWatch::start_with(
        &[INTERRUPT, TERMINATE, HANGUP],
        move |_| heard.store(true, Ordering::Relaxed),
        |_| (),
    );
    let _watch = match watch {
        Ok(watch) => watch,
        Err(error) => {
            let what = format!("cannot listen to signals: {error}");
            return exit::refuse(&[Refusal::new(Exit::FAILURE, what)]);
        }
    };
    let nodes = match nodes_of(flags) {
        Ok(nodes) => nodes,
        Err(refusal) => return exit::refuse(&[refusal]),
    };
    let ports: Vec<Ports> = nodes.iter().map(|node| node.ports).collect();
    let welcome = || welcome(&ports, &flags.dir);
    match supervise(nodes, || asked.load(Ordering::Relaxed), welcome) {
        Ok(exit) => exit,
        Err(error) => exit::refuse(&[Refusal::new(Exit::IO, format!("cannot watch the nodes: {error}"))]),
    }
}

/// The nodes to be started, the first of them first.
fn nodes_of(flags: &DevFlags) -> Result<Vec<Node>, Refusal> {
    if let Some(nodes @ (0 | NODES_MAX..)) = flags.nodes.filter(|nodes| *nodes != NODES_MAX) {
        let what = format!("--nodes {nodes}: a cluster of 1 to {NODES_MAX} nodes can be run");
        return Err(Refusal::new(Exit::SETTING, what).fix("fix: choose one of those, or leave --nodes away"));
    }
    let ours = OURS.map(|key| format!("--{}", setting(key).flag().expect("only limits have none")));
    let names = |argument: &String| ours.iter().any(|flag| argument.split('=').next() == Some(flag));
    if let Some(argument) = flags.start.iter().find(|argument| names(argument)) {
        let what = format!("{argument}: `dev` chooses this itself");
        return Err(Refusal::new(Exit::USAGE, what).fix("fix: leave it away, or run `ringcore start`"));
    }
    make_dir(&flags.dir)?;
    let unfit = match FileSystem::of(&flags.dir) {
        Ok(FileSystem { name, fitness: Fitness::Unfit(reason) }) => {
            let dir = flags.dir.display();
            exit::complain(format!("warning: {dir} lies on {name} ({reason}): data may be lost"));
            true
        }
        Ok(_) | Err(_) => false,
    };
    let ports = ports_of(&flags.dir, flags.nodes, is_free)?;
    let program = env::current_exe()
        .map_err(|error| Refusal::new(Exit::FAILURE, format!("cannot find this program: {error}")))?;
    let first = ports[0];
    let node = |(index, ports): (usize, &Ports)| {
        let name = format!("n{}", index + 1);
        let dir = flags.dir.join(&name);
        make_dir(&dir)?;
        let joins = (index > 0).then_some(first.peer);
        let command = command(&program, &name, &dir, (*ports, joins), unfit, &flags.start);
        Ok(Node { name, ports: *ports, command })
    };
    ports.iter().enumerate().map(node).collect()
}

fn make_dir(dir: &Path) -> Result<(), Refusal> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NOT_PERMITTED,
            _ => Exit::SETTING,
        };
        let refusal = Refusal::new(exit, format!("cannot make {}: {error}", dir.display()));
        refusal.fix("fix: run in another directory, or name one with --dir")
    })
}

/// The node's own command line. Its environment is ours but for settings: those of another node would disturb it. A
/// process group of its own keeps Ctrl-C away from it: it is told once, by us. `joins`: the first node's peer port.
fn command(
    program: &Path,
    name: &str,
    dir: &Path,
    (ports, joins): (Ports, Option<u16>),
    unfit: bool,
    more: &[String],
) -> Command {
    let mut command = Command::new(program);
    command.args(["start", "--name", name]);
    match joins {
        None => command.arg("--bootstrap"),
        Some(port) => command.arg("--join").arg(loopback(port).to_string()),
    };
    command.args(["--no-pin", "--data-dir"]).arg(dir);
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

/// The ports of each node: those of a cluster that is there already, for its nodes know each other by them, and free ones
/// for nodes to be added.
fn ports_of(dir: &Path, nodes: Option<u32>, is_free: impl Fn(u16) -> bool) -> Result<Vec<Ports>, Refusal> {
    let file = dir.join(PORTS_FILE);
    let mut known = read_ports(&file)?;
    // A cluster of one knows nobody: it moves to where there is room.
    if known.len() == 1 {
        known.clear();
    }
    let count = nodes.map_or(known.len().max(1), |nodes| nodes as usize);
    if count < known.len() {
        let what = format!("--nodes {count}: the cluster in {} has {} nodes", dir.display(), known.len());
        let refusal = Refusal::new(Exit::SETTING, what);
        return Err(refusal.fix("fix: leave --nodes away, or name another directory with --dir"));
    }
    for (index, ports) in known.iter().enumerate() {
        if let Some(port) = ports.all().into_iter().find(|port| !is_free(*port)) {
            let what = format!(
                "port {port} of n{} is taken, and the nodes know each other by their ports",
                index + 1
            );
            let refusal = Refusal::new(Exit::FAILURE, what);
            return Err(refusal.fix("fix: stop who uses it, or begin another cluster with --dir"));
        }
    }
    let mut attempts = 0..PORTS_TRIES;
    while known.len() < count {
        let Some(attempt) = attempts.next() else {
            let last = PORTS[0] + (PORTS_TRIES - 1) * PORTS_STEP;
            let what = format!("no free ports between {} and {last}", PORTS[0]);
            return Err(Refusal::new(Exit::FAILURE, what).fix("fix: stop other clusters of `ringcore dev`"));
        };
        let [client, peer, admin] = PORTS.map(|port| port + attempt * PORTS_STEP);
        let ports = Ports { client, peer, admin };
        if !known.contains(&ports) && ports.all().into_iter().all(&is_free) {
            known.push(ports);
        }
    }
    let lines = known.iter().map(|Ports { client, peer, admin }| format!("{client} {peer} {admin}\n"));
    fs::write(&file, lines.collect::<String>())
        .map_err(|error| Refusal::new(Exit::IO, format!("cannot write {}: {error}", file.display())))?;
    Ok(known)
}

fn read_ports(file: &Path) -> Result<Vec<Ports>, Refusal> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Refusal::new(Exit::IO, format!("cannot read {}: {error}", file.display())));
        }
    };
    let line = |line: &str| {
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Ports { client: next()?, peer: next()?, admin: next()? })
    };
    let ports: Option<Vec<Ports>> = text.lines().map(line).collect();
    ports.ok_or_else(|| {
        let what = format!("{} is not as `ringcore dev` writes it", file.display());
        Refusal::new(Exit::SETTING, what).fix("fix: name another directory with --dir")
    })
}

/// A short gap remains until the node listens itself; it ends with 1 and a sentence if somebody was faster.
fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

fn welcome(ports: &[Ports], dir: &Path) {
    let script =
        include_str!("../assets/hello.py").replace(USUAL_CLIENT, &loopback(ports[0].client).to_string());
    let script = fs::write(dir.join(SCRIPT), script).is_ok().then(|| dir.join(SCRIPT));
    // Beside a program that `cargo run` has built, the other one may not be built yet.
    let cargo = env::var_os("CARGO").is_some().then_some(match cfg!(debug_assertions) {
        true => "cargo run -q --bin",
        false => "cargo run -q --release --bin",
    });
    let search = |program: &str| {
        let found = find(program, env::var_os("PATH"), env::current_exe().ok());
        match (found, cargo, program) {
            (None, Some(cargo), "ringctl") => Some(format!("{cargo} ringctl --")),
            (found, ..) => found,
        }
    };
    exit::print(&greeting(ports, script.as_deref(), search));
}

/// How a program is called: by its name if the shell finds it, else by its path if it lies beside this one.
fn find(program: &str, path: Option<std::ffi::OsString>, own: Option<PathBuf>) -> Option<String> {
    let in_path = path.is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if in_path {
        return Some(program.to_owned());
    }
    let beside = own?.parent()?.join(program);
    let here = env::current_dir().ok();
    let shorter =
        here.and_then(|here| beside.strip_prefix(here).ok().map(|inner| Path::new(".").join(inner)));
    beside.is_file().then(|| shorter.unwrap_or(beside).display().to_string())
}

/// What can be typed now. Only for programs that are there. `script` is the greeting in Python.
fn greeting(ports: &[Ports], script: Option<&Path>, find: impl Fn(&str) -> Option<String>) -> String {
    let client = loopback(ports[0].client).to_string();
    let count = if let [_] = ports { "one node".to_owned() } else { format!("{} nodes", ports.len()) };
    let list = |of: fn(&Ports) -> u16, path: &str, before: &str| {
        ports
            .iter()
            .map(|ports| format!("{before}{}{path}", loopback(of(ports))))
            .collect::<Vec<_>>()
            .join("  ")
    };
    let mut text = format!(
        "\nA cluster of {count} is ready.\n  clients  {}\n  metrics  {}\n",
        list(|ports| ports.client, "", ""),
        list(|ports| ports.admin, "/metrics", "http://")
    );
    if let Some(ringctl) = find("ringctl") {
        let endpoint = if client == USUAL_CLIENT { String::new() } else { format!(" --endpoints {client}") };
        let lines =
            ["put hello world", "get hello", "status"].map(|line| format!("  {ringctl}{endpoint} {line}\n"));
        text.push_str(&format!("\nTry it:\n{}", lines.concat()));
    }
    if let Some(grpcurl) = find("grpcurl") {
        text.push_str(&format!(
            "\ngRPC by hand:\n  {grpcurl} -plaintext -d '{{\"key\":\"hello\",\"value\":\"world\"}}' {client} KVStore/Put\n  \
             {grpcurl} -plaintext -d '{{\"key\":\"hello\"}}' {client} KVStore/Get\n"
        ));
    }
    if let (Some(python), Some(script)) = (find("python3"), script) {
        let own = script.with_file_name("python");
        let (own, script) = (own.display(), script.display());
        text.push_str(&format!(
            "\nPython, without generated code ({script}):\n  {python} -m venv {own} && {own}/bin/pip install -q grpcio \
             grpcio-reflection\n  {own}/bin/python {script}\n"
        ));
    }
    text.push_str("\nCtrl-C stops it; the data stays.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("ringcore-dev-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::remove_file(dir.join(PORTS_FILE)).ok();
        dir
    }

    fn ports(first: u16) -> Ports {
        Ports { client: first, peer: first + 1, admin: first + 2 }
    }

    #[test]
    fn the_next_free_ports_are_taken_together() {
        let dir = scratch("ports");
        assert_eq!(ports_of(&dir, None, |_| true).unwrap(), [ports(7717)]);
        let free = |port| port != 7718 && port != 7729;
        assert_eq!(ports_of(&dir, None, free).unwrap(), [ports(7737)], "a lone node moves");
        assert_eq!(ports_of(&dir, Some(1), |_| false).unwrap_err().exit, Exit::FAILURE);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nodes_that_know_each_other_keep_their_ports() {
        let dir = scratch("kept");
        let three = [ports(7717), ports(7737), ports(7747)];
        assert_eq!(ports_of(&dir, Some(3), |port| port != 7728).unwrap(), three);
        assert_eq!(ports_of(&dir, None, |_| true).unwrap(), three);
        assert_eq!(ports_of(&dir, Some(4), |_| true).unwrap()[3], ports(7727));
        let taken = ports_of(&dir, None, |port| port != 7738).unwrap_err();
        assert!(taken.what.contains("port 7738 of n2 is taken"), "{taken}");
        let fewer = ports_of(&dir, Some(2), |_| true).unwrap_err();
        assert_eq!((fewer.exit, fewer.what.contains("has 4 nodes")), (Exit::SETTING, true), "{fewer}");
        fs::write(dir.join(PORTS_FILE), "what\n").unwrap();
        assert_eq!(ports_of(&dir, None, |_| true).unwrap_err().exit, Exit::SETTING);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let taken = TcpListener::bind(loopback(0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }

    #[test]
    fn no_nodes_and_too_many_are_refused() {
        for nodes in [0, 10] {
            let flags = DevFlags { nodes: Some(nodes), dir: "/nonexistent".into(), start: Vec::new() };
            let refusal = nodes_of(&flags).err().expect("it is refused");
            assert_eq!(refusal.exit, Exit::SETTING);
            assert!(refusal.what.contains(&format!("--nodes {nodes}")), "{refusal}");
        }
    }

    #[test]
    fn what_dev_chooses_cannot_be_chosen_for_the_node() {
        for argument in ["--listen", "--admin-listen=off", "--data-dir=/x", "--join=a:1"] {
            let flags = DevFlags { nodes: None, dir: "/nonexistent".into(), start: vec![argument.into()] };
            let refusal = nodes_of(&flags).err().expect("it is refused");
            assert_eq!((refusal.exit, refusal.what.contains(argument)), (Exit::USAGE, true), "{refusal}");
        }
    }

    #[test]
    fn the_node_gets_no_settings_but_ours() {
        let ports = Ports { client: 10, peer: 11, admin: 12 };
        let more = ["--cores".to_owned(), "2".to_owned()];
        let line = |name: &str, joins| {
            let dir = Path::new("d").join(name);
            let command = command(Path::new("ringcore"), name, &dir, (ports, joins), true, &more);
            let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
            arguments.join(" ")
        };
        let rest = "--listen 127.0.0.1:10 --peer-listen 127.0.0.1:11 --admin-listen 127.0.0.1:12 \
                    --allow-any-fs --cores 2";
        assert_eq!(line("n1", None), format!("start --name n1 --bootstrap --no-pin --data-dir d/n1 {rest}"));
        assert_eq!(
            line("n2", Some(9)),
            format!("start --name n2 --join 127.0.0.1:9 --no-pin --data-dir d/n2 {rest}")
        );
    }

    #[test]
    fn only_programs_that_are_there_are_told_of() {
        let ports = [ports(7727)];
        let script = Path::new("dev/hello.py");
        let text = greeting(&ports, Some(script), |_| None);
        assert!(
            text.contains("http://127.0.0.1:7729/metrics\n")
                && !text.contains("Python")
                && !text.contains("grpcurl")
        );
        let text = greeting(&ports, Some(script), |program| Some(format!("/opt/{program}")));
        for line in [
            "  /opt/ringctl --endpoints 127.0.0.1:7727 put hello world\n",
            "  /opt/grpcurl -plaintext -d '{\"key\":\"hello\"}' 127.0.0.1:7727 KVStore/Get\n",
            "  /opt/python3 -m venv dev/python && dev/python/bin/pip install -q grpcio grpcio-reflection\n",
            "  dev/python/bin/python dev/hello.py\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("7717"), "{text}");
        assert!(!greeting(&ports, None, |program| Some(program.to_owned())).contains("Python"));
    }

    #[test]
    fn every_node_of_a_cluster_is_told_of() {
        let text = greeting(&[ports(7717), ports(7727), ports(7737)], None, |_| Some("ringctl".into()));
        assert!(text.contains("A cluster of 3 nodes is ready.\n"), "{text}");
        assert!(text.contains("  clients  127.0.0.1:7717  127.0.0.1:7727  127.0.0.1:7737\n"), "{text}");
    }

    #[test]
    fn the_usual_port_needs_no_endpoint() {
        let text = greeting(&[ports(7717)], None, |_| Some("ringctl".into()));
        assert!(text.contains("\n  ringctl put hello world\n") && text.contains("of one node"), "{text}");
        assert!(include_str!("../assets/hello.py").contains(USUAL_CLIENT));
    }
}
