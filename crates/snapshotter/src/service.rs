//! The gRPC face: messages to calls and back.

use std::{future::Future, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use prost::Message;
use redb::ReadTransaction;
use tokio::{net::UnixListener, task::spawn_blocking};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use tracing::debug;

use crate::{
    Error, Snapshotter,
    filter::Filters,
    proto::snapshots::{
        self as pb,
        snapshots_server::{Snapshots, SnapshotsServer},
    },
    store::{self, Commit, Info, Kind, New, Usage},
};

/// Largest message that containerd sends, in bytes: its own limit for this API.
const MAX_MESSAGE: usize = 16 << 20;

/// Most snapshots in one part of a List, as in containerd's own service.
const PART_LEN: usize = 100;

/// A part of a List ends behind the snapshot that takes it beyond this many bytes: labels can be long, and a client
/// that keeps gRPC's default takes 4 MiB.
const PART_BYTES: usize = 1 << 20;

/// The service as a part of a tonic router.
pub fn service(snapshotter: Arc<Snapshotter>) -> SnapshotsServer<impl Snapshots> {
    SnapshotsServer::new(Service(snapshotter)).max_decoding_message_size(MAX_MESSAGE)
}

/// Serves containerd on `listener` until `shutdown` ends; requests that are under way then are finished.
///
/// # Errors
/// If the server cannot go on.
pub async fn serve(
    snapshotter: Arc<Snapshotter>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    tonic::transport::Server::builder()
        .serve_with_incoming_shutdown(service(snapshotter), UnixListenerStream::new(listener), shutdown)
        .await
        .map_err(Error::Serve)
}

#[derive(Debug)]
struct Service(Arc<Snapshotter>);

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<pb::PrepareSnapshotRequest>,
    ) -> Result<Response<pb::PrepareSnapshotResponse>, Status> {
        let pb::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        debug!(key, parent, "prepare");
        let mounts = self.0.prepare(New { key, parent, labels }).await?;
        Ok(Response::new(pb::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<pb::ViewSnapshotRequest>,
    ) -> Result<Response<pb::ViewSnapshotResponse>, Status> {
        let pb::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        debug!(key, parent, "view");
        let mounts = self.0.view(New { key, parent, labels }).await?;
        Ok(Response::new(pb::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<pb::MountsRequest>,
    ) -> Result<Response<pb::MountsResponse>, Status> {
        let key = request.into_inner().key;
        debug!(key, "mounts");
        let mounts = self.0.mounts(key).await?;
        Ok(Response::new(pb::MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<pb::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let pb::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        debug!(key, name, "commit");
        self.0.commit(Commit { key, name, parent, labels, usage: Usage::default() }).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<pb::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        debug!(key, "remove");
        self.0.remove(key).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<pb::StatSnapshotRequest>,
    ) -> Result<Response<pb::StatSnapshotResponse>, Status> {
        let info = self.0.stat(request.into_inner().key).await?;
        Ok(Response::new(pb::StatSnapshotResponse { info: Some(info.into()) }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateSnapshotRequest>,
    ) -> Result<Response<pb::UpdateSnapshotResponse>, Status> {
        let pb::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let pb::Info { name, labels, .. } = info.unwrap_or_default();
        let paths = update_mask.unwrap_or_default().paths;
        debug!(name, ?paths, "update");
        let info = self.0.update(name, labels, paths).await?;
        Ok(Response::new(pb::UpdateSnapshotResponse { info: Some(info.into()) }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<pb::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        debug!(?filters, "list");
        let filters = Filters::parse(&filters)?;
        let list = Listing { view: self.0.store().view()?, filters, after: None, done: false };
        Ok(Response::new(Box::pin(stream::try_unfold(list, Listing::part))))
    }

    async fn usage(&self, request: Request<pb::UsageRequest>) -> Result<Response<pb::UsageResponse>, Status> {
        let Usage { size, inodes } = self.0.usage(request.into_inner().key).await?;
        let signed = |number: u64| number.try_into().unwrap_or(i64::MAX);
        Ok(Response::new(pb::UsageResponse { size: signed(size), inodes: signed(inodes) }))
    }

    async fn cleanup(&self, _: Request<pb::CleanupRequest>) -> Result<Response<()>, Status> {
        debug!("cleanup");
        self.0.cleanup().await?;
        Ok(Response::new(()))
    }
}

/// A List under way. It sees the snapshots as they were when it began.
struct Listing {
    view: ReadTransaction,
    filters: Filters,
    /// Name of the last snapshot sent.
    after: Option<String>,
    done: bool,
}

impl Listing {
    async fn part(self) -> Result<Option<(pb::ListSnapshotsResponse, Self)>, Status> {
        if self.done {
            return Ok(None);
        }
        let part = spawn_blocking(move || self.read_part())
            .await
            .map_err(|_| Status::from(Error::ShuttingDown))??;
        Ok((!part.0.info.is_empty()).then_some(part))
    }

    fn read_part(mut self) -> Result<(pb::ListSnapshotsResponse, Self), Error> {
        let page = store::page(&self.view, self.after.as_deref(), PART_LEN, &self.filters)?;
        self.done = page.len() < PART_LEN;
        let (mut info, mut bytes) = (Vec::<pb::Info>::new(), 0);
        for snapshot in page.into_iter().map(pb::Info::from) {
            if bytes > PART_BYTES {
                // The rest of the page is read again for the next part.
                self.done = false;
                break;
            }
            bytes += snapshot.encoded_len();
            info.push(snapshot);
        }
        self.after = info.last().map(|last| last.name.clone());
        Ok((pb::ListSnapshotsResponse { info }, self))
    }
}

impl From<Info> for pb::Info {
    fn from(info: Info) -> Self {
        let kind = match info.kind {
            Kind::Active => pb::Kind::Active,
            Kind::View => pb::Kind::View,
            Kind::Committed => pb::Kind::Committed,
        };
        Self {
            name: info.name,
            parent: info.parent,
            kind: kind.into(),
            created_at: Some(info.created.into()),
            updated_at: Some(info.updated.into()),
            labels: info.labels,
        }
    }
}
