//! The JOIN file: what a node keeps of its joining a cluster until its own log says it. It is written before the cluster is
//! first asked, so that a node that is killed on the way asks again as the same one, and once more before NODE names the
//! member that it has become.
//!
//! Payload (envelope: `small_file`), little-endian: nonce 16, then, once it was let in, member 4 and the encoded epoch.

use super::disk::Disk;
use super::small_file::{self, FileError, FileKind, replace_file};
use crate::types::MemberId;
use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use bytes::{Buf, BufMut};

/// Name of the file.
pub const JOIN_FILE: &str = "JOIN";

const JOIN_KIND: FileKind = FileKind { magic: *b"rc-join\n", version: 1 };

/// How far a node has come on its way into a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinFile {
    /// Drawn once: the cluster knows the node's repeated requests by it.
    pub nonce: [u8; 16],
    /// The member that it has become, and the epoch that says so, encoded.
    pub joined: Option<(MemberId, Vec<u8>)>,
}

/// Reads the file. None: this node has not asked to join anything.
pub async fn find<D: Disk>(disk: &D) -> Result<Option<JoinFile>, FileError> {
    match small_file::read_file(disk, JOIN_FILE).await {
        Ok(file) => JoinFile::decode(&file).map(Some),
        Err(FileError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the file say this, durably.
pub async fn write<D: Disk>(disk: &D, join: &JoinFile) -> Result<(), FileError> {
    Ok(replace_file(disk, "", JOIN_FILE, join.encode()).await?)
}

impl JoinFile {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.nonce.to_vec();
        if let Some((member, epoch)) = &self.joined {
            out.put_u32_le(member.0);
            out.put_slice(epoch);
        }
        small_file::enclose(JOIN_KIND, &out)
    }

    fn decode(file: &[u8]) -> Result<JoinFile, FileError> {
        let (_, mut payload) = small_file::disclose(JOIN_KIND, JOIN_FILE, file)?;
        let damaged = || FileError::Damaged { path: JOIN_FILE.to_owned(), what: "it is too short" };
        let mut nonce = [0; 16];
        payload.try_copy_to_slice(&mut nonce).map_err(|_| damaged())?;
        if payload.is_empty() {
            return Ok(JoinFile { nonce, joined: None });
        }
        let member = MemberId(payload.try_get_u32_le().map_err(|_| damaged())?);
        Ok(JoinFile { nonce, joined: Some((member, payload.to_vec())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_reads_back_at_every_stage() {
        for joined in [None, Some((MemberId(7), alloc::vec![1, 2, 3]))] {
            let join = JoinFile { nonce: [9; 16], joined };
            assert_eq!(JoinFile::decode(&join.encode()), Ok(join));
        }
    }

    #[test]
    fn damaged_file_is_refused() {
        let file = JoinFile { nonce: [9; 16], joined: None }.encode();
        let mut damaged = file.clone();
        damaged[30] ^= 1;
        assert!(matches!(JoinFile::decode(&damaged), Err(FileError::Damaged { .. })));
        let short = small_file::enclose(JOIN_KIND, &[1; 15]);
        assert!(matches!(JoinFile::decode(&short), Err(FileError::Damaged { .. })));
    }
}
