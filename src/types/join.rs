//! What a node says that wants to become a member, and what it is told.

use super::ids::{ClusterId, MemberId};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// What a joining node drew and keeps, so that its repeated requests are known for the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Nonce(pub [u8; 16]);

/// What a node says that wants to become a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRequest {
    /// The cluster that it means; None = whichever it asked.
    pub cluster: Option<ClusterId>,
    /// Drawn once by the node, and kept by it before it first asks; not zero.
    pub nonce: Nonce,
    /// Its name: 1 ..= 255 bytes, unique among the members.
    pub name: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// 100 = 256 vnodes; 1 ..= 10 000.
    pub weight_percent: u32,
    /// host:port for clients, for peers, and of the admin port; the last may be empty.
    pub addresses: [String; 3],
}

/// What it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Joined {
    /// It is a member.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// Its id, for ever.
        member: MemberId,
        /// An epoch that it belongs to, encoded.
        epoch: Bytes,
    },
    /// That node has no vote: ask one of those.
    AskVoters {
        /// Of peers: host:port, a few.
        addresses: Vec<String>,
    },
}
