//! Text that must not be shown, and is overwritten when it is not needed any more.

use std::fmt;

use bytes::Bytes;
use reqwest::header::{HeaderValue, InvalidHeaderValue};
use zeroize::{Zeroize as _, Zeroizing};

/// A password or token.
///
/// Its memory is overwritten when it is dropped, its `Debug` form shows nothing, and it has no `Display` form.
/// Equality takes a time that depends on the length alone.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret from a text; the text's memory becomes that of the secret.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The text, for the one place that has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl Eq for Secret {}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

/// A header whose memory is overwritten with the last copy of it. What the HTTP library writes to the network
/// has been copied from there and is out of reach.
pub(crate) fn secret_header(text: String) -> Result<HeaderValue, InvalidHeaderValue> {
    let owner = Owner(text.into_bytes());
    let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(owner))?;
    header.set_sensitive(true);
    Ok(header)
}

struct Owner(Vec<u8>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::from("topsecret");
        assert_eq!(format!("{secret:?}"), "hidden");
        assert_eq!(secret.expose(), "topsecret");
        assert_eq!(secret, Secret::new("topsecret".to_owned()));
        assert_ne!(secret, Secret::from("topsecreT"));
        assert_ne!(secret, Secret::from("top"));
        let header = secret_header("Bearer topsecret".into()).unwrap();
        assert_eq!(header, "Bearer topsecret");
        assert!(!format!("{header:?}").contains("topsecret"));
        assert!(secret_header("a\r\nb".into()).is_err());
    }
}
