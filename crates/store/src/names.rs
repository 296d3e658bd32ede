//! The tree of paths.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use format::Digest;
use mount::{BoxFuture, Content, Entry, Fetched, Names, Source};
use rustix::io::Errno;

use crate::state::Key;
use crate::store::Inner;

/// The directory in which layers are mounted.
pub(crate) const LAYERS: &str = ".layers";
const POOL: &str = "pool";

const ROOT: u64 = 1;
/// What a name of this tree stands for does not change, as long as it stands for something.
const STABLE: Duration = Duration::from_secs(3600);
/// Most nodes that are remembered by number. Those of layers in use are found again when they are looked up.
const NODES_MAX: usize = 64 << 10;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Pool,
    Layers,
    Mount(String),
    Image(Arc<str>),
    Layer(Key),
    Diff(Key),
    Info(Key),
    Blob(Key),
}

/// The tree over a store.
#[derive(Debug)]
pub(crate) struct Tree {
    store: Arc<Inner>,
    /// The nodes that were given out, by number: a function of what they are, so that a later process gives the same.
    nodes: Mutex<HashMap<u64, Place>>,
}

impl Tree {
    pub(crate) fn new(store: Arc<Inner>) -> Tree {
        Tree { store, nodes: Mutex::default() }
    }

    fn place(&self, node: u64) -> Option<Place> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// What is at a place, if it is there now.
    fn entry(&self, place: Place) -> Option<Entry> {
        let directory = |mode| (Content::Directory, mode, STABLE);
        let (content, mode, valid) = match &place {
            Place::Pool => (Content::Link(self.store.pool().to_owned()), 0o777, STABLE),
            Place::Layers => directory(0o711),
            // Nobody shall take it for a layer while nothing is mounted on it.
            Place::Mount(name) if self.store.has_mount(name) => directory(0o000),
            Place::Mount(_) => return None,
            Place::Image(_) | Place::Layer(_) => directory(0o700),
            // Asked for each time, so that what is shown is known to be wanted.
            Place::Diff(key) => {
                let ready = self.store.state().ready(key)?;
                let target = PathBuf::from("../..").join(LAYERS).join(&ready.mount);
                (Content::Link(target), 0o777, Duration::ZERO)
            }
            Place::Info(key) => {
                (Content::File(self.store.state().ready(key)?.info.clone()), 0o400, Duration::ZERO)
            }
            Place::Blob(key) => {
                (Content::File(self.store.state().ready(key)?.blob.clone()), 0o400, Duration::ZERO)
            }
        };
        let node = number(&place);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
            // Whoever holds one of them looks it up again.
            nodes.clear();
        }
        nodes.insert(node, place);
        Some(Entry { node, content, mode, valid })
    }

    /// What a name in a directory stands for.
    async fn find(&self, directory: u64, name: &str) -> io::Result<Entry> {
        let place = match (directory, self.place(directory)) {
            (ROOT, _) => match name {
                POOL => Place::Pool,
                LAYERS => Place::Layers,
                name => self.image(name).map(Place::Image).ok_or(Errno::NOENT)?,
            },
            (_, None) => return Err(Errno::STALE.into()),
            (_, Some(Place::Layers)) => Place::Mount(name.to_owned()),
            (_, Some(Place::Image(reference))) => Place::Layer(Key { reference, name: digest_of(name)? }),
            (_, Some(Place::Layer(key))) => {
                let known = self.see(&key.reference);
                let place = match name {
                    "diff" => Place::Diff(key.clone()),
                    "info" => Place::Info(key.clone()),
                    "blob" => Place::Blob(key.clone()),
                    _ => return Err(Errno::NOENT.into()),
                };
                known.ok_or(Errno::NOENT)?;
                self.store.ready(&key).await?;
                place
            }
            (_, Some(Place::Mount(_))) => return Err(Errno::IO.into()),
            (_, Some(_)) => return Err(Errno::NOTDIR.into()),
        };
        Ok(self.entry(place).ok_or(Errno::NOENT)?)
    }

    /// The image whose name is written in base64.
    fn image(&self, name: &str) -> Option<Arc<str>> {
        let reference: Arc<str> = String::from_utf8(STANDARD.decode(name).ok()?).ok()?.into();
        self.see(&reference)?;
        Some(reference)
    }

    /// Notes that an image is asked for.
    fn see(&self, reference: &Arc<str>) -> Option<()> {
        let parsed = reference.parse().ok()?;
        self.store.state().see(reference, parsed, Instant::now())
    }

    /// The layer that a name in a directory names.
    fn layer(&self, directory: u64, name: &str) -> io::Result<Key> {
        match self.place(directory) {
            Some(Place::Image(reference)) => Ok(Key { reference, name: digest_of(name)? }),
            Some(_) => Err(Errno::PERM.into()),
            None => Err(Errno::STALE.into()),
        }
    }

    /// A layer is used once more, and how that ends.
    async fn used(&self, directory: u64, name: &str) -> io::Error {
        match self.place(directory) {
            Some(Place::Layer(key)) if name == "use" => {
                self.see(&key.reference);
                self.store.count(&key, true).await;
                Errno::NOENT.into()
            }
            Some(_) => Errno::PERM.into(),
            None if directory == ROOT => Errno::PERM.into(),
            None => Errno::STALE.into(),
        }
    }

    /// A layer is used once less, and how that ends.
    async fn released(&self, directory: u64, name: &str) -> io::Error {
        match self.layer(directory, name) {
            Ok(key) => {
                self.store.count(&key, false).await;
                Errno::NOENT.into()
            }
            Err(error) => error,
        }
    }
}

impl Names for Tree {
    fn get(&self, node: u64) -> Option<Entry> {
        if node == ROOT {
            // Others may pass through to layers that are mounted below.
            return Some(Entry { mode: 0o711, ..Entry::root() });
        }
        self.entry(self.place(node)?)
    }

    fn list(&self, directory: u64) -> io::Result<Vec<(String, Entry)>> {
        let state = || self.store.state();
        let names: Vec<(String, Place)> = match (directory, self.place(directory)) {
            (ROOT, _) => {
                let own = [(LAYERS.to_owned(), Place::Layers), (POOL.to_owned(), Place::Pool)];
                let references = state().references();
                let images = references.into_iter().map(|name| (STANDARD.encode(&*name), Place::Image(name)));
                own.into_iter().chain(images).collect()
            }
            (_, Some(Place::Layers)) => {
                self.store.mount_names().into_iter().map(|name| (name.clone(), Place::Mount(name))).collect()
            }
            (_, Some(Place::Image(reference))) => {
                let names = state().names(&reference).into_iter();
                names
                    .map(|name| (name.to_string(), Place::Layer(Key { reference: reference.clone(), name })))
                    .collect()
            }
            (_, Some(Place::Layer(key))) => [
                ("blob", Place::Blob(key.clone())),
                ("diff", Place::Diff(key.clone())),
                ("info", Place::Info(key)),
            ]
            .map(|(name, place)| (name.to_owned(), place))
            .into(),
            // A layer's directory on which nothing is mounted is no empty layer.
            _ => return Err(Errno::IO.into()),
        };
        Ok(names.into_iter().filter_map(|(name, place)| Some((name, self.entry(place)?))).collect())
    }

    fn lookup(self: Arc<Self>, directory: u64, name: OsString) -> BoxFuture<'static, io::Result<Entry>> {
        Box::pin(async move { self.find(directory, name.to_str().ok_or(Errno::NOENT)?).await })
    }

    fn create(self: Arc<Self>, directory: u64, name: OsString) -> BoxFuture<'static, io::Error> {
        Box::pin(async move { self.used(directory, &name.to_string_lossy()).await })
    }

    fn remove_dir(self: Arc<Self>, directory: u64, name: OsString) -> BoxFuture<'static, io::Error> {
        Box::pin(async move { self.released(directory, &name.to_string_lossy()).await })
    }
}

fn digest_of(name: &str) -> io::Result<Digest> {
    name.parse().map_err(|_| Errno::INVAL.into())
}

/// The number of a node: far above those that have a meaning of their own.
fn number(place: &Place) -> u64 {
    let name = match place {
        Place::Pool => "pool".to_owned(),
        Place::Layers => "layers".to_owned(),
        Place::Mount(name) => format!("mount {name}"),
        Place::Image(reference) => format!("image {reference}"),
        Place::Layer(Key { reference, name }) => format!("layer {name} {reference}"),
        Place::Diff(Key { reference, name }) => format!("diff {name} {reference}"),
        Place::Info(Key { reference, name }) => format!("info {name} {reference}"),
        Place::Blob(Key { reference, name }) => format!("blob {name} {reference}"),
    };
    let digest = Digest::of(name.as_bytes());
    let start = digest.raw().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(start) | 1 << 63
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Bytes(pub Arc<[u8]>);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.0.get(start..).and_then(|rest| rest.get(..buf.len())).ok_or(Errno::INVAL)?;
        buf.copy_from_slice(bytes);
        Ok(true)
    }

    fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async { Ok(Fetched::Stored) })
    }
}
