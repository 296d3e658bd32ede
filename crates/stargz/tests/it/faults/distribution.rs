//! The distribution project's registry behind a bad line, where it is installed (Debian: docker-registry).

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use format::Digest;
use testkit::registry::{Fault, Rule};
use testkit::wan::{ConnectionFault, ConnectionRule, Link, Outage, Proxy};

use super::stage::{READER_LIMIT, offset_of, side_by_side};
use crate::harness::images::Model;
use crate::harness::{Running, Scene};

const PROGRAM: &str = "docker-registry";
/// It writes its log and listens.
const START_LIMIT: Duration = Duration::from_secs(10);
const FOR_EVER: Duration = Duration::from_secs(600);

const PATIENT: &str = "
[resolver]
request_timeout_sec = 1
[blob]
fetching_timeout_sec = 20
max_retries = 50
min_wait_msec = 10
max_wait_msec = 1500
";

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    begin: fn(&Proxy),
}

fn blobs(line: &Proxy, times: u64, fault: Fault) {
    line.fault(Rule::new("/blobs/", fault).times(times));
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "nothing", begin: |_| {} },
    Case { name: "resets", begin: |line| blobs(line, 4, Fault::ResetAfter(20_000)) },
    Case { name: "truncated bodies", begin: |line| blobs(line, 4, Fault::ShortBody(30_001)) },
    Case { name: "silence", begin: |line| {
        blobs(line, 1, Fault::StallHeaders(FOR_EVER));
        blobs(line, 2, Fault::StallBody { after: 20_000, pause: FOR_EVER });
    } },
    Case { name: "429 and 503", begin: |line| {
        blobs(line, 1, Fault::RetryAfter { status: 429, seconds: 1 });
        line.fault(Rule::new("/blobs/", Fault::Status(503)).skip(1).times(3));
    } },
    Case { name: "a wrong byte", begin: |line| {
        let first = offset_of(0, "bin/same-tool") + 1000;
        line.fault(Rule::new(Model::usual().blobs[0].digest.to_string(), Fault::CorruptByte(first)).times(1));
    } },
    Case { name: "200 instead of 206", begin: |line| blobs(line, u64::MAX, Fault::IgnoreRange) },
    Case { name: "new connections that end", begin: |line| {
        line.connection_fault(ConnectionRule::new(ConnectionFault::ResetAfter(100_000)).every(2));
        line.outage(Outage::Refused, Duration::from_millis(100));
    } },
    Case { name: "connections refused for 2 s", begin: |line| line.outage(Outage::Refused, Duration::from_secs(2)) },
    Case { name: "a black hole for 2 s", begin: |line| line.outage(Outage::BlackHole, Duration::from_secs(2)) },
];

#[test]
fn a_registry_of_the_world_behind_a_bad_line() {
    if Command::new(PROGRAM).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("skipped: {PROGRAM} is not installed");
        return;
    }
    side_by_side(CASES, |case| case.name, play);
}

fn play(case: &Case, scene: &Scene) {
    scene.write("config.toml", PATIENT);
    let model = Model::usual();
    store(&scene.path("store"), model);
    let (_process, addr) = start(scene);
    let line = Proxy::start(addr, Link { rtt: Duration::from_millis(2), ..Link::default() });
    let dir = scene.mount(&format!("{}/app:1", line.addr()));
    let server = scene.server_of(&dir);
    (case.begin)(&line);
    let verdict = scene.read_all(&dir, model, READER_LIMIT);
    assert!(
        verdict.wrong.is_empty() && verdict.unreadable.is_empty(),
        "{verdict:#?}\n{}",
        scene.log_of(&dir)
    );
    assert_eq!(scene.server_of(&dir), server, "another process");
    eprintln!("{}: {:.1?}, {} requests", case.name, verdict.took, line.stats().requests);
}

/// Starts the registry over what [`store`] wrote.
fn start(scene: &Scene) -> (Running, SocketAddr) {
    // It cannot tell which port it got, so one is found for it.
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{addr}\"}}\n",
        scene.path("store").display()
    );
    let config = scene.write("registry.yml", &config);
    let process = Running::start(Command::new(PROGRAM).arg("serve").arg(config));
    process.wait_for("listening on", START_LIMIT);
    (process, addr)
}

/// Writes the image as `app:1`, the way that the registry keeps it on disk: nothing has to be pushed.
fn store(root: &Path, model: &Model) {
    let base = root.join("docker/registry/v2");
    let write = |path: String, bytes: &[u8]| {
        let path = base.join(path);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("directories can be made");
        fs::write(path, bytes).expect("files can be written");
    };
    let blob = |digest: &Digest, bytes: &[u8]| {
        let hex = digest.hex();
        write(format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes);
    };
    let link = |path: &str, digest: &Digest| {
        write(format!("repositories/app/{path}/link"), digest.to_string().as_bytes());
    };
    let in_repository = |digest: &Digest, bytes: &[u8]| {
        blob(digest, bytes);
        link(&format!("_layers/sha256/{}", digest.hex()), digest);
    };
    for layer in &model.blobs {
        in_repository(&layer.digest, &layer.bytes);
    }
    let (config, manifest) = (&model.image.config, &model.image.manifest);
    in_repository(&config.digest, &config.bytes);
    blob(&manifest.digest, &manifest.bytes);
    let hex = manifest.digest.hex();
    for path in
        [format!("revisions/sha256/{hex}"), "tags/1/current".into(), format!("tags/1/index/sha256/{hex}")]
    {
        link(&format!("_manifests/{path}"), &manifest.digest);
    }
}
