//! What commands ask of a running server.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::access::caller;
use super::pb;
use super::pb::admin_server::Admin;
use super::state::ServerState;
use super::status::to_status;
use crate::definition::SourceName;
use crate::materialization::SyncedView;
use crate::time::EventTimestamp;

/// The `asof.v1.Admin` service.
#[derive(Debug, Clone)]
pub struct AdminService {
    pub(super) state: Arc<ServerState>,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn sync_online_store(
        &self,
        request: Request<pb::SyncOnlineStoreRequest>,
    ) -> Result<Response<pb::SyncOnlineStoreResponse>, Status> {
        let caller = caller(request.extensions());
        let views = request.into_inner().views;
        caller.check_named_views(&views)?;
        let state = Arc::clone(&self.state);
        // The command that asks has just applied or materialized: it may know of a version that we do not.
        super::follow::follow_once(&state).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let work = self.state.workers.spawn(async move { state.sync_online_store(&views).await });
        let synced = work.await.map_err(|error| Status::internal(error.to_string()))?;
        let synced = synced.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Response::new(pb::SyncOnlineStoreResponse { views: synced.into_iter().map(to_wire).collect() }))
    }

    async fn flush_streams(
        &self,
        request: Request<pb::FlushStreamsRequest>,
    ) -> Result<Response<pb::FlushStreamsResponse>, Status> {
        let sources: Vec<SourceName> = request.into_inner().sources.iter().map(SourceName::new).collect();
        self.state.flush_streams(&sources).await.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Response::new(pb::FlushStreamsResponse {}))
    }

    async fn checkpoint(&self, _: Request<pb::CheckpointRequest>) -> Result<Response<pb::CheckpointResponse>, Status> {
        let (state, folder) = (Arc::clone(&self.state), self.state.new_checkpoint_path());
        let path = folder.clone();
        let made = tokio::task::spawn_blocking(move || state.online.store.checkpoint(&path)).await;
        made.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Response::new(pb::CheckpointResponse { folder: folder.to_string_lossy().into_owned() }))
    }

    async fn rebuild_online(
        &self,
        request: Request<pb::RebuildOnlineRequest>,
    ) -> Result<Response<pb::RebuildOnlineResponse>, Status> {
        let caller = caller(request.extensions());
        let views = request.into_inner().views;
        caller.check_named_views(&views)?;
        super::follow::follow_once(&self.state).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let state = Arc::clone(&self.state);
        let work = self.state.workers.spawn(async move { state.rebuild_online(&views).await });
        let rebuilt = work.await.map_err(|error| Status::internal(error.to_string()))?;
        let (synced, streamed) = rebuilt.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Response::new(pb::RebuildOnlineResponse {
            views: synced.into_iter().map(to_wire).collect(),
            streamed: streamed.iter().map(|built| built.view.as_str().to_owned()).collect(),
            streamed_events: streamed.iter().map(|built| built.events).collect(),
        }))
    }

    async fn set_watermark(
        &self,
        request: Request<pb::SetWatermarkRequest>,
    ) -> Result<Response<pb::SetWatermarkResponse>, Status> {
        let pb::SetWatermarkRequest { source, watermark } = request.into_inner();
        let ingestion = self.state.ingestion_of(&source).await?;
        let before = ingestion.set_watermark(&source, EventTimestamp::from_micros(watermark)).await;
        let before = before.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Response::new(pb::SetWatermarkResponse { before: before.map(EventTimestamp::micros) }))
    }

    async fn new_event_table(
        &self,
        request: Request<pb::NewEventTableRequest>,
    ) -> Result<Response<pb::NewEventTableResponse>, Status> {
        let source = request.into_inner().source;
        let ingestion = self.state.ingestion_of(&source).await?;
        ingestion.new_table(&source).await.map_err(|error| to_status(error.kind(), &error))?;
        Ok(Response::new(pb::NewEventTableResponse {}))
    }
}

fn to_wire(synced: SyncedView) -> pb::SyncedView {
    let SyncedView { view, table_version, rows_put, rows_deleted } = synced;
    pb::SyncedView { name: view.as_str().to_owned(), table_version, rows_put, rows_deleted }
}
