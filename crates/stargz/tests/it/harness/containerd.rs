//! The daemon, and what containerd asks of it when it pulls an image.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use snapshotter::proto::snapshots::{
    CleanupRequest, MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse,
    RemoveSnapshotRequest, ViewSnapshotRequest, ViewSnapshotResponse,
};
use snapshotter::proto::types;
use testkit::estargz::{Blob, TOC_DIGEST_ANNOTATION};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use super::images::Model;
use super::{Running, Scene, mounts_below};

/// The daemon needs no network to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The daemon with everything of it in a scene.
#[derive(Debug)]
pub struct Daemon<'a> {
    scene: &'a Scene,
    /// The process.
    pub process: Running,
}

impl Scene {
    /// Starts the daemon and waits until it serves.
    #[track_caller]
    pub fn daemon(&self) -> Daemon<'_> {
        self.daemon_with(&[])
    }

    /// The same, with more in its environment.
    #[track_caller]
    pub fn daemon_with(&self, environment: &[(&str, PathBuf)]) -> Daemon<'_> {
        let mut command = self.called("containerd-stargz-grpc");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("--root").arg(self.path("root")).arg("--address").arg(self.path("run/snapshots.sock"));
        command.arg("--config").arg(self.path("config.toml")).arg("--log-level=debug");
        let process = Running::start(&mut command);
        process.wait_for("serving snapshots", START_LIMIT);
        Daemon { scene: self, process }
    }
}

impl Daemon<'_> {
    /// Asks for a snapshot of each layer, as containerd does.
    ///
    /// # Panics
    /// When a layer is not mounted lazily.
    #[track_caller]
    pub fn pull(&self, reference: &str, model: &Model) {
        self.pull_with(reference, model, |_| Vec::new());
    }

    /// The same, with more labels.
    ///
    /// # Panics
    /// When a layer is not mounted lazily.
    #[track_caller]
    pub fn pull_with(
        &self,
        reference: &str,
        model: &Model,
        labels: impl Fn(&Blob) -> Vec<(&'static str, String)>,
    ) {
        let mut parent = String::new();
        for (number, blob) in model.blobs.iter().enumerate() {
            let chain = format!("sha256:chain-{number}");
            let status = self.prepare(reference, blob, &parent, &chain, labels(blob));
            assert_eq!(status.code(), Code::AlreadyExists, "layer {number}: {status}");
            parent = chain;
        }
    }

    /// Mounts the image that was pulled.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn stack(&self) -> PathBuf {
        let mut layers = self.layers();
        layers.reverse();
        let dir = self.scene.mount_point("container");
        mount::mount_overlay_ro(&layers, &dir).expect("the layers can be stacked");
        dir
    }

    /// Where the layers are mounted, the lowest first: snapshots are numbered in the order in which they were asked for.
    pub fn layers(&self) -> Vec<PathBuf> {
        let mut layers = mounts_below(&self.scene.path("root/snapshotter/snapshots"));
        let number = |path: &PathBuf| {
            let id = path.parent().and_then(|snapshot| snapshot.file_name()?.to_str()?.parse::<u64>().ok());
            id.unwrap_or_else(|| panic!("{} is no snapshot", path.display()))
        };
        layers.sort_by_key(number);
        layers
    }

    fn prepare(
        &self,
        reference: &str,
        blob: &Blob,
        parent: &str,
        chain: &str,
        more: Vec<(&'static str, String)>,
    ) -> Status {
        let labels = [
            ("containerd.io/snapshot.ref", chain.to_owned()),
            ("containerd.io/snapshot/remote/stargz.reference", reference.to_owned()),
            ("containerd.io/snapshot/remote/stargz.digest", blob.digest.to_string()),
            (TOC_DIGEST_ANNOTATION, blob.toc_digest.to_string()),
        ];
        let labels: HashMap<_, _> =
            labels.into_iter().chain(more).map(|(label, value)| (label.to_owned(), value)).collect();
        let (key, parent) = (format!("extract {chain}"), parent.to_owned());
        let request = PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
        match self.call::<_, PrepareSnapshotResponse>("Prepare", request) {
            Ok(_) => Status::ok("an ordinary snapshot"),
            Err(status) => status,
        }
    }

    /// Whether a layer of this image is refused, so that containerd pulls it in full.
    pub fn refused(&self, reference: &str, blob: &Blob) -> bool {
        self.prepare(reference, blob, "", "sha256:refused", Vec::new()).code() == Code::Ok
    }

    /// Removes what was pulled, the topmost first, and cleans up after it. Whether that went well.
    pub fn remove_all(&self) -> bool {
        let layers = self.layers().len();
        // What is mounted over them has to go first.
        let container = self.scene.path("container");
        if container.exists() {
            mount::unmount(&container, mount::UnmountMode::Lazy).expect("the overlay can be unmounted");
        }
        let removed = (0..layers).rev().all(|number| {
            let request =
                RemoveSnapshotRequest { key: format!("sha256:chain-{number}"), ..Default::default() };
            self.call::<_, ()>("Remove", request).is_ok()
        });
        removed && self.call::<_, ()>("Cleanup", CleanupRequest::default()).is_ok()
    }

    /// Makes a writable snapshot for a container on what was pulled, with these labels.
    ///
    /// # Errors
    /// The daemon's.
    pub fn container(
        &self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<types::Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        let request = PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
        self.call::<_, PrepareSnapshotResponse>("Prepare", request).map(|answer| answer.mounts)
    }

    /// Asks anew how a snapshot is to be mounted, as when its container is started again.
    ///
    /// # Errors
    /// The daemon's.
    pub fn mounts(&self, key: &str) -> Result<Vec<types::Mount>, Status> {
        let request = MountsRequest { key: key.to_owned(), ..Default::default() };
        self.call::<_, MountsResponse>("Mounts", request).map(|answer| answer.mounts)
    }

    /// Mounts a snapshot as containerd does.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn mount_at(&self, mounts: &[types::Mount], name: &str) -> PathBuf {
        let [mount] = mounts else { panic!("one mount, not {mounts:?}") };
        let dir = self.scene.mount_point(name);
        let mut command = std::process::Command::new("mount");
        command.args(["-t", &mount.r#type, "-o", &mount.options.join(","), &mount.source]).arg(&dir);
        if mount.r#type == "bind" {
            command = std::process::Command::new("mount");
            command.arg("--bind").arg(&mount.source).arg(&dir);
        }
        super::run(&mut command, START_LIMIT).succeeded();
        dir
    }

    /// Makes a view of what was pulled, which asks for its mounts as a container does that starts.
    ///
    /// # Errors
    /// The daemon's.
    pub fn view(&self, key: &str, parent: &str) -> Result<Vec<types::Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = ViewSnapshotRequest { key, parent, ..Default::default() };
        self.call::<_, ViewSnapshotResponse>("View", request).map(|answer| answer.mounts)
    }

    /// Calls a method of the snapshots service.
    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let address = format!("unix://{}", self.scene.path("run/snapshots.sock").display());
        let path = format!("/containerd.services.snapshots.v1.Snapshots/{method}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime.block_on(async {
            let channel = Endpoint::new(address).expect("an address").connect().await;
            let mut client = tonic::client::Grpc::new(channel.expect("the daemon listens"));
            client.ready().await.expect("the channel is open");
            let path = PathAndQuery::try_from(path).expect("a path");
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            client.unary(Request::new(request), path, codec).await.map(tonic::Response::into_inner)
        })
    }
}
