//! Where backends work and where not: file systems below the cache, missing rights, user namespaces.
//!
//! Tests that need another namespace or another user start this program once more, with the name of one test and its
//! directory in the environment.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::common::shown::{Layer, Stage};
use crate::common::{Fetch, Place, Scripted, can_mount, runtime, unmount_idle};
use mount::{
    Backend, Ending, ErofsOptions, LayerTree, OverlayOptions, Reason, Root, Route, Session, Source, Tree,
    TreeOptions, TreeServer, Upper, choose_backend, lists_file_types, mount_erofs_loop, mount_overlay,
    mounts_below, probe_fuse,
};
use testkit::compare::{Ignore, assert_same, read};
use testkit::tree::{self, Entry, Kind};

const CHILD: &str = "PLACE_OF_CHILD";

/// The directory of this test if it is the child.
fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Starts the test `name` of this program again in a mount namespace of its own, where everyone may open `/dev/fuse`,
/// as a user without rights. `before` are shell words that the program is put behind.
fn run_unprivileged(place: &Place, name: &str, before: &str) {
    let exe = place.path("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = place.dir("child");
    std::os::unix::fs::chown(&dir, Some(65534), Some(65534)).unwrap();
    let script = format!(
        "set -e; mknod '{node}' c 10 229; chmod 666 '{node}'; mount --bind '{node}' /dev/fuse; \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups {before} '{exe}' --exact {name} --nocapture",
        node = place.path("fuse-node").display(),
        exe = exe.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).env(CHILD, &dir).env("HOME", "/").current_dir("/");
    assert!(command.status().unwrap().success());
}

fn is_installed(program: &str) -> bool {
    let there =
        ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !there {
        eprintln!("SKIPPED: needs {program}");
    }
    there
}

fn sample() -> tree::Tree {
    tree::Tree::new()
        .with("d", Entry::new(Kind::Dir { opaque: true }))
        .with("d/new", Entry::file("new"))
        .with("gone", Entry::new(Kind::Whiteout))
        .with("f", Entry::file(vec![7; 300_000]))
}

/// Serves the sample tree at `dir/session/x`.
fn serve(dir: &Path, options: &TreeOptions, runtime: &tokio::runtime::Runtime) -> (TreeServer, PathBuf) {
    let target = dir.join("session");
    fs::create_dir(&target).unwrap();
    let layer = Layer::make(dir.join("l.erofs"), &sample());
    let session = Session::mount_trees(&target, options).unwrap();
    let root = Root { number: 1, name: "x".to_owned(), tree: layer.tree() };
    let server = TreeServer::start(session, options, runtime.handle().clone(), vec![root]).unwrap();
    (server, target.join("x"))
}

/// The owners in `sample` are root, which a user namespace may show as somebody else.
fn assert_shown(at: &Path) {
    let ignore = Ignore { owner: true, xattrs: vec![String::new()], ..Ignore::default() };
    let mut expected = sample();
    // The mark is an xattr that only root sees.
    expected.insert(b"d", Entry::dir());
    let mut actual = read(at).unwrap();
    let d = actual.get(b"d").unwrap().clone();
    actual.insert(b"d", Entry { kind: Kind::Dir { opaque: false }, ..d });
    assert_same(&expected, &actual, &ignore);
}

#[test]
fn in_a_user_namespace_trees_are_mounted_and_stacked() {
    if let Some(dir) = child() {
        let runtime = runtime();
        let options = TreeOptions { user_xattrs: true, ..TreeOptions::default() };
        let choice = choose_backend(&dir, None, &options, runtime.handle()).unwrap();
        assert_eq!(choice.backend, Backend::Fuse, "{choice}");
        assert!(choice.to_string().contains("not permitted"), "{choice}");
        let (server, x) = serve(&dir, &options, &runtime);
        assert_shown(&x);
        let make = |name: &str| {
            let path = dir.join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (below, upper, work, merged) = (make("below"), make("upper"), make("work"), make("merged"));
        fs::create_dir(below.join("d")).unwrap();
        for file in ["d/old", "gone", "other"] {
            fs::write(below.join(file), "old").unwrap();
        }
        let upper = Some(Upper { dir: upper, work });
        let overlay = OverlayOptions { upper, user_xattrs: true };
        mount_overlay(&[x, below], &merged, &overlay).unwrap();
        assert!(fs::metadata(merged.join("d/old")).is_err(), "opaque");
        assert!(fs::metadata(merged.join("gone")).is_err(), "whiteout");
        assert_eq!(fs::read(merged.join("d/new")).unwrap(), b"new");
        assert_eq!(fs::read(merged.join("other")).unwrap(), b"old");
        fs::write(merged.join("f"), "written").unwrap();
        fs::remove_file(merged.join("d/new")).unwrap();
        assert_eq!(fs::read(merged.join("f")).unwrap(), b"written");
        unmount_idle(&merged);
        server.shutdown(Ending::Unmount).unwrap();
        return;
    }
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let name = "places::in_a_user_namespace_trees_are_mounted_and_stacked";
    run_unprivileged(&place, name, "unshare -Urm");
}

#[test]
fn without_a_namespace_fusermount_mounts_for_everyone() {
    if let Some(dir) = child() {
        let runtime = runtime();
        // To let others look takes a line in /etc/fuse.conf.
        let options = TreeOptions { allow_other: false, ..TreeOptions::default() };
        let direct = TreeOptions { route: Route::Direct, ..options.clone() };
        let refused = probe_fuse(&dir, &direct, runtime.handle()).unwrap_err();
        assert!(matches!(refused, Reason::NotPermitted(_)), "{refused}");
        probe_fuse(&dir, &options, runtime.handle()).unwrap();
        for route in [Route::Auto, Route::Fusermount] {
            let options = TreeOptions { route, ..options.clone() };
            let (server, x) = serve(&dir, &options, &runtime);
            assert_shown(&x);
            let mounts = mounts_below(&dir).unwrap();
            assert!(mounts[0].options.contains("nosuid"), "{mounts:?}");
            server.shutdown(Ending::Unmount).unwrap();
            assert!(mounts_below(&dir).unwrap().is_empty());
            fs::remove_dir(dir.join("session")).unwrap();
        }
        let other = TreeOptions { route: Route::Fusermount, allow_other: true, ..TreeOptions::default() };
        if let Err(error) = Session::mount_trees(&dir, &other) {
            assert!(error.to_string().contains("allow_other"), "{error}");
        }
        return;
    }
    if !can_mount() || !is_installed("fusermount3") {
        return;
    }
    let place = Place::new();
    run_unprivileged(&place, "places::without_a_namespace_fusermount_mounts_for_everyone", "");
}

/// Reads what a child prints until it has said `word`.
fn wait_for(word: &str, out: &mut impl Read) {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.contains(word) {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{text}");
        text.push(byte[0].into());
    }
}

#[test]
fn a_server_that_is_killed_ends_the_reads_in_flight() {
    if let Some(dir) = child() {
        let runtime = runtime();
        let target = dir.join("session");
        fs::create_dir(&target).unwrap();
        let image = Layer::make(dir.join("l.erofs"), &sample()).image;
        let source = Arc::new(Scripted::new(1 << 20, 0, Fetch::Hang));
        let tree = Tree::Layer(LayerTree::open(&image, Arc::clone(&source) as Arc<dyn Source>).unwrap());
        let options = TreeOptions::default();
        let session = Session::mount_trees(&target, &options).unwrap();
        let root = Root { number: 1, name: "x".to_owned(), tree };
        let _server = TreeServer::start(session, &options, runtime.handle().clone(), vec![root]).unwrap();
        std::io::stdout().write_all(b"mounted\n").unwrap();
        source.wait_started(&runtime, 1);
        std::io::stdout().write_all(b"started\n").unwrap();
        std::thread::park();
        return;
    }
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let dir = place.dir("child");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "places::a_server_that_is_killed_ends_the_reads_in_flight", "--nocapture"]);
    let mut running = command.env(CHILD, &dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = running.stdout.take().unwrap();
    wait_for("mounted", &mut out);
    let file = dir.join("session/x/f");
    let reader = std::thread::spawn(move || fs::read(file));
    wait_for("started", &mut out);
    running.kill().unwrap();
    running.wait().unwrap();
    let error = reader.join().unwrap().unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(5 | 103 | 107)), "{error}");
}

/// The files behind loop devices that lie in `dir`.
fn loops_below(dir: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(&*dir.to_string_lossy())).collect()
}

#[test]
fn loop_devices_go_with_their_mount() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new(Backend::ErofsLoop);
    let dir = stage.place.path("");
    let target = stage.show("m", &stage.layer("l", &sample()));
    assert_eq!(loops_below(&dir).len(), 2, "the image, and the FUSE file with its data");
    assert_eq!(fs::read(target.join("f")).unwrap(), [7; 300_000]);
    unmount_idle(&target);
    assert!(loops_below(&dir).is_empty());
    fs::write(stage.place.path("garbage"), [7; 8192]).unwrap();
    assert!(mount_erofs_loop(&stage.place.path("garbage"), &target, &ErofsOptions::default()).is_err());
    assert!(loops_below(&dir).is_empty());
    // A complete layer: both areas in one file.
    let layer = stage.layer("whole", &sample());
    mount_erofs_loop(&layer.image, &target, &ErofsOptions::default()).unwrap();
    assert_eq!(loops_below(&dir).len(), 1);
    assert_same(&sample(), &read(&target).unwrap(), &Ignore::default());
}

#[test]
fn loop_devices_go_with_a_process_that_is_killed() {
    if let Some(dir) = child() {
        let layer = Layer::make(dir.join("l.erofs"), &sample());
        mount_erofs_loop(&layer.image, &dir, &ErofsOptions::default()).unwrap();
        std::io::stdout().write_all(b"mounted\n").unwrap();
        std::thread::park();
        return;
    }
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let dir = place.dir("child");
    let mut command = Command::new("unshare");
    command.arg("-m").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "places::loop_devices_go_with_a_process_that_is_killed", "--nocapture"]);
    let mut running = command.env(CHILD, &dir).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("mounted", running.stdout.as_mut().unwrap());
    assert_eq!(loops_below(&dir).len(), 1);
    running.kill().unwrap();
    running.wait().unwrap();
    // The namespace, and with it the mount, ends a moment later.
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !loops_below(&dir).is_empty() {
        assert!(std::time::Instant::now() < give_up, "still there: {:?}", loops_below(&dir));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn the_file_system_below_decides() {
    if !can_mount() {
        return;
    }
    let runtime = runtime();
    let place = Place::new();
    let options = TreeOptions::default();
    let choose = |dir: &Path, forced| {
        let choice = choose_backend(dir, forced, &options, runtime.handle());
        assert!(mounts_below(dir).unwrap().len() <= 1, "nothing stays");
        assert!(fs::read_dir(dir).unwrap().flatten().all(|entry| entry.file_name() == "lost+found"));
        choice
    };
    for (fs_type, size_mib) in [("ext4", 32), ("xfs", 320), ("btrfs", 128)] {
        let mkfs = format!("mkfs.{fs_type}");
        if !is_installed(&mkfs) {
            continue;
        }
        let (image, target) = (place.path(&format!("{fs_type}.img")), place.dir(fs_type));
        fs::File::create(&image).unwrap().set_len(size_mib << 20).unwrap();
        let made = Command::new(mkfs).arg("-q").arg(&image).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mounted =
            Command::new("mount").args(["-o", "loop", "-t", fs_type]).args([&image, &target]).status();
        assert!(mounted.unwrap().success());
        assert!(lists_file_types(&target).unwrap());
        let choice = choose(&target, None).unwrap();
        assert_eq!((choice.backend, choice.to_string().as_str()), (Backend::Erofs, "erofs"), "{fs_type}");
        for backend in Backend::ALL {
            let choice = choose(&target, Some(backend)).unwrap();
            assert_eq!((choice.backend, choice.forced), (backend, true));
            assert_eq!(choice.to_string(), format!("{backend} (forced)"));
        }
    }
    let tmpfs = place.dir("tmpfs");
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&tmpfs).status().unwrap().success());
    let overlay = place.dir("overlay");
    let upper = Some(Upper { dir: place.dir("upper"), work: place.dir("work") });
    mount_overlay(&[place.dir("lower")], &overlay, &OverlayOptions { upper, user_xattrs: false }).unwrap();
    for (dir, name) in [(&tmpfs, "tmpfs"), (&overlay, "overlayfs")] {
        let choice = choose(dir, None).unwrap();
        assert_ne!(choice.backend, Backend::Erofs);
        assert!(
            matches!(choice.passed_over[0], (Backend::Erofs, Reason::Unsuitable { fs, .. }) if fs == name)
        );
        assert!(choice.to_string().contains(&format!("is on {name}")), "{choice}");
        choose(dir, Some(Backend::Fuse)).unwrap();
        let error = choose(dir, Some(Backend::Erofs)).unwrap_err();
        assert!(error.to_string().starts_with("layers cannot be shown here: not erofs: "), "{error}");
    }
}

#[test]
fn directories_without_file_types_are_told() {
    if !can_mount() || !is_installed("mkfs.xfs") {
        return;
    }
    let place = Place::new();
    let (image, target) = (place.path("xfs.img"), place.dir("xfs"));
    fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
    // The last form of XFS that could be made without.
    let made =
        Command::new("mkfs.xfs").args(["-q", "-m", "crc=0", "-n", "ftype=0"]).arg(&image).output().unwrap();
    let mounted =
        Command::new("mount").args(["-o", "loop", "-t", "xfs"]).args([&image, &target]).output().unwrap();
    if !made.status.success() || !mounted.status.success() {
        return eprintln!("SKIPPED: needs a kernel that mounts XFS version 4: {mounted:?}");
    }
    assert!(!lists_file_types(&target).unwrap());
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn without_loop_devices_the_next_one_is_chosen() {
    if let Some(dir) = child() {
        let runtime = runtime();
        let choice = choose_backend(&dir, None, &TreeOptions::default(), runtime.handle()).unwrap();
        assert_eq!(choice.backend, Backend::Fuse, "{choice}");
        assert!(matches!(choice.passed_over[1], (Backend::ErofsLoop, Reason::NoLoopDevice(_))), "{choice}");
        return;
    }
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let dir = place.dir("child");
    assert!(!fs::metadata("/dev/null").unwrap().file_type().is_block_device());
    // On tmpfs, without a usable control file.
    let script = format!(
        "set -e; mount --bind /dev/null /dev/loop-control; mount -t tmpfs none '{}'; \
         exec '{}' --exact places::without_loop_devices_the_next_one_is_chosen",
        dir.display(),
        std::env::current_exe().unwrap().display(),
    );
    let status = Command::new("unshare").args(["-m", "sh", "-c", &script]).env(CHILD, &dir).status();
    assert!(status.unwrap().success());
}

#[test]
fn backends_are_called_by_name() {
    for backend in Backend::ALL {
        assert_eq!(backend.to_string().parse(), Ok(backend));
    }
    let error = "squashfs".parse::<Backend>().unwrap_err();
    assert!(error.to_string().contains("erofs-loop"), "{error}");
}
