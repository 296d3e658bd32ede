//! Root file systems and the layers below them.

use std::time::Duration;

use crate::client::{Client, stub};
use crate::content::{next, present};
use crate::error::Error;
use crate::proto::snapshots::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use crate::{Labels, Mount};

/// A snapshotter by its name in containerd. Made by [`Client::snapshots`].
#[derive(Clone, Copy, Debug)]
pub struct Snapshots<'a> {
    client: &'a Client,
    name: &'a str,
}

/// A remote snapshotter looks at its registry meanwhile, and may wait for it.
const PREPARE_LIMIT: Duration = Duration::from_secs(600);

impl Client {
    /// The snapshots of one snapshotter, as `overlayfs`.
    pub fn snapshots<'a>(&'a self, snapshotter: &'a str) -> Snapshots<'a> {
        Snapshots { client: self, name: snapshotter }
    }
}

impl Snapshots<'_> {
    /// Makes a writable snapshot on top of a committed one; on nothing if `parent` is empty. The deadline is ten minutes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one; from a remote snapshotter, if it has provided the layer that
    /// the label `containerd.io/snapshot.ref` names.
    pub async fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>, Error> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.name.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone(),
        };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        let answer = stub.prepare(request);
        Ok(self.client.call_within(PREPARE_LIMIT, "preparing the snapshot", key, answer).await?.mounts)
    }

    /// Makes a read-only view of a committed snapshot. The deadline is ten minutes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one of this key; [`crate::ErrorKind::NotFound`] without the parent.
    pub async fn view(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>, Error> {
        let request = ViewSnapshotRequest {
            snapshotter: self.name.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels.clone(),
        };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        let answer = stub.view(request);
        Ok(self.client.call_within(PREPARE_LIMIT, "making a view of the snapshot", key, answer).await?.mounts)
    }

    /// How to mount an active snapshot or a view.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Error> {
        let request = MountsRequest { snapshotter: self.name.to_owned(), key: key.to_owned() };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        let answer = stub.mounts(request);
        Ok(self.client.call_within(PREPARE_LIMIT, "asking for the mounts of", key, answer).await?.mounts)
    }

    /// Makes an active snapshot a committed one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one of this name.
    pub async fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<(), Error> {
        let request = CommitSnapshotRequest {
            snapshotter: self.name.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.clone(),
            ..CommitSnapshotRequest::default()
        };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        let answer = stub.commit(request);
        self.client.call_within(PREPARE_LIMIT, "committing the snapshot", name, answer).await
    }

    /// Describes a snapshot.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn stat(&self, key: &str) -> Result<Info, Error> {
        let action = "looking up the snapshot";
        let request = StatSnapshotRequest { snapshotter: self.name.to_owned(), key: key.to_owned() };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        let answer = self.client.call(action, key, stub.stat(request)).await?;
        present(action, key, answer.info)
    }

    /// The snapshots that one of the filters matches, or all.
    ///
    /// # Errors
    /// When the list breaks off.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Info>, Error> {
        let (action, limit) = ("listing the snapshots of", self.client.deadline);
        let request = ListSnapshotsRequest { snapshotter: self.name.to_owned(), filters: filters.to_vec() };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        let mut parts = self.client.call(action, self.name, stub.list(request)).await?;
        let mut all = Vec::new();
        while let Some(part) = next(limit, action, self.name, &mut parts).await? {
            all.extend(part.info);
        }
        Ok(all)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none; [`crate::ErrorKind::FailedPrecondition`] if others are on top.
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        let request = RemoveSnapshotRequest { snapshotter: self.name.to_owned(), key: key.to_owned() };
        let mut stub = stub!(self.client, snapshots::snapshots_client::SnapshotsClient);
        self.client.call("removing the snapshot", key, stub.remove(request)).await
    }
}
