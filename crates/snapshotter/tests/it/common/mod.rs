//! A snapshotter over a filesystem that only plays, served on a real socket, and a client for it.

#![allow(dead_code, missing_docs)]

pub mod play;
#[allow(clippy::all)]
mod snapshots_client;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use snapshotter::{Options, Snapshotter, proto::snapshots::*, proto::types::Mount};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Status, transport::Channel};

pub use self::play::Play;
pub use self::snapshots_client::snapshots_client::SnapshotsClient;

pub const TARGET: &str = "containerd.io/snapshot.ref";
pub const REMOTE: &str = "containerd.io/snapshot/remote";

pub type Labels = HashMap<String, String>;

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A root directory that outlives the process that the tests play.
pub struct Root(TempDir);

impl Root {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("snapshotter")
    }

    pub fn options(&self) -> Options {
        Options {
            mount_timeout: Duration::from_secs(5),
            check_timeout: Duration::from_secs(5),
            ..Options::new(self.path())
        }
    }

    pub fn snapshots(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    /// Names of the directories of snapshots, in order.
    pub fn dirs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.snapshots()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn fs(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string()).join("fs")
    }
}

impl Drop for Root {
    /// A test that failed may have left mounts, which would keep the directory.
    fn drop(&mut self) {
        for mountpoint in mountpoints(self.0.path()).into_iter().rev() {
            let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// What is mounted below `dir`, in the order in which it was.
pub fn mountpoints(dir: &Path) -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let paths = mountinfo.lines().map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
    paths.filter(|path| path.starts_with(dir)).collect()
}

/// One life of the service.
pub struct Life {
    pub snapshotter: Arc<Snapshotter>,
    pub client: SnapshotsClient<Channel>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Life {
    pub async fn begin(root: &Root, play: &Arc<Play>) -> Self {
        Self::with_options(root.options(), play).await
    }

    /// Opens and serves, without restoring anything.
    pub async fn with_options(options: Options, play: &Arc<Play>) -> Self {
        let socket = options.root.parent().unwrap().join("socket");
        let snapshotter = Snapshotter::open(options, play.clone()).unwrap();
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let service = snapshotter.clone();
        let server = tokio::spawn(async move {
            snapshotter::serve(service, listener, async { drop(stopped.await) }).await.unwrap();
        });
        let client = SnapshotsClient::connect(format!("unix://{}", socket.display())).await.unwrap();
        Self { snapshotter, client, stop: Some(stop), server }
    }

    /// Stops serving and closes the database, leaving all else as it is.
    pub async fn end(self) {
        let Self { snapshotter, client, stop, server } = self;
        drop((client, stop));
        server.await.unwrap();
        // Tasks that outlive their client may hold it for a moment.
        let weak = Arc::downgrade(&snapshotter);
        drop(snapshotter);
        while weak.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    pub async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = PrepareSnapshotRequest { snapshotter: String::new(), key, parent, labels };
        Ok(self.client.clone().prepare(request).await?.into_inner().mounts)
    }

    /// Prepares as containerd's unpacker does.
    pub async fn prepare_target(&self, key: &str, parent: &str, target: &str) -> Result<Vec<Mount>, Status> {
        self.prepare(key, parent, labels(&[(TARGET, target)])).await
    }

    pub async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = ViewSnapshotRequest { snapshotter: String::new(), key, parent, labels: Labels::new() };
        Ok(self.client.clone().view(request).await?.into_inner().mounts)
    }

    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest { snapshotter: String::new(), key: key.to_owned() };
        Ok(self.client.clone().mounts(request).await?.into_inner().mounts)
    }

    pub async fn commit(&self, key: &str, name: &str) -> Result<(), Status> {
        self.commit_with(CommitSnapshotRequest {
            key: key.to_owned(),
            name: name.to_owned(),
            ..CommitSnapshotRequest::default()
        })
        .await
    }

    pub async fn commit_with(&self, request: CommitSnapshotRequest) -> Result<(), Status> {
        self.client.clone().commit(request).await.map(drop)
    }

    /// An ordinary committed snapshot.
    pub async fn committed(&self, name: &str, parent: &str) {
        let key = format!("extract {name}");
        self.prepare(&key, parent, Labels::new()).await.unwrap();
        self.commit(&key, name).await.unwrap();
    }

    pub async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { snapshotter: String::new(), key: key.to_owned() };
        self.client.clone().remove(request).await.map(drop)
    }

    pub async fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { snapshotter: String::new(), key: key.to_owned() };
        Ok(self.client.clone().stat(request).await?.into_inner().info.unwrap())
    }

    pub async fn update(&self, name: &str, labels: Labels, paths: &[&str]) -> Result<Info, Status> {
        let request = UpdateSnapshotRequest {
            snapshotter: String::new(),
            info: Some(Info { name: name.to_owned(), labels, ..Info::default() }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
        };
        Ok(self.client.clone().update(request).await?.into_inner().info.unwrap())
    }

    /// The parts of a list.
    pub async fn list(&self, filters: &[&str]) -> Result<Vec<Vec<Info>>, Status> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = ListSnapshotsRequest { snapshotter: String::new(), filters };
        let mut stream = self.client.clone().list(request).await?.into_inner();
        let mut parts = Vec::new();
        while let Some(part) = stream.message().await? {
            parts.push(part.info);
        }
        Ok(parts)
    }

    pub async fn names(&self, filters: &[&str]) -> Vec<String> {
        self.list(filters).await.unwrap().into_iter().flatten().map(|info| info.name).collect()
    }

    pub async fn usage(&self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest { snapshotter: String::new(), key: key.to_owned() };
        Ok(self.client.clone().usage(request).await?.into_inner())
    }

    pub async fn cleanup(&self) -> Result<(), Status> {
        self.client.clone().cleanup(CleanupRequest::default()).await.map(drop)
    }
}

/// Asserts that a call was refused with `code` and a message that says `words`.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &str) {
    let status = result.expect_err("refusal expected");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}

/// A mount on one line, with `S` for the directory of snapshots.
pub fn shown(mounts: &[Mount], root: &Root) -> String {
    let [mount] = mounts else { panic!("{} mounts", mounts.len()) };
    assert_eq!(mount.target, "");
    let line = format!("{} {} {}", mount.r#type, mount.source, mount.options.join(","));
    line.replace(root.snapshots().to_str().unwrap(), "S")
}
