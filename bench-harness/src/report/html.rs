//! One page that holds a whole run. Written by [`page`].

use crate::result::RunResult;

/// The report as a page without outside assets.
pub(crate) fn page(run: &RunResult) -> String {
    format!("<!doctype html><title>{}</title>", run.workload.server)
}
