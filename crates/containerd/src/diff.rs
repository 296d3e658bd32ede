//! Layers to files.

use std::time::Duration;

use crate::client::{Client, stub};
use crate::content::present;
use crate::error::Error;
use crate::proto::diff::ApplyRequest;
use crate::{Descriptor, Mount};

/// The differ. Made by [`Client::diff`].
#[derive(Clone, Copy, Debug)]
pub struct Diff<'a>(&'a Client);

/// A large layer on a slow disk takes minutes.
const APPLY_LIMIT: Duration = Duration::from_secs(3600);

impl Client {
    /// Layers to files.
    pub fn diff(&self) -> Diff<'_> {
        Diff(self)
    }
}

impl Diff<'_> {
    /// Unpacks a layer of the content store into a snapshot, by its mounts. Returns what describes its tar archive: the
    /// digest is the diff ID. The deadline is an hour.
    ///
    /// # Errors
    /// When the layer is not there, or cannot be unpacked.
    pub async fn apply(&self, layer: Descriptor, mounts: Vec<Mount>) -> Result<Descriptor, Error> {
        let (action, digest) = ("unpacking the layer", layer.digest.clone());
        let mut stub = stub!(self.0, diff::diff_client::DiffClient);
        let request = ApplyRequest { diff: Some(layer), mounts };
        let answer = self.0.call_within(APPLY_LIMIT, action, &digest, stub.apply(request)).await?;
        present(action, &digest, answer.applied)
    }
}
