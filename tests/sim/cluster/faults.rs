//! What goes wrong, when, and for how long.

use super::options::choice;
use super::{Happening, MS, Phase, World, trace};
use crate::disk::{Fault, Latency};
use ringcore::node::event::Event;
use std::collections::BTreeMap;

const DAY_MS: i64 = 86_400_000;

/// What is put right again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mending {
    /// The cut of that number.
    Cut(u64),
    SlowLink(usize, usize),
    Disk {
        site: usize,
        life: u64,
    },
    DiskSpeed(usize),
    /// A node that was told to stop ends.
    Stopped {
        site: usize,
        life: u64,
    },
}

/// Cuts of the network in force.
#[derive(Default)]
pub(crate) struct Mendings {
    cuts: BTreeMap<u64, Vec<(usize, usize)>>,
    next: u64,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    CrashSeveral,
    CrashAll,
    Stop,
    Pause,
    Partition,
    Reset,
    SlowLink,
    SlowDisk,
    DiskFull,
    IoFault,
    ClockJump,
}

impl World {
    /// Draws when clients ask, and what goes wrong meanwhile.
    pub(super) fn plan_bursts(&mut self) {
        let mut begin = self.now_ns;
        for _ in 0..self.options.bursts {
            let end = begin + self.fate.between(self.options.burst_ms / 2, self.options.burst_ms) * MS;
            self.bursts.push((begin, end));
            for _ in 0..self.fate.between(0, self.options.faults.per_burst) {
                let when = self.fate.between(begin.saturating_sub(100 * MS), end);
                self.at(when, Happening::Fault);
            }
            begin = end + self.fate.between(self.options.lull_ms / 2, self.options.lull_ms) * MS;
        }
        // The last lull belongs to the faults.
        self.bursts.push((begin, begin + 100 * MS));
    }

    pub(super) fn fault(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        let faults = &self.options.faults;
        let weights = [
            (Kind::Crash, faults.crash),
            (Kind::CrashSeveral, faults.crash_several),
            (Kind::CrashAll, faults.crash_all),
            (Kind::Stop, faults.stop),
            (Kind::Pause, faults.pause),
            (Kind::Partition, faults.partition),
            (Kind::Reset, faults.reset),
            (Kind::SlowLink, faults.slow_link),
            (Kind::SlowDisk, faults.slow_disk),
            (Kind::DiskFull, faults.disk_full),
            (Kind::IoFault, faults.io_fault),
            (Kind::ClockJump, faults.clock_jump),
        ];
        let sum: u64 = weights.iter().map(|(_, weight)| weight).sum();
        if sum == 0 {
            return;
        }
        let mut dice = self.fate.below(sum);
        for (kind, weight) in weights {
            if dice < weight {
                return self.do_fault(kind);
            }
            dice -= weight;
        }
    }

    fn do_fault(&mut self, kind: Kind) {
        trace::line(self.now_ns, None, || format!("fault: {kind:?}"));
        let sites = self.sites.len();
        let site = self.fate.below(sites as u64) as usize;
        match kind {
            Kind::Crash => self.crash_by_dice(site),
            Kind::CrashSeveral => {
                self.met.note("several nodes crashed at once");
                for at in 0..sites {
                    if self.fate.chance(500) {
                        self.crash_by_dice(at);
                    }
                }
            }
            Kind::CrashAll => {
                self.met.note("all nodes crashed at once");
                let power = self.fate.chance(self.options.faults.power_permille);
                (0..sites).for_each(|at| self.crash(at, power));
            }
            Kind::Stop => {
                self.met.note("a node was told to stop");
                self.sites[site].stopping = true;
                self.attend(site, |node| node.cores.iter().for_each(|core| core.step(Event::Stop)));
                let life = self.sites[site].life;
                self.mend_later(Mending::Stopped { site, life });
            }
            Kind::Pause => {
                self.met.note("a node was given no time for a while");
                self.sites[site].paused_until = self.now_ns + self.lasting_ns();
            }
            Kind::Partition => self.partition(site),
            Kind::Reset => self.reset(site),
            Kind::SlowLink => {
                let other = self.fate.below(sites as u64) as usize;
                let ns = self.fate.between(50, 1_000) * MS;
                self.network.slow(site, other, ns);
                self.met.note("a link was slow");
                self.mend_later(Mending::SlowLink(site, other));
            }
            Kind::SlowDisk => {
                let most_ns = self.fate.between(20, 300) * MS;
                self.sites[site].disk.delay(Latency { least_ns: most_ns / 4, most_ns, flush_hangs: false });
                self.met.note("a disk was slow");
                self.mend_later(Mending::DiskSpeed(site));
            }
            Kind::DiskFull => {
                self.sites[site].disk.limit(0);
                self.met.note("a disk was full");
                let life = self.sites[site].life;
                self.mend_later(Mending::Disk { site, life });
            }
            // A start would end at once, and so would the next.
            Kind::IoFault if self.sites[site].node.is_none() => {}
            Kind::IoFault => {
                let disk = &self.sites[site].disk;
                disk.fail_at(
                    disk.steps() + self.fate.below(6),
                    *choice(&mut self.fate, &[Fault::Io, Fault::Short]),
                );
            }
            Kind::ClockJump => self.jump(),
        }
    }

    fn crash_by_dice(&mut self, at: usize) {
        let power = self.fate.chance(self.options.faults.power_permille);
        self.crash(at, power);
    }

    fn jump(&mut self) {
        let wild: Vec<usize> = (0..self.sites.len()).filter(|at| self.sites[*at].wild).collect();
        let Some(&at) = wild.get(self.fate.below(wild.len().max(1) as u64) as usize) else { return };
        self.met.note("a clock jumped");
        self.sites[at].wall_offset_ms += self.fate.below(2 * DAY_MS as u64) as i64 - DAY_MS;
        if self.fate.chance(500) {
            self.met.note("a clock jumped before a start");
            self.crash_by_dice(at);
        }
    }

    fn reset(&mut self, site: usize) {
        let mut lost = 0;
        for other in 0..self.sites.len() {
            lost += self.network.reset(site, other) + self.network.reset(other, site);
        }
        if lost > 0 {
            self.met.note("messages under way were lost at once");
        }
    }

    fn partition(&mut self, site: usize) {
        let sites = self.sites.len();
        let pairs = (0..sites).flat_map(|from| (0..sites).map(move |to| (from, to)));
        let pairs: Vec<(usize, usize)> = pairs.filter(|(from, to)| from != to).collect();
        let (name, cut): (_, Vec<(usize, usize)>) = match self.fate.below(4) {
            0 => {
                let side: Vec<bool> = (0..sites).map(|_| self.fate.chance(500)).collect();
                ("the network fell into two halves", crossing(&pairs, |from, to| side[from] != side[to]))
            }
            1 => ("one node was cut off", crossing(&pairs, |from, to| from == site || to == site)),
            2 => {
                let out = self.fate.chance(500);
                let one_way = |from, to| if out { from == site } else { to == site };
                ("one node could only speak or only hear", crossing(&pairs, one_way))
            }
            _ => {
                let kept: Vec<bool> = pairs.iter().map(|_| self.fate.chance(700)).collect();
                let cut = pairs.iter().zip(kept).filter(|(_, kept)| !kept).map(|(pair, _)| *pair).collect();
                ("some directed links were cut", cut)
            }
        };
        if cut.is_empty() {
            return;
        }
        self.met.note(name);
        trace::line(self.now_ns, None, || format!("cut: {cut:?}"));
        cut.iter().for_each(|(from, to)| self.network.cut(*from, *to));
        self.mending.next += 1;
        let number = self.mending.next;
        self.mending.cuts.insert(number, cut);
        self.mend_later(Mending::Cut(number));
    }

    fn mend_later(&mut self, mending: Mending) {
        let when = self.now_ns + self.lasting_ns();
        self.at(when, Happening::Mends(mending));
    }

    fn lasting_ns(&mut self) -> u64 {
        let most = *choice(&mut self.fate, &[50, 500, 5_000]);
        self.fate.between(1, most) * MS
    }

    pub(super) fn mend(&mut self, mending: Mending) {
        match mending {
            Mending::Cut(number) => {
                for (from, to) in self.mending.cuts.remove(&number).unwrap_or_default() {
                    self.network.mend(from, to);
                }
            }
            Mending::SlowLink(from, to) => self.network.slow(from, to, 0),
            Mending::Disk { site, life } => {
                if self.sites[site].life == life {
                    self.sites[site].disk.limit(u64::MAX);
                }
            }
            Mending::Stopped { site, life } => {
                if self.sites[site].life == life {
                    self.crash(site, false);
                }
            }
            Mending::DiskSpeed(site) => {
                let latency = self.sites[site].disk_latency;
                self.sites[site].disk.delay(latency);
            }
        }
    }

    /// Nothing goes wrong any more: every node runs, or as many as each slot can do without stay down.
    pub(super) fn heal(&mut self) {
        trace::line(self.now_ns, None, || "everything heals".into());
        self.phase = Phase::Healing;
        self.mending.cuts.clear();
        self.network.heal();
        let spare = self.options.spare().saturating_sub(self.options.clocks.wild as usize);
        let down = if self.options.heal_minority_down { spare } else { 0 };
        let sites = self.sites.len();
        for at in 0..sites {
            let site = &mut self.sites[at];
            site.wall_offset_ms = site.wall_offset_ms.clamp(-200, 200);
            site.paused_until = 0;
            site.disk.limit(u64::MAX);
            site.disk.delay(site.disk_latency);
            if std::mem::take(&mut site.stopping) {
                self.crash(at, false);
            }
            // Wild ones come first in the list.
            if at >= sites - down {
                self.sites[at].stays_down = true;
                self.crash(at, false);
                self.met.note("a minority stayed down");
            }
        }
    }
}

fn crossing(pairs: &[(usize, usize)], cut: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    pairs.iter().copied().filter(|(from, to)| cut(*from, *to)).collect()
}
