//! The disk as the pure part sees it: a trait of small steps, each of which may be the last before a crash.
//!
//! The real one is `runtime::disk`, the other one is the simulator's. Sequences of steps that must survive a crash
//! (replace a file, make a segment) are written once, against this trait.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;

/// Why a step failed. After a failed write or flush nothing is known of what reached the disk: never retry it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// What went wrong, in kind.
    pub kind: DiskErrorKind,
    /// Path, step and the system's own words.
    pub context: String,
}

/// Kinds of failure that are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// No such file or directory.
    NotFound,
    /// No space, or no quota.
    Full,
    /// Not allowed.
    Permission,
    /// The device or file system failed, or a transfer was short.
    Io,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl core::error::Error for DiskError {}

/// Result of a step.
pub type DiskResult<T> = Result<T, DiskError>;

/// A data directory. Paths are relative to it, with `/` between names.
///
/// Reads and writes are O_DIRECT in the real one: offset and length are multiples of 4 096. All steps are issued by
/// one task per file. Dropping a future does not undo its step.
pub trait Disk: Clone + 'static {
    /// An open file. Closed when dropped.
    type File: 'static;

    /// Creates a file, or empties it if it is there; its name is not durable before [`Disk::sync_dir`].
    fn create(&self, path: &str) -> impl Future<Output = DiskResult<Self::File>>;
    /// Opens a file for reading and writing. Writes are durable (O_DSYNC) when they return if `dsync`.
    fn open(&self, path: &str, dsync: bool) -> impl Future<Output = DiskResult<Self::File>>;
    /// Bytes in the file.
    fn len(&self, file: &Self::File) -> impl Future<Output = DiskResult<u64>>;
    /// Reads exactly `len` bytes, fewer only at the file's end.
    fn read(&self, file: &Self::File, offset: u64, len: usize) -> impl Future<Output = DiskResult<Vec<u8>>>;
    /// Writes all of `data`; a short write is an error.
    fn write(&self, file: &Self::File, offset: u64, data: Vec<u8>) -> impl Future<Output = DiskResult<()>>;
    /// Makes the file's data and length durable (fdatasync).
    fn sync(&self, file: &Self::File) -> impl Future<Output = DiskResult<()>>;
    /// Cuts or grows a file to a length that need not be a multiple of 4 096.
    fn truncate(&self, file: &Self::File, len: u64) -> impl Future<Output = DiskResult<()>>;
    /// Gives a file another name, replacing what bore it. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = DiskResult<()>>;
    /// Removes a file. Durable after [`Disk::sync_dir`]. Absent is not an error.
    fn remove(&self, path: &str) -> impl Future<Output = DiskResult<()>>;
    /// Makes a directory, if it is not there.
    fn make_dir(&self, path: &str) -> impl Future<Output = DiskResult<()>>;
    /// Removes an empty directory. Absent is not an error.
    fn remove_dir(&self, path: &str) -> impl Future<Output = DiskResult<()>>;
    /// Makes names created, changed or removed in the directory durable (a real fsync). "" is the data directory.
    fn sync_dir(&self, path: &str) -> impl Future<Output = DiskResult<()>>;
    /// Names in a directory, sorted.
    fn list(&self, path: &str) -> impl Future<Output = DiskResult<Vec<String>>>;
    /// Bytes that can still be written to the file system.
    fn free_bytes(&self) -> impl Future<Output = DiskResult<u64>>;
    /// Lets others run, and holds background writing to its pace: returns when `bytes` more may be written.
    fn pace(&self, bytes: u64) -> impl Future<Output = ()>;
}
