//! The one door from the programs to the engine: what `start`, `check`, `wal` and `snapshot` call. Everything else of
//! `program` stays on this side of it.

use std::path::Path;

use super::exit::{Exit, Refusal};
use super::inspect::{Entry, LogReport, PartReport};
use super::settings::Settings;

/// What a listing hands its entries to. It may refuse to take more.
pub type Sink<'a> = &'a mut dyn FnMut(Entry) -> Result<(), Refusal>;

/// Runs the node until it is told to stop. Diagnostics are set up, the settings are judged.
///
/// # Errors
/// Why it did not start or did not go on, with the code to end with.
pub fn run_node(settings: &Settings) -> Result<(), Refusal> {
    Err(not_built(&format!("a node cannot run on {}", settings.data_dir.display())))
}

/// Whether the kernel gives this process an io_uring; None = not tried. The string says why not, and what to do.
pub fn probe_io_uring() -> Option<Result<(), String>> {
    None
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
