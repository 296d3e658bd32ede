//! What containers read first, written down for the next time.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use layer::Layer;

use super::LazyFs;
use crate::profile::LayerProfile;

/// How many first reads of an image were seen, and how many of them are written down.
#[derive(Debug, Default)]
pub(super) struct Learned {
    seen: usize,
    written: usize,
}

impl LazyFs {
    /// Writes down what containers have read in the first while after their start, once they pause, or at
    /// once if this is the `last` time. Blocks on the disk.
    pub fn learn(&self, last: bool) {
        let policy = self.policy();
        if !policy.profile.record {
            return;
        }
        let mut images: BTreeMap<String, Vec<Arc<Layer>>> = BTreeMap::new();
        for view in self.views() {
            let layers = images.entry(view.image).or_default();
            if layers.iter().all(|other| other.digest() != view.layer.digest()) {
                layers.push(view.layer);
            }
        }
        let mut due = Vec::new();
        {
            let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
            learned.retain(|image, _| images.contains_key(image));
            for (image, layers) in images {
                let reads = layers.iter().map(|layer| layer.recorded().0).sum();
                let state = learned.entry(image.clone()).or_default();
                let pauses = std::mem::replace(&mut state.seen, reads) == reads;
                if (pauses || last) && reads != state.written {
                    let first = std::mem::replace(&mut state.written, reads) == 0;
                    due.push((image, layers, first));
                }
            }
        }
        for (image, layers, first) in due {
            let layers: Vec<LayerProfile> =
                layers.iter().filter_map(|layer| first_spans(layer, policy.profile.window())).collect();
            let spans: usize = layers.iter().map(|layer| layer.spans.len()).sum();
            match self.profiles.learn(&image, layers, first) {
                Ok(()) => tracing::debug!(image, spans, "what was read first is written down"),
                Err(error) => tracing::warn!(image, %error, "a profile could not be written"),
            }
        }
    }
}

/// The spans of a layer that were read within this time from its first read on.
fn first_spans(layer: &Layer, window: Duration) -> Option<LayerProfile> {
    let record = layer.record();
    let (first, _) = record.first()?;
    let mut seen = HashSet::new();
    let spans =
        record.iter().filter(|(at, place)| at.duration_since(*first) <= window && seen.insert(*place));
    Some(LayerProfile { digest: layer.digest(), spans: spans.map(|(_, place)| *place).collect() })
}
