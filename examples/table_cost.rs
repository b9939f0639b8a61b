//! What a record costs in one core's table, in bytes and nanoseconds. One argument: records (default 1 000 000).
//!
//! `cargo run --release --no-default-features --example table_cost -- 10000000`
//!
//! Keys of 16 bytes, values of 100. "Dependent" gets choose each key by the bytes that the get before it found, as a
//! core does between two events: no two misses overlap.

use ringcore::storage::table::Table;
use ringcore::types::prng::Prng;
use ringcore::types::{Body, CoreId, Hlc, MemberId, RecordRef, Token, Version};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 100;
const GETS: u64 = 2_000_000;
/// Records that recovery decodes before it inserts them.
const BATCH: u64 = 64;

fn main() {
    let records: u64 =
        std::env::args().nth(1).map_or(1_000_000, |count| count.parse().expect("a count of records"));
    assert!(records > 0, "at least one record");
    let mut spent = vec![Duration::MAX; records as usize];
    // Each insert is done twice and the shorter time counts: what remains is the table's, not the machine's.
    insert(&mut Table::new(1, CoreId(0), 1), &mut spent);
    let resident_before = resident_bytes();
    let mut table = Table::new(1, CoreId(0), 1);
    insert(&mut table, &mut spent);
    let per_record = |bytes: usize| bytes as f64 / records as f64 - (KEY_BYTES + VALUE_BYTES) as f64;
    println!("{records} records of {KEY_BYTES} + {VALUE_BYTES} B");
    println!("overhead, allocated   {:8.1} B/record", per_record(table.memory_bytes()));
    println!("overhead, resident    {:8.1} B/record", per_record(resident_bytes() - resident_before));
    println!("insert                {:8.0} ns", nanoseconds(spent.iter().sum(), records));
    report_worst(spent);

    let mut prng = Prng::new(2);
    let begun = Instant::now();
    for _ in 0..GETS {
        let key = key(prng.below(records));
        black_box(table.get(Token::of(&key), &key)).expect("the record is there");
    }
    println!("get                   {:8.0} ns", nanoseconds(begun.elapsed(), GETS));

    let begun = Instant::now();
    let mut last = 0u64;
    for _ in 0..GETS {
        let key = key(prng.below(records) ^ last & 1);
        last = table.get(Token::of(&key), &key).map_or(0, |record| record.version.hlc.0);
    }
    black_box(last);
    println!("dependent get         {:8.0} ns", nanoseconds(begun.elapsed(), GETS));

    let begun = Instant::now();
    let mut seen = 0;
    let end: ControlFlow<()> = table.walk((Token(0), None), Token(u64::MAX), |_, record| {
        seen += u64::from(black_box(record.key[0])) & 1 | 2;
        ControlFlow::Continue(())
    });
    assert!(end.is_continue() && seen >= 2 * records, "the walk saw every record");
    println!("walk                  {:8.0} ns/record", nanoseconds(begun.elapsed(), records));

    remove_and_compact(&mut table, records);
    drop(table);
    for prefetched in [false, true] {
        let mut table = Table::new(1, CoreId(0), 1);
        let begun = Instant::now();
        insert_batches(&mut table, records, prefetched);
        let how = if prefetched { "prefetched" } else { "plain     " };
        println!("insert, batches, {how} {:5.0} ns", nanoseconds(begun.elapsed(), records));
    }
}

/// Inserts as many records as there are places to note how long each took.
fn insert(table: &mut Table, spent: &mut [Duration]) {
    for (n, spent) in (0..).zip(spent) {
        let key = key(n);
        let token = Token::of(&key);
        let begun = Instant::now();
        table.set(token, &record(&key, n)).expect("the table has room");
        *spent = begun.elapsed().min(*spent);
    }
}

fn insert_batches(table: &mut Table, records: u64, prefetched: bool) {
    for first in (0..records).step_by(BATCH as usize) {
        let batch: Vec<_> =
            (first..records.min(first + BATCH)).map(|n| (Token::of(&key(n)), n, key(n))).collect();
        if prefetched {
            let expected: Vec<_> = batch.iter().map(|(token, _, key)| table.expect(*token, key)).collect();
            table.prefetch(&expected);
        }
        for (token, n, key) in batch {
            table.set(token, &record(&key, n)).expect("the table has room");
        }
    }
}

/// Removes nine records of ten, and gathers the memory in steps of 64 KiB.
fn remove_and_compact(table: &mut Table, records: u64) {
    let memory_before = table.memory_bytes();
    let begun = Instant::now();
    for n in (0..records).filter(|n| n % 10 != 0) {
        let key = key(n);
        assert!(table.remove(Token::of(&key), &key), "the record is there");
    }
    println!("remove                {:8.0} ns", nanoseconds(begun.elapsed(), records * 9 / 10));
    let mut steps = Vec::new();
    let mut more = true;
    while more {
        let begun = Instant::now();
        more = table.compact_step(64 << 10);
        steps.push(begun.elapsed());
    }
    steps.sort();
    let (half, worst) = (steps[steps.len() / 2], steps[steps.len() - 1]);
    println!("compaction            {:8} steps, half within {half:.1?}, worst {worst:.1?}", steps.len());
    let after = table.memory_bytes();
    println!("memory                {:8} MiB, {} MiB before removals", after >> 20, memory_before >> 20);
}

fn key(n: u64) -> [u8; KEY_BYTES] {
    let scattered = Prng::new(n).next_u64();
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&scattered.to_le_bytes());
    key[8..].copy_from_slice(&n.to_le_bytes());
    key
}

fn record(key: &[u8], n: u64) -> RecordRef<'_> {
    let version = Version::new(Hlc(n), MemberId::FIRST);
    RecordRef { key, version, expires_at_ms: 0, body: Body::Value(&[7; VALUE_BYTES]) }
}

fn report_worst(mut spent: Vec<Duration>) {
    spent.sort();
    let at = |share: f64| spent[(spent.len() as f64 * share) as usize];
    println!(
        "insert, one by one    half {:.1?}, 99.9 % {:.1?}, 99.99 % {:.1?}, worst {:.1?}",
        at(0.5),
        at(0.999),
        at(0.9999),
        spent[spent.len() - 1]
    );
}

fn nanoseconds(spent: Duration, count: u64) -> f64 {
    spent.as_nanos() as f64 / count as f64
}

/// Bytes of this process in memory; 0 where the system does not tell.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()));
    pages.unwrap_or(0) * 4_096
}
