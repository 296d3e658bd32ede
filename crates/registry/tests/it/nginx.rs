//! A registry that redirects to a real nginx, whose signed addresses expire.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::docker_registry::installed;
use crate::server::{Reply, Server};
use crate::{blob_on, content, read, read_many};

const SIZE: usize = 300_000;
/// What an address lives, in seconds.
const LIFE: u64 = 2;

struct Nginx {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its main process ends its workers when asked to, not when killed.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// Serves `store/` below its directory to those who have a signature.
    async fn start() -> Nginx {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        std::fs::write(dir.path().join("store/blob"), content(SIZE)).unwrap();
        // Workers run as somebody else if this test runs as root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let root = dir.path().display();
        let config = format!(
            "daemon off; master_process on; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
            events {{ worker_connections 64; }}
            http {{
              access_log {root}/access.log;
              client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
              uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
              server {{
                listen 127.0.0.1:{port};
                location /store/ {{
                  root {root};
                  secure_link $arg_md5,$arg_expires;
                  secure_link_md5 \"$secure_link_expires$uri topsecret\";
                  if ($secure_link = \"\") {{ return 403; }}
                  if ($secure_link = \"0\") {{ return 410; }}
                }}
              }}
            }}"
        );
        let path = dir.path().join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("nginx").arg("-c").arg(&path).stderr(Stdio::null()).spawn().unwrap();
        let mut nginx = Nginx { child, port, dir };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return nginx;
            }
            let ended = nginx.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", nginx.log("error.log"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nginx does not come up: {}", nginx.log("error.log"));
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// An address of the blob that is good for a short time.
fn sign(port: u16, dir: &Path) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let expires = now + LIFE;
    let text = dir.join(format!("text{expires}"));
    std::fs::write(&text, format!("{expires}/store/blob topsecret")).unwrap();
    let hash = Command::new("openssl").args(["md5", "-binary"]).arg(text).output().unwrap().stdout;
    format!("http://localhost:{port}/store/blob?md5={}&expires={expires}", URL_SAFE_NO_PAD.encode(hash))
}

#[tokio::test]
async fn addresses_are_used_until_they_expire_and_then_renewed() {
    if !installed(&["nginx", "openssl"]) {
        return;
    }
    let nginx = Nginx::start().await;
    let (port, dir) = (nginx.port, nginx.dir.path().to_owned());
    let registry = Server::start(move |_| Reply::redirect(307, sign(port, &dir))).await;
    let blob = blob_on(&registry);
    let mut reads = 0;
    // Times are whole seconds, so that an address lives up to one second longer: two end within this for sure.
    for _ in 0..18 {
        assert_eq!(read(&blob, 1000..2000).await.unwrap(), content(SIZE)[1000..2000]);
        let ranges = [0..10, 5000..6000, SIZE as u64 - 7..SIZE as u64];
        let runs = read_many(&blob, &ranges).await.unwrap().expect("nginx serves several ranges");
        for ((start, run), range) in runs.iter().zip(&ranges) {
            assert_eq!((*start, run.len() as u64), (range.start, range.end - range.start));
            assert_eq!(run[..], content(SIZE)[range.start as usize..range.end as usize]);
        }
        reads += 2;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let log = nginx.log("access.log");
    let (served, expired) = (log.matches("\" 206 ").count(), log.matches("\" 410 ").count());
    assert_eq!(served, reads, "one request for each read: {log}");
    assert!((2..7).contains(&expired) && registry.count() == expired + 1, "{expired}, {}", registry.count());
}
