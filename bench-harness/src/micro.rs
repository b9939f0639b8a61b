//! `ringbench micro`: the parts that every request passes, by themselves. Rounds of all parts by turns; this machine's
//! counters of instructions are often not to be had, so it is time, and its median with its spread.

use crate::client::protobuf::Writer;
use crate::rounds::Spread;
use crate::workload::keys::{KEY_BYTES_MIN, write_key};
use bytes::Bytes;
use prost::Message as _;
use ringcore::cluster::epoch::Epoch;
use ringcore::cluster::ring::Ring;
use ringcore::rpc::proto::v1;
use ringcore::runtime::executor::{self, CoreContext};
use ringcore::runtime::mailbox::{Mail, Room, seats};
use ringcore::storage::block::{BlockKind, Header, Seal};
use ringcore::storage::lsn::Lsn;
use ringcore::storage::table::Table;
use ringcore::types::clock::HlcClock;
use ringcore::types::prng::Prng;
use ringcore::types::{Body, ClusterId, CoreId, Hlc, MemberId, RecordRef, Token, Version};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Of one part in one round.
const ROUND: Duration = Duration::from_millis(20);
/// Records of the table that does not fit a cache, and of the one that does.
const MANY: u64 = 1_000_000;
const FEW: u64 = 2_000;
const VALUE: [u8; 100] = [b'v'; 100];

/// A part: what it is, and so many times of it.
struct Part {
    name: &'static str,
    run: Box<dyn FnMut(u64)>,
}

/// Measures every part and prints nanoseconds per operation.
pub(crate) fn run(rounds: usize) -> Result<(), Box<dyn Error>> {
    let mut parts = parts();
    let mut counts: Vec<u64> = parts.iter_mut().map(calibrate).collect();
    let mut figures: Vec<Vec<f64>> = parts.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (index, part) in parts.iter_mut().enumerate() {
            let begun = Instant::now();
            (part.run)(counts[index]);
            figures[index].push(begun.elapsed().as_nanos() as f64 / counts[index] as f64);
        }
    }
    counts.clear();
    println!("{:<52}{:>10}{:>22}", "ns per operation", "median", "least to greatest");
    for (part, figures) in parts.iter().zip(&figures) {
        print(part.name, figures);
    }
    print("mailbox: ask, take, answer, take; one core", &mailbox(rounds)?);
    Ok(())
}

fn print(name: &str, figures: &[f64]) {
    let Spread { median, min, max } = Spread::of(figures);
    println!("{name:<52}{median:>10.1}{:>22}", format!("{min:.1} to {max:.1}"));
}

/// How often a part fits into a round.
fn calibrate(part: &mut Part) -> u64 {
    let mut count = 16;
    loop {
        let begun = Instant::now();
        (part.run)(count);
        let took = begun.elapsed();
        if took >= ROUND / 4 {
            return (count as f64 * ROUND.as_secs_f64() / took.as_secs_f64()) as u64 + 1;
        }
        count *= 4;
    }
}

fn parts() -> Vec<Part> {
    let part = |name, run: Box<dyn FnMut(u64)>| Part { name, run };
    let mut clock = HlcClock::starting_after(Hlc::at_ms(1));
    let ring = Ring::new(Epoch::of_members(ClusterId::default(), 3, 5));
    let mut prng = Prng::new(3);
    let key = key(7);
    let put = put();
    let encoded = put.encode_to_vec();
    let mut block = vec![7; 4_096];
    let seal = Seal::new(ClusterId::default(), MemberId::FIRST, CoreId(0), 1);
    let mut message = Vec::new();
    let hashed = key.clone();
    vec![
        part(
            "token: xxh3-64 of a key of 16 bytes",
            Box::new(move |count| {
                (0..count).for_each(|_| {
                    black_box(Token::of(black_box(&hashed)));
                });
            }),
        ),
        part(
            "hybrid clock: the next version",
            Box::new(move |count| {
                (0..count).for_each(|_| {
                    black_box(clock.issue(black_box(1_000)));
                });
            }),
        ),
        part(
            "ring: the replicas of a random slot, 5 members",
            Box::new(move |count| {
                (0..count).for_each(|_| {
                    black_box(ring.replicas(Token(prng.next_u64()).slot()));
                });
            }),
        ),
        part("table: get, 2 000 records", reads(FEW)),
        part("table: get, 1 000 000 records", reads(MANY)),
        part("table: set, 2 000 records", writes(FEW)),
        part("table: set, 1 000 000 records", writes(MANY)),
        part(
            "protobuf: a Put of 100 bytes is read",
            Box::new(move |count| {
                let encoded = Bytes::from(encoded.clone());
                (0..count).for_each(|_| {
                    black_box(v1::PutRequest::decode(black_box(encoded.clone())).expect("what was encoded"));
                });
            }),
        ),
        part(
            "protobuf: a Put of 100 bytes is written",
            Box::new(move |count| {
                (0..count).for_each(|_| {
                    message.clear();
                    put.encode(&mut message).expect("memory takes all that is written");
                    black_box(&message);
                });
            }),
        ),
        part("protobuf: the generator's own Put is written", own_put(key)),
        part(
            "log: a block of 4 KiB is sealed",
            Box::new(move |count| {
                (0..count).for_each(|lsn| header(lsn).seal(seal, black_box(&mut block)));
            }),
        ),
    ]
}

fn header(lsn: u64) -> Header {
    Header {
        kind: BlockKind::Data,
        used: 4_000,
        lsn: Lsn(lsn),
        incarnation: 1,
        index: 0,
        count: 1,
        durable: Lsn(lsn),
        prev: Lsn(lsn),
        cut: Lsn(0),
        hlc_bound: Hlc(lsn),
        first_record: 0,
    }
}

fn key(record: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_BYTES_MIN);
    write_key(record, KEY_BYTES_MIN, &mut key);
    key
}

fn put() -> v1::PutRequest {
    v1::PutRequest {
        key: key(7).into(),
        value: VALUE.to_vec().into(),
        client_id: 1 << 50,
        request_id: 77_777,
        done_below: 77_700,
        ..v1::PutRequest::default()
    }
}

fn own_put(key: Vec<u8>) -> Box<dyn FnMut(u64)> {
    let mut message = Vec::new();
    Box::new(move |count| {
        (0..count).for_each(|_| {
            message.clear();
            let mut writer = Writer(&mut message);
            writer.bytes(1, &key);
            writer.bytes(2, &VALUE);
            writer.number(3, 1 << 50);
            writer.number(4, 77_777);
            writer.number(13, 77_700);
            black_box(&message);
        });
    })
}

fn filled(records: u64) -> (Table, Vec<(Token, Vec<u8>)>) {
    let mut table = Table::new(1, CoreId(0), 1);
    let keys: Vec<_> = (0..records).map(|record| (Token::of(&key(record)), key(record))).collect();
    for (number, (token, key)) in keys.iter().enumerate() {
        set(&mut table, *token, key, number as u64);
    }
    (table, keys)
}

fn set(table: &mut Table, token: Token, key: &[u8], number: u64) {
    let version = Version::new(Hlc(number), MemberId::FIRST);
    let record = RecordRef { key, version, expires_at_ms: 0, body: Body::Value(&VALUE) };
    table.set(token, &record).expect("the table has room");
}

fn reads(records: u64) -> Box<dyn FnMut(u64)> {
    let (table, keys) = filled(records);
    let mut prng = Prng::new(5);
    Box::new(move |count| {
        (0..count).for_each(|_| {
            let (token, key) = &keys[prng.below(records) as usize];
            black_box(table.get(*token, key).expect("it was filled"));
        });
    })
}

fn writes(records: u64) -> Box<dyn FnMut(u64)> {
    let (mut table, keys) = filled(records);
    let (mut prng, mut number) = (Prng::new(5), records);
    Box::new(move |count| {
        (0..count).for_each(|_| {
            let (token, key) = &keys[prng.below(records) as usize];
            number += 1;
            set(&mut table, *token, key, number);
        });
    })
}

/// Both ends of a pair of mailboxes on one executor: what the queues cost, without a wake-up between two cores.
fn mailbox(rounds: usize) -> Result<Vec<f64>, Box<dyn Error>> {
    const PER_ROUND: u64 = 50_000;
    const AT_ONCE: u64 = 64;
    let main = move |context: CoreContext| async move {
        let room = Room { messages: 256, asks: 256 };
        let mut seats = seats::<u64>(2, room).into_iter();
        let mut open = async || seats.next().expect("two seats").open(&context.queues.requests).await;
        let ((here, mut hear), (there, mut inbox)) = (open().await, open().await);
        let mut figures = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            for _ in 0..PER_ROUND / AT_ONCE {
                (0..AT_ONCE).for_each(|number| here.try_ask(CoreId(1), number).expect("there is room"));
                inbox.drain(AT_ONCE as usize, |from, mail| match mail {
                    Mail::Ask(number) => there.answer(from, number),
                    Mail::Tell(_) | Mail::Answer(_) => unreachable!("only questions were asked"),
                });
                hear.drain(AT_ONCE as usize, |_, mail| {
                    black_box(mail);
                });
            }
            figures.push(begun.elapsed().as_nanos() as f64 / PER_ROUND as f64);
        }
        hear.close().await;
        inbox.close().await;
        figures
    };
    Ok(executor::start(&[None], main)?.join()?.remove(0))
}
