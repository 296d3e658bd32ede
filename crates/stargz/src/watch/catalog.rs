//! Every metric, once: the page that is scraped and the table of `docs/metrics.md` are made of these.

use metrics::Kind::{self, Counter, Gauge, Histogram};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// The names of its labels.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the documentation, which a test compares"))]
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Metric = Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        #[cfg(test)]
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

#[rustfmt::skip]
metrics! {
    FS_MILLIS = "stargz_fs_operation_duration_milliseconds", Histogram, ["operation_type", "layer"], "Time to mount a layer (operation_type mount), and of all prefetches (all_prefetches_completed, whose layer label is the digest of nothing, as it always was).";
    FS_MICROS = "stargz_fs_operation_duration_microseconds", Histogram, ["operation_type", "layer"], "Time of reads that reached the daemon (operation_type read_on_demand), waits included.";
    FS_COUNT = "stargz_fs_operation_count", Counter, ["operation_type", "layer"], "Reads that reached the daemon (on_demand_read_access_count), and requests for contents (on_demand_remote_registry_fetch_count).";
    FS_BYTES = "stargz_fs_bytes_served", Gauge, ["operation_type", "layer"], "Bytes that readers got (on_demand_bytes_served), and bytes of the blob that arrived (on_demand_bytes_fetched).";
    FS_FETCHED = "stargz_fs_layer_fetched_size_bytes", Counter, ["digest", "mountpoint"], "Bytes of the layer's blob that arrived in this process.";
    FS_PREFETCH = "stargz_fs_layer_prefetch_size_bytes", Counter, ["digest", "mountpoint"], "Bytes of the layer's blob that were asked for ahead of a start.";
    FS_SIZE = "stargz_fs_layer_size_bytes", Counter, ["digest", "mountpoint"], "Size of the layer's blob.";
    READS = "stargz_read_duration_seconds", Histogram, ["outcome"], "Time of reads that reached the daemon: local is answering from disk, remote is waiting for contents that were missing, after which the read is local as well.";
    READS_FAILED = "stargz_read_failures_total", Counter, [], "Reads that ended in an error.";
    SERVED = "stargz_served_bytes_total", Counter, [], "Bytes that readers got.";
    FETCHED = "stargz_fetched_bytes_total", Counter, [], "Bytes of blobs that arrived.";
    TOUCHED = "stargz_touched_bytes_total", Counter, [], "Bytes of contents of incomplete layers that somebody read, each counted once.";
    REQUESTS = "stargz_requests_total", Counter, [], "Requests for contents.";
    IN_FLIGHT = "stargz_spans_in_flight", Gauge, ["priority"], "Spans that are being fetched, or wait for their turn.";
    RETRIES = "stargz_retries_total", Counter, ["cause"], "Contents that were asked for again: store_away, broke_off, silent, slow, bad_bytes.";
    BAD = "stargz_verification_failures_total", Counter, [], "Times that bytes from a registry did not have the digest that pins them. None of them was shown.";
    STALLED = "stargz_image_stall_seconds_total", Counter, ["image"], "Time that reads of the image's layers have waited for contents, all readers together.";
    IMAGE_FETCHED = "stargz_image_fetched_bytes_total", Counter, ["image"], "Bytes of blobs that arrived for the image's layers.";
    IMAGE_FILLED = "stargz_image_filled_ratio", Gauge, ["image"], "Part of the chunks of the image's mounted layers that is on disk, 0 to 1.";
    MOUNTS = "stargz_mounts", Gauge, ["backend"], "Mounts of layers, by how they are shown; kernel_alone are complete layers that the daemon is not in the path of.";
    MOUNTED = "stargz_layers_mounted_total", Counter, [], "Layers that were mounted lazily.";
    REFUSED = "stargz_layers_refused_total", Counter, [], "Layers that were not, and had to be pulled in full; stargz status says why.";
    CACHE = "stargz_cache_bytes", Gauge, [], "Bytes that layers take on disk.";
    CACHE_LIMIT = "stargz_cache_limit_bytes", Gauge, [], "Bytes that they may take; 0 is no limit.";
    CACHE_LAYERS = "stargz_cache_layers", Gauge, [], "Layers on disk, mounted or not.";
    LEFT_OUT = "stargz_series_left_out", Gauge, [], "Mounts whose series are not here because there are too many.";
    BUILD = "stargz_build_info", Gauge, ["version"], "Always 1.";
    START = "process_start_time_seconds", Gauge, [], "When the process began, seconds since 1970.";
    CPU = "process_cpu_seconds_total", Counter, [], "CPU time of the process.";
    MEMORY = "process_resident_memory_bytes", Gauge, [], "Memory of the process.";
    FDS = "process_open_fds", Gauge, [], "Open descriptors of the process.";
}

/// The table of the documentation.
#[cfg(test)]
pub fn markdown() -> String {
    let mut text = "| metric | type | labels | what |\n|---|---|---|---|\n".to_owned();
    for metric in ALL {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        text += &format!("| `{}` | {} | {labels} | {} |\n", metric.name, metric.kind.name(), metric.help);
    }
    text
}
