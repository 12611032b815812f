//! Where calls of gRPC come in: counted, bounded and measured in one place, before any of their bytes are read.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::calls::call;
use super::in_flight::InFlight;
use super::record::{Recorder, Recording, grpc_code};
use super::watched_body::WatchedBody;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Puts an [`Entrance`] in front of the services.
#[derive(Clone)]
pub(super) struct EntranceLayer {
    pub in_flight: InFlight,
    pub recorder: Arc<Recorder>,
}

#[derive(Clone)]
pub(super) struct Entrance<S> {
    services: S,
    layer: EntranceLayer,
}

impl<S> Layer<S> for EntranceLayer {
    type Service = Entrance<S>;

    fn layer(&self, services: S) -> Entrance<S> {
        Entrance { services, layer: self.clone() }
    }
}

type Answer = Response<WatchedBody<Body, (Option<tokio::sync::OwnedSemaphorePermit>, Recording)>>;

impl<S, B> Service<Request<B>> for Entrance<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let arrived = Instant::now();
        let call = call(request.uri().path().trim_start_matches('/'));
        let recording = self.layer.recorder.begin(call, arrived);
        let permit = match call.filter(|call| call.is_bounded).map(|_| self.layer.in_flight.enter()) {
            Some(None) => {
                let refused = self.layer.in_flight.refuse_grpc();
                return Box::pin(std::future::ready(Ok(watch(refused, None, recording))));
            }
            Some(permit) => permit,
            None => None,
        };
        answer_as_asked(request.headers_mut());
        let answered = self.services.call(request);
        Box::pin(async move { Ok(watch(answered.await?, permit, recording)) })
    }
}

/// Answers are compressed for those who compress what they ask: most clients say that they could take it, and to a
/// caller that is near it costs more time than it saves.
fn answer_as_asked(headers: &mut HeaderMap) {
    if headers.get(ENCODING).is_none_or(|encoding| encoding == "identity") {
        headers.remove(ACCEPT_ENCODING);
    }
}

fn watch(
    answer: Response<Body>,
    permit: Option<tokio::sync::OwnedSemaphorePermit>,
    mut recording: Recording,
) -> Answer {
    // A status among the headers is all there is; else it follows the messages.
    if let Some(code) = grpc_code(answer.headers()) {
        recording.set_code(code);
    }
    answer.map(|body| WatchedBody::new(body, (permit, recording)))
}
