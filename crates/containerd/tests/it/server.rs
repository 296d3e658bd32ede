//! A containerd with a root, a state and a socket of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use containerd::{Client, ConnectOptions};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long anything may take that a program outside this test does.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Server {
    dir: TempDir,
    process: Child,
}

impl Server {
    /// `None`, and why on standard error, where there is no containerd.
    pub async fn start() -> Option<Server> {
        let installed = ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
            .iter()
            .any(|dir| Path::new(dir).join("containerd").exists());
        if !rustix::process::geteuid().is_root() || !installed {
            eprintln!("skipped: needs root and containerd");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{}\"\n",
            at("root"),
            at("state"),
            at("socket"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let server = Server { dir, process };
        timeout(PATIENCE, async {
            loop {
                let client = Client::connect(server.socket(), "probe", ConnectOptions::default()).await;
                if let Ok(client) = client
                    && client.system().version().await.is_ok()
                {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("containerd starts");
        Some(server)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub async fn client(&self, namespace: &str) -> Client {
        Client::connect(self.socket(), namespace, ConnectOptions::default()).await.unwrap()
    }

    /// Ends it, and tells where it was.
    pub async fn stop(mut self) -> PathBuf {
        let pid = rustix::process::Pid::from_raw(self.process.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        timeout(PATIENCE, self.process.wait()).await.expect("containerd ends").unwrap();
        self.socket()
    }
}
