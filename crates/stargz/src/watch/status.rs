//! What `stargz status` shows: put together by the daemon, read by the command.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use layer::fetch::Priority;
use layer::tally::Cause;
use serde::{Deserialize, Serialize};

use super::Watch;
use crate::lazyfs::View;

/// The command that asks for a [`Status`].
pub const STATUS: &str = "status";

/// Parts of a map that can be asked for.
const MAP_MAX: usize = 1024;

/// Arguments of [`STATUS`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Question {
    /// Only images whose reference has this in it, or layers whose digest begins with it. Empty: all.
    pub only: String,
    /// Into how many parts to divide each layer's map; 0: no maps.
    pub map: usize,
}

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub daemon: Daemon,
    /// The layers that are mounted.
    pub layers: Vec<Layer>,
    /// The layers that could not be, the last one first.
    pub refused: Vec<Refused>,
}

/// The process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// Version and revision.
    pub version: String,
    /// Process.
    pub pid: u32,
    /// Seconds since it began.
    pub uptime_seconds: u64,
    /// Directory of its state.
    pub root: String,
    /// Its configuration file.
    pub config: String,
    /// Release of the kernel.
    pub kernel: String,
    /// How layers are shown.
    pub backend: String,
    /// Why so: the backends that were passed over, and their reasons.
    pub backend_reason: String,
    /// Bytes that layers take on disk.
    pub cache_bytes: u64,
    /// Bytes that they may take; `None`: no limit.
    pub cache_limit: Option<u64>,
    /// Layers on disk, mounted or not.
    pub cache_layers: u64,
    /// Reads answered from disk since it began.
    pub reads: u64,
    /// Reads that waited for the network.
    pub waits: u64,
    /// For how long all of them together.
    pub stall_seconds: f64,
    /// What 99 of 100 waits did not exceed.
    pub wait_p99_seconds: Option<f64>,
    /// Reads that failed.
    pub failed: u64,
    /// Bytes that arrived.
    pub fetched: u64,
    /// Bytes that readers got.
    pub served: u64,
    /// Times that bytes did not have their digest.
    pub verification_failures: u64,
    /// Contents that were asked for again, by cause.
    pub retries: BTreeMap<String, u64>,
    /// Spans that are on their way, by priority.
    pub in_flight: BTreeMap<String, u64>,
}

/// A layer that is mounted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layer {
    /// The image that it was pulled for.
    pub image: String,
    /// Of the blob.
    pub digest: String,
    /// Format of the blob.
    pub format: String,
    /// How it is shown: by the daemon's backend, or by the kernel alone.
    pub backend: String,
    /// Size of the blob, bytes.
    pub size: u64,
    /// Part of its chunks that is on disk, percent.
    pub filled_percent: f64,
    /// Bytes of the blob that were fetched by this process.
    pub fetched: u64,
    /// Bytes of contents that somebody read.
    pub touched: u64,
    /// Bytes of the blob that arrive in a second.
    pub rate: f64,
    /// Reads that waited for the network.
    pub waits: u64,
    /// For how long all of them together.
    pub stall_seconds: f64,
    /// Where it is mounted.
    pub mounts: Vec<String>,
    /// Overlays that are mounted over it: containers, mostly.
    pub users: u64,
    /// The last read that failed.
    pub last_error: Option<Failed>,
    /// How far each part of its contents is filled, 0 to 1.
    pub map: Option<Vec<f64>>,
}

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// Seconds since 1970.
    pub at: u64,
    /// What it was.
    pub error: String,
}

/// A layer that containerd has to pull in full.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// When it was last asked for, seconds since 1970.
    pub at: u64,
    /// Of which image.
    pub image: String,
    /// Which layer.
    pub digest: String,
    /// Why it is not lazy.
    pub reason: String,
    /// How often it was asked for.
    pub times: u64,
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Puts the answer together. Blocks on the disk.
pub fn of(watch: &Watch, question: &Question) -> Status {
    let wanted = |image: &str, digest: &str| {
        let only = question.only.as_str();
        only.is_empty() || image.contains(only) || digest.starts_with(only) || digest.ends_with(only)
    };
    let overlays = overlays();
    let mut layers: Vec<Layer> = Vec::new();
    for view in watch.fs.views() {
        let (digest, mount) = (view.layer.digest().to_string(), view.path.display().to_string());
        if !wanted(&view.image, &digest) {
            continue;
        }
        let users = users(&overlays, &view.path);
        match layers.iter_mut().find(|other| other.digest == digest && other.image == view.image) {
            Some(other) => {
                other.mounts.push(mount);
                other.users += users;
            }
            None => layers.push(layer(watch, &view, users, question.map.min(MAP_MAX))),
        }
    }
    layers.sort_by(|a, b| (&a.image, &a.mounts).cmp(&(&b.image, &b.mounts)));
    let refused = watch.fs.book().refusals().into_iter().filter(|old| wanted(&old.image, &old.digest));
    let refused = refused.map(|old| Refused {
        at: seconds(old.at),
        image: old.image,
        digest: old.digest,
        reason: old.reason,
        times: old.times,
    });
    Status { daemon: daemon(watch), layers, refused: refused.collect() }
}

fn daemon(watch: &Watch) -> Daemon {
    let totals = watch.layers.totals();
    let cache = watch.cache();
    let micros = |micros: u64| micros as f64 / 1e6;
    Daemon {
        version: crate::cli::VERSION.to_owned(),
        pid: std::process::id(),
        uptime_seconds: watch.fs.book().started.elapsed().as_secs(),
        root: watch.root.display().to_string(),
        config: watch.config.display().to_string(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        backend: watch.fs.backend().0,
        backend_reason: watch.fs.backend().1.to_owned(),
        cache_bytes: cache.0,
        cache_limit: watch.cache_limit,
        cache_layers: cache.1,
        reads: totals.local.count(),
        waits: totals.remote.count(),
        stall_seconds: micros(totals.remote.sum()),
        wait_p99_seconds: totals.remote.quantile(0.99).map(micros),
        failed: totals.failed,
        fetched: totals.fetched,
        served: totals.served,
        verification_failures: totals.bad,
        retries: named(Cause::ALL.map(Cause::name), totals.retries),
        in_flight: named(Priority::ALL.map(Priority::name), totals.in_flight),
    }
}

fn named<const N: usize>(names: [&str; N], numbers: [u64; N]) -> BTreeMap<String, u64> {
    names.map(str::to_owned).into_iter().zip(numbers).collect()
}

fn layer(watch: &Watch, view: &View, users: u64, map: usize) -> Layer {
    let (layer, progress) = (&view.layer, view.layer.progress());
    let tally = layer.tally();
    let waits = tally.remote.snapshot();
    let filled = progress.chunks - progress.missing.min(progress.chunks);
    Layer {
        image: view.image.clone(),
        digest: layer.digest().to_string(),
        format: layer.format_name().to_owned(),
        backend: if view.served { watch.fs.backend().0 } else { "kernel alone".to_owned() },
        size: progress.blob_size,
        filled_percent: if progress.chunks == 0 {
            100.0
        } else {
            filled as f64 * 100.0 / progress.chunks as f64
        },
        fetched: progress.fetched,
        touched: progress.touched,
        rate: watch.fs.book().rate(&layer.digest()),
        waits: waits.count(),
        stall_seconds: waits.sum() as f64 / 1e6,
        mounts: vec![view.path.display().to_string()],
        users,
        last_error: tally.last_failure().map(|last| Failed { at: seconds(last.at), error: last.text }),
        map: (map > 0).then(|| layer.map(map)),
    }
}

/// The options of all overlays that this process sees.
fn overlays() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter(|line| line.contains(" - overlay ")).map(str::to_owned).collect()
}

/// How many of them have this directory as a layer.
fn users(overlays: &[String], path: &Path) -> u64 {
    let Some(path) = path.to_str() else { return 0 };
    let ends = |rest: &str| rest.is_empty() || rest.starts_with([':', ',']);
    let uses = |line: &&String| line.match_indices(path).any(|(at, found)| ends(&line[at + found.len()..]));
    overlays.iter().filter(uses).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_uses_the_layers_that_it_names_and_no_others() {
        let line = "50 29 0:44 / /run/x rw - overlay overlay rw,lowerdir=/r/snapshots/12/fs:/r/snapshots/3/fs,upperdir=/u";
        let overlays = [line.to_owned()];
        let count = |path: &str| users(&overlays, Path::new(path));
        assert_eq!(
            (count("/r/snapshots/12/fs"), count("/r/snapshots/3/fs"), count("/r/snapshots/1")),
            (1, 1, 0)
        );
    }
}
