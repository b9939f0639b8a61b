//! Reads snapshot parts offline, as recovery does: which are whole, and which slots the others lack. Changes nothing.

use std::path::Path;

use serde::Serialize;

use crate::storage::data_dir;
use crate::storage::manifest::Manifest;
use crate::storage::part::{Item, PartFile, PartIndex, PartReader};

use super::entry::{Entry, Sink};
use super::exit::{Exit, Refusal};
use super::offline_log::{Sound, settled};
use super::place::{CorePlace, Place};
use super::read_only_disk::{ReadOnlyDisk, ready};

/// The snapshot of one core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SnapshotReport {
    /// Of which layout.
    pub layout: u32,
    /// Of which core.
    pub core: u16,
    /// Its parts, as far as they have been written.
    pub parts: Vec<PartReport>,
    /// Why it could not be read at all, or not to its end.
    pub failure: Option<String>,
}

/// One part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PartReport {
    /// 0 to 15.
    pub part: u8,
    /// Replay starts there.
    pub start_lsn: u64,
    /// The log was that long when the part was finished.
    pub end_lsn: u64,
    /// Records that can be read.
    pub records: u64,
    /// Length that the file should have.
    pub bytes: u64,
    /// Its file is there.
    pub is_there: bool,
    /// Slots that records are missing of; empty = sound.
    pub damaged_slots: Vec<u16>,
    /// What it carries besides slots is damaged, too.
    pub core_damaged: bool,
}

/// Reads the snapshots of a data directory, of one core, or a single part.
///
/// # Errors
/// What is there is not a snapshot; or it changes while it is read.
pub fn verify(path: &Path) -> Result<Vec<SnapshotReport>, Refusal> {
    let place = find(path)?;
    place.cores.iter().map(|core| settled(&core.dir, || report(&place, core))).collect()
}

/// Gives every record that can be read, in the order of layouts, cores and slots.
///
/// # Errors
/// As [`verify`]; what the sink refuses; and, after everything that can be read, that something could not.
pub fn dump(path: &Path, values: bool, sink: Sink<'_>) -> Result<(), Refusal> {
    let place = find(path)?;
    let mut sound = true;
    for core in &place.cores {
        let manifest = place.manifest(core).map_err(|error| Refusal::new(Exit::IO, error.to_string()))?;
        for (part, file) in parts(&place, &manifest) {
            let mut outcome = Ok(());
            let read = read(&place, core, part, &file, |item| {
                let entry = match item {
                    Item::Slot(state) => Entry::of_slot(&state),
                    Item::Record(slot, record) => Some(Entry::of_part(slot, &record, values)),
                    Item::Carried(_, _, bytes) | Item::Core(bytes) => Some(Entry::of_carried(bytes, values)),
                };
                if let (Ok(()), Some(entry)) = (&outcome, entry) {
                    let (layout, core) = (core.owner.layout.0, core.owner.core.0);
                    outcome = sink(Entry { layout, core, ..entry });
                }
                outcome.is_ok()
            });
            outcome?;
            sound &= read.map_err(|what| Refusal::new(Exit::IO, what))?.is_sound();
        }
    }
    if sound {
        return Ok(());
    }
    let refusal = Refusal::new(Exit::IO, "not everything could be read: parts of the snapshot are damaged");
    Err(refusal.fix("look: ringcore snapshot verify PATH"))
}

impl PartReport {
    fn is_sound(&self) -> bool {
        self.damaged_slots.is_empty() && !self.core_damaged
    }
}

impl SnapshotReport {
    /// Nothing is missing.
    pub fn is_sound(&self) -> bool {
        self.failure.is_none() && self.parts.iter().all(PartReport::is_sound)
    }
}

impl Sound for SnapshotReport {
    fn is_sound(&self) -> bool {
        SnapshotReport::is_sound(self)
    }
}

fn find(path: &Path) -> Result<Place, Refusal> {
    let place = Place::find(path)?;
    let Some(name) = &place.file else { return Ok(place) };
    let Some((part, generation)) = data_dir::parse_part_name(name) else {
        let what = format!("{}: not a part of a snapshot", path.display());
        return Err(Refusal::new(Exit::SETTING, what).fix("fix: parts are named like part-05-000012"));
    };
    let manifest =
        place.manifest(&place.cores[0]).map_err(|error| Refusal::new(Exit::IO, error.to_string()))?;
    if manifest.part(part).is_none_or(|file| file.generation != generation) {
        let what = format!("{}: the manifest names another file of this part, or none", path.display());
        return Err(Refusal::new(Exit::SETTING, what).fix("fix: verify the core's directory instead"));
    }
    Ok(place)
}

/// The parts that are meant, with what the manifest says of them.
fn parts(place: &Place, manifest: &Manifest) -> Vec<(PartIndex, PartFile)> {
    let named = PartIndex::all().filter_map(|part| Some((part, *manifest.part(part)?)));
    named.filter(|(part, file)| place.means(&file.name(*part))).collect()
}

fn report(place: &Place, core: &CorePlace) -> SnapshotReport {
    let mut report = SnapshotReport {
        layout: core.owner.layout.0,
        core: core.owner.core.0,
        parts: Vec::new(),
        failure: None,
    };
    let manifest = match place.manifest(core) {
        Ok(manifest) => manifest,
        Err(error) => return SnapshotReport { failure: Some(error.to_string()), ..report },
    };
    for (part, file) in parts(place, &manifest) {
        match read(place, core, part, &file, |_| true) {
            Ok(read) => report.parts.push(read),
            Err(failure) => report.failure = Some(failure),
        }
    }
    report
}

/// Reads a part until `see` says enough (false).
fn read(
    place: &Place,
    core: &CorePlace,
    part: PartIndex,
    file: &PartFile,
    mut see: impl FnMut(Item<'_>) -> bool,
) -> Result<PartReport, String> {
    let reading = async {
        let mut reader: PartReader<ReadOnlyDisk> =
            PartReader::open(&place.disk, &core.dir, &core.owner, part, file).await?;
        let mut more = true;
        while reader.next().await? {
            more = more && reader.items().all(&mut see);
        }
        Ok(reader.finish())
    };
    let read: crate::storage::disk::DiskResult<_> = ready(reading);
    let read = read.map_err(|error| error.to_string())?;
    Ok(PartReport {
        part: part.get(),
        start_lsn: file.start.0,
        end_lsn: file.end.0,
        records: read.records,
        bytes: file.bytes,
        is_there: place.has(&format!("{}/{}", core.dir, file.name(part))),
        damaged_slots: read.damaged.iter().map(|slot| slot.0).collect(),
        core_damaged: read.core_damaged,
    })
}
