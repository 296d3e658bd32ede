//! What is known of images and layers: plain data, without waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use format::Digest;
use mount::Source;
use registry::Reference;

use crate::engine::{Failure, Wanted};
use crate::image::Image;
use crate::pool::{Known, Used};

/// Most images that are known at a time; those that nobody uses go first.
const IMAGES_MAX: usize = 1024;
/// Most names that are known of one image.
const NAMES_MAX: usize = 1024;

/// A layer as clients name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The image, as clients write it.
    pub reference: Arc<str>,
    /// The layer.
    pub name: Digest,
}

/// All images.
#[derive(Debug, Default)]
pub(crate) struct State {
    images: HashMap<Arc<str>, KnownImage>,
}

/// One image.
#[derive(Debug)]
struct KnownImage {
    parsed: Reference,
    /// As its registry had it last, and when that was.
    image: Option<(Arc<Image>, Instant)>,
    /// Nothing of this image can be had just now.
    failed: Option<(Failure, Instant)>,
    names: BTreeMap<Digest, Slot>,
    seen: Instant,
}

/// One name of a layer of an image.
#[derive(Debug)]
struct Slot {
    known: Option<Known>,
    uses: u64,
    ready: Option<Arc<Ready>>,
    failed: Option<(Failure, Instant)>,
    /// When somebody looked for it last.
    seen: Instant,
    /// Whether its last user has let go of it since.
    released: bool,
    /// Held by whoever shows or hides the layer.
    gate: Arc<tokio::sync::Mutex<()>>,
}

/// A layer that is shown.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Name of the directory where it is mounted.
    pub mount: String,
    pub info: Arc<dyn Source>,
    pub blob: Arc<dyn Source>,
}

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    /// A layer that somebody looked for.
    pub looked_up: Duration,
    /// A layer that its last user let go of.
    pub released: Duration,
    /// A failure.
    pub failed: Duration,
}

impl State {
    /// Notes that somebody looks for an image. `None` if there are too many of them.
    pub(crate) fn see(&mut self, reference: &Arc<str>, parsed: Reference, now: Instant) -> Option<()> {
        if !self.images.contains_key(reference) && self.images.len() >= IMAGES_MAX {
            let idle = self.images.iter().filter(|(_, image)| image.is_idle());
            let oldest = idle.min_by_key(|(_, image)| image.seen).map(|(name, _)| name.clone())?;
            self.images.remove(&oldest);
        }
        let image = self.images.entry(reference.clone()).or_insert_with(|| KnownImage {
            parsed,
            image: None,
            failed: None,
            names: BTreeMap::new(),
            seen: now,
        });
        image.seen = now;
        Some(())
    }

    fn slot(&mut self, key: &Key) -> Option<&mut Slot> {
        self.images.get_mut(&key.reference)?.names.get_mut(&key.name)
    }

    fn slot_or_new(&mut self, key: &Key, now: Instant) -> Option<&mut Slot> {
        let image = self.images.get_mut(&key.reference)?;
        if !image.names.contains_key(&key.name) && image.names.len() >= NAMES_MAX {
            return None;
        }
        Some(image.names.entry(key.name).or_insert_with(|| Slot {
            known: None,
            uses: 0,
            ready: None,
            failed: None,
            seen: now,
            released: false,
            gate: Arc::default(),
        }))
    }

    pub(crate) fn knows(&self, reference: &str) -> bool {
        self.images.contains_key(reference)
    }

    pub(crate) fn parsed(&self, reference: &str) -> Option<Reference> {
        self.images.get(reference).map(|image| image.parsed.clone())
    }

    /// Names of the images, in order.
    pub(crate) fn references(&self) -> Vec<Arc<str>> {
        let mut all: Vec<_> = self.images.keys().cloned().collect();
        all.sort();
        all
    }

    /// The layers of an image that are shown or in use, by name.
    pub(crate) fn names(&self, reference: &str) -> Vec<Digest> {
        let names = self.images.get(reference).into_iter().flat_map(|image| &image.names);
        names.filter(|(_, slot)| slot.uses > 0 || slot.ready.is_some()).map(|(name, _)| *name).collect()
    }

    /// Somebody looks for a layer: what is shown of it.
    pub(crate) fn look(&mut self, key: &Key, now: Instant) -> Option<Arc<Ready>> {
        let slot = self.slot_or_new(key, now)?;
        (slot.seen, slot.released) = (now, false);
        slot.ready.clone()
    }

    /// What is shown of a layer.
    pub(crate) fn ready(&self, key: &Key) -> Option<Arc<Ready>> {
        self.images.get(&key.reference)?.names.get(&key.name)?.ready.clone()
    }

    pub(crate) fn gate(&mut self, key: &Key) -> Option<Arc<tokio::sync::Mutex<()>>> {
        self.slot(key).map(|slot| slot.gate.clone())
    }

    /// A failure that is not older than `since`, of the layer or of the whole image.
    pub(crate) fn failure(&self, key: &Key, since: Option<Instant>) -> Option<Failure> {
        let image = self.images.get(&key.reference)?;
        let of_slot = image.names.get(&key.name).and_then(|slot| slot.failed.as_ref());
        let fresh = |failed: &&(Failure, Instant)| since.is_none_or(|since| failed.1 >= since);
        of_slot.filter(fresh).or(image.failed.as_ref().filter(fresh)).map(|failed| failed.0.clone())
    }

    /// Notes that a layer cannot be had. What cannot be had just now is a matter of the whole image: nobody shall wait for the next
    /// layer as long as for the one before.
    pub(crate) fn fail(&mut self, key: &Key, failure: Failure, now: Instant) {
        let Some(image) = self.images.get_mut(&key.reference) else { return };
        if let Failure::Image(_) = failure {
            image.failed = Some((failure.clone(), now));
        }
        if let Some(slot) = image.names.get_mut(&key.name) {
            slot.failed = Some((failure, now));
        }
    }

    /// Notes that a layer is shown.
    pub(crate) fn show(&mut self, key: &Key, known: Known, ready: Arc<Ready>) {
        let Some(image) = self.images.get_mut(&key.reference) else { return };
        image.failed = None;
        if let Some(slot) = image.names.get_mut(&key.name) {
            slot.known = Some(known);
            slot.ready = Some(ready);
            slot.failed = None;
        }
    }

    /// Notes that a layer is not shown any more, unless somebody came for it.
    pub(crate) fn hide(&mut self, key: &Key, holds: Holds, now: Instant) -> Option<Arc<Ready>> {
        let slot = self.slot(key)?;
        if slot.is_due(holds, now) { slot.ready.take() } else { None }
    }

    /// What is known of a layer that was shown once.
    pub(crate) fn known(&self, key: &Key) -> Option<(Wanted, Known)> {
        let image = self.images.get(&key.reference)?;
        let known = image.names.get(&key.name)?.known.clone()?;
        let Known { manifest, layer, pin } = known.clone();
        Some((Wanted { reference: image.parsed.clone(), manifest, layer, pin }, known))
    }

    /// The image as its registry had it last, and when that was.
    pub(crate) fn image(&self, reference: &str) -> Option<(Arc<Image>, Instant)> {
        self.images.get(reference)?.image.clone()
    }

    pub(crate) fn set_image(&mut self, reference: &str, image: Arc<Image>, now: Instant) {
        if let Some(known) = self.images.get_mut(reference) {
            known.image = Some((image, now));
        }
    }

    /// A layer is used once more.
    pub(crate) fn use_once_more(&mut self, key: &Key, now: Instant) {
        if let Some(slot) = self.slot_or_new(key, now) {
            slot.uses = slot.uses.saturating_add(1);
        }
    }

    /// A layer is used once less. Nobody can take back what was not there.
    pub(crate) fn use_once_less(&mut self, key: &Key, now: Instant) {
        if let Some(slot) = self.slot(key) {
            if slot.uses == 0 {
                tracing::debug!(reference = &*key.reference, layer = %key.name, "a layer was released that nobody uses");
            }
            slot.uses = slot.uses.saturating_sub(1);
            if slot.uses == 0 {
                (slot.seen, slot.released) = (now, true);
            }
        }
    }

    pub(crate) fn uses(&self, key: &Key) -> u64 {
        let image = self.images.get(&key.reference);
        image.and_then(|image| image.names.get(&key.name)).map_or(0, |slot| slot.uses)
    }

    /// What is to be written down of an image.
    pub(crate) fn used(&self, reference: &str) -> BTreeMap<Digest, Used> {
        let names = self.images.get(reference).into_iter().flat_map(|image| &image.names);
        let used = names.filter(|(_, slot)| slot.uses > 0);
        used.map(|(name, slot)| (*name, Used { uses: slot.uses, layer: slot.known.clone() })).collect()
    }

    /// What was written down of a layer by a former process.
    pub(crate) fn restore(&mut self, key: &Key, used: Used, now: Instant) {
        if let Some(slot) = self.slot_or_new(key, now) {
            (slot.uses, slot.known) = (used.uses, used.layer);
        }
    }

    /// Forgets what nobody needs: old failures, names that led nowhere, images without any. Returns the layers that are to
    /// be hidden, and the images that were forgotten.
    pub(crate) fn sweep(&mut self, holds: Holds, now: Instant) -> (Vec<Key>, Vec<Arc<str>>) {
        let old = |failed: &(Failure, Instant)| now.duration_since(failed.1) >= holds.failed;
        let mut due = Vec::new();
        for (reference, image) in &mut self.images {
            image.failed = image.failed.take().filter(|failed| !old(failed));
            for (name, slot) in &mut image.names {
                slot.failed = slot.failed.take().filter(|failed| !old(failed));
                if slot.ready.is_some() && slot.is_due(holds, now) {
                    due.push(Key { reference: reference.clone(), name: *name });
                }
            }
            image.names.retain(|_, slot| slot.ready.is_some() || !slot.is_due(holds, now));
        }
        let gone: Vec<_> = self
            .images
            .iter()
            .filter(|(_, image)| image.names.is_empty() && now.duration_since(image.seen) >= holds.looked_up)
            .map(|(reference, _)| reference.clone())
            .collect();
        for reference in &gone {
            self.images.remove(reference);
        }
        (due, gone)
    }
}

impl KnownImage {
    /// Whether nothing is lost with it.
    fn is_idle(&self) -> bool {
        self.names.values().all(|slot| slot.uses == 0 && slot.ready.is_none())
    }
}

impl Slot {
    /// Whether nobody uses the layer, or is about to.
    fn is_due(&self, holds: Holds, now: Instant) -> bool {
        let hold = if self.released { holds.released } else { holds.looked_up };
        self.uses == 0 && now.duration_since(self.seen) >= hold
    }
}
