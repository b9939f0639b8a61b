//! The node's settings as values, and every rule that refuses one. Knows nothing of where they are used.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
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
    pub fn new(gathered: &Gathered, machine: &Machine) -> Result<Settings, Vec<Refusal>> {
        let mut reader = Reader { gathered, refusals: Vec::new() };
        let settings = reader.settings(machine);
        let mut refusals = reader.refusals;
        if refusals.is_empty() {
            refusals = settings.contradictions(machine);
        }
        if refusals.is_empty() { Ok(settings) } else { Err(refusals) }
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
        let have = machine.cores_default();
        let by = if have < machine.cpus.len() { "its cgroup's quota" } else { "its affinity mask" };
        let there = format!("this process may use {have} by {by} (CPUs {})", ranges(&machine.cpus));
        let fix = "ask for fewer, or let threads share CPUs with --no-pin (RINGCORE_NO_PIN=true)";
        match &self.cores {
            Cores::All => {}
            Cores::Count(_) | Cores::List(_) if self.no_pin => {}
            Cores::Count(count) if *count <= have => {}
            Cores::Count(_) => refuse(format!("{subject}: {there}"), fix),
            Cores::List(list) => {
                if let Some(absent) = list.iter().find(|cpu| !machine.cpus.contains(cpu)) {
                    refuse(format!("{subject}: CPU {absent} is not there: {there}"), fix);
                } else if list.len() > have {
                    refuse(format!("{subject}: {there}"), fix);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::sources::Flags;

    type Flag<'a> = (Key, &'a str);
    type Variable<'a> = (&'a str, &'a str);
    /// Flags, variables, file; what is in force, and the end of its origin.
    type Case<'a> = (&'a [Flag<'a>], &'a [Variable<'a>], &'a str, &'a str, &'a str);

    fn machine() -> Machine {
        Machine {
            hostname: "host".into(),
            cpus: vec![0, 1, 2, 3],
            cpu_quota_percent: None,
            memory_bytes: 10 << 30,
        }
    }

    /// Settings of flags ("--key text" by key), variables and the lines of a file.
    fn judged(flags: &[Flag<'_>], variables: &[Variable<'_>], file: &str) -> Result<Settings, Vec<Refusal>> {
        let id = flags.len() * 1_000_003 + variables.len() * 1_009 + file.len();
        let thread = format!("{:?}", std::thread::current().id());
        let path = std::env::temp_dir().join(format!("ringcore-{}-{thread}-{id}.toml", std::process::id()));
        let config = (!file.is_empty()).then(|| path.clone());
        if !file.is_empty() {
            std::fs::write(&path, file).unwrap();
        }
        let texts = flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        let variables = variables.iter().map(|(name, text)| (name.into(), text.into()));
        let gathered = Gathered::new(&Flags { config, texts }, variables);
        if !file.is_empty() {
            std::fs::remove_file(&path).unwrap();
        }
        gathered.and_then(|gathered| Settings::new(&gathered, &machine()))
    }

    fn flags(flags: &[Flag<'_>]) -> Result<Settings, Vec<Refusal>> {
        judged(flags, &[], "")
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let settings = flags(&[]).unwrap();
        assert_eq!(settings.limits, Limits::default());
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7717");
        assert_eq!(settings.peer_listen.to_string(), "127.0.0.1:7718");
        assert_eq!(
            settings.admin_listen.map(|address| address.to_string()).as_deref(),
            Some("127.0.0.1:7719")
        );
        assert_eq!((settings.name.as_str(), settings.replication), ("host", 3));
        assert_eq!((settings.cores.clone(), settings.memory_limit_bytes), (Cores::All, 7 << 30));
        assert_eq!((settings.durability, settings.log_format), (Durability::Flushed, LogFormat::Auto));
        let switches = [
            settings.insecure,
            settings.bootstrap,
            settings.no_pin,
            settings.accept_data_loss,
            settings.allow_any_fs,
        ];
        assert_eq!(switches, [false; 5]);
    }

    #[test]
    fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
        let file = "zone = \"file\"\n";
        let variable = [("RINGCORE_ZONE", "variable")];
        let flag = [(Key::Zone, "flag")];
        let cases: [Case<'_>; 5] = [
            (&[], &[], "", "default", "default"),
            (&[], &[], file, "file", ".toml:1"),
            (&[], &variable, file, "variable", "environment"),
            (&flag, &variable, file, "flag", "flag"),
            (&flag, &[], file, "flag", "flag"),
        ];
        for (flags, variables, file, zone, origin) in cases {
            let settings = judged(flags, variables, file).unwrap();
            assert_eq!(settings.zone, zone);
            assert!(settings.origin(Key::Zone).to_string().ends_with(origin), "{zone}");
        }
    }

    #[test]
    fn every_setting_obeys_the_precedence() {
        let texts = |key| match key {
            Key::DataDir | Key::Name | Key::Zone | Key::Advertise => ["a", "b", "c"],
            Key::Listen | Key::PeerListen | Key::AdminListen => ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
            Key::Insecure | Key::Bootstrap | Key::NoPin | Key::AcceptDataLoss | Key::AllowAnyFs => {
                ["true", "false", "true"]
            }
            Key::Join => ["localhost:1", "localhost:2", "localhost:3"],
            Key::Replication | Key::Cores | Key::BatchKeysMax => ["1", "2", "3"],
            Key::MemoryLimit => ["1GiB", "2GiB", "30%"],
            Key::Durability => ["none", "flushed", "none"],
            Key::LogLevel => ["warn", "debug", "info,ringcore=debug"],
            Key::LogFormat => ["text", "json", "auto"],
            Key::KeyMax => ["1KiB", "2KiB", "3KiB"],
            Key::ValueMax => ["1KiB", "2KiB", "0"],
            Key::MessageMax => ["5MiB", "6MiB", "7MiB"],
            Key::TtlMax | Key::DeadlineMax => ["11s", "12s", "13s"],
            Key::DeadlineDefault => ["1s", "2ms", "3s"],
        };
        for row in &SETTINGS {
            let [in_file, in_variable, in_flag] = texts(row.id);
            let table = if row.flag().is_none() { "[limits]\n" } else { "" };
            let file = format!("{table}{}\n", crate::program::config::line(row, in_file));
            let variable = row.variable();
            let variables = [(variable.as_str(), in_variable)];
            let flag = [(row.id, in_flag)];
            let with_flag = if row.flag().is_some() { &flag[..] } else { &[] };
            for (flags, variables, expected) in [
                (&[][..], &[][..], in_file),
                (&[][..], &variables[..], in_variable),
                (with_flag, &variables[..], if with_flag.is_empty() { in_variable } else { in_flag }),
            ] {
                let settings =
                    judged(flags, variables, &file).unwrap_or_else(|refusals| panic!("{refusals:?}"));
                let entry = &settings.entries()[row.id as usize];
                assert_eq!(entry.text.as_deref(), Some(expected), "{}", row.key);
            }
        }
    }

    /// What is refused, its code and what the sentence says.
    #[test]
    fn what_cannot_be_is_refused_with_its_origin_and_a_fix() {
        let cases: &[(&[Flag<'_>], &str)] = &[
            (&[(Key::DataDir, "")], "--data-dir \"\": is empty"),
            (&[(Key::Name, "")], "--name \"\": is empty"),
            (&[(Key::Name, "a b")], "--name a b: has characters"),
            (&[(Key::Zone, "zone/1")], "--zone zone/1: has characters"),
            (&[(Key::Zone, "-z")], "--zone -z: has characters"),
            (&[(Key::Zone, "ümlaut")], "has characters"),
            (&[(Key::Listen, "127.0.0.1:0")], "--listen 127.0.0.1:0: port 0 means any"),
            (
                &[(Key::Listen, "0.0.0.0:7717")],
                "--listen 0.0.0.0:7717: other machines can reach 0.0.0.0:7717",
            ),
            (&[(Key::PeerListen, "10.0.0.1:7718")], "other machines can reach 10.0.0.1:7718"),
            (&[(Key::AdminListen, "[::]:7719")], "other machines can reach [::]:7719"),
            (&[(Key::Listen, "[::ffff:10.0.0.1]:7717")], "other machines can reach"),
            (&[(Key::Listen, "127.0.0.1:7718")], "has the same port"),
            (&[(Key::AdminListen, "127.0.0.1:7717")], "has the same port"),
            (&[(Key::Insecure, "true"), (Key::Listen, "0.0.0.0:7717")], "0.0.0.0 is no address"),
            (&[(Key::Advertise, "0.0.0.0")], "is no address that others could connect to"),
            (&[(Key::Bootstrap, "true"), (Key::Join, "localhost:1")], "--bootstrap asks for the opposite"),
            (&[(Key::Join, "127.0.0.1:7718")], "names only this node itself"),
            (&[(Key::Join, "n1.example.net:7718")], "could not reach this node at 127.0.0.1:7718"),
            (&[(Key::Replication, "0")], "--replication 0: a key has 1 to 15 replicas"),
            (&[(Key::Replication, "16")], "a key has 1 to 15 replicas"),
            (&[(Key::Cores, "0")], "--cores 0: a node has 1 to 256 cores"),
            (&[(Key::Cores, "5")], "--cores 5: this process may use 4 by its affinity mask (CPUs 0-3)"),
            (&[(Key::Cores, "2,7")], "CPU 7 is not there"),
            (&[(Key::Cores, "1,1")], "names a CPU twice"),
            (&[(Key::Cores, "0-2,2")], "names a CPU twice"),
            (&[(Key::Cores, "257"), (Key::NoPin, "true")], "a node has 1 to 256 cores"),
            (&[(Key::Cores, "0-65535"), (Key::NoPin, "true")], "a node has 1 to 256 cores"),
            (&[(Key::MemoryLimit, "0%")], "is no share of the memory"),
            (&[(Key::MemoryLimit, "101%")], "is no share of the memory"),
            (&[(Key::MemoryLimit, "11GiB")], "--memory-limit 11GiB: more than there is"),
            (&[(Key::MemoryLimit, "1MiB")], "are less than the least"),
        ];
        for (given, expected) in cases {
            let refusals = flags(given).expect_err(expected);
            let found = refusals.iter().find(|refusal| refusal.what.contains(expected));
            let found = found.unwrap_or_else(|| panic!("{expected}: {refusals:?}"));
            assert_eq!((found.exit, found.fixes.is_empty()), (Exit::SETTING, false), "{found}");
        }
    }

    #[test]
    fn what_does_not_parse_is_a_usage_error_as_a_flag_only() {
        let cases = [
            (Key::Listen, "localhost"),
            (Key::Listen, "n1:7717"),
            (Key::AdminListen, "on"),
            (Key::Advertise, "n1:7717"),
            (Key::Advertise, "n 1"),
            (Key::Insecure, "perhaps"),
            (Key::Join, "n1"),
            (Key::Join, "n1:0"),
            (Key::Join, "n1:7718,"),
            (Key::Join, "::1:7718"),
            (Key::Replication, "three"),
            (Key::Cores, "many"),
            (Key::Cores, "3-1"),
            (Key::Cores, "1,"),
            (Key::Cores, ""),
            (Key::MemoryLimit, "1GB"),
            (Key::MemoryLimit, "many%"),
            (Key::Durability, "maybe"),
            (Key::LogLevel, "verbose"),
            (Key::LogLevel, "info,ringcore=loud"),
            (Key::LogFormat, "xml"),
        ];
        for (key, text) in cases {
            let refusals = flags(&[(key, text)]).expect_err(text);
            assert_eq!(refusals[0].exit, Exit::USAGE, "{key:?} {text}");
            if !text.is_empty() {
                let refusals = judged(&[], &[(&setting(key).variable(), text)], "").expect_err(text);
                assert_eq!(refusals[0].exit, Exit::SETTING, "{key:?} {text}");
                assert!(refusals[0].what.starts_with(&format!("{}={text}: ", setting(key).variable())));
            }
        }
    }

    #[test]
    fn impossible_limits_are_refused() {
        let cases = [
            ("key_max = 0", "0 bytes cannot be"),
            ("key_max = \"64KiB\"", "65536 bytes cannot be"),
            ("value_max = \"5MiB\"", "5242880 bytes cannot be"),
            ("value_max = \"4MiB\"", "need a message of"),
            ("message_max = \"1GiB\"", "cannot be"),
            ("batch_keys_max = 0", "0 keys cannot be"),
            ("batch_keys_max = -1", "is not a whole number"),
            ("ttl_max = \"0s\"", "0 ms cannot be"),
            ("ttl_max = \"10\"", "is not a duration"),
            ("ttl_max = \"400000d\"", "cannot be"),
            ("deadline_max = \"9s\"", "deadline_default = 10s (default): longer than"),
            ("deadline_max = \"2h\"", "cannot be"),
        ];
        for (line, expected) in cases {
            let refusals = judged(&[], &[], &format!("[limits]\n{line}\n")).expect_err(line);
            let words = refusals.iter().map(Refusal::to_string).collect::<String>();
            assert!(words.contains(expected), "{line}: {words}");
            assert!(refusals.iter().all(|refusal| refusal.exit == Exit::SETTING), "{words}");
        }
    }

    #[test]
    fn refusals_of_a_file_name_its_line() {
        let refusals = judged(&[], &[], "\n\nreplication = 0\nzone = \"a b\"\n").unwrap_err();
        let words: Vec<_> = refusals.iter().map(Refusal::to_string).collect();
        assert_eq!(words.len(), 2);
        assert!(words.iter().any(|words| words.contains(".toml:3: replication = 0: a key has")), "{words:?}");
        assert!(words.iter().any(|words| words.contains(".toml:4: zone = a b: has characters")), "{words:?}");
    }

    #[test]
    fn every_kind_of_address_is_understood() {
        let settings = flags(&[
            (Key::Listen, "[::1]:1"),
            (Key::PeerListen, "localhost:2"),
            (Key::AdminListen, "off"),
            (Key::Join, "localhost:3, [::1]:4,127.0.0.2:5,localhost:3"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.peer_listen.to_string(), "127.0.0.1:2");
        assert_eq!((settings.admin_listen, settings.advertised_admin()), (None, None));
        assert_eq!(settings.advertised().to_string(), "[::1]:1");
        let peers: Vec<_> = settings.join.iter().map(HostPort::to_string).collect();
        assert_eq!(peers, ["localhost:3", "[::1]:4", "127.0.0.2:5"]);
    }

    #[test]
    fn the_advertised_host_counts_for_all_ports() {
        for (host, expected) in [("n1.example.net", "n1.example.net"), ("[2001:db8::1]", "[2001:db8::1]")] {
            let settings = flags(&[
                (Key::Insecure, "true"),
                (Key::Listen, "0.0.0.0:1"),
                (Key::PeerListen, "[::]:2"),
                (Key::AdminListen, "0.0.0.0:3"),
                (Key::Advertise, host),
            ]);
            let settings = settings.unwrap();
            assert_eq!(settings.advertised().to_string(), format!("{expected}:1"));
            assert_eq!(settings.advertised_peer().to_string(), format!("{expected}:2"));
            assert_eq!(settings.advertised_admin().unwrap().to_string(), format!("{expected}:3"));
        }
    }

    #[test]
    fn more_cores_than_cpus_need_no_pin() {
        let settings = flags(&[(Key::Cores, "256"), (Key::NoPin, "true")]).unwrap();
        assert_eq!(settings.cores, Cores::Count(256));
        let settings = flags(&[(Key::Cores, "7,1-2"), (Key::NoPin, "true")]).unwrap();
        assert_eq!(settings.cores, Cores::List(vec![7, 1, 2]));
        assert_eq!(flags(&[(Key::Cores, "3-3")]).unwrap().cores, Cores::List(vec![3]));
        assert_eq!(flags(&[(Key::Cores, "3")]).unwrap().cores, Cores::Count(3));
    }

    #[test]
    fn a_quota_caps_pinned_cores() {
        let machine = Machine { cpu_quota_percent: Some(250), ..machine() };
        let judged = |cores: &str, no_pin: &str| {
            let texts = [(Key::Cores, cores.to_owned()), (Key::NoPin, no_pin.to_owned())].into();
            let gathered = Gathered::new(&Flags { config: None, texts }, []).unwrap();
            Settings::new(&gathered, &machine).map_err(|refusals| refusals[0].to_string())
        };
        assert!(
            judged("2", "false").is_ok() && judged("1,3", "false").is_ok() && judged("3", "true").is_ok()
        );
        for cores in ["3", "0-2"] {
            let words = judged(cores, "false").unwrap_err();
            assert!(words.contains("may use 2 by its cgroup's quota"), "{words}");
        }
    }

    #[test]
    fn a_machine_without_a_fit_name_needs_one() {
        let gathered = Gathered::new(&Flags::default(), []).unwrap();
        let refusals =
            Settings::new(&gathered, &Machine { hostname: String::new(), ..machine() }).unwrap_err();
        assert!(refusals[0].to_string().contains("--name"), "{}", refusals[0]);
    }

    #[test]
    fn a_fresh_directory_founds_or_joins() {
        let fresh = |given: &[Flag<'_>]| flags(given).unwrap().founding(None);
        assert_eq!(fresh(&[(Key::Bootstrap, "true")]), Ok((Founding::Bootstrap, None)));
        let peer = HostPort { host: "localhost".into(), port: 1 };
        assert_eq!(fresh(&[(Key::Join, "localhost:1")]), Ok((Founding::Join(vec![peer]), None)));
        let refusal = fresh(&[]).unwrap_err();
        assert_eq!((refusal.exit, refusal.fixes.len()), (Exit::SETTING, 2));
    }

    #[test]
    fn a_directory_of_a_member_resumes_under_its_name() {
        let of_n1 = |given: &[Flag<'_>]| flags(given).unwrap().founding(Some("n1"));
        assert_eq!(of_n1(&[]), Ok((Founding::Resume, None)), "the machine's name is nobody's wish");
        assert_eq!(of_n1(&[(Key::Name, "n1")]), Ok((Founding::Resume, None)));
        let (founding, note) = of_n1(&[(Key::Bootstrap, "true")]).unwrap();
        assert_eq!(founding, Founding::Resume);
        assert!(note.unwrap().starts_with("--bootstrap is ignored: "));
        assert!(
            of_n1(&[(Key::Join, "localhost:1")])
                .unwrap()
                .1
                .unwrap()
                .starts_with("--join localhost:1 is ignored")
        );
        let refusal = of_n1(&[(Key::Name, "n2")]).unwrap_err();
        assert_eq!(refusal.exit, Exit::SETTING);
        assert!(refusal.what.contains("belongs to member \"n1\""), "{refusal}");
    }
}
