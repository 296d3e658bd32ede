//! Where a key stands in the text, and what to say of a key that does nothing.

use std::path::Path;

/// Keys of stargz-snapshotter's file that have no effect in this version, and why.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("metrics_address", "metrics are not served in this version"),
    ("no_prometheus", "metrics are not served in this version"),
    ("debug_address", "there is no debug endpoint in this version"),
    ("metadata_store", "metadata is always kept in the image file, on disk"),
    ("http_cache_type", "compressed bytes are not cached, only verified contents are"),
    ("filesystem_cache_type", "contents are always kept in the image file, on disk"),
    ("debug", "use --log-level=debug"),
    ("log_file_access", "files are opened in the kernel, out of this program's sight"),
    ("resolve_result_entry", "it was without effect before"),
    ("blob.chunk_size", "requests follow the layer's own spans"),
    ("blob.prefetch_chunk_size", "prefetch requests are split as needed"),
    ("directory_cache", "contents are kept in the image file and cached by the kernel"),
    ("fuse", "files are served by the kernel's EROFS, not by a FUSE tree"),
    ("fuse_manager", "mounts are not kept by a second process in this version"),
];

/// Every other key there is, for suggestions.
const WITH_EFFECT: &[&str] = &[
    "prefetch_size",
    "prefetch_timeout_sec",
    "prefetch_async_size",
    "noprefetch",
    "allow_no_verification",
    "disable_verification",
    "resolve_result_entry_ttl_sec",
    "blob",
    "blob.fetching_timeout_sec",
    "blob.max_retries",
    "blob.min_wait_msec",
    "blob.max_wait_msec",
    "blob.check_always",
    "blob.valid_interval",
    "blob.force_single_range_mode",
    "ipfs",
    "resolver",
    "resolver.request_timeout_sec",
    "resolver.allow_link_local",
    "resolver.host",
    "no_background_fetch",
    "max_concurrency",
    "snapshotter",
    "snapshotter.allow_invalid_mounts_on_restart",
    "cache",
    "cache.max_bytes",
    "cache.high_watermark",
    "cache.low_watermark",
    "cache.min_free_bytes",
    "registry",
    "registry.config_path",
    "registry.mirrors",
    "registry.configs",
    "kubeconfig_keychain",
    "kubeconfig_keychain.enable_keychain",
    "kubeconfig_keychain.kubeconfig_path",
    "kubelet_credential_provider",
    "kubelet_credential_provider.config_path",
    "kubelet_credential_provider.bin_dir",
    "cri_keychain",
    "cri_keychain.enable_keychain",
    "cri_keychain.image_service_path",
    "cri_keychain.listen_path",
    "cri_keychain.persist",
    "cri_keychain.expire_after_sec",
];

/// The line (from 1) of a byte of the text, and the key on that line followed by `: `.
pub fn at(text: &str, byte: usize) -> (usize, String) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let key =
        text.lines().nth(line - 1).and_then(|text| text.split_once('=')).map_or(String::new(), |(key, _)| {
            let table = before.lines().rev().find_map(|line| line.trim().strip_prefix('['));
            let table = table.map_or("", |table| table.trim_matches(['[', ']', ' ']));
            let dot = if table.is_empty() { "" } else { "." };
            format!("{table}{dot}{}: ", key.trim())
        });
    (line, key)
}

/// What to tell the author of a file about a key that was ignored.
pub fn warning(text: &str, key: &str, path: &Path) -> String {
    let at = line_of(text, key)
        .map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display()));
    let known = WITHOUT_EFFECT.iter().find(|(known, _)| key == *known || is_below(key, known));
    if let Some((_, why)) = known {
        return format!("{at}: {key} has no effect: {why}");
    }
    match nearest(key) {
        Some(near) => format!("{at}: unknown key {key}, did you mean {near}?"),
        None => format!("{at}: unknown key {key}"),
    }
}

fn is_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

/// The line on which the last part of a dotted key stands, looked for below its table's header.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (table, last) = key.rsplit_once('.').unwrap_or(("", key));
    let mut inside = table.is_empty();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_matches(['[', ']', ' ']);
            if header == key {
                return Some(number + 1);
            }
            inside = header == table;
        } else if inside && line.split_once('=').is_some_and(|(name, _)| name.trim() == last) {
            return Some(number + 1);
        }
    }
    None
}

/// The known key that differs in the fewest letters, if that is at most a third of them.
fn nearest(key: &str) -> Option<&'static str> {
    let known = WITH_EFFECT.iter().copied().chain(WITHOUT_EFFECT.iter().map(|(key, _)| *key));
    let (distance, near) = known.map(|known| (distance(key, known), known)).min()?;
    (distance * 3 <= key.chars().count()).then_some(near)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
