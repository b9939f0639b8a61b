//! Batches, pipelines and scans.

use super::client::{KvClient, framed, reason, run, still_pending};
use super::fake::settle;
use bytes::Bytes;
use futures_util::future::{join, join_all};
use futures_util::{StreamExt, stream};
use ringcore::rpc::backend::Phase;
use ringcore::rpc::proto::v1;
use ringcore::rpc::server::Port;
use ringcore::types::prng::Prng;
use ringcore::types::request::Operation;
use ringcore::types::{OperationId, Token};
use tonic::Code;
use v1::pipeline_request::Operation as Ask;
use v1::pipeline_response::Result as Told;
use v1::write_operation::Action;

fn key(index: usize) -> Bytes {
    Bytes::from(format!("key-{index:05}"))
}

fn write(index: usize, value: &[u8]) -> v1::WriteOperation {
    let action = Some(Action::Value(Bytes::copy_from_slice(value)));
    v1::WriteOperation { key: key(index), action, expiry: None }
}

fn reason_of(error: &Option<v1::Error>) -> v1::Reason {
    error.as_ref().expect("an error").detail.as_ref().expect("a detail").reason()
}

async fn read(kv: &mut KvClient, keys: Vec<Bytes>) -> Vec<v1::ReadResult> {
    let request = v1::BatchReadRequest { keys, ..Default::default() };
    kv.batch_read(request).await.unwrap().into_inner().results
}

#[test]
fn batch_answers_each_key_in_its_place() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let mut writes: Vec<_> = (0..2_000).map(|index| write(index, &index.to_le_bytes())).collect();
        writes[7].key = Bytes::new();
        writes[8].action = Some(Action::Delete(true));
        writes[9].action = None;
        let request = v1::BatchWriteRequest { writes, client_id: 3, request_id: 100, ..Default::default() };
        let results = kv.batch_write(request).await.unwrap().into_inner().results;
        assert_eq!(results.len(), 2_000);
        assert_eq!(reason_of(&results[7].error), v1::Reason::KeyEmpty);
        assert_eq!(reason_of(&results[9].error), v1::Reason::Malformed);
        let failed = results.iter().filter(|result| result.error.is_some()).count();
        assert!(failed == 2 && results[8].timestamp > 0);
        let sent = bench.fake.requests();
        assert_eq!(sent[0].identity, OperationId::new(3, 100));
        assert_eq!(sent.last().unwrap().identity, OperationId::new(3, 2_099));
        let keys = vec![key(1_999), key(8), key(0), key(0), Bytes::new(), key(5_000)];
        let results = read(&mut kv, keys).await;
        let values: Vec<&[u8]> = results.iter().map(|result| &result.value[..]).collect();
        let (first, last) = (0usize.to_le_bytes(), 1_999usize.to_le_bytes());
        assert_eq!(values, [&last[..], b"", &first, &first, b"", b""]);
        assert!(!results[1].exists && results[1].timestamp > 0, "a tombstone");
        assert_eq!(reason_of(&results[4].error), v1::Reason::KeyEmpty);
        assert!(!results[5].exists && results[5].error.is_none());
    });
}

#[test]
fn batch_without_request_id_has_no_identity_anywhere() {
    run(async |bench| {
        let writes = (0..3).map(|index| write(index, b"v")).collect();
        let request = v1::BatchWriteRequest { writes, client_id: 3, ..Default::default() };
        bench.kv().await.batch_write(request).await.unwrap();
        assert!(bench.fake.requests().iter().all(|request| request.identity.is_none()));
    });
}

#[test]
fn batches_that_cannot_be_are_refused_whole() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let batch = |writes| v1::BatchWriteRequest { writes, ..Default::default() };
        let many = (0..10_001).map(|index| write(index, b"")).collect();
        let ids = v1::BatchWriteRequest {
            client_id: 1,
            request_id: u64::MAX,
            ..batch(vec![write(1, b"a"), write(2, b"b")])
        };
        let cases = [
            (batch(vec![write(1, b"a"), write(2, b"b"), write(1, b"c")]), v1::Reason::DuplicateKey),
            (batch(Vec::new()), v1::Reason::Malformed),
            (batch(many), v1::Reason::BatchTooLarge),
            (ids, v1::Reason::Malformed),
        ];
        for (request, expected) in cases {
            let status = kv.batch_write(request).await.unwrap_err();
            assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, expected));
        }
        let empty = kv.batch_read(v1::BatchReadRequest::default()).await.unwrap_err();
        assert_eq!(reason(&empty), v1::Reason::Malformed);
        assert!(bench.fake.requests().is_empty());
    });
}

#[test]
fn two_million_empty_elements_are_refused_before_they_are_made() {
    run(async |bench| {
        let mut channel = bench.channel(Port::Client).await;
        let elements = b"\x0a\x00".repeat(2_000_000);
        let mut body = vec![0];
        body.extend((elements.len() as u32).to_be_bytes());
        body.extend(&elements);
        for path in ["/ringcore.v1.KV/BatchRead", "/ringcore.v1.KV/BatchWrite"] {
            let answer = channel.call(path, &[], body.clone()).await;
            assert_eq!((answer.code(), answer.reason()), (Code::InvalidArgument, v1::Reason::BatchTooLarge));
        }
    });
}

#[test]
fn batch_of_large_values_is_cut_at_the_message_limit() {
    run(async |bench| {
        let value = vec![1; 1 << 20];
        for index in 0..10 {
            bench.fake.insert(&key(index), &value);
        }
        let mut kv = bench.kv().await;
        let mut wanted: Vec<usize> = (0..10).collect();
        let mut rounds = 0;
        while !wanted.is_empty() {
            let results = read(&mut kv, wanted.iter().map(|&index| key(index)).collect()).await;
            assert_eq!(results.len(), wanted.len());
            let full = |result: &v1::ReadResult| result.error.is_some();
            assert!(results.iter().filter(|result| full(result)).all(|result| {
                reason_of(&result.error) == v1::Reason::ResponseFull && result.value.is_empty()
            }));
            wanted =
                wanted.into_iter().zip(&results).filter(|(_, r)| full(r)).map(|(index, _)| index).collect();
            rounds += 1;
        }
        assert_eq!(rounds, 4, "three values of 1 MiB fit below 4 MiB");
    });
}

fn ask(seq: u64, operation: Ask) -> v1::PipelineRequest {
    v1::PipelineRequest { seq, operation: Some(operation), timeout_ms: 0 }
}

fn get(index: usize) -> Ask {
    Ask::Get(v1::GetRequest { key: key(index), ..Default::default() })
}

fn put(index: usize) -> Ask {
    Ask::Put(v1::PutRequest { key: key(index), value: "v".into(), ..Default::default() })
}

#[test]
fn pipeline_answers_every_operation_by_its_number() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let exists = v1::ExistsRequest { key: key(0), ..Default::default() };
        let delete = v1::DeleteRequest { key: key(1), ..Default::default() };
        let batch = v1::BatchReadRequest { keys: vec![key(0), key(1)], ..Default::default() };
        let writes = v1::BatchWriteRequest { writes: vec![write(3, b"x")], ..Default::default() };
        let mut asked: Vec<_> = (0..3_000).map(|seq| ask(seq, put(seq as usize))).collect();
        asked.push(ask(3_000, get(0)));
        asked.push(ask(3_001, Ask::Exists(exists)));
        asked.push(ask(3_002, Ask::Delete(delete)));
        asked.push(ask(3_003, Ask::BatchRead(batch)));
        asked.push(ask(3_004, Ask::BatchWrite(writes)));
        asked.push(v1::PipelineRequest { seq: 3_005, ..Default::default() });
        asked.push(ask(3_006, Ask::Get(v1::GetRequest::default())));
        let answers = kv.pipeline(stream::iter(asked)).await.unwrap().into_inner();
        let mut answers: Vec<_> = answers.map(|answer| answer.unwrap()).collect().await;
        answers.sort_by_key(|answer| answer.seq);
        assert_eq!(answers.len(), 3_007);
        assert!(answers[..3_000].iter().all(|answer| matches!(answer.result, Some(Told::Put(_)))));
        assert!(matches!(&answers[3_000].result, Some(Told::Get(get)) if get.exists));
        assert!(matches!(&answers[3_001].result, Some(Told::Exists(exists)) if exists.exists));
        assert!(matches!(&answers[3_002].result, Some(Told::Delete(_))));
        assert!(matches!(&answers[3_003].result, Some(Told::BatchRead(batch)) if batch.results.len() == 2));
        assert!(matches!(&answers[3_004].result, Some(Told::BatchWrite(batch)) if batch.results.len() == 1));
        for (seq, expected) in [(3_005, v1::Reason::Malformed), (3_006, v1::Reason::KeyEmpty)] {
            match &answers[seq].result {
                Some(Told::Error(error)) => assert_eq!(reason_of(&Some(error.clone())), expected),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn pipeline_takes_no_more_than_it_may_leave_unanswered() {
    run(async |bench| {
        bench.fake.stall();
        let mut kv = bench.kv().await;
        let asked = stream::iter((0..5_000).map(|seq| ask(seq, get(seq as usize))));
        let mut answers = kv.pipeline(asked).await.unwrap().into_inner();
        for _ in 0..20 {
            settle().await;
        }
        assert_eq!(bench.fake.requests().len(), 1_024);
        bench.fake.resume();
        let mut count = 0;
        while let Some(answer) = answers.next().await {
            assert!(matches!(answer.unwrap().result, Some(Told::Get(_))));
            count += 1;
        }
        assert_eq!(count, 5_000);
    });
}

#[test]
fn pipelines_of_large_values_are_answered_whole() {
    run(async |bench| {
        bench.fake.insert(&key(0), &vec![1; 1 << 20]);
        let kv = bench.kv().await;
        let read = |mut kv: KvClient| async move {
            let asked = stream::iter((0..100).map(|seq| ask(seq, get(0))));
            let answers = kv.pipeline(asked).await.unwrap().into_inner();
            let whole = |answer: &v1::PipelineResponse| matches!(&answer.result, Some(Told::Get(get)) if get.value.len() == 1 << 20);
            answers.map(|answer| usize::from(whole(&answer.unwrap()))).fold(0, async |a, b| a + b).await
        };
        let read = join_all((0..8).map(|_| read(kv.clone()))).await;
        assert_eq!(read, [100; 8]);
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}

#[test]
fn answers_have_their_room_before_they_come() {
    run(async |bench| {
        bench.fake.insert(&key(0), &vec![1; 1 << 20]);
        let kv = bench.kv().await;
        let one = v1::GetRequest { key: key(0), ..Default::default() };
        kv.clone().get(one.clone()).await.unwrap();
        bench.fake.stall();
        let before = bench.fake.requests().len();
        let room = || bench.fake.requests()[before..].iter().map(|request| request.value_bytes_max).sum();
        let mut piped = kv.clone();
        let mut answers =
            piped.pipeline(stream::iter((0..500).map(|seq| ask(seq, get(0))))).await.unwrap().into_inner();
        assert!(still_pending(&mut answers.next()).await);
        let of_pipeline: usize = room();
        assert_eq!(of_pipeline, 4 << 20, "the rest wait their turn");
        let mut calls = join_all((0..200).map(|_| {
            let (mut kv, one) = (kv.clone(), one.clone());
            async move { kv.get(one).await.map(|answer| answer.into_inner().value.len()) }
        }));
        assert!(still_pending(&mut calls).await);
        assert_eq!(bench.fake.requests().len(), before + 4 + 200);
        assert!(room() <= 64 << 20, "a connection's share");
        assert!(bench.counters[0].bytes_in_flight.get() as usize >= room());
        bench.fake.resume();
        let (answers, calls) = join(answers.collect::<Vec<_>>(), calls).await;
        let whole = |answer: &Result<v1::PipelineResponse, _>| matches!(answer, Ok(v1::PipelineResponse { result: Some(Told::Get(get)), .. }) if get.exists);
        assert_eq!(answers.iter().filter(|answer| whole(answer)).count(), 500);
        assert!(calls.into_iter().flatten().all(|length| length == 1 << 20));
        assert_eq!(bench.counters[0].bytes_in_flight.get(), 0);
    });
}

#[test]
fn pipeline_operations_have_their_own_deadlines() {
    run(async |bench| {
        bench.fake.stall();
        let mut kv = bench.kv().await;
        let asked = [(1, 50), (2, 0), (3, u32::MAX)]
            .map(|(seq, timeout_ms)| v1::PipelineRequest { timeout_ms, ..ask(seq, put(1)) });
        let open = stream::iter(asked).chain(stream::pending());
        let mut answers = kv.pipeline(open).await.unwrap().into_inner();
        for (seq, ms) in [(1, 50), (2, 9_950), (3, 50_000)] {
            assert!(still_pending(&mut answers.next()).await, "{seq}");
            bench.fake.advance(ms).await;
            let answer = answers.next().await.unwrap().unwrap();
            assert_eq!(answer.seq, seq);
            match answer.result {
                Some(Told::Error(error)) => {
                    assert_eq!(error.code, Code::DeadlineExceeded as i32);
                    assert_eq!(error.detail.unwrap().outcome(), v1::Outcome::InDoubt);
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn stopping_server_finishes_a_pipelines_operations_and_ends_it() {
    run(async |bench| {
        bench.fake.stall();
        let mut kv = bench.kv().await;
        let open = stream::iter([ask(1, put(1))]).chain(stream::pending());
        let mut answers = kv.pipeline(open).await.unwrap().into_inner();
        assert!(still_pending(&mut answers.next()).await);
        bench.fake.set_phase(Phase::Stopping);
        bench.server.stop();
        assert!(still_pending(&mut answers.next()).await);
        bench.fake.resume();
        assert!(matches!(answers.next().await.unwrap().unwrap().result, Some(Told::Put(_))));
        let status = answers.next().await.unwrap().unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unavailable, v1::Reason::Stopping));
        assert!(bench.server.drained(ringcore::types::Mono::NEVER).await);
    });
}

#[test]
fn pipeline_of_garbage_ends_with_its_reason() {
    run(async |bench| {
        let mut channel = bench.channel(Port::Client).await;
        let body = [&framed(&ask(1, get(1)))[..], b"\0\0\0\0\x01\xff"].concat();
        let answer = channel.call("/ringcore.v1.KV/Pipeline", &[], body).await;
        assert_eq!((answer.code(), answer.reason()), (Code::InvalidArgument, v1::Reason::Malformed));
        assert!(!answer.body.is_empty(), "what came before it is answered");
    });
}

async fn scan_all(kv: &mut KvClient, request: v1::ScanRequest) -> (Vec<v1::Record>, usize) {
    let (mut records, mut pages, mut cursor) = (Vec::new(), 0, Bytes::new());
    loop {
        let page = kv.scan(v1::ScanRequest { cursor, ..request.clone() }).await.unwrap().into_inner();
        records.extend(page.records);
        pages += 1;
        cursor = page.cursor.into();
        if cursor.is_empty() {
            return (records, pages);
        }
    }
}

#[test]
fn scan_returns_every_record_once_in_token_order() {
    run(async |bench| {
        let mut prng = Prng::new(11);
        let mut expected: Vec<(Token, Bytes)> = (0..500).map(key).map(|key| (Token::of(&key), key)).collect();
        expected.sort();
        for (_, key) in &expected {
            bench.fake.insert(key, b"value");
        }
        let mut kv = bench.kv().await;
        for _ in 0..10 {
            let records_max = prng.between(1, 120) as u32;
            let request = v1::ScanRequest { records_max, ..Default::default() };
            let (records, _) = scan_all(&mut kv, request).await;
            let found: Vec<(Token, Bytes)> =
                records.into_iter().map(|record| (Token::of(&record.key), Bytes::from(record.key))).collect();
            assert_eq!(found, expected, "records_max {records_max}");
        }
    });
}

#[test]
fn scan_filters_by_prefix_and_tokens_and_leaves_values_out() {
    run(async |bench| {
        for index in 0..100 {
            bench.fake.insert(&key(index), b"value");
            bench.fake.insert(format!("other-{index}").as_bytes(), b"value");
        }
        let mut kv = bench.kv().await;
        let prefix = v1::ScanRequest { prefix: "key-".into(), omit_values: true, ..Default::default() };
        let (records, _) = scan_all(&mut kv, prefix).await;
        assert_eq!(records.len(), 100);
        assert!(records.iter().all(|record| record.value.is_empty() && record.value_bytes == 5));
        let half = |first, last| v1::ScanRequest {
            token_first: Some(first),
            token_last: Some(last),
            records_max: 7,
            ..Default::default()
        };
        let (low, _) = scan_all(&mut kv, half(0, u64::MAX / 2)).await;
        let (high, _) = scan_all(&mut kv, half(u64::MAX / 2 + 1, u64::MAX)).await;
        assert_eq!(low.len() + high.len(), 200);
        assert!(low.iter().all(|record| Token::of(&record.key).0 <= u64::MAX / 2));
        assert!(scan_all(&mut kv, half(5, 4)).await.0.is_empty());
    });
}

#[test]
fn scan_pages_are_bounded_in_bytes() {
    run(async |bench| {
        for index in 0..12 {
            bench.fake.insert(&key(index), &vec![1; 1 << 20]);
        }
        let mut kv = bench.kv().await;
        let request = v1::ScanRequest { bytes_max: u32::MAX, ..Default::default() };
        let (records, pages) = scan_all(&mut kv, request).await;
        assert_eq!(records.len(), 12);
        assert!(pages >= 6, "{pages} pages of at most 3 MiB");
    });
}

#[test]
fn scan_refuses_a_cursor_that_it_did_not_give() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        for cursor in [&b"x"[..], &[0; 40], b"\x01\x00\x00\x00\x00\x00\x00\x00\x00key\x00\x00\x00\x00"] {
            let request = v1::ScanRequest { cursor: Bytes::from_static(cursor), ..Default::default() };
            let status = kv.scan(request).await.unwrap_err();
            assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, v1::Reason::CursorInvalid));
        }
    });
}

#[test]
fn scan_asks_every_core_at_once() {
    run(async |bench| {
        bench.fake.stall();
        let mut kv = bench.kv().await;
        let mut call = Box::pin(kv.scan(v1::ScanRequest::default()));
        assert!(still_pending(&mut call).await);
        let scans = bench.fake.requests().into_iter().filter(|r| matches!(r.operation, Operation::Scan(_)));
        assert_eq!(scans.count(), 2);
    });
}
