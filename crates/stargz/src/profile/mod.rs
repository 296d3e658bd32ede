//! What containers read of an image when they start, remembered from one start to the next.
//!
//! A profile names, for each layer, the spans that were read in the first seconds, in the order in which they were, by
//! where they begin in the layer's blob. So it holds on any node that pulls the same layers, whatever program wrote it. One
//! that is wrong costs a wasted fetch and nothing else: what is fetched is verified like everything.

pub mod args;
mod cli;
mod store;

use std::collections::HashSet;

use format::Digest;
use serde::{Deserialize, Serialize};

pub use cli::run;
pub use store::Store;

/// Version of the format.
const VERSION: u32 = 1;
/// Layers of a profile, and spans of a layer.
const LAYERS_MAX: usize = 512;
const SPANS_MAX: usize = 32 << 10;

/// What one image needs first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Of the format: 1.
    pub version: u32,
    /// The image for which it was recorded.
    pub image: String,
    /// When, seconds since 1970.
    pub recorded: u64,
    /// How many starts it was made from.
    pub starts: u64,
    /// Its layers, those that nothing was read of left out.
    pub layers: Vec<LayerProfile>,
}

/// What is needed first of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProfile {
    /// Of the blob.
    pub digest: Digest,
    /// Where in the blob the spans begin, in the order in which they were first read.
    pub spans: Vec<u64>,
}

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON of this form.
    #[error("not a profile")]
    Form(#[from] serde_json::Error),
    /// Of another version.
    #[error("a profile of version {0}, which this program does not know")]
    Version(u32),
    /// Too large.
    #[error("a profile of more than {LAYERS_MAX} layers, or {SPANS_MAX} spans of one")]
    Size,
}

impl Profile {
    /// Reads a text.
    ///
    /// # Errors
    /// It is no profile.
    pub fn parse(text: &[u8]) -> Result<Profile, ProfileError> {
        let profile: Profile = serde_json::from_slice(text)?;
        if profile.version != VERSION {
            return Err(ProfileError::Version(profile.version));
        }
        let large = |layer: &LayerProfile| layer.spans.len() > SPANS_MAX;
        if profile.layers.len() > LAYERS_MAX || profile.layers.iter().any(large) {
            return Err(ProfileError::Size);
        }
        Ok(profile)
    }

    /// The text.
    pub fn text(&self) -> String {
        // Numbers and strings are always JSON.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// All spans.
    pub fn spans(&self) -> usize {
        self.layers.iter().map(|layer| layer.spans.len()).sum()
    }

    /// Takes in what another start has read: it comes first, and what only earlier ones read behind it.
    pub fn learn(&mut self, layers: Vec<LayerProfile>) {
        for new in layers {
            let room = self.layers.len() < LAYERS_MAX;
            match self.layers.iter_mut().find(|old| old.digest == new.digest) {
                Some(old) => {
                    let seen: HashSet<u64> = new.spans.iter().copied().collect();
                    let before = std::mem::replace(&mut old.spans, new.spans);
                    old.spans.extend(before.into_iter().filter(|span| !seen.contains(span)));
                    old.spans.truncate(SPANS_MAX);
                }
                None if room => self.layers.push(new),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn example(image: &str, spans: &[u64]) -> Profile {
        let layers = vec![LayerProfile { digest: Digest::of(b"layer"), spans: spans.to_vec() }];
        Profile { version: VERSION, image: image.to_owned(), recorded: 1, starts: 1, layers }
    }

    #[test]
    fn the_last_start_comes_first_and_earlier_ones_are_not_forgotten() {
        let mut profile = example("a", &[1, 2, 3]);
        let other = LayerProfile { digest: Digest::of(b"other"), spans: vec![9] };
        profile.learn(vec![LayerProfile { digest: Digest::of(b"layer"), spans: vec![5, 3] }, other]);
        assert_eq!(profile.layers[0].spans, [5, 3, 1, 2]);
        assert_eq!((profile.layers.len(), profile.spans()), (2, 5));
        assert_eq!(Profile::parse(profile.text().as_bytes()).unwrap(), profile);
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_reason() {
        let text = example("a", &[1]).text();
        assert!(matches!(Profile::parse(b"{}"), Err(ProfileError::Form(_))));
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert!(matches!(Profile::parse(newer.as_bytes()), Err(ProfileError::Version(2))));
        let large = example("a", &vec![0; SPANS_MAX + 1]).text();
        assert!(matches!(Profile::parse(large.as_bytes()), Err(ProfileError::Size)));
    }
}
