//! What the caller can choose.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::cri::CriRegistry;

/// Options of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct Options {
    /// Mirrors and settings by the host that references name, with its port if they name one (`docker.io`,
    /// `registry.example:5000`).
    pub hosts: HashMap<String, HostOptions>,
    /// Hosts, with their port, that speak plain HTTP. Loopback hosts always do: `localhost`, `*.localhost`,
    /// 127.0.0.0/8, ::1.
    pub plain_http_hosts: HashSet<String>,
    /// containerd's directories of host settings, `certs.d`: each host has a directory in them that is named after
    /// it and holds a `hosts.toml`, or certificates alone. The first one that has a directory for a host, or one
    /// named `_default`, decides. Read again when they have changed.
    pub config_path: Vec<PathBuf>,
    /// The registry settings of containerd's CRI plugin. Its mirrors and TLS settings are obeyed only while
    /// [`config_path`](Options::config_path) is empty, as containerd does.
    pub cri: CriRegistry,
    /// Follow registries to link-local addresses, where the metadata services of clouds are. The addresses that
    /// references and settings name themselves are always asked.
    pub allow_link_local: bool,
    /// PEM bundles of certificate authorities to trust beside those of the system.
    pub certificates: Vec<Vec<u8>>,
    /// Longest time to make a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest time without progress: until the headers of an answer, and from one piece of a body to the
    /// next. Never the time of a whole body.
    pub request_timeout: Duration,
    /// The directory of an IPFS node (`~/.ipfs`), whose file `api` says where it listens. None: IPFS is not used.
    pub ipfs_path: Option<PathBuf>,
    /// Retries of requests that may succeed later.
    pub retry: Retry,
    /// Budget of one call: all hosts, retries, waits and token requests together. A body that the caller
    /// streams may take longer as long as it keeps up 16 KiB/s.
    pub fetch_timeout: Duration,
    /// How long after a host served a blob [`Blob::check`](crate::Blob::check) believes that it still does,
    /// without asking. Zero: asks always.
    pub valid_interval: Duration,
    /// Never ask for several ranges in one request.
    pub force_single_range: bool,
    /// The `User-Agent` header.
    pub user_agent: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hosts: HashMap::new(),
            plain_http_hosts: HashSet::new(),
            config_path: Vec::new(),
            cri: CriRegistry::default(),
            allow_link_local: false,
            certificates: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            ipfs_path: None,
            retry: Retry::default(),
            fetch_timeout: Duration::from_secs(300),
            valid_interval: Duration::from_secs(60),
            force_single_range: false,
            user_agent: concat!("stargz/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// How often and how fast to try again after a connection error, a timeout, 408, 429 or 5xx (501 excepted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Rounds after the first one; in each round every host that may still succeed is tried once.
    pub max_retries: u32,
    /// Wait before the first retry; it doubles from one to the next, with jitter.
    pub min_wait: Duration,
    /// Upper bound of one wait, also of one that the server asks for by `Retry-After`.
    pub max_wait: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { max_retries: 5, min_wait: Duration::from_millis(30), max_wait: Duration::from_secs(300) }
    }
}

/// Options for one host that references name.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Tried in this order, before the host itself.
    pub mirrors: Vec<Mirror>,
}

/// A host that serves the content of another one.
#[derive(Clone, Default)]
pub struct Mirror {
    /// Host name or address, with a port if it is not the scheme's own.
    pub host: String,
    /// Speak plain HTTP to it.
    pub insecure: bool,
    /// Replaces [`Options::request_timeout`] for this host.
    pub request_timeout: Option<Duration>,
    /// Sent with each request to this host, never to where it redirects.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Mirror {
    /// Values of headers may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("host", &self.host)
            .field("insecure", &self.insecure)
            .field("request_timeout", &self.request_timeout)
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}
