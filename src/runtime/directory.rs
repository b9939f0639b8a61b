//! Takes hold of a data directory: makes it, looks at the file system below it, locks it against a second process.
//! Called once, before the executors start; knows nothing of what lies in it.

use super::file_system::{FileSystem, Fitness};
use rustix::fs::{FlockOperation, OFlags, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file that is locked; it holds the process id of who holds the lock, for people.
const LOCK: &str = "LOCK";

/// Why a data directory cannot be used. It is as it was, but for having been made.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process has it (exit code 1).
    #[error("the data directory {} is in use by process {holder}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What that process wrote: its id.
        holder: String,
    },
    /// A file system on which nothing is promised (exit code 78).
    #[error(
        "the data directory {} is on {name}: {reason}; durability is promised on ext4 and xfs only: use one of those, or \
         --allow-any-fs to go without",
        path.display()
    )]
    Unfit {
        /// The directory.
        path: PathBuf,
        /// What it is on.
        name: String,
        /// Why that will not do.
        reason: &'static str,
    },
    /// The system refused a step (exit code 74, or 77 for a permission).
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A data directory that belongs to this process for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    direct: bool,
    _lock: File,
}

impl Claim {
    /// Makes the directory (0700) if it is not there, and locks it. A file system that is not fit is refused unless
    /// `any_file_system`.
    pub fn new(path: &Path, any_file_system: bool) -> Result<Claim, ClaimError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| ClaimError::Io { step, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))?;
        let path = path.canonicalize().map_err(failed("find", path))?;
        let FileSystem { name, fitness } = FileSystem::of(&path).map_err(failed("look at", &path))?;
        if let (Fitness::Unfit(reason), false) = (fitness, any_file_system) {
            return Err(ClaimError::Unfit { path, name, reason });
        }
        let lock_path = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&lock_path).map_err(failed("open", &lock_path))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let error = io::Error::from(error);
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(failed("lock", &lock_path)(error));
            }
            let mut holder = String::new();
            // For the message only.
            let _unread = lock.read_to_string(&mut holder);
            return Err(ClaimError::InUse { path, holder: holder.trim().to_owned() });
        }
        sign(&mut lock).map_err(failed("write", &lock_path))?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open(2), which takes an int");
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(&lock_path).is_ok();
        Ok(Claim { path, direct, _lock: lock })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether files can be opened past the page cache there.
    pub fn direct(&self) -> bool {
        self.direct
    }
}

fn sign(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn directory_is_made_private_and_belongs_to_one() {
        let scratch = Scratch::new("claim");
        let path = scratch.path().join("a/b");
        let claim = Claim::new(&path, true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let Err(ClaimError::InUse { holder, .. }) = Claim::new(&path, true) else { panic!("claimed twice") };
        assert_eq!(holder, std::process::id().to_string());
        drop(claim);
        Claim::new(&path, true).unwrap();
    }

    #[test]
    fn file_in_its_place_is_an_error() {
        let scratch = Scratch::new("claim-file");
        let path = scratch.path().join("file");
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Claim::new(&path, true), Err(ClaimError::Io { step: "make", .. })));
    }

    /// Where there is a tmpfs, it is refused by name.
    #[test]
    fn memory_is_no_disk() {
        let path = Path::new("/dev/shm").join(format!("ringcore-claim-{}", std::process::id()));
        let Ok(()) = std::fs::create_dir(&path) else { return };
        let refused = Claim::new(&path, false);
        std::fs::remove_dir(&path).unwrap();
        if let Err(error) = refused {
            assert!(error.to_string().contains("tmpfs"), "{error}");
        }
    }
}
