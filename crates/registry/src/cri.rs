//! The registry settings of containerd's CRI plugin: `[plugins."io.containerd.cri.v1.images".registry]`.

use std::collections::HashMap;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::credential::{Credential, Keychain, KeychainError};
use crate::docker_config;
use crate::reference::Reference;
use crate::secret::Secret;

/// Mirrors and settings of hosts.
#[derive(Clone, Debug, Default)]
pub struct CriRegistry {
    /// `mirrors.<host>.endpoint`: the addresses to ask for the content of a host, in order; `*` is for all hosts
    /// that are not named. The host itself is asked last, unless it is among them.
    pub mirrors: HashMap<String, Vec<String>>,
    /// `configs.<host>`: how to speak to a host, with its port if it is not the scheme's own.
    pub configs: HashMap<String, CriHost>,
}

/// How to speak to one host.
#[derive(Clone, Debug, Default)]
pub struct CriHost {
    /// `auth`: who we are there.
    pub auth: Option<CriAuth>,
    /// `tls`: whom to trust.
    pub tls: Option<CriTls>,
}

/// A credential as CRI writes it; the first of them that is not empty counts.
#[derive(Clone, Debug, Default)]
pub struct CriAuth {
    /// `username`, for `password`.
    pub username: String,
    /// `password`.
    pub password: Secret,
    /// `auth`: both of them, in base64 with a colon between.
    pub auth: Secret,
    /// `identitytoken`: an OAuth2 refresh token.
    pub identity_token: Secret,
}

/// TLS settings as CRI writes them.
#[derive(Clone, Debug, Default)]
pub struct CriTls {
    /// `insecure_skip_verify`: trust any certificate.
    pub insecure_skip_verify: bool,
    /// `ca_file`: authorities to trust, PEM.
    pub ca_file: Option<PathBuf>,
    /// `cert_file`: the client certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// `key_file`: its key, PEM.
    pub key_file: Option<PathBuf>,
}

impl CriRegistry {
    /// The addresses for the content of a host.
    pub(crate) fn endpoints(&self, host: &str) -> &[String] {
        self.mirrors.get(host).or_else(|| self.mirrors.get("*")).map_or(&[], Vec::as_slice)
    }
}

/// The `auth` settings of a [`CriRegistry`] as a source of credentials.
#[derive(Debug)]
pub struct CriConfigKeychain {
    hosts: HashMap<String, CriAuth>,
}

impl CriConfigKeychain {
    /// A keychain of all `auth` settings in `registry`.
    pub fn new(registry: &CriRegistry) -> CriConfigKeychain {
        let hosts =
            registry.configs.iter().filter_map(|(host, config)| Some((host.clone(), config.auth.clone()?)));
        CriConfigKeychain { hosts: hosts.collect() }
    }
}

#[async_trait]
impl Keychain for CriConfigKeychain {
    fn name(&self) -> String {
        "the registry configuration".into()
    }

    async fn credentials(&self, host: &str, _: &Reference) -> Result<Vec<Credential>, KeychainError> {
        let names = docker_config::names_of(host);
        let Some(auth) = names.iter().find_map(|name| self.hosts.get(*name)) else { return Ok(Vec::new()) };
        let found = auth
            .credential()
            .map_err(|reason| KeychainError(format!("{}: the auth of {host} {reason}", self.name())))?;
        Ok(found.into_iter().collect())
    }
}

impl CriAuth {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        if !self.username.is_empty() {
            return Ok(Some(Credential::password(&self.username, self.password.clone())));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identity_token.clone())));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        docker_config::decode(&self.auth).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_come_in_all_forms() {
        let auth = |user: &str, secret: &str, auth: &str, token: &str| CriHost {
            auth: Some(CriAuth {
                username: user.into(),
                password: secret.into(),
                auth: auth.into(),
                identity_token: token.into(),
            }),
            tls: None,
        };
        let configs = [
            ("a.test", auth("u", "p", "", "")),
            ("b.test:5000", auth("", "", "dXNlcjpwYTpzcw==", "")),
            ("c.test", auth("", "", "", "t")),
            ("d.test", auth("", "", "", "")),
            ("registry-1.docker.io", auth("hub", "p", "", "")),
            ("bad.test", auth("", "", "topsecret!", "")),
        ];
        let configs = configs.into_iter().map(|(host, config)| (host.to_owned(), config)).collect();
        let keychain = CriConfigKeychain::new(&CriRegistry { configs, ..CriRegistry::default() });
        let reference = Reference::parse("r.test/a").unwrap();
        let rows = [
            ("a.test", Some(Credential::password("u", "p"))),
            ("b.test:5000", Some(Credential::password("user", "pa:ss"))),
            ("b.test", None),
            ("c.test", Some(Credential::IdentityToken("t".into()))),
            ("d.test", None),
            ("docker.io", Some(Credential::password("hub", "p"))),
        ];
        for (host, expected) in rows {
            let found = keychain.credentials(host, &reference).await.unwrap();
            assert_eq!(found.into_iter().next(), expected, "{host}");
        }
        let error = keychain.credentials("bad.test", &reference).await.unwrap_err().to_string();
        assert!(error.contains("bad.test has an \"auth\"") && !error.contains("topsecret"), "{error}");
        assert!(!format!("{keychain:?}").contains("pa:ss"));
    }

    #[test]
    fn a_star_is_for_hosts_without_an_entry() {
        let mirrors =
            [("a.test", vec!["https://m.test"]), ("*", vec!["https://all.test"]), ("none.test", vec![])];
        let mirrors = mirrors
            .into_iter()
            .map(|(host, to)| (host.to_owned(), to.into_iter().map(str::to_owned).collect()))
            .collect();
        let registry = CriRegistry { mirrors, ..CriRegistry::default() };
        assert_eq!(registry.endpoints("a.test"), ["https://m.test"]);
        assert_eq!(registry.endpoints("b.test"), ["https://all.test"]);
        assert!(registry.endpoints("none.test").is_empty());
        assert!(CriRegistry::default().endpoints("a.test").is_empty());
    }
}
