use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use format::{Compression, Digest};
use registry::Descriptor;
use serde_json::{Value, json};

use crate::engine::{Failure, Pin, Shown, Wanted};
use crate::image::Image;
use crate::pool::{Known, Pool};
use crate::state::{Holds, Key, State};

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
const SIZE: &str = "io.containers.estargz.uncompressed-size";

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn descriptor(name: &str, annotations: &[(&str, String)]) -> Descriptor {
    let annotations: BTreeMap<_, _> =
        annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    serde_json::from_value(json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": digest(name), "size": 77, "annotations": annotations,
    }))
    .unwrap()
}

/// An image of these layers, each of which has its name's diff ID.
fn image(layers: Vec<Descriptor>) -> Image {
    let diff_ids: Vec<_> = (0..layers.len()).map(|number| digest(&format!("diff {number}"))).collect();
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
    Image::new(digest("manifest"), Bytes::new(), config.into(), layers)
}

fn pin(image: &Image, name: Digest) -> Option<Result<Pin, Failure>> {
    image.find(&name).map(|found| found.map(|(_, pin)| pin))
}

#[test]
fn a_layer_has_the_names_that_its_manifest_gives_it_and_is_pinned_by_them() {
    let (toc, checksum) = (digest("toc"), digest("checksum"));
    let image = image(vec![
        descriptor("estargz", &[(TOC, toc.to_string())]),
        descriptor("chunked", &[(CHECKSUM, checksum.to_string())]),
        descriptor("plain", &[]),
        descriptor("malformed", &[(TOC, "sha256:1".to_owned())]),
    ]);
    assert_eq!(pin(&image, toc), Some(Ok(Pin::Toc(toc))));
    assert_eq!(pin(&image, digest("estargz")), Some(Ok(Pin::Toc(toc))));
    assert_eq!(pin(&image, checksum), Some(Ok(Pin::CompressedToc(checksum))));
    assert_eq!(pin(&image, digest("chunked")), Some(Ok(Pin::CompressedToc(checksum))));
    for name in ["plain", "malformed"] {
        assert!(matches!(pin(&image, digest(name)), Some(Err(Failure::NotLazy(_)))), "{name}");
    }
    assert_eq!(pin(&image, digest("stranger")), None);
}

#[test]
fn a_layer_that_is_there_twice_is_not_for_us() {
    let toc = [(TOC, digest("toc").to_string())];
    let twice = image(vec![descriptor("a", &toc), descriptor("b", &[]), descriptor("a", &toc)]);
    for name in [digest("toc"), digest("a")] {
        assert!(matches!(pin(&twice, name), Some(Err(Failure::NotLazy(_)))));
    }
}

#[test]
fn without_a_diff_id_a_layer_is_found_by_its_toc_alone() {
    let layers = vec![descriptor("a", &[(TOC, digest("toc").to_string())])];
    for config in ["{}", "junk", r#"{"rootfs":{"diff_ids":[]}}"#] {
        let image =
            Image::new(digest("m"), Bytes::new(), Bytes::from_static(config.as_bytes()), layers.clone());
        assert!(matches!(pin(&image, digest("a")), Some(Err(Failure::NotLazy(_)))), "{config}");
        assert!(matches!(pin(&image, digest("toc")), Some(Ok(_))), "{config}");
    }
}

fn info(name: Digest, annotations: &[(&str, String)]) -> Value {
    let image = image(vec![descriptor("a", annotations)]);
    let wanted = Wanted {
        reference: "r.test/app:1".parse().unwrap(),
        manifest: image.digest,
        layer: image.layers[0].clone(),
        pin: Pin::Toc(digest("toc")),
    };
    let shown =
        Shown { compression: Compression::Zstd, toc: digest("toc"), compressed_toc: None, size: 5000 };
    serde_json::from_slice(&crate::info::of(&name, &wanted, &shown)).unwrap()
}

#[test]
fn info_claims_nothing_that_the_client_would_believe_unverified() {
    let annotations = [(TOC, digest("toc").to_string()), (SIZE, "12345".to_owned())];
    assert_eq!(
        info(digest("toc"), &annotations),
        json!({
            "compressed-size": 77, "diff-size": 12345, "compression": 4, "toc-digest": digest("toc"),
            "flags": { "expected-layer-diffid": digest("diff 0") },
        })
    );
    assert_eq!(
        info(digest("a"), &annotations),
        json!({
            "compressed-diff-digest": digest("a"), "compressed-size": 77, "diff-digest": digest("diff 0"),
            "diff-size": 12345, "compression": 4, "toc-digest": digest("toc"),
        })
    );
    let unsized_layer = [(TOC, digest("toc").to_string()), (SIZE, "-1".to_owned())];
    assert_eq!(info(digest("toc"), &unsized_layer)["diff-size"], -1);
    assert_eq!(info(digest("a"), &unsized_layer)["diff-size"], 5000);
}

fn key(reference: &str, name: &str) -> Key {
    Key { reference: reference.into(), name: digest(name) }
}

fn see(state: &mut State, key: &Key, now: Instant) {
    state.see(&key.reference, key.reference.parse().unwrap(), now).unwrap();
    assert!(state.look(key, now).is_none());
}

const HOLDS: Holds = Holds {
    looked_up: Duration::from_secs(100),
    released: Duration::from_secs(10),
    failed: Duration::from_secs(5),
};

#[test]
fn what_cannot_be_had_just_now_is_a_matter_of_the_whole_image() {
    let (mut state, now) = (State::default(), Instant::now());
    let (first, second, other) = (key("r.test/a:1", "1"), key("r.test/a:1", "2"), key("r.test/b:1", "1"));
    for key in [&first, &second, &other] {
        see(&mut state, key, now);
    }
    state.fail(&first, Failure::Layer("broken".into()), now);
    assert!(state.failure(&first, None).is_some() && state.failure(&second, None).is_none());
    state.fail(&first, Failure::Image("away".into()), now);
    assert!(state.failure(&second, None).is_some() && state.failure(&other, None).is_none());
    assert!(state.failure(&second, Some(now + Duration::from_secs(1))).is_none(), "it is older than that");
    state.sweep(HOLDS, now + HOLDS.failed);
    assert!(state.failure(&first, None).is_none() && state.failure(&second, None).is_none());
}

#[test]
fn what_is_used_stays_and_what_is_not_goes_in_its_time() {
    let (mut state, now) = (State::default(), Instant::now());
    let (used, unused) = (key("r.test/a:1", "1"), key("r.test/b:1", "1"));
    for key in [&used, &unused] {
        see(&mut state, key, now);
    }
    state.use_once_more(&used, now);
    let later = now + HOLDS.looked_up;
    let (_, gone) = state.sweep(HOLDS, later);
    assert_eq!(gone, [unused.reference]);
    assert_eq!(state.uses(&used), 1);
    state.use_once_less(&used, later);
    state.use_once_less(&used, later);
    assert_eq!(state.uses(&used), 0);
    assert!(state.sweep(HOLDS, later + Duration::from_secs(9)).1.is_empty());
    assert_eq!(state.sweep(HOLDS, later + HOLDS.released).1, [used.reference]);
}

#[test]
fn uses_are_written_and_read_and_damage_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open(dir.path().join("pool")).unwrap();
    let image = image(vec![descriptor("a", &[(TOC, digest("toc").to_string())])]);
    let known =
        Known { manifest: image.digest, layer: image.layers[0].clone(), pin: Pin::Toc(digest("toc")) };
    let used = |uses| [(digest("toc"), crate::pool::Used { uses, layer: Some(known.clone()) })].into();
    pool.write("r.test/a:1", used(3)).unwrap();
    pool.write("r.test/b:1", used(1)).unwrap();
    pool.write("r.test/c:1", used(1)).unwrap();
    pool.write("r.test/c:1", BTreeMap::new()).unwrap();
    pool.keep("r.test/c:1", &image).unwrap();
    let broken = pool.dir().join(format!("metadata--sha256-{}", digest("r.test/b:1").hex()));
    std::fs::write(broken.join("uses"), "{").unwrap();
    let all = pool.read().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].reference.as_str(), &all[0].layers), ("r.test/a:1", &used(3)));
    assert!(broken.exists(), "it is left for people");
    assert_eq!(std::fs::read_dir(pool.dir()).unwrap().count(), 2, "what nobody uses is gone");
}
