//! `ringcore wal` and `ringcore snapshot`: what was found in files, for people or as JSON. Reads no file itself, and
//! shows values only if told to.

use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;

use super::entry::{Entry, Sink};
use super::exit::{self, Exit, Refusal};
use super::offline_log::{self, Damage, LogReport, Verdict};
use super::offline_snapshot::{self, SnapshotReport};
use super::quantity::format_utc_ms;
use super::table::lay_out;

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// JSON; listings are one object a line.
    Json,
}

/// `wal verify`: 0 if recovery would serve, 74 if it found damage that it cannot decide alone.
pub fn verify_log(path: &Path, output: Output) -> Exit {
    let reports = match offline_log::verify(path) {
        Ok(reports) => reports,
        Err(refusal) => return exit::refuse(&[refusal]),
    };
    let printed = exit::print(&match output {
        Output::Table => show_logs(&reports),
        Output::Json => json("logs", &reports),
    });
    let unsound = reports.iter().any(|report| report.verdict >= Verdict::Suspect);
    if unsound { Exit::IO } else { printed }
}

/// `snapshot verify`: 0 if every part is sound, else 74.
pub fn verify_snapshot(path: &Path, output: Output) -> Exit {
    let reports = match offline_snapshot::verify(path) {
        Ok(reports) => reports,
        Err(refusal) => return exit::refuse(&[refusal]),
    };
    let printed = exit::print(&match output {
        Output::Table => show_snapshots(&reports),
        Output::Json => json("snapshots", &reports),
    });
    if reports.iter().all(SnapshotReport::is_sound) { printed } else { Exit::IO }
}

/// `wal dump`.
pub fn dump_log(path: &Path, output: Output, values: bool) -> Exit {
    list(output, |sink| offline_log::dump(path, values, sink))
}

/// `snapshot dump`.
pub fn dump_snapshot(path: &Path, output: Output, values: bool) -> Exit {
    list(output, |sink| offline_snapshot::dump(path, values, sink))
}

/// What a damaged log costs, and what is left of it: a sentence each.
pub fn explain(report: &LogReport) -> Vec<String> {
    let mut lines: Vec<String> = report.damage.iter().map(explain_damage).collect();
    lines.extend(report.failure.iter().map(|failure| format!("not read to its end: {failure}")));
    let LogReport { batches, keys, batches_after, keys_after, .. } = report;
    let Some(newest_ms) = report.newest_ms else {
        lines.push("no record can be read".to_owned());
        return lines;
    };
    let behind = match batches_after {
        0 => String::new(),
        _ => format!("; {keys_after} keys in {batches_after} of these batches lie behind the damage"),
    };
    lines.push(format!("can be read: {keys} keys in {batches} batches{behind}"));
    lines.push(format!("the newest record that can be read was written at {}", format_utc_ms(newest_ms)));
    lines
}

fn explain_damage(damage: &Damage) -> String {
    let range = match damage.to_lsn {
        Some(to) => format!("LSN {} to {to}", damage.from_lsn),
        None => format!("LSN {} on", damage.from_lsn),
    };
    let what = match damage.verdict {
        Verdict::Clean | Verdict::Cut => "nothing that was acknowledged is missing",
        Verdict::Suspect => "what is unreadable may have been acknowledged",
        Verdict::Corrupt => "acknowledged writes are unreadable",
    };
    format!("{}: {range}: {what}", word(damage.verdict))
}

/// Streams entries to stdout as they come: a log may be larger than memory.
fn list(output: Output, dump: impl FnOnce(Sink<'_>) -> Result<(), Refusal>) -> Exit {
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
            report.layout.to_string(),
            report.core.to_string(),
            report.segments.to_string(),
            report.first_lsn.to_string(),
            report.end_lsn.to_string(),
            report.batches.to_string(),
            report.records.to_string(),
            report.keys.to_string(),
            report.newest_ms.map_or_else(|| "-".to_owned(), format_utc_ms),
            word(report.verdict).to_owned(),
        ]
    };
    let rows: Vec<_> = reports.iter().map(row).collect();
    let headings =
        ["LAYOUT", "CORE", "SEGMENTS", "FIRST", "END", "BATCHES", "RECORDS", "KEYS", "NEWEST", "VERDICT"];
    let mut text = lay_out(headings, &rows);
    for report in reports {
        let LogReport { layout, core, end_lsn, .. } = report;
        match report.verdict {
            Verdict::Clean => {}
            Verdict::Cut => text.push_str(&format!(
                "layout {layout}, core {core}: ends at LSN {end_lsn}: what was being written there was never \
                 acknowledged\n"
            )),
            Verdict::Suspect | Verdict::Corrupt => {
                for line in explain(report) {
                    text.push_str(&format!("layout {layout}, core {core}: {line}\n"));
                }
            }
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

fn show_snapshots(reports: &[SnapshotReport]) -> String {
    let mut rows = Vec::new();
    for report in reports {
        for part in &report.parts {
            let verdict = match (part.is_there, part.damaged_slots.len(), part.core_damaged) {
                (false, ..) => "missing".to_owned(),
                (true, 0, false) => "sound".to_owned(),
                (true, 0, true) => "damaged outside of slots".to_owned(),
                (true, slots, _) => format!("{slots} slots damaged"),
            };
            rows.push([
                report.layout.to_string(),
                report.core.to_string(),
                part.part.to_string(),
                part.start_lsn.to_string(),
                part.end_lsn.to_string(),
                part.records.to_string(),
                part.bytes.to_string(),
                verdict,
            ]);
        }
    }
    let mut text = match rows.is_empty() {
        true => "no part has been written yet: everything is in the log\n".to_owned(),
        false => lay_out(["LAYOUT", "CORE", "PART", "START", "END", "RECORDS", "BYTES", "VERDICT"], &rows),
    };
    for report in reports {
        if let SnapshotReport { layout, core, failure: Some(failure), .. } = report {
            text.push_str(&format!("layout {layout}, core {core}: not read to its end: {failure}\n"));
        }
    }
    text
}

/// layout, core, LSN, kind, slot, version, expiry, value's length, key, value, the rest; tabs between, `-` for none.
fn show_entry(entry: &Entry) -> String {
    fn or_none(cell: Option<impl ToString>) -> String {
        cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
    }
    [
        entry.layout.to_string(),
        entry.core.to_string(),
        or_none(entry.lsn),
        entry.kind.to_owned(),
        or_none(entry.slot),
        or_none(entry.version.map(show_version)),
        or_none(entry.expiry_ms),
        or_none(entry.value_bytes),
        or_none(entry.key.as_deref().map(show_bytes)),
        or_none(entry.value.as_deref().map(show_bytes)),
        or_none(entry.detail.as_ref()),
    ]
    .join("\t")
}

/// Text as it is but for what would break the line; anything else in hexadecimal.
fn show_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => format!("0x{}", hex(bytes)),
    }
}

/// Absent fields are left out; u64 versions are strings, as everywhere in JSON.
fn entry_json(entry: &Entry) -> serde_json::Value {
    let mut fields = serde_json::Map::new();
    let mut put = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("layout", Some(entry.layout.into()));
    put("core", Some(entry.core.into()));
    put("lsn", entry.lsn.map(Into::into));
    put("kind", Some(entry.kind.into()));
    put("slot", entry.slot.map(Into::into));
    put("version", entry.version.map(|version| show_version(version).into()));
    put("expiry_ms", entry.expiry_ms.map(Into::into));
    put("value_bytes", entry.value_bytes.map(Into::into));
    put("detail", entry.detail.as_deref().map(Into::into));
    for (name, in_hex, bytes) in [("key", "key_hex", &entry.key), ("value", "value_hex", &entry.value)] {
        match bytes.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            Some((_, Ok(text))) => put(name, Some(text.into())),
            Some((bytes, Err(_))) => put(in_hex, Some(hex(bytes).into())),
            None => {}
        }
    }
    fields.into()
}

fn show_version((hlc, member): (u64, u32)) -> String {
    format!("{hlc}.{member}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(name: &str, reports: &impl Serialize) -> String {
    format!("{:#}\n", serde_json::json!({ "schema": 1, name: reports }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::offline_snapshot::PartReport;

    fn put() -> Entry {
        Entry {
            layout: 1,
            core: 1,
            lsn: Some(42),
            kind: "put",
            slot: Some(7),
            version: Some((u64::MAX, 3)),
            key: Some(b"user:\t1".to_vec()),
            value_bytes: Some(100),
            ..Entry::default()
        }
    }

    #[test]
    fn entries_are_one_line_whatever_the_key() {
        assert_eq!(show_entry(&put()), "1\t1\t42\tput\t7\t18446744073709551615.3\t-\t100\tuser:\\t1\t-\t-");
        let binary = Entry { key: Some(vec![0xFF, 0x0A]), ..Entry::default() };
        assert_eq!(show_entry(&binary), "0\t0\t-\t\t-\t-\t-\t-\t0xff0a\t-\t-");
    }

    #[test]
    fn json_keeps_versions_exact_and_leaves_out_what_is_not_there() {
        assert_eq!(
            entry_json(&put()).to_string(),
            r#"{"core":1,"key":"user:\t1","kind":"put","layout":1,"lsn":42,"slot":7,"value_bytes":100,"version":"18446744073709551615.3"}"#
        );
        let binary = Entry { kind: "delete", key: Some(vec![0xFF]), ..Entry::default() };
        assert_eq!(
            entry_json(&binary).to_string(),
            r#"{"core":0,"key_hex":"ff","kind":"delete","layout":0}"#
        );
    }

    #[test]
    fn damage_is_explained_under_the_table() {
        let report = LogReport {
            layout: 1,
            core: 0,
            segments: 2,
            first_lsn: 0,
            end_lsn: 10,
            batches: 9,
            records: 80,
            keys: 70,
            batches_after: 2,
            keys_after: 5,
            newest_ms: Some(0),
            verdict: Verdict::Corrupt,
            damage: vec![
                Damage { from_lsn: 4, to_lsn: Some(5), verdict: Verdict::Corrupt },
                Damage { from_lsn: 10, to_lsn: None, verdict: Verdict::Suspect },
            ],
            failure: None,
        };
        let text = show_logs(&[report]);
        for line in [
            "layout 1, core 0: corrupt: LSN 4 to 5: acknowledged writes are unreadable\n",
            "layout 1, core 0: suspect: LSN 10 on: what is unreadable may have been acknowledged\n",
            "layout 1, core 0: can be read: 70 keys in 9 batches; 5 keys in 2 of these batches lie behind the damage\n",
            "was written at 1970-01-01 00:00:00.000 UTC\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn parts_tell_what_they_lack() {
        let part = |part, is_there, damaged_slots| PartReport {
            part,
            start_lsn: 1,
            end_lsn: 2,
            records: 3,
            bytes: 4,
            is_there,
            damaged_slots,
            core_damaged: false,
        };
        let parts = vec![part(0, true, vec![]), part(1, true, vec![5, 6]), part(2, false, vec![7])];
        let report = SnapshotReport { layout: 1, core: 0, parts, failure: Some("why".into()) };
        let text = show_snapshots(&[report]);
        let ends: Vec<_> = text.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
        assert_eq!(
            ends,
            ["VERDICT", "sound", "2 slots damaged", "missing", "layout 1, core 0: not read to its end: why"]
        );
        assert!(show_snapshots(&[]).starts_with("no part"));
    }
}
