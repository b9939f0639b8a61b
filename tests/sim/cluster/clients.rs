//! Clients: each asks one thing at a time, of a node that it finds at random, and asks again what it is unsure of.

use super::options::choice;
use super::register::{Deed, Did};
use super::{Happening, MS, Phase, World, look_at, trace};
use crate::history::{Before, Intent, value_of};
use bytes::Bytes;
use ringcore::types::request::{Asker, Expiry, Level, Operation, Request};
use ringcore::types::{OperationId, Token};
use std::collections::BTreeMap;

/// Requests before the cluster heals, at most.
const ASKED_MAX: u64 = 600;

/// A client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// What it was told is in doubt, to be asked again.
    pub(super) unsure: Option<Unsure>,
}

/// A named write whose outcome its client does not know.
#[derive(Clone, Debug)]
pub(crate) struct Unsure {
    operation: u64,
    site: usize,
    life: u64,
    request: Request,
}

/// One request that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(super) client: Option<usize>,
    pub(super) site: usize,
    pub(super) life: u64,
    pub(super) key: Vec<u8>,
    pub(super) before: Before,
    pub(super) begun: u64,
    pub(super) begun_ns: u64,
    pub(super) level: Level,
    /// None: a read.
    pub(super) operation: Option<u64>,
    pub(super) repeated: bool,
    pub(super) request: Request,
    /// It must succeed: the cluster has healed.
    pub(super) must_succeed: bool,
}

impl Try {
    pub(super) fn is_write(&self) -> bool {
        self.operation.is_some()
    }

    pub(super) fn wants_previous(&self) -> bool {
        matches!(
            self.request.operation,
            Operation::Put { previous: true, .. } | Operation::Delete { previous: true, .. }
        )
    }
}

/// What clients know of one write.
#[derive(Clone, Debug)]
pub(crate) struct WriteState {
    pub(super) key: Vec<u8>,
    pub(super) intent: Intent,
    pub(super) begun: u64,
    pub(super) acknowledged: Option<u64>,
    /// A try's answer was lost or unsure.
    pub(super) doubtful: bool,
    /// Tries without an answer.
    pub(super) open: u32,
    /// Not of concern to the checkers of one order: asked for at level ONE.
    pub(super) loose: bool,
}

impl WriteState {
    /// Adds it to its key's deeds: what was certainly not applied is no deed.
    pub(super) fn tell(&self, value: u64, deeds: &mut BTreeMap<Vec<u8>, Vec<Deed>>) {
        if self.loose || (self.acknowledged.is_none() && !self.doubtful && self.open == 0) {
            return;
        }
        let did = match self.intent {
            Intent::Put { ttl_ms } => Did::Put { value, ends: ttl_ms > 0 },
            Intent::Delete => Did::Delete,
        };
        let deed = Deed { did, begun: self.begun, ended: self.acknowledged };
        deeds.entry(self.key.clone()).or_default().push(deed);
    }
}

impl World {
    /// A client asks for something, if it is time to.
    pub(super) fn ask(&mut self, client: usize) {
        if self.phase == Phase::Audit || (self.phase == Phase::Calm && client > 0) {
            return;
        }
        // Fast nodes must not make a seed long.
        let enough = self.phase == Phase::Faults && self.next_ask > ASKED_MAX;
        let Some(&(begin, _)) = self.bursts.iter().find(|(_, end)| self.now_ns < *end && !enough) else {
            // Until the next phase plans more.
            return self.at(self.now_ns + 100 * MS, Happening::Asks(client));
        };
        if self.now_ns < begin {
            let when = begin + self.prng.below(20) * MS;
            return self.at(when, Happening::Asks(client));
        }
        let up: Vec<usize> = (0..self.sites.len()).filter(|at| self.sites[*at].is_up(self.now_ns)).collect();
        if up.is_empty() {
            return self.at(self.now_ns + 10 * MS, Happening::Asks(client));
        }
        if let Some(unsure) = self.clients[client].unsure.take()
            && self.would_repeat(&unsure)
        {
            return self.repeat(client, unsure);
        }
        let site = *choice(&mut self.prng, &up);
        self.ask_anew(client, site);
    }

    fn ask_anew(&mut self, client: usize, site: usize) {
        let options = &self.options;
        let one = self.prng.chance(options.one_permille);
        let key = if one {
            format!("one{}", self.prng.below(2))
        } else if self.prng.chance(options.skew_permille) {
            "key0".into()
        } else {
            format!("key{}", self.prng.below(options.keys))
        };
        let level = match one {
            true => Level::One,
            false if self.prng.chance(options.all_permille) => Level::All,
            false => Level::Quorum,
        };
        let key = key.into_bytes();
        let read = self.prng.chance(self.options.reads_permille);
        let operation = (!read).then_some(self.next_ask);
        let (what, identity) = match operation {
            None => (Operation::Read { key: key.clone().into(), value: true }, None),
            Some(operation) => self.write(&key, operation, site, one),
        };
        let (deadline_ms, must_succeed) = self.deadline_ms(site, level);
        self.sites[site].set_now(self.now_ns);
        let deadline = self.sites[site].now.get().mono.after_ms(deadline_ms);
        let request = Request {
            operation: what,
            level,
            identity,
            done_below: 0,
            deadline,
            value_bytes_max: usize::MAX,
        };
        let asker = self.submit(Some(client), site, key, operation, false, request, must_succeed);
        if identity.is_some() && self.prng.chance(self.options.impatient_permille) {
            let when = self.now_ns + self.prng.below(400) * MS;
            self.at(when, Happening::AsksTwice(asker));
        }
        self.at(self.now_ns + 2 * deadline_ms * MS + 5_000 * MS, Happening::Late(asker));
    }

    /// How long a client waits, and whether it must get what it asks for.
    fn deadline_ms(&mut self, site: usize, level: Level) -> (u64, bool) {
        if self.phase < Phase::Healed {
            let tight = self.prng.chance(self.options.tight_permille);
            let ms = if tight { self.prng.between(100, 1_000) } else { self.prng.between(1_000, 10_000) };
            return (ms, false);
        }
        // A core that takes on less than the clients ask for refuses some.
        let room = self.phase == Phase::Calm || self.options.shape.limits.operations_max >= 64;
        (10_000, room && self.must_succeed(site, level))
    }

    /// Are enough replicas of every slot up, and no clock out of step but those of wild nodes, which nobody relies on? Each
    /// start takes the 500 ms of the clock's bound for time that has passed: after many in a row it takes a node long to be
    /// in step again.
    fn must_succeed(&self, site: usize, level: Level) -> bool {
        let sites = || 0..self.sites.len();
        let missing = sites().filter(|at| self.sites[*at].node.is_none() || self.sites[*at].wild).count();
        let in_step = sites().all(|at| self.sites[at].wild || self.is_in_step(at));
        let enough = missing <= self.options.spare() && (missing == 0 || level != Level::All);
        enough && in_step && !self.sites[site].wild
    }

    fn write(
        &mut self,
        key: &[u8],
        operation: u64,
        site: usize,
        loose: bool,
    ) -> (Operation, Option<OperationId>) {
        let delete = self.prng.chance(self.options.deletes_permille);
        let ends = self.prng.chance(self.options.ttl_permille);
        let ttl_ms = if ends { self.prng.between(1, self.options.ttl_ms) } else { 0 };
        let names_left = self.phase < Phase::Healed || self.options.shape.limits.identities_max > 1_000;
        let named =
            self.prng.chance(self.options.named_permille) && names_left && self.coordinates(site, key);
        let identity = if named { OperationId::new(5, operation) } else { None };
        let intent = if delete { Intent::Delete } else { Intent::Put { ttl_ms } };
        self.history.ask(key, operation, intent, super::BEGIN_MS + self.now_ns / MS);
        let state = WriteState {
            key: key.to_vec(),
            intent,
            begun: self.moment + 1,
            acknowledged: None,
            doubtful: false,
            open: 0,
            loose,
        };
        self.writes.insert(operation, state);
        let previous = self.prng.chance(self.options.previous_permille);
        let key = Bytes::copy_from_slice(key);
        if delete {
            return (Operation::Delete { key, previous }, identity);
        }
        let value = Bytes::from(value_of(operation, self.prng.between(8, 120) as usize));
        let expiry = if ttl_ms > 0 { Expiry::InMs(ttl_ms) } else { Expiry::Never };
        (Operation::Put { key, value, expiry, previous }, identity)
    }

    /// Would this node coordinate a write of the key itself, by what it believes now?
    fn coordinates(&self, site: usize, key: &[u8]) -> bool {
        let site = &self.sites[site];
        let replicas = site.place.ring.replicas(Token::of(key).slot());
        replicas.iter().find(|member| !site.suspects.contains(member)) == Some(&site.place.member)
    }

    #[expect(clippy::too_many_arguments, reason = "one request's parts")]
    fn submit(
        &mut self,
        client: Option<usize>,
        site: usize,
        key: Vec<u8>,
        operation: Option<u64>,
        repeated: bool,
        request: Request,
        must_succeed: bool,
    ) -> u64 {
        let asker = self.next_ask;
        self.next_ask += 1;
        self.moment += 1;
        if let Some(operation) = operation {
            self.writes.get_mut(&operation).expect("it was asked for").open += 1;
        }
        look_at(&key);
        trace::line(self.now_ns, Some(&key), || {
            format!("{asker} at node {site}: {:?} {:?}", request.operation, request.level)
        });
        let before = self.history.before(&key);
        let (level, life) = (request.level, self.sites[site].life);
        let (begun, begun_ns) = (self.moment, self.now_ns);
        let open = Try {
            client,
            site,
            life,
            key,
            before,
            begun,
            begun_ns,
            level,
            operation,
            repeated,
            request: request.clone(),
            must_succeed,
        };
        self.open.insert(asker, open);
        self.attend(site, |node| node.submit(Asker(asker), request));
        asker
    }

    /// Only where its first try was coordinated, by the same process, is a named write known for certain.
    fn would_repeat(&mut self, unsure: &Unsure) -> bool {
        let Unsure { site, life, ref request, .. } = *unsure;
        let key = request.operation.key().expect("a write has one");
        let there = self.sites[site].life == life && self.sites[site].is_up(self.now_ns);
        there && self.coordinates(site, key) && self.prng.chance(700)
    }

    fn repeat(&mut self, client: usize, unsure: Unsure) {
        let Unsure { operation, site, mut request, .. } = unsure;
        self.met.note("a named write was asked for again");
        let key = request.operation.key().expect("a write has one").to_vec();
        self.sites[site].set_now(self.now_ns);
        request.deadline = self.sites[site].now.get().mono.after_ms(5_000);
        self.submit(Some(client), site, key, Some(operation), true, request, false);
    }

    /// An impatient client asks again for what it is still waiting for.
    pub(super) fn ask_twice(&mut self, asker: u64) {
        let Some(open) = self.open.get(&asker).cloned() else { return };
        let here = self.sites[open.site].life == open.life && self.sites[open.site].is_up(self.now_ns);
        if !here || !self.coordinates(open.site, &open.key) {
            return;
        }
        self.met.note("a named write was asked for a second time before it was answered");
        self.sites[open.site].set_now(self.now_ns);
        let deadline = self.sites[open.site].now.get().mono.after_ms(5_000);
        let request = Request { deadline, ..open.request };
        self.submit(None, open.site, open.key, open.operation, true, request, false);
    }

    /// A process has ended: nobody hears of what was open there.
    pub(super) fn lose_tries(&mut self, site: usize) {
        let lost: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.site == site).map(|(asker, _)| *asker).collect();
        for asker in lost {
            let open = self.open.remove(&asker).expect("it was just found");
            if let Some(operation) = open.operation {
                self.doubt(operation);
            }
            self.next_of(&open);
        }
    }

    pub(super) fn doubt(&mut self, operation: u64) {
        let write = self.writes.get_mut(&operation).expect("it was asked for");
        write.open -= 1;
        write.doubtful = true;
        self.history.doubt(operation);
    }

    /// The client of an ended try goes on after a while.
    pub(super) fn next_of(&mut self, open: &Try) {
        if let Some(client) = open.client {
            let when = self.now_ns + self.prng.below(2 * self.options.think_ms + 1) * MS;
            self.at(when, Happening::Asks(client));
        }
    }

    /// Remembers to ask again.
    pub(super) fn keep_unsure(&mut self, open: &Try) {
        if let (Some(client), Some(operation), Some(_)) = (open.client, open.operation, open.request.identity)
        {
            let (site, life, request) = (open.site, open.life, open.request.clone());
            self.clients[client].unsure = Some(Unsure { operation, site, life, request });
        }
    }

    /// Nothing hangs: a node that runs answers by the deadline, whatever the others do. One that is given no time answers
    /// within a second after.
    pub(super) fn check_late(&mut self, asker: u64) {
        let Some(open) = self.open.get(&asker) else { return };
        let due = self.sites[open.site].paused_until + 1_000 * MS;
        if due > self.now_ns {
            return self.at(due, Happening::Late(asker));
        }
        look_at(&open.key);
        panic!("{asker} was never answered: {open:?}");
    }

    /// Every key is read through every node, at QUORUM and at ALL: what was acknowledged is there, or superseded.
    pub(super) fn audit(&mut self) {
        for at in 0..self.sites.len() {
            if std::mem::take(&mut self.sites[at].stays_down) {
                self.start(at);
            }
        }
        self.run_until(self.now_ns + 2_000 * MS);
        let keys = self.history.keys();
        for site in 0..self.sites.len() {
            for key in keys.iter().filter(|key| key.starts_with(b"key")) {
                for level in [Level::Quorum, Level::All] {
                    self.sites[site].set_now(self.now_ns);
                    let deadline = self.sites[site].now.get().mono.after_ms(10_000);
                    let operation = Operation::Read { key: Bytes::from(key.clone()), value: true };
                    let request = Request {
                        operation,
                        level,
                        identity: None,
                        done_below: 0,
                        deadline,
                        value_bytes_max: usize::MAX,
                    };
                    let must = self.must_succeed(site, level);
                    self.submit(None, site, key.clone(), None, false, request, must);
                }
                self.rest();
            }
        }
    }
}
