//! One core's log in one directory, under one seed: appends, writes in flight, crashes, rot, snapshots, recycling. The
//! log, its recovery and its restart are the real ones.
//!
//! Checked at every recovery (`models/wal_recovery.py` is where the list comes from):
//!
//! - S1 an acknowledged record is recovered, or lies in what is reported damaged
//! - S2 nothing is recovered that was not written so, at that place, in that order, or that an earlier recovery had cut
//! - S3 without rot: never corrupt; never suspect either where the block is the device's atomic unit
//! - S4 every range that is called corrupt holds a damaged block
//! - S5 damage below what a surviving header, or a peer, proves durable is called corrupt, not merely suspect
//! - S6 without rot every acknowledged record is recovered
//! - S7 a recovery that is repeated before it has taken effect says the same

use crate::disk::Disk;
use ringcore::storage::block::{self, BLOCK_BYTES, Reading, Seal};
use ringcore::storage::log::{BatchPlan, Log, Ticket};
use ringcore::storage::log_record::{Entry, LogRecord};
use ringcore::storage::lsn::Lsn;
use ringcore::storage::recovery::{Announced, Arrival, ManifestFacts, Recovery, Restart, Scan, Verdict};
use ringcore::storage::segment::{LogShape, SegmentId};
use ringcore::types::prng::Prng;
use ringcore::types::{Body, ClusterId, CoreId, Hlc, MemberId, Mono, RecordRef, Version};
use std::collections::{BTreeMap, BTreeSet};

const SEGMENT_BLOCKS: u32 = 8;
const FILES: usize = 5;
const STEPS: usize = 260;
const GATHERING_BYTES_MAX: usize = 64 << 10;
const BOUND_AHEAD_MS: u64 = 500;

/// What was found wrong.
pub(crate) type Violation = String;

/// How often each verdict was met, by what had happened before it.
pub(crate) type Met = BTreeMap<(Verdict, bool, bool), u64>;

/// What a seed decides once.
struct Options {
    depth: usize,
    /// The device writes a block wholly or not at all.
    atomic: bool,
    /// Writes are durable one by one, rather than by a flush of everything.
    write_through: bool,
    peers_remember: bool,
    rot_permille: u64,
    crash_permille: u64,
    flush_failure_permille: u64,
}

struct Flight {
    plan: BatchPlan,
    bytes: Vec<u8>,
    cached: bool,
}

pub(crate) struct World<'a> {
    prng: Prng,
    options: Options,
    met: &'a mut Met,
    disk: Disk,
    manifest: ManifestFacts,
    announced: Option<Announced>,
    log: Log,
    now: Mono,
    flights: Vec<Flight>,
    /// A snapshot's walk that has ended: its start LSN, and the newest ticket that it saw.
    walked: Option<(Lsn, Ticket)>,
    /// Appended in this life, not known to be durable.
    open: Vec<(Ticket, u64)>,
    next_record: u64,
    /// First and end LSN of the batch that each record was written in.
    places: BTreeMap<u64, (u64, u64)>,
    acknowledged: BTreeSet<u64>,
    in_snapshot: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    rotted: bool,
    /// A file with damage was moved out: what it may have held is missing without a trace from then on.
    moved_out: bool,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, met: &mut Met) -> Result<(), Violation> {
    World::new(seed, met)?.run()
}

pub(crate) fn shape() -> LogShape {
    let seal = Seal::new(ClusterId([1; 16]), MemberId(7), CoreId(3), 1);
    LogShape { seal, segment_blocks: SEGMENT_BLOCKS }
}

impl<'a> World<'a> {
    fn new(seed: u64, met: &'a mut Met) -> Result<World<'a>, Violation> {
        let mut prng = Prng::new(seed);
        let options = Options {
            depth: prng.between(1, 2) as usize,
            atomic: prng.chance(600),
            write_through: prng.chance(500),
            peers_remember: prng.chance(300),
            rot_permille: [0, 0, 10, 30][prng.below(4) as usize],
            crash_permille: [20, 50][prng.below(2) as usize],
            flush_failure_permille: [0, 0, 0, 20][prng.below(4) as usize],
        };
        let disk = Disk::new(SEGMENT_BLOCKS as usize);
        let manifest = ManifestFacts::default();
        let recovery = recover(&disk, &manifest, None)?;
        let log = Log::start(shape(), GATHERING_BYTES_MAX, &recovery.restart());
        let mut world = World {
            prng,
            options,
            met,
            disk,
            manifest,
            announced: None,
            log,
            now: Mono(0),
            flights: Vec::new(),
            walked: None,
            open: Vec::new(),
            next_record: 1,
            places: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            in_snapshot: BTreeSet::new(),
            dead: BTreeSet::new(),
            rotted: false,
            moved_out: false,
        };
        world.begin(&recovery.restart());
        Ok(world)
    }

    fn run(mut self) -> Result<(), Violation> {
        for _ in 0..STEPS {
            self.now = self.now + self.prng.below(100);
            let r = self.prng.below(1_000);
            let crash = self.options.crash_permille;
            if r < crash {
                if !self.crash()? {
                    return Ok(());
                }
            } else if r < crash + self.options.rot_permille {
                self.rot_anywhere();
            } else if r < 120 {
                self.snapshot();
            } else if r < 170 {
                self.log.tick();
                self.plan();
            } else if r < 500 {
                self.append();
                self.plan();
            } else if !self.progress() && !self.crash()? {
                return Ok(());
            }
            self.settle();
        }
        Ok(())
    }

    fn append(&mut self) {
        if self.prng.chance(300) && !self.log.is_idle() {
            return;
        }
        let blocks = [0, 0, 0, 1, 2, 3][self.prng.below(6) as usize];
        for i in 0..self.prng.between(1, 3) {
            let bytes = self.prng.below(300) + if i == 0 { blocks * 4_032 } else { 0 };
            if !self.log.has_room(bytes as usize + 64) {
                return;
            }
            let id = self.next_record;
            self.next_record += 1;
            let value = value_of(id, bytes as usize);
            let ticket = with_record(id, &value, |record| self.log.append(record));
            self.open.push((ticket, id));
        }
    }

    /// Submits the next batch, if there is one.
    fn plan(&mut self) {
        if self.flights.len() >= self.options.depth {
            return;
        }
        let bound = Hlc::at_ms(version_of(self.next_record).hlc.ms() + BOUND_AHEAD_MS);
        let Some(plan) = self.log.next_batch(self.now, bound) else { return };
        let mut bytes = vec![0xEE; plan.bytes()];
        self.log.encode(&plan, &mut bytes);
        for &(_, id) in self.open.iter().filter(|&&(ticket, _)| ticket == plan.ticket) {
            self.places.insert(id, (plan.first.0, plan.first.0 + plan.blocks as u64));
        }
        self.flights.push(Flight { plan, bytes, cached: false });
    }

    /// A write goes on, or completes. False if the log has failed.
    fn progress(&mut self) -> bool {
        if self.flights.is_empty() {
            self.plan();
            return true;
        }
        let at = self.prng.below(self.flights.len() as u64) as usize;
        let flight = &mut self.flights[at];
        if !flight.cached {
            flight.cached = true;
            self.disk.write(flight.plan.segment.0, flight.plan.offset, &flight.bytes, || true);
            return true;
        }
        if self.prng.chance(self.options.flush_failure_permille) {
            self.disk.power_cut(&mut self.prng, self.options.atomic);
            self.log.failed();
            if self.log.has_failed() {
                return false;
            }
        } else if self.options.write_through {
            let Flight { plan, bytes, .. } = self.flights.swap_remove(at);
            self.disk.write_through(plan.segment.0, plan.offset, &bytes);
            self.log.written(plan.ticket, self.now);
            return true;
        } else {
            self.disk.flush();
        }
        let (done, going): (Vec<_>, Vec<_>) = self.flights.drain(..).partition(|flight| flight.cached);
        self.flights = going;
        // Two completions can be seen in either order.
        let backwards = self.prng.chance(500);
        let mut tickets: Vec<_> = done.iter().map(|flight| flight.plan.ticket).collect();
        tickets.sort_unstable();
        if backwards {
            tickets.reverse();
        }
        for ticket in tickets {
            self.log.written(ticket, self.now);
        }
        true
    }

    /// Acknowledges what may be, makes segments that are wanted, ends a snapshot whose log is durable.
    fn settle(&mut self) {
        let log = &self.log;
        let acknowledged = self.open.extract_if(.., |(ticket, _)| log.proof(*ticket).is_some());
        self.acknowledged.extend(acknowledged.map(|(_, id)| id));
        if let Some(wanted) = self.log.wants_segment() {
            if self.disk.files().len() < FILES {
                self.disk.create(wanted.0);
                self.log.segment_ready(wanted);
            } else {
                self.log.segment_refused(wanted);
            }
        }
        if let Some((low, ticket)) = self.walked
            && let Some(known) = self.log.covered(ticket)
        {
            self.walked = None;
            (self.manifest.low, self.manifest.known) = (low, known);
            self.cover(low);
            self.log.recycle_below(low);
        }
        let (newest, durable) = self.log.durable();
        if self.options.peers_remember && newest >= Ticket::START && self.prng.chance(300) {
            self.announced = Some(Announced { incarnation: self.manifest.incarnation, durable });
        }
    }

    /// Everything acknowledged that ends at or below `low` is in snapshots.
    fn cover(&mut self, low: Lsn) {
        let below = |id: &&u64| self.places[*id].1 <= low.0;
        let covered: Vec<u64> = self.acknowledged.iter().filter(below).copied().collect();
        self.in_snapshot.extend(covered);
    }

    fn snapshot(&mut self) {
        let (newest, low) = self.log.durable();
        if self.walked.is_none()
            && newest >= Ticket::START
            && low > self.manifest.low
            && self.prng.chance(700)
        {
            self.walked = Some((low, self.log.last_ticket()));
        }
    }

    fn rot_anywhere(&mut self) {
        let files = self.disk.files();
        if !files.is_empty() {
            let file = files[self.prng.below(files.len() as u64) as usize];
            let at = self.prng.below(u64::from(SEGMENT_BLOCKS)) as usize;
            self.rotted |= self.disk.rot(&mut self.prng, file, at);
        }
    }

    /// The process or the machine stops, and comes back. False if there is no room to go on.
    fn crash(&mut self) -> Result<bool, Violation> {
        for flight in std::mem::take(&mut self.flights) {
            // Submitted, not complete: any part of it may have arrived.
            if !flight.cached {
                let prng = &mut self.prng;
                self.disk
                    .write(flight.plan.segment.0, flight.plan.offset, &flight.bytes, || prng.chance(500));
            }
        }
        if self.prng.chance(700) {
            self.disk.power_cut(&mut self.prng, self.options.atomic);
        }
        if self.options.rot_permille > 0 && self.prng.chance(250) {
            self.rot_last_segment();
        }
        let announced = self.announced.filter(|_| self.options.peers_remember);
        let recovery = recover(&self.disk, &self.manifest, announced)?;
        let got = self.check(&recovery)?;
        let restart = recovery.restart();
        if restart.sync.len() == self.disk.files().len() {
            self.disk.flush();
        }
        if self.prng.chance(100) {
            // Stopped again before the manifest was written.
            self.disk.power_cut(&mut self.prng, self.options.atomic);
            let again = recover(&self.disk, &self.manifest, announced)?;
            if (again.verdict(), again.restart()) != (recovery.verdict(), recovery.restart()) {
                return Err("S7 a repeated recovery differs".into());
            }
        }
        let damaged = recovery.verdict() >= Verdict::Suspect;
        let aside = damaged && self.prng.chance(500);
        let restart = if aside { recovery.restart_with_new_files() } else { restart };
        self.resolve(&got, damaged);
        if aside {
            (self.rotted, self.moved_out) = (false, false);
            self.in_snapshot.extend(got.replayed);
            self.disk.files().into_iter().for_each(|file| self.disk.remove(file));
            (self.manifest.low, self.manifest.known) = (restart.first, restart.first);
        }
        self.moved_out |= !restart.set_aside.is_empty();
        restart.set_aside.iter().for_each(|file| self.disk.remove(file.0));
        self.begin(&restart);
        Ok(self.make_room(&restart))
    }

    /// Rot where it is hardest to tell: where the log ends.
    fn rot_last_segment(&mut self) {
        let end = self.log.end().0.saturating_sub(1);
        let base = end - end % u64::from(SEGMENT_BLOCKS);
        let holds = |file: &u32| intact(&self.disk.read(*file)).any(|lsn| lsn >= base);
        if let Some(file) = self.disk.files().into_iter().find(holds) {
            let written = intact(&self.disk.read(file)).count() as u64;
            let at = self.prng.below(written) as usize;
            self.rotted |= self.disk.rot(&mut self.prng, file, at);
        }
    }

    /// From here on the recovery has taken effect.
    fn resolve(&mut self, got: &Got, damaged: bool) {
        let lost = |id: &u64| !got.replayed.contains(id) && !self.in_snapshot.contains(id);
        self.dead.extend((1..self.next_record).filter(lost));
        // Served from now on: must survive like anything acknowledged.
        self.acknowledged.extend(&got.replayed);
        if damaged {
            // Reported, so it need not be found again; foreign arrivals would be written anew.
            let dead = &self.dead;
            self.acknowledged.retain(|id| !dead.contains(id));
        }
        self.open.clear();
        self.walked = None;
    }

    /// Writes the manifest and starts the log.
    fn begin(&mut self, restart: &Restart) {
        let low = self.manifest.low;
        self.manifest.incarnation = restart.incarnation;
        self.manifest.cuts.retain(|&(incarnation, cut)| cut >= low && incarnation != restart.incarnation);
        self.manifest.cuts.push((restart.incarnation, restart.cut));
        self.manifest.hlc_bound = restart.hlc_bound;
        self.log = Log::start(shape(), GATHERING_BYTES_MAX, restart);
    }

    /// If every file is in use, a snapshot of all that was recovered frees them. False if that does not help.
    fn make_room(&mut self, restart: &Restart) -> bool {
        let free = restart.segments.iter().any(|(_, first)| first.is_none());
        if free || self.disk.files().len() < FILES {
            return true;
        }
        (self.manifest.low, self.manifest.known) = (restart.cut, restart.cut);
        self.cover(restart.cut);
        self.log.recycle_below(restart.cut);
        self.log.segments_left() > 0
    }

    fn check(&mut self, recovery: &Recovery) -> Result<Got, Violation> {
        let (verdict, rotted, atomic) = (recovery.verdict(), self.rotted, self.options.atomic);
        *self.met.entry((verdict, rotted, atomic)).or_default() += 1;
        let got = self.read(recovery)?;
        for id in got.replayed.iter().chain(&got.foreign) {
            if self.dead.contains(id) {
                return Err(format!("S2 record {id} came back"));
            }
        }
        let has =
            |id: &u64| got.replayed.contains(id) || got.foreign.contains(id) || self.in_snapshot.contains(id);
        let missing: Vec<u64> = self.acknowledged.iter().filter(|id| !has(id)).copied().collect();
        for id in &missing {
            let first = Lsn(self.places[id].0);
            if !recovery.damage().iter().any(|damage| damage.covers(first)) {
                return Err(format!("S1 record {id} silently dropped"));
            }
        }
        if !rotted && (verdict == Verdict::Corrupt || atomic && verdict == Verdict::Suspect) {
            return Err(format!("S3 false alarm: {verdict:?}"));
        }
        if !rotted && !missing.is_empty() {
            return Err(format!("S6 records {missing:?} lost without rot"));
        }
        self.check_damage(recovery)?;
        let proof = self.proof();
        if verdict != Verdict::Corrupt && missing.iter().any(|id| self.places[id].1 <= proof) {
            return Err("S5 proven damage not called corrupt".into());
        }
        let newest = self.acknowledged.last().map_or(Hlc::ZERO, |&id| version_of(id).hlc);
        if !rotted && recovery.hlc_bound() < newest {
            return Err("S6 the HLC bound went back".into());
        }
        Ok(got)
    }

    /// What some intact block of the last life, or a peer, says was durable.
    fn proof(&self) -> u64 {
        let mut proof = match self.announced {
            Some(announced) if announced.incarnation == self.manifest.incarnation => announced.durable.0,
            _ => 0,
        };
        for file in self.disk.files() {
            for block in self.disk.read(file).chunks_exact(BLOCK_BYTES) {
                if let Reading::Intact(header) = block::open(shape().seal, block)
                    && header.incarnation == self.manifest.incarnation
                {
                    proof = proof.max(header.durable.0);
                }
            }
        }
        proof
    }

    fn check_damage(&self, recovery: &Recovery) -> Result<(), Violation> {
        let is_bad = |lsn: u64| {
            let at = (lsn % u64::from(SEGMENT_BLOCKS)) as usize * BLOCK_BYTES;
            self.disk.files().into_iter().any(|file| {
                let bytes = self.disk.read(file);
                block::open(shape().seal, &bytes[at..at + BLOCK_BYTES]) == Reading::Damaged
            })
        };
        for damage in recovery.damage() {
            if let Some(to) = damage.to
                && !self.moved_out
                && !(damage.from.0..to.0).any(is_bad)
            {
                return Err(format!("S4 corrupt without damage: {damage:?}"));
            }
        }
        Ok(())
    }

    /// Reads what the recovery accepted, and checks that it is what was written there.
    fn read(&self, recovery: &Recovery) -> Result<Got, Violation> {
        let mut got = Got::default();
        for arrival in [Arrival::Replayed, Arrival::Foreign] {
            let mut last = (0, 0);
            for segment in recovery.segments(arrival) {
                let bytes = self.disk.read(segment.0);
                let mut reader = recovery.read(segment, arrival, &bytes);
                while let Some(batch) = reader.next_batch().map_err(|unsteady| unsteady.to_string())? {
                    for record in batch.records() {
                        let id = written_id(&record.map_err(|error| format!("S2 {error}"))?)?;
                        if self.places.get(&id) != Some(&(batch.first.0, batch.end.0)) {
                            return Err(format!("S2 record {id} was never written at {:?}", batch.first));
                        }
                        if (batch.first.0, id) <= last {
                            return Err(format!("S2 record {id} out of order"));
                        }
                        last = (batch.first.0, id);
                        let ids =
                            if arrival == Arrival::Replayed { &mut got.replayed } else { &mut got.foreign };
                        ids.insert(id);
                    }
                }
            }
        }
        Ok(got)
    }
}

/// Records that a recovery gave.
#[derive(Default)]
struct Got {
    replayed: BTreeSet<u64>,
    foreign: BTreeSet<u64>,
}

fn recover(
    disk: &Disk,
    manifest: &ManifestFacts,
    announced: Option<Announced>,
) -> Result<Recovery, Violation> {
    let mut scan = Scan::new(shape(), manifest.clone(), announced);
    for file in disk.files() {
        scan.segment(SegmentId(file), &disk.read(file)).map_err(|error| error.to_string())?;
    }
    scan.judge().map_err(|error| error.to_string())
}

/// LSNs of the intact blocks of a file.
fn intact(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(BLOCK_BYTES).filter_map(|block| match block::open(shape().seal, block) {
        Reading::Intact(header) => Some(header.lsn.0),
        Reading::Zero | Reading::Damaged | Reading::Foreign => None,
    })
}

pub(crate) fn version_of(id: u64) -> Version {
    Version::new(Hlc::at_ms(id * 10), MemberId(7))
}

pub(crate) fn value_of(id: u64, len: usize) -> Vec<u8> {
    let mut prng = Prng::new(id);
    let mut value: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| prng.next_u64().to_le_bytes()).collect();
    value.truncate(len);
    value
}

pub(crate) fn with_record<T>(id: u64, value: &[u8], f: impl FnOnce(&LogRecord<'_>) -> T) -> T {
    let key = id.to_le_bytes();
    let record = RecordRef { key: &key, version: version_of(id), expires_at_ms: 0, body: Body::Value(value) };
    f(&LogRecord::Record(Entry { record, label: None, operation: None }))
}

/// The id of a record, which must be what was appended under that id.
pub(crate) fn written_id(record: &LogRecord<'_>) -> Result<u64, Violation> {
    if let LogRecord::Record(Entry { record, label: None, operation: None }) = record
        && let (Ok(key), Body::Value(value)) = (record.key.try_into(), record.body)
    {
        let id = u64::from_le_bytes(key);
        if record.version == version_of(id) && value == value_of(id, value.len()) {
            return Ok(id);
        }
    }
    Err(format!("S2 never written: {record:?}"))
}
