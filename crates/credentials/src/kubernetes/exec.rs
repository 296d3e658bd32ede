//! Programs that a kubeconfig names to say who we are: `client.authentication.k8s.io`.

use std::time::{Duration, SystemTime};

use registry::Secret;
use serde::Deserialize;
use tokio::process::Command;

use super::kubeconfig::{Exec, pem_identity};
use super::timestamp;
use crate::{ProgramError, program};

/// Longest time that such a program may run. Some log in over the network.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What such a program says.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub token: Option<Secret>,
    /// PEM of a certificate chain and its key.
    pub identity: Option<Secret>,
    pub expires: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    kind: String,
    api_version: String,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    token: Secret,
    client_certificate_data: String,
    client_key_data: Secret,
    expiration_timestamp: Option<String>,
}

/// Runs the program.
pub(super) async fn log_in(exec: &Exec) -> Result<Login, String> {
    let mut spec = serde_json::json!({ "interactive": false });
    if let Some(cluster) = &exec.cluster {
        spec["cluster"] = cluster.clone();
    }
    let info = serde_json::json!({ "kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec })
        .to_string();
    let mut command = Command::new(&exec.program);
    command.args(&exec.args).envs(exec.env.iter().map(|(name, value)| (name, value)));
    command.env("KUBERNETES_EXEC_INFO", info);
    let said = program::run(command, b"", TIMEOUT).await.map_err(|problem| {
        let hint = match (&problem, exec.hint.as_str()) {
            (ProgramError::Start { .. }, hint) if !hint.is_empty() => format!(" ({})", hint.trim()),
            _ => String::new(),
        };
        format!("exec program {}: {problem}{hint}", exec.program.display())
    })?;
    parse(&said, &exec.api_version)
        .map_err(|problem| format!("exec program {}: its answer {problem}", exec.program.display()))
}

fn parse(said: &[u8], api_version: &str) -> Result<Login, String> {
    // The parser's words may quote the answer, which holds secrets.
    let credential: ExecCredential = serde_json::from_slice(said).map_err(|error| {
        format!("is not the JSON of an ExecCredential (line {}, column {})", error.line(), error.column())
    })?;
    if credential.kind != "ExecCredential" || credential.api_version != api_version {
        return Err(format!("is not an ExecCredential of {api_version}"));
    }
    let status = credential.status.ok_or("has no status")?;
    let expires = match status.expiration_timestamp {
        None => None,
        Some(text) => Some(timestamp::parse(&text).ok_or("has an expirationTimestamp that is none")?),
    };
    let identity = match (status.client_certificate_data.is_empty(), status.client_key_data.is_empty()) {
        (true, true) => None,
        (false, false) => {
            let key = status.client_key_data.expose().as_bytes();
            Some(pem_identity(status.client_certificate_data.as_bytes(), key)?)
        }
        _ => return Err("has one of a client certificate and its key".into()),
    };
    let token = Some(status.token).filter(|token| !token.is_empty());
    if token.is_none() && identity.is_none() {
        return Err("has neither a token nor a client certificate".into());
    }
    Ok(Login { token, identity, expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "client.authentication.k8s.io/v1";

    #[test]
    fn answers_of_login_programs() {
        let text = |status: &str| {
            format!(r#"{{"kind":"ExecCredential","apiVersion":"{V1}","spec":{{}},"status":{status}}}"#)
        };
        let good = text(r#"{"token":"hunter2","expirationTimestamp":"1970-01-02T00:00:00Z"}"#);
        let login = parse(good.as_bytes(), V1).unwrap();
        assert_eq!(login.token.as_ref().unwrap().expose(), "hunter2");
        assert_eq!(login.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86400)));
        assert!(!format!("{login:?}").contains("hunter2"));
        let login =
            parse(text(r#"{"clientCertificateData":"C","clientKeyData":"K"}"#).as_bytes(), V1).unwrap();
        assert_eq!(login.identity.unwrap().expose(), "C\nK");
        for (status, want) in [
            ("{}", "neither"),
            (r#"{"clientKeyData":"hunter2"}"#, "has one of"),
            (r#"{"token":"hunter2","expirationTimestamp":"soon"}"#, "expirationTimestamp"),
            (r#"{"token":["hunter2"]}"#, "not the JSON"),
        ] {
            let error = parse(text(status).as_bytes(), V1).unwrap_err();
            assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
        }
        assert!(parse(good.as_bytes(), "client.authentication.k8s.io/v1beta1").is_err());
    }
}
