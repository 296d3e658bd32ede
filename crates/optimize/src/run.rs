//! Runs a workload under containerd, and records what it touches.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use containerd::{Client, Container, Descriptor, ErrorKind, Labels, NewTask, OCI_SPEC_TYPE, Runtime};
use convert::record::Entry;
use format::Digest;
use recorder::Recorder;
use serde_json::Value;
use tokio::sync::watch;

use crate::error::Error;
use crate::files::{Names, bound};
use crate::output::Output;
use crate::rootfs::Rootfs;
use crate::spec::Workload;
use crate::unpack;

/// An image for the platform of this machine.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its configuration.
    pub config: Value,
    /// Its layers, the lowest first, as they are in containerd's content store.
    pub layers: Vec<Descriptor>,
}

/// How long to watch.
#[derive(Clone, Debug)]
pub struct Until {
    /// At most so long. `None` is until the caller says so.
    pub period: Option<Duration>,
    /// Until a line of the standard output contains this.
    pub line: Option<String>,
}

/// How to run and watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The snapshotter that the image is unpacked with: one that stacks with overlayfs.
    pub snapshotter: String,
    /// The runtime of containerd.
    pub runtime: String,
    /// What is run.
    pub workload: Workload,
    /// Where it finds names.
    pub names: Names,
    /// How long it is watched.
    pub until: Until,
    /// Where the standard output and the standard error go besides being watched; the terminal too.
    pub echo: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Files of the image that were touched, in order.
    pub entries: Vec<Entry>,
    /// The exit code of the workload if it ended by itself.
    pub exit: Option<u32>,
    /// How often events were lost, so that files may be missing.
    pub overflows: u64,
    /// Large files that were in use by others, of which more may be recorded than was touched.
    pub kept_in_cache: usize,
}

/// The lease ends by itself after this, should nobody live to end it.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// How long a killed workload may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;

/// Unpacks the image, runs the workload in it, and records what is touched from before the container is made until
/// `stop` turns true, the period is over, the line is there or the workload has ended. Nothing of it is left: no task,
/// container, snapshot, lease, mount or file, whatever happens; `stop` in an earlier phase is [`Error::Interrupted`].
///
/// # Errors
/// [`Error`].
pub async fn watch(
    client: &Client,
    image: &Image,
    options: &Options,
    stop: watch::Receiver<bool>,
) -> Result<Watched, Error> {
    let directory =
        tempfile::Builder::new().prefix("stargz-optimize-").tempdir().map_err(Error::Temporary)?;
    // Unique on this machine, as the directory is.
    let name =
        directory.path().file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let run = Run { client, image, options, name: &name, directory: directory.path(), list: false };
    let result = run.under_lease(stop).await;
    if let Err(error) = directory.close() {
        tracing::warn!(%error, "temporary files are left");
    }
    result
}

/// The regular files of the image, by ascending path. Only the snapshotter of `options` matters. Leaves nothing, as
/// [`watch`].
///
/// # Errors
/// [`Error`].
pub async fn files(
    client: &Client,
    image: &Image,
    options: &Options,
    stop: watch::Receiver<bool>,
) -> Result<Vec<Entry>, Error> {
    let directory =
        tempfile::Builder::new().prefix("stargz-optimize-").tempdir().map_err(Error::Temporary)?;
    let name =
        directory.path().file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let run = Run { client, image, options, name: &name, directory: directory.path(), list: true };
    let result = run.under_lease(stop).await;
    if let Err(error) = directory.close() {
        tracing::warn!(%error, "temporary files are left");
    }
    Ok(result?.entries)
}

struct Run<'a> {
    client: &'a Client,
    image: &'a Image,
    options: &'a Options,
    /// Of the lease, the snapshot and the container.
    name: &'a str,
    directory: &'a Path,
    /// Nothing is run, all files are listed.
    list: bool,
}

impl Run<'_> {
    async fn under_lease(&self, mut stop: watch::Receiver<bool>) -> Result<Watched, Error> {
        self.client.leases().create(self.name, LEASE, &Labels::new()).await?;
        let result = match self.client.under(self.name) {
            Ok(leased) => self.in_snapshot(&leased, &mut stop).await,
            Err(error) => Err(error.into()),
        };
        self.gone("lease", self.client.leases().delete(self.name, true)).await;
        result
    }

    async fn in_snapshot(&self, client: &Client, stop: &mut watch::Receiver<bool>) -> Result<Watched, Error> {
        let Options { snapshotter, .. } = self.options;
        let diff_ids = &self.image.config["rootfs"]["diff_ids"];
        let diff_ids: Vec<String> = diff_ids
            .as_array()
            .map(|ids| ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let unpacked = unpack::unpack(client, snapshotter, &self.image.layers, &diff_ids, self.name);
        let parent = or_stopped(stop, unpacked).await??;
        let mounts = client.snapshots(snapshotter).prepare(self.name, &parent, &Labels::new()).await?;
        let result = self.mounted(client, &mounts, stop).await;
        self.gone("snapshot", client.snapshots(snapshotter).remove(self.name)).await;
        result
    }

    async fn mounted(
        &self,
        client: &Client,
        mounts: &[containerd::Mount],
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Watched, Error> {
        let path = self.directory.join("rootfs");
        std::fs::create_dir(&path).map_err(Error::Temporary)?;
        let rootfs = Rootfs::mount(mounts, &path)?;
        if self.list {
            let paths = rootfs.files().map_err(Error::Temporary)?;
            let entries = paths.into_iter().filter_map(|path| {
                let layer_index = Some(rootfs.layer_of(&path)?);
                let manifest_digest = Some(self.image.manifest);
                Some(Entry { path, manifest_digest, layer_index, size: None, ranges: None })
            });
            return Ok(Watched { entries: entries.collect(), ..Watched::default() });
        }
        let spec = self.spec(&rootfs)?;
        let watched = path.clone();
        let recorder = blocking(move || Recorder::start(&watched, recorder::Options::default())).await?;
        let result = self.in_container(client, &spec, stop).await;
        let recording = blocking(move || recorder.finish()).await;
        let exit = result?;
        let recording = recording?;
        let entries = recording.files.into_iter().filter_map(|file| {
            // What the workload made itself is in no layer.
            let layer = rootfs.layer_of(&file.path)?;
            Some(Entry {
                path: file.path,
                manifest_digest: Some(self.image.manifest),
                layer_index: Some(layer),
                size: file.ranges.is_some().then_some(file.size),
                ranges: file.ranges,
            })
        });
        let entries = entries.collect();
        Ok(Watched { entries, exit, overflows: recording.overflows, kept_in_cache: recording.kept_in_cache })
    }

    fn spec(&self, rootfs: &Rootfs) -> Result<Value, Error> {
        let Options { workload, names, .. } = self.options;
        let mut workload = workload.clone();
        let files: [(PathBuf, &str, String); 2] = [
            (self.directory.join("hosts"), "/etc/hosts", names.hosts_file()),
            (self.directory.join("resolv.conf"), "/etc/resolv.conf", names.resolv_conf()),
        ];
        // Whoever mounts something there means it.
        let taken: Vec<String> = workload.mounts.iter().map(|mount| mount.destination.clone()).collect();
        for (path, destination, text) in
            files.iter().filter(|(_, at, _)| !taken.iter().any(|taken| taken == at))
        {
            let source = if names.of_host { Path::new(destination) } else { path };
            if !names.of_host {
                std::fs::write(path, text).map_err(Error::Temporary)?;
            }
            workload.mounts.push(bound(source, destination));
        }
        let cgroup = format!("/{}/{}", self.client.namespace(), self.name);
        Ok(workload.spec(&self.image.config, rootfs.path(), &cgroup)?)
    }

    async fn in_container(
        &self,
        client: &Client,
        spec: &Value,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<u32>, Error> {
        let container = Container {
            id: self.name.to_owned(),
            runtime: Some(Runtime { name: self.options.runtime.clone(), options: None }),
            spec: Some(prost_types::Any {
                type_url: OCI_SPEC_TYPE.to_owned(),
                value: spec.to_string().into_bytes(),
            }),
            ..Container::default()
        };
        client.containers().create(container).await?;
        let result = self.as_task(client, stop).await;
        self.gone("container", client.containers().delete(self.name)).await;
        result
    }

    async fn as_task(&self, client: &Client, stop: &mut watch::Receiver<bool>) -> Result<Option<u32>, Error> {
        let terminal = self.options.workload.terminal;
        let output = Output::new(self.directory, terminal, self.options.echo).map_err(Error::Temporary)?;
        let pipe = |path: &Path| path.display().to_string();
        let task = NewTask {
            container_id: self.name.to_owned(),
            stdout: pipe(output.stdout_path()),
            stderr: output.stderr_path().map(pipe).unwrap_or_default(),
            terminal,
            ..NewTask::default()
        };
        client.tasks().create(task).await?;
        let result = self.started(client, output, stop).await;
        let ended = self.end(client).await;
        self.gone("task", client.tasks().delete(self.name)).await;
        let exit = result?;
        ended.map(|()| exit)
    }

    /// Returns how the workload ended, if it did.
    async fn started(
        &self,
        client: &Client,
        output: Output,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<u32>, Error> {
        client.tasks().start(self.name).await?;
        let Until { period, line } = &self.options.until;
        let tasks = client.tasks();
        let mut exited = pin!(tasks.wait(self.name));
        let mut seen = pin!(output.watch(line.as_deref()));
        let over = async {
            match period {
                Some(period) => tokio::time::sleep(*period).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            exit = &mut exited => {
                // What it wrote last is still in the pipes.
                let _ = tokio::time::timeout(Duration::from_millis(200), &mut seen).await;
                Ok(Some(exit?.exit_status))
            }
            () = &mut seen => Ok(None),
            () = over => Ok(None),
            () = stopped(stop) => match period {
                Some(_) => Err(Error::Interrupted),
                None => Ok(None),
            },
        }
    }

    /// Kills what still runs, and waits for its end.
    async fn end(&self, client: &Client) -> Result<(), Error> {
        match client.tasks().kill(self.name, SIGKILL, true).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition) => {}
            Err(error) => return Err(error.into()),
        }
        match tokio::time::timeout(KILL_LIMIT, client.tasks().wait(self.name)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Immortal(self.name.to_owned())),
        }
    }

    /// Awaits a removal. One that fails does not hide what happened before; the lease takes care of the rest.
    async fn gone<T>(&self, what: &str, removal: impl Future<Output = Result<T, containerd::Error>>) {
        if let Err(error) = removal.await {
            tracing::warn!(what, name = self.name, %error, "something of the workload is left");
        }
    }
}

/// Awaits that it is told to stop; for ever if nobody can tell any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn or_stopped<T>(stop: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::select! {
        result = work => Ok(result),
        () = stopped(stop) => Err(Error::Interrupted),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, recorder::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::Temporary(std::io::Error::other(error))),
    }
}
