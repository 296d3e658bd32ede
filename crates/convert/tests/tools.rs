//! Other programs read what is written here, and what they write is read. Skips, loudly, programs that are not installed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use builder::{Format, Gzip};
use convert::Descriptor;
use convert::image::{Action, MediaTypes, Options};
use convert::layout::{Layout, Writer};
use format::Digest;
use serde_json::Value;
use support::*;
use testkit::image::{self, Image, Layer};
use testkit::tarball;
use testkit::tree::{Entry, Tree};

const EXTERNAL: Format = Format::ExternalToc { gzip: Gzip { level: 6, min_chunk_size: 0 }, lossless: false };

/// Runs skopeo. `None` when it is not installed.
fn skopeo(arguments: &[&str]) -> Option<Vec<u8>> {
    match Command::new("skopeo").arg("--insecure-policy").args(arguments).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "skopeo {arguments:?}: {said}");
            Some(output.stdout)
        }
        Err(error) => {
            eprintln!("SKIPPED: skopeo: {error}");
            None
        }
    }
}

fn trees() -> [Tree; 2] {
    let base = Tree::new()
        .with("bin", Entry::dir())
        .with("bin/sh", Entry::file("#!".repeat(5000)).mode(0o755).mtime(1_600_000_000, 0))
        .with_link("bin/ash", "bin/sh")
        .with("etc", Entry::dir().owner(0, 7))
        .with("etc/motd", Entry::symlink("../bin/sh"));
    [base, Tree::new().with("etc", Entry::dir()).with("etc/new", Entry::file("new"))]
}

fn image(architecture: &str, media_types: image::MediaTypes) -> Image {
    let layers = trees().iter().map(|tree| Layer::gzip(&tarball::write(tree))).collect();
    let options =
        image::Options { architecture: architecture.into(), media_types, ..image::Options::default() };
    Image::new(layers, &options)
}

/// Writes an image for amd64 and one for arm64 as `both`, and the first alone as `one`.
fn write_source(path: &Path) {
    let images = ["amd64", "arm64"].map(|architecture| image(architecture, image::MediaTypes::Oci));
    let writer = Writer::open(path).unwrap();
    for image in &images {
        for layer in &image.layers {
            writer.put(image::LAYER_GZIP, &layer.content.to_bytes()).unwrap();
        }
        writer.put(image::CONFIG, &image.config.bytes).unwrap();
    }
    let [one, _] = images.each_ref().map(|image| writer.put(image::MANIFEST, &image.manifest.bytes).unwrap());
    let index = image::index(&images.each_ref());
    let both = writer.put(image::INDEX, &index.bytes).unwrap();
    writer.publish(&[(Some("one"), &one), (Some("both"), &both)]).unwrap();
}

/// Digests and sizes of what a directory of skopeo holds.
fn blobs_of_directory(path: &Path) -> BTreeMap<Digest, u64> {
    let files = fs::read_dir(path).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
    files.map(|bytes| (Digest::of(&bytes), bytes.len() as u64)).collect()
}

fn inspect(path: &Path, name: &str) -> Value {
    let raw = skopeo(&["inspect", &format!("oci:{}:{name}", path.display())]).unwrap();
    serde_json::from_slice(&raw).unwrap()
}

#[test]
fn what_is_written_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    write_source(&source);
    let source = Layout::open(&source).unwrap();
    for (number, format) in [ESTARGZ, ZSTD, EXTERNAL].into_iter().enumerate() {
        let mut target = Target::new();
        let converted =
            target.convert_from(&source, source.image(Some("both")).unwrap(), options(format)).unwrap();
        assert_eq!(converted.layers.len(), 2, "the layers of both are the same");
        target.publish("new", &converted);
        let copy = directory.path().join(format!("copy{number}"));
        let from = format!("oci:{}:new", target.path().display());
        let to = format!("dir:{}", copy.display());
        if skopeo(&["copy", "--all", "--preserve-digests", &from, &to]).is_none() {
            return;
        }
        let copied = blobs_of_directory(&copy);
        assert!(copied.contains_key(&converted.image.digest));
        for layer in &converted.layers {
            assert_eq!(copied[&layer.target], layer.target_size);
        }
        let shown = inspect(&target.path(), "new");
        let layers: Vec<Digest> = serde_json::from_value(shown["Layers"].clone()).unwrap();
        assert_eq!(layers, converted.layers.iter().map(|layer| layer.target).collect::<Vec<_>>());
        if format == EXTERNAL {
            let from = format!("oci:{}:new-esgztoc", target.path().display());
            let to = format!("dir:{}", directory.path().join("toc").display());
            skopeo(&["copy", "--preserve-digests", &from, &to]);
        }
    }
}

/// Skopeo finds none but OCI manifests in layouts, so it gets docker's as a directory of its own kind.
#[test]
fn what_is_kept_as_dockers_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let source = Memory::of(&[&image("amd64", image::MediaTypes::Docker)]);
    let target = Target::new();
    let keep = Options { media_types: MediaTypes::Keep, ..options(ESTARGZ) };
    let converted = target.convert(&source, keep).unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    for (digest, bytes) in target.blobs() {
        let is_manifest = digest == converted.image.digest;
        fs::write(from.join(if is_manifest { "manifest.json".into() } else { digest.hex() }), bytes).unwrap();
    }
    let archive = directory.path().join("archive.tar");
    let (from, to) = (format!("dir:{}", from.display()), format!("docker-archive:{}:a:b", archive.display()));
    if skopeo(&["copy", &from, &to]).is_some() {
        // The layers are decompressed there; converting them checks them against the diff IDs.
        let layout = Layout::open(&archive).unwrap();
        Target::new().convert_from(&layout, layout.image(None).unwrap(), options(ZSTD)).unwrap();
    }
}

#[test]
fn archives_of_others_are_converted() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    write_source(&source);
    let expected = {
        let source = Layout::open(&source).unwrap();
        let target = Target::new();
        let one: &Descriptor = source.image(Some("one")).unwrap();
        target.convert_from(&source, one, options(ESTARGZ)).unwrap()
    };
    let from = format!("oci:{}:one", source.display());
    for (kind, suffix) in [("oci-archive", ":one"), ("docker-archive", ":example.com/one:latest")] {
        let path = directory.path().join(format!("{kind}.tar"));
        if skopeo(&["copy", &from, &format!("{kind}:{}{suffix}", path.display())]).is_none() {
            return;
        }
        let layout = Layout::open(&path).unwrap();
        assert_eq!(layout.images()[0].names, [&suffix[1..]], "{kind}");
        let target = Target::new();
        let converted = target.convert_from(&layout, layout.image(None).unwrap(), options(ESTARGZ)).unwrap();
        // However they came, the layers are the same.
        let targets = |layers: &[convert::image::LayerReport]| {
            layers.iter().map(|layer| layer.target).collect::<Vec<_>>()
        };
        assert!(converted.layers.iter().all(|layer| layer.action == Action::Converted));
        assert_eq!(targets(&converted.layers), targets(&expected.layers), "{kind}");
        let image = target.image(&converted.image);
        for (number, tree) in trees().iter().enumerate() {
            image.assert_layer_shows(number, tree);
            image.toc(number);
        }
    }
}
