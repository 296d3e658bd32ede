use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::*;

#[test]
fn the_smallest_path_of_a_group_carries_the_entry() {
    let tree = Tree::new().with("m", Entry::file("x")).with_link("z", "m").with_link("a/b", "z");
    assert_eq!(tree.group(b"z"), [b"a/b".as_slice(), b"m", b"z"]);
    assert!(tree.entries.contains_key(b"a/b".as_slice()));
    assert_eq!(tree.nlink(b"m"), 3);
    let other = Tree::new().with("a/b", Entry::file("x")).with_link("m", "a/b").with_link("z", "a/b");
    assert_eq!(tree, other);
}

#[test]
fn an_inode_outlives_its_first_name() {
    let mut tree = Tree::new().with("d/a", Entry::file("x")).with_link("e", "d/a").with_link("f", "e");
    tree.remove(b"d");
    assert_eq!(tree.get(b"f").and_then(Entry::content).unwrap(), "x");
    assert_eq!(tree.group(b"f"), [b"e".as_slice(), b"f"]);
    tree.remove(b"e");
    assert_eq!(tree.nlink(b"f"), 1);
    assert!(tree.links.is_empty());
}

#[test]
fn missing_parents_are_made_and_counted() {
    let tree = Tree::new().with("a/b/c", Entry::file("")).with("a/d", Entry::dir());
    assert_eq!(tree.paths(), [b"".as_slice(), b"a", b"a/b", b"a/b/c", b"a/d"]);
    assert_eq!((tree.nlink(b""), tree.nlink(b"a"), tree.nlink(b"a/b")), (3, 4, 2));
}

#[test]
fn markers_become_files() {
    let opaque = Entry::new(Kind::Dir { opaque: true });
    let tree = Tree::new().with("d", opaque).with("d/gone", Entry::new(Kind::Whiteout));
    let plain = tree.with_markers_as_files();
    assert_eq!(plain.paths(), [b"".as_slice(), b"d", b"d/.wh..wh..opq", b"d/.wh.gone"]);
    assert_eq!(plain.entries[b"d".as_slice()].kind, Kind::Dir { opaque: false });
}

#[test]
fn random_trees_hold_all_there_is() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = trees(Options { whiteouts: true, before_epoch: true, ..Options::default() });
    let (mut kinds, mut names, mut xattrs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut identical, mut many_chunks, mut linked, mut negative) = (false, false, false, false);
    for _ in 0..200 {
        let tree = strategy.new_tree(&mut runner).unwrap().current();
        let mut contents = BTreeSet::new();
        for (path, entry) in &tree.entries {
            kinds.insert(format!("{:?}", entry.kind).split(' ').next().unwrap().to_owned());
            names.insert(path.rsplit(|byte| *byte == b'/').next().unwrap().len());
            xattrs.extend(
                entry.xattrs.keys().map(|name| name.split(|byte| *byte == b'.').next().unwrap().to_vec()),
            );
            if let Some(content) = entry.content().filter(|content| !content.is_empty()) {
                identical |= !contents.insert(content.clone());
                many_chunks |= content.len() > 2 * Options::default().chunk_size;
            }
            linked |= tree.nlink(path) > 2 && !entry.is_dir();
            negative |= entry.mtime.secs < 0 && entry.mtime.nanos > 0;
        }
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert!(names.contains(&255) && names.contains(&1));
    assert_eq!(xattrs.len(), 3);
    assert!(identical && many_chunks && linked && negative);
}

proptest! {
    #[test]
    fn random_trees_are_well_formed(tree in trees(Options { whiteouts: true, before_epoch: true, ..Options::default() })) {
        for path in tree.paths() {
            prop_assert!(path.len() < 4096);
            if let Some(parent) = parent(path) {
                prop_assert!(tree.entries[parent].is_dir());
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
                prop_assert!((1..=255).contains(&name.len()));
            }
        }
        for (link, primary) in &tree.links {
            prop_assert!(primary < link && tree.entries.contains_key(primary));
        }
    }
}
