//! The image pull secrets that are known: plain data, without clock and waiting.

use std::collections::{BTreeMap, HashMap};

use registry::{Credential, Secret};
use serde::Deserialize;

use crate::credential::add_distinct;
use crate::docker_auth::{self, AuthEntry};
use crate::pattern::Pattern;

/// Most secrets of one kind.
const MAX_SECRETS: usize = 10_000;
/// Most credentials of all secrets.
const MAX_ENTRIES: usize = 50_000;
/// Most bytes of credentials of all secrets.
const MAX_BYTES: usize = 32 << 20;
/// Most candidates for an image.
const MAX_CANDIDATES: usize = 32;

/// The two forms of image pull secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    DockerConfigJson,
    DockerCfg,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::DockerConfigJson, Kind::DockerCfg];

    /// The secret's `type`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::DockerConfigJson => "kubernetes.io/dockerconfigjson",
            Kind::DockerCfg => "kubernetes.io/dockercfg",
        }
    }

    /// The key of its data.
    fn data_key(self) -> &'static str {
        match self {
            Kind::DockerConfigJson => ".dockerconfigjson",
            Kind::DockerCfg => ".dockercfg",
        }
    }
}

/// A secret as the API writes it.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    pub metadata: Metadata,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    data: Option<HashMap<String, Secret>>,
}

/// What identifies an object, and its version.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub namespace: String,
    pub name: String,
    pub resource_version: String,
}

/// Namespace and name.
pub(super) type Name = (String, String);

/// The credentials of one secret.
#[derive(Debug, Default)]
pub(super) struct Entries(Vec<(Pattern, Credential)>);

impl Entries {
    fn bytes(&self) -> usize {
        let one = |(_, credential): &(Pattern, Credential)| {
            let text = match credential {
                Credential::Password { user, secret } => user.len() + secret.expose().len(),
                Credential::IdentityToken(token) | Credential::RegistryToken(token) => token.expose().len(),
            };
            text + size_of::<(Pattern, Credential)>()
        };
        self.0.iter().map(one).sum()
    }
}

impl Object {
    pub fn name(&self) -> Name {
        (self.metadata.namespace.clone(), self.metadata.name.clone())
    }

    /// The credentials in the secret. What is malformed is left out, and named in the log.
    pub fn entries(self, kind: Kind) -> Entries {
        let (namespace, name) = self.name();
        let mut entries = Vec::new();
        let parsed = match self.data.unwrap_or_default().remove(kind.data_key()) {
            None => Err("has no data of its type"),
            Some(data) => parse(kind, &data, &mut entries),
        };
        if let Err(problem) = parsed {
            tracing::warn!(namespace, name, problem, "an image pull secret is not usable as a whole");
        }
        Entries(entries)
    }
}

#[derive(Deserialize)]
struct DockerConfigJson {
    auths: Option<HashMap<String, AuthEntry>>,
}

/// Takes out what is usable, and tells what else is wrong.
fn parse(kind: Kind, data: &Secret, entries: &mut Vec<(Pattern, Credential)>) -> Result<(), &'static str> {
    let bytes = docker_auth::decode_bytes(data.expose())?;
    // The parser's words may quote the text, which holds secrets.
    let invalid = |_| "is not the JSON of a docker configuration";
    let auths = match kind {
        Kind::DockerConfigJson => {
            serde_json::from_slice::<DockerConfigJson>(&bytes).map_err(invalid)?.auths.unwrap_or_default()
        }
        Kind::DockerCfg => serde_json::from_slice(&bytes).map_err(invalid)?,
    };
    let mut result = Ok(());
    for (key, auth) in auths {
        match (Pattern::parse(&key), auth.credential()) {
            (Some(pattern), Ok(Some(credential))) => entries.push((pattern, credential)),
            (_, Ok(None)) => {}
            (None, _) => result = Err("has a key that names no registry"),
            (_, Err(problem)) => result = Err(problem),
        }
    }
    result
}

/// All secrets.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    json: BTreeMap<Name, Entries>,
    cfg: BTreeMap<Name, Entries>,
    entries: usize,
    bytes: usize,
    full: bool,
}

impl Secrets {
    fn of(&mut self, kind: Kind) -> &mut BTreeMap<Name, Entries> {
        match kind {
            Kind::DockerConfigJson => &mut self.json,
            Kind::DockerCfg => &mut self.cfg,
        }
    }

    /// Sets one secret. Beyond the limits it is left out.
    pub fn set(&mut self, kind: Kind, name: Name, entries: Entries) {
        self.remove(kind, &name);
        let (count, bytes) = (entries.0.len(), entries.bytes());
        if count == 0 {
            return;
        }
        let fits = self.of(kind).len() < MAX_SECRETS
            && self.entries + count <= MAX_ENTRIES
            && self.bytes + bytes <= MAX_BYTES;
        if fits {
            self.entries += count;
            self.bytes += bytes;
            self.of(kind).insert(name, entries);
        } else if !std::mem::replace(&mut self.full, true) {
            let (namespace, name) = name;
            tracing::warn!(
                namespace,
                name,
                "there are more image pull secrets than are kept: some are left out"
            );
        }
    }

    pub fn remove(&mut self, kind: Kind, name: &Name) {
        if let Some(old) = self.of(kind).remove(name) {
            self.entries -= old.0.len();
            self.bytes -= old.bytes();
        }
    }

    /// Drops all secrets of a kind that `is_there` does not know: what a complete list is good for.
    pub fn retain(&mut self, kind: Kind, is_there: impl Fn(&Name) -> bool) {
        let gone: Vec<Name> = self.of(kind).keys().filter(|name| !is_there(name)).cloned().collect();
        for name in gone {
            self.remove(kind, &name);
        }
    }

    /// The candidates for `repository` on `host`, of all namespaces; the most specific key first, then in the
    /// order of names.
    pub fn candidates(&self, host: &str, repository: &str) -> Vec<Credential> {
        let all = self.json.values().chain(self.cfg.values()).flat_map(|entries| &entries.0);
        let mut matching: Vec<_> = all.filter(|(pattern, _)| pattern.matches(host, repository)).collect();
        matching.sort_by_key(|(pattern, _)| pattern.rank());
        let mut candidates = Vec::new();
        add_distinct(&mut candidates, matching.into_iter().map(|(_, found)| found.clone()), MAX_CANDIDATES);
        candidates
    }
}

#[cfg(test)]
mod tests;
