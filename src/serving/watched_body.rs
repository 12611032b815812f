//! Answers that somebody watches until their last byte.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http_body::{Frame, SizeHint};

/// Watches the body of an answer, and is dropped when it ends or whoever asked has gone.
pub(super) trait Watch: Send + Unpin + 'static {
    /// Sees each part of the body.
    fn frame(&mut self, _: &Frame<Bytes>) {}
}

impl<A: Send + Unpin + 'static, B: Watch> Watch for (A, B) {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        self.1.frame(frame);
    }
}

/// The answer, with its body watched.
pub(super) fn watched(response: Response, watch: impl Watch) -> Response {
    response.map(|body| Body::new(WatchedBody::new(body, watch)))
}

pub(super) struct WatchedBody<B, W> {
    body: B,
    watch: Option<W>,
}

impl<B, W> WatchedBody<B, W> {
    pub fn new(body: B, watch: W) -> Self {
        WatchedBody { body, watch: Some(watch) }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin, W: Watch> HttpBody for WatchedBody<B, W> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match (&frame, &mut self.watch) {
            (Poll::Ready(Some(Ok(frame))), Some(watch)) => watch.frame(frame),
            (Poll::Ready(None), _) => self.watch = None,
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
