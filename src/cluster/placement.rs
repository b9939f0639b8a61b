//! Which members hold each slot: a pure function of an epoch's members, in integers, so that every node and client finds
//! the same (`DESIGN.md` §4).
//!
//! A slot's replicas are the members met clockwise from its first token, those of zones that have fewest of them first.
//! A member that has its share and a tenth is passed by: hashing alone gives some a fifth more than others.

use super::epoch::Member;
use super::ring::Vnode;
use crate::types::{MemberId, SLOTS, Slot};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What a member may hold, of its fair share.
const LOAD_PERCENT_MAX: u64 = 110;
/// Shares are found to within this power of two, of a unit of weight.
const SCALE: u32 = 24;

/// The replicas of each slot, `n` of them, in preference order; `vnodes` are those of `members`, by token. There are at
/// least `n` members, and one at least.
pub(super) fn replicas(members: &[Member], vnodes: &[Vnode], n: usize) -> Vec<MemberId> {
    let by_id: BTreeMap<MemberId, usize> =
        (0..).zip(members).map(|(index, member)| (member.id, index)).collect();
    let owners: Vec<u32> = vnodes.iter().map(|vnode| by_id[&vnode.member] as u32).collect();
    let mut choice = Choice::new(members, n);
    let mut all = Vec::with_capacity(n * SLOTS);
    let mut start = 0;
    for slot in 0..SLOTS as u16 {
        let first = Slot(slot).first_token();
        start += vnodes[start..].iter().take_while(|vnode| vnode.token < first).count();
        let (before, after) = owners.split_at(start);
        choice.choose(|| after.iter().chain(before).map(|&owner| owner as usize));
        assert_eq!(choice.chosen.len(), n, "members differ in their ids, and there are enough");
        all.extend(choice.chosen.iter().map(|&member| members[member].id));
    }
    all
}

/// The members of one zone.
#[derive(Clone, Copy, Default)]
struct Zone {
    members: usize,
    weight: u64,
    /// Members that may hold more.
    open: usize,
}

/// Chooses the replicas of slot after slot.
struct Choice {
    n: usize,
    zones: Vec<Zone>,
    /// Zones with members that may hold more.
    zones_open: usize,
    /// By index of the member.
    zone_of: Vec<usize>,
    /// Replicas that each member may still hold.
    room: Vec<u64>,
    /// Of the present slot: members, and how many of them each zone has.
    chosen: Vec<usize>,
    in_zone: Vec<usize>,
}

impl Choice {
    fn new(members: &[Member], n: usize) -> Choice {
        let mut names = BTreeMap::new();
        let mut zones: Vec<Zone> = Vec::new();
        let mut zone_of = Vec::with_capacity(members.len());
        for member in members {
            let zone = *names.entry(&member.zone).or_insert_with(|| {
                zones.push(Zone::default());
                zones.len() - 1
            });
            zones[zone].members += 1;
            zones[zone].weight += u64::from(member.weight_percent);
            zone_of.push(zone);
        }
        let room = loads_max(members, &zones, &zone_of, n);
        (0..members.len())
            .filter(|&member| room[member] > 0)
            .for_each(|member| zones[zone_of[member]].open += 1);
        let in_zone = alloc::vec![0; zones.len()];
        let zones_open = zones.iter().filter(|zone| zone.open > 0).count();
        Choice { n, zones, zones_open, zone_of, room, chosen: Vec::with_capacity(n), in_zone }
    }

    fn choose<C: Iterator<Item = usize>>(&mut self, clockwise: impl Fn() -> C) {
        self.chosen.iter().for_each(|&member| self.in_zone[self.zone_of[member]] = 0);
        self.chosen.clear();
        for round in 1..=self.n {
            self.walk(clockwise(), round);
        }
        // The last slots may find room only at members that they already have.
        for round in 1..=self.n {
            for member in clockwise() {
                if self.chosen.len() == self.n {
                    return;
                }
                if self.in_zone[self.zone_of[member]] < round && !self.chosen.contains(&member) {
                    self.take(member);
                }
            }
        }
    }

    /// Takes members with room until each zone has `round` of them, or no more to give.
    fn walk(&mut self, clockwise: impl Iterator<Item = usize>, round: usize) {
        if self.chosen.len() == self.n {
            return;
        }
        let has_more = |zone: usize| {
            let open =
                self.chosen.iter().filter(|&&member| self.zone_of[member] == zone && self.room[member] > 0);
            self.zones[zone].open > open.count()
        };
        let mut lacking = if round == 1 {
            self.zones_open
        } else {
            (0..self.zones.len()).filter(|&zone| self.in_zone[zone] < round && has_more(zone)).count()
        };
        for member in clockwise {
            if lacking == 0 || self.chosen.len() == self.n {
                return;
            }
            let zone = self.zone_of[member];
            if self.in_zone[zone] < round && self.room[member] > 0 && !self.chosen.contains(&member) {
                self.take(member);
                lacking -= 1;
            }
        }
    }

    fn take(&mut self, member: usize) {
        let zone = self.zone_of[member];
        self.chosen.push(member);
        self.in_zone[zone] += 1;
        if self.room[member] > 0 {
            self.room[member] -= 1;
            let open = &mut self.zones[zone].open;
            *open -= usize::from(self.room[member] == 0);
            self.zones_open -= usize::from(self.room[member] == 0 && *open == 0);
        }
    }
}

/// How many slots each member may hold a replica of.
fn loads_max(members: &[Member], zones: &[Zone], zone_of: &[usize], n: usize) -> Vec<u64> {
    let slots = SLOTS as u64;
    // In each round every zone gives a replica of each slot, while it has members and replicas are wanted.
    let given = |round: usize| zones.iter().map(|zone| zone.members.min(round)).sum::<usize>();
    let rounds = (1..=n).take_while(|&round| given(round) <= n).last().unwrap_or(0);
    let of_zone = |zone: &Zone| Wanted {
        weight: zone.weight,
        least: zone.members.min(rounds) as u64 * slots,
        most: zone.members.min(rounds + 1) as u64 * slots,
    };
    let of_zones = shares(&zones.iter().map(of_zone).collect::<Vec<_>>(), n as u64 * slots);
    let mut loads = alloc::vec![0; members.len()];
    for (zone, share) in of_zones.into_iter().enumerate() {
        let inside: Vec<usize> = (0..members.len()).filter(|&member| zone_of[member] == zone).collect();
        let of_member =
            |&member: &usize| Wanted { weight: members[member].weight_percent.into(), least: 0, most: slots };
        let of_members = shares(&inside.iter().map(of_member).collect::<Vec<_>>(), share);
        for (member, share) in inside.into_iter().zip(of_members) {
            loads[member] = (share * LOAD_PERCENT_MAX).div_ceil(100).min(slots);
        }
    }
    loads
}

/// Who wants a share.
struct Wanted {
    weight: u64,
    least: u64,
    most: u64,
}

/// Divides `total` by weight within each one's bounds; rounding may make it a little more.
fn shares(wanted: &[Wanted], total: u64) -> Vec<u64> {
    let at = |level: u64| {
        let share = move |one: &Wanted| {
            let share = (u128::from(level) * u128::from(one.weight)) >> SCALE;
            share.clamp(one.least.into(), one.most.into()) as u64
        };
        wanted.iter().map(share)
    };
    // The lowest level at which the shares make the total, or come nearest to it.
    let (mut low, mut high) = (0, total << SCALE);
    while low < high {
        let middle = low + (high - low) / 2;
        if at(middle).sum::<u64>() >= total { high = middle } else { low = middle + 1 }
    }
    at(low).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ring::vnodes_of;
    use alloc::string::String;
    use xxhash_rust::xxh3::xxh3_64;

    const SLOTS_U64: u64 = SLOTS as u64;

    fn member(id: u32, zone: &str, weight_percent: u32) -> Member {
        Member { zone: zone.into(), weight_percent, ..Member::new(MemberId(id), alloc::format!("n{id}")) }
    }

    /// Members of weight 100 % in `zones` zones by turns.
    fn members(count: u32, zones: u32) -> Vec<Member> {
        (1..=count).map(|id| member(id, &alloc::format!("z{}", id % zones), 100)).collect()
    }

    /// The replicas of each slot.
    fn table(members: &[Member], n: usize) -> Vec<Vec<MemberId>> {
        let all = replicas(members, &vnodes_of(members), n);
        all.chunks(n).map(<[MemberId]>::to_vec).collect()
    }

    fn loads(table: &[Vec<MemberId>]) -> BTreeMap<MemberId, u64> {
        let mut loads = BTreeMap::new();
        table.iter().flatten().for_each(|member| *loads.entry(*member).or_default() += 1);
        loads
    }

    /// Pairs of slot and member that are in `after` and not in `before`: what must be copied.
    fn moved(before: &[Vec<MemberId>], after: &[Vec<MemberId>]) -> u64 {
        let added = |(before, after): (&Vec<MemberId>, &Vec<MemberId>)| {
            after.iter().filter(|member| !before.contains(member)).count() as u64
        };
        before.iter().zip(after).map(added).sum()
    }

    #[test]
    fn no_member_has_more_than_its_share_and_a_tenth() {
        for count in [3, 4, 5, 7, 10, 24, 60] {
            let table = table(&members(count, 1), 3);
            let most = (3 * SLOTS_U64 * 110).div_ceil(100 * u64::from(count)).min(SLOTS_U64);
            for (member, load) in loads(&table) {
                assert!(load <= most + 1, "{member} of {count} has {load}, more than {most}");
            }
        }
    }

    #[test]
    fn replicas_are_distinct_and_in_different_zones() {
        for (count, zones) in [(6, 3), (7, 3), (9, 4), (30, 5)] {
            let members = members(count, zones);
            let zone_of = |id: MemberId| &members[id.0 as usize - 1].zone;
            for replicas in table(&members, 3) {
                let mut zones: Vec<&String> = replicas.iter().map(|id| zone_of(*id)).collect();
                zones.sort_unstable();
                zones.dedup();
                assert_eq!(zones.len(), 3, "{replicas:?}");
            }
        }
    }

    #[test]
    fn few_zones_share_each_slot_evenly() {
        let members = members(8, 2);
        for replicas in table(&members, 4) {
            assert_eq!(replicas.iter().filter(|id| id.0.is_multiple_of(2)).count(), 2, "{replicas:?}");
        }
    }

    #[test]
    fn small_zone_bears_no_more_than_it_can() {
        // Two members alone in their zones have a replica of every slot; the rest is shared by the others.
        let mut all = alloc::vec![member(1, "a", 100), member(2, "b", 100)];
        all.extend((3..=8).map(|id| member(id, "c", 100)));
        let loads = loads(&table(&all, 3));
        assert_eq!((loads[&MemberId(1)], loads[&MemberId(2)]), (SLOTS_U64, SLOTS_U64));
        assert!((3..=8).all(|id| loads[&MemberId(id)] <= SLOTS_U64 * 110 / 600 + 1));
    }

    #[test]
    fn load_follows_the_weight() {
        let mut all = members(9, 1);
        all.push(member(10, "z0", 300));
        let loads = loads(&table(&all, 3));
        let share = 3 * SLOTS_U64 / 12;
        // Not three times: the second and third replica of a slot are met among the others alone.
        assert!(loads[&MemberId(10)] > 2 * share, "{loads:?}");
        assert!((1..=9).all(|id| loads[&MemberId(id)] <= share * 110 / 100 + 1), "{loads:?}");
    }

    #[test]
    fn joining_and_leaving_move_little_more_than_they_must() {
        let zones = |count: u32| [1, 3].into_iter().map(move |zones| (count, zones));
        for (count, zones) in [3, 4, 5, 6, 8, 12, 20, 40].into_iter().flat_map(zones) {
            let (fewer, more) = (members(count, zones), members(count + 1, zones));
            let (fewer, more) = (table(&fewer, 3), table(&more, 3));
            let unavoidable = 3 * SLOTS_U64 / u64::from(count + 1);
            let (joining, leaving) = (moved(&fewer, &more), moved(&more, &fewer));
            let (joining, leaving) = (joining * 100 / unavoidable, leaving * 100 / unavoidable);
            assert!(joining <= 115 && leaving <= 115, "{count} in {zones}: {joining} % and {leaving} %");
        }
    }

    #[test]
    fn replaced_member_leaves_its_places_to_its_successor() {
        let before = members(5, 1);
        let mut after = before.clone();
        (after[1].id, after[1].name) = (MemberId(9), "n9".into());
        let (before, after) = (table(&before, 3), table(&after, 3));
        for (before, after) in before.iter().zip(&after) {
            let renamed: Vec<MemberId> =
                before.iter().map(|id| if *id == MemberId(2) { MemberId(9) } else { *id }).collect();
            assert_eq!(renamed, *after);
        }
    }

    #[test]
    fn one_member_holds_every_slot_and_all_hold_it_where_as_many_are_wanted() {
        assert!(table(&members(1, 1), 1).iter().all(|replicas| *replicas == [MemberId(1)]));
        assert!(loads(&table(&members(3, 3), 3)).values().all(|load| *load == SLOTS_U64));
    }

    #[test]
    fn placement_is_stable_for_ever() {
        let hash = |members: &[Member], n| {
            let ids = replicas(members, &vnodes_of(members), n);
            xxh3_64(&ids.iter().flat_map(|id| id.0.to_le_bytes()).collect::<Vec<u8>>())
        };
        let mut weighted = members(7, 3);
        weighted[2].weight_percent = 250;
        assert_eq!(
            [hash(&members(5, 1), 3), hash(&members(9, 3), 3), hash(&weighted, 3), hash(&members(4, 2), 2)],
            [
                10_092_217_872_073_396_834,
                4_299_222_393_613_021_367,
                8_598_228_016_016_193_716,
                15_930_116_373_962_390_587
            ]
        );
    }
}
