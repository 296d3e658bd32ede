//! Images, and what containers should see of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use testkit::compare::{self, Ignore};
use testkit::estargz::{self, Blob, hostile};
use testkit::image::{self, Image, Layer};
use testkit::tarball;
use testkit::tree::{Entry, Kind, Tree, content};

/// Largest chunk of the layers made here, in bytes.
pub const CHUNK: usize = 64 << 10;

/// Layers and the tree that they are together.
#[derive(Debug)]
pub struct Model {
    /// The layers, lowest first.
    pub blobs: Vec<Blob>,
    /// The image.
    pub image: Image,
    /// What is to be seen.
    pub merged: Tree,
}

impl Model {
    /// The image of these layers, lowest first.
    pub fn new(layers: &[Tree]) -> Model {
        let options = estargz::Options { chunk_size: CHUNK, ..Default::default() };
        let blobs: Vec<_> =
            layers.iter().map(|tree| estargz::build(&tarball::write(tree), &options)).collect();
        let image = Image::new(blobs.iter().map(Layer::estargz).collect(), &Default::default());
        Model { blobs, image, merged: merged(layers) }
    }

    /// Three layers: small and large files of all types, one that hides and replaces, one that adds.
    pub fn usual() -> &'static Model {
        static MODEL: OnceLock<Model> = OnceLock::new();
        MODEL.get_or_init(|| Model::new(&usual_layers()))
    }

    /// Paths of regular files with content, in byte order.
    pub fn files(&self) -> Vec<&[u8]> {
        let full = |path: &&[u8]| {
            self.merged.get(path).and_then(Entry::content).is_some_and(|bytes| !bytes.is_empty())
        };
        self.merged.paths().into_iter().filter(full).collect()
    }

    /// The same as text, for models whose names are.
    ///
    /// # Panics
    /// When a name is not.
    pub fn names(&self) -> Vec<&str> {
        self.files().into_iter().map(|path| std::str::from_utf8(path).expect("names are text")).collect()
    }

    /// Checks that everything at `dir` is as it should be.
    ///
    /// # Panics
    /// When it is not, with the differences.
    #[track_caller]
    pub fn assert_at(&self, dir: &Path) {
        let seen = compare::read(dir).unwrap_or_else(|error| panic!("cannot read the tree: {error}"));
        // Overlayfs reports one link for every directory.
        let ignore = Ignore { directory_links: true, ..Ignore::default() };
        compare::assert_same(&self.merged, &seen, &ignore);
    }

    /// Reads every file alone. What can be read is right; the others and their errors are returned.
    ///
    /// # Panics
    /// When other bytes are read.
    #[track_caller]
    pub fn unreadable_at(&self, dir: &Path) -> BTreeMap<String, i32> {
        let mut failed = BTreeMap::new();
        for path in self.files() {
            let name = String::from_utf8_lossy(path).into_owned();
            match fs::read(below(dir, path)) {
                Ok(bytes) => {
                    let right =
                        self.merged.get(path).and_then(Entry::content).is_some_and(|right| *right == bytes);
                    assert!(right, "{name} has other bytes");
                }
                Err(error) => {
                    failed.insert(name, error.raw_os_error().unwrap_or_default());
                }
            }
        }
        failed
    }
}

/// A path of a tree, below `dir`.
pub fn below(dir: &Path, path: &[u8]) -> PathBuf {
    dir.join(std::ffi::OsStr::from_bytes(path))
}

/// The layers of [`Model::usual`].
pub fn usual_layers() -> [Tree; 3] {
    let mut base = Tree::new()
        .with("bin/tool", Entry::file(content(1, 700_000)).mode(0o755))
        .with_link("bin/same-tool", "bin/tool")
        .with("bin/sh", Entry::symlink("tool"))
        .with("etc/passwd", Entry::file("root:x:0:0::/:/bin/sh\n").xattr("user.kind", "accounts"))
        .with("etc/motd", Entry::file("of the base\n"))
        .with("etc/empty", Entry::file(""))
        .with("gone", Entry::file(content(2, 30_000)))
        .with("var/cache/old", Entry::file("old"))
        .with("run/pipe", Entry::new(Kind::Fifo).mode(0o600))
        .with("srv/large", Entry::file(content(4, 300_000)))
        .with("home/user", Entry::dir().mode(0o700).owner(1000, 1000));
    for number in 0..40 {
        let size = 500 + 331 * number;
        base.insert(
            format!("lib/part-{number:02}").as_bytes(),
            Entry::file(content(100 + number as u64, size)),
        );
    }
    let middle = Tree::new()
        .with("gone", Entry::new(Kind::Whiteout))
        .with("etc/motd", Entry::file("of the middle\n").mtime(1_100_000_000, 500))
        .with("var/cache", Entry::new(Kind::Dir { opaque: true }))
        .with("var/cache/new", Entry::file("new"))
        .with("opt/data", Entry::file(content(3, 1_500_000)));
    let top = Tree::new()
        .with("srv/app", Entry::file(content(4, 200_000)))
        .with("srv/readme", Entry::file("of the top\n"));
    [base, middle, top]
}

/// What overlayfs makes of layers, lowest first: by the rules, the slow way.
fn merged(layers: &[Tree]) -> Tree {
    let mut merged = Tree::new();
    for layer in layers {
        for (path, entry) in &layer.entries {
            match entry.kind {
                Kind::Whiteout => merged.remove(path),
                Kind::Dir { opaque } => {
                    if opaque {
                        merged.remove(path);
                    }
                    let shown = Entry { kind: Kind::Dir { opaque: false }, ..entry.clone() };
                    merged.insert(path, shown);
                }
                _ => merged.insert(path, entry.clone()),
            }
        }
        for (path, target) in &layer.links {
            merged.link(path, target);
        }
    }
    merged
}

/// A whole image around one blob that may lie, on a layer that does not.
pub fn with_honest_base(blob: &Blob) -> Image {
    let honest = &Model::usual().blobs[2];
    Image::new(vec![Layer::estargz(honest), Layer::estargz(blob)], &image::Options::default())
}

/// The tree of [`with_honest_base`] where the lie is only in contents.
pub fn hostile_tree() -> Tree {
    merged(&[usual_layers()[2].clone(), hostile::honest_tree()])
}
