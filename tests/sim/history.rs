//! What clients were told, key by key, and the checker that no answer contradicts another (G2 to G4, G6 to G9, G11).
//!
//! Every operation writes a value that names it, so a value that is read says who wrote it. Versions order the writes of
//! a key: an answer must not be older than what any client had been told before the operation began.

use ringcore::types::Version;
use ringcore::types::request::{ReadAnswer, WriteAnswer};
use std::collections::BTreeMap;

/// What a write meant to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Intent {
    /// A value that names the operation; `ttl_ms` = 0: it never ends.
    Put { ttl_ms: u64 },
    /// A tombstone.
    Delete,
}

/// One write that was asked for, at the latest moment at which something was learnt of it.
#[derive(Clone, Debug)]
struct Write {
    intent: Intent,
    /// Known once it was acknowledged or read.
    version: Option<Version>,
    /// Certainly without effect.
    refused: bool,
    /// An answer to it was lost, or said that it may take effect: a later refusal says nothing of that try.
    doubtful: bool,
    /// When it was asked for first.
    begun_ms: u64,
    /// Its end, as somebody was told.
    expires_at_ms: Option<u64>,
}

/// What is known of one key.
#[derive(Clone, Debug, Default)]
struct KeyHistory {
    writes: BTreeMap<u64, Write>,
    /// Which of them wrote a version that somebody was told of.
    versions: BTreeMap<Version, u64>,
    /// The greatest version that anybody was told of.
    floor: Version,
    /// The operation that wrote it.
    floor_write: Option<u64>,
    /// The greatest version that somebody was told is expired.
    expired: Version,
}

/// Everything that clients were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    keys: BTreeMap<Vec<u8>, KeyHistory>,
    /// Whose key each operation wrote.
    asked: BTreeMap<u64, Vec<u8>>,
    /// Answers checked.
    pub(crate) checked: u64,
}

/// How far the clock that judged an end may lie from the one that times are given by, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skew {
    pub(crate) ahead_ms: u64,
    pub(crate) behind_ms: u64,
}

/// What was known of a key when an operation began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    floor: Version,
    floor_write: Option<u64>,
    expired: Version,
}

/// The value that an operation writes.
pub(crate) fn value_of(operation: u64, len: usize) -> Vec<u8> {
    let mut value = operation.to_le_bytes().to_vec();
    value.resize(len.max(8), (operation % 251) as u8);
    value
}

fn operation_of(value: &[u8]) -> u64 {
    let operation = u64::from_le_bytes(*value.first_chunk().expect("a value of this world"));
    assert_eq!(value, value_of(operation, value.len()), "bytes of several values are mixed");
    operation
}

impl History {
    /// A write is about to be asked for, for the first time.
    pub(crate) fn ask(&mut self, key: &[u8], operation: u64, intent: Intent, now_ms: u64) {
        let write = Write {
            intent,
            version: None,
            refused: false,
            doubtful: false,
            begun_ms: now_ms,
            expires_at_ms: None,
        };
        self.asked.insert(operation, key.to_vec());
        self.keys.entry(key.to_vec()).or_default().writes.insert(operation, write);
    }

    /// What is known of a key now.
    pub(crate) fn before(&self, key: &[u8]) -> Before {
        let Some(known) = self.keys.get(key) else { return Before::default() };
        Before { floor: known.floor, floor_write: known.floor_write, expired: known.expired }
    }

    /// The answer to a write was lost, or said that it may take effect.
    pub(crate) fn doubt(&mut self, operation: u64) {
        self.any(operation).doubtful = true;
    }

    /// Is there a try of this write of which nothing is known?
    pub(crate) fn is_unsure(&mut self, operation: u64) -> bool {
        self.any(operation).doubtful
    }

    /// A write was answered NOT_APPLIED: nobody may ever see it.
    pub(crate) fn refused(&mut self, key: &[u8], operation: u64) {
        self.checked += 1;
        let write = self.write(key, operation);
        assert!(write.version.is_none(), "operation {operation} was seen, and then not applied");
        write.refused = true;
    }

    /// A write was acknowledged.
    pub(crate) fn written(
        &mut self,
        key: &[u8],
        operation: u64,
        before: &Before,
        repeated: bool,
        answer: &WriteAnswer,
    ) {
        self.checked += 1;
        self.learn(key, operation, answer.version);
        if !repeated {
            assert!(
                answer.version > before.floor,
                "{operation} got a version that is not above what was known"
            );
        }
        if !answer.old.is_empty() {
            let old = operation_of(&answer.old);
            let write = self.write(key, old);
            assert!(old != operation, "{operation} replaced itself");
            assert!(write.intent != Intent::Delete, "{old} is a deletion, but has a value");
            assert!(!write.refused, "{old} was not applied, and {operation} replaced it");
        }
    }

    /// Is the value that an acknowledged write says it replaced the one that lay just below it? Says why not.
    pub(crate) fn check_old(
        &mut self,
        key: &[u8],
        operation: u64,
        before: &Before,
        repeated: bool,
        answer: &WriteAnswer,
    ) -> Result<(), String> {
        let wrong = |right: bool, why: String| if right { Ok(()) } else { Err(why) };
        if answer.had_old {
            let old = operation_of(&answer.old);
            let old_version = self.write(key, old).version;
            let older = old_version.is_none_or(|version| version < answer.version);
            wrong(older, format!("{operation} replaced {old}, which is newer"))?;
            if let Some(old_version) = old_version {
                let between = |write: &&Write| {
                    write.version.is_some_and(|version| old_version < version && version < answer.version)
                };
                let history = self.keys.get(key).expect("the write was asked for");
                let missed = history.writes.values().find(between);
                wrong(missed.is_none(), format!("{operation} replaced {old}, but {missed:?} lay between"))?;
            }
            if let (Some(version), Some(floor_write), false) = (old_version, before.floor_write, repeated) {
                let live = self.write(key, floor_write).intent == Intent::Put { ttl_ms: 0 };
                let newer = !live || version >= before.floor;
                wrong(newer, format!("{operation} replaced {old}, older than {floor_write}"))?;
            }
        } else if let (Some(floor_write), false) = (before.floor_write, repeated) {
            // Something live was there, unless somebody else ended it meanwhile.
            let ended = self.may_have_ended(key, before.floor, answer.version);
            let live = self.write(key, floor_write).intent == Intent::Put { ttl_ms: 0 };
            wrong(!live || ended, format!("{operation} saw no old value, but {floor_write} was there"))?;
        }
        Ok(())
    }

    /// A read was answered. `clock_ms` = the clock when it began and when it ended. Unless somebody tampered with that
    /// clock (None), the one that judged is not further from it than `skew`: each start may take the 500 ms of the bound for
    /// time that has passed.
    pub(crate) fn read(
        &mut self,
        key: &[u8],
        before: &Before,
        answer: &ReadAnswer,
        clock_ms: (u64, u64),
        skew: Option<Skew>,
    ) {
        self.checked += 1;
        if answer.exists {
            let operation = operation_of(&answer.value);
            self.learn(key, operation, answer.version);
            assert!(
                answer.version >= before.floor,
                "a read went back from {:?} to {:?}",
                before.floor,
                answer.version
            );
            assert!(answer.version != before.expired, "{operation} was expired, and is there again");
            let write = self.write(key, operation);
            let end = *write.expires_at_ms.get_or_insert(answer.expires_at_ms);
            assert_eq!(answer.expires_at_ms, end, "the end of {operation} has moved");
            match write.intent {
                Intent::Put { ttl_ms: 0 } => assert_eq!(answer.expires_at_ms, 0),
                Intent::Put { ttl_ms } => {
                    assert!(
                        // A clock that started within a millisecond of the wall's may be that much behind it.
                        skew.is_none_or(|skew| {
                            answer.expires_at_ms + 1 + skew.behind_ms >= write.begun_ms + ttl_ms
                        }),
                        "it ends too early: {} + {ttl_ms} > {}",
                        write.begun_ms,
                        answer.expires_at_ms
                    );
                    assert!(
                        skew.is_none_or(|skew| answer.expires_at_ms + skew.behind_ms > clock_ms.0),
                        "{operation} outlived its end"
                    );
                }
                Intent::Delete => panic!("{operation} is a deletion, but has a value"),
            }
            return;
        }
        if answer.version == Version::ZERO {
            // Never known, or ended and forgotten.
            let Some(floor_write) = before.floor_write else { return };
            let live = self.write(key, floor_write).intent == Intent::Put { ttl_ms: 0 };
            let ended = self.may_have_ended(
                key,
                before.floor,
                Version { hlc: ringcore::types::Hlc(u64::MAX), ..before.floor },
            );
            assert!(!live || ended, "{floor_write} was acknowledged, and is gone");
            return;
        }
        assert!(
            answer.version >= before.floor,
            "a read went back from {:?} to {:?}",
            before.floor,
            answer.version
        );
        if answer.expires_at_ms != 0 {
            let latest = skew.map_or(u64::MAX, |skew| clock_ms.1 + skew.ahead_ms);
            assert!(answer.expires_at_ms <= latest, "{:?} ended too early", answer.version);
            let history = self.keys.entry(key.to_vec()).or_default();
            history.expired = history.expired.max(answer.version);
        }
        self.raise(key, None, answer.version);
    }

    /// A read at level ONE was answered: it may be old, but nothing else.
    pub(crate) fn glimpsed(&mut self, key: &[u8], answer: &ReadAnswer) {
        self.checked += 1;
        if answer.exists {
            let operation = operation_of(&answer.value);
            self.learn(key, operation, answer.version);
            let put = matches!(self.write(key, operation).intent, Intent::Put { .. });
            assert!(put, "{operation} is a deletion, but has a value");
        }
    }

    /// A write at level ONE was acknowledged.
    pub(crate) fn dropped_in(&mut self, key: &[u8], operation: u64, version: Version) {
        self.checked += 1;
        self.learn(key, operation, version);
    }

    /// The operation that a value names.
    pub(crate) fn named_by(value: &[u8]) -> u64 {
        operation_of(value)
    }

    /// Keys that anything is known of.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        self.keys.keys().cloned().collect()
    }

    /// Could a deletion or an end have taken effect between two versions? Those whose version is not known may have.
    fn may_have_ended(&self, key: &[u8], after: Version, before: Version) -> bool {
        let Some(history) = self.keys.get(key) else { return false };
        history.writes.values().any(|write| {
            let ends = write.intent != Intent::Put { ttl_ms: 0 };
            ends && !write.refused && write.version.is_none_or(|version| version > after && version < before)
        })
    }

    fn learn(&mut self, key: &[u8], operation: u64, version: Version) {
        let write = self.write(key, operation);
        assert!(!write.refused, "operation {operation} was not applied, and is seen");
        assert!(write.version.is_none_or(|known| known == version), "{operation} has two versions");
        write.version = Some(version);
        let history = self.keys.get_mut(key).expect("it was just looked at");
        let first = *history.versions.entry(version).or_insert(operation);
        assert_eq!(first, operation, "{version:?} was issued twice for one key");
        self.raise(key, Some(operation), version);
    }

    fn raise(&mut self, key: &[u8], operation: Option<u64>, version: Version) {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_vec(), KeyHistory::default());
        }
        let history = self.keys.get_mut(key).expect("it was just made");
        if version > history.floor {
            history.floor = version;
            history.floor_write = operation.or_else(|| history.versions.get(&version).copied());
        }
    }

    fn any(&mut self, operation: u64) -> &mut Write {
        let key = self.asked.get(&operation).expect("the write was asked for");
        let history = self.keys.get_mut(key).expect("it was asked for");
        history.writes.get_mut(&operation).expect("it was asked for")
    }

    fn write(&mut self, key: &[u8], operation: u64) -> &mut Write {
        let write = self.keys.get_mut(key).and_then(|history| history.writes.get_mut(&operation));
        write.unwrap_or_else(|| panic!("{operation} never wrote to this key"))
    }
}
