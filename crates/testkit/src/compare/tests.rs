use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::tarball;
use crate::tree::{Options, trees};

/// Unpacks an archive with GNU tar, keeping all it can keep, and reads the result.
fn untar(tar: &[u8]) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("tar")
        .args(["--extract", "--same-owner", "--numeric-owner", "--preserve-permissions"])
        // Else the time of a directory is lost whose members come behind another directory: `f`, `f b`, `f/a`.
        .arg("--delay-directory-restore")
        .args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--directory"])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(child.wait().unwrap().success());
    read(dir.path()).unwrap()
}

#[test]
fn each_attribute_makes_its_own_difference() {
    let file = || Entry::file("content");
    let tree = |entry: Entry| Tree::new().with("f", entry);
    let check = |entry: Entry, line: &str, ignore: Ignore| {
        let differences = diff(&tree(file()), &tree(entry.clone()), &Ignore::default());
        assert_eq!(differences.lines(), [line]);
        assert_same(&tree(file()), &tree(entry), &ignore);
    };
    let ignore = Ignore::default;
    check(file().mode(0o4755), "\"f\": mode: 0644 | 4755", Ignore { mode: true, ..ignore() });
    check(file().owner(1, 2), "\"f\": owner: 0:0 | 1:2", Ignore { owner: true, ..ignore() });
    check(
        file().mtime(1_000_000_000, 5),
        "\"f\": mtime: 1000000000.000000000 | 1000000000.000000005",
        Ignore { nanoseconds: true, ..ignore() },
    );
    check(
        file().xattr("user.x", "v"),
        "\"f\": xattr user.x: none | [76]",
        Ignore { xattrs: vec![String::new()], ..ignore() },
    );
    let differences = diff(&tree(file()), &tree(Entry::file("conTent")), &ignore());
    assert_eq!(differences.lines(), ["\"f\": content: 7 | 7 bytes; at 3: [74656e74] | [54656e74]"]);
}

#[test]
fn missing_superfluous_and_unlinked_names_are_told() {
    let expected = Tree::new().with("a", Entry::file("")).with_link("b", "a").with("c", Entry::dir());
    let actual = Tree::new().with("a", Entry::file("")).with("b", Entry::file("")).with("d", Entry::dir());
    let told = diff(&expected, &actual, &Ignore::default()).to_string();
    assert!(told.starts_with("4 differences"), "{told}");
    for line in [
        "\"a\": link count: 2 | 1",
        "\"b\" shares its inode with: \"a\" | \"b\"",
        "is missing",
        "not be there",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

#[test]
fn a_long_list_is_cut() {
    let many = (0..30).fold(Tree::new(), |tree, n| tree.with(n.to_string(), Entry::dir()));
    let differences = diff(&many, &Tree::new(), &Ignore { directory_links: true, ..Ignore::default() });
    assert_eq!(differences.lines().len(), 30);
    assert!(differences.to_string().ends_with("and 10 more"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gnu_tar_unpacks_what_the_tree_says(
        tree in trees(Options { whiteouts: true, before_epoch: true, ..Options::default() }),
    ) {
        if !rustix::process::geteuid().is_root() {
            return Ok(()); // owners, devices and trusted attributes are root's
        }
        let differences = diff(&tree.with_markers_as_files(), &untar(&tarball::write(&tree)), &Ignore::default());
        prop_assert!(differences.is_empty(), "{}", differences);
    }
}
