//! Start, clean-up and end.

use std::{path::PathBuf, sync::Arc};

use futures_util::{StreamExt, stream};
use tracing::{error, info, warn};

use super::Snapshotter;
use crate::{
    Error,
    error::{Chain, FailedLayer},
    labels::Labels,
    mountinfo,
    store::RemoteLayer,
};

/// Most layers restored at one time.
const RESTORED_AT_ONCE: usize = 16;

/// What [`Snapshotter::restore`] did.
#[derive(Debug)]
pub struct RestoreReport {
    /// How many lazily mounted layers are mounted again.
    pub restored: usize,
    /// Those that are not. Each is tried again when a container needs it.
    pub failed: Vec<FailedLayer>,
}

/// What [`Snapshotter::close`] did.
#[derive(Debug)]
pub struct CloseReport {
    /// How many lazily mounted layers were unmounted.
    pub unmounted: usize,
    /// How many could not be, or left something on disk; the log says why.
    pub failed: usize,
}

impl Snapshotter {
    /// The labels of all lazily mounted layers, with the directories where they are mounted or are to be.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn lazy_layers(self: &Arc<Self>) -> Result<Vec<(PathBuf, Labels)>, Error> {
        let layers = self.blocking(|this| this.store.remotes()).await?;
        Ok(layers.into_iter().map(|layer| (self.dirs.fs(layer.id), layer.labels)).collect())
    }

    /// Brings the root to order after a start: detaches what a former process left mounted and this one does not serve, removes what it left
    /// half made, and mounts all lazily mounted layers, several at a time.
    ///
    /// # Errors
    /// [`Error::Restore`] with all layers that could not be mounted, unless
    /// [`Options::allow_invalid_mounts_on_restart`](super::Options::allow_invalid_mounts_on_restart) is set. The
    /// snapshotter works in both cases. Other errors say that the root or the database is unusable.
    pub async fn restore(self: &Arc<Self>) -> Result<RestoreReport, Error> {
        self.detach_stale().await?;
        self.cleanup().await?;
        let layers = self.blocking(|this| this.store.remotes()).await?;
        let known = layers.len();
        let failed: Vec<_> = stream::iter(layers)
            .map(|layer| self.restore_one(layer))
            .buffer_unordered(RESTORED_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let restored = known - failed.len();
        info!(restored, failed = failed.len(), "restored remote snapshots");
        if failed.is_empty() || self.options.allow_invalid_mounts_on_restart {
            return Ok(RestoreReport { restored, failed });
        }
        Err(Error::Restore(failed))
    }

    async fn restore_one(&self, layer: RemoteLayer) -> Option<FailedLayer> {
        let error = self.layers.mounted(&layer).await.err()?;
        let RemoteLayer { id, name, .. } = layer;
        let reason = Chain(&error).to_string();
        error!(
            name,
            id,
            error = reason,
            "failed to restore remote snapshot {name}: it is tried again when a container needs it; if that does \
             not help, remove the image and pull it again"
        );
        Some(FailedLayer { name, id, error })
    }

    async fn detach_stale(self: &Arc<Self>) -> Result<(), Error> {
        let detached = self.blocking(|this| {
            mountinfo::detach_below_except(this.dirs.all(), |path| this.layers.survives(path))
        });
        match detached.await {
            Ok(0) => {}
            Ok(mounts) => info!(mounts, "detached mounts of a former process"),
            // What is mounted on top is what counts.
            Err(error) => error!(error = %Chain(&error), "cannot detach mounts of a former process"),
        }
        Ok(())
    }

    /// Unmounts and removes the directories that belong to no snapshot.
    ///
    /// # Errors
    /// The first failure, after all other directories are done; the next cleanup tries again.
    pub(crate) async fn cleanup(self: &Arc<Self>) -> Result<(), Error> {
        let orphans = self
            .blocking(|this| {
                this.store.frozen(|known| {
                    let kept = if this.foreign_database() { this.store.foreign_id() } else { 0 };
                    let mut orphans = this.dirs.orphans(known)?;
                    // Asked after looking at the directories: a layer being made cannot reach the store meanwhile,
                    // so whoever has no snapshot yet is still busy.
                    orphans.retain(|(id, _)| *id > kept && !this.layers.busy(*id));
                    Ok(orphans)
                })
            })
            .await?;
        let mut result = Ok(());
        for (id, dir) in orphans {
            self.mapped.forget(id);
            if let Err(error) = self.layers.discard(id, &dir).await {
                warn!(id, error = %Chain(&error), "cannot remove the directory of a removed snapshot");
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Unmounts every lazily mounted layer and removes its directory, for an end that leaves a clean system. The
    /// snapshots stay known, so that the next [`Snapshotter::restore`] mounts them again. Waits for attempts to
    /// mount that are under way, and refuses further ones.
    ///
    /// # Errors
    /// If the database cannot be read. Layers that cannot be unmounted are logged and counted.
    pub async fn close(self: &Arc<Self>) -> Result<CloseReport, Error> {
        self.layers.stop().await;
        // Its failures are in the log, and must not keep the layers mounted.
        let _ = self.cleanup().await;
        let layers = self.blocking(|this| this.store.remotes()).await?;
        let mut report = CloseReport { unmounted: 0, failed: 0 };
        for RemoteLayer { id, name, .. } in layers {
            match self.layers.discard(id, &self.dirs.of(id)).await {
                Ok(()) => report.unmounted += 1,
                Err(error) => {
                    report.failed += 1;
                    warn!(name, id, error = %Chain(&error), "cannot unmount remote snapshot");
                }
            }
        }
        // What is shown with other owners.
        let dirs = self.dirs.clone();
        if let Err(error) = self.blocking(move |_| mountinfo::detach_below(dirs.all())).await {
            report.failed += 1;
            warn!(error = %Chain(&error), "cannot unmount everything below the snapshots");
        }
        info!(report.unmounted, report.failed, "unmounted remote snapshots");
        Ok(report)
    }
}
