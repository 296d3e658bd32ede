//! Replaces the program of a running daemon: `stargz upgrade`, or SIGUSR2.
//!
//! The daemon ends as on SIGTERM, and then becomes the program that lies at its path now, in the same process. What it
//! served waits in the kernel meanwhile, and connections wait in the listening socket; the keeper has both.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use keeper::Keeping;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::control::{Answers, Client, ControlError, Refusal};
use crate::keeping;

/// The control command.
pub const UPGRADE: &str = "daemon.upgrade";
/// The control command that tells which program runs.
pub const VERSION: &str = "daemon.version";

/// A program that does not even print its version within this is none.
const TRIAL: Duration = Duration::from_secs(10);
/// How long the new program may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
}

/// What the daemon says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Version {
    /// Version and revision.
    pub version: String,
    /// When it began to serve, as a number that no later process has.
    pub started_ns: u64,
}

impl Program {
    /// This process. To be asked at its start, while its file is where it was.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn of_this_process() -> io::Result<Program> {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        Ok(Program { path: std::env::current_exe()?, name, arguments: arguments.collect() })
    }

    /// Makes sure that what lies at the path now is a program that runs here, and returns what it says of its version.
    ///
    /// # Errors
    /// It is not.
    pub fn try_it(&self) -> anyhow::Result<String> {
        let path = self.path.display();
        let mut child = Command::new(&self.path)
            .arg0(&self.name)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {path}"))?;
        let give_up = Instant::now() + TRIAL;
        while child.try_wait()?.is_none() {
            if Instant::now() > give_up {
                child.kill()?;
                child.wait()?;
                bail!("{path} --version did not end within {} s", TRIAL.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{path} --version failed: {}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Becomes the program. Returns only why that failed.
    pub fn become_it(&self) -> io::Error {
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).args(&self.arguments);
        // Said of descriptors that are closed by now; the rest of what the service manager said holds for the process.
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        command.exec()
    }
}

/// Answers for the daemon itself; what is left goes to `others`.
#[derive(Debug)]
pub struct Commands {
    /// Who answers everything else.
    pub others: crate::watch::Desk,
    /// How this process was started.
    pub program: Program,
    /// What ends when the daemon does.
    pub keeping: Option<Arc<Keeping>>,
    /// Tells the daemon to do it.
    pub wanted: mpsc::Sender<()>,
    /// When this process started.
    pub started: SystemTime,
}

#[async_trait]
impl Answers for Commands {
    async fn answer(&self, command: &str, arguments: Value) -> Result<Value, Refusal> {
        let failed = |error: String| Refusal::Failed(error);
        match command {
            VERSION => {
                let started_ns =
                    self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
                let version = Version { version: crate::cli::VERSION.to_owned(), started_ns };
                serde_json::to_value(version).map_err(|error| failed(error.to_string()))
            }
            UPGRADE => {
                let version = check(&self.program, self.keeping.as_ref())
                    .await
                    .map_err(|error| failed(format!("{error:#}")))?;
                // One that is wanted already is enough.
                let _ = self.wanted.try_send(());
                Ok(Value::String(version))
            }
            _ => self.others.answer(command, arguments).await,
        }
    }
}

/// Whether the daemon can be replaced: by which version.
///
/// # Errors
/// It would interrupt containers, or there is no program to go on with.
pub async fn check(program: &Program, keeping: Option<&Arc<Keeping>>) -> anyhow::Result<String> {
    if !keeping.is_some_and(|keeping| keeping.keeps(keeping::IMAGES) || keeping.keeps(keeping::TREES)) {
        bail!(
            "nobody keeps the mounts of containers while the program is replaced: fuse_manager is off, the keeper is gone, or the kernel is older than 6.9"
        );
    }
    let program = program.clone();
    tokio::task::spawn_blocking(move || program.try_it()).await?
}

/// `stargz upgrade`: asks the daemon of a root, and waits until the new program serves.
///
/// # Errors
/// There is no daemon, or it refuses, or the new one does not come.
pub fn ask(root: &Path) -> anyhow::Result<()> {
    let root = std::path::absolute(root).context("cannot tell where the root directory is")?;
    let connect =
        || Client::connect(&root).with_context(|| format!("cannot ask the daemon of {}", root.display()));
    let Some(mut client) = connect()? else {
        bail!("there is no daemon for {}; --root says where its state is", root.display());
    };
    let before: Version = client.ask(VERSION, (), PATIENCE)?;
    let next: String = client.ask(UPGRADE, (), PATIENCE)?;
    let give_up = Instant::now() + PATIENCE;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        match version(connect()?) {
            Ok(Some(now)) if now.started_ns != before.started_ns => {
                crate::print(&format!("{} is now {}", before.version, now.version));
                return Ok(());
            }
            _ if Instant::now() < give_up => {}
            Ok(_) => bail!("{next} does not serve after {} s; see the log of the daemon", PATIENCE.as_secs()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn version(client: Option<Client>) -> Result<Option<Version>, ControlError> {
    client.map(|mut client| client.ask(VERSION, (), PATIENCE)).transpose()
}
