//! The seed's services, as a client generated from the seed's text sees them.

use super::client::{outcome, reason, run};
use super::fake::WALL_MS;
use ringcore::rpc::proto::{seed, v1};
use ringcore::rpc::server::Port;
use ringcore::types::request::{Level, Operation};
use ringcore::types::{Hlc, OperationId};
use tonic::Code;

fn put(key: &str, value: &str) -> seed::PutRequest {
    seed::PutRequest { key: key.into(), value: value.into(), client_id: 0, request_id: 0 }
}

fn get(key: &str) -> seed::GetRequest {
    seed::GetRequest { key: key.into(), client_id: 0, request_id: 0 }
}

#[test]
fn put_is_read_back_and_tells_what_it_replaced() {
    run(async |bench| {
        let mut store = bench.store().await;
        let first = store.put(put("k", "v1")).await.unwrap().into_inner();
        assert_eq!(first, seed::PutResponse { old_value: String::new(), had_old_value: false });
        let second = store.put(put("k", "")).await.unwrap().into_inner();
        assert_eq!(second, seed::PutResponse { old_value: "v1".into(), had_old_value: true });
        let read = store.get(get("k")).await.unwrap().into_inner();
        assert!(read.exists && read.value.is_empty() && read.timestamp > 0, "{read:?}");
    });
}

#[test]
fn absent_and_deleted_keys_are_answers() {
    run(async |bench| {
        let mut store = bench.store().await;
        let unknown = store.get(get("k")).await.unwrap().into_inner();
        assert_eq!(unknown, seed::GetResponse { value: String::new(), timestamp: 0, exists: false });
        store.put(put("k", "v")).await.unwrap();
        let delete = v1::DeleteRequest { key: "k".into(), ..Default::default() };
        let deleted = bench.kv().await.delete(delete).await.unwrap().into_inner();
        let gone = store.get(get("k")).await.unwrap().into_inner();
        assert_eq!((gone.exists, gone.timestamp), (false, deleted.timestamp));
    });
}

#[test]
fn ids_travel_and_the_level_is_quorum() {
    run(async |bench| {
        let mut store = bench.store().await;
        store.put(seed::PutRequest { client_id: 3, request_id: 4, ..put("k", "v") }).await.unwrap();
        store.put(seed::PutRequest { client_id: 3, ..put("k", "v") }).await.unwrap();
        store.get(get("k")).await.unwrap();
        let requests = bench.fake.requests();
        assert_eq!(requests[0].identity, OperationId::new(3, 4));
        assert_eq!(requests[1].identity, None);
        assert!(requests.iter().all(|request| request.level == Level::Quorum));
    });
}

#[test]
fn value_that_is_no_text_fails_the_read_and_not_the_write() {
    run(async |bench| {
        bench.fake.insert(b"k", b"\xff\xfe");
        let mut store = bench.store().await;
        let status = store.get(get("k")).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, v1::Reason::ValueNotUtf8));
        let mut channel = bench.channel(Port::Client).await;
        let answer = channel.call("/KVStore/Put", &[], super::client::framed(&put("k", "v"))).await;
        assert_eq!(answer.code(), Code::Ok);
        assert_eq!(answer.trailers["ringcore-old-value"], "not-utf8");
        assert_eq!(&answer.body[..], b"\0\0\0\0\x02\x10\x01", "had_old_value without old_value");
        assert_eq!(store.get(get("k")).await.unwrap().into_inner().value, "v");
    });
}

#[test]
fn refused_writes_say_that_nothing_was_applied() {
    run(async |bench| {
        let mut store = bench.store().await;
        let cases = [
            (put("", "v"), v1::Reason::KeyEmpty),
            (put(&"k".repeat(4_097), "v"), v1::Reason::KeyTooLong),
            (put("k", &"v".repeat((1 << 20) + 1)), v1::Reason::ValueTooLarge),
        ];
        for (request, expected) in cases {
            let status = store.put(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            assert_eq!((reason(&status), outcome(&status)), (expected, v1::Outcome::NotApplied));
        }
        store.put(put(&"k".repeat(4_096), &"v".repeat(1 << 20))).await.unwrap();
        let status = store.get(get("")).await.unwrap_err();
        assert_eq!(outcome(&status), v1::Outcome::Unspecified, "a read applies nothing");
    });
}

#[test]
fn strangers_may_ask_for_life_and_ring_on_both_ports() {
    run(async |bench| {
        for port in [Port::Client, Port::Peer] {
            let mut node = bench.node(port).await;
            node.heartbeat(seed::Ping { node_id: 77 }).await.unwrap();
            let ring = node.get_ring_state(seed::RingStateRequest {}).await.unwrap().into_inner();
            assert_eq!((ring.version, ring.updated_at), (4, WALL_MS as i64));
            assert_eq!(ring.nodes.into_iter().collect::<Vec<_>>(), [("n1".to_owned(), true)]);
        }
    });
}

#[test]
fn replicate_and_sync_are_for_the_peer_port() {
    run(async |bench| {
        let mut node = bench.node(Port::Client).await;
        let replicate = node.replicate(seed::ReplicateRequest::default()).await.unwrap_err();
        let sync = node.sync_keys(seed::SyncRequest::default()).await.unwrap_err();
        for status in [replicate, sync] {
            assert_eq!((status.code(), reason(&status)), (Code::Unimplemented, v1::Reason::OtherPort));
            assert!(status.message().contains("127.0.0.1:7718"), "{}", status.message());
        }
    });
}

#[test]
fn replicate_answers_refusals_in_its_message() {
    run(async |bench| {
        let mut node = bench.node(Port::Peer).await;
        let now = Hlc::at_ms(WALL_MS).0;
        let offer =
            |key: &str, timestamp| seed::ReplicateRequest { key: key.into(), value: "v".into(), timestamp };
        let taken = node.replicate(offer("k", now)).await.unwrap().into_inner();
        assert_eq!(taken, seed::ReplicateResponse { success: true, error: String::new() });
        let ahead = Hlc::at_ms(WALL_MS + 3_600_000).0;
        for request in [offer("k", 0), offer("k", ahead), offer("", now)] {
            let refused = node.replicate(request).await.unwrap().into_inner();
            assert!(!refused.success && !refused.error.is_empty(), "{refused:?}");
        }
        let last = bench.fake.requests().pop().unwrap();
        assert!(matches!(last.operation, Operation::Replicate { .. }) && last.level == Level::One);
    });
}

fn sync(known: &[(&str, u64)], ranges: &[(&str, &str)]) -> seed::SyncRequest {
    seed::SyncRequest {
        key_timestamps: known.iter().map(|&(key, timestamp)| (key.into(), timestamp)).collect(),
        key_ranges: ranges.iter().map(|&(first, end)| (first.into(), end.into())).collect(),
    }
}

fn keys<V>(map: std::collections::HashMap<String, V>) -> Vec<String> {
    let mut keys: Vec<_> = map.into_keys().collect();
    keys.sort();
    keys
}

#[test]
fn sync_tells_what_is_newer_here_and_what_is_gone() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let a = bench.fake.insert(b"a", b"1").hlc.0;
        let b = bench.fake.insert(b"b", b"2").hlc.0;
        bench.fake.insert(b"c", b"3");
        bench.fake.insert(b"text", b"\xff");
        kv.delete(v1::DeleteRequest { key: "c".into(), ..Default::default() }).await.unwrap();
        let mut node = bench.node(Port::Peer).await;
        let listed = node.sync_keys(sync(&[("a", a), ("b", b - 1), ("c", 5), ("d", 0), ("", 0)], &[])).await;
        let listed = listed.unwrap().into_inner();
        assert_eq!(listed.missing["b"], seed::KeyValue { key: "b".into(), value: "2".into(), timestamp: b });
        assert_eq!((keys(listed.missing), keys(listed.deletions)), (vec!["b".into()], vec!["c".into()]));
        let open = node.sync_keys(sync(&[("a", a)], &[("", "")])).await.unwrap().into_inner();
        assert_eq!((keys(open.missing), keys(open.deletions)), (vec!["b".into()], vec!["c".into()]));
        let bounded = node.sync_keys(sync(&[], &[("a", "b")])).await.unwrap().into_inner();
        assert_eq!((keys(bounded.missing), keys(bounded.deletions)), (vec!["a".to_owned()], vec![]));
    });
}

#[test]
fn sync_repeated_with_what_it_gave_comes_to_its_end() {
    run(async |bench| {
        let value = vec![b'v'; 700 << 10];
        for index in 0..20 {
            bench.fake.insert(format!("k{index:02}").as_bytes(), &value);
        }
        let mut node = bench.node(Port::Peer).await;
        let mut known = sync(&[], &[("k", "l")]);
        let mut rounds = 0;
        loop {
            let answer = node.sync_keys(known.clone()).await.unwrap().into_inner();
            if answer.missing.is_empty() {
                break;
            }
            assert!(answer.missing.len() <= 4, "3 MiB hold four of them");
            known.key_timestamps.extend(answer.missing.into_iter().map(|(key, kv)| (key, kv.timestamp)));
            rounds += 1;
        }
        assert_eq!((known.key_timestamps.len(), rounds), (20, 5));
    });
}

#[test]
fn sync_refuses_more_than_it_can_answer() {
    run(async |bench| {
        let mut node = bench.node(Port::Peer).await;
        let names: Vec<String> = (0..10_001).map(|index| index.to_string()).collect();
        let known: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let status = node.sync_keys(sync(&known, &[])).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, v1::Reason::BatchTooLarge));
        let ranges: Vec<(&str, &str)> = names[..17].iter().map(|name| (name.as_str(), "")).collect();
        let status = node.sync_keys(sync(&[], &ranges)).await.unwrap_err();
        assert_eq!(reason(&status), v1::Reason::BatchTooLarge);
    });
}
