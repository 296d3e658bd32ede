//! The configuration file of the daemons: the keys that stargz-snapshotter's users have in theirs.
//!
//! Every key keeps its name, unit and default. A value of 0 means the default, as it always did. Keys that are known
//! but have no effect here are accepted and named in one warning each; unknown keys are warned of, with the line.

mod cache;
mod keeper;
mod keychains;
mod keys;
mod mount;
pub mod policy;
pub mod reference;
mod registry;
pub mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use self::keeper::FuseManager;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Bytes to prefetch of a layer whose image has no landmark.
    pub prefetch_size: i64,
    /// How long a start waits for the prefetch, seconds. 0 means 10.
    pub prefetch_timeout_sec: i64,
    /// A prefetch larger than this does not hold the start up, bytes. 0 means never.
    pub prefetch_async_size: i64,
    /// No prefetch, and no waiting for it.
    pub noprefetch: bool,
    /// Layers are not completed in the background.
    pub no_background_fetch: bool,
    /// Layers that are completed in the background at once. 0 means 2.
    pub max_concurrency: i64,
    /// Layers with the `skipverify` label may be mounted without a TOC digest.
    pub allow_no_verification: bool,
    /// No layer needs a TOC digest.
    pub disable_verification: bool,
    /// How long a layer that was resolved ahead is kept for its snapshot, seconds. 0 means 120.
    pub resolve_result_entry_ttl_sec: i64,
    /// `[blob]`
    pub blob: Blob,
    /// `[resolver]`
    pub resolver: Resolver,
    /// `[registry]`
    pub registry: registry::Registry,
    /// Layers whose manifest says where they are in IPFS are read from there.
    pub ipfs: bool,
    /// How much to log; `None`: what the flag says.
    pub log_level: Option<crate::logging::LogLevel>,
    /// Say which files are read for the first time.
    pub log_file_access: bool,
    /// Where to serve metrics. Empty: nowhere.
    pub metrics_address: String,
    /// `tcp` or `unix`.
    pub metrics_network: MetricsNetwork,
    /// No metrics.
    pub no_prometheus: bool,
    /// Socket for looking inside. Empty: none.
    pub debug_address: PathBuf,
    /// `[kubeconfig_keychain]`
    pub kubeconfig_keychain: keychains::Kubeconfig,
    /// `[kubelet_credential_provider]`
    pub kubelet_credential_provider: keychains::KubeletPlugins,
    /// `[cri_keychain]`
    pub cri_keychain: keychains::Cri,
    /// `[snapshotter]`
    pub snapshotter: Snapshotter,
    /// `[cache]`
    pub cache: cache::Cache,
    /// `[mount]`
    pub mount: mount::Mount,
    /// `[profile]`
    pub profile: policy::Profile,
    /// `[[image_policy]]`
    pub image_policy: Vec<policy::ImagePolicy>,
    /// `[fuse_manager]`
    pub fuse_manager: FuseManager,
}

/// What kind of address `metrics_address` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsNetwork {
    /// Host and port.
    #[default]
    Tcp,
    /// The path of a socket.
    Unix,
}

/// How contents are fetched.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Blob {
    /// Limit of one fetch, its retries included, seconds. 0 means 300.
    pub fetching_timeout_sec: i64,
    /// Retries of one request. 0 means 5.
    pub max_retries: i64,
    /// Shortest wait before a retry, milliseconds. 0 means 30.
    pub min_wait_msec: i64,
    /// Longest wait before a retry, milliseconds. 0 means 300,000.
    pub max_wait_msec: i64,
    /// Before each start of a container, ask whether what is missing of its layers can still be had.
    pub check_always: bool,
    /// The same, if that was not seen for this long, seconds. 0 means not to ask.
    pub valid_interval: i64,
    /// Ask for one range at a time.
    pub force_single_range_mode: bool,
}

/// How registries are reached.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resolver {
    /// Time without any progress after which a request fails, seconds. 0 means 30.
    pub request_timeout_sec: i64,
    /// Follow registries to link-local addresses.
    pub allow_link_local: bool,
    /// `[resolver.host."<registry>"]`
    pub host: BTreeMap<String, Host>,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Tried in order before the registry itself.
    pub mirrors: Vec<Mirror>,
}

/// One mirror of a registry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Mirror {
    /// Host name, with an optional port.
    pub host: String,
    /// Plain HTTP.
    pub insecure: bool,
    /// As `[resolver] request_timeout_sec`; 0 means that one, below 0 none.
    pub request_timeout_sec: i64,
    /// Sent with every request. Values are a string or a list of strings.
    pub header: BTreeMap<String, HeaderValue>,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum HeaderValue {
    /// One value.
    One(String),
    /// The header is sent once for each value.
    Many(Vec<String>),
}

/// How containerd's snapshots are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Snapshotter {
    /// Start although a layer cannot be mounted again.
    pub allow_invalid_mounts_on_restart: bool,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file has keys that nobody knows, and that was not to be.
    #[error("{path} has unknown keys, which --strict-config refuses: {warnings}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// All of them.
        warnings: String,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("{path}:{line}: {key}{message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, followed by `: `, or nothing.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A configuration, and what its author should know of it.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Keys that do nothing, one text for each.
    pub warnings: Vec<String>,
    /// Those of them that nobody knows.
    pub unknown: usize,
    /// The text of each value that the file has, by its key.
    pub values: values::Values,
}

impl Loaded {
    /// The same, if every key is known.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`].
    pub fn strictly(self, path: &Path) -> Result<Loaded, ConfigError> {
        if self.unknown == 0 {
            return Ok(self);
        }
        let unknown = self.warnings.iter().filter(|warning| warning.contains(": unknown key "));
        let warnings = unknown.map(String::as_str).collect::<Vec<_>>().join("; ");
        Err(ConfigError::Unknown { path: path.to_owned(), warnings })
    }
}

/// Reads a file.
///
/// # Errors
/// It can't be read or parsed. If `optional`, a file that is not there is an empty one.
pub fn load(path: &Path, optional: bool) -> Result<Loaded, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => parse("", path),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Reads a text, which came from `path`.
///
/// # Errors
/// It can't be parsed.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, ConfigError> {
    let wrong = |error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, key) = keys::at(text, start);
        ConfigError::Parse { path: path.to_owned(), line, key, message: error.message().trim().to_owned() }
    };
    let mut unknown = Vec::new();
    let document = toml::Deserializer::parse(text).map_err(wrong)?;
    let config = serde_ignored::deserialize(document, |key| unknown.push(key.to_string())).map_err(wrong)?;
    let said = unknown.iter().map(|key| keys::warning(text, key, path));
    let (warnings, strange): (Vec<_>, Vec<bool>) = said.unzip();
    let unknown = strange.into_iter().filter(|strange| *strange).count();
    Ok(Loaded { config, warnings, unknown, values: values::of(text) })
}

/// A start that waits for all of its image does not wait longer.
const COMPLETE_LIMIT: Duration = Duration::from_secs(3600);

/// 0 or less means the default.
fn seconds(value: i64, default: u64) -> Duration {
    Duration::from_secs(u64::try_from(value).ok().filter(|&value| value > 0).unwrap_or(default))
}

fn millis(value: i64, default: u64) -> Duration {
    Duration::from_millis(u64::try_from(value).ok().filter(|&value| value > 0).unwrap_or(default))
}

/// Where the node of IPFS keeps its state, and says where it listens.
fn ipfs_path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").unwrap_or_else(|| PathBuf::from("/root"));
    variable("IPFS_PATH").unwrap_or_else(|| home().join(".ipfs"))
}

impl Config {
    /// How long a start waits for the prefetch.
    pub fn prefetch_timeout(&self) -> Duration {
        seconds(self.prefetch_timeout_sec, 10)
    }

    /// How long a layer that was resolved ahead is kept.
    pub fn resolved_ttl(&self) -> Duration {
        seconds(self.resolve_result_entry_ttl_sec, 120)
    }

    /// Layers that are completed in the background at once.
    pub fn background_layers(&self) -> usize {
        usize::try_from(self.max_concurrency).ok().filter(|&layers| layers > 0).unwrap_or(2)
    }

    /// Limit of one fetch.
    pub fn fetch_timeout(&self) -> Duration {
        seconds(self.blob.fetching_timeout_sec, 300)
    }

    /// The longest that any read may wait.
    pub fn longest_read(&self) -> Duration {
        let patience = self.image_policy.iter().filter_map(policy::ImagePolicy::patience);
        patience.fold(self.fetch_timeout(), Duration::max)
    }

    /// How long the check before a start may take.
    pub fn check_timeout(&self) -> Duration {
        let complete = |policy: &policy::ImagePolicy| policy.lost_network == policy::LostNetwork::Complete;
        match self.image_policy.iter().any(complete) {
            true => COMPLETE_LIMIT,
            false => self.prefetch_timeout(),
        }
    }

    /// How long a layer is believed to be there without asking; `None`: always.
    pub fn check_interval(&self) -> Option<Duration> {
        match self.blob.valid_interval {
            _ if self.blob.check_always => Some(Duration::ZERO),
            interval if interval > 0 => Some(seconds(interval, 0)),
            _ => None,
        }
    }

    /// What the registry client obeys.
    pub fn registry_options(&self) -> ::registry::Options {
        let request_timeout = seconds(self.resolver.request_timeout_sec, 30);
        let default = ::registry::Options::default();
        let mut options = ::registry::Options {
            request_timeout,
            fetch_timeout: self.fetch_timeout(),
            user_agent: concat!("stargz/", env!("CARGO_PKG_VERSION")).to_owned(),
            valid_interval: self.check_interval().unwrap_or(default.valid_interval),
            force_single_range: self.blob.force_single_range_mode,
            config_path: self.registry.roots(),
            cri: self.registry.cri(),
            allow_link_local: self.resolver.allow_link_local,
            ipfs_path: self.ipfs.then(ipfs_path),
            ..default
        };
        options.retry.max_retries =
            u32::try_from(self.blob.max_retries).ok().filter(|&retries| retries > 0).unwrap_or(5);
        options.retry.min_wait = millis(self.blob.min_wait_msec, 30);
        options.retry.max_wait = millis(self.blob.max_wait_msec, 300_000);
        for (name, host) in &self.resolver.host {
            let mirrors = host.mirrors.iter().map(|mirror| mirror.options(request_timeout)).collect();
            options.hosts.insert(name.clone(), ::registry::HostOptions { mirrors });
        }
        options
    }
}

impl Mirror {
    fn options(&self, default_timeout: Duration) -> ::registry::Mirror {
        let request_timeout = match self.request_timeout_sec {
            0 => Some(default_timeout),
            // "None" was never a promise to wait for ever: a day without a byte is a dead peer.
            value if value < 0 => Some(Duration::from_secs(24 * 3600)),
            value => Some(seconds(value, 30)),
        };
        let headers = self.header.iter().flat_map(|(name, value)| {
            let values = match value {
                HeaderValue::One(value) => std::slice::from_ref(value),
                HeaderValue::Many(values) => values,
            };
            values.iter().map(move |value| (name.clone(), value.clone()))
        });
        ::registry::Mirror {
            host: self.host.clone(),
            insecure: self.insecure,
            request_timeout,
            headers: headers.collect(),
        }
    }
}

#[cfg(test)]
mod tests;
