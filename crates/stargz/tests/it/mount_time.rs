//! What can be wrong when an image is mounted: one clear line on standard error, soon, and nothing left behind.

use std::net::TcpListener;
use std::time::Duration;

use testkit::image::{self, Image, Layer};
use testkit::registry::{Auth, Fault, Rule};
use testkit::tarball;

use crate::harness::images::{Model, usual_layers};
use crate::harness::{HASTY, Said, Scene, mounts_below, run, scene};

/// What HASTY allows for one request with its retries, and time to start two processes.
const BOUND: Duration = Duration::from_secs(8);

/// Tries to mount, which must fail with these parts in the text and leave nothing.
#[track_caller]
fn refused(scene: &Scene, reference: &str, parts: &[&str]) -> Said {
    let dir = scene.mount_point("mnt");
    let said = scene.try_mount(reference, &dir).failed_with(parts);
    scene.assert_nothing_left(&dir);
    assert!(said.took < BOUND, "{said:#?}");
    said
}

fn push_usual(scene: &Scene) -> String {
    scene.registry.push("app", "1", &Model::usual().image)
}

#[test]
fn an_honest_image_is_shown_and_taken_away() {
    scene(20, |scene| {
        let dir = scene.mount(&push_usual(scene));
        Model::usual().assert_at(&dir);
        scene.umount(&dir, &[]).succeeded();
        scene.assert_nothing_left(&dir);
    });
}

#[test]
fn an_image_that_the_registry_does_not_have() {
    scene(20, |scene| {
        let reference = scene.registry.reference("no/such:image");
        refused(scene, &reference, &["404", "no/such", &scene.registry.host()]);
    });
}

#[test]
fn a_host_that_refuses_connections() {
    scene(20, |scene| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        refused(scene, &format!("{free}/app:1"), &[&free.to_string(), "refused"]);
    });
}

#[test]
fn missing_and_wrong_credentials_are_told_apart() {
    scene(30, |scene| {
        let reference = push_usual(scene);
        let credentials = Some(("user".to_owned(), "right".to_owned()));
        let basic = Auth::Basic { user: "user".to_owned(), password: "right".to_owned() };
        let bearer = Auth::Bearer { credentials, ttl: Duration::from_secs(60) };
        for auth in [basic, bearer] {
            scene.registry.set_auth(auth);
            let _ = std::fs::remove_file(scene.path("docker/config.json"));
            refused(scene, &reference, &["without credentials", "docker login", &scene.registry.host()]);
            scene.write("docker/config.json", &docker_config(scene, "user:wrong"));
            let said =
                refused(scene, &reference, &["401", "with the credentials for", &scene.registry.host()]);
            assert!(!said.stderr.contains("wrong"), "{said:#?}");
            scene.write("docker/config.json", &docker_config(scene, "user:right"));
            let dir = scene.mount(&reference);
            Model::usual().assert_at(&dir);
            scene.umount(&dir, &[]).succeeded();
        }
    });
}

fn docker_config(scene: &Scene, pair: &str) -> String {
    let auths = serde_json::json!({ scene.registry.host(): { "auth": base64(pair.as_bytes()) } });
    serde_json::json!({ "auths": auths }).to_string()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { letter as char } else { '=' });
        }
    }
    text
}

#[test]
fn a_registry_that_forbids() {
    scene(20, |scene| {
        let reference = push_usual(scene);
        scene.registry.fault(Rule::new("/manifests/", Fault::Status(403)));
        refused(scene, &reference, &["403", &scene.registry.host()]);
    });
}

#[test]
fn a_layer_that_the_registry_lost_is_named() {
    scene(20, |scene| {
        let reference = push_usual(scene);
        let lost = Model::usual().blobs[1].digest;
        scene.registry.remove_blob(lost);
        refused(scene, &reference, &["404", &format!("layer {lost}")]);
    });
}

#[test]
fn an_ordinary_layer_is_named_with_the_way_out() {
    scene(20, |scene| {
        let model = Model::usual();
        let tar = tarball::write(&model.merged);
        let plain = Layer::gzip(&tar);
        let digest = plain.digest.to_string();
        let layers = vec![Layer::estargz(&model.blobs[0]), plain.clone()];
        let reference = scene.registry.push("plain", "1", &Image::new(layers, &Default::default()));
        refused(scene, &reference, &[&digest, "cannot be pulled lazily", "Convert"]);

        // A manifest that promises a TOC does not make it one.
        let promised = Layer { annotations: model.blobs[0].annotations(), ..plain };
        let reference =
            scene.registry.push("promised", "1", &Image::new(vec![promised], &Default::default()));
        refused(scene, &reference, &[&digest, "footer"]);
    });
}

#[test]
fn lost_annotations_can_be_waived_and_malformed_ones_are_told() {
    scene(20, |scene| {
        let model = Model::usual();
        let bare = |blob| Layer { annotations: Default::default(), ..Layer::estargz(blob) };
        let image = Image::new(model.blobs.iter().map(bare).collect(), &Default::default());
        let reference = scene.registry.push("bare", "1", &image);
        refused(scene, &reference, &["no digest of a table of contents", "--skip-content-verify"]);
        let dir = scene.mount_point("mnt");
        scene.mount_at(&reference, &dir, &["--skip-content-verify"]);
        model.assert_at(&dir);
        scene.umount(&dir, &[]).succeeded();

        let mut layer = Layer::estargz(&model.blobs[0]);
        layer
            .annotations
            .insert(testkit::estargz::TOC_DIGEST_ANNOTATION.to_owned(), "sha256:short".to_owned());
        let reference = scene.registry.push("torn", "1", &Image::new(vec![layer], &Default::default()));
        refused(scene, &reference, &["TOC digest", &model.blobs[0].digest.to_string()]);
    });
}

#[test]
fn images_of_one_layer_of_the_same_layer_twice_and_of_none() {
    scene(20, |scene| {
        let [base, ..] = usual_layers();
        for count in [1, 2] {
            let model = Model::new(&vec![base.clone(); count]);
            let dir = scene.mount(&scene.registry.push("same", &count.to_string(), &model.image));
            model.assert_at(&dir);
            scene.umount(&dir, &[]).succeeded();
            scene.assert_nothing_left(&dir);
        }
        let reference = scene.registry.push("empty", "1", &Image::new(Vec::new(), &Default::default()));
        refused(scene, &reference, &["no layers"]);
    });
}

#[test]
fn an_image_for_another_machine() {
    scene(20, |scene| {
        let options = image::Options { architecture: "s390x".to_owned(), ..Default::default() };
        let image = Image::new(vec![Layer::estargz(&Model::usual().blobs[2])], &options);
        let reference = scene.registry.push_index("far", "1", &image);
        refused(scene, &reference, &["linux/", "s390x"]);
    });
}

#[test]
fn silence_and_failures_without_end_are_given_up_soon() {
    scene(60, |scene| {
        let reference = push_usual(scene);
        scene.write("config.toml", &HASTY.replace("fetching_timeout_sec = 4", "fetching_timeout_sec = 2"));
        let silent = Fault::StallHeaders(Duration::from_secs(60));
        let rows = [
            ("/manifests/", silent.clone(), "manifests"),
            ("/blobs/", silent, "blobs"),
            ("/manifests/", Fault::Status(500), "500"),
            ("/blobs/", Fault::Status(503), "503"),
            ("/blobs/", Fault::RetryAfter { status: 429, seconds: 3600 }, "429"),
            ("/blobs/", Fault::Reset, "blobs"),
            ("/blobs/", Fault::ShortBody(10), ""),
            ("/manifests/", Fault::ShortBody(10), "manifests"),
            ("/manifests/", Fault::CorruptByte(9), "digest"),
        ];
        for (path, fault, said) in rows {
            // By its digest, so that what comes can be checked.
            let by_digest =
                scene.registry.reference(&format!("app@{}", Model::usual().image.manifest.digest));
            let reference = if said == "digest" { &by_digest } else { &reference };
            scene.registry.fault(Rule::new(path, fault));
            refused(scene, reference, &[said, &scene.registry.host()]);
            scene.registry.clear_faults();
        }
    });
}

#[test]
fn directories_that_cannot_be_mounted_at() {
    scene(20, |scene| {
        let reference = push_usual(scene);
        let missing = scene.path("missing");
        scene.try_mount(&reference, &missing).failed_with(&["cannot mount at", "missing", "No such file"]);
        let file = scene.write("file", "");
        scene.try_mount(&reference, &file).failed_with(&["cannot mount at", "/file", "not a directory"]);
        scene.umount(&missing, &[]).failed_with(&["no image is mounted at", "missing"]);
        let dir = scene.mount(&reference);
        scene.try_mount(&reference, &dir).failed_with(&["cannot mount at", "mnt", "mounted there already"]);
        Model::usual().assert_at(&dir);
        scene.umount(&dir, &[]).succeeded();
        scene.umount(&dir, &[]).failed_with(&["no image is mounted at", "mnt"]);
        scene.assert_nothing_left(&dir);

        // What others mounted is neither covered nor taken away.
        let none: Option<&std::ffi::CStr> = None;
        rustix::mount::mount("tmpfs", &dir, "tmpfs", rustix::mount::MountFlags::empty(), none).unwrap();
        scene.try_mount(&reference, &dir).failed_with(&["cannot mount at", "mounted there already"]);
        scene.umount(&dir, &["--lazy"]).failed_with(&["no image is mounted at"]);
        assert_eq!(mounts_below(&dir), [dir]);
    });
}

#[test]
fn a_reference_that_is_none() {
    scene(20, |scene| {
        for reference in ["", "host:5000/UPPER:1", "a b", "host:port/x", "app@sha256:short", "../../etc"] {
            refused(scene, reference, &[&format!("{reference:?}")]);
        }
    });
}

#[test]
fn a_configuration_that_is_wrong_is_told_by_line_and_key() {
    scene(20, |scene| {
        let reference = push_usual(scene);
        scene.write("config.toml", "[blob]\n\nmax_retries = \"five\"\n");
        refused(scene, &reference, &["config.toml:3: blob.max_retries: ", "\"five\""]);
        scene.write("config.toml", "[blob\n");
        refused(scene, &reference, &["config.toml:1: "]);
        std::fs::remove_file(scene.path("config.toml")).unwrap();
        refused(scene, &reference, &["config.toml", "No such file"]);
    });
}

#[test]
fn flags_that_are_unknown_and_words_that_are_missing() {
    scene(20, |scene| {
        let limit = Duration::from_secs(10);
        let rows: [(&[&str], &str); 5] = [
            (&["mount", "--no-such-flag"], "--no-such-flag"),
            (&["mount", "app:1"], "<DIR>"),
            (&["umount"], "<DIR>"),
            (&["mont", "app:1", "/mnt"], "mount"),
            (&["mount", "app:1", "/mnt", "--log-level=loud"], "loud"),
        ];
        for (args, part) in rows {
            let said = run(scene.stargz().args(args), limit);
            assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{args:?}: {said:#?}");
            assert!(said.stderr.contains(part), "{args:?}: {said:#?}");
        }
        let said = run(scene.stargz().arg("--version"), limit).succeeded();
        assert!(said.stdout.starts_with(concat!("stargz ", env!("CARGO_PKG_VERSION"))), "{said:#?}");
        assert!(
            run(scene.stargz().args(["mount", "--help"]), limit)
                .succeeded()
                .stdout
                .contains("Usage: stargz mount")
        );
    });
}
