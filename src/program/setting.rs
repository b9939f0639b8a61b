//! The table of the node's settings: one row is a flag, an environment variable, a key of the file, a line of help and a
//! line of the example. Knows neither how a text becomes a value nor which values can be.

/// Names a row of [`SETTINGS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "each is the row of its name")]
pub enum Key {
    DataDir,
    Name,
    Zone,
    Listen,
    PeerListen,
    AdminListen,
    Advertise,
    Insecure,
    Bootstrap,
    Join,
    Replication,
    Cores,
    NoPin,
    MemoryLimit,
    Durability,
    AcceptDataLoss,
    AllowAnyFs,
    LogLevel,
    LogFormat,
    KeyMax,
    ValueMax,
    MessageMax,
    BatchKeysMax,
    TtlMax,
    DeadlineDefault,
    DeadlineMax,
}

/// How a value is written in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A string.
    Text,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A whole number; a string of it is taken too.
    Number,
    /// A number or a string: `4` or `"0-3,8"`.
    NumberOrText,
    /// true or false; a flag without a value means true.
    Switch,
    /// An array of strings, or one string with commas.
    List,
}

/// Under which heading a setting stands in help and example.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// What this node is and where it keeps its data.
    Node,
    /// Where it listens.
    Network,
    /// Which cluster it belongs to.
    Cluster,
    /// What it may use of the machine.
    Resources,
    /// What it promises of the data.
    Storage,
    /// What it tells of itself.
    Diagnostics,
    /// What a request may ask for. A table of the file; no flags.
    Limits,
}

impl Group {
    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Group::Node => "Node",
            Group::Network => "Network",
            Group::Cluster => "Cluster",
            Group::Resources => "Resources",
            Group::Storage => "Storage",
            Group::Diagnostics => "Diagnostics",
            Group::Limits => "Limits",
        }
    }
}

/// What stands where nobody has said anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// This text, read like any other.
    Text(&'static str),
    /// Nothing, or what the machine says; in words, with an example of a value.
    Words(&'static str, &'static str),
}

/// One row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Its name in code.
    pub id: Key,
    /// Its name in the file, without its table: the flag with underscores.
    pub key: &'static str,
    /// Its heading; [`Group::Limits`] is a table of the file as well.
    pub group: Group,
    /// How the file writes it.
    pub form: Form,
    /// What the help calls its value.
    pub value: &'static str,
    /// What stands where nobody has said anything.
    pub fallback: Fallback,
    /// One or two sentences.
    pub help: &'static str,
}

impl Setting {
    /// Its full name in the file: `data_dir`, `limits.key_max`.
    pub fn path(&self) -> String {
        match self.group {
            Group::Limits => format!("limits.{}", self.key),
            Group::Node
            | Group::Network
            | Group::Cluster
            | Group::Resources
            | Group::Storage
            | Group::Diagnostics => self.key.to_owned(),
        }
    }

    /// Its flag without the dashes: `data-dir`. Limits have none.
    pub fn flag(&self) -> Option<String> {
        (self.group != Group::Limits).then(|| self.key.replace('_', "-"))
    }

    /// Its environment variable: `RINGCORE_DATA_DIR`, `RINGCORE_LIMITS_KEY_MAX`.
    pub fn variable(&self) -> String {
        format!("RINGCORE_{}", self.path().replace('.', "_").to_ascii_uppercase())
    }
}

/// The row of a key.
pub fn setting(key: Key) -> &'static Setting {
    &SETTINGS[key as usize]
}

const fn row(
    id: Key,
    key: &'static str,
    group: Group,
    form: Form,
    value: &'static str,
    fallback: Fallback,
    help: &'static str,
) -> Setting {
    Setting { id, key, group, form, value, fallback, help }
}

const OFF: Fallback = Fallback::Text("false");

/// Every setting of the node, in the order of [`Key`].
pub const SETTINGS: [Setting; 26] = [
    row(
        Key::DataDir,
        "data_dir",
        Group::Node,
        Form::Text,
        "DIR",
        Fallback::Text("./ringcore-data"),
        "Where this node keeps its data, on ext4 or XFS. Created if absent; belongs to one member of one cluster.",
    ),
    row(
        Key::Name,
        "name",
        Group::Node,
        Form::Text,
        "NAME",
        Fallback::Words("the machine's name", "n1"),
        "Name of this node, unique in its cluster. Letters, digits, '-', '_' and '.', at most 63.",
    ),
    row(
        Key::Zone,
        "zone",
        Group::Node,
        Form::Text,
        "ZONE",
        Fallback::Text("default"),
        "What fails together with this node: a rack, a room. Replicas of a key go to different zones first.",
    ),
    row(
        Key::Listen,
        "listen",
        Group::Network,
        Form::Text,
        "IP:PORT",
        Fallback::Text("127.0.0.1:7717"),
        "Where clients connect (gRPC). Anything but a loopback address needs --insecure.",
    ),
    row(
        Key::PeerListen,
        "peer_listen",
        Group::Network,
        Form::Text,
        "IP:PORT",
        Fallback::Text("127.0.0.1:7718"),
        "Where other nodes connect (gRPC).",
    ),
    row(
        Key::AdminListen,
        "admin_listen",
        Group::Network,
        Form::Text,
        "IP:PORT|off",
        Fallback::Text("127.0.0.1:7719"),
        "Where metrics and probes are served (HTTP); off serves none.",
    ),
    row(
        Key::Advertise,
        "advertise",
        Group::Network,
        Form::Text,
        "HOST",
        Fallback::Words("the addresses that it listens on", "n1.example.net"),
        "Name or address under which others reach this node, for all of its ports.",
    ),
    row(
        Key::Insecure,
        "insecure",
        Group::Network,
        Form::Switch,
        "",
        OFF,
        "Allow addresses that other machines can reach, although nothing is encrypted or authenticated.",
    ),
    row(
        Key::Bootstrap,
        "bootstrap",
        Group::Cluster,
        Form::Switch,
        "",
        OFF,
        "Found a new cluster with this node as its only member. Ignored once the data directory belongs to a member.",
    ),
    row(
        Key::Join,
        "join",
        Group::Cluster,
        Form::List,
        "HOST:PORT,...",
        Fallback::Words("none", "n2.example.net:7718"),
        "Join the cluster of these nodes, by their peer addresses; one that answers is enough. Ignored once the data \
         directory belongs to a member.",
    ),
    row(
        Key::Replication,
        "replication",
        Group::Cluster,
        Form::Number,
        "N",
        Fallback::Text("3"),
        "Replicas of each key; in force are as many as there are members. Counts when a cluster is founded.",
    ),
    row(
        Key::Cores,
        "cores",
        Group::Resources,
        Form::NumberOrText,
        "N|LIST",
        Fallback::Words("all that this process may use, capped by the cgroup's quota", "0-3,8"),
        "Cores to run on: how many (4), or exactly which (0-3,8; one alone as 3-3).",
    ),
    row(
        Key::NoPin,
        "no_pin",
        Group::Resources,
        Form::Switch,
        "",
        OFF,
        "Do not pin threads to CPUs; then there may be more cores than CPUs (at most 256). For tests and laptops.",
    ),
    row(
        Key::MemoryLimit,
        "memory_limit",
        Group::Resources,
        Form::NumberOrText,
        "SIZE|%",
        Fallback::Text("70%"),
        "Memory for records: bytes, MiB, GiB, or a percentage of the cgroup's or the machine's. Once it is reached, \
         writes are refused while reads and deletes go on.",
    ),
    row(
        Key::Durability,
        "durability",
        Group::Storage,
        Form::Choice(&["flushed", "none"]),
        "MODE",
        Fallback::Text("flushed"),
        "flushed: a write is on stable storage before it is acknowledged. none: it is not, and a crash loses writes.",
    ),
    row(
        Key::AcceptDataLoss,
        "accept_data_loss",
        Group::Storage,
        Form::Switch,
        "",
        OFF,
        "Start although acknowledged writes are damaged and no replica can restore them. They are lost then.",
    ),
    row(
        Key::AllowAnyFs,
        "allow_any_fs",
        Group::Storage,
        Form::Switch,
        "",
        OFF,
        "Start on a file system that is not known to keep what was flushed (tmpfs, overlay, network).",
    ),
    row(
        Key::LogLevel,
        "log_level",
        Group::Diagnostics,
        Form::Text,
        "FILTER",
        Fallback::Text("info"),
        "What is traced: error, warn, info, debug, also per module (info,ringcore::storage=debug).",
    ),
    row(
        Key::LogFormat,
        "log_format",
        Group::Diagnostics,
        Form::Choice(&["auto", "text", "json"]),
        "FORMAT",
        Fallback::Text("auto"),
        "How it is written to stderr: text, json, or auto (text on a terminal, json elsewhere).",
    ),
    row(
        Key::KeyMax,
        "key_max",
        Group::Limits,
        Form::NumberOrText,
        "SIZE",
        Fallback::Text("4KiB"),
        "Longest key.",
    ),
    row(
        Key::ValueMax,
        "value_max",
        Group::Limits,
        Form::NumberOrText,
        "SIZE",
        Fallback::Text("1MiB"),
        "Longest value.",
    ),
    row(
        Key::MessageMax,
        "message_max",
        Group::Limits,
        Form::NumberOrText,
        "SIZE",
        Fallback::Text("4MiB"),
        "Longest message of a client, and the longest answer.",
    ),
    row(
        Key::BatchKeysMax,
        "batch_keys_max",
        Group::Limits,
        Form::Number,
        "N",
        Fallback::Text("10000"),
        "Most keys of a batch.",
    ),
    row(
        Key::TtlMax,
        "ttl_max",
        Group::Limits,
        Form::Text,
        "DURATION",
        Fallback::Text("3650d"),
        "Longest time to live.",
    ),
    row(
        Key::DeadlineDefault,
        "deadline_default",
        Group::Limits,
        Form::Text,
        "DURATION",
        Fallback::Text("10s"),
        "Deadline of a request that names none.",
    ),
    row(
        Key::DeadlineMax,
        "deadline_max",
        Group::Limits,
        Form::Text,
        "DURATION",
        Fallback::Text("60s"),
        "Longest deadline: a longer or unreadable one means this.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_their_keys() {
        for (index, row) in SETTINGS.iter().enumerate() {
            assert_eq!(row.id as usize, index, "{}", row.key);
        }
    }

    #[test]
    fn names_follow_one_rule() {
        assert_eq!(setting(Key::DataDir).flag().as_deref(), Some("data-dir"));
        assert_eq!(setting(Key::DataDir).variable(), "RINGCORE_DATA_DIR");
        assert_eq!(setting(Key::KeyMax).path(), "limits.key_max");
        assert_eq!(setting(Key::KeyMax).variable(), "RINGCORE_LIMITS_KEY_MAX");
        assert_eq!(setting(Key::KeyMax).flag(), None);
    }
}
