use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::fixture::*;
use crate::toc::{Node, NodeKind};
use crate::{EntryError, Timestamp};

/// The node that an entry named `a` becomes.
#[track_caller]
fn node(fields: Value) -> Node {
    toc(json!([with_name(fields)])).nodes()[1].clone()
}

#[track_caller]
fn problem(fields: Value) -> EntryError {
    let (path, problem) = refused(json!([with_name(fields)]));
    assert_eq!(path, "a");
    problem
}

fn with_name(mut fields: Value) -> Value {
    fields["name"] = json!("a");
    fields
}

#[test]
fn every_attribute_is_taken_over() {
    let fields = json!({
        "type": "dir", "mode": 0o4751, "uid": 4294967294_u32, "gid": 100, "modtime": "2024-02-29T12:00:00.25+01:00",
        "xattrs": { "user.z": "", "security.capability": "AAH/", "user.null": null },
        "userName": "x", "NumLink": 9, "unheardOf": { "deep": [1, 2, { "a": null }] },
    });
    assert_eq!(
        node(fields),
        Node {
            kind: NodeKind::Directory { opaque: false },
            mode: 0o4751,
            uid: u32::MAX - 1,
            gid: 100,
            mtime: Timestamp { secs: 1_709_204_400, nanos: 250_000_000 },
            nlink: 2,
            xattrs: vec![
                (b"security.capability".to_vec(), vec![0, 1, 255]),
                (b"user.null".to_vec(), vec![]),
                (b"user.z".to_vec(), vec![]),
            ],
        }
    );
}

#[test]
fn a_mode_with_the_file_type_is_masked() {
    for (mode, expected) in [(33261, 0o755), (16877, 0o755), (0o100644, 0o644), (0o107777, 0o7777), (0, 0)] {
        assert_eq!(node(json!({ "type": "reg", "mode": mode })).mode, expected);
    }
}

#[test]
fn every_kind_is_known() {
    for (fields, kind) in [
        (json!({ "type": "symlink", "linkName": "../x" }), NodeKind::Symlink { target: b"../x".to_vec() }),
        (
            json!({ "type": "char", "devMajor": 5, "devMinor": 1 }),
            NodeKind::CharDevice { major: 5, minor: 1 },
        ),
        (
            json!({ "type": "block", "devMajor": 4095, "devMinor": 1048575 }),
            NodeKind::BlockDevice { major: 4095, minor: 1_048_575 },
        ),
        (json!({ "type": "fifo" }), NodeKind::Fifo),
        (json!({ "type": "reg" }), NodeKind::File { size: 0, chunks: 0..0 }),
    ] {
        assert_eq!(node(fields).kind, kind);
    }
}

#[test]
fn other_kinds_are_refused() {
    assert_eq!(problem(json!({ "type": "socket" })), EntryError::UnknownType("socket".to_owned()));
    assert_eq!(problem(json!({})), EntryError::UnknownType(String::new()));
}

#[test]
fn numbers_outside_of_their_fields_are_refused() {
    for (kind, field, value) in [
        ("dir", "mode", -1),
        ("dir", "uid", -1),
        ("dir", "uid", 4_294_967_295_i64),
        ("dir", "gid", 1 << 32),
        ("reg", "size", -1),
        ("char", "devMajor", 4096),
        ("block", "devMinor", 1 << 20),
        ("block", "devMinor", -1),
    ] {
        assert_eq!(problem(json!({ "type": kind, field: value })), EntryError::OutOfRange { field, value });
    }
}

#[test]
fn times_that_cannot_be_read_are_refused() {
    for text in ["yesterday", "10000-01-01T00:00:00Z"] {
        assert_eq!(problem(json!({ "type": "dir", "modtime": text })), EntryError::BadTime(text.to_owned()));
    }
    for absent in [json!(""), json!(null), json!("0001-01-01T00:00:00Z")] {
        assert_eq!(node(json!({ "type": "dir", "modtime": absent })).mtime, Timestamp::default());
    }
}

#[test]
fn symlinks_that_cannot_exist_are_refused() {
    for target in [String::new(), "a\0".to_owned(), "x".repeat(4096)] {
        assert_eq!(problem(json!({ "type": "symlink", "linkName": target })), EntryError::BadSymlinkTarget);
    }
    assert_eq!(node(json!({ "type": "symlink", "linkName": "x".repeat(4095) })).nlink, 1);
}

#[test]
fn xattrs_that_cannot_exist_are_refused() {
    let large = BASE64_STANDARD.encode(vec![7; 65537]);
    let long = "x".repeat(256);
    for (name, value) in [("", ""), ("user.\0", ""), (&long, ""), ("user.x", "%"), ("user.x", &large)] {
        let got = problem(json!({ "type": "dir", "xattrs": { name: value } }));
        assert!(matches!(got, EntryError::BadXattr { .. }), "{name:?} {got}");
    }
    let largest = BASE64_STANDARD.encode(vec![7; 65536]);
    assert_eq!(node(json!({ "type": "dir", "xattrs": { "user.x": largest } })).xattrs[0].1.len(), 65536);
}

#[test]
fn content_has_no_say_in_how_layers_stack() {
    let fields = json!({ "type": "dir", "xattrs": {
        "trusted.overlay.opaque": "eQ==", "trusted.overlay.redirect": "L2V0Yw==", "trusted.overlayed": "eQ==",
    } });
    assert_eq!(node(fields).xattrs, [(b"trusted.overlayed".to_vec(), b"y".to_vec())]);
}
