//! The client against a node that misbehaves by script.

use super::fake::{Fake, Fault};
use bytes::Bytes;
use ringcore::client::{Cause, Client, Outcome, Reason, RetryPolicy, Write};
use ringcore::rpc::proto::v1;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn client(fakes: &[&Fake]) -> Client {
    let quick = RetryPolicy { backoff_first: Duration::from_millis(1), ..RetryPolicy::default() };
    Client::builder()
        .endpoints(fakes.iter().map(|fake| fake.address.clone()))
        .retry(quick)
        .connect()
        .await
        .expect("a fake listens")
}

/// An address that nobody listens on.
async fn silent_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

#[tokio::test]
async fn values_come_back_as_they_were_written() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    assert_eq!(client.get("k").await.unwrap(), None);
    assert_eq!(client.exists("k").await.unwrap(), None);
    let first = client.put("k", vec![0, 255]).await.unwrap();
    assert_eq!((first.had_previous, first.previous), (false, None));
    let second = client.put("k", "new").expires_at_ms(77).return_previous().await.unwrap();
    assert_eq!(second.previous, Some(Bytes::from_static(&[0, 255])));
    assert!(second.version > first.version);
    let entry = client.get("k").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.expires_at_ms), (&b"new"[..], Some(77)));
    assert_eq!(entry.version, second.version);
    assert_eq!(client.exists("k").await.unwrap().unwrap().value_bytes, 3);
    assert!(client.delete("k").await.unwrap().had_previous);
    assert_eq!(client.get("k").await.unwrap(), None);
    assert!(!client.delete("k").await.unwrap().had_previous);
}

#[tokio::test]
async fn lost_write_is_repeated_with_the_same_ids_and_applied_once() {
    for fault in [Fault::LostBefore, Fault::LostAfter] {
        let fake = Fake::start().await;
        let client = client(&[&fake]).await;
        fake.script([fault.clone()]);
        client.put("k", "v").await.unwrap();
        let sent: Vec<v1::PutRequest> = fake.calls("Put");
        assert_eq!(sent.len(), 2, "{fault:?}");
        let ids = |put: &v1::PutRequest| (put.client_id, put.request_id);
        assert_eq!(ids(&sent[0]), ids(&sent[1]));
        assert_eq!((sent[0].attempt, sent[1].attempt), (0, 1));
        assert_eq!(fake.writes(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn ids_of_a_repeated_write_stay_open() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    client.put("a", "v").await.unwrap();
    fake.script([Fault::LostAfter]);
    client.put("b", "v").await.unwrap();
    client.put("c", "v").await.unwrap();
    let sent: Vec<v1::PutRequest> = fake.calls("Put");
    let below: Vec<_> = sent.iter().map(|put| (put.request_id, put.done_below)).collect();
    assert_eq!(below, [(1, 1), (2, 2), (2, 2), (3, 2)]);
}

#[tokio::test]
async fn refusal_after_a_lost_attempt_leaves_the_write_in_doubt() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    fake.script([Fault::LostAfter, Fault::Refuse(Reason::MemoryFull, Outcome::NotApplied)]);
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::MemoryFull));
    assert_eq!(error.outcome(), Outcome::InDoubt);
}

#[tokio::test]
async fn refusals_that_pass_are_repeated_and_others_are_not() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    fake.script([
        Fault::Refuse(Reason::Overloaded, Outcome::NotApplied),
        Fault::Refuse(Reason::Starting, Outcome::NotApplied),
    ]);
    client.put("k", "v").await.unwrap();
    fake.script([Fault::Refuse(Reason::KeyTooLong, Outcome::NotApplied)]);
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!((error.reason(), error.outcome()), (Some(Reason::KeyTooLong), Outcome::NotApplied));
    assert_eq!(fake.calls::<v1::PutRequest>("Put").len(), 4);
}

#[tokio::test]
async fn repetition_ends_with_the_policy() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    fake.script(vec![Fault::Refuse(Reason::Overloaded, Outcome::NotApplied); 9]);
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!((error.reason(), error.outcome()), (Some(Reason::Overloaded), Outcome::NotApplied));
    assert_eq!(fake.calls::<v1::PutRequest>("Put").len(), 5);
}

#[tokio::test]
async fn next_endpoint_takes_over_when_one_cannot_be_reached() {
    let fake = Fake::start().await;
    let client = Client::builder()
        .endpoints([silent_address().await, fake.address.clone()])
        .connect()
        .await
        .expect("the second one listens");
    client.put("k", "v").await.unwrap();
    assert_eq!(fake.writes(), 1);
}

#[tokio::test]
async fn stopping_node_is_left_for_the_next() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]).await;
    first.script([Fault::Refuse(Reason::Stopping, Outcome::NotApplied)]);
    client.put("a", "v").await.unwrap();
    client.put("b", "v").await.unwrap();
    assert_eq!((first.writes(), second.writes()), (0, 2));
}

/// A node that ends each connection at its first call, with a GOAWAY that names no stream. Returns its address.
async fn leaving(reason: u8) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("it listens");
            end_at_first_call(&mut stream, reason).await.expect("the client waits");
        }
    });
    address
}

async fn end_at_first_call(stream: &mut TcpStream, reason: u8) -> std::io::Result<()> {
    const PREFACE_BYTES: usize = 24;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    stream.write_all(&SETTINGS).await?;
    stream.read_exact(&mut [0; PREFACE_BYTES]).await?;
    let mut head = [0; 9];
    while head[3] != HEADERS {
        stream.read_exact(&mut head).await?;
        let payload = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; payload]).await?;
    }
    let go_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, reason];
    stream.write_all(&go_away).await
}

#[tokio::test]
async fn call_that_a_leaving_node_did_not_begin_is_not_applied() {
    const NO_ERROR: u8 = 0;
    const INTERNAL_ERROR: u8 = 2;
    for (reason, outcome) in [(NO_ERROR, Outcome::NotApplied), (INTERNAL_ERROR, Outcome::InDoubt)] {
        let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
        let endpoints = [leaving(reason).await];
        let client = Client::builder().endpoints(endpoints).retry(once).connect().await.unwrap();
        let error = client.put("k", "v").await.unwrap_err();
        assert_eq!((error.cause(), error.outcome()), (Cause::ConnectionLost, outcome), "{error}");
    }
}

#[tokio::test]
async fn no_reachable_endpoint_is_an_error_at_connect() {
    let address = silent_address().await;
    let error = Client::builder().endpoints([address.clone()]).connect().await.unwrap_err();
    assert_eq!((error.cause(), error.endpoint()), (Cause::Unreachable, address.as_str()));
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn silent_node_is_given_up_at_the_deadline() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    let deadline = Duration::from_millis(30);
    fake.script([Fault::Silence, Fault::Silence]);
    let error = client.put("k", "v").deadline(deadline).await.unwrap_err();
    assert_eq!((error.cause(), error.outcome()), (Cause::DeadlineExceeded, Outcome::InDoubt));
    let error = client.get("k").deadline(deadline).await.unwrap_err();
    assert_eq!((error.cause(), error.outcome()), (Cause::DeadlineExceeded, Outcome::Read));
}

#[tokio::test]
async fn batches_answer_each_key() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    let writes = [Write::put("a", "1"), Write::put("b", "2").expires_at_ms(9), Write::delete("c")];
    for result in client.batch_write(writes).await {
        assert!(!result.unwrap().had_previous);
    }
    let read = client.batch_read(["b", "nope", "a"]).await;
    let values: Vec<_> = read
        .into_iter()
        .map(|result| result.unwrap().map(|entry| (entry.value, entry.expires_at_ms)))
        .collect();
    assert_eq!(values, [Some((Bytes::from("2"), Some(9))), None, Some((Bytes::from("1"), None))]);
    assert!(client.batch_write([]).await.is_empty());
    // Identity of write i: request_id + i.
    client.put("d", "4").await.unwrap();
    assert_eq!(fake.calls::<v1::PutRequest>("Put")[0].request_id, 4);
}

#[tokio::test]
async fn refused_keys_of_a_batch_go_into_another_with_new_ids() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    fake.script([Fault::RefuseKeys(Reason::Overloaded, Outcome::NotApplied)]);
    let results = client.batch_write(["a", "b", "c"].map(|key| Write::put(key, "v"))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let sent: Vec<v1::BatchWriteRequest> = fake.calls("BatchWrite");
    let shape: Vec<_> =
        sent.iter().map(|batch| (batch.request_id, batch.writes.len(), batch.attempt)).collect();
    assert_eq!(shape, [(1, 3, 0), (4, 2, 0)]);
}

#[tokio::test]
async fn doubtful_keys_of_a_batch_are_left_to_the_caller() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    fake.script([Fault::RefuseKeys(Reason::NoQuorumInTime, Outcome::InDoubt)]);
    let results = client.batch_write(["a", "b"].map(|key| Write::put(key, "v"))).await;
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().outcome(), Outcome::InDoubt);

    // A refusal that answers a repetition says nothing of the attempt that was lost.
    fake.script([Fault::LostAfter, Fault::RefuseKeys(Reason::Overloaded, Outcome::NotApplied)]);
    let results = client.batch_write(["c", "d"].map(|key| Write::put(key, "v"))).await;
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().outcome(), Outcome::InDoubt);
    assert_eq!(fake.calls::<v1::BatchWriteRequest>("BatchWrite").len(), 3);
}

#[tokio::test]
async fn keys_that_found_no_room_in_the_answer_are_asked_for_again() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    client.put("c", "3").await.unwrap();
    fake.script(vec![Fault::RefuseKeys(Reason::ResponseFull, Outcome::Read); 2]);
    let results = client.batch_read(["a", "b", "c"]).await;
    assert_eq!(results[2].as_ref().unwrap().as_ref().unwrap().value, "3");
    let asked: Vec<_> =
        fake.calls::<v1::BatchReadRequest>("BatchRead").iter().map(|read| read.keys.len()).collect();
    assert_eq!(asked, [3, 2, 1]);
}

#[tokio::test]
async fn scan_returns_every_record_once_over_pages_and_empty_pages() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    for index in 0..25 {
        client.put(format!("k{index:02}"), format!("v{index}")).await.unwrap();
    }
    client.put("other", "x").await.unwrap();
    let mut scan = client.scan().prefix("k").page_records(10);
    let mut keys = Vec::new();
    let mut pages = 0;
    while let Some(page) = scan.next_page().await.unwrap() {
        keys.extend(page.records.into_iter().map(|record| String::from_utf8(record.key.to_vec()).unwrap()));
        pages += 1;
    }
    assert_eq!(keys, (0..25).map(|index| format!("k{index:02}")).collect::<Vec<_>>());
    assert_eq!(pages, 5);
    assert!(scan.next_page().await.unwrap().is_none());
    let page = client.scan().keys_only().prefix("other").next_page().await.unwrap().unwrap();
    assert_eq!((page.records[0].value.len(), page.records[0].value_bytes), (0, 1));
}

#[tokio::test]
async fn health_status_and_ring_are_told() {
    let fake = Fake::start().await;
    let client = client(&[&fake]).await;
    assert!(client.health().await.unwrap());
    fake.set_serving(false);
    assert!(!client.health().await.unwrap());
    assert_eq!(client.status(true).await.unwrap().nodes[0].name, "n1");
    assert_eq!(client.ring().await.unwrap().epoch, 1);
}

#[tokio::test]
async fn clients_have_different_ids() {
    let fake = Fake::start().await;
    for _ in 0..2 {
        client(&[&fake]).await.put("k", "v").await.unwrap();
    }
    let sent: Vec<v1::PutRequest> = fake.calls("Put");
    assert_ne!(sent[0].client_id, sent[1].client_id);
    assert_eq!(fake.writes(), 2);
}
