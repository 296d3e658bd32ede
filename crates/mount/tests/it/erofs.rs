//! EROFS mounts whose data comes from a file of a FUSE session, and what goes on top of them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::common::{Place, can_mount, runtime, unmount_idle};
use mount::{
    BoxFuture, Ending, ErofsOptions, Fetched, Image, ImageServer, Session, SessionOptions, Source, bind,
    mount_erofs, mount_overlay_ro, mounts_below, probe_erofs,
};

const FILE_SIZE: usize = 3 << 20;

/// The data of an image, of which everything from `fails_from` on cannot be had.
#[derive(Debug)]
struct Data {
    file: fs::File,
    size: u64,
    fails_from: AtomicU64,
    /// The largest read so far.
    largest: AtomicUsize,
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.largest.fetch_max(buf.len(), Ordering::SeqCst);
        if offset + buf.len() as u64 > self.fails_from.load(Ordering::SeqCst) {
            return Ok(false);
        }
        self.file.read_exact_at(buf, offset).map(|()| true)
    }

    fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async { Err(io::Error::from_raw_os_error(5)) })
    }
}

/// A tree with a large file, small ones, and one that nobody but its owner may read; as image and data.
struct Layer {
    image: PathBuf,
    data: PathBuf,
}

impl Layer {
    fn make(place: &Place, name: &str) -> Option<Self> {
        let tree = place.dir(&format!("{name}.tree"));
        fs::write(tree.join("large"), large()).unwrap();
        for n in 0..50 {
            fs::write(tree.join(format!("small-{n}")), format!("{name} {n}")).unwrap();
        }
        fs::write(tree.join(name), name).unwrap();
        let (image, data) = (place.path(&format!("{name}.img")), place.path(&format!("{name}.data")));
        let made = Command::new("mkfs.erofs")
            .arg("-x-1")
            .arg(format!("--blobdev={}", data.display()))
            .args(["--chunksize=4096", "--quiet"])
            .args([&image, &tree])
            .output();
        match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: needs mkfs.erofs");
                None
            }
            made => {
                let made = made.unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                Some(Self { image, data })
            }
        }
    }

    fn source(&self) -> Arc<Data> {
        let file = fs::File::open(&self.data).unwrap();
        let size = file.metadata().unwrap().size();
        Arc::new(Data { file, size, fails_from: AtomicU64::new(u64::MAX), largest: AtomicUsize::new(0) })
    }
}

/// No block of it is like another, so that the image shares none.
fn large() -> Vec<u8> {
    (0..FILE_SIZE as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn serve(place: &Place, runtime: &tokio::runtime::Runtime, sources: &[Arc<Data>]) -> (ImageServer, PathBuf) {
    let target = place.dir("fuse");
    let session = Session::mount(&target, SessionOptions::default()).unwrap();
    let images = (2..).zip(sources).map(|(node, source)| Image {
        node,
        name: format!("layer-{node}"),
        source: Arc::clone(source) as Arc<dyn Source>,
    });
    let server = ImageServer::start(session, runtime.handle().clone(), images.collect()).unwrap();
    (server, target)
}

#[test]
fn data_comes_from_the_fuse_file_and_metadata_does_not() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let Some(layer) = Layer::make(&place, "a") else { return };
    let (source, runtime) = (layer.source(), runtime());
    let (server, fuse) = serve(&place, &runtime, std::slice::from_ref(&source));
    let target = place.dir("a");
    // Nothing of the device can be had: mounting and walking must not care.
    source.fails_from.store(0, Ordering::SeqCst);
    let options =
        ErofsOptions { device: Some(fuse.join("layer-2")), direct_io: true, ..ErofsOptions::default() };
    mount_erofs(&layer.image, &target, &options).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 52);
    assert_eq!(fs::metadata(target.join("large")).unwrap().len(), FILE_SIZE as u64);
    assert_eq!(fs::read(target.join("small-1")).unwrap_err().raw_os_error(), Some(5));
    source.fails_from.store(u64::MAX, Ordering::SeqCst);
    // A failed read is not remembered.
    assert_eq!(fs::read(target.join("small-1")).unwrap(), b"a 1");
    assert!(fs::read(target.join("large")).unwrap() == large());
    // The FUSE mount is closed to other users, the tree in the image is not.
    let script = format!("cat '{}'", target.join("small-2").display());
    fs::set_permissions(place.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new("sh").args(["-c", &script]).uid(65534).gid(65534).output().unwrap();
    assert_eq!(output.stdout, b"a 2", "{}", String::from_utf8_lossy(&output.stderr));
    unmount_idle(&target);
    unmount_idle(&target);
    server.shutdown(Ending::Unmount).unwrap();
    assert!(mounts_below(&place.path("")).unwrap().is_empty());
}

#[test]
fn a_read_that_fails_half_way_never_shows_zeros() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let Some(layer) = Layer::make(&place, "a") else { return };
    let (source, runtime) = (layer.source(), runtime());
    let (server, fuse) = serve(&place, &runtime, std::slice::from_ref(&source));
    let target = place.dir("a");
    let expected = large();
    for direct_io in [true, false] {
        for fails_from in (0..FILE_SIZE as u64).step_by(300_000) {
            source.fails_from.store(fails_from, Ordering::SeqCst);
            let options =
                ErofsOptions { device: Some(fuse.join("layer-2")), direct_io, ..ErofsOptions::default() };
            mount_erofs(&layer.image, &target, &options).unwrap();
            let file = fs::File::open(target.join("large")).unwrap();
            let mut failed = 0;
            for offset in (0..FILE_SIZE).step_by(4096) {
                let mut block = [0; 4096];
                match file.read_exact_at(&mut block, offset as u64) {
                    Ok(()) => {
                        assert!(block == expected[offset..offset + 4096], "{direct_io} {fails_from} {offset}")
                    }
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(5));
                        failed += 1;
                    }
                }
            }
            assert!(failed > 0, "{direct_io} {fails_from}");
            drop(file);
            unmount_idle(&target);
        }
    }
    server.shutdown(Ending::Unmount).unwrap();
}

#[test]
fn readahead_decides_the_size_of_requests() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let Some(layer) = Layer::make(&place, "a") else { return };
    let (source, runtime) = (layer.source(), runtime());
    let (server, fuse) = serve(&place, &runtime, std::slice::from_ref(&source));
    let target = place.dir("a");
    for (read_ahead_kb, largest) in [(None, 128 << 10), (Some(32), 32 << 10), (Some(1024), 1 << 20)] {
        let options = ErofsOptions {
            device: Some(fuse.join("layer-2")),
            direct_io: true,
            read_ahead_kb,
            ..ErofsOptions::default()
        };
        mount_erofs(&layer.image, &target, &options).unwrap();
        source.largest.store(0, Ordering::SeqCst);
        // In small steps, so that the kernel's guess and not our buffer decides.
        let mut file = io::BufReader::with_capacity(4096, fs::File::open(target.join("large")).unwrap());
        assert_eq!(io::copy(&mut file, &mut io::sink()).unwrap(), FILE_SIZE as u64);
        drop(file);
        let got = source.largest.load(Ordering::SeqCst);
        // Another process may mount at the same moment, then the default stays.
        assert!(got == largest || got == 128 << 10, "{read_ahead_kb:?}: {got}");
        unmount_idle(&target);
    }
    server.shutdown(Ending::Unmount).unwrap();
}

#[test]
fn layers_are_stacked_and_bound() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (Some(a), Some(b)) = (Layer::make(&place, "a"), Layer::make(&place, "b")) else { return };
    let runtime = runtime();
    let (server, fuse) = serve(&place, &runtime, &[a.source(), b.source()]);
    // A path longer than fsconfig(2) takes, and the characters that options are made of.
    let long = place.dir(&format!("{}/{}", "x".repeat(200), "y,:\\ ".repeat(20)));
    for (layer, target, device) in [(&a, place.dir("a"), "layer-2"), (&b, long.clone(), "layer-3")] {
        let options =
            ErofsOptions { device: Some(fuse.join(device)), direct_io: true, ..ErofsOptions::default() };
        mount_erofs(&layer.image, &target, &options).unwrap();
    }
    let merged = place.dir("merged");
    mount_overlay_ro(&[long.clone(), place.path("a")], &merged).unwrap();
    assert_eq!(fs::read(merged.join("small-7")).unwrap(), b"b 7");
    assert_eq!(fs::read(merged.join("a")).unwrap(), b"a");
    assert!(fs::read(merged.join("large")).unwrap() == large());
    let single = place.dir("single");
    mount_overlay_ro(&[place.path("a")], &single).unwrap();
    assert_eq!(fs::read(single.join("small-7")).unwrap(), b"a 7");
    let again = place.dir("again");
    bind(&merged, &again).unwrap();
    assert_eq!(fs::read(again.join("b")).unwrap(), b"b");
    let mounts = mounts_below(&place.path("")).unwrap();
    assert_eq!(mounts.len(), 6);
    assert!(mounts.iter().any(|mount| mount.mount_point == long && mount.fs_type == "erofs"));
    for path in [&merged, &single, &again] {
        assert_eq!(fs::write(path.join("a"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
    server.shutdown(Ending::Unmount).unwrap();
}

#[test]
fn a_plain_directory_that_is_bound_is_read_only() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (source, target) = (place.dir("source"), place.dir("target"));
    mount_overlay_ro(std::slice::from_ref(&source), &target).unwrap();
    assert_eq!(fs::write(target.join("a"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    fs::write(source.join("a"), "").unwrap();
    assert!(mount_overlay_ro(&[], &target).is_err());
}

#[test]
fn the_same_image_file_mounts_with_a_local_device() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let Some(layer) = Layer::make(&place, "a") else { return };
    let target = place.dir("a");
    let options =
        ErofsOptions { device: Some(layer.data.clone()), direct_io: false, ..ErofsOptions::default() };
    mount_erofs(&layer.image, &target, &options).unwrap();
    assert!(fs::read(target.join("large")).unwrap() == large());
}

#[test]
fn errors_say_what_was_tried_on_what() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let target = place.dir("a");
    fs::write(place.path("garbage"), [7; 8192]).unwrap();
    let error = mount_erofs(&place.path("garbage"), &target, &ErofsOptions::default()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(22), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot mount erofs on {}: creating", target.display())), "{text}");
    let error = mount_erofs(&place.path("missing"), &target, &ErofsOptions::default()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(2), "{error}");
    let error = mount_overlay_ro(&[target.clone(), place.path("missing")], &target).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(bind(&place.path("missing"), &target).is_err());
    assert!(mounts_below(&place.path("")).unwrap().is_empty());
}

#[test]
fn the_probe_works_here_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let dir = place.dir("probe");
    probe_erofs(&dir).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert!(mounts_below(&dir).unwrap().is_empty());
    assert!(probe_erofs(Path::new("/no/such/place")).is_err());
}

#[test]
fn the_probe_says_that_mounting_is_not_permitted() {
    const CHILD: &str = "PROBE_CHILD";
    if let Some(dir) = std::env::var_os(CHILD) {
        let reason = probe_erofs(Path::new(&dir)).unwrap_err();
        assert!(matches!(reason, mount::Reason::NotPermitted(_)), "{reason}");
        return;
    }
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let dir = place.dir("probe");
    std::os::unix::fs::chown(&dir, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(place.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let exe = place.path("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let status = Command::new(exe)
        .args(["--exact", "the_probe_says_that_mounting_is_not_permitted"])
        .env(CHILD, &dir)
        .uid(65534)
        .gid(65534)
        .status();
    assert!(status.unwrap().success());
}
