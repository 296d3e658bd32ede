//! Which hosts serve a reference, and how to address them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

use crate::error::{Error, Kind, Result};
use crate::options::{Mirror, Options};
use crate::reference::Reference;

/// A host that can serve a reference.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The name that keychains and people know it by.
    pub name: String,
    /// Scheme, host and port.
    base: Url,
    /// The host that the reference names, if this is another one: sent as `?ns=`.
    namespace: Option<String>,
    /// Sent with each request to this host.
    pub headers: HeaderMap,
    /// Longest time without progress.
    pub request_timeout: Duration,
}

impl Endpoint {
    /// The address of an object: `kind` is `manifests` or `blobs`, `object` a tag or a digest.
    pub fn url(&self, reference: &Reference, kind: &str, object: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{kind}/{object}", reference.repository()));
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

    /// A key that tells hosts apart.
    pub fn key(&self) -> &str {
        self.base.as_str()
    }
}

/// The configured hosts, checked.
#[derive(Debug)]
pub(crate) struct Hosts {
    mirrors: HashMap<String, Vec<Arc<Endpoint>>>,
    plain_http: std::collections::HashSet<String>,
    request_timeout: Duration,
}

impl Hosts {
    pub fn new(options: &Options) -> Result<Hosts> {
        let mut mirrors = HashMap::new();
        for (host, settings) in &options.hosts {
            let endpoints = settings.mirrors.iter().map(|mirror| mirror_endpoint(host, mirror, options));
            mirrors.insert(host.clone(), endpoints.collect::<Result<Vec<_>>>()?);
        }
        let plain_http = options.plain_http_hosts.clone();
        Ok(Hosts { mirrors, plain_http, request_timeout: options.request_timeout })
    }

    /// The hosts to try, in order: mirrors, then the host that the reference names.
    pub fn of(&self, reference: &Reference) -> Result<Vec<Arc<Endpoint>>> {
        let mut endpoints = self.mirrors.get(reference.host()).cloned().unwrap_or_default();
        let api_host = reference.api_host();
        let insecure = self.plain_http.contains(api_host) || self.plain_http.contains(reference.host());
        let base = base_url(api_host, insecure).map_err(|reason| {
            Error::new(Kind::InvalidReference, format!("{reference}: {api_host:?} {reason}"))
        })?;
        endpoints.push(Arc::new(Endpoint {
            name: reference.host().to_owned(),
            base,
            namespace: None,
            headers: HeaderMap::new(),
            request_timeout: self.request_timeout,
        }));
        Ok(endpoints)
    }
}

fn mirror_endpoint(host: &str, mirror: &Mirror, options: &Options) -> Result<Arc<Endpoint>> {
    let wrong = |reason: String| {
        Error::new(Kind::InvalidOptions, format!("mirror {:?} of {host}: {reason}", mirror.host))
    };
    let insecure = mirror.insecure || options.plain_http_hosts.contains(&mirror.host);
    let base = base_url(&mirror.host, insecure).map_err(|reason| wrong(format!("it {reason}")))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &mirror.headers {
        let parsed_name =
            HeaderName::try_from(name).map_err(|_| wrong(format!("{name:?} is not a header name")))?;
        let mut parsed_value = HeaderValue::try_from(value)
            .map_err(|_| wrong(format!("the value of header {name} has control characters")))?;
        parsed_value.set_sensitive(true);
        headers.append(parsed_name, parsed_value);
    }
    Ok(Arc::new(Endpoint {
        name: mirror.host.clone(),
        base,
        namespace: (mirror.host != host).then(|| host.to_owned()),
        headers,
        request_timeout: mirror.request_timeout.unwrap_or(options.request_timeout),
    }))
}

fn base_url(host: &str, insecure: bool) -> Result<Url, String> {
    if host.is_empty() || host.contains(['/', '?', '#', '@', '\\']) || host.contains(char::is_whitespace) {
        return Err("is not a host with an optional port".into());
    }
    let parse = |scheme: &str| {
        Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|error| format!("is not a host with an optional port: {error}"))
    };
    let url = parse("http")?;
    if insecure || is_loopback(&url) { Ok(url) } else { parse("https") }
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
mod tests {
    use super::*;
    use crate::options::HostOptions;

    fn urls(options: &Options, text: &str) -> Vec<String> {
        let reference = Reference::parse(text).unwrap();
        let endpoints = Hosts::new(options).unwrap().of(&reference).unwrap();
        endpoints
            .iter()
            .map(|endpoint| endpoint.url(&reference, "manifests", &reference.object()).to_string())
            .collect()
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_configured_hosts() {
        let options = Options { plain_http_hosts: ["r.test:80".to_owned()].into(), ..Options::default() };
        let rows = [
            ("ubuntu:1", "https://registry-1.docker.io/v2/library/ubuntu/manifests/1"),
            ("r.test/a:1", "https://r.test/v2/a/manifests/1"),
            ("r.test:80/a:1", "http://r.test/v2/a/manifests/1"),
            ("localhost/a:1", "http://localhost/v2/a/manifests/1"),
            ("x.localhost:5000/a:1", "http://x.localhost:5000/v2/a/manifests/1"),
            ("notlocalhost.test/a:1", "https://notlocalhost.test/v2/a/manifests/1"),
            ("127.9.9.9:5000/a:1", "http://127.9.9.9:5000/v2/a/manifests/1"),
            ("[::1]:5000/a:1", "http://[::1]:5000/v2/a/manifests/1"),
            ("0.0.0.0:5000/a:1", "https://0.0.0.0:5000/v2/a/manifests/1"),
        ];
        for (text, url) in rows {
            assert_eq!(urls(&options, text), [url]);
        }
    }

    #[test]
    fn mirrors_come_first_and_are_told_the_namespace() {
        let mirror = |host: &str, insecure| Mirror { host: host.into(), insecure, ..Mirror::default() };
        let mirrors = vec![mirror("m.test", false), mirror("r.test:5000", true)];
        let hosts = HashMap::from([("r.test:5000".to_owned(), HostOptions { mirrors })]);
        let options = Options { hosts, ..Options::default() };
        assert_eq!(
            urls(&options, "r.test:5000/a:1"),
            [
                "https://m.test/v2/a/manifests/1?ns=r.test%3A5000",
                "http://r.test:5000/v2/a/manifests/1",
                "https://r.test:5000/v2/a/manifests/1"
            ]
        );
        assert_eq!(urls(&options, "other.test/a:1").len(), 1);
    }

    #[test]
    fn unusable_mirrors_are_named() {
        let refused = |mirror: Mirror| {
            let hosts = HashMap::from([("r.test".to_owned(), HostOptions { mirrors: vec![mirror] })]);
            let error = Hosts::new(&Options { hosts, ..Options::default() }).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidOptions);
            error.to_string()
        };
        for host in ["", "https://m.test", "m.test/v2", "m.test:x", "u@m.test", "a b"] {
            let text = refused(Mirror { host: host.into(), ..Mirror::default() });
            assert!(text.contains(&format!("mirror {host:?} of r.test: it is not a host")), "{text}");
        }
        let headers = vec![("X-A".to_owned(), "secret\n".to_owned())];
        let text = refused(Mirror { host: "m.test".into(), headers, ..Mirror::default() });
        assert!(text.contains("X-A") && !text.contains("secret"), "{text}");
    }
}
