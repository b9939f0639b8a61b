//! The nodes that a client talks to, one connection each, and which of them it prefers now. Does not know what is said
//! over a connection.

use super::error::{Cause, ClientError};
use crate::types::error::Outcome;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A connection that carries nothing is asked for a sign of life so often while calls wait on it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// ... and given up so long after the question: waiting calls fail over instead of waiting for their deadlines.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that may be under way on one stream and on one connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

#[derive(Debug)]
pub(super) struct Endpoints {
    nodes: Vec<Node>,
    preferred: AtomicUsize,
}

/// One node's address and the connection to it, which is opened at its first call and again after it broke.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) index: usize,
    /// `host:port`.
    pub(super) address: String,
    pub(super) channel: Channel,
}

impl Endpoints {
    /// Connects to the first node that can be connected to; to the others only when they are needed.
    pub(super) async fn connect(
        addresses: &[String],
        connect_timeout: Duration,
    ) -> Result<Endpoints, ClientError> {
        let mut targets = Vec::with_capacity(addresses.len());
        for address in addresses {
            let address = host_and_port(address)?;
            let target = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|_| usage(format!("{address:?} is not an address of the form host:port")))?;
            let target = target
                .connect_timeout(connect_timeout)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            targets.push((address.to_owned(), target));
        }
        let mut reached = Err(usage("no endpoint was given"));
        for (index, (address, target)) in targets.iter().enumerate() {
            match target.connect().await {
                Ok(channel) => {
                    reached = Ok((index, channel));
                    break;
                }
                Err(error) => {
                    let status = tonic::Status::from_error(Box::new(error));
                    reached = Err(ClientError::from_status(&status, false).unreachable_at(address));
                }
            }
        }
        let (preferred, connected) = reached?;
        let nodes = targets.into_iter().enumerate().map(|(index, (address, target))| {
            let channel = if index == preferred { connected.clone() } else { target.connect_lazy() };
            Node { index, address, channel }
        });
        Ok(Endpoints { nodes: nodes.collect(), preferred: AtomicUsize::new(preferred) })
    }

    /// How many nodes there are to try.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node to ask now.
    pub(super) fn preferred(&self) -> &Node {
        &self.nodes[self.preferred.load(Ordering::Relaxed) % self.nodes.len()]
    }

    /// Prefers the next node, unless another call has left this one already.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.nodes.len();
        // Losing the race means that someone else left it: that is as good.
        self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }
}

/// `host:port` of an endpoint as people write it.
fn host_and_port(endpoint: &str) -> Result<&str, ClientError> {
    let address = endpoint.trim();
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let malformed = || usage(format!("{endpoint:?} is not an address of the form host:port"));
    if address.starts_with("https://") {
        return Err(usage(format!("{endpoint:?} asks for TLS, which is not supported yet")));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host.is_empty() || bare_v6 || !port_fits || host.contains(['/', '@', ' ']) {
        return Err(malformed());
    }
    Ok(address)
}

fn usage(message: impl Into<String>) -> ClientError {
    ClientError::local(Cause::Usage, Outcome::Read, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        for (written, address) in [
            ("127.0.0.1:7717", "127.0.0.1:7717"),
            (" db.example:80 ", "db.example:80"),
            ("http://n1:7717/", "n1:7717"),
            ("[::1]:7717", "[::1]:7717"),
        ] {
            assert_eq!(host_and_port(written).unwrap(), address);
        }
        for written in ["", "n1", "n1:", ":7717", "n1:0", "n1:70000", "::1:7717", "https://n1:1", "a/b:1"] {
            let error = host_and_port(written).unwrap_err();
            assert_eq!(error.cause(), Cause::Usage, "{written:?}");
        }
    }

    #[tokio::test]
    async fn a_client_without_endpoints_is_refused() {
        let error = Endpoints::connect(&[], Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.cause(), Cause::Usage);
    }
}
