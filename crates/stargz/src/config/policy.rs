//! `[profile]` and `[[image_policy]]`: what is fetched ahead, and what becomes of readers while a network is away.

use std::time::Duration;

use serde::Deserialize;

use super::seconds;

/// What containers read first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Remember it.
    pub record: bool,
    /// Fetch it ahead, instead of what a landmark or `prefetch_size` says.
    pub apply: bool,
    /// How long after a start reads count, seconds. 0 means 30.
    pub window_sec: i64,
    /// A start waits until it is there, as for other prefetches.
    pub wait: bool,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile { record: true, apply: true, window_sec: 0, wait: false }
    }
}

impl Profile {
    /// How long after a start reads count.
    pub fn window(&self) -> Duration {
        seconds(self.window_sec, 30)
    }
}

/// What becomes of the readers of some images while their registry is away.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ImagePolicy {
    /// References with `*` for anything.
    pub images: String,
    /// What becomes of them.
    pub lost_network: LostNetwork,
    /// For `error`, after how long, seconds. 0 means 10.
    #[serde(default)]
    pub after_sec: i64,
}

/// What becomes of readers while a registry is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LostNetwork {
    /// They wait, for up to a day.
    Block,
    /// They get an error after a while.
    Error,
    /// There are none: a container starts only when its image is complete.
    Complete,
}

/// What counts as for ever: a reader that waits longer has been forgotten.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

impl ImagePolicy {
    /// How long a read waits; `None`: as all others do.
    pub fn patience(&self) -> Option<Duration> {
        match self.lost_network {
            LostNetwork::Block => Some(FOR_EVER),
            LostNetwork::Error => Some(seconds(self.after_sec, 10)),
            LostNetwork::Complete => None,
        }
    }

    /// Whether it is about this image.
    pub fn is_for(&self, image: &str) -> bool {
        glob(self.images.as_bytes(), image.as_bytes())
    }
}

/// Whether `*` in the pattern can stand for something so that it is the text: in time of their product.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, fits) in [
            ("docker.io/*", "docker.io/library/a:1", true),
            ("*/critical/*", "r.test/critical/x@sha256:ab", true),
            ("*", "", true),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "aXbYcd", false),
            ("docker.io/*", "ghcr.io/docker.io", false),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
