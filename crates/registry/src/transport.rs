//! Connection pools, and the TLS settings that tell them apart.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, Identity, Request, Response};
use zeroize::Zeroizing;

use crate::dns::PublicOnly;
use crate::error::{Error, Kind, Result};
use crate::hosts::{Endpoint, is_loopback};
use crate::http::{describe, root_cause, send_fault};
use crate::options::Options;
use crate::retry::Fault;

/// Idle connections kept for one host.
const IDLE_PER_HOST: usize = 8;
/// An HTTP/2 connection in use that is silent this long is probed, and given up if the probe is not answered
/// as fast.
const HTTP2_PROBE: Duration = Duration::from_secs(15);
/// Most bytes of headers in an answer over HTTP/2. The library's own bound for HTTP/1.1 is some 400 KiB.
const HTTP2_HEADERS: u32 = 64 << 10;

/// Whom to trust and who we are, for one host; as read from the files of its configuration.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// PEM bundles of authorities to trust beside the usual ones.
    pub ca: Vec<Vec<u8>>,
    /// A client certificate and its key, in PEM.
    pub identity: Option<Zeroizing<Vec<u8>>>,
    /// Trust whatever certificate comes.
    pub skip_verify: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tls { ca, identity, skip_verify } = self;
        write!(f, "{} authorities, identity: {}, skip_verify: {skip_verify}", ca.len(), identity.is_some())
    }
}

impl Tls {
    /// Whether it says nothing.
    pub fn is_default(&self) -> bool {
        self.ca.is_empty() && self.identity.is_none() && !self.skip_verify
    }
}

/// How a body gets on its way.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes that were given away so far.
    pub sent: Arc<AtomicU64>,
    /// Its size in bytes.
    pub size: u64,
    /// How long the host may think when it has all.
    pub last: Duration,
}

/// The pools for one host.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    /// To the host itself.
    own: reqwest::Client,
    /// To where it sends us. Trusts the same authorities, does not show the client certificate, and does not
    /// reach link-local addresses.
    onward: reqwest::Client,
}

/// Makes transports, and sends requests over them.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    settings: Settings,
    usual: Transport,
    /// To this machine in clear text: proxies cannot reach it.
    loopback: reqwest::Client,
}

#[derive(Clone, Debug)]
struct Settings {
    user_agent: String,
    connect_timeout: Duration,
    certificates: Vec<Certificate>,
    allow_link_local: bool,
}

impl Http {
    pub fn new(options: &Options) -> Result<Http> {
        // Fails only if the process has chosen a provider already, which then is the one to use.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable =
            |option: &str, reason: String| Error::new(Kind::InvalidOptions, format!("{option}: {reason}"));
        let certificates =
            authorities(&options.certificates).map_err(|reason| unusable("certificates", reason))?;
        let settings = Settings {
            user_agent: options.user_agent.clone(),
            connect_timeout: options.connect_timeout,
            certificates,
            allow_link_local: options.allow_link_local,
        };
        let usual = settings.transport(&Tls::default(), None).map_err(|reason| unusable("client", reason))?;
        let loopback = settings.base(None).no_proxy().tls_certs_only([]).build();
        let loopback = loopback.map_err(|error| unusable("client", root_cause(&error)))?;
        Ok(Http { settings, usual, loopback })
    }

    /// The pools for hosts without settings of their own.
    pub fn usual(&self) -> &Transport {
        &self.usual
    }

    /// The pools for a host with these settings; the usual ones if they say nothing.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub fn transport(&self, tls: &Tls, dial_timeout: Option<Duration>) -> Result<Transport, String> {
        if tls.is_default() && dial_timeout.is_none() {
            return Ok(self.usual.clone());
        }
        self.settings.transport(tls, dial_timeout)
    }

    /// Sends a request with a body, which may take long as long as it goes on.
    pub async fn send_body(
        &self,
        endpoint: &Endpoint,
        request: Request,
        pace: &Pace,
    ) -> Result<Response, Fault> {
        let what = describe(request.method(), request.url());
        let mut sending = std::pin::pin!(self.pool(endpoint, &request).execute(request));
        let mut before = 0;
        loop {
            let sent = pace.sent.load(Ordering::Relaxed);
            let all = sent >= pace.size;
            // A host that has all of it may have to move and to hash it.
            let limit = if all { pace.last.max(endpoint.request_timeout) } else { endpoint.request_timeout };
            match tokio::time::timeout(limit, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(send_fault(&what, error)),
                Err(_) if pace.sent.load(Ordering::Relaxed) > before.max(sent) => {}
                Err(_) if !all && sent > before => {}
                Err(_) => {
                    let text = match all {
                        true => format!("{what}: no answer within {limit:.1?} after all was sent"),
                        false => format!("{what}: the host takes nothing for {limit:.1?}"),
                    };
                    return Err(Fault::retry(Error::new(Kind::Timeout, text)));
                }
            }
            before = sent;
        }
    }

    fn pool<'a>(&'a self, endpoint: &'a Endpoint, request: &Request) -> &'a reqwest::Client {
        if request.url().scheme() == "http" && is_loopback(request.url()) {
            &self.loopback
        } else if endpoint.owns(request.url()) {
            &endpoint.transport.own
        } else {
            &endpoint.transport.onward
        }
    }

    /// Sends a request in a conversation with `endpoint`, to itself or to where it has sent us, and waits at
    /// most `limit` for the headers of the answer.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        request: Request,
        limit: Duration,
    ) -> Result<Response, Fault> {
        let what = describe(request.method(), request.url());
        match tokio::time::timeout(limit, self.pool(endpoint, &request).execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(send_fault(&what, error)),
            Err(_) => {
                Err(Fault::retry(Error::new(Kind::Timeout, format!("{what}: no answer within {limit:.1?}"))))
            }
        }
    }
}

impl Settings {
    fn base(&self, dial_timeout: Option<Duration>) -> ClientBuilder {
        reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(dial_timeout.unwrap_or(self.connect_timeout))
            .tcp_keepalive(Duration::from_secs(15))
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .http2_max_header_list_size(HTTP2_HEADERS)
            .http2_keep_alive_interval(HTTP2_PROBE)
            .http2_keep_alive_timeout(HTTP2_PROBE)
    }

    fn transport(&self, tls: &Tls, dial_timeout: Option<Duration>) -> Result<Transport, String> {
        let mut trusted = self.certificates.clone();
        trusted.extend(authorities(&tls.ca).map_err(|reason| format!("ca: {reason}"))?);
        let identity = tls.identity.as_ref().map(|pem| Identity::from_pem(pem));
        let identity = identity
            .transpose()
            .map_err(|error| format!("client certificate and key: {}", root_cause(&error)))?;
        let base = || {
            let base = self.base(dial_timeout);
            if tls.skip_verify { base.tls_danger_accept_invalid_certs(true) } else { base }
        };
        let own = || match &identity {
            Some(identity) => base().identity(identity.clone()),
            None => base(),
        };
        let onward = || if self.allow_link_local { base() } else { base().dns_resolver(PublicOnly) };
        Ok(Transport { own: build(own, &trusted)?, onward: build(onward, &trusted)? })
    }
}

/// Builds a client that trusts the system's authorities and others, or the others alone if the system has none.
fn build(base: impl Fn() -> ClientBuilder, trusted: &[Certificate]) -> Result<reqwest::Client, String> {
    match base().tls_certs_merge(trusted.to_vec()).build() {
        Ok(client) => Ok(client),
        Err(error) => {
            tracing::warn!(error = %root_cause(&error), "no system certificates: only configured ones are trusted");
            base().tls_certs_only(trusted.to_vec()).build().map_err(|error| root_cause(&error))
        }
    }
}

fn authorities(bundles: &[Vec<u8>]) -> Result<Vec<Certificate>, String> {
    let mut certificates = Vec::new();
    for pem in bundles {
        let bundle = Certificate::from_pem_bundle(pem).map_err(|error| root_cause(&error))?;
        if bundle.is_empty() {
            return Err("a file holds no PEM certificate".into());
        }
        certificates.extend(bundle);
    }
    Ok(certificates)
}
