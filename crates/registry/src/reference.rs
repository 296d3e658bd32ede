//! Image references: `host/repository:tag@digest`.
//!
//! The grammar is the one of the distribution project's reference package, which is what containerd's CRI
//! plugin, nerdctl and Docker normalise names with: a missing host means Docker Hub, a Docker Hub name of one
//! component lies in `library/`, a name with neither tag nor digest means `latest`. One thing is accepted
//! beyond it because containerd's own parser accepts it too: underscores in host names.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use format::Digest;

use crate::error::{Error, Kind};

/// Docker Hub as references name it.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// The host that serves Docker Hub's registry API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// The longest name (host and repository) that the grammar allows, in bytes.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A normalised image reference.
///
/// Holds a tag, a digest or both; when it holds both, the digest decides what is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises `text`.
    ///
    /// # Errors
    /// [`Kind::InvalidReference`], with the part that is wrong and why.
    pub fn parse(text: &str) -> Result<Reference, Error> {
        parse(text).map_err(|reason| {
            let shown: String = text.chars().take(MAX_NAME).collect();
            Error::new(Kind::InvalidReference, format!("{shown:?} is not an image reference: {reason}"))
        })
    }

    /// The host as written in the normalised form, with its port: `docker.io`, `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host, with its port, that serves the registry API: `registry-1.docker.io` for Docker Hub.
    pub fn api_host(&self) -> &str {
        api_host(&self.host)
    }

    /// The repository on that host: `library/ubuntu`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The object `digest` in the same repository.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// Checks that it can name an image that is not made yet: by a tag, without a digest.
    ///
    /// # Errors
    /// [`Kind::InvalidReference`].
    pub fn check_tagged(&self) -> Result<(), Error> {
        match (&self.tag, &self.digest) {
            (Some(_), None) => Ok(()),
            _ => {
                let text =
                    format!("{self}: a new image is named by a tag alone; its digest comes of what it holds");
                Err(Error::new(Kind::InvalidReference, text))
            }
        }
    }

    /// The image that is called `tag` in the same repository; `tag` is one.
    pub(crate) fn with_tag(&self, tag: &str) -> Reference {
        Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// The image that has `suffix` at the end of its tag. None if there is no tag, or if that would not be one.
    pub fn with_tag_suffix(&self, suffix: &str) -> Option<Reference> {
        let tag = format!("{}{suffix}", self.tag.as_ref()?);
        check_tag(&tag).ok()?;
        Some(Reference { tag: Some(tag), digest: None, ..self.clone() })
    }

    /// What to ask the registry's manifest endpoint for.
    pub(crate) fn object(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

/// The host that serves the registry API for references to `host`.
pub(crate) fn api_host(host: &str) -> &str {
    if host == DOCKER_HUB { DOCKER_HUB_API } else { host }
}

const DEFAULT_TAG: &str = "latest";

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference, Error> {
        Reference::parse(text)
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.contains("://") {
        return Err("a reference has no scheme; drop everything up to \"://\"".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| error.to_string())?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if digest.is_none() && tag.is_none() && name.len() == 64 && name.bytes().all(is_hex) {
        return Err("64 hex digits name an image ID, not a repository".into());
    }
    let (host, path) = split_host(name);
    check_host(host)?;
    check_path(path)?;
    let repository = match host {
        DOCKER_HUB if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if host.len() + 1 + repository.len() > MAX_NAME {
        return Err(format!("host and repository are longer than {MAX_NAME} bytes"));
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { host: host.to_owned(), repository, tag, digest })
}

/// A colon after the last slash starts a tag; any other belongs to a port or an IPv6 address.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let path_start = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[path_start..].find(':') {
        Some(colon) => (&text[..path_start + colon], Some(&text[path_start + colon + 1..])),
        None => (text, None),
    }
}

/// The first component is a host only if it cannot be a path component: it has a dot or a colon or uppercase
/// letters, or it is `localhost`.
fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            // The old name of Docker Hub, still written by some tools.
            (if first == "index.docker.io" { DOCKER_HUB } else { first }, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("the IPv6 address has no closing bracket")?;
        address.parse::<Ipv6Addr>().map_err(|_| format!("{address:?} is not an IPv6 address"))?;
        match after {
            "" => return Ok(()),
            _ => (None, Some(after.strip_prefix(':').ok_or("only a port may follow the IPv6 address")?)),
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        }
    };
    if let Some(name) = name {
        let part_is_valid = |part: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
        };
        if !name.split('.').all(part_is_valid) {
            return Err(format!("{name:?} is not a host name"));
        }
    }
    match port {
        Some(port)
            if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(())
        }
        Some(port) => Err(format!("{port:?} is not a port number")),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    for component in path.split('/') {
        if component.is_empty() {
            return Err("the repository has an empty component".into());
        }
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("{component:?} has uppercase letters; a repository is lowercase"));
        }
        if !component_is_valid(component.as_bytes()) {
            return Err(format!(
                "{component:?} is not a repository component (letters and digits, separated by one of \".\", \"_\", \
                 \"__\" or any number of \"-\")"
            ));
        }
    }
    Ok(())
}

fn component_is_valid(component: &[u8]) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_with_words = component.first().is_some_and(is_word) && component.last().is_some_and(is_word);
    ends_with_words
        && component.split(is_word).filter(|separator| !separator.is_empty()).all(|separator| match separator
        {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|&b| b == b'-'),
        })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let valid =
        tag.as_bytes().first().is_some_and(first) && tag.bytes().all(|b| first(&b) || b == b'.' || b == b'-');
    match valid && tag.len() <= MAX_TAG {
        true => Ok(()),
        false => Err(format!(
            "{tag:?} is not a tag (1 to {MAX_TAG} of letters, digits, \"_\", \".\", \"-\", not starting with \".\" or \"-\")"
        )),
    }
}

fn is_hex(digit: u8) -> bool {
    digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)
}

#[cfg(test)]
mod tests;
