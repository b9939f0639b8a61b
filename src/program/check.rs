//! `ringcore check`: is this machine fit to run a node, and if not, what to do. Changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::disk_probe::{self, DiskLatency};
use super::engine;
use super::exit::{self, Exit};
use super::file_system::{FileSystem, Fitness, nearest};
use super::inspect::Output;
use super::machine::Machine;
use super::quantity::roughly_bytes;
use super::settings::{Cores, Settings};
use super::table::lay_out;

/// Memory that io_uring may lock, bytes a core: three registrations of 1 MiB and the rings.
const MEMLOCK_BYTES_PER_CORE: u64 = 4 << 20;
/// Open files that serve thousands of connections.
const OPEN_FILES_ENOUGH: u64 = 65_536;
/// Log, spare and one part of a core with little data, bytes.
const DISK_BYTES_PER_CORE: u64 = 64 << 20;
/// Disk that a full memory needs at most, tenths of it: the records once in parts, once in the log, and the part in work.
const DISK_TENTHS_OF_MEMORY: u64 = 22;
/// A flush slower than this makes deadlines short, microseconds.
const FLUSH_US_SLOW: u64 = 10_000;
/// The oldest kernel that the executor runs on, and the oldest that it runs well on.
const KERNEL_LEAST: (u32, u32) = (5, 8);
const KERNEL_ADVISED: (u32, u32) = (5, 15);

/// How one thing was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The node runs, but not as well as it could.
    Warning,
    /// io_uring or a permission is missing: `start` would end with 77.
    Refused,
    /// A setting cannot be: `start` would end with 78.
    Impossible,
}

/// What was found of one thing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Of what.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What to do; empty if there is nothing to do.
    pub fix: String,
    /// The numbers behind it, with their units in their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, u64>,
}

impl Finding {
    fn new(
        check: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding { check, verdict, found: found.into(), fix: fix.into(), figures: BTreeMap::new() }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Ok, found, "")
    }

    fn figure(mut self, name: &'static str, number: u64) -> Finding {
        self.figures.insert(name, number);
        self
    }
}

/// Looks at everything, prints it and gives the code: 0 fit; 77 or 78 as `start` would; with `strict`, 1 for warnings.
pub fn run(settings: &Settings, machine: &Machine, output: Output, strict: bool) -> Exit {
    let findings = look(settings, machine);
    let exit = verdict(&findings, strict);
    let printed = exit::print(&match output {
        Output::Table => show(&findings),
        Output::Json => {
            let fit = exit == Exit::OK;
            let report = serde_json::json!({ "schema": 1, "fit": fit, "exit": exit.0, "findings": findings });
            format!("{report:#}\n")
        }
    });
    if exit == Exit::OK { printed } else { exit }
}

/// Everything that is looked at, in the order of the start.
pub fn look(settings: &Settings, machine: &Machine) -> Vec<Finding> {
    let cores = match &settings.cores {
        Cores::All => machine.cores_default(),
        Cores::Count(count) => *count,
        Cores::List(list) => list.len(),
    };
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let disabled = read("/proc/sys/kernel/io_uring_disabled");
    let clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let mut findings = vec![
        kernel(&rustix::system::uname().release().to_string_lossy()),
        io_uring(disabled.as_deref(), engine::probe_io_uring()),
        memlock(getrlimit(Resource::Memlock).current, cores),
        open_files(getrlimit(Resource::Nofile).current),
        cpus(machine, cores, settings.no_pin),
        clock_source(clock.as_deref()),
    ];
    findings.extend(data_dir(settings, cores));
    findings
}

fn verdict(findings: &[Finding], strict: bool) -> Exit {
    let any = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    if any(Verdict::Refused) {
        Exit::NOT_PERMITTED
    } else if any(Verdict::Impossible) {
        Exit::SETTING
    } else if strict && any(Verdict::Warning) {
        Exit::FAILURE
    } else {
        Exit::OK
    }
}

fn show(findings: &[Finding]) -> String {
    let word = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Refused | Verdict::Impossible => "UNFIT",
    };
    let row = |finding: &Finding| {
        [finding.check.to_owned(), word(finding.verdict).to_owned(), finding.found.clone()]
    };
    let mut text = lay_out(["CHECK", "", "FOUND"], &findings.iter().map(row).collect::<Vec<_>>());
    for finding in findings.iter().filter(|finding| !finding.fix.is_empty()) {
        text.push_str(&format!("\n{}: {}\n  fix: {}\n", word(finding.verdict), finding.check, finding.fix));
    }
    text
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let named = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if version < KERNEL_LEAST {
        let fix = format!("run on Linux {} or later", named(KERNEL_ADVISED));
        return Finding::new("kernel", Verdict::Refused, release, fix);
    }
    if version < KERNEL_ADVISED {
        let fix = format!("Linux {} or later is advised", named(KERNEL_ADVISED));
        return Finding::new("kernel", Verdict::Warning, release, fix);
    }
    Finding::ok("kernel", release)
}

/// `disabled` is the sysctl, absent before Linux 6.6; `probe` is what a real try gave.
fn io_uring(disabled: Option<&str>, probe: Option<Result<(), String>>) -> Finding {
    let fix = "sysctl kernel.io_uring_disabled=0 (`ringcore generate sysctl`); in a container also a seccomp profile \
               that allows io_uring (`ringcore generate seccomp`)";
    match (probe, disabled) {
        (Some(Ok(())), _) => Finding::ok("io_uring", "allowed"),
        (Some(Err(reason)), _) => Finding::new("io_uring", Verdict::Refused, reason, fix),
        (None, Some("2")) => {
            Finding::new("io_uring", Verdict::Refused, "forbidden to all: kernel.io_uring_disabled = 2", fix)
        }
        (None, Some("1")) => {
            let found = "only for CAP_SYS_ADMIN and kernel.io_uring_group: kernel.io_uring_disabled = 1";
            Finding::new("io_uring", Verdict::Warning, found, fix)
        }
        (None, _) => Finding::ok("io_uring", "not disabled"),
    }
}

/// None = unlimited.
fn memlock(limit: Option<u64>, cores: usize) -> Finding {
    let wanted = MEMLOCK_BYTES_PER_CORE * cores as u64;
    let Some(limit) = limit else { return Finding::ok("memlock", "unlimited") };
    let found = format!("{} for {cores} cores", roughly_bytes(limit));
    let finding = if limit >= wanted {
        Finding::ok("memlock", found)
    } else {
        let fix = format!(
            "allow {}: LimitMEMLOCK=infinity in the unit, --ulimit memlock=-1 for a container, ulimit -l in a shell",
            roughly_bytes(wanted)
        );
        Finding::new("memlock", Verdict::Warning, found, fix)
    };
    finding.figure("limit_bytes", limit).figure("wanted_bytes", wanted)
}

fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < OPEN_FILES_ENOUGH => {
            let fix = format!("allow {OPEN_FILES_ENOUGH}: LimitNOFILE in the unit, ulimit -n in a shell");
            Finding::new("open files", Verdict::Warning, limit.to_string(), fix).figure("limit", limit)
        }
        Some(limit) => Finding::ok("open files", limit.to_string()).figure("limit", limit),
        None => Finding::ok("open files", "unlimited"),
    }
}

fn cpus(machine: &Machine, cores: usize, no_pin: bool) -> Finding {
    let there = machine.cpus.len();
    let quota = match machine.cpu_quota_percent {
        Some(percent) => format!(", quota {}.{:02} CPUs", percent / 100, percent % 100),
        None => String::new(),
    };
    let found = format!("{there} usable{quota}, {cores} asked for");
    let finding = if machine.cpu_quota_percent.is_some_and(|percent| percent < 100 * cores as u64) {
        let fix = "ask for as many --cores as the quota has whole CPUs, or raise it: a throttled core stalls its clients";
        Finding::new("CPUs", Verdict::Warning, found, fix)
    } else if cores > there && no_pin {
        let fix = "more cores than CPUs: for tests only";
        Finding::new("CPUs", Verdict::Warning, found, fix)
    } else {
        Finding::ok("CPUs", found)
    };
    finding.figure("usable", there as u64).figure("cores", cores as u64)
}

fn clock_source(name: Option<&str>) -> Finding {
    match name {
        Some(name @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies")) => {
            let fix = "reading this clock is slow; prefer tsc or the hypervisor's own (dmesg says why it is not used)";
            Finding::new("clock source", Verdict::Warning, name, fix)
        }
        Some(name) => Finding::ok("clock source", name),
        None => Finding::ok("clock source", "not told"),
    }
}

fn data_dir(settings: &Settings, cores: usize) -> Vec<Finding> {
    let path = &settings.data_dir;
    let shown = path.display();
    let unusable =
        |verdict, found: String, fix: &str| vec![Finding::new("data directory", verdict, found, fix)];
    let there = match nearest(path) {
        Ok(there) => there,
        Err(error) => {
            let fix = "name another with --data-dir, or let this user read what is above it";
            return unusable(Verdict::Refused, format!("{shown}: {error}"), fix);
        }
    };
    if !there.is_dir() {
        let fix = "name a directory with --data-dir";
        return unusable(Verdict::Impossible, format!("{} is no directory", there.display()), fix);
    }
    let found = if path.exists() { format!("{shown}") } else { format!("{shown} (to be made)") };
    let mut findings = vec![Finding::ok("data directory", found)];
    findings.push(match FileSystem::of(&there) {
        Ok(kind) => file_system(&kind, settings.allow_any_fs),
        Err(error) => Finding::new("file system", Verdict::Warning, error.to_string(), ""),
    });
    if let Ok(space) = rustix::fs::statvfs(&there) {
        findings.push(free_space(space.f_bavail * space.f_frsize, settings.memory_limit_bytes, cores));
    }
    findings.push(disk(&there));
    findings
}

fn file_system(kind: &FileSystem, allowed: bool) -> Finding {
    match kind.fitness {
        Fitness::Fit => Finding::ok("file system", kind.name.as_str()),
        Fitness::Unfit(reason) => {
            let verdict = if allowed { Verdict::Warning } else { Verdict::Impossible };
            let fix = "put the data on ext4 or XFS with --data-dir, or accept the loss with --allow-any-fs";
            Finding::new("file system", verdict, format!("{}: {reason}", kind.name), fix)
        }
    }
}

fn free_space(free: u64, memory_limit: u64, cores: usize) -> Finding {
    let least = DISK_BYTES_PER_CORE * cores as u64;
    let full = memory_limit / 10 * DISK_TENTHS_OF_MEMORY;
    let found = format!("{} free", roughly_bytes(free));
    let finding = if free < least {
        let fix = format!("free {} at least", roughly_bytes(least));
        Finding::new("disk space", Verdict::Impossible, found, fix)
    } else if free < full {
        let fix = format!(
            "{} are needed once memory is full ({}): lower --memory-limit or give more disk",
            roughly_bytes(full),
            roughly_bytes(memory_limit)
        );
        Finding::new("disk space", Verdict::Warning, found, fix)
    } else {
        Finding::ok("disk space", found)
    };
    finding.figure("free_bytes", free).figure("needed_bytes", full)
}

fn disk(dir: &Path) -> Finding {
    match disk_probe::measure(dir) {
        Ok(latency) => disk_latency(latency),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let fix = "let this user write there, or name another with --data-dir";
            Finding::new("disk latency", Verdict::Refused, format!("{}: {error}", dir.display()), fix)
        }
        Err(error) => {
            let fix = "name another disk with --data-dir";
            Finding::new("disk latency", Verdict::Impossible, format!("{}: {error}", dir.display()), fix)
        }
    }
}

fn disk_latency(latency: DiskLatency) -> Finding {
    let DiskLatency { p50_us, p99_us, direct } = latency;
    let found = format!(
        "p50 {}.{:02} ms, p99 {}.{:02} ms for a durable 4 KiB write",
        p50_us / 1_000,
        p50_us % 1_000 / 10,
        p99_us / 1_000,
        p99_us % 1_000 / 10
    );
    let finding = if !direct {
        let fix = "this file system has no O_DIRECT: the page cache is written through, slower and with more memory";
        Finding::new("disk latency", Verdict::Warning, found, fix)
    } else if p99_us > FLUSH_US_SLOW {
        let fix =
            "every write waits for this disk: use a faster one, or one with protection against power loss";
        Finding::new("disk latency", Verdict::Warning, found, fix)
    } else {
        Finding::ok("disk latency", found)
    };
    finding.figure("p50_us", p50_us).figure("p99_us", p99_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: u16, cpu_quota_percent: Option<u64>) -> Machine {
        Machine { hostname: "m".into(), cpus: (0..cpus).collect(), cpu_quota_percent, memory_bytes: 1 << 33 }
    }

    #[test]
    fn kernels_are_judged_by_their_numbers() {
        let cases = [
            ("6.18.44-generic", Verdict::Ok),
            ("5.15.0", Verdict::Ok),
            ("5.10.0-21-amd64", Verdict::Warning),
            ("5.8", Verdict::Warning),
            ("5.4.0", Verdict::Refused),
            ("4.19.0", Verdict::Refused),
            ("nonsense", Verdict::Refused),
        ];
        for (release, verdict) in cases {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn a_real_try_of_io_uring_goes_before_the_sysctl() {
        assert_eq!(io_uring(Some("2"), Some(Ok(()))).verdict, Verdict::Ok);
        let refused = io_uring(Some("0"), Some(Err("a seccomp filter refuses it (EPERM)".into())));
        assert_eq!(refused.verdict, Verdict::Refused);
        assert!(refused.found.contains("seccomp") && refused.fix.contains("ringcore generate seccomp"));
        for (sysctl, verdict) in [
            (None, Verdict::Ok),
            (Some("0"), Verdict::Ok),
            (Some("1"), Verdict::Warning),
            (Some("2"), Verdict::Refused),
        ] {
            assert_eq!(io_uring(sysctl, None).verdict, verdict, "{sysctl:?}");
        }
    }

    #[test]
    fn limits_of_the_process_are_compared_with_the_cores() {
        assert_eq!(memlock(None, 64).verdict, Verdict::Ok);
        assert_eq!(memlock(Some(8 << 20), 2).verdict, Verdict::Ok);
        assert_eq!(memlock(Some(8 << 20), 3).verdict, Verdict::Warning);
        assert_eq!(open_files(Some(1_024)).verdict, Verdict::Warning);
        assert_eq!(open_files(Some(65_536)).verdict, Verdict::Ok);
        assert_eq!(cpus(&machine(4, None), 4, false).verdict, Verdict::Ok);
        assert_eq!(cpus(&machine(4, Some(150)), 2, false).verdict, Verdict::Warning);
        assert_eq!(cpus(&machine(4, Some(150)), 1, false).verdict, Verdict::Ok);
        assert_eq!(cpus(&machine(1, None), 4, true).verdict, Verdict::Warning);
    }

    #[test]
    fn file_systems_are_refused_unless_allowed() {
        let tmpfs = FileSystem::from_magic(0x0102_1994);
        assert_eq!(file_system(&tmpfs, false).verdict, Verdict::Impossible);
        assert_eq!(file_system(&tmpfs, true).verdict, Verdict::Warning);
        assert_eq!(file_system(&FileSystem::from_magic(0xEF53), false).verdict, Verdict::Ok);
    }

    #[test]
    fn disks_are_judged_by_space_and_speed() {
        let (gib, mib) = (1 << 30, 1 << 20);
        for (free, verdict) in
            [(100 * mib, Verdict::Impossible), (gib, Verdict::Warning), (3 * gib, Verdict::Ok)]
        {
            assert_eq!(free_space(free, gib, 2).verdict, verdict, "{free}");
        }
        let slow = disk_latency(DiskLatency { p50_us: 120, p99_us: 12_345, direct: true });
        assert_eq!(slow.verdict, Verdict::Warning);
        assert_eq!(slow.found, "p50 0.12 ms, p99 12.34 ms for a durable 4 KiB write");
        assert_eq!(
            disk_latency(DiskLatency { p50_us: 1, p99_us: 2, direct: false }).verdict,
            Verdict::Warning
        );
        assert_eq!(disk_latency(DiskLatency { p50_us: 1, p99_us: 2, direct: true }).verdict, Verdict::Ok);
    }

    #[test]
    fn the_code_is_that_of_the_start() {
        let finding = |verdict| Finding::new("x", verdict, "", "");
        let cases = [
            (vec![Verdict::Ok], false, Exit::OK),
            (vec![Verdict::Warning], false, Exit::OK),
            (vec![Verdict::Warning], true, Exit::FAILURE),
            (vec![Verdict::Warning, Verdict::Impossible], true, Exit::SETTING),
            (vec![Verdict::Impossible, Verdict::Refused], false, Exit::NOT_PERMITTED),
        ];
        for (verdicts, strict, exit) in cases {
            let findings: Vec<_> = verdicts.iter().copied().map(finding).collect();
            assert_eq!(super::verdict(&findings, strict), exit, "{verdicts:?}");
        }
    }

    #[test]
    fn fixes_stand_under_the_table() {
        let text = show(&[Finding::ok("a", "fine"), Finding::new("b", Verdict::Refused, "bad", "do it")]);
        assert_eq!(
            text,
            "CHECK         FOUND\na      ok     fine\nb      UNFIT  bad\n\nUNFIT: b\n  fix: do it\n"
        );
    }
}
