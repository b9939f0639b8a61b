//! Which CPUs the cores run on: the affinity mask, the cgroup's quota, and what `--cores` asks for. Reads the system in
//! one function; the rest is arithmetic.

use super::executor::Cpu;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A node has at most this many cores, pinned or not.
pub const CORES_MAX: usize = 256;

/// What `--cores` asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CoresWanted {
    /// Every CPU that there is.
    #[default]
    All,
    /// The first N CPUs of the affinity mask.
    First(usize),
    /// Exactly these CPUs.
    List(Vec<usize>),
}

/// `N`, or a list such as `0,2,4-7`. `3` is three cores; CPU 3 alone is `3-3`.
impl FromStr for CoresWanted {
    type Err = CpuError;

    fn from_str(text: &str) -> Result<CoresWanted, CpuError> {
        let unreadable = || CpuError::Unreadable;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| unreadable());
        if !text.contains([',', '-']) {
            return Ok(CoresWanted::First(within(number(text)?)?));
        }
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(unreadable());
            }
            within(last - first + 1)?;
            for cpu in first..=last {
                if list.contains(&cpu) {
                    return Err(CpuError::Twice(cpu));
                }
                list.push(cpu);
            }
        }
        within(list.len())?;
        Ok(CoresWanted::List(list))
    }
}

impl fmt::Display for CoresWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoresWanted::All => f.write_str("all"),
            CoresWanted::First(count) => write!(f, "{count}"),
            CoresWanted::List(list) => {
                // Never a bare number, which would be a count.
                let [only] = list[..] else {
                    let names: Vec<_> = list.iter().map(usize::to_string).collect();
                    return f.write_str(&names.join(","));
                };
                write!(f, "{only}-{only}")
            }
        }
    }
}

/// Why the wanted cores cannot be had: a setting that cannot be (exit code 78).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CpuError {
    /// Neither a number nor a list.
    #[error("is neither a number of cores nor a list of CPUs")]
    Unreadable,
    /// A list that names a CPU twice.
    #[error("names CPU {0} twice")]
    Twice(usize),
    /// More cores than CPUs.
    #[error(
        "this process may use {have} by its {} (CPUs {})",
        if *have < ours.len() { "cgroup's quota" } else { "affinity mask" },
        ranges(ours)
    )]
    TooMany {
        /// There; fewer than the mask has if the quota is what limits.
        have: usize,
        /// The mask.
        ours: Vec<usize>,
    },
    /// A CPU outside the mask.
    #[error("CPU {cpu} is not there: this process may use CPUs {}", ranges(ours))]
    NotOurs {
        /// Asked for.
        cpu: usize,
        /// The mask.
        ours: Vec<usize>,
    },
    /// None, or more than a node can have.
    #[error("a node has 1 to {CORES_MAX} cores")]
    OverLimit(usize),
    /// The mask cannot be read.
    #[error("the CPU affinity of this process cannot be read")]
    NoMask,
}

/// `0-3,8`: runs of CPUs.
fn ranges(cpus: &[usize]) -> String {
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => unreachable!("runs are not empty"),
    };
    let runs: Vec<_> = cpus.chunk_by(|one, next| one + 1 == *next).map(run).collect();
    runs.join(",")
}

fn within(count: usize) -> Result<usize, CpuError> {
    if (1..=CORES_MAX).contains(&count) { Ok(count) } else { Err(CpuError::OverLimit(count)) }
}

/// What this process may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Available {
    /// CPUs of the affinity mask, which honours cpusets, rising.
    pub cpus: Vec<usize>,
    /// CPU time of the cgroup, in thousandths of a CPU; None = no quota.
    pub quota_milli: Option<u64>,
}

impl Available {
    /// Asks the system. Call it before threads are pinned: the mask is the calling thread's.
    pub fn read() -> Result<Available, CpuError> {
        let mut cpus: Vec<_> =
            core_affinity::get_core_ids().ok_or(CpuError::NoMask)?.into_iter().map(|core| core.id).collect();
        cpus.sort_unstable();
        let quota_milli = quota_milli(&|path| std::fs::read_to_string(path).ok());
        Ok(Available { cpus, quota_milli })
    }

    /// Cores that can run without being throttled: whole CPUs of the quota, at least one.
    pub fn count(&self) -> usize {
        let quota =
            self.quota_milli.map_or(usize::MAX, |milli| usize::try_from(milli / 1_000).unwrap_or(usize::MAX));
        self.cpus.len().min(quota.max(1))
    }

    /// One entry per core: its CPU, or None if it is not pinned. With `pin` off, cores may share CPUs.
    pub fn plan(&self, wanted: &CoresWanted, pin: bool) -> Result<Vec<Cpu>, CpuError> {
        let have = self.count().min(CORES_MAX);
        let wanted_count = match wanted {
            CoresWanted::All => have,
            CoresWanted::First(count) => *count,
            CoresWanted::List(cpus) => cpus.len(),
        };
        within(wanted_count)?;
        if !pin {
            return Ok(vec![None; wanted_count]);
        }
        if let CoresWanted::List(cpus) = wanted
            && let Some(&cpu) = cpus.iter().find(|cpu| !self.cpus.contains(cpu))
        {
            return Err(CpuError::NotOurs { cpu, ours: self.cpus.clone() });
        }
        if wanted_count > have {
            return Err(CpuError::TooMany { have, ours: self.cpus.clone() });
        }
        let cpus = if let CoresWanted::List(cpus) = wanted { cpus } else { &self.cpus };
        Ok(cpus.iter().take(wanted_count).copied().map(Some).collect())
    }
}

/// The tightest quota of this process's cgroup and those above it, versions 1 and 2.
fn quota_milli(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    groups.lines().filter_map(|line| group_quota(line, read)).min()
}

/// The tightest quota along the path of one line of /proc/self/cgroup: `hierarchy:controllers:path`.
fn group_quota(line: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let of_version_2 = controllers.is_empty();
    if !of_version_2 && !controllers.split(',').any(|controller| controller == "cpu") {
        return None;
    }
    let mount = if of_version_2 {
        PathBuf::from("/sys/fs/cgroup")
    } else {
        Path::new("/sys/fs/cgroup").join(controllers)
    };
    // In a container the path may be the host's, and only its top is mounted: what is not there limits nothing.
    Path::new(path.trim_start_matches('/'))
        .ancestors()
        .filter_map(|group| {
            let directory = mount.join(group);
            if of_version_2 {
                let text = read(&directory.join("cpu.max"))?;
                let (quota, period) = text.trim().split_once(' ')?;
                milli(quota, period)
            } else {
                milli(
                    &read(&directory.join("cpu.cfs_quota_us"))?,
                    &read(&directory.join("cpu.cfs_period_us"))?,
                )
            }
        })
        .min()
}

/// None for "max" and "-1", which are no quota.
fn milli(quota: &str, period: &str) -> Option<u64> {
    let (quota, period) = (quota.trim().parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?);
    quota.checked_mul(1_000)?.checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eight() -> Available {
        Available { cpus: vec![0, 1, 2, 3, 8, 9, 10, 11], quota_milli: None }
    }

    fn wanted(text: &str) -> CoresWanted {
        text.parse().unwrap()
    }

    #[test]
    fn number_is_a_count_and_anything_longer_a_list() {
        assert_eq!(wanted("4"), CoresWanted::First(4));
        assert_eq!(wanted("0,2,4-6"), CoresWanted::List(vec![0, 2, 4, 5, 6]));
        assert_eq!(wanted("3-3"), CoresWanted::List(vec![3]));
        for text in ["", "x", "-1", "1,", "1-", "5-2", "1,,2"] {
            assert_eq!(text.parse::<CoresWanted>(), Err(CpuError::Unreadable), "{text:?}");
        }
        for text in ["0", "257", "0-65535", "0-99999999999"] {
            assert!(matches!(text.parse::<CoresWanted>(), Err(CpuError::OverLimit(_))), "{text:?}");
        }
        assert_eq!("1,0-2".parse::<CoresWanted>(), Err(CpuError::Twice(1)));
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["4", "0,2,4", "3-3"] {
            assert_eq!(wanted(text).to_string(), text);
        }
    }

    #[test]
    fn count_takes_the_first_cpus_of_the_mask_and_a_list_exactly_its_own() {
        let first = eight().plan(&wanted("5"), true).unwrap();
        assert_eq!(first, [Some(0), Some(1), Some(2), Some(3), Some(8)]);
        assert_eq!(eight().plan(&wanted("11,2"), true).unwrap(), [Some(11), Some(2)]);
        assert_eq!(eight().plan(&CoresWanted::All, true).unwrap().len(), 8);
    }

    #[test]
    fn quota_caps_the_default_and_refuses_more() {
        for (quota_milli, cores) in [(500, 1), (1_000, 1), (2_500, 2), (99_000, 8)] {
            let available = Available { quota_milli: Some(quota_milli), ..eight() };
            assert_eq!(available.plan(&CoresWanted::All, true).unwrap().len(), cores);
        }
        let available = Available { quota_milli: Some(2_500), ..eight() };
        let refused = CpuError::TooMany { have: 2, ours: eight().cpus };
        assert_eq!(available.plan(&wanted("3"), true), Err(refused.clone()));
        assert_eq!(available.plan(&wanted("0-2"), true), Err(refused));
    }

    #[test]
    fn more_than_there_are_needs_no_pin() {
        let refused = CpuError::TooMany { have: 8, ours: eight().cpus };
        assert_eq!(eight().plan(&wanted("9"), true), Err(refused));
        assert_eq!(eight().plan(&wanted("9"), false).unwrap(), [None; 9]);
        assert_eq!(eight().plan(&wanted("0-9"), false).unwrap(), [None; 10]);
        assert_eq!(eight().plan(&CoresWanted::First(257), false), Err(CpuError::OverLimit(257)));
        assert_eq!(eight().plan(&wanted("5-5"), true), Err(CpuError::NotOurs { cpu: 5, ours: eight().cpus }));
    }

    fn quota_of(files: &[(&str, &str)]) -> Option<u64> {
        quota_milli(&|path| files.iter().find(|file| Path::new(file.0) == path).map(|file| file.1.to_owned()))
    }

    #[test]
    fn tightest_quota_on_the_way_up_counts() {
        let groups = ("/proc/self/cgroup", "0::/a/b\n");
        assert_eq!(quota_of(&[groups]), None);
        assert_eq!(quota_of(&[groups, ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n")]), None);
        let both = [
            groups,
            ("/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
        ];
        assert_eq!(quota_of(&both), Some(1_500));
    }

    #[test]
    fn version_one_and_a_container_that_sees_only_its_top() {
        let files = [
            ("/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota_of(&files), Some(2_000));
        let unlimited = [files[0], ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"), files[2]];
        assert_eq!(quota_of(&unlimited), None);
    }

    #[test]
    fn this_machine_has_a_cpu_for_us() {
        let plan = Available::read().unwrap().plan(&CoresWanted::All, true).unwrap();
        assert!(!plan.is_empty() && plan.iter().all(Option::is_some));
    }
}
