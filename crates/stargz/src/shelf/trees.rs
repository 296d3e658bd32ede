//! The FUSE session of whole trees: those of layers with the backend `fuse`, and those that report on layers.

use std::collections::HashMap;
use std::path::PathBuf;

use mount::{Ending, Root, Session, Tree, TreeOptions, TreeServer};
use tokio::runtime::Handle;

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
    /// Mounts the session at the existing directory `dir`. Blocks.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(dir: PathBuf, options: &TreeOptions, runtime: Handle) -> Result<Trees, mount::Error> {
        let session = Session::mount_trees(&dir, options)?;
        let server = TreeServer::start(session, options, runtime, Vec::new())?;
        Ok(Trees { server, dir, numbers: HashMap::new(), planted: HashMap::new() })
    }

    /// Adds a tree under `name`, or under a name with a number behind it where that is in use. Trees of the same such
    /// name must be the same. Returns the tree's number and where it is.
    ///
    /// # Errors
    /// There are more names than numbers.
    pub fn add(&mut self, name: &str, tree: Tree) -> Result<(u32, PathBuf), mount::Error> {
        let in_use = |name: &String| self.planted.values().any(|planted| planted == name);
        let mut names =
            std::iter::once(name.to_owned()).chain((2_u32..).map(|copy| format!("{name}.{copy}")));
        let name = names.find(|name| !in_use(name)).unwrap_or_default();
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).saturating_add(1);
        let number = self.numbers.get(&name).copied().unwrap_or(next);
        self.server.add(Root { number, name: name.clone(), tree })?;
        let at = self.dir.join(&name);
        self.numbers.insert(name.clone(), number);
        self.planted.insert(number, name);
        Ok((number, at))
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
