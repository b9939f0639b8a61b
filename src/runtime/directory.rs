//! Takes hold of a data directory: makes it, looks at the file system below it, locks it against a second process.
//! Called once, before the executors start; knows nothing of what lies in it.

use rustix::fs::{FlockOperation, OFlags, flock, statfs};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file that is locked; it holds the process id of who holds the lock, for people.
const LOCK: &str = "LOCK";

/// Kinds of file system, by what a flush means there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// ext2, ext3 or ext4: one magic number for all.
    Ext,
    /// XFS.
    Xfs,
    /// In memory: nothing survives.
    Tmpfs,
    /// A container's layers: a flush reaches the upper one, O_DIRECT maybe.
    Overlay,
    /// NFS, CIFS, 9p, Ceph, FUSE: another machine or process decides what a flush means.
    Remote(&'static str),
    /// Known to copy on write, so that overwriting zeroed blocks allocates.
    CopyOnWrite(&'static str),
    /// Not known: its magic number.
    Other(u64),
}

impl FileSystem {
    /// Of `statfs`.
    fn from_magic(magic: u64) -> FileSystem {
        match magic {
            0xEF53 => FileSystem::Ext,
            0x5846_5342 => FileSystem::Xfs,
            0x0102_1994 | 0x8584_58F6 => FileSystem::Tmpfs,
            0x794C_7630 => FileSystem::Overlay,
            0x6969 => FileSystem::Remote("nfs"),
            0xFF53_4D42 | 0xFE53_4D42 | 0x517B => FileSystem::Remote("cifs"),
            0x0102_1997 => FileSystem::Remote("9p"),
            0x00C3_6400 => FileSystem::Remote("ceph"),
            0x6573_5546 => FileSystem::Remote("fuse"),
            0x9123_683E => FileSystem::CopyOnWrite("btrfs"),
            0x2FC1_2FC1 => FileSystem::CopyOnWrite("zfs"),
            0xCA45_1A4E => FileSystem::CopyOnWrite("bcachefs"),
            0xF2F5_2010 => FileSystem::CopyOnWrite("f2fs"),
            other => FileSystem::Other(other),
        }
    }

    /// True if the durability that is promised, and the speed that was measured, hold on it.
    pub fn is_fit(self) -> bool {
        matches!(self, FileSystem::Ext | FileSystem::Xfs)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileSystem::Ext => f.write_str("ext4"),
            FileSystem::Xfs => f.write_str("xfs"),
            FileSystem::Tmpfs => f.write_str("tmpfs"),
            FileSystem::Overlay => f.write_str("overlay"),
            FileSystem::Remote(name) | FileSystem::CopyOnWrite(name) => f.write_str(name),
            FileSystem::Other(magic) => write!(f, "unknown (0x{magic:x})"),
        }
    }
}

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
        "the data directory {} is on {file_system}: durability is promised on ext4 and xfs only; use one of those, or \
         --allow-any-fs to go without",
        path.display()
    )]
    Unfit {
        /// The directory.
        path: PathBuf,
        /// What it is on.
        file_system: FileSystem,
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
    file_system: FileSystem,
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
        let stat = statfs(&path).map_err(|error| failed("look at", &path)(error.into()))?;
        #[allow(clippy::unnecessary_cast, reason = "its width and sign differ between architectures")]
        let file_system = FileSystem::from_magic(stat.f_type as u32 as u64);
        if !file_system.is_fit() && !any_file_system {
            return Err(ClaimError::Unfit { path, file_system });
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
        Ok(Claim { path, file_system, direct, _lock: lock })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is on.
    pub fn file_system(&self) -> FileSystem {
        self.file_system
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

    #[test]
    fn only_local_journaling_file_systems_are_fit() {
        for magic in [0x0102_1994, 0x794C_7630, 0x6969, 0x9123_683E, 0x1234] {
            assert!(!FileSystem::from_magic(magic).is_fit());
        }
        assert!(FileSystem::from_magic(0xEF53).is_fit() && FileSystem::from_magic(0x5846_5342).is_fit());
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
