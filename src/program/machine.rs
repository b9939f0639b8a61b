//! What this machine offers the process: its name, its CPUs, its memory, and what the cgroups leave of them. Reads;
//! judges nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::runtime::cpus::Available;

/// The facts that settings are judged by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The machine's own name; empty if it has none.
    pub hostname: String,
    /// CPUs, and what a quota leaves of them.
    pub available: Available,
    /// Memory of the machine, or of the smallest cgroup around this process, bytes.
    pub memory_bytes: u64,
}

impl Machine {
    /// The facts of this process, now.
    pub fn of_this_process() -> Machine {
        let system = rustix::system::sysinfo();
        let memory_bytes = u64::from(system.mem_unit) * system.totalram;
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = memory_limit(Path::new("/sys/fs/cgroup"), &membership);
        // A mask that cannot be read is refused at start; until then the CPUs are counted.
        let counted = || (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
        let available =
            Available::read().unwrap_or_else(|_| Available { cpus: counted(), quota_milli: None });
        Machine {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            available,
            memory_bytes: limit.map_or(memory_bytes, |limit| limit.min(memory_bytes)),
        }
    }
}

/// The tightest limit on the way from the process's groups up to the root, of version 1 and 2 alike, bytes.
/// `membership` is the text of /proc/self/cgroup, `root` where the groups are mounted.
fn memory_limit(root: &Path, membership: &str) -> Option<u64> {
    let limit = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        upwards(&mount, path).iter().filter_map(|group| number(&group.join(file))).min()
    };
    membership.lines().filter_map(limit).min()
}

/// The group and all above it. Inside a container the path may be the host's, which is not mounted: the root is what
/// counts there, and absent files are passed over.
fn upwards(root: &Path, path: &str) -> Vec<PathBuf> {
    let inner = Path::new(path.trim_start_matches('/'));
    inner.ancestors().map(|group| root.join(group)).collect()
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
        let root = tree("v2", &[("a/memory.max", "max\n"), ("a/b/memory.max", "1048576\n")]);
        let limit = memory_limit(&root, "0::/a/b\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(limit, Some(1 << 20));
    }

    #[test]
    fn version_1_groups_are_read_by_controller() {
        let root = tree("v1", &[("memory/memory.limit_in_bytes", "4096\n")]);
        let limit = memory_limit(&root, "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(limit, Some(4_096));
    }

    #[test]
    fn no_groups_allow_everything() {
        assert_eq!(memory_limit(Path::new("/nonexistent"), "0::/\nnonsense\n"), None);
    }

    #[test]
    fn this_process_has_a_cpu_and_memory() {
        let machine = Machine::of_this_process();
        assert!(!machine.available.cpus.is_empty() && machine.memory_bytes > 0, "{machine:?}");
    }
}
