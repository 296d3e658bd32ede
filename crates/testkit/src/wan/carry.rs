//! Connections through the proxy, from accepting them to their end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::connections::{self, Event};
use super::exchange::{Answer, Down, Head, Requests, Up, own_answer};
use super::outage::Port;
use super::{Link, Seen, Shared, lock};
use crate::pace::{Line, wake_at};

/// Bytes that go onto the line at once. Ten packets or so: small against the rate, large against the cost of a wake-up.
const PIECE: usize = 16 << 10;
/// Connections served at the same time; others wait in the backlog.
const CONNECTIONS: usize = 512;

/// The way between client and target.
#[derive(Debug)]
pub(super) struct Path {
    target: SocketAddr,
    link: Link,
    line: Line,
    window: usize,
    shared: Arc<Shared>,
}

impl Path {
    pub(super) fn new(target: SocketAddr, link: Link, shared: Arc<Shared>) -> Path {
        let line = Line::new(link.bits_per_second);
        Path { target, link, line, window: window(link.rtt, link.bits_per_second), shared }
    }
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

/// Accepts connections; while they are refused, nobody listens.
pub(super) async fn accept(port: Port, listener: std::net::TcpListener, path: Arc<Path>) -> io::Result<()> {
    let mut listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let client = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = path.shared.outage.refused() => {
                drop(listener);
                path.shared.outage.passable().await;
                listener = TcpListener::from_std(port.listen()?)?;
                continue;
            }
        };
        let established = Instant::now() + path.link.rtt;
        let (number, open) = path.shared.enter();
        let path = path.clone();
        tokio::spawn(async move {
            serve(client, number, established, &path).await;
            drop((slot, open));
        });
    }
}

/// Why a connection ends before both sides have said all.
#[derive(Debug)]
enum End {
    Reset,
    Close,
}

impl From<io::Error> for End {
    /// Where one side resets the connection, so does the proxy.
    fn from(_: io::Error) -> End {
        End::Reset
    }
}

/// Serves one connection to its end. When one side resets it, or the target refuses, so does the proxy.
async fn serve(mut client: TcpStream, number: u64, established: Instant, path: &Path) {
    sleep_until(established).await;
    path.shared.outage.passable().await;
    let Ok(mut target) = TcpStream::connect(path.target).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &target] {
        // Nagle's algorithm would add delays of its own. Failing means that the peer is gone, which the pipes find out.
        let _ = stream.set_nodelay(true);
    }
    let outcome = tokio::select! {
        outcome = carry(&mut client, &mut target, number, path) => outcome,
        () = path.shared.outage.refused() => Err(End::Reset),
    };
    match outcome {
        Ok(()) => {}
        Err(End::Close) => reset(&target),
        Err(End::Reset) => {
            reset(&client);
            reset(&target);
        }
    }
}

/// Makes closing this connection a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger(); // fails on a connection that is gone, which is as good
}

async fn carry(client: &mut TcpStream, target: &mut TcpStream, number: u64, path: &Path) -> Result<(), End> {
    let plan = lock(&path.shared.connection_rules).plan();
    let own_rate = plan.bits_per_second.unwrap_or(path.link.connection_bits_per_second);
    let connection = Connection { number, path, line: Line::new(own_rate), answer: Mutex::default() };
    let (from_client, to_client) = client.split();
    let (from_target, to_target) = target.split();
    let (up, going_up) = Pipe::new(path);
    let (down, going_down) = Pipe::new(path);
    let own_answers = down.clone();
    tokio::try_join!(
        connection.send_up(from_client, up, own_answers),
        deliver(going_up, to_target, path, &path.shared.up),
        connection.send_down(from_target, down, plan),
        deliver(going_down, to_client, path, &path.shared.down),
    )
    .map(drop)
}

/// One connection.
struct Connection<'a> {
    number: u64,
    path: &'a Path,
    /// The rate of this connection alone.
    line: Line,
    /// The answer to the last request. Clients that wait for one answer before they send the next request never see it
    /// change in the middle of an answer.
    answer: Mutex<Answer>,
}

/// Things on their way in one direction, and when each arrives.
enum Item {
    Bytes(Bytes),
    EndOfStream,
    End(End),
}

/// The near end of a direction. Unbounded in items, bounded in bytes by the window.
#[derive(Clone)]
struct Pipe {
    items: mpsc::UnboundedSender<(Instant, Item)>,
    window: Arc<Semaphore>,
}

/// The far end of a direction.
struct Arriving {
    items: mpsc::UnboundedReceiver<(Instant, Item)>,
    window: Arc<Semaphore>,
}

impl Pipe {
    fn new(path: &Path) -> (Pipe, Arriving) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(path.window));
        (Pipe { items: sender, window: window.clone() }, Arriving { items: receiver, window })
    }

    async fn bytes(&self, when: Instant, bytes: Bytes) {
        self.window.acquire_many(bytes.len() as u32).await.expect("the semaphore is never closed").forget();
        self.put(when, Item::Bytes(bytes));
    }

    fn put(&self, when: Instant, item: Item) {
        let _ = self.items.send((when, item)); // the far end is gone only when the connection is
    }
}

impl Connection<'_> {
    /// Carries what the client says to its end.
    async fn send_up(&self, mut from: ReadHalf<'_>, up: Pipe, down: Pipe) -> Result<(), End> {
        let half = self.path.link.rtt / 2;
        let mut requests = Requests::default();
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if (&mut from).take(PIECE as u64).read_buf(&mut buffer).await? == 0 {
                break;
            }
            for part in requests.push(&buffer.split()) {
                let bytes = match part {
                    Up::Other(bytes) => Some(bytes),
                    Up::Request(head) => self.request(head, &down)?,
                };
                if let Some(bytes) = bytes {
                    up.bytes(Instant::now() + half, bytes).await;
                }
            }
        }
        let rest = requests.rest();
        if !rest.is_empty() {
            up.bytes(Instant::now() + half, rest).await;
        }
        up.put(Instant::now() + half, Item::EndOfStream);
        Ok(())
    }

    /// Looks at a request, and returns what is to be sent on of it; nothing when it is answered here.
    fn request(&self, head: Head, down: &Pipe) -> Result<Option<Bytes>, End> {
        let shared = &self.path.shared;
        let path = head.target.split('?').next().unwrap_or_default();
        let plan = lock(&shared.rules).plan(&head.method, path);
        shared.record(Seen {
            connection: self.number,
            method: head.method.clone(),
            target: head.target.clone(),
            range: head.range.clone(),
        });
        if plan.reset_at_once {
            return Err(End::Reset);
        }
        if let Some(status) = plan.status {
            let when = Instant::now() + self.path.link.rtt + plan.stall_headers;
            let bytes = own_answer(status, plan.retry_after);
            // No wait for the window: there is no answer under way that could fill it.
            if let Ok(permit) = down.window.try_acquire_many(bytes.len() as u32) {
                permit.forget();
            }
            down.put(when, Item::Bytes(bytes));
            if head.last {
                down.put(when, Item::End(End::Close));
            }
            return Ok(None);
        }
        let several = head.range.as_ref().is_some_and(|range| range.contains(','));
        let whole = plan.ignore_range || plan.one_range && several;
        let head = if whole { head.without_range() } else { head };
        *lock(&self.answer) = Answer::new(plan);
        Ok(Some(head.bytes))
    }

    /// Carries what the target says to its end.
    async fn send_down(
        &self,
        mut from: ReadHalf<'_>,
        down: Pipe,
        plan: connections::Plan,
    ) -> Result<(), End> {
        let mut events = plan.events.into_iter().peekable();
        let mut buffer = BytesMut::new();
        let mut taken = 0;
        loop {
            while let Some((_, event)) = events.next_if(|(after, _)| *after <= taken) {
                if self.happen(event, &down).await {
                    return std::future::pending().await; // the far end ends the connection
                }
            }
            buffer.reserve(PIECE);
            let until = events.peek().map_or(u64::MAX, |(after, _)| *after);
            let len = (&mut from).take((until - taken).min(PIECE as u64)).read_buf(&mut buffer).await?;
            if len == 0 {
                break;
            }
            taken += len as u64;
            let (todo, rate) = {
                let mut answer = lock(&self.answer);
                (answer.push(buffer.split().freeze()), answer.rate())
            };
            for step in todo {
                match step {
                    Down::Send(bytes) => self.pace(bytes, rate, &down).await,
                    Down::Event(event) => {
                        if self.happen(event, &down).await {
                            return std::future::pending().await;
                        }
                    }
                }
            }
        }
        let rest = lock(&self.answer).rest();
        self.pace(rest, None, &down).await;
        down.put(Instant::now() + self.path.link.rtt / 2, Item::EndOfStream);
        Ok(())
    }

    /// Lets an event happen, and says whether it is the last.
    async fn happen(&self, event: Event, down: &Pipe) -> bool {
        let when = Instant::now() + self.path.link.rtt / 2;
        match event {
            Event::Pause(pause) => sleep(pause).await,
            Event::Reset => down.put(when, Item::End(End::Reset)),
            Event::Close => down.put(when, Item::End(End::Close)),
        }
        !matches!(event, Event::Pause(_))
    }

    /// Puts bytes on the line of the answer, of the connection, and of all.
    async fn pace(&self, mut bytes: Bytes, rate: Option<u64>, down: &Pipe) {
        while !bytes.is_empty() {
            let largest = rate.map_or(PIECE, |rate| ((rate / 10) as usize).clamp(1, PIECE));
            let piece = bytes.split_to(largest.min(bytes.len()));
            if let Some(rate) = rate {
                sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await;
            }
            let left = self.line.send(piece.len()).await;
            let left = left.max(self.path.line.send(piece.len()).await);
            down.bytes(left + self.path.link.rtt / 2, piece).await;
        }
    }
}

/// Delivers one direction to its end, each thing when it arrives, and nothing while the network is away.
async fn deliver(
    mut arriving: Arriving,
    mut to: WriteHalf<'_>,
    path: &Path,
    counter: &AtomicU64,
) -> Result<(), End> {
    while let Some((when, item)) = arriving.items.recv().await {
        wake_at(when).await;
        path.shared.outage.passable().await;
        match item {
            Item::EndOfStream => {
                to.shutdown().await?;
                return Ok(());
            }
            Item::End(end) => {
                if matches!(end, End::Close) {
                    to.shutdown().await?;
                }
                return Err(end);
            }
            Item::Bytes(piece) => {
                to.write_all(&piece).await?;
                arriving.window.add_permits(piece.len());
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}
