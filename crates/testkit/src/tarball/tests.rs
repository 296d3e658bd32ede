use proptest::prelude::*;

use super::*;
use crate::tree::{Options, trees};

#[test]
fn duplicates_markers_and_missing_parents_are_read_as_containers_do() {
    let file = |name: &str, content: &'static str| Member {
        content: Bytes::from_static(content.as_bytes()),
        ..Member::new(Type::File, name)
    };
    let tar = archive(&[
        file("./a/b/../f", "one"),
        file("/a/f", "two"),
        file("a/.wh.gone", ""),
        file("d/.wh..wh..opq", ""),
        Member::new(Type::Dir, "d/"),
        Member { link: b"a/f".to_vec(), ..Member::new(Type::Hardlink, "a/l") },
    ]);
    let tree = tree(&tar);
    assert_eq!(tree.get(b"a/l").and_then(Entry::content).unwrap(), "two");
    assert_eq!(tree.get(b"a/gone").unwrap().kind, Kind::Whiteout);
    assert_eq!(tree.get(b"d").unwrap().kind, Kind::Dir { opaque: true });
    assert_eq!(tree.nlink(b"a/f"), 2);
}

#[test]
fn a_record_length_counts_itself() {
    // 99 and 100 bytes: where the length of the length changes.
    for len in 80..110 {
        let member = Member { link: vec![b'x'; len], ..Member::new(Type::Symlink, "é") };
        assert_eq!(parse(&archive(std::slice::from_ref(&member)))[0].member, member);
    }
}

#[test]
fn archives_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(200);
    std::fs::write(dir.path().join(&long), "content").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), dir.path().join("link")).unwrap();
    for format in ["gnu", "pax", "oldgnu"] {
        let output = std::process::Command::new("tar")
            .args(["--format", format, "-C"])
            .arg(dir.path())
            .args(["-c", "."])
            .output()
            .unwrap();
        assert!(output.status.success());
        let tree = tree(&output.stdout);
        assert_eq!(tree.get(long.as_bytes()).and_then(Entry::content).unwrap(), "content", "{format}");
        assert_eq!(tree.get(b"link").unwrap().kind, Kind::Symlink(vec![b't'; 300]), "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reading_undoes_writing(tree in trees(Options { whiteouts: true, before_epoch: true, ..Options::default() })) {
        prop_assert_eq!(&super::tree(&write(&tree)), &tree);
        prop_assert_eq!(&super::tree(&archive(&members(&tree, Names::DotSlash))), &tree);
    }
}
