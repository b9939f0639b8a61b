//! ringctl and the client library against a real node, over its whole life.

use super::ports::free_addresses;
use super::process::{Ran, Scratch, ran, ringctl};
use ringcore::client::{Client, Outcome, Reason, Write};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A node in a process of its own; killed if a test ends without stopping it.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    /// Starts on what is in the directory, and waits until it serves.
    fn start(directory: &Scratch) -> Node {
        let [client, peer, admin] = free_addresses().map(|address| address.to_string());
        let process = Command::new(env!("CARGO_BIN_EXE_ringcore"))
            .args(["start", "--bootstrap", "--name", "n1", "--cores", "1", "--no-pin", "--allow-any-fs"])
            .args(["--data-dir", directory.path(), "--listen", &client])
            .args(["--peer-listen", &peer, "--admin-listen", &admin])
            .stderr(Stdio::null())
            .spawn()
            .expect("the node's program starts");
        let node = Node { process, address: client };
        let waited = node.run(&["health", "--wait", "--timeout", "60s"]);
        assert_eq!(waited.exit, 0, "the node does not serve: {}{}", waited.out, waited.err);
        node
    }

    fn run(&self, words: &[&str]) -> Ran {
        ran(ringctl(&self.address, words))
    }

    async fn client(&self) -> Client {
        Client::builder().endpoints([self.address.clone()]).connect().await.expect("the node serves")
    }

    /// Stops it as an operator does.
    fn stop(mut self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("it is there");
        let exit = self.process.wait().expect("it is a child");
        assert_eq!(exit.code(), Some(0), "a clean stop");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already over after a stop.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn data_and_expiry_outlive_a_restart_and_every_command_answers() {
    let directory = Scratch::new("node");
    let node = Node::start(&directory);
    assert_eq!(node.run(&["put", "user:1", "Ada", "--ttl", "1h"]).exit, 0);
    assert_eq!(node.run(&["put", "user:2", "Grace"]).exit, 0);
    assert_eq!(node.run(&["put", "gone", "x"]).exit, 0);
    assert_eq!(node.run(&["del", "gone"]).exit, 0);
    let replaced = node.run(&["put", "user:2", "Grace H.", "--previous", "-o", "json"]);
    assert!(replaced.out.contains(r#""old_value":"Grace""#), "{}", replaced.out);
    let before = node.run(&["exists", "user:1", "user:2"]);
    node.stop();

    let node = Node::start(&directory);
    assert_eq!(node.run(&["exists", "user:1", "user:2"]), before);
    assert_eq!(node.run(&["get", "user:2"]).out, "Grace H.");
    assert!(node.run(&["ttl", "user:1"]).out.starts_with("59m "));
    assert_eq!(node.run(&["get", "gone"]).exit, 1);
    assert_eq!(node.run(&["mget", "user:1", "gone"]).out, "user:1\tAda\n");
    let scanned = node.run(&["scan", "--prefix", "user:", "--keys-only"]);
    let mut keys: Vec<_> = scanned.out.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["user:1", "user:2"]);
    let status = node.run(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).expect("one object");
    assert_eq!((&status["healthy"], &status["nodes"][0]["name"]), (&true.into(), &"n1".into()));
    node.stop();
}

#[test]
fn refusals_and_absence_have_their_exit_codes() {
    let directory = Scratch::new("node");
    let node = Node::start(&directory);
    let large = Scratch::file(vec![b'x'; (1 << 20) + 1]);
    let refused = node.run(&["put", "k", &format!("@{}", large.path())]);
    assert_eq!(refused.exit, 6, "{}", refused.err);
    assert!(refused.err.contains("1048577"), "{}", refused.err);
    assert_eq!(node.run(&["put", "", "v"]).exit, 6);
    assert_eq!(node.run(&["put", "k", "v", "--expires-at-ms", "1"]).exit, 6);
    assert_eq!(node.run(&["get", "k"]).exit, 1);
    let address = node.address.clone();
    node.stop();
    let run = |words: &[&str]| ran(ringctl(&address, words)).exit;
    assert_eq!(run(&["get", "k"]), 3);
    assert_eq!(run(&["put", "k", "v"]), 3);
    assert_eq!(run(&["health"]), 3);
    assert_eq!(run(&["health", "--wait", "--timeout", "300ms"]), 5);
}

#[test]
fn export_of_one_cluster_is_imported_by_another() {
    let (old_directory, new_directory) = (Scratch::new("node"), Scratch::new("node"));
    let (old, new) = (Node::start(&old_directory), Node::start(&new_directory));
    let mut lines = String::new();
    for index in 0..5_000u32 {
        let value = "é\n".repeat(index as usize % 30);
        let mut line = serde_json::json!({ "key": format!("k{index}"), "value": value });
        if index % 4 == 0 {
            line["expires_at_ms"] = (4_000_000_000_000u64 / 2 + u64::from(index)).into();
        }
        if index % 7 == 0 {
            line["key_b64"] = "/w==".into();
            line.as_object_mut().expect("it is one").remove("key");
        }
        lines.push_str(&format!("{line}\n"));
    }
    let first = Scratch::file(&lines);
    let imported = old.run(&["import", first.path()]);
    assert_eq!(imported.exit, 0, "{}", imported.err);
    let sorted = |node: &Node| {
        let exported = node.run(&["export"]);
        assert_eq!(exported.exit, 0, "{}", exported.err);
        let mut lines: Vec<_> = exported.out.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let exported = sorted(&old);
    assert_eq!(exported.len(), 5_000 - 715 + 1, "every seventh line has the same key");
    let second = Scratch::file(exported.join("\n"));
    assert_eq!(new.run(&["import", second.path()]).exit, 0);
    assert_eq!(sorted(&new), exported);
    old.stop();
    new.stop();
}

#[tokio::test]
async fn library_reads_what_it_wrote() {
    let directory = Scratch::new("node");
    let node = Node::start(&directory);
    let client = node.client().await;
    let binary: Vec<u8> = (0..=255).collect();
    let written = client.put(binary.clone(), binary.clone()).await.unwrap();
    assert!(!written.had_previous);
    let entry = client.get(binary.clone()).await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.version), (&binary[..], written.version));
    let again = client.put(binary.clone(), "").return_previous().await.unwrap();
    assert_eq!(again.previous.as_deref(), Some(&binary[..]));
    assert!(again.version > written.version);
    assert_eq!(client.exists(binary.clone()).await.unwrap().unwrap().value_bytes, 0);
    assert!(client.delete(binary.clone()).await.unwrap().had_previous);
    assert_eq!(client.get(binary).await.unwrap(), None);

    let writes = (0..3_000).map(|index| Write::put(format!("k{index:04}"), format!("v{index}")));
    for result in client.batch_write(writes).await {
        result.unwrap();
    }
    let read = client.batch_read((0..3_000).map(|index| format!("k{index:04}"))).await;
    for (index, result) in read.into_iter().enumerate() {
        assert_eq!(result.unwrap().unwrap().value, format!("v{index}"));
    }
    let mut scan = client.scan().page_records(700);
    let mut keys = Vec::new();
    while let Some(page) = scan.next_page().await.unwrap() {
        assert!(page.records.len() <= 700);
        keys.extend(page.records.into_iter().map(|record| record.key));
    }
    keys.sort_unstable();
    assert_eq!(keys, (0..3_000).map(|index| format!("k{index:04}")).collect::<Vec<_>>());

    let error = client.put("k".repeat(5_000), "v").await.unwrap_err();
    assert_eq!((error.reason(), error.outcome()), (Some(Reason::KeyTooLong), Outcome::NotApplied));
    assert_eq!(error.node(), "n1");
    assert_eq!(client.ring().await.unwrap().members.len(), 1);
    node.stop();
    let error = client.put("k", "v").deadline(Duration::from_secs(1)).await.unwrap_err();
    assert_ne!(error.outcome(), Outcome::Read);
}

#[tokio::test]
async fn answers_too_large_for_one_message_are_asked_for_in_pieces() {
    let directory = Scratch::new("node");
    let node = Node::start(&directory);
    let client = node.client().await;
    let value = vec![b'v'; 1 << 20];
    for index in 0..10 {
        client.put(format!("k{index}"), value.clone()).await.unwrap();
    }
    let read = client.batch_read((0..10).map(|index| format!("k{index}"))).await;
    assert_eq!(read.len(), 10);
    for result in read {
        assert_eq!(result.unwrap().unwrap().value.len(), 1 << 20);
    }
    node.stop();
}
