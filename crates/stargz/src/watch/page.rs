//! What a scrape is answered with.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use layer::fetch::Priority;
use layer::tally::Cause;
use metrics::{Family, Page, Snapshot};

use super::Watch;
use super::catalog::{self, Metric};
use crate::lazyfs::View;

/// Mounts that have series of their own. Beyond that a scrape would be a burden for everybody.
const MOUNTS_MAX: usize = 1000;
/// Upstream's label for what is not of one layer: SHA-256 of nothing.
const NO_LAYER: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn family<'a>(page: &'a mut Page, metric: &'a Metric) -> Family<'a> {
    page.family(metric.name, metric.kind, metric.help)
}

fn one(page: &mut Page, metric: Metric, value: impl Into<metrics::Value>) {
    family(page, &metric).sample(&[], value);
}

/// Makes the page. Blocks on the disk.
pub fn of(watch: &Watch) -> String {
    let mut page = Page::default();
    let mut views = watch.fs.views();
    views.sort_by(|a, b| a.path.cmp(&b.path));
    let left_out = views.len().saturating_sub(MOUNTS_MAX);
    mounts(&mut page, watch, &views);
    views.truncate(MOUNTS_MAX);
    upstream(&mut page, watch, &views);
    images(&mut page, &views);
    totals(&mut page, watch);
    one(&mut page, catalog::LEFT_OUT, left_out as u64);
    family(&mut page, &catalog::BUILD).sample(&[("version", crate::cli::VERSION)], 1_u64);
    process(&mut page, watch.fs.book().started);
    page.finish()
}

/// The names that stargz-snapshotter has. Series are of layers that are mounted, and end with the mount.
fn upstream(page: &mut Page, watch: &Watch, views: &[View]) {
    // A layer that is mounted twice has one set of series by its digest.
    let layers: BTreeMap<String, &View> =
        views.iter().map(|view| (view.layer.digest().to_string(), view)).collect();
    let of_path: BTreeMap<_, String> =
        views.iter().map(|view| (view.path.clone(), view.layer.digest().to_string())).collect();
    let mut mounts: BTreeMap<&str, Snapshot> = BTreeMap::new();
    watch.fs.book().each_mount(|path, mounted| {
        if let Some(digest) = of_path.get(path) {
            mounts.entry(digest).or_default().absorb(&mounted.mount.snapshot());
        }
    });
    let mut millis = family(page, &catalog::FS_MILLIS);
    for (digest, snapshot) in &mounts {
        millis.histogram(&[("operation_type", "mount"), ("layer", digest)], snapshot, (0, 14), 1.0);
    }
    let prefetches = watch.fs.book().prefetches.snapshot();
    let labels = [("operation_type", "all_prefetches_completed"), ("layer", NO_LAYER)];
    millis.histogram(&labels, &prefetches, (0, 14), 1.0);

    let mut micros = family(page, &catalog::FS_MICROS);
    for (digest, view) in &layers {
        let tally = view.layer.tally();
        let mut all = tally.local.snapshot();
        all.absorb(&tally.remote.snapshot());
        micros.histogram(&[("operation_type", "read_on_demand"), ("layer", digest)], &all, (0, 10), 1.0);
    }
    let numbers = [
        (catalog::FS_COUNT, "on_demand_read_access_count", "on_demand_remote_registry_fetch_count"),
        (catalog::FS_BYTES, "on_demand_bytes_served", "on_demand_bytes_fetched"),
    ];
    for (number, (metric, first, second)) in numbers.into_iter().enumerate() {
        let mut family = family(page, &metric);
        for (digest, view) in &layers {
            let tally = view.layer.tally();
            let (one, other) = match number {
                0 => (tally.local.snapshot().count(), tally.requests.get()),
                _ => (tally.served.get(), tally.fetched.get()),
            };
            family.sample(&[("operation_type", first), ("layer", digest)], one);
            family.sample(&[("operation_type", second), ("layer", digest)], other);
        }
    }
    type Size = fn(&View) -> u64;
    let sizes: [(Metric, Size); 3] = [
        (catalog::FS_FETCHED, |view| view.layer.tally().fetched.get()),
        (catalog::FS_PREFETCH, |view| view.layer.tally().prefetched.get()),
        (catalog::FS_SIZE, |view| view.layer.progress().blob_size),
    ];
    for (metric, size) in sizes {
        let mut family = family(page, &metric);
        for view in views {
            let (digest, path) = (view.layer.digest().to_string(), view.path.display().to_string());
            family.sample(&[("digest", &digest), ("mountpoint", &path)], size(view));
        }
    }
}

fn images(page: &mut Page, views: &[View]) {
    #[derive(Default)]
    struct Sum {
        stall: f64,
        fetched: u64,
        chunks: u64,
        missing: u64,
    }
    let mut images: BTreeMap<&str, Sum> = BTreeMap::new();
    for view in views {
        let (sum, progress) = (images.entry(&view.image).or_default(), view.layer.progress());
        sum.stall += view.layer.tally().remote.snapshot().sum() as f64 / 1e6;
        sum.fetched += view.layer.tally().fetched.get();
        sum.chunks += progress.chunks;
        sum.missing += progress.missing;
    }
    let mut stalled = family(page, &catalog::STALLED);
    for (image, sum) in &images {
        stalled.sample(&[("image", image)], sum.stall);
    }
    let mut fetched = family(page, &catalog::IMAGE_FETCHED);
    for (image, sum) in &images {
        fetched.sample(&[("image", image)], sum.fetched);
    }
    let mut filled = family(page, &catalog::IMAGE_FILLED);
    for (image, sum) in &images {
        let part = if sum.chunks == 0 { 1.0 } else { 1.0 - sum.missing as f64 / sum.chunks as f64 };
        filled.sample(&[("image", image)], part);
    }
}

fn mounts(page: &mut Page, watch: &Watch, views: &[View]) {
    let served = views.iter().filter(|view| view.served).count() as u64;
    let (backend, _) = watch.fs.backend();
    family(page, &catalog::MOUNTS)
        .sample(&[("backend", &backend)], served)
        .sample(&[("backend", "kernel_alone")], views.len() as u64 - served);
}

fn totals(page: &mut Page, watch: &Watch) {
    let (totals, book) = (watch.layers.totals(), watch.fs.book());
    // From 1 µs to 16 s; in seconds.
    family(page, &catalog::READS).histogram(&[("outcome", "local")], &totals.local, (0, 24), 1e-6).histogram(
        &[("outcome", "remote")],
        &totals.remote,
        (0, 24),
        1e-6,
    );
    one(page, catalog::READS_FAILED, totals.failed);
    one(page, catalog::SERVED, totals.served);
    one(page, catalog::FETCHED, totals.fetched);
    one(page, catalog::TOUCHED, totals.touched);
    one(page, catalog::REQUESTS, totals.requests);
    let mut in_flight = family(page, &catalog::IN_FLIGHT);
    for (priority, spans) in Priority::ALL.into_iter().zip(totals.in_flight) {
        in_flight.sample(&[("priority", priority.name())], spans);
    }
    let mut retries = family(page, &catalog::RETRIES);
    for (cause, times) in Cause::ALL.into_iter().zip(totals.retries) {
        retries.sample(&[("cause", cause.name())], times);
    }
    one(page, catalog::BAD, totals.bad);
    one(page, catalog::MOUNTED, book.mounted.get());
    one(page, catalog::REFUSED, book.refused.get());
    let (bytes, layers) = watch.cache();
    one(page, catalog::CACHE, bytes);
    one(page, catalog::CACHE_LIMIT, watch.cache_limit.unwrap_or(0));
    one(page, catalog::CACHE_LAYERS, layers);
}

fn process(page: &mut Page, started: Instant) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    one(page, catalog::START, now - started.elapsed().as_secs_f64());
    // proc(5): the fields behind the name, which may hold anything.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    one(page, catalog::CPU, (field(14) + field(15)) as f64 / ticks);
    one(page, catalog::MEMORY, field(24) * rustix::param::page_size() as u64);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    one(page, catalog::FDS, open as u64);
}
