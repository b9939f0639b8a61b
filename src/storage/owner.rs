//! Whose a file is: every file of a core is bound to one cluster, member, layout and core.

use super::data_dir::LayoutId;
use crate::types::{ClusterId, CoreId, MemberId};
use bytes::{Buf, BufMut};
use core::fmt;

/// One core of one layout of one member. A file of another owner is refused, never read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member, as the epoch log knows it.
    pub member: MemberId,
    /// The layout of the data directory.
    pub layout: LayoutId,
    /// Cores of that layout.
    pub cores: u16,
    /// The core within it.
    pub core: CoreId,
}

impl Owner {
    /// Bytes of the encoded form.
    pub const BYTES: usize = 28;

    /// Appends cluster 16, member 4, layout 4, cores 2, core 2; little-endian.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.cluster.0);
        out.put_u32_le(self.member.0);
        out.put_u32_le(self.layout.0);
        out.put_u16_le(self.cores);
        out.put_u16_le(self.core.0);
    }

    /// Takes an encoded owner off the front; None if too few bytes are left.
    pub fn decode(bytes: &mut &[u8]) -> Option<Owner> {
        let mut cluster = ClusterId::default();
        bytes.try_copy_to_slice(&mut cluster.0).ok()?;
        Some(Owner {
            cluster,
            member: MemberId(bytes.try_get_u32_le().ok()?),
            layout: LayoutId(bytes.try_get_u32_le().ok()?),
            cores: bytes.try_get_u16_le().ok()?,
            core: CoreId(bytes.try_get_u16_le().ok()?),
        })
    }

    /// Where checksums of the owner's files start from.
    pub fn checksum(&self) -> u32 {
        let mut bytes = [0; Owner::BYTES];
        self.encode(&mut &mut bytes[..]);
        crc32c::crc32c(&bytes)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { cluster, member, layout, cores, core } = self;
        write!(f, "cluster {cluster}, member {member}, layout {}, core {core} of {cores}", layout.0)
    }
}
