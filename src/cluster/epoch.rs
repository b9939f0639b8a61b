//! An epoch: one decided state of membership. Pure content; how epochs are decided is not known here.

use crate::types::{ClusterId, MemberId};
use alloc::string::String;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_128;

/// First byte of an encoded epoch. A reader refuses what it does not know.
const FORMAT: u8 = 1;

/// The greatest weight: 25 600 vnodes.
pub const WEIGHT_PERCENT_MAX: u32 = 10_000;

/// A node's entry in an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Issued once, never reused.
    pub id: MemberId,
    /// What its vnodes' tokens are made from: its id, or that of the member that it replaced.
    pub placement: u32,
    /// Unique among the members.
    pub name: String,
    /// Replicas of a slot are spread over zones; may be empty.
    pub zone: String,
    /// 100 = 256 vnodes; 1 ..= [`WEIGHT_PERCENT_MAX`].
    pub weight_percent: u32,
    /// host:port, as advertised.
    pub client_address: String,
    /// host:port, as advertised.
    pub peer_address: String,
    /// host:port, as advertised; empty = off.
    pub admin_address: String,
}

/// One decided state of membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Epoch {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// From 1.
    pub number: u64,
    /// Hash of the epoch before; zero for the first.
    pub previous: [u8; 16],
    /// Replicas wanted per slot.
    pub replication: u8,
    /// The next member id to be issued.
    pub next_member: u32,
    /// In the order of their ids; never empty.
    pub members: Vec<Member>,
}

/// Bytes that are no epoch of a known format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EpochError {
    /// Cut short, or with something behind it.
    #[error("the epoch's encoding is damaged")]
    Damaged,
    /// Written by a later version.
    #[error("the epoch has format {0}, which this version does not know")]
    UnknownFormat(u8),
}

impl Epoch {
    /// The epoch of a cluster that begins: number 1, one member with id 1.
    pub fn bootstrap(cluster: ClusterId, replication: u8, mut first: Member) -> Epoch {
        (first.id, first.placement) = (MemberId::FIRST, MemberId::FIRST.0);
        Epoch {
            cluster,
            number: 1,
            previous: [0; 16],
            replication,
            next_member: MemberId::FIRST.0 + 1,
            members: alloc::vec![first],
        }
    }

    /// N in force: replicas of each slot.
    pub fn replicas_per_slot(&self) -> usize {
        usize::from(self.replication).min(self.members.len())
    }

    /// The member with this id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// What the next epoch names as its predecessor, and what ring fingerprints are made from.
    pub fn hash(&self) -> [u8; 16] {
        xxh3_128(&self.encode()).to_le_bytes()
    }

    /// Little-endian, strings and lists with a u32 length before them, in the order of the fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = alloc::vec![FORMAT];
        out.extend_from_slice(&self.cluster.0);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.previous);
        out.push(self.replication);
        out.extend_from_slice(&self.next_member.to_le_bytes());
        out.extend_from_slice(&(self.members.len() as u32).to_le_bytes());
        for member in &self.members {
            for number in [member.id.0, member.placement, member.weight_percent] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            let Member { name, zone, client_address, peer_address, admin_address, .. } = member;
            for text in [name, zone, client_address, peer_address, admin_address] {
                out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }

    /// Reads what [`Epoch::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Epoch, EpochError> {
        let mut reader = Reader(bytes);
        match reader.array::<1>()?[0] {
            FORMAT => {}
            other => return Err(EpochError::UnknownFormat(other)),
        }
        let cluster = ClusterId(reader.array()?);
        let number = u64::from_le_bytes(reader.array()?);
        let previous = reader.array()?;
        let replication = reader.array::<1>()?[0];
        let next_member = reader.u32()?;
        let mut members = Vec::new();
        for _ in 0..reader.u32()? {
            members.push(Member {
                id: MemberId(reader.u32()?),
                placement: reader.u32()?,
                weight_percent: reader.u32()?,
                name: reader.text()?,
                zone: reader.text()?,
                client_address: reader.text()?,
                peer_address: reader.text()?,
                admin_address: reader.text()?,
            });
        }
        let ids_rise = members.is_sorted_by(|a, b| a.id < b.id);
        let weights_fit =
            members.iter().all(|member| (1..=WEIGHT_PERCENT_MAX).contains(&member.weight_percent));
        let fit = ids_rise && weights_fit && number > 0 && replication > 0;
        if !reader.0.is_empty() || members.is_empty() || !fit {
            return Err(EpochError::Damaged);
        }
        Ok(Epoch { cluster, number, previous, replication, next_member, members })
    }
}

/// Takes fields off the front of a byte string.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], EpochError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(EpochError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, EpochError> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, EpochError> {
        let len = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(len).ok_or(EpochError::Damaged)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).map_err(|_| EpochError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::prng::Prng;

    pub(crate) fn one_member() -> Epoch {
        let member = Member {
            id: MemberId(0),
            placement: 0,
            name: "n1".into(),
            zone: "a".into(),
            weight_percent: 100,
            client_address: "127.0.0.1:7717".into(),
            peer_address: "127.0.0.1:7718".into(),
            admin_address: String::new(),
        };
        Epoch::bootstrap(ClusterId([7; 16]), 3, member)
    }

    #[test]
    fn epoch_survives_its_encoding() {
        let epoch = one_member();
        assert_eq!(Epoch::decode(&epoch.encode()), Ok(epoch.clone()));
        assert_eq!(epoch.replicas_per_slot(), 1);
        assert_eq!(epoch.member(MemberId::FIRST).map(|member| member.name.as_str()), Some("n1"));
    }

    #[test]
    fn damaged_bytes_are_refused_without_a_panic() {
        let bytes = one_member().encode();
        for cut in 0..bytes.len() {
            assert!(Epoch::decode(&bytes[..cut]).is_err());
        }
        let mut prng = Prng::new(3);
        for _ in 0..20_000 {
            let mut damaged = bytes.clone();
            damaged[prng.below(bytes.len() as u64) as usize] = prng.next_u64() as u8;
            Epoch::decode(&damaged).ok();
        }
    }

    #[test]
    fn weights_and_ids_that_cannot_be_are_refused() {
        let decoded = |change: &dyn Fn(&mut Epoch)| {
            let mut epoch = one_member();
            change(&mut epoch);
            Epoch::decode(&epoch.encode())
        };
        for weight in [1, WEIGHT_PERCENT_MAX] {
            assert!(decoded(&|epoch| epoch.members[0].weight_percent = weight).is_ok());
        }
        for weight in [0, WEIGHT_PERCENT_MAX + 1, u32::MAX] {
            let refused = decoded(&|epoch| epoch.members[0].weight_percent = weight);
            assert_eq!(refused, Err(EpochError::Damaged));
        }
        let twice = decoded(&|epoch| epoch.members.push(epoch.members[0].clone()));
        assert_eq!(twice, Err(EpochError::Damaged));
    }

    #[test]
    fn a_later_format_is_named_in_the_error() {
        let mut bytes = one_member().encode();
        bytes[0] = 9;
        assert_eq!(Epoch::decode(&bytes), Err(EpochError::UnknownFormat(9)));
    }
}
