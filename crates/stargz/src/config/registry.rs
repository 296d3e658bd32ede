//! `[registry]`: the registry settings of containerd's CRI plugin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// How registries are reached, in containerd's words.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Directories of containerd's `hosts.toml`, separated by `:`. With them `mirrors` and `tls` are not looked at.
    pub config_path: String,
    /// `[registry.mirrors."<host>"]`; `*` stands for all hosts that are not named.
    pub mirrors: BTreeMap<String, Endpoints>,
    /// `[registry.configs."<host>"]`
    pub configs: BTreeMap<String, Settings>,
}

/// Where the content of a host is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// URLs, tried in order before the host itself.
    pub endpoint: Vec<String>,
}

/// How to speak to a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `[registry.configs."<host>".auth]`
    pub auth: Option<Auth>,
    /// `[registry.configs."<host>".tls]`
    pub tls: Option<Tls>,
}

/// Who we are to a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// User name, for `password`.
    pub username: String,
    /// The password.
    pub password: Hidden,
    /// Base64 of both with a colon between.
    pub auth: Hidden,
    /// An OAuth2 refresh token.
    pub identitytoken: Hidden,
}

/// Whom to trust as a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Trust any certificate.
    pub insecure_skip_verify: bool,
    /// Authorities to trust beside those of the system, PEM.
    pub ca_file: PathBuf,
    /// The client certificate, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// A text that is in no message, also not in one about a value of a wrong type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hidden(::registry::Secret);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hidden, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Hidden(::registry::Secret::new(text))),
            _ => Err(serde::de::Error::custom("expected a string (its value is not shown)")),
        }
    }
}

impl Registry {
    /// The directories in `config_path`.
    pub fn roots(&self) -> Vec<PathBuf> {
        std::env::split_paths(&self.config_path).filter(|path| !path.as_os_str().is_empty()).collect()
    }

    /// The rest, as the registry client takes it.
    pub fn cri(&self) -> ::registry::CriRegistry {
        let mirrors = self.mirrors.iter().map(|(host, to)| (host.clone(), to.endpoint.clone()));
        let configs = self.configs.iter().map(|(host, settings)| (host.clone(), settings.options()));
        ::registry::CriRegistry { mirrors: mirrors.collect(), configs: configs.collect() }
    }
}

impl Settings {
    fn options(&self) -> ::registry::CriHost {
        let file = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        ::registry::CriHost {
            auth: self.auth.as_ref().map(|auth| ::registry::CriAuth {
                username: auth.username.clone(),
                password: auth.password.0.clone(),
                auth: auth.auth.0.clone(),
                identity_token: auth.identitytoken.0.clone(),
            }),
            tls: self.tls.as_ref().map(|tls| ::registry::CriTls {
                insecure_skip_verify: tls.insecure_skip_verify,
                ca_file: file(&tls.ca_file),
                cert_file: file(&tls.cert_file),
                key_file: file(&tls.key_file),
            }),
        }
    }
}
