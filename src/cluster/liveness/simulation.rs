//! Many detectors in one virtual network, from a seed: links that are slow, jittery, lossy, cut; members that die, start
//! again, stand still. What they believe, and when, is what the tests look at.

use super::*;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Time between two ticks of a node, µs.
const TICK_US: u64 = 20_000;

/// From node to node at a millisecond: the delay of a message in µs, or None if it is lost.
type Network = Box<dyn Fn(usize, usize, u64, &mut Prng) -> Option<u64>>;

struct Message {
    from: usize,
    incarnation: u64,
    /// Of an answer; a ping otherwise.
    answer: bool,
    sequence: u64,
    opinions: Vec<Opinion>,
}

enum Event {
    Tick(u64),
    Message(Message),
    Refused(usize),
}

#[derive(Default)]
struct Node {
    /// None while it is dead.
    detector: Option<Liveness>,
    incarnation: u64,
    paused_until_us: u64,
    suspects: BTreeSet<usize>,
    pings: u64,
    answers: u64,
    opinions: u64,
    /// Pings in the second that runs, and the most in one so far.
    pings_in_second: (u64, u64),
    pings_in_second_max: u64,
}

struct Change {
    ms: u64,
    node: usize,
    about: usize,
    belief: Belief,
}

struct World {
    us: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), (usize, Event)>,
    nodes: Vec<Node>,
    prng: Prng,
    network: Network,
    /// Connections to a dead member are refused, instead of leading nowhere.
    refusing: bool,
    changes: Vec<Change>,
    trace: u64,
}

fn id(node: usize) -> MemberId {
    MemberId(node as u32 + 1)
}

fn node_of(member: MemberId) -> usize {
    member.0 as usize - 1
}

fn steady(us: u64) -> Network {
    Box::new(move |_, _, _, _| Some(us))
}

fn jittery(low_us: u64, high_us: u64) -> Network {
    Box::new(move |_, _, _, prng| Some(prng.between(low_us, high_us)))
}

fn lossy(permille: u64) -> Network {
    Box::new(move |_, _, _, prng| (!prng.chance(permille)).then_some(150))
}

/// 150 µs, but for what `cut` loses: from, to, millisecond.
fn cut(cut: impl Fn(usize, usize, u64) -> bool + 'static) -> Network {
    Box::new(move |from, to, ms, _| (!cut(from, to, ms)).then_some(150))
}

impl World {
    fn new(count: usize, seed: u64, network: Network) -> World {
        let mut world = World {
            us: 0,
            order: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            prng: Prng::new(seed),
            network,
            refusing: false,
            changes: Vec::new(),
            trace: 0,
        };
        world.nodes.resize_with(count, Node::default);
        (0..count).for_each(|node| world.start(node));
        world
    }

    fn start(&mut self, node: usize) {
        let members: Vec<MemberId> = (0..self.nodes.len()).map(id).collect();
        let seed = self.prng.next_u64();
        let at = &mut self.nodes[node];
        at.incarnation += 1;
        at.suspects.clear();
        let mut detector = Liveness::new(id(node), at.incarnation, seed);
        detector.set_members(Mono(self.us * 1_000), &members);
        at.detector = Some(detector);
        let (incarnation, first_us) = (at.incarnation, self.us + self.prng.below(TICK_US));
        self.put(first_us, node, Event::Tick(incarnation));
    }

    fn crash(&mut self, node: usize) {
        self.nodes[node].detector = None;
    }

    fn pause(&mut self, node: usize, ms: u64) {
        self.nodes[node].paused_until_us = self.us + ms * 1_000;
    }

    fn run(&mut self, ms: u64) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= ms * 1_000) {
            let us = entry.key().0;
            let (node, event) = entry.remove();
            self.us = us;
            let paused_until_us = self.nodes[node].paused_until_us;
            if us < paused_until_us {
                self.put(paused_until_us, node, event);
            } else {
                self.happen(node, event);
            }
        }
        self.us = ms * 1_000;
    }

    fn happen(&mut self, node: usize, event: Event) {
        let now = Mono(self.us * 1_000);
        let at = &mut self.nodes[node];
        let Some(detector) = &mut at.detector else {
            if let Event::Message(Message { from, answer: false, .. }) = event
                && self.refusing
            {
                self.put(self.us + 150, from, Event::Refused(node));
            }
            return;
        };
        match event {
            Event::Tick(incarnation) if incarnation == at.incarnation => {
                let mut probes = Vec::new();
                let changed = detector.tick(now, &mut probes);
                self.put(self.us + TICK_US, node, Event::Tick(incarnation));
                self.take_note(node, changed);
                for Probe { to, sequence } in probes {
                    self.send(node, node_of(to), false, sequence);
                }
            }
            Event::Tick(_) => {}
            Event::Message(Message { from, incarnation, answer, sequence, opinions }) => {
                if answer {
                    detector.answer_heard(now, id(from), incarnation, sequence);
                } else {
                    detector.ping_heard(now, id(from), incarnation);
                }
                detector.take_gossip(now, id(from), &opinions);
                if !answer {
                    self.send(node, from, true, sequence);
                }
            }
            Event::Refused(by) => detector.unreachable(now, id(by)),
        }
    }

    fn send(&mut self, from: usize, to: usize, answer: bool, sequence: u64) {
        let second = self.us / 1_000_000;
        let node = &mut self.nodes[from];
        let opinions = node.detector.as_mut().expect("the living send").gossip(id(to));
        assert!(opinions.len() <= OPINIONS_MAX);
        node.opinions += opinions.len() as u64;
        if answer {
            node.answers += 1;
        } else {
            node.pings += 1;
            let before = if node.pings_in_second.0 == second { node.pings_in_second.1 } else { 0 };
            node.pings_in_second = (second, before + 1);
            node.pings_in_second_max = node.pings_in_second_max.max(before + 1);
        }
        let message = Message { from, incarnation: node.incarnation, answer, sequence, opinions };
        let delay_us = (self.network)(from, to, self.us / 1_000, &mut self.prng);
        if let Some(delay_us) = delay_us {
            self.put(self.us + delay_us, to, Event::Message(message));
        }
    }

    fn put(&mut self, us: u64, node: usize, event: Event) {
        self.order += 1;
        self.queue.insert((us, self.order), (node, event));
    }

    /// Beliefs change only where tick says so.
    fn take_note(&mut self, node: usize, changed: bool) {
        let at = &mut self.nodes[node];
        let detector = at.detector.as_ref().expect("it ticked");
        let same = detector.suspects().map(node_of).eq(at.suspects.iter().copied());
        assert!(same || changed, "a belief changed and tick did not say so");
        if same {
            return;
        }
        let suspects: BTreeSet<usize> = detector.suspects().map(node_of).collect();
        for about in suspects.symmetric_difference(&at.suspects).copied() {
            let belief = detector.belief(id(about));
            let change = [self.us, node as u64, about as u64, belief as u64];
            let bytes: Vec<u8> = change.iter().flat_map(|number| number.to_le_bytes()).collect();
            self.trace = xxh3_64_with_seed(&bytes, self.trace);
            self.changes.push(Change { ms: self.us / 1_000, node, about, belief });
        }
        at.suspects = suspects;
    }

    fn suspects(&self, node: usize, about: usize) -> bool {
        self.nodes[node].suspects.contains(&about)
    }

    /// Pairs of living nodes in which the first suspects the second.
    fn suspicions(&self) -> usize {
        let living = |node: usize| self.nodes[node].detector.is_some();
        let of = |node: usize| self.nodes[node].suspects.iter().filter(|about| living(**about)).count();
        (0..self.nodes.len()).filter(|node| living(*node)).map(of).sum()
    }

    /// Changes to suspicion from `ms` on.
    fn suspected_since(&self, ms: u64) -> usize {
        let suspected = |change: &&Change| change.ms >= ms && change.belief == Belief::Suspected;
        self.changes.iter().filter(suspected).count()
    }

    /// The milliseconds after `ms` at which the last of the living came to believe this of `about`; None if one does not.
    fn all_believe_after(&self, ms: u64, about: usize, belief: Belief) -> Option<u64> {
        let others = || (0..self.nodes.len()).filter(|node| *node != about);
        let living = || others().filter(|node| self.nodes[*node].detector.is_some());
        if !living().all(|node| self.suspects(node, about) == (belief == Belief::Suspected)) {
            return None;
        }
        let changes = self.changes.iter().filter(|change| change.about == about && change.ms >= ms);
        Some(changes.map(|change| change.ms).max().map_or(0, |last| last - ms))
    }
}

/// How long the others took to suspect node 1, which died at a moment that depends on the seed: least and most of
/// `seeds`, ms. The network was used for a minute before.
fn detection_ms(count: usize, seeds: u64, refusing: bool, network: impl Fn() -> Network) -> (u64, u64) {
    let one = |seed| {
        let mut world = World::new(count, seed, network());
        world.refusing = refusing;
        let died = 60_000 + seed * 37 % 400;
        world.run(died);
        world.crash(1);
        world.run(died + 10_000);
        world.all_believe_after(died, 1, Belief::Suspected).expect("a dead member is suspected")
    };
    let found: Vec<u64> = (0..seeds).map(one).collect();
    let (least, most) = (*found.iter().min().expect("seeds"), *found.iter().max().expect("seeds"));
    (least, most)
}

#[test]
fn dead_member_of_a_fast_cluster_is_suspected_within_a_second() {
    for count in [2, 3, 5] {
        let (least, most) = detection_ms(count, 20, false, || steady(150));
        assert!(least >= 600 && most <= 960, "{count} members: {least} to {most} ms");
    }
}

#[test]
fn refused_connections_halve_the_time() {
    let (_, most) = detection_ms(3, 20, true, || steady(150));
    assert!(most <= 560, "{most} ms");
}

#[test]
fn dead_member_behind_slow_links_is_suspected_within_a_second() {
    let (_, most) = detection_ms(3, 20, false, || steady(50_000));
    assert!(most <= 960, "{most} ms");
}

#[test]
fn dead_member_behind_jittery_links_is_suspected_within_their_patience() {
    let (_, most) = detection_ms(3, 20, false, || jittery(1_000, 200_000));
    assert!(most <= 1_300, "{most} ms");
    let (_, most) = detection_ms(3, 20, false, || lossy(50));
    assert!(most <= 2_500, "{most} ms");
}

#[test]
fn slow_and_jittery_links_are_never_suspected() {
    for network in [steady(50_000), steady(250_000), jittery(100, 200_000), jittery(100, 300_000)] {
        let mut world = World::new(3, 1, network);
        world.run(1_800_000);
        assert_eq!(world.changes.len(), 0);
    }
}

#[test]
fn lossy_links_are_seldom_suspected() {
    let falsely = |permille| {
        let of = |seed| {
            let mut world = World::new(3, seed, lossy(permille));
            world.run(1_800_000);
            world.suspected_since(0)
        };
        (0..4).map(of).sum::<usize>()
    };
    // In two hours of six links each.
    let found = (falsely(10), falsely(50));
    assert!(found.0 <= 1 && found.1 <= 60, "{found:?}");
}

#[test]
fn links_learn_the_pauses_of_a_starved_machine() {
    // Every node stands still now and then for so many ms, about once in ten seconds.
    let falsely = |pause_ms, from_ms| {
        let of = |seed| {
            let mut world = World::new(3, seed, steady(150));
            let mut prng = Prng::new(seed);
            for ms in (5_000..1_200_000).step_by(1_000) {
                world.run(ms);
                if prng.chance(300) {
                    world.pause(prng.below(3) as usize, pause_ms);
                }
            }
            world.suspected_since(from_ms)
        };
        (0..4).map(of).sum::<usize>()
    };
    assert_eq!(falsely(500, 0), 0);
    let (first_minute, later) = (falsely(900, 0) - falsely(900, 60_000), falsely(900, 60_000));
    assert!(first_minute > 0 && later <= 4, "{first_minute} in the first minute, {later} in 19 more");
}

#[test]
fn node_that_stood_still_suspects_nobody_and_learns_nothing() {
    // A slow link has several probes on their way when its node stops.
    for (pause_ms, one_way_us) in [(1_000, 150), (60_000, 150), (1_500, 450_000), (5_000, 450_000)] {
        let mut world = World::new(5, 7, steady(one_way_us));
        world.run(20_000);
        world.pause(0, pause_ms);
        world.run(90_000);
        assert!(world.changes.iter().all(|change| change.node != 0), "{pause_ms} ms");
        assert!(world.changes.iter().any(|change| change.about == 0) && world.suspicions() == 0);
    }
    let mut world = World::new(2, 7, steady(30_000));
    for turn in 5..20 {
        world.run(turn * 2_023);
        world.pause(0, 1_000);
    }
    world.run(40_000);
    world.crash(1);
    world.run(43_000);
    let took = world.all_believe_after(40_000, 1, Belief::Suspected).expect("it is dead");
    assert!(took <= 960, "{took} ms");
}

#[test]
fn member_is_believed_alive_within_a_second_of_answering() {
    for count in [3, 5, 15] {
        for seed in 0..10 {
            // Cut off for twenty seconds, so that nobody knows of a restart.
            let healed = 30_000 + seed * 37 % 400;
            let network = cut(move |from, to, ms| (from == 1) != (to == 1) && (10_000..healed).contains(&ms));
            let mut world = World::new(count, seed, network);
            world.run(healed - 1);
            world.all_believe_after(0, 1, Belief::Suspected).expect("it was cut off");
            world.run(healed + 5_000);
            let took = world.all_believe_after(healed, 1, Belief::Alive).expect("it is back");
            assert!(took <= 1_000, "{count} members: {took} ms");
            assert_eq!(world.suspicions(), 0);
        }
    }
}

#[test]
fn restarted_member_is_believed_alive_within_a_second() {
    for count in [3, 5, 30] {
        let mut world = World::new(count, 3, steady(150));
        world.run(10_000);
        world.crash(1);
        world.run(40_000);
        world.all_believe_after(0, 1, Belief::Suspected).expect("it is dead");
        world.start(1);
        world.run(45_000);
        let took = world.all_believe_after(40_000, 1, Belief::Alive).expect("it is back");
        assert!(took <= 1_000, "{count} members: {took} ms");
    }
}

#[test]
fn quick_restart_teaches_no_patience() {
    let mut world = World::new(3, 3, steady(150));
    for turn in 1..10 {
        world.run(turn * 10_000);
        world.crash(1);
        world.run(turn * 10_000 + 600);
        world.start(1);
    }
    world.run(100_000);
    assert_eq!(world.suspected_since(0), 0);
    world.crash(1);
    world.run(110_000);
    let took = world.all_believe_after(100_000, 1, Belief::Suspected).expect("it is dead");
    assert!(took <= 960, "{took} ms");
}

#[test]
fn link_cut_in_one_direction_is_suspected_at_both_ends_and_nowhere_else() {
    for count in [3, 5] {
        let mut world =
            World::new(count, 5, cut(|from, to, ms| (from, to) == (0, 1) && (10_000..70_000).contains(&ms)));
        world.run(69_000);
        for node in 0..count {
            for about in 0..count {
                assert_eq!(world.suspects(node, about), [(0, 1), (1, 0)].contains(&(node, about)));
            }
        }
        assert_eq!(world.changes.len(), 2, "and it stays so");
        world.run(71_000);
        assert_eq!(world.suspicions(), 0);
    }
}

#[test]
fn halves_of_a_partition_suspect_each_other_and_meet_again() {
    let apart = |from: usize, to: usize| (from < 2) != (to < 2);
    let mut world =
        World::new(5, 5, cut(move |from, to, ms| apart(from, to) && (10_000..70_000).contains(&ms)));
    world.run(11_000);
    for (node, about) in (0..5).flat_map(|node| (0..5).map(move |about| (node, about))) {
        assert_eq!(world.suspects(node, about), apart(node, about));
    }
    world.run(71_000);
    assert_eq!((world.suspicions(), world.changes.len()), (0, 24));
}

#[test]
fn gossip_spreads_a_death_and_a_return_among_a_hundred() {
    for seed in 0..3 {
        let mut world = World::new(100, seed, lossy(10));
        world.run(4_000);
        assert_eq!(world.changes.len(), 0);
        world.crash(1);
        world.run(8_000);
        // One interval and the patience to notice it, and five intervals to tell it.
        let took = world.all_believe_after(4_000, 1, Belief::Suspected).expect("it is dead");
        assert!(took <= 960 + 5 * INTERVAL_MS, "{took} ms");
        world.start(1);
        world.run(11_000);
        let took = world.all_believe_after(8_000, 1, Belief::Alive).expect("it is back");
        assert!(took <= 5 * INTERVAL_MS, "{took} ms");
    }
}

#[test]
fn large_cluster_believes_a_member_again_that_was_cut_off() {
    let network = cut(|from, to, ms| (from == 1) != (to == 1) && (4_000..30_000).contains(&ms));
    let mut world = World::new(60, 2, network);
    world.run(29_999);
    world.all_believe_after(0, 1, Belief::Suspected).expect("it was cut off");
    world.run(35_000);
    let took = world.all_believe_after(30_000, 1, Belief::Alive).expect("it is back");
    assert!(took <= 1_000, "{took} ms");
}

#[test]
fn accused_member_that_others_reach_is_believed_by_them() {
    // Node 1 is cut off from node 0 alone: one accusation, one objection, and calm.
    let mut world = World::new(30, 4, cut(|from, to, ms| from + to == 1 && ms >= 10_000));
    world.run(60_000);
    assert!((2..30).all(|node| !world.suspects(node, 0) && !world.suspects(node, 1)));
    assert!(world.suspects(0, 1) && world.suspects(1, 0));
    let told: u64 = world.nodes.iter().map(|node| node.opinions).sum();
    world.run(120_000);
    assert_eq!(world.suspected_since(30_000), 0);
    assert_eq!(world.nodes.iter().map(|node| node.opinions).sum::<u64>(), told, "the news is old");
}

#[test]
fn nodes_that_talk_to_each_other_cost_no_more_in_a_large_cluster() {
    // Of a node: pings per second, the most in any second, opinions per message.
    let cost = |count: usize, dead: usize| {
        let mut world = World::new(count, 6, steady(150));
        (0..dead).for_each(|node| world.crash(node));
        let ms = 5_000;
        world.run(ms);
        let living = &world.nodes[dead..];
        let sum = |of: fn(&Node) -> u64| living.iter().map(of).sum::<u64>();
        let pings = sum(|node| node.pings) * 1_000 / ms / living.len() as u64;
        let most = living.iter().map(|node| node.pings_in_second_max).max().expect("nodes");
        let (messages, opinions) = (sum(|node| node.pings + node.answers), sum(|node| node.opinions));
        (pings, most, opinions.div_ceil(messages))
    };
    let intervals = 1_000 / INTERVAL_MS;
    for count in [3, 5, 6, 20, 100] {
        let (pings, most, _) = cost(count, 0);
        assert!(pings <= PROBES_MAX as u64 * intervals, "{count} members, quiet: {pings} a second");
        let (_, most_dead, opinions) = cost(count, count / 10);
        let budget = (PROBES_MAX + EXTRA_PROBES_MAX) as u64 * (intervals + 1);
        assert!(most.max(most_dead) <= budget, "{count} members: {most}, {most_dead}");
        assert!(opinions <= OPINIONS_MAX as u64);
    }
}

#[test]
fn same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = World::new(
            12,
            seed,
            Box::new(|_, _, _, prng| (!prng.chance(100)).then(|| prng.between(100, 400_000))),
        );
        for turn in 1..20 {
            world.run(turn * 3_000);
            let node = world.prng.below(12) as usize;
            match world.nodes[node].detector {
                Some(_) if turn % 3 == 0 => world.pause(node, 1_500),
                Some(_) => world.crash(node),
                None => world.start(node),
            }
        }
        assert!(!world.changes.is_empty());
        world.trace
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn newcomer_learns_who_is_suspected() {
    let mut world = World::new(60, 8, steady(150));
    world.run(2_000);
    (0..10).for_each(|node| world.crash(node));
    world.crash(30);
    world.run(30_000);
    world.start(30);
    // Its grace, and two intervals: alone it would need fifteen to probe them all.
    world.run(30_000 + GRACE_MS + 2 * INTERVAL_MS);
    assert!((0..10).all(|node| world.suspects(30, node)));
}
