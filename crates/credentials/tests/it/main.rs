//! The keychains against what they talk to: programs, an API server, a container runtime.

mod api_server;
mod backend;
mod containerd;
mod cri;
mod grpc;
mod kubelet;
mod kubernetes;
mod logs;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use registry::{Credential, Keychain, Reference};

/// The secret of all tests, which must be seen nowhere.
const SECRET: &str = "hunter2-hunter2";
/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(30);

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// The users of the candidates for an image at its own host.
async fn users(keychain: &dyn Keychain, image: &str) -> Vec<String> {
    let reference = reference(image);
    let found = keychain.credentials(reference.host(), &reference).await.unwrap();
    found.into_iter().map(user).collect()
}

fn user(credential: Credential) -> String {
    match credential {
        Credential::Password { user, secret } => {
            assert_eq!(secret.expose(), SECRET);
            user
        }
        other => panic!("{other:?}"),
    }
}

/// Writes a program. Another process does it: a file that this one has open for writing may be held by a child that
/// another test is just starting, and then cannot be run.
fn write_script(path: &Path, text: &str) {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", r#"cat > "$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// Waits until an image has these candidates.
#[track_caller]
fn until_users<'a>(
    keychain: &'a dyn Keychain,
    image: &'a str,
    want: &'a [&'a str],
) -> impl Future<Output = ()> + use<'a> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            let reference = reference(image);
            let found = keychain.credentials(reference.host(), &reference).await;
            let found = found.map(|found| found.into_iter().map(user).collect::<Vec<_>>());
            if found.as_ref().is_ok_and(|found| found == want) {
                return;
            }
            assert!(started.elapsed() < LONG, "{caller}: {found:?}, not {want:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
