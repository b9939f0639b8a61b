//! Records as JSON objects, one a line: what commands print, what `export` writes and `import` reads. The field names
//! are the protocol's; bytes that are not UTF-8 stand in `key_b64`, `value_b64` instead of `key`, `value`; versions are
//! strings, because a JSON number is a double to most readers.

use crate::client::{ClientError, Entry, Meta, Outcome, Record, Written};
use crate::rpc::proto::v1;
use crate::types::version::Version;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is known of a key, as a line of output.
#[derive(Serialize)]
pub(super) struct RecordLine<'a> {
    #[serde(flatten)]
    key: KeyField<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
    #[serde(flatten)]
    value: Option<ValueField<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorField>,
}

/// What a write did, as a line of output.
#[derive(Serialize)]
pub(super) struct WrittenLine<'a> {
    #[serde(flatten)]
    key: KeyField<'a>,
    had_old_value: bool,
    #[serde(flatten)]
    old_value: Option<OldValueField<'a>>,
    timestamp: String,
    member: u32,
}

/// How long a key still lives, as a line of output.
#[derive(Serialize)]
pub(super) struct TtlLine<'a> {
    #[serde(flatten)]
    key: KeyField<'a>,
    exists: bool,
    /// Null: for ever.
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
}

/// A record as `export` writes it: what it takes to restore it.
#[derive(Serialize)]
pub(super) struct ExportLine<'a> {
    #[serde(flatten)]
    key: KeyField<'a>,
    #[serde(flatten)]
    value: ValueField<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
}

#[derive(Serialize)]
enum KeyField<'a> {
    #[serde(rename = "key")]
    Text(&'a str),
    #[serde(rename = "key_b64")]
    Base64(String),
}

#[derive(Serialize)]
enum ValueField<'a> {
    #[serde(rename = "value")]
    Text(&'a str),
    #[serde(rename = "value_b64")]
    Base64(String),
}

#[derive(Serialize)]
enum OldValueField<'a> {
    #[serde(rename = "old_value")]
    Text(&'a str),
    #[serde(rename = "old_value_b64")]
    Base64(String),
}

#[derive(Serialize)]
struct ErrorField {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
}

/// A line that `import` reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ImportRecord {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) expires_at_ms: Option<u64>,
}

/// The fields of such a line. Names that are not known are refused: a misspelt expiry would be lost without a word.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportFields {
    key: Option<String>,
    key_b64: Option<String>,
    value: Option<String>,
    value_b64: Option<String>,
    expires_at_ms: Option<u64>,
    // Printed by other commands; a new write has its own.
    #[serde(rename = "exists")]
    _exists: Option<serde::de::IgnoredAny>,
    #[serde(rename = "timestamp")]
    _timestamp: Option<serde::de::IgnoredAny>,
    #[serde(rename = "member")]
    _member: Option<serde::de::IgnoredAny>,
    #[serde(rename = "value_bytes")]
    _value_bytes: Option<serde::de::IgnoredAny>,
}

impl<'a> RecordLine<'a> {
    pub(super) fn absent(key: &'a [u8]) -> RecordLine<'a> {
        RecordLine { exists: Some(false), ..RecordLine::empty(key) }
    }

    pub(super) fn of_entry(key: &'a [u8], entry: &'a Entry) -> RecordLine<'a> {
        RecordLine {
            exists: Some(true),
            value: Some(value_field(&entry.value)),
            expires_at_ms: entry.expires_at_ms,
            ..RecordLine::empty(key)
        }
        .version(entry.version)
    }

    pub(super) fn of_meta(key: &'a [u8], meta: &Meta) -> RecordLine<'a> {
        RecordLine {
            exists: Some(true),
            value_bytes: Some(meta.value_bytes),
            expires_at_ms: meta.expires_at_ms,
            ..RecordLine::empty(key)
        }
        .version(meta.version)
    }

    pub(super) fn of_scanned(record: &'a Record, keys_only: bool) -> RecordLine<'a> {
        RecordLine {
            value: (!keys_only).then(|| value_field(&record.value)),
            value_bytes: Some(record.value_bytes),
            expires_at_ms: record.expires_at_ms,
            ..RecordLine::empty(&record.key)
        }
        .version(record.version)
    }

    pub(super) fn of_error(key: &'a [u8], error: &ClientError) -> RecordLine<'a> {
        let reason = error.reason().and_then(|reason| v1::Reason::try_from(reason as i32).ok());
        let outcome = match error.outcome() {
            Outcome::Read => None,
            Outcome::NotApplied => Some(v1::Outcome::NotApplied.as_str_name()),
            Outcome::InDoubt => Some(v1::Outcome::InDoubt.as_str_name()),
            Outcome::Applied => Some(v1::Outcome::Applied.as_str_name()),
        };
        let message = error.message().to_owned();
        let error = ErrorField { message, reason: reason.map(|reason| reason.as_str_name()), outcome };
        RecordLine { error: Some(error), ..RecordLine::empty(key) }
    }

    fn empty(key: &'a [u8]) -> RecordLine<'a> {
        RecordLine {
            key: key_field(key),
            exists: None,
            value: None,
            value_bytes: None,
            timestamp: None,
            member: None,
            expires_at_ms: None,
            error: None,
        }
    }

    fn version(mut self, version: Version) -> RecordLine<'a> {
        self.timestamp = Some(version.hlc.0.to_string());
        self.member = Some(version.member.0);
        self
    }
}

impl<'a> WrittenLine<'a> {
    pub(super) fn new(key: &'a [u8], written: &'a Written) -> WrittenLine<'a> {
        let old_value = written.previous.as_ref().map(|old| match std::str::from_utf8(old) {
            Ok(text) => OldValueField::Text(text),
            Err(_) => OldValueField::Base64(STANDARD.encode(old)),
        });
        WrittenLine {
            key: key_field(key),
            had_old_value: written.had_previous,
            old_value,
            timestamp: written.version.hlc.0.to_string(),
            member: written.version.member.0,
        }
    }
}

impl<'a> TtlLine<'a> {
    pub(super) fn new(key: &'a [u8], exists: bool, left_ms: Option<u64>, at_ms: Option<u64>) -> TtlLine<'a> {
        TtlLine { key: key_field(key), exists, ttl_ms: left_ms, expires_at_ms: at_ms }
    }
}

impl<'a> ExportLine<'a> {
    pub(super) fn new(record: &'a Record) -> ExportLine<'a> {
        let (key, value) = (key_field(&record.key), value_field(&record.value));
        ExportLine { key, value, expires_at_ms: record.expires_at_ms }
    }
}

/// Reads a line of `import`. The error says what is wrong with it.
pub(super) fn parse_import_line(line: &[u8]) -> Result<ImportRecord, String> {
    // serde_json adds "at line 1 column N"; the line is known better outside.
    let fields: ImportFields = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        let column = error.column();
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("{what} (column {column})")
    })?;
    let key = bytes_of("key", fields.key, fields.key_b64)?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    let value = bytes_of("value", fields.value, fields.value_b64)?;
    // The protocol's 0 means never, and so did it where this line came from.
    let expires_at_ms = fields.expires_at_ms.filter(|&ms| ms != 0);
    Ok(ImportRecord { key, value, expires_at_ms })
}

fn bytes_of(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(format!("{name}_b64 is not base64: {error}")),
        },
        (None, None) => Err(format!("neither {name} nor {name}_b64 is there")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_b64 are there")),
    }
}

fn key_field(key: &[u8]) -> KeyField<'_> {
    match std::str::from_utf8(key) {
        Ok(text) => KeyField::Text(text),
        Err(_) => KeyField::Base64(STANDARD.encode(key)),
    }
}

fn value_field(value: &[u8]) -> ValueField<'_> {
    match std::str::from_utf8(value) {
        Ok(text) => ValueField::Text(text),
        Err(_) => ValueField::Base64(STANDARD.encode(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Cause, Reason};
    use crate::types::ids::MemberId;
    use crate::types::prng::Prng;
    use crate::types::version::Hlc;

    fn record(key: &[u8], value: &[u8], expires_at_ms: Option<u64>) -> Record {
        Record {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            value_bytes: value.len() as u32,
            version: Version::new(Hlc(u64::MAX), MemberId(3)),
            expires_at_ms,
        }
    }

    fn json(line: &impl Serialize) -> String {
        serde_json::to_string(line).unwrap()
    }

    #[test]
    fn text_is_text_bytes_are_base64_and_versions_are_strings() {
        let text = record(b"k", "größer".as_bytes(), Some(5));
        assert_eq!(
            json(&RecordLine::of_scanned(&text, false)),
            r#"{"key":"k","value":"größer","value_bytes":8,"timestamp":"18446744073709551615","member":3,"expires_at_ms":5}"#
        );
        let binary = record(b"\xff", b"\x00\xfe", None);
        assert_eq!(
            json(&RecordLine::of_scanned(&binary, true)),
            r#"{"key_b64":"/w==","value_bytes":2,"timestamp":"18446744073709551615","member":3}"#
        );
        assert_eq!(json(&ExportLine::new(&binary)), r#"{"key_b64":"/w==","value_b64":"AP4="}"#);
        assert_eq!(json(&RecordLine::absent(b"k")), r#"{"key":"k","exists":false}"#);
        assert_eq!(json(&TtlLine::new(b"k", true, None, None)), r#"{"key":"k","exists":true,"ttl_ms":null}"#);
    }

    #[test]
    fn replaced_value_stands_beside_the_version_that_replaced_it() {
        let version = Version::new(Hlc(7), MemberId(1));
        let mut written =
            Written { version, had_previous: true, previous: Some(Bytes::from_static(b"\xff")) };
        let line = json(&WrittenLine::new(b"k", &written));
        assert_eq!(
            line,
            r#"{"key":"k","had_old_value":true,"old_value_b64":"/w==","timestamp":"7","member":1}"#
        );
        written.previous = None;
        let line = json(&WrittenLine::new(b"k", &written));
        assert_eq!(line, r#"{"key":"k","had_old_value":true,"timestamp":"7","member":1}"#);
    }

    #[test]
    fn errors_are_named_as_in_the_protocol() {
        let error = ClientError::local(Cause::Refused(Reason::MemoryFull), Outcome::NotApplied, "full");
        assert_eq!(
            json(&RecordLine::of_error(b"k", &error)),
            r#"{"key":"k","error":{"message":"full","reason":"REASON_MEMORY_FULL","outcome":"OUTCOME_NOT_APPLIED"}}"#
        );
    }

    #[test]
    fn what_is_exported_is_what_is_imported() {
        let seed = 0x1417;
        let mut prng = Prng::new(seed);
        for round in 0..500 {
            let mut bytes = |least| {
                let count = prng.between(least, 40);
                let text = prng.chance(500);
                let draw = |_| if text { prng.between(0, 127) as u8 } else { prng.next_u64() as u8 };
                (0..count).map(draw).collect::<Vec<u8>>()
            };
            let (key, value) = (bytes(1), bytes(0));
            let expires_at_ms = prng.chance(300).then(|| prng.next_u64().max(1));
            let record = record(&key, &value, expires_at_ms);
            for line in [json(&ExportLine::new(&record)), json(&RecordLine::of_scanned(&record, false))] {
                assert!(!line.contains('\n'), "seed {seed} round {round}");
                let read = parse_import_line(line.as_bytes()).unwrap();
                let expected =
                    ImportRecord { key: key.clone().into(), value: value.clone().into(), expires_at_ms };
                assert_eq!(read, expected, "seed {seed} round {round}: {line}");
            }
        }
    }

    #[test]
    fn bad_lines_are_told_apart() {
        for (line, what) in [
            ("", "EOF"),
            ("nonsense", "expected"),
            ("[1]", "invalid"),
            ("{}", "neither key nor key_b64"),
            (r#"{"key":"k"}"#, "neither value nor value_b64"),
            (r#"{"key":"k","key_b64":"aw==","value":""}"#, "both key and key_b64"),
            (r#"{"key":"","value":""}"#, "the key is empty"),
            (r#"{"key":"k","value_b64":"%"}"#, "value_b64 is not base64"),
            (r#"{"key":"k","value":"v","expire_at_ms":1}"#, "unknown field `expire_at_ms`"),
            (r#"{"key":"k","value":"v","expires_at_ms":-1}"#, "invalid value"),
            (r#"{"key":"k","value":"v"} {}"#, "trailing characters"),
            (r#"{"key":"k","key":"l","value":"v"}"#, "duplicate field"),
        ] {
            let error = parse_import_line(line.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
            assert!(!error.contains("at line"), "{error}");
        }
        assert!(parse_import_line(b"{\"key\":\"\xff\",\"value\":\"\"}").is_err());
        let zero = parse_import_line(br#"{"key":"k","value":"v","expires_at_ms":0}"#).unwrap();
        assert_eq!(zero.expires_at_ms, None);
    }
}
