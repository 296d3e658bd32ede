//! One HTTP request: connections, timeouts, and errors that a person can read.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Certificate, Method, Request, Response};
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::hosts::is_loopback;
use crate::options::Options;
use crate::retry::Fault;

/// Most of an unwanted body that is read so that its connection can be used again.
const DRAIN_LIMIT: u64 = 16 << 10;
/// Longest time spent on an unwanted body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections kept for one host.
const IDLE_PER_HOST: usize = 8;
/// An HTTP/2 connection in use that is silent this long is probed, and given up if the probe is not answered
/// as fast.
const HTTP2_PROBE: Duration = Duration::from_secs(15);

/// The connection pools.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// Through the system's proxy, if there is one.
    outside: reqwest::Client,
    /// To this machine: proxies cannot reach it.
    loopback: reqwest::Client,
}

impl Http {
    pub fn new(options: &Options) -> Result<Http> {
        // Fails only if the process has chosen a provider already, which then is the one to use.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut certificates = Vec::new();
        for pem in &options.certificates {
            let bundle =
                Certificate::from_pem_bundle(pem).map_err(|error| unusable("certificates", error))?;
            certificates.extend(bundle);
        }
        let base = || {
            reqwest::Client::builder()
                .user_agent(&options.user_agent)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(options.connect_timeout)
                .tcp_keepalive(Duration::from_secs(15))
                .pool_max_idle_per_host(IDLE_PER_HOST)
                .http2_keep_alive_interval(HTTP2_PROBE)
                .http2_keep_alive_timeout(HTTP2_PROBE)
        };
        let outside = match base().tls_certs_merge(certificates.clone()).build() {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(error = %root_cause(&error), "no system certificates: only configured ones are trusted");
                base().tls_certs_only(certificates).build().map_err(|error| unusable("client", error))?
            }
        };
        let loopback =
            base().no_proxy().tls_certs_only([]).build().map_err(|error| unusable("client", error))?;
        Ok(Http { outside, loopback })
    }

    /// Sends a request and waits at most `limit` for the headers of the answer.
    pub async fn send(&self, request: Request, limit: Duration) -> Result<Response, Fault> {
        let what = describe(request.method(), request.url());
        let local = request.url().scheme() == "http" && is_loopback(request.url());
        let client = if local { &self.loopback } else { &self.outside };
        match tokio::time::timeout(limit, client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(send_fault(&what, error)),
            Err(_) => {
                Err(Fault::retry(Error::new(Kind::Timeout, format!("{what}: no answer within {limit:.1?}"))))
            }
        }
    }
}

/// Waits at most `limit` for the next piece of a body.
pub(crate) async fn next_piece(
    response: &mut Response,
    what: &str,
    limit: Duration,
) -> Result<Option<Bytes>> {
    match tokio::time::timeout(limit, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(body_error(what, error)),
        Err(_) => Err(Error::new(Kind::Timeout, format!("{what}: the body stalled for {limit:.1?}"))),
    }
}

/// Reads a whole body of at most `max` bytes; `limit` is for each piece.
pub(crate) async fn read_bounded(
    mut response: Response,
    what: &str,
    max: u64,
    limit: impl Fn() -> Duration,
) -> Result<Bytes> {
    let promised = response.content_length();
    let too_large = || Error::new(Kind::TooLarge, format!("{what}: the answer is larger than {max} bytes"));
    if promised.is_some_and(|length| length > max) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(piece) = next_piece(&mut response, what, limit()).await? {
        if (body.len() + piece.len()) as u64 > max {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// The beginning of a body that only serves to explain an error; empty when it cannot be had quickly.
pub(crate) async fn read_some(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() as u64 >= DRAIN_LIMIT {
                break;
            }
        }
    };
    // What was read until the time is up is still there.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    body
}

/// Reads away a small unwanted body, so that the connection can be used again.
pub(crate) async fn drain(response: Response) {
    if response.content_length().is_none_or(|length| length <= DRAIN_LIMIT) {
        read_some(response).await;
    }
}

/// `METHOD url` without what may be secret in a URL: query, fragment, user.
pub(crate) fn describe(method: &Method, url: &Url) -> String {
    format!("{method} {}", shown(url))
}

/// A URL without what may be secret in it.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{}://{host}:{port}{}", url.scheme(), url.path()),
        None => format!("{}://{host}{}", url.scheme(), url.path()),
    }
}

fn unusable(option: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    Error::new(Kind::InvalidOptions, format!("{option}: {}", root_cause(&error))).with_source(error)
}

fn send_fault(what: &str, error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let cause = root_cause(&error);
    if error.is_timeout() {
        return Fault::retry(Error::new(Kind::Timeout, format!("{what}: {cause}")).with_source(error));
    }
    let tls = find::<rustls::Error>(&error).map(|tls| match tls {
        rustls::Error::InvalidCertificate(_) => {
            "; if the host is right, add the authority that signed its certificate to the trusted ones"
        }
        rustls::Error::InvalidMessage(_) => "; if the host speaks plain HTTP, configure it as insecure",
        _ => "",
    });
    let step = if error.is_connect() { "cannot connect: " } else { "" };
    let text = format!("{what}: {step}{cause}{}", tls.unwrap_or_default());
    // A host whose TLS is not acceptable will not be so in the next seconds either.
    let next = if tls.is_some() { Fault::give_up } else { Fault::retry };
    next(Error::new(Kind::Network, text).with_source(error))
}

fn body_error(what: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let ended = find::<io::Error>(&error).is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    let kind = if ended { Kind::ShortBody } else { Kind::Network };
    Error::new(kind, format!("{what}: the body broke off: {}", root_cause(&error))).with_source(error)
}

/// The text of the innermost error: outer ones only say that sending failed.
fn root_cause(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The first error of type `T` in the chain. An I/O error built from another error does not show that one as
/// its source, so it is looked into.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inside.and_then(|inside| find::<T>(inside)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
