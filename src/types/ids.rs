//! Identities: of a cluster, a member, a core, an operation.

use core::fmt;

/// Random, drawn when the cluster is bootstrapped; every file and every peer message is bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's identity in the epoch log. Issued at each join, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct MemberId(pub u32);

impl MemberId {
    /// Never issued: versions that came in through the seed's Replicate carry it.
    pub const NONE: MemberId = MemberId(0);
    /// The member that bootstraps a cluster.
    pub const FIRST: MemberId = MemberId(1);
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Index of a core within its node: 0 .. cores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct CoreId(pub u16);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name that a client gave to an operation, so that a retry is recognised. Both parts are non-zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OperationId {
    /// The client's part.
    pub client: u64,
    /// The client's number for this operation.
    pub request: u64,
}

impl OperationId {
    /// None if either part is zero: such an operation has no identity and a retry of it is a second one.
    pub fn new(client: u64, request: u64) -> Option<OperationId> {
        (client != 0 && request != 0).then_some(OperationId { client, request })
    }
}
