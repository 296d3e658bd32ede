//! From references to layers, through indexes that lie.

use std::collections::HashMap;

use format::Digest;
use registry::{HostOptions, Kind, Mirror, Options, Platform};

use crate::server::{Reply, Server};
use crate::{client, fast, image_on};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn platform(architecture: &str, variant: Option<&str>) -> Platform {
    Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
}

/// Objects by the last part of their path.
#[derive(Clone, Default)]
pub struct Store(HashMap<String, (String, String)>);

impl Store {
    /// Adds an object and gives its descriptor, open at the end for more fields.
    pub fn add(&mut self, media_type: &str, body: &str) -> String {
        let digest = Digest::of(body.as_bytes());
        self.0.insert(digest.to_string(), (media_type.into(), body.into()));
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}"#, body.len())
    }

    fn tag(&mut self, media_type: &str, body: &str) {
        self.tag_as("1", media_type, body);
    }

    pub fn tag_as(&mut self, tag: &str, media_type: &str, body: &str) {
        self.0.insert(tag.into(), (media_type.into(), body.into()));
    }

    fn image(&mut self, media_type: &str, name: &str) -> String {
        let config = self.add("config", &format!(r#"{{"name":"{name}"}}"#));
        let layer = format!(
            r#"{{"mediaType":"layer","digest":"{}","size":5,"annotations":{{"k":"{name}"}}}}"#,
            Digest::of(b"l")
        );
        self.add(media_type, &format!(r#"{{"schemaVersion":2,"config":{config}}},"layers":[{layer}]}}"#))
    }

    pub async fn serve(self) -> Server {
        Server::start(move |request| {
            let name = request.target.rsplit('/').next().unwrap();
            match self.0.get(name) {
                Some((media_type, body)) => Reply::new(200, body.as_str()).header("Content-Type", media_type),
                None => Reply::new(
                    404,
                    r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                ),
            }
        })
        .await
    }
}

#[tokio::test]
async fn the_manifest_that_suits_best_is_chosen() {
    for (list, manifest) in [(INDEX, MANIFEST), (DOCKER_LIST, DOCKER_MANIFEST)] {
        let mut store = Store::default();
        let mut entry = |name: &str, platform: &str| {
            format!(r#"{},"platform":{platform}}}"#, store.image(manifest, name))
        };
        let entries = [
            entry("windows", r#"{"os":"windows","architecture":"amd64","os.version":"10"}"#),
            entry("amd64", r#"{"os":"linux","architecture":"amd64"}"#),
            entry("amd64 again", r#"{"os":"linux","architecture":"amd64"}"#),
            entry("v6", r#"{"os":"linux","architecture":"arm","variant":"v6"}"#),
            entry("v7", r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
            entry("arm64", r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#),
            entry("attestation", r#"{"os":"unknown","architecture":"unknown"}"#),
        ];
        store.tag(list, &format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")));
        let server = store.serve().await;
        let rows = [
            (platform("amd64", None), "amd64"),
            (platform("arm", Some("v7")), "v7"),
            (platform("arm", Some("v6")), "v6"),
            (platform("arm", Some("v8")), "v7"),
            (platform("arm64", None), "arm64"),
        ];
        for (platform, name) in rows {
            let image = client().image(&image_on(&server), &platform).await.unwrap();
            assert_eq!(image.config_bytes, format!(r#"{{"name":"{name}"}}"#));
            assert_eq!(image.layers[0].annotations["k"], name);
            assert_eq!(
                (image.manifest.media_type.as_str(), image.manifest.platform.is_some()),
                (manifest, true)
            );
        }
        let error = client().image(&image_on(&server), &platform("s390x", None)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSuchPlatform);
        assert!(
            error.to_string().contains("no image for linux/s390x; there is: windows/amd64, linux/amd64"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_plain_manifest_needs_no_index() {
    let mut store = Store::default();
    store.image(MANIFEST, "only");
    let body = store.0.values().find(|(media_type, _)| media_type == MANIFEST).unwrap().1.clone();
    store.tag("application/json", &body);
    let server = store.serve().await;
    let image = client().image(&image_on(&server), &platform("amd64", None)).await.unwrap();
    assert_eq!(image.manifest.digest, Digest::of(body.as_bytes()));
    assert_eq!(image.manifest.media_type, MANIFEST);
    assert!(server.requests()[0].header("accept").contains(INDEX));
    let by_digest = image_on(&server).with_digest(image.manifest.digest);
    assert_eq!(client().manifest(&by_digest).await.unwrap().1, body);
}

#[tokio::test]
async fn content_that_is_not_what_was_asked_for_is_refused() {
    let wrong = Digest::of(b"something else");
    let server = Server::start(|_| Reply::new(200, "{}").header("Content-Type", MANIFEST)).await;
    let error = client().manifest(&image_on(&server).with_digest(wrong)).await.unwrap_err();
    assert!(error.kind() == Kind::Digest && error.to_string().contains(&wrong.to_string()), "{error}");
    assert_eq!(server.count(), 1);
    let stated =
        Server::start(move |_| Reply::new(200, "{}").header("Docker-Content-Digest", wrong.to_string()))
            .await;
    assert_eq!(client().manifest(&image_on(&stated)).await.unwrap_err().kind(), Kind::Digest);

    // Sizes are part of what an index promises.
    let mut store = Store::default();
    let entry = store.image(MANIFEST, "x");
    let (head, size) = entry.rsplit_once(':').unwrap();
    store.tag(INDEX, &format!(r#"{{"manifests":[{head}:{}}}]}}"#, size.parse::<u64>().unwrap() + 1));
    let server = store.serve().await;
    let error = client().image(&image_on(&server), &platform("amd64", None)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Digest, "{error}");
}

#[tokio::test]
async fn a_mirror_with_wrong_content_is_passed_over() {
    let (good, bad) = ("{\"layers\":[]}", "{\"layers\":[ ]}");
    let origin = Server::start(move |_| Reply::new(200, good)).await;
    let mirror = Server::start(move |_| Reply::new(200, bad)).await;
    let mirrors = vec![Mirror { host: mirror.host(), ..Mirror::default() }];
    let options = Options { hosts: [(origin.host(), HostOptions { mirrors })].into(), ..fast() };
    let client = registry::Client::new(options, Vec::new()).unwrap();
    let reference = image_on(&origin).with_digest(Digest::of(good.as_bytes()));
    assert_eq!(client.manifest(&reference).await.unwrap().1, good);
    assert_eq!((mirror.count(), origin.count()), (1, 1));
}

#[tokio::test]
async fn documents_are_bounded() {
    for chunked in [false, true] {
        let server = Server::start(move |_| {
            let reply = Reply::new(200, vec![b' '; (4 << 20) + 1]);
            if chunked { reply.chunked() } else { reply }
        })
        .await;
        let error = client().manifest(&image_on(&server)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    }
}

#[tokio::test]
async fn nesting_is_bounded() {
    let mut store = Store::default();
    let mut inner = format!("{}}}", store.image(MANIFEST, "deep"));
    for depth in 1..=6 {
        let index = format!(r#"{{"manifests":[{inner}]}}"#);
        store.tag(INDEX, &index);
        let server = store.clone().serve().await;
        let result = client().image(&image_on(&server), &platform("amd64", None)).await;
        match result {
            Ok(_) => assert!(depth <= 4, "depth {depth} is followed"),
            Err(error) => {
                assert!(depth > 4 && error.to_string().contains("nested"), "depth {depth}: {error}")
            }
        }
        inner = format!("{}}}", store.add(INDEX, &index));
    }
}

#[tokio::test]
async fn what_is_not_an_image_is_refused_with_the_reason() {
    let digest = Digest::of(b"");
    let rows = [
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            r#"{"schemaVersion":1}"#.to_owned(),
            "schema 1",
        ),
        ("application/vnd.cncf.helm", "{}".to_owned(), "\"application/vnd.cncf.helm\" is not an image's"),
        ("text/html", "<html>".to_owned(), "not a JSON object"),
        (MANIFEST, "{".to_owned(), "cannot be read"),
        (MANIFEST, "[".repeat(100_000), "cannot be read"),
        (
            MANIFEST,
            format!(r#"{{"config":{{"digest":"{digest}","size":-1}},"layers":[]}}"#),
            "cannot be read",
        ),
        (MANIFEST, r#"{"config":{"digest":"../../x","size":1},"layers":[]}"#.to_owned(), "cannot be read"),
    ];
    for (media_type, body, reason) in rows {
        let mut store = Store::default();
        store.tag(media_type, &body);
        let server = store.serve().await;
        let error = client().image(&image_on(&server), &platform("amd64", None)).await.unwrap_err();
        assert!(error.kind() == Kind::Protocol && error.to_string().contains(reason), "{error}");
        assert!(error.to_string().len() < 1000, "errors do not repeat documents");
    }
}

#[tokio::test]
async fn a_missing_image_is_said_plainly() {
    let server = Store::default().serve().await;
    let error = client().image(&image_on(&server), &platform("amd64", None)).await.unwrap_err();
    let expected =
        format!("GET http://{}/v2/a/b/manifests/1: 404 Not Found (manifest unknown)", server.host());
    assert_eq!((error.kind(), error.to_string()), (Kind::NotFound, expected));
}
