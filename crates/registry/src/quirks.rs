//! What hosts were seen to not understand, remembered for the life of the client.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use url::Url;

/// Hosts remembered at most, for each quirk; further ones are found out again.
const MAX_HOSTS: usize = 1024;

/// A part of HTTP's ranges that a host does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Quirk {
    /// "The last n bytes".
    NoSuffixRange,
    /// Several ranges in one request.
    NoMultiRange,
}

/// Which host has which quirk.
#[derive(Debug, Default)]
pub(crate) struct Quirks {
    seen: Mutex<HashSet<(Quirk, String)>>,
}

impl Quirks {
    /// Whether the host that `url` lies on is known to have it.
    pub fn has(&self, quirk: Quirk, url: &Url) -> bool {
        self.lock().contains(&(quirk, origin(url)))
    }

    pub fn note(&self, quirk: Quirk, url: &Url) {
        let mut seen = self.lock();
        if seen.len() < MAX_HOSTS && seen.insert((quirk, origin(url))) {
            tracing::debug!(host = origin(url), ?quirk, "a host does not understand a kind of range");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(Quirk, String)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
