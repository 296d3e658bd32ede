//! Credential helpers: programs named `docker-credential-…` that answer `get` with a credential.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::credential::Credential;
use crate::secret::Secret;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// Largest explanation that is repeated in an error, in bytes.
const MAX_REMARK: usize = 200;
/// User name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: Secret,
}

/// Asks the helper `name` for the credential of `server`. None if it has none.
pub(super) async fn get(name: &str, server: &str, timeout: Duration) -> Result<Option<Credential>, String> {
    // The name comes from a file and becomes part of a program's name: it must not lead to another directory.
    if name.contains('/') || name.contains('\0') {
        return Err("is not the name of a program".into());
    }
    let program = format!("docker-credential-{name}");
    match tokio::time::timeout(timeout, run(&program, server)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// Dropping the future kills the program.
pub(super) async fn run(program: &str, server: &str) -> Result<Option<Credential>, String> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that ends without reading says why in its answer.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let (answer, remark) = tokio::join!(read(child.stdout.take()), read(child.stderr.take()));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    let answer = answer?;
    if status.success() {
        // Texts of the JSON parser may quote the answer, which holds a secret.
        let HelperAnswer { username, secret } =
            serde_json::from_slice(&answer).map_err(|_| "its answer is not the JSON of a credential")?;
        return Ok(match (username.as_str(), secret.is_empty()) {
            (TOKEN_USER, false) => Some(Credential::IdentityToken(secret)),
            (_, true) if username.is_empty() => None,
            _ => Some(Credential::Password { user: username, secret }),
        });
    }
    let said = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.chars().filter(|c| !c.is_control()).take(MAX_REMARK).collect::<String>().trim().to_owned()
    };
    // The protocol has no code for "none"; these are the texts of its reference implementation.
    let text = said(&answer);
    if text.contains("credentials not found") || text.contains("no credentials") {
        return Ok(None);
    }
    let text = if text.is_empty() { said(&remark.unwrap_or_default()) } else { text };
    Err(format!("failed ({status}): {text}"))
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Result<Zeroizing<Vec<u8>>, String> {
    // Growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER as usize + 1));
    let Some(pipe) = pipe else { return Ok(bytes) };
    pipe.take(MAX_ANSWER + 1).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_ANSWER {
        Err(format!("says more than {MAX_ANSWER} bytes"))
    } else {
        Ok(bytes)
    }
}
