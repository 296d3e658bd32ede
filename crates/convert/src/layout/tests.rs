use std::io::Read as _;

use testkit::tarball::{self, Member, Type};

use super::*;
use crate::media;

fn file(name: &str, content: impl Into<Vec<u8>>) -> Member {
    let content: Vec<u8> = content.into();
    Member { content: content.into(), mode: 0o644, ..Member::new(Type::File, name) }
}

fn link(kind: Type, name: &str, target: &str) -> Member {
    Member { link: target.into(), ..Member::new(kind, name) }
}

fn saved(members: &[Member]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved.tar");
    fs::write(&path, tarball::archive(members)).unwrap();
    (directory, path)
}

fn read(layout: &Layout, descriptor: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    layout.open_blob(descriptor).read_to_end(&mut bytes).unwrap();
    bytes
}

impl Layout {
    fn open_blob(&self, descriptor: &Descriptor) -> Box<dyn Read + Send + '_> {
        Source::open(self, descriptor).unwrap()
    }
}

fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    serde_json::json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
}

#[test]
fn a_docker_archive_becomes_an_image() {
    let layers: [&[u8]; 2] = [b"the first layer", b"the second one"];
    let manifest = r#"[{"Config":"c.json","RepoTags":["a:1","b:2"],"Layers":["x/layer.tar","y/layer.tar","z/layer.tar"]}]"#;
    let (_directory, path) = saved(&[
        file("c.json", config(&[layers[0], layers[1], layers[0]])),
        file("x/layer.tar", layers[0]),
        file("./y/layer.tar", layers[1]),
        link(Type::Symlink, "z/layer.tar", "../x/layer.tar"),
        file("manifest.json", manifest),
    ]);
    let layout = Layout::open(&path).unwrap();
    assert_eq!(layout.images()[0].names, ["a:1", "b:2"]);
    let image = layout.image(Some("b:2")).unwrap();
    assert_eq!(layout.image(None).unwrap(), image);
    let manifest: Value = serde_json::from_slice(&read(&layout, image)).unwrap();
    assert_eq!(manifest["config"]["mediaType"], media::DOCKER_CONFIG);
    for (position, content) in [layers[0], layers[1], layers[0]].iter().enumerate() {
        let layer: Descriptor = serde_json::from_value(manifest["layers"][position].clone()).unwrap();
        assert_eq!(read(&layout, &layer), *content);
        assert_eq!(layer.digest, Digest::of(content));
    }
}

#[test]
fn damaged_archives_are_told_apart() {
    let manifest = |layers: &str| format!(r#"[{{"Config":"c.json","RepoTags":null,"Layers":{layers}}}]"#);
    let one = config(&[b"x"]);
    let rows: Vec<(Vec<Member>, &str)> = vec![
        (vec![file("a", "b")], "an archive of something else"),
        (vec![file("manifest.json", "{")], "manifest.json is not valid"),
        (vec![file("manifest.json", manifest("[]"))], r#""c.json", which it names, is not there"#),
        (vec![file("manifest.json", manifest("[]")), file("c.json", &*one)], "it has 0 layers, its config 1"),
        (vec![file("manifest.json", manifest(r#"["l"]"#)), file("c.json", &*one)], r#""l", which it names"#),
        (vec![file("manifest.json", manifest("[]")), file("c.json", "{}")], "rootfs.diff_ids"),
        (
            vec![
                file("manifest.json", manifest(r#"["l"]"#)),
                file("c.json", &*one),
                link(Type::Symlink, "l", "m"),
                link(Type::Symlink, "m", "l"),
            ],
            r#""l", which it names"#,
        ),
        (
            vec![
                file("manifest.json", manifest(r#"["l"]"#)),
                file("c.json", &*one),
                link(Type::Symlink, "l", "../../../etc/passwd"),
            ],
            r#""l", which it names"#,
        ),
        (
            vec![file("manifest.json", vec![b' '; (DOCUMENT_MAX + 1) as usize])],
            "it has more than the 4194304 bytes",
        ),
        (
            vec![file("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#), file("index.json", "{}")],
            "the version of the layout",
        ),
        (
            vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", "{}")],
            "missing field `manifests`",
        ),
    ];
    for (members, expected) in rows {
        let (_directory, path) = saved(&members);
        let error = Layout::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not contain {expected}");
    }
}

#[test]
fn what_is_no_archive_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let rows: [(&[u8], &str); 4] = [
        (b"", "an empty file"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (&[7; 600], "not a valid tar archive at byte 0"),
    ];
    for (bytes, expected) in rows {
        fs::write(&path, bytes).unwrap();
        let error = Layout::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = Layout::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("a folder without oci-layout"), "{error}");
    let error = Layout::open("/dev/null").unwrap_err().to_string();
    assert!(error.contains("neither a folder nor a file"), "{error}");
}

#[test]
fn what_is_not_published_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let writer = Writer::open(&path).unwrap();
    writer.put("a/b", b"blob").unwrap();
    let mut pending = writer.blob().unwrap();
    std::io::Write::write_all(&mut pending, b"half").unwrap();
    drop(pending);
    drop(writer);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn images_are_added_to_others_and_replaced_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("one", "1"), ("two", "2"), ("one", "3")] {
        let writer = Writer::open(directory.path()).unwrap();
        let image = writer.put(media::MANIFEST, content.as_bytes()).unwrap();
        assert!(matches!(Writer::open(directory.path()), Err(LayoutError::Busy(_))));
        writer.publish(&[(Some(name), &image)]).unwrap();
    }
    // Some that fails does not harm what is there.
    Writer::open(directory.path()).unwrap().put(media::MANIFEST, b"3").unwrap();
    Writer::open(directory.path()).unwrap().put(media::MANIFEST, b"4").unwrap();
    let layout = Layout::open(directory.path()).unwrap();
    let names: Vec<_> = layout.images().iter().flat_map(|image| image.names.clone()).collect();
    assert_eq!(names, ["two", "one"]);
    assert_eq!(read(&layout, layout.image(Some("one")).unwrap()), b"3");
    assert!(matches!(layout.image(None), Err(LayoutError::Ambiguous { count: 2, .. })));
    assert!(matches!(layout.image(Some("three")), Err(LayoutError::NoSuchImage { .. })));
    assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 3);
}

#[test]
fn folders_of_other_things_are_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis"), "").unwrap();
    assert!(matches!(Writer::open(directory.path()), Err(LayoutError::NotImages { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn what_a_killed_process_left_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
    let left = directory.path().join(".partial-x");
    fs::write(&left, "half").unwrap();
    let writer = Writer::open(directory.path()).unwrap();
    assert!(!left.exists());
    let image = writer.put(media::MANIFEST, b"1").unwrap();
    writer.publish(&[(None, &image)]).unwrap();
    assert_eq!(Layout::open(directory.path()).unwrap().image(None).unwrap(), &image);
}

#[test]
fn a_pipe_in_the_place_of_a_blob_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::open(directory.path()).unwrap();
    let image = writer.put(media::MANIFEST, b"1").unwrap();
    writer.publish(&[(None, &image)]).unwrap();
    let blob = blob_path(directory.path(), &image.digest);
    fs::remove_file(&blob).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&blob).status().unwrap();
    assert!(made.success());
    let layout = Layout::open(directory.path()).unwrap();
    assert!(matches!(Source::open(&layout, &image), Err(BlobError::Open { .. })));
    fs::remove_file(&blob).unwrap();
    assert!(matches!(Source::open(&layout, &image), Err(BlobError::Missing { .. })));
}
