//! What this machine offers the process: its name, its CPUs, its memory, and what the cgroups leave of them. Reads;
//! judges nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// The facts that settings are judged by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The machine's own name; empty if it has none.
    pub hostname: String,
    /// CPUs of the affinity mask, ascending.
    pub cpus: Vec<u16>,
    /// CPU time that the cgroups allow, percent of one CPU; None = no quota.
    pub cpu_quota_percent: Option<u64>,
    /// Memory of the machine, or of the smallest cgroup around this process, bytes.
    pub memory_bytes: u64,
}

/// What the cgroups around a process allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowance {
    /// Percent of one CPU.
    pub cpu_percent: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// The facts of this process, now.
    pub fn of_this_process() -> Machine {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let allowance = Allowance::read(Path::new("/sys/fs/cgroup"), &membership);
        let system = rustix::system::sysinfo();
        let memory_bytes = u64::from(system.mem_unit) * system.totalram;
        Machine {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cpus: affinity(),
            cpu_quota_percent: allowance.cpu_percent,
            memory_bytes: allowance.memory_bytes.map_or(memory_bytes, |limit| limit.min(memory_bytes)),
        }
    }

    /// How many cores a node runs if nobody says: every CPU, capped by the quota, at least one.
    pub fn cores_default(&self) -> usize {
        let quota = self.cpu_quota_percent.map_or(u64::MAX, |percent| percent / 100);
        self.cpus.len().min(usize::try_from(quota).unwrap_or(usize::MAX)).max(1)
    }
}

impl Allowance {
    /// Reads the tightest limits on the way from the process's groups up to the root, of version 1 and 2 alike.
    /// `membership` is the text of /proc/self/cgroup, `root` where the groups are mounted.
    pub fn read(root: &Path, membership: &str) -> Allowance {
        let mut found = Allowance::default();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let has = |name| controllers.split(',').any(|controller| controller == name);
            if controllers.is_empty() {
                for group in upwards(root, path) {
                    found.tighten(cpu_max(&group), number(&group.join("memory.max")));
                }
            }
            if has("cpu") {
                for group in upwards(&root.join("cpu"), path) {
                    found.tighten(cfs_quota(&group), None);
                }
            }
            if has("memory") {
                for group in upwards(&root.join("memory"), path) {
                    found.tighten(None, number(&group.join("memory.limit_in_bytes")));
                }
            }
        }
        found
    }

    fn tighten(&mut self, cpu_percent: Option<u64>, memory_bytes: Option<u64>) {
        let tighter = |old: Option<u64>, new: Option<u64>| old.into_iter().chain(new).min();
        self.cpu_percent = tighter(self.cpu_percent, cpu_percent);
        self.memory_bytes = tighter(self.memory_bytes, memory_bytes);
    }
}

fn affinity() -> Vec<u16> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .map(|cpu| u16::try_from(cpu).expect("a set has at most 1 024 CPUs"))
            .collect(),
        // A kernel with more CPUs than a set can name: count them, and let pinning tell if that was wrong.
        Err(_) => {
            (0..std::thread::available_parallelism().map_or(1, |n| n.get().min(1_024) as u16)).collect()
        }
    }
}

/// The group and all above it. Inside a container the path may be the host's, which is not mounted: the root is what
/// counts there, and absent files are passed over.
fn upwards(root: &Path, path: &str) -> Vec<PathBuf> {
    let inner = Path::new(path.trim_start_matches('/'));
    inner.ancestors().map(|group| root.join(group)).collect()
}

/// `cpu.max` of version 2: "quota period" in microseconds, or "max period".
fn cpu_max(group: &Path) -> Option<u64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    percent(quota.parse().ok()?, period.parse().ok()?)
}

/// The same of version 1, where -1 means none.
fn cfs_quota(group: &Path) -> Option<u64> {
    percent(number(&group.join("cpu.cfs_quota_us"))?, number(&group.join("cpu.cfs_period_us"))?)
}

fn percent(quota: u64, period: u64) -> Option<u64> {
    quota.checked_mul(100)?.checked_div(period)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("ringcore-machine-{name}-{}", std::process::id()));
        for (path, text) in files {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    #[test]
    fn tightest_group_on_the_way_up_decides() {
        let root = tree(
            "v2",
            &[
                ("cpu.max", "max 100000\n"),
                ("a/cpu.max", "150000 100000\n"),
                ("a/memory.max", "max\n"),
                ("a/b/cpu.max", "400000 100000\n"),
                ("a/b/memory.max", "1048576\n"),
            ],
        );
        let allowance = Allowance::read(&root, "0::/a/b\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(allowance, Allowance { cpu_percent: Some(150), memory_bytes: Some(1 << 20) });
    }

    #[test]
    fn version_1_groups_are_read_by_controller() {
        let root = tree(
            "v1",
            &[
                ("cpu/docker/x/cpu.cfs_quota_us", "50000\n"),
                ("cpu/docker/x/cpu.cfs_period_us", "100000\n"),
                ("cpu/cpu.cfs_quota_us", "-1\n"),
                ("cpu/cpu.cfs_period_us", "100000\n"),
                ("memory/memory.limit_in_bytes", "4096\n"),
            ],
        );
        let allowance = Allowance::read(&root, "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(allowance, Allowance { cpu_percent: Some(50), memory_bytes: Some(4_096) });
    }

    #[test]
    fn no_groups_allow_everything() {
        assert_eq!(Allowance::read(Path::new("/nonexistent"), "0::/\nnonsense\n"), Allowance::default());
    }

    #[test]
    fn default_cores_are_capped_by_the_quota_but_at_least_one() {
        let machine = |quota| Machine {
            hostname: String::new(),
            cpus: vec![2, 3, 5, 7],
            cpu_quota_percent: quota,
            memory_bytes: 0,
        };
        for (quota, cores) in [(None, 4), (Some(250), 2), (Some(50), 1), (Some(900), 4)] {
            assert_eq!(machine(quota).cores_default(), cores, "{quota:?}");
        }
    }

    #[test]
    fn this_process_has_a_cpu_and_memory() {
        let machine = Machine::of_this_process();
        assert!(!machine.cpus.is_empty() && machine.memory_bytes > 0, "{machine:?}");
    }
}
