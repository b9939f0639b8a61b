//! `/metrics`: the counters in Prometheus' text format 0.0.4. Names are promises; base units, one family in one place.

use crate::rpc::backend::{CoreStatus, NodeStatus, Phase, View};
use crate::rpc::stats::{Counters, Latencies, Operation, codes};
use std::fmt::{Display, Write};

/// Upper ends of the buckets shown, microseconds: 50 µs to 6.5 s, doubling.
const BUCKETS_US: [u64; 18] = {
    let mut buckets = [50; 18];
    let mut index = 1;
    while index < buckets.len() {
        buckets[index] = buckets[index - 1] * 2;
        index += 1;
    }
    buckets
};

/// The whole page.
pub(super) fn text(view: &View, status: &NodeStatus, counters: &[Counters]) -> String {
    let mut page = Metrics(String::with_capacity(16 << 10));
    node(&mut page, view, status);
    requests(&mut page, counters);
    connections(&mut page, counters);
    links(&mut page, counters);
    cores(&mut page, &status.cores);
    page.0
}

fn node(page: &mut Metrics, view: &View, status: &NodeStatus) {
    let build = [("version", view.own().build.as_str())];
    page.family("build_info", "gauge", "The program's version.").sample("build_info", &build, 1);
    page.single("ready", "gauge", "1 while the node takes part in quorums.", ready(view));
    page.single("ring_epoch", "gauge", "Number of the epoch in force.", view.epoch);
    page.single("members", "gauge", "Members of the epoch.", view.members.len());
    page.single("uptime_seconds", "gauge", "Since the process started.", seconds_of_ms(status.uptime_ms));
    page.single(
        "memory_limit_bytes",
        "gauge",
        "Memory limit of the tables; at it writes are refused.",
        status.memory_limit_bytes,
    );
    page.single(
        "disk_free_bytes",
        "gauge",
        "Free on the data directory's file system.",
        status.disk_free_bytes,
    );
    page.single(
        "read_only",
        "gauge",
        "1 while writes are refused because disk or memory is full.",
        u8::from(status.read_only),
    );
    page.single(
        "clock_offset_seconds",
        "gauge",
        "This node's clock against the median of the members'.",
        status.clock_offset_ms as f64 / 1e3,
    );
    page.single(
        "log_dropped_total",
        "counter",
        "Diagnostics lines dropped because nobody read them fast enough.",
        status.trace_dropped,
    );
}

fn requests(page: &mut Metrics, counters: &[Counters]) {
    page.family("requests_total", "counter", "Calls by what they do and how they ended.");
    for operation in Operation::ALL {
        for code in codes() {
            let count: u64 = counters.iter().map(|core| core.requests(operation, code)).sum();
            if count > 0 {
                let code = code_name(code as i32);
                page.sample("requests_total", &[("op", operation.name()), ("code", code)], count);
            }
        }
    }
    page.family("request_duration_seconds", "histogram", "From a call's headers to its answer.");
    for operation in Operation::ALL {
        let cores: Vec<&Latencies> = counters.iter().map(|core| core.latencies(operation)).collect();
        histogram(page, operation.name(), &cores);
    }
}

/// Counts up to each bound; a bucket that crosses one is counted above it, which is at most 1/16 too late.
fn histogram(page: &mut Metrics, operation: &str, cores: &[&Latencies]) {
    let total: u64 = cores.iter().map(|latencies| latencies.count()).sum();
    if total == 0 {
        return;
    }
    for end_us in BUCKETS_US {
        let within = cores.iter().flat_map(|latencies| latencies.buckets());
        let count: u64 = within.filter(|&(us, _)| us <= end_us).map(|(_, count)| count).sum();
        let end = seconds_of_us(end_us).to_string();
        page.sample("request_duration_seconds_bucket", &[("op", operation), ("le", &end)], count);
    }
    page.sample("request_duration_seconds_bucket", &[("op", operation), ("le", "+Inf")], total);
    let sum_us: u64 = cores.iter().map(|latencies| latencies.sum_us()).sum();
    page.sample("request_duration_seconds_sum", &[("op", operation)], seconds_of_us(sum_us));
    page.sample("request_duration_seconds_count", &[("op", operation)], total);
}

type Of = fn(&Counters) -> u64;

fn connections(page: &mut Metrics, counters: &[Counters]) {
    let families: [(&str, &str, &str, Of); 5] = [
        ("connections", "gauge", "gRPC connections open.", |core| core.connections.get()),
        ("connections_total", "counter", "gRPC connections accepted.", |core| {
            core.connections_accepted.get()
        }),
        (
            "connections_refused_total",
            "counter",
            "gRPC connections closed because of their number.",
            |core| core.connections_refused.get(),
        ),
        ("connections_failed_total", "counter", "gRPC connections that ended in an error.", |core| {
            core.connections_failed.get()
        }),
        ("bytes_in_flight", "gauge", "Bytes of requests and answers held.", |core| {
            core.bytes_in_flight.get()
        }),
    ];
    for (name, kind, help, of) in families {
        page.per_core(name, kind, help, counters, of);
    }
}

fn links(page: &mut Metrics, counters: &[Counters]) {
    let families: [(&str, &str, &str, Of); 9] = [
        ("links_up", "gauge", "Links to other nodes that are up.", |core| core.links_up.get()),
        ("link_frames_sent_total", "counter", "Frames sent to other nodes.", |core| {
            core.link_frames_sent.get()
        }),
        ("link_frames_received_total", "counter", "Frames received from other nodes.", |core| {
            core.link_frames_received.get()
        }),
        ("link_bytes_sent_total", "counter", "Bytes of frames sent to other nodes.", |core| {
            core.link_bytes_sent.get()
        }),
        ("link_bytes_received_total", "counter", "Bytes of frames received from other nodes.", |core| {
            core.link_bytes_received.get()
        }),
        ("link_frames_dropped_total", "counter", "Frames dropped before they were sent.", |core| {
            core.link_frames_dropped.get()
        }),
        ("link_reconnects_total", "counter", "Attempts to bring a link up again.", |core| {
            core.link_reconnects.get()
        }),
        ("link_hellos_refused_total", "counter", "Links of others that were turned away.", |core| {
            core.link_hellos_refused.get()
        }),
        ("link_requests_malformed_total", "counter", "Malformed requests on links of others.", |core| {
            core.link_requests_malformed.get()
        }),
    ];
    for (name, kind, help, of) in families {
        page.per_core(name, kind, help, counters, of);
    }
}

fn cores(page: &mut Metrics, cores: &[CoreStatus]) {
    page.per_core(
        "core_busy_ratio",
        "gauge",
        "Share of the last 10 s that a core was busy.",
        cores,
        |core| f64::from(core.busy_permille) / 1e3,
    );
    page.family("core_queue_depth", "gauge", "What waits on a core.");
    for (index, core) in cores.iter().enumerate() {
        let labels = [("core", &*index.to_string()), ("kind", "operations")];
        page.sample("core_queue_depth", &labels, core.queued);
    }
    page.per_core(
        "cross_core_hops_total",
        "counter",
        "Requests that a core handed to another.",
        cores,
        |core| core.hops,
    );
    page.per_core(
        "core_tick_late_seconds",
        "gauge",
        "How late the latest tick of a core was.",
        cores,
        |core| seconds_of_us(core.tick_late_us),
    );
    page.per_core("keys", "gauge", "Records: live, expired and dead.", cores, |core| core.records);
    page.per_core("tombstones", "gauge", "Dead records.", cores, |core| core.tombstones);
    let memory: u64 = cores.iter().map(|core| core.memory_bytes).sum();
    page.family("memory_bytes", "gauge", "Memory by what it holds.").sample(
        "memory_bytes",
        &[("kind", "tables")],
        memory,
    );
    page.per_core("wal_bytes_total", "counter", "Bytes written to the log.", cores, |core| {
        core.wal_written_bytes
    });
    page.per_core("wal_replay_bytes", "gauge", "Bytes of log to replay at a restart.", cores, |core| {
        core.wal_bytes
    });
    page.per_core("wal_flushes_total", "counter", "Flushes of the log.", cores, |core| core.flushes);
    page.per_core("wal_flush_p99_seconds", "gauge", "99th percentile of the log's flushes.", cores, |core| {
        seconds_of_us(u64::from(core.flush_p99_us))
    });
}

/// The page as it grows. Writing to a String cannot fail.
struct Metrics(String);

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Metrics {
        writeln!(self.0, "# HELP ringcore_{name} {help}\n# TYPE ringcore_{name} {kind}")
            .expect("a String grows");
        self
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        write!(self.0, "ringcore_{name}").expect("a String grows");
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write!(self.0, "{before}{label}=\"{}\"", escape(text)).expect("a String grows");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        writeln!(self.0, "{after} {value}").expect("a String grows");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(name, &[], value);
    }

    fn per_core<C, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        cores: &[C],
        of: impl Fn(&C) -> V,
    ) {
        self.family(name, kind, help);
        for (index, core) in cores.iter().enumerate() {
            self.sample(name, &[("core", &index.to_string())], of(core));
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn ready(view: &View) -> u8 {
    u8::from(view.phase == Phase::Serving)
}

fn seconds_of_ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

fn seconds_of_us(us: u64) -> f64 {
    us as f64 / 1e6
}

/// gRPC's names, as other servers' metrics spell them.
fn code_name(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES[code as usize]
}
