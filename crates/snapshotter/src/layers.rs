//! Which lazily mounted layers are mounted, and the one way to get one mounted or away.
//!
//! Decides who mounts: many may ask for one layer, one attempt is made, all get its result. Attempts are bounded
//! in number and time, belong to a task of their own and so outlive whoever asked first.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};
use tracing::debug;

use crate::{
    Error, FileSystem, FsError,
    dirs::Dirs,
    error::Chain,
    labels::Labels,
    mountinfo,
    store::{RemoteLayer, Usage},
};

/// Most attempts to mount at one time: enough for the layers of a few images, and few enough for a start with
/// hundreds of layers not to look like an attack to the registry.
const MAX_ATTEMPTS: u32 = 32;

/// The lazily mounted layers of a root.
#[derive(Debug)]
pub(crate) struct Layers {
    filesystem: Arc<dyn FileSystem>,
    dirs: Arc<Dirs>,
    mount_timeout: Duration,
    check_timeout: Duration,
    slots: Arc<Semaphore>,
    /// Held for moments only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mounted: HashSet<u64>,
    /// Directories that have an owner although the store does not know them yet.
    reserved: HashSet<u64>,
    /// Attempts to mount layers that the store knows.
    flights: HashMap<u64, Flight>,
}

/// Where the result of an attempt appears.
type Flight = watch::Receiver<Option<Result<(), FsError>>>;

impl Layers {
    pub(crate) fn new(
        filesystem: Arc<dyn FileSystem>,
        dirs: Arc<Dirs>,
        mount_timeout: Duration,
        check_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            filesystem,
            dirs,
            mount_timeout,
            check_timeout,
            slots: Arc::new(Semaphore::new(MAX_ATTEMPTS as usize)),
            state: Mutex::default(),
        })
    }

    /// Takes hold of a directory number for a layer that the store does not know yet.
    pub(crate) async fn reserve(self: &Arc<Self>, id: u64) -> Result<Reservation, Error> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| Error::ShuttingDown)?;
        self.state().reserved.insert(id);
        Ok(Reservation { layers: self.clone(), id, _slot: slot })
    }

    /// Makes sure that a layer is mounted and can be read.
    pub(crate) async fn available(self: &Arc<Self>, layer: &RemoteLayer) -> Result<(), FsError> {
        self.mounted(layer).await?;
        let path = self.dirs.fs(layer.id);
        match timeout(self.check_timeout, self.filesystem.check(&path, &layer.labels)).await {
            Ok(checked) => checked,
            Err(_) => Err(FsError::new(format!("check did not end within {:?}", self.check_timeout))),
        }
    }

    /// Makes sure that a layer is mounted: at once if it is, else with the result of the attempt under way, or of
    /// a new one.
    pub(crate) async fn mounted(self: &Arc<Self>, layer: &RemoteLayer) -> Result<(), FsError> {
        let mut flight = {
            let mut state = self.state();
            if state.mounted.contains(&layer.id) {
                return Ok(());
            }
            let known = state.flights.get(&layer.id).cloned();
            known.unwrap_or_else(|| {
                let (landing, flight) = watch::channel(None);
                state.flights.insert(layer.id, flight.clone());
                tokio::spawn(self.clone().fly(layer.clone(), landing));
                flight
            })
        };
        let landed = flight.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        landed.unwrap_or_else(|| Err(FsError::new("the attempt to mount ended without a result")))
    }

    async fn fly(self: Arc<Self>, layer: RemoteLayer, landing: watch::Sender<Option<Result<(), FsError>>>) {
        // However this ends, the next one to ask may try again.
        let landed = Landed(&self, layer.id);
        let result = self.remount(&layer).await;
        if result.is_ok() {
            self.state().mounted.insert(layer.id);
        }
        drop(landed);
        landing.send_replace(Some(result));
    }

    async fn remount(&self, layer: &RemoteLayer) -> Result<(), FsError> {
        let closed = |_| FsError::from_error(&Error::ShuttingDown);
        let _slot = self.slots.acquire().await.map_err(closed)?;
        let (dirs, id) = (self.dirs.clone(), layer.id);
        let repaired = spawn_blocking(move || dirs.repair(id)).await.unwrap_or(Err(Error::ShuttingDown));
        repaired.map_err(|error| FsError::from_error(&error))?;
        let path = self.dirs.fs(id);
        let mounted = self.mount(&path, &layer.labels).await;
        if mounted.is_err() {
            // An attempt that ran out of time may have got there all the same.
            self.unmount(&path).await;
        }
        mounted
    }

    async fn mount(&self, path: &Path, labels: &Labels) -> Result<(), FsError> {
        match timeout(self.mount_timeout, self.filesystem.mount(path, labels)).await {
            Ok(mounted) => mounted,
            Err(_) => Err(FsError::new(format!("mount did not end within {:?}", self.mount_timeout))),
        }
    }

    async fn unmount(&self, path: &Path) {
        let error = match timeout(self.mount_timeout, self.filesystem.unmount(path)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => format!("did not end within {:?}", self.mount_timeout),
        };
        debug!(path = %path.display(), error, "layer not unmounted by its filesystem");
    }

    /// Whether what is mounted there is good.
    pub(crate) fn survives(&self, path: &Path) -> bool {
        self.filesystem.survives(path)
    }

    /// What layer `id` takes on disk, if it is a mounted layer.
    pub(crate) fn usage(&self, id: u64) -> Option<Usage> {
        let mounted = self.state().mounted.contains(&id);
        mounted.then(|| self.filesystem.usage(&self.dirs.fs(id))).flatten()
    }

    /// The filesystem's directory for the bottom of an overlay of these layers, the topmost first.
    pub(crate) fn below(&self, layers: &[RemoteLayer]) -> Option<PathBuf> {
        if layers.is_empty() {
            return None;
        }
        let mountpoints: Vec<_> = layers.iter().map(|layer| self.dirs.fs(layer.id)).collect();
        self.filesystem.below(&mountpoints)
    }

    /// Unmounts what is mounted in directory `dir`, which has or had the number `id`, and removes it. Missing is
    /// fine.
    pub(crate) async fn discard(&self, id: u64, dir: &Path) -> Result<(), Error> {
        self.unmount(&dir.join("fs")).await;
        self.state().mounted.remove(&id);
        let dir = dir.to_owned();
        let removed = spawn_blocking(move || {
            // Removing through a mount would empty what is mounted.
            mountinfo::detach_below(&dir)?;
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io("remove", &dir)(error))
                }
                _ => Ok(()),
            }
        });
        removed.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Whether directory `id` is being worked on.
    pub(crate) fn busy(&self, id: u64) -> bool {
        let state = self.state();
        state.reserved.contains(&id) || state.flights.contains_key(&id)
    }

    /// Waits for all attempts and refuses further ones.
    pub(crate) async fn stop(&self) {
        // An error says that another call has been here.
        let _all = self.slots.acquire_many(MAX_ATTEMPTS).await;
        self.slots.close();
    }

    /// Each change of the state is a single insertion or removal, so there is no half-made one to see.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to a directory that the store does not know yet.
pub(crate) struct Reservation {
    layers: Arc<Layers>,
    id: u64,
    _slot: OwnedSemaphorePermit,
}

impl Reservation {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Mounts the layer that `labels` describe in the directory.
    pub(crate) async fn mount(&self, labels: &Labels) -> Result<(), FsError> {
        self.layers.mount(&self.layers.dirs.fs(self.id), labels).await
    }

    /// Hands the directory, with the mounted layer, over to the store, which knows it by now.
    pub(crate) fn keep(self) {
        self.layers.state().mounted.insert(self.id);
    }

    /// Unmounts and removes the directory.
    pub(crate) async fn discard(self) -> Result<(), Error> {
        self.layers.discard(self.id, &self.layers.dirs.of(self.id)).await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.layers.state().reserved.remove(&self.id);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation").field(&self.id).finish()
    }
}

/// Ends a flight when dropped.
struct Landed<'a>(&'a Layers, u64);

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.0.state().flights.remove(&self.1);
    }
}
