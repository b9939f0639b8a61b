//! Looks up names off the cores. A name server may take many seconds: so each look-up has a thread of its own, not the
//! executor's, which is one and writes files too; and the core asks for the answer at its ticks, because wakers must not
//! go to foreign threads.

use super::tick::Ticker;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

/// Look-ups under way in the process. Who comes when there are more tries again.
const LOOKUPS_MAX: usize = 32;
/// How often the answer is asked for.
const GLANCE: Duration = Duration::from_millis(5);

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// The addresses of `host:port`. What needs no name server is answered at once.
pub async fn resolve(name: String, ticker: &Ticker) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let lookup = Lookup::begin()?;
    let (tell, told) = sync_channel(1);
    let ask = move || {
        let answer = name.to_socket_addrs().map(Vec::from_iter);
        drop(lookup);
        // Whoever asked may have gone.
        tell.send(answer).ok();
    };
    thread::Builder::new().name("resolver".into()).spawn(ask)?;
    loop {
        match told.try_recv() {
            Ok(answer) => return answer,
            Err(TryRecvError::Empty) => ticker.sleep(GLANCE).await,
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the look-up has panicked")),
        }
    }
}

/// One of [`LOOKUPS_MAX`].
struct Lookup;

impl Lookup {
    fn begin() -> io::Result<Lookup> {
        if LOOKUPS.fetch_add(1, AcqRel) >= LOOKUPS_MAX {
            drop(Lookup);
            return Err(io::Error::other("too many names are being looked up"));
        }
        Ok(Lookup)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::{CoreContext, start};

    #[test]
    fn names_and_addresses_are_found_and_nonsense_is_an_error() {
        let main = |context: CoreContext| async move {
            let resolve = async |name: &str| resolve(name.into(), &context.ticker).await;
            let found = resolve("localhost:7718").await.unwrap();
            assert!(found.iter().all(|address| address.port() == 7718 && address.ip().is_loopback()));
            assert!(!found.is_empty());
            assert_eq!(resolve("[::1]:9").await.unwrap(), ["[::1]:9".parse().unwrap()]);
            assert!(resolve("no port").await.is_err());
        };
        start(&[None], main).unwrap().join().unwrap();
    }
}
