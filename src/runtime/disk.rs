//! The real disk: `storage::disk::Disk` on a directory, through io_uring and past the page cache.
//!
//! What io_uring does not do well (names, directories, free space) runs as plain system calls on the executor's
//! blocking thread. Files of a file system without O_DIRECT are written through the page cache and flushed.

use super::clock;
use super::directory::Claim;
use super::executor::Reactor;
use super::pace::Pace;
use super::tick::Ticker;
use crate::storage::disk::{Disk, DiskError, DiskErrorKind, DiskResult};
use crate::types::Mono;
use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaBuffer, DmaFile, OpenOptions};
use rustix::fs::{OFlags, statvfs};
use rustix::io::Errno;
use std::cell::RefCell;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Offsets and lengths are multiples of this.
const BLOCK: usize = 4_096;
/// Bytes of one read: large enough to feed a core from one file.
const READ_PIECE: usize = 1 << 20;
/// Bytes of one write: more at once would hold up the log's.
const WRITE_PIECE: usize = 128 << 10;

/// A core's view of the data directory. Clones share the pace.
#[derive(Clone)]
pub struct DirDisk(Rc<Inner>);

struct Inner {
    root: PathBuf,
    direct: bool,
    ticker: Ticker,
    reactor: Reactor,
    pace: RefCell<Pace>,
}

/// An open file.
pub struct DiskFile {
    path: String,
    handle: Handle,
}

enum Handle {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

/// Whether a write waits for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Each write is durable when it returns (O_DSYNC).
    EachWrite,
    /// Each write is followed by fdatasync.
    Fdatasync,
    /// Neither: what `--durability none` means.
    Never,
}

impl DirDisk {
    /// The directory as this core sees it.
    pub fn new(claim: &Claim, ticker: &Ticker, reactor: &Reactor) -> DirDisk {
        DirDisk(Rc::new(Inner {
            root: claim.path().to_owned(),
            direct: claim.direct(),
            ticker: ticker.clone(),
            reactor: reactor.clone(),
            pace: RefCell::default(),
        }))
    }

    /// Lets background writing go as fast as it can, until [`DirDisk::follow`].
    pub fn hurry(&self) {
        self.0.pace.borrow_mut().hurry();
    }

    /// Keeps background writing in step with the log, which has written so many bytes by now.
    pub fn follow(&self, now: Mono, written: u64) {
        self.0.pace.borrow_mut().follow(now, written);
    }

    fn absolute(&self, path: &str) -> PathBuf {
        debug_assert!(!Path::new(path).is_absolute() && !path.split('/').any(|name| name == ".."), "{path}");
        self.0.root.join(path)
    }

    async fn open_with(&self, path: &str, create: bool, dsync: bool) -> DiskResult<DiskFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(create).mode(0o600);
        if dsync {
            options.custom_flags(
                i32::try_from(OFlags::DSYNC.bits()).expect("a flag of open(2), which takes an int"),
            );
        }
        let absolute = self.absolute(path);
        let handle = if self.0.direct {
            options.dma_open(&absolute).await.map(Handle::Direct)
        } else {
            options.buffered_open(&absolute).await.map(Handle::Buffered)
        };
        let handle = handle.map_err(|error| failed("open", path, &error))?;
        Ok(DiskFile { path: path.to_owned(), handle })
    }

    /// Runs a system call that blocks on a thread of its own.
    async fn off_core<T: Send + 'static>(
        &self,
        step: &'static str,
        path: &str,
        call: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
    ) -> DiskResult<T> {
        let absolute = self.absolute(path);
        let result = glommio::executor().spawn_blocking(move || call(absolute)).await;
        result.map_err(|error| disk_error(step, path, error.raw_os_error(), &error))
    }
}

impl Disk for DirDisk {
    type File = DiskFile;

    async fn create(&self, path: &str) -> DiskResult<DiskFile> {
        self.open_with(path, true, false).await
    }

    async fn open(&self, path: &str, dsync: bool) -> DiskResult<DiskFile> {
        self.open_with(path, false, dsync).await
    }

    async fn len(&self, file: &DiskFile) -> DiskResult<u64> {
        let size = match &file.handle {
            Handle::Direct(handle) => handle.file_size().await,
            Handle::Buffered(handle) => handle.file_size().await,
        };
        size.map_err(|error| failed("look at", &file.path, &error))
    }

    async fn read(&self, file: &DiskFile, offset: u64, len: usize) -> DiskResult<Vec<u8>> {
        assert!(is_aligned(offset, len), "a read of {len} bytes at {offset} is not aligned");
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let want = (len - bytes.len()).min(READ_PIECE);
            let got = file.read_piece(offset + bytes.len() as u64, want, &mut bytes).await?;
            // Past the end of the last block nothing can follow; anywhere else a short read is continued.
            if got == 0 || !got.is_multiple_of(BLOCK) {
                break;
            }
        }
        if bytes.len() < len && offset + (bytes.len() as u64) < self.len(file).await? {
            return Err(DiskError {
                kind: DiskErrorKind::Io,
                context: format!("read {}: only {} of {len} bytes at {offset}", file.path, bytes.len()),
            });
        }
        Ok(bytes)
    }

    async fn write(&self, file: &DiskFile, offset: u64, data: Vec<u8>) -> DiskResult<()> {
        assert!(is_aligned(offset, data.len()), "a write of {} bytes at {offset} is not aligned", data.len());
        for (index, piece) in data.chunks(WRITE_PIECE).enumerate() {
            let mut buffer = file.buffer(piece.len());
            buffer.bytes_mut().copy_from_slice(piece);
            file.write_all(offset + (index * WRITE_PIECE) as u64, buffer).await?;
        }
        Ok(())
    }

    async fn sync(&self, file: &DiskFile) -> DiskResult<()> {
        file.flush().await
    }

    async fn truncate(&self, file: &DiskFile, len: u64) -> DiskResult<()> {
        let done = match &file.handle {
            Handle::Direct(handle) => handle.truncate(len).await,
            Handle::Buffered(handle) => handle.truncate(len).await,
        };
        done.map_err(|error| failed("truncate", &file.path, &error))
    }

    async fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let target = self.absolute(to);
        self.off_core("rename", from, move |from| std::fs::rename(from, target)).await
    }

    async fn remove(&self, path: &str) -> DiskResult<()> {
        self.off_core("remove", path, |path| unless(io::ErrorKind::NotFound, std::fs::remove_file(path)))
            .await
    }

    async fn make_dir(&self, path: &str) -> DiskResult<()> {
        self.off_core("make", path, |path| unless(io::ErrorKind::AlreadyExists, std::fs::create_dir(path)))
            .await
    }

    async fn remove_dir(&self, path: &str) -> DiskResult<()> {
        self.off_core("remove", path, |path| unless(io::ErrorKind::NotFound, std::fs::remove_dir(path))).await
    }

    async fn sync_dir(&self, path: &str) -> DiskResult<()> {
        // glommio's would be fdatasync, which need not write the names.
        self.off_core("flush", path, |path| std::fs::File::open(path)?.sync_all()).await
    }

    async fn list(&self, path: &str) -> DiskResult<Vec<String>> {
        self.off_core("list", path, |path| {
            let names =
                std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<io::Result<Vec<_>>>()?;
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn free_bytes(&self) -> DiskResult<u64> {
        self.off_core("measure", "", |path| {
            let stat = statvfs(path)?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })
        .await
    }

    async fn pace(&self, bytes: u64) {
        self.0.reactor.pass().await;
        let at = self.0.pace.borrow_mut().take(clock::mono(), bytes);
        self.0.ticker.sleep_until(at).await;
    }
}

impl DiskFile {
    /// Appends at most `len` bytes to `into`; how many there were, 0 at the end of the file.
    async fn read_piece(&self, offset: u64, len: usize, into: &mut Vec<u8>) -> DiskResult<usize> {
        loop {
            let result = match &self.handle {
                Handle::Direct(handle) => handle.read_at_aligned(offset, len).await,
                Handle::Buffered(handle) => handle.read_at(offset, len).await,
            };
            match result {
                Ok(piece) => {
                    into.extend_from_slice(&piece);
                    return Ok(piece.len());
                }
                Err(error) if was_interrupted(&error) => {}
                Err(error) => return Err(failed("read", &self.path, &error)),
            }
        }
    }

    /// Zeros; `len` is a multiple of 4 096.
    fn buffer(&self, len: usize) -> Buffer {
        assert!(len > 0 && len.is_multiple_of(BLOCK), "{len} bytes are not whole blocks");
        match &self.handle {
            Handle::Direct(handle) => {
                let mut buffer = handle.alloc_dma_buffer(len);
                buffer.as_bytes_mut().fill(0);
                Buffer(Memory::Dma(buffer))
            }
            Handle::Buffered(_) => Buffer(Memory::Plain(vec![0; len])),
        }
    }

    /// Writes all of `buffer` and gives it back for the next time; a short write is an error.
    async fn write_all(&self, offset: u64, buffer: Buffer) -> DiskResult<Buffer> {
        let len = buffer.bytes().len();
        let (written, buffer) = match (&self.handle, buffer.0) {
            (Handle::Direct(handle), Memory::Dma(buffer)) => {
                let buffer = Rc::new(buffer);
                let written = self.uninterrupted(|| handle.write_rc_at(Rc::clone(&buffer), offset)).await?;
                let buffer = Rc::into_inner(buffer).expect("the write is over and has let go of its buffer");
                (written, Memory::Dma(buffer))
            }
            (Handle::Buffered(handle), Memory::Plain(bytes)) => {
                let written = self.uninterrupted(|| handle.write_at(bytes.clone(), offset)).await?;
                (written, Memory::Plain(bytes))
            }
            _ => unreachable!("all files of a directory are opened alike, and so is their memory"),
        };
        if written != len {
            return Err(DiskError {
                kind: DiskErrorKind::Io,
                context: format!("write {}: only {written} of {len} bytes at {offset}", self.path),
            });
        }
        Ok(Buffer(buffer))
    }

    /// A write that was interrupted before anything was written is the one that may be repeated.
    async fn uninterrupted<W>(&self, write: impl Fn() -> W) -> DiskResult<usize>
    where
        W: Future<Output = Result<usize, GlommioError<()>>>,
    {
        loop {
            match write().await {
                Ok(written) => return Ok(written),
                Err(error) if was_interrupted(&error) => {}
                Err(error) => return Err(failed("write", &self.path, &error)),
            }
        }
    }

    async fn flush(&self) -> DiskResult<()> {
        let done = match &self.handle {
            Handle::Direct(handle) => handle.fdatasync().await,
            Handle::Buffered(handle) => handle.fdatasync().await,
        };
        done.map_err(|error| failed("flush", &self.path, &error))
    }
}

/// Memory that a file can be written from. It fits every file of its core's [`DirDisk`].
pub struct Buffer(Memory);

enum Memory {
    /// Aligned, and of the executor's registered memory while that lasts.
    Dma(DmaBuffer),
    Plain(Vec<u8>),
}

impl Buffer {
    /// What will be written.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Dma(buffer) => buffer.as_bytes(),
            Memory::Plain(bytes) => bytes,
        }
    }

    /// What will be written, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Dma(buffer) => buffer.as_bytes_mut(),
            Memory::Plain(bytes) => bytes,
        }
    }

    /// Forgets what is behind the first `len` bytes, a multiple of 4 096.
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len.is_multiple_of(BLOCK) && len <= self.bytes().len(),
            "{len} bytes are not whole blocks of it"
        );
        match &mut self.0 {
            Memory::Dma(buffer) => buffer.trim_to_size(len),
            Memory::Plain(bytes) => bytes.truncate(len),
        }
    }
}

/// A segment of the log, zeroed before, overwritten in place: the one path on which clients wait for the disk.
pub struct LogFile {
    file: DiskFile,
    flush: Flush,
}

impl LogFile {
    /// Opens a file that is there.
    pub async fn open(disk: &DirDisk, path: &str, flush: Flush) -> DiskResult<LogFile> {
        let file = disk.open_with(path, false, flush == Flush::EachWrite).await?;
        Ok(LogFile { file, flush })
    }

    /// Zeros to be filled and written, to this or another file of this core; `len` is a multiple of 4 096.
    pub fn buffer(&self, len: usize) -> Buffer {
        self.file.buffer(len)
    }

    /// Writes all of `buffer` at `offset`, a multiple of 4 096. Durable when it returns, unless flushes are off; the
    /// buffer comes back. After an error nothing is known of the blocks: never repeat it. One task owns a file's
    /// writes: a dropped future may still write.
    pub async fn write(&self, offset: u64, buffer: Buffer) -> DiskResult<Buffer> {
        assert!(is_aligned(offset, buffer.bytes().len()), "a write at {offset} is not aligned");
        let buffer = self.file.write_all(offset, buffer).await?;
        if self.flush == Flush::Fdatasync {
            self.file.flush().await?;
        }
        Ok(buffer)
    }
}

fn is_aligned(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK)
}

fn was_interrupted(error: &GlommioError<()>) -> bool {
    error.raw_os_error() == Some(Errno::INTR.raw_os_error())
}

/// `Ok` for an error of this kind, which is not one here.
fn unless(kind: io::ErrorKind, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        other => other,
    }
}

fn failed(step: &str, path: &str, error: &GlommioError<()>) -> DiskError {
    disk_error(step, path, error.raw_os_error(), error)
}

fn disk_error(step: &str, path: &str, code: Option<i32>, words: &dyn Display) -> DiskError {
    let kind = match code.map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => DiskErrorKind::NotFound,
        Some(Errno::NOSPC | Errno::DQUOT) => DiskErrorKind::Full,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => DiskErrorKind::Permission,
        _ => DiskErrorKind::Io,
    };
    DiskError { kind, context: format!("{step} {path}: {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::start;
    use crate::runtime::scratch::Scratch;
    use rustix::fs::fcntl_getfl;
    use std::os::fd::AsFd;

    /// Runs `body` on an executor, past the page cache and through it.
    fn on_disk<B: Future<Output = ()> + 'static>(
        name: &str,
        body: impl Fn(DirDisk) -> B + Clone + Send + 'static,
    ) {
        for through_cache in [false, true] {
            let scratch = Scratch::new(&format!("{name}-{through_cache}"));
            let path = scratch.path().to_owned();
            let body = body.clone();
            let main = move |context: crate::runtime::executor::CoreContext| {
                let (path, body) = (path.clone(), body.clone());
                async move {
                    let claim = Claim::new(&path, true).unwrap();
                    let mut disk = DirDisk::new(&claim, &context.ticker, &context.reactor);
                    if through_cache {
                        Rc::get_mut(&mut disk.0).unwrap().direct = false;
                    }
                    body(disk).await;
                }
            };
            start(&[None], main).unwrap().join().unwrap();
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index / 7) as u8).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        on_disk("disk-read", |disk| async move {
            let data = pattern(300 << 10);
            let file = disk.create("file").await.unwrap();
            disk.write(&file, 0, data.clone()).await.unwrap();
            disk.write(&file, 8_192, vec![9; 4_096]).await.unwrap();
            disk.sync(&file).await.unwrap();
            assert_eq!(disk.len(&file).await.unwrap(), data.len() as u64);
            let read = disk.read(&file, 0, 2 << 20).await.unwrap();
            assert_eq!(read.len(), data.len());
            assert!(
                read[..8_192] == data[..8_192]
                    && read[8_192..12_288] == [9; 4_096]
                    && read[12_288..] == data[12_288..]
            );
            assert_eq!(disk.read(&file, data.len() as u64, 4_096).await.unwrap(), Vec::<u8>::new());
        });
    }

    #[test]
    fn file_may_end_anywhere() {
        on_disk("disk-end", |disk| async move {
            let file = disk.create("file").await.unwrap();
            disk.write(&file, 0, pattern(8_192)).await.unwrap();
            disk.truncate(&file, 5_000).await.unwrap();
            assert_eq!(disk.len(&file).await.unwrap(), 5_000);
            assert_eq!(disk.read(&file, 0, 8_192).await.unwrap(), pattern(8_192)[..5_000]);
            assert_eq!(disk.read(&file, 4_096, 4_096).await.unwrap(), pattern(8_192)[4_096..5_000]);
            assert_eq!(disk.read(&file, 8_192, 4_096).await.unwrap(), Vec::<u8>::new());
        });
    }

    #[test]
    fn names_are_made_changed_listed_and_removed() {
        on_disk("disk-names", |disk| async move {
            disk.make_dir("parts").await.unwrap();
            disk.make_dir("parts").await.unwrap();
            drop(disk.create("parts/b").await.unwrap());
            drop(disk.create("parts/a").await.unwrap());
            disk.rename("parts/b", "parts/c").await.unwrap();
            disk.sync_dir("parts").await.unwrap();
            disk.sync_dir("").await.unwrap();
            assert_eq!(disk.list("parts").await.unwrap(), ["a", "c"]);
            disk.remove("parts/a").await.unwrap();
            disk.remove("parts/a").await.unwrap();
            disk.remove("parts/c").await.unwrap();
            disk.remove_dir("parts").await.unwrap();
            disk.remove_dir("parts").await.unwrap();
            assert_eq!(disk.list("").await.unwrap(), ["LOCK"]);
            assert!(disk.free_bytes().await.unwrap() > 0);
        });
    }

    #[test]
    fn errors_name_kind_step_and_path() {
        on_disk("disk-errors", |disk| async move {
            let Err(error) = disk.open("no/such", false).await else { panic!("opened") };
            assert_eq!(error.kind, DiskErrorKind::NotFound);
            assert!(error.context.starts_with("open no/such: "), "{error}");
            let Err(error) = disk.rename("nothing", "something").await else { panic!("renamed") };
            assert_eq!(error.kind, DiskErrorKind::NotFound);
            disk.make_dir("full").await.unwrap();
            drop(disk.create("full/file").await.unwrap());
            assert_eq!(disk.remove_dir("full").await.unwrap_err().kind, DiskErrorKind::Io);
        });
    }

    #[test]
    fn log_writes_reach_the_device_before_they_return() {
        on_disk("disk-log", |disk| async move {
            let file = disk.create("log").await.unwrap();
            disk.write(&file, 0, vec![0; 1 << 20]).await.unwrap();
            disk.sync(&file).await.unwrap();
            for (flush, dsync) in [(Flush::EachWrite, true), (Flush::Fdatasync, false), (Flush::Never, false)]
            {
                let log = LogFile::open(&disk, "log", flush).await.unwrap();
                let flags = match &log.file.handle {
                    Handle::Direct(handle) => fcntl_getfl(handle.as_fd()).unwrap(),
                    Handle::Buffered(_) => break,
                };
                assert_eq!(flags.contains(OFlags::DSYNC), dsync);
                assert!(flags.contains(OFlags::DIRECT));
                let mut buffer = log.buffer(8_192);
                assert_eq!(buffer.bytes(), [0; 8_192]);
                buffer.bytes_mut().fill(7);
                let mut buffer = log.write(4_096, buffer).await.unwrap();
                buffer.truncate(4_096);
                buffer.bytes_mut().fill(8);
                log.write(16_384, buffer).await.unwrap();
                let read = disk.read(&log.file, 0, 24_576).await.unwrap();
                assert!(read[4_096..12_288] == [7; 8_192] && read[16_384..20_480] == [8; 4_096]);
                assert!(read[..4_096] == [0; 4_096] && read[20_480..] == [0; 4_096]);
            }
        });
    }

    #[test]
    fn background_writing_waits_and_lets_others_run() {
        on_disk("disk-pace", |disk| async move {
            let before = clock::mono();
            for _ in 0..20 {
                disk.pace(128 << 10).await;
            }
            // 2.5 MiB at 50 MB/s are 52 ms, of which 10 ms may be caught up.
            assert!(clock::mono().since(before) >= 35_000_000);
        });
    }
}
