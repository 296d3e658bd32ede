use serde_json::json;

use super::fixture::*;
use crate::EntryError;
use crate::toc::{Landmark, NodeKind};

#[test]
fn whiteouts_take_the_name_that_they_remove() {
    let whiteout = json!({
        "name": "d/.wh.gone", "type": "reg", "size": 1, "chunkDigest": digest(1), "offset": 9,
        "mode": 0o644, "uid": 5, "gid": 5, "modtime": "1970-01-01T00:01:00Z", "xattrs": { "user.x": "" },
    });
    let toc = toc(json!([whiteout, empty(".wh..x")]));
    assert_eq!(tree(&toc), "/ dir 3\n/.x whiteout 1\n/d dir 2\n/d/gone whiteout 1\n");
    let node = toc.nodes().iter().find(|node| node.kind == NodeKind::Whiteout).unwrap();
    assert_eq!((node.mode, node.uid, node.gid, node.mtime.secs, node.xattrs.len()), (0, 0, 0, 60, 0));
    assert!(toc.chunks().is_empty());
}

#[test]
fn a_real_file_wins_over_a_whiteout() {
    for entries in [json!([empty(".wh.a"), empty("a/b")]), json!([empty("a/b"), empty(".wh.a")])] {
        assert_eq!(tree(&toc(entries)), "/ dir 3\n/a dir 2\n/a/b file:0 1\n");
    }
}

#[test]
fn opaque_markers_mark_their_directory() {
    let toc = toc(json!([dir("a"), empty("a/.wh..wh..opq"), empty("b/.wh..wh..opq"), dir("c")]));
    assert_eq!(tree(&toc), "/ dir 5\n/a opaque 2\n/b opaque 2\n/c dir 2\n");
    assert_eq!(toc.nodes()[1].mode, 0o755);
}

#[test]
fn a_marker_may_come_before_its_directory() {
    let a = json!({ "name": "a", "type": "dir", "mode": 0o711 });
    let toc = toc(json!([empty("a/.wh..wh..opq"), a]));
    assert_eq!(tree(&toc), "/ dir 3\n/a opaque 2\n");
    assert_eq!(toc.nodes()[1].mode, 0o711);
}

#[test]
fn private_names_of_aufs_are_dropped() {
    let toc = toc(json!([
        file(".wh..wh.plnk/1.2", 3),
        file("b", 7),
        hardlink("kept", ".wh..wh.plnk/1.2"),
        empty(".wh..wh.aufs"),
        file("z", 9),
        file(".wh..wh.orph/x", 11),
    ]));
    assert_eq!(tree(&toc), "/ dir 2\n/b file:1 1\n/kept file:1 1\n/z file:1 1\n");
    let offsets: Vec<_> = toc.chunks().iter().map(|chunk| chunk.blob_offset).collect();
    assert_eq!(offsets, [3, 7, 9]);
    assert_eq!(toc.nodes().len(), 4);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in ["d/.wh.", "d/.wh..", "d/.wh..."] {
        assert_eq!(refused(json!([empty(name)])), (name.to_owned(), EntryError::BadWhiteout));
    }
}

#[test]
fn names_that_only_steer_the_format_are_hidden_in_the_root() {
    let toc = toc(json!([
        file(".prefetch.landmark", 9),
        file("stargz.index.json", 10),
        file("d/.prefetch.landmark", 11),
        empty("d/.no.prefetch.landmark"),
        empty("d/stargz.index.json"),
    ]));
    assert_eq!(
        tree(&toc),
        "/ dir 3\n/d dir 2\n/d/.no.prefetch.landmark file:0 1\n/d/.prefetch.landmark file:1 1\n\
         /d/stargz.index.json file:0 1\n"
    );
    assert_eq!(toc.chunks()[0].blob_offset, 11);
    assert_eq!(toc.nodes()[2].kind, NodeKind::File { size: 1, chunks: 0..1 });
}

#[test]
fn landmarks_say_what_to_prefetch() {
    let prefetch = file("./.prefetch.landmark", 77);
    let none = file(".no.prefetch.landmark", 78);
    for (entries, landmark) in [
        (json!([empty("a")]), Landmark::None),
        (json!([file("d/.prefetch.landmark", 77)]), Landmark::None),
        (json!([prefetch]), Landmark::Prefetch { end: 77 }),
        (json!([none]), Landmark::NoPrefetch),
        (json!([prefetch, none]), Landmark::NoPrefetch),
    ] {
        assert_eq!(toc(entries).landmark(), landmark);
    }
    for wrong in [empty(".prefetch.landmark"), dir(".prefetch.landmark")] {
        assert_eq!(refused(json!([wrong])), (".prefetch.landmark".to_owned(), EntryError::BadLandmark));
    }
}
