//! The network between the nodes: directed links that delay, lose, repeat and reorder messages, are cut and reset.
//!
//! A request that is handed on (`Forward`) is never delivered twice: nothing in it names the operation, so a transport
//! that repeats it would have it done twice.

use super::options::NetworkOptions;
use ringcore::replication::messages::{Message, MessageBody};
use ringcore::types::prng::Prng;
use std::collections::BTreeMap;

const US: u64 = 1_000;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) message: Message,
}

#[derive(Clone, Debug, Default)]
struct Link {
    /// How many cuts go through it.
    cuts: u32,
    /// Added to every message's way.
    slow_ns: u64,
    /// When the last message arrives.
    last_ns: u64,
}

/// What became of a message that was sent.
pub(crate) enum Sending {
    Lost,
    /// It arrives then, under this number; perhaps twice.
    Arrives(Vec<(u64, u64)>),
}

/// All links.
pub(crate) struct Network {
    prng: Prng,
    options: NetworkOptions,
    members: usize,
    links: Vec<Link>,
    flights: BTreeMap<u64, Flight>,
    next: u64,
}

impl Network {
    pub(crate) fn new(prng: Prng, options: NetworkOptions, members: usize) -> Network {
        let links = vec![Link::default(); members * members];
        Network { prng, options, members, links, flights: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn send(&mut self, now_ns: u64, flight: Flight) -> Sending {
        let at = self.at(flight.from, flight.to);
        if self.links[at].cuts > 0 || self.prng.chance(self.options.loss_permille) {
            return Sending::Lost;
        }
        let once = matches!(flight.message.body, MessageBody::Forward { .. });
        let times = 1 + usize::from(!once && self.prng.chance(self.options.twice_permille));
        let mut arrivals = Vec::new();
        for _ in 0..times {
            let link = &mut self.links[at];
            let way = self.options.latency_us * US + self.prng.below(self.options.jitter_us * US + 1);
            let mut arrives = now_ns + way + link.slow_ns;
            if !self.options.reorders {
                arrives = arrives.max(link.last_ns);
            }
            link.last_ns = link.last_ns.max(arrives);
            self.next += 1;
            self.flights.insert(self.next, flight.clone());
            arrivals.push((arrives, self.next));
        }
        Sending::Arrives(arrivals)
    }

    /// The message of that number arrives; None: it was lost on the way.
    pub(crate) fn arrive(&mut self, number: u64) -> Option<Flight> {
        let flight = self.flights.remove(&number)?;
        (self.links[self.at(flight.from, flight.to)].cuts == 0).then_some(flight)
    }

    /// A message that has arrived waits before it is read. Returns its number.
    pub(crate) fn hold(&mut self, flight: Flight) -> u64 {
        self.next += 1;
        self.flights.insert(self.next, flight);
        self.next
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[self.at(from, to)].cuts > 0
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        let at = self.at(from, to);
        self.links[at].cuts += 1;
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        let at = self.at(from, to);
        self.links[at].cuts -= 1;
    }

    /// Everything under way on a link is lost. Returns how many messages.
    pub(crate) fn reset(&mut self, from: usize, to: usize) -> usize {
        let before = self.flights.len();
        self.flights.retain(|_, flight| (flight.from, flight.to) != (from, to));
        before - self.flights.len()
    }

    pub(crate) fn slow(&mut self, from: usize, to: usize, ns: u64) {
        let at = self.at(from, to);
        self.links[at].slow_ns = ns;
    }

    /// From now on it only delays.
    pub(crate) fn heal(&mut self) {
        self.options.reorders = false;
        (self.options.loss_permille, self.options.twice_permille) = (0, 0);
        self.options.jitter_us = self.options.jitter_us.min(5_000);
        for link in &mut self.links {
            (link.cuts, link.slow_ns) = (0, 0);
        }
    }

    fn at(&self, from: usize, to: usize) -> usize {
        from * self.members + to
    }
}
