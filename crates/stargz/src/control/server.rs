//! The side of the daemon.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Answer, Outcome, REQUEST_MAX, Request, VERSION, socket};

/// Connections at once. The next one waits.
const CONNECTIONS: usize = 8;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such command.
    Unknown,
    /// It failed; the text is for the one who asked.
    Failed(String),
}

/// Does what is asked.
#[async_trait]
pub trait Answers: Debug + Send + Sync + 'static {
    /// Does one command. Its future is dropped when the daemon stops, not when the one who asked goes away.
    ///
    /// # Errors
    /// What the one who asked is told.
    async fn answer(&self, command: &str, arguments: Value) -> Result<Value, Refusal>;
}

/// Listens at the root's socket, for its owner alone. A socket that a former process left is replaced: whoever calls
/// this owns the root.
///
/// # Errors
/// The socket can't be made, for example because its path is longer than about 100 bytes.
pub fn listen(root: &Path) -> io::Result<UnixListener> {
    let path = socket(root);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the future is dropped.
pub async fn serve(listener: UnixListener, answers: Arc<dyn Answers>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if is_ours(&stream) => {
                let answers = answers.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = converse(stream, &*answers).await {
                        tracing::debug!(%error, "a control connection ended badly");
                    }
                });
            }
            Ok(_) => tracing::warn!("somebody else tried to control the daemon"),
            Err(error) => {
                tracing::warn!(%error, "control connections cannot be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Between the making of the socket and of its mode, another user may have come in.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

async fn converse(stream: UnixStream, answers: &dyn Answers) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(REQUEST_MAX);
        let read = timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
        if read.map_err(io::Error::from)?? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let outcome = if whole { answer(&line, answers).await } else { too_long() };
        let mut line = serde_json::to_vec(&Answer { version: VERSION, outcome })?;
        line.push(b'\n');
        timeout(IDLE, stream.write_all(&line)).await.map_err(io::Error::from)??;
        if !whole {
            return Ok(());
        }
    }
}

fn too_long() -> Outcome {
    Outcome::Error(format!("the request is not one line of at most {REQUEST_MAX} bytes"))
}

async fn answer(line: &[u8], answers: &dyn Answers) -> Outcome {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Outcome::Error(format!("the request cannot be read: {error}")),
    };
    if request.version != VERSION {
        let theirs = request.version;
        return Outcome::Error(format!("the request is of version {theirs}, this daemon knows {VERSION}"));
    }
    match answers.answer(&request.command, request.arguments).await {
        Ok(value) => Outcome::Ok(value),
        Err(Refusal::Failed(text)) => Outcome::Error(text),
        Err(Refusal::Unknown) => Outcome::Error(format!("this daemon has no command {}", request.command)),
    }
}
