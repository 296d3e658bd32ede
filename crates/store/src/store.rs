//! The store: who looks for what, what is shown, who uses it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mount::{Ending, NameOptions, NameServer, Session};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use crate::engine::{Engine, Failure, Shown, Wanted};
use crate::image::Image;
use crate::info;
use crate::names::{Bytes, LAYERS, Tree};
use crate::pool::{Known, Pool};
use crate::state::{Holds, Key, Ready, State};

/// Layers that are shown again at a time after a restart.
const RESTORED_AT_ONCE: usize = 8;
/// An image is not asked for again within this time, if a layer is looked for that it does not have.
const REFRESH: Duration = Duration::from_secs(2);

/// Places and times.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clients look for layers.
    pub mount_point: PathBuf,
    /// State: `pool` is made in it.
    pub root: PathBuf,
    /// How the tree is mounted.
    pub names: NameOptions,
    /// Whoever looks for a layer waits for so long, then hears that there is none. Whatever was begun goes on.
    pub lookup_deadline: Duration,
    /// A layer that was looked for is shown for so long without being used.
    pub hold_looked_up: Duration,
    /// A layer is hidden so long after its last user let go of it.
    pub hold_released: Duration,
    /// For so long nobody tries again what has failed.
    pub hold_failed: Duration,
}

impl Options {
    /// The defaults.
    pub fn new(mount_point: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Options {
        Options {
            mount_point: mount_point.into(),
            root: root.into(),
            names: NameOptions::default(),
            lookup_deadline: Duration::from_secs(20),
            hold_looked_up: Duration::from_secs(120),
            hold_released: Duration::from_secs(5),
            hold_failed: Duration::from_secs(5),
        }
    }
}

/// A store that is mounted.
pub struct Store {
    inner: Arc<Inner>,
    server: NameServer,
    sweeper: JoinHandle<()>,
    restorer: JoinHandle<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("mount_point", &self.inner.options.mount_point).finish_non_exhaustive()
    }
}

impl Store {
    /// Mounts the tree, on which nothing may be mounted. Layers that clients used when a former process ended are shown again, in the
    /// background.
    ///
    /// Must be called within a tokio runtime. Blocks.
    ///
    /// # Errors
    /// The pool cannot be read, or the kernel refuses the mount.
    pub fn open(options: Options, engine: Arc<dyn Engine>) -> io::Result<Store> {
        let pool = Pool::open(options.root.join("pool"))?;
        let mut state = State::default();
        let used = restore(&pool, &mut state)?;
        let inner = Arc::new_cyclic(|weak| Inner {
            weak: weak.clone(),
            pool: Arc::new(pool),
            state: Mutex::new(state),
            mounts: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            asking: Mutex::default(),
            engine,
            options,
        });
        let options = &inner.options;
        let session = Session::mount_names(&options.mount_point, &options.names).map_err(io::Error::other)?;
        let tree = Arc::new(Tree::new(inner.clone()));
        let server = NameServer::start(session, &options.names, tokio::runtime::Handle::current(), tree)
            .map_err(io::Error::other)?;
        let restorer = tokio::spawn(inner.clone().restore(used));
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&inner)));
        Ok(Store { inner, server, sweeper, restorer })
    }

    /// Unmounts everything. What clients use is remembered. Layers that containers have stacked go on to be there for them.
    ///
    /// # Errors
    /// Something stays mounted.
    pub async fn close(self) -> io::Result<()> {
        self.sweeper.abort();
        self.restorer.abort();
        let shown: Vec<_> =
            self.inner.mounts().iter().map(|(name, mount)| (name.clone(), mount.clone())).collect();
        let mut failed = None;
        for (name, mount) in shown {
            let mut mount = mount.lock().await;
            if mount.shown.take().is_some()
                && let Err(error) = self.inner.engine.hide(&self.inner.path_of(&name)).await
            {
                failed = Some(io::Error::other(error));
            }
        }
        let server = self.server;
        let unmounted = tokio::task::spawn_blocking(move || server.shutdown(Ending::Unmount)).await;
        unmounted.map_err(io::Error::other)?.map_err(io::Error::other)?;
        failed.map_or(Ok(()), Err)
    }
}

/// Reads what a former process wrote down.
fn restore(pool: &Pool, state: &mut State) -> io::Result<Vec<Key>> {
    let now = Instant::now();
    let mut keys = Vec::new();
    for uses in pool.read()? {
        let reference: Arc<str> = uses.reference.into();
        let Ok(parsed) = reference.parse() else {
            tracing::warn!(reference = &*reference, "the pool has an image whose name is none");
            continue;
        };
        if state.see(&reference, parsed, now).is_none() {
            tracing::warn!(
                reference = &*reference,
                "there are more images in use than can be known at a time"
            );
            continue;
        }
        for (name, used) in uses.layers {
            let key = Key { reference: reference.clone(), name };
            state.restore(&key, used, now);
            keys.push(key);
        }
    }
    Ok(keys)
}

/// What the tree, the tasks and the store share.
#[derive(Debug)]
pub(crate) struct Inner {
    weak: Weak<Inner>,
    engine: Arc<dyn Engine>,
    pool: Arc<Pool>,
    pub(crate) options: Options,
    state: Mutex<State>,
    /// The directories of layers, by name; a name is a function of the layer's digest.
    mounts: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Mount>>>>,
    /// Held by whoever writes to the pool.
    writing: tokio::sync::Mutex<()>,
    /// Held, for each image, by whoever asks its registry for it.
    asking: Mutex<HashMap<Arc<str>, Weak<tokio::sync::Mutex<()>>>>,
}

/// A directory of a layer.
#[derive(Debug, Default)]
struct Mount {
    shown: Option<Shown>,
    /// The names under which clients know it.
    holders: HashSet<Key>,
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Changed by single steps, each of which leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mounts(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<Mount>>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pool(&self) -> &Path {
        self.pool.dir()
    }

    /// The directories of layers.
    pub(crate) fn mount_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.mounts().keys().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn has_mount(&self, name: &str) -> bool {
        self.mounts().contains_key(name)
    }

    fn path_of(&self, mount: &str) -> PathBuf {
        self.options.mount_point.join(LAYERS).join(mount)
    }

    /// The layer, shown. Within the deadline, and at once if it failed just now.
    pub(crate) async fn ready(&self, key: &Key) -> io::Result<Arc<Ready>> {
        let now = Instant::now();
        if let Some(ready) = self.state().look(key, now) {
            return Ok(ready);
        }
        let since = now.checked_sub(self.options.hold_failed);
        let failed = self.state().failure(key, since);
        let result = match (failed, self.weak.upgrade()) {
            (Some(failure), _) => Err(failure),
            (None, None) => Err(Failure::Layer("the store is closing".into())),
            (None, Some(inner)) => {
                // A task, so that what is under way when the waiting ends is not lost.
                let (showing, wanted) = (key.clone(), key.clone());
                let task = tokio::spawn(async move { inner.show(&showing, now).await });
                match tokio::time::timeout(self.options.lookup_deadline, task).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(Failure::Layer("showing the layer did not end well".into())),
                    Err(_) => {
                        let text = format!("no answer within {:?}", self.options.lookup_deadline);
                        let failure = Failure::Image(text);
                        self.state().fail(&wanted, failure.clone(), Instant::now());
                        self.report(&wanted, &failure);
                        Err(failure)
                    }
                }
            }
        };
        result.map_err(|failure| self.errno_of(key, &failure).into())
    }

    /// What a client hears: that there is no such layer, upon which it pulls it in its own way; or, if it has the layer in use and
    /// nothing else to fall back on, that something is broken.
    fn errno_of(&self, key: &Key, failure: &Failure) -> Errno {
        match (self.state().uses(key), failure) {
            (0, _) => Errno::NOENT,
            _ => Errno::IO,
        }
    }

    fn report(&self, key: &Key, failure: &Failure) {
        let (reference, layer) = (&*key.reference, &key.name);
        match failure {
            Failure::NotLazy(reason) => {
                tracing::info!(reference, %layer, reason, "layer is left to be pulled in full");
            }
            Failure::Layer(reason) | Failure::Image(reason) => {
                tracing::warn!(reference, %layer, reason, "layer cannot be shown");
            }
        }
    }

    /// Shows the layer, unless that has failed since `asked`.
    async fn show(&self, key: &Key, asked: Instant) -> Result<Arc<Ready>, Failure> {
        let gone = || Failure::Layer("the image was forgotten meanwhile".into());
        let gate = self.state().gate(key).ok_or_else(gone)?;
        let _gate = gate.lock().await;
        {
            let state = self.state();
            if let Some(ready) = state.ready(key) {
                return Ok(ready);
            }
            if let Some(failure) = state.failure(key, Some(asked)) {
                return Err(failure);
            }
        }
        let started = Instant::now();
        let shown = match self.try_show(key).await {
            Ok((known, ready)) => {
                let mut state = self.state();
                state.show(key, known, ready.clone());
                Ok(ready)
            }
            Err(failure) => {
                self.state().fail(key, failure.clone(), Instant::now());
                self.report(key, &failure);
                Err(failure)
            }
        }?;
        tracing::info!(
            reference = &*key.reference,
            layer = %key.name,
            ms = started.elapsed().as_millis() as u64,
            "layer is shown"
        );
        Ok(shown)
    }

    async fn try_show(&self, key: &Key) -> Result<(Known, Arc<Ready>), Failure> {
        let known = self.state().known(key);
        let (wanted, known) = match known {
            Some(known) => known,
            None => self.find(key).await?,
        };
        let digest = wanted.layer.descriptor.digest;
        // Short, as the options of an overlay are; long enough that nobody finds two layers with the same name.
        let name = digest.hex().chars().take(32).collect::<String>();
        let mut mount = self.lock_mount(&name).await;
        let shown = match mount.shown {
            Some(shown) if shown.is(&wanted.pin) => Ok(shown),
            Some(_) => Err(Failure::Layer(format!(
                "the table of contents of layer {digest} is not the one that the manifest means"
            ))),
            None => self.engine.show(&wanted, &self.path_of(&name)).await,
        };
        match shown {
            Ok(shown) => {
                mount.shown = Some(shown);
                mount.holders.insert(key.clone());
                let info = Arc::new(Bytes(info::of(&key.name, &wanted, &shown).into()));
                let blob = self.engine.blob(&wanted);
                Ok((known, Arc::new(Ready { mount: name, info, blob })))
            }
            Err(failure) => {
                self.drop_mount(&name, &mount);
                Err(failure)
            }
        }
    }

    /// The directory of a layer, for one user at a time.
    async fn lock_mount(&self, name: &str) -> tokio::sync::OwnedMutexGuard<Mount> {
        loop {
            let entry = self.mounts().entry(name.to_owned()).or_default().clone();
            let mount = entry.clone().lock_owned().await;
            // Whoever had it before may have dropped it.
            if self.mounts().get(name).is_some_and(|now| Arc::ptr_eq(now, &entry)) {
                return mount;
            }
        }
    }

    /// Forgets the directory of a layer that is not shown. To be called by whoever has it locked.
    fn drop_mount(&self, name: &str, mount: &Mount) {
        if mount.shown.is_none() {
            self.mounts().remove(name);
        }
    }

    /// Finds a layer of an image that nobody has used yet.
    async fn find(&self, key: &Key) -> Result<(Wanted, Known), Failure> {
        let gone = || Failure::Layer("the image was forgotten meanwhile".into());
        let reference = self.state().parsed(&key.reference).ok_or_else(gone)?;
        let image = self.image_with(key, &reference).await?;
        let (layer, pin) = match image.find(&key.name) {
            Some(found) => found?,
            None => {
                return Err(Failure::NotLazy("the image that the registry has now has no such layer".into()));
            }
        };
        let known = Known { manifest: image.digest, layer: layer.clone(), pin };
        let wanted = Wanted { reference, manifest: image.digest, layer: layer.clone(), pin };
        Ok((wanted, known))
    }

    /// The image, asked for again if it is not known to have the layer: names are given to other images.
    async fn image_with(&self, key: &Key, reference: &registry::Reference) -> Result<Arc<Image>, Failure> {
        let gate = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            asking.retain(|_, gate| gate.strong_count() > 0);
            match asking.get(&key.reference).and_then(Weak::upgrade) {
                Some(gate) => gate,
                None => {
                    let gate = Arc::default();
                    asking.insert(key.reference.clone(), Arc::downgrade(&gate));
                    gate
                }
            }
        };
        let asked = Instant::now();
        let _gate = gate.lock().await;
        let known = self.state().image(&key.reference);
        if let Some((image, at)) = known
            && (image.find(&key.name).is_some() || asked.saturating_duration_since(at) < REFRESH)
        {
            return Ok(image);
        }
        // Somebody else may have found out, while we waited, that it cannot be had.
        if let Some(failure) = self.state().failure(key, Some(asked)) {
            return Err(failure);
        }
        let image = Arc::new(self.engine.image(reference).await?);
        self.state().set_image(&key.reference, image.clone(), Instant::now());
        let (pool, name, kept) = (self.pool.clone(), key.reference.clone(), image.clone());
        let kept = tokio::task::spawn_blocking(move || pool.keep(&name, &kept)).await;
        if let Err(error) = kept.map_err(io::Error::other).and_then(|kept| kept) {
            tracing::warn!(reference = &*key.reference, %error, "manifest and config of an image are not kept");
        }
        Ok(image)
    }

    /// Notes that a layer is used once more, or once less.
    pub(crate) async fn count(&self, key: &Key, more: bool) {
        let _writing = self.writing.lock().await;
        let layers = {
            let mut state = self.state();
            match more {
                true => state.use_once_more(key, Instant::now()),
                false => state.use_once_less(key, Instant::now()),
            }
            state.used(&key.reference)
        };
        let (pool, reference) = (self.pool.clone(), key.reference.clone());
        let written = tokio::task::spawn_blocking(move || pool.write(&reference, layers)).await;
        // The count in memory holds, and is written again with the next one.
        if let Err(error) = written.map_err(io::Error::other).and_then(|written| written) {
            tracing::error!(reference = &*key.reference, %error, "uses of a layer would be forgotten at a restart");
        }
    }

    async fn restore(self: Arc<Self>, keys: Vec<Key>) {
        let count = keys.len();
        let all = keys.into_iter().map(|key| {
            let inner = self.clone();
            async move { inner.ready(&key).await.is_ok() }
        });
        let shown = futures_util::stream::iter(all).buffer_unordered(RESTORED_AT_ONCE);
        let shown = shown.filter(|shown| std::future::ready(*shown)).count().await;
        if count > 0 {
            tracing::info!(shown, in_use = count, "layers in use are shown again");
        }
        if shown == count {
            self.engine.settled().await;
        }
    }

    /// Hides layers that nobody uses, and forgets images that nobody asks for.
    async fn sweep(&self) {
        let (holds, now) = (self.options.holds(), Instant::now());
        let (due, gone) = self.state().sweep(holds, now);
        for key in due {
            self.hide(&key, holds).await;
        }
        for reference in gone {
            let _writing = self.writing.lock().await;
            if self.state().knows(&reference) {
                continue;
            }
            let (pool, name) = (self.pool.clone(), reference.clone());
            let removed = tokio::task::spawn_blocking(move || pool.remove(&name)).await;
            if let Err(error) = removed.map_err(io::Error::other).and_then(|removed| removed) {
                tracing::warn!(reference = &*reference, %error, "an image that is not used stays in the pool");
            }
        }
    }

    async fn hide(&self, key: &Key, holds: Holds) {
        let Some(gate) = self.state().gate(key) else { return };
        // Somebody is showing it just now.
        let Ok(_gate) = gate.try_lock() else { return };
        let Some(ready) = self.state().hide(key, holds, Instant::now()) else { return };
        let Some(entry) = self.mounts().get(&ready.mount).cloned() else { return };
        let mut mount = entry.lock().await;
        mount.holders.remove(key);
        if !mount.holders.is_empty() || mount.shown.is_none() {
            return;
        }
        match self.engine.hide(&self.path_of(&ready.mount)).await {
            Ok(()) => {
                mount.shown = None;
                self.drop_mount(&ready.mount, &mount);
                tracing::info!(reference = &*key.reference, layer = %key.name, "layer is not shown any more");
            }
            // It is still there, and is taken away when its next user is done with it.
            Err(error) => tracing::warn!(layer = %key.name, %error, "a layer that is not used stays mounted"),
        }
    }
}

impl Options {
    fn holds(&self) -> Holds {
        Holds { looked_up: self.hold_looked_up, released: self.hold_released, failed: self.hold_failed }
    }
}

/// Sweeps until the store is gone.
async fn sweep(inner: Weak<Inner>) {
    loop {
        let Some(every) =
            inner.upgrade().map(|inner| inner.options.hold_released.min(Duration::from_secs(5)) / 2)
        else {
            return;
        };
        tokio::time::sleep(every.max(Duration::from_millis(10))).await;
        let Some(inner) = inner.upgrade() else { return };
        inner.sweep().await;
    }
}
