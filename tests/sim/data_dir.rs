//! The data directory, interrupted at every step: it opens afterwards, as it was or as it was to become.

use crate::disk::{Image, SimDisk, block_on};
use crate::interrupt::at_every_step;
use crate::part_file::Fixed;
use ringcore::storage::data_dir::{self, DataDirError, LayoutId, NodeFile};
use ringcore::storage::disk::Disk;
use ringcore::storage::manifest;
use ringcore::storage::part::{PartIndex, PartReader};
use ringcore::storage::small_file::{self, FileError, FileKind};
use ringcore::storage::snapshot::rewrite_part;
use ringcore::types::{ClusterId, CoreId, MemberId};
use std::cell::RefCell;

const CLUSTER: ClusterId = ClusterId([3; 16]);

/// An image made without faults.
fn prepared(from: Image, work: impl AsyncFn(&SimDisk)) -> Image {
    let disk = SimDisk::of_image(from, 0);
    assert_eq!(block_on(&disk, work(&disk)), Some(()));
    disk.crash();
    disk.image()
}

fn empty() -> Image {
    SimDisk::new(0).image()
}

/// What every process does first.
async fn open(disk: &SimDisk) -> Result<Option<NodeFile>, DataDirError> {
    let Some(mut node) = data_dir::find(disk).await? else { return Ok(None) };
    data_dir::sweep(disk, &node).await?;
    data_dir::count_start(disk, &mut node).await?;
    for layout in node.layouts() {
        for core in (0..layout.cores).map(CoreId) {
            let dir = data_dir::core_dir(layout.id, core);
            let manifest = manifest::read(disk, &dir, &node.owner(layout, core)).await?;
            data_dir::sweep_core(disk, &dir, &manifest).await?;
        }
    }
    Ok(Some(node))
}

async fn opened(disk: &SimDisk) -> NodeFile {
    open(disk).await.expect("the directory opens").expect("it was created")
}

/// Opens a directory after an interruption; nothing but what NODE lists may be left, and all of it must be whole.
async fn reopened(disk: &SimDisk) -> Option<NodeFile> {
    let node = open(disk).await.expect("the directory opens")?;
    let mut expected: Vec<String> =
        node.layouts().iter().map(|layout| data_dir::layout_dir(layout.id)).collect();
    expected.push(data_dir::NODE_FILE.to_string());
    expected.sort();
    let mut names = disk.names("");
    names.retain(|name| name != "NODE.tmp");
    assert_eq!(names, expected);
    for layout in node.layouts() {
        for core in (0..layout.cores).map(CoreId) {
            let dir = data_dir::core_dir(layout.id, core);
            let owner = node.owner(layout, core);
            let manifest = manifest::read(disk, &dir, &owner).await.expect("listed");
            for part in PartIndex::all() {
                let Some(file) = manifest.part(part) else { continue };
                let mut reader =
                    PartReader::open(disk, &dir, &owner, part, file).await.expect("the disk works");
                while reader.next().await.expect("the disk works") {}
                assert!(reader.finish().is_whole(), "part {part} of {dir}");
            }
        }
    }
    Some(node)
}

fn layouts(node: &NodeFile) -> Vec<u32> {
    node.layouts().iter().map(|layout| layout.id.0).collect()
}

async fn begin(disk: &SimDisk, cores: u16) {
    let mut node = opened(disk).await;
    data_dir::begin_layout(disk, &mut node, cores).await.expect("no fault is planned");
}

async fn create(disk: &SimDisk) {
    data_dir::create(disk, CLUSTER, MemberId(1), "n1").await.expect("no fault is planned");
}

/// Writes the parts of the active layout, but for the last `missing` of its last core.
async fn write_parts(disk: &SimDisk, missing: usize) {
    let node = opened(disk).await;
    let layout = *node.active().expect("there is one");
    for core in (0..layout.cores).map(CoreId) {
        let dir = data_dir::core_dir(layout.id, core);
        let owner = node.owner(&layout, core);
        let mut manifest = manifest::read(disk, &dir, &owner).await.expect("listed");
        let leave = if core.0 + 1 == layout.cores { missing } else { 0 };
        for part in PartIndex::all().take(16 - leave) {
            let written = rewrite_part(disk, &mut Fixed::sample(&owner, 1), &mut manifest, &dir, part).await;
            assert_eq!(written, Ok(()));
        }
        let segment = disk.create(&format!("{dir}/wal-0000")).await.expect("no fault is planned");
        disk.sync(&segment).await.expect("no fault is planned");
        disk.sync_dir(&dir).await.expect("no fault is planned");
    }
}

/// [`small_file::replace_file`] leaves the old contents or the new.
pub(crate) fn replacing_a_file(seeds: u64) {
    let kind = FileKind { magic: *b"somefile", version: 1 };
    let contents = |byte: u8| small_file::enclose(kind, &[byte; 9_000]);
    let begin = prepared(empty(), async |disk| {
        small_file::replace_file(disk, "", "F", contents(1)).await.expect("no fault is planned");
    });
    at_every_step(
        seeds,
        &begin,
        async |disk, _| small_file::replace_file(disk, "", "F", contents(2)).await,
        async |disk, done| {
            let file = small_file::read_file(disk, "F").await.expect("it is there");
            assert!(file == contents(2) || (!done && file == contents(1)));
        },
    );
}

/// A directory that is being created is empty, without layouts, or complete; and creation can be taken up again.
pub(crate) fn creating(seeds: u64) {
    let work = async |disk: &SimDisk, _| {
        let mut node = match open(disk).await? {
            Some(node) => node,
            None => data_dir::create(disk, CLUSTER, MemberId(1), "n1").await?,
        };
        if node.active().is_none() {
            data_dir::begin_layout(disk, &mut node, 2).await?;
        }
        Ok::<(), DataDirError>(())
    };
    at_every_step(seeds, &empty(), work, async |disk, done| {
        let found = reopened(disk).await.map(|node| layouts(&node));
        match found.as_deref() {
            None | Some([]) => assert!(!done),
            Some(complete) => assert_eq!(complete, [1]),
        }
        work(disk, 0).await.expect("it can be taken up again");
        assert_eq!(reopened(disk).await.map(|node| layouts(&node)), Some(vec![1]));
    });
}

/// A layout is begun wholly or not at all, and what one process saw the next one sees.
pub(crate) fn beginning_a_layout(seeds: u64) {
    let image = prepared(empty(), async |disk| {
        create(disk).await;
        begin(disk, 2).await;
    });
    let seen = RefCell::new(None);
    at_every_step(
        seeds,
        &image,
        async |disk, _| {
            *seen.borrow_mut() = None;
            let mut node = open(disk).await?.expect("it was created");
            data_dir::begin_layout(disk, &mut node, 3).await.map(drop)
        },
        async |disk, done| {
            let found = layouts(&reopened(disk).await.expect("it was created"));
            assert!(found == [1, 2] || (!done && found == [1]));
            // The first process to open it made durable what it read.
            let before = seen.borrow_mut().replace(found.clone());
            assert!(before.is_none_or(|before| before == found));
        },
    );
}

/// Layouts are retired wholly or not at all; those in force stay whole.
pub(crate) fn retiring_layouts(seeds: u64) {
    let image = prepared(empty(), async |disk| {
        create(disk).await;
        begin(disk, 1).await;
        write_parts(disk, 0).await;
        begin(disk, 2).await;
        write_parts(disk, 0).await;
    });
    at_every_step(
        seeds,
        &image,
        async |disk, _| {
            let mut node = open(disk).await?.expect("it was created");
            data_dir::retire_layouts(disk, &mut node).await
        },
        async |disk, done| {
            let found = layouts(&reopened(disk).await.expect("it was created"));
            assert!(found == [2] || (!done && found == [1, 2]));
        },
    );
}

/// Sources stay as long as one part of the new layout is missing.
pub(crate) fn retiring_too_early() {
    let image = prepared(empty(), async |disk| {
        create(disk).await;
        begin(disk, 1).await;
        write_parts(disk, 0).await;
        begin(disk, 2).await;
        write_parts(disk, 1).await;
    });
    let image = prepared(image, async |disk| {
        let mut node = opened(disk).await;
        let missing = PartIndex::new(15).expect("15 is below 16");
        let refused = data_dir::retire_layouts(disk, &mut node).await;
        assert_eq!(refused, Err(DataDirError::PartMissing { core: CoreId(1), part: missing }));
    });
    let disk = SimDisk::of_image(image, 0);
    let found = block_on(&disk, reopened(&disk)).expect("it is not stopped");
    assert_eq!(found.map(|node| layouts(&node)), Some(vec![1, 2]));
}

#[cfg(not(mutants))]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_is_old_or_new_after_any_interruption() {
        replacing_a_file(50);
    }

    #[test]
    fn creation_is_taken_up_again_after_any_interruption() {
        creating(20);
    }

    #[test]
    fn layout_is_begun_wholly_or_not_at_all() {
        beginning_a_layout(20);
    }

    #[test]
    fn layouts_are_retired_wholly_or_not_at_all() {
        retiring_layouts(3);
    }

    #[test]
    fn sources_stay_until_the_last_part_is_written() {
        retiring_too_early();
    }

    fn opening(image: Image) -> Result<Option<NodeFile>, DataDirError> {
        let disk = SimDisk::of_image(image, 0);
        block_on(&disk, open(&disk)).expect("it is not stopped")
    }

    fn with_layouts() -> Image {
        prepared(empty(), async |disk| {
            create(disk).await;
            begin(disk, 1).await;
            begin(disk, 2).await;
        })
    }

    #[test]
    fn directory_with_foreign_files_is_refused() {
        let image = prepared(empty(), async |disk| {
            for name in ["LOCK", "thesis.tex"] {
                disk.create(name).await.expect("no fault is planned");
            }
            disk.make_dir("lost+found").await.expect("no fault is planned");
            disk.sync_dir("").await.expect("no fault is planned");
        });
        assert_eq!(opening(image), Err(DataDirError::NotOurs { name: "thesis.tex".to_string() }));
    }

    #[test]
    fn data_without_node_file_is_refused_not_taken_for_new() {
        let disk = SimDisk::of_image(with_layouts(), 0);
        disk.lose("NODE");
        assert_eq!(opening(disk.image()), Err(DataDirError::NotOurs { name: "layout-0001".to_string() }));
    }

    #[test]
    fn lost_manifest_is_an_error_never_an_empty_core() {
        let disk = SimDisk::of_image(with_layouts(), 0);
        disk.lose("layout-0002/core-001/MANIFEST");
        let path = "layout-0002/core-001/MANIFEST".to_string();
        assert_eq!(opening(disk.image()), Err(FileError::Missing { path }.into()));
    }

    #[test]
    fn rotten_manifest_and_node_file_are_damage() {
        for path in ["NODE", "layout-0001/core-000/MANIFEST"] {
            for bit in 0..28 * 8 {
                let disk = SimDisk::of_image(with_layouts(), 0);
                disk.flip(path, bit);
                let unused = (160..192).contains(&bit);
                assert_eq!(opening(disk.image()).is_ok(), unused, "bit {bit} of {path}");
            }
        }
    }

    #[test]
    fn manifest_of_another_core_is_refused() {
        let disk = SimDisk::of_image(with_layouts(), 0);
        let other = disk.contents("layout-0002/core-000/MANIFEST").expect("it is there");
        disk.overwrite("layout-0002/core-001/MANIFEST", 0, &other);
        let error = opening(disk.image()).expect_err("it is core 0's");
        assert!(matches!(error, DataDirError::File(FileError::NotOurs { .. })), "{error}");
    }

    #[test]
    fn data_that_an_older_node_file_does_not_know_is_refused_and_kept() {
        let older = prepared(empty(), async |disk| {
            create(disk).await;
            begin(disk, 1).await;
        });
        let node = SimDisk::of_image(older.clone(), 0).contents("NODE").expect("it is there");
        let newer = prepared(older, async |disk| {
            begin(disk, 2).await;
            write_parts(disk, 0).await;
        });
        let disk = SimDisk::of_image(newer, 0);
        disk.overwrite("NODE", 0, &node);
        let path = "layout-0002/core-000/part-00-000001".to_string();
        assert_eq!(opening(disk.image()), Err(DataDirError::Unlisted { path }));
    }

    #[test]
    fn restarts_with_ever_other_cores_end_at_a_limit() {
        prepared(with_layouts(), async |disk| {
            let mut node = opened(disk).await;
            for _ in 2..64 {
                data_dir::begin_layout(disk, &mut node, 1).await.expect("below the limit");
            }
            let refused = data_dir::begin_layout(disk, &mut node, 1).await;
            assert_eq!(refused, Err(DataDirError::TooManyLayouts { cores: 1 }));
            assert_eq!(node.active().map(|layout| layout.id), Some(LayoutId(64)));
        });
    }
}
