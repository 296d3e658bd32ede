//! An OCI registry (distribution-spec 1.1, pulling only) on the loopback interface, over plain HTTP/1.1.
//!
//! Serves from memory, remembers every request, and misbehaves as told: see [`Rule`] and [`Fault`]. It can want
//! credentials ([`Auth`]), redirect blobs to a second listener as registries with a CDN do ([`Redirect`]), and be far
//! away ([`Registry::set_distance`]).
//!
//! It runs on one thread of its own, so blocking tests and async ones can use it alike, and ends when dropped.

mod auth;
mod connection;
pub(crate) mod fault;
mod http;
mod parts;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use format::Digest;

use crate::content::Content as Blob;
use crate::estargz;
use crate::image::{self, Document, Image};
use crate::pace::Line;
use crate::worker::{LOOPBACK, Worker, listen};

pub use auth::Auth;
pub use fault::{Fault, Rule};

/// A running registry; stops when dropped.
#[derive(Debug)]
pub struct Registry {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _worker: Worker,
}

/// The two listeners of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The registry's API, and its token endpoint.
    Registry,
    /// Where blobs are redirected to.
    Cdn,
}

/// A request as it came, and the status of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which listener it came to.
    pub listener: Listener,
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// What follows `?`, or nothing.
    pub query: String,
    /// All headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The status it was answered with; 0 when the connection was reset instead.
    pub status: u16,
}

impl Request {
    /// The `Range` header.
    pub fn range(&self) -> Option<&str> {
        self.headers.get("range").map(String::as_str)
    }

    /// The `Authorization` header.
    pub fn authorization(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }
}

/// How blobs are redirected to the CDN listener.
#[derive(Clone, Copy, Debug)]
pub struct Redirect {
    /// How long a URL is good for after it was handed out. Later requests are answered with 403.
    pub ttl: Duration,
    /// How many requests a URL is good for; 0 is without limit.
    pub uses: u32,
}

/// What the threads of tests and the server share. No lock is held while another is taken.
#[derive(Debug)]
struct Shared {
    addr: SocketAddr,
    cdn: SocketAddr,
    content: Mutex<Content>,
    requests: Mutex<Vec<Request>>,
    requested: Condvar,
    script: Mutex<fault::Script>,
    gate: Mutex<auth::Gate>,
    redirects: Mutex<Redirects>,
    distance: Mutex<Distance>,
    body_bytes: AtomicU64,
    connections: Counter,
    answers: Counter,
}

#[derive(Debug, Default)]
struct Content {
    /// By repository and then tag or digest.
    manifests: HashMap<(String, String), Document>,
    blobs: HashMap<Digest, Blob>,
}

#[derive(Debug, Default)]
struct Redirects {
    policy: Option<Redirect>,
    issued: Vec<Issued>,
}

/// A URL of the CDN; its number in the list is the signature.
#[derive(Debug)]
struct Issued {
    digest: Digest,
    expires: Instant,
    uses_left: Option<u32>,
}

#[derive(Clone, Debug)]
struct Distance {
    rtt: Duration,
    line: Arc<Line>,
}

/// Locks a mutex under which nothing panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panics under this lock")
}

impl Registry {
    /// Starts an empty registry without authentication on a free port.
    pub fn start() -> Registry {
        let (listener, addr) = listen(LOOPBACK).expect("a free loopback port");
        let (cdn_listener, cdn) = listen(LOOPBACK).expect("a free loopback port");
        let shared = Arc::new(Shared {
            addr,
            cdn,
            content: Mutex::default(),
            requests: Mutex::default(),
            requested: Condvar::new(),
            script: Mutex::default(),
            gate: Mutex::default(),
            redirects: Mutex::default(),
            distance: Mutex::new(Distance { rtt: Duration::ZERO, line: Arc::new(Line::new(0)) }),
            body_bytes: AtomicU64::new(0),
            connections: Counter::default(),
            answers: Counter::default(),
        });
        let served = shared.clone();
        let worker = Worker::spawn("registry", move || connection::serve(listener, cdn_listener, served));
        Registry { addr, shared, _worker: worker }
    }

    /// Where the API listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The host part of references: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The reference of `name`, which is `repository:tag` or `repository@digest`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.addr)
    }

    /// Stores an image, and tags its manifest. Returns the reference.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        self.push_tagged(repository, tag, image, &image.manifest)
    }

    /// Stores an image, and tags its index. Returns the reference.
    pub fn push_index(&self, repository: &str, tag: &str, image: &Image) -> String {
        self.push_tagged(repository, tag, image, &image.index)
    }

    /// Stores images of several platforms, and tags an index of them. Returns the reference.
    pub fn push_platforms(&self, repository: &str, tag: &str, images: &[&Image]) -> String {
        images.iter().for_each(|image| drop(self.push(repository, tag, image)));
        let index = image::index(images);
        self.put_manifest(repository, &index.digest.to_string(), &index);
        self.put_manifest(repository, tag, &index);
        self.reference(&format!("{repository}:{tag}"))
    }

    /// Stores the TOCs of external layers where readers of the image `repository:tag` look for them.
    pub fn push_toc_image(&self, repository: &str, tag: &str, blobs: &[&estargz::Blob]) -> String {
        self.push(repository, &format!("{tag}{}", image::TOC_TAG_SUFFIX), &image::toc_image(blobs))
    }

    fn push_tagged(&self, repository: &str, tag: &str, image: &Image, tagged: &Document) -> String {
        for layer in &image.layers {
            self.put_blob(layer.digest, layer.content.clone());
        }
        self.put_blob(image.config.digest, image.config.bytes.clone());
        for document in [&image.manifest, &image.index] {
            self.put_manifest(repository, &document.digest.to_string(), document);
        }
        self.put_manifest(repository, tag, tagged);
        self.reference(&format!("{repository}:{tag}"))
    }

    /// Stores a manifest or index under a tag or digest, which need not be its own.
    pub fn put_manifest(&self, repository: &str, tag: &str, document: &Document) {
        lock(&self.shared.content)
            .manifests
            .insert((repository.to_owned(), tag.to_owned()), document.clone());
    }

    /// Stores a blob in all repositories under a digest, which need not be its own.
    pub fn put_blob(&self, digest: Digest, content: impl Into<Blob>) {
        lock(&self.shared.content).blobs.insert(digest, content.into());
    }

    /// Forgets a blob.
    pub fn remove_blob(&self, digest: Digest) {
        lock(&self.shared.content).blobs.remove(&digest);
    }

    /// Adds a rule to the script of faults. All rules that match a request apply.
    pub fn fault(&self, rule: Rule) {
        lock(&self.shared.script).add(rule);
    }

    /// Ends all faults that have not begun.
    pub fn clear_faults(&self) {
        *lock(&self.shared.script) = fault::Script::default();
    }

    /// Who may pull from now on. Tokens handed out so far become void.
    pub fn set_auth(&self, auth: Auth) {
        *lock(&self.shared.gate) = auth::Gate::new(auth);
    }

    /// Makes every bearer token handed out so far void.
    pub fn revoke_tokens(&self) {
        lock(&self.shared.gate).revoke();
    }

    /// Whether blobs are redirected from now on.
    pub fn set_redirect(&self, policy: Option<Redirect>) {
        lock(&self.shared.redirects).policy = policy;
    }

    /// Makes every URL of the CDN handed out so far void.
    pub fn expire_redirects(&self) {
        self.shared.expire_redirects();
    }

    /// How far away the registry is from now on: one round trip is added to each new connection and each answer, and all
    /// bodies share a line of this many bits per second (0: without limit). [`crate::wan_proxy`] is more exact.
    pub fn set_distance(&self, rtt: Duration, bits_per_second: u64) {
        *lock(&self.shared.distance) = Distance { rtt, line: Arc::new(Line::new(bits_per_second)) };
    }

    /// Every request answered or reset so far, in order, on both listeners.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// The requests so far whose path contains `part`.
    pub fn requests_to(&self, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.contains(part)).collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        lock(&self.shared.requests).clear();
    }

    /// Waits until the requests satisfy `enough`, at most `limit`; returns whether they do. Blocks the thread.
    pub fn wait_for(&self, limit: Duration, mut enough: impl FnMut(&[Request]) -> bool) -> bool {
        let requests = lock(&self.shared.requests);
        let waited = self.shared.requested.wait_timeout_while(requests, limit, |requests| !enough(requests));
        !waited.expect("no panics under this lock").1.timed_out()
    }

    /// Bytes of bodies that were sent so far.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }

    /// The most connections that were open at the same time so far, on both listeners.
    pub fn most_connections(&self) -> u64 {
        self.shared.connections.most.load(Ordering::Relaxed)
    }

    /// The most requests that were being answered at the same time so far, on both listeners.
    pub fn most_requests(&self) -> u64 {
        self.shared.answers.most.load(Ordering::Relaxed)
    }
}

/// How many there are of something, and the most there have been.
#[derive(Debug, Default)]
struct Counter {
    now: AtomicU64,
    most: AtomicU64,
}

impl Counter {
    /// Counts one more until the guard is dropped.
    fn enter(&self) -> Entered<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        Entered(self)
    }
}

/// One that is counted.
struct Entered<'a>(&'a Counter);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn record(&self, request: Request) {
        lock(&self.requests).push(request);
        self.requested.notify_all();
    }

    fn distance(&self) -> Distance {
        lock(&self.distance).clone()
    }

    fn expire_redirects(&self) {
        let now = Instant::now();
        lock(&self.redirects).issued.iter_mut().for_each(|issued| issued.expires = now);
    }

    /// A new URL of the CDN for a blob, if blobs are redirected.
    fn redirect(&self, digest: Digest) -> Option<String> {
        let mut redirects = lock(&self.redirects);
        let policy = redirects.policy?;
        let signature = redirects.issued.len();
        redirects.issued.push(Issued {
            digest,
            expires: Instant::now() + policy.ttl,
            uses_left: (policy.uses > 0).then_some(policy.uses),
        });
        Some(format!("http://{}/cdn/{digest}?signature={signature}", self.cdn))
    }

    /// Whether a URL of the CDN is good for one more request.
    fn admit(&self, digest: Digest, query: &str) -> bool {
        let signature = query.strip_prefix("signature=").and_then(|number| number.parse::<usize>().ok());
        let mut redirects = lock(&self.redirects);
        let Some(issued) = signature.and_then(|number| redirects.issued.get_mut(number)) else {
            return false;
        };
        if issued.digest != digest || Instant::now() >= issued.expires || issued.uses_left == Some(0) {
            return false;
        }
        issued.uses_left = issued.uses_left.map(|left| left - 1);
        true
    }
}
