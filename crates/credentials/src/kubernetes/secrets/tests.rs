use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn object(kind: Kind, name: &str, text: &str) -> Object {
    let json = serde_json::json!({
        "metadata": {"namespace": "n", "name": name, "resourceVersion": "7", "uid": "ignored"},
        "type": kind.name(),
        "data": {kind.data_key(): STANDARD.encode(text)},
    });
    serde_json::from_value(json).unwrap()
}

fn secrets(list: &[(Kind, &str, &str)]) -> Secrets {
    let mut secrets = Secrets::default();
    for (kind, name, text) in list {
        let object = object(*kind, name, text);
        secrets.set(*kind, object.name(), object.entries(*kind));
    }
    secrets
}

fn users(secrets: &Secrets, host: &str, repository: &str) -> Vec<String> {
    let user = |credential| match credential {
        Credential::Password { user, .. } => user,
        other => panic!("{other:?}"),
    };
    secrets.candidates(host, repository).into_iter().map(user).collect()
}

const CFG: Kind = Kind::DockerCfg;
const JSON: Kind = Kind::DockerConfigJson;

#[test]
fn both_forms_the_most_specific_key_first() {
    let secrets = secrets(&[
        (
            JSON,
            "b",
            r#"{"auths":{"reg.io":{"auth":"aG9zdDpw"},"https://index.docker.io/v1/":{"auth":"aHViOnA="}}}"#,
        ),
        (
            JSON,
            "a",
            r#"{"auths":{"reg.io/team":{"username":"team","password":"p"},"*.io":{"username":"glob"}}}"#,
        ),
        (CFG, "c", r#"{"reg.io":{"username":"legacy","password":"p","email":"e"},"other.io":{}}"#),
        (JSON, "same", r#"{"auths":{"reg.io":{"username":"host","password":"p"}}}"#),
    ]);
    assert_eq!(users(&secrets, "reg.io", "team/app"), ["team", "host", "legacy", "glob"]);
    assert_eq!(users(&secrets, "reg.io", "app"), ["host", "legacy", "glob"]);
    assert_eq!(users(&secrets, "docker.io", "library/x"), ["hub", "glob"]);
    assert!(users(&secrets, "other.com", "x").is_empty());
}

#[test]
fn malformed_secrets_have_nothing() {
    for text in [
        "",
        "{",
        "[]",
        r#"{"auths":{"reg.io":{"auth":"?"}}}"#,
        r#"{"auths":{"reg.io":7}}"#,
        r#"{"auths":null}"#,
    ] {
        let object = object(JSON, "x", text);
        assert!(object.entries(JSON).0.is_empty(), "{text}");
    }
    let json = r#"{"metadata":{"name":"x","namespace":"n"},"type":"kubernetes.io/dockercfg"}"#;
    assert!(serde_json::from_str::<Object>(json).unwrap().entries(CFG).0.is_empty());
}

#[test]
fn one_bad_entry_does_not_hide_the_others() {
    let text = r#"{"auths":{"reg.io":{"username":"u","password":"p","auth":null},"b.io":{"auth":"?"},"":{"auth":"dTpw"}}}"#;
    let secrets = secrets(&[(JSON, "a", text)]);
    assert_eq!(users(&secrets, "reg.io", "x"), ["u"]);
    assert_eq!(secrets.entries, 1);
}

#[test]
fn a_list_replaces_and_limits_hold() {
    let mut secrets = secrets(&[
        (JSON, "a", r#"{"auths":{"reg.io":{"username":"a"}}}"#),
        (JSON, "b", r#"{"auths":{"reg.io":{"username":"b"}}}"#),
        (CFG, "a", r#"{"reg.io":{"username":"c"}}"#),
    ]);
    secrets.retain(JSON, |(_, name)| name == "b");
    assert_eq!(users(&secrets, "reg.io", "x"), ["b", "c"]);
    let big = format!(r#"{{"auths":{{"reg.io":{{"username":"{}"}}}}}}"#, "x".repeat(1 << 20));
    for number in 0..40 {
        let object = object(JSON, &format!("big{number}"), &big);
        secrets.set(JSON, object.name(), object.entries(JSON));
    }
    assert!(secrets.bytes <= MAX_BYTES && secrets.full);
    secrets.retain(JSON, |_| false);
    secrets.retain(CFG, |_| false);
    assert_eq!((secrets.entries, secrets.bytes), (0, 0));
}

#[test]
fn debug_shows_no_secret() {
    let secrets = secrets(&[(JSON, "a", r#"{"auths":{"reg.io":{"username":"u","password":"hunter2"}}}"#)]);
    assert!(!format!("{secrets:?}").contains("hunter2"));
}
