//! What the text of each setting may be. One function a kind of value; knows nothing of where the text came from.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::quantity::{parse_bytes, parse_duration_ms};
use super::settings::{CORES_MAX, Cores, Durability, HostPort, LogFormat, MEMORY_BYTES_MIN, REPLICATION_MAX};

/// What a message carries besides one key and one value, bytes: field numbers, ids, level, session entries.
pub(super) const MESSAGE_BYTES_SPARE: usize = 4_096;
/// The log's length field has 16 bits.
const KEY_BYTES_MAX: u64 = 65_535;
/// A record must fit into one batch of the log: 1 100 blocks.
const VALUE_BYTES_MAX: u64 = 4 << 20;
/// Budgets of a core are made for messages up to this, bytes.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
const BATCH_KEYS_MAX: u64 = 100_000;
/// A hundred years: far below what 48 bits of milliseconds hold.
const TTL_MS_MAX: u64 = 36_500 * 86_400_000;
const DEADLINE_MS_MAX: u64 = 3_600_000;
const PEERS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 63;
const HOST_BYTES_MAX: usize = 253;

/// Why a text is refused.
pub(super) struct Bad {
    /// It is not even of the right kind: as a flag it does not parse.
    pub(super) malformed: bool,
    /// Completes the sentence that begins with the setting.
    pub(super) what: String,
    /// What to write instead.
    pub(super) fix: String,
}

type Parsed<T> = Result<T, Bad>;

fn malformed(what: impl Into<String>, fix: impl Into<String>) -> Bad {
    Bad { malformed: true, what: what.into(), fix: fix.into() }
}

fn impossible(what: impl Into<String>, fix: impl Into<String>) -> Bad {
    Bad { malformed: false, what: what.into(), fix: fix.into() }
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() {
        return Err(impossible("is empty", "name a directory on ext4 or XFS"));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(malformed("is neither true nor false", "write true or false")),
    }
}

/// Names of nodes and zones: they stand in metrics, tables and addresses.
pub(super) fn label(text: &str) -> Parsed<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fix = format!(
        "use letters, digits, '-', '_' and '.', beginning with a letter or digit, at most {LABEL_BYTES_MAX}"
    );
    match text.as_bytes() {
        [] => Err(impossible("is empty", fix)),
        bytes if bytes.len() > LABEL_BYTES_MAX => {
            Err(impossible(format!("has {} bytes, more than {LABEL_BYTES_MAX}", bytes.len()), fix))
        }
        bytes if !bytes[0].is_ascii_alphanumeric() || !bytes.iter().copied().all(known) => {
            Err(impossible("has characters that a name cannot have", fix))
        }
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    // Whatever a resolver would say: asking one could block.
    let local = local.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let Some(address) = text.parse().ok().or(local) else {
        return Err(malformed(
            "is not an IP address with a port",
            "write it like 127.0.0.1:7717 or [::1]:7717; names for others go to --advertise",
        ));
    };
    if address.port() == 0 {
        return Err(impossible(
            "port 0 means any, but others must find this node again",
            "name a port (usual are 7717, 7718, 7719)",
        ));
    }
    Ok(address)
}

pub(super) fn address_or_off(text: &str) -> Parsed<Option<SocketAddr>> {
    if text == "off" { Ok(None) } else { address(text).map(Some) }
}

/// A name or an address, without a port; IPv6 with or without brackets.
pub(super) fn host(text: &str) -> Parsed<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if ip.to_canonical().is_unspecified() {
            return Err(impossible(
                "is no address that others could connect to",
                "name this machine as others know it",
            ));
        }
        return Ok(ip.to_string());
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.contains(':') {
        return Err(malformed("names a port, but it counts for all ports", "leave the port away"));
    }
    if text.is_empty() || text.len() > HOST_BYTES_MAX || !text.bytes().all(known) {
        return Err(malformed("is not a host", "write a name like n1.example.net, or an address"));
    }
    Ok(text.to_owned())
}

pub(super) fn peers(text: &str) -> Parsed<Vec<HostPort>> {
    let mut peers = Vec::new();
    for item in text.split(',').map(str::trim) {
        let bad = || {
            malformed(
                format!("\"{item}\" is not a host with a port"),
                "write peer addresses like n1.example.net:7718, with commas between them",
            )
        };
        let (name, port) = item.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let bracketed = name.starts_with('[') && name.ends_with(']');
        if name.contains(':') && !bracketed {
            return Err(bad());
        }
        let peer = HostPort { host: host(name).map_err(|_| bad())?, port };
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    if peers.len() > PEERS_MAX {
        return Err(impossible(
            format!("names {} peers, more than {PEERS_MAX}", peers.len()),
            "a few are enough: one that answers tells of the others",
        ));
    }
    Ok(peers)
}

pub(super) fn replication(text: &str) -> Parsed<u8> {
    let number = whole(text)?;
    if number == 0 || number > REPLICATION_MAX {
        return Err(impossible(
            format!("a key has 1 to {REPLICATION_MAX} replicas"),
            "3 survive the loss of one node, 5 of two",
        ));
    }
    Ok(u8::try_from(number).expect("at most 15"))
}

pub(super) fn cores(text: &str) -> Parsed<Cores> {
    let cores = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Cores::Count(usize::try_from(whole(text)?).unwrap_or(usize::MAX))
    } else {
        Cores::List(cpus(text)?)
    };
    let (count, distinct) = match &cores {
        Cores::List(list) => (list.len(), list.iter().collect::<BTreeSet<_>>().len()),
        Cores::Count(count) => (*count, *count),
        Cores::All => unreachable!("a text names cores"),
    };
    if count == 0 || count > CORES_MAX {
        return Err(impossible(
            format!("a node has 1 to {CORES_MAX} cores"),
            "write how many (4) or which (0-3,8)",
        ));
    }
    if distinct != count {
        return Err(impossible("names a CPU twice", "each CPU runs one core at most"));
    }
    Ok(cores)
}

fn cpus(text: &str) -> Parsed<Vec<u16>> {
    let bad = || malformed("is not a number of cores, nor a list", "write how many (4) or which (0-3,8)");
    let mut list = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last {
            return Err(bad());
        }
        // One more than there may be is enough to be refused for it.
        list.extend((first..=last).take(CORES_MAX + 1));
    }
    Ok(list)
}

/// Bytes, of `machine_bytes` if a percentage.
pub(super) fn memory(text: &str, machine_bytes: u64) -> Parsed<u64> {
    let there = format!("this process may use {machine_bytes} bytes");
    let bytes = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = whole(percent.trim_end())?;
            if percent == 0 || percent > 100 {
                return Err(impossible("is no share of the memory", "write 1% to 100%; 70% is usual"));
            }
            u64::try_from(u128::from(machine_bytes) * u128::from(percent) / 100).expect("a share is not more")
        }
        None => parse_bytes(text)
            .map_err(|what| malformed(what, "write a size like 8GiB, or a share like 70%"))?,
    };
    if bytes > machine_bytes {
        return Err(impossible(
            format!("more than there is: {there}"),
            "lower it, or write a share like 70%",
        ));
    }
    if bytes < MEMORY_BYTES_MIN {
        return Err(impossible(
            format!("{bytes} bytes are less than the least, {MEMORY_BYTES_MIN}: {there}"),
            "raise it",
        ));
    }
    Ok(bytes)
}

pub(super) fn durability(text: &str) -> Parsed<Durability> {
    match text {
        "flushed" => Ok(Durability::Flushed),
        "none" => Ok(Durability::None),
        _ => Err(malformed("is no kind of durability", "write flushed or none")),
    }
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(malformed("is no format", "write auto, text or json")),
    }
}

/// tracing-subscriber takes a misspelt level for the name of a module, and would trace nothing: so levels are checked.
pub(super) fn filter(text: &str) -> Parsed<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let bad =
        || malformed("is no filter", "write error, warn, info or debug, or info,ringcore::storage=debug");
    for item in text.split(',').map(str::trim) {
        let level = item.rsplit_once('=').map_or(item, |(_, level)| level);
        if !LEVELS.contains(&level) {
            return Err(bad());
        }
    }
    tracing_subscriber::EnvFilter::builder().parse(text).map_err(|_| bad())?;
    Ok(text.to_owned())
}

pub(super) fn key_bytes(text: &str) -> Parsed<usize> {
    size(text, 1, KEY_BYTES_MAX)
}

pub(super) fn value_bytes(text: &str) -> Parsed<usize> {
    size(text, 0, VALUE_BYTES_MAX)
}

pub(super) fn message_bytes(text: &str) -> Parsed<usize> {
    size(text, 1, MESSAGE_BYTES_MAX)
}

pub(super) fn batch_keys(text: &str) -> Parsed<usize> {
    within(whole(text)?, 1, BATCH_KEYS_MAX, "keys").map(word)
}

pub(super) fn ttl(text: &str) -> Parsed<u64> {
    duration(text, TTL_MS_MAX)
}

pub(super) fn deadline(text: &str) -> Parsed<u64> {
    duration(text, DEADLINE_MS_MAX)
}

fn duration(text: &str, most: u64) -> Parsed<u64> {
    let ms = parse_duration_ms(text).map_err(|what| malformed(what, "write a duration like 10s"))?;
    within(ms, 1, most, "ms")
}

fn size(text: &str, least: u64, most: u64) -> Parsed<usize> {
    let bytes = parse_bytes(text).map_err(|what| malformed(what, "write a size like 64KiB"))?;
    within(bytes, least, most, "bytes").map(word)
}

fn within(number: u64, least: u64, most: u64, unit: &str) -> Parsed<u64> {
    if number < least || number > most {
        return Err(impossible(
            format!("{number} {unit} cannot be"),
            format!("{least} to {most} {unit} can"),
        ));
    }
    Ok(number)
}

fn word(number: u64) -> usize {
    usize::try_from(number).expect("limits of memory fit into a word")
}

fn whole(text: &str) -> Parsed<u64> {
    text.parse().map_err(|_| malformed("is not a whole number", "write digits only"))
}
