//! What a seed switches on, and how strongly. Bounded so that the rules that are built suffice:
//! - clocks run wild (jumps, years ahead) on fewer nodes than any slot can do without, and then no value has an end:
//!   a node whose clock is out of step still coordinates, and judges ends by that clock;
//! - where values have ends, a node stays down until the wall has passed the bound of its clock: a start that comes sooner
//!   takes up to 500 ms for time that has passed, and leaves the node out of step;
//! - no disk fails for good;
//! - a named write is repeated only where its first try was coordinated, by the same process: nobody takes over yet.

use crate::node::Shape;
use ringcore::types::Limits;
use ringcore::types::prng::Prng;

/// How far the clock's bound in the log rides ahead of the clock, and a little.
const CLOCK_BOUND_MS: u64 = 550;

/// One seed's world.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) members: u32,
    pub(crate) replication: u8,
    pub(crate) cores_max: u16,
    pub(crate) change_cores: bool,
    pub(crate) clients: usize,
    pub(crate) keys: u64,
    /// Of all operations, those on the first key.
    pub(crate) skew_permille: u64,
    pub(crate) reads_permille: u64,
    pub(crate) deletes_permille: u64,
    pub(crate) ttl_permille: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) all_permille: u64,
    pub(crate) one_permille: u64,
    pub(crate) named_permille: u64,
    /// Of named writes: asked for again before the first answer.
    pub(crate) impatient_permille: u64,
    pub(crate) previous_permille: u64,
    /// Of deadlines: below a second.
    pub(crate) tight_permille: u64,
    pub(crate) bursts: u64,
    pub(crate) burst_ms: u64,
    pub(crate) lull_ms: u64,
    pub(crate) think_ms: u64,
    pub(crate) network: NetworkOptions,
    pub(crate) faults: FaultOptions,
    pub(crate) opinions: OpinionOptions,
    pub(crate) clocks: ClockOptions,
    pub(crate) disk_latency_us: u64,
    /// Between the ticks of a core that has nothing to do.
    pub(crate) idle_tick_ms: u64,
    /// The last phase keeps as many nodes down as every slot can do without.
    pub(crate) heal_minority_down: bool,
    /// Only the checker that knows values and nothing else looks at the answers.
    pub(crate) values_only: bool,
    pub(crate) shape: Shape,
}

/// Of every directed link.
#[derive(Clone, Debug)]
pub(crate) struct NetworkOptions {
    pub(crate) latency_us: u64,
    pub(crate) jitter_us: u64,
    pub(crate) loss_permille: u64,
    pub(crate) twice_permille: u64,
    pub(crate) reorders: bool,
}

/// How often what happens, as weights against each other; 0 = never.
#[derive(Clone, Debug)]
pub(crate) struct FaultOptions {
    /// Faults in a burst, at most.
    pub(crate) per_burst: u64,
    pub(crate) crash: u64,
    pub(crate) crash_several: u64,
    pub(crate) crash_all: u64,
    /// Of crashes: the power goes, and with it what was not flushed.
    pub(crate) power_permille: u64,
    pub(crate) interrupted_start_permille: u64,
    pub(crate) down_ms: u64,
    pub(crate) down_ms_least: u64,
    /// A node is told to stop, and ends a little later.
    pub(crate) stop: u64,
    pub(crate) pause: u64,
    pub(crate) partition: u64,
    pub(crate) reset: u64,
    pub(crate) slow_link: u64,
    pub(crate) slow_disk: u64,
    pub(crate) disk_full: u64,
    pub(crate) io_fault: u64,
    pub(crate) clock_jump: u64,
}

/// What nodes believe of each other.
#[derive(Clone, Debug)]
pub(crate) struct OpinionOptions {
    /// Until a node that cannot be heard is suspected, and until one that can be is not.
    pub(crate) delay_ms: u64,
    /// Of all opinions: wrong ones.
    pub(crate) wrong_permille: u64,
    pub(crate) every_ms: u64,
}

/// How far clocks stray.
#[derive(Clone, Debug)]
pub(crate) struct ClockOptions {
    pub(crate) offset_ms: u64,
    pub(crate) drift_ppm: u64,
    /// So many nodes' clocks may do what they like.
    pub(crate) wild: u32,
    /// One of them starts ten years ahead.
    pub(crate) ten_years: bool,
}

/// A value most of the time, or none of it.
fn some(prng: &mut Prng, on_permille: u64, most: u64) -> u64 {
    if prng.chance(on_permille) { prng.between(1, most) } else { 0 }
}

impl Options {
    /// Most seeds are drawn evenly; some dwell on what is rare otherwise.
    pub(crate) fn draw(prng: &mut Prng) -> Options {
        let mut options = Options::draw_evenly(prng);
        match prng.below(20) {
            0 | 1 => options.fight(),
            2 | 3 => {
                options.fight();
                options.insist();
            }
            4 => options.dwell_on_ends(),
            5 => options.storm(),
            6 => {
                options.fight();
                options.storm();
            }
            _ => {}
        }
        options
    }

    /// Draws nothing that the rules that are built do not suffice for: see the module's text.
    pub(crate) fn keep_within_bounds(&mut self) {
        let ends = self.ttl_permille > 0;
        assert!(!ends || self.clocks.wild == 0, "ends are judged by clocks");
        self.faults.down_ms_least = if ends { CLOCK_BOUND_MS } else { 1 };
        self.faults.down_ms = self.faults.down_ms.max(self.faults.down_ms_least);
    }

    fn draw_evenly(prng: &mut Prng) -> Options {
        let members = match prng.below(100) {
            0..5 => 1,
            5..12 => 2,
            12..60 => 3,
            60..67 => 4,
            67..90 => 5,
            90..95 => 6,
            _ => 7,
        };
        let replication = match prng.below(100) {
            0..4 => 1,
            4..10 => 2,
            10..80 => 3,
            80..86 => 4,
            _ => 5,
        };
        let replicas = members.min(replication);
        let wild = if prng.chance(250) { (replicas - 1) / 2 } else { 0 };
        let cores_max = if prng.chance(700) { prng.between(1, 2) } else { prng.between(1, 4) } as u16;
        Options {
            members,
            replication: replication as u8,
            cores_max,
            change_cores: prng.chance(250),
            clients: prng.between(2, 8) as usize,
            keys: prng.between(1, 6),
            skew_permille: some(prng, 700, 800),
            reads_permille: prng.between(200, 600),
            deletes_permille: some(prng, 850, 500),
            ttl_permille: if wild > 0 { 0 } else { some(prng, 400, 400) },
            ttl_ms: *choice(prng, &[50, 500, 3_000]),
            all_permille: some(prng, 500, 300),
            one_permille: some(prng, 300, 150),
            named_permille: some(prng, 500, 1_000),
            impatient_permille: some(prng, 300, 300),
            previous_permille: some(prng, 800, 1_000),
            tight_permille: some(prng, 600, 500),
            bursts: prng.between(6, 10),
            burst_ms: prng.between(100, 1_200),
            lull_ms: prng.between(5_000, 45_000),
            think_ms: prng.between(2, 100),
            network: NetworkOptions {
                latency_us: prng.between(50, 2_000),
                jitter_us: if prng.chance(150) { prng.between(0, 300_000) } else { prng.between(0, 15_000) },
                loss_permille: some(prng, 500, 200),
                twice_permille: some(prng, 400, 200),
                reorders: prng.chance(500),
            },
            faults: FaultOptions::draw(prng, wild),
            opinions: OpinionOptions {
                delay_ms: prng.between(50, 1_500),
                wrong_permille: some(prng, 500, 200),
                every_ms: prng.between(100, 700),
            },
            clocks: ClockOptions {
                offset_ms: some(prng, 600, 150),
                drift_ppm: some(prng, 500, 200),
                wild,
                ten_years: prng.chance(300),
            },
            disk_latency_us: *choice(prng, &[0, 100, 1_000, 5_000, 20_000]),
            idle_tick_ms: *choice(prng, &[100, 2_000, 2_000, 10_000, 10_000, 10_000, 10_000, 10_000]),
            heal_minority_down: prng.chance(300),
            values_only: false,
            shape: shape(prng),
        }
    }

    /// Nodes rarely agree who coordinates the one key that all clients want.
    pub(crate) fn fight(&mut self) {
        (self.keys, self.skew_permille, self.one_permille) = (1, 0, 0);
        (self.clients, self.think_ms) = (8, 10);
        self.opinions = OpinionOptions { delay_ms: 50, wrong_permille: 500, every_ms: 100 };
    }

    /// Every write has a name, hardly an answer comes in time, and clients do not wait for it.
    pub(crate) fn insist(&mut self) {
        (self.named_permille, self.impatient_permille, self.tight_permille) = (1_000, 500, 700);
        self.reads_permille = 300;
        self.network.loss_permille = self.network.loss_permille.max(100);
    }

    /// Many readers of one key whose values end soon, at nodes whose clocks differ.
    pub(crate) fn dwell_on_ends(&mut self) {
        (self.members, self.replication, self.keys, self.skew_permille) = (3, 3, 1, 0);
        (self.clients, self.think_ms, self.reads_permille) = (8, 10, 800);
        (self.ttl_permille, self.ttl_ms, self.deletes_permille) = (1_000, 200, 0);
        (self.one_permille, self.all_permille) = (0, 0);
        self.clocks = ClockOptions { offset_ms: 200, drift_ppm: 0, wild: 0, ten_years: false };
        self.faults.clock_jump = 0;
    }

    /// Nodes crash in droves and are back at once, while operations go on.
    pub(crate) fn storm(&mut self) {
        (self.tight_permille, self.burst_ms) = (0, 1_200);
        let faults = &mut self.faults;
        (faults.per_burst, faults.crash, faults.crash_several, faults.down_ms) = (12, 10, 10, 5);
    }

    /// As a client would check, who sees no version, no disk and no message.
    #[cfg_attr(
        not(mutants),
        expect(dead_code, reason = "to prove that one checker alone catches what is planted")
    )]
    pub(crate) fn check_values_only(&mut self) {
        self.values_only = true;
        self.fight();
        (self.network.loss_permille, self.network.jitter_us) = (100, 15_000);
        self.tight_permille = 300;
    }

    /// Replicas of each slot.
    pub(crate) fn replicas(&self) -> usize {
        self.members.min(u32::from(self.replication)) as usize
    }

    /// So many replicas of a slot can be missing.
    pub(crate) fn spare(&self) -> usize {
        (self.replicas() - 1) / 2
    }
}

impl FaultOptions {
    fn draw(prng: &mut Prng, wild: u32) -> FaultOptions {
        FaultOptions {
            per_burst: prng.between(0, 4),
            crash: some(prng, 700, 10),
            crash_several: some(prng, 300, 4),
            crash_all: some(prng, 200, 2),
            power_permille: prng.between(0, 1_000),
            interrupted_start_permille: some(prng, 300, 200),
            down_ms_least: 1,
            down_ms: *choice(prng, &[1, 30, 300, 3_000]),
            stop: some(prng, 300, 4),
            pause: some(prng, 400, 5),
            partition: some(prng, 600, 10),
            reset: some(prng, 400, 5),
            slow_link: some(prng, 300, 5),
            slow_disk: some(prng, 300, 4),
            disk_full: some(prng, 200, 3),
            io_fault: some(prng, 300, 3),
            clock_jump: if wild > 0 { prng.between(1, 6) } else { 0 },
        }
    }
}

fn shape(prng: &mut Prng) -> Shape {
    let limits = Limits {
        identities_max: *choice(prng, &[8, 4_096, 4_096, 4_096]),
        identity_value_bytes_max: 1 << 20,
        operations_max: *choice(prng, &[4, 64, 64, 64]),
        gathering_bytes_max: 256 << 10,
        held_bytes_max: 1 << 20,
        ..Limits::default()
    };
    Shape {
        segment_blocks: *choice(prng, &[16, 32, 64]),
        round_bytes: prng.between(64 << 10, 1 << 20),
        accept_data_loss: false,
        limits,
        memory_limit: 64 << 20,
    }
}

/// One of several.
pub(crate) fn choice<'a, T>(prng: &mut Prng, from: &'a [T]) -> &'a T {
    &from[prng.below(from.len() as u64) as usize]
}
