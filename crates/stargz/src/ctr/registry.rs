//! The registry that an image is pulled from, as the flags say it.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use registry::{
    Client, Credential, CriHost, CriRegistry, CriTls, Keychain, KeychainError, Options, Reference, Secret,
};

use super::args::Rpull;

/// A client for the registry of `reference`.
pub fn client(flags: &Rpull, reference: &Reference) -> anyhow::Result<Client> {
    let mut options = Options::default();
    let host = reference.host().to_owned();
    if flags.plain_http {
        options.plain_http_hosts.insert(host.clone());
    }
    options.config_path.extend(flags.hosts_dir.clone());
    let tls = CriTls {
        insecure_skip_verify: flags.skip_verify,
        ca_file: flags.tlscacert.clone(),
        cert_file: flags.tlscert.clone(),
        key_file: flags.tlskey.clone(),
    };
    let configs = HashMap::from([(host.clone(), CriHost { auth: None, tls: Some(tls) })]);
    options.cri = CriRegistry { configs, ..CriRegistry::default() };
    let mut keychains: Vec<Arc<dyn Keychain>> = Vec::new();
    if let Some(credential) = credential(flags)? {
        keychains.push(Arc::new(Given { host, credential }));
    }
    Ok(Client::new(options, keychains)?)
}

fn credential(flags: &Rpull) -> anyhow::Result<Option<Credential>> {
    if let Some(token) = &flags.refresh {
        return Ok(Some(Credential::IdentityToken(Secret::new(token.clone()))));
    }
    let Some(user) = &flags.user else { return Ok(None) };
    let (user, password) =
        user.split_once(':').context("--user has no password; write it as USER:PASSWORD")?;
    Ok(Some(Credential::password(user, Secret::new(password.to_owned()))))
}

/// What was given with the command, for the image's own registry only.
#[derive(Debug)]
struct Given {
    host: String,
    credential: Credential,
}

#[async_trait]
impl Keychain for Given {
    fn name(&self) -> String {
        "the command line".to_owned()
    }

    async fn credentials(&self, _: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError> {
        Ok(if reference.host() == self.host { vec![self.credential.clone()] } else { Vec::new() })
    }
}
