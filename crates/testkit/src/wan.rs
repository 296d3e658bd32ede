//! A TCP proxy that makes the loopback interface as slow as a long line: every byte takes half a round trip each way, a
//! new connection costs one round trip more (the handshake), and what comes down from the target is paced to the line's
//! rate, all connections together. TCP's slow start is not simulated.

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::pace::{Line, wake_at};
use crate::worker::{LOOPBACK, Worker, listen};

/// Bytes that go onto the line at once. Ten packets or so: small against the rate, large against the cost of a wake-up.
const PIECE: usize = 16 << 10;
/// Connections served at the same time; others wait in the backlog.
const CONNECTIONS: usize = 512;

/// A running proxy; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    counters: Arc<Counters>,
    _worker: Worker,
}

/// What a proxy has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Bytes delivered to the target.
    pub bytes_up: u64,
    /// Bytes delivered from the target.
    pub bytes_down: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// A proxy to `target` on a free port of the loopback interface. A rate of 0 is without limit.
pub fn wan_proxy(target: SocketAddr, rtt: Duration, bits_per_second: u64) -> Proxy {
    Proxy::listen(LOOPBACK, target, rtt, bits_per_second).expect("a free loopback port")
}

impl Proxy {
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
        let (listener, addr) = listen(at)?;
        let counters = Arc::new(Counters::default());
        let path = Path {
            target,
            rtt,
            line: Line::new(bits_per_second),
            window: window(rtt, bits_per_second),
            counters: counters.clone(),
        };
        let worker = Worker::spawn("wan-proxy", move || accept(listener, Arc::new(path)));
        Ok(Proxy { addr, counters, _worker: worker })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has carried so far.
    pub fn stats(&self) -> Stats {
        Stats {
            connections: self.counters.connections.load(Ordering::Relaxed),
            bytes_up: self.counters.up.load(Ordering::Relaxed),
            bytes_down: self.counters.down.load(Ordering::Relaxed),
        }
    }
}

/// The way between client and target.
#[derive(Debug)]
struct Path {
    target: SocketAddr,
    rtt: Duration,
    line: Line,
    window: usize,
    counters: Arc<Counters>,
}

/// Bytes that one connection may have under way in one direction: twice the bandwidth-delay product, so that one
/// connection alone can fill the line.
fn window(rtt: Duration, bits_per_second: u64) -> usize {
    const SMALLEST: u64 = 512 << 10;
    const LARGEST: u64 = 64 << 20;
    let product = (u128::from(bits_per_second) / 8 * rtt.as_micros() / 1_000_000) as u64;
    match bits_per_second {
        0 => LARGEST as usize,
        _ => (2 * product).clamp(SMALLEST, LARGEST) as usize,
    }
}

async fn accept(listener: std::net::TcpListener, path: Arc<Path>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (client, _) = listener.accept().await?;
        let established = Instant::now() + path.rtt;
        path.counters.connections.fetch_add(1, Ordering::Relaxed);
        let path = path.clone();
        tokio::spawn(async move {
            carry(client, established, &path).await;
            drop(slot);
        });
    }
}

/// Serves one connection to its end. When one side resets it, or the target refuses, so does the proxy.
async fn carry(mut client: TcpStream, established: Instant, path: &Path) {
    sleep_until(established).await;
    let Ok(mut target) = TcpStream::connect(path.target).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &target] {
        // Nagle's algorithm would add delays of its own. Failing means that the peer is gone, which the pipes find out.
        let _ = stream.set_nodelay(true);
    }
    let outcome = {
        let (from_client, to_client) = client.split();
        let (from_target, to_target) = target.split();
        let up = pipe(from_client, to_target, path, None, &path.counters.up);
        let down = pipe(from_target, to_client, path, Some(&path.line), &path.counters.down);
        tokio::try_join!(up, down)
    };
    if outcome.is_err() {
        reset(&client);
        reset(&target);
    }
}

/// Makes closing this connection a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger(); // fails on a connection that is gone, which is as good
}

/// Carries bytes one way until their end, each half a round trip after it came or, with a line, left the line.
async fn pipe(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    path: &Path,
    line: Option<&Line>,
    counter: &AtomicU64,
) -> io::Result<()> {
    let (pieces, mut arriving) = mpsc::unbounded_channel::<(Instant, Bytes)>(); // bounded by the window, in bytes
    let window = Semaphore::new(path.window);
    let send = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            let len = (&mut from).take(PIECE as u64).read_buf(&mut buffer).await?;
            let left = match line {
                Some(line) => line.send(len).await,
                None => Instant::now(),
            };
            window.acquire_many(len as u32).await.expect("the semaphore is never closed").forget();
            let piece = buffer.split().freeze();
            if pieces.send((left + path.rtt / 2, piece)).is_err() || len == 0 {
                drop(pieces);
                return io::Result::Ok(());
            }
        }
    };
    let deliver = async {
        while let Some((when, piece)) = arriving.recv().await {
            wake_at(when).await;
            if piece.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&piece).await?;
            window.add_permits(piece.len());
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::try_join!(send, deliver).map(drop)
}
