//! The configuration file of the docker command as a source of credentials.

mod helper;

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::credential::{Credential, Keychain, KeychainError};
use crate::reference::{DOCKER_HUB, Reference};
use crate::secret::Secret;

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Docker Hub as this file and the credential helpers name it.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other names for it.
const HUB_NAMES: &[&str] = &["index.docker.io", "docker.io", "registry-1.docker.io"];
/// Longest time that a credential helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Credentials from docker's `config.json`: its `auths`, and the helper programs that `credHelpers` and
/// `credsStore` name. Read again when the file has changed; a missing file is an empty one.
#[derive(Debug)]
pub struct DockerConfig {
    path: PathBuf,
    /// Whether keys may name repositories, or namespaces of them, beside hosts.
    scoped: bool,
    helper_timeout: Duration,
    read: Mutex<Option<(Stamp, Arc<Config>)>>,
}

/// Tells whether the file is still the one that was read.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Secret,
    username: String,
    password: Secret,
    identitytoken: Secret,
    registrytoken: Secret,
}

impl DockerConfig {
    /// The keychain of a configuration: `path` is the file, or the directory that holds it as `config.json`
    /// (what the environment variable `DOCKER_CONFIG` names).
    pub fn new(path: impl Into<PathBuf>) -> DockerConfig {
        DockerConfig {
            path: path.into(),
            scoped: false,
            helper_timeout: HELPER_TIMEOUT,
            read: Mutex::default(),
        }
    }

    /// The keychain of a file of Podman and its kin (`auth.json`): in the same form, with keys that may also be
    /// `host/repository` or `host/namespace`, of which the one that says most counts.
    pub fn containers(path: impl Into<PathBuf>) -> DockerConfig {
        DockerConfig { scoped: true, ..DockerConfig::new(path) }
    }

    async fn config(&self) -> Result<Arc<Config>, KeychainError> {
        let path = self.path.clone();
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let loading = tokio::task::spawn_blocking(move || load(&path, known));
        let loaded =
            loading.await.map_err(|_| KeychainError("reading the docker config was cancelled".into()))?;
        let loaded = loaded
            .map_err(|reason| KeychainError(format!("docker config {}: {reason}", self.path.display())))?;
        let config = loaded.as_ref().map(|(_, config)| Arc::clone(config)).unwrap_or_default();
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(config)
    }
}

#[async_trait]
impl Keychain for DockerConfig {
    fn name(&self) -> String {
        let kind = if self.scoped { "containers" } else { "docker" };
        format!("{kind} config {}", self.path.display())
    }

    /// What the helper for the host says, then what the file itself holds.
    async fn credentials(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError> {
        let config = self.config().await?;
        let names = names_of(host);
        let own_helper = names.iter().find_map(|name| config.cred_helpers.get(*name));
        let program = own_helper.unwrap_or(&config.creds_store);
        let mut found = Vec::new();
        let mut failure = None;
        if !program.is_empty() {
            match helper::get(program, names[0], self.helper_timeout).await {
                Ok(credential) => found.extend(credential),
                Err(reason) => failure = Some(format!("credential helper {program:?}: {reason}")),
            }
        }
        let scopes = if self.scoped { scopes_of(host, reference) } else { Vec::new() };
        let keys = scopes.iter().map(String::as_str).chain(names.iter().copied());
        let entry = keys.into_iter().find_map(|name| config.auths.get(name)).or_else(|| {
            // Keys may be URLs, as older tools wrote them.
            let is_host = |key: &str| !self.scoped || key.contains("://") || !key.contains('/');
            let mut urls = config.auths.iter().filter(|(key, _)| is_host(key));
            urls.find(|(key, _)| names.contains(&host_of(key))).map(|(_, entry)| entry)
        });
        match entry.map(Entry::credential) {
            None => {}
            Some(Ok(credential)) => found.extend(credential),
            Some(Err(reason)) => failure = Some(format!("the entry for {host} {reason}")),
        }
        match failure {
            Some(reason) if found.is_empty() => Err(KeychainError(format!("{}: {reason}", self.name()))),
            Some(reason) => {
                tracing::warn!(keychain = self.name(), host, reason, "a source of credentials failed");
                Ok(found)
            }
            None => Ok(found),
        }
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registrytoken.clone())));
        }
        if !self.username.is_empty() {
            return Ok(Some(Credential::password(&self.username, self.password.clone())));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        decode(&self.auth).map(Some)
    }
}

/// Reads `user:password` from base64.
pub(crate) fn decode(auth: &Secret) -> Result<Credential, &'static str> {
    let decoded = STANDARD.decode(auth.expose().trim()).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| "has an \"auth\" that is not base64")?;
    let decoded = std::str::from_utf8(&decoded).map_err(|_| "has an \"auth\" that is not text")?;
    let (user, secret) = decoded.split_once(':').ok_or("has an \"auth\" without a colon")?;
    Ok(Credential::password(user, secret.trim_end_matches('\0')))
}

/// The keys that a host may have in the file, the one that docker itself writes first.
pub(crate) fn names_of(host: &str) -> Vec<&str> {
    if host == DOCKER_HUB || HUB_NAMES.contains(&host) {
        return [HUB_KEY].iter().chain(HUB_NAMES).copied().collect();
    }
    vec![host]
}

/// The keys that are for a repository at a host or a namespace around it, the narrowest first.
fn scopes_of(host: &str, reference: &Reference) -> Vec<String> {
    let mut scopes = Vec::new();
    let mut path = reference.repository();
    loop {
        scopes.push(format!("{host}/{path}"));
        match path.rsplit_once('/') {
            Some((namespace, _)) => path = namespace,
            None => return scopes,
        }
    }
}

/// The host in a key that may be a URL.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

/// Reads the file, or gives back what is `known` if it has not changed. None if there is no file.
fn load(path: &Path, known: Option<(Stamp, Arc<Config>)>) -> Result<Option<(Stamp, Arc<Config>)>, String> {
    let file = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => path.join("config.json"),
        _ => path.to_owned(),
    };
    let mut file = match std::fs::File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let stamp = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    if let Some((known_stamp, config)) = known
        && known_stamp == stamp
    {
        return Ok(Some((stamp, config)));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.by_ref()
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    // Texts of the JSON parser may quote the file, which holds secrets.
    let config = serde_json::from_slice(&text)
        .map_err(|error| format!("is not valid at line {}, column {}", error.line(), error.column()))?;
    Ok(Some((stamp, Arc::new(config))))
}

#[cfg(test)]
mod tests;
