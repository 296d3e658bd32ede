//! A real registry that wants signed tokens, and a token server whose tokens live three seconds.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use registry::{Client, DockerConfig, Kind};

use crate::docker_registry::{Registry, check, installed, run};
use crate::server::{Reply, Request, Server};
use crate::{content, fast, read};

/// What a token lives, in seconds. The registry grants a minute beyond the end that a token states.
const LIFE: u64 = 3;
const LEEWAY: u64 = 60;

/// Signs a token of RFC 7519 (RS256) for what the request asks for.
fn token(dir: &Path, certificate: &str, request: &Request) -> String {
    let url = url::Url::parse(&format!("http://tokens{}", request.target)).unwrap();
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let access = match query.get("scope").map(|scope| scope.split(':').collect::<Vec<_>>()) {
        Some(scope) => format!(r#"[{{"type":"{}","name":"{}","actions":["pull"]}}]"#, scope[0], scope[1]),
        None => "[]".into(),
    };
    let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{certificate}"]}}"#);
    let claims = format!(
        r#"{{"iss":"test","sub":"user","aud":"{}","exp":{},"nbf":{},"iat":{now},"jti":"{}","access":{access}}}"#,
        query["service"],
        now + LIFE - LEEWAY,
        now - 10,
        request.number
    );
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut signing = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", dir.join("tokens.key").to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut signing.stdin.take().unwrap(), signed.as_bytes()).unwrap();
    let signature = signing.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A registry and its token server, which says that tokens live `expires_in` seconds.
async fn start(expires_in: u64) -> (Registry, Server) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    run(
        "openssl",
        &[
            &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", &at("tokens.key"), "-out"],
            &[&at("tokens.pem"), "-subj", "/CN=tokens", "-days", "2"][..],
        ]
        .concat(),
    );
    let der = run("openssl", &["x509", "-in", &at("tokens.pem"), "-outform", "DER"]);
    let (certificate, keys) = (STANDARD.encode(der), dir.path().to_owned());
    let tokens = Server::start(move |request| {
        if request.header("authorization") != format!("Basic {}", STANDARD.encode("user:right")) {
            return Reply::new(401, "");
        }
        let token = token(&keys, &certificate, request);
        Reply::new(200, format!(r#"{{"token":"{token}","expires_in":{expires_in}}}"#))
    })
    .await;
    let auth = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: registry, issuer: test, rootcertbundle: {}}}}}\n",
        tokens.host(),
        at("tokens.pem")
    );
    (Registry::start(dir, "", &auth).await, tokens)
}

fn login(registry: &Registry, password: &str) -> Arc<DockerConfig> {
    let path = registry.dir.path().join("config.json");
    let auth = STANDARD.encode(format!("user:{password}"));
    std::fs::write(&path, format!(r#"{{"auths":{{"127.0.0.1:{}":{{"auth":"{auth}"}}}}}}"#, registry.port))
        .unwrap();
    Arc::new(DockerConfig::new(path))
}

#[tokio::test]
async fn reads_go_on_while_tokens_expire() {
    if !installed(&["docker-registry", "openssl"]) {
        return;
    }
    // Once the truth, so that tokens are renewed ahead; once a lie, so that they are refused.
    for expires_in in [LIFE, 300] {
        let (registry, tokens) = start(expires_in).await;
        let reference = registry.reference("127.0.0.1");
        let client = Client::new(fast(), vec![login(&registry, "right")]).unwrap();
        check(&client, &reference).await;
        let blob = client.blob(&reference, &format::Digest::of(&content(300_000)));
        for _ in 0..14 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(read(&blob, 1000..2000).await.unwrap(), content(300_000)[1000..2000]);
        }
        let issued = tokens.count();
        assert!((3..8).contains(&issued), "{issued} tokens in seven seconds");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_corrected() {
    if !installed(&["docker-registry", "openssl"]) {
        return;
    }
    let (registry, tokens) = start(300).await;
    let reference = registry.reference("127.0.0.1");
    let client = Client::new(fast(), vec![login(&registry, "topsecret")]).unwrap();
    for _ in 0..5 {
        let error = client.manifest(&reference).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        let text = error.to_string();
        assert!(text.contains("config.json") && !text.contains("topsecret"), "{text}");
    }
    let sent = tokens.requests().iter().filter(|request| !request.header("authorization").is_empty()).count();
    assert_eq!(sent, 1, "one attempt, however often it is asked");
    login(&registry, "right");
    check(&client, &reference).await;
}
