//! Log records under random content and random bytes: what is written reads back, and nothing else does.

use ringcore::storage::log_record::{
    Attempt, ControlKind, Entry, LogRecord, OperationEntry, PurgeList, Records, Round,
};
use ringcore::types::prng::Prng;
use ringcore::types::{Body, Hlc, MemberId, OperationId, RecordRef, SLOTS, Slot, Version};

/// The bytes that random records borrow.
struct Arena {
    bytes: Vec<u8>,
    purge: PurgeList,
}

impl Arena {
    fn new(prng: &mut Prng) -> Arena {
        let bytes: Vec<u8> = (0..300).map(|_| prng.next_u64() as u8).collect();
        let mut purge = PurgeList::default();
        for _ in 0..prng.below(4) {
            let length = prng.between(1, 40) as usize;
            purge.push(&bytes[..length], any_version(prng));
        }
        Arena { bytes, purge }
    }

    fn slice(&self, prng: &mut Prng, at_least: u64) -> &[u8] {
        &self.bytes[..prng.between(at_least, 300) as usize]
    }

    fn entry(&self, prng: &mut Prng) -> Entry<'_> {
        let body = match prng.below(4) {
            0 => Body::Tombstone,
            1 => Body::Expired,
            _ => Body::Value(self.slice(prng, 0)),
        };
        let record = RecordRef {
            key: self.slice(prng, 1),
            version: any_version(prng),
            expires_at_ms: prng.below(2) * prng.next_u64(),
            body,
        };
        let label = prng.chance(500).then(|| any_round(prng));
        let operation = prng.chance(500).then(|| OperationEntry {
            id: any_id(prng),
            attempt: any_attempt(prng),
            payload_hash: prng.next_u64(),
            replaced: any_version(prng),
            had_old: prng.chance(500),
        });
        Entry { record, label, operation }
    }

    fn record(&self, prng: &mut Prng) -> LogRecord<'_> {
        let slot = Slot(prng.below(SLOTS as u64) as u16);
        match prng.below(12) {
            0 | 1 => LogRecord::Record(self.entry(prng)),
            2 => LogRecord::Collect {
                slot,
                round: any_round(prng),
                floor: any_version(prng),
                purge: self.purge.as_purge(),
            },
            3 => LogRecord::Floor { slot, round: any_round(prng), floor: any_version(prng) },
            4 => LogRecord::Adopt { slot, c: prng.next_u64(), epoch: prng.next_u64() },
            5 => LogRecord::Drop { slot, epoch: prng.next_u64() },
            6 => LogRecord::Promise {
                operation: any_id(prng),
                attempt: any_attempt(prng),
                key: self.slice(prng, 1),
            },
            7 => LogRecord::HlcBound(Hlc(prng.next_u64())),
            8 => LogRecord::Control { kind: ControlKind::Acceptor, bytes: self.slice(prng, 0) },
            9 => LogRecord::Hint { member: any_member(prng), entry: self.entry(prng) },
            10 => LogRecord::HintDone {
                member: any_member(prng),
                version: any_version(prng),
                key: self.slice(prng, 1),
            },
            _ => LogRecord::OperationsDone { client: prng.next_u64(), done_below: prng.next_u64() },
        }
    }
}

fn any_member(prng: &mut Prng) -> MemberId {
    MemberId(prng.next_u64() as u32)
}

fn any_version(prng: &mut Prng) -> Version {
    Version::new(Hlc(prng.next_u64()), any_member(prng))
}

fn any_round(prng: &mut Prng) -> Round {
    Round { c: prng.next_u64(), i: prng.next_u64() as u32 }
}

fn any_attempt(prng: &mut Prng) -> Attempt {
    Attempt { count: prng.next_u64() as u32, member: any_member(prng) }
}

fn any_id(prng: &mut Prng) -> OperationId {
    OperationId { client: prng.next_u64() | 1, request: prng.next_u64() | 1 }
}

#[test]
fn random_records_read_back() {
    for seed in 0..2_000 {
        let mut prng = Prng::new(seed);
        let arena = Arena::new(&mut prng);
        let records: Vec<_> = (0..prng.between(1, 8)).map(|_| arena.record(&mut prng)).collect();
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let read: Result<Vec<_>, _> = Records::new(&bytes).collect();
        assert_eq!(read.as_deref(), Ok(&records[..]), "seed {seed}");
    }
}

#[test]
fn whatever_decodes_encodes_to_the_same_bytes() {
    let mut decoded = 0;
    for seed in 0..40_000 {
        let mut prng = Prng::new(seed);
        let arena = Arena::new(&mut prng);
        let mut bytes = Vec::new();
        arena.record(&mut prng).encode(&mut bytes);
        // Mostly in the head, where the structure is.
        for _ in 0..prng.between(1, 3) {
            let reach = if prng.chance(800) { bytes.len().min(24) } else { bytes.len() };
            let at = prng.below(reach as u64) as usize;
            bytes[at] = if prng.chance(500) { prng.next_u64() as u8 } else { prng.below(16) as u8 };
        }
        if prng.chance(200) {
            bytes.truncate(prng.below(bytes.len() as u64) as usize);
        }
        if let Ok((record, taken)) = LogRecord::decode(&bytes) {
            decoded += 1;
            let mut again = Vec::new();
            record.encode(&mut again);
            assert_eq!(again, bytes[..taken], "seed {seed}: {record:?}");
        }
    }
    assert!(decoded > 1_000, "the mutations must leave some records readable: {decoded}");
}

#[test]
fn random_bytes_never_panic() {
    for seed in 0..20_000 {
        let mut prng = Prng::new(seed);
        let length = prng.below(80) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| prng.next_u64() as u8).collect();
        if let [low, high, third, fourth, kind, ..] = &mut bytes[..] {
            (*low, *high, *third, *fourth, *kind) = (length as u8 - 4, 0, 0, 0, prng.below(16) as u8);
        }
        Records::new(&bytes).for_each(drop);
    }
}
