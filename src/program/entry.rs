//! One record of a log or a snapshot as a listing shows it. Knows where records come from; prints nothing.

use crate::storage::carried::Carried;
use crate::storage::log_record::{self, ControlKind, LogRecord, Round};
use crate::storage::part::SlotState;
use crate::types::{Body, RecordRef, Slot, Version};

/// What a listing hands its entries to. It may refuse to take more.
pub type Sink<'a> = &'a mut dyn FnMut(Entry) -> Result<(), super::exit::Refusal>;

/// One line of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Of which layout.
    pub layout: u32,
    /// Of which core.
    pub core: u16,
    /// First LSN of the batch that holds it; None in snapshots.
    pub lsn: Option<u64>,
    /// put, delete, expired, floor, drop, hint, …
    pub kind: &'static str,
    /// Which slot, if it is about one.
    pub slot: Option<u16>,
    /// HLC and member, if it has a version.
    pub version: Option<(u64, u32)>,
    /// Absolute end of life, milliseconds since 1970.
    pub expiry_ms: Option<u64>,
    /// The key, if it is about one.
    pub key: Option<Vec<u8>>,
    /// Length of the value.
    pub value_bytes: Option<u64>,
    /// The value, if it was asked for.
    pub value: Option<Vec<u8>>,
    /// What else it says.
    pub detail: Option<String>,
}

impl Entry {
    /// A record of the log. Values are left out unless `values`.
    pub fn of_log(record: &LogRecord<'_>, values: bool) -> Entry {
        let slot = record.slot().map(|slot| slot.0);
        let entry = match record {
            LogRecord::Record(log_record::Entry { record, .. }) => Entry::of_record(record, values),
            LogRecord::Hint { member, entry } => Entry {
                kind: "hint",
                detail: Some(format!("for member {member}")),
                ..Entry::of_record(&entry.record, values)
            },
            LogRecord::HintDone { member, version, key } => Entry {
                kind: "hint-done",
                version: Some(parts(*version)),
                key: Some(key.to_vec()),
                detail: Some(format!("for member {member}")),
                ..Entry::default()
            },
            LogRecord::Collect { round, floor, purge, .. } => Entry {
                detail: Some(format!("{}, {} records purged", show_round(*round), purge.len())),
                ..Entry::raised("collect", *floor)
            },
            LogRecord::Floor { round, floor, .. } => {
                Entry { detail: Some(show_round(*round)), ..Entry::raised("floor", *floor) }
            }
            LogRecord::Adopt { c, epoch, .. } => {
                Entry::told("adopt", format!("configuration {c}, epoch {epoch}"))
            }
            LogRecord::Drop { epoch, .. } => Entry::told("drop", format!("epoch {epoch}")),
            LogRecord::Promise { operation, attempt, key } => Entry {
                key: Some(key.to_vec()),
                ..Entry::told(
                    "promise",
                    format!(
                        "operation {}/{}, attempt {} of member {}",
                        operation.client, operation.request, attempt.count, attempt.member
                    ),
                )
            },
            LogRecord::HlcBound(bound) => Entry::told("hlc-bound", format!("{bound:?}")),
            LogRecord::Control { kind, bytes } => Entry {
                kind: match kind {
                    ControlKind::Epoch => "epoch",
                    ControlKind::Acceptor => "acceptor",
                },
                value_bytes: Some(bytes.len() as u64),
                value: values.then(|| bytes.to_vec()),
                ..Entry::default()
            },
            LogRecord::OperationsDone { client, done_below } => {
                Entry::told("operations-done", format!("client {client}, requests below {done_below}"))
            }
        };
        Entry { slot, ..entry }
    }

    /// A record of a snapshot.
    pub fn of_part(slot: Slot, record: &RecordRef<'_>, values: bool) -> Entry {
        Entry { slot: Some(slot.0), ..Entry::of_record(record, values) }
    }

    /// The state of a slot in a snapshot; None if there is nothing to tell.
    pub fn of_slot(state: &SlotState) -> Option<Entry> {
        let round = Round { c: state.round.0, i: state.round.1 };
        let told = state.floor != Version::ZERO || round != Round::default() || state.adopted != 0;
        told.then(|| Entry {
            slot: Some(state.slot.0),
            detail: Some(format!("{}, configuration {}", show_round(round), state.adopted)),
            ..Entry::raised("floor", state.floor)
        })
    }

    /// What a snapshot carries besides records.
    pub fn of_carried(bytes: &[u8], values: bool) -> Entry {
        match Carried::decode(bytes) {
            Some(Carried::Named(id, entry)) => Entry {
                slot: Some(entry.slot.0),
                version: Some(parts(entry.version)),
                ..Entry::told("operation", format!("{}/{}", id.client, id.request))
            },
            Some(Carried::Record(record)) => Entry::of_log(&record, values),
            None => Entry::told("unknown", format!("{} bytes of a later version", bytes.len())),
        }
    }

    fn of_record(record: &RecordRef<'_>, values: bool) -> Entry {
        let (kind, value) = match record.body {
            Body::Value(value) => ("put", Some(value)),
            Body::Tombstone => ("delete", None),
            Body::Expired => ("expired", None),
        };
        Entry {
            kind,
            version: Some(parts(record.version)),
            expiry_ms: (record.expires_at_ms != 0).then_some(record.expires_at_ms),
            key: Some(record.key.to_vec()),
            value_bytes: value.map(|value| value.len() as u64),
            value: value.filter(|_| values).map(<[u8]>::to_vec),
            ..Entry::default()
        }
    }

    fn raised(kind: &'static str, floor: Version) -> Entry {
        Entry { kind, version: Some(parts(floor)), ..Entry::default() }
    }

    fn told(kind: &'static str, detail: String) -> Entry {
        Entry { kind, detail: Some(detail), ..Entry::default() }
    }
}

fn parts(version: Version) -> (u64, u32) {
    (version.hlc.0, version.member.0)
}

fn show_round(round: Round) -> String {
    format!("round {}.{}", round.c, round.i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Hlc, MemberId};

    fn record() -> RecordRef<'static> {
        RecordRef {
            key: b"k",
            version: Version::new(Hlc(9), MemberId(2)),
            expires_at_ms: 5,
            body: Body::Value(b"secret"),
        }
    }

    #[test]
    fn values_are_shown_only_if_asked_for() {
        let shown = |values| {
            let entry = log_record::Entry { record: record(), label: None, operation: None };
            Entry::of_log(&LogRecord::Record(entry), values)
        };
        assert_eq!((shown(false).value, shown(false).value_bytes), (None, Some(6)));
        assert_eq!(shown(true).value.as_deref(), Some(&b"secret"[..]));
        assert_eq!(
            (shown(false).kind, shown(false).version, shown(false).expiry_ms),
            ("put", Some((9, 2)), Some(5))
        );
        assert!(shown(false).slot.is_some());
    }

    #[test]
    fn slots_without_history_are_not_listed() {
        assert_eq!(Entry::of_slot(&SlotState { slot: Slot(3), ..SlotState::default() }), None);
        let state =
            SlotState { slot: Slot(3), floor: Version::new(Hlc(1), MemberId(1)), ..SlotState::default() };
        assert_eq!(Entry::of_slot(&state).map(|entry| (entry.kind, entry.slot)), Some(("floor", Some(3))));
    }

    #[test]
    fn carried_bytes_of_another_version_are_named_as_such() {
        assert_eq!(Entry::of_carried(&[99, 1], true).kind, "unknown");
    }
}
