//! A filesystem that notes what it is asked and does what the test wants.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::Mutex,
};

use async_trait::async_trait;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use snapshotter::{FileSystem, FsError, Usage};
use tokio::sync::watch;

use super::Labels;

#[derive(Debug)]
pub struct Play {
    state: Mutex<State>,
    /// Calls of mount begun so far.
    begun: watch::Sender<usize>,
    /// Whether mounts may end.
    open: watch::Sender<bool>,
    /// What is really mounted, for tests that look at the kernel.
    source: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    mounted: BTreeSet<PathBuf>,
    labels: Labels,
    bad_mounts: HashSet<String>,
    bad_checks: bool,
    slow_checks: bool,
    usage: Option<Usage>,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            begun: watch::Sender::new(0),
            open: watch::Sender::new(true),
            source: None,
        }
    }
}

impl Play {
    /// Mounts are bind mounts of `source`.
    pub fn real(source: &Path) -> Self {
        Self { source: Some(source.to_owned()), ..Self::default() }
    }

    /// The next mounts wait, after they are made, until [`Play::let_go`].
    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    pub fn let_go(&self) {
        self.open.send_replace(true);
    }

    /// Waits until mount has been called `times` times in all.
    pub async fn mounts_begun(&self, times: usize) {
        self.begun.subscribe().wait_for(|begun| *begun >= times).await.unwrap();
    }

    /// Mounts of this target fail from now on, or no longer.
    pub fn fail_mounts_of(&self, target: &str, fail: bool) {
        let mut state = self.state.lock().unwrap();
        if fail {
            state.bad_mounts.insert(target.to_owned());
        } else {
            state.bad_mounts.remove(target);
        }
    }

    /// What every mounted layer takes from now on.
    pub fn takes(&self, usage: Usage) {
        self.state.lock().unwrap().usage = Some(usage);
    }

    pub fn fail_checks(&self, fail: bool) {
        self.state.lock().unwrap().bad_checks = fail;
    }

    pub fn stall_checks(&self) {
        self.state.lock().unwrap().slow_checks = true;
    }

    /// What was called since the last time: name and number of the snapshot.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    /// Numbers of the snapshots that are mounted.
    pub fn mounted(&self) -> Vec<String> {
        self.state.lock().unwrap().mounted.iter().map(|path| number(path)).collect()
    }

    /// Labels of the last mount.
    pub fn labels(&self) -> Labels {
        self.state.lock().unwrap().labels.clone()
    }
}

#[async_trait]
impl FileSystem for Play {
    async fn mount(&self, mountpoint: &Path, labels: &Labels) -> Result<(), FsError> {
        let bad = {
            let mut state = self.state.lock().unwrap();
            state.calls.push(format!("mount {}", number(mountpoint)));
            assert!(mountpoint.read_dir().unwrap().next().is_none(), "mountpoint is not empty");
            state.labels.clone_from(labels);
            let bad = labels.get(super::TARGET).is_none_or(|target| state.bad_mounts.contains(target));
            if !bad {
                assert!(state.mounted.insert(mountpoint.to_owned()), "mounted twice");
                if let Some(source) = &self.source {
                    mount_bind(source, mountpoint).unwrap();
                }
            }
            bad
        };
        self.begun.send_modify(|begun| *begun += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        if bad {
            return Err(FsError::new("registry is away").context("cannot mount the layer"));
        }
        Ok(())
    }

    async fn check(&self, mountpoint: &Path, _: &Labels) -> Result<(), FsError> {
        let (bad, slow) = {
            let mut state = self.state.lock().unwrap();
            state.calls.push(format!("check {}", number(mountpoint)));
            (state.bad_checks || !state.mounted.contains(mountpoint), state.slow_checks)
        };
        if slow {
            std::future::pending::<()>().await;
        }
        if bad { Err(FsError::new("layer is gone")) } else { Ok(()) }
    }

    async fn unmount(&self, mountpoint: &Path) -> Result<(), FsError> {
        let mut state = self.state.lock().unwrap();
        state.calls.push(format!("unmount {}", number(mountpoint)));
        if !state.mounted.remove(mountpoint) {
            return Err(FsError::new("not mounted"));
        }
        if self.source.is_some() {
            unmount(mountpoint, UnmountFlags::empty()).unwrap();
        }
        Ok(())
    }

    fn usage(&self, mountpoint: &Path) -> Option<Usage> {
        let state = self.state.lock().unwrap();
        state.usage.filter(|_| state.mounted.contains(mountpoint))
    }
}

fn number(mountpoint: &Path) -> String {
    assert!(mountpoint.ends_with("fs"));
    mountpoint.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}
