//! What erofs-utils, an implementation of its own, makes of images. Says so and passes where it is not installed.
//!
//! Version 1.5 demands `--device` for an image with a device table, but then reads the data area from the image
//! file: it gets a file that holds both areas and, for the sake of the option, one that holds the second.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use erofs::{Attributes, BLOCK_SIZE, Content};

use crate::generate;
use crate::model::{Tree, attributes, data};
use crate::skip;

/// The output of a program that must succeed; nothing where it is not installed.
fn run(program: &str, arguments: &[&str], directory: &Path) -> Option<String> {
    let output = match Command::new(program).args(arguments).current_dir(directory).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skip(&format!("{program} is not installed (package erofs-utils)"));
            return None;
        }
        output => output.unwrap(),
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}{err}", output.status);
    assert!(!err.contains("<E>") && !out.contains("<E>"), "{program} {arguments:?}:\n{out}{err}");
    Some(out)
}

/// Puts the image into `flat`, with its data, and the data into `data`; gives the option that the image needs.
fn write(tree: &Tree, directory: &Path) -> Option<&'static str> {
    let (mut image, layout) = tree.image();
    let data = data(0, layout.data_len);
    image.extend(&data);
    fs::write(directory.join("flat"), image).unwrap();
    fs::write(directory.join("data"), data).unwrap();
    (layout.data_len > 0).then_some("--device=data")
}

#[test]
fn fsck_finds_nothing_wrong() {
    let directory = tempfile::tempdir().unwrap();
    for tree in generate::samples(60) {
        let device = write(&tree, directory.path());
        let arguments: Vec<_> = device.into_iter().chain(["flat"]).collect();
        if run("fsck.erofs", &arguments, directory.path()).is_none() {
            return;
        }
    }
}

#[test]
fn fsck_extracts_the_contents() {
    let mut tree = Tree::new();
    let inner = tree.add(None, b"inner", attributes(0o755), Content::Directory);
    tree.add_file(Some(inner), b"small", attributes(0o644), 10);
    tree.add_file(Some(inner), b"large", attributes(0o644), 100_000);
    tree.add(Some(inner), b"same", attributes(0o644), Content::File { size: 10, data_offset: 0 });
    tree.add(Some(inner), b"link", attributes(0o777), Content::Symlink(b"small".to_vec()));
    let directory = tempfile::tempdir().unwrap();
    write(&tree, directory.path());
    if run("fsck.erofs", &["--device=data", "--extract=out", "flat"], directory.path()).is_none() {
        return;
    }
    let out = directory.path().join("out/inner");
    let block = u64::from(BLOCK_SIZE);
    assert_eq!(fs::read(out.join("small")).unwrap(), data(0, 10));
    assert_eq!(fs::read(out.join("large")).unwrap(), data(block, 100_000));
    assert_eq!(fs::read(out.join("same")).unwrap(), data(0, 10));
    assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("small"));
}

#[test]
fn dump_shows_what_was_written() {
    let mut tree = Tree::new();
    let details = Attributes {
        uid: 1000,
        gid: 100_000,
        mtime: 1_234_567_890,
        mtime_nanos: 987_654_321,
        ..attributes(0o640)
    };
    tree.add_file(None, b"file", details, 4_000);
    let many = tree.add(None, b"many", attributes(0o711), Content::Directory);
    for i in 0..1000 {
        tree.add(Some(many), format!("{i}").as_bytes(), attributes(0o600), Content::Fifo);
    }
    let directory = tempfile::tempdir().unwrap();
    write(&tree, directory.path());
    let dump = |arguments: &[&str]| {
        let arguments = [&["--device=data", "flat"], arguments].concat();
        Some(
            run("dump.erofs", &arguments, directory.path())?.split_whitespace().collect::<Vec<_>>().join(" "),
        )
    };
    let Some(superblock) = dump(&["-s"]) else { return };
    for expected in
        ["sb_csum mtime device_table", "inode count: 1003", "root nid: 128", "30313233-3435-3637-3839"]
    {
        assert!(superblock.contains(expected), "{expected}: {superblock}");
    }
    let file = dump(&["--path=/file", "-e"]).unwrap();
    for expected in
        ["Size: 4000", "Uid: 1000 Gid: 100000 Access: 0640", "Timestamp: 2009-02-13 23:31:30.987654321"]
    {
        assert!(file.contains(expected), "{expected}: {file}");
    }
    let many = dump(&["--path=/many", "--ls"]).unwrap();
    assert!(many.contains("Access: 0711") && many.contains("Links: 2"), "{many}");
    for i in 0..1000 {
        assert!(many.contains(&format!(" 5 {i} ")) || many.ends_with(&format!(" 5 {i}")), "{i}: {many}");
    }
}
