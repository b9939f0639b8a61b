//! The data directory: names of files, the NODE file, and how layouts begin and end. Knows no log and no record.
//!
//! ```text
//! LOCK                      locked by the running process (the shell's business)
//! NODE                      whose directory this is, how often it was started, which layouts are in force
//! JOIN                      of a node that joined a cluster: see `join_file`
//! layout-0001/core-003/     one core of a layout with a number of cores
//!     MANIFEST              which of the files below count
//!     wal-0007              a log segment
//!     part-05-000012        part 5 of the snapshot, its twelfth file
//! ```
//!
//! A **layout** is the data as a certain number of cores keeps it. The last one listed is written to; those before it
//! are sealed: they are read at each start, in order, until every core of the last has all its parts. NODE lists
//! exactly the layouts that count; a layout directory that it does not list is what a killed process left behind.
//!
//! A slot whose part the last layout already has is read from there alone, never from the layouts before: what was
//! dropped or purged since would come back from them, because the log that says so may be recycled already.
//!
//! NODE's payload (envelope: `small_file`), little-endian: cluster 16, member 4, starts 4, name length 2, name, number
//! of layouts 2, then for each layout: number 4, cores 2, sealed 1.

use super::disk::{Disk, DiskError, DiskErrorKind};
use super::join_file::JOIN_FILE;
use super::manifest::{self, Manifest};
use super::owner::Owner;
use super::part::PartIndex;
use super::small_file::{self, FileError, FileKind, TEMPORARY_SUFFIX, join, replace_file};
use crate::types::mutant::{Mutant, planted};
use crate::types::{ClusterId, CoreId, MemberId};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Buf, BufMut};

/// Name of the file that the shell locks.
pub const LOCK_FILE: &str = "LOCK";
/// Name of the NODE file.
pub const NODE_FILE: &str = "NODE";
/// Bytes of a member's name.
pub const NAME_BYTES_MAX: usize = 255;

const NODE_KIND: FileKind = FileKind { magic: *b"rc-node\n", version: 1 };
/// What a file system puts into its root by itself.
const LOST_AND_FOUND: &str = "lost+found";
/// Layouts pile up only while restarts with other numbers of cores come faster than a full round of parts.
const LAYOUTS_MAX: usize = 64;

/// Number of a layout, from 1, never reused within a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct LayoutId(pub u32);

/// The data as a certain number of cores keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Its number.
    pub id: LayoutId,
    /// Its cores.
    pub cores: u16,
    /// No process writes records to it again; true for all but the last one listed.
    pub sealed: bool,
}

/// Contents of NODE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFile {
    /// The cluster that the directory belongs to.
    pub cluster: ClusterId,
    /// The member that the directory belongs to.
    pub member: MemberId,
    /// That member's name.
    pub name: String,
    /// How many processes have been started on it.
    pub starts: u32,
    layouts: Vec<Layout>,
}

/// Why a data directory cannot be used. Nothing was removed from it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DataDirError {
    /// NODE or a manifest cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are files, but none of them says that this is a data directory.
    #[error(
        "the data directory has no {NODE_FILE} file, but it holds {name}: not a data directory, or a damaged one"
    )]
    NotOurs {
        /// The first of the files.
        name: String,
    },
    /// There is data that NODE does not know.
    #[error(
        "{path} holds data, but {NODE_FILE} does not list its layout: an older {NODE_FILE} was put back?"
    )]
    Unlisted {
        /// A file of that data.
        path: String,
    },
    /// Old layouts are still needed.
    #[error("core {core} has not written part {part} yet: the layouts before are still needed")]
    PartMissing {
        /// A core that is not done.
        core: CoreId,
        /// Its first missing part.
        part: PartIndex,
    },
    /// Too many restarts with another number of cores in a row.
    #[error("{LAYOUTS_MAX} layouts are in force: start with {cores} cores and wait for all parts")]
    TooManyLayouts {
        /// Cores of the last layout.
        cores: u16,
    },
}

impl From<DiskError> for DataDirError {
    fn from(error: DiskError) -> DataDirError {
        DataDirError::File(FileError::Disk(error))
    }
}

/// The directory of a layout.
pub fn layout_dir(layout: LayoutId) -> String {
    format!("layout-{:04}", layout.0)
}

/// The directory of one core of a layout.
pub fn core_dir(layout: LayoutId, core: CoreId) -> String {
    format!("{}/{}", layout_dir(layout), core_name(core))
}

/// The name of a log segment within its core's directory.
pub fn segment_name(segment: u32) -> String {
    format!("wal-{segment:04}")
}

/// The name of a part's file within its core's directory.
pub fn part_name(part: PartIndex, generation: u32) -> String {
    format!("part-{:02}-{generation:06}", part.get())
}

/// The number in the name of a log segment; None if it is another name.
pub fn parse_segment_name(name: &str) -> Option<u32> {
    let segment = name.strip_prefix("wal-")?.parse().ok()?;
    (segment_name(segment) == name).then_some(segment)
}

/// Part and generation in the name of a part's file; None if it is another name.
pub fn parse_part_name(name: &str) -> Option<(PartIndex, u32)> {
    let (part, generation) = name.strip_prefix("part-")?.split_once('-')?;
    let (part, generation) = (PartIndex::new(part.parse().ok()?)?, generation.parse().ok()?);
    (part_name(part, generation) == name).then_some((part, generation))
}

impl NodeFile {
    /// Layouts in force, in the order in which they were begun. Empty: created, never started.
    pub fn layouts(&self) -> &[Layout] {
        &self.layouts
    }

    /// The layout that is written to.
    pub fn active(&self) -> Option<&Layout> {
        self.layouts.last()
    }

    /// The layouts that are only read, in the order in which they must be.
    pub fn sources(&self) -> &[Layout] {
        self.layouts.split_last().map_or(&[], |(_, sources)| sources)
    }

    /// What the files of a layout's core must say they belong to.
    pub fn owner(&self, layout: &Layout, core: CoreId) -> Owner {
        assert!(core.0 < layout.cores, "the core is one of the layout's");
        Owner { cluster: self.cluster, member: self.member, layout: layout.id, cores: layout.cores, core }
    }

    /// Refuses the directory of another cluster or member.
    pub fn require_member(&self, cluster: ClusterId, member: MemberId) -> Result<(), DataDirError> {
        if (self.cluster, self.member) == (cluster, member) {
            return Ok(());
        }
        Err(DataDirError::File(FileError::NotOurs {
            path: NODE_FILE.to_owned(),
            found: format!("cluster {}, member {}", self.cluster, self.member),
            expected: format!("cluster {cluster}, member {member}"),
        }))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_slice(&self.cluster.0);
        out.put_u32_le(self.member.0);
        out.put_u32_le(self.starts);
        out.put_u16_le(self.name.len() as u16);
        out.put_slice(self.name.as_bytes());
        out.put_u16_le(self.layouts.len() as u16);
        for layout in &self.layouts {
            out.put_u32_le(layout.id.0);
            out.put_u16_le(layout.cores);
            out.put_u8(u8::from(layout.sealed));
        }
        small_file::enclose(NODE_KIND, &out)
    }

    fn decode(file: &[u8]) -> Result<NodeFile, FileError> {
        let (_, payload) = small_file::disclose(NODE_KIND, NODE_FILE, file)?;
        NodeFile::decode_payload(payload).ok_or(FileError::Damaged {
            path: NODE_FILE.to_owned(),
            what: "its fields contradict each other",
        })
    }

    fn decode_payload(mut bytes: &[u8]) -> Option<NodeFile> {
        let mut cluster = ClusterId::default();
        bytes.try_copy_to_slice(&mut cluster.0).ok()?;
        let member = MemberId(bytes.try_get_u32_le().ok()?);
        let starts = bytes.try_get_u32_le().ok()?;
        let name_bytes = usize::from(bytes.try_get_u16_le().ok()?);
        let (name, mut bytes) = bytes.split_at_checked(name_bytes)?;
        let name = core::str::from_utf8(name).ok()?.to_owned();
        let count = usize::from(bytes.try_get_u16_le().ok()?);
        if name_bytes > NAME_BYTES_MAX || count > LAYOUTS_MAX {
            return None;
        }
        let mut layouts: Vec<Layout> = Vec::with_capacity(count);
        for index in 0..count {
            let id = LayoutId(bytes.try_get_u32_le().ok()?);
            let cores = bytes.try_get_u16_le().ok()?;
            let sealed = bytes.try_get_u8().ok()? != 0;
            let rises = layouts.last().is_none_or(|before| before.id < id);
            if cores == 0 || !rises || sealed != (index + 1 < count) {
                return None;
            }
            layouts.push(Layout { id, cores, sealed });
        }
        bytes.is_empty().then_some(NodeFile { cluster, member, name, starts, layouts })
    }
}

/// Looks whose directory this is. None: it is empty, or its creation was interrupted.
pub async fn find<D: Disk>(disk: &D) -> Result<Option<NodeFile>, DataDirError> {
    match small_file::read_file(disk, NODE_FILE).await {
        Ok(file) => return Ok(Some(NodeFile::decode(&file)?)),
        Err(FileError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    // Before NODE is there, nothing else is made but what a node on its way into a cluster keeps: see `create`.
    let base = |name: &str| name.strip_suffix(TEMPORARY_SUFFIX).map_or(name.to_owned(), ToOwned::to_owned);
    let ours = |name: &str| {
        name == LOCK_FILE || name == LOST_AND_FOUND || [NODE_FILE, JOIN_FILE].contains(&&*base(name))
    };
    match disk.list("").await?.into_iter().find(|name| !ours(name)) {
        Some(name) => Err(DataDirError::NotOurs { name }),
        None => Ok(None),
    }
}

/// Makes an empty directory that of a member. Call [`begin_layout`] next.
pub async fn create<D: Disk>(
    disk: &D,
    cluster: ClusterId,
    member: MemberId,
    name: &str,
) -> Result<NodeFile, DataDirError> {
    assert!(name.len() <= NAME_BYTES_MAX, "names are checked where they enter");
    let node = NodeFile { cluster, member, name: name.to_owned(), starts: 0, layouts: Vec::new() };
    replace_file(disk, "", NODE_FILE, node.encode()).await?;
    Ok(node)
}

/// Counts a start, and makes what NODE said when it was read durable. Before anything is served.
pub async fn count_start<D: Disk>(disk: &D, node: &mut NodeFile) -> Result<(), DataDirError> {
    let starts = node.starts.checked_add(1).expect("a start each second lasts for 136 years");
    replace_node(disk, node, NodeFile { starts, ..node.clone() }).await
}

/// May another layout be begun?
pub fn check_layouts(node: &NodeFile) -> Result<(), DataDirError> {
    match node.active() {
        Some(active) if node.layouts.len() >= LAYOUTS_MAX => {
            Err(DataDirError::TooManyLayouts { cores: active.cores })
        }
        Some(_) | None => Ok(()),
    }
}

/// Appends a layout with that many cores, each with an empty manifest, and seals the ones before it.
///
/// The files come first, then NODE: a crash leaves a directory that nobody lists, and [`sweep`] removes it. So call
/// that first.
pub async fn begin_layout<D: Disk>(
    disk: &D,
    node: &mut NodeFile,
    cores: u16,
) -> Result<LayoutId, DataDirError> {
    assert!(cores > 0, "a node has at least one core");
    let last = node.active().map_or(LayoutId(0), |layout| layout.id);
    check_layouts(node)?;
    let layout = Layout { id: LayoutId(last.0 + 1), cores, sealed: false };
    let dir = layout_dir(layout.id);
    disk.make_dir(&dir).await?;
    for core in (0..cores).map(CoreId) {
        let core_dir = core_dir(layout.id, core);
        disk.make_dir(&core_dir).await?;
        manifest::write(disk, &core_dir, &Manifest::new(node.owner(&layout, core))).await?;
    }
    disk.sync_dir(&dir).await?;
    disk.sync_dir("").await?;
    let mut layouts = node.layouts.clone();
    layouts.iter_mut().for_each(|layout| layout.sealed = true);
    layouts.push(layout);
    replace_node(disk, node, NodeFile { layouts, ..node.clone() }).await?;
    Ok(layout.id)
}

/// Drops every layout but the last, once each core of the last has written all its parts; until then
/// [`DataDirError::PartMissing`].
///
/// NODE comes first, then the files: a crash leaves files that nobody reads, and [`sweep`] removes them.
pub async fn retire_layouts<D: Disk>(disk: &D, node: &mut NodeFile) -> Result<(), DataDirError> {
    let Some(active) = node.active().copied() else { return Ok(()) };
    let retired: Vec<Layout> = node.sources().to_vec();
    if retired.is_empty() {
        return Ok(());
    }
    for core in (0..active.cores).map(CoreId) {
        let manifest = manifest::read(disk, &core_dir(active.id, core), &node.owner(&active, core)).await?;
        if let (Some(part), false) = (manifest.first_missing(), planted(Mutant::SourceDroppedEarly)) {
            return Err(DataDirError::PartMissing { core, part });
        }
    }
    replace_node(disk, node, NodeFile { layouts: [active].to_vec(), ..node.clone() }).await?;
    for layout in retired {
        remove_layout(disk, layout.id).await?;
    }
    Ok(())
}

/// Removes what a killed process left half made or half removed: once, after [`find`] and before all else.
///
/// Data of a layout that NODE does not list, and that no interrupted step can have left, is never removed:
/// [`DataDirError::Unlisted`].
pub async fn sweep<D: Disk>(disk: &D, node: &NodeFile) -> Result<(), DataDirError> {
    // A killed process may have replaced NODE without flushing the name: what is removed now, by this NODE's word,
    // would be missed by the one before it after a power cut.
    disk.sync_dir("").await?;
    disk.remove(&format!("{NODE_FILE}{TEMPORARY_SUFFIX}")).await?;
    for name in disk.list("").await? {
        let Some(id) = parse_layout_dir(&name) else { continue };
        if node.layouts.iter().any(|layout| layout.id == id) {
            continue;
        }
        // Below the first listed one: a removal was interrupted. Else it is the beginning of a layout, and that
        // makes manifests only.
        let retired = node.layouts.first().is_some_and(|first| id < first.id);
        if let (false, Some(path)) = (retired, first_data_file(disk, &name).await?) {
            return Err(DataDirError::Unlisted { path });
        }
        remove_layout(disk, id).await?;
    }
    Ok(())
}

/// Removes what a killed process left in a core's directory: temporary files, and parts that the manifest, just read
/// from it, does not name.
pub async fn sweep_core<D: Disk>(disk: &D, dir: &str, manifest: &Manifest) -> Result<(), DataDirError> {
    // As in `sweep`: first make durable what the removals rely on.
    disk.sync_dir(dir).await?;
    for name in disk.list(dir).await? {
        let stem = name.strip_suffix(TEMPORARY_SUFFIX);
        let leftover = match parse_part_name(&name) {
            Some((part, generation)) => manifest.part(part).is_none_or(|file| file.generation != generation),
            None => stem.is_some_and(is_core_file),
        };
        if leftover {
            disk.remove(&join(dir, &name)).await?;
        }
    }
    Ok(())
}

async fn replace_node<D: Disk>(disk: &D, node: &mut NodeFile, new: NodeFile) -> Result<(), DataDirError> {
    replace_file(disk, "", NODE_FILE, new.encode()).await?;
    *node = new;
    Ok(())
}

/// Removes our files of a layout; a directory that holds others as well stays, with them.
async fn remove_layout<D: Disk>(disk: &D, layout: LayoutId) -> Result<(), DataDirError> {
    let dir = layout_dir(layout);
    let mut empty = true;
    for name in list_or_nothing(disk, &dir).await? {
        if parse_core_name(&name).is_none() {
            empty = false;
            continue;
        }
        let core_dir = join(&dir, &name);
        let mut core_empty = true;
        for name in list_or_nothing(disk, &core_dir).await? {
            if is_core_file(name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(&name)) {
                disk.remove(&join(&core_dir, &name)).await?;
            } else {
                core_empty = false;
            }
        }
        if core_empty {
            disk.remove_dir(&core_dir).await?;
        }
        empty &= core_empty;
    }
    if empty {
        disk.remove_dir(&dir).await?;
    }
    Ok(disk.sync_dir("").await?)
}

/// A segment or part within a layout's directory.
async fn first_data_file<D: Disk>(disk: &D, layout_dir: &str) -> Result<Option<String>, DataDirError> {
    for core in list_or_nothing(disk, layout_dir).await? {
        if parse_core_name(&core).is_none() {
            continue;
        }
        let core_dir = join(layout_dir, &core);
        for name in list_or_nothing(disk, &core_dir).await? {
            if parse_segment_name(&name).is_some() || parse_part_name(&name).is_some() {
                return Ok(Some(join(&core_dir, &name)));
            }
        }
    }
    Ok(None)
}

async fn list_or_nothing<D: Disk>(disk: &D, dir: &str) -> Result<Vec<String>, DataDirError> {
    match disk.list(dir).await {
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(Vec::new()),
        listed => Ok(listed?),
    }
}

fn core_name(core: CoreId) -> String {
    format!("core-{:03}", core.0)
}

fn parse_core_name(name: &str) -> Option<CoreId> {
    let core = CoreId(name.strip_prefix("core-")?.parse().ok()?);
    (core_name(core) == name).then_some(core)
}

fn parse_layout_dir(name: &str) -> Option<LayoutId> {
    let layout = LayoutId(name.strip_prefix("layout-")?.parse().ok()?);
    (layout_dir(layout) == name).then_some(layout)
}

fn is_core_file(name: &str) -> bool {
    name == manifest::MANIFEST_FILE || parse_segment_name(name).is_some() || parse_part_name(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn node() -> NodeFile {
        NodeFile {
            cluster: ClusterId(*b"0123456789abcdef"),
            member: MemberId(7),
            name: "n1".to_string(),
            starts: 3,
            layouts: [
                Layout { id: LayoutId(1), cores: 4, sealed: true },
                Layout { id: LayoutId(3), cores: 2, sealed: false },
            ]
            .to_vec(),
        }
    }

    #[test]
    fn node_file_reads_back_what_was_written() {
        assert_eq!(NodeFile::decode(&node().encode()), Ok(node()));
        let fresh = NodeFile { layouts: Vec::new(), ..node() };
        assert_eq!(NodeFile::decode(&fresh.encode()), Ok(fresh));
    }

    #[test]
    fn node_file_has_not_drifted() {
        let mut payload = b"0123456789abcdef\x07\0\0\0\x03\0\0\0\x02\0n1\x02\0".to_vec();
        payload.extend(b"\x01\0\0\0\x04\0\x01\x03\0\0\0\x02\0\0");
        assert_eq!(node().encode(), small_file::enclose(NODE_KIND, &payload));
    }

    #[test]
    fn contradicting_layouts_are_damage() {
        for wrong in [
            Layout { id: LayoutId(1), cores: 2, sealed: false },
            Layout { id: LayoutId(3), cores: 0, sealed: false },
            Layout { id: LayoutId(3), cores: 2, sealed: true },
        ] {
            let mut node = node();
            node.layouts[1] = wrong;
            assert!(matches!(NodeFile::decode(&node.encode()), Err(FileError::Damaged { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_read_back_in_one_spelling_only() {
        let part = PartIndex::new(5).expect("5 is below 16");
        assert_eq!(parse_part_name(&part_name(part, 12)), Some((part, 12)));
        assert_eq!(parse_part_name(&part_name(part, 12_345_678)), Some((part, 12_345_678)));
        assert_eq!(parse_segment_name("wal-0007"), Some(7));
        assert_eq!(parse_layout_dir("layout-12345"), Some(LayoutId(12_345)));
        for name in ["part-5-000012", "part-16-000001", "part-05-12", "part-05-+00012", "part-05-000012.tmp"]
        {
            assert_eq!(parse_part_name(name), None, "{name}");
        }
        for name in ["wal-7", "wal-+007", "wal-", "wal-99999999999"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
    }

    #[test]
    fn other_member_is_refused_with_both() {
        let error = node().require_member(node().cluster, MemberId(8)).expect_err("member 7's");
        assert_eq!(
            error.to_string(),
            "NODE belongs to cluster 30313233343536373839616263646566, member 7, \
             not to cluster 30313233343536373839616263646566, member 8"
        );
    }
}
