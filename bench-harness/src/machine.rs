//! What the system says of this machine and of its processes.

use crate::result::Machine;
use rustix::param::clock_ticks_per_second;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

/// CPU time of all threads of a process, user and system.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in brackets, may hold anything; 11 and 12 fields after its state come the two times.
    let times = stat.rsplit_once(") ").and_then(|(_, fields)| {
        let mut fields = fields.split(' ').skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        Some(ticks()? + ticks()?)
    });
    let ticks =
        times.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "/proc/PID/stat is not as expected"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// The process of this machine that listens on an address, if it is one of ours to look at.
pub(crate) fn listener_of(address: SocketAddr) -> Option<u32> {
    let sockets =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes: Vec<String> = sockets.iter().flat_map(|table| listening(table, address.port())).collect();
    // Of another machine, the port may be anybody's here.
    let ours = address.ip().is_loopback() || address.ip().is_unspecified();
    if !ours || inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| {
            let link = link.to_string_lossy();
            inodes.iter().any(|inode| link == format!("socket:[{inode}]"))
        })
    };
    pids.into_iter().find(holds)
}

/// What a process runs; with its version if it is a program that is known to tell it.
pub(crate) fn program_of(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    if !["ringcore", "ringbench", "etcd", "redis-server"].contains(&&*name) {
        return Some(name);
    }
    let said = std::process::Command::new(&path).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().to_owned();
    Some(if said.contains(&name) { said } else { format!("{name} {said}") })
}

/// Inodes of the sockets that listen on a port, of a table of the kernel's.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == LISTEN)
        .map(|row| row[9].to_owned())
        .collect()
}

/// The machine that this program runs on.
pub(crate) fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let memory_kib =
        after(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok());
    Machine {
        processor: after(&read("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_kib.unwrap_or(0_u64) * 1_024,
        kernel: format!(
            "{} {}",
            read("/proc/sys/kernel/ostype").trim(),
            read("/proc/sys/kernel/osrelease").trim()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn our_own_listener_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listener_of(address), Some(std::process::id()));
        drop(listener);
        assert_eq!(listener_of(address), None);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1E25 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:1E25 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 7717), ["4711"]);
        assert!(listening(table, 7718).is_empty());
    }

    #[test]
    fn work_costs_cpu_time() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap() < before + Duration::from_millis(30) {
            sum = (0..1_000_000_u64).fold(sum, |sum, more| sum.wrapping_mul(31).wrapping_add(more));
        }
        assert_ne!(sum, 1);
    }
}
