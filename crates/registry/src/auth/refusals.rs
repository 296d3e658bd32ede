//! Credentials that a host has refused, remembered for a short time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::credential::Credential;
use crate::error::{Error, Kind};
use crate::reference::Reference;

/// How long one is not tried again that the host does not know: each wrong password may count towards a lock.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// How long one is not tried again that the host knows and refuses.
const FORBIDDEN_FOR: Duration = Duration::from_secs(5);
/// Refusals remembered at most.
const MAX_REMEMBERED: usize = 64;

/// Tells credentials apart without holding them. Meaningful only to the [`Refusals`] that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64);

/// What one host refused for one repository.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    salt: RandomState,
    noted: HashMap<Fingerprint, (Instant, Error)>,
}

impl Refusals {
    /// The fingerprint of a credential, or of having none.
    pub fn fingerprint(&self, credential: Option<&Credential>) -> Fingerprint {
        let mut hasher = self.salt.build_hasher();
        match credential {
            None => 0.hash(&mut hasher),
            Some(Credential::Password { user, secret }) => (1, user, secret.expose()).hash(&mut hasher),
            Some(Credential::IdentityToken(secret)) => (2, secret.expose()).hash(&mut hasher),
            Some(Credential::RegistryToken(secret)) => (3, secret.expose()).hash(&mut hasher),
        }
        Fingerprint(hasher.finish())
    }

    /// Notes that it was refused just now.
    pub fn note(&mut self, fingerprint: Fingerprint, error: Error) {
        self.noted.retain(|_, (at, error)| at.elapsed() < lasts(error));
        if self.noted.len() < MAX_REMEMBERED {
            self.noted.insert(fingerprint, (Instant::now(), error));
        }
    }

    /// Whether it was refused a short time ago.
    pub fn is_refused(&self, fingerprint: Fingerprint) -> bool {
        self.noted.get(&fingerprint).is_some_and(|(at, error)| at.elapsed() < lasts(error))
    }

    /// Whether a credential that the host knows was refused a short time ago.
    pub fn any_forbidden(&self) -> bool {
        self.noted.values().any(|(at, error)| error.kind() == Kind::Forbidden && at.elapsed() < FORBIDDEN_FOR)
    }

    /// The failure of a request for which nothing is left to try. `failures` is added to its text.
    pub fn remembered(&self, reference: &Reference, failures: &str) -> Error {
        // A refusal that was about a credential tells more than the one of nobody.
        let nobody = self.fingerprint(None);
        let told = self.noted.iter().max_by_key(|(fingerprint, (at, _))| (**fingerprint != nobody, *at));
        match told {
            Some((_, (at, error))) => {
                let ago = at.elapsed().as_secs();
                let left = lasts(error).saturating_sub(at.elapsed()).as_secs() + 1;
                error.clone().append(&format!(
                    " (that was {ago} s ago; the same is not tried again for {left} s){failures}"
                ))
            }
            None => Error::new(
                Kind::Unauthorized,
                format!("{reference}: no credentials are left to try{failures}"),
            ),
        }
    }
}

fn lasts(error: &Error) -> Duration {
    if error.kind() == Kind::Forbidden { FORBIDDEN_FOR } else { UNKNOWN_FOR }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_and_bounded() {
        let mut refusals = Refusals::default();
        let credentials = [
            None,
            Some(Credential::password("u", "p")),
            Some(Credential::password("u", "q")),
            Some(Credential::password("up", "")),
            Some(Credential::IdentityToken("p".into())),
            Some(Credential::RegistryToken("p".into())),
        ];
        let prints: Vec<_> = credentials.iter().map(|c| refusals.fingerprint(c.as_ref())).collect();
        for (i, print) in prints.iter().enumerate() {
            assert!(!refusals.is_refused(*print) && !prints[..i].contains(print));
            refusals.note(*print, Error::new(Kind::Unauthorized, format!("refusal {i}")));
            assert!(refusals.is_refused(*print));
        }
        let text = refusals.remembered(&Reference::parse("r.test/a").unwrap(), "; x").to_string();
        assert!(text.starts_with("refusal 5 (that was 0 s ago") && text.ends_with("; x"), "{text}");
        for i in 0..1000 {
            let print = refusals.fingerprint(Some(&Credential::password("u", i.to_string())));
            refusals.note(print, Error::new(Kind::Unauthorized, ""));
        }
        assert!(refusals.noted.len() <= MAX_REMEMBERED);
    }
}
