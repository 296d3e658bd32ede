//! The FUSE session of whole trees: those of layers with the backend `fuse`, and those that report on layers.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use format::Digest;
use mount::{Ending, LayerTree, Root, Session, StateDir, Tree, TreeOptions, TreeServer};
use tokio::runtime::Handle;

use super::go_on::identity;
use super::served::Served;

/// What names of trees that report on layers begin with.
pub const STATE: &str = "state-";

/// A path, the number of the tree that is bound to it, and the layer that the tree shows.
type GoneOn = (PathBuf, u32, Arc<Served>);

/// A session, and the numbers that its trees have.
#[derive(Debug)]
pub struct Trees {
    server: TreeServer,
    dir: PathBuf,
    /// The number of each name that was ever used: the kernel remembers nodes, so a number is never given to another name.
    numbers: HashMap<String, u32>,
    /// The names of the trees that are there.
    planted: HashMap<u32, String>,
}

impl Trees {
    /// Serves the new session that is mounted at `dir`. Blocks.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin(
        dir: PathBuf,
        session: Session,
        options: &TreeOptions,
        runtime: Handle,
    ) -> Result<Trees, mount::Error> {
        let server = TreeServer::start(session, options, runtime, Vec::new())?;
        let list = dir.with_extension("list");
        match fs::remove_file(&list) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(mount::Error::File { action: "remove", path: list, source });
            }
            _ => {}
        }
        Ok(Trees { server, dir, numbers: HashMap::new(), planted: HashMap::new() })
    }

    /// Goes on with a session of a former process, in which the trees of these layers are bound to these paths. What
    /// reported on layers is empty from now on; new trees report again. Returns the paths that are served, with the numbers
    /// of their trees.
    ///
    /// # Errors
    /// The kernel refuses, or the list of the former process cannot be read.
    pub fn go_on(
        dir: PathBuf,
        session: Session,
        options: &TreeOptions,
        runtime: Handle,
        layers: Vec<(String, PathBuf, Arc<Served>)>,
    ) -> Result<(Trees, Vec<GoneOn>), mount::Error> {
        let path = dir.with_extension("list");
        let text = match fs::read_to_string(&path) {
            // No tree was ever added.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            result => result.map_err(|source| mount::Error::File { action: "read", path, source })?,
        };
        let numbers = parse(&text);
        let (mut roots, mut places, mut planted) = (Vec::new(), Vec::new(), HashMap::new());
        for (name, path, served) in layers {
            // Made anew, it is another tree, and whoever still looks at the former one gets ESTALE.
            let Some(&(number, _)) = numbers.get(&name).filter(|(_, of)| *of == mark(&served)) else {
                continue;
            };
            let tree = Tree::Layer(LayerTree::open(&served.layer.image_path(), served.clone())?);
            planted.insert(number, name.clone());
            roots.push(Root { number, name, tree });
            places.push((path, number, served));
        }
        for (name, (number, _)) in numbers.iter().filter(|(name, _)| name.starts_with(STATE)) {
            let tree = Tree::State(StateDir::new(super::state::DIRECTORY, Vec::new())?);
            planted.insert(*number, name.clone());
            roots.push(Root { number: *number, name: name.clone(), tree });
        }
        let server = TreeServer::start(session, options, runtime, roots)?;
        let numbers = numbers.into_iter().map(|(name, (number, _))| (name, number)).collect();
        Ok((Trees { server, dir, numbers, planted }, places))
    }

    /// Adds a tree under `name`, or under a name with a number behind it where that is in use. Trees of the same such
    /// name must be the same: `of` is the layer that it shows. Returns the tree's number and where it is.
    ///
    /// # Errors
    /// There are more names than numbers.
    pub fn add(
        &mut self,
        name: &str,
        of: Option<&Served>,
        tree: Tree,
    ) -> Result<(u32, PathBuf), mount::Error> {
        let in_use = |name: &String| self.planted.values().any(|planted| planted == name);
        let mut names =
            std::iter::once(name.to_owned()).chain((2_u32..).map(|copy| format!("{name}.{copy}")));
        let name = names.find(|name| !in_use(name)).unwrap_or_default();
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).saturating_add(1);
        let number = match self.numbers.get(&name) {
            Some(number) => *number,
            None => {
                self.note(next, &name, of)?;
                next
            }
        };
        self.server.add(Root { number, name: name.clone(), tree })?;
        let at = self.dir.join(&name);
        self.numbers.insert(name.clone(), number);
        self.planted.insert(number, name);
        Ok((number, at))
    }

    /// Writes down a number, for a process that goes on. Before the kernel learns of it.
    fn note(&self, number: u32, name: &str, of: Option<&Served>) -> Result<(), mount::Error> {
        let path = self.dir.with_extension("list");
        let line = format!("{number} {name} {}\n", of.map_or_else(|| "-".to_owned(), mark));
        let mut options = fs::OpenOptions::new();
        let written = options.append(true).create(true).mode(0o600).open(&path);
        written.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|source| mount::Error::File {
            action: "write",
            path,
            source,
        })
    }

    /// Where a tree is.
    pub fn at(&self, number: u32) -> Option<PathBuf> {
        self.planted.get(&number).map(|name| self.dir.join(name))
    }

    /// Takes a tree away.
    pub fn remove(&mut self, number: u32) {
        self.planted.remove(&number);
        self.server.remove(number);
    }

    /// Stops to serve. Blocks.
    ///
    /// # Errors
    /// The session cannot be unmounted.
    pub fn close(self, ending: Ending) -> Result<(), mount::Error> {
        self.server.shutdown(ending)
    }
}

/// What a tree was made from, as one word.
fn mark(served: &Served) -> String {
    let identity = identity(&served.layer.image_path());
    Digest::of(format!("{identity:?}").as_bytes()).hex()
}

/// The list of a former process: a number, a name and a mark in each line. A torn last line is of a tree that nobody saw.
fn parse(text: &str) -> HashMap<String, (u32, String)> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (number, name, mark) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        Some((name.to_owned(), (number, mark.to_owned())))
    };
    whole.lines().filter_map(line).collect()
}
