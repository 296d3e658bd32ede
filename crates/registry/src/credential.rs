//! Credentials and where they come from.

use std::fmt;

use async_trait::async_trait;

use crate::Reference;

/// What proves to a registry who asks. Its `Debug` form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password (or an access token used as one).
    Password {
        /// The user name.
        user: String,
        /// The password.
        secret: String,
    },
    /// An OAuth2 refresh token, exchanged for access tokens at the registry's token server.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Password { .. } => "Password(hidden)",
            Credential::IdentityToken(_) => "IdentityToken(hidden)",
        })
    }
}

/// Why a keychain could not answer. The text must name the keychain and must not hold a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeychainError(pub String);

/// A source of credentials.
///
/// Keychains are asked in order, each time a token has to be fetched; the first credential wins. One that
/// fails is reported and passed over, so that a broken source does not hide the next one.
#[async_trait]
pub trait Keychain: Send + Sync + fmt::Debug {
    /// The credential for `host`, if this keychain has one.
    ///
    /// `host` is the host that will be given the credential: the host of the reference as [`Reference::host`]
    /// writes it (`docker.io` for Docker Hub), or a mirror's host with its port.
    async fn credential(
        &self,
        host: &str,
        reference: &Reference,
    ) -> Result<Option<Credential>, KeychainError>;
}
