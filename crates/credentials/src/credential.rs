//! What is done with credentials whichever source they come from.

use registry::Credential;

/// The names of Docker Hub: what references call it, and what its own tools do.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// All names of `host`: itself, or for Docker Hub every name that it goes by.
pub(crate) fn names_of<'a>(host: &'a str) -> impl Iterator<Item = &'a str> {
    let hub = HUB_NAMES.iter().any(|name| name.eq_ignore_ascii_case(host));
    let (one, many): (Option<&'a str>, &'static [&'static str]) =
        if hub { (None, &HUB_NAMES) } else { (Some(host), &[]) };
    one.into_iter().chain(many.iter().copied())
}

/// Appends `found` to `candidates` without repeating one.
pub(crate) fn add_distinct(
    candidates: &mut Vec<Credential>,
    found: impl IntoIterator<Item = Credential>,
    limit: usize,
) {
    for credential in found {
        if candidates.len() >= limit {
            return;
        }
        if !candidates.contains(&credential) {
            candidates.push(credential);
        }
    }
}
