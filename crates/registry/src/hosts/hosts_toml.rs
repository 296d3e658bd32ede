//! containerd's `hosts.toml`: the hosts that serve the content of one host, and how to speak to each.
//!
//! Text in, structure out: the files that it names are read elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use url::Url;

/// Most hosts in one file.
const MAX_HOSTS: usize = 64;

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostsToml {
    /// In the order of the file.
    pub hosts: Vec<HostSection>,
    /// The host asked last. Without an address, it is the one that references name.
    pub server: HostSection,
}

/// One host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostSection {
    pub address: Option<Address>,
    pub capabilities: Capabilities,
    /// Certificate authorities.
    pub ca: Vec<PathBuf>,
    /// Client certificates, each with its key unless that is in the same file.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
    pub headers: Vec<(String, String)>,
    pub dial_timeout: Option<Duration>,
}

/// Where a host's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Scheme, host and port alone.
    pub base: Url,
    /// `/v2`, mostly. Empty or with a slash at the beginning and none at the end.
    pub path: String,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by its digest.
    pub pull: bool,
    /// What a tag means.
    pub resolve: bool,
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities { pull: true, resolve: true }
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Section>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Section {
    capabilities: Vec<String>,
    ca: Texts,
    client: Client,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, Texts>,
    dial_timeout: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a path, or a list of paths and [certificate, key] pairs")]
enum Client {
    One(String),
    Many(Vec<Texts>),
}

impl Default for Texts {
    fn default() -> Texts {
        Texts::Many(Vec::new())
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::Many(Vec::new())
    }
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}

/// Reads a file that lies in `dir`, to which the paths in it are relative.
///
/// # Errors
/// What is wrong, without the text itself: headers may hold secrets.
pub(crate) fn parse(text: &str, dir: &Path) -> Result<HostsToml, String> {
    let wrong = |error: toml::de::Error| match error.span() {
        Some(span) => {
            let line = text.get(..span.start).unwrap_or(text).lines().count().max(1);
            format!("line {line}: {}", error.message())
        }
        None => error.message().to_owned(),
    };
    let Document { server, host } = toml::from_str(text).map_err(wrong)?;
    // The settings of the server stand at the top of the file.
    let root: Section = toml::from_str(text).map_err(wrong)?;
    if host.len() > MAX_HOSTS {
        return Err(format!("more than {MAX_HOSTS} hosts"));
    }
    let mut hosts: Vec<_> = host.into_iter().collect();
    hosts.sort_by_key(|(name, _)| name.span().start);
    let hosts = hosts.into_iter().map(|(name, section)| {
        let name = name.into_inner();
        section.check(&name, dir).map_err(|reason| format!("host {name:?}: {reason}"))
    });
    let hosts = hosts.collect::<Result<_, _>>()?;
    Ok(HostsToml { hosts, server: root.check(&server, dir).map_err(|reason| format!("server: {reason}"))? })
}

impl Section {
    fn check(self, address: &str, dir: &Path) -> Result<HostSection, String> {
        let address = match address {
            "" => None,
            address => Some(Address::parse(address, self.override_path)?),
        };
        let path = |text: String| dir.join(text);
        let client = match self.client {
            Client::One(file) => vec![(path(file), None)],
            Client::Many(files) => {
                let pairs = files.into_iter().map(|files| {
                    let mut files = files.into_vec().into_iter().map(path);
                    match (files.next(), files.next(), files.next()) {
                        (Some(certificate), key, None) => Ok((certificate, key)),
                        _ => Err("an entry of \"client\" is not a certificate and its key".to_owned()),
                    }
                });
                pairs.collect::<Result<_, _>>()?
            }
        };
        let headers = self
            .header
            .into_iter()
            .flat_map(|(name, values)| values.into_vec().into_iter().map(move |value| (name.clone(), value)));
        Ok(HostSection {
            address,
            capabilities: capabilities(&self.capabilities)?,
            ca: self.ca.into_vec().into_iter().map(path).collect(),
            client,
            skip_verify: self.skip_verify,
            headers: headers.collect(),
            dial_timeout: match self.dial_timeout.as_str() {
                "" => None,
                text => Some(duration(text).ok_or_else(|| format!("{text:?} is not a dial_timeout"))?),
            },
        })
    }
}

impl Address {
    /// Reads `host`, `host:port` or a URL. Without `override_path`, its path is one to put `/v2` behind.
    pub fn parse(text: &str, override_path: bool) -> Result<Address, String> {
        let with_scheme = match text.contains("://") {
            true => text.to_owned(),
            false => format!("https://{text}"),
        };
        let mut base =
            Url::parse(&with_scheme).map_err(|error| format!("it is not an address of a host: {error}"))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err("it is not an HTTP address".into());
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err("credentials in the address are not supported".into());
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err("the address has more than a path".into());
        }
        let mut path = base.path().trim_end_matches('/').to_owned();
        if !override_path && !path.ends_with("/v2") {
            path.push_str("/v2");
        }
        base.set_path("");
        Ok(Address { base, path })
    }
}

fn capabilities(names: &[String]) -> Result<Capabilities, String> {
    if names.is_empty() {
        return Ok(Capabilities::default());
    }
    let mut capabilities = Capabilities { pull: false, resolve: false };
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" | "referrers" => {}
            _ => return Err(format!("{name:?} is not a capability (pull, resolve, push, referrers)")),
        }
    }
    Ok(capabilities)
}

/// A duration as Go writes it: `1m30s`, `1.5h`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests;
