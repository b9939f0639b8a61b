//! The one door from the programs to a node: what `start` and `check` call. Everything else of `program` stays on this
//! side of it, but for the readers of `wal` and `snapshot`, which look at files without a node.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::rpc::backend::Setting;
use crate::runtime::directory::ClaimError;
use crate::runtime::disk::Flush;
use crate::runtime::node::{self, NodeConfig, NodeError};
use crate::runtime::probe::probe;
use crate::storage::data_dir::DataDirError;
use crate::storage::open::{Damage, OpenError};
use crate::storage::small_file::FileError;
use crate::types::SLOTS;

use super::exit::{Exit, Refusal};
use super::inspect;
use super::offline_log;
use super::quantity::roughly_bytes;
use super::setting::setting;
use super::settings::{Durability, Founding, Settings};

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
    let admin = settings.advertised_admin().map_or_else(String::new, |address| address.to_string());
    let entries = settings.entries().into_iter().map(|entry| Setting {
        key: setting(entry.key).path(),
        value: entry.text.unwrap_or_default(),
        origin: entry.origin.to_string(),
    });
    Ok(NodeConfig {
        data_dir: settings.data_dir.clone(),
        name: settings.name.clone(),
        zone: settings.zone.clone(),
        listen: settings.listen,
        peer_listen: settings.peer_listen,
        admin_listen: settings.admin_listen,
        advertise: [settings.advertised().to_string(), settings.advertised_peer().to_string(), admin],
        founding: Arc::new({
            let settings = settings.clone();
            move |member| decide(&settings, member)
        }),
        replication: settings.replication,
        cores: settings.cores.clone(),
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

/// What [`Settings::founding`] says, for the node; its note is told here, its refusal by [`refusal`].
fn decide(settings: &Settings, member: Option<&str>) -> Option<node::Founding> {
    let (founding, note) = settings.founding(member).ok()?;
    if let Some(note) = note {
        tracing::info!("{note}");
    }
    Some(match founding {
        Founding::Resume => node::Founding::Resume,
        Founding::Bootstrap => node::Founding::Bootstrap,
        Founding::Join(peers) => node::Founding::Join(peers.iter().map(ToString::to_string).collect()),
    })
}

/// Which code a node's failure ends with, and what to do about it.
fn refusal(settings: &Settings, error: NodeError) -> Refusal {
    let what = error.to_string();
    match error {
        NodeError::Probe(_) => Refusal::new(Exit::NOT_PERMITTED, what).fix("more: ringcore check"),
        NodeError::Cpus(_) | NodeError::JoinRefused { .. } => Refusal::new(Exit::SETTING, what),
        NodeError::Refused { member, .. } => {
            settings.founding(member.as_deref()).expect_err("what was refused is refused again")
        }
        NodeError::NoRoom { before, needed, free, .. } => {
            let lacking = roughly_bytes(needed - free + (1 << 20));
            Refusal::new(Exit::SETTING, what)
                .fix(format!("fix: make room for {lacking} more, or start with --cores {before} as before"))
        }
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
        OpenError::DataDir(
            error @ (DataDirError::NotOurs { .. } | DataDirError::File(FileError::NotOurs { .. })),
        ) => Refusal::new(Exit::SETTING, error.to_string()).fix("fix: start with another --data-dir"),
        OpenError::Damaged(damage) => damaged(settings, &damage),
        error => Refusal::new(Exit::IO, error.to_string()),
    }
}

/// What is damaged, what can be read all the same, and what to do. The node has let go of its files by now, so they can
/// be read again, for the sake of who has to decide.
fn damaged(settings: &Settings, damage: &[Damage]) -> Refusal {
    let dir = settings.data_dir.display();
    let what = format!("the data in {dir} is damaged: acknowledged writes may be unreadable");
    let mut refusal = Refusal::new(Exit::IO, what);
    for Damage { dir, slots, log, .. } in damage {
        let reports = match log {
            Some(_) => offline_log::verify(&settings.data_dir.join(dir)).unwrap_or_default(),
            None => Vec::new(),
        };
        for line in reports.iter().flat_map(inspect::explain) {
            refusal = refusal.fix(format!("{dir}: log: {line}"));
        }
        if !slots.is_empty() {
            let slots = slots.len();
            refusal =
                refusal.fix(format!("{dir}: snapshot: records of {slots} of {SLOTS} slots may be missing"));
        }
    }
    refusal
        .fix(format!("look: ringcore wal verify {dir}; ringcore snapshot verify {dir}"))
        .fix("fix: restore a copy of the directory")
        .fix("  or give up what is unreadable, for good: --accept-data-loss, for one start")
}
