//! The flat directory that a session shows: which files there are, and how they look to the kernel.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::dirents::{Dirents, Form, Listed, kind};
use crate::error::Error;
use crate::source::Source;
use crate::wire::{Attr, AttrOut, EntryOut, ROOT_NODE};

/// A name may be this long, as everywhere in Linux.
pub(crate) const NAME_MAX: usize = 255;
/// Names and attributes never change while a file is there, and we say so when it goes. In seconds, about 136 years:
/// the kernel turns it into a point in time, so that the largest number there is would be asking for trouble.
pub(crate) const FOREVER: u64 = u32::MAX as u64;

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) node: u64,
    pub(crate) name: Arc<str>,
    /// In bytes, as the source gave it when the file was added.
    pub(crate) size: u64,
    pub(crate) source: Arc<dyn Source>,
}

/// The files, findable by node and by name.
#[derive(Debug, Default)]
pub(crate) struct Files {
    by_node: BTreeMap<u64, Arc<File>>,
    nodes: HashMap<Arc<str>, u64>,
}

impl Files {
    /// Adds a file whose node and name are not in use.
    pub(crate) fn insert(&mut self, file: File) -> Result<(), Error> {
        if let Some(reason) = self.refusal(&file) {
            return Err(Error::Rejected { node: file.node, name: file.name.to_string(), reason });
        }
        self.nodes.insert(Arc::clone(&file.name), file.node);
        self.by_node.insert(file.node, Arc::new(file));
        Ok(())
    }

    fn refusal(&self, File { node, name, .. }: &File) -> Option<&'static str> {
        if *node <= ROOT_NODE {
            Some("nodes 0 and 1 are reserved")
        } else if !is_name(name) {
            Some("not a valid file name")
        } else if self.by_node.contains_key(node) {
            Some("the node is in use")
        } else if self.nodes.contains_key(name) {
            Some("the name is in use")
        } else {
            None
        }
    }

    pub(crate) fn remove(&mut self, node: u64) -> Option<Arc<File>> {
        let file = self.by_node.remove(&node)?;
        self.nodes.remove(&file.name);
        Some(file)
    }

    pub(crate) fn get(&self, node: u64) -> Option<&Arc<File>> {
        self.by_node.get(&node)
    }

    pub(crate) fn lookup(&self, name: &[u8]) -> Option<&Arc<File>> {
        self.get(*self.nodes.get(std::str::from_utf8(name).ok()?)?)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_node.len()
    }

    /// Attributes of a file or of the directory.
    pub(crate) fn attributes(&self, node: u64) -> Option<AttrOut> {
        let attr = if node == ROOT_NODE { directory_attr() } else { self.get(node)?.attr() };
        Some(AttrOut { attr_valid: FOREVER, attr_valid_nsec: 0, padding: 0, attr })
    }

    /// Writes directory entries from position `offset` on into `buf`, as many as fit, and says how many bytes it used.
    /// Positions are counted, since nodes can be larger than the kernel's signed directory offsets.
    pub(crate) fn list(&self, offset: u64, buf: &mut [u8]) -> usize {
        let dots = [(ROOT_NODE, ".", kind::DIRECTORY), (ROOT_NODE, "..", kind::DIRECTORY)];
        let files = self.by_node.values().map(|file| (file.node, &*file.name, kind::REGULAR));
        let entries = (1_u64..).zip(dots.into_iter().chain(files));
        let mut out = Dirents::new(buf, Form::Plain);
        for (next, (ino, name, kind)) in entries.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if !out.push(Listed { ino, next, kind, name: name.as_bytes() }, EntryOut::default) {
                break;
            }
        }
        out.used()
    }
}

/// Whether a file can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.contains(['/', '\0']) && name != "." && name != ".."
}

impl File {
    pub(crate) fn entry(&self) -> EntryOut {
        EntryOut {
            node: self.node,
            generation: 0,
            entry_valid: FOREVER,
            attr_valid: FOREVER,
            entry_valid_nsec: 0,
            attr_valid_nsec: 0,
            attr: self.attr(),
        }
    }

    fn attr(&self) -> Attr {
        Attr {
            ino: self.node,
            size: self.size,
            blocks: self.size.div_ceil(512),
            mode: 0o100_400,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        }
    }
}

fn directory_attr() -> Attr {
    Attr { ino: ROOT_NODE, mode: 0o040_500, nlink: 2, blksize: 4096, ..Attr::default() }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::source::{BoxFuture, Fetched};
    use crate::wire::Dirent;

    #[derive(Debug)]
    struct Nothing;

    impl Source for Nothing {
        fn size(&self) -> u64 {
            0
        }
        fn read_local(&self, _: u64, _: &mut [u8]) -> io::Result<bool> {
            Ok(true)
        }
        fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
            Box::pin(async { Ok(Fetched::Stored) })
        }
    }

    fn file(node: u64, name: &str) -> File {
        File { node, name: name.into(), size: 0, source: Arc::new(Nothing) }
    }

    #[test]
    fn nodes_and_names_are_unique_and_sane() {
        let mut files = Files::default();
        files.insert(file(2, "a")).unwrap();
        for (node, name) in
            [(0, "b"), (1, "b"), (2, "b"), (3, "a"), (3, ""), (3, "."), (3, ".."), (3, "a/b"), (3, "a\0")]
        {
            assert!(files.insert(file(node, name)).is_err(), "{node} {name:?}");
        }
        assert!(files.insert(file(3, &"x".repeat(256))).is_err());
        files.insert(file(u64::MAX, &"x".repeat(255))).unwrap();
        assert_eq!(files.lookup(b"a").map(|f| f.node), Some(2));
        assert!(files.remove(2).is_some() && files.remove(2).is_none());
        assert!(files.lookup(b"a").is_none() && files.get(2).is_none());
        files.insert(file(2, "a")).unwrap();
    }

    #[test]
    fn a_listing_goes_on_where_the_buffer_ended() {
        let mut files = Files::default();
        let names: Vec<String> = (0..50).map(|n| format!("layer-{n:0width$}", width = n + 1)).collect();
        for (node, name) in (10..).zip(&names) {
            files.insert(file(node, name)).unwrap();
        }
        let mut seen = Vec::new();
        let (mut offset, mut buf) = (0, [0xff; 200]);
        loop {
            let used = files.list(offset, &mut buf);
            let mut rest = &buf[..used];
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let head: Dirent = zerocopy::FromBytes::read_from_prefix(rest).unwrap().0;
                let len = head.namelen as usize;
                seen.push(String::from_utf8(rest[24..24 + len].to_vec()).unwrap());
                offset = head.offset;
                rest = &rest[(24 + len).next_multiple_of(8)..];
            }
        }
        assert_eq!(seen[..2], [".", ".."]);
        assert_eq!(seen[2..], names[..]);
        assert_eq!(files.list(u64::MAX, &mut buf), 0);
        assert_eq!(files.list(0, &mut []), 0);
    }
}
