//! A tree kept as plainly as possible, and the form in which trees from different sources are compared.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use erofs::reader::{Image, Inode};
use erofs::{Attributes, BLOCK_SIZE, Content, ImageWriter, Layout, NodeId, Options};

/// A node, and every (parent, name) that leads to it; a parent of `None` is the root.
#[derive(Clone, Debug)]
pub struct Node {
    pub attributes: Attributes,
    pub content: Content,
    pub names: Vec<(Option<usize>, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub root: Attributes,
    pub nodes: Vec<Node>,
    pub data_len: u64,
}

impl Tree {
    pub fn new() -> Tree {
        Tree { root: attributes(0o755), ..Tree::default() }
    }

    pub fn add(
        &mut self,
        parent: Option<usize>,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> usize {
        if let Content::File { size, data_offset } = content
            && size > 0
        {
            let end = (data_offset + size).next_multiple_of(u64::from(BLOCK_SIZE));
            self.data_len = self.data_len.max(end);
        }
        self.nodes.push(Node { attributes, content, names: vec![(parent, name.to_vec())] });
        self.nodes.len() - 1
    }

    /// Adds a file whose content starts where those of before end.
    pub fn add_file(
        &mut self,
        parent: Option<usize>,
        name: &[u8],
        attributes: Attributes,
        size: u64,
    ) -> usize {
        let data_offset = self.data_len;
        self.add(parent, name, attributes, Content::File { size, data_offset })
    }

    pub fn has(&self, parent: Option<usize>, name: &[u8]) -> bool {
        self.nodes.iter().flat_map(|node| &node.names).any(|(p, n)| *p == parent && n == name)
    }

    pub fn directories(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].content == Content::Directory).collect()
    }

    /// The image, its nodes added in the order in which they are in the tree.
    pub fn image(&self) -> (Vec<u8>, Layout) {
        let entries: Vec<_> =
            (0..self.nodes.len()).flat_map(|i| (0..self.nodes[i].names.len()).map(move |j| (i, j))).collect();
        self.image_by(&entries)
    }

    /// The image, its names added in the order that `entries` (node, name of it) gives as far as parents allow.
    pub fn image_by(&self, entries: &[(usize, usize)]) -> (Vec<u8>, Layout) {
        let mut writer = ImageWriter::new(Options { uuid: *b"0123456789abcdef", ..Options::default() });
        writer.set_root(self.root.clone()).unwrap();
        let mut ids: Vec<Option<NodeId>> = vec![None; self.nodes.len()];
        let mut pending = entries.to_vec();
        while !pending.is_empty() {
            pending.retain(|&(i, j)| {
                let Node { attributes, content, names } = &self.nodes[i];
                let (parent, name) = &names[j];
                let Some(parent) = parent.map_or(Some(writer.root()), |parent| ids[parent]) else {
                    return true;
                };
                match ids[i] {
                    Some(id) => writer.link(parent, name, id).unwrap(),
                    None => {
                        ids[i] = Some(writer.add(parent, name, attributes.clone(), content.clone()).unwrap());
                    }
                }
                false
            });
        }
        let mut image = Vec::new();
        let layout = writer.write(self.data_len, &mut image).unwrap();
        assert_eq!(layout.metadata_len, image.len() as u64);
        assert_eq!(layout.data_start, layout.metadata_len);
        assert_eq!(layout.data_len, self.data_len);
        (image, layout)
    }

    /// What one should see of the tree.
    pub fn view(&self) -> View {
        let mut view = View::new();
        let directory_links =
            |of| 2 + self.directories().iter().filter(|&&i| self.nodes[i].names[0].0 == of).count() as u32;
        let root = Node { attributes: self.root.clone(), content: Content::Directory, names: Vec::new() };
        view.insert(Vec::new(), Seen::of_model(&root, directory_links(None), Vec::new()));
        for (i, node) in self.nodes.iter().enumerate() {
            let paths: Vec<_> = node.names.iter().map(|(parent, name)| self.path(*parent, name)).collect();
            let links = match node.content {
                Content::Directory => directory_links(Some(i)),
                _ => node.names.len() as u32,
            };
            let first = paths.iter().min().unwrap().clone();
            for path in paths {
                view.insert(path, Seen::of_model(node, links, first.clone()));
            }
        }
        view
    }

    fn path(&self, parent: Option<usize>, name: &[u8]) -> Vec<u8> {
        match parent {
            None => name.to_vec(),
            Some(parent) => {
                let (above, parent_name) = &self.nodes[parent].names[0];
                join(&self.path(*above, parent_name), name)
            }
        }
    }
}

pub fn attributes(mode: u16) -> Attributes {
    Attributes { mode, ..Attributes::default() }
}

/// Everything about a tree that can be seen, by path; the root's path is empty.
pub type View = BTreeMap<Vec<u8>, Seen>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub links: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub detail: Detail,
    /// The first of the paths that lead to the same node.
    pub first_path: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    Directory,
    /// Length and a hash of the content.
    File(u64, u64),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

impl Seen {
    fn of_model(node: &Node, links: u32, first_path: Vec<u8>) -> Seen {
        let Attributes { mode, uid, gid, mtime, mtime_nanos, ref xattrs } = node.attributes;
        let (kind, detail) = match node.content {
            Content::Directory => (0o040_000, Detail::Directory),
            Content::File { .. } => (0o100_000, Detail::of(&node.content)),
            Content::Symlink(_) => (0o120_000, Detail::of(&node.content)),
            Content::CharDevice { .. } => (0o020_000, Detail::of(&node.content)),
            Content::BlockDevice { .. } => (0o060_000, Detail::of(&node.content)),
            Content::Fifo => (0o010_000, Detail::Fifo),
            Content::Socket => (0o140_000, Detail::Socket),
        };
        let xattrs = xattrs.iter().cloned().collect();
        Seen { mode: kind | mode, uid, gid, mtime: (mtime, mtime_nanos), links, xattrs, detail, first_path }
    }
}

impl Detail {
    fn of(content: &Content) -> Detail {
        match content {
            Content::Directory => Detail::Directory,
            Content::File { size, data_offset } => {
                Detail::File(*size, content_hash(&data(*data_offset, *size)))
            }
            Content::Symlink(target) => Detail::Symlink(target.clone()),
            Content::CharDevice { major, minor } => Detail::Char(*major, *minor),
            Content::BlockDevice { major, minor } => Detail::Block(*major, *minor),
            Content::Fifo => Detail::Fifo,
            Content::Socket => Detail::Socket,
        }
    }
}

pub fn content_hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// The bytes of the data area from `offset` on: each depends on its place alone.
pub fn data(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// What the reader sees of an image.
pub fn read_view(bytes: &[u8]) -> View {
    let image = Image::open(bytes).unwrap();
    let root = image.inode(image.root()).unwrap();
    let mut view = View::new();
    read_directory(&image, &root, &root, &[], &mut view);
    view.insert(Vec::new(), read_node(&image, &root));
    let mut first = BTreeMap::new();
    let mut nids = BTreeMap::new();
    collect_nids(&image, &root, &[], &mut nids);
    for (path, nid) in &nids {
        first.entry(*nid).or_insert_with(|| path.clone());
    }
    for (path, nid) in &nids {
        view.get_mut(path).unwrap().first_path = first[nid].clone();
    }
    assert_eq!(first.len() as u64 + 1, image.inodes());
    view
}

fn read_directory(image: &Image, directory: &Inode, parent: &Inode, path: &[u8], view: &mut View) {
    let entries: Vec<_> = image.read_dir(directory, 0).unwrap().map(Result::unwrap).collect();
    assert!(entries.is_sorted_by(|a, b| a.name < b.name), "the names of a directory are sorted");
    for entry in &entries {
        assert_eq!(image.lookup(directory, entry.name), Ok(Some(entry.nid)));
        let after: Vec<_> = image.read_dir(directory, entry.next).unwrap().map(Result::unwrap).collect();
        assert!(entries.ends_with(&after), "a listing goes on where it stopped");
        if entries.len() > 500 {
            break;
        }
    }
    assert_eq!(image.lookup(directory, b"no such name"), Ok(None));
    for entry in entries {
        let inode = image.inode(entry.nid).unwrap();
        match entry.name {
            b"." => assert_eq!(inode, *directory),
            b".." => assert_eq!(inode, *parent),
            name => {
                let path = join(path, name);
                view.insert(path.clone(), read_node(image, &inode));
                if inode.mode & 0o170_000 == 0o040_000 {
                    assert_eq!(entry.file_type, 2);
                    read_directory(image, &inode, directory, &path, view);
                }
            }
        }
    }
}

fn collect_nids(image: &Image, directory: &Inode, path: &[u8], nids: &mut BTreeMap<Vec<u8>, u64>) {
    for entry in image.read_dir(directory, 0).unwrap().map(Result::unwrap) {
        if matches!(entry.name, b"." | b"..") {
            continue;
        }
        let path = join(path, entry.name);
        nids.insert(path.clone(), entry.nid);
        if entry.file_type == 2 {
            collect_nids(image, &image.inode(entry.nid).unwrap(), &path, nids);
        }
    }
}

fn read_node(image: &Image, inode: &Inode) -> Seen {
    let xattrs: BTreeMap<_, _> = image
        .xattrs(inode)
        .unwrap()
        .map(|xattr| xattr.map(|xattr| (xattr.name(), xattr.value.to_vec())).unwrap())
        .collect();
    for (name, value) in &xattrs {
        assert_eq!(image.xattr(inode, name), Ok(Some(value.as_slice())));
    }
    assert_eq!(image.xattr(inode, b"user.none"), Ok(None));
    Seen {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: (inode.mtime, inode.mtime_nanos),
        links: inode.links,
        xattrs,
        detail: Detail::of(&image.content(inode).unwrap()),
        first_path: Vec::new(),
    }
}
