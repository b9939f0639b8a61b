//! The nodes of a cluster: each with a disk, a clock and a life of its own.

use super::options::Options;
use super::{BEGIN_MS, Happening, MS, TICK_NS, World, trace};
use crate::disk::{Latency, SimDisk};
use crate::node::{Place, SimNode, held, open_member};
use ringcore::cluster::ring::Ring;
use ringcore::node::event::Event;
use ringcore::node::image::Host;
use ringcore::storage::disk::DiskErrorKind;
use ringcore::storage::open::OpenError;
use ringcore::types::prng::Prng;
use ringcore::types::{MemberId, Mono, Now, Slot};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

const DAY_MS: i64 = 86_400_000;
const TEN_YEARS_MS: i64 = 3_653 * DAY_MS;

/// Where a node lives.
pub(crate) struct Site {
    pub(crate) place: Place,
    pub(crate) disk: SimDisk,
    /// None: it is down.
    pub(crate) node: Option<SimNode>,
    pub(crate) cores: u16,
    /// Processes that have run here.
    pub(crate) life: u64,
    pub(crate) now: Rc<Cell<Now>>,
    drift_ppm: i64,
    pub(crate) wall_offset_ms: i64,
    /// Its clock does what it likes.
    pub(crate) wild: bool,
    pub(crate) paused_until: u64,
    /// It was told to stop.
    pub(crate) stopping: bool,
    pub(crate) disk_latency: Latency,
    /// Down until the audit.
    pub(crate) stays_down: bool,
    /// When each core ticks next.
    ticks: Vec<u64>,
    pub(crate) suspects: Vec<MemberId>,
    /// Since when each other node was not to be heard here.
    pub(crate) unheard_since: Vec<Option<u64>>,
}

impl Site {
    pub(crate) fn new(at: usize, ring: &Arc<Ring>, options: &Options, prng: &mut Prng) -> Site {
        let clocks = &options.clocks;
        let signed = |prng: &mut Prng, most: u64| prng.between(0, 2 * most) as i64 - most as i64;
        // The first nodes of the list are as good as any others.
        let wild = (at as u32) < clocks.wild;
        let mut wall_offset_ms = signed(prng, clocks.offset_ms);
        if wild && at == 0 && clocks.ten_years {
            wall_offset_ms += TEN_YEARS_MS;
        }
        let most_ns = options.disk_latency_us * 1_000;
        Site {
            place: Place { member: MemberId(at as u32 + 1), ring: Arc::clone(ring) },
            disk: SimDisk::new(prng.next_u64()),
            node: None,
            cores: prng.between(1, u64::from(options.cores_max)) as u16,
            life: 0,
            now: Rc::new(Cell::new(Now { wall_ms: BEGIN_MS, mono: Mono(0) })),
            drift_ppm: signed(prng, clocks.drift_ppm),
            wall_offset_ms,
            wild,
            paused_until: 0,
            stopping: false,
            disk_latency: Latency { least_ns: most_ns / 4, most_ns, flush_hangs: false },
            stays_down: false,
            ticks: Vec::new(),
            suspects: Vec::new(),
            unheard_since: vec![None; options.members as usize],
        }
    }

    /// Brings its clocks and its disk to a time of the world.
    pub(crate) fn set_now(&self, now_ns: u64) {
        let drift = i128::from(now_ns) * i128::from(self.drift_ppm) / 1_000_000;
        let mono = (i128::from(now_ns) + drift) as u64;
        let wall_ms = (BEGIN_MS + mono / MS).saturating_add_signed(self.wall_offset_ms);
        self.now.set(Now { wall_ms, mono: Mono(mono) });
        self.disk.advance(now_ns);
    }

    /// When its disk does something next.
    pub(crate) fn disk_due(&self, now_ns: u64) -> Option<u64> {
        self.node.as_ref()?;
        self.disk.next_due().map(|due| due.max(self.paused(now_ns).unwrap_or(0)))
    }

    /// Until when it is given no time, if so.
    pub(crate) fn paused(&self, now_ns: u64) -> Option<u64> {
        (self.paused_until > now_ns).then_some(self.paused_until)
    }

    pub(crate) fn is_up(&self, now_ns: u64) -> bool {
        self.node.is_some() && self.paused(now_ns).is_none()
    }

    /// What its own clock says, milliseconds since 1970; None: it is down.
    pub(crate) fn clock_ms(&self) -> Option<u64> {
        let node = self.node.as_ref()?;
        Some(node.cores[0].with(|machine| machine.clock_ms(self.now.get())))
    }
}

impl World {
    /// Starts a node, perhaps with another number of cores, perhaps interrupted on the way.
    pub(super) fn start(&mut self, at: usize) {
        let site = &mut self.sites[at];
        site.disk.limit(u64::MAX);
        site.disk.delay(Latency::default());
        if self.options.change_cores && site.life > 0 && self.fate.chance(500) {
            site.cores = self.fate.between(1, u64::from(self.options.cores_max)) as u16;
            self.met.note("a node came back with another number of cores");
        }
        let interrupted = site.life > 0
            && self.phase == super::Phase::Faults
            && self.fate.chance(self.options.faults.interrupted_start_permille);
        if interrupted {
            site.disk.stop_at(self.fate.below(120));
        }
        site.set_now(self.now_ns);
        site.life += 1;
        let life = site.life;
        match open_member(&site.disk, &site.place, site.cores, &self.options.shape, Rc::clone(&site.now)) {
            Some(Ok(node)) => {
                site.disk.stop_at(u64::MAX);
                site.disk.delay(site.disk_latency);
                site.ticks = vec![u64::MAX; node.cores.len()];
                // What a restart found is durable: it was read from the disk.
                for key in self.history.keys() {
                    if let Some(version) = held(&node, &key) {
                        self.durable.holds(at, &key, version);
                    }
                }
                site.suspects.clear();
                site.node = Some(node);
                trace::line(self.now_ns, None, || format!("node {at} runs, life {life}"));
                self.attend(at, |_| {});
            }
            Some(Err(OpenError::Disk(error))) if error.kind == DiskErrorKind::Full => {
                panic!("opening found no room: {error}")
            }
            Some(Err(error)) => panic!("node {at} does not open: {error}: {error:?}"),
            None => {
                self.met.note("a start was interrupted");
                self.end_process(at, true);
            }
        }
    }

    /// Ends a node's process, and plans its next.
    pub(super) fn crash(&mut self, at: usize, power: bool) {
        if self.sites[at].node.is_none() {
            return;
        }
        if self.open.values().any(|open| open.site == at && open.is_write()) {
            self.met.note("a node crashed during a write");
        }
        self.end_process(at, power);
    }

    fn end_process(&mut self, at: usize, power: bool) {
        trace::line(self.now_ns, None, || format!("node {at} ends, power {power}"));
        if let Some(node) = self.sites[at].node.take() {
            self.gather(&node);
        }
        let site = &mut self.sites[at];
        site.life += 1;
        site.paused_until = 0;
        site.stopping = false;
        if power {
            self.met.note("the power went");
            site.disk.crash();
        } else {
            self.met.note("a process was killed");
            site.disk.kill();
        }
        let life = site.life;
        let faults = &self.options.faults;
        let down_ns = self.fate.between(faults.down_ms_least, faults.down_ms) * MS;
        self.lose_tries(at);
        if !self.sites[at].stays_down {
            self.at(self.now_ns + down_ns, Happening::Starts { site: at, life });
        }
    }

    pub(super) fn tick(&mut self, at: usize, core: usize, life: u64) {
        let site = &mut self.sites[at];
        if site.life != life || site.ticks[core] > self.now_ns {
            return;
        }
        if let Some(resumes_ns) = site.paused(self.now_ns) {
            site.ticks[core] = resumes_ns;
            return self.at(resumes_ns, Happening::Tick { site: at, core, life });
        }
        site.ticks[core] = u64::MAX;
        self.attend(at, |node| node.cores[core].step(Event::Tick));
        self.check_bounds(at);
    }

    /// Has every core tick soon enough.
    pub(super) fn plan_ticks(&mut self, at: usize) {
        let site = &self.sites[at];
        let Some(node) = &site.node else { return };
        for core in 0..node.cores.len() {
            let site = &self.sites[at];
            let Some(node) = &site.node else { return };
            let pause = if node.cores[core].with(|machine| machine.is_busy()) {
                TICK_NS
            } else {
                self.options.idle_tick_ms * MS
            };
            let due = self.now_ns + pause;
            if site.ticks[core] > due {
                let life = site.life;
                self.sites[at].ticks[core] = due;
                self.at(due, Happening::Tick { site: at, core, life });
            }
        }
    }

    /// G15: what waits on a core stays within its limits.
    fn check_bounds(&self, at: usize) {
        let Some(node) = &self.sites[at].node else { return };
        let limits = &self.options.shape.limits;
        for core in &node.cores {
            let (_, bytes) = core.waiting();
            // One answer may be on its way in when the limit is reached.
            assert!(
                bytes <= limits.held_bytes_max + limits.value_bytes_max,
                "{bytes} bytes wait for the log"
            );
            let gathering = core.with(|machine| machine.replica().log().gathering_bytes());
            assert!(gathering <= 2 * limits.gathering_bytes_max, "{gathering} bytes are gathered");
        }
    }

    /// The sites of a slot's replicas.
    pub(super) fn replicas(&self, slot: Slot) -> Vec<usize> {
        let ring = &self.sites[0].place.ring;
        ring.replicas(slot).iter().map(|member| member.0 as usize - 1).collect()
    }

    /// Counts what a process has counted, at its end.
    pub(super) fn gather(&mut self, node: &SimNode) {
        for core in &node.cores {
            let stats = core.with(|machine| machine.stats());
            self.forwards_begun += stats.forwarded;
            for (what, count) in [
                ("a write took another version", stats.restamps),
                ("a read wrote back what it found", stats.write_backs),
                ("a read started over", stats.reads_again),
                ("a request was handed on", stats.forwarded),
                ("a named write was recognised", stats.repeats),
                ("a version was refused because of its clock", stats.clock_refusals),
            ] {
                if count > 0 {
                    *self.met.0.entry(what).or_default() += count;
                }
            }
        }
    }

    /// Has all that run counted.
    pub(super) fn gather_all(&mut self) {
        for at in 0..self.sites.len() {
            if let Some(node) = self.sites[at].node.take() {
                self.gather(&node);
                self.sites[at].node = Some(node);
            }
        }
    }
}
