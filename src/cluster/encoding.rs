//! An epoch as bytes, for the log and for messages. Format 2; format 1 is still read.
//!
//! Integers are little-endian, *number* is a LEB128 of up to 64 bits, texts are a u32 length and UTF-8:
//!
//! `2 | cluster 16 | number 8 | previous 16 | replication 1 | write quorum 1 | read quorum 1 | next member 4 | members 4,
//! each: id 4, placement 4, weight 4, nonce 16, state 1, voter 1, name, zone, client, peer and admin address |
//! configurations *number*, each: age of c *number*, base length 1, target length 1, indexes into the members *number* |
//! runs until there are 16 384 slots, each: slots *number*, index into the configurations *number*`
//!
//! Configurations stand in the order of the first slot that has them, runs are as long as they can be: there is one
//! encoding of each epoch, and other bytes are refused.
//!
//! Format 1 ends after the next member, and its members lack nonce, state and vote: all are voters, the slots lie where
//! placement puts them, and their c is 1.

use super::epoch::{
    EPOCH_BYTES_MAX, Epoch, EpochError, Member, MemberState, Nonce, check_members, check_numbers,
};
use super::slots::{Builder, Configuration, REPLICAS_MAX};
use crate::types::{ClusterId, MemberId, SLOTS};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use smallvec::SmallVec;

const FORMAT: u8 = 2;
const FORMAT_WITHOUT_SLOTS: u8 = 1;

pub(super) fn encode(epoch: &Epoch) -> Vec<u8> {
    let mut out = alloc::vec![FORMAT];
    out.extend_from_slice(&epoch.cluster.0);
    out.extend_from_slice(&epoch.number.to_le_bytes());
    out.extend_from_slice(&epoch.previous);
    out.extend_from_slice(&[epoch.replication, epoch.write_quorum, epoch.read_quorum]);
    out.extend_from_slice(&epoch.next_member.to_le_bytes());
    out.extend_from_slice(&(epoch.members.len() as u32).to_le_bytes());
    for member in &epoch.members {
        for number in [member.id.0, member.placement, member.weight_percent] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&member.nonce.0);
        out.extend_from_slice(&[member.state as u8, u8::from(member.voter)]);
        for text in member.texts() {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    put_slots(&mut out, epoch);
    out
}

fn put_slots(out: &mut Vec<u8>, epoch: &Epoch) {
    let by_id: BTreeMap<MemberId, u64> =
        (0..).zip(&epoch.members).map(|(index, member)| (member.id, index)).collect();
    put_number(out, epoch.slots.distinct().count() as u64);
    for Configuration { base, target, c } in epoch.slots.distinct() {
        put_number(out, epoch.number.wrapping_sub(c));
        out.extend_from_slice(&[base.len() as u8, target.len() as u8]);
        // A replica that is no member, and a c of a later epoch, make bytes that are refused.
        let index = |member| by_id.get(member).copied().unwrap_or(u64::MAX);
        base.iter().chain(target).for_each(|member| put_number(out, index(member)));
    }
    for run in epoch.slots.indices().chunk_by(|a, b| a == b) {
        put_number(out, run.len() as u64);
        put_number(out, u64::from(run[0]));
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn decode(bytes: &[u8]) -> Result<Epoch, EpochError> {
    if bytes.len() > EPOCH_BYTES_MAX {
        return Err(EpochError::Damaged);
    }
    let mut reader = Reader(bytes);
    match reader.byte()? {
        FORMAT => {
            let epoch = reader.epoch()?;
            epoch.check()?;
            if encode(&epoch) == bytes { Ok(epoch) } else { Err(EpochError::Damaged) }
        }
        FORMAT_WITHOUT_SLOTS => reader.epoch_without_slots(),
        other => Err(EpochError::UnknownFormat(other)),
    }
}

/// Takes fields off the front of a byte string.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn epoch(&mut self) -> Result<Epoch, EpochError> {
        let cluster = ClusterId(self.array()?);
        let number = u64::from_le_bytes(self.array()?);
        let previous = self.array()?;
        let [replication, write_quorum, read_quorum] = self.array()?;
        let next_member = self.u32()?;
        let mut members = Vec::new();
        for _ in 0..self.u32()? {
            members.push(self.member()?);
        }
        let slots = self.slots(number, &members)?.finish();
        if !self.0.is_empty() {
            return Err(EpochError::Damaged);
        }
        Ok(Epoch {
            cluster,
            number,
            previous,
            replication,
            write_quorum,
            read_quorum,
            next_member,
            members,
            slots,
        })
    }

    fn member(&mut self) -> Result<Member, EpochError> {
        Ok(Member {
            id: MemberId(self.u32()?),
            placement: self.u32()?,
            weight_percent: self.u32()?,
            nonce: Nonce(self.array()?),
            state: match self.byte()? {
                1 => MemberState::Joining,
                2 => MemberState::Normal,
                _ => return Err(EpochError::Damaged),
            },
            voter: match self.byte()? {
                0 => false,
                1 => true,
                _ => return Err(EpochError::Damaged),
            },
            name: self.text()?,
            zone: self.text()?,
            client_address: self.text()?,
            peer_address: self.text()?,
            admin_address: self.text()?,
        })
    }

    fn slots(&mut self, number: u64, members: &[Member]) -> Result<Builder, EpochError> {
        let count = self.number()?;
        let mut configurations = Vec::new();
        // Each takes three bytes at least: what is not there is not made room for.
        for _ in 0..count.min(SLOTS as u64 + 1) {
            configurations.push(self.configuration(number, members)?);
        }
        let mut builder = Builder::default();
        let mut interned: Vec<Option<u16>> = alloc::vec![None; configurations.len()];
        let mut left = SLOTS;
        while left > 0 {
            let (run, index) = (self.number()?, self.number()?);
            let index = usize::try_from(index).map_err(|_| EpochError::Damaged)?;
            let (c, base, replicas) = configurations.get(index).ok_or(EpochError::Damaged)?;
            let run = usize::try_from(run).ok().filter(|run| (1..=left).contains(run));
            let run = run.ok_or(EpochError::Damaged)?;
            let (base, target) = replicas.split_at(*base);
            let interned =
                interned[index].get_or_insert_with(|| builder.intern(Configuration { base, target, c: *c }));
            builder.push(*interned, run);
            left -= run;
        }
        Ok(builder)
    }

    /// c, the length of base, base and target.
    fn configuration(
        &mut self,
        number: u64,
        members: &[Member],
    ) -> Result<(u64, usize, SmallVec<[MemberId; 6]>), EpochError> {
        let c = number.checked_sub(self.number()?).ok_or(EpochError::Damaged)?;
        let [base, target] = self.array()?.map(usize::from);
        if base > REPLICAS_MAX || target > REPLICAS_MAX {
            return Err(EpochError::Damaged);
        }
        let mut replicas = SmallVec::new();
        for _ in 0..base + target {
            let index = usize::try_from(self.number()?).map_err(|_| EpochError::Damaged)?;
            replicas.push(members.get(index).ok_or(EpochError::Damaged)?.id);
        }
        Ok((c, base, replicas))
    }

    fn epoch_without_slots(&mut self) -> Result<Epoch, EpochError> {
        let cluster = ClusterId(self.array()?);
        let number = u64::from_le_bytes(self.array()?);
        let previous = self.array()?;
        let replication = self.byte()?;
        let next_member = self.u32()?;
        let mut members = Vec::new();
        for _ in 0..self.u32()? {
            let (id, placement, weight_percent) = (MemberId(self.u32()?), self.u32()?, self.u32()?);
            members.push(Member {
                placement,
                weight_percent,
                zone: String::new(),
                ..Member::new(id, self.text()?)
            });
            let member = members.last_mut().expect("it was just pushed");
            member.zone = self.text()?;
            member.client_address = self.text()?;
            member.peer_address = self.text()?;
            member.admin_address = self.text()?;
        }
        if !self.0.is_empty() {
            return Err(EpochError::Damaged);
        }
        // Placement is of members that can be.
        check_numbers(number, replication)?;
        check_members(&members, next_member)?;
        let epoch =
            Epoch { number, previous, next_member, ..Epoch::founded_by(cluster, replication, members) };
        epoch.check()?;
        Ok(epoch)
    }

    fn byte(&mut self) -> Result<u8, EpochError> {
        self.array().map(|[byte]| byte)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], EpochError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(EpochError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, EpochError> {
        self.array().map(u32::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, EpochError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(EpochError::Damaged)
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
    use crate::cluster::change::{JoinRequest, join};
    use crate::cluster::epoch::WEIGHT_PERCENT_MAX;
    use crate::cluster::slots::Slots;
    use crate::types::Slot;
    use crate::types::prng::Prng;

    fn cluster(members: u32) -> Epoch {
        Epoch::of_members(ClusterId([7; 16]), 3, members)
    }

    fn moving(members: u32) -> Epoch {
        let request = JoinRequest {
            cluster: None,
            nonce: Nonce([5; 16]),
            name: "new".into(),
            zone: "b".into(),
            weight_percent: 150,
            addresses: ["c:1".into(), "p:1".into(), String::new()],
        };
        let before = cluster(members);
        join(&before, before.hash(), &request).expect("it may join")
    }

    /// What the version before wrote, byte for byte: tests/golden holds the same.
    fn without_slots(member: &Member) -> Vec<u8> {
        let mut bytes = alloc::vec![1];
        bytes.extend([7; 16]);
        bytes.extend(1u64.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.push(3);
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        for number in [member.id.0, member.placement, member.weight_percent] {
            bytes.extend(number.to_le_bytes());
        }
        for text in member.texts() {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn epochs_survive_their_encoding() {
        for epoch in [cluster(1), cluster(5), moving(1), moving(2), moving(7)] {
            assert_eq!(Epoch::decode(&epoch.encode()), Ok(epoch.clone()));
        }
    }

    #[test]
    fn lone_member_takes_few_bytes_and_a_thousand_less_than_a_mebibyte() {
        assert!(cluster(1).encode().len() < 128);
        let mut epoch = cluster(1_000);
        for member in &mut epoch.members {
            member.zone = "zone-of-some-length".into();
            let address = || alloc::format!("node-{}.some-service.namespace.svc:7717", member.id);
            [member.client_address, member.peer_address, member.admin_address] =
                [address(), address(), address()];
        }
        let base: Vec<Vec<MemberId>> = epoch.slots.iter().map(|(_, slot)| slot.base.to_vec()).collect();
        epoch.number = u64::MAX;
        let slots = base.iter().zip(base.iter().rev());
        epoch.slots = Slots::new(slots.map(|(base, target)| Configuration { base, target, c: u64::MAX / 2 }));
        let bytes = epoch.encode();
        assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
        assert_eq!(Epoch::decode(&bytes), Ok(epoch));
    }

    #[test]
    fn epoch_of_the_format_before_lies_where_placement_puts_it() {
        let member = Member { zone: "a".into(), ..Member::new(MemberId(1), "n1") };
        let read = Epoch::decode(&without_slots(&member)).expect("an epoch of format 1");
        assert_eq!(read, Epoch::bootstrap(ClusterId([7; 16]), 3, member));
        let slot = read.slots.get(Slot(9));
        assert_eq!((slot.base, slot.target, slot.c), (&[MemberId(1)][..], &[][..], 1));
    }

    #[test]
    fn damaged_bytes_are_refused_without_a_panic() {
        let mut prng = Prng::new(3);
        let old = without_slots(&Member::new(MemberId(1), "n1"));
        for bytes in [old, cluster(1).encode(), moving(1).encode(), moving(2).encode()] {
            let step = bytes.len() / 500 + 1;
            for cut in (0..bytes.len()).step_by(step) {
                assert!(Epoch::decode(&bytes[..cut]).is_err());
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(Epoch::decode(&longer).is_err());
            for _ in 0..600 {
                let mut damaged = bytes.clone();
                for _ in 0..prng.between(1, 3) {
                    let at = prng.below(damaged.len().min(400) as u64) as usize;
                    damaged[at] = prng.next_u64() as u8;
                }
                if let Ok(read) = Epoch::decode(&damaged) {
                    assert_eq!(read.check(), Ok(()));
                    assert!(damaged[0] == FORMAT_WITHOUT_SLOTS || read.encode() == damaged);
                }
            }
        }
        for len in 0..2_000 {
            let mut noise: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
            if let Some(first) = noise.first_mut() {
                *first = FORMAT;
            }
            assert!(Epoch::decode(&noise).is_err());
        }
    }

    #[test]
    fn there_is_one_encoding_of_each_epoch() {
        let bytes = cluster(1).encode();
        let end = bytes.len() - 4;
        assert_eq!(bytes[end..], [0x80, 0x80, 1, 0], "one run of 16 384 slots");
        let mut split = bytes[..end].to_vec();
        split.extend([0x80, 0x40, 0, 0x80, 0x40, 0]); // two halves
        let mut long = bytes[..end].to_vec();
        long.extend([0x80, 0x80, 1, 0x80, 0]);
        let mut short = bytes[..end].to_vec();
        short.extend([0xff, 0x7f, 0]);
        for other in [split, long, short] {
            assert_eq!(Epoch::decode(&other), Err(EpochError::Damaged));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let decoded = |change: &dyn Fn(&mut Epoch)| {
            let mut epoch = cluster(2);
            change(&mut epoch);
            let judged = epoch.check();
            let decoded = Epoch::decode(&epoch.encode());
            assert_eq!(decoded.is_ok(), judged.is_ok());
            judged
        };
        let set = |epoch: &mut Epoch, base: &[MemberId], target: &[MemberId], c| {
            let all = (0..SLOTS).map(|_| Configuration { base, target, c });
            epoch.slots = Slots::new(all);
        };
        let id = MemberId;
        for weight in [1, WEIGHT_PERCENT_MAX] {
            assert_eq!(decoded(&|epoch| epoch.members[0].weight_percent = weight), Ok(()));
        }
        for weight in [0, WEIGHT_PERCENT_MAX + 1, u32::MAX] {
            let refused = decoded(&|epoch| epoch.members[1].weight_percent = weight);
            assert_eq!(refused, Err(EpochError::Member(id(2))));
        }
        let member = |change: &dyn Fn(&mut Member)| decoded(&|epoch| change(&mut epoch.members[1]));
        let refused = Err(EpochError::Member(id(2)));
        assert_eq!(member(&|member| member.name = "n1".into()), refused);
        assert_eq!(member(&|member| member.zone = "z".repeat(256)), refused);
        assert_eq!(member(&|member| member.state = MemberState::Joining), refused);
        assert_eq!(member(&|member| member.id = id(3)), Err(EpochError::Member(id(3))));
        assert_eq!(decoded(&|epoch| epoch.members.reverse()), Err(EpochError::Member(id(1))));
        let voteless = decoded(&|epoch| epoch.members.iter_mut().for_each(|member| member.voter = false));
        assert_eq!(voteless, Err(EpochError::NoVoter));
        assert_eq!(decoded(&|epoch| epoch.number = 0), Err(EpochError::Numbers));
        assert_eq!(decoded(&|epoch| epoch.replication = 16), Err(EpochError::Numbers));
        let slot = Err(EpochError::Slot(Slot(0)));
        assert_eq!(decoded(&|epoch| set(epoch, &[], &[], 1)), slot);
        assert_eq!(decoded(&|epoch| set(epoch, &[id(1), id(1)], &[], 1)), slot);
        assert_eq!(decoded(&|epoch| set(epoch, &[id(1)], &[id(3)], 1)), slot);
        assert_eq!(decoded(&|epoch| set(epoch, &[id(1)], &[id(2)], 2)), slot);
        assert_eq!(decoded(&|epoch| set(epoch, &[id(1)], &[id(2)], 0)), slot);
        assert_eq!(decoded(&|epoch| set(epoch, &[id(1)], &[id(2)], 1)), Ok(()));
    }

    #[test]
    fn a_later_format_is_named_in_the_error() {
        let mut bytes = cluster(1).encode();
        bytes[0] = 9;
        assert_eq!(Epoch::decode(&bytes), Err(EpochError::UnknownFormat(9)));
    }
}
