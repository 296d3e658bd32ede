//! The ways to show layers: each of them shows the same, the best that works is taken by itself, and what containers find
//! in their root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mount::Backend;
use rustix::process::Signal;

use crate::harness::containerd::Daemon;
use crate::harness::images::Model;
use crate::harness::{HASTY, Running, Scene, in_user_namespace, mounts_below, run, scene, wait_until};

const SOON: Duration = Duration::from_secs(10);
const STATE: &str = ".stargz-snapshotter";

/// Those that work here.
fn backends(scene: &Scene) -> Vec<Backend> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = scene.path("");
    let works = |backend: &Backend| {
        let options = mount::TreeOptions::default();
        let tried = mount::choose_backend(&dir, Some(*backend), &options, runtime.handle());
        if let Err(reason) = &tried {
            eprintln!("skipped: {backend}: {reason}");
        }
        tried.is_ok()
    };
    Backend::ALL.into_iter().filter(works).collect()
}

/// A configuration that forces a backend.
fn force(scene: &Scene, backend: Backend, more: &str) {
    scene.write("config.toml", &format!("{more}\n{HASTY}\n[mount]\nbackend = \"{backend}\"\n"));
}

/// What the daemon says of how it shows layers.
#[track_caller]
fn chosen(daemon: &Daemon<'_>) -> String {
    let said = daemon.process.stderr();
    let line = said.lines().find(|line| line.contains("layers are shown"));
    line.unwrap_or_else(|| panic!("nothing of backends in {said}")).to_owned()
}

/// Ends the daemon and takes its root away, for the next one to start anew.
fn end(scene: &Scene, daemon: Daemon<'_>) {
    daemon.process.signal(Signal::INT);
    assert_eq!(daemon.process.end(SOON).code, Some(0));
    assert_eq!(mounts_below(&scene.path("root")), Vec::<PathBuf>::new());
    fs::remove_dir_all(scene.path("root")).unwrap();
}

/// A keeper that has nothing to keep any more ends a moment after its daemon.
#[track_caller]
fn unmount(dir: &Path) {
    let deadline = std::time::Instant::now() + SOON;
    while let Err(error) = mount::unmount(dir, mount::UnmountMode::Normal) {
        assert!(std::time::Instant::now() < deadline, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn every_backend_shows_the_same_before_and_after_a_restart() {
    scene(120, |scene| {
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        for backend in backends(scene) {
            force(scene, backend, "noprefetch = true\nno_background_fetch = true");
            let daemon = scene.daemon();
            assert!(chosen(&daemon).contains(&format!("{backend} (forced)")), "{}", chosen(&daemon));
            daemon.pull(&reference, model);
            let view = daemon.mount_at(&daemon.view("view", "sha256:chain-2").unwrap(), "view");
            model.assert_at(&view);
            unmount(&view);
            let dir = daemon.mount_at(&daemon.container("one", "sha256:chain-2", &[]).unwrap(), "one");
            fs::write(dir.join("etc/motd"), "of the container\n").unwrap();
            unmount(&dir);

            // The same after SIGTERM, and when it had no time to say anything.
            for signal in [Signal::TERM, Signal::KILL] {
                daemon.process.signal(signal);
                assert!(wait_until(SOON, || {
                    !crate::harness::processes_that_name(&scene.path("root")).contains(&daemon.process.pid())
                }));
            }
            drop(daemon);
            // By now every chunk is there.
            for blob in &model.blobs {
                scene.registry.fault(testkit::registry::Rule::new(
                    blob.digest.to_string(),
                    testkit::registry::Fault::Status(503),
                ));
            }
            let daemon = scene.daemon();
            let dir = daemon.mount_at(&daemon.mounts("one").unwrap(), "one");
            assert_eq!(fs::read_to_string(dir.join("etc/motd")).unwrap(), "of the container\n");
            unmount(&dir);
            let view = daemon.mount_at(&daemon.mounts("view").unwrap(), "view");
            model.assert_at(&view);
            unmount(&view);
            scene.registry.clear_faults();
            end(scene, daemon);
        }
    });
}

/// An image that has a layer twice, and a layer that two images have: an overlay takes no directory twice.
#[test]
fn a_layer_is_shown_at_several_places() {
    scene(60, |scene| {
        let base = &Model::usual().blobs[0];
        let twice = Model::new(&[crate::harness::images::usual_layers()[0].clone()]);
        assert_eq!(twice.blobs[0].digest, base.digest);
        let layers = [base, base].map(testkit::image::Layer::estargz);
        let image = testkit::image::Image::new(layers.into(), &Default::default());
        let blobs = vec![base.clone(), base.clone()];
        let model = Model { blobs, image, merged: twice.merged.clone() };
        let reference = scene.registry.push("twice", "1", &model.image);
        for backend in backends(scene) {
            force(scene, backend, "");
            let daemon = scene.daemon();
            daemon.pull(&reference, &model);
            let dir = daemon.mount_at(&daemon.view("one", "sha256:chain-1").unwrap(), "one");
            model.assert_at(&dir);
            unmount(&dir);
            end(scene, daemon);
        }
    });
}

#[test]
fn a_container_finds_in_its_root_how_far_its_layers_are() {
    scene(90, |scene| {
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        for backend in backends(scene) {
            force(scene, backend, "noprefetch = true\nno_background_fetch = true");
            let daemon = scene.daemon();
            daemon.pull(&reference, model);
            let dir = daemon.mount_at(&daemon.view("one", "sha256:chain-2").unwrap(), "one");
            let state = dir.join(STATE);
            assert_eq!(state.metadata().unwrap().mode() & 0o7777, 0o500);
            let read = |number: usize| {
                let name = format!("{}.json", model.blobs[number].digest);
                let metadata = state.join(&name).metadata().unwrap();
                assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o400, 0));
                let text = fs::read_to_string(state.join(&name)).unwrap();
                assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
                serde_json::from_str::<serde_json::Value>(&text).unwrap()
            };
            let before = read(0);
            assert_eq!(before["digest"], model.blobs[0].digest.to_string());
            assert_eq!(before["size"], model.blobs[0].bytes.len());
            assert!(before["fetchedPercent"].as_f64().unwrap() < 50.0, "{before}");
            assert!(before.get("error").is_none(), "{before}");

            let mut files: Vec<std::ffi::OsString> =
                fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            files.sort();
            let mut all: Vec<std::ffi::OsString> = model
                .blobs
                .iter()
                .map(|blob| std::ffi::OsString::from(format!("{}.json", blob.digest)))
                .collect();
            all.sort();
            assert_eq!(files, all, "one file for each layer of this image");
            // The tree as a whole is as if it were not there.
            model.assert_at(&dir);
            let done = wait_until(SOON, || read(2)["fetchedPercent"] == 100.0);
            assert!(done, "{}", read(2));
            assert_eq!(read(2)["fetchedSize"], read(2)["size"]);
            unmount(&dir);
            end(scene, daemon);
        }
        scene.write("config.toml", &format!("{HASTY}\n[mount]\nstate_directory = false\n"));
        let daemon = scene.daemon();
        daemon.pull(&reference, model);
        let dir = daemon.mount_at(&daemon.container("one", "sha256:chain-2", &[]).unwrap(), "one");
        assert!(!dir.join(STATE).exists());
        unmount(&dir);
    });
}

/// Where contents cannot be had, the file says why.
#[test]
fn the_state_of_a_layer_tells_why_reads_fail() {
    scene(60, |scene| {
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        scene.write("config.toml", &format!("noprefetch = true\nno_background_fetch = true\n{HASTY}"));
        let daemon = scene.daemon();
        daemon.pull(&reference, model);
        let dir = daemon.mount_at(&daemon.container("one", "sha256:chain-2", &[]).unwrap(), "one");
        scene.registry.fault(testkit::registry::Rule::new("/blobs/", testkit::registry::Fault::Status(403)));
        assert!(fs::read(dir.join("srv/large")).is_err());
        let file = dir.join(STATE).join(format!("{}.json", model.blobs[0].digest));
        let failed = wait_until(SOON, || fs::read_to_string(&file).unwrap().contains("\"error\":\""));
        assert!(failed, "{}", fs::read_to_string(&file).unwrap());
        scene.registry.clear_faults();
        let healed = wait_until(SOON, || {
            fs::read(dir.join("srv/large")).is_ok() && !fs::read_to_string(&file).unwrap().contains("error")
        });
        assert!(healed, "{}", fs::read_to_string(&file).unwrap());
        unmount(&dir);
    });
}

const UIDS: &str = "containerd.io/snapshot/uidmapping";
const GIDS: &str = "containerd.io/snapshot/gidmapping";

/// With a range of ids of its own, a container's files are its own, and no byte of them is copied.
#[test]
fn a_container_in_a_user_namespace_sees_right_owners_without_copies() {
    scene(90, |scene| {
        if in_user_namespace() {
            eprintln!("skipped: owners are translated by the initial user namespace only");
            return;
        }
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        let map = "0:100000:65536";
        for backend in backends(scene) {
            force(scene, backend, "");
            let daemon = scene.daemon();
            daemon.pull(&reference, model);
            let labels = [(UIDS, map), (GIDS, map)];
            let mounts = match daemon.container("mapped", "sha256:chain-2", &labels) {
                Err(status) if backend == Backend::Fuse && status.message().contains("translating") => {
                    eprintln!("skipped: {backend} with other owners: {status}");
                    end(scene, daemon);
                    continue;
                }
                mounts => mounts.unwrap(),
            };
            let check = |dir: &Path| {
                for (path, uid) in
                    [("", 100_000), ("bin/tool", 100_000), ("home/user", 101_000), ("srv/app", 100_000)]
                {
                    let metadata = dir.join(path).metadata().unwrap();
                    assert_eq!((metadata.uid(), metadata.gid()), (uid, uid), "{backend}: {path}");
                }
                // Where it runs, it sees what the image says, and its root may do what root may.
                let inside = "set -e; test \"$(stat -c %u:%g home/user bin/tool)\" = '1000:1000\n0:0'; \
                              cat .stargz-snapshotter/*.json >/dev/null; echo mine > etc/motd";
                let namespace = UserNamespace::new("0 100000 65536\n");
                run(namespace.enter().args(["sh", "-c", inside]).current_dir(dir), SOON).succeeded();
                assert_eq!(dir.join("etc/motd").metadata().unwrap().uid(), 100_000);
            };
            let dir = daemon.mount_at(&mounts, "mapped");
            check(&dir);
            unmount(&dir);
            let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir=")).unwrap();
            let copied = run(Command::new("find").args([upper, "-type", "f"]), SOON).succeeded().stdout;
            assert_eq!(copied.trim(), format!("{upper}/etc/motd"), "only what the container wrote");

            // Again with the next daemon.
            daemon.process.signal(Signal::TERM);
            assert_eq!(daemon.process.end(SOON).code, Some(0));
            let daemon = scene.daemon();
            let dir = daemon.mount_at(&daemon.mounts("mapped").unwrap(), "mapped");
            check(&dir);
            unmount(&dir);
            // Another container on the same layers has them as they are.
            let dir = daemon.mount_at(&daemon.container("plain", "sha256:chain-2", &[]).unwrap(), "plain");
            assert_eq!(dir.join("home/user").metadata().unwrap().uid(), 1000);
            unmount(&dir);
            let refused = daemon.container("bad", "sha256:chain-2", &[(UIDS, "a"), (GIDS, map)]).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
            end(scene, daemon);
        }
    });
}

#[test]
fn a_backend_that_is_asked_for_and_does_not_work_is_told() {
    scene(30, |scene| {
        let root = scene.mount_point("root");
        if !mounted(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&root)) {
            return;
        }
        force(scene, Backend::Erofs, "");
        let mut command = scene.called("containerd-stargz-grpc");
        command.arg("--root").arg(&root).arg("--address").arg(scene.path("run/snapshots.sock"));
        command.arg("--config").arg(scene.path("config.toml"));
        let said = run(&mut command, SOON);
        assert!(said.code == Some(1) && said.stderr.contains("backend erofs is asked for"), "{said:#?}");
        scene.write("config.toml", "[mount]\nbackend = \"best\"\n");
        let said = Running::start(&mut command).end(SOON);
        assert!(said.code == Some(1) && said.stderr.contains("config.toml:2: mount.backend: "), "{said:#?}");
        assert!(said.stderr.contains("erofs-loop"), "{said:#?}");
    });
}

/// Whether a mount succeeded; if not, the test is skipped.
fn mounted(command: &mut Command) -> bool {
    let output = command.output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        eprintln!("skipped: {command:?}: {output:?}");
    }
    done
}

/// A root on each of the filesystems that people have: what does not work there is passed over by itself.
#[test]
fn the_best_backend_is_found_on_every_filesystem() {
    scene(180, |scene| {
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        for fs_type in ["tmpfs", "overlay", "ext4", "xfs", "btrfs"] {
            let root = scene.mount_point("root");
            if !mount_a(scene, fs_type, &root) {
                continue;
            }
            let daemon = scene.daemon();
            let chosen = chosen(&daemon);
            eprintln!("{fs_type}: {chosen}");
            if matches!(fs_type, "tmpfs" | "overlay") {
                assert!(!chosen.contains("\"backend\":\"erofs\""), "{chosen}");
            }
            daemon.pull(&reference, model);
            let layers: Vec<_> = daemon.layers().into_iter().rev().collect();
            let dir = scene.mount_point("container");
            let options = mount::OverlayOptions { upper: None, user_xattrs: in_user_namespace() };
            mount::mount_overlay(&layers, &dir, &options).unwrap();
            model.assert_at(&dir);
            unmount(&dir);
            daemon.process.signal(Signal::INT);
            assert_eq!(daemon.process.end(SOON).code, Some(0));
            unmount(&root);
        }
    });
}

fn mount_a(scene: &Scene, fs_type: &str, at: &Path) -> bool {
    match fs_type {
        "tmpfs" => mounted(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at)),
        "overlay" => {
            let dirs = ["lower", "upper", "work"].map(|name| scene.mount_point(name).display().to_string());
            let mut options = format!("lowerdir={},upperdir={},workdir={}", dirs[0], dirs[1], dirs[2]);
            if in_user_namespace() {
                options += ",userxattr";
            }
            mounted(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(at))
        }
        _ => {
            let image = scene.path(fs_type);
            fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
            let quiet: &[&str] = if fs_type == "btrfs" { &["-q"] } else { &["-q", "-f"] };
            let quiet = if fs_type == "ext4" { &["-q", "-F"] } else { quiet };
            mounted(Command::new(format!("mkfs.{fs_type}")).args(quiet).arg(&image))
                && mounted(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at))
        }
    }
}

/// A user namespace that lasts as long as the value.
struct UserNamespace(Running);

impl UserNamespace {
    /// One with the same map for users and groups.
    fn new(map: &str) -> UserNamespace {
        let holder = Running::start(Command::new("unshare").args(["--user", "sleep", "60"]));
        let proc = Path::new("/proc").join(holder.pid().to_string());
        let ours = fs::read_link("/proc/self/ns/user").unwrap();
        assert!(wait_until(SOON, || fs::read_link(proc.join("ns/user")).is_ok_and(|theirs| theirs != ours)));
        fs::write(proc.join("uid_map"), map).unwrap();
        fs::write(proc.join("gid_map"), map).unwrap();
        UserNamespace(holder)
    }

    /// The beginning of a command whose rest runs inside, as root.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--setuid=0", "--setgid=0", "--target", &self.0.pid().to_string(), "--"]);
        command
    }
}
