//! The process that serves a mounted image.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use layer::source::RegistryLayer;
use layer::{Layer, Layers, LayersOptions};
use mount::{OverlayOptions, SessionOptions, UnmountMode};
use registry::{Client, Descriptor, Platform, Reference};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::state::State;
use crate::config::Config;
use crate::keychain;
use crate::pins;
use crate::selinux;
use crate::shelf::{Shelf, ShelfOptions};

/// Mounts the image at `dir`, says so by `ready`, and serves it until it is unmounted or a signal asks to end. What is
/// left of the state is the caller's to clear.
pub async fn run(
    flags: &crate::cli::Mount,
    reference: &Reference,
    config: &Config,
    dir: &Path,
    state: &State,
    ready: fn() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    // Away from the terminal, so that it does not end with it. Fails for a process that leads its group already.
    let _ = rustix::process::setsid();
    // Until the image is mounted, whoever started this is waiting for it; if that one is interrupted, so is this.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    state.make()?;
    let prepared = tokio::select! {
        prepared = Prepared::new(flags, reference, config, state) => prepared?,
        _ = term.recv() => bail!("ended by SIGTERM before the image was mounted"),
        _ = int.recv() => bail!("ended by SIGINT before the image was mounted"),
    };
    let (target, directory) = (dir.to_owned(), state.clone());
    let mounted = tokio::task::spawn_blocking(move || prepared.mount(target, directory)).await??;
    rustix::process::set_parent_process_death_signal(None)?;
    if ready().is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        mounted.close().await?;
        bail!("whoever asked for the image is gone");
    }
    let gone = wait_until_unmounted(dir.to_owned());
    tokio::select! {
        result = gone => result?,
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    mounted.close().await
}

/// An image whose layers are resolved.
struct Prepared {
    layers: Arc<Layers>,
    resolved: Vec<Arc<Layer>>,
    cache: PathBuf,
    shelf: ShelfOptions,
}

impl Prepared {
    async fn new(
        flags: &crate::cli::Mount,
        reference: &Reference,
        config: &Config,
        state: &State,
    ) -> anyhow::Result<Prepared> {
        let mut options = config.registry_options();
        if flags.plain_http {
            options.plain_http_hosts.insert(reference.api_host().to_owned());
        }
        let client = Client::new(options, keychain::of_machine(config)?)?;
        let image = client.image(reference, &Platform::host()).await?;
        // A directory of its own, since it is made root's alone, and what people name may be anything.
        let cache = flags.cache.as_deref().unwrap_or(state.dir()).join("layers");
        let read_timeout = config.fetch_timeout();
        let layers = Layers::open(LayersOptions { read_timeout, ..LayersOptions::new(cache.clone()) })?;
        let resolved = resolve(&client, reference, &image.layers, &layers, flags.skip_content_verify).await?;
        let shelf = ShelfOptions {
            session: SessionOptions {
                read_deadline: read_timeout + Duration::from_secs(5),
                ..SessionOptions::default()
            },
            backend: config.mount.backend.forced(),
            // It is for containers: who mounts an image this way can be told in other ways.
            state_directory: false,
            user_xattrs: snapshotter::needs_user_xattrs(&cache)?,
            selinux_context: selinux::context(&config.mount.selinux_context),
        };
        Ok(Prepared { layers, resolved, cache, shelf })
    }

    /// Blocks. After an error nothing is left mounted at `dir`.
    fn mount(self, dir: PathBuf, state: State) -> anyhow::Result<Mounted> {
        let shelf = Arc::new(Shelf::open(state.dir(), &self.cache, self.shelf, None)?);
        if let (None, reason) = shelf.backend() {
            bail!("images cannot be mounted here: {reason}");
        }
        let mut mounted = Mounted { dir, state, layers: self.layers, shelf, lowers: Vec::new() };
        match mounted.mount(&self.resolved) {
            Ok(()) => Ok(mounted),
            Err(error) => {
                mounted.unmount();
                Err(error)
            }
        }
    }
}

/// An image that is mounted.
struct Mounted {
    dir: PathBuf,
    state: State,
    layers: Arc<Layers>,
    shelf: Arc<Shelf>,
    /// Where the single layers are mounted, the topmost first.
    lowers: Vec<PathBuf>,
}

impl Mounted {
    /// Mounts every layer and the overlay of them. Blocks.
    fn mount(&mut self, resolved: &[Arc<Layer>]) -> anyhow::Result<()> {
        for (number, layer) in resolved.iter().enumerate() {
            // Short names: the options of an overlay end at one page on some kernels.
            let path = self.state.dir().join(number.to_string());
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            self.shelf.show(layer, &path)?;
            self.lowers.insert(0, path);
        }
        let options = OverlayOptions { upper: None, user_xattrs: self.shelf.user_xattrs() };
        mount::mount_overlay(&self.lowers, &self.dir, &options)?;
        Ok(())
    }

    /// Takes everything down that is up. Blocks.
    fn unmount(&mut self) {
        let failed =
            |error: &dyn std::fmt::Display| tracing::warn!(error = %error, "something stays mounted");
        let still = mount::mounts_below(&self.dir).unwrap_or_default();
        if still.iter().any(|found| found.mount_point == self.dir)
            && let Err(error) = mount::unmount(&self.dir, UnmountMode::Lazy)
        {
            failed(&error);
        }
        for path in self.lowers.drain(..) {
            if let Err(error) = self.shelf.hide(&path) {
                failed(&error);
            }
        }
        if let Err(error) = self.shelf.close(false) {
            failed(&error);
        }
    }

    async fn close(mut self) -> anyhow::Result<()> {
        self.layers.close().await;
        tokio::task::spawn_blocking(move || self.unmount()).await?;
        Ok(())
    }
}

/// Resolves all layers at once, the base first.
async fn resolve(
    client: &Client,
    reference: &Reference,
    descriptors: &[Descriptor],
    layers: &Arc<Layers>,
    unverified: bool,
) -> anyhow::Result<Vec<Arc<Layer>>> {
    let mut tasks = Vec::new();
    for descriptor in descriptors {
        let digest = descriptor.digest;
        let pin = pins::of_annotations(&descriptor.annotations)
            .with_context(|| format!("the manifest of {reference} is not usable for layer {digest}"))?;
        if pin.is_none() && !unverified {
            bail!(
                "layer {digest} of {reference} cannot be pulled lazily: its manifest gives no digest of a table of \
                 contents. Convert the image to eStargz, or use --skip-content-verify if it is one whose annotations \
                 were lost"
            );
        }
        let source = Arc::new(RegistryLayer::new(client, reference, None, digest));
        let layers = layers.clone();
        tasks.push(tokio::spawn(async move {
            let resolved = layers.resolve(digest, pin, source).await?;
            match pin {
                Some(pin) => resolved.verify(&pin),
                None => Ok(resolved.trust_unverified("asked for on the command line")),
            }
        }));
    }
    let mut resolved = Vec::with_capacity(tasks.len());
    for task in tasks {
        resolved.push(task.await??);
    }
    Ok(resolved)
}

/// Ends when nothing is mounted at `dir` any more. The kernel reports every change of the mount table.
async fn wait_until_unmounted(dir: PathBuf) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let table = File::open("/proc/self/mountinfo").context("cannot watch the mount table")?;
        loop {
            if !mount::mounts_below(&dir)?.iter().any(|found| found.mount_point == dir) {
                return Ok(());
            }
            let mut fds = [PollFd::new(&table, PollFlags::PRI | PollFlags::ERR)];
            // An interrupted wait is as good as a change: the table is read again.
            let _ = poll(&mut fds, None);
        }
    })
    .await?
}
