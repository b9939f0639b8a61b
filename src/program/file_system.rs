//! Which file system a directory lies on, and whether it keeps what was flushed to it. Changes nothing.

use std::io;
use std::path::{Path, PathBuf};

/// Whether a node may keep its data there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fitness {
    /// What the node is made and tested for.
    Fit,
    /// Loses data, lets others change it, or was never tried; the reason.
    Unfit(&'static str),
}

/// A kind of file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// Its name; the number for those that have none here.
    pub name: String,
    /// Whether it will do.
    pub fitness: Fitness,
}

impl FileSystem {
    /// That of a path, or of the nearest directory above it that is there.
    ///
    /// # Errors
    /// The system cannot say.
    pub fn of(path: &Path) -> io::Result<FileSystem> {
        let found = rustix::fs::statfs(nearest(path)?)?;
        // The field is signed on some machines and wider than the number on most.
        Ok(FileSystem::from_magic(found.f_type as u32))
    }

    /// By the number in `statfs.f_type`, statfs(2).
    pub fn from_magic(magic: u32) -> FileSystem {
        const MEMORY: &str = "it keeps nothing over a restart";
        const REMOTE: &str = "a network lies between a flush and the disk";
        const LAYERED: &str = "a container's layer: it is thrown away with the container";
        const COPYING: &str = "it copies on write: overwriting a log takes new blocks each time; not tested";
        const FOREIGN: &str = "another program decides what a flush means";
        let (name, fitness) = match magic {
            0xEF53 => ("ext4", Fitness::Fit),
            0x5846_5342 => ("xfs", Fitness::Fit),
            0x9123_683E => ("btrfs", Fitness::Unfit(COPYING)),
            0xF2F5_2010 => ("f2fs", Fitness::Unfit(COPYING)),
            0x2FC1_2FC1 => ("zfs", Fitness::Unfit(COPYING)),
            0xCA45_1A4E => ("bcachefs", Fitness::Unfit(COPYING)),
            0x0102_1994 => ("tmpfs", Fitness::Unfit(MEMORY)),
            0x8584_58F6 => ("ramfs", Fitness::Unfit(MEMORY)),
            0x794C_7630 => ("overlay", Fitness::Unfit(LAYERED)),
            0x6969 => ("nfs", Fitness::Unfit(REMOTE)),
            0xFF53_4D42 | 0x517B | 0xFE53_4D42 => ("smb", Fitness::Unfit(REMOTE)),
            0x0102_1997 => ("9p", Fitness::Unfit(REMOTE)),
            0x00C3_6400 => ("ceph", Fitness::Unfit(REMOTE)),
            0x5346_414F | 0x6B41_4653 => ("afs", Fitness::Unfit(REMOTE)),
            0x0116_1970 => ("gfs2", Fitness::Unfit(REMOTE)),
            0x0BD0_0BD0 => ("lustre", Fitness::Unfit(REMOTE)),
            0x6573_5546 => ("fuse", Fitness::Unfit(FOREIGN)),
            _ => {
                return FileSystem {
                    name: format!("0x{magic:x}"),
                    fitness: Fitness::Unfit("it is not known here"),
                };
            }
        };
        FileSystem { name: name.to_owned(), fitness }
    }
}

/// The path itself if it is there, else the nearest directory above it that is.
///
/// # Errors
/// Something on the way cannot be looked at.
pub fn nearest(path: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    for place in whole.ancestors() {
        match place.symlink_metadata() {
            Ok(_) => return place.canonicalize(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tested_file_systems_are_fit() {
        let fit = |magic| FileSystem::from_magic(magic).fitness == Fitness::Fit;
        assert!(fit(0xEF53) && fit(0x5846_5342));
        for magic in [0x0102_1994, 0x794C_7630, 0x6969, 0x6573_5546, 0x9123_683E, 0x1234_5678] {
            assert!(matches!(FileSystem::from_magic(magic).fitness, Fitness::Unfit(_)), "{magic:x}");
        }
    }

    #[test]
    fn absent_directories_are_judged_by_what_is_above_them() {
        assert_eq!(nearest(Path::new("/nonexistent/a/b")).unwrap(), Path::new("/"));
        assert_eq!(nearest(Path::new("/proc/nonexistent")).unwrap(), Path::new("/proc"));
        assert!(matches!(FileSystem::of(Path::new("/proc/x")).unwrap().fitness, Fitness::Unfit(_)));
    }
}
