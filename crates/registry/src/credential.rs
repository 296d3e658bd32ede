//! Credentials and where they come from.

use std::fmt;

use async_trait::async_trait;

use crate::Reference;
use crate::secret::Secret;

/// What proves to a registry who asks. Its `Debug` form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password (or an access token used as one).
    Password {
        /// The user name.
        user: String,
        /// The password.
        secret: Secret,
    },
    /// An OAuth2 refresh token, exchanged for access tokens at the registry's token server.
    IdentityToken(Secret),
    /// A bearer token that the registry itself takes, without any token server in between.
    RegistryToken(Secret),
}

impl Credential {
    /// A user name and a password.
    pub fn password(user: impl Into<String>, secret: impl Into<Secret>) -> Credential {
        Credential::Password { user: user.into(), secret: secret.into() }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Password { .. } => "Password(hidden)",
            Credential::IdentityToken(_) => "IdentityToken(hidden)",
            Credential::RegistryToken(_) => "RegistryToken(hidden)",
        })
    }
}

/// Why a keychain could not answer. The text must name the keychain and must not hold a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeychainError(pub String);

/// A source of credentials.
///
/// Keychains are asked each time a token has to be fetched, all at once. What they answer is tried in the
/// order of the keychains, and within an answer in its own order, until the registry accepts one. One that
/// fails or does not answer in time is reported and passed over, so that a broken source does not hide the
/// others; its future is dropped then.
#[async_trait]
pub trait Keychain: Send + Sync + fmt::Debug {
    /// Who is asked, in a few words for error texts: `docker config /root/.docker/config.json`.
    fn name(&self) -> String;

    /// The credentials that may be good for `reference` at `host`, the most likely one first; empty if there is
    /// none.
    ///
    /// `host` is the host that will be given the credential: the host of the reference as [`Reference::host`]
    /// writes it (`docker.io` for Docker Hub), or a mirror's host with its port.
    async fn credentials(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError>;
}
