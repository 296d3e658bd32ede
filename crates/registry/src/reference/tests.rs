use proptest::prelude::*;

use super::*;

const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn normalises_as_containerd_does() {
    let d = format!("sha256:{HEX}");
    let rows: &[(&str, &str, &str)] = &[
        ("ubuntu", "docker.io/library/ubuntu:latest", "registry-1.docker.io"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04", "registry-1.docker.io"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest", "registry-1.docker.io"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest", "registry-1.docker.io"),
        ("index.docker.io/ubuntu:1", "docker.io/library/ubuntu:1", "registry-1.docker.io"),
        ("docker.io/library/ubuntu:1", "docker.io/library/ubuntu:1", "registry-1.docker.io"),
        ("docker.io", "docker.io/library/docker.io:latest", "registry-1.docker.io"),
        ("localhost/a", "localhost/a:latest", "localhost"),
        ("localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000"),
        ("localhost:5000", "docker.io/library/localhost:5000", "registry-1.docker.io"),
        ("127.0.0.1:5000/a/b/c:d", "127.0.0.1:5000/a/b/c:d", "127.0.0.1:5000"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000"),
        ("[2001:db8::1]/a", "[2001:db8::1]/a:latest", "[2001:db8::1]"),
        ("ghcr.io/o/i-m.a__g_e:V1.2-3_x", "ghcr.io/o/i-m.a__g_e:V1.2-3_x", "ghcr.io"),
        ("Example/a", "Example/a:latest", "Example"),
        ("my_registry:5000/a", "my_registry:5000/a:latest", "my_registry:5000"),
        ("registry.test/a----b", "registry.test/a----b:latest", "registry.test"),
    ];
    for (text, full, api) in rows {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(reference.to_string(), *full, "{text}");
        assert_eq!(reference.api_host(), *api, "{text}");
        assert_eq!(Reference::parse(full).unwrap(), reference, "normalising twice changes {text}");
    }
    let by_digest = Reference::parse(&format!("ubuntu@{d}")).unwrap();
    assert_eq!(by_digest.to_string(), format!("docker.io/library/ubuntu@{d}"));
    assert_eq!((by_digest.tag(), by_digest.object()), (None, d.clone()));
    let both = Reference::parse(&format!("r.test:1/a:b@{d}")).unwrap();
    assert_eq!(both.to_string(), format!("r.test:1/a:b@{d}"));
    assert_eq!((both.tag(), both.object()), (Some("b"), d));
}

#[test]
fn refuses_the_rest_with_the_reason() {
    let long = format!("r.test/{}", "a/".repeat(130) + "a");
    let rows: &[(&str, &str)] = &[
        ("", "empty"),
        ("https://r.test/a", "scheme"),
        ("r.test/", "empty component"),
        ("r.test//a", "empty component"),
        ("/a", "empty component"),
        ("Ubuntu", "uppercase"),
        ("r.test/Ubuntu", "uppercase"),
        ("r.test/a___b", "not a repository component"),
        ("r.test/a..b", "not a repository component"),
        ("r.test/-a", "not a repository component"),
        ("r.test/a_", "not a repository component"),
        ("r.test/../a", "not a repository component"),
        ("r.test/a b", "not a repository component"),
        ("r.test/ä", "not a repository component"),
        ("r.test/a?x=1", "not a repository component"),
        ("r.test/a:", "not a tag"),
        ("r.test/a:-x", "not a tag"),
        ("r.test/a:b:c", "not a tag"),
        ("r.test/a@", "not a digest"),
        ("r.test/a@sha256:abc", "not a digest"),
        ("r.test/a@md5:00", "not a digest"),
        ("r.test:0/a", "not a port"),
        ("r.test:65536/a", "not a port"),
        ("r.test:+1/a", "not a port"),
        ("r.test:/a", "not a port"),
        ("user@r.test/a", "not a digest"),
        ("-r.test/a", "not a host name"),
        ("r..test/a", "not a host name"),
        ("[::1/a", "closing bracket"),
        ("[::g]/a", "not an IPv6"),
        ("[::1]x/a", "only a port"),
        (HEX, "image ID"),
        (&long, "longer than 255"),
    ];
    for (text, reason) in rows {
        let error = Reference::parse(text).expect_err(text);
        assert_eq!(error.kind(), Kind::InvalidReference);
        assert!(error.to_string().contains(reason), "{text:?} gives {error}");
    }
    let long_tag = format!("r.test/a:{}", "b".repeat(129));
    assert!(Reference::parse(&long_tag).is_err());
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused(text in "\\PC{0,80}") {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn what_parses_is_stable(text in "([a-zA-Z0-9._-]{1,8}(:[0-9]{1,5})?/)?[a-z0-9._-]{1,8}(/[a-z0-9]{1,3})?(:[a-z0-9]{1,3})?") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }
    }
}
