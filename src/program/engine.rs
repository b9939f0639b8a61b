//! The one door from the programs to the engine: what `start`, `check`, `wal` and `snapshot` call. Everything else of
//! `program` stays on this side of it.

use std::io::ErrorKind;
use std::path::Path;

use crate::rpc::backend::Setting;
use crate::runtime::cpus::CoresWanted;
use crate::runtime::directory::ClaimError;
use crate::runtime::disk::Flush;
use crate::runtime::node::{self, NodeConfig, NodeError};
use crate::runtime::probe::probe;
use crate::storage::data_dir::DataDirError;
use crate::storage::open::OpenError;
use crate::storage::small_file::FileError;

use super::exit::{Exit, Refusal};
use super::inspect::{Entry, LogReport, PartReport};
use super::setting::{Key, setting};
use super::settings::{Cores, Durability, Settings};
use super::sources::Origin;

/// What a listing hands its entries to. It may refuse to take more.
pub type Sink<'a> = &'a mut dyn FnMut(Entry) -> Result<(), Refusal>;

/// Runs the node until it is told to stop. Diagnostics are set up, the settings are judged.
///
/// # Errors
/// Why it did not start or did not go on, with the code to end with.
pub fn run_node(settings: &Settings) -> Result<(), Refusal> {
    let config = node_config(settings)?;
    node::run(config).map_err(|error| refusal(settings, error))
}

/// Whether the kernel gives this process an io_uring; None = not tried. The string says why not, and what to do.
pub fn probe_io_uring() -> Option<Result<(), String>> {
    Some(probe().map(drop).map_err(|error| error.to_string()))
}

fn node_config(settings: &Settings) -> Result<NodeConfig, Refusal> {
    let founding = match (settings.bootstrap, settings.join.is_empty()) {
        (true, _) => node::Founding::Bootstrap,
        (false, false) => node::Founding::Join,
        (false, true) => node::Founding::Unsaid,
    };
    let admin = settings.advertised_admin().map_or_else(String::new, |address| address.to_string());
    let entries = settings.entries().into_iter().map(|entry| Setting {
        key: setting(entry.key).path(),
        value: entry.text.unwrap_or_default(),
        origin: entry.origin.to_string(),
    });
    Ok(NodeConfig {
        data_dir: settings.data_dir.clone(),
        name: settings.name.clone(),
        name_asked: settings.origin(Key::Name) != Origin::Default,
        zone: settings.zone.clone(),
        listen: settings.listen,
        peer_listen: settings.peer_listen,
        admin_listen: settings.admin_listen,
        advertise: [settings.advertised().to_string(), settings.advertised_peer().to_string(), admin],
        founding,
        replication: settings.replication,
        cores: match &settings.cores {
            Cores::All => CoresWanted::All,
            Cores::Count(count) => CoresWanted::First(*count),
            Cores::List(cpus) => CoresWanted::List(cpus.iter().map(|cpu| usize::from(*cpu)).collect()),
        },
        pin: !settings.no_pin,
        memory_limit: settings.memory_limit_bytes,
        flush: match settings.durability {
            Durability::Flushed => Flush::EachWrite,
            Durability::None => Flush::Never,
        },
        accept_data_loss: settings.accept_data_loss,
        allow_any_fs: settings.allow_any_fs,
        limits: settings.limits.clone(),
        settings: entries.collect(),
    })
}

/// Which code a node's failure ends with, and what to do about it.
fn refusal(settings: &Settings, error: NodeError) -> Refusal {
    let what = error.to_string();
    match error {
        NodeError::Probe(_) => Refusal::new(Exit::NOT_PERMITTED, what).fix("more: ringcore check"),
        NodeError::Cpus(_) | NodeError::CannotJoin => Refusal::new(Exit::SETTING, what),
        NodeError::NoCluster(_) => match settings.founding(None) {
            Err(refusal) => refusal,
            Ok(_) => Refusal::new(Exit::SETTING, what),
        },
        NodeError::Claim(ClaimError::InUse { .. }) => {
            Refusal::new(Exit::FAILURE, what).fix("fix: stop that process, or start with another --data-dir")
        }
        NodeError::Claim(ClaimError::Unfit { .. }) => Refusal::new(Exit::SETTING, what),
        NodeError::Claim(ClaimError::Io { source, .. }) => {
            let denied = source.kind() == ErrorKind::PermissionDenied;
            Refusal::new(if denied { Exit::NOT_PERMITTED } else { Exit::IO }, what)
        }
        NodeError::Listen { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied => Refusal::new(Exit::NOT_PERMITTED, what),
            ErrorKind::AddrNotAvailable => Refusal::new(Exit::SETTING, what),
            _ => Refusal::new(Exit::FAILURE, what).fix("fix: stop who uses the port, or choose another"),
        },
        NodeError::Open(error) => data_refusal(settings, error),
        NodeError::Start(_) | NodeError::System(_) | NodeError::Panicked(_) => {
            Refusal::new(Exit::FAILURE, what)
        }
        NodeError::Epoch(_) => Refusal::new(Exit::IO, what),
    }
}

fn data_refusal(settings: &Settings, error: OpenError) -> Refusal {
    match error {
        OpenError::DataDir(DataDirError::OtherName { found, .. }) => settings
            .founding(Some(&found))
            .expect_err("the name that was asked for is not the one that was found"),
        OpenError::DataDir(
            error @ (DataDirError::NotOurs { .. } | DataDirError::File(FileError::NotOurs { .. })),
        ) => Refusal::new(Exit::SETTING, error.to_string()).fix("fix: start with another --data-dir"),
        OpenError::Damaged(damage) => {
            let mut refusal =
                Refusal::new(Exit::IO, "stored data is damaged: acknowledged writes may be unreadable");
            for damage in damage {
                refusal = refusal.fix(damage.to_string());
            }
            refusal.fix("look: ringcore wal verify DIR, ringcore wal dump DIR").fix(
                "fix: restore a copy; or go on without what is unreadable: --accept-data-loss, for one start",
            )
        }
        error => Refusal::new(Exit::IO, error.to_string()),
    }
}

/// Reads the log of a data directory, of one core or of a single segment, without changing it.
///
/// # Errors
/// What is there is not a log, or cannot be read.
pub fn verify_log(path: &Path) -> Result<Vec<LogReport>, Refusal> {
    Err(not_built(&format!("the log in {} cannot be read", path.display())))
}

/// Gives every record of a log in the order of its LSNs.
///
/// # Errors
/// As [`verify_log`]; or what the sink refuses.
pub fn dump_log(path: &Path, _sink: Sink<'_>) -> Result<(), Refusal> {
    Err(not_built(&format!("the log in {} cannot be read", path.display())))
}

/// Reads the snapshots of a data directory, of one core or a single part, without changing them.
///
/// # Errors
/// What is there is not a snapshot, or cannot be read.
pub fn verify_snapshot(path: &Path) -> Result<Vec<PartReport>, Refusal> {
    Err(not_built(&format!("the snapshot in {} cannot be read", path.display())))
}

/// Gives every record of a snapshot in the order of slots.
///
/// # Errors
/// As [`verify_snapshot`]; or what the sink refuses.
pub fn dump_snapshot(path: &Path, _sink: Sink<'_>) -> Result<(), Refusal> {
    Err(not_built(&format!("the snapshot in {} cannot be read", path.display())))
}

fn not_built(what: &str) -> Refusal {
    Refusal::new(Exit::FAILURE, format!("{what}: the engine is not built yet"))
}
