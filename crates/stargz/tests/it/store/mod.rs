//! The layer store, as its clients use it: Podman 4 and 5, CRI-O, Buildah.

mod client;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use format::Digest;
use rustix::process::Signal;
use testkit::image::{Image, Layer};
use testkit::registry::{Auth, Fault, Rule};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};
use testkit::zstdchunked::{self, Zstd};

use crate::harness::images::Model;
use crate::harness::{Running, mounts_below, scene, wait_until};
use client::{stack, use_once_less, use_once_more};

/// Longer than anything is kept that nobody uses after its last user let go of it.
const GONE: Duration = Duration::from_secs(30);
/// The retries of a registry that fails (`HASTY`), and a slow machine.
const GIVEN_UP: Duration = Duration::from_secs(15);

fn push_usual(scene: &crate::harness::Scene) -> String {
    scene.registry.push("app", "1", &Model::usual().image)
}

#[test]
fn a_layer_is_found_by_the_digest_of_its_toc_and_by_that_of_its_blob() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        let store = scene.store();
        let model = Model::usual();
        // Podman 5: by the TOC, which `info` must repeat; nothing is claimed that was not verified.
        let mut found = Vec::new();
        for blob in &model.blobs {
            let layer = store.pull(&reference, blob.toc_digest);
            assert_eq!(layer.info["toc-digest"], blob.toc_digest.to_string());
            assert_eq!(layer.info["flags"]["expected-layer-diffid"], blob.diff_id.to_string());
            assert_eq!(layer.info["compression"], 2, "gzip");
            assert!(layer.info["diff-digest"].is_null() && layer.info["compressed-diff-digest"].is_null());
            found.insert(0, layer);
        }
        model.assert_at(&stack(scene, &found.iter().collect::<Vec<_>>()));
        // Podman 4: by the blob; the layer gets its name from the digest of its contents.
        for blob in &model.blobs {
            let layer = store.pull(&reference, blob.digest);
            assert_eq!(layer.info["diff-digest"], blob.diff_id.to_string());
            assert_eq!(layer.info["compressed-diff-digest"], blob.digest.to_string());
            assert_eq!(layer.info["compressed-size"], blob.bytes.len());
        }
        assert_eq!(store.shown().len(), model.blobs.len(), "one mount for each layer, whatever its names");
        assert_eq!(store.uses(), [1; 6]);
        // The whole of each layer can be copied.
        for blob in &model.blobs {
            assert!(fs::read(store.path(&reference, blob.digest).join("blob")).unwrap() == blob.bytes);
        }
    });
}

#[test]
fn the_order_of_lookups_does_not_matter() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        let store = scene.store();
        let blob = &Model::usual().blobs[0];
        let path = store.path(&reference, blob.toc_digest);
        let info = fs::read_to_string(path.join("info")).unwrap();
        assert!(
            info.ends_with("}\n") && info.contains("diff-size") && info.contains("expected-layer-diffid")
        );
        assert_eq!(fs::metadata(path.join("blob")).unwrap().len(), blob.bytes.len() as u64);
        assert!(fs::metadata(path.join("diff")).unwrap().is_dir());
        assert_eq!(
            fs::read_to_string(path.join("info")).unwrap(),
            info,
            "it is complete from the first time on"
        );
        assert!(fs::metadata(path.join("use")).is_err());
    });
}

#[test]
fn zstd_chunked_is_found_by_the_digest_of_its_compressed_toc() {
    scene(60, |scene| {
        let tree = Tree::new().with("bin/tool", Entry::file(content(7, 400_000)).mode(0o755));
        let blob = zstdchunked::build(&tarball::write(&tree), &Default::default(), Zstd::default());
        let mut layer = Layer::zstd_chunked(&blob);
        // As Podman's own tools write it.
        layer.annotations.retain(|key, _| !key.contains("uncompressed-size"));
        let image = Image::new(vec![layer], &Default::default());
        let reference = scene.registry.push("app", "zstd", &image);
        let annotations = blob.annotations();
        let checksum =
            annotations.iter().find(|(key, _)| key.ends_with("manifest-checksum")).expect("a pin").1;
        let store = scene.store();
        for name in [checksum.parse::<Digest>().unwrap(), blob.digest] {
            let found = store.pull(&reference, name);
            assert_eq!(found.info["compression"], 4, "zstd");
            let size = found.info["diff-size"].as_i64().expect("a number");
            // Podman 4 takes a layer without a size for damaged.
            assert_eq!(size > 400_000, name == blob.digest, "{size}");
            assert!(fs::read(found.path.join("diff/bin/tool")).unwrap() == content(7, 400_000));
        }
    });
}

#[test]
fn what_cannot_be_had_lazily_is_quickly_not_there() {
    scene(60, |scene| {
        let tar = tarball::write(&Tree::new().with("a", Entry::file("a")));
        let (plain, blob) = (Layer::gzip(&tar), &Model::usual().blobs[0]);
        let layers = vec![Layer::estargz(blob), plain.clone(), Layer::estargz(blob)];
        let reference = scene.registry.push("app", "plain", &Image::new(layers, &Default::default()));
        let store = scene.store();
        store.miss(&reference, plain.digest);
        store.miss(&reference, Digest::of(b"of no layer"));
        // It would be stacked on itself, which overlayfs refuses.
        store.miss(&reference, blob.toc_digest);
        store.miss(&scene.registry.reference("no/such/image:1"), blob.digest);
        assert!(store.shown().is_empty() && store.uses().is_empty());
        // Names that mean nothing.
        assert!(fs::metadata(store.mount_point.join("lost+found")).is_err());
        let image = store.path(&reference, plain.digest).parent().expect("an image's directory").to_owned();
        assert!(fs::metadata(image.join("sha256:junk")).is_err());
        assert!(fs::create_dir(image.join("new")).is_err() && fs::write(image.join("new"), "").is_err());
    });
}

#[test]
fn a_layer_whose_toc_is_another_one_is_not_shown() {
    scene(60, |scene| {
        let blob = &Model::usual().blobs[0];
        let mut lying = Layer::estargz(blob);
        let wrong = Digest::of(b"another TOC");
        for value in lying.annotations.values_mut().filter(|value| **value == blob.toc_digest.to_string()) {
            *value = wrong.to_string();
        }
        let lie = scene.registry.push("app", "lie", &Image::new(vec![lying], &Default::default()));
        let truth =
            scene.registry.push("app", "truth", &Image::new(vec![Layer::estargz(blob)], &Default::default()));
        let store = scene.store();
        store.miss(&lie, wrong);
        store.miss(&lie, blob.digest);
        store.pull(&truth, blob.toc_digest);
        // Nor does it help that the layer is here already.
        assert!(wait_until(GONE, || {
            store.miss(&lie, wrong);
            store.process.stderr().contains("is not the one that the manifest means")
        }));
    });
}

#[test]
fn released_layers_go_and_come_back_any_number_of_times() {
    scene(120, |scene| {
        let reference = push_usual(scene);
        let store = scene.store();
        let blob = &Model::usual().blobs[0];
        for round in 0..2 {
            let found = store.pull(&reference, blob.toc_digest);
            for _ in 0..20 {
                use_once_more(&found.path);
                use_once_less(&found.path);
            }
            assert_eq!((store.uses().as_slice(), store.shown().len()), ([1].as_slice(), 1), "round {round}");
            use_once_less(&found.path);
            assert!(store.uses().is_empty());
            assert!(wait_until(GONE, || store.shown().is_empty()), "it stays mounted");
            // One too many is nobody's.
            use_once_less(&found.path);
        }
        assert!(wait_until(GONE, || fs::read_dir(store.root.join("layers/sha256")).unwrap().count() <= 2));
    });
}

#[test]
fn failures_are_not_remembered_for_ever() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        let store = scene.store();
        let blob = &Model::usual().blobs[0];
        scene.registry.fault(Rule::new("/manifests/", Fault::Status(500)));
        store.miss(&reference, blob.toc_digest);
        scene.registry.clear_faults();
        assert!(wait_until(GONE, || store.look(&reference, blob.toc_digest).is_ok()));
    });
}

#[test]
fn a_registry_that_hangs_holds_up_one_lookup_and_not_one_for_each_layer() {
    scene(90, |scene| {
        let reference = push_usual(scene);
        let other = scene.registry.push("other", "1", &Model::usual().image);
        let store = scene.store();
        let hang = Fault::StallHeaders(Duration::from_secs(600));
        scene.registry.fault(Rule::new("/v2/app/", hang));
        let started = std::time::Instant::now();
        std::thread::scope(|threads| {
            let hung = threads.spawn(|| store.miss(&reference, Model::usual().blobs[0].toc_digest));
            // Meanwhile others are served.
            store.pull(&other, Model::usual().blobs[0].toc_digest);
            fs::read_dir(&store.mount_point).unwrap().for_each(drop);
            hung.join().unwrap();
        });
        for blob in &Model::usual().blobs {
            store.miss(&reference, blob.toc_digest);
        }
        assert!(started.elapsed() < GIVEN_UP, "{:?}", started.elapsed());
    });
}

#[test]
fn a_name_that_means_another_image_now_is_asked_for_again() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        let store = scene.store();
        let old = &Model::usual().blobs[0];
        store.pull(&reference, old.toc_digest);
        let model = Model::new(&[Tree::new().with("new", Entry::file("new"))]);
        scene.registry.push("app", "1", &model.image);
        let new = model.blobs[0].toc_digest;
        assert!(wait_until(GONE, || store.look(&reference, new).is_ok()));
        // What is in use does not depend on what the registry has now.
        store.look(&reference, old.toc_digest).unwrap();
    });
}

#[test]
fn uses_survive_the_store_and_layers_come_back_without_the_registry() {
    scene(120, |scene| {
        let reference = push_usual(scene);
        let mut store = scene.store();
        let model = Model::usual();
        let found: Vec<_> =
            model.blobs.iter().rev().map(|blob| store.pull(&reference, blob.toc_digest)).collect();
        model.assert_at(&stack(scene, &found.iter().collect::<Vec<_>>()));
        // As after a reboot: no process, no mounts.
        for signal in [Signal::KILL, Signal::TERM] {
            mount::unmount(&scene.path("container"), mount::UnmountMode::Lazy).unwrap();
            store.process.signal(signal);
            store.process.end(Duration::from_secs(20));
            scene.registry.fault(Rule::new("/", Fault::Reset));
            store = scene.store();
            assert_eq!(store.uses(), [1; 3]);
            assert!(wait_until(GONE, || store.shown().len() == 3), "{}", store.process.stderr());
            if signal == Signal::KILL {
                // What was fetched in the last moments may have to be fetched again.
                scene.registry.clear_faults();
            }
            model.assert_at(&stack(scene, &found.iter().collect::<Vec<_>>()));
        }
        for layer in &found {
            use_once_less(&layer.path);
        }
        assert!(wait_until(GONE, || store.shown().is_empty()));
        assert!(store.uses().is_empty());
    });
}

#[test]
fn signals_leave_no_mount_behind() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        for signal in [Signal::TERM, Signal::INT] {
            let store = scene.store();
            let layer = store.pull(&reference, Model::usual().blobs[0].toc_digest);
            // Whoever has it open must not keep the store from ending.
            let _held = fs::File::open(layer.path.join("diff/etc/motd")).unwrap();
            store.process.signal(signal);
            let said = store.process.end(Duration::from_secs(20));
            assert_eq!(said.code, Some(0), "{said:#?}");
            assert_eq!((mounts_below(&store.mount_point), mounts_below(&store.root)), (vec![], vec![]));
            assert!(!store.socket.exists());
        }
    });
}

#[test]
fn credentials_are_handed_over_through_a_socket_of_ones_own() {
    scene(90, |scene| {
        let reference = push_usual(scene);
        scene.registry.set_auth(Auth::Basic { user: "u".to_owned(), password: "hunter2".to_owned() });
        let blob = &Model::usual().blobs[0];
        let store = scene.store();
        assert_eq!(fs::metadata(&store.socket).unwrap().permissions().mode() & 0o777, 0o600);
        store.miss(&reference, blob.toc_digest);

        let input = scene
            .write("handed.json", &format!(r#"{{"{reference}":{{"username":"u","password":"hunter2"}}}}"#));
        let mut helper = scene.called("stargz-store-helper");
        helper.arg(&store.socket);
        let helper = Running::start_with_input(&mut helper, Stdio::from(fs::File::open(input).unwrap()));
        helper.end(Duration::from_secs(20)).succeeded();
        assert!(wait_until(GONE, || store.look(&reference, blob.toc_digest).is_ok()));
        assert!(!store.process.stderr().contains("hunter2"), "a password in the log");

        let mut nowhere = scene.called("stargz-store-helper");
        nowhere.arg(scene.path("nowhere.sock"));
        Running::start_with_input(&mut nowhere, Stdio::null())
            .end(Duration::from_secs(20))
            .failed_with(&["nowhere.sock", "is it running"]);
    });
}

#[test]
fn logins_of_podman_serve_too() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        scene.registry.set_auth(Auth::Basic { user: "u".to_owned(), password: "hunter2".to_owned() });
        let key = format!("{}/app", scene.registry.host());
        scene.write("auth.json", &format!(r#"{{"auths":{{"{key}":{{"auth":"dTpodW50ZXIy"}}}}}}"#));
        scene.store().pull(&reference, Model::usual().blobs[0].toc_digest);
    });
}

#[test]
fn wrong_ways_to_start_say_so() {
    scene(60, |scene| {
        let store = scene.store();
        let start = |arguments: &[&str]| {
            let mut command: Command = scene.called("stargz-store");
            crate::harness::run(command.args(arguments), Duration::from_secs(20))
        };
        let (root, other) = (store.root.to_str().expect("text"), scene.path("other"));
        let other = other.to_str().expect("text");
        let refused = |arguments: &[&str], parts: &[&str]| {
            let said = start(arguments);
            assert!(said.code == Some(1) && parts.iter().all(|part| said.stderr.contains(part)), "{said:#?}");
        };
        refused(&["--root", root, "--config=", other], &["in use by another process"]);
        let config = scene.write("unsafe.toml", "disable_verification = true\n");
        let config = config.to_str().expect("text");
        refused(&["--config", config, other], &["unsafe.toml", "disable_verification", "verifies"]);
        refused(&["--config", "/no/such/file", other], &["cannot read configuration /no/such/file"]);
        assert!(start(&[]).stderr.contains("MOUNTPOINT"));
        start(&["-version"]).succeeded();
    });
}
