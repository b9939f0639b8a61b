//! What the simulated disk promises and what it does not: the laws that every scenario rests on.

use crate::disk::{Fault, Latency, SECTOR, SimDisk, SimFile, block_on};
use ringcore::storage::disk::{Disk, DiskErrorKind};
use std::collections::BTreeSet;

async fn written(disk: &SimDisk, path: &str, byte: u8, sectors: usize) -> SimFile {
    let file = disk.create(path).await.expect("no fault is planned");
    disk.write(&file, 0, vec![byte; sectors * SECTOR]).await.expect("no fault is planned");
    file
}

/// What is left of a file after a power cut, over many seeds.
fn outcomes(tear: bool, flush: bool, name: bool) -> BTreeSet<Option<Vec<u8>>> {
    let outcome = |seed| {
        let disk = SimDisk::new(seed);
        if tear {
            disk.tear();
        }
        let ran = block_on(&disk, async {
            let file = written(&disk, "f", 1, 1).await;
            if flush {
                disk.sync(&file).await.expect("no fault is planned");
            }
            if name {
                disk.sync_dir("").await.expect("no fault is planned");
            }
        });
        assert_eq!(ran, Some(()));
        disk.crash();
        disk.contents("f")
    };
    (0..200).map(outcome).collect()
}

#[test]
fn power_cut_loses_or_keeps_what_was_not_flushed() {
    let whole = Some(vec![1; SECTOR]);
    let empty = Some(vec![]);
    let zeros = Some(vec![0; SECTOR]);
    assert_eq!(outcomes(false, true, true), BTreeSet::from([whole.clone()]));
    assert_eq!(outcomes(false, true, false), BTreeSet::from([None, whole.clone()]));
    assert_eq!(outcomes(false, false, true), BTreeSet::from([whole, empty, zeros]));
    assert!(outcomes(true, false, true).len() > 3, "a torn sector has many outcomes");
}

#[test]
fn killed_process_leaves_all_that_it_wrote() {
    let disk = SimDisk::new(1);
    let file = block_on(&disk, written(&disk, "f", 7, 3)).expect("it is not stopped");
    disk.kill();
    assert_eq!(disk.contents("f"), Some(vec![7; 3 * SECTOR]));
    assert_eq!(block_on(&disk, disk.sync(&file)), None, "its files are closed");
}

#[test]
fn failed_flush_is_not_made_good_by_the_next() {
    let lost = (0..100).any(|seed| {
        let disk = SimDisk::new(seed);
        block_on(&disk, async {
            let file = written(&disk, "f", 1, 1).await;
            disk.sync_dir("").await.expect("no fault is planned");
            disk.fail_at(disk.steps(), Fault::Io);
            assert_eq!(disk.sync(&file).await.map_err(|error| error.kind), Err(DiskErrorKind::Io));
            assert_eq!(disk.sync(&file).await, Ok(()));
        });
        disk.crash();
        disk.contents("f") != Some(vec![1; SECTOR])
    });
    assert!(lost);
}

#[test]
fn rename_replaces_in_one_step() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        block_on(&disk, async {
            for (path, byte) in [("old", 1), ("new", 2)] {
                let file = written(&disk, path, byte, 1).await;
                disk.sync(&file).await.expect("no fault is planned");
            }
            disk.sync_dir("").await.expect("no fault is planned");
            disk.rename("new", "old").await.expect("no fault is planned");
        });
        disk.crash();
        let old = disk.contents("old").expect("one of both is there");
        assert_eq!(disk.contents("new").is_some(), old[0] == 1, "seed {seed}");
    }
}

#[test]
fn full_disk_takes_no_more_and_says_so() {
    let disk = SimDisk::new(1);
    disk.limit(2 * SECTOR as u64);
    block_on(&disk, async {
        let file = written(&disk, "f", 1, 2).await;
        assert_eq!(disk.free_bytes().await, Ok(0));
        let more = disk.write(&file, 2 * SECTOR as u64, vec![1; SECTOR]).await;
        assert_eq!(more.map_err(|error| error.kind), Err(DiskErrorKind::Full));
        assert_eq!(disk.write(&file, 0, vec![2; SECTOR]).await, Ok(()));
    });
}

#[test]
fn steps_take_virtual_time_and_a_hanging_flush_takes_for_ever() {
    let disk = SimDisk::new(1);
    disk.delay(Latency { least_ns: 10, most_ns: 20, flush_hangs: false });
    let file = block_on(&disk, written(&disk, "f", 1, 1)).expect("it is not stopped");
    assert!((20..=40).contains(&disk.now_ns()));
    disk.delay(Latency { flush_hangs: true, ..Latency::default() });
    assert_eq!(block_on(&disk, disk.sync(&file)), None);
}

#[test]
fn directory_whose_name_was_not_flushed_takes_its_files_along() {
    let survivors = (0..100).filter(|&seed| {
        let disk = SimDisk::new(seed);
        block_on(&disk, async {
            disk.make_dir("d").await.expect("no fault is planned");
            let file = written(&disk, "d/f", 1, 1).await;
            disk.sync(&file).await.expect("no fault is planned");
            disk.sync_dir("d").await.expect("no fault is planned");
        });
        disk.crash();
        disk.contents("d/f").is_some()
    });
    assert!((1..100).contains(&survivors.count()));
}
