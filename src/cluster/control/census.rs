//! What the cores of this node say: how far each is with moves, and which slots hold records.

use super::event::CoreReport;
use crate::cluster::slot_set::SlotSet;
use crate::types::{CoreId, MemberId, Mono, Slot};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// After this a round of questions is asked anew: a core may have been told nothing. Milliseconds.
const ROUND_MS: u64 = 1_000;

pub(super) struct Census {
    cores: Vec<Standing>,
    round: Option<Round>,
    rounds: u64,
}

#[derive(Clone, Copy, Default)]
struct Standing {
    moved: u64,
    /// Under which epoch, and which slot.
    refused: Option<(u64, Slot)>,
}

/// Every core is asked for its slots that hold records.
struct Round {
    number: u64,
    began: Mono,
    /// By core.
    missing: Vec<bool>,
    occupied: SlotSet,
    /// Who wants to know, and for which question of theirs.
    askers: BTreeMap<MemberId, u64>,
}

impl Census {
    pub(super) fn new(cores: u16) -> Census {
        assert!(cores > 0, "a node has at least one core");
        Census { cores: alloc::vec![Standing::default(); usize::from(cores)], round: None, rounds: 0 }
    }

    /// False if there is no such core.
    pub(super) fn report(&mut self, report: CoreReport) -> bool {
        let CoreReport { core, epoch, refused } = report;
        let Some(standing) = self.cores.get_mut(usize::from(core.0)) else { return false };
        match refused {
            None => standing.moved = standing.moved.max(epoch),
            // An older report may come late.
            Some(slot) => standing.refused = standing.refused.max(Some((epoch, slot))),
        }
        true
    }

    /// Every core has finished its part up to this epoch.
    pub(super) fn moved(&self) -> u64 {
        self.cores.iter().map(|core| core.moved).min().unwrap_or(0)
    }

    /// A slot that a core cannot take part in moving, and said so under epoch `since` or a later one.
    pub(super) fn refused(&self, since: u64) -> Option<Slot> {
        let refused =
            |core: &Standing| core.refused.filter(|(epoch, _)| *epoch >= since && *epoch > core.moved);
        self.cores.iter().find_map(refused).map(|(_, slot)| slot)
    }

    /// Somebody wants to know which slots hold records. The round to ask the cores, unless they are being asked.
    pub(super) fn ask(&mut self, now: Mono, from: MemberId, question: u64) -> Option<u64> {
        if let Some(round) = &mut self.round {
            round.askers.insert(from, question);
            if now < round.began.after_ms(ROUND_MS) {
                return None;
            }
        }
        self.rounds += 1;
        let askers =
            self.round.take().map_or_else(|| BTreeMap::from([(from, question)]), |round| round.askers);
        let missing = alloc::vec![true; self.cores.len()];
        let occupied = SlotSet::default();
        self.round = Some(Round { number: self.rounds, began: now, missing, occupied, askers });
        Some(self.rounds)
    }

    /// A core's answer. When it was the last: what all said, and who wants to know.
    pub(super) fn answer(
        &mut self,
        number: u64,
        core: CoreId,
        slots: &SlotSet,
    ) -> Option<(SlotSet, BTreeMap<MemberId, u64>)> {
        let round = self.round.as_mut().filter(|round| round.number == number)?;
        *round.missing.get_mut(usize::from(core.0))? = false;
        round.occupied.add(slots);
        if round.missing.contains(&true) {
            return None;
        }
        self.round.take().map(|round| (round.occupied, round.askers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_as_far_as_its_slowest_core() {
        let mut census = Census::new(2);
        let report = |core, epoch, refused| CoreReport { core: CoreId(core), epoch, refused };
        assert!(census.report(report(0, 3, None)));
        assert_eq!(census.moved(), 0);
        assert!(census.report(report(1, 2, None)));
        assert_eq!((census.moved(), census.refused(0)), (2, None));
        assert!(census.report(report(1, 3, Some(Slot(7)))));
        assert_eq!((census.moved(), census.refused(3), census.refused(4)), (2, Some(Slot(7)), None));
        assert!(census.report(report(1, 1, Some(Slot(8)))));
        assert_eq!(census.refused(3), Some(Slot(7)), "what came late is older");
        assert!(census.report(report(1, 4, None)));
        assert_eq!((census.moved(), census.refused(3)), (3, None));
        assert!(!census.report(report(2, 3, None)));
    }

    #[test]
    fn one_round_answers_all_who_ask_meanwhile() {
        let mut census = Census::new(2);
        assert_eq!(census.ask(Mono(0), MemberId(1), 10), Some(1));
        assert_eq!(census.ask(Mono(1), MemberId(2), 20), None);
        let mut slots = SlotSet::default();
        slots.insert(Slot(3));
        assert_eq!(census.answer(1, CoreId(1), &slots), None);
        assert_eq!(census.answer(1, CoreId(9), &slots), None);
        assert_eq!(census.answer(7, CoreId(0), &slots), None);
        let all = census.answer(1, CoreId(0), &SlotSet::default());
        assert_eq!(all, Some((slots, BTreeMap::from([(MemberId(1), 10), (MemberId(2), 20)]))));
        assert_eq!(census.ask(Mono(2), MemberId(1), 11), Some(2));
        assert_eq!(census.ask(Mono(2).after_ms(ROUND_MS), MemberId(2), 21), Some(3));
    }
}
