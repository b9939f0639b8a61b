//! A data directory seen through plain files, for looking into it: reads, and refuses every step that would change
//! something. Needs no io_uring and no lock.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::storage::disk::{Disk, DiskError, DiskErrorKind, DiskResult};

/// The directory.
#[derive(Clone, Debug)]
pub struct ReadOnlyDisk {
    root: Rc<Path>,
}

/// One of its files.
#[derive(Debug)]
pub struct ReadOnlyFile {
    path: PathBuf,
    file: File,
}

/// What a future over a [`ReadOnlyDisk`] gives: none of its steps waits.
///
/// # Panics
/// If the future waits for something else.
pub fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a plain file lets nobody wait"),
    }
}

impl ReadOnlyDisk {
    /// The data directory `root`.
    pub fn new(root: &Path) -> ReadOnlyDisk {
        ReadOnlyDisk { root: root.into() }
    }

    fn refused<T>(&self, step: &str, path: &str) -> DiskResult<T> {
        let context = format!("cannot {step} {}: nothing is changed here", self.root.join(path).display());
        Err(DiskError { kind: DiskErrorKind::Permission, context })
    }
}

impl Disk for ReadOnlyDisk {
    type File = ReadOnlyFile;

    async fn create(&self, path: &str) -> DiskResult<ReadOnlyFile> {
        self.refused("create", path)
    }

    async fn open(&self, path: &str, _dsync: bool) -> DiskResult<ReadOnlyFile> {
        let path = self.root.join(path);
        let file = File::open(&path).map_err(|error| failed("open", &path, &error))?;
        Ok(ReadOnlyFile { path, file })
    }

    async fn len(&self, file: &ReadOnlyFile) -> DiskResult<u64> {
        let metadata = file.file.metadata().map_err(|error| failed("look at", &file.path, &error))?;
        Ok(metadata.len())
    }

    async fn read(&self, file: &ReadOnlyFile, offset: u64, len: usize) -> DiskResult<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut at = 0;
        while at < len {
            match file.file.read_at(&mut bytes[at..], offset + at as u64) {
                Ok(0) => break,
                Ok(read) => at += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &file.path, &error)),
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    }

    async fn write(&self, file: &ReadOnlyFile, _offset: u64, _data: Vec<u8>) -> DiskResult<()> {
        self.refused("write", &file.path.to_string_lossy())
    }

    async fn sync(&self, file: &ReadOnlyFile) -> DiskResult<()> {
        self.refused("flush", &file.path.to_string_lossy())
    }

    async fn truncate(&self, file: &ReadOnlyFile, _len: u64) -> DiskResult<()> {
        self.refused("cut", &file.path.to_string_lossy())
    }

    async fn rename(&self, from: &str, _to: &str) -> DiskResult<()> {
        self.refused("rename", from)
    }

    async fn remove(&self, path: &str) -> DiskResult<()> {
        self.refused("remove", path)
    }

    async fn make_dir(&self, path: &str) -> DiskResult<()> {
        self.refused("make", path)
    }

    async fn remove_dir(&self, path: &str) -> DiskResult<()> {
        self.refused("remove", path)
    }

    async fn sync_dir(&self, path: &str) -> DiskResult<()> {
        self.refused("flush", path)
    }

    async fn list(&self, path: &str) -> DiskResult<Vec<String>> {
        let path = self.root.join(path);
        let names = || -> io::Result<Vec<OsString>> {
            fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        let names = names().map_err(|error| failed("list", &path, &error))?;
        // A node's own names are ASCII: what is not is nobody's that is looked for.
        let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn free_bytes(&self) -> DiskResult<u64> {
        Ok(0)
    }

    async fn pace(&self, _bytes: u64) {}
}

fn failed(step: &str, path: &Path, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => DiskErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => DiskErrorKind::Permission,
        _ => DiskErrorKind::Io,
    };
    DiskError { kind, context: format!("cannot {step} {}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_to_their_end_and_never_changed() {
        let root = std::env::temp_dir().join(format!("ringcore-read-only-{}", std::process::id()));
        fs::create_dir_all(root.join("b")).unwrap();
        fs::write(root.join("a"), [7; 5_000]).unwrap();
        let disk = ReadOnlyDisk::new(&root);
        let file = ready(disk.open("a", false)).unwrap();
        assert_eq!(ready(disk.len(&file)), Ok(5_000));
        assert_eq!(ready(disk.read(&file, 4_096, 4_096)).unwrap(), [7; 904]);
        assert_eq!(ready(disk.list("")).unwrap(), ["a", "b"]);
        let denied = DiskErrorKind::Permission;
        assert_eq!(ready(disk.write(&file, 0, vec![1])).unwrap_err().kind, denied);
        assert_eq!(ready(disk.truncate(&file, 0)).unwrap_err().kind, denied);
        assert_eq!(ready(disk.remove("a")).unwrap_err().kind, denied);
        assert_eq!(ready(disk.create("c")).unwrap_err().kind, denied);
        assert_eq!(ready(disk.open("c", false)).unwrap_err().kind, DiskErrorKind::NotFound);
        assert_eq!(fs::read(root.join("a")).unwrap(), [7; 5_000]);
        fs::remove_dir_all(root).unwrap();
    }
}
