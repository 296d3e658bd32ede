//! Goes on with what a former process served, where the kernel's mounts are left as they are.
//!
//! The former process was killed, or has handed over; the keeper has its session. The kernel knows files of that session by
//! node numbers and asks for them at any moment, so serving begins when every layer of the former process is there, and
//! with the very image file that is mounted.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use keeper::Kept;
use layer::Layer;
use mount::{Backend, ImageServer, MountInfo, Session, ToKeep};
use tokio::runtime::Handle;

use super::served::Served;
use super::trees::Trees;
use super::{Place, Shelf, Shown, detach_stale, image_of, make_dir, tree_options};
use crate::keeping;

/// What tells an image file from one that was made anew at its path: its inode, and when that was made where the file
/// system notes it. Neither changes while the file is filled.
pub fn identity(image: &Path) -> Option<(u64, Option<SystemTime>)> {
    let found = image.metadata().ok()?;
    Some((found.ino(), found.created().ok()))
}

/// Sessions that are taken over and not served yet.
#[derive(Debug, Default)]
pub struct Former {
    images: Option<Session>,
    trees: Option<Session>,
}

impl Shelf {
    /// Takes the kept sessions that are mounted, and begins those that are not there.
    pub(super) fn take_over(&self) -> Result<(), mount::Error> {
        let former = Former {
            images: self.kept(keeping::IMAGES, &self.dir, self.wants_images()),
            trees: self.kept(keeping::TREES, &self.trees_dir, self.wants_trees()),
        };
        if former.images.is_none() {
            self.begin_images()?;
        }
        if former.trees.is_none() {
            self.begin_trees()?;
        }
        *self.former.lock().unwrap_or_else(PoisonError::into_inner) = former;
        Ok(())
    }

    /// The kept session that is mounted at `dir`, if there is one. It is let go if it is not wanted.
    fn kept(&self, name: &str, dir: &Path, wanted: bool) -> Option<Session> {
        let keeping = self.keeping.as_ref()?;
        let kept = keeping.take(name).unwrap_or_else(|error| {
            tracing::error!(%error, "the session of the former daemon is lost");
            None
        });
        let Kept { fd, meta, unserved } = kept?;
        if wanted {
            match Session::take_over_kept(dir, fd, &meta, self.options.session.clone()) {
                Ok(session) => {
                    let unserved_ms = unserved.as_millis() as u64;
                    tracing::info!(
                        session = name,
                        unserved_ms,
                        "goes on with the session of a former process"
                    );
                    return Some(session);
                }
                Err(error) => tracing::error!(%error, "the session of the former daemon is lost"),
            }
        }
        // Its readers wait for nobody.
        keeping.forget(name);
        None
    }

    fn begin_images(&self) -> Result<(), mount::Error> {
        detach_stale(&self.dir)?;
        if !self.wants_images() {
            return Ok(());
        }
        make_dir(&self.dir)?;
        self.serve_images(Session::mount(&self.dir, self.options.session.clone())?, Vec::new())
    }

    fn begin_trees(&self) -> Result<(), mount::Error> {
        detach_stale(&self.trees_dir)?;
        if !self.wants_trees() {
            return Ok(());
        }
        make_dir(&self.trees_dir)?;
        let options = tree_options(&self.options);
        let begun = Session::mount_trees(&self.trees_dir, &options).and_then(|session| {
            let copy = self.copy_of(&session);
            let trees = Trees::begin(self.trees_dir.clone(), session, &options, Handle::current())?;
            self.keep(keeping::TREES, copy);
            self.sessions().trees = Some(trees);
            Ok(())
        });
        match begun {
            Err(error) if self.backend != Some(Backend::Fuse) => {
                tracing::warn!(%error, "containers do without their state directory");
                Ok(())
            }
            result => result,
        }
    }

    /// Goes on with the sessions of a former process, if there are any: with these layers at the paths where they were
    /// shown, as far as they still are, and no others. Reads that wait are answered from now on. Blocks.
    ///
    /// # Errors
    /// The kernel refuses a session, and a new one as well.
    pub fn go_on(&self, layers: Vec<(PathBuf, Arc<Layer>)>) -> Result<(), mount::Error> {
        let Former { images, trees } =
            std::mem::take(&mut *self.former.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(session) = images {
            self.go_on_with_images(session, &layers)?;
        }
        if let Some(session) = trees {
            self.go_on_with_trees(session, layers)?;
        }
        Ok(())
    }

    fn go_on_with_images(
        &self,
        session: Session,
        layers: &[(PathBuf, Arc<Layer>)],
    ) -> Result<(), mount::Error> {
        let mounted = mounts_by_path()?;
        let mut shown = self.shown();
        for (path, layer) in layers {
            if !mounted.get(path).is_some_and(|mount| shows(mount, layer)) {
                continue;
            }
            // What was mounted alone is served as well: nothing tells, and it costs nothing.
            let served = || Arc::new(Served::new(layer.clone()));
            let entry = shown.entry(layer.digest()).or_insert_with(|| Shown {
                served: served(),
                places: Vec::new(),
                device: true,
            });
            entry.places.push(Place { path: path.clone(), tree: None });
        }
        let images = shown.values().map(|entry| image_of(&entry.served)).collect();
        let Err(error) = self.serve_images(session, images) else {
            tracing::info!(layers = shown.len(), "layers of the former daemon are served on");
            return Ok(());
        };
        shown.clear();
        drop(shown);
        self.lost(keeping::IMAGES, &error);
        self.begin_images()
    }

    fn go_on_with_trees(
        &self,
        session: Session,
        layers: Vec<(PathBuf, Arc<Layer>)>,
    ) -> Result<(), mount::Error> {
        let options = tree_options(&self.options);
        let copy = self.copy_of(&session);
        // With the other backends the session only has what reports on layers, which containers can do without.
        let layers = if self.backend == Some(Backend::Fuse) { layers } else { Vec::new() };
        let served: Vec<_> =
            layers.into_iter().map(|(path, layer)| (path, Arc::new(Served::new(layer)))).collect();
        let mounted = mounts_by_path()?;
        let tree_at = |path: &Path| {
            let mount = mounted.get(path).filter(|mount| mount.fs_type.starts_with("fuse"))?;
            Some(mount.root.file_name()?.to_str()?.to_owned())
        };
        let named: Vec<_> = served
            .iter()
            .filter_map(|(path, served)| Some((tree_at(path)?, path.clone(), served.clone())))
            .collect();
        match Trees::go_on(self.trees_dir.clone(), session, &options, Handle::current(), named) {
            Ok((trees, places)) => {
                self.keep(keeping::TREES, copy);
                let mut shown = self.shown();
                for (path, number, served) in places {
                    let digest = served.layer.digest();
                    let entry = shown.entry(digest).or_insert_with(|| Shown {
                        served,
                        places: Vec::new(),
                        device: false,
                    });
                    entry.places.push(Place { path, tree: Some(number) });
                }
                self.sessions().trees = Some(trees);
                Ok(())
            }
            Err(error) => {
                self.lost(keeping::TREES, &error);
                self.begin_trees()
            }
        }
    }

    fn lost(&self, name: &str, error: &mount::Error) {
        tracing::error!(%error, "the session of the former daemon is lost");
        if let Some(keeping) = &self.keeping {
            keeping.forget(name);
        }
    }

    fn serve_images(&self, session: Session, images: Vec<mount::Image>) -> Result<(), mount::Error> {
        let copy = self.copy_of(&session);
        let server = ImageServer::start(session, Handle::current(), images)?;
        self.keep(keeping::IMAGES, copy);
        self.sessions().images = Some(server);
        Ok(())
    }

    fn copy_of(&self, session: &Session) -> Option<ToKeep> {
        self.keeping.as_ref()?;
        match session.to_keep() {
            Ok(Some(copy)) => return Some(copy),
            Ok(None) => tracing::warn!(
                "this kernel cannot send FUSE requests again (it takes Linux 6.9), so layers that are not complete end \
                 with this daemon"
            ),
            Err(error) => tracing::error!(%error, "layers end with this daemon"),
        }
        None
    }

    fn keep(&self, name: &str, copy: Option<ToKeep>) {
        let Some((keeping, ToKeep { fd, meta, connection })) = self.keeping.as_ref().zip(copy) else {
            return;
        };
        if let Err(error) = keeping.store(name, fd.as_fd(), &meta, Some(connection)) {
            tracing::error!(%error, "layers end with this daemon");
        }
    }
}

/// What is on top at each mount point.
fn mounts_by_path() -> Result<HashMap<PathBuf, MountInfo>, mount::Error> {
    let mounts = mount::mounts_below(Path::new("/"))?;
    Ok(mounts.into_iter().map(|mount| (mount.mount_point.clone(), mount)).collect())
}

/// Whether a mount is of this layer's image file.
fn shows(mount: &MountInfo, layer: &Layer) -> bool {
    if mount.fs_type != "erofs" {
        return false;
    }
    let source = Path::new(&mount.source);
    let file = match source.strip_prefix("/dev") {
        // A loop device: its file is what counts. The name ends where the file was removed.
        Ok(device) => {
            let file =
                std::fs::read_to_string(Path::new("/sys/block").join(device).join("loop/backing_file"));
            PathBuf::from(file.unwrap_or_default().trim_end_matches('\n'))
        }
        Err(_) => source.to_owned(),
    };
    file == layer.image_path()
}
