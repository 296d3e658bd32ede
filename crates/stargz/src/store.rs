//! The additional layer store, put together: `stargz-store` and `stargz-store-helper`.

mod blob;
mod engine;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use credentials::HandedKeychain;
use layer::Layers;
use mount::{NameOptions, SessionOptions, UnmountMode};
use store::{Options, Store};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cache_cli::Commands;
use crate::config::Loaded;
use crate::lazyfs::LazyFs;
use crate::reload::{self, Reload};
use crate::shelf::Shelf;
use crate::watch::{Desk, Watch};
use crate::{cli, daemon, keychain, logging, socket};
use engine::LazyEngine;

/// Largest object of credentials that is handed over, bytes.
const CREDENTIALS_MAX: u64 = 1 << 20;
/// How long whoever is handing over credentials gets to end.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Runs until it is told to stop.
///
/// # Errors
/// It could not start, or something stays mounted.
pub async fn run(flags: &cli::Store) -> anyhow::Result<()> {
    let file = (flags.config.clone(), is_optional(&flags.config));
    let Loaded { config, values, .. } = reload::load(&file, flags.strict_config)?;
    if config.disable_verification {
        bail!(
            "{}: disable_verification cannot be set here: layers are named by what verifies them",
            flags.config.display()
        );
    }
    logging::set_level(reload::level(&config, flags.log_level));
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "must run as root, or as root of a user's namespace: podman unshare stargz-store --root DIR --addr SOCKET \
             MOUNTPOINT"
        );
    }
    let root = std::path::absolute(&flags.root).context("cannot tell where the root directory is")?;
    daemon::make_root(&root)?;
    // Held until the end; a second process is refused before it touches the mounts of the first.
    let layers = Layers::open(daemon::layers_options(&config, &root))?;
    let mount_point = free_mount_point(&flags.mount_point)?;

    let handed = Arc::new(HandedKeychain::default());
    let keychains = keychain::of_store(&config, handed.clone())?;
    let client = registry::Client::new(config.registry_options(), keychains.all.clone())
        .with_context(|| format!("cannot use the registries in {}", flags.config.display()))?;
    let (shelf_options, at) = (daemon::shelf_options(&config, &root)?, root.clone());
    let session = shelf_options.session.clone();
    let selinux_context = shelf_options.selinux_context.clone();
    let shelf =
        tokio::task::spawn_blocking(move || Shelf::open(&at, &at.join("layers"), shelf_options, None))
            .await??;
    let shelf = Arc::new(shelf);
    let at = root.clone();
    let profiles = Arc::new(tokio::task::spawn_blocking(move || crate::profile::Store::open(&at)).await?);
    let fs = LazyFs::new(client, layers.clone(), shelf.clone(), daemon::policy(&config), profiles);
    let engine = Arc::new(LazyEngine::new(fs.clone(), config.ipfs));

    let names = NameOptions {
        session: SessionOptions { fs_name: "stargzstore".to_owned(), ..session },
        selinux_context,
        ..NameOptions::default()
    };
    let options = Options { names, ..Options::new(&mount_point, &root) };
    let store = tokio::task::spawn_blocking(move || Store::open(options, engine)).await??;

    let watch = Arc::new(Watch {
        fs: fs.clone(),
        layers: layers.clone(),
        root: root.clone(),
        config: flags.config.clone(),
        cache_limit: config.cache.budget().max_bytes,
        log_file_access: config.log_file_access,
    });
    let http = watch.serve_http(&config).await?;
    let desk = Desk { cache: Commands(watch.layers.clone()), watch: watch.clone() };
    let control = daemon::serve_control(&root, Arc::new(desk), &watch);
    let (strict, log_level) = (flags.strict_config, flags.log_level);
    let reloads = reload::on_hangup(Reload { file, strict, log_level, values, keychains, fs: fs.clone() })?;
    let listener = listen(&flags.addr)?;
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut credentials = tokio::spawn(credentials::serve_handed(handed, listener, async {
        // Ends as well when the sender is gone.
        let _ = stopped.await;
    }));
    tracing::info!(mount_point = %mount_point.display(), root = %root.display(), "serving layers");
    daemon::notify_ready();
    let ended = tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
        ended = &mut credentials => {
            ended.map_err(anyhow::Error::from).and_then(|ended| ended.context("cannot go on to take credentials"))
        }
    };
    daemon::notify(&[sd_notify::NotifyState::Stopping]);
    drop((stopping, reloads, control, http));
    if !credentials.is_finished() && tokio::time::timeout(STOP_GRACE, &mut credentials).await.is_err() {
        tracing::debug!("somebody was still handing over credentials");
    }
    fs.closing();
    layers.close().await;
    let unmounted = store.close().await.context("something stays mounted");
    let closed = tokio::task::spawn_blocking(move || shelf.close(false)).await?;
    if let Err(error) = fs::remove_file(&flags.addr) {
        tracing::debug!(%error, "the socket is left behind");
    }
    ended.and(unmounted).and(closed.map_err(anyhow::Error::from))
}

/// Whether the configuration file may be missing: the default one, and one without a name.
fn is_optional(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new(cli::DEFAULT_STORE_CONFIG)
}

/// The directory to mount at, made if need be. What a former process left there is taken away.
fn free_mount_point(dir: &Path) -> anyhow::Result<PathBuf> {
    let failed = || format!("cannot mount at {}", dir.display());
    let dir = std::path::absolute(dir).with_context(failed)?;
    // The name is resolved above the directory alone: a mount whose server is gone must not be looked at.
    let (parent, name) = dir.parent().zip(dir.file_name()).with_context(failed)?;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).with_context(failed)?;
    let dir = parent.canonicalize().with_context(failed)?.join(name);
    for left in mount::mounts_below(&dir)?.into_iter().filter(|left| left.mount_point == dir) {
        tracing::info!(mount_point = %left.mount_point.display(), "taking away what a former process left mounted");
        mount::unmount(&left.mount_point, UnmountMode::Lazy)?;
    }
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).with_context(failed),
        _ => Ok(dir),
    }
}

/// Listens where credentials are handed over, for its own user alone from the first moment on.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    socket::free(path)?;
    let failed = || format!("cannot listen on {}", path.display());
    let socket = tokio::net::UnixSocket::new_stream().with_context(failed)?;
    // The name gets the mode of the socket.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600)).with_context(failed)?;
    socket.bind(path).with_context(failed)?;
    socket.listen(64).with_context(failed)
}

/// Hands what is on standard input over to the store.
///
/// # Errors
/// It is not understood, or the store is not there.
pub fn hand_over(socket: Option<PathBuf>) -> anyhow::Result<()> {
    let mut json = Vec::new();
    std::io::stdin()
        .lock()
        .take(CREDENTIALS_MAX + 1)
        .read_to_end(&mut json)
        .context("cannot read credentials from standard input")?;
    if json.len() as u64 > CREDENTIALS_MAX {
        bail!("standard input has more than {CREDENTIALS_MAX} bytes: credentials by image are expected");
    }
    let socket = socket.unwrap_or_else(own_socket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(credentials::hand_over(&socket, json))?)
}

/// The socket of the store of whoever runs this: root's, or the user's whose namespace it is.
fn own_socket() -> PathBuf {
    let root = rustix::process::geteuid().is_root() && !in_user_namespace();
    match std::env::var_os("HOME").filter(|_| !root) {
        Some(home) => Path::new(&home).join(".local/share/stargz-store/store.sock"),
        None => PathBuf::from(cli::DEFAULT_STORE_SOCKET),
    }
}

/// Whether this is not the machine's own user namespace, which alone maps everybody to themselves.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}
