//! Addresses for the processes of tests. Also part of the tests in `ctl`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports are looked for in here: below those that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Three addresses that nobody listens on. Where to look differs between processes and calls, so that tests running at
/// once do not meet.
pub(crate) fn free_addresses() -> [SocketAddr; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = u32::from(PORTS.end - PORTS.start);
    let start = std::process::id().wrapping_mul(97);
    std::array::from_fn(|_| {
        for _ in 0..range {
            let at = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % range;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + at as u16));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
        panic!("no port is free in {PORTS:?}")
    })
}
