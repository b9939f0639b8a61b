//! Reads logs offline, by the rule that recovery goes by: what is whole, what is damaged, what is left of it. Changes
//! nothing, and may read beside a running node.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use crate::storage::log_record::{LogRecord, RecordError};
use crate::storage::open::{self, OpenError, shape_of};
use crate::storage::recovery::{self, Arrival, Recovery};
use crate::storage::replay::Batch;
use crate::storage::segment::{LogShape, SegmentId};
use crate::storage::small_file::join;
use crate::storage::{data_dir, disk::Disk as _};
use crate::types::{Hlc, Token};

use super::entry::{Entry, Sink};
use super::exit::{Exit, Refusal};
use super::place::{CorePlace, Place};
use super::read_only_disk::ready;

/// Readings until two agree; with a node that writes, files change while they are read one after the other.
const READINGS_MAX: usize = 5;

/// What recovery would say of a log, or of a place in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Whole.
    Clean,
    /// It ends in a write that was provably never acknowledged.
    Cut,
    /// Damage that one log alone cannot decide: it may have been acknowledged.
    Suspect,
    /// Damage of what was provably acknowledged; or what says how to read the log is damaged.
    Corrupt,
}

/// One damaged stretch of a log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Damage {
    /// First LSN of it.
    pub from_lsn: u64,
    /// First LSN behind it; None = not known.
    pub to_lsn: Option<u64>,
    /// What it means.
    pub verdict: Verdict,
}

/// The log of one core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogReport {
    /// Of which layout.
    pub layout: u32,
    /// Of which core.
    pub core: u16,
    /// Files that hold batches that count.
    pub segments: u64,
    /// LSN of the first whole batch; the end if there is none.
    pub first_lsn: u64,
    /// LSN behind the last whole batch.
    pub end_lsn: u64,
    /// Whole batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Keys that these records are about.
    pub keys: u64,
    /// Whole batches behind the first damage.
    pub batches_after: u64,
    /// Keys that these are about.
    pub keys_after: u64,
    /// When the newest of all these records was written, milliseconds since 1970.
    pub newest_ms: Option<u64>,
    /// The worst that was found.
    pub verdict: Verdict,
    /// Where.
    pub damage: Vec<Damage>,
    /// Why it could not be read at all, or not to its end.
    pub failure: Option<String>,
}

/// Reads the logs of a data directory, of one core or of a single segment.
///
/// # Errors
/// What is there is not a log; or it changes while it is read.
pub fn verify(path: &Path) -> Result<Vec<LogReport>, Refusal> {
    let place = find(path)?;
    place.cores.iter().map(|core| settled(&core.dir, || report(&place, core))).collect()
}

/// Gives every record that can be read, in the order in which recovery takes them.
///
/// # Errors
/// As [`verify`]; what the sink refuses; and, after everything that can be read, that something could not.
pub fn dump(path: &Path, values: bool, sink: Sink<'_>) -> Result<(), Refusal> {
    let place = find(path)?;
    let mut damaged = Vec::new();
    for core in &place.cores {
        let Sounding { recovery, .. } = match sound(&place, core) {
            Ok(sounding) => sounding,
            Err(error) => {
                damaged.push(error);
                continue;
            }
        };
        let mut outcome = Ok(());
        let walked = walk(&place, core, &recovery, |batch| {
            for record in batch.records() {
                let entry = Entry {
                    layout: core.owner.layout.0,
                    core: core.owner.core.0,
                    lsn: Some(batch.first.0),
                    ..Entry::of_log(&record?, values)
                };
                if outcome.is_ok() {
                    outcome = sink(entry);
                }
            }
            Ok(outcome.is_ok())
        });
        outcome?;
        damaged.extend(walked.err());
        if recovery.verdict() >= recovery::Verdict::Suspect {
            damaged.push(format!("{}: a part of the log is damaged", core.dir));
        }
    }
    if damaged.is_empty() {
        return Ok(());
    }
    let mut refusal = Refusal::new(Exit::IO, "not everything could be read");
    for what in damaged {
        refusal = refusal.fix(what);
    }
    Err(refusal.fix("look: ringcore wal verify PATH"))
}

/// Repeats a reading that found something wrong until two in a row agree: damage stays, a write under way does not.
///
/// # Errors
/// No two agree.
pub(super) fn settled<T: PartialEq + Sound>(what: &str, read: impl Fn() -> T) -> Result<T, Refusal> {
    let mut last = read();
    for _ in 1..READINGS_MAX {
        if last.is_sound() {
            return Ok(last);
        }
        let again = read();
        if again == last {
            return Ok(again);
        }
        last = again;
    }
    let what = format!("{what} changes while it is read: a node is writing to it");
    Err(Refusal::new(Exit::FAILURE, what).fix("fix: try again, or stop the node first"))
}

/// A report that can say that nothing is wrong.
pub(super) trait Sound {
    /// Nothing is.
    fn is_sound(&self) -> bool;
}

impl Sound for LogReport {
    fn is_sound(&self) -> bool {
        self.verdict < Verdict::Suspect
    }
}

impl From<recovery::Verdict> for Verdict {
    fn from(verdict: recovery::Verdict) -> Verdict {
        match verdict {
            recovery::Verdict::Clean => Verdict::Clean,
            recovery::Verdict::Cut => Verdict::Cut,
            recovery::Verdict::Suspect => Verdict::Suspect,
            recovery::Verdict::Corrupt => Verdict::Corrupt,
        }
    }
}

/// The first pass over a log.
struct Sounding {
    recovery: Recovery,
    low: u64,
}

fn find(path: &Path) -> Result<Place, Refusal> {
    let place = Place::find(path)?;
    match &place.file {
        Some(name) if data_dir::parse_segment_name(name).is_none() => {
            let what = format!("{}: not a segment of a log", path.display());
            Err(Refusal::new(Exit::SETTING, what).fix("fix: segments are named like wal-0007"))
        }
        Some(name) if !place.has(&join(&place.cores[0].dir, name)) => {
            Err(Refusal::new(Exit::SETTING, format!("{}: no such file", path.display())))
        }
        Some(_) | None => Ok(place),
    }
}

fn sound(place: &Place, core: &CorePlace) -> Result<Sounding, String> {
    let manifest = place.manifest(core).map_err(|error| error.to_string())?;
    let shape = shape_of(&core.owner, LogShape::SEGMENT_BLOCKS);
    let scanned = ready(open::scan(&place.disk, &core.dir, shape, &manifest));
    let recovery = scanned.map_err(|error: OpenError| error.to_string())?;
    Ok(Sounding { recovery, low: manifest.low().0 })
}

/// The second pass: every batch of the segments that are meant, until `see` says enough (false).
fn walk(
    place: &Place,
    core: &CorePlace,
    recovery: &Recovery,
    mut see: impl FnMut(&Batch<'_>) -> Result<bool, RecordError>,
) -> Result<(), String> {
    for arrival in [Arrival::Replayed, Arrival::Foreign] {
        for segment in segments(place, recovery, arrival) {
            let bytes = read_segment(place, core, segment)?;
            let mut batches = recovery.read(segment, arrival, &bytes);
            while let Some(batch) = batches.next_batch().map_err(|error| format!("{}: {error}", core.dir))? {
                if !see(&batch).map_err(|error| format!("{}: {error}", core.dir))? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn segments(place: &Place, recovery: &Recovery, arrival: Arrival) -> Vec<SegmentId> {
    let all = recovery.segments(arrival);
    all.filter(|segment| place.means(&data_dir::segment_name(segment.0))).collect()
}

fn read_segment(place: &Place, core: &CorePlace, segment: SegmentId) -> Result<Vec<u8>, String> {
    let read = async {
        let file = place.disk.open(&join(&core.dir, &data_dir::segment_name(segment.0)), false).await?;
        let bytes = place.disk.len(&file).await?;
        place.disk.read(&file, 0, bytes as usize).await
    };
    ready(read).map_err(|error| error.to_string())
}

fn report(place: &Place, core: &CorePlace) -> LogReport {
    let empty = LogReport {
        layout: core.owner.layout.0,
        core: core.owner.core.0,
        segments: 0,
        first_lsn: 0,
        end_lsn: 0,
        batches: 0,
        records: 0,
        keys: 0,
        batches_after: 0,
        keys_after: 0,
        newest_ms: None,
        verdict: Verdict::Corrupt,
        damage: Vec::new(),
        failure: None,
    };
    match sound(place, core) {
        Ok(sounding) => count(place, core, &sounding, empty),
        Err(failure) => LogReport { failure: Some(failure), ..empty },
    }
}

fn count(place: &Place, core: &CorePlace, sounding: &Sounding, empty: LogReport) -> LogReport {
    let Sounding { recovery, low } = sounding;
    let mut files: Vec<_> = segments(place, recovery, Arrival::Replayed);
    files.extend(segments(place, recovery, Arrival::Foreign));
    files.sort_unstable();
    files.dedup();
    let damaged_from = recovery.damage().first().map_or(u64::MAX, |damage| damage.from.0);
    let mut tally = Tally { damaged_from, ..Tally::default() };
    let walked = walk(place, core, recovery, |batch| tally.batch(batch));
    let end_lsn = recovery.cut().0;
    LogReport {
        segments: files.len() as u64,
        first_lsn: tally.first.unwrap_or(end_lsn.max(*low)),
        end_lsn,
        batches: tally.batches,
        records: tally.records,
        keys: tally.keys.len() as u64,
        batches_after: tally.batches_after,
        keys_after: tally.keys_after.len() as u64,
        newest_ms: (tally.newest != Hlc::ZERO).then(|| tally.newest.ms()),
        verdict: if walked.is_err() { Verdict::Corrupt } else { recovery.verdict().into() },
        damage: recovery.damage().iter().map(Damage::from).collect(),
        failure: walked.err(),
        ..empty
    }
}

impl From<&recovery::Damage> for Damage {
    fn from(damage: &recovery::Damage) -> Damage {
        // Only what follows something suspect has no end that is known.
        let verdict = if damage.to.is_some() { Verdict::Corrupt } else { Verdict::Suspect };
        Damage { from_lsn: damage.from.0, to_lsn: damage.to.map(|to| to.0), verdict }
    }
}

/// What a walk counts.
#[derive(Default)]
struct Tally {
    damaged_from: u64,
    first: Option<u64>,
    batches: u64,
    batches_after: u64,
    records: u64,
    /// By their tokens: 64 bits tell keys apart well enough to count them.
    keys: HashSet<u64>,
    keys_after: HashSet<u64>,
    newest: Hlc,
}

impl Tally {
    fn batch(&mut self, batch: &Batch<'_>) -> Result<bool, RecordError> {
        let after = batch.first.0 >= self.damaged_from;
        self.first.get_or_insert(batch.first.0);
        self.batches += 1;
        self.batches_after += u64::from(after);
        for record in batch.records() {
            let record = record?;
            self.records += 1;
            let entry = Entry::of_log(&record, false);
            let written = matches!(record, LogRecord::Record(_) | LogRecord::Hint { .. });
            if let (true, Some((hlc, _))) = (written, entry.version) {
                self.newest = self.newest.max(Hlc(hlc));
            }
            if let Some(key) = &entry.key {
                let token = Token::of(key).0;
                self.keys.insert(token);
                if after {
                    self.keys_after.insert(token);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    impl Sound for u32 {
        fn is_sound(&self) -> bool {
            *self == 0
        }
    }

    #[test]
    fn damage_counts_once_it_is_seen_twice() {
        let readings = |sequence: &[u32]| {
            let (sequence, at) = (sequence.to_vec(), Cell::new(0));
            settled("x", move || {
                at.set(at.get() + 1);
                sequence[at.get() - 1]
            })
        };
        assert_eq!(readings(&[0]), Ok(0));
        assert_eq!(readings(&[1, 0]), Ok(0), "a write under way");
        assert_eq!(readings(&[1, 2, 2]), Ok(2), "damage");
        assert_eq!(readings(&[1, 2, 3, 4, 5]).map_err(|refusal| refusal.exit), Err(Exit::FAILURE));
    }
}
