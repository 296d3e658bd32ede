//! Bodies of answers, and errors that a person can read.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response};
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::retry::Fault;

/// Most of an unwanted body that is read so that its connection can be used again.
const DRAIN_LIMIT: u64 = 16 << 10;
/// Longest time spent on an unwanted body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
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

/// What it means that a request got no answer.
pub(crate) fn send_fault(what: &str, error: reqwest::Error) -> Fault {
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
    // What the server thinks of our certificate comes after the handshake, and over HTTP/2 as a text only.
    let alert = cause.strip_prefix("received fatal alert: ");
    let tls = match alert.is_some_and(|alert| alert.contains("Certificate") || alert == "UnknownCA") {
        true => Some("; the host refuses the client certificate, or wants one and none is configured for it"),
        false => tls,
    };
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
pub(crate) fn root_cause(error: &dyn StdError) -> String {
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
