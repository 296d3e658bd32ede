//! The containerd remote snapshotter, put together.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use keeper::Keeping;
use layer::{Layers, LayersOptions};
use mount::SessionOptions;
use snapshotter::Snapshotter;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cache_cli::Commands;
use crate::config::{Config, Loaded};
use crate::control;
use crate::cri::{self, Cri};
use crate::keeping;
use crate::keychain;
use crate::lazyfs::{LazyFs, Policy, Prefetch, SharedFs};
use crate::logging::{self, LogLevel};
use crate::profile::Store;
use crate::reload::{self, Reload};
use crate::selinux;
use crate::shelf::{Shelf, ShelfOptions};
use crate::socket;
use crate::upgrade::{self, Program};
use crate::watch::{Desk, Watch};

/// Where the daemon listens and keeps its state.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Socket of the snapshots service.
    pub address: PathBuf,
    /// Configuration file.
    pub config: PathBuf,
    /// Whether the configuration file may be missing.
    pub config_optional: bool,
    /// State.
    pub root: PathBuf,
    /// Refuse unknown keys in the configuration.
    pub strict: bool,
    /// How much to log if the configuration does not say.
    pub log_level: LogLevel,
}

/// A read that waits gets this much longer than the fetch under it, so that the fetch's own error is what is reported.
const READ_GRACE: Duration = Duration::from_secs(5);
/// What a check may take besides the wait for a prefetch.
const CHECK_GRACE: Duration = Duration::from_secs(30);
/// How long requests that are under way may go on when the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How the daemon was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// SIGTERM: mounts stay, and what reads them waits for the next daemon, as long as the keeper lets it.
    Keep,
    /// SIGINT: nothing stays mounted.
    Clean,
    /// SIGUSR2 or `stargz upgrade`: as SIGTERM, and this process goes on as another program.
    Upgrade,
}

/// Runs until it is told to stop. Returns the program to go on as, if there is one.
///
/// # Errors
/// It could not start, or its socket broke.
pub async fn run(paths: &Paths) -> anyhow::Result<Option<Program>> {
    let program = Program::of_this_process().context("cannot tell which program this is")?;
    let mut inherited = keeper::inherited();
    let file = (paths.config.clone(), paths.config_optional);
    let Loaded { config, values, .. } = reload::load(&file, paths.strict)?;
    logging::set_level(reload::level(&config, paths.log_level));
    let mut stop = Stops::new()?;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "must run as root, or as root of a user namespace (containerd-rootless-setuptool.sh nsenter -- …): \
             mounting layers needs CAP_SYS_ADMIN"
        );
    }
    let root = std::path::absolute(&paths.root).context("cannot tell where the root directory is")?;
    make_root(&root)?;
    let layers = Layers::open(layers_options(&config, &root))?;
    let (kept, at) = (config.fuse_manager.clone(), root.clone());
    let (keeping, inherited) = tokio::task::spawn_blocking(move || {
        anyhow::Ok((keeping::open(&kept, &at, &mut inherited)?, inherited))
    })
    .await??;
    // What can be wrong with the configuration is found before anything is mounted.
    let keychains = keychain::of_daemon(&config, &root).await?;
    let cri = keychains.cri.clone().map(|keychain| Cri::new(&config, keychain, &paths.address));
    let client = registry::Client::new(config.registry_options(), keychains.all.clone())
        .with_context(|| format!("cannot use the registries in {}", paths.config.display()))?;
    let (options, at, kept) = (shelf_options(&config, &root)?, root.clone(), keeping.clone());
    let shelf =
        tokio::task::spawn_blocking(move || Shelf::open(&at, &at.join("layers"), options, kept)).await??;
    let shelf = Arc::new(shelf);
    let profiles = root.clone();
    let profiles = Arc::new(tokio::task::spawn_blocking(move || Store::open(&profiles)).await?);
    let fs = LazyFs::new(client, layers.clone(), shelf.clone(), policy(&config), profiles);
    let watch = Arc::new(Watch {
        fs: fs.clone(),
        layers: layers.clone(),
        root: root.clone(),
        config: paths.config.clone(),
        cache_limit: config.cache.budget().max_bytes,
        log_file_access: config.log_file_access,
    });
    let http = watch.serve_http(&config).await?;
    let (strict, log_level) = (paths.strict, paths.log_level);
    let reloads = reload::on_hangup(Reload { file, strict, log_level, values, keychains, fs: fs.clone() })?;
    stop.keeping = keeping.clone();
    stop.program = Some(program.clone());
    let (wanted, asked) = mpsc::channel(1);
    stop.asked = Some(asked);
    let commands = upgrade::Commands {
        others: Desk { cache: Commands(layers.clone()), watch: watch.clone() },
        program: program.clone(),
        keeping: keeping.clone(),
        wanted,
        started: SystemTime::now(),
    };
    let control = serve_control(&root, Arc::new(commands), &watch);
    let place = Place { paths, root: &root, keeping: keeping.as_deref(), passed: inherited.others };
    let served = serve(place, &config, &fs, cri.as_ref(), &mut stop).await;
    if let Some(cri) = &cri {
        cri.flush().await;
    }
    drop((control, reloads, http));
    // Before fetches end: what waits for them is for the next process to answer. A start that failed keeps what the former
    // process left as well, since the next attempt may succeed.
    let hand_over = !matches!(served, Ok(Stop::Clean));
    let closed = tokio::task::spawn_blocking(move || shelf.close(hand_over)).await?;
    layers.close().await;
    let how = served?;
    closed?;
    if how == Stop::Clean {
        socket::remove(&paths.address, keeping.as_deref());
        if let Some(cri) = &cri {
            cri.remove_socket();
        }
    }
    Ok((how == Stop::Upgrade).then_some(program))
}

/// Where the daemon serves.
struct Place<'a> {
    paths: &'a Paths,
    root: &'a Path,
    keeping: Option<&'a Keeping>,
    /// What a socket unit passed.
    passed: Vec<OwnedFd>,
}

/// Brings the snapshots to order and serves them until it is told to stop.
async fn serve(
    place: Place<'_>,
    config: &Config,
    fs: &Arc<LazyFs>,
    cri: Option<&Cri>,
    stop: &mut Stops,
) -> anyhow::Result<Stop> {
    let Place { paths, root, keeping, passed } = place;
    let options = snapshotter::Options {
        // A layer that cannot be restored is tried again when it is needed, so it never keeps the others down.
        allow_invalid_mounts_on_restart: true,
        // A check waits for the prefetch, and must not be cut off by that.
        check_timeout: config.check_timeout() + CHECK_GRACE,
        ..snapshotter::Options::new(root.join("snapshotter"))
    };
    let filesystem = Arc::new(SharedFs(fs.clone()));
    let snapshotter = tokio::task::spawn_blocking(move || Snapshotter::open(options, filesystem))
        .await?
        .context("cannot open snapshots")?;
    fs.go_on(snapshotter.lazy_layers().await?).await?;
    let restored = snapshotter.restore().await?;
    if restored.failed.is_empty() {
        fs.remove_orphans().await;
    } else if !config.snapshotter.allow_invalid_mounts_on_restart {
        tracing::error!(
            failed = restored.failed.len(),
            "some layers are not mounted; containers that need them are refused until they are"
        );
    }

    let listener = socket::listen(&paths.address, passed, keeping)?;
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        // Ends as well when the sender is gone.
        let _ = stopped.await;
    };
    let mut server = tokio::spawn(cri::server(snapshotter.clone(), listener, cri, shutdown)?);
    tracing::info!(address = %paths.address.display(), root = %root.display(), restored = restored.restored, "serving snapshots");
    notify(&[sd_notify::NotifyState::Ready]);
    let how = tokio::select! {
        how = stop.next() => how,
        ended = &mut server => {
            ended??;
            bail!("the snapshots service ended by itself");
        }
    };
    if how == Stop::Upgrade {
        notify_reloading();
    } else {
        notify(&[sd_notify::NotifyState::Stopping]);
    }
    fs.closing();
    let learner = fs.clone();
    tokio::task::spawn_blocking(move || learner.learn(true)).await?;
    drop(stopping);
    if tokio::time::timeout(STOP_GRACE, server).await.is_err() {
        tracing::warn!("requests were still under way, dropping them");
    }
    if let Stop::Clean = how {
        snapshotter.close().await?;
    }
    Ok(how)
}

/// Lets people's commands in until the value is dropped.
pub(crate) fn serve_control(
    root: &Path,
    answers: Arc<dyn control::Answers>,
    watch: &Arc<Watch>,
) -> Option<tokio::task::JoinSet<()>> {
    match control::listen(root) {
        Ok(listener) => {
            let mut task = tokio::task::JoinSet::new();
            task.spawn(control::serve(listener, answers));
            task.spawn(watch.clone().housekeeping());
            Some(task)
        }
        // Containers do not depend on it.
        Err(error) => {
            tracing::warn!(root = %root.display(), %error, "this daemon cannot be asked anything by stargz's commands");
            None
        }
    }
}

pub(crate) fn layers_options(config: &Config, root: &Path) -> LayersOptions {
    LayersOptions {
        read_timeout: config.fetch_timeout(),
        cache: config.cache.budget(),
        ..LayersOptions::new(root.join("layers"))
    }
}

/// How layers are shown.
pub(crate) fn shelf_options(config: &Config, root: &Path) -> anyhow::Result<ShelfOptions> {
    let read_deadline = config.longest_read() + READ_GRACE;
    Ok(ShelfOptions {
        session: SessionOptions { read_deadline, ..SessionOptions::default() },
        backend: config.mount.backend.forced(),
        state_directory: config.mount.state_directory,
        user_xattrs: snapshotter::needs_user_xattrs(root)?,
        selinux_context: selinux::context(&config.mount.selinux_context),
    })
}

/// What the configuration says of layers.
pub fn policy(config: &Config) -> Policy {
    let size = u64::try_from(config.prefetch_size).unwrap_or(0);
    Policy {
        allow_no_verification: config.allow_no_verification,
        disable_verification: config.disable_verification,
        prefetch: (!config.noprefetch).then_some(Prefetch {
            size,
            wait: config.prefetch_timeout(),
            hold_up_to: u64::try_from(config.prefetch_async_size).ok().filter(|&size| size > 0),
        }),
        background: (!config.no_background_fetch).then(|| config.background_layers()),
        ipfs: config.ipfs,
        check: config.check_interval().is_some(),
        resolved_ttl: config.resolved_ttl(),
        profile: config.profile.clone(),
        images: config.image_policy.clone(),
    }
}

/// Makes the root. Others may pass through, as containers in user namespaces do on the way to their snapshots; what
/// lies below has its own modes.
pub(crate) fn make_root(root: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(root)
        .with_context(|| format!("cannot make root directory {}", root.display()))
}

/// Tells systemd that a reload has begun.
pub fn notify_reloading() {
    match sd_notify::NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[sd_notify::NotifyState::Reloading, now]),
        Err(_) => notify(&[sd_notify::NotifyState::Reloading]),
    }
}

/// Tells systemd that the daemon serves.
pub fn notify_ready() {
    notify(&[sd_notify::NotifyState::Ready]);
}

pub(crate) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Does nothing without NOTIFY_SOCKET.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// The signals that stop the daemon.
struct Stops {
    term: Signal,
    int: Signal,
    usr2: Signal,
    /// Asked for by a command.
    asked: Option<mpsc::Receiver<()>>,
    keeping: Option<Arc<Keeping>>,
    program: Option<Program>,
}

impl Stops {
    fn new() -> io::Result<Stops> {
        Ok(Stops {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr2: signal(SignalKind::user_defined2())?,
            asked: None,
            keeping: None,
            program: None,
        })
    }

    async fn next(&mut self) -> Stop {
        loop {
            let asked = async {
                match &mut self.asked {
                    Some(asked) => asked.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.term.recv() => return Stop::Keep,
                _ = self.int.recv() => return Stop::Clean,
                // It was checked before it was asked for.
                Some(()) = asked => return Stop::Upgrade,
                _ = self.usr2.recv() => {}
            }
            let Some(program) = &self.program else { continue };
            match upgrade::check(program, self.keeping.as_ref()).await {
                Ok(next) => {
                    tracing::info!(next, "going on as the program that is installed now");
                    return Stop::Upgrade;
                }
                Err(error) => tracing::error!("this program goes on: {error:#}"),
            }
        }
    }
}
