//! What the operator allows and wants.

use std::time::Duration;

use layer::Background;

use crate::config::policy::{ImagePolicy, LostNetwork, Profile};

/// What the operator allows and wants.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Layers with the `skipverify` label need no TOC digest.
    pub allow_no_verification: bool,
    /// No layer needs a TOC digest.
    pub disable_verification: bool,
    /// Prefetch on mount; `None` for none.
    pub prefetch: Option<Prefetch>,
    /// How many layers at once are completed in the background; `None` for none.
    pub background: Option<usize>,
    /// Read layers from IPFS whose manifest says where they are there.
    pub ipfs: bool,
    /// Before a start, make sure that what is missing can still be had.
    pub check: bool,
    /// How long a layer that was resolved ahead of its snapshot is kept.
    pub resolved_ttl: Duration,
    /// What containers read first.
    pub profile: Profile,
    /// What becomes of readers while a registry is away, by image; the first that fits counts.
    pub images: Vec<ImagePolicy>,
}

impl Policy {
    pub(super) fn of_image(&self, image: &str) -> Option<&ImagePolicy> {
        self.images.iter().find(|policy| policy.is_for(image))
    }

    pub(super) fn starts_complete(&self, image: &str) -> bool {
        self.of_image(image).is_some_and(|policy| policy.lost_network == LostNetwork::Complete)
    }
}

/// How layers are prefetched.
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// Bytes, for images without a landmark and without a label.
    pub size: u64,
    /// How long a start waits for it.
    pub wait: Duration,
    /// A start does not wait for more bytes than this.
    pub hold_up_to: Option<u64>,
}

/// What the operator says and a reload can change.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub client: registry::Client,
    pub policy: Policy,
    pub background: Option<Background>,
}

impl Rules {
    pub fn new(client: registry::Client, policy: Policy) -> Rules {
        Rules { client, background: policy.background.map(Background::new), policy }
    }
}
