//! What is to be proposed while slots move: a pure function of the epoch and of what each member says (`PROTOCOL.md` §2).

use crate::cluster::epoch::Epoch;
use crate::cluster::slots::Configuration;
use crate::types::{MemberId, Slot};

/// What a member says of a move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Not heard lately.
    pub(super) silent: bool,
    /// Not heard for so long that it no longer counts as joining.
    pub(super) lost: bool,
    /// The newest epoch that it holds.
    pub(super) epoch: u64,
    /// Up to which it has finished its part.
    pub(super) moved: u64,
    /// A slot that it cannot take part in moving.
    pub(super) refused: Option<Slot>,
}

/// What is to be proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The slots belong to their targets.
    Retire,
    /// The move ends as it began: who refused, or None if who was joining is lost.
    GiveUp(Option<(MemberId, Slot)>),
    /// It has its slots: it votes from now on.
    Promote(MemberId),
}

/// The next step of the move under way, if the time for it has come.
pub(super) fn next(epoch: &Epoch, standing: impl Fn(MemberId) -> Standing) -> Option<Step> {
    let joining = epoch.joining().map(|member| member.id);
    let moves = epoch.slots.moving_since().is_some();
    if joining.is_none() && !moves {
        return None;
    }
    let can_be_undone =
        !epoch.slots.distinct().any(|slot| joining.is_some_and(|member| slot.base.contains(&member)));
    if moves && can_be_undone {
        let refused = |member: MemberId| {
            let Standing { silent, epoch: held, refused, .. } = standing(member);
            refused.filter(|_| !silent && held == epoch.number).map(|slot| (member, slot))
        };
        if let Some(refused) = epoch.members.iter().find_map(|member| refused(member.id)) {
            return Some(Step::GiveUp(Some(refused)));
        }
    }
    if can_be_undone && joining.is_some_and(|member| standing(member).lost) {
        return Some(Step::GiveUp(None));
    }
    if moves {
        let moving = |slot: &Configuration<'_>| !slot.target.is_empty();
        let finished =
            epoch.slots.distinct().filter(moving).all(|slot| is_finished(epoch, slot, joining, &standing));
        return finished.then_some(Step::Retire);
    }
    let ready = |member: &MemberId| {
        let Standing { silent, epoch: held, .. } = standing(*member);
        !silent && held >= epoch.number
    };
    joining.filter(ready).map(Step::Promote)
}

/// Have W replicas of the target, every one that is heard, and who is joining confirmed the slot's c?
fn is_finished(
    epoch: &Epoch,
    slot: Configuration<'_>,
    joining: Option<MemberId>,
    standing: &impl Fn(MemberId) -> Standing,
) -> bool {
    let confirmed = |member: &MemberId| standing(*member).moved >= slot.c;
    // Once it owns slots a joining member cannot be given up: one that never came up must not get so far.
    let awaited = |member: &MemberId| Some(*member) == joining || !standing(*member).silent;
    let target = slot.target;
    let enough = target.iter().filter(|member| confirmed(member)).count() >= epoch.write_quorum(target.len());
    enough && target.iter().filter(|member| awaited(member)).all(confirmed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::change::{JoinRequest, join, retire};
    use crate::cluster::epoch::Nonce;
    use crate::types::ClusterId;
    use alloc::string::String;

    /// Number 2: the third member joins two others.
    fn joining() -> Epoch {
        let before = Epoch::of_members(ClusterId([1; 16]), 3, 2);
        let request = JoinRequest {
            cluster: None,
            nonce: Nonce([1; 16]),
            name: "new".into(),
            zone: String::new(),
            weight_percent: 100,
            addresses: ["c:1".into(), "p:1".into(), String::new()],
        };
        join(&before, before.hash(), &request).expect("it may join")
    }

    const DONE: Standing = Standing { silent: false, lost: false, epoch: 2, moved: 2, refused: None };
    const BUSY: Standing = Standing { moved: 1, ..DONE };
    const SILENT: Standing = Standing { silent: true, ..BUSY };

    fn next_of(epoch: &Epoch, standings: [Standing; 3]) -> Option<Step> {
        next(epoch, |member| standings[member.0 as usize - 1])
    }

    #[test]
    fn move_ends_when_all_who_are_heard_and_enough_have_finished() {
        let epoch = joining();
        assert_eq!(next_of(&epoch, [DONE, DONE, DONE]), Some(Step::Retire));
        assert_eq!(next_of(&epoch, [DONE, SILENT, DONE]), Some(Step::Retire));
        assert_eq!(next_of(&epoch, [DONE, BUSY, DONE]), None);
        assert_eq!(next_of(&epoch, [SILENT, SILENT, DONE]), None);
        assert_eq!(next_of(&epoch, [DONE, DONE, SILENT]), None, "who joins is waited for");
    }

    #[test]
    fn move_is_given_up_when_somebody_refuses_under_this_epoch_or_who_joins_is_lost() {
        let epoch = joining();
        let refusing = Standing { refused: Some(Slot(7)), ..BUSY };
        let given_up = Some(Step::GiveUp(Some((MemberId(2), Slot(7)))));
        assert_eq!(next_of(&epoch, [DONE, refusing, DONE]), given_up);
        assert_eq!(next_of(&epoch, [DONE, Standing { epoch: 1, ..refusing }, DONE]), None);
        assert_eq!(
            next_of(&epoch, [DONE, DONE, Standing { lost: true, ..SILENT }]),
            Some(Step::GiveUp(None))
        );
    }

    #[test]
    fn joined_member_votes_once_it_holds_the_epoch_in_which_it_owns_its_slots() {
        let epoch = joining();
        let epoch = retire(&epoch, epoch.hash(), |_| true).expect("all finished");
        assert_eq!(next_of(&epoch, [DONE, DONE, DONE]), None);
        let there = Standing { epoch: 3, ..DONE };
        assert_eq!(next_of(&epoch, [DONE, DONE, there]), Some(Step::Promote(MemberId(3))));
        assert_eq!(next_of(&epoch, [DONE, DONE, Standing { silent: true, ..there }]), None);
        let lost = Standing { lost: true, ..SILENT };
        assert_eq!(next_of(&epoch, [DONE, DONE, lost]), None, "it owns slots");
        assert_eq!(next_of(&Epoch::of_members(ClusterId([1; 16]), 3, 3), [DONE, DONE, lost]), None);
    }
}
