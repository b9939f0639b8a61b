//! The file of a part: read back whole, and damaged in every way.

use crate::disk::{SECTOR, SimDisk, block_on};
use bytes::BufMut;
use ringcore::storage::data_dir::LayoutId;
use ringcore::storage::disk::DiskResult;
use ringcore::storage::lsn::Lsn;
use ringcore::storage::owner::Owner;
use ringcore::storage::part::{
    BLOCK_BYTES, Entries, EntryKind, Item, PartFile, PartIndex, PartReader, PartReport, PartSource,
    PartStart, SlotState, Walked, write_part,
};
use ringcore::types::prng::Prng;
use ringcore::types::{Body, ClusterId, CoreId, Hlc, MemberId, RecordRef, Slot, Version};
use std::collections::BTreeMap;

/// An entry, with bytes of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Thing {
    Record { key: Vec<u8>, version: Version, expires_at_ms: u64, value: Option<Vec<u8>>, expired: bool },
    Carried(EntryKind, Vec<u8>),
}

impl Thing {
    pub(crate) fn of_record(record: &RecordRef<'_>) -> Thing {
        let (value, expired) = match record.body {
            Body::Value(value) => (Some(value.to_vec()), false),
            Body::Tombstone => (None, false),
            Body::Expired => (None, true),
        };
        let RecordRef { key, version, expires_at_ms, .. } = *record;
        Thing::Record { key: key.to_vec(), version, expires_at_ms, value, expired }
    }

    fn put(&self, out: &mut Entries<'_>) {
        match self {
            Thing::Record { key, version, expires_at_ms, value, expired } => {
                let body = match (value, expired) {
                    (Some(value), _) => Body::Value(value),
                    (None, true) => Body::Expired,
                    (None, false) => Body::Tombstone,
                };
                out.record(&RecordRef { key, version: *version, expires_at_ms: *expires_at_ms, body });
            }
            Thing::Carried(kind, bytes) => out.carried(*kind, bytes),
        }
    }
}

/// A source that does not change while it is walked.
pub(crate) struct Fixed {
    cores: u16,
    start: PartStart,
    core: Vec<Thing>,
    slots: BTreeMap<Slot, Vec<Thing>>,
    /// How far the walk of the core or the current slot has come.
    at: usize,
}

impl Fixed {
    /// Few records in the slots of every part.
    pub(crate) fn sample(owner: &Owner, seed: u64) -> Fixed {
        let mut prng = Prng::new(seed);
        let slots = Slot::of_core(owner.core, owner.cores).filter(|slot| slot.0 % 256 < 8);
        let things = slots.map(|slot| (slot, things(&mut prng, 3, 50))).collect();
        Fixed { cores: owner.cores, ..Fixed::of(Lsn(5), things) }
    }

    fn of(start: Lsn, slots: BTreeMap<Slot, Vec<Thing>>) -> Fixed {
        let state = |slot: &Slot| SlotState {
            slot: *slot,
            floor: Version::new(Hlc(u64::from(slot.0)), MemberId(3)),
            round: (7, u32::from(slot.0)),
            adopted: 8,
            epoch: 9,
        };
        let core = vec![Thing::Carried(EntryKind::Core, vec![42; 100])];
        let slot_states = slots.keys().map(state).collect();
        let start = PartStart { start, hlc_bound: Hlc::at_ms(77), slots: slot_states };
        Fixed { cores: CORES, start, core, slots, at: 0 }
    }
}

impl PartSource for Fixed {
    fn begin(&mut self, part: PartIndex) -> PartStart {
        let mut start = self.start.clone();
        start.slots.retain(|state| PartIndex::of_slot(state.slot, self.cores) == part);
        start
    }

    fn walk_core(&mut self, out: &mut Entries<'_>) -> Walked {
        step(&self.core, &mut self.at, out)
    }

    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked {
        step(&self.slots[&slot], &mut self.at, out)
    }

    async fn log_end(&mut self) -> DiskResult<Lsn> {
        Ok(Lsn(self.start.start.0 + 2))
    }

    fn recycle_below(&mut self, _: Lsn) {}
}

fn step(things: &[Thing], at: &mut usize, out: &mut Entries<'_>) -> Walked {
    while let Some(thing) = things.get(*at) {
        if out.is_full() {
            return Walked::Partly;
        }
        thing.put(out);
        *at += 1;
    }
    *at = 0;
    Walked::Wholly
}

const CORES: u16 = 256;
const OWNER: Owner = Owner {
    cluster: ClusterId([3; 16]),
    member: MemberId(1),
    layout: LayoutId(1),
    cores: CORES,
    core: CoreId(5),
};
const START: Lsn = Lsn(40);

fn things(prng: &mut Prng, count: u64, value_bytes: u64) -> Vec<Thing> {
    let bytes = |prng: &mut Prng, len: u64| (0..len).map(|_| prng.next_u64() as u8).collect::<Vec<u8>>();
    let thing = |prng: &mut Prng, nth: u64| {
        if prng.chance(200) {
            let kinds = [EntryKind::Identity, EntryKind::Promise, EntryKind::Hint];
            let len = prng.below(60);
            return Thing::Carried(kinds[prng.below(3) as usize], bytes(prng, len));
        }
        let mut key = nth.to_le_bytes().to_vec();
        key.resize(prng.between(8, 24) as usize, 1);
        // A few are far longer than a block.
        let longest = if prng.chance(20) { value_bytes * 30 } else { value_bytes };
        let len = prng.between(0, longest);
        let value = prng.chance(800).then(|| bytes(prng, len));
        let expired = value.is_none() && prng.chance(300);
        let version = Version::new(Hlc(prng.next_u64()), MemberId(prng.below(9) as u32));
        Thing::Record { key, version, expires_at_ms: prng.below(2) * 1_000, value, expired }
    };
    (0..count).map(|nth| thing(prng, nth)).collect()
}

/// A written part and what it should hold.
struct Written {
    disk: SimDisk,
    part: PartIndex,
    file: PartFile,
    core: Vec<Thing>,
    slots: BTreeMap<Slot, Vec<Thing>>,
}

/// What was read back.
struct ReadBack {
    core: Vec<Thing>,
    slots: BTreeMap<Slot, Vec<Thing>>,
    states: Vec<SlotState>,
    report: PartReport,
}

impl Written {
    /// Writes part 3 of a core with 4 slots a part: of them a random selection, each with up to `most` entries.
    fn random(seed: u64, most: u64, value_bytes: u64) -> Written {
        let mut prng = Prng::new(seed);
        let part = PartIndex::new(3).expect("3 is below 16");
        let mut slots = BTreeMap::new();
        for slot in part.slots(OWNER.core, CORES) {
            if prng.chance(850) {
                let count = prng.below(most + 1);
                slots.insert(slot, things(&mut prng, count, value_bytes));
            }
        }
        Written::of(SimDisk::new(seed), part, 1, slots)
    }

    fn of(disk: SimDisk, part: PartIndex, generation: u32, slots: BTreeMap<Slot, Vec<Thing>>) -> Written {
        let mut source = Fixed::of(START, slots.clone());
        let file = block_on(&disk, write_part(&disk, &mut source, &OWNER, "", part, generation));
        let file = file.expect("it is not stopped").expect("no fault is planned");
        Written { disk, part, file, core: source.core, slots }
    }

    fn path(&self) -> String {
        self.file.name(self.part)
    }

    fn blocks(&self) -> usize {
        (self.file.bytes as usize).div_ceil(BLOCK_BYTES)
    }

    fn read(&self) -> ReadBack {
        block_on(&self.disk, self.read_steps()).expect("it is not stopped")
    }

    async fn read_steps(&self) -> ReadBack {
        let reader = PartReader::open(&self.disk, "", &OWNER, self.part, &self.file).await;
        let mut reader = reader.expect("the disk works");
        let (mut core, mut slots, mut states) = (Vec::new(), BTreeMap::new(), Vec::new());
        while reader.next().await.expect("damage is not an error") {
            for item in reader.items() {
                let (slot, thing) = match item {
                    Item::Slot(state) => {
                        states.push(state);
                        slots.entry(state.slot).or_insert_with(Vec::new);
                        continue;
                    }
                    Item::Core(bytes) => {
                        core.push(Thing::Carried(EntryKind::Core, bytes.to_vec()));
                        continue;
                    }
                    Item::Record(slot, record) => (slot, Thing::of_record(&record)),
                    Item::Carried(slot, kind, bytes) => (slot, Thing::Carried(kind, bytes.to_vec())),
                };
                slots.entry(slot).or_insert_with(Vec::new).push(thing);
            }
        }
        ReadBack { core, slots, states, report: reader.finish() }
    }

    /// What the report calls good is complete, and all that was handed out is genuine.
    fn check(&self, read: &ReadBack) {
        for slot in self.part.slots(OWNER.core, CORES) {
            let (expected, found) = (self.slots.get(&slot), read.slots.get(&slot));
            if !read.report.damaged.contains(&slot) {
                assert_eq!(found, expected, "slot {slot:?} passes for good");
            } else if let Some(found) = found {
                let expected = expected.expect("a slot that was written");
                assert!(found.iter().all(|thing| expected.contains(thing)), "slot {slot:?} is made up");
            }
        }
        if !read.report.core_damaged {
            assert_eq!(read.core, self.core);
        }
    }
}

/// The checksum of a block, as the format describes it: what an author of forged blocks would do.
fn reseal(block: &mut [u8], file: &PartFile, part: PartIndex) {
    let mut seed = Vec::new();
    seed.put_slice(&OWNER.cluster.0);
    seed.put_u32_le(OWNER.member.0);
    seed.put_u32_le(OWNER.layout.0);
    seed.put_u16_le(OWNER.cores);
    seed.put_u16_le(OWNER.core.0);
    seed.put_u8(part.get());
    seed.put_u32_le(file.generation);
    seed.put_u64_le(file.start.0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&seed), &block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(not(mutants))]
mod tests {
    use super::*;
    use crate::disk::Fault;
    use ringcore::storage::disk::Disk;

    #[test]
    fn part_reads_back_what_was_written() {
        for seed in 0..150 {
            let (most, value_bytes) = [(0, 0), (5, 20), (300, 300), (40, 9_000)][seed as usize % 4];
            let written = Written::random(seed, most, value_bytes);
            let read = written.read();
            written.check(&read);
            assert!(read.report.is_whole() && read.report.bad_blocks.is_empty(), "seed {seed}");
            assert_eq!(read.report.records, written.file.records, "seed {seed}");
            assert_eq!(read.report.hlc_bound, Hlc::at_ms(77));
            let states = Fixed::of(START, written.slots.clone()).start.slots;
            assert_eq!(read.states, states, "seed {seed}");
            assert_eq!((written.file.start, written.file.end), (START, Lsn(42)));
        }
    }

    #[test]
    fn a_bad_block_costs_the_slots_that_run_through_it_and_no_others() {
        let mut spared = 0;
        for seed in 0..30 {
            let written = Written::random(seed, 900, 300);
            let image = written.disk.image();
            let file = written.disk.contents(&written.path()).expect("it is there");
            for block in 0..written.blocks() {
                let header = &file[block * BLOCK_BYTES..];
                let runs = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
                let first = if runs(20) == u16::MAX { 0 } else { runs(20) };
                let last = if block + 1 == written.blocks() { u16::MAX } else { runs(22) };
                let mut prng = Prng::new(seed);
                let written = Written {
                    disk: SimDisk::of_image(image.clone(), seed),
                    slots: written.slots.clone(),
                    core: written.core.clone(),
                    ..written
                };
                let bits = (file.len() - block * BLOCK_BYTES).min(BLOCK_BYTES) * 8;
                let bit = block * BLOCK_BYTES * 8 + prng.below(bits as u64) as usize;
                written.disk.flip(&written.path(), bit);
                let read = written.read();
                written.check(&read);
                assert_eq!(read.report.bad_blocks, [block as u32], "seed {seed}");
                let damaged = &read.report.damaged;
                assert!(damaged.iter().all(|slot| (first..=last).contains(&slot.0)), "seed {seed}");
                assert!(read.report.core_damaged == (block == 0), "seed {seed}, block {block}");
                spared += written.slots.len().saturating_sub(damaged.len());
            }
        }
        assert!(spared > 0);
    }

    #[test]
    fn any_damage_is_reported_and_the_rest_is_genuine() {
        for seed in 0..400 {
            let mut prng = Prng::new(seed ^ 0xDA3A6E);
            let written = Written::random(seed, 400, 400);
            let path = written.path();
            let len = written.file.bytes as usize;
            for _ in 0..prng.between(1, 3) {
                match prng.below(3) {
                    0 => written.disk.flip(&path, prng.below(len as u64 * 8) as usize),
                    1 => {
                        let at = prng.below((len / SECTOR) as u64) as usize * SECTOR;
                        written.disk.overwrite(&path, at, &[0; SECTOR]);
                    }
                    _ => {
                        // A block that belongs elsewhere in the file.
                        let file = written.disk.contents(&path).expect("it is there");
                        let from = prng.below(written.blocks() as u64) as usize * BLOCK_BYTES;
                        let to = prng.below(written.blocks() as u64) as usize * BLOCK_BYTES;
                        let block = &file[from..len.min(from + BLOCK_BYTES)];
                        written.disk.overwrite(&path, to, block);
                    }
                }
            }
            if prng.chance(300) {
                let to = prng.below((len / SECTOR) as u64) * SECTOR as u64;
                let cut = block_on(&written.disk, async {
                    let file = written.disk.open(&path, false).await.expect("it is there");
                    written.disk.truncate(&file, to).await
                });
                assert_eq!(cut, Some(Ok(())));
            }
            let read = written.read();
            written.check(&read);
        }
    }

    #[test]
    fn unreadable_sectors_and_lost_files_are_damage_not_errors() {
        let written = Written::random(2, 900, 300);
        assert!(written.blocks() >= 2);
        written.disk.kill();
        // Open, then the read of several blocks, then the same one block at a time.
        written.disk.fail_at(1, Fault::Io);
        written.disk.fail_at(2, Fault::Io);
        let read = written.read();
        written.check(&read);
        assert_eq!(read.report.bad_blocks, [0]);
        written.disk.lose(&written.path());
        let read = written.read();
        assert!(written.part.slots(OWNER.core, CORES).eq(read.report.damaged));
        assert!(read.report.core_damaged);
    }

    #[test]
    fn blocks_of_an_earlier_file_do_not_pass() {
        for seed in 0..100 {
            let written = Written::random(seed, 300, 300);
            let again = Written::random(seed + 1_000, 300, 300);
            // Same part, same start: another generation, or an attempt at the same one that came to nothing.
            let generation = 1 + (seed % 2) as u32;
            let newer = Written::of(again.disk, again.part, generation, again.slots);
            let mut prng = Prng::new(seed);
            let blocks = written.blocks().min(newer.blocks()) as u64;
            let at = prng.below(blocks) as usize * BLOCK_BYTES;
            let old = written.disk.contents(&written.path()).expect("it is there");
            newer.disk.overwrite(&newer.path(), at, &old[at..old.len().min(at + BLOCK_BYTES)]);
            let read = newer.read();
            assert!(!read.report.is_whole(), "seed {seed}");
            if generation == 1 && read.report.bad_blocks.is_empty() {
                // Its own checksum cannot tell; that it breaks the chain condemns the whole file.
                let slots = newer.part.slots(OWNER.core, CORES);
                assert!(slots.eq(read.report.damaged.iter().copied()), "seed {seed}");
            } else {
                newer.check(&read);
            }
        }
    }

    #[test]
    fn nonsense_under_a_right_checksum_is_read_without_panic() {
        for seed in 0..1_000 {
            let mut prng = Prng::new(seed);
            let written = Written::random(seed % 20, 30, 2_000);
            let path = written.path();
            let mut file = written.disk.contents(&path).expect("it is there");
            for _ in 0..prng.between(1, 20) {
                let at = prng.below(file.len() as u64) as usize;
                file[at] = [0, 0xFF, prng.next_u64() as u8][prng.below(3) as usize];
            }
            file.chunks_mut(BLOCK_BYTES).for_each(|block| reseal(block, &written.file, written.part));
            written.disk.overwrite(&path, 0, &file);
            let read = written.read();
            // A forged last block is another file's; what it seals is not believed.
            if read.report.is_whole() {
                written.check(&read);
            }
        }
    }

    #[test]
    fn steps_are_short_and_the_file_is_compact() {
        let mut prng = Prng::new(1);
        let part = PartIndex::new(0).expect("0 is below 16");
        let record = |nth: u64| Thing::Record {
            key: format!("{nth:016}").into_bytes(),
            version: Version::new(Hlc(nth), MemberId(1)),
            expires_at_ms: 0,
            value: Some(vec![7; 100]),
            expired: false,
        };
        let count = 5_000 + prng.below(100);
        let slots = part.slots(OWNER.core, CORES).map(|slot| (slot, (0..count).map(record).collect()));
        let written = Written::of(SimDisk::new(1), part, 1, slots.collect());
        let user_bytes = written.file.records * 116;
        assert_eq!(written.file.records, 4 * count);
        assert!(written.file.bytes * 100 <= user_bytes * 120, "{} for {user_bytes}", written.file.bytes);
        assert!(written.disk.paced_most() <= 33 << 10, "{}", written.disk.paced_most());
    }
}
