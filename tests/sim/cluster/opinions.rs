//! What nodes believe of each other: drawn from the truth, late and sometimes wrong. Safety must not rest on it.

use super::{Happening, MS, Phase, World, trace};
use ringcore::node::event::{Event, Opinion};
use ringcore::node::image::Host;
use ringcore::types::MemberId;

/// How far the bound in the log rides ahead of the clock.
const CLOCK_BOUND_MS: u64 = 500;

impl World {
    /// A node looks around, and will again.
    pub(super) fn opinion(&mut self, at: usize) {
        let every_ns = self.options.opinions.every_ms * MS;
        let next = self.now_ns + self.fate.between(every_ns / 2, every_ns);
        self.at(next, Happening::Opinion(at));
        if !self.sites[at].is_up(self.now_ns) {
            return;
        }
        let suspects = self.suspects(at);
        let ahead_ms = self.cluster_ahead_ms(at);
        if suspects != self.sites[at].suspects {
            trace::line(self.now_ns, None, || format!("node {at} suspects {suspects:?}"));
        }
        self.sites[at].suspects.clone_from(&suspects);
        self.attend(at, |node| {
            for core in &node.cores {
                let opinion = Opinion { suspects: suspects.clone(), ahead_ms };
                core.step(Event::Opinion(opinion));
            }
        });
    }

    fn suspects(&mut self, at: usize) -> Vec<MemberId> {
        let delay_ns = match self.phase {
            Phase::Faults => self.options.opinions.delay_ms * MS,
            Phase::Healing | Phase::Healed | Phase::Calm | Phase::Audit => 0,
        };
        let wrong = self.phase == Phase::Faults && self.fate.chance(self.options.opinions.wrong_permille);
        let mut suspects = Vec::new();
        for other in (0..self.sites.len()).filter(|other| *other != at) {
            let heard = self.sites[other].is_up(self.now_ns)
                && !self.network.is_cut(at, other)
                && !self.network.is_cut(other, at);
            let since = &mut self.sites[at].unheard_since[other];
            *since = if heard { None } else { Some(since.unwrap_or(self.now_ns)) };
            let mut suspected = since.is_some_and(|since| self.now_ns - since >= delay_ns);
            // Nobody waits for a node whose clock nobody accepts; the rule that it does not coordinate is not built.
            suspected |= self.phase != Phase::Faults && self.sites[other].wild;
            if wrong && self.fate.chance(500) {
                suspected = !suspected;
                self.met.note("a node was suspected wrongly, or trusted");
            }
            if suspected {
                suspects.push(MemberId(other as u32 + 1));
            }
        }
        suspects
    }

    /// How far the median of the live nodes' clocks is ahead of this node's, as the protocol wants it.
    fn cluster_ahead_ms(&self, at: usize) -> i64 {
        let (median, clocks) = self.median_ms();
        let own = self.sites[at].clock_ms().expect("it runs");
        if clocks < 3 { 0 } else { median as i64 - own as i64 }
    }

    /// The median of the live nodes' clocks, and how many they are.
    fn median_ms(&self) -> (u64, usize) {
        for site in &self.sites {
            site.set_now(self.now_ns);
        }
        let mut clocks: Vec<u64> = self.sites.iter().filter_map(super::members::Site::clock_ms).collect();
        clocks.sort_unstable();
        (clocks[clocks.len().saturating_sub(1) / 2], clocks.len())
    }

    /// Do the others accept what a node stamps? Neither its clock nor its versions are far from the others' clocks.
    pub(super) fn is_in_step(&self, at: usize) -> bool {
        let skew_ms = self.options.shape.limits.skew_ms_max;
        let (median, _) = self.median_ms();
        let site = &self.sites[at];
        let (Some(node), Some(clock_ms)) = (&site.node, site.clock_ms()) else { return true };
        let ahead = |core: &crate::node::SimCore| {
            let bound = core.with(|machine| machine.replica().log().durable_hlc_bound());
            bound.ms() > median + CLOCK_BOUND_MS + skew_ms / 2
        };
        clock_ms.abs_diff(median) < skew_ms / 2 && !node.cores.iter().any(ahead)
    }
}
