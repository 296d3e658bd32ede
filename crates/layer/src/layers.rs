//! All layers below one root: from a layer's digest to its [`Layer`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use format::Digest;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::task::JoinHandle;

use crate::cache::{Cache, CacheBudget};
use crate::error::{Error, Kind};
use crate::fetch::EngineOptions;
use crate::fetch::memo::Memo;
use crate::image::remove_dir;
use crate::layer::Layer;
use crate::source::BlobSource;

/// Limits and places.
#[derive(Clone, Debug)]
pub struct LayersOptions {
    /// Where the layers lie: `<root>/<algorithm>/<hex>/`.
    pub root: PathBuf,
    /// Bounds for untrusted TOCs.
    pub limits: format::Limits,
    /// How much of a blob's end is asked for at first, bytes. A TOC that fits costs no second request.
    pub tail: u64,
    /// Largest compressed TOC, bytes.
    pub toc_max: u64,
    /// Requests for contents at once, for each layer.
    pub requests: usize,
    /// Decompressions at once, over all layers.
    pub decoders: usize,
    /// After this a read that waits for the network fails.
    pub read_timeout: Duration,
    /// How often in a row a broken answer is asked for again without any progress.
    pub attempts: u32,
    /// Largest request for contents, bytes of the blob.
    pub job_max: u64,
    /// How much of the disk the layers may take.
    pub cache: CacheBudget,
}

impl LayersOptions {
    /// The defaults, below `root`.
    pub fn new(root: impl Into<PathBuf>) -> LayersOptions {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        LayersOptions {
            root: root.into(),
            limits: format::Limits::default(),
            tail: 256 << 10,
            toc_max: 128 << 20,
            requests: 8,
            decoders: cores * 2,
            read_timeout: Duration::from_secs(300),
            attempts: 5,
            job_max: 8 << 20,
            cache: CacheBudget::default(),
        }
    }
}

/// Contents in memory that the disk had no room for, bytes.
const UNKEPT_MAX: usize = 32 << 20;

/// How long a process that was killed may take to let go of the root.
const DYING: Duration = Duration::from_secs(1);

/// The layers below one root, which one process owns at a time.
///
/// One lock guards the table of live layers and is never held over an await; a layer is renamed out of sight under it,
/// so that nobody begins to load what is about to go. Resolving is one flight for each digest,
/// run as a task: a caller that goes away does not stop it for the others.
#[derive(Debug)]
pub struct Layers {
    pub(crate) options: LayersOptions,
    pub(crate) engine: EngineOptions,
    pub(crate) cache: Arc<Cache>,
    live: Mutex<HashMap<Digest, Arc<OnceCell<Arc<Layer>>>>>,
    temporary: AtomicU64,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// Held for as long as this process owns the root.
    _lock: File,
}

/// What an image's manifest says of a layer's TOC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Its digest: the annotation `containerd.io/snapshot/stargz/toc.digest`.
    Toc(Digest),
    /// The digest of its compressed bytes: the annotation `io.github.containers.zstd-chunked.manifest-checksum`.
    CompressedToc(Digest),
}

impl From<Digest> for Pin {
    fn from(toc: Digest) -> Pin {
        Pin::Toc(toc)
    }
}

/// A layer whose TOC was not yet compared with the digest that the manifest pins.
#[derive(Debug)]
pub struct Resolved(Arc<Layer>);

impl Resolved {
    /// The layer, if its TOC is the one that is expected.
    ///
    /// # Errors
    /// [`Kind::Integrity`].
    pub fn verify(self, pin: &Pin) -> Result<Arc<Layer>, Error> {
        self.0.check_toc(pin)?;
        Ok(self.0)
    }

    /// The layer without any proof that the TOC is the one that the image's author meant. Says so in the log.
    pub fn trust_unverified(self, reason: &str) -> Arc<Layer> {
        tracing::warn!(layer = %self.0.digest(), reason, "layer is used without verification of its TOC");
        self.0
    }
}

impl Layers {
    /// Takes the root over. Leftovers of a crash are removed.
    ///
    /// Must be called within a tokio runtime. Blocks on the disk, and for up to a second on a process that is dying.
    ///
    /// # Errors
    /// Another process owns the root, or it can't be written.
    pub fn open(options: LayersOptions) -> Result<Arc<Layers>, Error> {
        let root = &options.root;
        let io = |error| Error::disk(format!("open layer root {}", root.display()), error);
        // Contents are here without the modes that they have inside the image.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(io)?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(io)?;
        let lock = File::create(root.join("lock")).map_err(io)?;
        let started = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // One that was killed holds its lock until the kernel has closed all its files.
                Err(fs::TryLockError::WouldBlock) if started.elapsed() < DYING => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    let root = root.display();
                    let what =
                        format!("{root} is in use by another process; stop it, or choose another directory");
                    return Err(Error::new(Kind::Disk, what));
                }
                Err(fs::TryLockError::Error(error)) => return Err(io(error)),
            }
        }
        for entry in fs::read_dir(root).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name().as_encoded_bytes().starts_with(b"new-") {
                remove_dir(&entry.path())?;
            }
        }
        let dirty = Arc::new(Notify::new());
        let engine = EngineOptions {
            requests: options.requests,
            decoders: Arc::new(Semaphore::new(options.decoders)),
            read_timeout: options.read_timeout,
            attempts: options.attempts,
            job_max: options.job_max,
            dirty: dirty.clone(),
            traffic: Arc::default(),
            siblings: Arc::default(),
            memo: Arc::new(Memo::new(UNKEPT_MAX)),
            full: Arc::default(),
            tallies: Arc::default(),
            cache: Arc::new(Cache::new(options.root.clone(), options.cache)),
        };
        let full = engine.full.clone();
        let layers = Arc::new(Layers {
            cache: engine.cache.clone(),
            options,
            engine,
            live: Mutex::default(),
            temporary: AtomicU64::new(0),
            flusher: Mutex::default(),
            _lock: lock,
        });
        layers.take_stock()?;
        let flusher = tokio::spawn(crate::flush::run(Arc::downgrade(&layers), dirty, full));
        *layers.flusher.lock().unwrap_or_else(PoisonError::into_inner) = Some(flusher);
        Ok(layers)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Digest, Arc<OnceCell<Arc<Layer>>>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dir_of(&self, digest: &Digest) -> PathBuf {
        crate::cache::dir_of(&self.options.root, digest)
    }

    /// Where a layer's image file is, or would be.
    pub fn image_path(&self, digest: &Digest) -> PathBuf {
        self.dir_of(digest).join(crate::image::IMAGE_FILE)
    }

    /// The layer with this digest: the live one, the one on disk (no request is made), or a new one from the TOC in
    /// its blob. `expected` makes a wrong TOC fail before anything is built of it; [`Resolved`] checks it again.
    ///
    /// # Errors
    /// [`Kind::NotLazy`] for an ordinary layer, else what went wrong. Nothing is remembered of a failure.
    pub async fn resolve(
        self: &Arc<Self>,
        digest: Digest,
        expected: Option<Pin>,
        source: Arc<dyn BlobSource>,
    ) -> Result<Resolved, Error> {
        let cell = self.live().entry(digest).or_default().clone();
        let mut new = false;
        let result = cell
            .get_or_try_init(|| {
                new = true;
                let (layers, source) = (self.clone(), source.clone());
                async move {
                    let task =
                        tokio::spawn(async move { layers.load_or_build(digest, expected, source).await });
                    task.await.unwrap_or_else(|error| {
                        Err(Error::with_source(Kind::Closed, "resolving did not end well", error))
                    })
                }
            })
            .await
            .cloned();
        match result {
            Ok(layer) => {
                if !new {
                    layer.set_source(source);
                }
                self.note_use(&layer);
                Ok(Resolved(layer))
            }
            Err(error) => {
                self.forget_failed(&digest);
                Err(error.of_layer(&digest))
            }
        }
    }

    /// What happened to all layers since the root was taken over.
    pub fn totals(&self) -> crate::tally::Totals {
        self.engine.tallies.totals()
    }

    /// A container is about to start: what nobody waits for keeps still for a while.
    pub fn starting(&self) {
        self.engine.traffic.starting();
    }

    /// Failures leave nothing in the table, unless somebody else is trying just now.
    fn forget_failed(&self, digest: &Digest) {
        let mut live = self.live();
        if live.get(digest).is_some_and(|cell| !cell.initialized() && Arc::strong_count(cell) <= 2) {
            live.remove(digest);
        }
    }

    /// The layers that are on disk, live or not.
    ///
    /// # Errors
    /// The root can't be read.
    pub fn on_disk(&self) -> Result<Vec<Digest>, Error> {
        let root = &self.options.root;
        crate::cache::digests(root)
            .map_err(|error| Error::disk(format!("list the layers in {}", root.display()), error))
    }

    /// Forgets a layer and removes it from the disk. Readers that still hold it keep its files until they let go.
    ///
    /// When this returns, the layer is out of sight: whoever resolves the digest now gets a new one. The future frees
    /// the disk space; without it, that happens at the next start.
    pub fn remove(&self, digest: &Digest) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let renamed = {
            let mut live = self.live();
            if let Some(layer) = live.remove(digest).and_then(|cell| cell.get().cloned()) {
                layer.close();
            }
            self.out_of_sight(digest)
        };
        async move {
            let rubbish = renamed?;
            blocking(move || remove_dir(&rubbish)).await
        }
    }

    /// Whether somebody holds the layer, or is about to.
    pub(crate) fn held(&self, digest: &Digest) -> bool {
        self.live().get(digest).is_some_and(is_held)
    }

    /// Does something to the files of a layer that is not live, while nobody begins to load it.
    pub(crate) fn while_not_live(
        &self,
        digest: &Digest,
        work: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let live = self.live();
        if live.contains_key(digest) {
            return Err(
                Error::new(Kind::Closed, "the layer has just come into use; try again").of_layer(digest)
            );
        }
        work()
    }

    /// Forgets a layer, unless somebody holds it or is about to. Returns what is left to be removed.
    pub(crate) fn take_unused(&self, digest: &Digest) -> Result<Option<PathBuf>, Error> {
        let mut live = self.live();
        if live.get(digest).is_some_and(is_held) {
            return Ok(None);
        }
        if let Some(layer) = live.remove(digest).and_then(|cell| cell.get().cloned()) {
            layer.close();
        }
        self.out_of_sight(digest).map(Some)
    }

    /// Gives a layer's directory a name that means nothing. To be called with the table locked.
    fn out_of_sight(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let (dir, rubbish) = (self.dir_of(digest), self.temporary_dir());
        match fs::rename(&dir, &rubbish) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::disk(format!("remove {}", dir.display()), error));
            }
            _ => {}
        }
        self.cache.ledger().forget(digest);
        Ok(rubbish)
    }

    /// A name that nobody else uses, for what is being made or removed. Leftovers are removed at the next start.
    pub(crate) fn temporary_dir(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.options.root.join(format!("new-{number}"))
    }

    /// Every live layer.
    pub fn all(&self) -> Vec<Arc<Layer>> {
        self.live().values().filter_map(|cell| cell.get().cloned()).collect()
    }

    /// Makes everything that was filled until now durable. Failures are logged and owed to the next flush.
    pub async fn flush(&self) {
        let layers = self.all();
        let flushed = blocking(move || {
            for layer in layers {
                if let Err(error) = layer.flush() {
                    tracing::warn!(%error, "filled chunks are not durable yet");
                }
            }
            Ok(())
        });
        if let Err(error) = flushed.await {
            tracing::warn!(%error, "flush did not run");
        }
    }

    /// Ends all fetches and flushes. The layers stay on disk.
    pub async fn close(&self) {
        for layer in self.all() {
            layer.close();
        }
        self.flush().await;
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(flusher) = flusher {
            flusher.abort();
        }
    }
}

/// Whether anybody but the table has this layer. To be asked with the table locked: nobody gets it meanwhile.
fn is_held(cell: &Arc<OnceCell<Arc<Layer>>>) -> bool {
    Arc::strong_count(cell) > 1 || cell.get().is_none_or(|layer| Arc::strong_count(layer) > 1)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::with_source(Kind::Closed, "work on the disk did not end well", error))
    })
}
