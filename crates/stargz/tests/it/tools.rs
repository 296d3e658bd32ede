//! `stargz convert`, `inspect`, `verify`, `diff`: between every pair of places, with a real registry, and with images that
//! other tools made. Skips, loudly, what needs a program that is not installed.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::image::{self, Image, Layer};
use testkit::tarball;
use testkit::tree::{Entry, Tree};

use crate::harness::{Said, Scene, run, scene, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// The distribution's registry, killed when the test ends.
struct Hub {
    child: Child,
    port: u16,
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Hub {
    fn start(scene: &Scene) -> Option<Hub> {
        if !installed("docker-registry") {
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = scene.path("hub");
        fs::create_dir_all(&data).unwrap();
        let config = scene.write(
            "hub.yml",
            &format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
                data.display()
            ),
        );
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let hub = Hub { child, port };
        assert!(
            wait_until(LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok()),
            "the registry listens"
        );
        Some(hub)
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

fn installed(program: &str) -> bool {
    let found =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

fn trees() -> [Tree; 3] {
    let noise: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let base = Tree::new()
        .with("bin", Entry::dir())
        .with("bin/sh", Entry::file("#!".repeat(50_000)).mode(0o4755).mtime(1_600_000_000, 0))
        .with_link("bin/ash", "bin/sh")
        .with("etc", Entry::dir().owner(7, 8))
        .with("etc/motd", Entry::symlink("../bin/sh"));
    let libraries = Tree::new()
        .with("lib", Entry::dir())
        .with("lib/noise", Entry::file(noise))
        .with("lib/a.so", Entry::file("a".repeat(3000)))
        .with("lib/b.so", Entry::file("b".repeat(3000)));
    [base, libraries, Tree::new().with("etc", Entry::dir()).with("etc/new", Entry::file("new"))]
}

fn image() -> Image {
    let layers = trees().iter().map(|tree| Layer::gzip(&tarball::write(tree))).collect();
    Image::new(layers, &image::Options::default())
}

fn stargz(scene: &Scene, arguments: &[&str]) -> Said {
    run(scene.stargz().args(arguments), LIMIT)
}

/// That it succeeded, whatever it says meanwhile.
#[track_caller]
fn done(said: Said) -> Said {
    assert_eq!(said.code, Some(0), "{said:#?}");
    said
}

/// That it failed with a last line that has all of this in it.
#[track_caller]
fn refused(said: Said, parts: &[&str]) -> Said {
    let line = said.stderr.lines().last().unwrap_or_default();
    let all = line.starts_with("stargz: ") && parts.iter().all(|part| line.contains(part));
    assert!(said.code == Some(1) && all, "{parts:?} {said:#?}");
    said
}

#[track_caller]
fn json(said: Said) -> Value {
    serde_json::from_str(&done(said).stdout).unwrap()
}

/// That the new image is good, lazily pullable, and shows the same as the old one.
fn assert_good(scene: &Scene, old: &str, new: &str) {
    let inspected = json(stargz(scene, &["inspect", "--json", new]));
    for layer in inspected["images"][0]["layers"].as_array().unwrap() {
        assert_eq!((&layer["lazy"], &layer["toc"]["verified"]), (&true.into(), &true.into()), "{layer}");
    }
    let verified = json(stargz(scene, &["verify", "--json", new]));
    assert_eq!(verified["good"], true, "{verified}");
    assert!(verified["layers"][1]["chunks"].as_u64() >= Some(3), "{verified}");
    assert_eq!(json(stargz(scene, &["diff", "--json", old, new]))["equal"], true);
}

#[test]
fn images_go_from_every_place_to_every_other() {
    scene(120, |scene| {
        let Some(hub) = Hub::start(scene) else { return };
        let old = scene.registry.push("app", "1", &image());
        let at = |prefix: &str, name: &str| format!("{prefix}:{}", scene.path(name).display());
        let folder = at("oci", "folder") + ":1";
        let chain = [
            (old.clone(), folder.clone(), "estargz"),
            (folder.clone(), hub.reference("app:1"), "zstd-chunked"),
            (hub.reference("app:1"), at("oci-archive", "a.tar") + ":1", "estargz"),
            (at("oci-archive", "a.tar"), at("docker-archive", "d.tar") + ":app:1", "estargz"),
            (at("docker-archive", "d.tar"), hub.reference("app:2"), "external-toc"),
        ];
        for (from, to, format) in &chain {
            let said = stargz(scene, &["convert", "--format", format, "--compression-level", "1", from, to]);
            let said = done(said);
            assert!(said.stdout.starts_with("sha256:"), "{said:?}");
            if !to.starts_with("docker") {
                assert_good(scene, &old, to);
            }
            assert_eq!(json(stargz(scene, &["diff", "--json", &old, to]))["equal"], true, "{to}");
        }
        // Its tables of contents are beside it.
        let toc = stargz(scene, &["inspect", "--json", &hub.reference("app:2-esgztoc")]);
        done(toc);
    });
}

#[test]
fn what_is_there_is_not_sent_and_what_is_converted_is_reused() {
    scene(60, |scene| {
        let Some(hub) = Hub::start(scene) else { return };
        let old = scene.registry.push("app", "1", &image());
        let (first, second) = (hub.reference("one:1"), hub.reference("two:1"));
        done(stargz(scene, &["convert", &old, &first]));
        let report = json(stargz(scene, &["convert", "--reuse", "--json", &first, &second]));
        let actions: Vec<&Value> =
            report["layers"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
        assert_eq!(actions, ["reused", "reused", "reused"]);
        let digest =
            |reference: &str| json(stargz(scene, &["inspect", "--json", reference]))["image"].clone();
        assert_eq!(digest(&first), digest(&second));
        // The same again from another host gives the same, byte for byte.
        let report = json(stargz(scene, &["convert", "--json", &old, &second]));
        assert_eq!(report["digest"], digest(&first));
    });
}

#[test]
fn files_come_first_by_patterns_and_by_records() {
    scene(60, |scene| {
        let old = scene.registry.push("app", "1", &image());
        let list = scene.write("list", "# first\n/lib/*.so\n/no/such\n");
        let record = scene.write("record", "{\"path\":\"bin/sh\",\"layerIndex\":0}\n");
        let folder = |name: &str| format!("oci:{}", scene.path(name).display());
        let prefetch = |place: &str, layer: usize| {
            let inspected = json(stargz(scene, &["inspect", "--json", place]));
            inspected["images"][0]["layers"][layer]["toc"]["prefetch"].as_u64().unwrap()
        };
        let said = stargz(scene, &["convert", "--prefetch-list", list.to_str().unwrap(), &old, &folder("l")]);
        assert!(done(said).stderr.contains("no/such is to be first"));
        assert!(prefetch(&folder("l"), 1) > 0 && prefetch(&folder("l"), 0) == 0);
        done(stargz(scene, &["convert", "--record-in", record.to_str().unwrap(), &old, &folder("r")]));
        assert!(prefetch(&folder("r"), 0) > 0 && prefetch(&folder("r"), 1) == 0);
        let strict = ["convert", "--strict", "--prefetch-list", list.to_str().unwrap(), &old, &folder("s")];
        refused(stargz(scene, &strict), &["no/such"]);
        assert!(!scene.path("s").exists());
    });
}

#[test]
fn diff_ids_are_kept_if_asked_for() {
    scene(60, |scene| {
        let image = image();
        let old = scene.registry.push("app", "1", &image);
        let folder = scene.path("kept");
        let place = format!("oci:{}:1", folder.display());
        done(stargz(scene, &["convert", "--format", "external-toc", "--keep-diff-id", &old, &place]));
        assert_good(scene, &old, &place);
        let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
        let blob = |digest: &Value| -> Value {
            let path = folder.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let config = blob(&blob(&index["manifests"][0]["digest"])["config"]["digest"]);
        let old_config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        assert_eq!(config, old_config);
        refused(stargz(scene, &["convert", "--keep-diff-id", &old, &place]), &["--format external-toc"]);
    });
}

/// Where nothing of a conversion that failed may be.
fn assert_gone(scene: &Scene, temporary: &Path, target: &str) {
    assert!(!scene.path(target).exists(), "{target} is there");
    let left: Vec<PathBuf> = fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_be_converted_leaves_nothing() {
    use testkit::registry::{Fault, Rule};
    scene(120, |scene| {
        let temporary = scene.path("tmp");
        fs::create_dir(&temporary).unwrap();
        let image = image();
        let old = scene.registry.push("app", "1", &image);
        let convert = |target: &str, config: Option<&Path>| {
            let place = format!("oci-archive:{}:1", scene.path(target).display());
            let mut command = scene.stargz();
            command.arg("convert").arg("--temporary").arg(&temporary).arg(&old).arg(&place);
            command.args(config.iter().flat_map(|path| ["--config".as_ref(), path.as_os_str()]));
            run(&mut command, LIMIT)
        };
        let hasty = scene.write("hasty.toml", crate::harness::HASTY);
        let digest = image.layers[1].digest;
        // The registry goes in the middle of a layer, again and again.
        scene.registry.fault(Rule::new(format!("/blobs/{digest}"), Fault::ShortBody(10)));
        refused(convert("cut.tar", Some(&hasty)), &[&digest.to_string()]);
        assert_gone(scene, &temporary, "cut.tar");
        scene.registry.clear_faults();
        // Once is no matter.
        scene.registry.fault(Rule::new(format!("/blobs/{digest}"), Fault::ShortBody(1000)).times(1));
        done(convert("once.tar", Some(&hasty)));
        scene.registry.clear_faults();

        // Damaged layers: other bytes, and half an archive that has the digest it should have.
        let mut wrong = image.layers[1].content.to_bytes().to_vec();
        wrong[500] ^= 1;
        scene.registry.put_blob(digest, bytes::Bytes::from(wrong));
        refused(convert("wrong.tar", None), &["damaged"]);
        assert_gone(scene, &temporary, "wrong.tar");

        // Nor is there room.
        let small = scene.mount_point("small");
        let size =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&small).status();
        if !size.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: a full disk: no tmpfs can be mounted");
            return;
        }
        scene.registry.put_blob(digest, image.layers[1].content.clone());
        let place = format!("oci:{}:1", small.join("folder").display());
        let said = run(scene.stargz().args(["convert", &old, &place]).env("TMPDIR", &temporary), LIMIT);
        refused(said, &["No space left"]);
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
        let said = run(
            scene
                .stargz()
                .args(["convert", &old, &format!("oci:{}", scene.path("x").display())])
                .env("TMPDIR", &small),
            LIMIT,
        );
        refused(said, &["No space left"]);
        assert_gone(scene, &temporary, "x");
        Command::new("umount").arg(&small).status().unwrap();
    });
}

#[test]
fn damage_is_found_and_differences_are_named() {
    scene(60, |scene| {
        let old = scene.registry.push("app", "1", &image());
        let folder = scene.path("folder");
        let place = format!("oci:{}:1", folder.display());
        let report = json(stargz(scene, &["convert", "--json", &old, &place]));
        let target = report["layers"][1]["target"].as_str().unwrap().replace(':', "/");
        let blob = folder.join("blobs").join(target);
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(&blob, bytes).unwrap();
        let said = refused(stargz(scene, &["verify", &place]), &["1 of 3 layers are damaged"]);
        assert!(said.stdout.contains("the chunk at byte") || said.stdout.contains("is damaged"), "{said:?}");

        let layers = trees().into_iter().enumerate().map(|(number, tree)| {
            let tree = if number == 2 { tree.with("etc/new", Entry::file("old")) } else { tree };
            Layer::gzip(&tarball::write(&tree))
        });
        let other = Image::new(layers.collect(), &image::Options::default());
        let other = scene.registry.push("app", "2", &other);
        let said = refused(stargz(scene, &["diff", &old, &other]), &["1 differences"]);
        assert!(said.stdout.contains("etc/new: content"), "{said:?}");
        let said = done(stargz(scene, &["inspect", &old]));
        assert!(said.stdout.contains("no: it has no table of contents"), "{said:?}");
    });
}

#[test]
fn other_tools_copy_what_we_write_and_we_read_what_they_convert() {
    scene(120, |scene| {
        if !installed("skopeo") {
            return;
        }
        let old = scene.registry.push("app", "1", &image());
        let folder = format!("oci:{}:1", scene.path("ours").display());
        done(stargz(scene, &["convert", &old, &folder]));
        let skopeo = |arguments: &[&str]| {
            done(run(Command::new("skopeo").arg("--insecure-policy").args(arguments), LIMIT));
        };
        let copy = format!("oci:{}:1", scene.path("copy").display());
        skopeo(&["copy", "--preserve-digests", &folder, &copy]);
        assert_good(scene, &old, &copy);
        // And what containers/image makes of the original.
        let theirs = format!("oci:{}:1", scene.path("theirs").display());
        skopeo(&[
            "copy",
            "--src-tls-verify=false",
            "--dest-compress-format",
            "zstd:chunked",
            &format!("docker://{old}"),
            &theirs,
        ]);
        assert_good(scene, &old, &theirs);
    });
}

#[test]
fn completions_and_pages_come_of_the_definitions() {
    scene(20, |scene| {
        let said = done(stargz(scene, &["completions", "bash"]));
        assert!(said.stdout.contains("--prefetch-list"));
        let pages = scene.path("pages");
        done(stargz(scene, &["man", pages.to_str().unwrap()]));
        let page = fs::read_to_string(pages.join("stargz-convert.1")).unwrap();
        assert!(page.contains("keep\\-diff\\-id"), "{page}");
    });
}
