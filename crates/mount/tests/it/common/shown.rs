//! A model tree as a layer, shown through each of the backends.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use erofs::{Attributes, Content, ImageWriter, Options};
use mount::{
    Backend, BoxFuture, Ending, ErofsOptions, Fetched, Image, ImageServer, LayerTree, Root, Session,
    SessionOptions, Source, Tree as ServedTree, TreeOptions, TreeServer, bind, mount_erofs, mount_erofs_loop,
};
use testkit::tree::{Entry, Kind, Tree};

use super::{Place, runtime};

/// The data of an image, of which everything from `fails_from` on cannot be had.
#[derive(Debug)]
pub struct Data {
    pub file: File,
    pub start: u64,
    pub size: u64,
    pub fails_from: AtomicU64,
    /// Bytes below have to be fetched first.
    pub missing_below: AtomicU64,
    pub fetches: AtomicUsize,
    /// The largest read so far.
    pub largest: AtomicUsize,
    /// How many reads.
    pub reads: AtomicUsize,
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.largest.fetch_max(buf.len(), Ordering::SeqCst);
        let end = offset + buf.len() as u64;
        assert!(end <= self.size, "asked beyond the end");
        if end > self.fails_from.load(Ordering::SeqCst) || offset < self.missing_below.load(Ordering::SeqCst)
        {
            return Ok(false);
        }
        self.file.read_exact_at(buf, self.start + offset).map(|()| true)
    }

    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if offset + len as u64 > self.fails_from.load(Ordering::SeqCst) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let mut bytes = vec![0; len];
            self.file.read_exact_at(&mut bytes, self.start + offset)?;
            Ok(Fetched::Unkept(bytes.into()))
        })
    }
}

/// A layer on disk.
#[derive(Debug)]
pub struct Layer {
    pub image: PathBuf,
    pub data: Arc<Data>,
}

impl Layer {
    pub fn make(image: PathBuf, tree: &Tree) -> Layer {
        let mut writer = ImageWriter::new(Options::default());
        let (mut data, mut nodes) = (Vec::new(), HashMap::new());
        for path in tree.paths() {
            let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
                None => (&b""[..], path),
                Some(slash) => (&path[..slash], &path[slash + 1..]),
            };
            let entry = tree.get(path).unwrap();
            if path.is_empty() {
                writer.set_root(attributes(entry)).unwrap();
                nodes.insert(path, writer.root());
                continue;
            }
            let parent = nodes[parent];
            let primary = tree.primary(path);
            if primary != path {
                writer.link(parent, name, nodes[primary]).unwrap();
                continue;
            }
            let content = content(entry, &mut data);
            nodes.insert(path, writer.add(parent, name, attributes(entry), content).unwrap());
        }
        let mut bytes = Vec::new();
        let layout = writer.write(data.len() as u64, &mut bytes).unwrap();
        bytes.extend(&data);
        fs::write(&image, &bytes).unwrap();
        let file = File::open(&image).unwrap();
        let data = Data {
            file,
            start: layout.data_start,
            size: layout.data_len,
            fails_from: AtomicU64::new(u64::MAX),
            missing_below: AtomicU64::new(0),
            fetches: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
        };
        Layer { image, data: Arc::new(data) }
    }

    pub fn tree(&self) -> ServedTree {
        let source = Arc::clone(&self.data) as Arc<dyn Source>;
        ServedTree::Layer(LayerTree::open(&self.image, source).unwrap())
    }
}

fn attributes(entry: &Entry) -> Attributes {
    let mut xattrs: Vec<_> = entry.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    if entry.kind == (Kind::Dir { opaque: true }) {
        xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
    }
    Attributes {
        mode: entry.mode as u16,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime.secs,
        mtime_nanos: entry.mtime.nanos,
        xattrs,
    }
}

fn content(entry: &Entry, data: &mut Vec<u8>) -> Content {
    match &entry.kind {
        Kind::Dir { .. } => Content::Directory,
        Kind::File(bytes) => {
            let data_offset = data.len() as u64;
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(4096), 0);
            Content::File { size: bytes.len() as u64, data_offset }
        }
        Kind::Symlink(target) => Content::Symlink(target.clone()),
        Kind::Char(device) => Content::CharDevice { major: device.major, minor: device.minor },
        Kind::Block(device) => Content::BlockDevice { major: device.major, minor: device.minor },
        Kind::Fifo => Content::Fifo,
        Kind::Whiteout => Content::CharDevice { major: 0, minor: 0 },
    }
}

/// A backend at work.
pub struct Stage {
    pub place: Place,
    pub backend: Backend,
    runtime: tokio::runtime::Runtime,
    images: Option<ImageServer>,
    pub trees: Option<TreeServer>,
    next: AtomicU32,
}

impl Stage {
    pub fn new(backend: Backend) -> Stage {
        Stage::with(backend, &TreeOptions::default())
    }

    pub fn with(backend: Backend, options: &TreeOptions) -> Stage {
        let (place, runtime) = (Place::new(), runtime());
        let target = place.dir("session");
        let (mut images, mut trees) = (None, None);
        if backend == Backend::Fuse {
            let session = Session::mount_trees(&target, options).unwrap();
            trees = Some(TreeServer::start(session, options, runtime.handle().clone(), Vec::new()).unwrap());
        } else {
            let session = Session::mount(&target, SessionOptions::default()).unwrap();
            images = Some(ImageServer::start(session, runtime.handle().clone(), Vec::new()).unwrap());
        }
        Stage { place, backend, runtime, images, trees, next: AtomicU32::new(2) }
    }

    pub fn layer(&self, name: &str, tree: &Tree) -> Layer {
        Layer::make(self.place.path(&format!("{name}.erofs")), tree)
    }

    /// Shows a layer at a directory of this name, served and not complete.
    pub fn show(&self, name: &str, layer: &Layer) -> PathBuf {
        self.show_with(name, layer, None)
    }

    pub fn show_with(&self, name: &str, layer: &Layer, read_ahead_kb: Option<u32>) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let target = self.place.dir(name);
        let served = format!("layer-{number}");
        let at = self.place.path("session").join(&served);
        if let Some(trees) = &self.trees {
            trees.add(Root { number, name: served, tree: layer.tree() }).unwrap();
            bind(&at, &target).unwrap();
            return target;
        }
        let source = Arc::clone(&layer.data) as Arc<dyn Source>;
        self.images.as_ref().unwrap().add(Image { node: number.into(), name: served, source }).unwrap();
        let device = (layer.data.size > 0).then_some(at);
        let options = ErofsOptions { device, direct_io: true, read_ahead_kb, ..ErofsOptions::default() };
        self.mount(&layer.image, &target, &options);
        target
    }

    fn mount(&self, image: &Path, target: &Path, options: &ErofsOptions) {
        match self.backend {
            Backend::Erofs => mount_erofs(image, target, options).unwrap(),
            _ => mount_erofs_loop(image, target, options).unwrap(),
        }
    }

    /// Ends serving, but lets mounts be.
    pub fn stop_serving(&mut self) {
        if let Some(server) = self.images.take() {
            server.shutdown(Ending::Unmount).unwrap();
        }
        if let Some(server) = self.trees.take() {
            server.shutdown(Ending::Unmount).unwrap();
        }
    }

    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop_serving();
    }
}
