//! Which files of a core count, and what its log may be believed to say. Reads no log and no part.
//!
//! One MANIFEST per core, replaced whole: cores stay independent of each other. A manifest that cannot be read is
//! corruption, never "empty": a layout begins with a manifest in each core's directory.
//!
//! The payload (envelope: `small_file`), little-endian: owner 28 (`owner`), incarnation 4, hlc bound 8, known 8, low 8, sealed 1 and
//! its LSN 8, number of cuts 4, for each cut: incarnation 4, LSN 8; for each of the 16 parts: present 1, and if so
//! generation 4, start 8, end 8, records 8, bytes 8, crc 4.

use super::disk::{Disk, DiskResult};
use super::lsn::Lsn;
use super::owner::Owner;
use super::part::{PARTS, PartFile, PartIndex};
use super::small_file::{self, FileError, FileKind, join, replace_file};
use crate::types::Hlc;
use alloc::string::ToString;
use alloc::vec::Vec;
use bytes::{Buf, BufMut};

/// Name of the file within a core's directory.
pub const MANIFEST_FILE: &str = "MANIFEST";

const MANIFEST_KIND: FileKind = FileKind { magic: *b"rc-mani\n", version: 1 };

/// Where an incarnation began, and where it cut the log of the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The incarnation that made the cut.
    pub incarnation: u32,
    /// What earlier incarnations wrote at or above it is void.
    pub lsn: Lsn,
}

/// What is known of one core's files. Changed in memory by the transitions below, then written whole by [`write()`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    owner: Owner,
    incarnation: u32,
    hlc_bound: Hlc,
    known: Lsn,
    low: Lsn,
    sealed: Option<Lsn>,
    cuts: Vec<Cut>,
    parts: [Option<PartFile>; PARTS],
}

impl Manifest {
    /// Of a core that has never run.
    pub fn new(owner: Owner) -> Manifest {
        Manifest {
            owner,
            incarnation: 0,
            hlc_bound: Hlc::ZERO,
            known: Lsn(0),
            low: Lsn(0),
            sealed: None,
            cuts: Vec::new(),
            parts: [None; PARTS],
        }
    }

    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The last incarnation that was begun; 0 = none.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// No version above it had left the core when that incarnation was begun: its start batch may never become durable.
    pub fn hlc_bound(&self) -> Hlc {
        self.hlc_bound
    }

    /// Below it the log was durable when the manifest was written: what lacks there is lost, not unwritten.
    pub fn known(&self) -> Lsn {
        self.known
    }

    /// From it on the log is needed: the lowest start of all parts, or the log's beginning while one is missing.
    pub fn low(&self) -> Lsn {
        self.low
    }

    /// The log's fixed end, once it has been recovered as a source of a later layout.
    pub fn sealed(&self) -> Option<Lsn> {
        self.sealed
    }

    /// Every cut at or above low, oldest first, and always the newest.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// The file of a part; None = not written yet in this layout.
    pub fn part(&self, part: PartIndex) -> Option<&PartFile> {
        self.parts[part.index()].as_ref()
    }

    /// Bytes of all parts.
    pub fn parts_bytes(&self) -> u64 {
        self.parts.iter().flatten().map(|file| file.bytes).sum()
    }

    /// A part that was never written.
    pub fn first_missing(&self) -> Option<PartIndex> {
        PartIndex::all().find(|&part| self.part(part).is_none())
    }

    /// The part to write next: a missing one, else the one that keeps the oldest log.
    pub fn next_part(&self) -> PartIndex {
        let start = |part: &PartIndex| self.part(*part).map_or(Lsn(0), |file| file.start);
        self.first_missing().or_else(|| PartIndex::all().min_by_key(start)).expect("there are 16 parts")
    }

    /// A process begins after recovery: what was written at or above `cut` before it is void, and no version above
    /// `hlc_bound` has left the core. Durable before its start batch is written.
    pub fn begin_incarnation(&mut self, cut: Lsn, hlc_bound: Hlc) {
        assert!(self.sealed.is_none(), "a sealed log is never written again");
        self.incarnation = self.incarnation.checked_add(1).expect("a start each second lasts for 136 years");
        self.hlc_bound = self.hlc_bound.max(hlc_bound);
        self.cuts.push(Cut { incarnation: self.incarnation, lsn: cut });
        self.prune_cuts();
    }

    /// The log's end as a source: every later start reads exactly what lies below it. Durable before the new layout
    /// serves anything read from it; a second recovery finds it and does not seal again.
    pub fn seal(&mut self, end: Lsn, hlc_bound: Hlc) {
        self.begin_incarnation(end, hlc_bound);
        self.sealed = Some(end);
    }

    /// The log is durable below `lsn`.
    pub fn raise_known(&mut self, lsn: Lsn) {
        self.known = self.known.max(lsn);
    }

    /// A part's new file counts from now on; `known` and `low` follow. The log must be durable up to the file's end.
    pub fn name_part(&mut self, part: PartIndex, file: PartFile) {
        assert!(self.sealed.is_none(), "a sealed log's snapshot stays as it is");
        assert!(file.start <= file.end, "a walk ends after its beginning");
        let before = self.parts[part.index()].replace(file);
        assert!(before.is_none_or(|before| before.start <= file.start), "a part never goes back in the log");
        self.raise_known(file.end);
        if self.first_missing().is_none() {
            let low = self.parts.iter().flatten().map(|file| file.start).min().expect("there are 16 parts");
            assert!(low >= self.low, "the log is never needed again once it was not");
            self.low = low;
        }
        self.prune_cuts();
    }

    /// A cut equal to low still voids blocks at low: only those below it can go. The newest always stays.
    fn prune_cuts(&mut self) {
        let (low, newest) = (self.low, self.incarnation);
        self.cuts.retain(|cut| cut.lsn >= low || cut.incarnation == newest);
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.owner.encode(&mut out);
        out.put_u32_le(self.incarnation);
        out.put_u64_le(self.hlc_bound.0);
        out.put_u64_le(self.known.0);
        out.put_u64_le(self.low.0);
        out.put_u8(u8::from(self.sealed.is_some()));
        out.put_u64_le(self.sealed.unwrap_or_default().0);
        out.put_u32_le(u32::try_from(self.cuts.len()).expect("one cut per incarnation"));
        for cut in &self.cuts {
            out.put_u32_le(cut.incarnation);
            out.put_u64_le(cut.lsn.0);
        }
        for part in &self.parts {
            out.put_u8(u8::from(part.is_some()));
            if let Some(file) = part {
                file.encode(&mut out);
            }
        }
        small_file::enclose(MANIFEST_KIND, &out)
    }

    fn decode_payload(mut bytes: &[u8]) -> Option<Manifest> {
        let owner = Owner::decode(&mut bytes)?;
        let incarnation = bytes.try_get_u32_le().ok()?;
        let hlc_bound = Hlc(bytes.try_get_u64_le().ok()?);
        let known = Lsn(bytes.try_get_u64_le().ok()?);
        let low = Lsn(bytes.try_get_u64_le().ok()?);
        let is_sealed = bytes.try_get_u8().ok()? != 0;
        let sealed_end = Lsn(bytes.try_get_u64_le().ok()?);
        let mut cuts: Vec<Cut> = Vec::new();
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let cut =
                Cut { incarnation: bytes.try_get_u32_le().ok()?, lsn: Lsn(bytes.try_get_u64_le().ok()?) };
            cuts.push(cut);
        }
        let mut parts = [None; PARTS];
        for part in &mut parts {
            if bytes.try_get_u8().ok()? != 0 {
                *part = Some(PartFile::decode(&mut bytes)?);
            }
        }
        let sealed = is_sealed.then_some(sealed_end);
        let manifest = Manifest { owner, incarnation, hlc_bound, known, low, sealed, cuts, parts };
        (bytes.is_empty() && manifest.is_consistent()).then_some(manifest)
    }

    fn is_consistent(&self) -> bool {
        let rising = self.cuts.windows(2).all(|pair| pair[0].incarnation < pair[1].incarnation);
        let newest = self.cuts.last().map_or(0, |cut| cut.incarnation);
        let parts =
            |file: &PartFile| self.low <= file.start && file.start <= file.end && file.end <= self.known;
        let complete = self.first_missing().is_none() || self.low == Lsn(0);
        rising && newest == self.incarnation && complete && self.parts.iter().flatten().all(parts)
    }
}

/// Reads the manifest of a core's directory, and refuses another owner's.
pub async fn read<D: Disk>(disk: &D, dir: &str, owner: &Owner) -> Result<Manifest, FileError> {
    let path = join(dir, MANIFEST_FILE);
    let file = small_file::read_file(disk, &path).await?;
    let (_, payload) = small_file::disclose(MANIFEST_KIND, &path, &file)?;
    let Some(manifest) = Manifest::decode_payload(payload) else {
        return Err(FileError::Damaged { path, what: "its fields contradict each other" });
    };
    if manifest.owner != *owner {
        let (found, expected) = (manifest.owner.to_string(), owner.to_string());
        return Err(FileError::NotOurs { path, found, expected });
    }
    Ok(manifest)
}

/// Replaces the manifest of a core's directory. After an error of kind `Full` the old one is in force; after any other
/// the process must not go on.
pub async fn write<D: Disk>(disk: &D, dir: &str, manifest: &Manifest) -> DiskResult<()> {
    assert!(manifest.is_consistent(), "no reader would believe it");
    replace_file(disk, dir, MANIFEST_FILE, manifest.encode()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::data_dir::LayoutId;
    use crate::types::prng::Prng;
    use crate::types::{ClusterId, CoreId, MemberId};

    fn owner() -> Owner {
        Owner {
            cluster: ClusterId([9; 16]),
            member: MemberId(2),
            layout: LayoutId(3),
            cores: 8,
            core: CoreId(5),
        }
    }

    fn file(generation: u32, start: u64) -> PartFile {
        PartFile { generation, start: Lsn(start), end: Lsn(start + 3), records: 1, bytes: 4_096, crc: 77 }
    }

    fn reread(manifest: &Manifest) -> Manifest {
        let file = manifest.encode();
        let (_, payload) = small_file::disclose(MANIFEST_KIND, "M", &file).expect("it is intact");
        Manifest::decode_payload(payload).expect("it is consistent")
    }

    #[test]
    fn manifest_reads_back_what_was_written() {
        let mut manifest = Manifest::new(owner());
        assert_eq!(reread(&manifest), manifest);
        manifest.begin_incarnation(Lsn(0), Hlc::ZERO);
        manifest.name_part(PartIndex::all().nth(4).expect("16 parts"), file(1, 10));
        manifest.seal(Lsn(14), Hlc::ZERO);
        assert_eq!(reread(&manifest), manifest);
    }

    #[test]
    fn low_stays_at_the_beginning_until_every_part_is_named() {
        let mut manifest = Manifest::new(owner());
        for (at, part) in PartIndex::all().enumerate() {
            assert_eq!((manifest.low(), manifest.next_part()), (Lsn(0), part));
            manifest.name_part(part, file(1, 100 + at as u64));
        }
        assert_eq!((manifest.low(), manifest.known()), (Lsn(100), Lsn(118)));
        let oldest = manifest.next_part();
        manifest.name_part(oldest, file(2, 200));
        assert_eq!((manifest.low(), manifest.known()), (Lsn(101), Lsn(203)));
    }

    #[test]
    fn cuts_below_low_go_and_the_one_at_low_stays() {
        let mut manifest = Manifest::new(owner());
        for cut in [0, 50, 100, 150] {
            manifest.begin_incarnation(Lsn(cut), Hlc::ZERO);
        }
        for part in PartIndex::all() {
            manifest.name_part(part, file(1, 100));
        }
        let kept: Vec<u64> = manifest.cuts().iter().map(|cut| cut.lsn.0).collect();
        assert_eq!(kept, [100, 150]);
        assert_eq!(reread(&manifest), manifest);
    }

    #[test]
    fn any_payload_is_read_without_panic() {
        let mut manifest = Manifest::new(owner());
        manifest.begin_incarnation(Lsn(7), Hlc::ZERO);
        manifest.name_part(PartIndex::all().next().expect("16 parts"), file(1, 10));
        let encoded = manifest.encode();
        let (_, whole) = small_file::disclose(MANIFEST_KIND, "M", &encoded).expect("it is intact");
        for seed in 0..20_000 {
            let mut prng = Prng::new(seed);
            let mut payload = whole[..prng.between(0, whole.len() as u64) as usize].to_vec();
            for _ in 0..prng.below(4) {
                if !payload.is_empty() {
                    let at = prng.below(payload.len() as u64) as usize;
                    payload[at] = prng.next_u64() as u8;
                }
            }
            let read = Manifest::decode_payload(&payload);
            assert!(read.is_none_or(|read| read.is_consistent()), "seed {seed}");
        }
    }

    #[test]
    fn manifest_has_not_drifted() {
        let mut manifest = Manifest::new(owner());
        manifest.begin_incarnation(Lsn(7), Hlc::ZERO);
        manifest.name_part(PartIndex::all().next().expect("16 parts"), file(1, 10));
        let mut payload = [9; 16].to_vec();
        payload.extend(b"\x02\0\0\0\x03\0\0\0\x08\0\x05\0"); // member, layout, cores, core
        payload.extend(b"\x01\0\0\0"); // incarnation
        payload.extend(b"\0\0\0\0\0\0\0\0"); // hlc bound
        payload.extend(b"\x0d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"); // known, low
        payload.extend(b"\0\0\0\0\0\0\0\0\0"); // sealed
        payload.extend(b"\x01\0\0\0\x01\0\0\0\x07\0\0\0\0\0\0\0"); // one cut
        payload.extend(b"\x01\x01\0\0\0\x0a\0\0\0\0\0\0\0\x0d\0\0\0\0\0\0\0"); // part 0
        payload.extend(b"\x01\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\x4d\0\0\0");
        payload.extend([0; 15]); // no other part
        // Not assert_eq: a whole page of zeros says nothing.
        assert!(manifest.encode() == small_file::enclose(MANIFEST_KIND, &payload), "the format has changed");
    }
}
