//! Opens one core's data: reads the layouts in force in their order, parts before log, and says what is damaged. Serves
//! nothing and forms no log: the caller starts that with what is returned.
//!
//! A core reads its own directory of the last layout and, of each layout before, the directories of those old cores that
//! share slots with it: old core i matters to core k of C iff i ≡ k modulo gcd(old C, C). So cores need not talk to each
//! other to open, and nothing is rewritten before serving; killed anywhere, the same sources are read again.
//!
//! A slot is read from the newest layout that has a part of it, and from those after it, never from older ones: what was
//! collected since is in no log any more, and an older layout would bring it back.

use super::carried::Carried;
use super::data_dir::{self, DataDirError, Layout, LayoutId, NodeFile, core_dir};
use super::disk::{Disk, DiskError};
use super::image;
use super::log_record::{LogRecord, RecordError};
use super::manifest::{self, Manifest};
use super::owner::Owner;
use super::part::{Item, PartIndex, PartReader, SlotState};
use super::recovery::{Arrival, ManifestFacts, Recovery, Restart, Salvage, Scan, ScanError, Verdict};
use super::replay::Unsteady;
use super::segment::{LogShape, SegmentId};
use super::shard::{Admission, Shard};
use super::small_file::{FileError, TEMPORARY_SUFFIX, join, publish};
use super::table::TableFull;
use crate::storage::block::Seal;
use crate::storage::log_record::Round;
use crate::types::{CoreId, Hlc, Limits, Slot, Token};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use smallvec::SmallVec;

/// Bytes of one write while a segment is filled with zeros: paced, so that it does not slow the log's flushes down.
const ZERO_BYTES: usize = 128 << 10;
/// What the name of a segment that was set aside begins with.
const ASIDE: &str = "aside-";

/// Records that are looked for together: their waits for memory overlap.
const AHEAD: usize = 16;
type Ahead<T> = SmallVec<[T; AHEAD]>;

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Keys the table's hash.
    pub seed: u64,
    /// Bounds of what is remembered.
    pub limits: Limits,
    /// Blocks of a segment: [`LogShape::SEGMENT_BLOCKS`], fewer in tests.
    pub segment_blocks: u32,
    /// Go on with what can be read, although acknowledged writes may be missing.
    pub accept_data_loss: bool,
}

/// An opened core. The log that `restart` describes has not been started.
pub struct Opened {
    shard: Option<Shard>,
    /// Its manifest, with the new incarnation, durable.
    pub manifest: Manifest,
    /// How its log goes on.
    pub restart: Restart,
    /// What its log looks like.
    pub shape: LogShape,
    /// No version above it has left this core, or any core whose slots it took over.
    pub hlc_bound: Hlc,
    /// Control records, oldest first; core 0 only.
    pub controls: Vec<Vec<u8>>,
    /// What was read, and what could not be.
    pub report: OpenReport,
}

impl Opened {
    /// Takes the data out, to be put into a machine.
    pub fn take_shard(&mut self) -> Shard {
        self.shard.take().expect("it is taken once")
    }
}

/// What opening a core read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenReport {
    /// Records of snapshot parts.
    pub part_records: u64,
    /// Records of logs.
    pub log_records: u64,
    /// Damage that was found, per directory.
    pub damage: Vec<Damage>,
}

/// What is damaged in one core's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The directory.
    pub dir: String,
    /// The log's verdict.
    pub verdict: Verdict,
    /// The log's damage, if it has any.
    pub log: Option<Salvage>,
    /// Slots that a damaged part may have lost records of.
    pub slots: Vec<Slot>,
}

/// Why a core cannot be opened. Nothing that was acknowledged has been removed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// NODE, a manifest or the directory's structure.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A log that cannot be judged.
    #[error("{dir}: {error}")]
    Scan {
        /// Whose.
        dir: String,
        /// Why.
        error: ScanError,
    },
    /// A log record of another program or of a later version.
    #[error("{dir}: {error}")]
    Record {
        /// Whose.
        dir: String,
        /// Why.
        error: RecordError,
    },
    /// A carried entry of a later version.
    #[error("{dir}: part {part} carries an entry that this version does not know")]
    Carried {
        /// Whose.
        dir: String,
        /// Which part.
        part: PartIndex,
    },
    /// The disk does not hold still.
    #[error("{dir}: {error}")]
    Unsteady {
        /// Whose.
        dir: String,
        /// Which block.
        error: Unsteady,
    },
    /// More records than a core can hold.
    #[error("the data does not fit this core's table ({0}): start with more cores")]
    TooMuch(#[from] TableFull),
    /// Acknowledged writes are, or may be, unreadable.
    #[error("stored data is damaged")]
    Damaged(Vec<Damage>),
    /// Damage is accepted by a start with the number of cores that wrote it, and by no other.
    #[error("stored data is damaged: first start with {cores} cores, as before, and --accept-data-loss")]
    DamagedLayout {
        /// Cores of the last layout.
        cores: u16,
    },
}

impl From<FileError> for OpenError {
    fn from(error: FileError) -> OpenError {
        OpenError::DataDir(DataDirError::File(error))
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Clean | Verdict::Cut => "intact",
            Verdict::Suspect => "suspect: what is damaged may have been acknowledged",
            Verdict::Corrupt => "corrupt: acknowledged writes are unreadable",
        };
        write!(f, "{}: the log is {word}", self.dir)?;
        if let Some(log) = &self.log {
            for range in &log.damage {
                match range.to {
                    Some(to) => write!(f, "; blocks {} to {} are unreadable", range.from.0, to.0)?,
                    None => write!(f, "; blocks from {} on are unreadable", range.from.0)?,
                }
            }
            write!(f, "; {} later batches are intact", log.batches_after)?;
            write!(f, "; the last intact batch is of {} ms since 1970 or before", log.last_intact.ms())?;
        }
        if !self.slots.is_empty() {
            write!(f, "; snapshot parts of {} slots are damaged", self.slots.len())?;
        }
        Ok(())
    }
}

/// Opens core `core` of the last layout. The directory was swept and holds no other process's files.
pub async fn open_core<D: Disk>(
    disk: &D,
    node: &NodeFile,
    core: CoreId,
    options: &OpenOptions,
) -> Result<Opened, OpenError> {
    let layout = *node.active().expect("a layout was begun");
    let files = core_files(disk, node, core).await?;
    let (last, sources) = files.split_last().expect("the last layout has this core");
    data_dir::sweep_core(disk, &last.dir, &last.manifest).await?;
    let mut reading = Reading {
        disk,
        shard: Shard::new(options.seed, core, layout.cores, &options.limits),
        core,
        cores: layout.cores,
        read_from: first_layouts(&files, core, layout.cores),
        layout: LayoutId::default(),
        hlc_bound: Hlc::ZERO,
        controls: Vec::new(),
        report: OpenReport::default(),
    };
    for source in sources {
        reading.core_files(source, options).await?;
    }
    let recovery = reading.core_files(last, options).await?;
    let (dir, mut manifest) = (&last.dir, last.manifest.clone());
    if !reading.report.damage.is_empty() && !options.accept_data_loss {
        return Err(OpenError::Damaged(reading.report.damage));
    }
    let damaged = !reading.report.damage.is_empty();
    let restart = if damaged { recovery.restart_with_new_files() } else { recovery.restart() };
    if damaged {
        // A cut would make void what is intact beyond the damage: parts show all that could be read, and come into force
        // with the cut, in one manifest. The old files count no more.
        let (shard, bound) = (&reading.shard, reading.hlc_bound.max(restart.hlc_bound));
        image::write_all(disk, dir, shard, &reading.controls, &mut manifest, (restart.cut, bound)).await?;
    } else {
        settle(disk, dir, &restart).await?;
    }
    manifest.begin_incarnation(restart.cut, restart.hlc_bound);
    assert!(manifest.incarnation() == restart.incarnation, "manifest and log count the same starts");
    manifest::write(disk, dir, &manifest).await?;
    if damaged {
        set_segments_aside(disk, dir, restart.incarnation).await?;
    }
    let shape = shape_of(manifest.owner(), options.segment_blocks);
    let hlc_bound = reading.hlc_bound.max(restart.hlc_bound);
    let Reading { mut shard, controls, report, .. } = reading;
    shard.identities_mut().recovered();
    Ok(Opened { shard: Some(shard), manifest, restart, shape, hlc_bound, controls, report })
}

/// One core's directory of one layout.
struct CoreFiles {
    layout: Layout,
    dir: String,
    manifest: Manifest,
}

/// The directories that hold slots of `core` of the last layout, in the order of their layouts; its own is the last.
async fn core_files<D: Disk>(disk: &D, node: &NodeFile, core: CoreId) -> Result<Vec<CoreFiles>, OpenError> {
    let active = node.active().expect("a layout was begun");
    let mut files = Vec::new();
    for layout in node.layouts() {
        let shared = gcd(layout.cores, active.cores);
        let holders = (0..layout.cores).map(CoreId).filter(|old| old.0 % shared == core.0 % shared);
        for old in holders.filter(|old| layout.id != active.id || *old == core) {
            let dir = core_dir(layout.id, old);
            let manifest = manifest::read(disk, &dir, &node.owner(layout, old)).await?;
            files.push(CoreFiles { layout: *layout, dir, manifest });
        }
    }
    Ok(files)
}

/// For each slot of the core, in their order: the newest layout that has a part of it.
fn first_layouts(files: &[CoreFiles], core: CoreId, cores: u16) -> Vec<LayoutId> {
    let newest = |slot: Slot| {
        let has_part = |files: &&CoreFiles| {
            let owner = files.manifest.owner();
            slot.core(owner.cores) == owner.core
                && files.manifest.part(PartIndex::of_slot(slot, owner.cores)).is_some()
        };
        files.iter().rev().find(has_part).map_or(LayoutId::default(), |files| files.layout.id)
    };
    Slot::of_core(core, cores).map(newest).collect()
}

/// Must another layout begin for a start with that many cores? Not only if the number changes: a start that was killed
/// while it changed it may have fixed the ends of the last layout's logs.
pub async fn needs_layout<D: Disk>(disk: &D, node: &NodeFile, cores: u16) -> Result<bool, OpenError> {
    match node.active() {
        Some(layout) => Ok(layout.cores != cores || is_sealed(disk, node, layout).await?),
        None => Ok(true),
    }
}

/// Begins a layout of that many cores. Killed anywhere, the next start may want any number of cores, that of the layout
/// before included.
pub async fn begin_layout<D: Disk>(
    disk: &D,
    node: &mut NodeFile,
    cores: u16,
    options: &OpenOptions,
) -> Result<(), OpenError> {
    if let Some(layout) = node.active().copied() {
        // First: a layout that is sealed cannot be gone back to.
        data_dir::check_layouts(node)?;
        seal_layout(disk, node, &layout, options).await?;
    }
    data_dir::begin_layout(disk, node, cores).await?;
    Ok(())
}

/// Has a start that wanted another number of cores begun to fix the ends of its logs?
async fn is_sealed<D: Disk>(disk: &D, node: &NodeFile, layout: &Layout) -> Result<bool, OpenError> {
    for core in (0..layout.cores).map(CoreId) {
        let dir = core_dir(layout.id, core);
        if manifest::read(disk, &dir, &node.owner(layout, core)).await?.sealed().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fixes the end of each core's log of the last layout, before another layout begins: from then on every start reads
/// exactly what lies below. Damage that could have been acknowledged is an error, accepted or not: what lies beyond it
/// would be void.
async fn seal_layout<D: Disk>(
    disk: &D,
    node: &NodeFile,
    layout: &Layout,
    options: &OpenOptions,
) -> Result<(), OpenError> {
    for core in (0..layout.cores).map(CoreId) {
        let dir = core_dir(layout.id, core);
        let mut manifest = manifest::read(disk, &dir, &node.owner(layout, core)).await?;
        if manifest.sealed().is_some() {
            continue;
        }
        data_dir::sweep_core(disk, &dir, &manifest).await?;
        let shape = shape_of(manifest.owner(), options.segment_blocks);
        let recovery = scan(disk, &dir, shape, &manifest).await?;
        if recovery.verdict() >= Verdict::Suspect {
            let damage = [damage_of(&dir, &recovery, Vec::new())].to_vec();
            return Err(match options.accept_data_loss {
                true => OpenError::DamagedLayout { cores: layout.cores },
                false => OpenError::Damaged(damage),
            });
        }
        let restart = recovery.restart();
        settle(disk, &dir, &restart).await?;
        manifest.seal(restart.cut, restart.hlc_bound);
        manifest::write(disk, &dir, &manifest).await?;
    }
    Ok(())
}

/// Makes a segment file: zeros under a temporary name, durable, then its own name, durable. Full: nothing is left.
pub async fn prepare_segment<D: Disk>(
    disk: &D,
    dir: &str,
    segment: SegmentId,
    shape: &LogShape,
) -> Result<(), DiskError> {
    let path = join(dir, &data_dir::segment_name(segment.0));
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    let zeroed = zero_file(disk, &temporary, shape.segment_bytes()).await;
    if zeroed.is_err() && disk.remove(&temporary).await.is_err() {
        // The cause is in `zeroed`; the next start removes the file.
    }
    zeroed?;
    publish(disk, dir, &temporary, &path).await
}

async fn zero_file<D: Disk>(disk: &D, path: &str, bytes: usize) -> Result<(), DiskError> {
    let file = disk.create(path).await?;
    for offset in (0..bytes).step_by(ZERO_BYTES) {
        let piece = ZERO_BYTES.min(bytes - offset);
        disk.pace(piece as u64).await;
        disk.write(&file, offset as u64, alloc::vec![0; piece]).await?;
    }
    disk.sync(&file).await
}

/// The shape of a core's log.
pub fn shape_of(owner: &Owner, segment_blocks: u32) -> LogShape {
    LogShape { seal: Seal::new(owner.cluster, owner.member, owner.core, owner.layout.0), segment_blocks }
}

/// Reads the first pass of a core's log and applies the recovery rule.
pub async fn scan<D: Disk>(
    disk: &D,
    dir: &str,
    shape: LogShape,
    manifest: &Manifest,
) -> Result<Recovery, OpenError> {
    let facts = ManifestFacts {
        low: manifest.low(),
        known: manifest.known(),
        incarnation: manifest.incarnation(),
        hlc_bound: manifest.hlc_bound(),
        cuts: manifest.cuts().iter().map(|cut| (cut.incarnation, cut.lsn)).collect(),
    };
    let failed = |error| OpenError::Scan { dir: dir.into(), error };
    let mut scan = Scan::new(shape, facts, None);
    for name in disk.list(dir).await? {
        if let Some(number) = data_dir::parse_segment_name(&name) {
            let bytes = read_segment(disk, dir, SegmentId(number)).await?;
            scan.segment(SegmentId(number), &bytes).map_err(failed)?;
        }
    }
    scan.judge().map_err(failed)
}

async fn read_segment<D: Disk>(disk: &D, dir: &str, segment: SegmentId) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(&join(dir, &data_dir::segment_name(segment.0)), false).await?;
    let bytes = disk.len(&file).await?;
    disk.read(&file, 0, bytes as usize).await
}

/// Before anything of a log is served: what was read may only be in the device's cache.
async fn settle<D: Disk>(disk: &D, dir: &str, restart: &Restart) -> Result<(), DiskError> {
    for segment in &restart.sync {
        let file = disk.open(&join(dir, &data_dir::segment_name(segment.0)), false).await?;
        disk.sync(&file).await?;
    }
    for segment in &restart.set_aside {
        set_aside(disk, dir, &data_dir::segment_name(segment.0), restart.incarnation).await?;
    }
    if !restart.set_aside.is_empty() {
        disk.sync_dir(dir).await?;
    }
    Ok(())
}

/// Keeps the segments of a log that was left behind for whoever wants to look: were they to stay, each start would
/// suspect them again.
async fn set_segments_aside<D: Disk>(disk: &D, dir: &str, incarnation: u32) -> Result<(), DiskError> {
    for name in disk.list(dir).await? {
        if data_dir::parse_segment_name(&name).is_some() {
            set_aside(disk, dir, &name, incarnation).await?;
        }
    }
    disk.sync_dir(dir).await
}

async fn set_aside<D: Disk>(disk: &D, dir: &str, name: &str, incarnation: u32) -> Result<(), DiskError> {
    let aside = format!("{ASIDE}{incarnation:04}-{name}");
    disk.rename(&join(dir, name), &join(dir, &aside)).await
}

fn damage_of(dir: &str, recovery: &Recovery, slots: Vec<Slot>) -> Damage {
    let verdict = recovery.verdict();
    Damage { dir: dir.into(), verdict, log: (verdict >= Verdict::Suspect).then(|| recovery.salvage()), slots }
}

/// A core that is being opened.
struct Reading<'a, D: Disk> {
    disk: &'a D,
    shard: Shard,
    core: CoreId,
    cores: u16,
    /// For each slot of the core, in their order: the first layout that counts for it.
    read_from: Vec<LayoutId>,
    /// The layout that is being read.
    layout: LayoutId,
    hlc_bound: Hlc,
    controls: Vec<Vec<u8>>,
    report: OpenReport,
}

impl<D: Disk> Reading<'_, D> {
    /// Applies what one directory holds of this core's slots: its parts, then its log from the lowest start on.
    async fn core_files(&mut self, files: &CoreFiles, options: &OpenOptions) -> Result<Recovery, OpenError> {
        let CoreFiles { layout, dir, manifest } = files;
        self.layout = layout.id;
        let mut slots = Vec::new();
        for part in PartIndex::all() {
            self.part(dir, manifest, part, &mut slots).await?;
        }
        let shape = shape_of(manifest.owner(), options.segment_blocks);
        let recovery = scan(self.disk, dir, shape, manifest).await?;
        self.hlc_bound = self.hlc_bound.max(recovery.hlc_bound());
        for arrival in [Arrival::Replayed, Arrival::Foreign] {
            for segment in recovery.segments(arrival).collect::<Vec<_>>() {
                let bytes = read_segment(self.disk, dir, segment).await?;
                self.segment(dir, &recovery, segment, arrival, &bytes)?;
            }
        }
        if recovery.verdict() >= Verdict::Suspect || !slots.is_empty() {
            self.report.damage.push(damage_of(dir, &recovery, slots));
        }
        Ok(recovery)
    }

    async fn part(
        &mut self,
        dir: &str,
        manifest: &Manifest,
        part: PartIndex,
        damaged: &mut Vec<Slot>,
    ) -> Result<(), OpenError> {
        let Some(file) = manifest.part(part) else { return Ok(()) };
        let mut reader = PartReader::open(self.disk, dir, manifest.owner(), part, file).await?;
        while reader.next().await? {
            let mut items = reader.items();
            loop {
                let ahead: Ahead<_> = items.by_ref().take(AHEAD).collect();
                if ahead.is_empty() {
                    break;
                }
                self.prefetch(ahead.iter().filter_map(|item| match item {
                    Item::Record(_, record) => Some(record.key),
                    Item::Slot(_) | Item::Core(_) | Item::Carried(..) => None,
                }));
                for item in ahead {
                    self.item(dir, part, item)?;
                }
            }
        }
        let report = reader.finish();
        self.hlc_bound = self.hlc_bound.max(report.hlc_bound);
        if report.core_damaged {
            damaged.extend(part.slots(manifest.owner().core, manifest.owner().cores));
        } else {
            damaged.extend(report.damaged);
        }
        Ok(())
    }

    fn item(&mut self, dir: &str, part: PartIndex, item: Item<'_>) -> Result<(), OpenError> {
        match item {
            Item::Slot(state) if self.owns(state.slot) => self.slot(&state),
            Item::Record(slot, record) if self.owns(slot) => {
                self.shard.merge(Token::of(record.key), &record)?;
                self.report.part_records += 1;
            }
            Item::Core(bytes) | Item::Carried(_, _, bytes) => {
                let unknown = || OpenError::Carried { dir: dir.into(), part };
                self.carried(&Carried::decode(bytes).ok_or_else(unknown)?);
            }
            Item::Slot(_) | Item::Record(..) => {}
        }
        Ok(())
    }

    /// Has the memory fetched that look-ups of these keys will read.
    fn prefetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let placed = keys.map(|key| (Token::of(key), key));
        let own = placed.filter(|(token, _)| token.slot().core(self.cores) == self.core);
        let expected: Ahead<_> = own.map(|(token, key)| self.shard.expect(token, key, true)).collect();
        self.shard.table().prefetch(&expected);
    }

    fn segment(
        &mut self,
        dir: &str,
        recovery: &Recovery,
        segment: SegmentId,
        arrival: Arrival,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        let mut batches = recovery.read(segment, arrival, bytes);
        let unsteady = |error| OpenError::Unsteady { dir: dir.into(), error };
        while let Some(batch) = batches.next_batch().map_err(unsteady)? {
            let mut records = batch.records();
            loop {
                let ahead = records.by_ref().take(AHEAD).collect::<Result<Ahead<_>, _>>();
                let ahead = ahead.map_err(|error| OpenError::Record { dir: dir.into(), error })?;
                if ahead.is_empty() {
                    break;
                }
                self.prefetch(ahead.iter().filter_map(|record| match record {
                    LogRecord::Record(entry) => Some(entry.record.key),
                    _ => None,
                }));
                for record in &ahead {
                    self.record(record, arrival)?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &LogRecord<'_>, arrival: Arrival) -> Result<(), TableFull> {
        if let LogRecord::Control { .. } = record {
            self.control(record);
            return Ok(());
        }
        if record.slot().is_some_and(|slot| !self.owns(slot)) {
            return Ok(());
        }
        self.report.log_records += 1;
        #[cfg(mutants)]
        if let Some(again) = self.begun_anew(record) {
            return self.shard.replay(&again);
        }
        match (arrival, record) {
            (Arrival::Replayed, _) => self.shard.replay(record),
            // Beyond something suspect: as a hint or a repair would be, with the floor asked.
            (Arrival::Foreign, LogRecord::Record(entry)) => {
                let token = Token::of(entry.record.key);
                let place = self.shard.find(token, entry.record.key);
                match self.shard.admit(token, place, &entry.record, entry.label) {
                    Admission::Wins => self.shard.replay(record),
                    Admission::Held | Admission::Superseded(_) | Admission::BelowFloor => Ok(()),
                }
            }
            (Arrival::Foreign, _) => Ok(()),
        }
    }

    /// The record with its remaining life counted from now on.
    #[cfg(mutants)]
    fn begun_anew<'r>(&self, record: &LogRecord<'r>) -> Option<LogRecord<'r>> {
        use crate::types::mutant::{Mutant, planted};
        let LogRecord::Record(entry) = record else { return None };
        let mut entry = *entry;
        let life_ms = entry.record.expires_at_ms.checked_sub(entry.record.version.hlc.ms())?;
        entry.record.expires_at_ms = self.hlc_bound.ms() + life_ms;
        planted(Mutant::RelativeTtl).then_some(LogRecord::Record(entry))
    }

    fn carried(&mut self, carried: &Carried<'_>) {
        match carried {
            Carried::Named(id, entry) if self.owns(entry.slot) => {
                self.shard.identities_mut().remember(*id, entry.clone());
            }
            Carried::Named(..) => {}
            Carried::Record(record) => self.control(record),
        }
    }

    fn control(&mut self, record: &LogRecord<'_>) {
        if self.core == CoreId(0) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            self.controls.push(bytes);
        }
    }

    fn slot(&mut self, state: &SlotState) {
        let round = Round { c: state.round.0, i: state.round.1 };
        self.shard.raise_mark(state.slot, round, state.floor, state.adopted);
    }

    /// Is what this layout says of a slot to be applied here?
    fn owns(&self, slot: Slot) -> bool {
        slot.core(self.cores) == self.core && self.read_from[usize::from(slot.0 / self.cores)] <= self.layout
    }
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Bytes that the layout in force takes on disk.
pub async fn layout_bytes<D: Disk>(disk: &D, layout: &Layout) -> Result<u64, DiskError> {
    let mut bytes = 0;
    for core in (0..layout.cores).map(CoreId) {
        let dir = core_dir(layout.id, core);
        for name in disk.list(&dir).await? {
            let file = disk.open(&join(&dir, &name), false).await?;
            bytes += disk.len(&file).await?;
        }
    }
    Ok(bytes)
}
