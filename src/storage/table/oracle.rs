//! The table against a sorted map that is told the same, and its own books against what its memory holds.

use super::*;
use crate::types::prng::Prng;
use crate::types::{Body, Hlc, MemberId, Version};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// A record that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Owned {
    version: Version,
    expires_at_ms: u64,
    body: OwnedBody,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum OwnedBody {
    Value(Vec<u8>),
    Tombstone,
    Expired,
}

impl Owned {
    fn of(record: &RecordRef<'_>) -> Owned {
        let body = match record.body {
            Body::Value(value) => OwnedBody::Value(value.to_vec()),
            Body::Tombstone => OwnedBody::Tombstone,
            Body::Expired => OwnedBody::Expired,
        };
        Owned { version: record.version, expires_at_ms: record.expires_at_ms, body }
    }

    fn borrow<'a>(&'a self, key: &'a [u8]) -> RecordRef<'a> {
        let body = match &self.body {
            OwnedBody::Value(value) => Body::Value(value),
            OwnedBody::Tombstone => Body::Tombstone,
            OwnedBody::Expired => Body::Expired,
        };
        RecordRef { key, version: self.version, expires_at_ms: self.expires_at_ms, body }
    }

    fn any(prng: &mut Prng, value_bytes: usize) -> Owned {
        let body = match prng.below(8) {
            0 => OwnedBody::Tombstone,
            1 => OwnedBody::Expired,
            _ => OwnedBody::Value(vec![prng.next_u64() as u8; value_bytes]),
        };
        let version = Version::new(Hlc(prng.next_u64()), MemberId(prng.next_u64() as u32));
        Owned { version, expires_at_ms: prng.below(2) * prng.next_u64(), body }
    }
}

/// A token of the test's choice: the first 8 bytes of the key.
fn chosen_token(key: &[u8]) -> Token {
    Token(u64::from_le_bytes(*key.first_chunk().expect("keys of these tests begin with their token")))
}

fn key_with_token(token: u64, rest: &[u8]) -> Vec<u8> {
    [&token.to_le_bytes()[..], rest].concat()
}

/// A table and what it should hold.
struct Pair {
    table: Table,
    model: BTreeMap<(Token, Vec<u8>), Owned>,
    refused: usize,
}

impl Pair {
    fn new(core: CoreId, cores: u16, chunks_max: u32) -> Pair {
        let table = Table::with(77, core, cores, chosen_token, chunks_max);
        Pair { table, model: BTreeMap::new(), refused: 0 }
    }

    fn set(&mut self, key: &[u8], record: Owned) -> Result<Written, TableFull> {
        let token = chosen_token(key);
        let written = self.table.set(token, &record.borrow(key));
        match written {
            Ok(written) => {
                let replaced = self.model.insert((token, key.to_vec()), record).is_some();
                assert_eq!(written == Written::Replaced, replaced);
            }
            Err(_) => self.refused += 1,
        }
        self.check_one(key);
        written
    }

    fn remove(&mut self, key: &[u8]) {
        let token = chosen_token(key);
        let known = self.model.remove(&(token, key.to_vec())).is_some();
        assert_eq!(self.table.remove(token, key), known);
        self.check_one(key);
    }

    fn check_one(&self, key: &[u8]) {
        let token = chosen_token(key);
        let held = self.table.get(token, key).map(|record| Owned::of(&record));
        assert_eq!(held.as_ref(), self.model.get(&(token, key.to_vec())));
    }

    /// A walk of at most so many records shows the same as the model.
    fn check_walk(&self, from: (Token, Option<&[u8]>), last: Token, records_max: usize) {
        let mut seen = Vec::new();
        let end = self.table.walk(from, last, |token, record| {
            assert_eq!(record.key.len().min(8), 8);
            seen.push(((token, record.key.to_vec()), Owned::of(&record)));
            if seen.len() == records_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let rest = self.model.range((from.0, Vec::new())..);
        let after = rest.filter(|((token, key), _)| {
            *token > from.0 || from.1.is_none_or(|passed| key.as_slice() > passed)
        });
        let expected: Vec<_> = after
            .take_while(|((token, _), _)| *token <= last)
            .take(records_max)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(end.is_break(), seen.len() == records_max);
        assert_eq!(seen, expected);
    }

    fn check(&self) {
        self.table.check();
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(self.table.is_empty(), self.model.is_empty());
        self.check_walk((Token(0), None), Token(u64::MAX), usize::MAX);
        let bytes = self.model.iter().map(|((_, key), record)| packed::bytes_of(&record.borrow(key)));
        assert_eq!(self.table.live_bytes(), bytes.sum::<usize>());
        let mut by_slot = BTreeMap::<Slot, usize>::new();
        self.model.keys().for_each(|(token, _)| *by_slot.entry(token.slot()).or_default() += 1);
        for slot in self.table.index.slots(Slot(0), Slot(SLOTS as u16 - 1)) {
            assert_eq!(self.table.slot_len(slot), by_slot.get(&slot).copied().unwrap_or(0));
        }
    }

    fn compact_all(&mut self, bytes_max: usize) {
        let mut steps = 0;
        while self.table.compact_step(bytes_max) {
            steps += 1;
            assert!(steps < 1_000_000, "a compaction ends");
        }
    }
}

impl Table {
    /// Panics if the books and the memory disagree.
    fn check(&self) {
        self.heap.check();
        self.index.check(&self.heap);
        let slots = self.index.slots(Slot(0), Slot(SLOTS as u16 - 1));
        assert_eq!(slots.map(|slot| self.slot_len(slot)).sum::<usize>(), self.len());
    }
}

/// Keys that crowd: few slots of one core, tokens alike in many bits, tokens that are the same.
fn crowded_key(prng: &mut Prng, core: CoreId, cores: u16) -> Vec<u8> {
    let slot = u64::from(core.0) + u64::from(cores) * prng.below(3);
    let within = match prng.below(4) {
        0 => 1 << 40 | prng.below(3),
        1 => prng.below(1 << 12) << 20,
        _ => prng.next_u64() >> 14,
    };
    let rest = vec![b'k'; prng.below(4) as usize];
    key_with_token(slot << 50 | within, &[&rest[..], &[prng.below(64) as u8]].concat())
}

fn any_value_bytes(prng: &mut Prng) -> usize {
    match prng.below(50) {
        0 => prng.below(100_000) as usize,
        1..8 => prng.below(20_000) as usize,
        8..20 => prng.below(700) as usize,
        _ => prng.below(60) as usize,
    }
}

#[test]
fn table_agrees_with_a_sorted_map() {
    for seed in 0..24u64 {
        std::println!("seed {seed}");
        let prng = &mut Prng::new(seed);
        let cores = [1, 2, 3, 64][prng.below(4) as usize];
        let core = CoreId(prng.below(u64::from(cores)) as u16);
        let mut pair = Pair::new(core, cores, CHUNKS_MAX);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for round in 0..12 {
            // Rounds grow and shrink the table by turns.
            let removals = if round % 3 == 2 { 800 } else { 250 };
            for _ in 0..1_500 {
                let known = !keys.is_empty() && prng.chance(700);
                let key = if known {
                    keys[prng.below(keys.len() as u64) as usize].clone()
                } else {
                    crowded_key(prng, core, cores)
                };
                if prng.chance(removals) {
                    pair.remove(&key);
                } else if prng.chance(20) {
                    pair.table.compact_step(prng.below(64 << 10) as usize);
                } else if prng.chance(20) {
                    let last =
                        Token(chosen_token(&key).0.saturating_add(prng.next_u64() >> prng.between(1, 63)));
                    let after =
                        prng.chance(500).then_some(&key[..prng.between(8, key.len() as u64) as usize]);
                    pair.check_walk((chosen_token(&key), after), last, prng.between(1, 40) as usize);
                } else {
                    let value_bytes = any_value_bytes(prng);
                    pair.set(&key, Owned::any(prng, value_bytes)).unwrap();
                    keys.push(key);
                }
            }
            pair.check();
        }
        for key in &keys {
            pair.remove(key);
        }
        pair.compact_all(64 << 10);
        pair.check();
        assert_eq!(pair.table.len(), 0);
    }
}

#[test]
fn only_a_chain_at_its_limit_refuses() {
    let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
    let crowd = |n: u32| key_with_token(9 << 40, &n.to_le_bytes());
    let prng = &mut Prng::new(1);
    for n in 0..64 * 12 {
        assert_eq!(pair.set(&crowd(n), Owned::any(prng, 10)), Ok(Written::New));
    }
    let memory = pair.table.memory_bytes();
    assert_eq!(pair.set(&crowd(10_000), Owned::any(prng, 10)), Err(TableFull::ChainTooLong));
    assert_eq!(pair.table.memory_bytes(), memory);
    pair.check();
    // Replacing goes on, in place and not, and so do other tokens of the slot.
    assert_eq!(pair.set(&crowd(5), Owned::any(prng, 10)), Ok(Written::Replaced));
    assert_eq!(pair.set(&crowd(6), Owned::any(prng, 30_000)), Ok(Written::Replaced));
    for n in 0..2_000u64 {
        assert_eq!(pair.set(&key_with_token(1 << 49 | n << 36, b""), Owned::any(prng, 10)), Ok(Written::New));
    }
    pair.check();
    assert_eq!(pair.set(&crowd(10_000), Owned::any(prng, 10)), Err(TableFull::ChainTooLong));
    pair.remove(&crowd(700));
    assert_eq!(pair.set(&crowd(10_000), Owned::any(prng, 10)), Ok(Written::New));
    pair.check();
    // A walk can stop and go on between keys of one token.
    pair.check_walk((Token(9 << 40), Some(&crowd(300))), Token(9 << 40), 100);
    for n in 0..10_001 {
        pair.remove(&crowd(n));
    }
    pair.check();
    assert_eq!(pair.refused, 2);
}

#[test]
fn directory_stays_small_whatever_the_tokens_are() {
    for shift in 0..50 {
        let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
        for n in 0..1_000u64 {
            let within = (n << shift) & ((1 << 50) - 1) | n >> 3;
            let key = key_with_token(3 << 50 | within, &n.to_le_bytes());
            if pair
                .set(&key, Owned { version: Version::ZERO, expires_at_ms: 0, body: OwnedBody::Tombstone })
                .is_err()
            {
                break;
            }
        }
        pair.check();
        let directory = pair.table.index.directory(Slot(3));
        assert!(directory.len() <= 16 * directory.buckets as usize);
    }
}

#[test]
fn values_of_every_size_are_kept() {
    let prng = &mut Prng::new(3);
    let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
    let mut sizes: Vec<usize> = (0..1_200).chain((1_200..70_000).step_by(97)).collect();
    sizes.extend([16_383, 16_384, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20]);
    for (n, &size) in sizes.iter().enumerate() {
        let key = key_with_token(prng.next_u64(), &n.to_le_bytes());
        let record = Owned {
            version: Version::ZERO,
            expires_at_ms: 0,
            body: OwnedBody::Value((0..size).map(|at| at as u8).collect()),
        };
        assert_eq!(pair.set(&key, record), Ok(Written::New));
    }
    pair.check();
}

#[test]
fn memory_comes_back_after_deletions() {
    let prng = &mut Prng::new(4);
    let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
    let empty = pair.table.memory_bytes();
    assert!(empty < 1 << 20, "an empty core takes {empty} bytes");
    let mut keys = Vec::new();
    for n in 0..60_000u64 {
        let key = key_with_token(prng.next_u64(), &n.to_le_bytes());
        let value_bytes = if n % 1_000 == 0 { 50_000 } else { 200 * prng.below(4) as usize };
        pair.set(&key, Owned::any(prng, value_bytes)).unwrap();
        keys.push(key);
    }
    let full = pair.table.memory_bytes();
    while keys.len() > 6_000 {
        let key = keys.swap_remove(prng.below(keys.len() as u64) as usize);
        pair.remove(&key);
    }
    pair.compact_all(64 << 10);
    pair.check();
    // Every class keeps a chunk that is not full, every slot a bucket, and a sixteenth may stay free.
    let tenth = pair.table.memory_bytes();
    assert!(tenth - empty < (full - empty) / 5, "{full} bytes shrank to {tenth} only");
    keys.iter().for_each(|key| pair.remove(key));
    pair.compact_all(64 << 10);
    pair.check();
    let left = pair.table.memory_bytes();
    assert!(left < empty + (64 << 10), "{left} bytes are left of an empty table");
}

#[test]
fn buckets_move_together_with_their_chains() {
    let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
    let prng = &mut Prng::new(10);
    let records = |slot: u64| if slot.is_multiple_of(8) { 36 } else { 1 };
    for slot in 0..4_000 {
        for nth in 0..records(slot) {
            pair.set(&key_with_token(slot << 50, &[nth]), Owned::any(prng, 5)).unwrap();
        }
    }
    let buckets = pair.table.heap.buckets_used();
    assert_eq!(buckets, 500 * 3 + 3_500);
    for slot in (0..4_000).filter(|slot| records(*slot) == 1) {
        pair.remove(&key_with_token(slot << 50, &[0]));
    }
    while pair.table.compact_step(4 << 10) {
        pair.table.check();
    }
    pair.check();
}

#[test]
fn overhead_of_small_records_is_bounded() {
    let (core, cores) = (CoreId(3), 16);
    let mut table = Table::new(5, core, cores);
    let prng = &mut Prng::new(5);
    let records = 100_000;
    while table.len() < records {
        let key = u128::from(prng.next_u64()).to_le_bytes();
        let record =
            RecordRef { key: &key, version: Version::ZERO, expires_at_ms: 0, body: Body::Value(&[7; 100]) };
        if Token::of(&key).slot().core(cores) == core {
            table.set(Token::of(&key), &record).unwrap();
        }
    }
    table.check();
    let overhead = (table.memory_bytes() - records * 116) / records;
    assert!(overhead <= 40, "{overhead} bytes of overhead per record");
}

#[test]
fn spent_handles_refuse_and_leave_the_table_as_it_was() {
    let prng = &mut Prng::new(6);
    let mut pair = Pair::new(CoreId(0), 1, 12);
    let mut keys = Vec::new();
    for n in 0..4_000u64 {
        let key = key_with_token(prng.next_u64() >> 13, &n.to_le_bytes());
        let value_bytes = any_value_bytes(prng);
        match pair.set(&key, Owned::any(prng, value_bytes)) {
            Ok(_) => keys.push(key),
            Err(full) => assert_eq!(full, TableFull::HandlesSpent),
        }
    }
    assert!(pair.refused > 100);
    pair.check();
    for key in &keys {
        pair.remove(key);
    }
    pair.compact_all(64 << 10);
    pair.check();
    let key = key_with_token(0, b"");
    assert_eq!(pair.set(&key, Owned::any(prng, 10_000)), Ok(Written::New));
}

#[test]
fn spent_handles_refuse_what_needs_one_more_bucket() {
    fn add(pair: &mut Pair, token: u64, nth: u8) -> Result<Written, TableFull> {
        let dead = Owned { version: Version::ZERO, expires_at_ms: 0, body: OwnedBody::Tombstone };
        pair.set(&key_with_token(token, &[nth]), dead)
    }
    // One chunk of buckets, one of records.
    let mut pair = Pair::new(CoreId(0), 1, 2);
    let prng = &mut Prng::new(8);
    // 48 tokens of slot 0 are too near each other for its directory.
    let crowd = |n: u64| n << 36;
    (0..48).for_each(|n| assert_eq!(add(&mut pair, crowd(n), 0), Ok(Written::New)));
    while pair.table.index.directory(Slot(0)).buckets < 70 {
        add(&mut pair, 1 << 49 | prng.below(1 << 48), 0).unwrap();
    }
    // Then the directory becomes large enough because of others: 12 records of one token and one beside them.
    (0..12).for_each(|nth| assert_eq!(add(&mut pair, 1 << 49 | 1 << 47, nth), Ok(Written::New)));
    add(&mut pair, 1 << 49 | 1 << 47 | 1 << 40, 0).unwrap();
    assert!(pair.table.index.directory(Slot(0)).len() >= 1 << 10);
    (0..12).for_each(|nth| assert_eq!(add(&mut pair, 1 << 50, nth), Ok(Written::New)));
    (0..12).for_each(|nth| assert_eq!(add(&mut pair, 2 << 50 | u64::from(nth) << 46, nth), Ok(Written::New)));
    let mut slot = 3;
    while pair.table.heap.buckets_used() < 1_023 {
        add(&mut pair, slot << 50, 0).unwrap();
        slot += 1;
    }
    // The chain of the crowd needs two buckets more at least, and there is one.
    assert_eq!(add(&mut pair, crowd(48), 0), Err(TableFull::HandlesSpent));
    pair.check();
    assert_eq!(add(&mut pair, slot << 50, 0), Ok(Written::New));
    for token in [(slot + 1) << 50, 1 << 50, 2 << 50 | 1, crowd(48)] {
        assert_eq!(add(&mut pair, token, 99), Err(TableFull::HandlesSpent));
        pair.check();
    }
    (0..4).for_each(|back| pair.remove(&key_with_token((slot - back) << 50, &[0])));
    assert_eq!(add(&mut pair, crowd(48), 0), Ok(Written::New));
    pair.check();
    assert_eq!(pair.refused, 5);
}

#[test]
#[should_panic(expected = "nothing is in use that is not named")]
fn check_sees_a_cell_that_nothing_names() {
    let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
    let record = Owned::any(&mut Prng::new(9), 10);
    pair.set(&key_with_token(0, b""), record.clone()).unwrap();
    let key = key_with_token(1, b"");
    pair.table.store(&record.borrow(&key), 100).unwrap();
    pair.table.check();
}

#[test]
fn no_answer_depends_on_the_seed() {
    let shown = |seed| {
        let mut table = Table::new(seed, CoreId(0), 1);
        for n in 0..3_000u32 {
            let key = (n % 2_500).to_le_bytes();
            let record = Owned::any(&mut Prng::new(u64::from(n)), n as usize % 50);
            table.set(Token::of(&key), &record.borrow(&key)).unwrap();
        }
        let mut shown = Vec::new();
        let end = table.walk((Token(0), None), Token(u64::MAX), |token, record| {
            shown.push((token, record.key.to_vec(), Owned::of(&record)));
            ControlFlow::<()>::Continue(())
        });
        assert!(end.is_continue());
        (shown, table.memory_bytes())
    };
    assert_eq!(shown(1), shown(2));
}

#[test]
fn cores_share_the_slots_without_overlap() {
    let prng = &mut Prng::new(7);
    let cores = 5;
    let mut tables: Vec<Table> = (0..cores).map(|core| Table::new(1, CoreId(core), cores)).collect();
    for n in 0..5_000u32 {
        let key = n.to_le_bytes();
        let token = Token::of(&key);
        let record = Owned::any(prng, 20);
        let owner = usize::from(token.slot().core(cores).0);
        tables[owner].set(token, &record.borrow(&key)).unwrap();
    }
    let mut seen = Vec::new();
    for table in &tables {
        table.check();
        let end = table.walk((Token(0), None), Token(u64::MAX), |token, _| {
            seen.push(token);
            ControlFlow::<()>::Continue(())
        });
        assert!(end.is_continue());
    }
    assert_eq!(seen.len(), 5_000);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5_000);
}

#[test]
#[should_panic(expected = "another core's")]
fn slot_of_another_core_is_a_programmer_error() {
    Table::new(1, CoreId(0), 2).slot_len(Slot(1));
}

#[test]
fn records_in_token_order_fill_their_buckets() {
    let mut pair = Pair::new(CoreId(0), 1, CHUNKS_MAX);
    let mut tokens: Vec<u64> = (0..3_000).map(|n| Token::of(&u64::to_le_bytes(n)).0 >> 14).collect();
    tokens.sort();
    let dead = Owned { version: Version::ZERO, expires_at_ms: 0, body: OwnedBody::Tombstone };
    for token in tokens {
        pair.set(&key_with_token(token, b""), dead.clone()).unwrap();
    }
    pair.check();
    let buckets = pair.table.index.directory(Slot(0)).buckets;
    assert!(buckets <= 3_000 / 8, "{buckets} buckets");
}
