//! The proxy before a real container runtime, with a private image in a real registry (Debian: containerd,
//! docker-registry, apache2-utils; needs root).

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use credentials::{CriKeychain, CriOptions, CriProxy};
use prost::Message as _;
use registry::{Credential, Keychain as _};
use tokio::net::UnixListener;
use tonic::Code;

use crate::grpc::{
    self, AuthConfig, ImageStatusResponse, ListImagesResponse, PullImageResponse, auth, image_service, named,
    pull,
};
use crate::{LONG, SECRET, logs, reference, until_users};

/// A process that ends with the test, however that ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Running {
        let log = std::fs::File::create(log).unwrap();
        let command =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Running(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn can_run() -> bool {
    let missing: Vec<_> = ["containerd", "docker-registry", "htpasswd"]
        .into_iter()
        .filter(|program| {
            let mut command = Command::new(program);
            command.arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
        })
        .collect();
    let is_root = rustix::process::geteuid().is_root();
    if !missing.is_empty() || !is_root {
        eprintln!("skipped: {missing:?} not installed, root: {is_root}");
    }
    missing.is_empty() && is_root
}

fn hex_digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the image `a/b:1` the way the registry stores it: no push client is needed.
fn write_image(root: &Path) {
    let base = root.join("docker/registry/v2");
    let write = |path: String, file: &str, bytes: &[u8]| {
        let dir = base.join(path);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(file), bytes).unwrap();
    };
    let blob = |bytes: &[u8]| {
        let hex = hex_digest(bytes);
        write(format!("blobs/sha256/{}/{hex}", &hex[..2]), "data", bytes);
        write(format!("repositories/a/b/_layers/sha256/{hex}"), "link", format!("sha256:{hex}").as_bytes());
        hex
    };
    // An empty archive.
    let layer = [0; 1024];
    let layer_hex = blob(&layer);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_hex}")]},
    });
    let config = config.to_string();
    let config_hex = blob(config.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_hex}"), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{layer_hex}"), "size": layer.len(),
        }],
    });
    let manifest_hex = blob(manifest.to_string().as_bytes());
    let link = format!("sha256:{manifest_hex}");
    let manifests = "repositories/a/b/_manifests";
    write(format!("{manifests}/revisions/sha256/{manifest_hex}"), "link", link.as_bytes());
    write(format!("{manifests}/tags/1/current"), "link", link.as_bytes());
    write(format!("{manifests}/tags/1/index/sha256/{manifest_hex}"), "link", link.as_bytes());
}

fn start_registry(dir: &Path) -> (Running, String) {
    let storage = dir.join("storage");
    write_image(&storage);
    let made = Command::new("htpasswd").args(["-Bbn", "me", SECRET]).output().unwrap();
    std::fs::write(dir.join("htpasswd"), made.stdout).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: '127.0.0.1:{port}', secret: x}}\nauth: {{htpasswd: {{realm: r, path: {}}}}}\n",
        storage.display(),
        dir.join("htpasswd").display()
    );
    std::fs::write(dir.join("registry.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    let running =
        Running::start(command.arg("serve").arg(dir.join("registry.yml")), &dir.join("registry.log"));
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < LONG);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (running, format!("127.0.0.1:{port}"))
}

fn start_containerd(dir: &Path) -> Running {
    let path = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\ndisable_tcp_service = true\nrestrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
        root = path("root"),
        state = path("state"),
        socket = path("runtime"),
        ttrpc = path("ttrpc"),
        opt = path("opt"),
    );
    std::fs::write(dir.join("containerd.toml"), config).unwrap();
    let mut command = Command::new("containerd");
    let command = command.arg("--config").arg(dir.join("containerd.toml"));
    Running::start(command.env_remove("NOTIFY_SOCKET"), &dir.join("containerd.log"))
}

#[tokio::test]
async fn a_private_image_through_the_proxy() {
    logs::record();
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_registry, host) = start_registry(dir.path());
    let keychain = Arc::new(CriKeychain::open(CriOptions::default()).await);
    let proxy = CriProxy::new(dir.path().join("runtime"), Arc::clone(&keychain));
    let socket = dir.path().join("proxy");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(proxy.serve(listener, std::future::pending()));
    let client = grpc::client(&socket);
    let _containerd = start_containerd(dir.path());
    let empty = grpc::until_answered(&client, "ListImages").await;
    assert!(ListImagesResponse::decode(&*empty).unwrap().images.is_empty());

    let image = format!("{host}/a/b:1");
    let status = |image: String| {
        let client = client.clone();
        async move {
            let answer = image_service(&client, "ImageStatus", &named(&image)).await.unwrap();
            ImageStatusResponse::decode(&*answer).unwrap().image
        }
    };
    assert!(status(image.clone()).await.is_none());
    let wrong = AuthConfig { password: "wrong".into(), ..auth("me") };
    image_service(&client, "PullImage", &pull(&image, Some(wrong))).await.unwrap_err();
    let found = keychain_candidates(&keychain, &image).await;
    assert_eq!(found, ["wrong"]);

    let answer = image_service(&client, "PullImage", &pull(&image, Some(auth("me")))).await.unwrap();
    let id = PullImageResponse::decode(&*answer).unwrap().image_ref;
    assert_eq!(keychain_candidates(&keychain, &image).await, [SECRET, "wrong"]);
    let pulled = status(image.clone()).await.unwrap();
    assert_eq!(pulled.repo_tags, std::slice::from_ref(&image));
    let list = image_service(&client, "ListImages", b"").await.unwrap();
    assert_eq!(ListImagesResponse::decode(&*list).unwrap().images, std::slice::from_ref(&pulled));
    image_service(&client, "ImageFsInfo", b"").await.unwrap();
    let (older, _) = grpc::call(&client, "/runtime.v1alpha2.ImageService/ListImages", b"").await.unwrap();
    assert_eq!(older, [list]);
    let unknown = image_service(&client, "NoSuchMethod", b"").await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);

    assert_eq!(id, pulled.id);
    image_service(&client, "RemoveImage", &named(&id)).await.unwrap();
    until_users(&*keychain, &image, &[]).await;
    assert!(status(image).await.is_none());
    logs::assert_clean();
    serving.abort();
}

/// The passwords that are known for an image.
async fn keychain_candidates(keychain: &CriKeychain, image: &str) -> Vec<String> {
    let reference = reference(image);
    let found = keychain.credentials(reference.host(), &reference).await.unwrap();
    found
        .into_iter()
        .map(|credential| match credential {
            Credential::Password { secret, .. } => secret.expose().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect()
}
