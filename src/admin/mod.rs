//! The admin port's pages: is the node alive, does it serve, what does it count. Reads counters, changes nothing.

mod metrics;

use crate::rpc::backend::{Backend, Phase};
use crate::rpc::http1::Page;
use crate::rpc::stats::Counters;

/// The page for a method and a path; `counters` are those of all cores.
pub fn page<B: Backend>(backend: &B, counters: &[Counters], method: &str, path: &str) -> Page {
    if !matches!(method, "GET" | "HEAD") {
        return text(405, "only GET\n");
    }
    match path {
        // Whoever answers is alive; a core that hangs is the watchdog's to find.
        "/healthz" => text(200, "ok\n"),
        "/readyz" => match backend.view().phase {
            Phase::Serving => text(200, "ready\n"),
            Phase::Starting => text(503, "starting\n"),
            Phase::Stopping => text(503, "stopping\n"),
        },
        "/metrics" => Page {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics::text(&backend.view(), &backend.status(), counters),
        },
        _ => text(404, "there are /metrics, /healthz and /readyz\n"),
    }
}

fn text(status: u16, body: &str) -> Page {
    Page { status, content_type: "text/plain; charset=utf-8", body: body.to_owned() }
}
