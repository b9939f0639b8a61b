//! Plain HTTP for the admin port: one page per request, nothing else. Knows no page.

use super::backend::Backend;
use super::call::until;
use super::io::{self, Io, Transport};
use super::timer::Timer;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

/// What a request is answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// HTTP's status.
    pub status: u16,
    /// Its media type.
    pub content_type: &'static str,
    /// Its text.
    pub body: String,
}

/// Serves pages on one core.
pub struct Pages<B: Backend> {
    backend: B,
    scratch: io::Scratch,
    open: Cell<usize>,
}

/// Connections at a time: a scraper, some probes, a person.
const CONNECTIONS_MAX: usize = 64;
/// Until a request's headers have come, milliseconds.
const HEADERS_MS: u64 = 5_000;
/// A connection's whole life, milliseconds: whoever wants more connects again.
const LIFE_MS: u64 = 60_000;
const HEADER_BYTES_MAX: usize = 16 << 10;
const BYTES_PER_POLL: usize = 64 << 10;

impl<B: Backend> Pages<B> {
    /// For the core that `backend` belongs to.
    pub fn new(backend: B) -> Rc<Pages<B>> {
        Rc::new(Pages { backend, scratch: io::scratch(), open: Cell::new(0) })
    }

    /// Serves a connection until it ends; `page` gets the method and the path.
    pub async fn serve<T: Transport>(self: Rc<Self>, transport: T, page: impl Fn(&str, &str) -> Page) {
        if self.open.get() >= CONNECTIONS_MAX {
            return;
        }
        let _open = Open::new(&self.open);
        let io = Io::new(transport, BYTES_PER_POLL, Rc::clone(&self.scratch), Rc::default());
        let service = service_fn(|request: Request<Incoming>| {
            ready(Ok::<_, Infallible>(respond(page(request.method().as_str(), request.uri().path()))))
        });
        let connection = Builder::new()
            .timer(Timer::new(self.backend.clone()))
            .header_read_timeout(Duration::from_millis(HEADERS_MS))
            .max_buf_size(HEADER_BYTES_MAX)
            .auto_date_header(false)
            .serve_connection(io, service);
        let deadline = self.backend.mono().after_ms(LIFE_MS);
        if let Some(Err(error)) = until(&self.backend, deadline, connection).await {
            tracing::debug!(%error, "admin connection failed");
        }
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = StatusCode::from_u16(page.status).expect("pages have HTTP's statuses");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    response
}

struct Open<'a>(&'a Cell<usize>);

impl<'a> Open<'a> {
    fn new(open: &'a Cell<usize>) -> Open<'a> {
        open.set(open.get() + 1);
        Open(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
