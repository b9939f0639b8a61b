//! How one epoch becomes the next: pure functions from an epoch to the epoch that a change makes of it, or to the reason
//! why it cannot be (`PROTOCOL.md` §2). Whether it is decided is agreed on elsewhere.

use super::epoch::{
    Epoch, EpochError, MEMBERS_MAX, Member, MemberState, Nonce, TEXT_BYTES_MAX, WEIGHT_PERCENT_MAX,
};
use super::placement;
use super::ring::vnodes_of;
use super::slots::{Configuration, Slots};
pub use crate::types::join::JoinRequest;
use crate::types::{ClusterId, MemberId, Slot};
use alloc::string::String;
use alloc::vec::Vec;

/// Why an epoch cannot be changed so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The request names another cluster; this one's id.
    #[error("this is cluster {0}")]
    ForeignCluster(ClusterId),
    /// A member has this nonce already.
    #[error("it is member {0} already")]
    AlreadyMember(MemberId),
    /// A member has this name already.
    #[error("the name is taken by member {0}")]
    NameTaken(MemberId),
    /// A name, nonce, weight, zone or address that cannot be.
    #[error("{0} cannot be")]
    Field(&'static str),
    /// One change at a time: this member's slots move in.
    #[error("member {0} is joining: one change at a time")]
    ChangeInProgress(MemberId),
    /// One change at a time: slots move.
    #[error("slots are moving: one change at a time")]
    SlotsMove,
    /// [`MEMBERS_MAX`] are there.
    #[error("there are {MEMBERS_MAX} members, which is the limit")]
    TooManyMembers,
    /// No member has this id.
    #[error("there is no member {0}")]
    MemberUnknown(MemberId),
    /// It owns its slots already.
    #[error("member {0} is not joining")]
    NotJoining(MemberId),
    /// It owns slots that are no longer moving in: only another move takes them away.
    #[error("member {0} owns slots")]
    OwnsSlots(MemberId),
    /// Nothing would change.
    #[error("nothing would change")]
    Nothing,
    /// What would come out cannot be: quorums that do not meet with N in force, weights beyond the limit.
    #[error("{0}")]
    Epoch(#[from] EpochError),
}

/// The member that has drawn this nonce.
pub fn member_of(epoch: &Epoch, nonce: Nonce) -> Option<MemberId> {
    let drawn = |member: &&Member| nonce != Nonce::default() && member.nonce == nonce;
    epoch.members.iter().find(drawn).map(|member| member.id)
}

/// Could this node join now? All that can be said before the slots are placed anew.
pub fn may_join(epoch: &Epoch, request: &JoinRequest) -> Result<(), Refusal> {
    if request.cluster.is_some_and(|cluster| cluster != epoch.cluster) {
        return Err(Refusal::ForeignCluster(epoch.cluster));
    }
    if let Some(member) = member_of(epoch, request.nonce) {
        return Err(Refusal::AlreadyMember(member));
    }
    check_request(request)?;
    if let Some(member) = epoch.members.iter().find(|member| member.name == request.name) {
        return Err(Refusal::NameTaken(member.id));
    }
    check_quiet(epoch)?;
    if epoch.members.len() >= MEMBERS_MAX { Err(Refusal::TooManyMembers) } else { Ok(()) }
}

/// The epoch in which a node begins to join: it is a member without a vote, and slots whose replicas are to be others
/// get them as their target. N in force may grow.
pub fn join(epoch: &Epoch, hash: [u8; 16], request: &JoinRequest) -> Result<Epoch, Refusal> {
    may_join(epoch, request)?;
    let mut next = next(epoch, hash)?;
    let [client_address, peer_address, admin_address] = request.addresses.clone();
    next.members.push(Member {
        nonce: request.nonce,
        state: MemberState::Joining,
        voter: false,
        zone: request.zone.clone(),
        weight_percent: request.weight_percent,
        client_address,
        peer_address,
        admin_address,
        ..Member::new(MemberId(next.next_member), request.name.clone())
    });
    next.next_member = next.next_member.checked_add(1).ok_or(EpochError::Numbers)?;
    // Placement is of members that can be.
    super::epoch::check_members(&next.members, next.next_member)?;
    let n = next.replicas_per_slot();
    let placed = placement::replicas(&next.members, &vnodes_of(&next.members), n);
    let c = next.number;
    next.slots = Slots::new(epoch.slots.iter().zip(placed.chunks_exact(n)).map(|((_, slot), target)| {
        // The order alone is no reason to move: every request about a slot that moves is refused once.
        if slot.is_owned_by(target) { slot } else { Configuration { target, c, ..slot } }
    }));
    checked(next)
}

/// The slots whose replicas `after` means to change.
pub fn moving(after: &Epoch) -> impl Iterator<Item = Slot> {
    after.slots.iter().filter(|(_, slot)| !slot.target.is_empty()).map(|(slot, _)| slot)
}

/// The epoch in which slots that finished their move belong to their targets. `finished` is asked of each configuration
/// that has a target.
pub fn retire(
    epoch: &Epoch,
    hash: [u8; 16],
    finished: impl Fn(Configuration<'_>) -> bool,
) -> Result<Epoch, Refusal> {
    let moved = |slot: Configuration<'_>| !slot.target.is_empty() && finished(slot);
    if !epoch.slots.distinct().any(moved) {
        return Err(Refusal::Nothing);
    }
    let mut next = next(epoch, hash)?;
    let c = next.number;
    next.slots = epoch.slots.changed(|slot| match moved(slot) {
        true => Configuration { base: slot.target, target: &[], c },
        false => slot,
    });
    checked(next)
}

/// The epoch in which the move is given up: no slot has a target, and who was joining is no member.
pub fn give_up(epoch: &Epoch, hash: [u8; 16]) -> Result<Epoch, Refusal> {
    let joining = epoch.joining().map(|member| member.id);
    if let Some(member) = joining
        && epoch.slots.distinct().any(|slot| slot.base.contains(&member))
    {
        return Err(Refusal::OwnsSlots(member));
    }
    if joining.is_none() && epoch.slots.moving_since().is_none() {
        return Err(Refusal::Nothing);
    }
    let mut next = next(epoch, hash)?;
    let c = next.number;
    next.members.retain(|member| Some(member.id) != joining);
    next.slots = epoch.slots.changed(|slot| match slot.target {
        [] => slot,
        _ => Configuration { base: slot.base, target: &[], c },
    });
    checked(next)
}

/// The epoch in which a member that has its slots takes part in deciding.
pub fn promote(epoch: &Epoch, hash: [u8; 16], member: MemberId) -> Result<Epoch, Refusal> {
    if epoch.slots.moving_since().is_some() {
        return Err(Refusal::SlotsMove);
    }
    let mut next = next(epoch, hash)?;
    let joining = find(&mut next.members, member)?;
    if joining.state != MemberState::Joining {
        return Err(Refusal::NotJoining(member));
    }
    (joining.state, joining.voter) = (MemberState::Normal, true);
    checked(next)
}

/// The epoch in which a member has other addresses: for clients, for peers, and of the admin port. Possible while slots
/// move.
pub fn update_addresses(
    epoch: &Epoch,
    hash: [u8; 16],
    member: MemberId,
    addresses: [String; 3],
) -> Result<Epoch, Refusal> {
    check_addresses(&addresses)?;
    let mut next = next(epoch, hash)?;
    let changed = find(&mut next.members, member)?;
    let [client_address, peer_address, admin_address] = addresses;
    let old = changed.clone();
    (changed.client_address, changed.peer_address) = (client_address, peer_address);
    changed.admin_address = admin_address;
    if *changed == old { Err(Refusal::Nothing) } else { checked(next) }
}

/// The same content under the next number; `hash` is the epoch's.
fn next(epoch: &Epoch, hash: [u8; 16]) -> Result<Epoch, Refusal> {
    let number = epoch.number.checked_add(1).ok_or(EpochError::Numbers)?;
    Ok(Epoch { number, previous: hash, ..epoch.clone() })
}

fn checked(next: Epoch) -> Result<Epoch, Refusal> {
    next.check()?;
    Ok(next)
}

fn find(members: &mut [Member], id: MemberId) -> Result<&mut Member, Refusal> {
    members.iter_mut().find(|member| member.id == id).ok_or(Refusal::MemberUnknown(id))
}

fn check_quiet(epoch: &Epoch) -> Result<(), Refusal> {
    if let Some(member) = epoch.joining() {
        return Err(Refusal::ChangeInProgress(member.id));
    }
    if epoch.slots.moving_since().is_some() { Err(Refusal::SlotsMove) } else { Ok(()) }
}

fn check_request(request: &JoinRequest) -> Result<(), Refusal> {
    let JoinRequest { nonce, name, zone, weight_percent, addresses, .. } = request;
    let faults = [
        (*nonce == Nonce::default(), "a nonce of zeros"),
        (!(1..=TEXT_BYTES_MAX).contains(&name.len()), "a name so short or long"),
        (zone.len() > TEXT_BYTES_MAX, "a zone so long"),
        (!(1..=WEIGHT_PERCENT_MAX).contains(weight_percent), "this weight"),
    ];
    match faults.into_iter().find(|(is_so, _)| *is_so) {
        Some((_, what)) => Err(Refusal::Field(what)),
        None => check_addresses(addresses),
    }
}

fn check_addresses(addresses: &[String; 3]) -> Result<(), Refusal> {
    let lens: Vec<usize> = addresses.iter().map(String::len).collect();
    let lacks_one = lens[0] == 0 || lens[1] == 0;
    if lacks_one || lens.iter().any(|len| *len > TEXT_BYTES_MAX) {
        return Err(Refusal::Field("an address so short or long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SLOTS;
    use crate::types::prng::Prng;

    fn request(prng: &mut Prng) -> JoinRequest {
        let mut nonce = [1; 16];
        nonce[..8].copy_from_slice(&prng.next_u64().to_le_bytes());
        JoinRequest {
            cluster: None,
            nonce: Nonce(nonce),
            name: alloc::format!("m{}", prng.below(40)),
            zone: alloc::format!("z{}", prng.below(3)),
            weight_percent: prng.between(50, 200) as u32,
            addresses: ["c:1".into(), "p:1".into(), String::new()],
        }
    }

    fn lone() -> Epoch {
        Epoch::bootstrap(ClusterId([7; 16]), 3, Member::new(MemberId(1), "first"))
    }

    fn joined(epoch: &Epoch, seed: u64) -> Epoch {
        let request = JoinRequest { name: alloc::format!("j{seed}"), ..request(&mut Prng::new(seed)) };
        join(epoch, epoch.hash(), &request).expect("it may join")
    }

    #[test]
    fn joining_gives_exactly_the_slots_that_change_a_target_and_a_mark() {
        let mut epoch = lone();
        for seed in 1..=4 {
            let next = joined(&epoch, seed);
            let n = next.replicas_per_slot();
            let placed = placement::replicas(&next.members, &vnodes_of(&next.members), n);
            for ((slot, held), placed) in next.slots.iter().zip(placed.chunks(n)) {
                let before = epoch.slots.get(slot);
                assert_eq!(held.base, before.base);
                if before.is_owned_by(placed) {
                    assert_eq!(held, before);
                } else {
                    assert_eq!((held.target, held.c), (placed, next.number));
                }
            }
            let joining = next.joining().expect("one joins").id;
            assert!(!next.is_voter(joining));
            let next = retire(&next, next.hash(), |_| true).expect("all finished");
            epoch = promote(&next, next.hash(), joining).expect("it has its slots");
        }
        assert_eq!((epoch.members.len(), epoch.number, epoch.replicas_per_slot()), (5, 13, 3));
    }

    #[test]
    fn given_up_move_leaves_the_owners_as_they_were_and_never_reuses_the_id() {
        let epoch = joined(&joined_wholly(&lone(), 1), 2);
        let undone = give_up(&epoch, epoch.hash()).expect("nothing was retired");
        assert_eq!((undone.members.len(), undone.next_member), (2, 4));
        for ((_, undone), (_, before)) in undone.slots.iter().zip(epoch.slots.iter()) {
            assert_eq!((undone.base, undone.target.len()), (before.base, 0));
            assert_eq!(undone.c, if before.target.is_empty() { before.c } else { 5 + 1 });
        }
        assert_eq!(joined(&undone, 3).joining().expect("one joins").id, MemberId(4));
    }

    fn joined_wholly(epoch: &Epoch, seed: u64) -> Epoch {
        let epoch = joined(epoch, seed);
        let joining = epoch.joining().expect("one joins").id;
        let epoch = retire(&epoch, epoch.hash(), |_| true).expect("all finished");
        promote(&epoch, epoch.hash(), joining).expect("it has its slots")
    }

    #[test]
    fn slots_retire_in_batches() {
        let epoch = joined(&lone(), 1);
        let hash = epoch.hash();
        let first = |slot: Configuration<'_>| slot.target[0] == MemberId(1);
        let half = retire(&epoch, hash, first).expect("some finished");
        let left = moving(&half).count();
        assert!(0 < left && left < SLOTS);
        assert_eq!(half.follows(&epoch, hash), Ok(()));
        assert_eq!(give_up(&half, half.hash()), Err(Refusal::OwnsSlots(MemberId(2))));
        assert_eq!(promote(&half, half.hash(), MemberId(2)), Err(Refusal::SlotsMove));
        let whole = retire(&half, half.hash(), |_| true).expect("the rest");
        assert_eq!(moving(&whole).count(), 0);
        assert_eq!(retire(&whole, whole.hash(), |_| true), Err(Refusal::Nothing));
    }

    #[test]
    fn refusals_say_why() {
        let epoch = joined_wholly(&lone(), 1);
        let hash = epoch.hash();
        let refused = |change: &dyn Fn(&mut JoinRequest)| {
            let mut request = request(&mut Prng::new(99));
            request.name = "other".into();
            change(&mut request);
            join(&epoch, hash, &request).map(|_| ())
        };
        assert_eq!(refused(&|_| ()), Ok(()));
        let foreign = |request: &mut JoinRequest| request.cluster = Some(ClusterId([1; 16]));
        assert_eq!(refused(&foreign), Err(Refusal::ForeignCluster(ClusterId([7; 16]))));
        let known = epoch.members[1].nonce;
        assert_eq!(refused(&|request| request.nonce = known), Err(Refusal::AlreadyMember(MemberId(2))));
        assert_eq!(refused(&|request| request.name = "first".into()), Err(Refusal::NameTaken(MemberId(1))));
        for change in [
            (|request| request.nonce = Nonce::default()) as fn(&mut JoinRequest),
            |request| request.name = String::new(),
            |request| request.name = "n".repeat(256),
            |request| request.zone = "z".repeat(256),
            |request| request.weight_percent = 0,
            |request| request.weight_percent = WEIGHT_PERCENT_MAX + 1,
            |request| request.addresses[0] = String::new(),
            |request| request.addresses[1] = "a".repeat(256),
        ] {
            assert!(matches!(refused(&change), Err(Refusal::Field(_))));
        }
        let moving = joined(&epoch, 3);
        let busy = join(&moving, moving.hash(), &request(&mut Prng::new(4)));
        assert_eq!(busy, Err(Refusal::ChangeInProgress(MemberId(3))));
        assert_eq!(promote(&epoch, hash, MemberId(9)), Err(Refusal::MemberUnknown(MemberId(9))));
        assert_eq!(promote(&epoch, hash, MemberId(1)), Err(Refusal::NotJoining(MemberId(1))));
        assert_eq!(give_up(&epoch, hash), Err(Refusal::Nothing));
        let full = Epoch::of_members(ClusterId([7; 16]), 3, MEMBERS_MAX as u32);
        assert_eq!(may_join(&full, &request(&mut Prng::new(5))), Err(Refusal::TooManyMembers));
    }

    #[test]
    fn quorums_that_would_not_meet_with_one_more_refuse_the_join() {
        let epoch = Epoch { write_quorum: 1, read_quorum: 1, ..lone() };
        assert_eq!(epoch.check(), Ok(()));
        let refused = join(&epoch, epoch.hash(), &request(&mut Prng::new(1)));
        let quorums = EpochError::Quorums { replicas: 2, write: 1, read: 1 };
        assert_eq!(refused, Err(Refusal::Epoch(quorums)));
    }

    #[test]
    fn addresses_change_without_a_slot() {
        let epoch = joined(&lone(), 1);
        let addresses = || ["c:2".into(), "p:2".into(), "a:2".into()];
        let next = update_addresses(&epoch, epoch.hash(), MemberId(1), addresses()).expect("they are others");
        assert_eq!(next.member(MemberId(1)).expect("a member").peer_address, "p:2");
        assert_eq!(next.slots, epoch.slots);
        let again = update_addresses(&next, next.hash(), MemberId(1), addresses());
        assert_eq!(again, Err(Refusal::Nothing));
    }

    fn any_change(prng: &mut Prng, epoch: &Epoch, hash: [u8; 16]) -> Result<Epoch, Refusal> {
        let member = MemberId(prng.between(1, u64::from(epoch.next_member)) as u32);
        match prng.below(6) {
            0 | 1 => join(epoch, hash, &request(prng)),
            2 => {
                let part = prng.between(1, 3) as u32;
                retire(epoch, hash, |slot| slot.target[0].0.is_multiple_of(part))
            }
            3 if prng.chance(300) => give_up(epoch, hash),
            4 => {
                let address = alloc::format!("h:{}", prng.below(100));
                update_addresses(epoch, hash, member, [address.clone(), address, String::new()])
            }
            _ => promote(epoch, hash, epoch.joining().map_or(member, |member| member.id)),
        }
    }

    #[test]
    fn chains_of_random_changes_keep_every_invariant() {
        let mut longest = 0;
        for seed in 0..25 {
            let mut prng = Prng::new(seed);
            let mut epoch = lone();
            for _ in 0..40 {
                let hash = epoch.hash();
                let Ok(next) = any_change(&mut prng, &epoch, hash) else { continue };
                assert_eq!(next.check(), Ok(()), "seed {seed}");
                assert_eq!(next.follows(&epoch, hash), Ok(()), "seed {seed}");
                assert_eq!(next.previous, hash);
                assert!(
                    next.members.iter().filter(|member| member.state == MemberState::Joining).count() <= 1
                );
                assert_eq!(Epoch::decode(&next.encode()).as_ref(), Ok(&next), "seed {seed}");
                epoch = next;
            }
            longest = longest.max(epoch.members.len());
        }
        assert!(longest >= 5, "the chains were short: {longest} members");
    }
}
