//! The index: finds the record of a key, and the records of a range of tokens in order. Knows keys and tokens, not what
//! else a record says.
//!
//! Per slot a [`Directory`] of [`Bucket`]s, so that buckets are in the order of tokens whatever was split or joined.
//! Where tokens are too near each other for the directory, a bucket becomes the first of a chain. No bucket is empty.

use super::TableFull;
use super::arena::Handle;
use super::bucket::{BUCKET_ITEMS, Bucket, BucketMut, Item};
use super::directory::Directory;
use super::heap::Heap;
use super::packed;
use crate::storage::fetch::fetch;
use crate::types::{CoreId, SLOTS, Slot, Token};
use alloc::boxed::Box;
use core::ops::Range;
use smallvec::SmallVec;

/// Buckets of a chain: who chooses tokens can make a look-up so slow and no slower.
const CHAIN_MAX: usize = 64;
/// A bucket with at most so many records looks for a neighbour to join.
const JOIN_AT: usize = 3;
/// Records that joined buckets may have together: there is room for some before they part again.
const JOINED_MAX: usize = 8;
/// What the buckets of a chain are filled to when it is split.
const SPLIT_FILL: usize = 8;

/// The directories of one core's slots.
pub(super) struct Index {
    core: CoreId,
    cores: u16,
    token_of: fn(&[u8]) -> Token,
    /// Of slot `core`, `core + cores`, `core + 2 cores`, ...
    directories: Box<[Directory]>,
    /// Bytes of all entries.
    entries_bytes: usize,
}

/// Where the index has a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) record: Handle,
    bucket: Handle,
    position: usize,
}

/// A record with its token.
#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) item: Item,
}

/// Records of one run; more than a bucket and one only where there is a chain.
pub(super) type Run = SmallVec<[Placed; BUCKET_ITEMS + 1]>;

impl Index {
    /// The empty index of that core's slots; `token_of` gives the token of a key.
    pub(super) fn new(core: CoreId, cores: u16, token_of: fn(&[u8]) -> Token) -> Index {
        assert!(core.0 < cores, "a core of the node");
        let directories = Slot::of_core(core, cores).map(|_| Directory::default()).collect();
        Index { core, cores, token_of, directories, entries_bytes: 0 }
    }

    /// The token of a key.
    pub(super) fn token_of(&self, key: &[u8]) -> Token {
        (self.token_of)(key)
    }

    /// The directory of a slot of this core.
    pub(super) fn directory(&self, slot: Slot) -> &Directory {
        &self.directories[self.position(slot)]
    }

    /// Slots of this core within a range of slots, ascending.
    pub(super) fn slots(&self, first: Slot, last: Slot) -> impl Iterator<Item = Slot> + use<> {
        let cores = usize::from(self.cores);
        let skipped = usize::from(first.0).saturating_sub(usize::from(self.core.0)).div_ceil(cores);
        let start = usize::from(self.core.0) + skipped * cores;
        (start..=usize::from(last.0).min(SLOTS - 1)).step_by(cores).map(|slot| Slot(slot as u16))
    }

    /// Where the record of a key is.
    pub(super) fn find(&self, heap: &Heap, token: Token, tag: u8, key: &[u8]) -> Option<Found> {
        let mut next = self.first_bucket(token);
        while let Some(at) = next {
            let bucket = Bucket::at(heap, at);
            for (position, record) in bucket.tagged(tag) {
                if packed::key(heap.cell(record)) == key {
                    return Some(Found { record, bucket: at, position });
                }
            }
            next = bucket.next();
        }
        None
    }

    /// Begins to bring into the cache what [`Index::first_bucket`] reads.
    pub(super) fn fetch(&self, token: Token) {
        fetch(self.directory(token.slot()));
    }

    /// The first bucket for a token.
    pub(super) fn first_bucket(&self, token: Token) -> Option<Handle> {
        let directory = self.directory(token.slot());
        (directory.len() > 0).then(|| directory.bucket(directory.entry_of(token)))
    }

    /// Adds a record that is not there yet. On failure nothing has changed but, maybe, the size of a directory.
    pub(super) fn insert(&mut self, heap: &mut Heap, token: Token, item: Item) -> Result<(), TableFull> {
        let at = self.position(token.slot());
        let bytes_before = self.directories[at].memory_bytes();
        let inserted = self.insert_into(at, heap, token, item);
        self.entries_bytes = self.entries_bytes - bytes_before + self.directories[at].memory_bytes();
        inserted
    }

    /// Names another cell for a record that was found.
    pub(super) fn replace(&mut self, heap: &mut Heap, found: Found, record: Handle) {
        let item = Item { record, ..Bucket::at(heap, found.bucket).item(found.position) };
        BucketMut::at(heap, found.bucket).set(found.position, item);
    }

    /// Takes a record out that was found.
    pub(super) fn remove(&mut self, heap: &mut Heap, token: Token, found: Found) {
        let at = self.position(token.slot());
        let bytes_before = self.directories[at].memory_bytes();
        remove_from(&mut self.directories[at], heap, token, found);
        self.entries_bytes = self.entries_bytes - bytes_before + self.directories[at].memory_bytes();
    }

    /// The records of the run that holds an entry, in the order of (token, key).
    pub(super) fn sorted_run(&self, heap: &Heap, slot: Slot, entry: usize) -> Run {
        let directory = self.directory(slot);
        let mut run = self.run(heap, directory.bucket(entry));
        run.sort_unstable_by(|a, b| {
            let key = |placed: &Placed| packed::key(heap.cell(placed.item.record));
            a.token.cmp(&b.token).then_with(|| key(a).cmp(key(b)))
        });
        run
    }

    /// Names the new cell of a record that was moved.
    pub(super) fn record_moved(&mut self, heap: &mut Heap, from: Handle, to: Handle) {
        let token = self.token_of(packed::key(heap.cell(to)));
        let directory = self.directory(token.slot());
        let mut next = Some(directory.bucket(directory.entry_of(token)));
        while let Some(bucket) = next {
            let held = Bucket::at(heap, bucket);
            let position = held.items().position(|item| item.record == from);
            if let Some(position) = position {
                return self.replace(heap, Found { record: from, bucket, position }, to);
            }
            next = Bucket::at(heap, bucket).next();
        }
        unreachable!("every record is in the index");
    }

    /// Names the new cell of a bucket that was moved.
    pub(super) fn bucket_moved(&mut self, heap: &mut Heap, from: Handle, to: Handle) {
        let first = Bucket::at(heap, to).item(0);
        let token = self.token_of(packed::key(heap.cell(first.record)));
        let at = self.position(token.slot());
        let directory = &mut self.directories[at];
        let entry = directory.entry_of(token);
        let mut before = directory.bucket(entry);
        if before == from {
            let run = directory.run(entry);
            return directory.rename(run, to);
        }
        while let Some(next) = Bucket::at(heap, before).next() {
            if next == from {
                return BucketMut::at(heap, before).set_next(Some(to));
            }
            before = next;
        }
        unreachable!("every bucket is in the directory or in a chain");
    }

    /// Bytes of the directories; the buckets are the heap's.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val::<[Directory]>(&self.directories) + self.entries_bytes
    }

    /// Panics if the index is not as its parts say, or names a record that is not where it should be.
    #[cfg(test)]
    pub(super) fn check(&self, heap: &Heap) {
        let mut cells = alloc::collections::BTreeSet::new();
        let mut name = |handle: Handle| {
            assert!(heap.is_used(handle) && cells.insert(handle.0), "named once, and in use");
        };
        for slot in self.slots(Slot(0), Slot(SLOTS as u16 - 1)) {
            let directory = self.directory(slot);
            let (mut records, mut buckets) = (0, 0);
            for (run, first) in directory.check() {
                for (nth, bucket) in chain(heap, first).enumerate() {
                    name(bucket);
                    assert!(nth == 0 || nth < CHAIN_MAX);
                    let held = Bucket::at(heap, bucket);
                    assert!(held.len() > 0 && (held.is_full() || held.next().is_none()));
                    buckets += 1;
                    records += held.len() as u32;
                }
                for placed in self.run(heap, first) {
                    name(placed.item.record);
                    assert!(placed.item.tag > 0 && placed.token.slot() == slot);
                    assert!(run.contains(&directory.entry_of(placed.token)));
                }
            }
            assert_eq!((directory.records, directory.buckets), (records, buckets));
        }
        assert_eq!(cells.len(), heap.cells_used(), "nothing is in use that is not named");
        let entries = self.directories.iter().map(Directory::memory_bytes);
        assert_eq!(self.entries_bytes, entries.sum::<usize>());
    }

    fn position(&self, slot: Slot) -> usize {
        let (position, core) = (slot.0 / self.cores, slot.0 % self.cores);
        assert_eq!(core, self.core.0, "the slot is another core's");
        usize::from(position)
    }

    fn run(&self, heap: &Heap, first: Handle) -> Run {
        let items = chain(heap, first).flat_map(|bucket| Bucket::at(heap, bucket).items());
        // The reads of the records overlap if none of them waits for what is made of the one before.
        Bucket::at(heap, first).items().for_each(|item| heap.fetch(item.record));
        items.map(|item| Placed { token: self.token_of(packed::key(heap.cell(item.record))), item }).collect()
    }

    fn insert_into(&mut self, at: usize, heap: &mut Heap, token: Token, item: Item) -> Result<(), TableFull> {
        if self.directories[at].len() == 0 {
            let bucket = heap.take_bucket().ok_or(TableFull::HandlesSpent)?;
            BucketMut::at(heap, bucket).fill([item]);
            self.directories[at] = Directory::with_bucket(bucket);
            return Ok(());
        }
        let directory = &self.directories[at];
        let first = directory.bucket(directory.entry_of(token));
        let (last, length) = last_of(heap, first);
        if Bucket::at(heap, last).is_full() {
            let mut run = self.run(heap, first);
            run.push(Placed { token, item });
            let directory = &mut self.directories[at];
            if parts(directory, &run) {
                split(directory, heap, run, token)?;
            } else if length < CHAIN_MAX {
                let bucket = heap.take_bucket().ok_or(TableFull::HandlesSpent)?;
                BucketMut::at(heap, bucket).fill([item]);
                BucketMut::at(heap, last).set_next(Some(bucket));
                directory.buckets += 1;
            } else {
                return Err(TableFull::ChainTooLong);
            }
        } else {
            BucketMut::at(heap, last).push(item);
        }
        self.directories[at].records += 1;
        Ok(())
    }
}

/// Can the records be told apart by their entries? Doubles the directory if that helps.
fn parts(directory: &mut Directory, run: &Run) -> bool {
    let tokens = run.iter().map(|placed| placed.token);
    let low = tokens.clone().min().expect("a run has records");
    let high = tokens.max().expect("a run has records");
    directory.entry_of(low) != directory.entry_of(high) || directory.part(low, high)
}

/// Gives the records of a run, of which `newest` is not in a bucket yet, to more buckets than they had. The records have
/// more than one entry.
fn split(directory: &mut Directory, heap: &mut Heap, mut run: Run, newest: Token) -> Result<(), TableFull> {
    run.sort_unstable_by_key(|placed| placed.token);
    let first_entry = directory.entry_of(run[0].token);
    let covered = directory.run(first_entry);
    // Records that arrive in the order of their tokens, as from a snapshot, leave full buckets behind.
    let ascending = covered.end == directory.len() && run[run.len() - 1].token == newest;
    let fill = if ascending { BUCKET_ITEMS } else { run.len().div_ceil(2).min(SPLIT_FILL) };
    let groups = groups(directory, &run, fill);

    let mut buckets: SmallVec<[Handle; 4]> = chain(heap, directory.bucket(first_entry)).collect();
    let held = buckets.len();
    let needed: usize = groups.iter().map(|group| group.len().div_ceil(BUCKET_ITEMS)).sum();
    assert!(needed >= held, "a chain has no bucket to spare");
    while buckets.len() < needed {
        let Some(bucket) = heap.take_bucket() else {
            // A bucket that is given back must not look like a free one.
            for bucket in buckets.drain(held..) {
                BucketMut::at(heap, bucket).fill([run[0].item]);
                heap.give_back(bucket);
            }
            return Err(TableFull::HandlesSpent);
        };
        BucketMut::at(heap, bucket).fill([run[0].item]);
        buckets.push(bucket);
    }
    directory.buckets += (needed - held) as u32;

    let mut buckets = buckets.into_iter();
    for group in &groups {
        let mut previous = None;
        for part in run[group.clone()].chunks(BUCKET_ITEMS) {
            let bucket = buckets.next().expect("counted before");
            BucketMut::at(heap, bucket).fill(part.iter().map(|placed| placed.item));
            match previous.replace(bucket) {
                Some(previous) => BucketMut::at(heap, previous).set_next(Some(bucket)),
                None if group.start == 0 => debug_assert_eq!(bucket, directory.bucket(covered.start)),
                None => {
                    let below = directory.entry_of(run[group.start - 1].token);
                    let start = most_even(below, directory.entry_of(run[group.start].token));
                    directory.begin(start, bucket);
                }
            }
        }
    }
    Ok(())
}

/// Cuts sorted records, which have more than one entry, into at least two groups of about `fill`, each of which has its
/// entries for itself.
fn groups(directory: &Directory, run: &Run, fill: usize) -> SmallVec<[Range<usize>; 4]> {
    let mut groups: SmallVec<[Range<usize>; 4]> = SmallVec::new();
    let mut group = 0..0;
    for entry in run.chunk_by(|a, b| directory.entry_of(a.token) == directory.entry_of(b.token)) {
        let with_entry = group.len() + entry.len();
        let nearer_without = with_entry > fill && with_entry - fill > fill.saturating_sub(group.len());
        if !group.is_empty() && (with_entry > BUCKET_ITEMS || nearer_without) {
            groups.push(group.clone());
            group = group.end..group.end;
        }
        group.end += entry.len();
    }
    groups.push(group);
    groups
}

/// The number in `below + 1 ..= entry` that most powers of two divide: few runs then keep the directory from halving.
fn most_even(below: usize, entry: usize) -> usize {
    let low_bits = (1usize << (below ^ entry).ilog2()) - 1;
    entry & !low_bits
}

fn remove_from(directory: &mut Directory, heap: &mut Heap, token: Token, found: Found) {
    directory.records -= 1;
    let entry = directory.entry_of(token);
    let first = directory.bucket(entry);
    let (last, length) = last_of(heap, first);
    let held = Bucket::at(heap, last).len();
    let item = Bucket::at(heap, last).item(held - 1);
    if held > 1 {
        BucketMut::at(heap, last).pop();
        if (found.bucket, found.position) != (last, held - 1) {
            BucketMut::at(heap, found.bucket).set(found.position, item);
        }
    } else if length > 1 {
        BucketMut::at(heap, found.bucket).set(found.position, item);
        let before = chain(heap, first).nth(length - 2).expect("it has a bucket before its last");
        BucketMut::at(heap, before).set_next(None);
        heap.give_back(last);
        directory.buckets -= 1;
    } else {
        return drop_bucket(directory, heap, entry);
    }
    if Bucket::at(heap, first).len() <= JOIN_AT {
        join(directory, heap, entry);
    }
}

/// Leaves the entries of a bucket, whose only record goes, to a neighbour.
fn drop_bucket(directory: &mut Directory, heap: &mut Heap, entry: usize) {
    let run = directory.run(entry);
    heap.give_back(directory.bucket(entry));
    if run.len() == directory.len() {
        *directory = Directory::default();
        return;
    }
    if run.start > 0 {
        directory.join(run.start - 1..run.end, run.start, directory.bucket(run.start - 1));
    } else {
        directory.join(run.start..run.end + 1, run.end, directory.bucket(run.end));
    }
    directory.buckets -= 1;
    directory.shrink();
}

/// Joins a bucket with a neighbour, if one has room for both. Chains are left alone.
fn join(directory: &mut Directory, heap: &mut Heap, entry: usize) {
    let run = directory.run(entry);
    let lone = |entry: usize| {
        let bucket = Bucket::at(heap, directory.bucket(entry));
        bucket.next().is_none().then_some(bucket.len())
    };
    let Some(held) = lone(run.start) else { return };
    let fits = |entry: usize| lone(entry).is_some_and(|other| other + held <= JOINED_MAX);
    let (runs, meeting) = if run.end < directory.len() && fits(run.end) {
        (run.start..directory.run_end(run.end), run.end)
    } else if run.start > 0 && fits(run.start - 1) {
        (directory.run(run.start - 1).start..run.end, run.start)
    } else {
        return;
    };
    let (kept, freed) = (directory.bucket(runs.start), directory.bucket(meeting));
    let items: SmallVec<[Item; JOINED_MAX]> = Bucket::at(heap, freed).items().collect();
    items.into_iter().for_each(|item| BucketMut::at(heap, kept).push(item));
    heap.give_back(freed);
    directory.join(runs, meeting, kept);
    directory.buckets -= 1;
    directory.shrink();
}

/// The buckets of a chain.
fn chain(heap: &Heap, first: Handle) -> impl Iterator<Item = Handle> + '_ {
    core::iter::successors(Some(first), |&bucket| Bucket::at(heap, bucket).next())
}

/// The last bucket of a chain and the chain's length.
fn last_of(heap: &Heap, first: Handle) -> (Handle, usize) {
    chain(heap, first).fold((first, 0), |(_, length), bucket| (bucket, length + 1))
}
