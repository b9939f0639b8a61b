//! `ringcore dev`: a cluster in one command, and nothing left of it afterwards but its data.

use super::node::{Home, among_others, end_of, ran, ringcore, ringctl, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `dev` looks for free ports and starts nodes there a moment later: two at once may find the same.
static PORTS: Mutex<()> = Mutex::new(());

#[test]
fn dev_serves_until_it_is_interrupted_and_keeps_its_data() {
    let _shared = among_others();
    let _ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new("dev");
    for round in 0..2 {
        let mut command = ringcore();
        command.args(["dev", "--dir"]).arg(home.data());
        let mut dev =
            Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts"));
        let said = said_until(&mut dev.0, "Ctrl-C stops it");
        let address =
            said.iter().find_map(|line| line.trim().strip_prefix("clients ")).expect("it says where");
        let address: SocketAddr = address.trim().parse().expect("an address");
        assert!(said.iter().any(|line| line.contains("put hello world")), "{said:?}");
        let before = ran(ringctl(address, &["get", "hello"]));
        assert_eq!((before.0, &*before.1), if round == 0 { (1, "") } else { (0, "world") });
        assert_eq!(ran(ringctl(address, &["put", "hello", "world"])).0, 0);
        assert_eq!(ran(ringctl(address, &["get", "hello"])).1, "world");

        let nodes = children(dev.0.id());
        assert_eq!(nodes.len(), 1, "one node");
        kill_process(Pid::from_child(&dev.0), Signal::INT).unwrap();
        let status = end_of(&mut dev.0, Duration::from_secs(15)).expect("Ctrl-C ends it");
        assert_eq!(status.code(), Some(0));
        until("no orphan is left", || nodes.iter().all(|node| test_kill_process(*node).is_err()));
    }
}

#[test]
fn dev_runs_a_cluster_that_outlives_one_of_its_nodes() {
    let _shared = among_others();
    let _ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let home = Home::new("dev-three");
    let mut command = ringcore();
    command.args(["dev", "--nodes", "3", "--dir"]).arg(home.data());
    let mut dev =
        Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts"));
    let said = said_until(&mut dev.0, "Ctrl-C stops it");
    assert!(said.iter().any(|line| line == "A cluster of 3 nodes is ready."), "{said:?}");
    let clients = said.iter().find_map(|line| line.trim().strip_prefix("clients ")).expect("it says where");
    let clients: Vec<SocketAddr> =
        clients.split_whitespace().map(|address| address.parse().expect("an address")).collect();
    assert_eq!(clients.len(), 3);
    until("the cluster has formed", || ran(ringctl(clients[2], &["status"])).1.matches("yes").count() == 3);
    assert_eq!(ran(ringctl(clients[0], &["put", "hello", "world"])).0, 0);
    let nodes = children(dev.0.id());
    assert_eq!(nodes.len(), 3);
    let is_second = |node: &&Pid| {
        let line = fs::read(format!("/proc/{}/cmdline", node.as_raw_nonzero())).expect("it runs");
        line.split(|byte| *byte == 0).any(|word| word == b"n2")
    };
    kill_process(*nodes.iter().find(is_second).expect("there is an n2"), Signal::KILL).unwrap();
    for client in [clients[0], clients[2]] {
        let mut said = Default::default();
        until(&format!("it is read without the dead one, through {client}"), || {
            said = ran(ringctl(client, &["get", "hello"]));
            said.1 == "world"
        });
    }
    kill_process(Pid::from_child(&dev.0), Signal::INT).unwrap();
    end_of(&mut dev.0, Duration::from_secs(15)).expect("Ctrl-C ends it");
    until("no orphan is left", || nodes.iter().all(|node| test_kill_process(*node).is_err()));
}

/// Interrupted when a test fails, so that its node ends with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            kill_process(Pid::from_child(&self.0), Signal::INT).ok();
            self.0.wait().ok();
        }
    }
}

fn said_until(child: &mut Child, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        lines.push(line.expect("it speaks text"));
        if lines.last().is_some_and(|line| line.contains(last)) {
            return lines;
        }
    }
    panic!("it ended before it was ready: {lines:?}")
}

/// Processes whose parent this is.
fn children(parent: u32) -> Vec<Pid> {
    let parent = format!("PPid:\t{parent}");
    let pids = fs::read_dir("/proc")
        .expect("it is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| status.lines().any(|line| line == parent))
    };
    pids.filter(ours).filter_map(Pid::from_raw).collect()
}
