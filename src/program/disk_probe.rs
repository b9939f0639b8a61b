//! Measures what a durable 4 KiB write costs in a directory. Leaves nothing behind; judges nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;

/// Writes that are timed.
pub const WRITES: usize = 200;
const BLOCK_BYTES: usize = 4_096;

/// Latencies of durable writes, one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskLatency {
    /// The median, microseconds.
    pub p50_us: u64,
    /// One in a hundred was slower, microseconds.
    pub p99_us: u64,
    /// They went past the page cache. Where the file system cannot do that, they were flushed through it.
    pub direct: bool,
}

/// O_DIRECT needs memory that begins at a block.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Times writes over a zeroed file, as the log does them: one 4 KiB block, O_DIRECT and O_DSYNC.
///
/// # Errors
/// The directory cannot be written to, or the disk fails.
pub fn measure(dir: &Path) -> io::Result<DiskLatency> {
    let path = dir.join(format!(".ringcore-check-{}", std::process::id()));
    let outcome = measure_in(&path);
    let removed = fs::remove_file(&path);
    let latency = outcome?;
    removed.map(|()| latency)
}

fn measure_in(path: &Path) -> io::Result<DiskLatency> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(&vec![0; BLOCK_BYTES * WRITES])?;
    file.sync_all()?;
    drop(file);
    let open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).expect("flags of open are an int");
        OpenOptions::new().write(true).custom_flags(flags).open(path)
    };
    let (file, direct) = match open(OFlags::DIRECT | OFlags::DSYNC) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => (open(OFlags::DSYNC)?, false),
        Err(error) => return Err(error),
    };
    let block = Box::new(Block([0xA5; BLOCK_BYTES]));
    let mut taken = Vec::with_capacity(WRITES);
    for index in 0..WRITES {
        let begun = Instant::now();
        file.write_all_at(&block.0, (index * BLOCK_BYTES) as u64)?;
        taken.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    taken.sort_unstable();
    Ok(DiskLatency { p50_us: taken[WRITES / 2], p99_us: taken[WRITES * 99 / 100], direct })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_timed_and_nothing_is_left() {
        let dir = std::env::temp_dir().join(format!("ringcore-probe-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let latency = measure(&dir).unwrap();
        assert!(latency.p50_us <= latency.p99_us, "{latency:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
        assert_eq!(measure(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
