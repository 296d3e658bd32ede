//! Random trees, packed, laid out, filled and mounted by the kernel: equal to what plain `tar -x` makes of them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use format::Digest;
use layer::{Layer, Pin};
use mount::{
    BoxFuture, Ending, ErofsOptions, Fetched, Image, ImageServer, Session, SessionOptions, Source,
    UnmountMode,
};
use proptest::test_runner::{Config, TestRunner};
use testkit::compare::{self, Ignore};
use testkit::estargz::{self, Options};
use testkit::tarball;
use testkit::tree::{self, Tree};

use crate::source::MemorySource;
use crate::{layers, resolve};

#[derive(Debug)]
struct Served(Arc<Layer>);

impl Source for Served {
    fn size(&self) -> u64 {
        self.0.data_len()
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.0.read_local(offset, buf)
    }

    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async move {
            self.0.fill(offset, len).await.map_err(io::Error::other)?;
            Ok(Fetched::Stored)
        })
    }
}

/// Unmounts when the test ends, however it ends.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = mount::unmount(&self.0, UnmountMode::Lazy);
    }
}

/// What `tar -x` makes of the archive.
pub fn untarred(tar: &[u8], dir: &Path) -> Tree {
    let mut child = Command::new("tar")
        .args(["--extract", "--same-owner", "--numeric-owner", "--preserve-permissions"])
        // Else the time of a directory is lost whose members come behind another directory: `f`, `f b`, `f/a`.
        .arg("--delay-directory-restore")
        .args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--directory"])
        .arg(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(child.wait().unwrap().success());
    compare::read(dir).unwrap()
}

pub fn root_only() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        // Past libtest, which hides what a passing test prints.
        let _ = writeln!(io::stderr(), "SKIPPED: mounting needs root");
    }
    root
}

pub fn random_options() -> tree::Options {
    tree::Options { chunk_size: 8 << 10, ..tree::Options::default() }
}

/// Packs, resolves, mounts through FUSE with nothing filled, reads everything, mounts the complete image alone, reads
/// everything again.
fn round_trip(tree: &Tree, options: &Options, expected: impl FnOnce(&[u8], &Path) -> Tree) {
    let tar = tarball::write(tree);
    let blob = estargz::build(&tar, options);
    let scratch = tempfile::tempdir().unwrap();
    let expected = expected(&tar, scratch.path());
    // TOCs keep whole seconds unless the options say otherwise.
    let nanoseconds = options.mtime != estargz::Options::default().mtime;
    let source = MemorySource::new(blob.bytes.clone());
    shown(source, blob.digest, Pin::Toc(blob.toc_digest), &expected, nanoseconds);
}

/// Resolves, mounts through FUSE with nothing filled, reads everything, mounts the complete image alone, reads
/// everything again. Without a pin, verification is waived.
pub fn shown(
    source: MemorySource,
    digest: Digest,
    pin: impl Into<Option<Pin>>,
    expected: &Tree,
    nanoseconds: bool,
) {
    let pin = pin.into();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = scratch.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let ignore = Ignore { root: true, nanoseconds, ..Ignore::default() };
    let layers = runtime.block_on(async { layers(&scratch.path().join("layers")) });
    let resolved = runtime.block_on(layers.resolve(digest, pin, Arc::new(source))).unwrap();
    let layer = match pin {
        Some(pin) => resolved.verify(&pin).unwrap(),
        None => resolved.trust_unverified("a test"),
    };

    let (images, served, alone) = (dir("images"), dir("served"), dir("alone"));
    // A layer without contents is complete from the start.
    if !layer.complete() {
        let session = Session::mount(&images, SessionOptions::default()).unwrap();
        let image = Image { node: 2, name: "layer".to_owned(), source: Arc::new(Served(layer.clone())) };
        let server = ImageServer::start(session, runtime.handle().clone(), vec![image]).unwrap();
        let _session = Unmount(images.clone());
        let device = ErofsOptions { device: Some(images.join("layer")), ..ErofsOptions::default() };
        mount::mount_erofs(&layer.image_path(), &served, &device).unwrap();
        let _mounted = Unmount(served.clone());
        compare::assert_same(expected, &compare::read(&served).unwrap(), &ignore);
        server.shutdown(Ending::Unmount).unwrap();
    }

    assert!(layer.complete(), "everything was read, so everything is filled");
    mount::mount_erofs(&layer.image_path(), &alone, &ErofsOptions::default()).unwrap();
    let _mounted = Unmount(alone.clone());
    compare::assert_same(expected, &compare::read(&alone).unwrap(), &ignore);
    runtime.block_on(layers.close());
}

fn check_random(
    cases: u32,
    trees: tree::Options,
    options: Options,
    expected: fn(&Tree, &[u8], &Path) -> Tree,
) {
    if !root_only() {
        return;
    }
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&tree::trees(trees), |tree| {
        round_trip(&tree, &options, |tar, dir| expected(&tree, tar, dir));
        Ok(())
    });
    outcome.unwrap();
}

fn by_tar(_: &Tree, tar: &[u8], dir: &Path) -> Tree {
    untarred(tar, dir)
}

#[test]
fn a_mounted_layer_equals_tar_x() {
    let options = Options { chunk_size: 8 << 10, ..Options::default() };
    check_random(24, random_options(), options, by_tar);
}

#[test]
fn a_mounted_layer_with_shared_gzip_members_equals_tar_x() {
    let options = Options { chunk_size: 8 << 10, min_chunk_size: 20 << 10, ..Options::default() };
    check_random(16, random_options(), options, by_tar);
}

#[test]
fn whiteouts_and_opaque_directories_are_those_of_overlayfs() {
    let trees = tree::Options { whiteouts: true, ..random_options() };
    let options = Options { chunk_size: 8 << 10, ..Options::default() };
    check_random(16, trees, options, |tree, _, _| tree.clone());
}

/// The volume id and everything else in the image are a function of the TOC.
#[test]
fn the_same_toc_gives_the_same_image() {
    let tree = estargz::hostile::honest_tree();
    let blob = estargz::build(&tarball::write(&tree), &Options::default());
    let images = [0, 1].map(|_| {
        let root = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let source = Arc::new(MemorySource::new(blob.bytes.clone()));
            let layer = resolve(&layers(root.path()), &blob, source).await.unwrap();
            let dir = layer.image_path().parent().unwrap().to_owned();
            ["image.erofs", "chunks"].map(|name| std::fs::read(dir.join(name)).unwrap())
        })
    });
    assert_eq!(images[0], images[1]);
}
