//! Which hosts serve a reference, and how to address them.
//!
//! For each host that references name there is an order: mirrors from the options, then what containerd's
//! `hosts.toml` for that host says or else what its CRI plugin's settings say, and at last the host itself.

mod files;
pub(crate) mod hosts_toml;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

use crate::cri::CriRegistry;
use crate::error::{Error, Kind, Result};
use crate::options::{Mirror, Options};
use crate::reference::{Reference, api_host};
use crate::secret::secret_header;
use crate::transport::{Http, Tls, Transport};

use files::{Files, Stamps};
use hosts_toml::{Address, HostSection, HostsToml};

pub(crate) use hosts_toml::Capabilities;

/// How long settings are believed to be those on disk.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Hosts whose order is kept.
const MAX_KNOWN: usize = 512;

/// A host that can serve a reference.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The name that keychains and people know it by.
    pub name: String,
    /// Scheme, host and port.
    base: Url,
    /// What paths begin with: `/v2`, mostly.
    path: String,
    /// Tells hosts apart.
    key: Arc<str>,
    /// The host that the reference names, if this is another one: sent as `?ns=`.
    namespace: Option<String>,
    pub capabilities: Capabilities,
    /// Sent with each request to this host.
    pub headers: HeaderMap,
    /// Longest time without progress.
    pub request_timeout: Duration,
    pub transport: Transport,
}

impl Endpoint {
    /// The address of an object: `kind` is `manifests` or `blobs`, `object` a tag or a digest.
    pub fn url(&self, reference: &Reference, kind: &str, object: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{}/{kind}/{object}", self.path, reference.repository()));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Whether `url` lies on this very host, port and scheme, so that it may be given this host's
    /// credentials.
    pub fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Whether this host is spoken to in clear text.
    pub fn is_plain_http(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// Scheme, host and port.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A key that tells hosts apart.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }
}

/// The order of hosts for every host that references name.
#[derive(Debug)]
pub(crate) struct Hosts {
    settings: Arc<Settings>,
    known: Mutex<HashMap<String, Known>>,
}

/// An order, and the state of the files that it came from.
#[derive(Clone, Debug)]
struct Known {
    looked: Instant,
    stamps: Stamps,
    endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Debug)]
struct Settings {
    http: Http,
    mirrors: HashMap<String, Vec<Arc<Endpoint>>>,
    plain_http: HashSet<String>,
    request_timeout: Duration,
    roots: Vec<PathBuf>,
    cri: CriRegistry,
}

impl Hosts {
    pub fn new(options: &Options, http: &Http) -> Result<Hosts> {
        let mut settings = Settings {
            http: http.clone(),
            mirrors: HashMap::new(),
            plain_http: options.plain_http_hosts.clone(),
            request_timeout: options.request_timeout,
            roots: options.config_path.clone(),
            cri: options.cri.clone(),
        };
        for (host, of_host) in &options.hosts {
            let endpoints = of_host.mirrors.iter().map(|mirror| settings.mirror(host, mirror));
            let endpoints = endpoints.collect::<Result<Vec<_>>>()?;
            settings.mirrors.insert(host.clone(), endpoints);
        }
        Ok(Hosts { settings: Arc::new(settings), known: Mutex::default() })
    }

    /// The hosts to try, in order: mirrors, then the host that the reference names.
    pub async fn of(&self, reference: &Reference) -> Result<Vec<Arc<Endpoint>>> {
        let host = reference.host();
        let known = self.known().get(host).cloned();
        if let Some(known) = &known
            && known.looked.elapsed() < LOOK_AGAIN
        {
            return Ok(known.endpoints.clone());
        }
        let (settings, name) = (Arc::clone(&self.settings), host.to_owned());
        let looking = move || settings.look(&name, known);
        let looked = if self.settings.reads_files() {
            let looked = tokio::task::spawn_blocking(looking).await;
            looked.map_err(|_| {
                Error::new(
                    Kind::InvalidOptions,
                    format!("{reference}: the settings of its host cannot be read"),
                )
            })?
        } else {
            looking()
        };
        let looked =
            looked.map_err(|reason| Error::new(Kind::InvalidOptions, format!("{reference}: {reason}")))?;
        let endpoints = looked.endpoints.clone();
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(host.to_owned(), looked);
        Ok(endpoints)
    }

    /// A host that is no registry, by its address.
    pub fn service(&self, base: Url) -> Endpoint {
        Endpoint {
            name: host_and_port(&base),
            key: base.as_str().into(),
            path: String::new(),
            namespace: None,
            capabilities: Capabilities::default(),
            headers: HeaderMap::new(),
            request_timeout: self.settings.request_timeout,
            transport: self.settings.http.usual().clone(),
            base,
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn reads_files(&self) -> bool {
        !self.roots.is_empty() || !self.cri.configs.is_empty()
    }

    /// The order for `host` as the files have it now. What is `known` stays if they have not changed: with it
    /// stay its connections.
    fn look(&self, host: &str, known: Option<Known>) -> Result<Known, String> {
        let dir = files::find(&self.roots, host)?;
        if let Some(known) = known
            && known.stamps.dir() == dir.as_deref()
            && known.stamps.are_current()
        {
            return Ok(Known { looked: Instant::now(), ..known });
        }
        let mut files = Files::new(dir);
        let mut endpoints = self.mirrors.get(host).cloned().unwrap_or_default();
        // A mirror whose settings are unusable must not stand in the way of the others.
        let mut reasons = Vec::new();
        for endpoint in self.configured(host, &mut files)? {
            match endpoint {
                Ok(endpoint) => endpoints.push(Arc::new(endpoint)),
                Err(reason) => {
                    tracing::warn!(host, reason, "a host is not asked, as its settings cannot be used");
                    reasons.push(reason);
                }
            }
        }
        let mut seen = HashSet::new();
        endpoints.retain(|endpoint| seen.insert(Arc::clone(endpoint.key())));
        match endpoints.is_empty() {
            true => Err(reasons.join("; ")),
            false => Ok(Known { looked: Instant::now(), stamps: files.stamps(), endpoints }),
        }
    }

    /// The endpoints behind the mirrors of the options.
    fn configured(&self, host: &str, files: &mut Files) -> Result<Vec<Result<Endpoint, String>>, String> {
        if let Some(HostsToml { hosts, server }) = files.hosts_toml()? {
            let sections = hosts.into_iter().chain([server]);
            return Ok(sections.map(|section| self.section(host, section, files)).collect());
        }
        let mut endpoints = Vec::new();
        let mut itself = false;
        if self.roots.is_empty() {
            for text in self.cri.endpoints(host) {
                let address =
                    cri_address(text).map_err(|reason| format!("endpoint {text:?} of {host}: {reason}"));
                let section =
                    address.map(|address| HostSection { address: Some(address), ..HostSection::default() });
                let endpoint = section.and_then(|section| self.section(host, section, files));
                itself |= endpoint.as_ref().is_ok_and(|endpoint| endpoint.namespace.is_none());
                endpoints.push(endpoint);
            }
        }
        if !itself {
            endpoints.push(self.section(host, HostSection::default(), files));
        }
        Ok(endpoints)
    }

    /// The endpoint that a section describes; one without an address is about `host` itself.
    fn section(&self, host: &str, section: HostSection, files: &mut Files) -> Result<Endpoint, String> {
        let mut tls = files.tls(&section)?;
        let itself = section.address.is_none();
        let name = match &section.address {
            Some(address) => host_and_port(&address.base),
            None => api_host(host).to_owned(),
        };
        let cri = self.cri.configs.get(&name).or_else(|| self.cri.configs.get(host).filter(|_| itself));
        if self.roots.is_empty()
            && let Some(config) = cri.and_then(|config| config.tls.as_ref())
        {
            tls = files.cri_tls(config)?;
        }
        let Address { base, path } = match section.address {
            Some(address) => address,
            None => {
                let insecure = self.plain_http.contains(&name) || self.plain_http.contains(host);
                Address {
                    base: base_url(&name, insecure, &tls).map_err(|reason| format!("{name:?} {reason}"))?,
                    path: "/v2".into(),
                }
            }
        };
        let transport = self.http.transport(&tls, section.dial_timeout);
        let transport = transport.map_err(|reason| format!("{name}: {reason}"))?;
        let headers = headers(section.headers.iter().map(|(name, value)| (name, value)));
        let headers = headers.map_err(|reason| format!("{name}: {reason}"))?;
        let namespace = namespace(host, &name);
        Ok(Endpoint {
            // The name under which credentials are kept.
            name: if namespace.is_none() { host.to_owned() } else { name },
            key: format!("{base}{path}").into(),
            base,
            path,
            namespace,
            capabilities: section.capabilities,
            headers,
            request_timeout: self.request_timeout,
            transport,
        })
    }

    fn mirror(&self, host: &str, mirror: &Mirror) -> Result<Arc<Endpoint>> {
        let wrong = |reason: String| {
            Error::new(Kind::InvalidOptions, format!("mirror {:?} of {host}: {reason}", mirror.host))
        };
        let insecure = mirror.insecure || self.plain_http.contains(&mirror.host);
        let base = base_url(&mirror.host, insecure, &Tls::default());
        let base = base.map_err(|reason| wrong(format!("it {reason}")))?;
        let headers = headers(mirror.headers.iter().map(|(name, value)| (name, value))).map_err(wrong)?;
        let transport = self.http.usual().clone();
        Ok(Arc::new(Endpoint {
            name: mirror.host.clone(),
            key: format!("{base}/v2").into(),
            base,
            path: "/v2".into(),
            namespace: namespace(host, &mirror.host),
            capabilities: Capabilities::default(),
            headers,
            request_timeout: mirror.request_timeout.unwrap_or(self.request_timeout),
            transport,
        }))
    }
}

/// What a host that goes by `name` is told about whose content it is asked for; nothing if it is `host` itself.
fn namespace(host: &str, name: &str) -> Option<String> {
    (name != host && name != api_host(host)).then(|| host.to_owned())
}

/// CRI's endpoints are URLs, a path in them stands for `/v2`; those of this machine need no TLS.
fn cri_address(text: &str) -> Result<Address, String> {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => match Url::parse(&format!("http://{text}")) {
            Ok(url) if is_loopback(&url) => format!("http://{text}"),
            _ => format!("https://{text}"),
        },
    };
    let address = Address::parse(&text, true)?;
    Ok(if address.path.is_empty() { Address { path: "/v2".into(), ..address } } else { address })
}

fn headers<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let parsed_name: HeaderName = name.parse().map_err(|_| format!("{name:?} is not a header name"))?;
        let parsed_value: HeaderValue = secret_header(value.clone())
            .map_err(|_| format!("the value of header {name} has control characters"))?;
        headers.append(parsed_name, parsed_value);
    }
    Ok(headers)
}

/// Host and port of a URL as references write them.
fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn base_url(host: &str, insecure: bool, tls: &Tls) -> Result<Url, String> {
    if host.is_empty() || host.contains(['/', '?', '#', '@', '\\']) || host.contains(char::is_whitespace) {
        return Err("is not a host with an optional port".into());
    }
    let parse = |scheme: &str| {
        Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|error| format!("is not a host with an optional port: {error}"))
    };
    let url = parse("http")?;
    if insecure || (is_loopback(&url) && tls.is_default()) { Ok(url) } else { parse("https") }
}

/// Whether a URL points at this machine, by its name or address alone.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests;
