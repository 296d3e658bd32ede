use super::*;
use crate::error::InvalidXattr;

/// Says whether an error is the expected one.
type Expected = fn(&Error) -> bool;

fn attributes(mode: u16) -> Attributes {
    Attributes { mode, ..Attributes::default() }
}

/// A tree with a directory `d` and a file `f` in it.
fn small() -> (Tree, NodeId, NodeId) {
    let mut tree = Tree::new();
    let d = tree.add(NodeId::ROOT, b"d", attributes(0o755), Content::Directory).unwrap();
    let f = tree.add(d, b"f", attributes(0o644), Content::File { size: 1, data_offset: 0 }).unwrap();
    (tree, d, f)
}

#[test]
fn names_that_no_directory_can_hold_are_refused() {
    let (mut tree, d, f) = small();
    let long = [b'n'; 256];
    let rows: [(&[u8], InvalidName); 7] = [
        (b"", InvalidName::Empty),
        (b".", InvalidName::Reserved),
        (b"..", InvalidName::Reserved),
        (b"a/b", InvalidName::Byte),
        (b"/", InvalidName::Byte),
        (b"a\0", InvalidName::Byte),
        (&long, InvalidName::TooLong),
    ];
    for (name, expected) in rows {
        for result in [tree.add(d, name, attributes(0), Content::Fifo).map(drop), tree.link(d, name, f)] {
            assert!(
                matches!(result, Err(Error::InvalidName { reason, .. }) if reason == expected),
                "{}: {result:?}",
                name.escape_ascii()
            );
        }
    }
    tree.add(d, &long[1..], attributes(0), Content::Fifo).unwrap();
    tree.add(d, b"...", attributes(0), Content::Fifo).unwrap();
}

#[test]
fn a_name_is_given_once_in_a_directory() {
    let (mut tree, d, f) = small();
    assert!(matches!(
        tree.add(d, b"f", attributes(0), Content::Directory),
        Err(Error::DuplicateName { name }) if name == b"f"
    ));
    assert!(matches!(tree.link(d, b"f", f), Err(Error::DuplicateName { .. })));
    tree.link(NodeId::ROOT, b"f", f).unwrap();
}

#[test]
fn entries_need_a_directory_and_links_something_else() {
    let (mut tree, d, f) = small();
    let stranger = NodeId(99);
    assert!(matches!(tree.add(f, b"x", attributes(0), Content::Fifo), Err(Error::NotADirectory { .. })));
    assert!(matches!(tree.link(f, b"x", f), Err(Error::NotADirectory { .. })));
    assert!(matches!(tree.link(NodeId::ROOT, b"x", d), Err(Error::LinkToDirectory { .. })));
    assert!(matches!(tree.link(d, b"x", NodeId::ROOT), Err(Error::LinkToDirectory { .. })));
    assert!(matches!(tree.add(stranger, b"x", attributes(0), Content::Fifo), Err(Error::UnknownNode { .. })));
    assert!(matches!(tree.link(d, b"x", stranger), Err(Error::UnknownNode { .. })));
    // The id that the refused node would have had names no parent.
    let next = NodeId(3);
    assert!(matches!(
        tree.add(next, b"x", attributes(0), Content::Directory),
        Err(Error::UnknownNode { .. })
    ));
}

#[test]
fn what_an_inode_cannot_hold_is_refused() {
    let file = |size, data_offset| Content::File { size, data_offset };
    let symlink = |len| Content::Symlink(vec![b'x'; len]);
    let char_device = |major, minor| Content::CharDevice { major, minor };
    let rows: [(Content, Expected); 10] = [
        (file(1, 4095), |e| matches!(e, Error::UnalignedData { data_offset: 4095 })),
        (file(1, MAX_IMAGE_LEN), |e| matches!(e, Error::ImageTooLarge { len } if *len == MAX_IMAGE_LEN + 1)),
        (file(u64::MAX, 4096), |e| matches!(e, Error::ImageTooLarge { len: u64::MAX })),
        (symlink(0), |e| matches!(e, Error::InvalidTarget { reason: InvalidTarget::Empty, .. })),
        (symlink(4096), |e| matches!(e, Error::InvalidTarget { reason: InvalidTarget::TooLong, len: 4096 })),
        (Content::Symlink(vec![b'a', 0]), |e| {
            matches!(e, Error::InvalidTarget { reason: InvalidTarget::Byte, len: 2 })
        }),
        (char_device(4096, 0), |e| matches!(e, Error::InvalidDevice { major: 4096, minor: 0 })),
        (char_device(0, 1 << 20), |e| matches!(e, Error::InvalidDevice { .. })),
        (Content::BlockDevice { major: 4096, minor: 0 }, |e| matches!(e, Error::InvalidDevice { .. })),
        (Content::BlockDevice { major: 0, minor: 1 << 20 }, |e| matches!(e, Error::InvalidDevice { .. })),
    ];
    for (content, expected) in rows {
        let (mut tree, d, _) = small();
        let error = tree.add(d, b"x", attributes(0), content.clone()).unwrap_err();
        assert!(expected(&error), "{content:?}: {error}");
    }
    let (mut tree, d, _) = small();
    tree.add(d, b"empty", attributes(0), file(0, 4095)).unwrap();
    tree.add(d, b"long", attributes(0), symlink(4095)).unwrap();
    tree.add(d, b"device", attributes(0), char_device(4095, (1 << 20) - 1)).unwrap();
}

#[test]
fn attributes_that_no_inode_can_have_are_refused() {
    let xattr = |name: &str, len| (name.as_bytes().to_vec(), vec![0; len]);
    let rows: [(Attributes, Expected); 4] = [
        (attributes(0o10_000), |e| matches!(e, Error::InvalidMode { mode: 0o10_000 })),
        (Attributes { mtime_nanos: 1_000_000_000, ..attributes(0) }, |e| {
            matches!(e, Error::InvalidNanoseconds { nanos: 1_000_000_000 })
        }),
        (Attributes { xattrs: vec![xattr("com.apple.x", 1)], ..attributes(0) }, |e| {
            matches!(e, Error::InvalidXattr { reason: InvalidXattr::Namespace, .. })
        }),
        (
            Attributes {
                xattrs: (0..5).map(|i| xattr(&format!("user.{i}"), 60_000)).collect(),
                ..attributes(0)
            },
            |e| matches!(e, Error::XattrsTooLong { len: 300_052 }),
        ),
    ];
    for (attributes, expected) in rows {
        let (mut tree, d, _) = small();
        let error = tree.add(d, b"x", attributes.clone(), Content::Fifo).unwrap_err();
        assert!(expected(&error), "{error}");
        let error = tree.set_root(attributes).unwrap_err();
        assert!(expected(&error), "root: {error}");
    }
}

#[test]
fn a_refused_node_leaves_no_trace() {
    let (mut tree, d, f) = small();
    let before = format!("{:?} {:?} {}", tree.nodes, tree.entries, tree.data_end);
    let far = Content::File { size: 1, data_offset: 1 << 20 };
    tree.add(d, b"f", attributes(0), far).unwrap_err();
    tree.add(d, b"f", attributes(0), Content::Directory).unwrap_err();
    tree.add(d, b"x", attributes(0), Content::Symlink(Vec::new())).unwrap_err();
    tree.link(d, b"f", f).unwrap_err();
    assert_eq!(format!("{:?} {:?} {}", tree.nodes, tree.entries, tree.data_end), before);
    tree.add(d, b"x", attributes(0), Content::Fifo).unwrap();
}

#[test]
fn links_are_counted() {
    let (mut tree, d, f) = small();
    tree.link(NodeId::ROOT, b"f1", f).unwrap();
    tree.link(d, b"f2", f).unwrap();
    tree.add(d, b"e", attributes(0o755), Content::Directory).unwrap();
    tree.set_root(attributes(0o700)).unwrap();
    let links = |id: NodeId| tree.nodes[id.index()].links;
    assert_eq!((links(NodeId::ROOT), links(d), links(f)), (3, 3, 3));
}
