//! The messages between the kubelet and its plugins: `CredentialProviderRequest` and `CredentialProviderResponse`.

use std::collections::HashMap;
use std::time::Duration;

use registry::{Credential, Secret};
use serde::Deserialize;

use super::config::Plugin;
use crate::pattern::Pattern;
use crate::{ProgramError, go_duration};

/// The versions of the protocol. They differ in nothing that is used here.
pub(super) const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// Most credentials in an answer.
const MAX_ENTRIES: usize = 1000;

/// What a plugin is asked for: an image without tag and digest, as the kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Image {
    host: String,
    repository: String,
}

impl Image {
    pub fn new(host: &str, repository: &str) -> Image {
        Image { host: host.to_owned(), repository: repository.to_owned() }
    }

    pub fn is_matched_by(&self, pattern: &Pattern) -> bool {
        pattern.matches(&self.host, &self.repository)
    }
}

/// What an answer is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum CacheKey {
    Image(Image),
    Registry(String),
    Global,
}

/// How a plugin makes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum CacheKeyType {
    Image,
    Registry,
    Global,
}

impl CacheKeyType {
    /// The key of an answer for `image`.
    pub fn key(self, image: &Image) -> CacheKey {
        match self {
            CacheKeyType::Image => CacheKey::Image(image.clone()),
            CacheKeyType::Registry => CacheKey::Registry(image.host.clone()),
            CacheKeyType::Global => CacheKey::Global,
        }
    }
}

/// A plugin's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub key_type: CacheKeyType,
    key: CacheKey,
    /// Zero: to be used once.
    pub keep: Duration,
    /// The most specific first.
    entries: Vec<(Pattern, Credential)>,
}

impl Answer {
    /// Whether the answer is one for `image`, too.
    pub fn covers(&self, image: &Image) -> bool {
        self.key == self.key_type.key(image)
    }

    /// The credentials for `image`, the most specific first.
    pub fn candidates<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = Credential> + 'a {
        let matching = self.entries.iter().filter(|(pattern, _)| image.is_matched_by(pattern));
        matching.map(|(_, credential)| credential.clone())
    }
}

/// The request for `image`.
pub(super) fn request(api_version: &str, image: &Image) -> Vec<u8> {
    let request = serde_json::json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": api_version,
        "image": format!("{}/{}", image.host, image.repository),
    });
    request.to_string().into_bytes()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: CacheKeyType,
    cache_duration: Option<String>,
    auth: Option<HashMap<String, AuthConfig>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: Secret,
}

/// Reads what `plugin` said about `image`.
pub(super) fn answer(plugin: &Plugin, image: &Image, said: &[u8]) -> Result<Answer, ProgramError> {
    let wrong = |text: String| ProgramError::Answer(text);
    if said.trim_ascii().is_empty() {
        return Err(wrong("is empty".into()));
    }
    // The parser's words may quote the answer, which holds secrets; so may a kind that is none.
    let response: Response = serde_json::from_slice(said).map_err(|error| {
        wrong(format!(
            "is not the JSON of a CredentialProviderResponse (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    if response.kind != "CredentialProviderResponse" {
        return Err(wrong("is not of the kind CredentialProviderResponse".into()));
    }
    if response.api_version != plugin.api_version {
        return Err(wrong(format!("is not of the version {}", plugin.api_version)));
    }
    let keep = match response.cache_duration {
        None => plugin.default_cache_duration,
        Some(text) => {
            go_duration::parse(&text).ok_or_else(|| wrong("has a cacheDuration that is none".into()))?
        }
    };
    let auth = response.auth.unwrap_or_default();
    if auth.len() > MAX_ENTRIES {
        return Err(wrong(format!("has more than {MAX_ENTRIES} credentials")));
    }
    let mut entries: Vec<_> = auth
        .into_iter()
        .filter_map(|(key, auth)| {
            let AuthConfig { username: user, password: secret } = auth;
            let is_empty = user.is_empty() && secret.is_empty();
            Some((Pattern::parse(&key).filter(|_| !is_empty)?, Credential::Password { user, secret }))
        })
        .collect();
    entries.sort_by_key(|(pattern, _)| pattern.rank());
    let key_type = response.cache_key_type;
    Ok(Answer { key_type, key: key_type.key(image), keep, entries })
}
