//! Which members one node believes alive: its failure detector, driven by core 0. An opinion, used for routing and hints
//! only; who belongs to the cluster is decided elsewhere and told to it.
//!
//! Members are probed in turn and answer. What a node sees on its own link (`link`) outweighs what others say
//! (`gossip`): a member that cannot be reached from here is of no use here, whoever else reaches it. But only a few are
//! probed in each interval, so of most members of a large cluster a node knows what was passed on to it. A member that
//! hears itself suspected says that it lives, under a greater number (SWIM). Messages and bytes per node and interval do
//! not depend on the number of members; a call looks at each member once, which is microseconds for a thousand.
//!
//! Of what heartbeats carry only the count of starts is kept here, because it tells one process of a member from the
//! next. Clocks, versions and epochs are for those who use them.

mod accrual;
mod gossip;
mod link;
#[cfg(test)]
mod simulation;

pub use accrual::{OUTAGE_US, PATIENCE_US_MAX, PATIENCE_US_MIN, PATIENCE_US_NEW, REFUSED_US_MIN};
pub use gossip::{OPINIONS_MAX, OPINIONS_OLD_MAX, Opinion, Standing};
pub use link::{FRESH_MS, GRACE_MS, PROBES_TO_SUSPECT};

use crate::types::prng::Prng;
use crate::types::{MemberId, Mono};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use gossip::News;
use link::Link;

/// Time between the probes of a member that is probed in each interval, ms.
pub const INTERVAL_MS: u64 = 200;
/// [`Liveness::tick`] is due at least so often, ms. What is more between two calls is this node's own stall, and nobody
/// else's silence.
pub const TICK_MS_MAX: u64 = 100;
/// Members probed in turn in each interval.
pub const PROBES_MAX: usize = 4;
/// Further probes in an interval: of those whose answer is late, of suspects, and of those of whom there was a sign of
/// life.
pub const EXTRA_PROBES_MAX: usize = 4;
/// A suspect is probed by about so many members in an interval, however many there are.
pub const PROBES_PER_SUSPECT: usize = 16;
/// Members watched. Any beyond it, those of the greatest ids, are believed alive.
pub const MEMBERS_MAX: usize = 4_096;

/// Members that wait for a probe out of turn.
const PROMPTED_MAX: usize = 16;

/// What is thought of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Belief {
    /// Worth a message.
    Alive,
    /// Passed by, and given hints.
    Suspected,
}

/// A heartbeat to be sent: it carries `sequence`, the sender's incarnation and [`Liveness::gossip`], and the answer
/// carries the same of its own side, with this `sequence`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// To whom.
    pub to: MemberId,
    /// Never used twice by one process.
    pub sequence: u64,
}

/// Another member, as seen from here.
#[derive(Clone, Debug)]
struct Peer {
    id: MemberId,
    /// The greatest opinion heard or formed.
    standing: Standing,
    link: Link,
    /// What link and standing add up to.
    belief: Belief,
    /// The last interval in which it was probed.
    probed_in: u64,
}

/// The failure detector of one node.
///
/// Call [`Liveness::tick`] at least every [`TICK_MS_MAX`], send the probes that it returns, answer every ping that comes
/// in at once, and hand over what arrives. The same calls with the same arguments give the same results. `now` does not
/// go back; a call with an earlier one is taken as being of the same instant as the latest.
#[derive(Clone, Debug)]
pub struct Liveness {
    own: MemberId,
    own_standing: Standing,
    prng: Prng,
    /// By id; without the own.
    peers: Vec<Peer>,
    /// Places in `peers`, shuffled anew at the end of each round.
    rotation: Vec<usize>,
    rotation_at: usize,
    doubted_at: usize,
    suspect_at: usize,
    retold_at: usize,
    /// Ids to be probed out of turn.
    prompted: VecDeque<MemberId>,
    news: News,
    sequence: u64,
    interval: u64,
    interval_due: Mono,
    extra_left: usize,
    /// The latest `now`.
    seen: Mono,
    /// Nanoseconds in which this node stood still.
    stalled_ns: u64,
    changed: bool,
}

impl Liveness {
    /// The detector of member `own`, whose process is its `incarnation`th, counted from 1. The seed orders the probes.
    pub fn new(own: MemberId, incarnation: u64, seed: u64) -> Liveness {
        assert!(incarnation > 0, "starts are counted from 1");
        let mut news = News::default();
        news.tell(own, 1);
        Liveness {
            own,
            own_standing: Standing::begun(incarnation),
            prng: Prng::new(seed),
            peers: Vec::new(),
            rotation: Vec::new(),
            rotation_at: 0,
            doubted_at: 0,
            suspect_at: 0,
            retold_at: 0,
            prompted: VecDeque::new(),
            news,
            sequence: 0,
            interval: 0,
            interval_due: Mono(0),
            extra_left: EXTRA_PROBES_MAX,
            seen: Mono(0),
            stalled_ns: 0,
            changed: false,
        }
    }

    /// The members of the epoch in force, in any order, with or without the own. What is known of those that stay is
    /// kept; those that are new are believed alive for [`GRACE_MS`] at least. The next tick tells of a change.
    pub fn set_members(&mut self, now: Mono, members: &[MemberId]) {
        let at = self.watch(now);
        let mut ids: Vec<MemberId> = members.iter().copied().filter(|id| *id != self.own).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(MEMBERS_MAX);
        let mut known = core::mem::take(&mut self.peers).into_iter().peekable();
        for id in ids {
            while known.next_if(|peer| peer.id < id).is_some() {}
            self.peers.push(known.next_if(|peer| peer.id == id).unwrap_or_else(|| Peer::new(id, at)));
        }
        self.rotation = (0..self.peers.len()).collect();
        self.shuffle();
        (self.doubted_at, self.suspect_at, self.retold_at) = (0, 0, 0);
        let Liveness { own, peers, news, prompted, .. } = self;
        let stays = |id: MemberId| id == *own || peers.binary_search_by_key(&id, |peer| peer.id).is_ok();
        news.retain(stays);
        prompted.retain(|id| stays(*id));
        // How often it is told depends on how many there are to tell.
        news.tell(*own, peers.len());
        self.changed = true;
    }

    /// Passes verdicts and appends the probes that are due, [`PROBES_MAX`] + [`EXTRA_PROBES_MAX`] in an interval at
    /// most. True if any belief, or the set of members, changed since the last call.
    pub fn tick(&mut self, now: Mono, probes: &mut Vec<Probe>) -> bool {
        let at = self.watch(now);
        for place in 0..self.peers.len() {
            self.judge(place, at);
        }
        let due = at >= self.interval_due;
        if due {
            let next = self.interval_due.after_ms(INTERVAL_MS);
            self.interval_due = if next > at { next } else { at.after_ms(INTERVAL_MS) };
            self.interval += 1;
            self.extra_left = EXTRA_PROBES_MAX;
            self.probe_in_turn(at, probes);
        }
        self.probe_prompted(at, probes);
        if due {
            self.probe_doubted(at, probes);
            self.probe_suspects(at, probes);
        }
        core::mem::take(&mut self.changed)
    }

    /// What the next message to `to` says of others, [`OPINIONS_MAX`] at most: first that `to` itself is suspected, so
    /// that it can object; then what changed, the latest first; then who else is suspected, [`OPINIONS_OLD_MAX`] in turn.
    pub fn gossip(&mut self, to: MemberId) -> Vec<Opinion> {
        let Liveness { own, own_standing, peers, news, .. } = self;
        let mut said: Vec<Opinion> = Vec::new();
        if let Some(peer) = find(peers, to).map(|place| &peers[place]).filter(|peer| peer.is_accused()) {
            said.push(peer.opinion());
        }
        news.take(|member| {
            if said.len() == OPINIONS_MAX {
                return false;
            }
            let standing = if member == *own {
                *own_standing
            } else {
                peers[find(peers, member).expect("news is of members")].standing
            };
            if said.iter().all(|opinion| opinion.member != member) {
                said.push(Opinion { member, standing });
            }
            true
        });
        let room = OPINIONS_MAX.min(said.len() + OPINIONS_OLD_MAX);
        for _ in 0..self.peers.len() {
            if said.len() == room {
                break;
            }
            let peer = &self.peers[next(&mut self.retold_at, self.peers.len())];
            if peer.is_accused() && said.iter().all(|opinion| opinion.member != peer.id) {
                said.push(peer.opinion());
            }
        }
        said
    }

    /// What came with a message of `from`. Strangers are not listened to, nor is more than [`OPINIONS_MAX`] of a message.
    pub fn take_gossip(&mut self, now: Mono, from: MemberId, opinions: &[Opinion]) {
        let at = self.watch(now);
        if find(&self.peers, from).is_none() {
            return;
        }
        for opinion in opinions.iter().take(OPINIONS_MAX) {
            if opinion.member == self.own {
                self.defend(opinion.standing);
            } else if let Some(place) = find(&self.peers, opinion.member) {
                self.weigh(place, opinion.standing, at);
            }
        }
    }

    /// A ping came from a member in its `incarnation`th process. That proves that it lives, not that it can be reached:
    /// a suspect is probed at once.
    pub fn ping_heard(&mut self, now: Mono, from: MemberId, incarnation: u64) {
        let at = self.watch(now);
        let Some(place) = find(&self.peers, from) else {
            return;
        };
        self.begun(place, incarnation, at);
        if self.peers[place].belief == Belief::Suspected {
            self.prompt(from);
        }
    }

    /// An answer to probe `sequence` came from a member in its `incarnation`th process.
    pub fn answer_heard(&mut self, now: Mono, from: MemberId, incarnation: u64, sequence: u64) {
        let at = self.watch(now);
        let Some(place) = find(&self.peers, from) else {
            return;
        };
        let peer = &mut self.peers[place];
        let known = peer.standing.incarnation;
        if incarnation < known {
            return;
        }
        // A process that began while the probe was under way says nothing about the pace of the link.
        let same_process = incarnation == known || known == 0;
        peer.link.answered(at, sequence, same_process);
        self.begun(place, incarnation, at);
        self.refresh(place, at);
    }

    /// A connection to `member` was refused or reset: it is probed at once and, if it does not answer, suspected sooner.
    pub fn unreachable(&mut self, now: Mono, member: MemberId) {
        let at = self.watch(now);
        if let Some(place) = find(&self.peers, member) {
            self.peers[place].link.refused(at);
            self.prompt(member);
        }
    }

    /// What is thought of a member. Of the own one and of strangers nothing bad is known.
    pub fn belief(&self, member: MemberId) -> Belief {
        self.peer(member).map_or(Belief::Alive, |peer| peer.belief)
    }

    /// The members suspected, in the order of their ids.
    pub fn suspects(&self) -> impl Iterator<Item = MemberId> {
        self.peers.iter().filter(|peer| peer.belief == Belief::Suspected).map(|peer| peer.id)
    }

    /// The other members that are believed alive, in the order of their ids.
    pub fn alive(&self) -> impl Iterator<Item = MemberId> {
        self.peers.iter().filter(|peer| peer.belief == Belief::Alive).map(|peer| peer.id)
    }

    /// How long the answers of a member take, smoothed, µs; None before the first.
    pub fn delay_us(&self, member: MemberId) -> Option<u64> {
        self.peer(member).and_then(|peer| peer.link.delay_us())
    }

    /// The greatest count of starts heard of; None for strangers and for a member never heard of.
    pub fn incarnation(&self, member: MemberId) -> Option<u64> {
        let incarnation = self.peer(member).map(|peer| peer.standing.incarnation);
        incarnation.filter(|incarnation| *incarnation > 0)
    }

    fn peer(&self, member: MemberId) -> Option<&Peer> {
        find(&self.peers, member).map(|place| &self.peers[place])
    }

    /// The time that this node watched, up to `now`: what it stood still is left out, because answers may have come
    /// that nobody took. All instants that are kept are of this time.
    fn watch(&mut self, now: Mono) -> Mono {
        self.stalled_ns += now.since(self.seen.after_ms(TICK_MS_MAX));
        self.seen = self.seen.max(now);
        Mono(self.seen.0 - self.stalled_ns)
    }

    /// A link found silent is an accusation, told once: a member that objects is not accused of the same silence again.
    fn judge(&mut self, place: usize, at: Mono) {
        let others = self.peers.len();
        let peer = &mut self.peers[place];
        if peer.link.judge(at) && !peer.is_accused() {
            peer.standing.belief = Belief::Suspected;
            self.news.tell(peer.id, others);
        }
        self.refresh(place, at);
    }

    /// Somebody said this of the own member.
    fn defend(&mut self, said: Standing) {
        let own = &mut self.own_standing;
        // An incarnation that is not yet: this directory is an older copy, which is not for the detector to notice.
        if said.incarnation == own.incarnation && said.belief == Belief::Suspected {
            own.number = own.number.max(said.number.saturating_add(1));
            self.news.tell(self.own, self.peers.len());
        }
    }

    /// Somebody said this of another member.
    fn weigh(&mut self, place: usize, said: Standing, at: Mono) {
        let others = self.peers.len();
        let peer = &mut self.peers[place];
        let (id, known) = (peer.id, peer.standing);
        if said > known {
            if said.incarnation > known.incarnation {
                self.begun(place, said.incarnation, at);
            }
            let peer = &mut self.peers[place];
            peer.standing = said;
            if said.belief == Belief::Alive && peer.link.is_silent() {
                self.prompt(id);
            }
            if !said.is_plain() {
                self.news.tell(id, others);
            }
        } else if said < known && said.belief == Belief::Suspected && known.belief == Belief::Alive {
            self.news.correct(id);
        }
        self.refresh(place, at);
    }

    /// A member is known to be in its `incarnation`th process: if that is a later one, nothing said of an earlier one
    /// holds, and it is given time.
    fn begun(&mut self, place: usize, incarnation: u64, at: Mono) {
        let peer = &mut self.peers[place];
        let known = peer.standing.incarnation;
        if incarnation <= known {
            return;
        }
        peer.standing = Standing::begun(incarnation);
        if known > 0 {
            let id = peer.id;
            peer.link.restarted(at);
            self.prompt(id);
            self.news.tell(id, self.peers.len());
        }
        self.refresh(place, at);
    }

    /// The own link decides; where it says nothing, what others say.
    fn refresh(&mut self, place: usize, at: Mono) {
        let peer = &mut self.peers[place];
        let belief = peer.link.verdict(at).unwrap_or(peer.standing.belief);
        if belief != peer.belief {
            peer.belief = belief;
            self.changed = true;
        }
    }

    fn prompt(&mut self, member: MemberId) {
        if self.prompted.len() < PROMPTED_MAX && !self.prompted.contains(&member) {
            self.prompted.push_back(member);
        }
    }

    fn probe(&mut self, place: usize, at: Mono, probes: &mut Vec<Probe>) {
        self.sequence += 1;
        let peer = &mut self.peers[place];
        peer.probed_in = self.interval;
        peer.link.probed(at, self.sequence);
        probes.push(Probe { to: peer.id, sequence: self.sequence });
    }

    fn probe_extra(&mut self, place: usize, at: Mono, probes: &mut Vec<Probe>) {
        assert!(self.extra_left > 0, "the interval's budget is asked before it is spent");
        self.extra_left -= 1;
        self.probe(place, at, probes);
    }

    /// Each member once in a round. One that comes up twice in an interval, at the end of a round and at the beginning
    /// of the next, is probed once.
    fn probe_in_turn(&mut self, at: Mono, probes: &mut Vec<Probe>) {
        for _ in 0..PROBES_MAX.min(self.peers.len()) {
            if self.rotation_at == self.rotation.len() {
                self.shuffle();
            }
            let place = self.rotation[self.rotation_at];
            self.rotation_at += 1;
            if self.peers[place].probed_in != self.interval {
                self.probe(place, at, probes);
            }
        }
    }

    fn probe_prompted(&mut self, at: Mono, probes: &mut Vec<Probe>) {
        while self.extra_left > 0 {
            let Some(member) = self.prompted.pop_front() else {
                break;
            };
            let place = find(&self.peers, member).expect("only members are prompted");
            self.probe_extra(place, at, probes);
        }
    }

    /// One unanswered probe of a member whose turn is far off must be followed by others, or it would never be decided.
    fn probe_doubted(&mut self, at: Mono, probes: &mut Vec<Probe>) {
        for _ in 0..self.peers.len() {
            if self.extra_left == 0 {
                break;
            }
            let place = next(&mut self.doubted_at, self.peers.len());
            let peer = &self.peers[place];
            if peer.probed_in != self.interval && peer.link.is_doubted(at) {
                self.probe_extra(place, at, probes);
            }
        }
    }

    fn probe_suspects(&mut self, at: Mono, probes: &mut Vec<Probe>) {
        let intervals = self.peers.len().div_ceil(PROBES_PER_SUSPECT) as u64;
        for _ in 0..self.peers.len() {
            if self.extra_left == 0 {
                break;
            }
            let place = next(&mut self.suspect_at, self.peers.len());
            let peer = &self.peers[place];
            if peer.belief == Belief::Suspected && self.interval - peer.probed_in >= intervals {
                self.probe_extra(place, at, probes);
            }
        }
    }

    fn shuffle(&mut self) {
        self.rotation_at = 0;
        for place in (1..self.rotation.len()).rev() {
            let other = self.prng.below(place as u64 + 1) as usize;
            self.rotation.swap(place, other);
        }
    }
}

impl Peer {
    fn new(id: MemberId, at: Mono) -> Peer {
        Peer { id, standing: Standing::UNKNOWN, link: Link::new(at), belief: Belief::Alive, probed_in: 0 }
    }

    fn opinion(&self) -> Opinion {
        Opinion { member: self.id, standing: self.standing }
    }

    /// Said to be suspected, by whomever, and it has not objected.
    fn is_accused(&self) -> bool {
        self.standing.belief == Belief::Suspected
    }
}

fn find(peers: &[Peer], member: MemberId) -> Option<usize> {
    peers.binary_search_by_key(&member, |peer| peer.id).ok()
}

/// The place at `at`, which moves on, around `len`.
fn next(at: &mut usize, len: usize) -> usize {
    let place = *at;
    *at = (place + 1) % len;
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Mono {
        Mono(0).after_ms(ms)
    }

    fn said(member: u32, incarnation: u64, number: u32, belief: Belief) -> Opinion {
        Opinion { member: MemberId(member), standing: Standing { incarnation, number, belief } }
    }

    /// Member 1 of `count`, which all answer at once; ten seconds old.
    fn settled(count: u32) -> (Liveness, u64) {
        let mut liveness = Liveness::new(MemberId(1), 5, 42);
        liveness.set_members(at_ms(0), &(1..=count).map(MemberId).collect::<Vec<_>>());
        let until = 10_000 * u64::from(count.div_ceil(40));
        run(&mut liveness, 0, until, |_| true);
        // What is new at the start is told by now.
        (0..100).for_each(|_| drop(liveness.gossip(MemberId(2))));
        (liveness, until)
    }

    /// Ticks every 50 ms; those that `answers` names answer at once, in incarnation 5. Returns the pings, by member.
    fn run(liveness: &mut Liveness, from: u64, until: u64, answers: impl Fn(MemberId) -> bool) -> Vec<u32> {
        let mut pinged = Vec::new();
        for ms in (from..until).step_by(50) {
            let mut probes = Vec::new();
            liveness.tick(at_ms(ms), &mut probes);
            for Probe { to, sequence } in probes {
                pinged.push(to.0);
                if answers(to) {
                    liveness.answer_heard(at_ms(ms), to, 5, sequence);
                }
            }
        }
        pinged
    }

    #[test]
    fn nobody_is_suspected_within_the_grace() {
        let mut liveness = Liveness::new(MemberId(1), 1, 42);
        liveness.set_members(at_ms(0), &[MemberId(1), MemberId(2), MemberId(3)]);
        liveness.take_gossip(at_ms(0), MemberId(2), &[said(3, 5, 0, Belief::Suspected)]);
        run(&mut liveness, 0, GRACE_MS, |id| id == MemberId(2));
        assert_eq!(liveness.suspects().count(), 0);
        run(&mut liveness, GRACE_MS, GRACE_MS + 50, |id| id == MemberId(2));
        assert_eq!(liveness.suspects().collect::<Vec<_>>(), [MemberId(3)]);
        assert_eq!(liveness.alive().collect::<Vec<_>>(), [MemberId(2)]);
        // One that joins later has a grace of its own.
        liveness.set_members(at_ms(2_000), &[MemberId(2), MemberId(3), MemberId(4)]);
        run(&mut liveness, 2_000, 2_950, |id| id == MemberId(2));
        assert_eq!(liveness.belief(MemberId(4)), Belief::Alive);
        assert_eq!(liveness.belief(MemberId(3)), Belief::Suspected);
    }

    #[test]
    fn every_member_comes_up_in_each_round() {
        let (mut liveness, now) = settled(401);
        let pinged = run(&mut liveness, now, now + 2 * 100 * INTERVAL_MS, |_| true);
        assert_eq!(pinged.len(), 800);
        let mut members = pinged.clone();
        members.sort_unstable();
        members.dedup();
        assert_eq!(members.len(), 400);
        assert_ne!(pinged[..400], pinged[400..], "a new order in each round");
    }

    #[test]
    fn suspicion_of_an_earlier_process_never_harms_a_later_one() {
        let (mut liveness, now) = settled(400);
        for (number, belief) in [(0, Belief::Suspected), (u32::MAX, Belief::Suspected), (7, Belief::Alive)] {
            liveness.take_gossip(at_ms(now), MemberId(2), &[said(9, 4, number, belief)]);
            assert_eq!(liveness.belief(MemberId(9)), Belief::Alive);
            assert_eq!(liveness.peer(MemberId(9)).map(|peer| peer.standing), Some(Standing::begun(5)));
        }
        // Who says so is told better.
        assert_eq!(liveness.gossip(MemberId(2)), [said(9, 5, 0, Belief::Alive)]);
        // Of this process it is believed, unless its own link has spoken lately.
        let quiet = now + 2_000;
        run(&mut liveness, now, quiet, |id| id != MemberId(9));
        liveness.take_gossip(at_ms(quiet), MemberId(2), &[said(9, 5, 0, Belief::Suspected)]);
        assert_eq!(liveness.belief(MemberId(9)), Belief::Suspected);
        liveness.ping_heard(at_ms(quiet), MemberId(9), 6);
        assert_eq!(liveness.belief(MemberId(9)), Belief::Alive);
        assert_eq!(liveness.incarnation(MemberId(9)), Some(6));
    }

    #[test]
    fn own_link_outweighs_what_others_say() {
        let (mut liveness, now) = settled(3);
        liveness.take_gossip(at_ms(now), MemberId(2), &[said(3, 5, 0, Belief::Suspected)]);
        run(&mut liveness, now, now + 5_000, |_| true);
        assert_eq!(liveness.belief(MemberId(3)), Belief::Alive);
        let later = now + 5_000;
        run(&mut liveness, later, later + 1_000, |id| id != MemberId(3));
        assert_eq!(liveness.belief(MemberId(3)), Belief::Suspected);
        liveness.take_gossip(at_ms(later + 1_000), MemberId(2), &[said(3, 5, 1, Belief::Alive)]);
        assert_eq!(liveness.belief(MemberId(3)), Belief::Suspected);
        run(&mut liveness, later + 1_000, later + 1_250, |_| true);
        assert_eq!(liveness.belief(MemberId(3)), Belief::Alive);
    }

    #[test]
    fn suspected_member_objects_under_a_greater_number() {
        let (mut liveness, now) = settled(10);
        let objection = |liveness: &mut Liveness, number| {
            liveness.take_gossip(at_ms(now), MemberId(2), &[said(1, 5, number, Belief::Suspected)]);
            liveness.gossip(MemberId(3))
        };
        assert_eq!(objection(&mut liveness, 3), [said(1, 5, 4, Belief::Alive)]);
        assert_eq!(objection(&mut liveness, 2), [said(1, 5, 4, Belief::Alive)], "said already");
        assert_eq!(objection(&mut liveness, u32::MAX), [said(1, 5, u32::MAX, Belief::Alive)]);
        let (mut liveness, _) = settled(10);
        liveness.take_gossip(at_ms(now), MemberId(2), &[said(1, 4, 9, Belief::Suspected)]);
        liveness.take_gossip(at_ms(now), MemberId(2), &[said(1, 6, 9, Belief::Suspected)]);
        assert_eq!(liveness.gossip(MemberId(3)), [], "other processes are not its own");
    }

    #[test]
    fn suspect_is_told_first_that_it_is_suspected() {
        let (mut liveness, now) = settled(400);
        for member in 2..20 {
            liveness.take_gossip(at_ms(now), MemberId(50), &[said(member, 5, 0, Belief::Suspected)]);
        }
        let told = liveness.gossip(MemberId(2));
        assert_eq!((told.len(), told[0].member, told[1].member), (OPINIONS_MAX, MemberId(2), MemberId(19)));
    }

    #[test]
    fn sign_of_life_of_a_suspect_has_it_probed_at_once() {
        let (mut liveness, now) = settled(400);
        run(&mut liveness, now, now + 2_000, |id| id != MemberId(9));
        let now = now + 2_000;
        liveness.take_gossip(at_ms(now), MemberId(50), &[said(9, 5, 0, Belief::Suspected)]);
        run(&mut liveness, now, now + 50, |id| id != MemberId(9));
        liveness.ping_heard(at_ms(now + 50), MemberId(9), 5);
        let belief = |liveness: &Liveness| liveness.belief(MemberId(9));
        assert_eq!(belief(&liveness), Belief::Suspected);
        assert_eq!(run(&mut liveness, now + 60, now + 61, |_| true), [9]);
        assert_eq!(belief(&liveness), Belief::Alive);
    }

    #[test]
    fn suspects_are_probed_more_often_but_not_by_everyone_at_once() {
        for (count, least, most) in [(5, 100, 100), (10, 100, 100), (400, 4, 6)] {
            let (mut liveness, now) = settled(count);
            liveness.unreachable(at_ms(now - 1), MemberId(3));
            run(&mut liveness, now, now + 2_000, |id| id != MemberId(3));
            assert_eq!(liveness.suspects().collect::<Vec<_>>(), [MemberId(3)]);
            let (from, until) = (now + 2_000, now + 2_000 + 100 * INTERVAL_MS);
            let pinged = run(&mut liveness, from, until, |id| id != MemberId(3));
            let pings = pinged.iter().filter(|id| **id == 3).count();
            assert!((least..=most).contains(&pings), "{count} members: {pings} in a hundred intervals");
        }
    }

    #[test]
    fn silence_between_two_processes_of_a_member_teaches_no_patience() {
        let (mut liveness, now) = settled(2);
        run(&mut liveness, now, now + 1_500, |_| false);
        let mut probes = Vec::new();
        liveness.tick(at_ms(now + 1_500), &mut probes);
        // The process that began heard the probe that was on its way.
        liveness.answer_heard(at_ms(now + 1_510), MemberId(2), 6, liveness.sequence);
        assert_eq!(
            (liveness.belief(MemberId(2)), liveness.incarnation(MemberId(2))),
            (Belief::Alive, Some(6))
        );
        run(&mut liveness, now + 1_550, now + 1_550 + GRACE_MS + 50, |_| false);
        assert_eq!(liveness.belief(MemberId(2)), Belief::Suspected);
    }

    #[test]
    fn probes_of_an_interval_are_bounded_whatever_comes_in() {
        let (mut liveness, now) = settled(400);
        for member in 2..=400 {
            let at = at_ms(now - 1);
            liveness.take_gossip(at, MemberId(2), &[said(member, 5, 0, Belief::Suspected)]);
            liveness.ping_heard(at, MemberId(member), 5);
            liveness.unreachable(at, MemberId(member));
        }
        assert_eq!(liveness.prompted.len(), PROMPTED_MAX);
        for ms in (now..now + 10_000).step_by(INTERVAL_MS as usize) {
            let pinged = run(&mut liveness, ms, ms + INTERVAL_MS, |_| false);
            assert!(pinged.len() <= PROBES_MAX + EXTRA_PROBES_MAX, "{pinged:?}");
        }
    }

    #[test]
    fn cost_is_the_same_for_three_members_and_for_a_thousand() {
        for count in [3, 5, 6, 20, 100, 1_000] {
            let (mut liveness, now) = settled(count);
            let members = count as usize - 1;
            let quiet = run(&mut liveness, now, now + 100 * INTERVAL_MS, |_| true).len();
            assert!(quiet <= 100 * PROBES_MAX.min(members), "{quiet}");
            assert!(quiet >= 80 * PROBES_MAX.min(members), "{quiet}");
            assert!(liveness.gossip(MemberId(2)).is_empty());
            // A third dies, and others tell of it.
            let now = now + 100 * INTERVAL_MS;
            let (mut pings, mut opinions) = (0, 0);
            for interval in 0..100 {
                let member = 3 * (interval % count.div_ceil(3)) + 3;
                liveness.take_gossip(at_ms(now), MemberId(2), &[said(member, 5, 0, Belief::Suspected)]);
                let now = now + u64::from(interval) * INTERVAL_MS;
                let messages = run(&mut liveness, now, now + INTERVAL_MS, |id| !id.0.is_multiple_of(3)).len();
                pings += messages;
                opinions += (0..messages).map(|_| liveness.gossip(MemberId(2)).len()).sum::<usize>();
            }
            assert!(pings <= 100 * (PROBES_MAX + EXTRA_PROBES_MAX), "{pings}");
            assert!(opinions <= pings * OPINIONS_MAX && opinions > 0, "{opinions}");
        }
    }

    #[test]
    fn what_is_too_much_or_of_strangers_is_left_out() {
        let (mut liveness, now) = settled(400);
        let many: Vec<Opinion> = (10..30).map(|member| said(member, 5, 0, Belief::Suspected)).collect();
        let now = now + 2_000;
        liveness.take_gossip(at_ms(now), MemberId(401), &many);
        liveness.take_gossip(at_ms(now), MemberId(2), &[said(401, 5, 0, Belief::Suspected)]);
        liveness.ping_heard(at_ms(now), MemberId(401), 9);
        liveness.answer_heard(at_ms(now), MemberId(401), 9, 1);
        liveness.unreachable(at_ms(now), MemberId(401));
        assert_eq!((liveness.incarnation(MemberId(401)), liveness.delay_us(MemberId(401))), (None, None));
        assert_eq!(
            (liveness.belief(MemberId(401)), liveness.peers.iter().filter(|peer| peer.is_accused()).count()),
            (Belief::Alive, 0)
        );
        liveness.take_gossip(at_ms(now), MemberId(2), &many);
        assert_eq!(liveness.peers.iter().filter(|peer| peer.is_accused()).count(), OPINIONS_MAX);
        let crowd: Vec<MemberId> = (1..=MEMBERS_MAX as u32 + 10).map(MemberId).collect();
        liveness.set_members(at_ms(now), &crowd);
        assert_eq!(liveness.alive().count() + liveness.suspects().count(), MEMBERS_MAX);
    }

    #[test]
    fn members_that_stay_keep_what_is_known_of_them() {
        let (mut liveness, now) = settled(5);
        run(&mut liveness, now, now + 2_000, |id| id != MemberId(3));
        liveness.take_gossip(at_ms(now), MemberId(2), &[said(4, 5, 3, Belief::Alive)]);
        liveness.unreachable(at_ms(now), MemberId(4));
        liveness.set_members(
            at_ms(now + 2_000),
            &[MemberId(9), MemberId(3), MemberId(2), MemberId(2), MemberId(1)],
        );
        assert_eq!(liveness.suspects().collect::<Vec<_>>(), [MemberId(3)]);
        assert_eq!(liveness.alive().collect::<Vec<_>>(), [MemberId(2), MemberId(9)]);
        assert_eq!((liveness.delay_us(MemberId(2)), liveness.delay_us(MemberId(4))), (Some(1), None));
        // Nothing is said or asked of the one that left.
        assert!(!run(&mut liveness, now + 2_000, now + 3_000, |_| true).contains(&4));
        assert!(liveness.gossip(MemberId(2)).iter().all(|opinion| opinion.member != MemberId(4)));
        let mut probes = Vec::new();
        liveness.set_members(at_ms(now + 3_000), &[]);
        assert!(liveness.tick(at_ms(now + 3_000), &mut probes));
        assert!(!liveness.tick(at_ms(now + 3_000), &mut probes) && probes.is_empty());
        assert_eq!(run(&mut liveness, now + 3_000, now + 4_000, |_| true), [0; 0]);
    }

    #[test]
    fn tick_says_once_that_a_belief_changed() {
        let (mut liveness, now) = settled(400);
        let mut probes = Vec::new();
        let now = now + 1_500;
        run(&mut liveness, now - 1_500, now, |id| id != MemberId(9));
        liveness.take_gossip(at_ms(now), MemberId(2), &[said(9, 5, 0, Belief::Suspected)]);
        assert!(liveness.tick(at_ms(now), &mut probes));
        assert!(!liveness.tick(at_ms(now), &mut probes));
    }
}
