//! `ringcore wal` and `ringcore snapshot` on what a real node left behind: sound, damaged, in use, and not one's own.
#![cfg(all(feature = "server", feature = "client"))]
#![allow(clippy::unwrap_used, reason = "a test's way to fail, in its helpers too")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BLOCK_BYTES: u64 = 4_096;

/// A path of one test, absent at its beginning.
fn fresh(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("offline-{name}"));
    match fs::remove_dir_all(&path) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
    path
}

/// A node in a process of its own; killed if a test ends without stopping it.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    fn command(dir: &Path, cores: &str) -> (Command, String) {
        // Held together, so that they differ; free again when the node asks for them.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = ports.map(|port| port.local_addr().unwrap().to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringcore"));
        command.env_clear().stdin(Stdio::null());
        command.args([
            "start",
            "--bootstrap",
            "--name",
            "n1",
            "--no-pin",
            "--allow-any-fs",
            "--cores",
            cores,
        ]);
        command.args(["--listen", &client, "--peer-listen", &peer, "--admin-listen", "off", "--data-dir"]);
        command.arg(dir);
        (command, client)
    }

    fn start(dir: &Path, cores: &str, more: &[&str]) -> Node {
        let (mut command, address) = Node::command(dir, cores);
        let process = command.args(more).stderr(Stdio::null()).spawn().unwrap();
        let node = Node { process, address };
        node.ctl(&["health", "--wait", "--timeout", "60s"]);
        node
    }

    fn ctl(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringctl"));
        let output = command.env_clear().args(["--endpoints", &self.address]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "a clean stop");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already over after a stop.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A directory with one core that holds k0 to k9, v0 to v9, k3 deleted; each write in a batch of its own.
fn written(name: &str) -> PathBuf {
    let dir = fresh(name);
    let node = Node::start(&dir, "1", &[]);
    for key in 0..10 {
        node.ctl(&["put", &format!("k{key}"), &format!("v{key}")]);
    }
    node.ctl(&["del", "k3"]);
    node.stop();
    dir
}

fn look(words: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringcore")).env_clear().args(words).arg(path).output().unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn report(path: &Path) -> (Option<i32>, Value) {
    let output = look(&["wal", "verify", "-o", "json"], path);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    (code(&output), report["logs"][0].clone())
}

/// The LSN of the batch that holds the put of a key.
fn lsn_of(dir: &Path, key: &str) -> u64 {
    let listed = look(&["wal", "dump", "-o", "json"], dir);
    let entries = text(&listed.stdout);
    let mut entries = entries.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.find(|entry| entry["key"] == key && entry["kind"] == "put").unwrap()["lsn"].as_u64().unwrap()
}

fn spoil_block(dir: &Path, lsn: u64) {
    let path = dir.join("layout-0001/core-000/wal-0000");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, lsn * BLOCK_BYTES + 100).unwrap();
    file.write_all_at(&[!byte[0]], lsn * BLOCK_BYTES + 100).unwrap();
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn sound_log_is_counted_and_listed_and_left_as_it_was() {
    let dir = written("sound");
    let before = contents(&dir);
    let (exit, report) = report(&dir);
    assert_eq!((exit, &report["verdict"]), (Some(0), &"clean".into()), "{report}");
    assert_eq!(report["keys"], 10, "{report}");
    assert_eq!(report["damage"].as_array().unwrap().len(), 0, "{report}");
    for path in [dir.clone(), dir.join("layout-0001"), dir.join("layout-0001/core-000")] {
        let listed = text(&look(&["wal", "dump"], &path).stdout);
        assert_eq!(listed.lines().filter(|line| line.contains("\tput\t")).count(), 10, "{listed}");
        assert!(
            listed.lines().any(|line| line.contains("\tdelete\t") && line.contains("\tk3\t")),
            "{listed}"
        );
        assert!(!listed.contains("v7"), "values are shown only if asked for: {listed}");
    }
    let segment = dir.join("layout-0001/core-000/wal-0000");
    let listed = text(&look(&["wal", "dump", "--values"], &segment).stdout);
    assert!(listed.contains("\tv7\t"), "{listed}");
    let snapshot = look(&["snapshot", "verify"], &dir);
    assert_eq!(code(&snapshot), Some(0), "{snapshot:?}");
    assert_eq!(code(&look(&["snapshot", "dump"], &dir)), Some(0));
    assert!(contents(&dir) == before, "nothing is changed");
}

#[test]
fn damaged_log_is_explained_alike_by_verify_and_start_and_given_up_only_if_told() {
    let dir = written("damaged");
    let lsn = lsn_of(&dir, "k4");
    spoil_block(&dir, lsn);
    let (exit, report) = report(&dir);
    assert_eq!((exit, &report["verdict"]), (Some(74), &"corrupt".into()), "{report}");
    assert_eq!(report["damage"][0]["from_lsn"], lsn, "{report}");
    assert_eq!((&report["keys"], &report["keys_after"]), (&9.into(), &6.into()), "{report}");

    let listed = look(&["wal", "dump"], &dir);
    assert_eq!(code(&listed), Some(74), "what cannot be read is not passed over in silence");
    assert!(text(&listed.stdout).contains("\tk5\t") && !text(&listed.stdout).contains("\tk4\t"));

    let refused = Node::command(&dir, "1").0.output().unwrap();
    assert_eq!(code(&refused), Some(74), "{refused:?}");
    let (said, shown) = (text(&refused.stderr), text(&look(&["wal", "verify"], &dir).stdout));
    for words in ["acknowledged writes are unreadable", "can be read: 9 keys in ", " UTC"] {
        assert!(said.contains(words) && shown.contains(words), "{words}: {said} {shown}");
    }
    assert!(said.contains("--accept-data-loss"), "{said}");

    let node = Node::start(&dir, "1", &["--accept-data-loss"]);
    assert_eq!(node.ctl(&["get", "k5"]), "v5");
    node.stop();
}

#[test]
fn log_of_a_running_node_is_read_beside_it() {
    let dir = fresh("running");
    let node = Node::start(&dir, "2", &[]);
    node.ctl(&["put", "k", "v"]);
    let (exit, report) = report(&dir);
    assert_eq!((exit, report["layout"].as_u64()), (Some(0), Some(1)), "{report}");
    assert_eq!(code(&look(&["snapshot", "verify"], &dir)), Some(0));
    node.stop();
}

#[test]
fn every_layout_in_force_is_read() {
    let dir = written("layouts");
    let node = Node::start(&dir, "2", &[]);
    assert_eq!(node.ctl(&["get", "k7"]), "v7");
    node.stop();
    let output = look(&["wal", "verify", "-o", "json"], &dir);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cores: Vec<_> = report["logs"].as_array().unwrap().iter().collect();
    let cores: Vec<_> = cores.iter().map(|log| (log["layout"].as_u64(), log["core"].as_u64())).collect();
    assert_eq!(cores, [(Some(1), Some(0)), (Some(2), Some(0)), (Some(2), Some(1))], "{report}");
    assert_eq!(code(&output), Some(0), "{report}");
}

#[test]
fn what_is_not_a_data_directory_is_refused_with_78() {
    let dir = written("foreign");
    let core = dir.join("layout-0001/core-000");
    for (words, path) in [
        (["wal", "verify"], Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf()),
        (["wal", "dump"], dir.join("absent")),
        (["wal", "verify"], dir.join("LOCK")),
        (["wal", "verify"], core.join("MANIFEST")),
        (["snapshot", "verify"], core.join("wal-0000")),
        (["snapshot", "dump"], core.join("part-00-000001")),
    ] {
        let output = look(&words, &path);
        assert_eq!(code(&output), Some(78), "{words:?} {}: {output:?}", path.display());
        assert!(text(&output.stderr).starts_with("error: ") && output.stdout.is_empty());
    }
}

#[test]
fn damaged_descriptions_are_damage_and_name_the_file() {
    let dir = written("undescribed");
    let spoil = |path: &Path| {
        File::options().write(true).open(path).unwrap().write_all_at(&[0xFF; 32], 0).unwrap();
    };
    spoil(&dir.join("layout-0001/core-000/MANIFEST"));
    let output = look(&["wal", "verify"], &dir);
    assert_eq!(code(&output), Some(74));
    assert!(text(&output.stdout).contains("core-000/MANIFEST is damaged"), "{output:?}");
    assert_eq!(code(&look(&["snapshot", "verify"], &dir)), Some(74));
    spoil(&dir.join("NODE"));
    let output = look(&["wal", "verify"], &dir);
    assert_eq!(code(&output), Some(74));
    assert!(text(&output.stderr).contains("NODE is damaged"), "{output:?}");
}
