//! Whole commands against a scripted node: what they print where, and how they end.

use super::console::Format;
use super::console::tests::captured;
use super::exit::Exit;
use super::{Ringctl, finish};
use crate::client::fake::{Fake, Fault};
use crate::client::{Client, Outcome, Reason, Write};
use crate::rpc::proto::v1;
use clap::Parser as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a command did.
#[derive(PartialEq, Eq, Debug)]
struct Ran {
    exit: Exit,
    out: String,
    err: String,
}

/// Runs `words` as a program would: a pipe on both streams.
async fn run(fake: &Fake, words: &[&str]) -> Ran {
    let mut line = vec!["ringctl", "--endpoints", &fake.address];
    line.extend(words);
    let parsed = Ringctl::try_parse_from(line).unwrap();
    let format = parsed.global.output.unwrap_or(Format::Plain);
    let (mut console, out, err) = captured(format, false);
    let exit = finish(&parsed, &mut console).await;
    Ran { exit, out: out.text(), err: err.text() }
}

async fn client(fake: &Fake) -> Client {
    Client::builder().endpoints([fake.address.clone()]).connect().await.unwrap()
}

/// A file with this text, gone with the test.
struct TestFile(std::path::PathBuf);

impl TestFile {
    fn new(text: &str) -> TestFile {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("ringctl-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        TestFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[tokio::test]
async fn get_prints_the_bytes_and_nothing_else() {
    let fake = Fake::start().await;
    assert_eq!(run(&fake, &["put", "k", "Ada"]).await.out, "OK version 65536-1\n");
    let got = run(&fake, &["get", "k"]).await;
    assert_eq!(got, Ran { exit: Exit::Ok, out: "Ada".to_owned(), err: String::new() });
    assert_eq!(run(&fake, &["get", "k", "--hex"]).await.exit, Exit::Usage);
    assert_eq!(run(&fake, &["get", "6b", "--hex"]).await.out, "416461");
    let json = run(&fake, &["get", "k", "-o", "json"]).await;
    let line = r#"{"key":"k","exists":true,"value":"Ada","timestamp":"65536","member":1}"#;
    assert_eq!(json.out.trim_end(), line);
}

#[tokio::test]
async fn absent_key_is_a_negative_answer() {
    let fake = Fake::start().await;
    for command in ["get", "del", "exists", "ttl", "mget"] {
        let ran = run(&fake, &[command, "nope"]).await;
        let expected =
            Ran { exit: Exit::Negative, out: String::new(), err: "no such key: nope\n".to_owned() };
        assert_eq!(ran, expected, "{command}");
        let json = run(&fake, &[command, "nope", "-o", "json"]).await;
        assert_eq!((json.exit, json.err.as_str()), (Exit::Negative, ""), "{command}");
        assert!(json.out.starts_with(r#"{"key":"nope","#), "{command}: {}", json.out);
    }
}

#[tokio::test]
async fn put_takes_its_value_from_the_line_or_a_file_and_tells_what_it_replaced() {
    let fake = Fake::start().await;
    run(&fake, &["put", "k", "-5"]).await;
    let value = TestFile::new("from a file\n");
    let from_file = format!("@{}", value.path());
    let put = run(&fake, &["put", "k", &from_file, "--previous"]).await;
    assert_eq!(put.out, "OK version 131072-1\nprevious: -5\n");
    assert_eq!(run(&fake, &["get", "k"]).await.out, "from a file\n");
    let missing = run(&fake, &["put", "k", "@/no/such/file"]).await;
    assert_eq!(missing.exit, Exit::Usage);
    assert!(missing.err.starts_with("error: cannot read /no/such/file"), "{}", missing.err);
    let json = run(&fake, &["put", "k", "v", "--previous", "-o", "json"]).await;
    assert!(json.out.contains(r#""old_value":"from a file\n""#), "{}", json.out);
}

#[tokio::test]
async fn expiry_is_sent_as_it_was_asked_for() {
    let fake = Fake::start().await;
    run(&fake, &["put", "a", "v", "--ttl", "1h"]).await;
    run(&fake, &["put", "b", "v", "--expires-at-ms", "99"]).await;
    run(&fake, &["put", "c", "v"]).await;
    let sent: Vec<_> = fake.calls::<v1::PutRequest>("Put").into_iter().map(|put| put.expiry).collect();
    let expected = [
        Some(v1::put_request::Expiry::TtlMs(3_600_000)),
        Some(v1::put_request::Expiry::ExpiresAtMs(99)),
        None,
    ];
    assert_eq!(sent, expected);
    assert_eq!(run(&fake, &["ttl", "c"]).await.out, "never expires\n");
    assert_eq!(run(&fake, &["ttl", "b"]).await.out, "0ms\n");
    let json = run(&fake, &["ttl", "c", "-o", "json"]).await;
    assert_eq!(json.out, "{\"key\":\"c\",\"exists\":true,\"ttl_ms\":null}\n");
}

#[tokio::test]
async fn many_keys_are_shown_and_the_missing_ones_named() {
    let fake = Fake::start().await;
    let client = client(&fake).await;
    client.put("a", "one\ttwo").await.unwrap();
    client.put("b", vec![0xff]).await.unwrap();
    let keys = TestFile::new("b\r\n\nnope\n");
    let ran = run(&fake, &["mget", "a", "--file", keys.path()]).await;
    assert_eq!(ran.exit, Exit::Negative);
    assert_eq!(ran.out, "a\tone\\ttwo\nb\t\\xff\n");
    assert_eq!(ran.err, "no such key: nope\n");
    let table = run(&fake, &["exists", "a", "b", "-o", "table"]).await;
    assert_eq!(
        table.out,
        "KEY  BYTES  VERSION   EXPIRES_AT_MS\na    7      65536-1   -\nb    1      131072-1  -\n"
    );
    let deleted = run(&fake, &["del", "a", "b", "c"]).await;
    assert_eq!((deleted.exit, deleted.out.lines().count()), (Exit::Negative, 2));
}

#[tokio::test]
async fn failed_key_of_many_is_told_and_decides_the_exit_code() {
    let fake = Fake::start().await;
    fake.script([Fault::RefuseKeys(Reason::Corrupt, Outcome::Read)]);
    let ran = run(&fake, &["mget", "a", "b", "-o", "json"]).await;
    assert_eq!(ran.exit, Exit::Refused);
    let second = ran.out.lines().nth(1).unwrap();
    assert!(second.contains(r#""reason":"REASON_CORRUPT""#), "{second}");
}

#[tokio::test]
async fn scan_stops_at_its_limit_and_keeps_its_table_together() {
    let fake = Fake::start().await;
    let client = client(&fake).await;
    for index in 0..1_500 {
        client.put(format!("k{index:04}"), "v").await.unwrap();
    }
    let all = run(&fake, &["scan", "--keys-only", "--prefix", "k"]).await;
    assert_eq!(all.out.lines().count(), 1_500);
    let some = run(&fake, &["scan", "--limit", "1200", "-o", "table"]).await;
    assert_eq!(some.out.lines().count(), 1_201);
    assert_eq!(some.out.lines().filter(|line| line.starts_with("KEY")).count(), 1);
    let json = run(&fake, &["scan", "--limit", "1", "-o", "json"]).await;
    assert_eq!(
        json.out,
        "{\"key\":\"k0000\",\"value\":\"v\",\"value_bytes\":1,\"timestamp\":\"65536\",\"member\":1}\n"
    );
}

#[tokio::test]
async fn export_is_what_import_restores() {
    let fake = Fake::start().await;
    let old = client(&fake).await;
    let far = 1 << 45;
    let writes = (0..2_500).map(|index| {
        let write = Write::put(format!("k{index}"), vec![index as u8; index % 50]);
        if index % 3 == 0 { write.expires_at_ms(far + index as u64) } else { write }
    });
    old.batch_write(writes).await.into_iter().for_each(|result| drop(result.unwrap()));
    let exported = run(&fake, &["export"]).await;
    assert_eq!(exported.exit, Exit::Ok);
    assert!(exported.err.starts_with("exported 2500 records, "), "{}", exported.err);

    let other = Fake::start().await;
    let dump = TestFile::new(&exported.out);
    let imported = run(&other, &["import", dump.path()]).await;
    assert_eq!((imported.exit, imported.out.as_str()), (Exit::Ok, ""));
    assert!(imported.err.starts_with("imported 2500 records, "), "{}", imported.err);
    assert_eq!(run(&other, &["export"]).await.out, exported.out);
    let batches: Vec<v1::BatchWriteRequest> = other.calls("BatchWrite");
    assert_eq!(batches.len(), 3);
}

#[tokio::test]
async fn import_stops_at_a_bad_line_and_keeps_those_before() {
    let fake = Fake::start().await;
    let dump = TestFile::new("{\"key\":\"a\",\"value\":\"1\"}\nnonsense\n{\"key\":\"b\",\"value\":\"2\"}\n");
    let ran = run(&fake, &["import", dump.path()]).await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("error: line 2: expected ident (column 2)\n  correct it, or"), "{}", ran.err);
    assert!(ran.err.starts_with("imported 1 records, 2 B, in "), "{}", ran.err);

    let ran = run(&fake, &["import", "--skip-bad", "-o", "json", dump.path()]).await;
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.err.contains("line 2: expected ident (column 2); skipped"), "{}", ran.err);
    assert_eq!(ran.out, "{\"bad\":1,\"bytes\":4,\"expired\":0,\"imported\":2,\"replaced\":0}\n");
}

#[tokio::test]
async fn import_leaves_out_what_has_expired_here_or_at_the_node() {
    let fake = Fake::start().await;
    let dump = TestFile::new(
        "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\",\"expires_at_ms\":5}\n",
    );
    let ran = run(&fake, &["import", dump.path()]).await;
    assert!(ran.err.ends_with("; 1 expired already\n"), "{}", ran.err);
    assert_eq!((ran.exit, fake.writes()), (Exit::Ok, 1));

    // Alive by this machine's clock, and over by the node's.
    let soon = super::now_ms() + 30_000;
    let dump = TestFile::new(&format!(
        "{{\"key\":\"a\",\"value\":\"1\"}}\n{{\"key\":\"b\",\"value\":\"2\",\"expires_at_ms\":{soon}}}\n"
    ));
    fake.script([Fault::RefuseKeys(Reason::ExpiryInvalid, Outcome::NotApplied)]);
    let ran = run(&fake, &["import", dump.path()]).await;
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.err.ends_with("; 1 expired already\n"), "{}", ran.err);
}

#[tokio::test]
async fn import_names_the_line_that_the_node_refused() {
    let fake = Fake::start().await;
    let dump = TestFile::new("{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\",\"value\":\"2\"}\n");
    fake.script([Fault::RefuseKeys(Reason::ValueTooLarge, Outcome::NotApplied)]);
    let ran = run(&fake, &["import", dump.path()]).await;
    assert_eq!(ran.exit, Exit::Refused);
    assert!(ran.err.contains("error: line 3: said the node"), "{}", ran.err);
    fake.script([Fault::RefuseKeys(Reason::ValueTooLarge, Outcome::NotApplied)]);
    let ran = run(&fake, &["import", "--skip-bad", dump.path()]).await;
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.err.contains("line 3: said the node; skipped"), "{}", ran.err);
    fake.script([Fault::RefuseKeys(Reason::NoQuorumInTime, Outcome::InDoubt)]);
    let ran = run(&fake, &["import", "--skip-bad", dump.path()]).await;
    assert_eq!(ran.exit, Exit::Unknown);
}

#[tokio::test]
async fn later_line_of_a_key_is_written_after_the_earlier_ones() {
    let fake = Fake::start().await;
    // One batch of a thousand each, all with the key "same".
    let mut lines = String::new();
    for round in 0..5 {
        for index in 0..999 {
            lines.push_str(&format!("{{\"key\":\"k{round}-{index}\",\"value\":\"\"}}\n"));
        }
        lines.push_str(&format!("{{\"key\":\"same\",\"value\":\"{round}\"}}\n"));
    }
    let dump = TestFile::new(&lines);
    assert_eq!(run(&fake, &["import", dump.path()]).await.exit, Exit::Ok);
    assert_eq!(run(&fake, &["get", "same"]).await.out, "4");
}

#[tokio::test]
async fn every_ending_has_its_exit_code() {
    let fake = Fake::start().await;
    let refuse = |reason, outcome| vec![Fault::Refuse(reason, outcome); 5];
    let quick = ["--timeout", "30ms"];
    for (words, faults, exit) in [
        (vec!["put", "k", "v"], vec![], Exit::Ok),
        (vec!["get", "nope"], vec![], Exit::Negative),
        (vec!["put", "zz", "00", "--hex"], vec![], Exit::Usage),
        (vec!["import", "/no/such/file"], vec![], Exit::Usage),
        (vec!["get", "k"], refuse(Reason::Starting, Outcome::Read), Exit::Unreachable),
        (vec!["put", "k", "v"], refuse(Reason::TooFewReplicas, Outcome::NotApplied), Exit::Unknown),
        (vec!["put", "k", "v"], refuse(Reason::NoQuorumInTime, Outcome::InDoubt), Exit::Unknown),
        ([&["put", "k", "v"], &quick[..]].concat(), vec![Fault::Silence], Exit::Unknown),
        ([&["get", "k"], &quick[..]].concat(), vec![Fault::Silence], Exit::Unknown),
        (vec!["put", "k", "v"], refuse(Reason::MemoryFull, Outcome::NotApplied), Exit::Refused),
        (vec!["put", "k", "v"], refuse(Reason::KeyTooLong, Outcome::NotApplied), Exit::Refused),
        (vec!["status"], vec![], Exit::Ok),
        (vec!["health"], vec![], Exit::Ok),
        (vec!["version"], vec![], Exit::Ok),
    ] {
        fake.script(faults);
        let ran = run(&fake, &words).await;
        assert_eq!(ran.exit, exit, "{words:?}: {ran:?}");
        let silent = matches!(exit, Exit::Ok) || words.contains(&"nope");
        assert_eq!(ran.err.starts_with("error: "), !silent, "{words:?}: {ran:?}");
        fake.forget_script();
    }
}

#[tokio::test]
async fn unreachable_node_is_told_with_a_way_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let parsed = Ringctl::try_parse_from(["ringctl", "-e", &address, "get", "k"]).unwrap();
    let (mut console, _, err) = captured(Format::Plain, false);
    assert_eq!(finish(&parsed, &mut console).await, Exit::Unreachable);
    let text = err.text();
    assert!(text.starts_with(&format!("error: cannot connect to {address}: ")), "{text}");
    assert!(text.contains("--endpoints"), "{text}");
}

#[tokio::test]
async fn health_asks_every_endpoint() {
    let (well, sick) = (Fake::start().await, Fake::start().await);
    sick.set_serving(false);
    let both = format!("{},{}", well.address, sick.address);
    let parsed = Ringctl::try_parse_from(["ringctl", "-e", &both, "health"]).unwrap();
    let (mut console, out, _) = captured(Format::Plain, false);
    assert_eq!(finish(&parsed, &mut console).await, Exit::Unhealthy);
    let states: Vec<_> = out.text().lines().map(|line| line.split('\t').nth(1).unwrap().to_owned()).collect();
    assert_eq!(states, ["serving", "not serving"]);
}

#[tokio::test]
async fn waiting_for_health_ends_with_it_or_with_the_timeout() {
    let fake = Fake::start().await;
    fake.set_serving(false);
    let ran = run(&fake, &["health", "--wait", "--timeout", "150ms"]).await;
    assert_eq!(ran.exit, Exit::Unhealthy);
    let (waiting, ()) = tokio::join!(run(&fake, &["health", "--wait", "--timeout", "30s"]), async {
        fake.asked("Check", 3).await;
        fake.set_serving(true);
    });
    assert_eq!(waiting.exit, Exit::Ok);
}

#[tokio::test]
async fn status_shows_nodes_and_cores() {
    let fake = Fake::start().await;
    let table = run(&fake, &["status", "-o", "table"]).await.out;
    assert!(table.starts_with("1 node, healthy\n\nNODE  READY  CORES"), "{table}");
    assert!(table.contains("n1    yes    1"), "{table}");
    assert!(table.contains("NODE  CORE  CPU"), "{table}");
    let json = run(&fake, &["status", "-o", "json"]).await.out;
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["nodes"][0]["cores"][0]["wal_bytes"], 4096);
    assert_eq!(status["healthy"], true);
}

#[tokio::test]
async fn completions_and_the_manual_are_printed() {
    let fake = Fake::start().await;
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&fake, &["completions", shell]).await.out.contains("ringctl"), "{shell}");
    }
    let page = run(&fake, &["man"]).await.out;
    assert!(page.contains("RINGCTL_ENDPOINTS") && page.contains(".TH ringctl"), "{page}");
}
