//! The file system behind the snapshotter: from a snapshot's labels to a mounted layer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use format::Digest;
use futures_util::{StreamExt as _, stream};
use layer::source::{BlobSource, IpfsLayer, RegistryLayer};
use layer::{Background, Layer, Layers, Pin};
use mount::IdMaps;
use snapshotter::{FileSystem, FsError, IdMap, IdRange, Usage};
use tokio::sync::{Semaphore, watch};

use crate::config::policy::{ImagePolicy, LostNetwork, Profile};
use crate::labels::{self, LayerSource, Neighbour};
use crate::pins;
use crate::profile::{LayerProfile, Store};
use crate::shelf::{self, Shelf};
use crate::watch::book::Book;

/// What the operator allows and wants.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Layers with the `skipverify` label need no TOC digest.
    pub allow_no_verification: bool,
    /// No layer needs a TOC digest.
    pub disable_verification: bool,
    /// Prefetch on mount; `None` for none.
    pub prefetch: Option<Prefetch>,
    /// How many layers at once are completed in the background; `None` for none.
    pub background: Option<usize>,
    /// Read layers from IPFS whose manifest says where they are there.
    pub ipfs: bool,
    /// Before a start, make sure that what is missing can still be had.
    pub check: bool,
    /// How long a layer that was resolved ahead of its snapshot is kept.
    pub resolved_ttl: Duration,
    /// What containers read first.
    pub profile: Profile,
    /// What becomes of readers while a registry is away, by image; the first that fits counts.
    pub images: Vec<ImagePolicy>,
}

impl Policy {
    fn of_image(&self, image: &str) -> Option<&ImagePolicy> {
        self.images.iter().find(|policy| policy.is_for(image))
    }

    fn starts_complete(&self, image: &str) -> bool {
        self.of_image(image).is_some_and(|policy| policy.lost_network == LostNetwork::Complete)
    }
}

/// How layers are prefetched.
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// Bytes, for images without a landmark and without a label.
    pub size: u64,
    /// How long a start waits for it.
    pub wait: Duration,
    /// A start does not wait for more bytes than this.
    pub hold_up_to: Option<u64>,
}

/// What the operator says and a reload can change.
#[derive(Clone, Debug)]
struct Rules {
    client: registry::Client,
    policy: Policy,
    background: Option<Background>,
}

impl Rules {
    fn new(client: registry::Client, policy: Policy) -> Rules {
        Rules { client, background: policy.background.map(Background::new), policy }
    }
}

/// Layers that are resolved ahead at one time. Those that containerd asks for do not wait for them.
const RESOLVED_AHEAD_AT_ONCE: usize = 16;

/// Layers of a former process that are loaded at one time.
const LOADED_AT_ONCE: usize = 16;

/// Mounts layers lazily from registries.
///
/// The tables are behind short locks, never held over an await. A task that resolves a layer ahead
/// ends by itself after the layer's time to live, and with the runtime.
#[derive(Debug)]
pub struct LazyFs {
    /// What a reload can change, as it is now.
    rules: Mutex<Rules>,
    layers: Arc<Layers>,
    shelf: Arc<Shelf>,
    /// Where the layers that are mounted come from, by mount point.
    sources: Mutex<HashMap<PathBuf, LayerSource>>,
    /// Layers that were resolved ahead, and since when.
    ahead: Mutex<HashMap<Digest, Instant>>,
    /// Bounds the requests and the memory that a long list of neighbours can cost.
    ahead_permits: Semaphore,
    /// How many mounts of a layer are under way: such a layer is not taken away.
    mounting: Mutex<HashMap<Digest, usize>>,
    /// Prefetches by layer; the value turns true when nobody has to wait for it (any more).
    prefetches: Mutex<HashMap<Digest, watch::Receiver<bool>>>,
    closing: AtomicBool,
    book: Book,
    profiles: Arc<Store>,
    /// First reads that were seen and written down, by image.
    learned: Mutex<HashMap<String, Learned>>,
}

/// How many first reads of an image were seen, and how many of them are written down.
#[derive(Debug, Default)]
struct Learned {
    seen: usize,
    written: usize,
}

/// What to fetch ahead of a layer.
enum Ahead {
    /// Everything up to this byte of the blob.
    Upto(u64),
    /// The spans that begin at these bytes of the blob.
    Places(Vec<u64>),
}

/// A layer at a place where it is mounted.
#[derive(Debug)]
pub struct View {
    /// The place.
    pub path: PathBuf,
    /// The image for which it was mounted there.
    pub image: String,
    /// The layer.
    pub layer: Arc<Layer>,
    /// Whether its contents come through this program.
    pub served: bool,
}

impl LazyFs {
    /// A file system that shows layers on `shelf`.
    pub fn new(
        client: registry::Client,
        layers: Arc<Layers>,
        shelf: Arc<Shelf>,
        policy: Policy,
        profiles: Arc<Store>,
    ) -> Arc<LazyFs> {
        Arc::new(LazyFs {
            rules: Mutex::new(Rules::new(client, policy)),
            layers,
            shelf,
            sources: Mutex::default(),
            ahead: Mutex::default(),
            ahead_permits: Semaphore::new(RESOLVED_AHEAD_AT_ONCE),
            mounting: Mutex::default(),
            prefetches: Mutex::default(),
            closing: AtomicBool::new(false),
            book: Book::default(),
            profiles,
            learned: Mutex::default(),
        })
    }

    fn rules(&self) -> Rules {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How registries are reached now.
    pub fn client(&self) -> registry::Client {
        self.rules().client
    }

    fn policy(&self) -> Policy {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).policy.clone()
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<PathBuf, LayerSource>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened until now.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The profiles of this node.
    pub fn profiles(&self) -> &Arc<Store> {
        &self.profiles
    }

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

    /// How layers are shown that are not complete, and why so.
    pub fn backend(&self) -> (String, &str) {
        let (backend, reason) = self.shelf.backend();
        (backend.map_or_else(|| "none".to_owned(), |backend| backend.to_string()), reason)
    }

    /// Everything that is mounted.
    pub fn views(&self) -> Vec<View> {
        let sources: Vec<_> = {
            let sources = self.sources();
            sources.iter().map(|(path, from)| (path.clone(), from.reference.to_string())).collect()
        };
        let view = |(path, image): (PathBuf, String)| {
            let layer = self.shelf.at(&path)?;
            let served = self.shelf.serves(&layer.digest());
            Some(View { path, image, layer, served })
        };
        sources.into_iter().filter_map(view).collect()
    }

    /// Goes by these rules from now on, and reads what is mounted already from the registries that they name.
    pub fn obey(&self, client: registry::Client, policy: Policy) {
        // The session's deadline was made for these.
        let policy = Policy { images: self.policy().images, ..policy };
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Rules::new(client, policy);
        let sources: Vec<_> =
            self.sources().iter().map(|(path, from)| (path.clone(), from.clone())).collect();
        for (path, from) in sources {
            if let Some(layer) = self.shelf.at(&path) {
                layer.set_source(self.source_of(&from, from.digest, from.ipfs.as_deref()));
                self.complete(&layer);
            }
        }
    }

    /// From now on unmounting keeps what is on disk: the snapshots stay, only this process goes.
    pub fn closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Goes on with the layers of a former process, if it left a session that can be gone on with: those that are whole on
    /// disk. No registry is asked. A layer that cannot be had this way is left to be mounted anew.
    ///
    /// # Errors
    /// The kernel refuses every session.
    pub async fn go_on(
        self: &Arc<Self>,
        layers: Vec<(PathBuf, HashMap<String, String>)>,
    ) -> anyhow::Result<()> {
        let loaded = stream::iter(layers).map(|(path, labels)| async move {
            let layer = self.load(&labels).await?;
            Some((path, layer))
        });
        let loaded: Vec<_> =
            loaded.buffer_unordered(LOADED_AT_ONCE).filter_map(std::future::ready).collect().await;
        let shelf = self.shelf.clone();
        Ok(tokio::task::spawn_blocking(move || shelf.go_on(loaded)).await??)
    }

    /// A layer from the disk, the same image file that was there before.
    async fn load(self: &Arc<Self>, labels: &HashMap<String, String>) -> Option<Arc<Layer>> {
        let source = labels::parse(labels).ok()?;
        let before = shelf::identity(&self.layers.image_path(&source.digest))?;
        let loaded = self.resolve(&source).await;
        let layer = loaded.inspect_err(|error| tracing::warn!(layer = %source.digest, %error, "a layer of the former daemon is lost")).ok()?;
        (shelf::identity(&layer.image_path()) == Some(before)).then_some(layer)
    }

    /// Removes layers from the disk that no snapshot shows: leftovers of removals that a crash cut off. With a budget they
    /// stay, as all layers do that nobody uses.
    pub async fn remove_orphans(&self) {
        if self.layers.keeps_unused() {
            return;
        }
        let on_disk = self.layers.on_disk().unwrap_or_else(|error| {
            tracing::warn!(%error, "layers on disk are not known");
            Vec::new()
        });
        for digest in on_disk.iter().filter(|digest| !self.shelf.shows(digest)) {
            tracing::info!(layer = %digest, "removing a layer that no snapshot uses");
            self.forget(digest).await;
        }
    }

    /// Mounts a layer at an empty directory.
    ///
    /// # Errors
    /// It cannot be had, is not to be trusted, or the kernel refuses. Nothing is left mounted.
    pub async fn show(
        self: &Arc<Self>,
        source: &LayerSource,
        mountpoint: &Path,
    ) -> Result<Arc<Layer>, FsError> {
        let started = Instant::now();
        let shown = self.try_show(source, mountpoint).await;
        let (image, digest) = (source.reference.to_string(), source.digest.to_string());
        match &shown {
            Ok(_) => {
                self.book.note_mount(mountpoint, started.elapsed());
                self.book.forgive(&image, &digest);
            }
            Err(error) => self.book.note_refusal(&image, &digest, &error.to_string()),
        }
        shown
    }

    async fn try_show(
        self: &Arc<Self>,
        source: &LayerSource,
        mountpoint: &Path,
    ) -> Result<Arc<Layer>, FsError> {
        let _mounting = Mounting::new(self.clone(), source.digest);
        self.layers.starting();
        self.resolve_ahead(source);
        let layer = self.resolve(source).await?;
        let image = source.reference.to_string();
        if let Some(patience) = self.policy().of_image(&image).and_then(ImagePolicy::patience) {
            layer.set_read_timeout(patience);
        }
        self.fetch_ahead(&layer, source);
        let (shelf, path, shown) = (self.shelf.clone(), mountpoint.to_owned(), layer.clone());
        blocking(move || shelf.show(&shown, &path)).await?;
        self.sources().insert(mountpoint.to_owned(), source.clone());
        Ok(layer)
    }

    /// Unmounts what is shown at a directory.
    ///
    /// # Errors
    /// The kernel refuses, or no layer is shown there.
    pub async fn hide(&self, mountpoint: &Path) -> Result<(), FsError> {
        let (shelf, path) = (self.shelf.clone(), mountpoint.to_owned());
        let unused = blocking(move || shelf.hide(&path)).await?;
        self.sources().remove(mountpoint);
        self.book.note_unmount(mountpoint);
        match unused {
            Some(digest) if !self.closing.load(Ordering::Relaxed) => self.forget(&digest).await,
            _ => {}
        }
        Ok(())
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefetches(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<bool>>> {
        self.prefetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to resolve the other layers of the image, which containerd will ask for one after the other.
    fn resolve_ahead(self: &Arc<Self>, source: &LayerSource) {
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

    fn mounting(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.mounting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a layer away that nobody shows and nobody is about to show; with a budget it stays until its room is needed.
    async fn forget(&self, digest: &Digest) {
        let removal = {
            // Held, so that no mount begins between the question and the answer.
            let mounting = self.mounting();
            if mounting.contains_key(digest) || self.shelf.shows(digest) {
                return;
            }
            (!self.layers.keeps_unused()).then(|| self.layers.remove(digest))
        };
        self.prefetches().remove(digest);
        self.ahead().remove(digest);
        let Some(removal) = removal else { return self.layers.release(digest).await };
        if let Err(error) = removal.await {
            tracing::warn!(layer = %digest, %error, "a layer that is not used any more stays on disk");
        }
    }

    /// Where a layer of the same image comes from.
    fn source_of(&self, image: &LayerSource, digest: Digest, ipfs: Option<&str>) -> Arc<dyn BlobSource> {
        let Rules { client, policy, .. } = self.rules();
        let registry = RegistryLayer::new(&client, &image.reference, image.manifest, digest);
        let Some(url) = ipfs.filter(|_| policy.ipfs) else { return Arc::new(registry) };
        match client.ipfs_blob(url) {
            Ok(blob) => Arc::new(IpfsLayer::new(blob, registry)),
            Err(error) => {
                tracing::warn!(layer = %digest, %error, "a URL of a layer is not usable, so its registry is asked");
                Arc::new(registry)
            }
        }
    }

    /// The layer, if the policy lets it be used.
    async fn resolve(&self, source: &LayerSource) -> Result<Arc<Layer>, FsError> {
        let blob = self.source_of(source, source.digest, source.ipfs.as_deref());
        let failed = |error: layer::Error| FsError::from_error(&error);
        let policy = self.policy();
        let waived = if policy.disable_verification {
            Some("verification is disabled by configuration")
        } else if source.toc_digest.is_none() && source.skip_verify && policy.allow_no_verification {
            Some("the image's user asked for no verification")
        } else {
            None
        };
        if let Some(reason) = waived {
            let resolved = self.layers.resolve(source.digest, None, blob).await.map_err(failed)?;
            return Ok(resolved.trust_unverified(reason));
        }
        let pin = match (source.toc_digest, source.compressed_toc_digest) {
            (Some(toc), _) => Some(Pin::Toc(toc)),
            (None, Some(compressed)) => Some(Pin::CompressedToc(compressed)),
            (None, None) => {
                pins::of_manifest(&*blob).await.map_err(|error| FsError::new(error.to_string()))?
            }
        };
        let Some(pin) = pin else {
            return Err(FsError::new(format!(
                "layer {} has no digest of a table of contents in its manifest: an ordinary layer, or its \
                 annotations were lost",
                source.digest
            )));
        };
        let resolved = self.layers.resolve(source.digest, Some(pin), blob).await.map_err(failed)?;
        resolved.verify(&pin).map_err(failed)
    }

    /// Fetches what a start needs, then the rest.
    fn fetch_ahead(self: &Arc<Self>, layer: &Arc<Layer>, source: &LayerSource) {
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

    fn complete(&self, layer: &Arc<Layer>) {
        if let Some(background) = self.rules().background {
            background.fill(layer);
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

/// A mount that is under way.
struct Mounting {
    fs: Arc<LazyFs>,
    digest: Digest,
}

impl Mounting {
    fn new(fs: Arc<LazyFs>, digest: Digest) -> Mounting {
        *fs.mounting().entry(digest).or_default() += 1;
        Mounting { fs, digest }
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        let mut mounting = self.fs.mounting();
        if let Some(count) = mounting.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                mounting.remove(&self.digest);
            }
        }
    }
}

/// The same, shared: what the snapshotter holds.
#[derive(Clone, Debug)]
pub struct SharedFs(pub Arc<LazyFs>);

#[async_trait]
impl FileSystem for SharedFs {
    async fn mount(&self, mountpoint: &Path, labels: &HashMap<String, String>) -> Result<(), FsError> {
        let fs = &self.0;
        let source = match labels::parse(labels) {
            Ok(source) => source,
            Err(error) => {
                let known = |part: &str| labels.iter().find(|(label, _)| label.ends_with(part));
                let named = |part: &str| known(part).map_or("", |(_, value)| value.as_str());
                fs.book.note_refusal(named("image-ref"), named("layer-digest"), &error.to_string());
                return Err(FsError::from_error(&error));
            }
        };
        fs.show(&source, mountpoint).await.map(drop)
    }

    async fn check(&self, mountpoint: &Path, _labels: &HashMap<String, String>) -> Result<(), FsError> {
        self.0.layers.starting();
        let Some(layer) = self.0.shelf.at(mountpoint) else {
            return Err(FsError::new(format!("no layer is mounted at {}", mountpoint.display())));
        };
        let policy = self.0.policy();
        if policy.profile.record {
            layer.record_for(policy.profile.window());
        }
        let image = self.0.sources().get(mountpoint).map(|from| from.reference.to_string());
        if image.is_some_and(|image| policy.starts_complete(&image)) && !layer.complete() {
            layer.prefetch(u64::MAX).await.map_err(|error| {
                FsError::new(format!("the image starts only when it is complete (image_policy): {error}"))
            })?;
        }
        if policy.check {
            layer.check().await.map_err(|error| FsError::from_error(&error))?;
        }
        let (Some(policy), Some(mut done)) =
            (policy.prefetch, self.0.prefetches().get(&layer.digest()).cloned())
        else {
            return Ok(());
        };
        // A layer whose prefetch is slow or fails can be read all the same.
        let _ = tokio::time::timeout(policy.wait, done.wait_for(|done| *done)).await;
        Ok(())
    }

    async fn unmount(&self, mountpoint: &Path) -> Result<(), FsError> {
        self.0.hide(mountpoint).await
    }

    fn survives(&self, mountpoint: &Path) -> bool {
        self.0.shelf.at(mountpoint).is_some()
    }

    fn usage(&self, mountpoint: &Path) -> Option<Usage> {
        let taken = self.0.shelf.at(mountpoint)?.usage().ok()?;
        Some(Usage { size: taken.bytes, inodes: taken.inodes })
    }

    fn below(&self, mountpoints: &[PathBuf]) -> Option<PathBuf> {
        self.0.shelf.state_below(mountpoints)
    }

    fn show_mapped(&self, source: &Path, target: &Path, map: &IdMap) -> Result<(), FsError> {
        let ranges = |ranges: &[IdRange]| {
            let range = |&IdRange { inside, outside, len }: &IdRange| mount::IdRange { inside, outside, len };
            ranges.iter().map(range).collect()
        };
        let maps = IdMaps { uids: ranges(&map.uids), gids: ranges(&map.gids) };
        self.0.shelf.show_mapped(source, target, &maps).map_err(|error| FsError::from_error(&error))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, mount::Error> + Send + 'static,
) -> Result<T, FsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| FsError::from_error(&error)),
        Err(error) => Err(FsError::from_error(&error)),
    }
}
