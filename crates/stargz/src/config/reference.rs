//! Every key of the configuration file, once: the warnings, the suggestions, what a reload can change, and the tables
//! of `docs/configuration.md` come from here.

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With the next reload (SIGHUP, `systemctl reload`).
    Live,
    /// When the daemon is started again.
    Start,
    /// Never: known from stargz-snapshotter, and without a meaning here.
    Never,
}

use When::{Live, Never, Start};

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// With its tables; `*` stands for a name of the author's choice.
    pub name: &'static str,
    /// Type and unit.
    pub kind: &'static str,
    /// What it is when it is not there.
    pub default: &'static str,
    /// When a change takes effect.
    pub when: When,
    /// What it does, in Markdown; of one without effect, why, and what there is instead.
    pub text: &'static str,
}

const fn key(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    when: When,
    text: &'static str,
) -> Key {
    Key { name, kind, default, when, text }
}

/// A key that does nothing.
const fn idle(name: &'static str, text: &'static str) -> Key {
    key(name, "", "", Never, text)
}

/// All keys, in the order of the documentation.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("prefetch_size", "integer, bytes", "0", Live, "How much of the beginning of a layer's blob to fetch when it is mounted. A landmark in the image, else the label `containerd.io/snapshot/remote/stargz.prefetch` of the snapshot, comes before this key. 0: nothing"),
    key("prefetch_timeout_sec", "integer, seconds", "10", Live, "How long the start of a container waits for that. After it, the start goes on and so does the prefetch."),
    key("prefetch_async_size", "integer, bytes", "0", Live, "A prefetch of more bytes than this does not hold up a start. 0: every prefetch does"),
    key("noprefetch", "boolean", "false", Live, "No prefetch, and no wait for one. Landmarks and labels are ignored"),
    key("no_background_fetch", "boolean", "false", Live, "Layers are not completed in the background"),
    key("max_concurrency", "integer, layers", "2", Live, "How many layers are completed in the background at once"),
    key("allow_no_verification", "boolean", "false", Live, "A layer without a TOC digest in its manifest may be used if its client asked for that (label `containerd.io/snapshot/remote/stargz.skipverify`, any value: `ctr-remote image rpull --skip-content-verify`)"),
    key("disable_verification", "boolean", "false", Live, "No TOC is compared with its manifest's digest, asked for or not. Chunks are still checked against the TOC. For experiments"),
    key("resolve_result_entry_ttl_sec", "integer, seconds", "120", Live, "How long a layer that was resolved ahead, because a neighbour in its image was asked for, waits for its own turn before it is removed"),
    key("ipfs", "boolean", "false", Live, "A layer whose manifest has a URL `ipfs://CID` (label `containerd.io/snapshot/remote/urls` of the snapshot) is read from the node of IPFS on this machine. Its address is in the file `api` in `$IPFS_PATH`, else `~/.ipfs`. What the node does not give comes from the registry"),
    key("log_level", "string", "that of --log-level", Live, "How much to log: `trace`, `debug`, `info`, `warn`, `error`. Comes before the flag, so that it can be changed while the daemon runs"),
    key("log_file_access", "boolean", "false", Start, "A debug line `file accessed` for the first read of contents of each file, with `path`, `layer` and `size`. Only reads that reach this program are seen: not those of the page cache, and none of complete layers"),
    key("metrics_address", "string", "", Start, "Where to serve metrics for Prometheus at `/metrics`: `HOST:PORT`, or a path with `metrics_network = \"unix\"`. Empty: nowhere. See [metrics](metrics.md)"),
    key("metrics_network", "string", "tcp", Start, "`tcp` or `unix`"),
    key("no_prometheus", "boolean", "false", Start, "No metrics, whatever `metrics_address` says"),
    key("debug_address", "string", "", Start, "Unix socket for HTTP: `/debug/vars` (JSON: state, metrics) and `/debug/status` (what `stargz status --json` prints). The profiles of Go's runtime (`/debug/pprof/`) do not exist here; it says so and names `perf`"),
    key("blob.fetching_timeout_sec", "integer, seconds", "300", Start, "Budget of one call to a registry with all hosts, retries, waits and tokens; also how long a read in a container waits before it fails with `EIO`"),
    key("blob.max_retries", "integer", "5", Live, "Rounds of retries after the first. In a round every host that may still succeed is asked once. Retried: connection errors, timeouts, 408, 429, 5xx except 501"),
    key("blob.min_wait_msec", "integer, ms", "30", Live, "Wait before the first retry. It doubles each time, with a random part"),
    key("blob.max_wait_msec", "integer, ms", "300000", Live, "Longest single wait, also of one that a server asks for with `Retry-After`"),
    key("blob.check_always", "boolean", "false", Live, "Before each start of a container, ask the registry for one byte of each of its layers that is not complete, and refuse the start if there is no answer. Without it a container starts, and what cannot be fetched is an error when it is read"),
    key("blob.valid_interval", "integer, seconds", "0", Live, "The same, but not if the layer was served within this time. 0: do not ask. stargz-snapshotter asked after 60 s"),
    key("blob.force_single_range_mode", "boolean", "false", Live, "Never ask for several ranges in one request. Hosts that cannot serve them are found out in any case"),
    key("resolver.request_timeout_sec", "integer, seconds", "30", Live, "Time without progress after which a request has failed: until the headers, and from one piece of the body to the next. Not the time of a whole body"),
    key("resolver.allow_link_local", "boolean", "false", Live, "Follow redirects, and the addresses of token servers, to link-local addresses (169.254.0.0/16, fe80::/10), where clouds have the service that gives a machine its credentials"),
    key("resolver.host.*.mirrors.host", "string", "", Live, "Host name or address, with a port if it is not the scheme's. No scheme, no path"),
    key("resolver.host.*.mirrors.insecure", "boolean", "false", Live, "Plain HTTP"),
    key("resolver.host.*.mirrors.request_timeout_sec", "integer, seconds", "0", Live, "As `[resolver] request_timeout_sec`, for this mirror. 0: that one. Below 0: a day"),
    key("resolver.host.*.mirrors.header", "table", "", Live, "Headers for every request to this mirror. A value is a string, or a list of strings. Not sent to where the mirror redirects"),
    key("registry.config_path", "string", "", Live, "Directories of containerd's [`hosts.toml`](https://github.com/containerd/containerd/blob/main/docs/hosts.md), separated by `:`; `/etc/containerd/certs.d`, mostly. All that containerd reads there is obeyed: `server`, `capabilities`, `ca`, `client`, `skip_verify`, `override_path`, `header`, `dial_timeout`, `_default`, and directories with certificates alone. Looked at again every 5 s"),
    key("registry.mirrors.*.endpoint", "list of strings", "", Live, "URLs for the content of `HOST`, tried in order before the host itself; `*` is for all hosts that are not named. Not looked at if `config_path` is set"),
    key("registry.configs.*.tls", "table", "", Live, "`insecure_skip_verify`, `ca_file`, `cert_file`, `key_file`. Not looked at if `config_path` is set"),
    key("registry.configs.*.auth", "table", "", Live, "`username` and `password`, `auth` (base64 of both), or `identitytoken`. Looked at in any case. The file should be readable by root only then"),
    key("kubeconfig_keychain.enable_keychain", "boolean", "false", Start, "Follow the secrets of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` of all namespaces. The user of the kubeconfig must be allowed to `list` and `watch` secrets"),
    key("kubeconfig_keychain.kubeconfig_path", "string", "", Start, "The kubeconfig. It may appear later, and change. Empty: `$KUBECONFIG`, else `~/.kube/config`; without either the service account of the pod, if there is one"),
    key("kubelet_credential_provider.config_path", "string", "", Live, "The file, or directory, that the kubelet has as `--image-credential-provider-config`"),
    key("kubelet_credential_provider.bin_dir", "string", "", Live, "The directory that it has as `--image-credential-provider-bin-dir`. Both keys, or none of them"),
    key("cri_keychain.enable_keychain", "boolean", "false", Start, "Show the image service of the container runtime (CRI, `runtime.v1.ImageService`) to the kubelet, pass everything on, and remember the credentials of each `PullImage`. The kubelet needs `--image-service-endpoint=unix:///run/containerd-stargz-grpc/containerd-stargz-grpc.sock`"),
    key("cri_keychain.image_service_path", "string", "/run/containerd/containerd.sock", Start, "Socket of the container runtime. While it is not there, calls end at once as unavailable"),
    key("cri_keychain.listen_path", "string", "that of --address", Start, "Another socket for the kubelet"),
    key("cri_keychain.persist", "boolean", "false", Start, "Keep what was learned over a restart, in `ROOT/credentials`: encrypted and authenticated (ChaCha20-Poly1305) with a key in a file of its own that only root can read. Without it, layers of private images that are not complete cannot be read on after a restart, unless another keychain has the credential"),
    key("cri_keychain.expire_after_sec", "integer, seconds", "2592000", Start, "How long the credentials of an image are kept after they were last needed (30 days). They are forgotten as well when the kubelet removes the image"),
    key("snapshotter.allow_invalid_mounts_on_restart", "boolean", "false", Start, "The daemon starts either way when a layer cannot be mounted again, and tries that layer again when a container needs it. False adds one error line to the log that says how many layers are affected"),
    key("cache.max_bytes", "integer, bytes", "0", Start, "What all layers together may take on disk: allocated blocks, metadata included. 0: no limit, and a layer is removed as soon as no snapshot uses it. With a limit, layers that no snapshot uses stay until their room is needed, and a later pull of the same layer asks the registry for nothing"),
    key("cache.high_watermark", "number, part of max_bytes", "0.9", Start, "Above this, room is made"),
    key("cache.low_watermark", "number, part of max_bytes", "0.8", Start, "Until layers take no more than this. The background fills no further than this either"),
    key("cache.min_free_bytes", "integer, bytes", "67108864", Start, "Bytes of the file system to leave free for others: the background stops before, and with `max_bytes` room is made. Never more than a twentieth of the file system"),
    key("mount.backend", "string", "auto", Start, "How layers are shown: `erofs` (the kernel mounts their image files), `erofs-loop` (through loop devices), `fuse` (a FUSE tree). `auto` tries them in this order when the daemon starts and takes the first that works. A backend that is named and does not work ends the daemon. See [backends](backends.md)"),
    key("mount.state_directory", "boolean", "true", Start, "Containers find `/.stargz-snapshotter/<digest of a layer>.json` in their root, which tells how far the layer is fetched. See [backends](backends.md#the-state-directory)"),
    key("mount.selinux_context", "string", "", Start, "SELinux label of everything that is shown. Empty: `system_u:object_r:container_ro_file_t:s0` where SELinux enforces and its policy has that label. `none`: no label"),
    key("profile.record", "boolean", "true", Live, "Remember, for each image, what is read in the first seconds after a start, in `ROOT/profiles`. See [profiles](profiles.md)"),
    key("profile.apply", "boolean", "true", Live, "Fetch that ahead when a layer of the image is mounted, instead of what a landmark, a label or `prefetch_size` says. Not with `noprefetch`"),
    key("profile.window_sec", "integer, seconds", "30", Live, "How long after a start reads count"),
    key("profile.wait", "boolean", "false", Live, "A start waits until it is fetched, for `prefetch_timeout_sec` at most. False: the container runs meanwhile"),
    key("image_policy.images", "string", "", Start, "References that the entry is for, with `*` for anything: `docker.io/library/*`. The first entry that fits counts. A layer that several images share obeys the one that was mounted last"),
    key("image_policy.lost_network", "string", "", Start, "What becomes of readers while the registry is away. `block`: they wait, for up to a day. `error`: they get `EIO` after `after_sec`. `complete`: a container starts only when all of its image is on disk, which is fetched at once, and does not start if it cannot be"),
    key("image_policy.after_sec", "integer, seconds", "10", Start, "For `error`: how long a read waits"),
    key("fuse_manager.enable", "boolean", "true", Start, "A second process, the keeper, holds the FUSE session and the listening socket while the daemon is away, so that containers wait for the next daemon and do not fail. See [staying up](staying-up.md)"),
    key("fuse_manager.address", "string", "ROOT/keeper.sock", Start, "Socket of the keeper, an absolute path. One keeper serves one root"),
    key("fuse_manager.path", "string", "", Start, "The executable to run as the keeper: another `stargz`. Empty, or if it cannot be run: the daemon's own"),
    key("fuse_manager.deadline_sec", "integer, seconds", "60", Start, "How long containers wait for a daemon. After that their reads fail until they are started again"),
    idle("metadata_store", "metadata is always in the image file, on disk"),
    idle("http_cache_type", "compressed bytes are not cached, only verified contents are"),
    idle("filesystem_cache_type", "contents are always in the image file, on disk"),
    idle("debug", "use `--log-level=debug` or `log_level`"),
    idle("resolve_result_entry", "stargz-snapshotter ignored it as well"),
    idle("blob.chunk_size", "requests follow the layer's own spans"),
    idle("blob.prefetch_chunk_size", "prefetch requests are split as needed"),
    idle("directory_cache", "contents are in the image file, and cached by the kernel; `[cache]` bounds them"),
    idle("directory_cache.max_lru_cache_entry", "the kernel's page cache takes its place"),
    idle("directory_cache.max_cache_fds", "a layer has one open file"),
    idle("directory_cache.sync_add", "contents are in the image file before a read is answered"),
    idle("directory_cache.direct", "there is no cache in memory to go around"),
    idle("directory_cache.fadv_dontneed", "the kernel's page cache is the only one, and gives way by itself"),
    idle("fuse", "names and attributes are kept for ever by every backend; see `mount.backend`"),
    idle("fuse.attr_timeout", "attributes are the kernel's own"),
    idle("fuse.entry_timeout", "names are the kernel's own"),
    idle("fuse.passthrough", "complete layers are read by the kernel without this program, which is what it was for"),
    idle("fuse.merge_buffer_size", "files need not be put together before they are opened"),
    idle("fuse.merge_worker_count", "files need not be put together before they are opened"),
    idle("fuse_manager.metrics_address", "the keeper has nothing to measure; `metrics_address` has all metrics"),
];

/// What is said of a key: its own entry, or that of its table.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| matches(key.name, name)).or_else(|| {
        let parents = KEYS.iter().filter(|key| is_below(name, key.name));
        parents.max_by_key(|key| key.name.len())
    })
}

/// Whether a name fits a pattern with `*` for single parts. A name chosen by the author may have dots of its own.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once(".*.") {
        None => pattern == name,
        Some((start, end)) => {
            name.strip_prefix(start).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| {
                rest.strip_suffix(end).is_some_and(|middle| middle.len() > 1 && middle.ends_with('.'))
            })
        }
    }
}

fn is_below(name: &str, table: &str) -> bool {
    match table.split_once(".*.") {
        None => name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.')),
        Some((start, end)) => name.starts_with(&format!("{start}.")) && name.contains(&format!(".{end}.")),
    }
}

/// The table of the documentation for the keys of one TOML table; empty: those of the top level.
#[cfg(test)]
pub fn markdown(table: &str) -> String {
    let keys = KEYS.iter().filter(|key| {
        key.when != Never
            && (key.name.rsplit_once('.').map_or("", |(table, _)| table) == table
                || (table == "registry" && key.name.starts_with("registry.")))
    });
    let mut text =
        "| key | type | default | change takes effect | effect |\n|---|---|---|---|---|\n".to_owned();
    for key in keys {
        let shown =
            key.name.strip_prefix(table).unwrap_or(key.name).trim_start_matches('.').replace('*', "\"HOST\"");
        let default = match key.default {
            value if value.starts_with('/') => format!("`{value}`"),
            value => value.to_owned(),
        };
        let when = if key.when == Live { "on reload" } else { "on restart" };
        text += &format!("| `{shown}` | {} | {default} | {when} | {} |\n", key.kind, key.text);
    }
    text
}

/// The table of the keys that do nothing.
#[cfg(test)]
pub fn markdown_without_effect() -> String {
    let mut text = "| key | why |\n|---|---|\n".to_owned();
    for key in KEYS.iter().filter(|key| key.when == Never) {
        text += &format!("| `{}` | {} |\n", key.name, key.text);
    }
    text
}
