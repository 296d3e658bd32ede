//! The client's side, by the file operations of containers/storage (`drivers/overlay/overlay.go`), in one place.
//!
//! | what the client does | operations |
//! |---|---|
//! | look for a layer | `stat` of `diff`, `info`, `blob`, in this order; any error: pulled in another way |
//! | know more of it | open and read `info`, JSON |
//! | use it once more | `open("use", O_CREAT)`, which must end in ENOENT |
//! | use it once less | `rmdir` of the directory, which must end in ENOENT |
//! | stack it | overlayfs with `diff` among the lower directories |
//! | copy it | open and read `blob` |
//!
//! A pull looks for each layer of an image and uses it (the handle), reads `info`, uses it again for the layer that it
//! makes, and releases the handle. Removing the layer releases it. Podman 4 and CRI-O up to 1.28 call a layer by the digest of its
//! blob, later ones by that of its TOC.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use format::Digest;
use rustix::io::Errno;
use serde_json::Value;

use crate::harness::{Running, Scene, mounts_below};

/// The store with everything of it in a scene.
#[derive(Debug)]
pub struct LayerStore {
    /// The process.
    pub process: Running,
    /// Where clients look.
    pub mount_point: PathBuf,
    /// State.
    pub root: PathBuf,
    /// Where credentials are handed over.
    pub socket: PathBuf,
}

impl Scene {
    /// Starts the store and waits until it serves.
    #[track_caller]
    pub fn store(&self) -> LayerStore {
        let (mount_point, root) = (self.path("run/store"), self.path("store"));
        // What a killed process left mounted can be looked at by nobody.
        if mounts_below(&mount_point).is_empty() {
            self.mount_point("run/store");
        }
        let socket = self.path("store.sock");
        let mut command = self.called("stargz-store");
        command.env("REGISTRY_AUTH_FILE", self.path("auth.json"));
        command.arg("--root").arg(&root).arg("--addr").arg(&socket);
        command.arg("--config").arg(self.path("config.toml")).arg("--log-level=debug").arg(&mount_point);
        let process = Running::start(&mut command);
        process.wait_for("serving layers", Duration::from_secs(10));
        LayerStore { process, mount_point, root, socket }
    }
}

/// What a client has of a layer.
#[derive(Debug)]
pub struct Found {
    /// The directory that the client keeps the name of.
    pub path: PathBuf,
    /// What `info` says.
    pub info: Value,
}

impl LayerStore {
    /// The directory of a layer.
    pub fn path(&self, reference: &str, name: Digest) -> PathBuf {
        self.mount_point.join(STANDARD.encode(reference)).join(name.to_string())
    }

    /// Looks for a layer.
    pub fn look(&self, reference: &str, name: Digest) -> io::Result<Found> {
        let path = self.path(reference, name);
        for part in ["diff", "info", "blob"] {
            fs::metadata(path.join(part))?;
        }
        let info = serde_json::from_str(&fs::read_to_string(path.join("info"))?)?;
        Ok(Found { path, info })
    }

    /// Looks for a layer that must not be there.
    ///
    /// # Panics
    /// When it is, or something else is wrong.
    #[track_caller]
    pub fn miss(&self, reference: &str, name: Digest) {
        let error = self.look(reference, name).expect_err("there is no such layer");
        assert_eq!(error.raw_os_error(), Some(Errno::NOENT.raw_os_error()), "{error}");
    }

    /// Pulls a layer as a client does, and keeps it.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn pull(&self, reference: &str, name: Digest) -> Found {
        let found = self.look(reference, name).unwrap_or_else(|error| {
            panic!("{name} of {reference}: {error}; the store says: {}", self.process.stderr())
        });
        use_once_more(&found.path);
        use_once_more(&found.path);
        use_once_less(&found.path);
        found
    }

    /// How often layers are used, as it is written down.
    pub fn uses(&self) -> Vec<u64> {
        let mut uses = Vec::new();
        for image in fs::read_dir(self.root.join("pool")).expect("there is a pool") {
            let path = image.expect("it can be read").path().join("uses");
            let Ok(text) = fs::read_to_string(path) else { continue };
            let text: Value = serde_json::from_str(&text).expect("it is JSON");
            let layers = text["layers"].as_object().expect("an object").values();
            uses.extend(layers.map(|layer| layer["uses"].as_u64().expect("a number")));
        }
        uses
    }

    /// Directories at which layers are mounted.
    pub fn shown(&self) -> Vec<PathBuf> {
        mounts_below(&self.mount_point.join(".layers"))
    }
}

/// Tells the store that a layer is used once more.
///
/// # Panics
/// When it does not answer as it must.
#[track_caller]
pub fn use_once_more(path: &Path) {
    let used = OpenOptions::new().write(true).create(true).truncate(true).open(path.join("use"));
    let error = used.expect_err("nothing can be made here");
    assert_eq!(error.raw_os_error(), Some(Errno::NOENT.raw_os_error()), "{error}");
}

/// Tells the store that a layer is used once less.
///
/// # Panics
/// When it does not answer as it must.
#[track_caller]
pub fn use_once_less(path: &Path) {
    assert_eq!(rustix::fs::rmdir(path), Err(Errno::NOENT));
}

/// Stacks layers as a client does, the topmost first.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn stack(scene: &Scene, layers: &[&Found]) -> PathBuf {
    let dir = scene.mount_point("container");
    let lowers: Vec<_> = layers.iter().map(|found| found.path.join("diff")).collect();
    mount::mount_overlay_ro(&lowers, &dir).expect("the layers can be stacked");
    dir
}
