//! The admin port, over plain HTTP.

use super::client::{Bench, Tokio, run, still_pending};
use ringcore::rpc::backend::Phase;
use ringcore::rpc::http1::Pages;
use ringcore::rpc::proto::v1;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

fn connect(bench: &Bench, pages: &Rc<Pages<super::fake::Fake>>) -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 << 10);
    let (fake, counters) = (bench.fake.clone(), Arc::clone(&bench.counters));
    let page = move |method: &str, path: &str| ringcore::admin::page(&fake, &counters, method, path);
    tokio::task::spawn_local(Rc::clone(pages).serve(Tokio(server), page));
    client
}

/// Sends a request and reads until the server closes.
async fn ask(bench: &Bench, request: &str) -> String {
    let mut pipe = connect(bench, &Pages::new(bench.fake.clone()));
    pipe.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(bench: &Bench, path: &str) -> (u16, String) {
    let answer = ask(bench, &format!("GET {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")).await;
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[test]
fn readiness_follows_the_phase_and_health_does_not() {
    run(async |bench| {
        for (phase, status, body) in [
            (Phase::Starting, 503, "starting\n"),
            (Phase::Serving, 200, "ready\n"),
            (Phase::Stopping, 503, "stopping\n"),
        ] {
            bench.fake.set_phase(phase);
            assert_eq!(get(&bench, "/readyz").await, (status, body.to_owned()));
            assert_eq!(get(&bench, "/healthz").await, (200, "ok\n".to_owned()));
        }
    });
}

#[test]
fn only_known_pages_and_only_get() {
    run(async |bench| {
        for path in ["/x", "/metrics/", "/%2e%2e/etc/passwd", "//"] {
            assert_eq!(get(&bench, path).await.0, 404, "{path}");
        }
        let post = "POST /healthz HTTP/1.1\r\nhost: n\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert!(ask(&bench, post).await.starts_with("HTTP/1.1 405 "));
        let head = ask(&bench, "HEAD /healthz HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    });
}

#[test]
fn metrics_are_well_formed_and_count() {
    run(async |bench| {
        let mut kv = bench.kv().await;
        let request = v1::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        kv.put(request).await.unwrap();
        kv.get(v1::GetRequest::default()).await.unwrap_err();
        let (status, page) = get(&bench, "/metrics").await;
        assert_eq!(status, 200);
        for line in [
            "ringcore_build_info{version=\"0.1.0\"} 1",
            "ringcore_ready 1",
            "ringcore_ring_epoch 4",
            "ringcore_requests_total{op=\"put\",code=\"OK\"} 1",
            "ringcore_requests_total{op=\"get\",code=\"InvalidArgument\"} 1",
            "ringcore_request_duration_seconds_bucket{op=\"put\",le=\"+Inf\"} 1",
            "ringcore_request_duration_seconds_count{op=\"put\"} 1",
            "ringcore_connections{core=\"0\"} 1",
            "ringcore_keys{core=\"1\"} 7",
            "ringcore_links_up{core=\"0\"} 0",
            "ringcore_link_frames_sent_total{core=\"0\"} 0",
            "ringcore_link_frames_received_total{core=\"0\"} 0",
            "ringcore_link_bytes_sent_total{core=\"0\"} 0",
            "ringcore_link_bytes_received_total{core=\"0\"} 0",
            "ringcore_link_frames_dropped_total{core=\"0\"} 0",
            "ringcore_link_reconnects_total{core=\"0\"} 0",
            "ringcore_link_hellos_refused_total{core=\"0\"} 0",
            "ringcore_link_requests_malformed_total{core=\"0\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        check_format(&page);
    });
}

/// Every sample belongs to the family that was declared last, and no family or sample comes twice.
fn check_format(page: &str) {
    let (mut family, mut seen) = (String::new(), std::collections::BTreeSet::new());
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = name.to_owned();
        }
        let name = line.split_once(['{', ' ']).unwrap().0;
        assert!(line.starts_with("# ") || name.starts_with(&family), "{line} in {family}");
        let sample = line.rsplit_once(' ').unwrap().0;
        assert!(line.starts_with("# HELP") || seen.insert(sample.to_owned()), "{line} comes twice");
        assert!(line.starts_with("# ") || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn slow_and_idle_visitors_are_shown_out() {
    run(async |bench| {
        let pages = Pages::new(bench.fake.clone());
        let mut slow = connect(&bench, &pages);
        slow.write_all(b"GET /hea").await.unwrap();
        let mut end = Vec::new();
        {
            let mut closed = Box::pin(slow.read_to_end(&mut end));
            assert!(still_pending(&mut closed).await);
            bench.fake.advance(5_000).await;
            assert!(!still_pending(&mut closed).await, "no headers in 5 s");
        }
        let mut idle = connect(&bench, &pages);
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
        bench.fake.advance(60_000).await;
        let mut answer = String::new();
        idle.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    });
}

#[test]
fn garbage_and_too_many_visitors_are_closed() {
    run(async |bench| {
        let answer = ask(&bench, "\u{1}\u{2}\u{3}\r\n\r\n").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let pages = Pages::new(bench.fake.clone());
        let open: Vec<_> = (0..64).map(|_| connect(&bench, &pages)).collect();
        super::fake::settle().await;
        let mut late = connect(&bench, &pages);
        assert_eq!(late.read(&mut [0; 1]).await.unwrap(), 0, "closed at once");
        drop(open);
    });
}
