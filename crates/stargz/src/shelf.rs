//! Shows layers at paths: the place where a [`layer::Layer`] meets the kernel.
//!
//! How, is one of three backends, which all read the same image files; which one is found out by trying when the shelf is
//! opened. With `erofs` and `erofs-loop` a layer that is not complete is served as a FUSE file, which the kernel's EROFS
//! takes as the data device of the layer's image; a complete layer is mounted from its image file alone, and this program is
//! not in its path. With `fuse` the layer's tree itself is served, and bound to the path.
//!
//! A layer that is shown at two paths is two mounts (or trees) of one image file, with a page cache each: overlayfs refuses
//! to stack a directory on itself (ELOOP), and there are images that have a layer twice.
//!
//! One lock guards the table, and is held while the kernel mounts. That never waits for the network: superblock and
//! directories are read from the image file.

mod go_on;
mod served;
mod state;
mod trees;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use format::Digest;
use keeper::Keeping;
use layer::Layer;
use mount::{
    Backend, Ending, ErofsOptions, IdMaps, Image, ImageServer, LayerTree, NoBackend, SessionOptions, Tree,
    TreeOptions, UnmountMode,
};
use tokio::runtime::Handle;

pub use self::go_on::identity;
use self::served::Served;
use self::state::States;
use self::trees::Trees;
use crate::keeping;

/// How a shelf shows layers.
#[derive(Clone, Debug, Default)]
pub struct ShelfOptions {
    /// What the FUSE sessions have.
    pub session: SessionOptions,
    /// The one backend to use; `None` for the best that works.
    pub backend: Option<Backend>,
    /// Whether [`Shelf::state_below`] gives anything.
    pub state_directory: bool,
    /// Overlays keep their marks in `user.overlay.*`, as they have to in user namespaces.
    pub user_xattrs: bool,
    /// The SELinux label of everything that is shown; `None` where SELinux does not enforce.
    pub selinux_context: Option<String>,
}

/// Why a shelf cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The backend that was asked for does not work here.
    #[error("backend {backend} is asked for and does not work here")]
    Forced {
        /// The backend.
        backend: Backend,
        /// Why.
        source: NoBackend,
    },
    /// The kernel refuses something.
    #[error(transparent)]
    Mount(#[from] mount::Error),
}

/// The layers that are shown, and the sessions that serve them.
#[derive(Debug)]
pub struct Shelf {
    backend: Option<Backend>,
    reason: String,
    /// Where the data devices of EROFS mounts are.
    dir: PathBuf,
    trees_dir: PathBuf,
    options: ShelfOptions,
    keeping: Option<Arc<Keeping>>,
    /// Sessions of a former process, until [`Shelf::go_on`].
    former: Mutex<go_on::Former>,
    sessions: Mutex<Sessions>,
    shown: Mutex<HashMap<Digest, Shown>>,
}

#[derive(Debug, Default)]
struct Sessions {
    /// Of the backends that mount EROFS.
    images: Option<ImageServer>,
    /// Of the backend `fuse`, and of state directories.
    trees: Option<Trees>,
    states: States,
}

#[derive(Debug)]
struct Shown {
    served: Arc<Served>,
    /// Where it is shown; never empty.
    places: Vec<Place>,
    /// Whether its data area is a file of the session of images.
    device: bool,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// The number of its own tree, with the backend `fuse`.
    tree: Option<u32>,
}

impl Shelf {
    /// Finds out how layers whose images are in the existing directory `layers` can be shown, and mounts the FUSE sessions
    /// in `root`, or takes kept ones that are mounted there over from a former process: nothing can be shown then before
    /// [`Shelf::go_on`]. What else a former process left mounted there is detached.
    ///
    /// Where nothing works the shelf is opened all the same, and refuses each layer with the reason: whoever asks can do
    /// without. Must be called within a tokio runtime. Blocks.
    ///
    /// # Errors
    /// The backend that is asked for does not work, or the kernel refuses a session that was tried with success before.
    pub fn open(
        root: &Path,
        layers: &Path,
        options: ShelfOptions,
        keeping: Option<Arc<Keeping>>,
    ) -> Result<Shelf, ShelfError> {
        let (backend, reason) = choose(layers, &options, &tree_options(&options), &Handle::current())?;
        let shelf = Shelf {
            backend,
            reason,
            dir: root.join("images"),
            trees_dir: root.join("trees"),
            options,
            keeping,
            former: Mutex::default(),
            sessions: Mutex::default(),
            shown: Mutex::default(),
        };
        shelf.take_over()?;
        Ok(shelf)
    }

    fn wants_images(&self) -> bool {
        matches!(self.backend, Some(Backend::Erofs | Backend::ErofsLoop))
    }

    fn wants_trees(&self) -> bool {
        self.backend == Some(Backend::Fuse) || (self.options.state_directory && self.backend.is_some())
    }

    /// The backend in use, and why this one: one line that names those that were passed over. Without a backend, the
    /// line says why there is none.
    pub fn backend(&self) -> (Option<Backend>, &str) {
        (self.backend, &self.reason)
    }

    /// Whether overlays of what is shown are to keep their marks in `user.overlay.*`.
    pub fn user_xattrs(&self) -> bool {
        self.options.user_xattrs
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<Digest, Shown>> {
        // Entries are added and removed whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // The servers have locks of their own; entries of the tables are added and removed whole.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the layer at `path`, an empty directory, unless it is shown there already. Blocks.
    ///
    /// # Errors
    /// The kernel refuses. Nothing is left mounted.
    pub fn show(&self, layer: &Arc<Layer>, path: &Path) -> Result<(), mount::Error> {
        let backend = self.backend.ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::Unsupported, self.reason.clone());
            mount::Error::File { action: "show a layer at", path: path.to_owned(), source }
        })?;
        let mut shown = self.shown();
        let known = shown.get(&layer.digest());
        if known.is_some_and(|entry| entry.places.iter().any(|place| place.path == path)) {
            return Ok(());
        }
        let served = known.map_or_else(|| Arc::new(Served::new(layer.clone())), |entry| entry.served.clone());
        let (device, tree) = match backend {
            Backend::Fuse => (false, Some(self.plant(&served, path)?)),
            Backend::Erofs | Backend::ErofsLoop => {
                let first = known.is_none();
                let device = known.map_or_else(|| self.serve(&served), |entry| Ok(entry.device))?;
                if let Err(error) = self.mount_image(backend, layer, path, device) {
                    if first && device {
                        self.sessions().remove_image(layer);
                    }
                    return Err(error);
                }
                (device, None)
            }
        };
        let entry =
            shown.entry(layer.digest()).or_insert_with(|| Shown { served, places: Vec::new(), device });
        entry.places.push(Place { path: path.to_owned(), tree });
        Ok(())
    }

    fn mount_image(
        &self,
        backend: Backend,
        layer: &Layer,
        path: &Path,
        device: bool,
    ) -> Result<(), mount::Error> {
        let options = ErofsOptions {
            device: device.then(|| self.dir.join(layer.digest().hex())),
            selinux_context: self.options.selinux_context.clone(),
            ..ErofsOptions::default()
        };
        match backend {
            Backend::ErofsLoop => mount::mount_erofs_loop(&layer.image_path(), path, &options),
            Backend::Erofs | Backend::Fuse => mount::mount_erofs(&layer.image_path(), path, &options),
        }
    }

    /// Makes the layer's contents a FUSE file, unless they are all in the image file. True if it did.
    fn serve(&self, served: &Arc<Served>) -> Result<bool, mount::Error> {
        match served.layer.give_alone() {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a complete layer is served all the same"),
        }
        let image = image_of(served);
        // Without a session the shelf is closed, and the mount fails for want of the file.
        self.sessions().images.as_ref().map_or(Ok(()), |images| images.add(image))?;
        Ok(true)
    }

    /// Serves the tree of a layer and binds it to `path`. Returns its number.
    fn plant(&self, served: &Arc<Served>, path: &Path) -> Result<u32, mount::Error> {
        let tree = Tree::Layer(LayerTree::open(&served.layer.image_path(), served.clone())?);
        let (number, at) = {
            let mut sessions = self.sessions();
            let Some(trees) = &mut sessions.trees else { return Err(closed(path)) };
            trees.add(&served.layer.digest().hex(), Some(served), tree)?
        };
        // Outside the lock: the kernel asks our threads.
        mount::bind(&at, path).inspect_err(|_| self.sessions().remove_tree(number))?;
        Ok(number)
    }

    /// Unmounts `path`. Returns the layer's digest if it is shown nowhere any more. Blocks.
    ///
    /// # Errors
    /// The kernel refuses, or no layer is shown there.
    pub fn hide(&self, path: &Path) -> Result<Option<Digest>, mount::Error> {
        let mut shown = self.shown();
        let found = shown.iter().find_map(|(digest, entry)| {
            let index = entry.places.iter().position(|place| place.path == path)?;
            Some((*digest, index))
        });
        let Some((digest, index)) = found else {
            let source = io::Error::new(io::ErrorKind::NotFound, "no layer is mounted there");
            return Err(mount::Error::File { action: "unmount", path: path.to_owned(), source });
        };
        // Lazily: whoever still reads keeps the tree, and nobody else finds it.
        mount::unmount(path, UnmountMode::Lazy)?;
        let Some(entry) = shown.get_mut(&digest) else { return Ok(None) };
        let place = entry.places.swap_remove(index);
        let mut sessions = self.sessions();
        sessions.drop_state(path);
        if let Some(number) = place.tree {
            sessions.remove_tree(number);
        }
        if !entry.places.is_empty() {
            return Ok(None);
        }
        if entry.device {
            sessions.remove_image(&entry.served.layer);
        }
        shown.remove(&digest);
        Ok(Some(digest))
    }

    /// The layer that is shown at `path`.
    pub fn at(&self, path: &Path) -> Option<Arc<Layer>> {
        self.served_at(path).map(|served| served.layer.clone())
    }

    fn served_at(&self, path: &Path) -> Option<Arc<Served>> {
        let shown = self.shown();
        let entry = shown.values().find(|entry| entry.places.iter().any(|place| place.path == path))?;
        Some(entry.served.clone())
    }

    /// Whether the layer's contents come through this program.
    pub fn serves(&self, digest: &Digest) -> bool {
        self.shown().get(digest).is_some_and(|entry| entry.device || self.backend == Some(Backend::Fuse))
    }

    /// Whether the layer is shown anywhere.
    pub fn shows(&self, digest: &Digest) -> bool {
        self.shown().contains_key(digest)
    }

    /// A directory that tells of the layers shown at `paths`, the topmost first, when it is the lowest one of their overlay:
    /// it adds the hidden directory [`state::DIRECTORY`], and nothing else. It goes with the topmost one. Blocks.
    ///
    /// `None` if there are to be no such directories, or no layer is shown at the topmost path. What fails is logged: it is
    /// no reason to keep a container from running.
    pub fn state_below(&self, paths: &[PathBuf]) -> Option<PathBuf> {
        if !self.options.state_directory {
            return None;
        }
        let served: Vec<_> = paths.iter().filter_map(|path| self.served_at(path)).collect();
        let (top, _) = paths.first().zip(served.first())?;
        let added = {
            let mut sessions = self.sessions();
            let Sessions { trees, states, .. } = &mut *sessions;
            states.of(trees.as_mut()?, top, &served)
        };
        match added {
            Ok(dir) => {
                state::learn_names(&dir, paths);
                Some(dir)
            }
            Err(error) => {
                tracing::warn!(%error, "a container does without its state directory");
                None
            }
        }
    }

    /// Shows the tree at `source` at `target` as well, with owners translated. Blocks.
    ///
    /// # Errors
    /// The kernel refuses: it is too old for that with the backend in use, or the maps make no sense.
    pub fn show_mapped(&self, source: &Path, target: &Path, maps: &IdMaps) -> Result<(), mount::Error> {
        mount::mount_idmapped(source, target, maps)
    }

    /// Stops to serve. If layers are shown, are to be handed over and are kept, reads wait for the next process. Otherwise
    /// layers that are still mounted keep what is cached, with the EROFS backends also their directories. Blocks.
    ///
    /// # Errors
    /// A session's directory can't be unmounted.
    pub fn close(&self, hand_over: bool) -> Result<(), mount::Error> {
        let hand_over = hand_over && !self.shown().is_empty();
        let Sessions { images, trees, .. } = std::mem::take(&mut *self.sessions());
        let images = images.map_or(Ok(()), |images| images.shutdown(self.ending(keeping::IMAGES, hand_over)));
        let trees = trees.map_or(Ok(()), |trees| trees.close(self.ending(keeping::TREES, hand_over)));
        trees.and(images)
    }

    /// How a session ends; one that is not left to a successor is not kept any more.
    fn ending(&self, name: &str, hand_over: bool) -> Ending {
        match &self.keeping {
            Some(keeping) if hand_over && keeping.keeps(name) => Ending::HandOver,
            Some(keeping) => {
                keeping.forget(name);
                Ending::Unmount
            }
            None => Ending::Unmount,
        }
    }
}

impl Sessions {
    fn remove_image(&self, layer: &Layer) {
        if let Some(images) = &self.images {
            images.remove(node_of(layer));
        }
    }

    fn remove_tree(&mut self, number: u32) {
        if let Some(trees) = &mut self.trees {
            trees.remove(number);
        }
    }

    fn drop_state(&mut self, top: &Path) {
        if let Some(trees) = &mut self.trees {
            self.states.forget(trees, top);
        }
    }
}

/// Tries, unless told; says once in the log what came of it.
fn choose(
    layers: &Path,
    options: &ShelfOptions,
    trees: &TreeOptions,
    runtime: &Handle,
) -> Result<(Option<Backend>, String), ShelfError> {
    match (mount::choose_backend(layers, options.backend, trees, runtime), options.backend) {
        (Ok(choice), _) => {
            tracing::info!(backend = %choice.backend, reason = %choice, "layers are shown");
            Ok((Some(choice.backend), choice.to_string()))
        }
        (Err(source), Some(backend)) => Err(ShelfError::Forced { backend, source }),
        (Err(error), None) => {
            tracing::error!("layers cannot be mounted lazily here, so images are pulled in full: {error}");
            Ok((None, error.to_string()))
        }
    }
}

fn tree_options(options: &ShelfOptions) -> TreeOptions {
    TreeOptions {
        session: options.session.clone(),
        user_xattrs: options.user_xattrs,
        selinux_context: options.selinux_context.clone(),
        ..TreeOptions::default()
    }
}

fn detach_stale(dir: &Path) -> Result<(), mount::Error> {
    for stale in mount::mounts_below(dir)?.iter().rev() {
        mount::unmount(&stale.mount_point, UnmountMode::Lazy)?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), mount::Error> {
    std::fs::create_dir_all(dir).map_err(|source| mount::Error::File {
        action: "make directory",
        path: dir.to_owned(),
        source,
    })
}

fn closed(path: &Path) -> mount::Error {
    let source = io::Error::new(io::ErrorKind::BrokenPipe, "this process is ending");
    mount::Error::File { action: "show a layer at", path: path.to_owned(), source }
}

/// The layer's data area as a file of the session of images.
fn image_of(served: &Arc<Served>) -> Image {
    Image { node: node_of(&served.layer), name: served.layer.digest().hex(), source: served.clone() }
}

/// The node number of a layer's file: a later process gives the same one to the same image file, and another one to an
/// image file that was made anew, as its contents may lie elsewhere. The kernel goes on using the numbers it knows.
fn node_of(layer: &Layer) -> u64 {
    let file = go_on::identity(&layer.image_path());
    let digest = Digest::of(format!("{} {file:?}", layer.digest()).as_bytes());
    let start = digest.raw().first_chunk().copied().unwrap_or_default();
    // Far above the numbers that FUSE reserves.
    u64::from_be_bytes(start) | 1 << 63
}
