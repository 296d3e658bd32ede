//! `[fuse_manager]`: what becomes of FUSE sessions while the daemon is away.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::seconds;

/// `[fuse_manager]`, named as stargz-snapshotter names the program with this task.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FuseManager {
    /// Keep sessions. Absent means yes.
    pub enable: Option<bool>,
    /// Socket of the keeper, an absolute path. Empty means `keeper.sock` in the root.
    pub address: PathBuf,
    /// The executable to run as the keeper. Empty means this one.
    pub path: PathBuf,
    /// What nobody serves for so long ends with errors for its readers, seconds. 0 means 60.
    pub deadline_sec: i64,
}

impl FuseManager {
    /// Whether sessions are kept.
    pub fn enabled(&self) -> bool {
        self.enable.unwrap_or(true)
    }

    /// How long readers wait for a daemon.
    pub fn deadline(&self) -> Duration {
        seconds(self.deadline_sec, 60)
    }

    /// Where the keeper is, and how it is started, for a daemon with this root.
    pub fn options(&self, root: &Path) -> keeper::Options {
        let address =
            if self.address.as_os_str().is_empty() { root.join("keeper.sock") } else { self.address.clone() };
        let deadline = self.deadline().as_secs().to_string();
        let arguments: [OsString; 5] = [
            "keeper".into(),
            "--address".into(),
            address.clone().into(),
            "--deadline".into(),
            deadline.into(),
        ];
        let default = keeper::Options { arguments: arguments.into(), ..keeper::Options::new(address) };
        if self.path.as_os_str().is_empty() {
            default
        } else {
            keeper::Options { program: self.path.clone(), ..default }
        }
    }
}
