//! Sessions of trees: what only they have.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::can_mount;
use crate::common::shown::Stage;
use mount::{
    Backend, Caching, Ending, IdMaps, IdRange, Root, Session, SessionOptions, StateContent, StateDir,
    TreeOptions, TreeServer, bind, mount_idmapped, mount_overlay_ro,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::io::Errno;
use testkit::compare::{Ignore, assert_same, read};
use testkit::tree::{Entry, Kind, Options, Tree, join, parent, trees};

/// One thing that a program may do with a tree.
#[derive(Clone, Debug)]
enum Op {
    Stat(Index),
    Missing(Index, String),
    List(Index),
    Read(Index, Index, usize),
    ReadLink(Index),
    Xattr(Index, Index),
    NoXattr(Index),
}

fn op() -> impl Strategy<Value = Op> {
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(Op::Stat),
        (at(), "[a-z.]{1,8}").prop_map(|(at, name)| Op::Missing(at, name)),
        at().prop_map(Op::List),
        (at(), at(), 1..100_000usize).prop_map(|(at, from, len)| Op::Read(at, from, len)),
        at().prop_map(Op::ReadLink),
        (at(), at()).prop_map(|(at, which)| Op::Xattr(at, which)),
        at().prop_map(Op::NoXattr),
    ]
}

/// Does it, and compares with what the model says. Operations that make no sense on what the index leads to do nothing.
fn perform(tree: &Tree, root: &Path, op: &Op) {
    let paths = tree.paths();
    let pick = |index: &Index| {
        let path = paths[index.index(paths.len())];
        (path, tree.get(path).unwrap(), root.join(std::ffi::OsStr::from_bytes(path)))
    };
    match op {
        Op::Stat(index) => {
            let (path, entry, at) = pick(index);
            let meta = fs::symlink_metadata(at).unwrap();
            if entry.kind != Kind::Whiteout {
                assert_eq!((meta.uid(), meta.gid()), (entry.uid, entry.gid));
                assert_eq!(meta.permissions().mode() & 0o7777, entry.mode);
            }
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (entry.mtime.secs, entry.mtime.nanos.into()));
            assert_eq!(meta.nlink(), tree.nlink(path));
            if let Some(content) = entry.content() {
                assert_eq!(meta.len(), content.len() as u64);
            }
        }
        Op::Missing(index, name) => {
            let (path, entry, at) = pick(index);
            if entry.is_dir()
                && name != "."
                && name != ".."
                && tree.get(&join(path, name.as_bytes())).is_none()
            {
                assert_eq!(errno(fs::symlink_metadata(at.join(name))), Some(Errno::NOENT));
            }
        }
        Op::List(index) => {
            let (path, entry, at) = pick(index);
            if entry.is_dir() {
                let listed: BTreeSet<_> =
                    fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_vec()).collect();
                let children = paths.iter().filter(|child| parent(child) == Some(path));
                let names = children.map(|child| child.rsplit(|byte| *byte == b'/').next().unwrap().to_vec());
                assert_eq!(listed, names.collect());
            }
        }
        Op::Read(index, from, len) => {
            let (_, entry, at) = pick(index);
            if let Some(content) = entry.content() {
                let from = from.index(content.len() + 1);
                let mut buf = vec![0xee; *len];
                let got = read_fully(&File::open(at).unwrap(), &mut buf, from as u64);
                let expected = &content[from..content.len().min(from + len)];
                assert!(&buf[..got] == expected);
            }
        }
        Op::ReadLink(index) => {
            let (_, entry, at) = pick(index);
            if let Kind::Symlink(target) = &entry.kind {
                assert_eq!(fs::read_link(at).unwrap().as_os_str().as_bytes(), target);
            }
        }
        Op::Xattr(index, which) => {
            let (_, entry, at) = pick(index);
            if !entry.xattrs.is_empty() {
                let (name, value) = entry.xattrs.iter().nth(which.index(entry.xattrs.len())).unwrap();
                let name = std::ffi::OsStr::from_bytes(name);
                let mut buf = vec![0; value.len()];
                assert_eq!(rustix::fs::lgetxattr(&at, name, &mut buf), Ok(value.len()));
                assert_eq!(&buf, value);
                if value.len() > 1 {
                    let short = &mut buf[..value.len() - 1];
                    assert_eq!(rustix::fs::lgetxattr(&at, name, short), Err(Errno::RANGE));
                }
            }
        }
        Op::NoXattr(index) => {
            let (_, _, at) = pick(index);
            let got = rustix::fs::lgetxattr(&at, "trusted.none", &mut [0; 8]);
            assert_eq!(got, Err(Errno::NODATA));
        }
    }
}

fn read_fully(file: &File, buf: &mut [u8], from: u64) -> usize {
    let mut got = 0;
    loop {
        match file.read_at(&mut buf[got..], from + got as u64).unwrap() {
            0 => return got,
            more => got += more,
        }
    }
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn any_operations_in_any_order_agree_with_the_model() {
    if !can_mount() {
        return;
    }
    for caching in [Caching::Full, Caching::Off] {
        let stage = Stage::with(Backend::Fuse, &TreeOptions { caching, ..TreeOptions::default() });
        let count = AtomicUsize::new(0);
        let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
        let whiteouts = Options { whiteouts: true, ..Options::default() };
        proptest!(config, |(tree in trees(whiteouts), ops in vec(op(), 1..60))| {
            let n = count.fetch_add(1, Ordering::Relaxed);
            let layer = stage.layer(&format!("l{n}"), &tree);
            let root = stage.show(&format!("m{n}"), &layer);
            ops.iter().for_each(|op| perform(&tree, &root, op));
        });
    }
}

#[test]
fn readahead_decides_the_size_of_requests() {
    if !can_mount() {
        return;
    }
    let tree = Tree::new().with("large", Entry::file(vec![7; 3 << 20]));
    for (read_ahead_kb, largest) in [(None, 128 << 10), (Some(1024), 1 << 20)] {
        let stage = Stage::with(Backend::Fuse, &TreeOptions { read_ahead_kb, ..TreeOptions::default() });
        let layer = stage.layer("l", &tree);
        let root = stage.show("m", &layer);
        // In small steps, so that the kernel's guess and not our buffer decides.
        let mut file = io::BufReader::with_capacity(4096, File::open(root.join("large")).unwrap());
        assert_eq!(io::copy(&mut file, &mut io::sink()).unwrap(), 3 << 20);
        assert_eq!(layer.data.largest.load(Ordering::SeqCst), largest, "{read_ahead_kb:?}");
    }
}

#[test]
fn inode_numbers_are_a_function_of_the_tree_and_the_place_in_it() {
    if !can_mount() {
        return;
    }
    let tree = Tree::new().with("d/f", Entry::file("x")).with("g", Entry::file("y"));
    let numbers = || {
        let stage = Stage::new(Backend::Fuse);
        let layer = stage.layer("l", &tree);
        let (a, b) = (stage.show("a", &layer), stage.show("b", &layer));
        [&a, &b].map(|root| ["d", "d/f", "g"].map(|path| fs::metadata(root.join(path)).unwrap().ino()))
    };
    let first = numbers();
    assert_eq!(first, numbers());
    assert_eq!(first.as_flattened().iter().collect::<BTreeSet<_>>().len(), 6, "{first:?}");
}

#[test]
fn trees_come_and_go() {
    if !can_mount() {
        return;
    }
    let stage = Stage::new(Backend::Fuse);
    let session = stage.place.path("session");
    let server = stage.trees.as_ref().unwrap();
    let names = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(&session)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert!(names().is_empty());
    assert!(fs::metadata(session.join("x")).is_err());
    let layer = stage.layer("l", &Tree::new().with("f", Entry::file("x")));
    for (number, name) in [(7, "x"), (8, "y")] {
        server.add(Root { number, name: name.to_owned(), tree: layer.tree() }).unwrap();
    }
    assert_eq!(names(), ["x", "y"]);
    assert_eq!(fs::read(session.join("x/f")).unwrap(), b"x");
    let held = File::open(session.join("x")).unwrap();
    for (number, name, reason) in [
        (7, "z", "number is in use"),
        (9, "y", "name is in use"),
        (0, "z", "from 1"),
        (1 << 24, "z", "from 1"),
        (9, "a/b", "file name"),
    ] {
        let error = server.add(Root { number, name: name.to_owned(), tree: layer.tree() }).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(server.remove(7));
    assert!(!server.remove(7));
    assert_eq!(names(), ["y"]);
    assert_eq!(errno(fs::metadata(session.join("x"))), Some(Errno::NOENT));
    let gone = rustix::fs::openat(&held, "g", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    assert!(matches!(gone, Err(Errno::STALE | Errno::NOENT)), "{gone:?}");
}

#[test]
fn the_mark_of_opaque_directories_has_a_second_name_on_demand() {
    if !can_mount() {
        return;
    }
    let tree = Tree::new().with("d", Entry::new(Kind::Dir { opaque: true })).with("e", Entry::dir());
    for user_xattrs in [false, true] {
        let stage = Stage::with(Backend::Fuse, &TreeOptions { user_xattrs, ..TreeOptions::default() });
        let root = stage.show("m", &stage.layer("l", &tree));
        let get = |path: &str| {
            let mut buf = [0; 8];
            rustix::fs::lgetxattr(root.join(path), "user.overlay.opaque", &mut buf)
                .map(|len| buf[..len].to_vec())
        };
        let expected = if user_xattrs { Ok(b"y".to_vec()) } else { Err(Errno::NODATA) };
        assert_eq!(get("d"), expected);
        assert_eq!(get("e"), Err(Errno::NODATA));
        let mut names = [0_u8; 200];
        let len = rustix::fs::llistxattr(root.join("d"), &mut names).unwrap();
        let listed = if user_xattrs { "user.overlay.opaque\0" } else { "trusted.overlay.opaque\0" };
        assert_eq!(names[..len], *listed.as_bytes());
    }
}

#[test]
fn a_successor_goes_on_with_the_same_trees() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new(Backend::Fuse);
    let target = stage.place.dir("taken");
    let options = TreeOptions::default();
    let layer = stage.layer("l", &Tree::new().with("d/f", Entry::file("x")).with("g", Entry::file("y")));
    let root = || Root { number: 3, name: "x".to_owned(), tree: layer.tree() };
    let session = Session::mount_trees(&target, &options).unwrap();
    let (fd, negotiated) = (session.fd().try_clone_to_owned().unwrap(), session.negotiated());
    let handle = stage.runtime().handle().clone();
    let first = TreeServer::start(session, &options, handle.clone(), vec![root()]).unwrap();
    let open = File::open(target.join("x/d/f")).unwrap();
    first.shutdown(Ending::HandOver).unwrap();
    let session = Session::take_over(&target, fd, negotiated, SessionOptions::default()).unwrap();
    let second = TreeServer::start(session, &options, handle, vec![root()]).unwrap();
    let mut buf = [0; 1];
    open.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"x");
    assert_eq!(fs::read(target.join("x/g")).unwrap(), b"y");
    second.shutdown(Ending::Unmount).unwrap();
    stage.stop_serving();
}

/// A file handle as `name_to_handle_at(2)` fills it in: the length of the opaque part, its type, and the part.
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

#[test]
#[allow(unsafe_code)]
fn a_file_handle_leads_to_its_file_in_a_session_that_never_saw_it() {
    if !can_mount() {
        return;
    }
    let tree = Tree::new().with("a/b/f", Entry::file("found"));
    let (first, second) = (Stage::new(Backend::Fuse), Stage::new(Backend::Fuse));
    let path = first.show("m", &first.layer("l", &tree)).join("a/b/f");
    let path = std::ffi::CString::new(path.into_os_string().into_vec()).unwrap();
    let mut handle = Handle { len: 128, kind: 0, bytes: [0; 128] };
    let mut mount_id = 0;
    // SAFETY: the path ends with a zero, and `Handle` has the layout and the room that it says.
    let made = unsafe {
        let (at, handle) = (libc::AT_FDCWD, &raw mut handle);
        libc::syscall(libc::SYS_name_to_handle_at, at, path.as_ptr(), handle, &raw mut mount_id, 0)
    };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    let root = File::open(second.show("m", &second.layer("l", &tree))).unwrap();
    // SAFETY: the handle was filled in above; the result is a descriptor that nobody else owns, if it is none of -1.
    let file = unsafe {
        let (fd, handle) = (std::os::fd::AsRawFd::as_raw_fd(&root), &raw mut handle);
        let fd = libc::syscall(libc::SYS_open_by_handle_at, fd, handle, libc::O_RDONLY);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        <File as std::os::fd::FromRawFd>::from_raw_fd(fd as i32)
    };
    assert_eq!(io::read_to_string(file).unwrap(), "found");
}

/// Content that says how often it was made, and grows and shrinks.
fn counter(count: &Arc<AtomicUsize>) -> StateContent {
    let count = Arc::clone(count);
    Arc::new(move || Ok(content(count.fetch_add(1, Ordering::SeqCst)).into_bytes()))
}

fn content(n: usize) -> String {
    format!("{{\"read\":{n},\"pad\":\"{}\"}}\n", "x".repeat(n * 7919 % 9000))
}

#[test]
fn a_state_directory_is_found_and_not_listed() {
    if !can_mount() {
        return;
    }
    for backend in Backend::ALL {
        let stage = Stage::new(backend);
        let layers = ["a", "b"].map(|name| {
            stage.show(name, &stage.layer(&format!("l{name}"), &Tree::new().with(name, Entry::file("x"))))
        });
        // A session of trees beside whatever shows the layers.
        let options = TreeOptions::default();
        let session = Session::mount_trees(&stage.place.dir("state"), &options).unwrap();
        let handle = stage.runtime().handle().clone();
        let count = Arc::new(AtomicUsize::new(0));
        let fails: StateContent = Arc::new(|| Err(io::Error::other("no size")));
        let files = vec![("a.json".to_owned(), counter(&count)), ("b.json".to_owned(), fails)];
        let state = StateDir::new(".stargz-snapshotter", files).unwrap();
        let root = Root { number: 1, name: "s".to_owned(), tree: mount::Tree::State(state) };
        let server = TreeServer::start(session, &options, handle, vec![root]).unwrap();
        let merged = stage.place.dir("merged");
        let [a, b] = layers;
        mount_overlay_ro(&[a, b, stage.place.path("state/s")], &merged).unwrap();

        let list = |path: &Path| -> Vec<_> {
            fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        assert_eq!(list(&merged), ["a", "b"]);
        let hidden = merged.join(".stargz-snapshotter");
        let meta = fs::metadata(&hidden).unwrap();
        assert_eq!((meta.mode(), meta.uid(), meta.gid()), (0o040_500, 0, 0));
        assert_eq!(list(&hidden), ["a.json", "b.json"]);
        let file = hidden.join("a.json");
        assert_eq!(fs::metadata(&file).unwrap().mode(), 0o100_400);
        // The bytes of one moment, unless a new one begins between the calls that read them.
        let whole = || {
            let text = fs::read_to_string(&file).unwrap();
            let n: usize = text.trim_start_matches("{\"read\":").split(',').next().unwrap().parse().unwrap();
            (text == content(n)).then_some(n)
        };
        let (mut last, mut reads) = (0, 0);
        while last < 10 {
            let n = whole().or_else(whole).expect("torn twice in a row");
            assert!(n >= last, "{n} after {last}");
            (last, reads) = (n, reads + 1);
        }
        assert!(reads > 10, "each moment is seen several times");
        assert_eq!(errno(fs::read(hidden.join("b.json"))), Some(Errno::IO));
        assert_eq!(list(&merged), ["a", "b"], "still not listed");
        assert!(fs::metadata(merged.join(".stargz")).is_err());
        server.shutdown(Ending::Unmount).unwrap();
    }
    assert!(StateDir::new("a/b", Vec::new()).is_err());
    let twice = || ("x".to_owned(), counter(&Arc::default()));
    assert!(StateDir::new("s", vec![twice(), twice()]).is_err());
}

#[test]
fn owners_are_shifted_and_nothing_is_copied() {
    if !can_mount() {
        return;
    }
    let tree = Tree::new()
        .with("root", Entry::file("x"))
        .with("user", Entry::file("y").owner(1000, 2000))
        .with("beyond", Entry::file("z").owner(70_000, 70_000));
    let range = |len| vec![IdRange { inside: 0, outside: 100_000, len }];
    let maps = IdMaps { uids: range(65_536), gids: range(65_536) };
    for backend in Backend::ALL {
        let stage = Stage::new(backend);
        let source = stage.show("source", &stage.layer("l", &tree));
        let (target, merged, lower) =
            (stage.place.dir("t"), stage.place.dir("merged"), stage.place.dir("lower"));
        mount_idmapped(&source, &target, &maps).unwrap();
        mount_overlay_ro(&[target.clone(), lower], &merged).unwrap();
        for root in [&target, &merged] {
            let owner = |path: &str| {
                let meta = fs::metadata(root.join(path)).unwrap();
                (meta.uid(), meta.gid())
            };
            assert_eq!(owner("root"), (100_000, 100_000), "{backend}");
            assert_eq!(owner("user"), (101_000, 102_000));
            assert_eq!(owner("beyond"), (65_534, 65_534));
            assert_eq!(fs::read(root.join("user")).unwrap(), b"y");
        }
        // The source is as it was.
        assert_same(&tree, &read(&source).unwrap(), &Ignore::default());
        let overlap = IdMaps { uids: [range(10), range(10)].concat(), gids: range(10) };
        let error = mount_idmapped(&source, &target, &overlap).unwrap_err();
        assert!(error.to_string().contains("user namespace"), "{error}");
        let error = mount_idmapped(&stage.place.path("none"), &target, &maps).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}

#[test]
fn a_bound_tree_is_open_to_others_and_the_session_is_not() {
    use std::os::unix::process::CommandExt;
    if !can_mount() {
        return;
    }
    // The label is for hosts that know labels.
    let selinux_context = Some("system_u:object_r:container_file_t:s0".to_owned());
    let stage = Stage::with(Backend::Fuse, &TreeOptions { selinux_context, ..TreeOptions::default() });
    fs::set_permissions(stage.place.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let root = stage.show("m", &stage.layer("l", &Tree::new().with("f", Entry::file("x"))));
    let again = stage.place.dir("again");
    bind(&root, &again).unwrap();
    let ok = |path: &Path| {
        let test = std::process::Command::new("test").arg("-r").arg(path).uid(65534).gid(65534).status();
        test.unwrap().success()
    };
    assert!(ok(&again.join("f")));
    let name = fs::read_dir(stage.place.path("session")).unwrap().next().unwrap().unwrap().file_name();
    assert!(!ok(&stage.place.path("session").join(name).join("f")));
}
