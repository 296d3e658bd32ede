//! What manifests say about layers.

use format::Digest;
use registry::{Kind, Platform, Reference};

use crate::images::{INDEX, MANIFEST, Store};
use crate::server::Server;
use crate::{client, image_on, read};

fn digest(layer: u8) -> Digest {
    Digest::of(&[layer])
}

/// A manifest with these layers, each with one annotation.
fn manifest(store: &mut Store, annotation: &str, layers: &[(u8, &str)]) -> String {
    let config = store.add("config", "{}");
    let layers: Vec<_> = layers
        .iter()
        .map(|(layer, value)| {
            let digest = digest(*layer);
            format!(
                r#"{{"mediaType":"l","digest":"{digest}","size":1,"annotations":{{"{annotation}":"{value}"}}}}"#
            )
        })
        .collect();
    format!(r#"{{"schemaVersion":2,"config":{config}}},"layers":[{}]}}"#, layers.join(","))
}

fn index(store: &mut Store, manifest: &str) -> String {
    let Platform { os, architecture, .. } = Platform::host();
    let entry = store.add(MANIFEST, manifest);
    format!(
        r#"{{"schemaVersion":2,"manifests":[{entry},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}]}}"#
    )
}

#[tokio::test]
async fn annotations_come_from_the_manifest_that_is_named() {
    let mut store = Store::default();
    let by_digest = manifest(&mut store, "position", &[(1, "old"), (2, "b")]);
    let old = Digest::of(by_digest.as_bytes());
    store.add(MANIFEST, &by_digest);
    let tagged = manifest(&mut store, "position", &[(1, "new")]);
    let index = index(&mut store, &tagged);
    let index_digest = Digest::of(index.as_bytes());
    store.add(INDEX, &index);
    store.tag_as("1", INDEX, &index);
    let server = store.serve().await;
    let (client, reference) = (client(), image_on(&server));
    let ask = async |manifest: Option<Digest>, layer| {
        let found = client.layer_annotations(&reference, manifest.as_ref(), &digest(layer)).await;
        found.unwrap().and_then(|annotations| annotations.get("position").cloned())
    };
    assert_eq!(ask(Some(old), 1).await.as_deref(), Some("old"));
    assert_eq!(ask(Some(old), 2).await.as_deref(), Some("b"));
    assert_eq!(ask(None, 1).await.as_deref(), Some("new"));
    assert_eq!(ask(Some(index_digest), 1).await.as_deref(), Some("new"));
    assert_eq!(ask(None, 2).await, None);
    let missing = client.layer_annotations(&reference, Some(&digest(9)), &digest(1)).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[tokio::test]
async fn all_layers_of_an_image_share_one_manifest() {
    let mut store = Store::default();
    let layers: Vec<(u8, &str)> = (0..50).map(|layer| (layer, "x")).collect();
    let tagged = manifest(&mut store, "a", &layers);
    store.tag_as("1", MANIFEST, &tagged);
    let tocs = manifest(&mut store, "b", &layers);
    store.tag_as("1-esgztoc", MANIFEST, &tocs);
    let server = store.serve().await;
    let (client, reference) = (client(), image_on(&server));
    let asking: Vec<_> = (0..50)
        .map(|layer| {
            let (client, reference) = (client.clone(), reference.clone());
            tokio::spawn(async move {
                client.layer_annotations(&reference, None, &digest(layer)).await.unwrap().unwrap();
                assert!(client.external_toc(&reference, &digest(layer)).await.unwrap().is_none());
            })
        })
        .collect();
    for asked in asking {
        asked.await.unwrap();
    }
    assert_eq!(server.count(), 2, "{:?}", server.summary());
}

async fn toc_server() -> Server {
    let mut store = Store::default();
    let toc = store.add("toc", "a table of contents");
    let config = store.add("config", "{}");
    let tocs = format!(
        r#"{{"schemaVersion":2,"config":{config}}},"layers":[{toc},"annotations":{{"containerd.io/snapshot/stargz/layer.digest":"{}"}}}}]}}"#,
        digest(1)
    );
    let index = index(&mut store, &tocs);
    store.tag_as("1-esgztoc", INDEX, &index);
    store.serve().await
}

#[tokio::test]
async fn external_tables_are_found_by_the_tag() {
    let server = toc_server().await;
    let client = client();
    let tagged = image_on(&server);
    let pinned = tagged.with_digest(digest(7));
    for reference in [&tagged, &pinned] {
        let toc = client.external_toc(reference, &digest(1)).await.unwrap().unwrap();
        assert_eq!(read(&toc, 0..19).await.unwrap(), b"a table of contents");
        assert!(client.external_toc(reference, &digest(2)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn images_without_external_tables_are_told_from_failures() {
    let server = toc_server().await;
    let reference = |name: &str| Reference::parse(&format!("{}/{name}", server.host())).unwrap();
    let client = client();
    for _ in 0..2 {
        assert!(client.external_toc(&reference("a/b:2"), &digest(1)).await.unwrap().is_none());
    }
    assert_eq!(server.count(), 1, "that there is none is kept as well");
    for untagged in [format!("a/b@{}", digest(1)), format!("a/b:{}", "t".repeat(121))] {
        let error = client.external_toc(&reference(&untagged), &digest(1)).await.unwrap_err();
        assert!(
            error.kind() == Kind::InvalidReference && error.to_string().contains("pull the image by its tag"),
            "{error}"
        );
    }
}
