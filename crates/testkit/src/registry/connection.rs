//! Connections: reading requests, and delivering answers with all that goes wrong on the way.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::fault::{Cut, Plan};
use super::http::{self, Answer, Incoming};
use super::{Listener, Request, Shared, lock, route};

/// Connections served at the same time; others wait in the backlog.
const CONNECTIONS: usize = 512;
/// Bytes of a body that are sent at once.
const PIECE: usize = 32 << 10;

/// Serves both listeners until dropped.
pub(super) async fn serve(
    api: std::net::TcpListener,
    cdn: std::net::TcpListener,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let api = accept(api, Listener::Registry, &shared, &slots);
    let cdn = accept(cdn, Listener::Cdn, &shared, &slots);
    tokio::try_join!(api, cdn).map(drop)
}

async fn accept(
    listener: std::net::TcpListener,
    kind: Listener,
    shared: &Arc<Shared>,
    slots: &Arc<Semaphore>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, _) = listener.accept().await?;
        let shared = shared.clone();
        tokio::spawn(async move {
            // An error is a client that went away, which is its right.
            let _ = talk(stream, kind, &shared).await;
            drop(slot);
        });
    }
}

async fn talk(mut stream: TcpStream, listener: Listener, shared: &Shared) -> io::Result<()> {
    let _open = shared.connections.enter();
    stream.set_nodelay(true)?;
    sleep_unless_zero(shared.distance().rtt).await;
    let mut buffer = BytesMut::new();
    while let Some(request) = http::read(&mut stream, &mut buffer).await? {
        if respond(&mut stream, listener, shared, request).await?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Answers one request; breaks when the connection must end.
async fn respond(
    stream: &mut TcpStream,
    listener: Listener,
    shared: &Shared,
    request: Incoming,
) -> io::Result<ControlFlow<()>> {
    let _answering = shared.answers.enter();
    let plan = lock(&shared.script).plan(&request.method, &request.path);
    if plan.expire_tokens {
        lock(&shared.gate).revoke();
    }
    if plan.expire_redirects {
        shared.expire_redirects();
    }
    let answer = route::answer(shared, listener, &request, &plan);
    let last = request.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let head_only = request.method == "HEAD";
    let Incoming { method, path, query, headers, .. } = request;
    let status = if plan.reset_at_once { 0 } else { answer.status };
    shared.record(Request { listener, method, path, query, headers, status });

    sleep_unless_zero(plan.stall_headers + shared.distance().rtt).await;
    if plan.reset_at_once {
        stream.set_zero_linger()?;
        return Ok(ControlFlow::Break(()));
    }
    stream.write_all(answer.head().as_bytes()).await?;
    if !head_only && send_body(stream, shared, &answer, &plan).await?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    Ok(if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// Sends a body in pieces that end where something is to happen.
async fn send_body(
    stream: &mut TcpStream,
    shared: &Shared,
    answer: &Answer,
    plan: &Plan,
) -> io::Result<ControlFlow<()>> {
    let len = usize::try_from(answer.body.len()).expect("lengths of bodies fit 64 bits");
    let end = plan.cut.map_or(len, |(after, _)| after.min(len));
    let line = shared.distance().line;
    let mut pauses = plan.pauses.iter().peekable();
    let mut sent = 0;
    loop {
        while let Some((_, pause)) = pauses.next_if(|(after, _)| *after <= sent) {
            sleep(*pause).await;
        }
        if sent == end {
            break;
        }
        let mut until = (sent + PIECE).min(end);
        if let Some((after, _)) = pauses.peek() {
            until = until.min(*after);
        }
        if let Some(rate) = plan.bytes_per_second {
            // Ten pieces a second.
            until = until.min(sent + (rate as usize / 10).max(1));
            sleep(Duration::from_secs_f64((until - sent) as f64 / rate as f64)).await;
        }
        let mut piece = BytesMut::from(answer.body.read(sent as u64, until - sent));
        for offset in &plan.corrupt {
            let at = offset.checked_sub(answer.start + sent as u64).map(|at| at as usize);
            if let Some(byte) = at.and_then(|at| piece.get_mut(at)) {
                *byte = !*byte;
            }
        }
        line.send(piece.len()).await;
        stream.write_all(&piece).await?;
        shared.body_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        sent = until;
    }
    match plan.cut {
        // A cut past the end of the body happens at its end.
        Some((_, Cut::Reset)) => stream.set_zero_linger()?,
        Some((_, Cut::Close)) => {}
        None => return Ok(ControlFlow::Continue(())),
    }
    Ok(ControlFlow::Break(()))
}

async fn sleep_unless_zero(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
