//! How results are shown: lines and tables on the terminal, HdrHistogram's own formats, one page.

pub(crate) mod hdr;
pub(crate) mod html;
pub(crate) mod summary;
mod svg;
pub(crate) mod table;

use crate::result::RunResult;
use std::fs;
use std::io;
use std::path::Path;

/// Writes a run's files into a directory, which is made if it is not there: run.json, report.html, latency.hlog and
/// latency.hgrm.
pub(crate) fn write(dir: &Path, run: &RunResult, log: &[u8]) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(told)?;
    fs::write(dir.join("run.json"), serde_json::to_vec_pretty(run)?).map_err(told)?;
    fs::write(dir.join("latency.hlog"), log).map_err(told)?;
    write_derived(dir, run)
}

/// Writes what can be made of a `run.json` again.
pub(crate) fn write_derived(dir: &Path, run: &RunResult) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    let distribution = hdr::percentile_text(&run.total.latencies()?);
    fs::write(dir.join("latency.hgrm"), distribution).map_err(told)?;
    fs::write(dir.join("report.html"), html::page(run)).map_err(told)
}
