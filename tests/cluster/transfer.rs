//! Everything out of a node and into it: `ringctl import` and `export`.

use super::node::{Home, Node, among_others, ran, ringctl, seed};
use ringcore::types::prng::Prng;
use std::fs;

const RECORDS: u64 = 100_000;
/// In the far future, and within the ten years that an expiry may lie ahead.
const EXPIRES_IN_MS: u64 = 5 * 365 * 24 * 3_600 * 1_000;

#[test]
fn a_hundred_thousand_records_come_out_as_they_went_in_and_outlive_a_restart() {
    let _shared = among_others();
    let mut prng = Prng::new(seed());
    let home = Home::new("transfer");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut lines: Vec<String> =
        (0..RECORDS).map(|index| line(index, now.as_millis() as u64, &mut prng)).collect();
    let file = home.file("records.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();

    let node = Node::start(&home, &["--cores", "2"]);
    let (code, out, err) = ran(ringctl(node.address, &["import", file.to_str().expect("a path of text")]));
    assert_eq!(code, 0, "{out}{err}");
    let first = exported(&node);
    node.stop();
    let node = Node::start(&home, &["--cores", "2"]);
    let second = exported(&node);
    node.kill();
    let node = Node::start(&home, &["--cores", "2"]);
    assert!(second == first && exported(&node) == first, "a restart changed what is stored");
    lines.sort_unstable();
    assert_eq!(first.len(), lines.len());
    for (out, put) in first.iter().zip(&lines) {
        assert_eq!(out, put);
    }
    node.stop();
}

/// One record as `export` writes it.
fn line(index: u64, now_ms: u64, prng: &mut Prng) -> String {
    let length = prng.below(120) as usize;
    let value: String = (0..length).map(|_| char::from(b'a' + prng.below(26) as u8)).collect();
    let mut line = serde_json::json!({ "key": format!("key-{index}"), "value": value });
    if prng.chance(100) {
        line["expires_at_ms"] = (now_ms + EXPIRES_IN_MS + index).into();
    }
    line.to_string()
}

fn exported(node: &Node) -> Vec<String> {
    let (code, out, err) = ran(ringctl(node.address, &["export"]));
    assert_eq!(code, 0, "{err}");
    let parsed =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("one object").to_string();
    let mut lines: Vec<_> = out.lines().map(parsed).collect();
    lines.sort_unstable();
    lines
}
