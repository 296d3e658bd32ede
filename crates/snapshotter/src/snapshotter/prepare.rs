//! New snapshots: ordinary ones, and the lazily mounted layers that take the place of an unpacked one.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Snapshotter, ended};
use crate::{
    Error,
    error::Chain,
    idmap::IdMap,
    labels,
    layers::Reservation,
    proto::types::Mount,
    store::{Kind, New, Target},
};

/// What became of a try to mount a layer lazily.
enum Lazy {
    /// The target exists, so that containerd need not do anything.
    Ready,
    /// The layer has to be unpacked.
    Unpack,
}

impl Snapshotter {
    /// Makes a writable snapshot and tells how to mount it. If its labels name a target, tries to make that as a
    /// lazily mounted layer first: where this succeeds the answer is [`Error::AlreadyExists`], which containerd
    /// takes as "done".
    pub(crate) async fn prepare(self: &Arc<Self>, new: New) -> Result<Vec<Mount>, Error> {
        if let Some(target) = new.labels.get(labels::TARGET).cloned() {
            let attempt = self.clone().prepare_layer(new.clone(), target.clone());
            // A client that gives up must not leave a mounted layer without a snapshot. The mount has a deadline.
            match tokio::spawn(attempt).await.unwrap_or_else(ended)? {
                Lazy::Ready => return Err(Error::AlreadyExists(format!("target snapshot {target:?}"))),
                Lazy::Unpack => {}
            }
        }
        self.create(Kind::Active, new).await
    }

    /// Makes a read-only snapshot and tells how to mount it.
    pub(crate) async fn view(self: &Arc<Self>, new: New) -> Result<Vec<Mount>, Error> {
        self.create(Kind::View, new).await
    }

    async fn create(self: &Arc<Self>, kind: Kind, new: New) -> Result<Vec<Mount>, Error> {
        let map = IdMap::of(&new.labels)?;
        let root = map.as_ref().map(IdMap::root).transpose()?;
        // First, since the new directory gets the owner of the parent's and a failure here is to leave nothing.
        let parent = new.parent.clone();
        let layers = self.blocking(move |this| this.store.remote_chain(&parent)).await?;
        self.available(layers.clone()).await?;
        self.blocking(move |this| {
            let mut mounts = Vec::new();
            this.store.create(kind, new, |snapshot| {
                let inherited = || snapshot.parents.first().map(|parent| this.dirs.owner(*parent));
                let owner = root.map(Ok).or_else(inherited).transpose()?;
                this.dirs.create(snapshot.id, owner, kind == Kind::Active)?;
                mounts = this.mounts_of(snapshot, &layers, map.as_ref())?;
                Ok(())
            })?;
            Ok(mounts)
        })
        .await
    }

    async fn prepare_layer(self: Arc<Self>, new: New, target: String) -> Result<Lazy, Error> {
        let New { key, parent, .. } = &new;
        match self.target(&new, &target).await? {
            Target::Free => {}
            Target::Ready => return Ok(Lazy::Ready),
            Target::Other => {
                let reason = "its name belongs to another snapshot, or to this layer on another parent";
                warn!(
                    "remote-snapshot-prepared" = "false",
                    key,
                    parent,
                    target,
                    error = reason,
                    "unpacking layer"
                );
                return Ok(Lazy::Unpack);
            }
        }
        let reservation = self.layers.reserve(self.store.next_id()).await?;
        let id = reservation.id();
        let place = self.blocking(move |this| this.dirs.create(id, None, false)).await;
        if let Err(error) = place {
            self.drop_layer(reservation).await;
            return Err(error);
        }
        if let Err(error) = reservation.mount(&new.labels).await {
            let error = Chain(&error).to_string();
            warn!(
                "remote-snapshot-prepared" = "false",
                key, parent, target, error, "failed to prepare remote snapshot: unpacking layer"
            );
            self.drop_layer(reservation).await;
            return Ok(Lazy::Unpack);
        }
        let (layer, name) = (new.clone(), target.clone());
        match self.blocking(move |this| this.store.insert_remote(id, &layer, &name)).await {
            Ok(()) => {
                reservation.keep();
                info!(
                    "remote-snapshot-prepared" = "true",
                    key, parent, target, id, "prepared remote snapshot"
                );
                Ok(Lazy::Ready)
            }
            Err(error) => {
                self.drop_layer(reservation).await;
                self.lost_race(&new, &target, error).await
            }
        }
    }

    /// Another Prepare may have made the same layer meanwhile: that is as good.
    async fn lost_race(self: &Arc<Self>, new: &New, target: &str, error: Error) -> Result<Lazy, Error> {
        if !matches!(error, Error::AlreadyExists(_)) {
            return Err(error);
        }
        match self.target(new, target).await? {
            Target::Ready => Ok(Lazy::Ready),
            Target::Free | Target::Other => Ok(Lazy::Unpack),
        }
    }

    async fn target(self: &Arc<Self>, new: &New, target: &str) -> Result<Target, Error> {
        let (new, target) = (new.clone(), target.to_owned());
        self.blocking(move |this| this.store.target(&new, &target)).await
    }

    /// A directory that cannot be removed now is an orphan and goes with a later cleanup.
    async fn drop_layer(&self, reservation: Reservation) {
        let id = reservation.id();
        if let Err(error) = reservation.discard().await {
            warn!(id, error = %Chain(&error), "cannot remove the directory of a layer that was not prepared");
        }
    }
}
