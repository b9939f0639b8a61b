//! `ringcore wal` and `ringcore snapshot`: what was found in files, for people or as JSON. Reads no file itself and
//! never shows values.

use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;

use super::engine;
use super::exit::{self, Exit, Refusal};
use super::table::lay_out;

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// JSON; listings are one object a line.
    Json,
}

/// What recovery would say of a place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Whole.
    Clean,
    /// An end that was provably never acknowledged.
    Cut,
    /// Damage that one log alone cannot decide.
    Suspect,
    /// Damage of what was provably acknowledged.
    Corrupt,
}

/// One damaged place of a log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Damage {
    /// First LSN of it.
    pub from_lsn: u64,
    /// First LSN behind it.
    pub to_lsn: u64,
    /// What it means.
    pub verdict: Verdict,
}

/// The log of one core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogReport {
    /// Whose.
    pub core: u16,
    /// Files.
    pub segments: u64,
    /// Lowest LSN that is there.
    pub first_lsn: u64,
    /// LSN behind the last whole batch.
    pub end_lsn: u64,
    /// Whole batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// The worst that was found.
    pub verdict: Verdict,
    /// Where.
    pub damage: Vec<Damage>,
}

/// One part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PartReport {
    /// Whose.
    pub core: u16,
    /// 0 to 15.
    pub part: u16,
    /// Replay starts there.
    pub start_lsn: u64,
    /// The log was that long when the part was finished.
    pub end_lsn: u64,
    /// Records in it.
    pub records: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Slots whose blocks are damaged; empty = sound.
    pub damaged_slots: Vec<u16>,
}

/// One record of a log or a snapshot, without its value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Whose.
    pub core: u16,
    /// Where in the log; None in snapshots.
    pub lsn: Option<u64>,
    /// put, delete, floor, drop, hint, …
    pub kind: String,
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
}

/// `wal verify`: 0 if recovery would serve, 74 if it found damage that it cannot decide alone.
pub fn verify_log(path: &Path, output: Output) -> Exit {
    let reports = match engine::verify_log(path) {
        Ok(reports) => reports,
        Err(refusal) => return exit::refuse(&[refusal]),
    };
    let printed = exit::print(&match output {
        Output::Table => show_logs(&reports),
        Output::Json => json(&serde_json::json!({ "schema": 1, "logs": reports })),
    });
    let unsound = reports.iter().any(|report| report.verdict >= Verdict::Suspect);
    if unsound { Exit::IO } else { printed }
}

/// `snapshot verify`: 0 if every part is sound, else 74.
pub fn verify_snapshot(path: &Path, output: Output) -> Exit {
    let reports = match engine::verify_snapshot(path) {
        Ok(reports) => reports,
        Err(refusal) => return exit::refuse(&[refusal]),
    };
    let printed = exit::print(&match output {
        Output::Table => show_parts(&reports),
        Output::Json => json(&serde_json::json!({ "schema": 1, "parts": reports })),
    });
    let unsound = reports.iter().any(|report| !report.damaged_slots.is_empty());
    if unsound { Exit::IO } else { printed }
}

/// `wal dump`.
pub fn dump_log(path: &Path, output: Output) -> Exit {
    list(output, |sink| engine::dump_log(path, sink))
}

/// `snapshot dump`.
pub fn dump_snapshot(path: &Path, output: Output) -> Exit {
    list(output, |sink| engine::dump_snapshot(path, sink))
}

/// Streams entries to stdout as they come: a log may be larger than memory.
fn list(output: Output, dump: impl FnOnce(engine::Sink<'_>) -> Result<(), Refusal>) -> Exit {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut gone = false;
    let mut sink = |entry: Entry| {
        let line = match output {
            Output::Table => show_entry(&entry),
            Output::Json => entry_json(&entry).to_string(),
        };
        writeln!(out, "{line}").map_err(|error| {
            gone = error.kind() == io::ErrorKind::BrokenPipe;
            Refusal::new(Exit::IO, format!("cannot write to standard output: {error}"))
        })
    };
    let outcome = dump(&mut sink);
    match (outcome, out.flush()) {
        (Err(refusal), _) if !gone => exit::refuse(&[refusal]),
        (Ok(()), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            exit::refuse(&[Refusal::new(Exit::IO, format!("cannot write to standard output: {error}"))])
        }
        (Ok(()) | Err(_), _) => Exit::OK,
    }
}

fn show_logs(reports: &[LogReport]) -> String {
    let row = |report: &LogReport| {
        [
            report.core.to_string(),
            report.segments.to_string(),
            report.first_lsn.to_string(),
            report.end_lsn.to_string(),
            report.batches.to_string(),
            report.records.to_string(),
            word(report.verdict).to_owned(),
        ]
    };
    let rows: Vec<_> = reports.iter().map(row).collect();
    let mut text = lay_out(["CORE", "SEGMENTS", "FIRST", "END", "BATCHES", "RECORDS", "VERDICT"], &rows);
    for report in reports {
        for damage in &report.damage {
            let Damage { from_lsn, to_lsn, verdict } = damage;
            text.push_str(&format!("core {}: LSN {from_lsn}..{to_lsn}: {}\n", report.core, word(*verdict)));
        }
    }
    text
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::Cut => "cut",
        Verdict::Suspect => "suspect",
        Verdict::Corrupt => "corrupt",
    }
}

fn show_parts(reports: &[PartReport]) -> String {
    let row = |report: &PartReport| {
        let damaged = report.damaged_slots.len();
        [
            report.core.to_string(),
            report.part.to_string(),
            report.start_lsn.to_string(),
            report.end_lsn.to_string(),
            report.records.to_string(),
            report.bytes.to_string(),
            if damaged == 0 { "sound".to_owned() } else { format!("{damaged} slots damaged") },
        ]
    };
    let rows: Vec<_> = reports.iter().map(row).collect();
    lay_out(["CORE", "PART", "START", "END", "RECORDS", "BYTES", "VERDICT"], &rows)
}

/// core, LSN, kind, slot, version, expiry, value's length, key; tabs between, `-` for none.
fn show_entry(entry: &Entry) -> String {
    fn or_none(cell: Option<impl ToString>) -> String {
        cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
    }
    let key = entry.key.as_deref().map(|key| match std::str::from_utf8(key) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => format!("0x{}", hex(key)),
    });
    [
        entry.core.to_string(),
        or_none(entry.lsn),
        entry.kind.clone(),
        or_none(entry.slot),
        or_none(entry.version.map(show_version)),
        or_none(entry.expiry_ms),
        or_none(entry.value_bytes),
        or_none(key),
    ]
    .join("\t")
}

/// Absent fields are left out; u64 versions are strings, as everywhere in JSON.
fn entry_json(entry: &Entry) -> serde_json::Value {
    let mut fields = serde_json::Map::new();
    let mut put = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("core", Some(entry.core.into()));
    put("lsn", entry.lsn.map(Into::into));
    put("kind", Some(entry.kind.as_str().into()));
    put("slot", entry.slot.map(Into::into));
    put("version", entry.version.map(|version| show_version(version).into()));
    put("expiry_ms", entry.expiry_ms.map(Into::into));
    put("value_bytes", entry.value_bytes.map(Into::into));
    match entry.key.as_deref().map(|key| (key, std::str::from_utf8(key))) {
        Some((_, Ok(text))) => put("key", Some(text.into())),
        Some((key, Err(_))) => put("key_hex", Some(hex(key).into())),
        None => {}
    }
    fields.into()
}

fn show_version((hlc, member): (u64, u32)) -> String {
    format!("{hlc}.{member}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Entry {
        Entry {
            core: 1,
            lsn: Some(42),
            kind: "put".into(),
            slot: Some(7),
            version: Some((u64::MAX, 3)),
            expiry_ms: None,
            key: Some(b"user:\t1".to_vec()),
            value_bytes: Some(100),
        }
    }

    #[test]
    fn entries_are_one_line_whatever_the_key() {
        assert_eq!(show_entry(&put()), "1\t42\tput\t7\t18446744073709551615.3\t-\t100\tuser:\\t1");
        let binary = Entry { key: Some(vec![0xFF, 0x0A]), ..Entry::default() };
        assert_eq!(show_entry(&binary), "0\t-\t\t-\t-\t-\t-\t0xff0a");
    }

    #[test]
    fn json_keeps_versions_exact_and_leaves_out_what_is_not_there() {
        assert_eq!(
            entry_json(&put()).to_string(),
            r#"{"core":1,"key":"user:\t1","kind":"put","lsn":42,"slot":7,"value_bytes":100,"version":"18446744073709551615.3"}"#
        );
        let binary = Entry { kind: "delete".into(), key: Some(vec![0xFF]), ..Entry::default() };
        assert_eq!(entry_json(&binary).to_string(), r#"{"core":0,"key_hex":"ff","kind":"delete"}"#);
    }

    #[test]
    fn damage_is_listed_under_the_table() {
        let damage = vec![Damage { from_lsn: 10, to_lsn: 12, verdict: Verdict::Suspect }];
        let report = LogReport {
            core: 0,
            segments: 2,
            first_lsn: 0,
            end_lsn: 10,
            batches: 9,
            records: 80,
            verdict: Verdict::Suspect,
            damage,
        };
        let text = show_logs(&[report]);
        assert!(
            text.ends_with(
                "0     2         0      10   9        80       suspect\ncore 0: LSN 10..12: suspect\n"
            ),
            "{text}"
        );
        let part = PartReport {
            core: 0,
            part: 3,
            start_lsn: 1,
            end_lsn: 2,
            records: 3,
            bytes: 4,
            damaged_slots: vec![5, 6],
        };
        assert!(show_parts(&[part]).ends_with("2 slots damaged\n"));
    }
}
