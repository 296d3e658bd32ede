//! Gives up layers and contents until there is room.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use format::Digest;

use super::{Entry, LayerUsage, Prune, Pruned, Room, Usage};
use crate::cache::punch;
use crate::error::Error;
use crate::image::{self, ImageFiles, Taken, remove_dir, seconds_now};
use crate::layer::Layer;
use crate::layers::{Layers, blocking};

/// Asked for at once when the disk is full, bytes.
const WHEN_FULL: u64 = 64 << 20;
impl Layers {
    /// Whether layers that nobody uses stay on disk until the room is needed.
    pub fn keeps_unused(&self) -> bool {
        self.cache.budget.max_bytes.is_some()
    }

    /// How much may be filled. Asks the file system, not the disk.
    pub fn room(&self) -> Room {
        self.cache.room()
    }

    /// What layers take on disk.
    pub fn usage(&self) -> Usage {
        self.measure();
        let (by_age, total) = {
            let ledger = self.cache.ledger();
            (ledger.by_age(), ledger.total())
        };
        let layers = by_age
            .into_iter()
            .map(|(digest, Entry { taken, used })| LayerUsage {
                digest,
                taken,
                used: UNIX_EPOCH + Duration::from_secs(used),
                held: self.held(&digest),
            })
            .collect();
        Usage { total, layers }
    }

    /// Notes that a layer is used now.
    pub(crate) fn note_use(&self, layer: &Layer) {
        let (files, now) = (layer.files(), seconds_now());
        self.cache.ledger().note(layer.digest(), files.taken().unwrap_or_default(), now);
        if let Err(error) = image::set_last_used(&files.dir, now) {
            tracing::debug!(layer = %layer.digest(), %error, "the time of a layer's last use is not written down");
        }
    }

    /// Puts into the books what an earlier process left.
    pub(crate) fn take_stock(&self) -> Result<(), Error> {
        for digest in self.on_disk()? {
            let dir = self.dir_of(&digest);
            if let (Ok(taken), Ok(used)) = (Taken::of(&dir), image::last_used(&dir)) {
                self.cache.ledger().note(digest, taken, used);
            }
        }
        Ok(())
    }

    /// Nobody shows the layer any more: ends what is being fetched for it, and writes down that it was in use until
    /// now. It stays for whoever resolves it again.
    pub async fn release(&self, digest: &Digest) {
        let Some(layer) = self.all().into_iter().find(|layer| layer.digest() == *digest) else { return };
        layer.close();
        self.note_use(&layer);
        let flushed = blocking(move || layer.flush()).await;
        if let Err(error) = flushed {
            tracing::warn!(%error, "filled chunks are not durable yet");
        }
    }

    /// Brings the books up to date for the layers that may have changed.
    fn measure(&self) {
        for layer in self.all() {
            self.cache.measure(layer.files());
        }
    }

    /// Gives up what is needed least until about `bytes` more are free. Returns how many became free, which is less if
    /// everything else is in use. Room is made by one caller at a time.
    pub async fn make_room(self: &Arc<Self>, bytes: u64) -> u64 {
        let _one = self.cache.making.lock().await;
        self.measure();
        let removed = self.remove_unused(|freed, _| freed < bytes, &[], false).await;
        let punched = self.punch(bytes.saturating_sub(removed.bytes)).await;
        let freed = removed.bytes + punched;
        if freed > 0 {
            tracing::info!(layers = removed.layers, bytes = freed, "made room on disk");
        }
        freed
    }

    /// Gives up layers that nobody holds, least recently used first, and more as asked for.
    pub async fn prune(self: &Arc<Self>, prune: Prune) -> Pruned {
        let _one = self.cache.making.lock().await;
        self.measure();
        let mut pruned = self.remove_unused(|_, left| left > prune.keep, &prune.spare, prune.dry_run).await;
        if prune.contents && !prune.dry_run {
            let left = self.cache.ledger().total().bytes;
            pruned.bytes += self.punch(left.saturating_sub(prune.keep)).await;
        }
        pruned
    }

    /// Keeps to the budget. False if it is exceeded all the same, by what is in use.
    pub(crate) async fn keep_to_budget(self: &Arc<Self>) -> bool {
        self.measure();
        let Some(too_much) = self.cache.too_much() else { return true };
        self.make_room(too_much).await >= too_much || self.cache.too_much().is_none()
    }

    /// The disk is full: a good deal has to go, so that it is not full again at once.
    pub(crate) async fn relieve(self: &Arc<Self>) {
        let wanted = self.cache.part_of_disk(WHEN_FULL).max(1);
        if self.make_room(wanted).await == 0 {
            tracing::debug!("the disk is full, and of the layers nothing can be given up");
        }
    }

    /// Removes layers that nobody holds for as long as `more` says so, which is told how many bytes were freed and how
    /// many are left.
    async fn remove_unused(
        &self,
        more: impl Fn(u64, u64) -> bool,
        spare: &[Digest],
        dry_run: bool,
    ) -> Pruned {
        let (by_age, mut left) = {
            let ledger = self.cache.ledger();
            (ledger.by_age(), ledger.total().bytes)
        };
        let mut pruned = Pruned::default();
        let mut rubbish = Vec::new();
        for (digest, entry) in by_age {
            if !more(pruned.bytes, left) {
                break;
            }
            if spare.contains(&digest) {
                continue;
            }
            if dry_run {
                if self.held(&digest) {
                    continue;
                }
            } else {
                match self.take_unused(&digest) {
                    Ok(Some(dir)) => rubbish.push(dir),
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "a layer that nobody uses stays on disk");
                        continue;
                    }
                }
                tracing::debug!(layer = %digest, bytes = entry.taken.bytes, "giving up a layer that nobody uses");
            }
            pruned.layers += 1;
            pruned.bytes += entry.taken.bytes;
            left = left.saturating_sub(entry.taken.bytes);
        }
        let removed = blocking(move || rubbish.iter().try_for_each(|dir| remove_dir(dir))).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "what is left of a layer is removed at the next start");
        }
        pruned
    }

    async fn punch(self: &Arc<Self>, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        let layers: Vec<Arc<ImageFiles>> = self.all().iter().map(|layer| layer.files().clone()).collect();
        let punched = blocking(move || Ok(punch::run(layers, bytes))).await.unwrap_or(0);
        self.measure();
        punched
    }
}

impl Layer {
    /// What the layer takes on disk.
    ///
    /// # Errors
    /// The disk fails.
    pub fn usage(&self) -> std::io::Result<Taken> {
        self.files().taken()
    }

    /// When the layer was last read through this process.
    pub fn last_read(&self) -> Option<SystemTime> {
        let seconds = self.files().recent.last();
        (seconds > 0).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
    }
}
