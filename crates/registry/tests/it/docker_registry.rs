//! Against the distribution project's own registry, where it is installed (Debian: docker-registry,
//! apache2-utils, openssl).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use registry::{Client, DockerConfig, HostOptions, Keychain, Kind, Mirror, Options, Platform, Reference};
use tempfile::TempDir;

use crate::{content, fast, read, read_many};

/// Kills the registry when the test ends, however it ends.
pub struct Registry {
    child: Child,
    pub port: u16,
    pub dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| {
            Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
        })
        .collect();
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?} not installed");
    }
    missing.is_empty()
}

pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Writes an image with one layer the way the registry stores it: no push client is needed.
fn fill(root: &Path, layer: &[u8]) -> String {
    let base = root.join("docker/registry/v2");
    let blob = |bytes: &[u8]| {
        let hex = format::Digest::of(bytes).hex();
        let dir = base.join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("data"), bytes).unwrap();
        hex
    };
    let link = |path: String, hex: &str| {
        let dir = base.join("repositories/a/b").join(path);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("link"), format!("sha256:{hex}")).unwrap();
    };
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let (config_hex, layer_hex) = (blob(config), blob(layer));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config_hex}","size":{}}},
"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{layer_hex}","size":{}}}]}}"#,
        config.len(),
        layer.len()
    );
    let manifest_hex = blob(manifest.as_bytes());
    link(format!("_layers/sha256/{config_hex}"), &config_hex);
    link(format!("_layers/sha256/{layer_hex}"), &layer_hex);
    link(format!("_manifests/revisions/sha256/{manifest_hex}"), &manifest_hex);
    link("_manifests/tags/1/current".into(), &manifest_hex);
    link(format!("_manifests/tags/1/index/sha256/{manifest_hex}"), &manifest_hex);
    manifest_hex
}

impl Registry {
    /// Starts one over `dir`; `extra_http` and `extra` are added to its configuration.
    pub async fn start(dir: TempDir, extra_http: &str, extra: &str) -> Registry {
        fill(&dir.path().join("data"), &content(300_000));
        // The registry cannot tell which port it got, so one is found for it.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: 0.0.0.0:{port}\n{extra_http}{extra}",
            data.display()
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Registry { child, port, dir };
            }
            assert!(
                child.try_wait().unwrap().is_none(),
                "{}",
                std::fs::read_to_string(dir.path().join("log")).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the registry does not come up");
    }

    pub fn reference(&self, host: &str) -> Reference {
        Reference::parse(&format!("{host}:{}/a/b:1", self.port)).unwrap()
    }
}

pub async fn check(client: &Client, reference: &Reference) {
    let image = client.image(reference, &Platform::host()).await.unwrap();
    assert!(image.config_bytes.starts_with(b"{\"architecture\""));
    let layer = &image.layers[0];
    assert_eq!(layer.size, 300_000);
    let blob = client.blob(reference, &layer.digest);
    let tail = blob.tail(51).await.unwrap();
    assert_eq!((tail.blob_size, &tail.bytes[..]), (300_000, &content(300_000)[299_949..]));
    assert_eq!(read(&blob, 1000..2000).await.unwrap(), content(300_000)[1000..2000]);
    assert_eq!(read(&blob, 0..300_000).await.unwrap(), content(300_000));
    let runs = read_many(&blob, &[0..10, 100..1000, 299_990..300_100]).await.unwrap().unwrap();
    let expected = [0..10, 100..1000, 299_990..300_000];
    assert!(runs.iter().map(|(start, run)| *start..*start + run.len() as u64).eq(expected.clone()));
    assert!(
        runs.iter()
            .zip(expected)
            .all(|((_, run), at)| *run == content(300_000)[at.start as usize..at.end as usize])
    );
    blob.check().await.unwrap();
    assert_eq!(blob.read(300_000..300_001).await.unwrap_err().kind(), Kind::RangeNotSatisfiable);
    let by_digest = reference.with_digest(image.manifest.digest);
    assert_eq!(client.manifest(&by_digest).await.unwrap().0.digest, image.manifest.digest);
    let missing = client.blob(reference, &format::Digest::of(b"missing"));
    assert_eq!(missing.tail(10).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn anonymous() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "").await;
    let client = Client::new(fast(), Vec::new()).unwrap();
    check(&client, &registry.reference("localhost")).await;
    let absent = Reference::parse(&format!("localhost:{}/no/such:1", registry.port)).unwrap();
    let error = client.manifest(&absent).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[tokio::test]
async fn the_first_of_two_mirrors_is_down() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "").await;
    // Nothing listens there once this is dropped.
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirror = |host: String| Mirror { host, ..Mirror::default() };
    let mirrors = vec![mirror(down.to_string()), mirror(format!("127.0.0.1:{}", registry.port))];
    let hosts = [("registry.test".to_owned(), HostOptions { mirrors })].into();
    let client = Client::new(Options { hosts, ..fast() }, Vec::new()).unwrap();
    let reference = Reference::parse("registry.test/a/b:1").unwrap();
    let image = client.image(&reference, &Platform::host()).await.unwrap();
    let blob = client.blob(&reference, &image.layers[0].digest);
    assert_eq!(read(&blob, 0..300_000).await.unwrap(), content(300_000));
}

#[tokio::test]
async fn password_file() {
    if !installed(&["docker-registry", "htpasswd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("htpasswd");
    std::fs::write(&passwords, run("htpasswd", &["-Bbn", "user", "pass:word"])).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
    let registry = Registry::start(dir, "", &auth).await;
    let reference = registry.reference("127.0.0.1");

    let nobody = Client::new(fast(), Vec::new()).unwrap();
    let error = nobody.manifest(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");

    let login = |secret: &str| {
        let path = registry.dir.path().join("config.json");
        let text =
            format!(r#"{{"auths":{{"{}":{{"username":"user","password":"{secret}"}}}}}}"#, reference.host());
        std::fs::write(&path, text).unwrap();
        path
    };
    let keychain: Arc<dyn Keychain> = Arc::new(DockerConfig::new(login("wrong")));
    let client = Client::new(fast(), vec![keychain]).unwrap();
    let error = client.manifest(&reference).await.unwrap_err();
    assert!(
        error.kind() == Kind::Unauthorized && error.to_string().contains("with the credentials for"),
        "{error}"
    );
    login("pass:word");
    check(&client, &reference).await;
}
