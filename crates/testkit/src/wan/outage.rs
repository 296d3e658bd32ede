//! The network that goes away and comes back.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How a network is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Connections are reset, and new ones refused.
    Refused,
    /// Nothing arrives, in either direction. What is under way when the network comes back then arrives. New connections
    /// are still established, as the kernel does that.
    BlackHole,
}

/// The outage that is, or was last: what and until when.
#[derive(Clone, Copy, Debug)]
struct Last {
    kind: Outage,
    until: Instant,
}

/// Tells everybody of outages.
#[derive(Debug)]
pub(super) struct Switch(watch::Sender<Option<Last>>);

impl Default for Switch {
    fn default() -> Switch {
        Switch(watch::Sender::new(None))
    }
}

impl Switch {
    pub(super) fn set(&self, kind: Outage, time: Duration) {
        self.0.send_replace(Some(Last { kind, until: Instant::now() + time }));
    }

    /// Returns when bytes pass, at once if nothing is wrong.
    pub(super) async fn passable(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let last = *changes.borrow_and_update();
            match last {
                Some(last) if last.until > Instant::now() => {
                    tokio::select! {
                        () = sleep_until(last.until) => {}
                        _ = changes.changed() => {}
                    }
                }
                _ => return,
            }
        }
    }

    /// Returns when connections are refused.
    pub(super) async fn refused(&self) {
        let refusing = |last: &Option<Last>| {
            last.is_some_and(|last| last.kind == Outage::Refused && last.until > Instant::now())
        };
        // The sender is `self`, so there is no end to wait for.
        let _ = self.0.subscribe().wait_for(refusing).await;
    }
}

/// A port that stays ours while nobody listens on it, so that connections are refused and nobody else gets it.
#[derive(Debug)]
pub(super) struct Port {
    addr: SocketAddr,
    _bound: OwnedFd,
}

impl Port {
    pub(super) fn reserve(at: SocketAddr) -> io::Result<Port> {
        let bound = bind(at)?;
        let addr = rustix::net::getsockname(&bound)?;
        Ok(Port { addr: addr.try_into()?, _bound: bound })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        const BACKLOG: i32 = 1024;
        let socket = bind(self.addr)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }
}

/// A socket bound to an address that it shares with other sockets of this user which do the same.
fn bind(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    Ok(socket)
}
