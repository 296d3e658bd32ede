//! A real containerd that uses the service as its snapshotter. Needs root and Debian's packages `containerd`, `runc`
//! and `busybox-static`; skipped, and said so, where they are missing.

mod image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::common::{
    Labels, Life, Play, REMOTE, Root, SnapshotsClient, TARGET, labels, mountpoints, refused,
};
use image::{Image, Layer};
use snapshotter::proto::snapshots::{
    Info, PrepareSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::{Code, Request, transport::Channel};

/// How long anything may take that a program outside this test does.
const PATIENCE: Duration = Duration::from_secs(60);

const BUSYBOX: &str = "/bin/busybox";
/// Label that keeps containerd from collecting a snapshot.
const ROOT: &str = "containerd.io/gc.root";

const NAME: &str = "example.com/hello:1";

/// A containerd with a root, a state and a socket of its own.
struct Containerd {
    dir: TempDir,
    process: Child,
}

impl Containerd {
    async fn start(snapshotter: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            r#"
            version = 2
            root = "{}"
            state = "{}"
            disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
            [grpc]
              address = "{}"
            [proxy_plugins.stargz]
              type = "snapshot"
              address = "{}"
            "#,
            at("root"),
            at("state"),
            at("socket"),
            snapshotter.display()
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
        let this = Self { dir, process };
        this.until_it_works(&["version"]).await;
        this
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn ctr(&self, args: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(args).stdin(Stdio::null()).kill_on_drop(true);
        timeout(PATIENCE, command.output()).await.expect("ctr hangs").unwrap()
    }

    /// Output of a command that must succeed.
    async fn expect(&self, args: &[&str]) -> String {
        let output = self.ctr(args).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap();
        assert!(output.status.success(), "ctr {args:?}: {stderr}\n{}", log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Repeats a command until it succeeds: containerd takes its time to start, and to connect again to a
    /// snapshotter that was away.
    async fn until_it_works(&self, args: &[&str]) -> String {
        let attempts = async {
            loop {
                let output = self.ctr(args).await;
                if output.status.success() {
                    return String::from_utf8(output.stdout).unwrap();
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, attempts).await.unwrap_or_else(|_| panic!("ctr {args:?} never works"))
    }

    async fn run(&self, container: &str, script: &str) -> String {
        self.expect(&run_args(container, script)).await
    }

    async fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.process.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        timeout(PATIENCE, self.process.wait()).await.expect("containerd does not end").unwrap();
    }
}

/// The name must be used by this test only: runc keeps its containers in one place, whatever the containerd.
fn run_args<'a>(container: &'a str, script: &'a str) -> [&'a str; 10] {
    ["run", "--rm", "--net-host", "--snapshotter", "stargz", NAME, container, "/bin/sh", "-c", script]
}

/// What keeps this test from running here.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    let found = |program: &str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists())
    };
    if let Some(program) =
        ["containerd", "containerd-shim-runc-v2", "ctr", "runc"].iter().find(|program| !found(program))
    {
        return Some((*program).to_owned());
    }
    // The name of the interpreter stands near the beginning of a program that needs one.
    let dynamic = |program: &[u8]| program[..4096].windows(8).any(|bytes| bytes == b"ld-linux");
    match fs::read(BUSYBOX) {
        Ok(program) if !dynamic(&program) => None,
        _ => Some("a static busybox".to_owned()),
    }
}

/// An image of two layers: a shell, and a file on top that also changes one of the lower layer's.
fn hello() -> Image {
    let shell = Layer::new()
        .file("bin/busybox", 0o755, &fs::read(BUSYBOX).unwrap())
        .link("bin/sh", "busybox")
        .link("bin/cat", "busybox")
        .link("bin/id", "busybox")
        .file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n")
        .file("both", 0o644, b"lower\n");
    let hello = Layer::new().file("hello", 0o644, b"hello from above\n").file("both", 0o644, b"upper\n");
    Image::new(NAME, vec![shell, hello])
}

fn in_default_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}

/// Asks containerd, not the service, for a snapshot, as its unpacker does.
async fn prepare_layer(
    client: &SnapshotsClient<Channel>,
    key: &str,
    parent: &str,
    target: &str,
) -> tonic::Status {
    let request = PrepareSnapshotRequest {
        snapshotter: "stargz".to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        // Without an image nothing else keeps containerd from collecting it.
        labels: labels(&[(TARGET, target), (ROOT, "test")]),
    };
    client.clone().prepare(in_default_namespace(request)).await.expect_err("refusal expected")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_image_runs() {
    if let Some(missing) = missing() {
        eprintln!("SKIPPED: needs {missing}");
        return;
    }
    let (root, play) = (Root::new(), Arc::new(Play::default()));
    let image = hello();
    for chain in image.chain_ids() {
        play.fail_mounts_of(&chain, true);
    }
    let life = Life::begin(&root, &play).await;
    let containerd = Containerd::start(&root.path().with_file_name("socket")).await;
    let archive = containerd.dir.path().join("image.tar");
    image.write(&archive);
    containerd.expect(&["image", "import", "--snapshotter", "stargz", archive.to_str().unwrap()]).await;
    assert_eq!(life.names(&["kind==committed"]).await.len(), 2);

    let output = containerd
        .run("snapshotter-ordinary-1", "cat /hello /both; echo new > /both; cat /both; id -u")
        .await;
    assert_eq!(output, "hello from above\nupper\nnew\n0\n");
    // What a container writes is its own.
    assert_eq!(containerd.run("snapshotter-ordinary-2", "cat /both").await, "upper\n");

    containerd.expect(&["image", "rm", "--sync", NAME]).await;
    assert_eq!(life.names(&[]).await, [""; 0]);
    assert_eq!(root.dirs(), [""; 0], "the collection ends with a cleanup");
    containerd.stop().await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazily_mounted_layer_runs_and_survives_a_restart() {
    if let Some(missing) = missing() {
        eprintln!("SKIPPED: needs {missing}");
        return;
    }
    let image = hello();
    let [lower, upper] = image.chain_ids().try_into().unwrap();
    let (root, content) = (Root::new(), tempfile::tempdir().unwrap());
    image.layers()[0].unpack(content.path());
    let play = Arc::new(Play::real(content.path()));
    play.fail_mounts_of(&upper, true);
    let life = Life::begin(&root, &play).await;
    let containerd = Containerd::start(&root.path().with_file_name("socket")).await;
    let client = SnapshotsClient::connect(format!("unix://{}", containerd.socket().display())).await.unwrap();

    // containerd takes the answer for the layer itself, having found it by label and parent.
    let refusal = prepare_layer(&client, "extract-1", "", &lower).await;
    refused::<()>(Err(refusal), Code::AlreadyExists, "already exists");
    let request = StatSnapshotRequest { snapshotter: "stargz".to_owned(), key: lower.clone() };
    let info = client.clone().stat(in_default_namespace(request)).await.unwrap().into_inner().info.unwrap();
    assert_eq!(info.labels.get(REMOTE).map(String::as_str), Some("remote snapshot"));

    let archive = containerd.dir.path().join("image.tar");
    image.write(&archive);
    containerd.expect(&["image", "import", "--snapshotter", "stargz", archive.to_str().unwrap()]).await;
    assert_eq!(mountpoints(&root.snapshots()), [root.fs(1)]);
    assert!(fs::read_dir(content.path()).unwrap().count() > 1, "the layer was not unpacked over");
    let script = "cat /hello /both; cat /etc/passwd";
    let expected = "hello from above\nupper\nroot:x:0:0::/:/bin/sh\n";
    assert_eq!(containerd.run("snapshotter-lazy-1", script).await, expected);

    life.snapshotter.close().await.unwrap();
    assert_eq!(mountpoints(&root.snapshots()), [""; 0].map(Path::new));
    life.end().await;
    let life = Life::begin(&root, &play).await;
    life.snapshotter.restore().await.unwrap();
    assert_eq!(containerd.until_it_works(&run_args("snapshotter-lazy-2", script)).await, expected);

    // Nothing on disk, and nothing mounted, outlives what containerd forgets.
    containerd.expect(&["image", "rm", "--sync", NAME]).await;
    assert_eq!(life.names(&[]).await, [lower.as_str()]);
    let request = UpdateSnapshotRequest {
        snapshotter: "stargz".to_owned(),
        info: Some(Info { name: lower, ..Info::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec![format!("labels.{ROOT}")] }),
    };
    client.clone().update(in_default_namespace(request)).await.unwrap();
    // Deleting a lease is what makes a collection run, and wait for it.
    containerd.expect(&["leases", "create", "--id", "last"]).await;
    containerd.expect(&["leases", "delete", "--sync", "last"]).await;
    assert_eq!((life.names(&[]).await, root.dirs()), (vec![], vec![]));
    assert_eq!(mountpoints(&root.snapshots()), [""; 0].map(Path::new));
    life.prepare("after", "", Labels::new()).await.unwrap();
    containerd.stop().await;
    life.end().await;
}
