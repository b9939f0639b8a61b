//! The node's settings as values, and every rule that refuses one. Knows nothing of where they are used.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::types::Limits;

use super::exit::{Exit, Refusal};
use super::machine::Machine;
use super::parse::{self, Bad};
use super::setting::{Key, SETTINGS, setting};
use super::sources::{Gathered, Given, Origin};

/// Cores of one node at most: more than any machine that this runs on, and the bound of `--no-pin`.
pub const CORES_MAX: usize = 256;
/// Replicas of a key at most.
pub const REPLICATION_MAX: u64 = 15;
/// Less memory than this serves nobody, bytes.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// A host and a port, resolved when it is connected to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Which cores to run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// Every CPU that the process may use, capped by the cgroup's quota.
    All,
    /// The first so many of them.
    Count(usize),
    /// Exactly these CPUs, in this order.
    List(Vec<u16>),
}

/// When a write may be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Once it is on stable storage.
    Flushed,
    /// At once.
    None,
}

/// How diagnostics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What a start does about the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Founding {
    /// The directory belongs to a member: go on as that, under its stored name.
    Resume,
    /// Found a cluster of one.
    Bootstrap,
    /// Ask these peers to be let in.
    Join(Vec<HostPort>),
}

/// One line of `config print`, and of the Admin service's GetConfig.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which setting.
    pub key: Key,
    /// The text in force; None = none.
    pub text: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// Everything that `ringcore start` can be told, judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The configuration file that was read.
    pub config: Option<PathBuf>,
    /// Relative to the working directory.
    pub data_dir: PathBuf,
    /// Of this node; the machine's unless told otherwise. A directory's stored name goes before it.
    pub name: String,
    /// What fails together.
    pub zone: String,
    /// For clients.
    pub listen: SocketAddr,
    /// For other nodes.
    pub peer_listen: SocketAddr,
    /// For metrics and probes; None = off.
    pub admin_listen: Option<SocketAddr>,
    /// Host of this node for others; None = the addresses that it listens on.
    pub advertise: Option<String>,
    /// Addresses that others can reach are allowed.
    pub insecure: bool,
    /// Found a cluster; see [`Settings::founding`].
    pub bootstrap: bool,
    /// Peers to join; see [`Settings::founding`].
    pub join: Vec<HostPort>,
    /// Replicas of each key when a cluster is founded.
    pub replication: u8,
    /// Which cores.
    pub cores: Cores,
    /// Threads are not pinned.
    pub no_pin: bool,
    /// For records, bytes.
    pub memory_limit_bytes: u64,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Start although acknowledged writes are damaged.
    pub accept_data_loss: bool,
    /// Start on any file system.
    pub allow_any_fs: bool,
    /// A filter of tracing-subscriber.
    pub log_level: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// What a request may ask for.
    pub limits: Limits,
    /// What seemed odd but harms nothing, a sentence each: to be traced at start.
    pub notes: Vec<String>,
    gathered: Gathered,
}

impl Settings {
    /// Judges what was gathered by the rules and by what the machine has.
    ///
    /// # Errors
    /// Every setting that cannot be; if each can be, every pair of them that cannot.
    pub fn new(gathered: Gathered, machine: &Machine) -> Result<Settings, Vec<Refusal>> {
        let mut reader = Reader { gathered: &gathered, refusals: Vec::new() };
        let settings = reader.settings(machine);
        let mut refusals = reader.refusals;
        if refusals.is_empty() {
            refusals = settings.contradictions(machine);
        }
        if refusals.is_empty() { Ok(Settings { gathered, ..settings }) } else { Err(refusals) }
    }

    /// Where clients of other machines find this node.
    pub fn advertised(&self) -> HostPort {
        self.advertised_as(self.listen)
    }

    /// Where its peers find it.
    pub fn advertised_peer(&self) -> HostPort {
        self.advertised_as(self.peer_listen)
    }

    /// Where its admin port is found; None = off.
    pub fn advertised_admin(&self) -> Option<HostPort> {
        self.admin_listen.map(|address| self.advertised_as(address))
    }

    /// What this start does about the cluster, given the name of the member that the directory belongs to, if any.
    /// The string is a line to tell, if something was ignored.
    ///
    /// # Errors
    /// Neither founding nor joining was asked for on a fresh directory, or the directory is another member's.
    pub fn founding(&self, member: Option<&str>) -> Result<(Founding, Option<String>), Refusal> {
        let dir = self.data_dir.display();
        match member {
            Some(member) if self.origin(Key::Name) != Origin::Default && self.name != member => {
                let what = format!(
                    "{}: the data directory {dir} belongs to member \"{member}\"",
                    self.subject(Key::Name)
                );
                let refusal = Refusal::new(Exit::SETTING, what);
                Err(refusal.fix(format!("fix: start with --name {member}, or with another --data-dir")))
            }
            Some(member) => {
                let asked = [(self.bootstrap, Key::Bootstrap), (!self.join.is_empty(), Key::Join)];
                let asked = asked.into_iter().find(|(asked, _)| *asked).map(|(_, key)| self.subject(key));
                let note = asked.map(|asked| {
                    format!(
                        "{asked} is ignored: the data directory {dir} belongs to member \"{member}\" already"
                    )
                });
                Ok((Founding::Resume, note))
            }
            None if self.bootstrap => Ok((Founding::Bootstrap, None)),
            None if !self.join.is_empty() => Ok((Founding::Join(self.join.clone()), None)),
            None => {
                let what = format!("the data directory {dir} belongs to no cluster yet");
                let refusal = Refusal::new(Exit::SETTING, what);
                let refusal = refusal.fix("fix: found a cluster with --bootstrap");
                Err(refusal.fix("  or join one with --join HOST:7718, the peer address of any member"))
            }
        }
    }

    /// Where a setting came from.
    pub fn origin(&self, key: Key) -> Origin {
        self.gathered.get(key).map_or(Origin::Default, |given| given.origin)
    }

    /// Every setting in the order of the table, as it is in force.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |key| {
            let given = self.gathered.get(key);
            let name = || Given { text: self.name.clone(), origin: Origin::Default };
            let given = if key == Key::Name { given.or_else(|| Some(name())) } else { given };
            Entry { key, origin: self.origin(key), text: given.map(|given| given.text) }
        };
        SETTINGS.iter().map(|row| entry(row.id)).collect()
    }

    fn advertised_as(&self, address: SocketAddr) -> HostPort {
        let host = match &self.advertise {
            Some(host) => host.clone(),
            None => address.ip().to_string(),
        };
        HostPort { host, port: address.port() }
    }

    fn subject(&self, key: Key) -> String {
        self.gathered.get(key).map_or_else(|| setting(key).path(), |given| given.subject(setting(key)))
    }

    fn listeners(&self) -> Vec<(Key, SocketAddr)> {
        let admin = self.admin_listen.map(|address| (Key::AdminListen, address));
        [(Key::Listen, self.listen), (Key::PeerListen, self.peer_listen)].into_iter().chain(admin).collect()
    }

    /// What no single setting is to blame for.
    fn contradictions(&self, machine: &Machine) -> Vec<Refusal> {
        let mut found = Vec::new();
        let mut refuse = |what: String, fix: &str| {
            found.push(Refusal::new(Exit::SETTING, what).fix(format!("fix: {fix}")));
        };
        self.judge_listeners(&mut refuse);
        self.judge_cluster(&mut refuse);
        self.judge_cores(machine, &mut refuse);
        self.judge_limits(&mut refuse);
        found
    }

    fn judge_listeners(&self, refuse: &mut impl FnMut(String, &str)) {
        let listeners = self.listeners();
        for (index, (key, address)) in listeners.iter().enumerate() {
            let subject = self.subject(*key);
            if !address.ip().to_canonical().is_loopback() && !self.insecure {
                refuse(
                    format!(
                        "{subject}: other machines can reach {address}, and nothing is encrypted or authenticated there"
                    ),
                    "listen on 127.0.0.1, or say --insecure (RINGCORE_INSECURE=true) where the network is trusted",
                );
            }
            if address.ip().to_canonical().is_unspecified() && self.advertise.is_none() {
                refuse(
                    format!("{subject}: {} is no address that others could connect to", address.ip()),
                    "name this node with --advertise HOST (RINGCORE_ADVERTISE)",
                );
            }
            if let Some((other, _)) = listeners[..index].iter().find(|(_, other)| collide(*other, *address)) {
                refuse(
                    format!("{subject}: {} has the same port", self.subject(*other)),
                    "give each listener a port of its own (usual are 7717, 7718, 7719)",
                );
            }
        }
    }

    fn judge_cluster(&self, refuse: &mut impl FnMut(String, &str)) {
        if self.join.is_empty() {
            return;
        }
        let subject = self.subject(Key::Join);
        if self.bootstrap {
            refuse(
                format!("{subject}: {} asks for the opposite", self.subject(Key::Bootstrap)),
                "found a cluster with --bootstrap on its first node only, and --join it from the others",
            );
        }
        let own = self.advertised_peer();
        if self.join.iter().all(|peer| *peer == own) {
            refuse(
                format!("{subject}: names only this node itself"),
                "name the peer address of another node",
            );
        }
        if is_local(&own.host) && self.join.iter().any(|peer| !is_local(&peer.host)) {
            refuse(
                format!("{subject}: these peers could not reach this node at {own}"),
                "set --peer-listen (RINGCORE_PEER_LISTEN) or --advertise (RINGCORE_ADVERTISE) to what they can reach",
            );
        }
    }

    fn judge_cores(&self, machine: &Machine, refuse: &mut impl FnMut(String, &str)) {
        let subject = self.subject(Key::Cores);
        let there = format!("this process may use {} (CPUs {})", machine.cpus.len(), ranges(&machine.cpus));
        let fix = "ask for fewer, or let threads share CPUs with --no-pin (RINGCORE_NO_PIN=true)";
        match &self.cores {
            Cores::All => {}
            Cores::Count(count) if self.no_pin || *count <= machine.cpus.len() => {}
            Cores::Count(_) => refuse(format!("{subject}: {there}"), fix),
            Cores::List(list) => {
                let absent = list.iter().find(|cpu| !machine.cpus.contains(cpu));
                if let Some(absent) = absent.filter(|_| !self.no_pin) {
                    refuse(format!("{subject}: CPU {absent} is not there: {there}"), fix);
                }
            }
        }
    }

    fn judge_limits(&self, refuse: &mut impl FnMut(String, &str)) {
        let Limits { key_bytes_max, value_bytes_max, message_bytes_max, .. } = self.limits;
        let needed = key_bytes_max + value_bytes_max + parse::MESSAGE_BYTES_SPARE;
        if message_bytes_max < needed {
            refuse(
                format!(
                    "{}: the longest key and value need a message of {needed} bytes",
                    self.subject(Key::MessageMax)
                ),
                "raise limits.message_max, or lower limits.value_max",
            );
        }
        if self.limits.deadline_ms_default > self.limits.deadline_ms_max {
            refuse(
                format!(
                    "{}: longer than {}",
                    self.subject(Key::DeadlineDefault),
                    self.subject(Key::DeadlineMax)
                ),
                "lower limits.deadline_default, or raise limits.deadline_max",
            );
        }
    }
}

/// Reads texts one by one. A text that is refused stands for its default meanwhile, so that all are found at once.
struct Reader<'a> {
    gathered: &'a Gathered,
    refusals: Vec<Refusal>,
}

impl Reader<'_> {
    fn settings(&mut self, machine: &Machine) -> Settings {
        Settings {
            config: self.gathered.config.clone(),
            data_dir: self.read(Key::DataDir, parse::path),
            name: self.name(machine),
            zone: self.read(Key::Zone, parse::label),
            listen: self.read(Key::Listen, parse::address),
            peer_listen: self.read(Key::PeerListen, parse::address),
            admin_listen: self.read(Key::AdminListen, parse::address_or_off),
            advertise: self.read_some(Key::Advertise, parse::host),
            insecure: self.read(Key::Insecure, parse::switch),
            bootstrap: self.read(Key::Bootstrap, parse::switch),
            join: self.read_some(Key::Join, parse::peers).unwrap_or_default(),
            replication: self.read(Key::Replication, parse::replication),
            cores: self.read_some(Key::Cores, parse::cores).unwrap_or(Cores::All),
            no_pin: self.read(Key::NoPin, parse::switch),
            memory_limit_bytes: self.read(Key::MemoryLimit, |text| parse::memory(text, machine.memory_bytes)),
            durability: self.read(Key::Durability, parse::durability),
            accept_data_loss: self.read(Key::AcceptDataLoss, parse::switch),
            allow_any_fs: self.read(Key::AllowAnyFs, parse::switch),
            log_level: self.read(Key::LogLevel, parse::filter),
            log_format: self.read(Key::LogFormat, parse::log_format),
            limits: self.limits(),
            notes: self.gathered.notes.clone(),
            gathered: self.gathered.clone(),
        }
    }

    fn limits(&mut self) -> Limits {
        Limits {
            key_bytes_max: self.read(Key::KeyMax, parse::key_bytes),
            value_bytes_max: self.read(Key::ValueMax, parse::value_bytes),
            message_bytes_max: self.read(Key::MessageMax, parse::message_bytes),
            batch_keys_max: self.read(Key::BatchKeysMax, parse::batch_keys),
            ttl_ms_max: self.read(Key::TtlMax, parse::ttl),
            deadline_ms_default: self.read(Key::DeadlineDefault, parse::deadline),
            deadline_ms_max: self.read(Key::DeadlineMax, parse::deadline),
            ..Limits::default()
        }
    }

    /// The one default that depends on the machine, and may be no name at all.
    fn name(&mut self, machine: &Machine) -> String {
        if let Some(name) = self.read_some(Key::Name, parse::label) {
            return name;
        }
        let given = self.gathered.get(Key::Name);
        if given.is_none() && parse::label(&machine.hostname).is_err() {
            let what = format!("the machine's name \"{}\" cannot name this node", machine.hostname);
            let refusal = Refusal::new(Exit::SETTING, what);
            self.refusals.push(refusal.fix("fix: give it one with --name (RINGCORE_NAME)"));
        }
        machine.hostname.clone()
    }

    fn read<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, Bad>) -> T {
        let fallback = match setting(key).fallback {
            super::setting::Fallback::Text(text) => text,
            super::setting::Fallback::Words(..) => {
                unreachable!("settings without a default are read as options")
            }
        };
        match self.read_some(key, &parse) {
            Some(value) => value,
            None => match parse(fallback) {
                Ok(value) => value,
                Err(bad) => panic!("the default of {key:?} is refused: {}", bad.what),
            },
        }
    }

    fn read_some<T>(&mut self, key: Key, parse: impl Fn(&str) -> Result<T, Bad>) -> Option<T> {
        let given = self.gathered.get(key)?;
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(bad) => {
                let exit = match given.origin {
                    Origin::Flag if bad.malformed => Exit::USAGE,
                    Origin::Default | Origin::File { .. } | Origin::Environment | Origin::Flag => {
                        Exit::SETTING
                    }
                };
                let what = format!("{}: {}", given.subject(setting(key)), bad.what);
                self.refusals.push(Refusal::new(exit, what).fix(format!("fix: {}", bad.fix)));
                None
            }
        }
    }
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (ours, theirs) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (ours == theirs || ours.is_unspecified() || theirs.is_unspecified())
}

/// Whether only this machine can mean it.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// CPUs in words: `0-3,8`.
fn ranges(cpus: &[u16]) -> String {
    let mut words = Vec::new();
    for run in cpus.chunk_by(|one, next| one + 1 == *next) {
        words.push(match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => unreachable!("runs are not empty"),
        });
    }
    words.join(",")
}

/// The address that `localhost` means here, whatever a resolver says.
pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
