//! What a log means after a crash: which batches count, where the log ends, and whether what is damaged may have been
//! acknowledged. Reads no file and applies no record: it is shown segments, one at a time, and judges.
//!
//! First pass: [`Scan::segment`] for every segment file, in any order; about 40 bytes are kept per batch. Then
//! [`Scan::judge`] gives a [`Recovery`]; its records are read in a second pass ([`Recovery::read`]), again one segment
//! at a time, and [`Recovery::restart`] says what must be done before the core may serve.
//!
//! The rule, with x going from the manifest's low LSN upwards and E = what is proven durable (the highest of: every
//! valid block's `durable`, every cut, the manifest's `known`, what peers saw announced):
//!
//! 1. Take whole batches: the one at x, else the one whose `prev` is x.
//! 2. Nothing whole at x < E: *corrupt* up to the next valid batch or E; go on there.
//! 3. x ≥ E, and a block of the batch that begins there was never written: the batch was never durable. *Cut.*
//! 4. x ≥ E, its blocks are damaged and none was never written, or damage lies elsewhere that is not void: *suspect*.
//!    Nothing in the log can tell whether it was acknowledged. Whole batches beyond are kept, as foreign arrivals.
//! 5. The log ends where the last whole batch ends; this is the next incarnation's cut.
//!
//! A block is *valid* if it is intact, fits its place, belongs to the highest life of its file and is not void; *void*
//! is what lies at or above the cut of a later incarnation, or between a valid batch's `prev` and its first LSN.

use super::block::{self, BLOCK_BYTES, Header, Reading};
use super::lsn::Lsn;
use super::segment::{LogShape, SegmentId};
use crate::types::Hlc;
use crate::types::mutant::{Mutant, planted};
use alloc::vec::Vec;
use core::ops::Range;

/// What the manifest says of a core's log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ManifestFacts {
    /// Everything below is in snapshots.
    pub low: Lsn,
    /// Everything below was durable when the last snapshot became valid.
    pub known: Lsn,
    /// The last start of the process; 0 if there was none.
    pub incarnation: u32,
    /// Every cut at or above `low`, with the incarnation that began with it.
    pub cuts: Vec<(u32, Lsn)>,
    /// The bound that the last incarnation began with. Block headers carry it too, but after a restart with new files
    /// there is none before the start batch is durable.
    pub hlc_bound: Hlc,
}

/// What peers saw this core announce: the greatest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announced {
    /// The incarnation that announced it.
    pub incarnation: u32,
    /// Its durable LSN.
    pub durable: Lsn,
}

/// Why a log cannot be judged at all. The node does not start; nothing on disk has been changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScanError {
    /// An intact block with a header that is not of this version's format.
    #[error("segment {segment}, block {block}: written by a newer version of ringcore")]
    Foreign {
        /// The file.
        segment: SegmentId,
        /// Index of the block in the file.
        block: u32,
    },
    /// Two intact blocks, or a block and the manifest, name different cuts: files of two histories lie together.
    #[error(
        "the log of incarnation {incarnation} begins at two places: files were mixed or restored in part"
    )]
    Contradiction {
        /// Whose cut it is.
        incarnation: u32,
    },
    /// The file is longer than a segment of this layout.
    #[error("segment {segment} is longer than a segment")]
    TooLong {
        /// The file.
        segment: SegmentId,
    },
}

/// What the whole log is worth. Ordered by severity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Nothing is missing.
    Clean,
    /// A write was under way that cannot have been acknowledged; it is gone.
    Cut,
    /// Something that may have been acknowledged is unreadable.
    Suspect,
    /// Something that was acknowledged is unreadable.
    Corrupt,
}

/// A stretch of the log that is unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Its first LSN.
    pub from: Lsn,
    /// The first LSN after it; None = nothing is known from `from` on.
    pub to: Option<Lsn>,
}

impl Damage {
    /// May a batch that begins at `lsn` be part of it?
    pub fn covers(&self, lsn: Lsn) -> bool {
        self.from <= lsn && self.to.is_none_or(|to| lsn < to)
    }
}

/// In what order a batch came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is this core's history: its records are applied without asking the floor.
    Replayed,
    /// It lies beyond something suspect: its records are checked like those of a hint or a repair.
    Foreign,
}

/// A whole batch that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Accepted {
    pub(super) first: u64,
    /// Index in [`Recovery::files`].
    pub(super) file: u32,
    pub(super) incarnation: u32,
    pub(super) blocks: u16,
    pub(super) arrival: Arrival,
    pub(super) hlc_bound: Hlc,
}

/// For the one who must decide what to do about damage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvage {
    /// What cannot be read.
    pub damage: Vec<Damage>,
    /// Whole batches after the first damage. Their keys are counted by whoever reads them.
    pub batches_after: usize,
    /// No record of the last intact batch is newer; as a rule its newest is 500 ms older.
    pub last_intact: Hlc,
}

/// What must happen before the core serves, in this order: flush every file of `sync` (what was read may only be in the
/// device's cache), write the manifest with incarnation, cut and HLC bound, start the log ([`super::log::Log::start`]), and wait
/// for its start batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restart {
    /// Of the process from here on.
    pub incarnation: u32,
    /// Where the log that was read ends.
    pub cut: Lsn,
    /// First LSN of the fresh segment that the start batch goes to: above everything ever seen or announced.
    pub first: Lsn,
    /// No version above it has left this core.
    pub hlc_bound: Hlc,
    /// The segment files that stay, each with its first LSN if anything in it may still be needed.
    pub segments: Vec<(SegmentId, Option<Lsn>)>,
    /// Files to be moved out of the directory: they hold damage and nothing that counts, and if they stayed, each start
    /// would suspect them again.
    pub set_aside: Vec<SegmentId>,
    /// Names the next file to be made.
    pub next_segment: SegmentId,
    /// Files to be flushed first.
    pub sync: Vec<SegmentId>,
}

/// The first pass over a log.
#[derive(Debug)]
pub struct Scan {
    shape: LogShape,
    facts: ManifestFacts,
    announced: Option<Announced>,
    files: Vec<File>,
    fragments: Vec<Fragment>,
    /// Batches that do not begin where their predecessor ends: (prev, first, incarnation).
    jumps: Vec<(u64, u64, u32)>,
    /// Cuts that blocks name, by incarnation.
    cuts: Vec<(u32, u64)>,
    /// One above the highest LSN of any intact block.
    seen_end: u64,
    incarnation_max: u32,
    hlc_bound_max: Hlc,
}

/// One segment file, as far as the rule needs it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) id: SegmentId,
    /// The LSN of block 0 in the file's highest life; None if no block is intact.
    pub(super) base: Option<u64>,
    bad: Bits,
    /// Intact blocks of that life.
    intact: Bits,
}

/// The blocks of one batch that are intact, in the life that counts.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    first: u64,
    /// Index in [`Scan::files`]. Two files can claim the same LSNs: a write of a killed process may land after the next
    /// one has begun the same segment in another file. Only one of them is not void.
    file: u32,
    durable: u64,
    hlc_bound: Hlc,
    incarnation: u32,
    count: u16,
    present: u16,
}

impl Fragment {
    fn is_whole(&self) -> bool {
        self.present == self.count
    }

    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// A set of block indices within a segment.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: u32) -> Bits {
        Bits(alloc::vec![0; len.div_ceil(64) as usize])
    }

    fn insert(&mut self, at: u32) {
        self.0[(at / 64) as usize] |= 1 << (at % 64);
    }

    fn contains(&self, at: u32) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 == 1
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.0.len() as u32 * 64).filter(|&at| self.contains(at))
    }
}

impl Scan {
    /// A scan of the log of that shape. `announced` is None on a lone node, and where no peer remembers anything.
    pub fn new(shape: LogShape, facts: ManifestFacts, announced: Option<Announced>) -> Scan {
        let (incarnation_max, hlc_bound_max) = (facts.incarnation, facts.hlc_bound);
        Scan {
            shape,
            facts,
            announced,
            files: Vec::new(),
            fragments: Vec::new(),
            jumps: Vec::new(),
            cuts: Vec::new(),
            seen_end: 0,
            incarnation_max,
            hlc_bound_max,
        }
    }

    /// Takes in one segment file, read with O_DIRECT from its beginning; a missing rest counts as damaged.
    pub fn segment(&mut self, id: SegmentId, bytes: &[u8]) -> Result<(), ScanError> {
        assert!(self.files.iter().all(|file| file.id != id), "each file is shown once");
        if bytes.len() > self.shape.segment_bytes() {
            return Err(ScanError::TooLong { segment: id });
        }
        let blocks = self.shape.segment_blocks;
        let mut file = File { id, base: None, bad: Bits::new(blocks), intact: Bits::new(blocks) };
        let mut headers = Vec::new();
        for at in 0..blocks {
            let from = at as usize * BLOCK_BYTES;
            let block = bytes.get(from..from + BLOCK_BYTES);
            match block.map_or(Reading::Damaged, |block| block::open(self.shape.seal, block)) {
                Reading::Zero => {}
                Reading::Foreign => return Err(ScanError::Foreign { segment: id, block: at }),
                Reading::Intact(header) if header.lsn.0 % u64::from(blocks) == u64::from(at) => {
                    headers.push((at, header));
                }
                // Intact, but not where it belongs: it went astray over something else.
                Reading::Intact(_) | Reading::Damaged => file.bad.insert(at),
            }
        }
        file.base = headers.iter().map(|(at, header)| header.lsn.0 - u64::from(*at)).max();
        for (at, header) in headers {
            self.intact(&mut file, at, header)?;
        }
        #[cfg(mutants)]
        self.trust_length(&file, bytes);
        self.files.push(file);
        Ok(())
    }

    /// Applies the rule to all that was shown.
    pub fn judge(mut self) -> Result<Recovery, ScanError> {
        if !planted(Mutant::CutOnce) {
            for (incarnation, cut) in core::mem::take(&mut self.facts.cuts) {
                self.note_cut(incarnation, cut.0)?;
            }
        }
        self.cuts.sort_unstable();
        self.drop_void();
        self.jumps.sort_unstable();
        let proven = self.proven();
        let mut walk = Walk::over(&self, proven);
        walk.run();
        let (tail, walked) = (walk.tail(), walk.finish());
        Ok(self.conclude(walked, tail, proven))
    }

    /// Notes an intact block that fits its place.
    fn intact(&mut self, file: &mut File, at: u32, header: Header) -> Result<(), ScanError> {
        let base = file.base.expect("an intact block gives its file a base");
        self.seen_end = self.seen_end.max(header.lsn.0 + 1);
        self.incarnation_max = self.incarnation_max.max(header.incarnation);
        self.hlc_bound_max = self.hlc_bound_max.max(header.hlc_bound);
        let current = header.lsn.0 - u64::from(at) == base || planted(Mutant::NoGeneration);
        if !current {
            return Ok(());
        }
        file.intact.insert(at);
        if self.is_free(base) {
            return Ok(());
        }
        self.note_cut(header.incarnation, header.cut.0)?;
        let Some(first) = (base + u64::from(at)).checked_sub(u64::from(header.index)) else { return Ok(()) };
        if first < self.facts.low.0 {
            return Ok(());
        }
        match self.fragments.last_mut() {
            Some(last) if (last.first, last.incarnation) == (first, header.incarnation) => last.present += 1,
            _ => {
                self.fragments.push(Fragment {
                    first,
                    file: self.files.len() as u32,
                    durable: header.durable.0,
                    hlc_bound: header.hlc_bound,
                    incarnation: header.incarnation,
                    count: header.count,
                    present: 1,
                });
                if header.prev.0 != first {
                    self.jumps.push((header.prev.0, first, header.incarnation));
                }
            }
        }
        Ok(())
    }

    fn note_cut(&mut self, incarnation: u32, cut: u64) -> Result<(), ScanError> {
        match self.cuts.iter().find(|known| known.0 == incarnation) {
            Some(&(_, known)) if known != cut => Err(ScanError::Contradiction { incarnation }),
            Some(_) => Ok(()),
            None => {
                self.cuts.push((incarnation, cut));
                Ok(())
            }
        }
    }

    /// Is a file with that base no longer needed?
    fn is_free(&self, base: u64) -> bool {
        base + u64::from(self.shape.segment_blocks) <= self.facts.low.0
    }

    /// Forgets what a later incarnation cut, and sorts the rest.
    fn drop_void(&mut self) {
        let cuts = &self.cuts;
        let is_void = |incarnation: u32, first: u64| {
            cuts.iter().any(|&(later, cut)| later > incarnation && cut <= first)
        };
        self.fragments.retain(|fragment| !is_void(fragment.incarnation, fragment.first));
        self.jumps.retain(|&(_, first, incarnation)| !is_void(incarnation, first));
        self.fragments.sort_unstable_by_key(|fragment| fragment.first);
    }

    /// E: everything below was durable.
    fn proven(&self) -> u64 {
        let mut proven = self.facts.known.0;
        if !planted(Mutant::NoDurable) {
            proven = self.fragments.iter().map(|fragment| fragment.durable).fold(proven, u64::max);
        }
        if planted(Mutant::LaterProves) {
            proven = self.fragments.iter().map(|fragment| fragment.first).fold(proven, u64::max);
        }
        // What an earlier incarnation announced was judged by the recovery that followed it.
        if let Some(announced) = self.announced
            && announced.incarnation >= self.facts.incarnation
        {
            proven = proven.max(announced.durable.0);
        }
        self.cuts.iter().map(|&(_, cut)| cut).fold(proven, u64::max)
    }

    fn conclude(self, walked: Walked, tail: Tail, proven: u64) -> Recovery {
        let Walked { mut accepted, mut damage, x, end } = walked;
        let verdict = match (damage.is_empty(), tail.suspect) {
            (false, _) => Verdict::Corrupt,
            (true, true) => Verdict::Suspect,
            (true, false) if tail.torn && self.fragments.iter().any(|fragment| fragment.end() > x) => {
                Verdict::Cut
            }
            (true, false) => Verdict::Clean,
        };
        if tail.suspect {
            damage.push(Damage { from: Lsn(x), to: None });
            let beyond = self.fragments.iter().filter(|fragment| fragment.first >= x && fragment.is_whole());
            accepted.extend(beyond.map(|fragment| accept(fragment, Arrival::Foreign)));
        }
        let cut = if planted(Mutant::CutAtJump) { x } else { end };
        let above = [self.seen_end, proven, cut, self.facts.low.0];
        let announced = self.announced.map_or(0, |announced| announced.durable.0);
        Recovery {
            verdict,
            damage,
            cut: Lsn(cut),
            proven: Lsn(proven),
            hlc_bound: self.hlc_bound_max,
            incarnation: self.incarnation_max,
            last_cut: self.cuts.last().map_or(Lsn(0), |&(_, cut)| Lsn(cut)),
            above: above.into_iter().fold(announced, u64::max),
            low: self.facts.low,
            shape: self.shape,
            files: self.files,
            accepted,
        }
    }

    /// Believes the batch length in a block whose checksum does not hold.
    #[cfg(mutants)]
    fn trust_length(&mut self, file: &File, bytes: &[u8]) {
        let Some(base) = file.base.filter(|&base| planted(Mutant::TrustLength) && !self.is_free(base)) else {
            return;
        };
        for at in file.bad.iter() {
            let from = at as usize * BLOCK_BYTES;
            let count = bytes.get(from..from + BLOCK_BYTES).map_or(1, block::unverified_count);
            let first = base + u64::from(at);
            let known = self.fragments.iter().any(|fragment| fragment.first == first);
            if first >= self.facts.low.0 && count > 0 && !known {
                self.fragments.push(Fragment {
                    first,
                    file: self.files.len() as u32,
                    durable: 0,
                    hlc_bound: Hlc::ZERO,
                    incarnation: u32::MAX,
                    count,
                    present: 0,
                });
            }
        }
    }
}

fn accept(fragment: &Fragment, arrival: Arrival) -> Accepted {
    Accepted {
        first: fragment.first,
        file: fragment.file,
        incarnation: fragment.incarnation,
        blocks: fragment.count,
        arrival,
        hlc_bound: fragment.hlc_bound,
    }
}

/// Steps 1 and 2: from the low LSN upwards.
struct Walk<'a> {
    scan: &'a Scan,
    proven: u64,
    x: u64,
    end: u64,
    accepted: Vec<Accepted>,
    /// Ascending, like `void`: the walk only goes forward.
    damage: Vec<Damage>,
    void: Vec<Range<u64>>,
}

struct Walked {
    accepted: Vec<Accepted>,
    damage: Vec<Damage>,
    /// From here on nothing is proven and nothing whole follows.
    x: u64,
    /// Where the last whole batch ends.
    end: u64,
}

/// Steps 3 and 4: what lies where the walk stopped.
struct Tail {
    /// A block of the batch that begins there was never written, or nothing of it was.
    torn: bool,
    suspect: bool,
}

impl<'a> Walk<'a> {
    fn over(scan: &'a Scan, proven: u64) -> Walk<'a> {
        let low = scan.facts.low.0;
        let (accepted, damage, void) = (Vec::new(), Vec::new(), Vec::new());
        Walk { scan, proven, x: low, end: low, accepted, damage, void }
    }

    fn run(&mut self) {
        loop {
            if let Some(fragment) = self.starting_at(self.x).find(|fragment| fragment.is_whole()) {
                self.accepted.push(accept(fragment, Arrival::Replayed));
                self.x = fragment.end();
                self.end = self.x;
            } else if let Some(successor) = self.successor() {
                self.void.push(self.x..successor);
                self.x = successor;
            } else if self.x < self.proven && !planted(Mutant::CutFirstBad) {
                self.skip_damage();
            } else {
                return;
            }
        }
    }

    fn tail(&self) -> Tail {
        if planted(Mutant::CutFirstBad) {
            return Tail { torn: true, suspect: false };
        }
        let file = self.file_of(self.x);
        let count = self.starting_at(self.x).map(|fragment| fragment.count).max().unwrap_or(1);
        let torn = (0..u64::from(count)).any(|i| self.is_stale(file, self.x + i));
        let suspect = self.scan.files.iter().any(|damaged| {
            let here = file.is_some_and(|file| file.id == damaged.id);
            damaged.bad.iter().any(|at| !self.is_explained(damaged, at, torn && here))
        });
        Tail { torn, suspect }
    }

    fn finish(self) -> Walked {
        Walked { accepted: self.accepted, damage: self.damage, x: self.x, end: self.end }
    }

    /// Fragments of batches that begin at `first`: more than one only if an incarnation's log overlaps another's.
    fn starting_at(&self, first: u64) -> impl Iterator<Item = &'a Fragment> + use<'a> {
        let fragments = &self.scan.fragments;
        let from = fragments.partition_point(|fragment| fragment.first < first);
        fragments[from..].iter().take_while(move |fragment| fragment.first == first)
    }

    /// The first batch after x that says that its predecessor ended at x.
    fn successor(&self) -> Option<u64> {
        let jumps = &self.scan.jumps;
        let from = jumps.partition_point(|&(prev, first, _)| (prev, first) <= (self.x, self.x));
        jumps.get(from).filter(|&&(prev, _, _)| prev == self.x).map(|&(_, first, _)| first)
    }

    /// Something durable is unreadable at x: goes on at the next place where there may be something.
    fn skip_damage(&mut self) {
        let from = self.scan.fragments.partition_point(|fragment| fragment.first <= self.x);
        let next = self.scan.fragments.get(from).map_or(self.proven, |fragment| fragment.first);
        let own_end = self.starting_at(self.x).map(Fragment::end).min().unwrap_or(u64::MAX);
        let to = next.min(self.proven).min(own_end);
        assert!(to > self.x, "the walk goes forward");
        self.damage.push(Damage { from: Lsn(self.x), to: Some(Lsn(to)) });
        self.x = to;
    }

    /// The file that holds `lsn` in its present life.
    fn file_of(&self, lsn: u64) -> Option<&'a File> {
        let base = self.scan.shape.base_of(lsn);
        self.scan.files.iter().find(|file| file.base == Some(base))
    }

    /// Was nothing of the present life written at `lsn`? `file` is the one that holds x.
    fn is_stale(&self, file: Option<&File>, lsn: u64) -> bool {
        let shape = &self.scan.shape;
        let Some(file) = file.filter(|file| file.base == Some(shape.base_of(lsn))) else {
            return true;
        };
        let at = (lsn - shape.base_of(lsn)) as u32;
        // An intact block that no valid batch covers is void: what was cut counts as never written.
        let valid = file.intact.contains(at) && {
            let after = self.scan.fragments.partition_point(|fragment| fragment.first <= lsn);
            self.scan.fragments[..after].last().is_some_and(|fragment| lsn < fragment.end())
        };
        !valid && !file.bad.contains(at)
    }

    /// Is a damaged block known not to hide anything new?
    fn is_explained(&self, file: &File, at: u32, after_cut_here: bool) -> bool {
        // A file that looks free, or empty, may have begun a newer life of which nothing else is readable.
        let Some(base) = file.base.filter(|&base| !self.scan.is_free(base)) else {
            return false;
        };
        let lsn = base + u64::from(at);
        lsn < self.scan.facts.low.0
            || self.void[..self.void.partition_point(|void| void.start <= lsn)]
                .last()
                .is_some_and(|void| void.contains(&lsn))
            || self.damage[..self.damage.partition_point(|damage| damage.from.0 <= lsn)]
                .last()
                .is_some_and(|damage| damage.covers(Lsn(lsn)))
            || after_cut_here && lsn >= self.x
    }
}

/// What a log means: batches, damage, and where to go on.
#[derive(Debug)]
pub struct Recovery {
    verdict: Verdict,
    damage: Vec<Damage>,
    cut: Lsn,
    proven: Lsn,
    hlc_bound: Hlc,
    incarnation: u32,
    /// Where the last incarnation began.
    last_cut: Lsn,
    /// Above everything seen, proven or announced.
    above: u64,
    low: Lsn,
    pub(super) shape: LogShape,
    pub(super) files: Vec<File>,
    /// Replayed ones in LSN order, then foreign ones in LSN order.
    pub(super) accepted: Vec<Accepted>,
}

impl Recovery {
    /// What the whole log is worth.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What cannot be read, in LSN order.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Where the last whole batch ends: the next incarnation's cut.
    pub fn cut(&self) -> Lsn {
        self.cut
    }

    /// Everything below was durable at some time.
    pub fn proven(&self) -> Lsn {
        self.proven
    }

    /// No version above it has left this core.
    pub fn hlc_bound(&self) -> Hlc {
        self.hlc_bound
    }

    /// Whole batches that count.
    pub fn batches(&self) -> usize {
        self.accepted.len()
    }

    /// For the one who must decide what to do about damage.
    pub fn salvage(&self) -> Salvage {
        let from = self.damage.first().map_or(u64::MAX, |damage| damage.from.0);
        let last = self.accepted.iter().max_by_key(|batch| batch.first);
        Salvage {
            damage: self.damage.clone(),
            batches_after: self.accepted.iter().filter(|batch| batch.first >= from).count(),
            last_intact: last.map_or(Hlc::ZERO, |batch| batch.hlc_bound),
        }
    }

    /// Goes on with the files that are there. After damage the caller has made the verdict durable first, as a mark on
    /// the slots: the cut makes void what was damaged, and the next recovery no longer sees it. Foreign arrivals are
    /// not part of the log from here on: what is kept of them is appended again.
    pub fn restart(&self) -> Restart {
        let mut restart = Restart { cut: self.cut, ..self.restart_with_new_files() };
        for file in &self.files {
            let first = file.base.filter(|base| base + u64::from(self.shape.segment_blocks) > self.low.0);
            match first {
                None if file.bad.iter().next().is_some() => restart.set_aside.push(file.id),
                _ => restart.segments.push((file.id, first.map(Lsn))),
            }
        }
        if planted(Mutant::ReuseLsn) && self.incarnation > 0 {
            (restart.incarnation, restart.cut) = (self.incarnation, self.last_cut);
            restart.first = self.cut;
        }
        restart
    }

    /// Goes on without the files that are there: they are kept for whoever wants to look, but count no more. Everything
    /// that was recovered is in snapshots by then, and the manifest's `low` and `known` are the new cut.
    pub fn restart_with_new_files(&self) -> Restart {
        let first = Lsn(self.shape.base_from(self.above));
        let ids = || self.files.iter().map(|file| file.id);
        Restart {
            incarnation: self.incarnation + 1,
            cut: first,
            first,
            hlc_bound: self.hlc_bound,
            segments: Vec::new(),
            set_aside: Vec::new(),
            next_segment: ids().max().map_or(SegmentId(0), |id| SegmentId(id.0 + 1)),
            sync: if planted(Mutant::NoFlush) { Vec::new() } else { ids().collect() },
        }
    }
}
