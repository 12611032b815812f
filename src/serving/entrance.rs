//! Where calls of gRPC come in: counted, bounded and measured in one place, before any of their bytes are read.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::access::Access;
use super::calls::call;
use super::in_flight::{Full, InFlight, Permit};
use super::listen::Peer;
use super::record::{Recorder, Recording, grpc_code};
use super::refusal::tidy;
use super::turns::Turns;
use super::watched_body::WatchedBody;
use crate::trace::within;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Puts an [`Entrance`] in front of the services.
#[derive(Clone)]
pub(super) struct EntranceLayer {
    pub access: Access,
    pub in_flight: InFlight,
    pub turns: Arc<Turns>,
    pub recorder: Arc<Recorder>,
    pub request_time: Duration,
}

#[derive(Clone)]
pub(super) struct Entrance<S> {
    services: S,
    layer: Arc<EntranceLayer>,
}

impl<S> Layer<S> for EntranceLayer {
    type Service = Entrance<S>;

    fn layer(&self, services: S) -> Entrance<S> {
        Entrance { services, layer: Arc::new(self.clone()) }
    }
}

type Answer = Response<WatchedBody<Body, (Option<Permit>, Recording)>>;

impl<S, B> Service<Request<B>> for Entrance<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    /// A call is counted, and let in or refused, before any of its message is read.
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let arrived = Instant::now();
        let call = call(request.uri().path().trim_start_matches('/'));
        let recording = self.layer.recorder.begin(call, request.headers(), arrived);
        // First: strangers take nobody's place.
        let admitted = self.layer.access.admit(call, request.headers(), request.extensions().get::<Peer>());
        let is_bounded = admitted.is_ok() && call.is_some_and(|call| call.is_bounded);
        let permit = is_bounded.then(|| self.layer.in_flight.enter());
        let (layer, mut services) = (Arc::clone(&self.layer), self.services.clone());
        Box::pin(async move {
            match admitted {
                Ok(caller) => drop(request.extensions_mut().insert(caller)),
                Err(status) => return Ok(watch(status.into_http(), None, recording)),
            }
            let permit = match permit {
                Some(Err(Full)) => return Ok(watch(layer.in_flight.refuse_full(), None, recording)),
                Some(Ok(permit)) => Some(permit),
                None => None,
            };
            if call.is_some_and(|call| call.takes_turn) && layer.turns.is_crowded() {
                // Nothing of its message is kept meanwhile.
                drop(request);
                tokio::time::sleep(layer.turns.refusal_delay()).await;
                return Ok(watch(layer.turns.refusal().into_http(), permit, recording));
            }
            answer_as_asked(request.headers_mut());
            let answered = within(recording.trace(), services.call(request));
            if call.is_some_and(|call| !call.is_timed) {
                return Ok(watch(answered.await?, permit, recording));
            }
            let answer = match tokio::time::timeout(layer.request_time, answered).await {
                Ok(answer) => answer?,
                Err(_) => {
                    let message =
                        format!("the call took longer than the {:?} that the server gives it", layer.request_time);
                    Status::deadline_exceeded(message).into_http()
                }
            };
            Ok(watch(answer, permit, recording))
        })
    }
}

/// Answers are compressed for those who compress what they ask: most clients say that they could take it, and to a
/// caller that is near it costs more time than it saves.
fn answer_as_asked(headers: &mut HeaderMap) {
    if headers.get(ENCODING).is_none_or(|encoding| encoding == "identity") {
        headers.remove(ACCEPT_ENCODING);
    }
}

fn watch(mut answer: Response<Body>, permit: Option<Permit>, mut recording: Recording) -> Answer {
    // A status among the headers is all there is; else it follows the messages.
    tidy(answer.headers_mut());
    if let Some(code) = grpc_code(answer.headers()) {
        recording.set_code(code);
    }
    answer.map(|body| WatchedBody::new(body, (permit, recording)))
}
