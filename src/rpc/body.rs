//! Response bodies: the frames of one answer or of a stream of them, with the memory they hold charged to the
//! connection until h2 has let go of it.

use super::budget::Held;
use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Bytes of one DATA frame handed to h2: the rest waits outside of it until the client takes more.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// What a call is answered with, after the headers.
pub(crate) enum ResponseBody {
    /// Nothing: the headers said it all.
    Empty,
    /// One message and the trailers.
    Message {
        /// Length-prefixed; what has not been handed on.
        data: Bytes,
        /// Its share of the budget.
        held: Held,
        /// None once they are sent.
        trailers: Option<OkTrailers>,
    },
    /// Messages as they come.
    Stream(Box<dyn Source>),
}

/// The trailers of success: made when they are due, because an answer is moved about until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OkTrailers {
    /// One beside the status.
    pub(crate) extra: Option<(&'static str, &'static str)>,
}

impl OkTrailers {
    pub(crate) fn headers(self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        if let Some((name, value)) = self.extra {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        trailers
    }
}

/// Makes a stream's frames.
pub(crate) trait Source: 'static {
    /// The next frame; None after the trailers.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Chunk>>>;
}

/// Bytes on their way out. They are charged to the connection until h2 drops them, that is until the client has taken
/// them: h2's own queue would otherwise hold a slow reader's answers unseen.
pub(crate) struct Chunk {
    bytes: Bytes,
    _held: Held,
}

impl Chunk {
    pub(crate) fn new(bytes: Bytes, held: Held) -> Chunk {
        Chunk { bytes, _held: held }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        match &mut *self {
            ResponseBody::Empty => Poll::Ready(None),
            ResponseBody::Message { data, held, trailers } => {
                if data.is_empty() {
                    return Poll::Ready(
                        trailers.take().map(|trailers| Ok(Frame::trailers(trailers.headers()))),
                    );
                }
                let piece = data.split_to(data.len().min(PIECE_BYTES));
                let held = held.split(piece.len());
                Poll::Ready(Some(Ok(Frame::data(Chunk::new(piece, held)))))
            }
            ResponseBody::Stream(source) => source.poll_frame(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Empty)
    }
}
