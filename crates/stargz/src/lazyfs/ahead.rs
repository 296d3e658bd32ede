//! What is resolved and fetched before anybody asks for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use format::Digest;
use layer::Layer;
use layer::source::BlobSource;
use tokio::sync::watch;

use super::LazyFs;
use crate::labels::{LayerSource, Neighbour};

/// Layers that are resolved ahead at one time. Those that containerd asks for do not wait for them.
pub(super) const RESOLVED_AHEAD_AT_ONCE: usize = 16;

/// What to fetch ahead of a layer.
enum Ahead {
    /// Everything up to this byte of the blob.
    Upto(u64),
    /// The spans that begin at these bytes of the blob.
    Places(Vec<u64>),
}

impl LazyFs {
    pub(super) fn ahead(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn prefetches(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<bool>>> {
        self.prefetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to resolve the other layers of the image, which containerd will ask for one after the other.
    pub(super) fn resolve_ahead(self: &Arc<Self>, source: &LayerSource) {
        let (now, ttl) = (Instant::now(), self.policy().resolved_ttl);
        let mut ahead = self.ahead();
        ahead.retain(|_, since| now.duration_since(*since) < ttl);
        ahead.insert(source.digest, now);
        for Neighbour { digest, ipfs } in &source.neighbours {
            if ahead.contains_key(digest) || self.shelf.shows(digest) {
                continue;
            }
            ahead.insert(*digest, now);
            self.resolve_one_ahead(*digest, self.source_of(source, *digest, ipfs.as_deref()));
        }
    }

    /// The same for an image of which nothing has been asked for yet.
    pub fn resolve_image_ahead(
        self: &Arc<Self>,
        reference: &registry::Reference,
        manifest: Digest,
        layers: &[Neighbour],
    ) {
        let Some((first, rest)) = layers.split_first() else { return };
        self.resolve_ahead(&LayerSource {
            reference: reference.clone(),
            digest: first.digest,
            manifest: Some(manifest),
            toc_digest: None,
            compressed_toc_digest: None,
            skip_verify: false,
            prefetch_size: None,
            ipfs: first.ipfs.clone(),
            neighbours: rest.to_vec(),
        });
    }

    /// The task ends after the time to live, when it takes back what nobody came for.
    fn resolve_one_ahead(self: &Arc<Self>, digest: Digest, blob: Arc<dyn BlobSource>) {
        let fs = self.clone();
        tokio::spawn(async move {
            let resolved = {
                let Ok(_permit) = fs.ahead_permits.acquire().await else { return };
                fs.layers.resolve(digest, None, blob).await
            };
            if let Err(error) = resolved {
                tracing::debug!(%error, "layer could not be resolved ahead");
                return;
            }
            tokio::time::sleep(fs.policy().resolved_ttl).await;
            if !fs.closing.load(Ordering::Relaxed) {
                fs.forget(&digest).await;
            }
        });
    }

    /// Fetches what a start needs, then the rest.
    pub(super) fn fetch_ahead(self: &Arc<Self>, layer: &Arc<Layer>, source: &LayerSource) {
        let (policy, image) = (self.policy(), source.reference.to_string());
        let known = || policy.profile.apply.then(|| self.profiles.places(&image, &layer.digest())).flatten();
        let (ahead, released) = match policy.prefetch {
            _ if policy.starts_complete(&image) => (Ahead::Upto(u64::MAX), false),
            None => return self.complete(layer),
            Some(prefetch) => match known() {
                Some(places) => (Ahead::Places(places), !policy.profile.wait),
                None => {
                    let until = layer.prefetch_end(source.prefetch_size.unwrap_or(prefetch.size));
                    (Ahead::Upto(until), prefetch.hold_up_to.is_some_and(|most| until > most))
                }
            },
        };
        let (done, receiver) = watch::channel(released);
        self.prefetches().insert(layer.digest(), receiver);
        let (fs, layer) = (self.clone(), layer.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let (fetched, from) = match ahead {
                Ahead::Upto(until) => (layer.prefetch(until).await, "the beginning of the blob"),
                Ahead::Places(places) => (layer.prefetch_places(&places).await.map(|_| ()), "a profile"),
            };
            match fetched {
                Ok(()) => {
                    let ms = started.elapsed().as_millis() as u64;
                    fs.book.prefetches.observe(ms);
                    tracing::debug!(layer = %layer.digest(), ms, from, "completed to prefetch");
                }
                // What is missing is fetched when it is read, with an error of its own if need be.
                Err(error) => tracing::warn!(%error, "prefetch failed"),
            }
            done.send_replace(true);
            fs.complete(&layer);
        });
    }

    pub(super) fn complete(&self, layer: &Arc<Layer>) {
        if let Some(background) = self.rules().background {
            background.fill(layer);
        }
    }
}
