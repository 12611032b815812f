//! `GetOnlineFeatures` over gRPC: the call that is made most, with its answer written once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{Request as HttpRequest, Response as HttpResponse};
use bytes::Bytes;
use tonic::body::Body;
use tonic::codec::{CompressionEncoding, EnabledCompressionEncodings};
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tower::Service;

use super::access::caller;
use super::grpc::{FeatureStoreService, online_request};
use super::packed::PackedCodec;
use super::pb::GetOnlineFeaturesRequest;
use super::wire::encode_online_answer;
use crate::trace::stage;

/// The path of the call.
pub(super) const GET_ONLINE_FEATURES: &str = "/asof.v1.FeatureStore/GetOnlineFeatures";

#[derive(Clone)]
pub(super) struct OnlineService {
    pub feature_store: FeatureStoreService,
    pub message_bytes_max: usize,
}

impl Service<HttpRequest<axum::body::Body>> for OnlineService {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<axum::body::Body>) -> Self::Future {
        let mut encodings = EnabledCompressionEncodings::default();
        encodings.enable(CompressionEncoding::Gzip);
        encodings.enable(CompressionEncoding::Zstd);
        let (unary, bytes_max) = (Answering(self.feature_store.clone()), self.message_bytes_max);
        Box::pin(async move {
            let mut grpc = Grpc::new(PackedCodec::<GetOnlineFeaturesRequest>::default())
                .apply_compression_config(encodings, encodings)
                .apply_max_message_size_config(Some(bytes_max), None);
            Ok(grpc.unary(unary, request).await)
        })
    }
}

struct Answering(FeatureStoreService);

impl UnaryService<GetOnlineFeaturesRequest> for Answering {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<GetOnlineFeaturesRequest>) -> Self::Future {
        let feature_store = self.0.clone();
        Box::pin(async move {
            let caller = caller(request.extensions());
            let request = request.into_inner();
            let event_timestamps = request.event_timestamps;
            let begun = Instant::now();
            let online = online_request(request)?;
            feature_store.stages.decode.record(begun.elapsed());
            stage("decode", begun);
            let answer = feature_store.online(caller, online, move |request, answer| {
                Bytes::from(encode_online_answer(request, &answer, event_timestamps))
            });
            Ok(Response::new(answer.await?))
        })
    }
}
