//! A TCP proxy that makes the loopback interface as slow as a long line, and as unreliable as a test wants.
//!
//! Every byte takes half a round trip each way, a new connection costs one round trip more (the handshake), and what comes
//! down from the target is paced to the line's rate, all connections together; each may also have a rate of its own, so that
//! several are faster than one. TCP's slow start is not simulated.
//!
//! The proxy follows three scripts. [`Rule`]s befall requests, as in [`crate::registry`], with any registry behind it that
//! speaks plain HTTP/1.1. [`ConnectionRule`]s befall connections, whatever they carry. And [`Proxy::outage`] takes the whole
//! network away for a time.

mod carry;
mod connections;
mod exchange;
mod outage;
mod script;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::registry::Rule;
use crate::registry::fault::{Fault, Script};
use crate::worker::{LOOPBACK, Worker};

pub use connections::{ConnectionFault, ConnectionRule};
pub use outage::Outage;
pub use script::{ScriptError, Step, parse_script};

/// Requests that are remembered; later ones are only counted.
const REMEMBERED: usize = 100_000;

/// The line between clients and target. A rate of 0 is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The round trip.
    pub rtt: Duration,
    /// What all connections together may carry from the target, in bits per second.
    pub bits_per_second: u64,
    /// What one connection may carry from the target, in bits per second.
    pub connection_bits_per_second: u64,
}

/// A running proxy; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _worker: Worker,
}

/// What a proxy has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// The most connections that were open at the same time.
    pub most_connections: u64,
    /// Bytes delivered to the target.
    pub bytes_up: u64,
    /// Bytes delivered from the target.
    pub bytes_down: u64,
    /// HTTP/1.1 requests that came.
    pub requests: u64,
    /// Those of them that asked for a range.
    pub ranges: u64,
}

/// A request that came through the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of its connection, from 0 on in the order in which they came.
    pub connection: u64,
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path with the query, as sent.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
}

/// What the threads of tests and the proxy share. No lock is held while another is taken.
#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Script>,
    connection_rules: Mutex<connections::Script>,
    seen: Mutex<Vec<Seen>>,
    outage: outage::Switch,
    connections: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    requests: AtomicU64,
    ranges: AtomicU64,
}

/// Locks a mutex under which nothing panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panics under this lock")
}

/// A proxy to `target` on a free port of the loopback interface. A rate of 0 is without limit.
pub fn wan_proxy(target: SocketAddr, rtt: Duration, bits_per_second: u64) -> Proxy {
    Proxy::listen(LOOPBACK, target, rtt, bits_per_second).expect("a free loopback port")
}

impl Proxy {
    /// A proxy to `target` on a free port of the loopback interface.
    pub fn start(target: SocketAddr, link: Link) -> Proxy {
        Proxy::listen_with(LOOPBACK, target, link).expect("a free loopback port")
    }

    /// A proxy that listens on a given address; see [`wan_proxy`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(
        at: SocketAddr,
        target: SocketAddr,
        rtt: Duration,
        bits_per_second: u64,
    ) -> io::Result<Proxy> {
        Proxy::listen_with(at, target, Link { rtt, bits_per_second, ..Link::default() })
    }

    /// A proxy that listens on a given address, with all that a link can be.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen_with(at: SocketAddr, target: SocketAddr, link: Link) -> io::Result<Proxy> {
        let port = outage::Port::reserve(at)?;
        let listener = port.listen()?;
        let addr = port.addr();
        let shared = Arc::new(Shared::default());
        let path = Arc::new(carry::Path::new(target, link, shared.clone()));
        let worker = Worker::spawn("wan-proxy", move || carry::accept(port, listener, path));
        Ok(Proxy { addr, shared, _worker: worker })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Adds a rule to the script of requests. All rules that match a request apply.
    ///
    /// # Panics
    /// When the fault is one of a registry's memory, which a proxy has no part in ([`Fault::ExpireTokens`],
    /// [`Fault::ExpireRedirects`]).
    pub fn fault(&self, rule: Rule) {
        let misplaced = matches!(rule.fault(), Fault::ExpireTokens | Fault::ExpireRedirects);
        assert!(!misplaced, "a proxy cannot do {:?}", rule.fault());
        lock(&self.shared.rules).add(rule);
    }

    /// Adds a rule to the script of connections. All rules that match a connection apply.
    pub fn connection_fault(&self, rule: ConnectionRule) {
        lock(&self.shared.connection_rules).add(rule);
    }

    /// Ends all faults that have not begun.
    pub fn clear_faults(&self) {
        *lock(&self.shared.rules) = Script::default();
        *lock(&self.shared.connection_rules) = connections::Script::default();
    }

    /// Takes the network away from now on, for this time. A second call replaces what is left of the first; a time of zero
    /// brings it back.
    pub fn outage(&self, kind: Outage, time: Duration) {
        self.shared.outage.set(kind, time);
    }

    /// What it has carried so far.
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: get(&self.shared.connections),
            most_connections: get(&self.shared.most_open),
            bytes_up: get(&self.shared.up),
            bytes_down: get(&self.shared.down),
            requests: get(&self.shared.requests),
            ranges: get(&self.shared.ranges),
        }
    }

    /// The first 100,000 requests, in the order in which they came.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }
}

impl Shared {
    fn record(&self, seen: Seen) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if seen.range.is_some() {
            self.ranges.fetch_add(1, Ordering::Relaxed);
        }
        let mut all = lock(&self.seen);
        if all.len() < REMEMBERED {
            all.push(seen);
        }
    }

    /// Counts a connection in; it is counted out when the guard is dropped.
    fn enter(self: &Arc<Shared>) -> (u64, Open) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(open, Ordering::Relaxed);
        (self.connections.fetch_add(1, Ordering::Relaxed), Open(self.clone()))
    }
}

/// A connection that is open.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
