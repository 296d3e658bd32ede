//! One entry of the many maps of credentials that descend from docker's: in `auths` of its configuration file, in
//! image pull secrets, in messages of the container runtime interface.

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use base64::{alphabet, engine::DecodePaddingMode};
use registry::{Credential, Secret};
use serde::{Deserialize, Deserializer};

/// Padding is left out by some writers.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The fields in use; an empty one is an absent one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuthEntry {
    #[serde(deserialize_with = "or_default")]
    pub username: String,
    #[serde(deserialize_with = "or_default")]
    pub password: Secret,
    /// Base64 of `user:password`.
    #[serde(deserialize_with = "or_default")]
    pub auth: Secret,
    #[serde(rename = "identitytoken", deserialize_with = "or_default")]
    pub identity_token: Secret,
    #[serde(rename = "registrytoken", deserialize_with = "or_default")]
    pub registry_token: Secret,
}

/// Nothing is written as `null` by some tools.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl AuthEntry {
    /// The credential in the entry; None if all of it is empty.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn credential(self) -> Result<Option<Credential>, &'static str> {
        if !self.identity_token.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identity_token)));
        }
        if !self.username.is_empty() {
            return Ok(Some(Credential::Password { user: self.username, secret: self.password }));
        }
        if !self.auth.is_empty() {
            return decode(&self.auth).map(Some);
        }
        if !self.registry_token.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registry_token)));
        }
        Ok(None)
    }
}

fn decode(auth: &Secret) -> Result<Credential, &'static str> {
    let decoded = LENIENT.decode(auth.expose().trim()).map_err(|_| "has an \"auth\" that is not base64")?;
    let decoded = Secret::new(String::from_utf8(decoded).map_err(|_| "has an \"auth\" that is not text")?);
    let (user, secret) = decoded.expose().split_once(':').ok_or("has an \"auth\" without a colon")?;
    // Docker pads the decoded text with zero bytes.
    let secret = Secret::new(secret.trim_end_matches('\0').to_owned());
    Ok(Credential::Password { user: user.to_owned(), secret })
}

/// Decodes a field of the Kubernetes API that holds bytes.
pub(crate) fn decode_bytes(field: &str) -> Result<zeroize::Zeroizing<Vec<u8>>, &'static str> {
    // Writers by hand wrap lines.
    if field.contains(|c: char| c.is_ascii_whitespace()) {
        let unwrapped: zeroize::Zeroizing<String> =
            zeroize::Zeroizing::new(field.chars().filter(|c| !c.is_ascii_whitespace()).collect());
        return decode_bytes(&unwrapped);
    }
    STANDARD.decode(field).map(zeroize::Zeroizing::new).map_err(|_| "is not base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_precedence() {
        #[track_caller]
        fn check(json: &str, want: Result<Option<Credential>, &str>) {
            assert_eq!(serde_json::from_str::<AuthEntry>(json).unwrap().credential(), want);
        }
        let password = |user: &str, secret: &str| {
            Ok(Some(Credential::Password { user: user.into(), secret: Secret::new(secret.into()) }))
        };
        check("{}", Ok(None));
        check(r#"{"email":"x@y","unknown":[1]}"#, Ok(None));
        check(r#"{"username":"u","password":"p"}"#, password("u", "p"));
        check(r#"{"username":null,"password":null,"auth":"dTpw"}"#, password("u", "p"));
        check(r#"{"auth":"dTpw"}"#, password("u", "p"));
        check(r#"{"auth":"dTpwOg"}"#, password("u", "p:"));
        check(r#"{"auth":" dTpwAAA= "}"#, password("u", "p"));
        check(r#"{"auth":"dQ=="}"#, Err("has an \"auth\" without a colon"));
        check(r#"{"auth":"???"}"#, Err("has an \"auth\" that is not base64"));
        check(r#"{"auth":"//79"}"#, Err("has an \"auth\" that is not text"));
        let token = Secret::new("t".into());
        check(r#"{"auth":"dTpw","identitytoken":"t"}"#, Ok(Some(Credential::IdentityToken(token.clone()))));
        check(r#"{"registrytoken":"t"}"#, Ok(Some(Credential::RegistryToken(token))));
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = r#"{"username":"u","password":"hunter2","auth":"hunter2","identitytoken":"hunter2"}"#;
        let entry: AuthEntry = serde_json::from_str(text).unwrap();
        assert!(!format!("{entry:?}").contains("hunter2"));
        assert!(!format!("{:?}", entry.credential()).contains("hunter2"));
    }
}
