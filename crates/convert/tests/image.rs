//! Images converted from memory and from files, read back as a lazy pull does.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use builder::{Format, Gzip, Limits, Zstd};
use convert::BlobError;
use convert::image::{
    ANNOTATION_TOC_OF_LAYER, Action, ConvertError, Converter, MediaTypes, Options, Platforms, TOC_NAME_SUFFIX,
};
use convert::layout::{ANNOTATION_CONTAINERD_NAME, Layout, Writer};
use format::Digest;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;
use testkit::image::{self, Document, Image, Layer};
use testkit::tarball;
use testkit::tree::{self, Entry, Tree};

fn formats() -> impl Strategy<Value = Format> {
    let gzip = Gzip { level: 1, min_chunk_size: 0 };
    prop_oneof![
        Just(Format::Estargz(gzip)),
        Just(Format::ExternalToc { gzip, lossless: false }),
        Just(Format::ExternalToc { gzip, lossless: true }),
        Just(Format::ZstdChunked(Zstd { level: 1, podman: true })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_layer_shows_the_same_tree(
        trees in prop::collection::vec(
            tree::trees(tree::Options { whiteouts: true, before_epoch: true, chunk_size: 4096, ..Default::default() }),
            1..4,
        ),
        format in formats(),
        parallel in 1_usize..4,
    ) {
        let layers: Vec<Layer> = trees.iter().enumerate().map(|(number, tree)| {
            let tar = tarball::write(tree);
            match number % 3 {
                0 => Layer::gzip(&tar),
                1 => Layer::zstd(&tar),
                _ => Layer::uncompressed(&tar),
            }
        }).collect();
        let source = Memory::of(&[&Image::new(layers, &image::Options::default())]);
        let options = Options { parallel, ..options(format) };
        let target = Target::new();
        let converted = target.convert(&source, options.clone()).unwrap();
        prop_assert!(converted.layers.iter().all(|layer| layer.action == Action::Converted));
        let image = target.image(&converted.image);
        for (number, tree) in trees.iter().enumerate() {
            image.assert_layer_shows(number, tree);
        }
        // Nothing depends on time or on the number of threads.
        let mut other = options;
        (other.parallel, other.layer.threads) = (1, 1);
        let again = Target::new();
        prop_assert_eq!(again.convert(&source, other).unwrap(), converted);
        prop_assert_eq!(target.blobs(), again.blobs());
    }
}

#[test]
fn documents_keep_what_is_not_known() {
    let mut image = Image::new(vec![layer("a"), layer("b")], &image::Options::default());
    edit(&mut image, |manifest, config| {
        config["history"] = json!([{ "created_by": "RUN x", "new": 1 }, { "empty_layer": true }]);
        config["future"] = json!({ "deep": [1, 2.5, "x"] });
        manifest["annotations"] = json!({ "k": "v" });
        manifest["artifactType"] = json!("a/b");
        manifest["layers"][0]["annotations"] =
            json!({ "keep": "me", "containerd.io/snapshot/stargz/toc.digest": "x" });
        manifest["layers"][0]["urls"] = json!(["http://old.example"]);
        manifest["layers"][1]["future"] = json!(true);
    });
    let target = Target::new();
    let converted = target.convert(&Memory::of(&[&image]), options(ESTARGZ)).unwrap();
    let new = target.image(&converted.image);
    let mut config: Value = new.config.clone();
    let old: Value = serde_json::from_slice(&image.config.bytes).unwrap();
    assert_ne!(config["rootfs"]["diff_ids"], old["rootfs"]["diff_ids"]);
    config["rootfs"]["diff_ids"] = old["rootfs"]["diff_ids"].clone();
    assert_eq!(config, old);
    assert_eq!(new.manifest["annotations"], json!({ "k": "v" }));
    assert_eq!(new.manifest["artifactType"], "a/b");
    assert_eq!(new.manifest["layers"][0]["annotations"]["keep"], "me");
    assert_eq!(new.manifest["layers"][0].get("urls"), None);
    assert_eq!(new.manifest["layers"][1]["future"], true);
    new.toc(0);
}

#[test]
fn layers_that_have_the_format_are_reused_and_the_image_stays_the_same() {
    for format in [ESTARGZ, ZSTD] {
        let source = Memory::of(&[&Image::new(vec![layer("a"), layer("b")], &image::Options::default())]);
        let first = Target::new();
        let once = first.convert(&source, options(format)).unwrap();
        let second = Target::new();
        let twice = second.convert_from(&first.layout(), &once.image, options(format)).unwrap();
        assert!(twice.layers.iter().all(|layer| layer.action == Action::Reused));
        assert_eq!(twice.image, once.image);
        // Another format, a file that has to move, or the wish to have all new is a reason to convert.
        let other = if format == ESTARGZ { ZSTD } else { ESTARGZ };
        let moved = Options { prioritized: vec!["/b".into()], ..options(format) };
        let anew = Options { reuse: false, ..options(format) };
        for (options, expected) in [(options(other), 2), (moved, 1), (anew, 2)] {
            let third = Target::new();
            let converted = third.convert_from(&first.layout(), &once.image, options).unwrap();
            let count = converted.layers.iter().filter(|layer| layer.action == Action::Converted).count();
            assert_eq!(count, expected);
        }
    }
}

#[test]
fn a_layer_whose_descriptor_says_less_gets_all_annotations() {
    let lazy = Layer::estargz(&testkit::estargz::build(
        &tarball::write(&Tree::new().with("a", Entry::file("a"))),
        &Default::default(),
    ));
    let silent = Layer { annotations: Default::default(), ..lazy.clone() };
    let source = Memory::of(&[&Image::new(vec![lazy, silent], &image::Options::default())]);
    let target = Target::new();
    let converted = target.convert(&source, options(ESTARGZ)).unwrap();
    let actions: Vec<_> = converted.layers.iter().map(|layer| layer.action.clone()).collect();
    assert_eq!(actions, [Action::Reused, Action::Converted]);
    let image = target.image(&converted.image);
    image.toc(0);
    image.toc(1);
}

#[test]
fn a_failure_stops_the_others() {
    let broken = Layer::uncompressed(&[b'x'; 2000]);
    let mut layers = vec![broken];
    layers.extend((0..20).map(|number| layer(&number.to_string())));
    let source = Memory::of(&[&Image::new(layers.clone(), &image::Options::default())]);
    let parallel = Options { parallel: 4, ..options(ESTARGZ) };
    let error = Target::new().convert(&source, parallel).unwrap_err();
    assert!(matches!(error, ConvertError::Layer { digest, .. } if *digest == layers[0].digest));
    let opened = layers.iter().filter(|layer| source.opened(&layer.digest).load(Ordering::Relaxed) > 0);
    assert!(opened.count() < layers.len());
}

#[test]
fn an_annotation_that_lies_is_no_reason_to_reuse() {
    let mut lying = layer("a");
    let digest = Digest::of(b"another").to_string();
    lying.annotations.insert("containerd.io/snapshot/stargz/toc.digest".into(), digest);
    let target = Target::new();
    let source = Memory::of(&[&Image::new(vec![lying], &image::Options::default())]);
    let converted = target.convert(&source, options(ESTARGZ)).unwrap();
    assert_eq!(converted.layers[0].action, Action::Converted);
    target.image(&converted.image).toc(0);
}

#[test]
fn a_layer_of_several_images_is_converted_once() {
    let image = |architecture: &str, own: &str| {
        let options = image::Options { architecture: architecture.into(), ..Default::default() };
        Image::new(vec![layer("base"), layer(own), layer("base")], &options)
    };
    let (one, two) = (image("amd64", "x"), image("arm64", "y"));
    let source = Memory::of(&[&one, &two]);
    let target = Target::new();
    let opened = source.opened(&one.layers[0].digest);
    let converted = target.convert(&source, options(ESTARGZ)).unwrap();
    assert_eq!(converted.layers.len(), 3);
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let index = target.json(&converted.image.digest);
    let architectures: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].clone())
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
}

#[test]
fn platforms_are_selected_and_attestations_follow_their_images() {
    let image = |architecture: &str| {
        let options = image::Options { architecture: architecture.into(), ..Default::default() };
        Image::new(vec![layer(architecture)], &options)
    };
    let (one, two) = (image("amd64"), image("arm64"));
    let mut source = Memory::of(&[&one, &two]);
    let statement = Document::new("application/vnd.in-toto+json", &json!({ "predicate": 1 }));
    let config = Document::new(image::CONFIG, &json!({ "rootfs": { "diff_ids": [statement.digest] } }));
    let attest = Document::new(
        image::MANIFEST,
        &json!({ "schemaVersion": 2, "mediaType": image::MANIFEST, "config": config.descriptor(), "layers": [statement.descriptor()] }),
    );
    for document in [&statement, &config, &attest] {
        source.add(document.digest, document.bytes.clone());
    }
    let mut index = source.root_json();
    for subject in [&one, &two] {
        let mut descriptor = attest.descriptor();
        descriptor["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        descriptor["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject.manifest.digest,
        });
        index["manifests"].as_array_mut().unwrap().push(descriptor);
    }
    source.set_root(&Document::new(image::INDEX, &index));
    // A source that was saved for one platform only has that.
    source.remove(&two.manifest.digest);

    let only = |platform: &str| Options {
        platforms: Platforms::Only(vec![platform.parse().unwrap()]),
        ..options(ESTARGZ)
    };
    let target = Target::new();
    let converted = target.convert(&source, only("linux/amd64")).unwrap();
    let new = target.json(&converted.image.digest);
    let manifests = new["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!(manifests[1]["annotations"]["vnd.docker.reference.digest"], manifests[0]["digest"]);
    assert_eq!(manifests[1]["digest"], attest.digest.to_string());
    assert!(target.blobs().contains_key(&statement.digest));

    let error = Target::new().convert(&source, only("linux/s390x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image for linux/s390x; there is: linux/amd64, linux/arm64, unknown/unknown"
    );
    let error = Target::new().convert(&source, options(ESTARGZ)).unwrap_err();
    assert!(matches!(error, ConvertError::Blob(BlobError::Missing { .. })), "{error}");
}

#[test]
fn docker_images_become_oci_or_stay_without_annotations() {
    let docker = image::Options { media_types: image::MediaTypes::Docker, ..Default::default() };
    let source = Memory::of(&[&Image::new(vec![layer("a")], &docker)]);
    let target = Target::new();
    let converted = target.convert(&source, options(ESTARGZ)).unwrap();
    let image = target.image(&converted.image);
    assert_eq!(image.manifest["mediaType"], image::MANIFEST);
    assert_eq!(image.manifest["config"]["mediaType"], image::CONFIG);
    assert_eq!(image.manifest["layers"][0]["mediaType"], image::LAYER_GZIP);
    assert!(!converted.without_annotations);
    image.toc(0);

    for (format, layer) in [(ESTARGZ, "tar.gzip"), (ZSTD, "tar.zstd")] {
        let target = Target::new();
        let keep = Options { media_types: MediaTypes::Keep, ..options(format) };
        let converted = target.convert(&source, keep).unwrap();
        assert!(converted.without_annotations);
        let image = target.image(&converted.image);
        let layer = format!("application/vnd.docker.image.rootfs.diff.{layer}");
        assert_eq!(image.manifest["layers"][0]["mediaType"], layer);
        assert_eq!(image.manifest["layers"][0].get("annotations"), None);
    }
}

#[test]
fn files_come_first_in_the_topmost_layer_that_has_them() {
    let base = Tree::new()
        .with("d", Entry::dir())
        .with("d/both", Entry::file("low"))
        .with("d/low", Entry::file("x"))
        .with("d/gone", Entry::file("x"));
    let top = Tree::new()
        .with("d", Entry::dir())
        .with("d/both", Entry::file("high"))
        .with("d/.wh.gone", Entry::file(""));
    let layers = [base, top].map(|tree| Layer::gzip(&tarball::write(&tree))).to_vec();
    let source = Memory::of(&[&Image::new(layers, &image::Options::default())]);
    let wanted = |paths: &[&str]| Options {
        prioritized: paths.iter().map(|path| path.to_string()).collect(),
        allow_missing: true,
        ..options(ESTARGZ)
    };
    let target = Target::new();
    let paths = ["/d/low", "./d/both", "d/gone", "/nowhere"];
    let converted = target.convert(&source, wanted(&paths)).unwrap();
    assert_eq!(converted.missing, ["d/gone", "nowhere"]);
    let image = target.image(&converted.image);
    assert_eq!(image.before_landmark(0), ["d/low"]);
    assert_eq!(image.before_landmark(1), ["d/both"]);

    // Parts of files go to the same layers; what comes first comes whole.
    let mut parts = wanted(&paths[..1]);
    for path in ["d/both", "/d/low", "./nowhere"] {
        parts.ranges.insert(path.to_owned(), "0+1".parse().unwrap());
    }
    let target = Target::new();
    let converted = target.convert(&source, parts).unwrap();
    assert_eq!(converted.missing, ["nowhere"]);
    let image = target.image(&converted.image);
    let named = [0, 1].map(|layer| image.toc(layer).prefetch_ranges().len());
    assert_eq!((named, image.before_landmark(0)), ([0, 1], vec!["d/low".to_owned()]));

    let strict = Options { allow_missing: false, ..wanted(&paths) };
    let error = Target::new().convert(&source, strict).unwrap_err();
    assert!(matches!(error, ConvertError::PrioritizedMissing(missing) if missing == ["d/gone", "nowhere"]));

    let mut lossless = wanted(&paths);
    lossless.layer.format = Format::ExternalToc { gzip: Gzip::default(), lossless: true };
    let error = Target::new().convert(&source, lossless).unwrap_err();
    assert!(matches!(error, ConvertError::Options(_)));
}

#[test]
fn external_tocs_are_an_image_of_their_own() {
    let source =
        Memory::of(&[&Image::new(vec![layer("a"), layer("b"), layer("a")], &image::Options::default())]);
    let mut target = Target::new();
    let external = Format::ExternalToc { gzip: Gzip::default(), lossless: true };
    let converted = target.convert(&source, options(external)).unwrap();
    let image = target.image(&converted.image);
    assert_eq!(image.config, source.config(), "the diff IDs are kept");
    let tocs = target.image(converted.toc_image.as_ref().unwrap());
    let named: Vec<String> =
        tocs.layers.iter().map(|toc| toc.annotations[ANNOTATION_TOC_OF_LAYER].clone()).collect();
    let mut layers: Vec<String> = image.layers.iter().map(|layer| layer.digest.to_string()).collect();
    layers.sort();
    layers.dedup();
    assert_eq!(named, layers);
    target.publish("x", &converted);
    let layout = target.layout();
    assert_eq!(
        layout.image(Some(&format!("x{TOC_NAME_SUFFIX}"))).unwrap().digest,
        converted.toc_image.unwrap().digest
    );
}

#[test]
fn damaged_and_lying_images_leave_nothing() {
    let honest = || Image::new(vec![layer("a"), layer("b")], &image::Options::default());
    let image = honest();
    let damaged = image.layers[1].digest;
    let bytes = image.layers[1].content.to_bytes();
    let flipped: Vec<u8> =
        bytes.iter().enumerate().map(|(at, byte)| if at == 60 { byte ^ 1 } else { *byte }).collect();
    let mut diff_id = honest();
    edit(&mut diff_id, |_, config| config["rootfs"]["diff_ids"][1] = json!(Digest::of(b"")));
    let mut count = honest();
    edit(&mut count, |_, config| config["rootfs"]["diff_ids"] = json!([Digest::of(b"")]));
    let not_tar = Layer::uncompressed(&[b'x'; 2000]);
    let with = |content: Vec<u8>| {
        let mut source = Memory::of(&[&image]);
        source.add(damaged, content.into());
        source
    };
    let rows: Vec<(Memory, &str)> = vec![
        (with(flipped), "is damaged: its digest is"),
        (with(bytes[..50].to_vec()), "is damaged: it has fewer bytes"),
        (with([&bytes[..], b"x"].concat()), "is damaged: it has more bytes"),
        (Memory::of(&[&diff_id]), "but the config says"),
        (Memory::of(&[&count]), "1 diff IDs for 2 layers"),
        (Memory::of(&[&Image::new(vec![not_tar], &image::Options::default())]), "converting the layer"),
    ];
    for (source, expected) in rows {
        for prioritized in [vec![], vec!["b".to_owned()]] {
            let target = Target::new();
            let options = Options { prioritized, allow_missing: true, ..options(ESTARGZ) };
            let error = target.convert(&source, options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            let path = target.abandon();
            assert!(!path.exists(), "{expected}");
        }
    }
}

#[test]
fn documents_that_are_no_images_are_refused() {
    let deep = |_| {
        let mut documents = vec![Document::new(image::INDEX, &json!({ "manifests": [] }))];
        for _ in 0..6 {
            let below = documents.last().unwrap().descriptor();
            documents.push(Document::new(image::INDEX, &json!({ "manifests": [below] })));
        }
        documents
    };
    let rows: Vec<(Vec<Document>, &str)> = vec![
        (deep(()), "nested more than 4 deep"),
        (vec![Document::new(image::MANIFEST, &json!({ "layers": [] }))], "config: "),
        (vec![Document::new(image::MANIFEST, &json!([]))], "config: "),
        (
            vec![Document::new(
                image::INDEX,
                &json!({ "manifests": [{ "digest": "sha256:../x", "size": 1 }] }),
            )],
            "manifests: ",
        ),
        (vec![Document::new("a/b", &json!({}))], "media type is \"a/b\""),
        (vec![Document::new("", &json!({ "schemaVersion": 1 }))], "outdated schema 1"),
    ];
    for (documents, expected) in rows {
        let source = Memory::documents(&documents);
        let error = Target::new().convert(&source, options(ESTARGZ)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not contain {expected}");
    }
}

#[test]
fn a_layer_that_cannot_be_pulled_lazily_stays() {
    let odd = tarball::archive(&[tarball::Member {
        mode: 0o644,
        ..tarball::Member::new(tarball::Type::File, b"\xff")
    }]);
    let odd = Layer::gzip(&odd);
    let source = Memory::of(&[&Image::new(vec![layer("a"), odd.clone()], &image::Options::default())]);
    let target = Target::new();
    let converted = target.convert(&source, options(ESTARGZ)).unwrap();
    assert!(matches!(&converted.layers[1].action, Action::Kept(reason) if reason.contains("not UTF-8")));
    assert_eq!(converted.layers[1].target, odd.digest);
    assert!(target.blobs().contains_key(&odd.digest));
}

#[test]
fn bombs_end_at_the_limit() {
    let source = Memory::of(&[&Image::new(vec![layer("a")], &image::Options::default())]);
    let mut options = options(ESTARGZ);
    options.layer.limits = Limits { uncompressed: 600, ..Limits::default() };
    for prioritized in [vec![], vec!["a".to_owned()]] {
        let options = Options { prioritized, ..options.clone() };
        let error = Target::new().convert(&source, options).unwrap_err();
        assert!(
            matches!(error, ConvertError::Layer { source: builder::BuildError::Limit { .. }, .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_conversion_is_cancelled_and_tells_what_it_does() {
    let source = Memory::of(&[&Image::new(vec![layer("a"), layer("b")], &image::Options::default())]);
    let target = Target::new();
    let (flag, reports) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (set, count) = (flag.clone(), reports.clone());
    let converter = Converter::new(Options { parallel: 1, ..options(ESTARGZ) })
        .on_progress(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            set.store(true, Ordering::Relaxed);
        })
        .cancel_by(flag);
    let error = converter.convert(&source, &source.root, target.writer()).unwrap_err();
    assert!(matches!(error, ConvertError::Cancelled), "{error:?}");
    assert!(reports.load(Ordering::Relaxed) > 0);
    assert!(!target.abandon().exists());
}

#[test]
fn a_layout_is_converted_into_itself() {
    let source = Memory::of(&[&Image::new(vec![layer("a")], &image::Options::default())]);
    let mut target = Target::new();
    let plain = target.convert(&source, options(ESTARGZ)).unwrap();
    target.publish("first", &plain);
    let layout = Layout::open(target.path()).unwrap();
    let writer = Writer::open(target.path()).unwrap();
    let mut named = layout.image(Some("first")).unwrap().clone();
    named.annotations.insert(ANNOTATION_CONTAINERD_NAME.into(), "example.com/first:1".into());
    let second = Converter::new(options(ZSTD)).convert(&layout, &named, &writer).unwrap();
    assert!(second.image.annotations.is_empty(), "the new image is not called as the old one");
    writer.publish(&[(Some("second"), &second.image)]).unwrap();
    assert_eq!(Layout::open(target.path()).unwrap().images().len(), 2);
}
