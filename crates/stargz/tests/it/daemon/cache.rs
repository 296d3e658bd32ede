//! `stargz cache` beside a daemon and without one.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use snapshotter::proto::snapshots::{CleanupRequest, RemoveSnapshotRequest, UsageRequest, UsageResponse};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use super::layers::{layer_at, prepare, reads};
use super::{SOON, serving};
use crate::harness::images::Model;
use crate::harness::{HASTY, Scene, mounts_below, run, scene};

/// Keeps what nobody uses, and fetches nothing that is not read.
const KEEPING: &str = "noprefetch = true\nno_background_fetch = true\n[cache]\nmax_bytes = 1000000000\n";

fn cache(scene: &Scene, args: &[&str]) -> Command {
    let mut command = scene.stargz();
    command.arg("cache").arg("--root").arg(scene.path("root")).args(args);
    command
}

fn said(scene: &Scene, args: &[&str]) -> String {
    run(&mut cache(scene, args), SOON).succeeded().stdout
}

/// Digest, in use, filled chunks of each layer.
fn listed(scene: &Scene) -> Vec<(String, bool, u64)> {
    let rows: serde_json::Value = serde_json::from_str(&said(scene, &["ls", "--json"])).unwrap();
    let row = |row: &serde_json::Value| {
        assert!(
            row["allocated"].as_u64() > Some(0) && row["last_used"].as_u64() > Some(1_600_000_000),
            "{row}"
        );
        let digest = row["digest"].as_str().unwrap().to_owned();
        (digest, row["in_use"].as_bool().unwrap(), row["filled_chunks"].as_u64().unwrap())
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

/// One call to the snapshots service.
fn call<T, U>(scene: &Scene, method: &'static str, request: T) -> U
where
    T: prost::Message + Send + Sync + 'static,
    U: prost::Message + Default + Send + Sync + 'static,
{
    let address = format!("unix://{}", scene.path("run/snapshots.sock").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel =
            Endpoint::new(address).expect("an address").connect().await.expect("the daemon listens");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("the channel is open");
        let codec = tonic_prost::ProstCodec::<T, U>::default();
        let answer = client.unary(Request::new(request), PathAndQuery::from_static(method), codec).await;
        answer.unwrap_or_else(|status| panic!("{method}: {status}")).into_inner()
    })
}

/// Changes bytes of the last chunk that is filled, behind everybody's back.
fn rot(scene: &Scene) {
    let digest = &Model::usual().blobs[0].digest;
    let dir = scene.path("root/layers/sha256").join(digest.hex());
    let files = layer::image::ImageFiles::open_to_read(&dir).unwrap();
    let number = (0..files.tables.chunk_count()).rfind(|&number| files.filled.get(number)).unwrap();
    let at = files.meta.data_start + files.tables.chunk(number).unwrap().data;
    let image = fs::OpenOptions::new().write(true).open(dir.join("image.erofs")).unwrap();
    image.write_all_at(b"rotten", at).unwrap();
}

fn files_below(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn a_layer_stays_when_its_snapshot_goes_and_is_pruned_on_demand() {
    scene(60, |scene| {
        scene.write("config.toml", &format!("{KEEPING}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = serving(scene);
        assert_eq!(prepare(scene, &reference).code(), Code::AlreadyExists);
        let digest = Model::usual().blobs[0].digest.to_string();
        reads(&layer_at(scene), "bin/tool");
        // Bits reach the disk within two seconds.
        std::thread::sleep(std::time::Duration::from_millis(2500));
        let rows = listed(scene);
        assert_eq!((rows[0].0.as_str(), rows[0].1), (digest.as_str(), true));
        assert!(rows[0].2 > 5, "{rows:?}");
        assert_eq!(said(scene, &["ls"]).split('\t').next(), Some(digest.as_str()));
        assert_eq!(said(scene, &["prune"]), "freed 0 B, 0 layers removed\n");

        let name = || "sha256:the-chain".to_owned();
        let usage: UsageResponse = call(
            scene,
            "/containerd.services.snapshots.v1.Snapshots/Usage",
            UsageRequest { key: name(), ..Default::default() },
        );
        assert!(usage.size > 700_000 && usage.inodes >= 5, "{usage:?}");
        let _: () = call(
            scene,
            "/containerd.services.snapshots.v1.Snapshots/Remove",
            RemoveSnapshotRequest { key: name(), ..Default::default() },
        );
        let _: () =
            call(scene, "/containerd.services.snapshots.v1.Snapshots/Cleanup", CleanupRequest::default());
        assert_eq!(mounts_below(&scene.path("root/snapshotter")), Vec::<std::path::PathBuf>::new());
        assert_eq!(listed(scene)[0], (digest, false, rows[0].2));

        // The next snapshot of it needs no registry, nor does a daemon that starts anew.
        scene.registry.fault(testkit::registry::Rule::new("/", testkit::registry::Fault::Status(503)));
        assert_eq!(prepare(scene, &reference).code(), Code::AlreadyExists);
        reads(&layer_at(scene), "bin/tool");
        daemon.signal(Signal::INT);
        assert_eq!(daemon.end(SOON).code, Some(0));

        let mut again = serving(scene);
        reads(&layer_at(scene), "bin/tool");
        let mode = fs::metadata(scene.path("root/control.sock")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        assert!(!again.has_ended());
        again.signal(Signal::INT);
        assert_eq!(again.end(SOON).code, Some(0));

        // Nobody is there to ask, and nothing is mounted.
        assert!(said(scene, &["prune", "--dry-run"]).contains("1 layer removed"));
        assert_eq!(files_below(&scene.path("root/layers/sha256")), 1);
        assert!(said(scene, &["prune", "--keep", "1G"]).contains("0 layers removed"));
        assert!(said(scene, &["prune"]).contains("1 layer removed"));
        assert_eq!(said(scene, &["ls"]), "");
    });
}

#[test]
fn contents_that_rot_are_found_and_fetched_again() {
    scene(60, |scene| {
        scene.write("config.toml", &format!("{KEEPING}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = serving(scene);
        assert_eq!(prepare(scene, &reference).code(), Code::AlreadyExists);
        reads(&layer_at(scene), "bin/tool");
        std::thread::sleep(std::time::Duration::from_millis(2500));
        assert!(said(scene, &["verify"]).contains(" right"));
        rot(scene);
        let found = run(&mut cache(scene, &["verify"]), SOON);
        assert_eq!(found.code, Some(1), "{found:#?}");
        assert!(found.stdout.contains("1 of ") && found.stdout.contains(" WRONG: "), "{found:#?}");
        assert!(found.stderr.contains("--repair"), "{found:#?}");
        assert!(said(scene, &["verify", "--repair"]).contains("repaired: 1 chunk"));
        std::thread::sleep(std::time::Duration::from_millis(2500));
        assert!(said(scene, &["verify", &Model::usual().blobs[0].digest.to_string()]).contains(" right"));
        daemon.signal(Signal::INT);
        assert_eq!(daemon.end(SOON).code, Some(0));

        rot(scene);
        assert!(said(scene, &["verify", "--repair"]).contains("repaired: 1 chunk"));
        assert!(said(scene, &["verify"]).contains(" right"));
        let _again = serving(scene);
        reads(&layer_at(scene), "bin/tool");
    });
}

#[test]
fn mistakes_are_told() {
    scene(20, |scene| {
        run(&mut cache(scene, &["ls"]), SOON).failed_with(&["there are no layers in", "--root"]);
        fs::create_dir_all(scene.path("root/layers")).unwrap();
        let nobody = format!("sha256:{}", "0".repeat(64));
        run(&mut cache(scene, &["verify", &nobody]), SOON).failed_with(&[&nobody, "is not in"]);
        for args in [&["prune", "--all", "--keep", "1"][..], &["prune", "--keep", "much"], &["verify", "x"]] {
            assert_eq!(run(&mut cache(scene, args), SOON).code, Some(2), "{args:?}");
        }
        let _daemon = serving(scene);
        assert_eq!(said(scene, &["prune", "--all"]), "freed 0 B, 0 layers removed\n");
    });
}
