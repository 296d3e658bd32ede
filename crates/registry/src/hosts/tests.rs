use super::*;
use crate::options::HostOptions;

async fn urls(options: &Options, text: &str) -> Vec<String> {
    let reference = Reference::parse(text).unwrap();
    let http = Http::new(options).unwrap();
    let endpoints = Hosts::new(options, &http).unwrap().of(&reference).await.unwrap();
    endpoints
        .iter()
        .map(|endpoint| endpoint.url(&reference, "manifests", &reference.object()).to_string())
        .collect()
}

#[tokio::test]
async fn plain_http_is_for_loopback_and_for_configured_hosts() {
    let options = Options { plain_http_hosts: ["r.test:80".to_owned()].into(), ..Options::default() };
    let rows = [
        ("ubuntu:1", "https://registry-1.docker.io/v2/library/ubuntu/manifests/1"),
        ("r.test/a:1", "https://r.test/v2/a/manifests/1"),
        ("r.test:80/a:1", "http://r.test/v2/a/manifests/1"),
        ("localhost/a:1", "http://localhost/v2/a/manifests/1"),
        ("x.localhost:5000/a:1", "http://x.localhost:5000/v2/a/manifests/1"),
        ("notlocalhost.test/a:1", "https://notlocalhost.test/v2/a/manifests/1"),
        ("127.9.9.9:5000/a:1", "http://127.9.9.9:5000/v2/a/manifests/1"),
        ("[::1]:5000/a:1", "http://[::1]:5000/v2/a/manifests/1"),
        ("0.0.0.0:5000/a:1", "https://0.0.0.0:5000/v2/a/manifests/1"),
    ];
    for (text, url) in rows {
        assert_eq!(urls(&options, text).await, [url]);
    }
}

#[tokio::test]
async fn mirrors_come_first_and_are_told_the_namespace() {
    let mirror = |host: &str, insecure| Mirror { host: host.into(), insecure, ..Mirror::default() };
    let mirrors = vec![mirror("m.test", false), mirror("r.test:5000", true)];
    let hosts = HashMap::from([("r.test:5000".to_owned(), HostOptions { mirrors })]);
    let options = Options { hosts, ..Options::default() };
    assert_eq!(
        urls(&options, "r.test:5000/a:1").await,
        [
            "https://m.test/v2/a/manifests/1?ns=r.test%3A5000",
            "http://r.test:5000/v2/a/manifests/1",
            "https://r.test:5000/v2/a/manifests/1"
        ]
    );
    assert_eq!(urls(&options, "other.test/a:1").await.len(), 1);
}

#[test]
fn unusable_mirrors_are_named() {
    let refused = |mirror: Mirror| {
        let hosts = HashMap::from([("r.test".to_owned(), HostOptions { mirrors: vec![mirror] })]);
        let options = Options { hosts, ..Options::default() };
        let error = Hosts::new(&options, &Http::new(&options).unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidOptions);
        error.to_string()
    };
    for host in ["", "https://m.test", "m.test/v2", "m.test:x", "u@m.test", "a b"] {
        let text = refused(Mirror { host: host.into(), ..Mirror::default() });
        assert!(text.contains(&format!("mirror {host:?} of r.test: it is not a host")), "{text}");
    }
    let headers = vec![("X-A".to_owned(), "secret\n".to_owned())];
    let text = refused(Mirror { host: "m.test".into(), headers, ..Mirror::default() });
    assert!(text.contains("X-A") && !text.contains("secret"), "{text}");
}
