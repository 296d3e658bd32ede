use super::*;

async fn users(keychain: &HandedKeychain, host: &str, reference: &str) -> Vec<String> {
    let found = keychain.credentials(host, &reference.parse().unwrap()).await.unwrap();
    let users = found.into_iter().map(|credential| match credential {
        Credential::Password { user, .. } => user,
        Credential::IdentityToken(_) => "token".to_owned(),
        Credential::RegistryToken(_) => "registry token".to_owned(),
    });
    users.collect()
}

fn handed(json: &str) -> HandedKeychain {
    let keychain = HandedKeychain::default();
    keychain.add(json.as_bytes()).unwrap();
    keychain
}

#[tokio::test]
async fn a_credential_is_for_its_image_first_and_for_its_host_only() {
    let keychain = handed(
        r#"{"r.test/team/app:1":{"username":"one","password":"x"},
            "r.test/team/app:2":{"username":"two","password":"x"},
            "r.test/other:1":{"identityToken":"t"}}"#,
    );
    let first = users(&keychain, "r.test", "r.test/team/app:1").await;
    assert_eq!((first.len(), first[0].as_str()), (2, "one"));
    assert_eq!(users(&keychain, "r.test", "r.test/team/app:2").await[0], "two");
    assert_eq!(users(&keychain, "r.test", "r.test/other:9").await, ["token"]);
    assert!(users(&keychain, "r.test", "r.test/stranger:1").await.is_empty());
    assert!(users(&keychain, "mirror.test", "r.test/team/app:1").await.is_empty());
    assert!(users(&keychain, "elsewhere.test", "elsewhere.test/team/app:1").await.is_empty());
}

#[tokio::test]
async fn a_mirror_gets_what_was_handed_over_for_it() {
    let keychain = handed(r#"{"mirror.test:5000/cache/team/app:1":{"username":"m","password":"x"}}"#);
    assert_eq!(users(&keychain, "mirror.test:5000", "r.test/team/app:1").await, ["m"]);
    assert!(users(&keychain, "r.test", "r.test/team/app:1").await.is_empty());
    // `xteam/app` ends with the same letters, and is something else.
    let keychain = handed(r#"{"mirror.test/xteam/app:1":{"username":"m","password":"x"}}"#);
    assert!(users(&keychain, "mirror.test", "r.test/team/app:1").await.is_empty());
}

#[tokio::test]
async fn an_image_that_needs_none_loses_its_credential() {
    let keychain = handed(r#"{"r.test/a:1":{"username":"u","password":"x"}}"#);
    keychain.add(b"  \n").unwrap();
    assert_eq!(users(&keychain, "r.test", "r.test/a:1").await, ["u"]);
    keychain.add(br#"{"r.test/a:1":{}}"#).unwrap();
    assert!(users(&keychain, "r.test", "r.test/a:1").await.is_empty());
}

#[test]
fn what_is_not_understood_is_refused_without_quoting_it() {
    let keychain = HandedKeychain::default();
    for text in [r#"{"r.test/a:1":{"username":1,"password":"hunter2"}}"#, "[\"hunter2\"]", "hunter2"] {
        let error = keychain.add(text.as_bytes()).unwrap_err();
        assert!(matches!(error, HandOverError::Malformed { .. }) && !error.to_string().contains("hunter2"));
    }
    let both = br#"{"r.test/a:1":{"username":"u","password":"hunter2"},"Not An Image":{}}"#;
    assert!(matches!(keychain.add(both).unwrap_err(), HandOverError::Reference(_)));
    assert!(keychain.images().is_empty());
}

#[tokio::test]
async fn more_images_than_are_kept_push_the_oldest_out() {
    let keychain = HandedKeychain::default();
    for number in 0..IMAGES_MAX + 3 {
        let text = format!(r#"{{"r.test/a{number}:1":{{"username":"u{number}"}}}}"#);
        keychain.add(text.as_bytes()).unwrap();
    }
    assert_eq!(keychain.images().len(), IMAGES_MAX);
    assert!(users(&keychain, "r.test", "r.test/a0:1").await.is_empty());
    assert_eq!(users(&keychain, "r.test", "r.test/a1026:1").await, ["u1026"]);
}

#[tokio::test]
async fn they_arrive_through_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("store.sock");
    let error = hand_over(&socket, b"{}".to_vec()).await.unwrap_err().to_string();
    assert!(error.contains("store.sock") && error.contains("No such file"), "{error}");

    let keychain = Arc::new(HandedKeychain::default());
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve_handed(keychain.clone(), listener, async {
        let _ = stopped.await;
    }));
    let json = br#"{"r.test/a:1":{"username":"u","password":"x"}}"#;
    hand_over(&socket, json.to_vec()).await.unwrap();
    assert_eq!(users(&keychain, "r.test", "r.test/a:1").await, ["u"]);
    let error = hand_over(&socket, b"junk".to_vec()).await.unwrap_err();
    assert!(matches!(&error, HandOverError::Refused(text) if text.contains("line 1")), "{error}");
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
