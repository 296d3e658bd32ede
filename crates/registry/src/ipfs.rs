//! Blobs in IPFS, read through the RPC API of a node on this machine or near it (Kubo's `/api/v0`).

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Method, Request};
use serde::Deserialize;
use url::Url;

use crate::answer::Answer;
use crate::blob::{Tail, keep_tail};
use crate::body::RangeBody;
use crate::client::{Client, Core};
use crate::error::{Error, Kind, Result};
use crate::hosts::Endpoint;
use crate::http::{describe, read_bounded};
use crate::retry::{Budget, Fault, Next, backoff};

/// The scheme of URLs that name content in IPFS.
const SCHEME: &str = "ipfs://";
/// Longest content identifier.
const MAX_CID: usize = 128;
/// Largest file with the address of a node, in bytes.
const MAX_API_FILE: usize = 1024;
/// Largest answer about a file, in bytes.
const MAX_STAT: u64 = 64 << 10;

/// A blob in IPFS. Clones share what was learned.
#[derive(Clone, Debug)]
pub struct IpfsBlob {
    core: Arc<Core>,
    cid: Arc<str>,
    learned: Arc<Mutex<Learned>>,
}

#[derive(Debug, Default)]
struct Learned {
    node: Option<Arc<Endpoint>>,
    size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stat {
    size: u64,
    #[serde(rename = "Type")]
    kind: String,
}

impl Client {
    /// A handle for reading content of IPFS by ranges. `url` is `ipfs://` and a content identifier, as the
    /// `urls` of a descriptor hold it, or the identifier alone. Makes no request.
    ///
    /// The node is the one whose address is in the file `api` of [`Options::ipfs_path`](crate::Options::ipfs_path),
    /// where a running node writes it.
    ///
    /// # Errors
    /// [`Kind::InvalidReference`] if `url` is something else; [`Kind::InvalidOptions`] if IPFS is not enabled.
    pub fn ipfs_blob(&self, url: &str) -> Result<IpfsBlob> {
        let cid = url.strip_prefix(SCHEME).unwrap_or(url);
        if cid.is_empty() || cid.len() > MAX_CID || !cid.bytes().all(|b| b.is_ascii_alphanumeric()) {
            let shown: String = url.chars().take(MAX_CID).collect();
            let text = format!("{shown:?} is not {SCHEME:?} and a content identifier");
            return Err(Error::new(Kind::InvalidReference, text));
        }
        if self.core.options.ipfs_path.is_none() {
            let text = format!("{SCHEME}{cid}: IPFS is not enabled");
            return Err(Error::new(Kind::InvalidOptions, text));
        }
        Ok(IpfsBlob { core: Arc::clone(&self.core), cid: cid.into(), learned: Arc::default() })
    }
}

impl IpfsBlob {
    /// Asks for `range`; what reaches over the end of the blob is cut there. As
    /// [`Blob::read`](crate::Blob::read).
    ///
    /// # Errors
    /// As of [`Blob::read`](crate::Blob::read). Content is not verified.
    pub async fn read(&self, range: Range<u64>) -> Result<RangeBody> {
        let mut tries = self.tries();
        loop {
            match self.range(&range, tries.budget).await {
                Ok(body) => return Ok(body),
                Err(fault) => tries.after(fault).await?,
            }
        }
    }

    /// The last `len` bytes, or everything if the blob is shorter, and its size. As
    /// [`Blob::tail`](crate::Blob::tail).
    ///
    /// # Errors
    /// As of [`read`](IpfsBlob::read).
    pub async fn tail(&self, len: u64) -> Result<Tail> {
        let mut tries = self.tries();
        loop {
            match self.tail_once(len, tries.budget).await {
                Ok(tail) => return Ok(tail),
                Err(fault) => tries.after(fault).await?,
            }
        }
    }

    /// Makes sure that the node has, or finds, the content.
    ///
    /// # Errors
    /// As of [`read`](IpfsBlob::read).
    pub async fn check(&self) -> Result<()> {
        let mut tries = self.tries();
        loop {
            match self.ask_size(tries.budget).await {
                Ok(_) => return Ok(()),
                Err(fault) => tries.after(fault).await?,
            }
        }
    }

    fn tries(&self) -> Tries<'_> {
        Tries { blob: self, budget: Budget::new(self.core.options.fetch_timeout), retry: 0 }
    }

    async fn tail_once(&self, len: u64, budget: Budget) -> Result<Tail, Fault> {
        let size = self.size(budget).await?;
        let start = size.saturating_sub(len);
        if start == size {
            return Ok(Tail { blob_size: size, bytes: Default::default() });
        }
        let body = self.range(&(start..size), budget).await?;
        keep_tail(body, len).await
    }

    async fn range(&self, range: &Range<u64>, budget: Budget) -> Result<RangeBody, Fault> {
        let size = self.size(budget).await?;
        if range.is_empty() || range.start >= size {
            let text = format!("{SCHEME}{}: {range:?} is not a range of {size} bytes", self.cid);
            return Err(Fault::give_up(Error::new(Kind::RangeNotSatisfiable, text)));
        }
        let len = range.end.min(size) - range.start;
        let answer = self
            .ask("cat", &[("offset", range.start.to_string()), ("length", len.to_string())], budget)
            .await?;
        Ok(RangeBody::new(answer, range.start, Some(size), Some(len), budget))
    }

    async fn size(&self, budget: Budget) -> Result<u64, Fault> {
        let known = self.learned().size;
        if let Some(size) = known {
            return Ok(size);
        }
        self.ask_size(budget).await
    }

    async fn ask_size(&self, budget: Budget) -> Result<u64, Fault> {
        let Answer { response, what, step, .. } = self.ask("files/stat", &[], budget).await?;
        let body =
            read_bounded(response, &what, MAX_STAT, || budget.cap(step)).await.map_err(Fault::of_body)?;
        let wrong = |reason: &str| Fault::give_up(Error::new(Kind::Protocol, format!("{what}: {reason}")));
        let stat: Stat =
            serde_json::from_slice(&body).map_err(|_| wrong("the answer does not tell size and type"))?;
        if stat.kind != "file" {
            return Err(wrong("it is not a file"));
        }
        self.learned().size = Some(stat.size);
        Ok(stat.size)
    }

    /// Calls a command of the node on the content.
    async fn ask(
        &self,
        command: &str,
        arguments: &[(&str, String)],
        budget: Budget,
    ) -> Result<Answer, Fault> {
        let node = self.node().await.map_err(Fault::retry)?;
        let mut url = node.base().clone();
        url.set_path(&format!("/api/v0/{command}"));
        url.query_pairs_mut().append_pair("arg", &format!("/ipfs/{}", self.cid)).extend_pairs(arguments);
        let request = Request::new(Method::POST, url.clone());
        let what = format!("{} of {SCHEME}{}", describe(&Method::POST, &url), self.cid);
        let step = node.request_timeout;
        let response = self.core.http.send(&node, request, budget.cap(step)).await?;
        let answer =
            Answer { response, what, url, redirected: false, step, standing: Arc::from("as nobody") };
        answer.judge(&[]).await
    }

    /// The node, as the file says now.
    async fn node(&self) -> Result<Arc<Endpoint>> {
        if let Some(node) = self.learned().node.clone() {
            return Ok(node);
        }
        let path = self.core.options.ipfs_path.clone().unwrap_or_default().join("api");
        let read = tokio::task::spawn_blocking(move || read_address(&path)).await;
        let address = read.unwrap_or_else(|_| Err("reading it was cancelled".into())).map_err(|reason| {
            Error::new(Kind::Unavailable, format!("{SCHEME}{}: no IPFS node: {reason}", self.cid))
        })?;
        let node = Arc::new(self.core.hosts.service(address));
        self.learned().node = Some(Arc::clone(&node));
        Ok(node)
    }

    fn learned(&self) -> std::sync::MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts of one call.
#[derive(Debug)]
struct Tries<'a> {
    blob: &'a IpfsBlob,
    budget: Budget,
    retry: u32,
}

impl Tries<'_> {
    /// Waits until it is time to try again after a failure, or gives it back as the last one.
    async fn after(&mut self, fault: Fault) -> Result<()> {
        // A node that was started anew may listen elsewhere.
        self.blob.learned().node = None;
        let options = &self.blob.core.options.retry;
        let wait = backoff(options, self.retry);
        if fault.next == Next::GiveUp || self.retry >= options.max_retries || wait >= self.budget.left() {
            let times =
                if self.retry > 0 { format!(" ({} attempts)", self.retry + 1) } else { String::new() };
            return Err(fault.error.append(&times));
        }
        tokio::time::sleep(wait).await;
        self.retry += 1;
        Ok(())
    }
}

fn read_address(path: &Path) -> Result<Url, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{}: {error}; is one running?", path.display()))?;
    let address = if text.len() > MAX_API_FILE { None } else { parse_multiaddr(text.trim()) };
    address.ok_or_else(|| format!("{} does not hold the address of an HTTP API", path.display()))
}

/// Reads addresses such as `/ip4/127.0.0.1/tcp/5001` and `/dns/node.test/tcp/443/https`.
fn parse_multiaddr(text: &str) -> Option<Url> {
    let mut parts = text.strip_prefix('/')?.trim_end_matches('/').split('/');
    let (network, host) = (parts.next()?, parts.next()?);
    let host = match network {
        "ip4" => host.parse::<std::net::Ipv4Addr>().ok()?.to_string(),
        "ip6" => format!("[{}]", host.parse::<std::net::Ipv6Addr>().ok()?),
        "dns" | "dns4" | "dns6" => host.to_owned(),
        _ => return None,
    };
    let port: u16 = match parts.next()? {
        "tcp" => parts.next()?.parse().ok()?,
        _ => return None,
    };
    let scheme = match (parts.next(), parts.next()) {
        (None | Some("http"), None) => "http",
        (Some("https"), None) => "https",
        _ => return None,
    };
    let url = Url::parse(&format!("{scheme}://{host}:{port}/")).ok()?;
    // A host that is a host alone leaves nothing else in the URL.
    let whole = url.path() == "/" && url.username().is_empty() && url.query().is_none();
    (whole && url.fragment().is_none()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_nodes_are_read() {
        let rows = [
            ("/ip4/127.0.0.1/tcp/5001", Some("http://127.0.0.1:5001/")),
            ("/ip6/::1/tcp/5001/http", Some("http://[::1]:5001/")),
            ("/dns4/node.test/tcp/443/https", Some("https://node.test/")),
            ("/dns/node.test/tcp/8080/", Some("http://node.test:8080/")),
            ("/unix/run/ipfs.sock", None),
            ("/ip4/127.0.0.1/udp/5001", None),
            ("/ip4/1/tcp/5001", None),
            ("/ip4/127.0.0.1/tcp/5001/ws", None),
            ("/dns/a@b/tcp/1", None),
            ("/dns/a?b/tcp/1", None),
            ("127.0.0.1:5001", None),
            ("/ip4/127.0.0.1/tcp/99999", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_multiaddr(text).as_ref().map(Url::as_str), expected, "{text}");
        }
    }
}
