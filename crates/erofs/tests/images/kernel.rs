//! The kernel's own view of images: mounted from files, without a loop device, in each way an image is meant to be
//! mounted.
//!
//! Needs root, a kernel that mounts EROFS from files (Linux 6.12) and a temporary directory on a filesystem that it
//! takes them from, which tmpfs and overlayfs are not. Says so and passes without.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use erofs::{Attributes, Content, Layout};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::generate::{self, ACL, CAPABILITY};
use crate::model::{Detail, Seen, Tree, View, attributes, content_hash, data, join};
use crate::skip;

/// A mount that is attached nowhere: it ends with its descriptor, however the test ends.
#[derive(Debug)]
struct Mount(OwnedFd);

impl Mount {
    fn new(image: &Path, device: Option<&Path>) -> Result<Mount, Errno> {
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", image)?;
        if let Some(device) = device {
            fsconfig_set_string(&context, "device", device)?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).map(Mount)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn view(&self) -> View {
        let mut view = View::new();
        let mut first = BTreeMap::new();
        let root = self.path().join(".");
        let mut found = vec![(Vec::new(), root.clone())];
        while let Some((path, place)) = found.pop() {
            let (seen, inode) = see(&place);
            if seen.detail == Detail::Directory {
                for entry in fs::read_dir(&place).unwrap().map(Result::unwrap) {
                    let path = join(&path, entry.file_name().as_bytes());
                    let listed = entry.file_type().unwrap();
                    assert_eq!(listed, entry.path().symlink_metadata().unwrap().file_type());
                    found.push((path, entry.path()));
                }
            }
            if !path.is_empty() {
                let first: &mut Vec<u8> = first.entry(inode).or_insert_with(|| path.clone());
                if path < *first {
                    first.clone_from(&path);
                }
            }
            view.insert(path, seen);
        }
        for (path, seen) in &mut view {
            if !path.is_empty() {
                seen.first_path =
                    first[&root.join(OsStr::from_bytes(path)).symlink_metadata().unwrap().ino()].clone();
            }
        }
        view
    }
}

/// One node and its inode number.
fn see(place: &Path) -> (Seen, u64) {
    let stat = place.symlink_metadata().unwrap();
    let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    let kind = stat.file_type();
    let detail = if kind.is_dir() {
        Detail::Directory
    } else if kind.is_file() {
        let content = fs::read(place).unwrap();
        Detail::File(stat.len(), content_hash(&content))
    } else if kind.is_symlink() {
        Detail::Symlink(fs::read_link(place).unwrap().into_os_string().into_vec())
    } else if kind.is_char_device() {
        Detail::Char(major, minor)
    } else if kind.is_block_device() {
        Detail::Block(major, minor)
    } else if kind.is_fifo() {
        Detail::Fifo
    } else {
        assert!(kind.is_socket());
        Detail::Socket
    };
    let seen = Seen {
        mode: stat.mode().try_into().unwrap(),
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: (stat.mtime(), stat.mtime_nsec().try_into().unwrap()),
        links: stat.nlink().try_into().unwrap(),
        xattrs: xattrs(place),
        detail,
        first_path: Vec::new(),
    };
    (seen, stat.ino())
}

fn xattrs(place: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = rustix::fs::llistxattr(place, &mut names[..]).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::lgetxattr(place, OsStr::from_bytes(name), &mut value[..])
            .unwrap_or_else(|error| panic!("{} of {}: {error}", name.escape_ascii(), place.display()));
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// The files of one image, as each way of mounting wants them.
struct Files {
    directory: tempfile::TempDir,
    has_data: bool,
}

impl Files {
    fn new(image: &[u8], layout: Layout) -> Files {
        let files = Files { directory: tempfile::tempdir().unwrap(), has_data: layout.data_len > 0 };
        fs::write(files.at("metadata"), image).unwrap();
        for name in ["sparse", "flat"] {
            fs::write(files.at(name), image).unwrap();
            File::options()
                .write(true)
                .open(files.at(name))
                .unwrap()
                .set_len(layout.data_start + layout.data_len)
                .unwrap();
        }
        File::create(files.at("data")).unwrap().set_len(layout.data_len).unwrap();
        files
    }

    /// Makes up the whole data area.
    fn fill(&self, layout: Layout) {
        self.fill_range(layout, 0, layout.data_len);
    }

    fn fill_range(&self, layout: Layout, offset: u64, len: u64) {
        let bytes = data(offset, len);
        let write = |name, at| {
            let file = File::options().write(true).open(self.at(name)).unwrap();
            file.write_all_at(&bytes, at).unwrap();
        };
        write("flat", layout.data_start + offset);
        write("data", offset);
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The image mounted in each way, or nothing where this kernel mounts no EROFS from files.
    fn mounts(&self) -> Option<Vec<(&'static str, Mount)>> {
        let (flat, data) = (self.at("flat"), self.at("data"));
        let (metadata, sparse) = (self.at("metadata"), self.at("sparse"));
        let mut ways = vec![("one file", &flat, None)];
        if self.has_data {
            ways.push(("metadata file and device", &metadata, Some(data.as_path())));
            ways.push(("sparse file and device", &sparse, Some(data.as_path())));
        }
        ways.into_iter()
            .map(|(way, image, device)| match Mount::new(image, device) {
                Ok(mount) => Some((way, mount)),
                Err(error @ (Errno::PERM | Errno::NODEV | Errno::NOTBLK)) => {
                    skip(&format!(
                        "cannot mount EROFS from files in {} ({error})",
                        self.directory.path().display()
                    ));
                    None
                }
                Err(error) => panic!("mounting from {way}: {error}"),
            })
            .collect()
    }
}

fn check(tree: &Tree) {
    let (image, layout) = tree.image();
    let files = Files::new(&image, layout);
    files.fill(layout);
    let expected = tree.view();
    for (way, mount) in files.mounts().unwrap_or_default() {
        let view = mount.view();
        for (path, seen) in &expected {
            assert_eq!(view.get(path), Some(seen), "{}, mounted from {way}", path.escape_ascii());
        }
        assert_eq!(view.len(), expected.len(), "mounted from {way}");
    }
}

#[test]
fn random_trees_are_seen_as_they_were_written() {
    for tree in generate::samples(100) {
        check(&tree);
    }
}

#[test]
fn an_empty_tree_is_seen() {
    check(&Tree::new());
}

#[test]
fn xattrs_may_be_as_long_as_the_format_allows() {
    let mut tree = Tree::new();
    let mut long = Attributes { xattrs: Vec::new(), ..attributes(0o644) };
    for letter in ['a', 'b', 'c'] {
        long.xattrs.push((format!("user.{letter}").into_bytes(), vec![letter as u8; 65_535]));
    }
    long.xattrs.push((format!("trusted.{}", "n".repeat(247)).into_bytes(), vec![1; 60_000]));
    long.xattrs.push((b"security.capability".to_vec(), CAPABILITY.to_vec()));
    long.xattrs.push((b"system.posix_acl_access".to_vec(), ACL.to_vec()));
    tree.add_file(None, b"file", long.clone(), 5000);
    long.xattrs.push((b"system.posix_acl_default".to_vec(), ACL.to_vec()));
    let directory = tree.add(None, b"directory", long.clone(), Content::Directory);
    long.xattrs.retain(|(name, _)| name.starts_with(b"trusted."));
    for len in [1, 31, 32, 1000, 4000, 4094, 4095] {
        let name = format!("symlink to {len} bytes");
        tree.add(Some(directory), name.as_bytes(), long.clone(), Content::Symlink(vec![b'x'; len]));
    }
    check(&tree);
}

#[test]
fn directories_of_every_size_are_seen_whole() {
    let mut tree = Tree::new();
    // Around the limits of one and of two blocks, inline and not.
    for count in [0, 1, 100, 234, 235, 236, 237, 240, 272, 273, 274, 500, 545, 546, 3000] {
        let name = format!("{count} entries");
        let directory = tree.add(None, name.as_bytes(), attributes(0o755), Content::Directory);
        for i in 0..count {
            tree.add(Some(directory), format!("{i:03}").as_bytes(), attributes(0o600), Content::Socket);
        }
    }
    check(&tree);
}

#[test]
fn names_sort_around_the_dots_and_as_bytes() {
    let mut tree = Tree::new();
    for name in ["!", "-", "...", "..a", ".a", "A", "a", "a\u{e9}", "\u{e9}", "\u{1}", "\u{7f}"] {
        tree.add_file(None, name.as_bytes(), attributes(0o644), 1);
    }
    tree.add_file(None, &[0xff; 255], attributes(0o644), 4097);
    check(&tree);
}

#[test]
fn a_file_may_be_larger_than_4_gib() {
    const GIB: u64 = 1 << 30;
    let mut tree = Tree::new();
    tree.add_file(None, b"before", attributes(0o644), 10);
    let size = 6 * GIB + 5;
    let large = tree.add_file(None, b"large", attributes(0o644), size);
    tree.add_file(None, b"behind", attributes(0o644), 10);
    let Content::File { data_offset, .. } = tree.nodes[large].content else { unreachable!() };
    let (image, layout) = tree.image();
    let files = Files::new(&image, layout);
    let places = [(0, 20), (4 * GIB - 10, 20), (size - 5, 5)];
    for (at, len) in places {
        files.fill_range(layout, data_offset + at, len);
    }
    for (way, mount) in files.mounts().unwrap_or_default() {
        let mut file = File::open(mount.path().join("large")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size, "{way}");
        for (at, len) in places {
            file.seek(SeekFrom::Start(at)).unwrap();
            let mut bytes = vec![0; len as usize];
            file.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, data(data_offset + at, len), "{way}, byte {at}");
        }
    }
}

#[test]
fn content_may_arrive_after_the_mount() {
    let mut tree = Tree::new();
    tree.add_file(None, b"early", attributes(0o644), 4096);
    tree.add_file(None, b"late", attributes(0o644), 300_000);
    let (image, layout) = tree.image();
    let files = Files::new(&image, layout);
    let mounts = files.mounts().unwrap_or_default();
    files.fill(layout);
    for (way, mount) in mounts {
        let content = fs::read(mount.path().join("late")).unwrap();
        assert!(content == data(4096, 300_000), "{way}");
    }
}
