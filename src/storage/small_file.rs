//! Small files that are replaced whole: their envelope and the steps that make a replacement survive a crash.
//!
//! Knows nothing of what is inside. The envelope, little-endian; its first 24 bytes keep their meaning in every later
//! format, so that an older program can tell "newer" from "damaged":
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | magic: which kind of file |
//! | 8 | 4 | format version |
//! | 12 | 4 | payload bytes |
//! | 16 | 4 | crc32c of bytes 0..16 and of the payload |
//! | 20 | 4 | zero |
//! | 24 | | payload, then zeros up to a multiple of 4 096 |

use super::disk::{Disk, DiskError, DiskErrorKind, DiskResult};
use crate::types::mutant::{Mutant, planted};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Buf, BufMut};

/// Every transfer begins and ends at a multiple of it: O_DIRECT asks for it.
pub const PAGE_BYTES: usize = 4_096;

/// Ending of a file that is not whole yet; what bears it after a crash is removed.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

const ENVELOPE_BYTES: usize = 24;
/// Far above any NODE or MANIFEST; a longer file is not one of them.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A kind of small file.
#[derive(Clone, Copy, Debug)]
pub struct FileKind {
    /// The first bytes of the file.
    pub magic: [u8; 8],
    /// The format that is written, and the newest that can be read.
    pub version: u32,
}

/// Why a small file cannot be used. The directory was not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file. Never taken for an empty one.
    #[error("{path} is missing")]
    Missing {
        /// The file.
        path: String,
    },
    /// Its bytes are not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error("{path} has format {found}, this program reads formats up to {known}: a newer version wrote it")]
    NewerFormat {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// Intact, but of another cluster, member, layout or core.
    #[error("{path} belongs to {found}, not to {expected}")]
    NotOurs {
        /// The file.
        path: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A path below the data directory; `dir` may be "".
pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// The whole file, ready to be written.
pub fn enclose(kind: FileKind, payload: &[u8]) -> Vec<u8> {
    let padded = (ENVELOPE_BYTES + payload.len()).next_multiple_of(PAGE_BYTES);
    let mut file = Vec::with_capacity(padded);
    file.put_slice(&kind.magic);
    file.put_u32_le(kind.version);
    file.put_u32_le(u32::try_from(payload.len()).expect("small files are far below 4 GiB"));
    let crc = crc32c::crc32c_append(crc32c::crc32c(&file), payload);
    file.put_u32_le(crc);
    file.put_u32_le(0);
    file.put_slice(payload);
    file.resize(padded, 0);
    file
}

/// The format version and the payload of a whole file. `path` is for the message.
pub fn disclose<'a>(kind: FileKind, path: &str, file: &'a [u8]) -> Result<(u32, &'a [u8]), FileError> {
    let damaged = |what| FileError::Damaged { path: path.to_owned(), what };
    let Some((mut envelope, rest)) = file.split_at_checked(ENVELOPE_BYTES) else {
        return Err(damaged("it is too short"));
    };
    let sealed = &envelope[..16];
    if sealed[..8] != kind.magic {
        return Err(damaged("it does not begin with its magic number"));
    }
    envelope.advance(8);
    let version = envelope.get_u32_le();
    let payload = rest.get(..envelope.get_u32_le() as usize).ok_or(damaged("it is too short"))?;
    if envelope.get_u32_le() != crc32c::crc32c_append(crc32c::crc32c(sealed), payload) {
        return Err(damaged("its checksum is wrong"));
    }
    if version > kind.version {
        return Err(FileError::NewerFormat { path: path.to_owned(), found: version, known: kind.version });
    }
    Ok((version, payload))
}

/// The bytes of a small file.
pub async fn read_file<D: Disk>(disk: &D, path: &str) -> Result<Vec<u8>, FileError> {
    let file = match disk.open(path, false).await {
        Ok(file) => file,
        Err(error) if error.kind == DiskErrorKind::NotFound => {
            return Err(FileError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(error.into()),
    };
    let len = disk.len(&file).await?;
    if len > FILE_BYTES_MAX {
        return Err(FileError::Damaged { path: path.to_owned(), what: "it is too long" });
    }
    Ok(disk.read(&file, 0, (len as usize).next_multiple_of(PAGE_BYTES)).await?)
}

/// Replaces a file: after a crash at any step the old contents or the new are there, whole; after success the new.
///
/// An error of kind [`DiskErrorKind::Full`] leaves the old contents in force. After any other nobody knows which are:
/// the process must not go on.
pub async fn replace_file<D: Disk>(disk: &D, dir: &str, name: &str, contents: Vec<u8>) -> DiskResult<()> {
    assert!(contents.len().is_multiple_of(PAGE_BYTES), "O_DIRECT writes whole pages");
    let path = join(dir, name);
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    let file = disk.create(&temporary).await?;
    disk.write(&file, 0, contents).await?;
    disk.sync(&file).await?;
    drop(file);
    publish(disk, dir, &temporary, &path).await
}

/// Gives a finished and flushed file its name, durably.
pub async fn publish<D: Disk>(disk: &D, dir: &str, temporary: &str, path: &str) -> DiskResult<()> {
    // From here on the new name may be the one that survives.
    disk.rename(temporary, path).await.map_err(undecided)?;
    if planted(Mutant::NoDirectorySync) {
        return Ok(());
    }
    disk.sync_dir(dir).await.map_err(undecided)
}

/// Turns "full, nothing changed" into a failure after which nobody knows what is durable.
pub fn undecided(error: DiskError) -> DiskError {
    match error.kind {
        DiskErrorKind::Full => DiskError { kind: DiskErrorKind::Io, ..error },
        DiskErrorKind::NotFound | DiskErrorKind::Permission | DiskErrorKind::Io => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;
    use alloc::string::ToString;

    const KIND: FileKind = FileKind { magic: *b"testfile", version: 3 };

    #[test]
    fn every_flipped_bit_of_the_used_part_is_noticed() {
        let file = enclose(KIND, b"twelve bytes");
        assert_eq!(disclose(KIND, "F", &file), Ok((3, &b"twelve bytes"[..])));
        for bit in (0..(ENVELOPE_BYTES + 12) * 8).filter(|bit| !(160..192).contains(bit)) {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(disclose(KIND, "F", &bad), Err(FileError::Damaged { .. })), "bit {bit}");
        }
    }

    #[test]
    fn newer_format_is_told_from_damage() {
        let file = enclose(FileKind { version: 4, ..KIND }, b"x");
        let error = disclose(KIND, "F", &file).expect_err("format 4 is unknown");
        assert_eq!(
            error.to_string(),
            "F has format 4, this program reads formats up to 3: a newer version wrote it"
        );
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        let mut prng = Prng::new(7);
        for _ in 0..20_000 {
            let mut file = enclose(KIND, b"payload");
            file.truncate(prng.below(40) as usize);
            for _ in 0..prng.below(4) {
                if !file.is_empty() {
                    let at = prng.below(file.len() as u64) as usize;
                    file[at] = prng.next_u64() as u8;
                }
            }
            assert!(file.len() >= 31 || disclose(KIND, "F", &file).is_err());
        }
    }

    #[test]
    fn envelope_has_not_drifted() {
        let file = enclose(KIND, b"abc");
        assert_eq!(file.len(), PAGE_BYTES);
        assert_eq!(file[..16], *b"testfile\x03\0\0\0\x03\0\0\0");
        assert_eq!(file[16..20], 0x2ba4_abb9_u32.to_le_bytes());
        assert_eq!(file[20..27], *b"\0\0\0\0abc");
        assert!(file[27..].iter().all(|&byte| byte == 0));
    }
}
