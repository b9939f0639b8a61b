//! Parts, manifest and log together, interrupted at every step: what was durable is still there, and nothing else.
//!
//! The core here is a toy: its log has one page per record, and its records are small numbers. What it shares with the
//! real one is the order in which things become durable.

use crate::disk::{Fault, Image, SECTOR, SimDisk, SimFile, block_on};
use crate::interrupt::at_every_step;
use crate::part_file::Thing;
use bytes::{Buf, BufMut};
use ringcore::storage::data_dir::{self, LayoutId};
use ringcore::storage::disk::{Disk, DiskErrorKind, DiskResult};
use ringcore::storage::lsn::Lsn;
use ringcore::storage::manifest::{self, Manifest};
use ringcore::storage::owner::Owner;
use ringcore::storage::part::{
    Entries, Item, PartIndex, PartReader, PartSource, PartStart, SlotState, Walked,
};
use ringcore::storage::snapshot::rewrite_part;
use ringcore::types::prng::Prng;
use ringcore::types::{Body, ClusterId, CoreId, Hlc, MemberId, RecordRef, Slot, Version};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

const CORES: u16 = 512;
const OWNER: Owner = Owner {
    cluster: ClusterId([4; 16]),
    member: MemberId(1),
    layout: LayoutId(1),
    cores: CORES,
    core: CoreId(9),
};
const LOG: &str = "core/wal-0000";
const DIR: &str = "core";
const KEYS: u64 = 4;

/// One record of the log. Its LSN is its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Logged {
    slot: Slot,
    key: u8,
    /// None: the key is purged.
    value: Option<u8>,
}

/// What the table holds for a key: value and version.
type Table = BTreeMap<(Slot, u8), (u8, u64)>;

/// All that was ever logged, and up to where it is certain to be durable: what a test knows and a process forgets.
#[derive(Clone, Default)]
struct History {
    logged: Rc<RefCell<Vec<Logged>>>,
    durable: Rc<Cell<u64>>,
}

/// The core that is running.
struct Toy {
    disk: SimDisk,
    log: SimFile,
    history: History,
    table: RefCell<Table>,
    prng: RefCell<Prng>,
    /// The last key that was put of the slot being walked.
    cursor: Option<u8>,
    recycled: u64,
}

impl History {
    fn copy(&self) -> History {
        let logged = Rc::new(RefCell::new(self.logged.borrow().clone()));
        History { logged, durable: Rc::new(Cell::new(self.durable.get())) }
    }

    fn end(&self) -> u64 {
        self.logged.borrow().len() as u64
    }

    fn append(&self, prng: &mut Prng) -> (u64, Logged) {
        let nth = prng.below(Slot::of_core(OWNER.core, CORES).count() as u64) as usize;
        let slot = Slot::of_core(OWNER.core, CORES).nth(nth).expect("it is one of them");
        let value = prng.chance(600).then(|| prng.next_u64() as u8);
        let logged = Logged { slot, key: prng.below(KEYS) as u8, value };
        self.logged.borrow_mut().push(logged);
        (self.end() - 1, logged)
    }
}

impl Logged {
    fn apply(self, lsn: u64, table: &mut Table) {
        let held = table.get(&(self.slot, self.key)).is_some_and(|&(_, version)| version > lsn);
        match self.value {
            _ if held => {}
            Some(value) => {
                table.insert((self.slot, self.key), (value, lsn));
            }
            None => {
                table.remove(&(self.slot, self.key));
            }
        }
    }

    fn page(self, lsn: u64) -> Vec<u8> {
        let mut page = Vec::new();
        page.put_u64_le(lsn);
        page.put_u16_le(self.slot.0);
        page.put_u8(self.key);
        page.put_u8(u8::from(self.value.is_some()));
        page.put_u8(self.value.unwrap_or_default());
        page.put_u32_le(crc32c::crc32c(&page));
        page.resize(SECTOR, 0);
        page
    }

    fn of_page(page: &[u8], lsn: u64) -> Option<Logged> {
        let (mut fields, mut crc) = page.get(..17)?.split_at(13);
        let sealed = crc32c::crc32c(fields) == crc.get_u32_le();
        let here = fields.get_u64_le() == lsn;
        let (slot, key) = (Slot(fields.get_u16_le()), fields.get_u8());
        let value = (fields.get_u8() == 1).then(|| fields.get_u8());
        (sealed && here).then_some(Logged { slot, key, value })
    }
}

impl Toy {
    async fn start(disk: &SimDisk, history: &History, seed: u64) -> DiskResult<Toy> {
        let mut table = Table::new();
        for (lsn, logged) in history.logged.borrow().iter().enumerate() {
            logged.apply(lsn as u64, &mut table);
        }
        let log = disk.open(LOG, false).await?;
        let (history, prng) = (history.clone(), RefCell::new(Prng::new(seed)));
        let (disk, table) = (disk.clone(), RefCell::new(table));
        Ok(Toy { disk, log, history, table, prng, cursor: None, recycled: 0 })
    }

    /// Somebody writes something.
    fn act(&self) {
        let (lsn, logged) = self.history.append(&mut self.prng.borrow_mut());
        logged.apply(lsn, &mut self.table.borrow_mut());
    }

    async fn flush(&self, end: u64) -> DiskResult<()> {
        for lsn in self.history.durable.get()..end {
            let page = self.history.logged.borrow()[lsn as usize].page(lsn);
            self.disk.write(&self.log, lsn * SECTOR as u64, page).await?;
        }
        self.disk.sync(&self.log).await?;
        self.history.durable.set(end.max(self.history.durable.get()));
        Ok(())
    }
}

impl PartSource for Toy {
    fn begin(&mut self, part: PartIndex) -> PartStart {
        let slots = part.slots(OWNER.core, CORES);
        let slots = slots.map(|slot| SlotState { slot, ..SlotState::default() }).collect();
        PartStart { start: Lsn(self.history.durable.get()), hlc_bound: Hlc::ZERO, slots }
    }

    fn walk_core(&mut self, _: &mut Entries<'_>) -> Walked {
        self.act();
        Walked::Wholly
    }

    fn walk(&mut self, slot: Slot, out: &mut Entries<'_>) -> Walked {
        if self.prng.get_mut().chance(500) {
            self.act();
        }
        let first = self.cursor.map_or(0, |key| key + 1);
        let table = self.table.borrow();
        let next = table.range((slot, first)..=(slot, u8::MAX)).next();
        let Some((&(_, key), &(value, version))) = next else {
            self.cursor = None;
            return Walked::Wholly;
        };
        let version = Version::new(Hlc(version), MemberId(1));
        out.record(&RecordRef { key: &[key], version, expires_at_ms: 0, body: Body::Value(&[value]) });
        self.cursor = Some(key);
        Walked::Partly
    }

    async fn log_end(&mut self) -> DiskResult<Lsn> {
        let end = self.history.end();
        self.flush(end).await?;
        // Others went on meanwhile; their records wait for the next flush.
        self.act();
        Ok(Lsn(end))
    }

    fn recycle_below(&mut self, low: Lsn) {
        // The worst case: the segments are written over, durably, the moment they may be.
        for lsn in self.recycled..low.0 {
            self.disk.overwrite(LOG, lsn as usize * SECTOR, &[0; SECTOR]);
        }
        self.recycled = self.recycled.max(low.0);
    }
}

/// A core with all its parts, and some log beyond them.
fn begin() -> (Image, History) {
    let disk = SimDisk::new(0);
    let history = History::default();
    let made = block_on(&disk, async {
        disk.make_dir(DIR).await?;
        disk.sync_dir("").await?;
        let mut manifest = Manifest::new(OWNER);
        manifest::write(&disk, DIR, &manifest).await?;
        disk.create(LOG).await?;
        disk.sync_dir(DIR).await?;
        let mut toy = Toy::start(&disk, &history, 1).await?;
        (0..60).for_each(|_| toy.act());
        for part in PartIndex::all() {
            rewrite_part(&disk, &mut toy, &mut manifest, DIR, part).await?;
            toy.act();
        }
        toy.flush(toy.history.end()).await
    });
    assert_eq!(made, Some(Ok(())));
    disk.crash();
    (disk.image(), history)
}

/// Rewrites the next part twice: low rises, and the log below it goes.
async fn rewrite_twice(disk: &SimDisk, history: &History, seed: u64) -> DiskResult<()> {
    let mut manifest = manifest::read(disk, DIR, &OWNER).await.map_err(|error| match error {
        ringcore::storage::small_file::FileError::Disk(error) => error,
        other => panic!("{other}"),
    })?;
    let mut toy = Toy::start(disk, history, seed).await?;
    for _ in 0..2 {
        let part = manifest.next_part();
        rewrite_part(disk, &mut toy, &mut manifest, DIR, part).await?;
    }
    Ok(())
}

/// Starts anew, checks what is found, goes on as the core would, and checks again.
async fn restart(disk: &SimDisk, history: &History, seed: u64) {
    let end = check(disk, history).await;
    // What recovery cuts is void from now on, what it took is flushed before anything is served.
    history.logged.borrow_mut().truncate(end as usize);
    let length = disk.contents(LOG).expect("it is there").len();
    disk.overwrite(LOG, end as usize * SECTOR, &vec![0; length.saturating_sub(end as usize * SECTOR)]);
    let log = disk.open(LOG, false).await.expect("it opens");
    disk.sync(&log).await.expect("no fault is planned");
    history.durable.set(end);
    rewrite_twice(disk, history, seed).await.expect("no fault is planned");
    check(disk, history).await;
}

/// Looks whether everything durable is there, and nothing that was not logged; returns where the log ends.
async fn check(disk: &SimDisk, history: &History) -> u64 {
    let manifest = manifest::read(disk, DIR, &OWNER).await.expect("it opens");
    data_dir::sweep_core(disk, DIR, &manifest).await.expect("it opens");
    let left = disk.names(DIR).into_iter().filter(|name| name != "MANIFEST" && name != "wal-0000");
    let named = PartIndex::all().filter_map(|part| Some(manifest.part(part)?.name(part)));
    assert!(left.eq(named), "exactly the named parts are there");

    let mut table = Table::new();
    for part in PartIndex::all() {
        let file = manifest.part(part).expect("all were written");
        let mut reader = PartReader::open(disk, DIR, &OWNER, part, file).await.expect("the disk works");
        while reader.next().await.expect("the disk works") {
            for item in reader.items() {
                let Item::Record(slot, record) = item else { continue };
                let Thing::Record { key, version, value: Some(value), .. } = Thing::of_record(&record) else {
                    panic!("only values were put")
                };
                table.insert((slot, key[0]), (value[0], version.hlc.0));
            }
        }
        assert!(reader.finish().is_whole(), "part {part} is intact");
    }

    let log = disk.contents(LOG).expect("it is there");
    let page = |lsn: u64| log.get(lsn as usize * SECTOR..).and_then(|page| Logged::of_page(page, lsn));
    let mut end = manifest.low().0;
    while let Some(logged) = page(end) {
        let start = manifest.part(PartIndex::of_slot(logged.slot, CORES)).map(|file| file.start);
        if start.is_some_and(|start| start.0 <= end) {
            logged.apply(end, &mut table);
        }
        end += 1;
    }
    assert!(
        end >= history.durable.get(),
        "log lost: it ends at {end}, was durable to {}",
        history.durable.get()
    );
    assert!(
        end >= manifest.known().0,
        "false corruption: the log ends at {end}, known {:?}",
        manifest.known()
    );

    let mut expected = Table::new();
    for (lsn, logged) in history.logged.borrow()[..end as usize].iter().enumerate() {
        logged.apply(lsn as u64, &mut expected);
    }
    assert_eq!(table, expected);
    end
}

/// Whatever interrupts the writing of a part, parts and log together are what was durable.
pub(crate) fn rewriting_parts(seeds: u64) {
    let (image, beginning) = begin();
    let history = RefCell::new(beginning.copy());
    at_every_step(
        seeds,
        &image,
        async |disk, seed| {
            *history.borrow_mut() = beginning.copy();
            let history = history.borrow().clone();
            rewrite_twice(disk, &history, seed).await
        },
        async |disk, _| {
            let history = history.borrow().clone();
            restart(disk, &history, 2).await;
        },
    );
}

#[cfg(not(mutants))]
mod tests {
    use super::*;

    #[test]
    fn parts_and_log_are_what_was_durable_after_any_interruption() {
        rewriting_parts(5);
    }

    #[test]
    fn full_disk_leaves_the_part_before_in_force_and_its_space_comes_back() {
        let (image, beginning) = begin();
        let mut refused = 0;
        for step in 0.. {
            let disk = SimDisk::of_image(image.clone(), step);
            let history = beginning.copy();
            let ran = block_on(&disk, async {
                let mut manifest = manifest::read(&disk, DIR, &OWNER).await.expect("it is there");
                let mut toy = Toy::start(&disk, &history, 1).await.expect("it opens");
                let (before, names) = (manifest.clone(), disk.names(DIR));
                let begun = disk.steps();
                disk.fail_at(begun + step, Fault::Full);
                let part = manifest.next_part();
                let written = rewrite_part(&disk, &mut toy, &mut manifest, DIR, part).await;
                if written.as_ref().is_err_and(|error| error.kind == DiskErrorKind::Full) {
                    assert_eq!(manifest, before);
                    let mut left = disk.names(DIR);
                    left.retain(|name| name != "MANIFEST.tmp");
                    assert_eq!(left, names);
                    refused += 1;
                    let again = rewrite_part(&disk, &mut toy, &mut manifest, DIR, part).await;
                    assert_eq!(again, Ok(()), "step {step}");
                }
                disk.steps() > begun + step
            });
            disk.crash();
            block_on(&disk, check(&disk, &history));
            if ran == Some(false) {
                break;
            }
        }
        // Creating, writing and flushing the part and the manifest; all else ends the process.
        assert_eq!(refused, 6);
    }
}
