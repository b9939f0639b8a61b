//! Whole commands against a scripted node: what they print where, and how they end.

use super::fake::{Fake, Fault};
use super::process::{Ran, Scratch, ran, ringctl};
use ringcore::client::{Client, Outcome, Reason, Write};
use ringcore::rpc::proto::v1;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::SystemTime;

/// Runs ringctl against a fake node, which lives on this thread's runtime meanwhile.
async fn run(fake: &Fake, words: &[&str]) -> Ran {
    run_at(&fake.address, words).await
}

async fn run_at(endpoints: &str, words: &[&str]) -> Ran {
    let command = ringctl(endpoints, words);
    tokio::task::spawn_blocking(move || ran(command)).await.expect("it does not panic")
}

async fn client(fake: &Fake) -> Client {
    Client::builder().endpoints([fake.address.clone()]).connect().await.expect("a fake listens")
}

#[tokio::test]
async fn get_prints_the_bytes_and_nothing_else() {
    let fake = Fake::start().await;
    assert_eq!(run(&fake, &["put", "k", "Ada"]).await.out, "OK version 65536-1\n");
    let got = run(&fake, &["get", "k"]).await;
    assert_eq!(got, Ran { exit: 0, out: "Ada".to_owned(), err: String::new() });
    assert_eq!(run(&fake, &["get", "k", "--hex"]).await.exit, 2);
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
        let expected = Ran { exit: 1, out: String::new(), err: "no such key: nope\n".to_owned() };
        assert_eq!(ran, expected, "{command}");
        let json = run(&fake, &[command, "nope", "-o", "json"]).await;
        assert_eq!((json.exit, json.err.as_str()), (1, ""), "{command}");
        assert!(json.out.starts_with(r#"{"key":"nope","#), "{command}: {}", json.out);
    }
}

#[tokio::test]
async fn put_takes_its_value_from_the_line_or_a_file_and_tells_what_it_replaced() {
    let fake = Fake::start().await;
    run(&fake, &["put", "k", "-5"]).await;
    let value = Scratch::file("from a file\n");
    let from_file = format!("@{}", value.path());
    let put = run(&fake, &["put", "k", &from_file, "--previous"]).await;
    assert_eq!(put.out, "OK version 131072-1\nprevious: -5\n");
    assert_eq!(run(&fake, &["get", "k"]).await.out, "from a file\n");
    let missing = run(&fake, &["put", "k", "@/no/such/file"]).await;
    assert_eq!(missing.exit, 2);
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
    let keys = Scratch::file("b\r\n\nnope\n");
    let ran = run(&fake, &["mget", "a", "--file", keys.path()]).await;
    assert_eq!(ran.exit, 1);
    assert_eq!(ran.out, "a\tone\\ttwo\nb\t\\xff\n");
    assert_eq!(ran.err, "no such key: nope\n");
    let table = run(&fake, &["exists", "a", "b", "-o", "table"]).await;
    assert_eq!(
        table.out,
        "KEY  BYTES  VERSION   EXPIRES_AT_MS\na    7      65536-1   -\nb    1      131072-1  -\n"
    );
    let deleted = run(&fake, &["del", "a", "b", "c"]).await;
    assert_eq!((deleted.exit, deleted.out.lines().count()), (1, 2));
}

#[tokio::test]
async fn failed_key_of_many_is_told_and_decides_the_exit_code() {
    let fake = Fake::start().await;
    fake.script([Fault::RefuseKeys(Reason::Corrupt, Outcome::Read)]);
    let ran = run(&fake, &["mget", "a", "b", "-o", "json"]).await;
    assert_eq!(ran.exit, 6);
    let second = ran.out.lines().nth(1).unwrap();
    assert!(second.contains(r#""reason":"REASON_CORRUPT""#), "{second}");
}

#[tokio::test]
async fn scan_stops_at_its_limit() {
    let fake = Fake::start().await;
    let client = client(&fake).await;
    for index in 0..1_500 {
        client.put(format!("k{index:04}"), "v").await.unwrap();
    }
    let all = run(&fake, &["scan", "--keys-only", "--prefix", "k"]).await;
    assert_eq!(all.out.lines().count(), 1_500);
    let some = run(&fake, &["scan", "--limit", "1200", "-o", "table"]).await;
    assert_eq!(some.out.lines().filter(|line| line.starts_with('k')).count(), 1_200);
    assert!(some.out.starts_with("KEY    EXPIRES_AT_MS  VERSION"), "{}", some.out);
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
    assert_eq!(exported.exit, 0);
    assert!(exported.err.starts_with("exported 2500 records, "), "{}", exported.err);

    let other = Fake::start().await;
    let dump = Scratch::file(&exported.out);
    let imported = run(&other, &["import", dump.path()]).await;
    assert_eq!((imported.exit, imported.out.as_str()), (0, ""));
    assert!(imported.err.starts_with("imported 2500 records, "), "{}", imported.err);
    assert_eq!(run(&other, &["export"]).await.out, exported.out);
    let batches: Vec<v1::BatchWriteRequest> = other.calls("BatchWrite");
    assert_eq!(batches.len(), 3);
}

#[tokio::test]
async fn import_stops_at_a_bad_line_and_keeps_those_before() {
    let fake = Fake::start().await;
    let dump = Scratch::file("{\"key\":\"a\",\"value\":\"1\"}\nnonsense\n{\"key\":\"b\",\"value\":\"2\"}\n");
    let ran = run(&fake, &["import", dump.path()]).await;
    assert_eq!(ran.exit, 2);
    assert!(ran.err.contains("error: line 2: expected ident (column 2)\n  correct it, or"), "{}", ran.err);
    assert!(ran.err.starts_with("imported 1 record, 2 B, in "), "{}", ran.err);

    let ran = run(&fake, &["import", "--skip-bad", "-o", "json", dump.path()]).await;
    assert_eq!(ran.exit, 0);
    assert!(ran.err.contains("line 2: expected ident (column 2); skipped"), "{}", ran.err);
    assert_eq!(ran.out, "{\"bad\":1,\"bytes\":4,\"expired\":0,\"imported\":2,\"replaced\":0}\n");
}

#[tokio::test]
async fn import_leaves_out_what_has_expired_here_or_at_the_node() {
    let fake = Fake::start().await;
    let dump = Scratch::file(
        "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\",\"expires_at_ms\":5}\n",
    );
    let ran = run(&fake, &["import", dump.path()]).await;
    assert!(ran.err.ends_with("; 1 expired already\n"), "{}", ran.err);
    assert_eq!((ran.exit, fake.writes()), (0, 1));

    // Alive by this machine's clock, and over by the node's.
    let soon = now_ms() + 30_000;
    let dump = Scratch::file(format!(
        "{{\"key\":\"a\",\"value\":\"1\"}}\n{{\"key\":\"b\",\"value\":\"2\",\"expires_at_ms\":{soon}}}\n"
    ));
    fake.script([Fault::RefuseKeys(Reason::ExpiryInvalid, Outcome::NotApplied)]);
    let ran = run(&fake, &["import", dump.path()]).await;
    assert_eq!(ran.exit, 0);
    assert!(ran.err.ends_with("; 1 expired already\n"), "{}", ran.err);
}

#[tokio::test]
async fn import_names_the_line_that_the_node_refused() {
    let fake = Fake::start().await;
    let dump = Scratch::file("{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"b\",\"value\":\"2\"}\n");
    fake.script([Fault::RefuseKeys(Reason::ValueTooLarge, Outcome::NotApplied)]);
    let ran = run(&fake, &["import", dump.path()]).await;
    assert_eq!(ran.exit, 6);
    assert!(ran.err.contains("error: line 3: said the node"), "{}", ran.err);
    fake.script([Fault::RefuseKeys(Reason::ValueTooLarge, Outcome::NotApplied)]);
    let ran = run(&fake, &["import", "--skip-bad", dump.path()]).await;
    assert_eq!(ran.exit, 0);
    assert!(ran.err.contains("line 3: said the node; skipped"), "{}", ran.err);
    fake.script([Fault::RefuseKeys(Reason::NoQuorumInTime, Outcome::InDoubt)]);
    let ran = run(&fake, &["import", "--skip-bad", dump.path()]).await;
    assert_eq!(ran.exit, 4);
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
    let dump = Scratch::file(&lines);
    assert_eq!(run(&fake, &["import", dump.path()]).await.exit, 0);
    assert_eq!(run(&fake, &["get", "same"]).await.out, "4");
}

#[tokio::test]
async fn every_ending_has_its_exit_code() {
    let fake = Fake::start().await;
    let refuse = |reason, outcome| vec![Fault::Refuse(reason, outcome); 5];
    let quick = ["--timeout", "30ms"];
    for (words, faults, exit) in [
        (vec!["put", "k", "v"], vec![], 0),
        (vec!["get", "nope"], vec![], 1),
        (vec!["put", "zz", "00", "--hex"], vec![], 2),
        (vec!["import", "/no/such/file"], vec![], 2),
        (vec!["get", "k"], refuse(Reason::Starting, Outcome::Read), 3),
        (vec!["put", "k", "v"], refuse(Reason::TooFewReplicas, Outcome::NotApplied), 4),
        (vec!["put", "k", "v"], refuse(Reason::NoQuorumInTime, Outcome::InDoubt), 4),
        ([&["put", "k", "v"], &quick[..]].concat(), vec![Fault::Silence], 4),
        ([&["get", "k"], &quick[..]].concat(), vec![Fault::Silence], 4),
        (vec!["put", "k", "v"], refuse(Reason::MemoryFull, Outcome::NotApplied), 6),
        (vec!["put", "k", "v"], refuse(Reason::KeyTooLong, Outcome::NotApplied), 6),
        (vec!["status"], vec![], 0),
        (vec!["health"], vec![], 0),
        (vec!["version"], vec![], 0),
    ] {
        fake.script(faults);
        let ran = run(&fake, &words).await;
        assert_eq!(ran.exit, exit, "{words:?}: {ran:?}");
        let silent = exit == 0 || words.contains(&"nope");
        assert_eq!(ran.err.starts_with("error: "), !silent, "{words:?}: {ran:?}");
        fake.forget_script();
    }
}

#[tokio::test]
async fn unreachable_node_is_told_with_a_way_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let Ran { exit, err: text, .. } = run_at(&address, &["get", "k"]).await;
    assert_eq!(exit, 3);
    assert!(text.starts_with(&format!("error: cannot connect to {address}: ")), "{text}");
    assert!(text.contains("--endpoints"), "{text}");
}

#[tokio::test]
async fn health_asks_every_endpoint() {
    let (well, sick) = (Fake::start().await, Fake::start().await);
    sick.set_serving(false);
    let both = format!("{},{}", well.address, sick.address);
    let Ran { exit, out, .. } = run_at(&both, &["health"]).await;
    assert_eq!(exit, 5);
    let states: Vec<_> = out.lines().map(|line| line.split('\t').nth(1).unwrap()).collect();
    assert_eq!(states, ["serving", "not serving"]);
}

#[tokio::test]
async fn waiting_for_health_ends_with_it_or_with_the_timeout() {
    let fake = Fake::start().await;
    fake.set_serving(false);
    let ran = run(&fake, &["health", "--wait", "--timeout", "150ms"]).await;
    assert_eq!(ran.exit, 5);
    let (waiting, ()) = tokio::join!(run(&fake, &["health", "--wait", "--timeout", "30s"]), async {
        fake.asked("Check", 3).await;
        fake.set_serving(true);
    });
    assert_eq!(waiting.exit, 0);
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
    assert!(page.contains(".TH ringctl"), "{page}");
}

#[tokio::test]
async fn values_and_records_are_read_from_standard_input() {
    let fake = Fake::start().await;
    for (words, input) in
        [(["put", "k", "-"], "piped"), (["import", "-o", "json"], "{\"key\":\"a\",\"value\":\"1\"}")]
    {
        let mut command = ringctl(&fake.address, &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let exit = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait().unwrap()
        });
        assert_eq!(exit.await.unwrap().code(), Some(0), "{words:?}");
    }
    assert_eq!(run(&fake, &["get", "k"]).await.out, "piped");
    assert_eq!(run(&fake, &["get", "a"]).await.out, "1");
}

#[tokio::test]
async fn reader_that_goes_away_ends_an_export_quietly() {
    let fake = Fake::start().await;
    let writes = (0..5_000).map(|index| Write::put(format!("k{index}"), vec![b'x'; 400]));
    client(&fake).await.batch_write(writes).await;
    let mut command = ringctl(&fake.address, &["export"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut some = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        child.wait_with_output().unwrap()
    });
    let done = done.await.unwrap();
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test]
async fn command_line_that_does_not_parse_is_usage() {
    for words in [&["frobnicate"][..], &["get"], &["put", "k", "v", "--ttl", "60"]] {
        let ran = run_at("127.0.0.1:1", words).await;
        assert_eq!((ran.exit, ran.out.as_str()), (2, ""), "{words:?}");
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
    }
    let help = run_at("127.0.0.1:1", &["--help"]).await;
    assert_eq!((help.exit, help.err.as_str()), (0, ""));
    assert_eq!(run_at("nonsense", &["get", "k"]).await.exit, 2);
}

#[tokio::test]
async fn man_pages_are_written_for_every_command() {
    let directory = Scratch::new("man");
    let ran = run_at("127.0.0.1:1", &["man", directory.path()]).await;
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let pages = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(pages, 15);
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is past 1970").as_millis() as u64
}
