//! The daemon with a layer in it: what becomes of the layer when the daemon stops, dies and comes back.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use snapshotter::proto::snapshots::{PrepareSnapshotRequest, PrepareSnapshotResponse};
use testkit::registry::{Fault, Rule};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use super::{SOON, serving};
use crate::harness::images::Model;
use crate::harness::{Scene, mounts_below, scene, wait_until};

/// Nobody keeps the session.
const ALONE: &str = "[fuse_manager]\nenable = false\n";

/// Asks for a snapshot as containerd does for the lowest layer of an image.
pub(super) fn prepare(scene: &Scene, reference: &str) -> Status {
    prepare_on(scene, reference, "", "sha256:the-chain")
}

/// Asks for a snapshot of that layer on a parent.
fn prepare_on(scene: &Scene, reference: &str, parent: &str, chain: &str) -> Status {
    let digest = Model::usual().blobs[0].digest.to_string();
    let toc = Model::usual().blobs[0].toc_digest.to_string();
    let labels = [
        ("containerd.io/snapshot.ref", chain),
        ("containerd.io/snapshot/remote/stargz.reference", reference),
        ("containerd.io/snapshot/remote/stargz.digest", &digest),
        (testkit::estargz::TOC_DIGEST_ANNOTATION, &toc),
    ];
    let labels: HashMap<_, _> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let (key, parent) = (format!("extract {chain}"), parent.to_owned());
    let request = PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
    let address = format!("unix://{}", scene.path("run/snapshots.sock").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel =
            Endpoint::new(address).expect("an address").connect().await.expect("the daemon listens");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("the channel is open");
        let path = PathAndQuery::from_static("/containerd.services.snapshots.v1.Snapshots/Prepare");
        let codec = tonic_prost::ProstCodec::<PrepareSnapshotRequest, PrepareSnapshotResponse>::default();
        match client.unary(Request::new(request), path, codec).await {
            Ok(_) => Status::ok("an ordinary snapshot"),
            Err(status) => status,
        }
    })
}

/// Where the layer is mounted.
pub(super) fn layer_at(scene: &Scene) -> PathBuf {
    let snapshots = scene.path("root/snapshotter/snapshots");
    let mounted = mounts_below(&snapshots);
    assert_eq!(mounted.len(), 1, "{mounted:?}");
    mounted[0].clone()
}

#[track_caller]
pub(super) fn reads(layer: &Path, path: &str) {
    let right = base_file(path);
    assert!(fs::read(layer.join(path)).unwrap() == right, "{path}");
}

/// Reads that have failed a moment ago are tried anew a moment later.
#[track_caller]
fn reads_again(layer: &Path, path: &str) {
    std::thread::sleep(std::time::Duration::from_millis(300));
    reads(layer, path);
}

fn base_file(path: &str) -> Vec<u8> {
    let model = Model::usual().merged.get(path.as_bytes()).and_then(|entry| entry.content());
    model.expect("a file that no upper layer changes").to_vec()
}

#[test]
fn sigterm_keeps_the_layer_and_the_next_start_completes_it() {
    scene(40, |scene| {
        scene.write(
            "config.toml",
            &format!("noprefetch = true\nno_background_fetch = true\n{ALONE}{}", crate::harness::HASTY),
        );
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let first = serving(scene);
        let status = prepare(scene, &reference);
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
        let layer = layer_at(scene);
        reads(&layer, "etc/passwd");

        first.signal(Signal::TERM);
        assert_eq!(first.end(SOON).code, Some(0));
        let stays = mounts_below(&scene.path("root"));
        assert_eq!(stays, std::slice::from_ref(&layer), "the layer stays and nothing else");
        reads(&layer, "etc/passwd");
        let started = Instant::now();
        assert!(fs::read(layer.join("srv/large")).is_err(), "nobody can fetch it now");
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());

        // The next one needs no registry to show it, and asks for what is missing only.
        scene.registry.fault(Rule::new("/", Fault::Status(503)));
        let second = serving(scene);
        let layer = layer_at(scene);
        reads(&layer, "etc/passwd");
        assert!(fs::read(layer.join("srv/large")).is_err());
        scene.registry.clear_faults();
        reads_again(&layer, "srv/large");

        second.signal(Signal::INT);
        assert_eq!(second.end(SOON).code, Some(0));
        assert_eq!(mounts_below(&scene.path("root")), Vec::<PathBuf>::new());
        assert!(!scene.path("run/snapshots.sock").exists());

        let _third = serving(scene);
        reads(&layer_at(scene), "srv/large");
    });
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_a_read_leaves_an_error_and_comes_back() {
    scene(40, |scene| {
        scene.write(
            "config.toml",
            &format!("noprefetch = true\nno_background_fetch = true\n{ALONE}{}", crate::harness::HASTY),
        );
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let first = serving(scene);
        assert_eq!(prepare(scene, &reference).code(), Code::AlreadyExists);
        let layer = layer_at(scene);
        scene.registry.fault(Rule::new("/blobs/", Fault::StallHeaders(Duration::from_secs(60))));
        let waiting = std::thread::spawn(move || fs::read(layer.join("bin/tool")).is_err());
        std::thread::sleep(Duration::from_millis(200));
        drop(first);
        assert!(wait_until(SOON, || waiting.is_finished()), "a reader hangs");
        assert!(waiting.join().unwrap(), "it had nothing to read");

        scene.registry.clear_faults();
        let _second = serving(scene);
        reads(&layer_at(scene), "bin/tool");
    });
}

/// A layer that cannot be shown lazily is left to containerd, with the reason in the log; the daemon goes on.
#[test]
fn a_layer_that_cannot_be_had_is_an_ordinary_snapshot() {
    scene(40, |scene| {
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = serving(scene);
        scene.registry.fault(Rule::new("/blobs/", Fault::Status(403)));
        let status = prepare(scene, &reference);
        assert_eq!(status.code(), Code::Ok, "{status}");
        daemon.wait_for("403", SOON);
        assert!(daemon.stderr().contains(&Model::usual().blobs[0].digest.to_string()), "{}", daemon.stderr());
        assert_eq!(mounts_below(&scene.path("root/snapshotter")), Vec::<PathBuf>::new());
        daemon.signal(Signal::INT);
        assert_eq!(daemon.end(SOON).code, Some(0));
    });
}

/// Overlayfs refuses a directory that is there twice, so the same layer must not be the same directory.
#[test]
fn an_image_with_the_same_layer_twice_can_be_stacked() {
    scene(40, |scene| {
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = serving(scene);
        assert_eq!(prepare_on(scene, &reference, "", "sha256:one").code(), Code::AlreadyExists);
        assert_eq!(prepare_on(scene, &reference, "sha256:one", "sha256:two").code(), Code::AlreadyExists);
        let mut layers = mounts_below(&scene.path("root/snapshotter/snapshots"));
        assert_eq!(layers.len(), 2, "{layers:?}");
        layers.reverse();
        let dir = scene.mount_point("mnt");
        mount::mount_overlay_ro(&layers, &dir).unwrap();
        reads(&dir, "bin/tool");
        mount::unmount(&dir, mount::UnmountMode::Normal).unwrap();
        daemon.signal(Signal::INT);
        assert_eq!(daemon.end(SOON).code, Some(0));
        assert_eq!(mounts_below(&scene.path("root")), Vec::<PathBuf>::new());
    });
}
