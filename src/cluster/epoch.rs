//! An epoch: one decided state of membership. Pure content, and what makes it one that can be; how epochs are decided is
//! not known here.

use super::encoding;
use super::placement;
use super::ring::vnodes_of;
use super::slots::{Configuration, REPLICAS_MAX, Slots};
pub use crate::types::join::Nonce;
use crate::types::{ClusterId, MemberId, Slot};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_128;

/// The greatest weight: 25 600 vnodes.
pub const WEIGHT_PERCENT_MAX: u32 = 10_000;
/// The greatest sum of the members' weights: about a million vnodes.
pub const WEIGHT_PERCENT_SUM_MAX: u64 = 409_600;
/// Members of a cluster, at most.
pub const MEMBERS_MAX: usize = 1_024;
/// Bytes of a name, a zone or an address, at most.
pub const TEXT_BYTES_MAX: usize = 255;

/// Longer than any epoch within its limits; a record of the log and a message between nodes hold it.
pub const EPOCH_BYTES_MAX: usize = 3 << 20;

/// What an epoch says of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MemberState {
    /// Its slots are moving in.
    Joining = 1,
    /// It owns its slots.
    Normal = 2,
}

/// A node's entry in an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Issued once, never reused.
    pub id: MemberId,
    /// What its vnodes' tokens are made from: its id, or that of the member that it replaced.
    pub placement: u32,
    /// Drawn by the node before it joined; zero for the first member.
    pub nonce: Nonce,
    /// Does it own its slots yet?
    pub state: MemberState,
    /// Does it take part in deciding the next epoch? Never while it joins.
    pub voter: bool,
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

impl Member {
    /// A voter of weight 100 % that owns its slots, without zone and addresses.
    pub fn new(id: MemberId, name: impl Into<String>) -> Member {
        Member {
            id,
            placement: id.0,
            nonce: Nonce::default(),
            state: MemberState::Normal,
            voter: true,
            name: name.into(),
            zone: String::new(),
            weight_percent: 100,
            client_address: String::new(),
            peer_address: String::new(),
            admin_address: String::new(),
        }
    }

    /// What it says of itself in words.
    pub(super) fn texts(&self) -> [&String; 5] {
        [&self.name, &self.zone, &self.client_address, &self.peer_address, &self.admin_address]
    }
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
    /// Replicas wanted per slot: 1 ..= [`REPLICAS_MAX`].
    pub replication: u8,
    /// Replicas that must take a write, of `replication`; 0 = a majority.
    pub write_quorum: u8,
    /// Replicas that must answer a read, of `replication`; 0 = as many as meet every write quorum.
    pub read_quorum: u8,
    /// The next member id to be issued.
    pub next_member: u32,
    /// In the order of their ids; never empty.
    pub members: Vec<Member>,
    /// Who owns each slot.
    pub slots: Slots,
}

/// Bytes that are no epoch of a known format, or an epoch that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EpochError {
    /// Cut short, too long, or with something behind it.
    #[error("the epoch's encoding is damaged")]
    Damaged,
    /// Written by a later version.
    #[error("the epoch has format {0}, which this version does not know")]
    UnknownFormat(u8),
    /// Number, replication or the next member's id.
    #[error("the epoch's numbers are out of range")]
    Numbers,
    /// None, or more than [`MEMBERS_MAX`].
    #[error("an epoch of {0} members: 1 to {MEMBERS_MAX} can be")]
    MemberCount(usize),
    /// Its id, name, texts, weight or vote.
    #[error("what the epoch says of member {0} cannot be")]
    Member(MemberId),
    /// More than [`WEIGHT_PERCENT_SUM_MAX`].
    #[error("the members' weights make {0} %, the limit is {WEIGHT_PERCENT_SUM_MAX} %")]
    Weights(u64),
    /// Nobody could decide the next one.
    #[error("the epoch has no voter")]
    NoVoter,
    /// Replicas that are no members, too many or twice the same, or a configuration of a later epoch.
    #[error("what the epoch says of slot {} cannot be", .0.0)]
    Slot(Slot),
    /// R + W > N and 2 W > N do not hold (`PROTOCOL.md` §1).
    #[error("quorums of {write} for writes and {read} for reads do not meet among {replicas} replicas")]
    Quorums {
        /// N.
        replicas: usize,
        /// W.
        write: usize,
        /// R.
        read: usize,
    },
}

/// Why an epoch does not follow another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuccessionError {
    /// Of another cluster.
    #[error("an epoch of cluster {0}")]
    ForeignCluster(ClusterId),
    /// Not the next number.
    #[error("epoch {0} is not the next")]
    Number(u64),
    /// It names another epoch as the one before.
    #[error("the epoch follows another one of the same number")]
    Previous,
    /// An id was taken back, or issued without being counted.
    #[error("member ids were issued twice")]
    Ids,
    /// More than one member gained or lost its vote.
    #[error("the epoch changes {0} votes at once")]
    Voters(usize),
    /// Its sets changed without a new c, or c without its sets.
    #[error("the configuration of slot {} does not say when it changed", .0.0)]
    Slot(Slot),
}

impl Epoch {
    /// The epoch of a cluster that begins: number 1, one member with id 1 that owns every slot.
    pub fn bootstrap(cluster: ClusterId, replication: u8, mut first: Member) -> Epoch {
        (first.id, first.placement) = (MemberId::FIRST, MemberId::FIRST.0);
        (first.state, first.voter) = (MemberState::Normal, true);
        Epoch::founded_by(cluster, replication, alloc::vec![first])
    }

    /// Number 1 of a cluster with `count` members at once, of equal weight and without zones, each slot owned by those
    /// that placement gives it to: for tests and measurements. `count` is not 0.
    pub fn of_members(cluster: ClusterId, replication: u8, count: u32) -> Epoch {
        let member = |id| Member::new(MemberId(id), alloc::format!("n{id}"));
        Epoch::founded_by(cluster, replication, (1..=count).map(member).collect())
    }

    /// Number 1, with members in the order of their ids.
    pub(super) fn founded_by(cluster: ClusterId, replication: u8, members: Vec<Member>) -> Epoch {
        let n = usize::from(replication).min(members.len());
        let slots = Slots::of_placement(&placement::replicas(&members, &vnodes_of(&members), n), n, 1);
        let next_member = members.last().map_or(0, |member| member.id.0) + 1;
        let previous = [0; 16];
        let (write_quorum, read_quorum) = (0, 0);
        Epoch {
            cluster,
            number: 1,
            previous,
            replication,
            write_quorum,
            read_quorum,
            next_member,
            members,
            slots,
        }
    }

    /// N in force: replicas of each slot, once no slot moves.
    pub fn replicas_per_slot(&self) -> usize {
        usize::from(self.replication).min(self.members.len())
    }

    /// W of a set of `n` replicas: how many must have taken a write.
    pub fn write_quorum(&self, n: usize) -> usize {
        match usize::from(self.write_quorum) {
            0 => n / 2 + 1,
            wish => wish.min(n),
        }
    }

    /// R of a set of `n` replicas: how many must have answered a read.
    pub fn read_quorum(&self, n: usize) -> usize {
        match usize::from(self.read_quorum) {
            0 => n - self.write_quorum(n) + 1,
            wish => wish.min(n),
        }
    }

    /// The member with this id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id).ok()?;
        Some(&self.members[at])
    }

    /// Those who decide the next epoch, in the order of their ids.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> {
        self.members.iter().filter(|member| member.voter).map(|member| member.id)
    }

    /// Does it take part in deciding the next epoch?
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.member(id).is_some_and(|member| member.voter)
    }

    /// The member whose slots are moving in, if there is one.
    pub fn joining(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.state == MemberState::Joining)
    }

    /// What the next epoch names as its predecessor, and what ring fingerprints are made from.
    pub fn hash(&self) -> [u8; 16] {
        xxh3_128(&self.encode()).to_le_bytes()
    }

    /// Its bytes, for logs and messages; `cluster/encoding.rs` describes them.
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(self)
    }

    /// Reads what [`Epoch::encode`] wrote, in this format or the one before; what comes out passes [`Epoch::check`].
    pub fn decode(bytes: &[u8]) -> Result<Epoch, EpochError> {
        encoding::decode(bytes)
    }

    /// Can it be? Everything that holds for an epoch by itself.
    pub fn check(&self) -> Result<(), EpochError> {
        check_numbers(self.number, self.replication)?;
        check_members(&self.members, self.next_member)?;
        if let Some(index) = self.slots.distinct().position(|configuration| !self.can_be(configuration)) {
            return Err(EpochError::Slot(self.slots.first_with(index)));
        }
        self.check_quorums()
    }

    /// Does it follow `before`, whose hash is `hash`? Both can be by themselves.
    pub fn follows(&self, before: &Epoch, hash: [u8; 16]) -> Result<(), SuccessionError> {
        if self.cluster != before.cluster {
            return Err(SuccessionError::ForeignCluster(self.cluster));
        }
        if Some(self.number) != before.number.checked_add(1) {
            return Err(SuccessionError::Number(self.number));
        }
        if self.previous != hash {
            return Err(SuccessionError::Previous);
        }
        let is_new = |member: &&Member| before.member(member.id).is_none();
        let reissued = self.members.iter().filter(is_new).any(|member| member.id.0 < before.next_member);
        if reissued || self.next_member < before.next_member {
            return Err(SuccessionError::Ids);
        }
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (before.voters().collect(), self.voters().collect());
        let changed = old.symmetric_difference(&new).count();
        if changed > 1 {
            return Err(SuccessionError::Voters(changed));
        }
        self.check_marks(before)
    }

    /// Has each slot whose sets changed the number of this epoch as its c, and every other the one that it had?
    fn check_marks(&self, before: &Epoch) -> Result<(), SuccessionError> {
        // By the new one's index: the old one that it was found to follow. Many slots share both.
        let mut right = alloc::vec![u16::MAX; self.slots.distinct().count()];
        let pairs = before.slots.indices().iter().zip(self.slots.indices());
        for (slot, (&old, &new)) in (0..).map(Slot).zip(pairs) {
            if core::mem::replace(&mut right[usize::from(new)], old) == old {
                continue;
            }
            let (old, new) = (before.slots.get(slot), self.slots.get(slot));
            let same = (old.base, old.target) == (new.base, new.target);
            // An epoch may also mark a slot whose sets stay: its replicas then start a configuration anew.
            if new.c != self.number && !(same && new.c == old.c) {
                return Err(SuccessionError::Slot(slot));
            }
        }
        Ok(())
    }

    fn can_be(&self, configuration: Configuration<'_>) -> bool {
        let is_set = |set: &[MemberId]| {
            let differ = set.iter().enumerate().all(|(at, member)| !set[..at].contains(member));
            differ && set.iter().all(|member| self.member(*member).is_some())
        };
        let Configuration { base, target, c } = configuration;
        let counts = (1..=REPLICAS_MAX).contains(&base.len()) && target.len() <= REPLICAS_MAX;
        counts && is_set(base) && is_set(target) && (1..=self.number).contains(&c)
    }

    /// R + W > N and 2 W > N, for N in force and for each size of a set that there is.
    fn check_quorums(&self) -> Result<(), EpochError> {
        let sizes = self.slots.distinct().flat_map(|slot| [slot.base.len(), slot.target.len()]);
        let sizes: BTreeSet<usize> = sizes.filter(|n| *n > 0).chain([self.replicas_per_slot()]).collect();
        for replicas in sizes {
            let (write, read) = (self.write_quorum(replicas), self.read_quorum(replicas));
            if read + write <= replicas || 2 * write <= replicas {
                return Err(EpochError::Quorums { replicas, write, read });
            }
        }
        let beyond = [self.write_quorum, self.read_quorum].iter().any(|wish| *wish > self.replication);
        if beyond { Err(EpochError::Numbers) } else { Ok(()) }
    }
}

pub(super) fn check_numbers(number: u64, replication: u8) -> Result<(), EpochError> {
    let fit = number > 0 && (1..=REPLICAS_MAX).contains(&usize::from(replication));
    if fit { Ok(()) } else { Err(EpochError::Numbers) }
}

pub(super) fn check_members(members: &[Member], next_member: u32) -> Result<(), EpochError> {
    if !(1..=MEMBERS_MAX).contains(&members.len()) {
        return Err(EpochError::MemberCount(members.len()));
    }
    let mut names = BTreeSet::new();
    let mut last = MemberId::NONE;
    for member in members {
        let weight_fits = (1..=WEIGHT_PERCENT_MAX).contains(&member.weight_percent);
        let texts_fit = member.texts().iter().all(|text| text.len() <= TEXT_BYTES_MAX);
        let id_fits = member.id > last && member.id.0 < next_member;
        let vote_fits = !(member.voter && member.state == MemberState::Joining);
        if !(weight_fits && texts_fit && id_fits && vote_fits && names.insert(&member.name)) {
            return Err(EpochError::Member(member.id));
        }
        last = member.id;
    }
    let weights = members.iter().map(|member| u64::from(member.weight_percent)).sum();
    if weights > WEIGHT_PERCENT_SUM_MAX {
        return Err(EpochError::Weights(weights));
    }
    if members.iter().any(|member| member.voter) { Ok(()) } else { Err(EpochError::NoVoter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(members: u32) -> Epoch {
        Epoch::of_members(ClusterId([7; 16]), 15, members)
    }

    #[test]
    fn cluster_begins_with_one_member_that_owns_everything() {
        let epoch = Epoch::bootstrap(ClusterId([7; 16]), 3, Member::new(MemberId(0), "n1"));
        assert_eq!(epoch.check(), Ok(()));
        assert_eq!((epoch.number, epoch.next_member, epoch.replicas_per_slot()), (1, 2, 1));
        let slot = Configuration { base: &[MemberId::FIRST], target: &[], c: 1 };
        assert!(epoch.slots.iter().all(|(_, held)| held == slot));
        assert!(epoch.is_voter(MemberId::FIRST) && !epoch.is_voter(MemberId(2)));
    }

    #[test]
    fn default_quorums_meet_for_every_number_of_replicas() {
        for n in 1..=15 {
            let epoch = cluster(n as u32);
            assert_eq!(epoch.check(), Ok(()));
            let (write, read) = (epoch.write_quorum(n), epoch.read_quorum(n));
            assert_eq!((write, read), (n / 2 + 1, n - n / 2));
        }
    }

    #[test]
    fn wished_quorums_are_taken_if_they_meet_and_refused_if_not() {
        for (n, write, read) in
            (1..=6).flat_map(|n| (0..=6).flat_map(move |w| (0..=6).map(move |r| (n, w, r))))
        {
            let mut epoch = cluster(n);
            (epoch.replication, epoch.write_quorum, epoch.read_quorum) = (n as u8, write, read);
            let (w, r) = (epoch.write_quorum(n as usize), epoch.read_quorum(n as usize));
            let meet = r + w > n as usize && 2 * w > n as usize;
            let fit = u32::from(write) <= n && u32::from(read) <= n;
            assert_eq!(epoch.check().is_ok(), meet && fit, "n {n}, wishes {write} and {read}");
            assert!(write == 0 || w == usize::from(write).min(n as usize));
        }
        // Met by three, not by what two of them leave.
        let mut epoch = cluster(3);
        (epoch.replication, epoch.write_quorum, epoch.read_quorum) = (3, 1, 3);
        assert_eq!(epoch.check(), Err(EpochError::Quorums { replicas: 3, write: 1, read: 3 }));
    }

    #[test]
    fn wishes_that_meet_among_all_meet_among_fewer() {
        for (n, write, read) in
            (1..=15).flat_map(|n| (0..=n).flat_map(move |w| (0..=n).map(move |r| (n, w, r))))
        {
            let mut epoch = cluster(1);
            (epoch.write_quorum, epoch.read_quorum) = (write as u8, read as u8);
            let meet = |n| {
                let (write, read) = (epoch.write_quorum(n), epoch.read_quorum(n));
                read + write > n && 2 * write > n
            };
            assert!(!meet(n) || (1..n).all(meet), "{n} replicas, wishes {write} and {read}");
        }
    }

    #[test]
    fn what_does_not_follow_is_told_apart() {
        let before = cluster(2);
        let follows = |change: &dyn Fn(&mut Epoch)| {
            let mut after = Epoch { number: 2, previous: before.hash(), ..before.clone() };
            change(&mut after);
            after.follows(&before, before.hash())
        };
        assert_eq!(follows(&|_| ()), Ok(()));
        let foreign = ClusterId([8; 16]);
        assert_eq!(follows(&|after| after.cluster = foreign), Err(SuccessionError::ForeignCluster(foreign)));
        assert_eq!(follows(&|after| after.number = 3), Err(SuccessionError::Number(3)));
        assert_eq!(follows(&|after| after.previous[0] ^= 1), Err(SuccessionError::Previous));
        assert_eq!(follows(&|after| after.next_member = 2), Err(SuccessionError::Ids));
        let reissued = |after: &mut Epoch| after.members.insert(0, Member::new(MemberId(0), "n0"));
        assert_eq!(follows(&reissued), Err(SuccessionError::Ids));
        let voteless = |after: &mut Epoch| after.members.iter_mut().for_each(|member| member.voter = false);
        assert_eq!(follows(&voteless), Err(SuccessionError::Voters(2)));
        let all = |base, c| {
            move |after: &mut Epoch| {
                after.slots = after.slots.changed(|_| Configuration { base, target: &[], c });
            }
        };
        assert_eq!(follows(&all(&[MemberId(1)], 2)), Ok(()));
        assert_eq!(follows(&all(&[MemberId(1)], 1)), Err(SuccessionError::Slot(Slot(0))));
        assert_eq!(follows(&all(&[MemberId(1), MemberId(2)], 3)), Err(SuccessionError::Slot(Slot(0))));
    }
}
