//! Whether io_uring can be used here, and if not, why and what to do: asked before any executor is started, because an
//! executor reports a refusal late and in few words. A node that is refused exits with 77.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;

mod ring;

/// What the executor's crate insists on, bytes of locked memory.
const MEMLOCK_MIN: u64 = 512 << 10;
/// 5.8: the first release whose io_uring has every operation that the executor uses.
const KERNEL_MIN: (u32, u32) = (5, 8);

/// Why io_uring cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel is older than its io_uring needs to be.
    #[error(
        "this kernel ({0}) is too old: its io_uring lacks operations that ringcore needs; use Linux 5.8 or newer"
    )]
    KernelTooOld(String),
    /// Built without io_uring, or a seccomp profile says so.
    #[error(
        "the kernel says that it has no io_uring: it was built without CONFIG_IO_URING, or a container's seccomp profile \
         hides it (run the container with the profile that `ringcore generate seccomp` prints)"
    )]
    Absent,
    /// The sysctl is 2: off for everybody, or 1: off for those without CAP_SYS_ADMIN who are not in the group.
    #[error(
        "io_uring is switched off by the sysctl kernel.io_uring_disabled = {mode}: set it to 0 (sysctl -w \
         kernel.io_uring_disabled=0){}",
        if *.mode == 1 { ", or add this user to the group in kernel.io_uring_group" } else { "" }
    )]
    SwitchedOff {
        /// Of the sysctl.
        mode: u8,
    },
    /// EPERM without a sysctl to explain it.
    #[error(
        "io_uring is not permitted{}: Docker's and containerd's default profiles block it; run the container with the \
         profile that `ringcore generate seccomp` prints (--security-opt seccomp=FILE)",
        if *.seccomp { " by the seccomp profile of this process" } else { " to this process, by seccomp or another security module" }
    )]
    Forbidden {
        /// A seccomp filter is in force.
        seccomp: bool,
    },
    /// The limit of locked memory.
    #[error(
        "the limit of locked memory is {0} bytes, ringcore needs {MEMLOCK_MIN}: raise it (ulimit -l unlimited; \
         LimitMEMLOCK=infinity in a systemd unit; --ulimit memlock=-1 for a container)"
    )]
    LockedMemory(u64),
    /// Anything else.
    #[error("io_uring cannot be set up: {0}")]
    Other(String),
}

/// What was found out about this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// Release of the kernel.
    pub kernel: String,
    /// Limit of locked memory, bytes; None = unlimited.
    pub memlock: Option<u64>,
}

/// Sets up a small ring and takes it down again.
pub fn probe() -> Result<Probed, ProbeError> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let memlock = getrlimit(Resource::Memlock).current;
    let facts = Facts {
        setup: ring::set_up(),
        memlock,
        disabled: read_number("/proc/sys/kernel/io_uring_disabled"),
        seccomp: status_field("Seccomp:").is_some_and(|mode| mode != 0),
        kernel,
    };
    facts.judge()?;
    Ok(Probed { kernel: facts.kernel, memlock })
}

struct Facts {
    setup: Result<(), Errno>,
    memlock: Option<u64>,
    /// kernel.io_uring_disabled; None before Linux 6.6.
    disabled: Option<u8>,
    seccomp: bool,
    kernel: String,
}

impl Facts {
    fn judge(&self) -> Result<(), ProbeError> {
        let old = version(&self.kernel).is_some_and(|version| version < KERNEL_MIN);
        match self.setup {
            Err(Errno::NOSYS) if old => return Err(ProbeError::KernelTooOld(self.kernel.clone())),
            Err(Errno::NOSYS) => return Err(ProbeError::Absent),
            Err(Errno::PERM) => {
                return Err(match self.disabled {
                    Some(mode @ 1..) => ProbeError::SwitchedOff { mode },
                    _ => ProbeError::Forbidden { seccomp: self.seccomp },
                });
            }
            // Before 5.12 rings count as locked memory.
            Err(Errno::NOMEM) if self.memlock.is_some() => {
                return Err(ProbeError::LockedMemory(self.memlock.unwrap_or(0)));
            }
            Err(other) => return Err(ProbeError::Other(io::Error::from(other).to_string())),
            Ok(()) => {}
        }
        match self.memlock {
            _ if old => Err(ProbeError::KernelTooOld(self.kernel.clone())),
            Some(limit) if limit < MEMLOCK_MIN => Err(ProbeError::LockedMemory(limit)),
            _ => Ok(()),
        }
    }
}

/// Major and minor number of a release such as `6.18.44-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn read_number(path: &str) -> Option<u8> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn status_field(name: &str) -> Option<u8> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(setup: Result<(), Errno>) -> Facts {
        Facts { setup, memlock: Some(8 << 20), disabled: Some(0), seccomp: false, kernel: "6.18.44-x".into() }
    }

    #[test]
    fn fit_machine_passes() {
        assert_eq!(facts(Ok(())).judge(), Ok(()));
        assert_eq!(Facts { memlock: None, ..facts(Ok(())) }.judge(), Ok(()));
    }

    #[test]
    fn each_refusal_is_told_from_the_others() {
        let refused = || facts(Err(Errno::PERM));
        assert_eq!(
            Facts { disabled: Some(2), ..refused() }.judge(),
            Err(ProbeError::SwitchedOff { mode: 2 })
        );
        assert_eq!(refused().judge(), Err(ProbeError::Forbidden { seccomp: false }));
        assert_eq!(
            Facts { seccomp: true, disabled: None, ..refused() }.judge(),
            Err(ProbeError::Forbidden { seccomp: true })
        );
        let absent = || facts(Err(Errno::NOSYS));
        assert_eq!(absent().judge(), Err(ProbeError::Absent));
        let old = || "4.19.0".to_owned();
        assert_eq!(Facts { kernel: old(), ..absent() }.judge(), Err(ProbeError::KernelTooOld(old())));
        assert_eq!(
            Facts { kernel: "5.4.1".into(), ..facts(Ok(())) }.judge(),
            Err(ProbeError::KernelTooOld("5.4.1".into()))
        );
        let small = Facts { memlock: Some(65_536), ..facts(Ok(())) };
        assert_eq!(small.judge(), Err(ProbeError::LockedMemory(65_536)));
        assert!(matches!(facts(Err(Errno::MFILE)).judge(), Err(ProbeError::Other(_))));
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for (error, advice) in [
            (ProbeError::KernelTooOld("5.4".into()), "5.8 or newer"),
            (ProbeError::Absent, "generate seccomp"),
            (ProbeError::SwitchedOff { mode: 1 }, "io_uring_group"),
            (ProbeError::SwitchedOff { mode: 2 }, "kernel.io_uring_disabled=0"),
            (ProbeError::Forbidden { seccomp: true }, "generate seccomp"),
            (ProbeError::LockedMemory(1), "ulimit -l"),
        ] {
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.18.44-fc-v769"), Some((6, 18)));
        assert_eq!(version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn this_machine_is_probed() {
        assert!(probe().is_ok());
    }
}
