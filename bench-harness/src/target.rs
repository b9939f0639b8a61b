//! Who is asked: which servers, in which protocol.

use crate::client::etcd::Etcd;
use crate::client::redis::Redis;
use crate::client::ringcore::{Manner, Ringcore};
use crate::generator::{self, Seen, Told};
use crate::lines::Dial;
use crate::load::Load;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// `ringcore.v1.KV`.
    Ringcore(Manner),
    /// etcd's v3 API.
    Etcd,
    /// RESP 2.
    Redis,
}

/// The servers of a load.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Asked in turn, connection by connection.
    pub(crate) addresses: Vec<SocketAddr>,
    /// By all of them.
    pub(crate) protocol: Protocol,
}

struct DialRingcore<'a>(&'a [SocketAddr], Manner);
struct DialEtcd<'a>(&'a [SocketAddr]);
struct DialRedis<'a>(&'a [SocketAddr]);

impl Dial for DialRingcore<'_> {
    type Session = Ringcore;

    fn dial(&self, thread: usize, connection: usize) -> (SocketAddr, Ringcore) {
        let address = self.0[connection % self.0.len()];
        // A client is a thread: the ids of its writes are one sequence, over all its connections.
        let client_id = if self.1.client_id == 0 { 0 } else { self.1.client_id + thread as u64 };
        (address, Ringcore::new(address.to_string(), Manner { client_id, ..self.1 }))
    }
}

impl Dial for DialEtcd<'_> {
    type Session = Etcd;

    fn dial(&self, _: usize, connection: usize) -> (SocketAddr, Etcd) {
        let address = self.0[connection % self.0.len()];
        (address, Etcd::new(address.to_string()))
    }
}

impl Dial for DialRedis<'_> {
    type Session = Redis;

    fn dial(&self, _: usize, connection: usize) -> (SocketAddr, Redis) {
        (self.0[connection % self.0.len()], Redis::default())
    }
}

impl Target {
    /// One server, asked in ringcore's protocol as a client does that names its writes.
    pub(crate) fn node(address: SocketAddr) -> Target {
        Target { addresses: vec![address], protocol: Protocol::Ringcore(Manner::default()) }
    }

    /// Runs a load against it, to its end.
    pub(crate) fn run(&self, load: &Load, stop: &AtomicBool, told: &Sender<Told>) -> io::Result<Vec<Seen>> {
        match self.protocol {
            Protocol::Ringcore(manner) => {
                generator::run(load, &DialRingcore(&self.addresses, manner), stop, told)
            }
            Protocol::Etcd => generator::run(load, &DialEtcd(&self.addresses), stop, told),
            Protocol::Redis => generator::run(load, &DialRedis(&self.addresses), stop, told),
        }
    }
}

/// The first address of each `host:port`.
pub(crate) fn resolve(endpoints: &[String]) -> io::Result<Vec<SocketAddr>> {
    let one = |endpoint: &String| {
        let wrong = |why: String| io::Error::other(format!("{endpoint}: {why}"));
        let mut found = endpoint.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
        found.next().ok_or_else(|| wrong("has no address".to_owned()))
    };
    endpoints.iter().map(one).collect()
}
