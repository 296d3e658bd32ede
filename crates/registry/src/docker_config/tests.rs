use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn password(user: &str, secret: &str) -> Option<Credential> {
    Some(Credential::Password { user: user.into(), secret: secret.into() })
}

async fn ask(config: &DockerConfig, host: &str) -> Result<Option<Credential>, String> {
    let reference = Reference::parse("r.test/a").unwrap();
    let found = config.credentials(host, &reference).await.map_err(|error| error.to_string())?;
    Ok(found.into_iter().next())
}

fn file(text: &str) -> (tempfile::TempDir, DockerConfig) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    let config = DockerConfig::new(dir.path());
    (dir, config)
}

#[tokio::test]
async fn finds_entries_by_host_and_by_url() {
    let (_dir, config) = file(
        r#"{"auths": {
            "r.test": {"auth": "dXNlcjpwYTpzcw=="},
            "https://old.test:5000/v1/": {"username": "u", "password": "p"},
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldAAA"},
            "token.test": {"identitytoken": "t", "auth": "dXNlcjo="},
            "store.test": {},
            "bad.test": {"auth": "***"},
            "nocolon.test": {"auth": "dXNlcg=="}
        }, "HttpHeaders": {"a": "b"}, "credsStore": ""}"#,
    );
    let rows = [
        ("r.test", password("user", "pa:ss")),
        ("old.test:5000", password("u", "p")),
        ("old.test", None),
        ("docker.io", password("hub", "secret")),
        ("registry-1.docker.io", password("hub", "secret")),
        ("token.test", Some(Credential::IdentityToken("t".into()))),
        ("store.test", None),
        ("other.test", None),
    ];
    for (host, expected) in rows {
        assert_eq!(ask(&config, host).await, Ok(expected), "{host}");
    }
    assert!(
        ask(&config, "bad.test").await.unwrap_err().contains("bad.test has an \"auth\" that is not base64")
    );
    assert!(ask(&config, "nocolon.test").await.unwrap_err().contains("without a colon"));
    let shown = format!("{config:?} {:?}", ask(&config, "r.test").await);
    assert!(!shown.contains("pa:ss") && !shown.contains("dXNl"), "{shown}");
}

#[tokio::test]
async fn follows_changes_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let config = DockerConfig::new(&path);
    assert_eq!(ask(&config, "r.test").await, Ok(None));
    for secret in ["one", "second"] {
        std::fs::write(
            &path,
            format!(r#"{{"auths":{{"r.test":{{"username":"u","password":"{secret}"}}}}}}"#),
        )
        .unwrap();
        assert_eq!(ask(&config, "r.test").await, Ok(password("u", secret)));
    }
    std::fs::write(&path, r#"{"auths":{"r.test":{"username":"topsecret","password":5}}}"#).unwrap();
    let error = ask(&config, "r.test").await.unwrap_err();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("line 1, column"), "{error}");
    assert!(!error.contains("topsecret"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ask(&config, "r.test").await, Ok(None));
    std::fs::write(&path, vec![b' '; MAX_FILE as usize + 1]).unwrap();
    assert!(ask(&config, "r.test").await.unwrap_err().contains("larger than"));
}

/// A helper is found by its name in PATH; a name that is a path is refused, so the tests ask the program
/// directly.
async fn run_helper(script: &str) -> Result<Option<Credential>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker-credential-test");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    loop {
        match helper::run(path.to_str().unwrap(), "https://r.test").await {
            // Another test forked while the file was open for writing here.
            Err(error) if error.contains("Text file busy") => {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
            result => return result,
        }
    }
}

#[tokio::test]
async fn helpers_answer_or_explain() {
    let given = run_helper(
        r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"u\",\"Secret\":\"$1 $server\"}""#,
    );
    assert_eq!(given.await, Ok(password("u", "get https://r.test")));
    let token = run_helper(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
    assert_eq!(token.await, Ok(Some(Credential::IdentityToken("t".into()))));
    let none = run_helper("echo credentials not found in native keychain; exit 1");
    assert_eq!(none.await, Ok(None));
    let broken = run_helper("echo vault is sealed >&2; exit 3").await.unwrap_err();
    assert!(broken.contains("exit status: 3") && broken.contains("vault is sealed"), "{broken}");
    let garbage = run_helper("echo '{\"Secret\":\"topsecret\"'").await.unwrap_err();
    assert!(garbage.contains("not the JSON") && !garbage.contains("topsecret"), "{garbage}");
    let endless = run_helper("exec head -c 200000 /dev/zero").await.unwrap_err();
    assert!(endless.contains("more than"), "{endless}");
}

#[tokio::test]
async fn helpers_are_bounded_and_named_in_errors() {
    let missing = helper::get("no-such-helper-anywhere", "r.test", Duration::from_secs(5)).await.unwrap_err();
    assert!(missing.contains("cannot start docker-credential-no-such-helper-anywhere"), "{missing}");
    for name in ["../evil", "a/b", "a\0b"] {
        assert!(
            helper::get(name, "r.test", Duration::from_secs(5)).await.unwrap_err().contains("not the name")
        );
    }
    let slow = tokio::time::timeout(Duration::from_millis(300), run_helper("exec sleep 60")).await;
    assert!(slow.is_err());
    let (_dir, config) =
        file(r#"{"credHelpers": {"r.test": "no-such-helper"}, "auths": {"b.test": {"auth": "dTpw"}}}"#);
    let error = ask(&config, "r.test").await.unwrap_err();
    assert!(error.contains("config.json") || error.contains("docker config"), "{error}");
    assert!(error.contains("\"no-such-helper\""), "{error}");
    assert_eq!(ask(&config, "b.test").await, Ok(password("u", "p")));
}

#[tokio::test]
async fn keys_of_containers_name_repositories_and_the_narrowest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth.json");
    let key = |user: &str| format!(r#"{{"username": "{user}", "password": "p"}}"#);
    let text = format!(
        r#"{{"auths": {{"r.test": {}, "r.test/team": {}, "r.test/team/app": {}, "mirror.test:5000/team": {},
            "only.test/team/app": {}}}}}"#,
        key("host"),
        key("team"),
        key("app"),
        key("mirror"),
        key("only")
    );
    std::fs::write(&path, text).unwrap();
    let config = DockerConfig::containers(&path);
    let rows = [
        ("r.test", "r.test/team/app:1", Some("app")),
        ("r.test", "r.test/team/other", Some("team")),
        ("r.test", "r.test/team-b/app", Some("host")),
        ("mirror.test:5000", "r.test/team/app:1", Some("mirror")),
        ("only.test", "only.test/team/app/part", Some("only")),
        ("only.test", "only.test/stranger", None),
    ];
    for (host, reference, expected) in rows {
        let found = config.credentials(host, &reference.parse().unwrap()).await.unwrap();
        let expected = expected.and_then(|user| password(user, "p"));
        assert_eq!(found.into_iter().next(), expected, "{host} {reference}");
    }
    // Docker's own file has hosts only.
    let docker = DockerConfig::new(&path);
    assert_eq!(ask(&docker, "r.test").await, Ok(password("host", "p")));
}
