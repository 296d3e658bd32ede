use serde_json::json;

use super::fixture::*;
use crate::EntryError;
use crate::toc::{NodeId, NodeKind};

#[test]
fn names_are_normalised() {
    let toc = toc(json!([dir("./"), dir("./a/"), empty("./a//b"), empty("a/./c"), empty("...")]));
    assert_eq!(tree(&toc), "/ dir 3\n/... file:0 1\n/a dir 2\n/a/b file:0 1\n/a/c file:0 1\n");
}

#[test]
fn names_that_leave_the_root_or_cannot_exist_are_refused() {
    let long = "x".repeat(256);
    let deep = "x/".repeat(2049);
    for (name, problem) in [
        ("/etc/x", EntryError::AbsoluteName),
        ("/", EntryError::AbsoluteName),
        ("..", EntryError::ParentComponent),
        ("../../etc/passwd", EntryError::ParentComponent),
        ("a/../b", EntryError::ParentComponent),
        ("a/..", EntryError::ParentComponent),
        ("a\0b", EntryError::NulInName),
        (&long, EntryError::ComponentTooLong),
        (&deep, EntryError::PathTooLong),
        ("", EntryError::RootNotDirectory),
        ("./", EntryError::RootNotDirectory),
    ] {
        let (path, got) = refused(json!([dir("ok"), empty(name)]));
        assert_eq!(got, problem, "{name:?}");
        assert!(path.trim_end_matches("...").starts_with(&name[..name.len().min(256)]), "{path:?}");
    }
}

#[test]
fn the_longest_names_are_accepted() {
    let name = "x".repeat(255);
    let deep = "y/".repeat(2047) + "z";
    let toc = toc(json!([empty(&name), empty(&deep)]));
    assert_eq!(toc.nodes().len(), 1 + 1 + 2047 + 1);
    let last = NodeId(toc.nodes().len() as u32 - 1);
    assert_eq!(toc.path(last), deep.as_bytes());
}

#[test]
fn missing_parents_are_made() {
    let toc = toc(json!([empty("a/b/c")]));
    assert_eq!(tree(&toc), "/ dir 3\n/a dir 3\n/a/b dir 2\n/a/b/c file:0 1\n");
    for node in &toc.nodes()[..3] {
        assert_eq!((node.mode, node.uid, node.gid, node.mtime.secs), (0o755, 0, 0, 0));
    }
}

#[test]
fn a_directory_may_come_after_what_is_in_it() {
    let a = json!({ "name": "a", "type": "dir", "mode": 0o700, "uid": 7 });
    let toc = toc(json!([empty("a/b"), a]));
    assert_eq!(tree(&toc), "/ dir 3\n/a dir 2\n/a/b file:0 1\n");
    assert_eq!((toc.nodes()[1].mode, toc.nodes()[1].uid), (0o700, 7));
}

#[test]
fn the_root_may_have_an_entry() {
    for name in ["./", ".", ""] {
        let root = json!({ "name": name, "type": "dir", "mode": 0o1777, "gid": 5, "modtime": "1970-01-01T00:00:09Z" });
        let toc = toc(json!([empty("a"), root]));
        let root = &toc.nodes()[0];
        assert_eq!((root.mode, root.uid, root.gid, root.mtime.secs), (0o1777, 0, 5, 9), "{name:?}");
    }
}

#[test]
fn a_name_may_exist_once() {
    for second in [empty("./a"), dir("a"), hardlink("a/", "b"), file("a", 4)] {
        let (path, problem) = refused(json!([empty("b"), empty("a"), second]));
        assert_eq!((path.trim_matches(['.', '/']), problem), ("a", EntryError::Duplicate));
    }
    for entries in [
        json!([empty("b"), hardlink("a", "b"), empty("a")]),
        json!([empty("b"), hardlink("a", "b"), hardlink("a", "b")]),
        json!([dir("a"), dir("a")]),
        json!([empty(".wh.a"), empty(".wh.a")]),
    ] {
        assert_eq!(refused(entries).1, EntryError::Duplicate);
    }
    assert_eq!(refused(json!([dir("."), dir("")])), (String::new(), EntryError::Duplicate));
}

#[test]
fn only_directories_have_entries_below_them() {
    let symlink = json!({ "name": "a", "type": "symlink", "linkName": "/etc" });
    for parent in [empty("a"), symlink, hardlink("a", "b")] {
        let entries = json!([dir("b"), parent, empty("a/x/passwd")]);
        assert_eq!(refused(entries), ("a/x/passwd".to_owned(), EntryError::BelowNonDirectory));
    }
    let entries = json!([empty("a/passwd"), empty("a")]);
    assert_eq!(refused(entries), ("a".to_owned(), EntryError::NotADirectory));
}

#[test]
fn children_are_sorted_by_bytes() {
    let toc =
        toc(json!([empty("b"), empty("é"), empty("a-b"), dir("a"), empty("a/z"), empty("B"), empty("a.b")]));
    let names: Vec<_> = toc.children(NodeId::ROOT).map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["B", "a", "a-b", "a.b", "b", "é"]);
    let file = toc.nodes().iter().position(|node| matches!(node.kind, NodeKind::File { .. })).unwrap();
    assert_eq!(toc.children(NodeId(file as u32)).len(), 0);
    assert_eq!(toc.children(NodeId(u32::MAX)).len(), 0);
}

#[test]
fn paths_lead_from_the_root() {
    let toc = toc(json!([empty("a/b/c"), empty("a/d")]));
    let paths: Vec<_> = (0..5).map(|id| String::from_utf8(toc.path(NodeId(id))).unwrap()).collect();
    assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a/d"]);
}
