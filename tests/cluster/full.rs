//! A disk and a memory that are full: what is refused, what goes on, and how it comes back.

use super::node::{Home, Node, among_others, block_on, seed, until};
use super::writer::{Load, audit, writers};
use ringcore::client::{Client, ClientError, Outcome, Reason, RetryPolicy, Write};
use ringcore::types::prng::Prng;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;
/// Less than a log segment and the reserve need, enough for the reserve to be used.
const LEFT_BYTES: u64 = 40 * MIB;
/// Room for a few log segments, their reserve and the parts of a small table.
const DISK_BYTES: u64 = 320 * MIB;

/// An ext4 of its own in a file, mounted for as long as this lives.
struct SmallDisk {
    image: PathBuf,
    root: PathBuf,
}

impl SmallDisk {
    /// None: this process may not mount.
    fn mount(home: &Home) -> Option<SmallDisk> {
        let (image, root) = (home.file("disk.img"), home.file("disk"));
        File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("a sparse file");
        fs::create_dir(&root).expect("the test's directory takes another");
        let done = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let mounted = done("mkfs.ext4", &[Path::new("-q"), &image])
            && done("mount", &[Path::new("-o"), Path::new("loop"), &image, &root]);
        mounted.then_some(SmallDisk { image, root })
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Takes all room but so much.
    fn fill(&self, leave_bytes: u64) {
        let stat = rustix::fs::statvfs(&self.root).expect("it is mounted");
        let free = stat.f_bavail * stat.f_frsize;
        let filler = File::create(self.root.join("filler")).expect("the disk takes a file");
        rustix::fs::fallocate(
            &filler,
            rustix::fs::FallocateFlags::empty(),
            0,
            free.saturating_sub(leave_bytes),
        )
        .expect("the room is there");
    }

    fn free(&self) {
        fs::remove_file(self.root.join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.root).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "{:?} stays",
            self.root
        );
        fs::remove_file(&self.image).ok();
    }
}

#[test]
fn full_disk_refuses_writes_goes_on_reading_and_comes_back_by_itself() {
    let _shared = among_others();
    let home = Home::new("disk");
    let Some(disk) = SmallDisk::mount(&home) else {
        println!("SKIPPED: this process may not mount a file system of its own");
        return;
    };
    let home = Home::with_data("disk-node", &disk.data());
    let flags = ["--cores", "1"];
    let mut node = Node::start(&home, &flags);
    let mut prng = Prng::new(seed());
    let load = Load::start(node.address, writers(6, &mut prng));
    until("writes are acknowledged", || load.acknowledged() > 200);
    disk.fill(LEFT_BYTES);
    fill_log(&node);
    let mut writers = load.finish();
    for error in writers.iter().flat_map(|writer| &writer.errors) {
        assert_disk_full(error);
    }
    for _ in 0..2 {
        audit(node.address, &mut writers);
        node.kill();
        node = Node::start(&home, &flags);
        fill_log(&node);
    }
    disk.free();
    until("writes are taken again", || block_on(async { hasty(&node).await.put("k", "v").await.is_ok() }));
    until("it says so", || node.metric("ringcore_read_only") == [0.0]);
    for writer in &mut writers {
        writer.errors.clear();
    }
    let load = Load::start(node.address, writers);
    until("writes are acknowledged", || load.acknowledged() > 200);
    writers = load.finish();
    assert!(writers.iter().all(|writer| writer.errors.is_empty()), "{writers:?}");
    audit(node.address, &mut writers);
    node.stop();
}

#[test]
fn full_memory_refuses_writes_and_takes_them_again_after_deletes() {
    let _shared = among_others();
    let home = Home::new("memory");
    let node = Node::start(&home, &["--cores", "1", "--memory-limit", "64MiB"]);
    block_on(async {
        let client = hasty(&node).await;
        let value = vec![7; 32 << 10];
        let mut written = 0;
        let refused = loop {
            match client.put(format!("large-{written}"), value.clone()).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 4 * 64 * 32, "the limit is not kept");
        };
        println!("{written} values of 32 KiB fit");
        assert!(written > 64 * 32 / 4, "only {written} values fit");
        assert_eq!((refused.reason(), refused.outcome()), (Some(Reason::MemoryFull), Outcome::NotApplied));
        for index in 0..written {
            assert_eq!(client.get(format!("large-{index}")).await.unwrap().unwrap().value, value);
        }
        // Nothing of the refused one is there.
        assert_eq!(client.get(format!("large-{written}")).await.unwrap(), None);
        for result in
            client.batch_write((0..written / 2).map(|index| Write::delete(format!("large-{index}")))).await
        {
            result.unwrap();
        }
        while let Err(error) = client.put("again", value.clone()).await {
            assert_eq!(error.reason(), Some(Reason::MemoryFull), "{error:?}");
            tokio::task::yield_now().await;
        }
        for index in 0..written / 4 {
            client.put(format!("new-{index}"), value.clone()).await.unwrap();
        }
        assert_eq!(client.get("large-0").await.unwrap(), None);
        assert!(client.get(format!("large-{}", written - 1)).await.unwrap().is_some());
    });
    node.stop();
    let node = Node::start(&home, &["--cores", "1", "--memory-limit", "64MiB"]);
    assert!(block_on(async { node.client().await.get("again").await }).unwrap().is_some());
    node.stop();
}

/// A client that repeats nothing.
async fn hasty(node: &Node) -> Client {
    let builder = Client::builder().endpoints([node.address.to_string()]);
    let builder = builder.retry(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() });
    builder.connect().await.expect("the node takes a connection")
}

/// Writes until the disk is full and stays so over some refusals.
fn fill_log(node: &Node) {
    let mut refusals = 0;
    block_on(async {
        let client = hasty(node).await;
        let value = vec![3; 64 << 10];
        for index in 0..DISK_BYTES / (64 << 10) {
            match client.put(format!("filling-{index}"), value.clone()).await {
                Ok(_) => {}
                Err(error) => {
                    assert_disk_full(&error);
                    refusals += 1;
                    if refusals == 20 {
                        return;
                    }
                }
            }
        }
        panic!("{refusals} refusals although the disk is full");
    });
}

fn assert_disk_full(error: &ClientError) {
    assert_eq!((error.reason(), error.outcome()), (Some(Reason::DiskFull), Outcome::NotApplied), "{error:?}");
}
