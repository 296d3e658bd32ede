use serde_json::json;

use super::fixture::*;
use crate::EntryError;
use crate::toc::NodeKind;

#[test]
fn links_are_further_names_of_one_node() {
    let symlink = json!({ "name": "s", "type": "symlink", "linkName": "x" });
    let toc =
        toc(json!([file("a", 3), hardlink("d/b", "a"), hardlink("c", "./a"), symlink, hardlink("t", "s")]));
    assert_eq!(
        tree(&toc),
        "/ dir 3\n/a file:1 3\n/c file:1 3\n/d dir 2\n/d/b file:1 3\n/s symlink:x 2\n/t symlink:x 2\n"
    );
    assert_eq!(toc.nodes().len(), 4);
    assert_eq!(toc.chunks().len(), 1);
}

#[test]
fn links_lead_through_links_to_what_comes_later() {
    let toc = toc(json!([hardlink("a", "b"), hardlink("b", "d/c"), hardlink("z", "a"), empty("d/c")]));
    assert_eq!(tree(&toc), "/ dir 3\n/a file:0 4\n/b file:0 4\n/d dir 2\n/d/c file:0 4\n/z file:0 4\n");
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let text = |text: &str| text.to_owned();
    let bad = |target: &str, problem| EntryError::BadLinkTarget {
        target: text(target),
        problem: Box::new(problem),
    };
    for (target, problem) in [
        ("missing", EntryError::LinkTargetMissing(text("missing"))),
        ("f/x", EntryError::LinkTargetMissing(text("f/x"))),
        ("d", EntryError::LinkToDirectory(text("d"))),
        ("implied", EntryError::LinkToDirectory(text("implied"))),
        ("", EntryError::LinkToDirectory(text(""))),
        ("e/l", EntryError::LinkCycle(text("e/l"))),
        ("/etc/passwd", bad("/etc/passwd", EntryError::AbsoluteName)),
        ("../f", bad("../f", EntryError::ParentComponent)),
        ("a\0", bad("a\0", EntryError::NulInName)),
    ] {
        let entries = json!([dir("d"), empty("f"), empty("implied/x"), hardlink("e/l", target)]);
        assert_eq!(refused(entries), (text("e/l"), problem), "{target:?}");
    }
}

#[test]
fn cycles_of_links_are_refused() {
    let (path, problem) = refused(json!([hardlink("x", "a"), hardlink("a", "b"), hardlink("b", "a")]));
    assert_eq!((path.as_str(), problem), ("a", EntryError::LinkCycle("b".to_owned())));
}

#[test]
fn long_chains_of_links_are_followed() {
    const LENGTH: usize = 100_000;
    let mut entries: Vec<_> = (1..LENGTH).map(|i| hardlink(&i.to_string(), &(i - 1).to_string())).collect();
    entries.reverse();
    entries.push(empty("0"));
    let toc = toc(json!(entries));
    assert_eq!(toc.nodes()[1].nlink as usize, LENGTH);
    assert_eq!(toc.nodes()[1].kind, NodeKind::File { size: 0, chunks: 0..0 });
}
