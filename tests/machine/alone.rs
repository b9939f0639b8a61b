//! A cluster of one: the node is every replica there is.

use crate::bench::{BEGIN_MS, Bench, Setup, delete, get, put, put_until, replicate, whole};
use bytes::Bytes;
use ringcore::node::event::Event;
use ringcore::types::request::{Answer, Expiry, Operation, ReadAnswer, Request, ScanRange, TooLong};
use ringcore::types::{Hlc, Limits, OperationId, Outcome, Reason, Version};

// What is answered, and when.

#[test]
fn put_is_acknowledged_only_once_it_is_durable() {
    let mut bench = Bench::alone();
    let asker = bench.ask(put(b"k", b"v"));
    let plans = bench.plan();
    assert_eq!((plans.len(), bench.reply(asker)), (1, None));
    bench.step(Event::Written(plans[0].ticket));
    assert!(!bench.written(asker).had_old);
}

#[test]
fn put_in_the_second_batch_waits_for_the_first() {
    let mut bench = Bench::alone();
    let first = bench.ask(put(b"a", b"1"));
    let mut plans = bench.plan();
    let second = bench.ask(put(b"b", &[7; 9_000]));
    plans.extend(bench.plan());
    assert_eq!(plans.len(), 2);
    bench.step(Event::Written(plans[1].ticket));
    assert_eq!((bench.reply(first), bench.reply(second)), (None, None));
    bench.step(Event::Written(plans[0].ticket));
    bench.written(first);
    bench.written(second);
}

#[test]
fn read_of_what_is_not_durable_waits_for_it() {
    let mut bench = Bench::alone();
    let writer = bench.ask(put(b"k", b"v"));
    let reader = bench.ask(get(b"k"));
    assert_eq!(bench.reply(reader), None);
    bench.flush();
    assert!(bench.reply(writer).is_some());
    assert!(
        matches!(bench.reply(reader), Some(Ok(Answer::Read(answer))) if answer.value == Bytes::from_static(b"v"))
    );
}

#[test]
fn read_of_what_is_durable_does_not_wait_for_others() {
    let mut bench = Bench::alone();
    bench.write(put(b"old", b"v"));
    bench.ask(put(b"new", b"v"));
    let reader = bench.ask(get(b"old"));
    assert!(bench.reply(reader).is_some());
}

#[test]
fn scan_waits_for_everything_that_it_may_show() {
    let mut bench = Bench::alone();
    bench.ask(put(b"k", b"v"));
    let scanner = bench.ask(Operation::Scan(whole()));
    assert_eq!(bench.reply(scanner), None);
    bench.flush();
    assert!(matches!(bench.reply(scanner), Some(Ok(Answer::Page(page))) if page.records.len() == 1));
}

#[test]
fn put_answers_with_what_it_replaced() {
    let mut bench = Bench::alone();
    let first = bench.write(put(b"k", b"1"));
    let second = bench.write(put(b"k", b"2"));
    assert!(second.version > first.version);
    assert_eq!((second.had_old, second.old.as_ref()), (true, &b"1"[..]));
    assert_eq!(bench.read(b"k").value.as_ref(), b"2");
}

#[test]
fn deleted_key_is_absent_and_its_deletion_says_what_was_there() {
    let mut bench = Bench::alone();
    bench.write(put(b"k", b"1"));
    let deleted = bench.write(delete(b"k"));
    assert_eq!((deleted.had_old, deleted.old.as_ref()), (true, &b"1"[..]));
    let read = bench.read(b"k");
    assert_eq!((read.exists, read.version), (false, deleted.version));
    assert!(!bench.write(delete(b"k")).had_old);
}

#[test]
fn unknown_key_reads_as_version_zero() {
    assert_eq!(Bench::alone().read(b"k"), ReadAnswer::default());
}

#[test]
fn failed_write_of_the_log_ends_the_core_and_acknowledges_nothing() {
    let mut bench = Bench::alone();
    let asker = bench.ask(put(b"k", b"v"));
    let plans = bench.plan();
    bench.step(Event::WriteFailed(plans[0].ticket));
    assert!(bench.halted.is_some());
    bench.ask(put(b"k", b"w"));
    assert!(bench.plan().is_empty());
    assert_eq!(bench.reply(asker), None);
}

// Ends.

#[test]
fn value_ends_at_its_time_and_not_before() {
    let mut bench = Bench::alone();
    bench.write(put_until(b"k", b"v", Expiry::InMs(100)));
    assert_eq!(bench.read(b"k").expires_at_ms, BEGIN_MS + 100);
    bench.pass_ms(99);
    assert!(bench.read(b"k").exists);
    bench.pass_ms(1);
    assert!(!bench.read(b"k").exists);
    assert!(!bench.write(put(b"k", b"w")).had_old);
}

#[test]
fn put_without_an_end_clears_an_earlier_one() {
    let mut bench = Bench::alone();
    bench.write(put_until(b"k", b"v", Expiry::InMs(100)));
    bench.write(put(b"k", b"w"));
    bench.live_ms(2_000);
    assert!(bench.read(b"k").exists);
}

#[test]
fn ends_outside_the_limits_are_refused() {
    let mut bench = Bench::alone();
    let longest = Limits::default().ttl_ms_max;
    let wrong = [
        Expiry::InMs(0),
        Expiry::InMs(longest + 1),
        Expiry::AtMs(0),
        Expiry::AtMs(BEGIN_MS),
        Expiry::AtMs(BEGIN_MS + longest + 1),
        Expiry::AtMs(u64::MAX),
        Expiry::InMs(u64::MAX),
    ];
    for expiry in wrong {
        let asker = bench.ask(put_until(b"k", b"v", expiry));
        assert_eq!(bench.failed(asker).reason, Reason::ExpiryInvalid, "{expiry:?}");
    }
    bench.write(put_until(b"k", b"v", Expiry::InMs(longest)));
}

#[test]
fn value_lives_as_long_as_asked_though_the_readers_clock_runs_ahead() {
    let mut bench = Bench::alone();
    // A version from a clock that is ahead, within what is allowed: expiry is judged by it from now on.
    bench.ask(replicate(b"other", b"v", Hlc::at_ms(BEGIN_MS + 400)));
    bench.write(put_until(b"k", b"v", Expiry::InMs(300)));
    assert!(bench.read(b"k").exists);
    bench.pass_ms(299);
    assert!(bench.read(b"k").exists);
}

#[test]
fn nobody_is_told_of_an_end_that_a_restart_could_take_back() {
    // The bound in the log is a minute old: a restart with a clock set back would find the value alive.
    for operation in [get(b"k"), Operation::Scan(whole())] {
        let mut bench = Bench::alone();
        bench.write(put_until(b"k", b"v", Expiry::InMs(60_000)));
        bench.pass_ms(60_000);
        let asker = bench.ask(operation);
        assert_eq!(bench.reply(asker), None, "it waits until the log says how late it is");
        bench.flush();
        assert!(bench.reply(asker).is_some());
        assert!(bench.machine.replica().log().durable_hlc_bound().ms() >= BEGIN_MS + 60_000);
        let again = bench.ask(get(b"k"));
        assert!(bench.reply(again).is_some(), "once is enough");
    }
}

// Named operations.

#[test]
fn repeated_operation_gets_the_first_answer_and_changes_nothing() {
    let mut bench = Bench::alone();
    bench.write(put(b"k", b"0"));
    let first = bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    bench.flush();
    let first = bench.written(first);
    bench.write(put(b"k", b"2"));
    let again = bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    assert_eq!(bench.written(again), first);
    assert_eq!(bench.read(b"k").value.as_ref(), b"2");
    assert_eq!(bench.machine.stats().repeats, 1);
}

#[test]
fn repetition_of_what_is_still_in_flight_waits_with_it() {
    let mut bench = Bench::alone();
    let first = bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    let again = bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    assert_eq!((bench.reply(first), bench.reply(again)), (None, None));
    bench.flush();
    assert_eq!(bench.written(first), bench.written(again));
}

#[test]
fn another_payload_under_the_same_name_is_refused() {
    let mut bench = Bench::alone();
    bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    bench.flush();
    let ends = put_until(b"k", b"1", Expiry::InMs(50));
    for operation in [put(b"k", b"2"), delete(b"k"), ends] {
        let asker = bench.ask_named(operation, 5, 1, 0);
        assert_eq!(bench.failed(asker).reason, Reason::RequestIdReused);
    }
    assert_eq!(bench.read(b"k").value.as_ref(), b"1");
}

#[test]
fn name_is_forgotten_after_its_window() {
    let limits = Limits { identity_ms: 1_000, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    bench.flush();
    bench.live_ms(900);
    assert_eq!(bench.machine.replica().shard().identities().len(), 1);
    bench.live_ms(200);
    assert_eq!(bench.machine.replica().shard().identities().len(), 0);
}

#[test]
fn full_table_of_names_refuses_named_operations_only() {
    let limits = Limits { identities_max: 2, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    for request in 1..=2 {
        bench.ask_named(put(b"k", b"1"), 5, request, 0);
    }
    bench.flush();
    let refused = bench.ask_named(put(b"k", b"1"), 5, 3, 0);
    let failure = bench.failed(refused);
    assert_eq!((failure.reason, failure.outcome), (Reason::Overloaded, Outcome::NotApplied));
    bench.write(put(b"k", b"2"));
    let known = bench.ask_named(put(b"k", b"1"), 5, 2, 0);
    bench.written(known);
    let freeing = bench.ask_named(put(b"k", b"3"), 5, 3, 3);
    bench.flush();
    bench.written(freeing);
}

#[test]
fn names_that_were_freed_or_forgotten_do_not_return_at_a_start() {
    let limits = Limits { identity_ms: 60_000, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits: limits.clone(), ..Setup::default() });
    for request in 1..=20 {
        bench.ask_named(put(b"k", b"1"), 5, request, request);
        bench.ask_named(put(b"k", b"1"), 6, request, 0);
        bench.live_ms(5);
    }
    assert_eq!(bench.replayed(&limits).identities().len(), 1 + 20);
    bench.live_ms(60_000);
    bench.ask_named(put(b"k", b"1"), 5, 21, 0);
    bench.flush();
    assert_eq!(bench.replayed(&limits).identities().len(), 1, "names grow old as the log goes on");
}

#[test]
fn operation_whose_answer_is_gone_is_not_called_unapplied() {
    let limits = Limits { identity_value_bytes_max: 4, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    bench.write(put(b"k", b"more than is kept"));
    bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    let again = bench.ask_named(put(b"k", b"1"), 5, 1, 0);
    assert_eq!(bench.reply(again), None, "what it says of the operation must be durable");
    bench.flush();
    let failure = bench.failed(again);
    assert_eq!((failure.reason, failure.outcome), (Reason::AnswerGone, Outcome::Applied));
}

// Limits.

#[test]
fn keys_and_values_beyond_the_limits_are_refused_with_the_limit() {
    let mut bench = Bench::alone();
    let long = Bytes::from(vec![1; 4_097]);
    let cases = [
        (Operation::Read { key: Bytes::new(), value: true }, Reason::KeyEmpty),
        (Operation::Read { key: long.clone(), value: true }, Reason::KeyTooLong),
        (Operation::Delete { key: long, previous: false }, Reason::KeyTooLong),
    ];
    for (operation, reason) in cases {
        let asker = bench.ask(operation);
        assert_eq!(bench.failed(asker).reason, reason);
    }
    let value = Bytes::from(vec![1; (1 << 20) + 1]);
    let key = Bytes::from_static(b"k");
    let too_large = Operation::Put { key, value, expiry: Expiry::Never, previous: false };
    let asker = bench.ask(too_large);
    let failure = bench.failed(asker);
    assert_eq!((failure.reason, failure.limit, failure.got), (Reason::ValueTooLarge, 1 << 20, (1 << 20) + 1));
}

#[test]
fn largest_key_and_value_are_taken() {
    let mut bench = Bench::alone();
    let (key, value) = (Bytes::from(vec![1; 4_096]), Bytes::from(vec![2; 1 << 20]));
    bench.write(Operation::Put { key, value, expiry: Expiry::Never, previous: false });
}

#[test]
fn request_whose_answer_has_too_little_room_comes_back_undone() {
    let mut bench = Bench::alone();
    bench.write(put(b"k", b"1234"));
    let identity = OperationId::new(1, 1);
    let replace = Request { identity, ..bench.request(put(b"k", b"56")) };
    for request in [bench.request(get(b"k")), bench.request(delete(b"k")), replace.clone()] {
        let asker = bench.submit(Request { value_bytes_max: 3, ..request.clone() });
        let too_long = TooLong { operation: request.operation, value_bytes: 4 };
        assert_eq!(bench.reply(asker), Some(Ok(Answer::TooLong(Box::new(too_long)))));
    }
    let asker = bench.submit(Request { value_bytes_max: 4, ..bench.request(get(b"k")) });
    assert!(matches!(bench.reply(asker), Some(Ok(Answer::Read(read))) if read.value == "1234"));
    let asker = bench.submit(Request { value_bytes_max: 4, ..replace.clone() });
    bench.flush();
    assert_eq!(bench.written(asker).old, "1234");
    // Repeated, it would be answered with what is remembered of it.
    let asker = bench.submit(Request { value_bytes_max: 3, ..replace });
    assert!(matches!(bench.reply(asker), Some(Ok(Answer::TooLong(too_long))) if too_long.value_bytes == 4));
    assert_eq!(bench.read(b"k").value, "56");
}

#[test]
fn log_that_does_not_keep_up_refuses_writes_and_not_reads() {
    let limits = Limits { gathering_bytes_max: 2_000, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    bench.write(put(b"k", b"v"));
    let large = || put(b"l", &[1; 1_000]);
    bench.ask(large());
    let refused = bench.ask(large());
    let failure = bench.failed(refused);
    assert_eq!((failure.reason, failure.outcome), (Reason::Overloaded, Outcome::NotApplied));
    let reader = bench.ask(get(b"k"));
    assert!(matches!(bench.reply(reader), Some(Ok(_))));
    bench.flush();
    bench.write(large());
}

#[test]
fn operations_that_wait_are_bounded() {
    let limits = Limits { operations_max: 2, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    bench.ask(put(b"a", b"v"));
    bench.ask(put(b"b", b"v"));
    let refused = bench.ask(put(b"c", b"v"));
    assert_eq!(bench.failed(refused).reason, Reason::Overloaded);
    bench.flush();
    bench.write(put(b"c", b"v"));
}

#[test]
fn full_memory_refuses_puts_while_reads_and_deletes_go_on() {
    let mut bench = Bench::alone();
    bench.write(put(b"k", b"v"));
    let memory_limit = bench.machine.replica().shard().table().memory_bytes() + 10;
    let mut bench = Bench::new(Setup { memory_limit, ..Setup::default() });
    bench.write(put(b"k", b"v"));
    let refused = bench.ask(put(b"l", &[1; 1_000]));
    let failure = bench.failed(refused);
    assert_eq!((failure.reason, failure.outcome), (Reason::MemoryFull, Outcome::NotApplied));
    assert!(bench.read(b"k").exists);
    assert!(bench.write(delete(b"k")).had_old);
}

#[test]
fn tombstones_of_nothing_do_not_grow_without_end_in_a_full_memory() {
    let mut bench = Bench::new(Setup { memory_limit: 0, ..Setup::default() });
    let refused = bench.ask(delete(b"nothing"));
    let failure = bench.failed(refused);
    assert_eq!((failure.reason, failure.outcome), (Reason::MemoryFull, Outcome::NotApplied));
}

#[test]
fn answers_that_wait_for_the_log_are_bounded() {
    let limits = Limits { held_bytes_max: 2_000, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    bench.ask(put(b"k", &[1; 1_500]));
    let readers = [bench.ask(get(b"k")), bench.ask(get(b"k"))];
    for operation in [get(b"k"), Operation::Scan(whole())] {
        let refused = bench.ask(operation);
        let failure = bench.failed(refused);
        assert_eq!((failure.reason, failure.outcome), (Reason::Overloaded, Outcome::Read));
    }
    bench.flush();
    assert!(readers.into_iter().all(|reader| matches!(bench.reply(reader), Some(Ok(_)))));
    assert_eq!((bench.out.held(), bench.out.held_bytes()), (0, 0));
    assert!(bench.read(b"k").exists);
}

#[test]
fn full_disk_refuses_writes_while_reads_go_on_and_comes_back_by_itself() {
    let mut bench = Bench::new(Setup { segments: 1, ..Setup::default() });
    bench.write(put(b"k", b"v"));
    let segment = bench.segments_wanted.pop().expect("another segment is asked for");
    bench.step(Event::SegmentRefused(segment));
    assert!(bench.machine.is_full());
    let refused = bench.ask(put(b"l", b"v"));
    let failure = bench.failed(refused);
    assert_eq!((failure.reason, failure.outcome), (Reason::DiskFull, Outcome::NotApplied));
    assert!(bench.read(b"k").exists);
    assert!(bench.segments_wanted.is_empty(), "it is not asked for again at once");
    assert!(bench.machine.is_disk_full());
    bench.pass_ms(1_000);
    bench.step(Event::Tick);
    let again = bench.segments_wanted.pop().expect("it is asked for again after a while");
    bench.step(Event::SegmentReady(again));
    assert!(!bench.machine.is_full());
    bench.write(put(b"l", b"v"));
}

#[test]
fn collection_waits_while_the_disk_is_full() {
    let mut bench = Bench::new(Setup { segments: 1, ..Setup::default() });
    bench.write(delete(b"k"));
    let segment = bench.segments_wanted.pop().expect("another segment is asked for");
    bench.step(Event::SegmentRefused(segment));
    bench.live_ms(900);
    assert_eq!(bench.machine.replica().shard().counts().dead, 1);
    bench.live_ms(200);
    bench.segments_wanted.clear();
    bench.step(Event::SegmentReady(segment));
    bench.live_ms(1_100);
    assert_eq!(bench.machine.replica().shard().counts().dead, 0);
}

// Deadlines.

#[test]
fn request_that_comes_too_late_is_not_begun() {
    let mut bench = Bench::alone();
    let deadline = bench.now.mono;
    let late = Request { deadline, ..bench.request(put(b"k", b"v")) };
    let asker = bench.submit(late);
    let failure = bench.failed(asker);
    assert_eq!((failure.reason, failure.outcome), (Reason::DeadlinePast, Outcome::NotApplied));
    assert!(bench.plan().is_empty());
}

#[test]
fn write_that_is_not_durable_in_time_is_in_doubt_and_is_answered_once() {
    let mut bench = Bench::alone();
    let deadline = bench.now.mono.after_ms(20);
    let asker = bench.submit(Request { deadline, ..bench.request(put(b"k", b"v")) });
    let plans = bench.plan();
    bench.pass_ms(20);
    bench.step(Event::Tick);
    let failure = bench.failed(asker);
    assert_eq!((failure.reason, failure.outcome), (Reason::NoQuorumInTime, Outcome::InDoubt));
    bench.step(Event::Written(plans[0].ticket));
    bench.flush();
    assert_eq!(bench.reply(asker), None);
    assert!(bench.read(b"k").exists);
}

// Replicate, floors and collection.

#[test]
fn replicated_version_wins_only_if_it_is_newer() {
    let mut bench = Bench::alone();
    let asker = bench.ask(replicate(b"k", b"old", Hlc::at_ms(BEGIN_MS - 500)));
    bench.flush();
    assert_eq!(bench.reply(asker), Some(Ok(Answer::Replicated)));
    let version = bench.write(put(b"k", b"new")).version;
    let asker = bench.ask(replicate(b"k", b"late", Hlc::at_ms(BEGIN_MS - 400)));
    bench.flush();
    assert_eq!(bench.reply(asker), Some(Ok(Answer::Replicated)), "a newer version is held");
    assert_eq!(bench.read(b"k").version, version);
}

#[test]
fn replicated_versions_of_one_time_end_in_the_greater_bytes_whatever_their_order() {
    for values in [[b"a", b"b"], [b"b", b"a"]] {
        let mut bench = Bench::alone();
        for value in values {
            bench.ask(replicate(b"k", value, Hlc::at_ms(BEGIN_MS)));
        }
        bench.flush();
        assert_eq!(bench.read(b"k").value.as_ref(), b"b");
    }
}

#[test]
fn version_offered_twice_while_the_log_is_busy_is_answered_twice() {
    let mut bench = Bench::alone();
    let first = bench.ask(replicate(b"k", b"v", Hlc::at_ms(BEGIN_MS)));
    let plans = bench.plan();
    let between = bench.ask(put(b"l", b"v"));
    let again = bench.ask(replicate(b"k", b"v", Hlc::at_ms(BEGIN_MS)));
    bench.step(Event::Written(plans[0].ticket));
    assert_eq!(bench.reply(first), Some(Ok(Answer::Replicated)));
    assert_eq!(bench.reply(again), Some(Ok(Answer::Replicated)), "it is durable, so it is said");
    bench.flush();
    bench.written(between);
}

#[test]
fn version_too_far_ahead_is_refused_and_moves_no_clock() {
    let mut bench = Bench::alone();
    let asker = bench.ask(replicate(b"k", b"v", Hlc::at_ms(BEGIN_MS + 501)));
    assert_eq!(bench.failed(asker).reason, Reason::ClockUnfit);
    assert_eq!(bench.write(put(b"k", b"v")).version.hlc.ms(), BEGIN_MS);
}

#[test]
fn deleted_key_is_collected_and_does_not_come_back_with_an_older_version() {
    let mut bench = Bench::alone();
    bench.write(put(b"k", b"v"));
    let deleted = bench.write(delete(b"k")).version;
    bench.live_ms(1_100);
    assert_eq!(bench.machine.replica().shard().counts().records, 0);
    assert_eq!(bench.read(b"k").version, Version::ZERO);
    let asker = bench.ask(replicate(b"k", b"v", deleted.hlc));
    let failure = bench.failed(asker);
    assert_eq!((failure.reason, failure.outcome), (Reason::NotReplica, Outcome::NotApplied));
    assert!(bench.write(put(b"k", b"w")).version > deleted);
}

#[test]
fn expired_key_is_collected_and_its_name_stays_known() {
    let mut bench = Bench::alone();
    let first = bench.ask_named(put_until(b"k", b"v", Expiry::InMs(50)), 5, 1, 0);
    bench.flush();
    let first = bench.written(first);
    bench.live_ms(1_200);
    assert_eq!(bench.machine.replica().shard().counts().records, 0);
    let again = bench.ask_named(put_until(b"k", b"v", Expiry::InMs(50)), 5, 1, 0);
    assert_eq!(bench.written(again), first);
    assert!(!bench.read(b"k").exists);
}

#[test]
fn key_written_while_its_collection_is_under_way_stays() {
    let mut bench = Bench::alone();
    bench.write(delete(b"k"));
    bench.step(Event::Tick);
    let plans = bench.plan();
    assert_eq!(plans.len(), 1, "a round of collection was logged");
    let writer = bench.ask(put(b"k", b"v"));
    bench.step(Event::Written(plans[0].ticket));
    bench.flush();
    bench.written(writer);
    assert!(bench.read(b"k").exists);
}

// Scans.

#[test]
fn pages_give_every_key_once_and_in_order_while_others_write() {
    let mut bench = Bench::alone();
    for n in 0..200u32 {
        let key = Bytes::from(n.to_le_bytes().to_vec());
        let value = Bytes::from_static(b"v");
        bench.ask(Operation::Put { key, value, expiry: Expiry::Never, previous: false });
    }
    bench.flush();
    let (mut seen, mut range) = (Vec::new(), ScanRange { records_max: 7, ..whole() });
    loop {
        let page = bench.scan(range.clone());
        seen.extend(page.records.iter().map(|record| (record.token, record.key.clone())));
        let Some((token, key)) = page.covered else { break };
        (range.first, range.after_key) = (token, Some(key));
        let key = Bytes::from((1_000 + seen.len() as u32).to_le_bytes().to_vec());
        bench.write(Operation::Delete { key, previous: false });
    }
    assert!(seen.is_sorted());
    seen.dedup();
    assert_eq!(seen.len(), 200);
}

#[test]
fn page_ends_at_its_bytes_but_holds_at_least_one_record() {
    let mut bench = Bench::alone();
    for key in [b"a", b"b", b"c"] {
        bench.write(put(key, &[1; 1_000]));
    }
    let page = bench.scan(ScanRange { bytes_max: 10, ..whole() });
    assert_eq!(page.records.len(), 1);
    let (token, key) = page.covered.expect("there is more");
    let page = bench.scan(ScanRange { first: token, after_key: Some(key), bytes_max: 2_500, ..whole() });
    assert_eq!((page.records.len(), page.covered), (2, None));
}

// The end.

#[test]
fn stopping_core_refuses_what_is_new_and_ends_what_is_open() {
    let mut bench = Bench::alone();
    let open = bench.ask(put(b"k", b"v"));
    bench.step(Event::Stop);
    let refused = bench.ask(put(b"l", b"v"));
    let failure = bench.failed(refused);
    assert_eq!((failure.reason, failure.outcome), (Reason::Stopping, Outcome::NotApplied));
    assert!(!bench.machine.is_closed());
    bench.flush();
    bench.written(open);
    bench.live_ms(20);
    assert!(bench.machine.is_closed());
}

#[test]
fn failures_are_counted_by_what_caused_them() {
    let mut bench = Bench::new(Setup { memory_limit: 0, ..Setup::default() });
    bench.ask(put(b"k", b"v"));
    bench.ask(Operation::Read { key: Bytes::new(), value: true });
    bench.read(b"k");
    let stats = bench.machine.stats();
    assert_eq!((stats.failures, stats.refused_room, stats.reads, stats.writes), (2, 1, 1, 0));
}
