use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;

#[derive(Debug)]
struct Echo;

#[async_trait]
impl Answers for Echo {
    async fn answer(&self, command: &str, arguments: Value) -> Result<Value, Refusal> {
        match command {
            "echo" => Ok(arguments),
            "fail" => Err(Refusal::Failed("it did not work".to_owned())),
            _ => Err(Refusal::Unknown),
        }
    }
}

const SOON: Duration = Duration::from_secs(10);

/// Runs `talk` against a served root.
fn with_server(talk: impl FnOnce(&Path)) {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let listener = listen(root.path()).unwrap();
    runtime.spawn(serve(listener, Arc::new(Echo)));
    talk(root.path());
    runtime.shutdown_timeout(SOON);
}

#[test]
fn a_connection_carries_several_requests() {
    with_server(|root| {
        let mode = std::fs::metadata(socket(root)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = Client::connect(root).unwrap().unwrap();
        for number in 0..3 {
            let said: Value = client.ask("echo", json!({ "number": number }), SOON).unwrap();
            assert_eq!(said, json!({ "number": number }));
        }
        let failed = client.ask::<Value>("fail", Value::Null, SOON).unwrap_err();
        assert_eq!(failed.to_string(), "the daemon says: it did not work");
        let unknown = client.ask::<Value>("fly", Value::Null, SOON).unwrap_err();
        assert!(unknown.to_string().ends_with("this daemon has no command fly"), "{unknown}");
    });
}

#[test]
fn what_is_no_request_is_answered_with_the_reason() {
    with_server(|root| {
        for (line, reason) in [
            ("hello\n", "cannot be read"),
            ("{\"version\":7,\"command\":\"echo\"}\n", "of version 7"),
            ("{\"version\":1}\n", "command"),
        ] {
            let mut stream = UnixStream::connect(socket(root)).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("{\"version\":1,\"error\":") && answer.contains(reason), "{answer}");
        }
    });
}

#[test]
fn a_request_without_an_end_is_not_kept_in_memory() {
    with_server(|root| {
        let mut stream = UnixStream::connect(socket(root)).unwrap();
        let endless = vec![b'x'; REQUEST_MAX as usize];
        stream.write_all(&endless).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("at most 1048576 bytes"), "{answer}");
    });
}

#[test]
fn no_daemon_is_no_error_and_a_socket_of_the_dead_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    assert!(Client::connect(root.path()).unwrap().is_none());
    drop(std::os::unix::net::UnixListener::bind(socket(root.path())).unwrap());
    assert!(Client::connect(root.path()).unwrap().is_none());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let _listener = listen(root.path()).unwrap();
    assert!(Client::connect(root.path()).unwrap().is_some());
}
