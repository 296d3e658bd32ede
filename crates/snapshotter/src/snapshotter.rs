//! The snapshotter: snapshots in the [`Store`], their directories in [`Dirs`], lazily mounted layers in [`Layers`],
//! brought together as containerd expects.
//!
//! Whatever touches the disk runs on blocking threads. A directory exists before its snapshot does and goes after
//! it, so a crash leaves directories without a snapshot, never the reverse; [`Snapshotter::cleanup`] removes them.

mod lifecycle;
mod prepare;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{TryStreamExt, stream::FuturesUnordered};
use tokio::task::{JoinError, spawn_blocking};
use tracing::warn;

pub use self::lifecycle::{CloseReport, RestoreReport};
use crate::{
    Error, FileSystem,
    dirs::Dirs,
    idmap::{IdMap, Mapped},
    labels::Labels,
    layers::Layers,
    mounts,
    proto::types::Mount,
    store::{Commit, Info, Kind, RemoteLayer, Snapshot, Store, Usage},
    usage, userxattr,
};

/// Name of the database file below the root.
const DATABASE: &str = "snapshots.redb";

/// Database of the snapshotter that this one succeeds; only ever looked for.
const FOREIGN_DATABASE: &str = "metadata.db";

/// What overlayfs gives a meaning in its options, besides what ends a C string.
const UNUSABLE: [char; 4] = [':', ',', '\\', '\0'];

/// How a [`Snapshotter`] behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the database and the snapshots: the one that upstream calls `<root>/snapshotter`. Must be
    /// absolute and without `:`, `,` and `\`, which the options of an overlay mount cannot carry.
    pub root: PathBuf,
    /// Whether [`Snapshotter::restore`] succeeds although some layers could not be mounted again.
    pub allow_invalid_mounts_on_restart: bool,
    /// How long [`FileSystem::mount`] and [`FileSystem::unmount`] may take.
    pub mount_timeout: Duration,
    /// How long [`FileSystem::check`] may take. Layers are checked at the same time.
    pub check_timeout: Duration,
}

impl Options {
    /// The usual behaviour below `root`: a failed restore is an error; 30 seconds for each operation.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            allow_invalid_mounts_on_restart: false,
            mount_timeout: Duration::from_secs(30),
            check_timeout: Duration::from_secs(30),
        }
    }
}

/// Keeps snapshots for containerd: ordinary ones, and lazily mounted ones over a [`FileSystem`].
#[derive(Debug)]
pub struct Snapshotter {
    store: Store,
    dirs: Arc<Dirs>,
    layers: Arc<Layers>,
    mapped: Mapped,
    options: Options,
    userxattr: bool,
}

impl Snapshotter {
    /// Opens, or makes, the snapshots below `options.root`. Blocks on the disk. Mounts nothing: call
    /// [`Snapshotter::restore`] before serving.
    ///
    /// # Errors
    /// If the root cannot be used, or the database is in use by another process, unreadable or too new.
    pub fn open(options: Options, filesystem: Arc<dyn FileSystem>) -> Result<Arc<Self>, Error> {
        let root = &options.root;
        if !root.is_absolute() || root.to_str().is_none_or(|root| root.contains(UNUSABLE)) {
            return Err(Error::InvalidArgument(format!(
                "root directory {root:?} cannot be used in overlay mounts: choose an absolute path in utf-8 without colon, comma and backslash"
            )));
        }
        let dirs = Arc::new(Dirs::open(root)?);
        let store = Store::open(&root.join(DATABASE), dirs.highest()?)?;
        let userxattr = userxattr::needed(root)?;
        let mapped = Mapped::new(filesystem.clone());
        let layers = Layers::new(filesystem, dirs.clone(), options.mount_timeout, options.check_timeout);
        let this = Self { store, dirs, layers, mapped, options, userxattr };
        if this.foreign_database() {
            warn!(
                root = %this.options.root.display(),
                "found metadata.db of another stargz-snapshotter: its snapshots are unknown here, so remove and pull \
                 again the images that use them; it and their directories are left alone, and the directories are \
                 freed by the next cleanup once metadata.db is deleted"
            );
        }
        Ok(Arc::new(this))
    }

    /// Tells how to mount an active snapshot or a view.
    pub(crate) async fn mounts(self: &Arc<Self>, key: String) -> Result<Vec<Mount>, Error> {
        let (snapshot, labels, layers) = self
            .blocking(move |this| {
                let snapshot = this.store.snapshot(&key)?;
                Ok((snapshot, this.store.info(&key)?.labels, this.store.remote_chain(&key)?))
            })
            .await?;
        let map = IdMap::of(&labels)?;
        self.available(layers.clone()).await?;
        self.blocking(move |this| this.mounts_of(&snapshot, &layers, map.as_ref())).await
    }

    /// Turns an active snapshot into a committed one, and measures it.
    pub(crate) async fn commit(self: &Arc<Self>, mut commit: Commit) -> Result<(), Error> {
        self.blocking(move |this| {
            // A key that cannot be committed is refused below, in the order of containerd's own checks.
            if let Ok((id, Kind::Active, _)) = this.store.usage(&commit.key) {
                commit.usage = usage::of(&this.dirs.fs(id))?;
            }
            this.store.commit(commit)
        })
        .await
    }

    /// Forgets a snapshot. What it has on disk goes with the next [`Snapshotter::cleanup`].
    pub(crate) async fn remove(self: &Arc<Self>, key: String) -> Result<(), Error> {
        self.blocking(move |this| this.store.remove(&key)).await
    }

    /// Describes a snapshot.
    pub(crate) async fn stat(self: &Arc<Self>, key: String) -> Result<Info, Error> {
        self.blocking(move |this| this.store.info(&key)).await
    }

    /// Changes the labels of a snapshot, as far as `paths` say.
    pub(crate) async fn update(
        self: &Arc<Self>,
        name: String,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<Info, Error> {
        self.blocking(move |this| this.store.update(&name, &labels, &paths)).await
    }

    /// What a snapshot takes on disk: measured now for an active one, asked of its filesystem for a lazily mounted layer,
    /// else what it was when it was committed.
    pub(crate) async fn usage(self: &Arc<Self>, key: String) -> Result<Usage, Error> {
        self.blocking(move |this| match this.store.usage(&key)? {
            (id, Kind::Active, _) => usage::of(&this.dirs.fs(id)),
            (id, Kind::Committed, stored) => Ok(this.layers.usage(id).unwrap_or(stored)),
            (_, _, stored) => Ok(stored),
        })
        .await
    }

    /// The database, for reading it in pages.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Checks all `layers` at the same time; the first that cannot be read is the error.
    async fn available(&self, layers: Vec<RemoteLayer>) -> Result<(), Error> {
        let check = |layer: RemoteLayer| async move {
            self.layers.available(&layer).await.map_err(|source| {
                let RemoteLayer { id, name, .. } = layer;
                Error::Unavailable { name, id, source }
            })
        };
        layers.into_iter().map(check).collect::<FuturesUnordered<_>>().try_collect().await
    }

    /// How to mount `snapshot`, whose lazily mounted layers are `layers`, in a container whose ids are others outside as
    /// `map` says. Blocks.
    fn mounts_of(
        &self,
        snapshot: &Snapshot,
        layers: &[RemoteLayer],
        map: Option<&IdMap>,
    ) -> Result<Vec<Mount>, Error> {
        let mut lowers: Vec<_> = snapshot.parents.iter().map(|id| self.dirs.fs(*id)).collect();
        lowers.extend(self.layers.below(layers));
        if let (Some(map), Some(nearest)) = (map, snapshot.parents.first()) {
            // Where containerd does not know that this can be done, it has made a copy with the right owners already.
            if self.dirs.owner(*nearest)? != map.root()? {
                lowers = self.mapped.lowers(snapshot.id, &self.dirs.of(snapshot.id), &lowers, map)?;
            }
        }
        Ok(mounts::of(snapshot, &lowers, &self.dirs, self.userxattr))
    }

    fn foreign_database(&self) -> bool {
        self.options.root.join(FOREIGN_DATABASE).exists()
    }

    /// Runs `f` where it may block. It runs to its end even if nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        spawn_blocking(move || f(&this)).await.unwrap_or_else(ended)
    }
}

/// The result of a task that has none: its panic goes on here, and only a runtime that ends cancels it.
fn ended<T>(error: JoinError) -> Result<T, Error> {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(Error::ShuttingDown),
    }
}
