//! The labels that mean something to the snapshotter, and the rule for all others.

use std::collections::HashMap;

use crate::Error;

/// Labels of a snapshot.
pub(crate) type Labels = HashMap<String, String>;

/// Set by containerd's unpacker on Prepare: the name that the finished layer will have. Its presence asks for a
/// lazy mount.
pub(crate) const TARGET: &str = "containerd.io/snapshot.ref";

/// Set by the snapshotter alone, on committed snapshots that are lazily mounted.
pub(crate) const REMOTE: &str = "containerd.io/snapshot/remote";

/// Value of [`REMOTE`]; tools look for it.
pub(crate) const REMOTE_VALUE: &str = "remote snapshot";

/// containerd's limit for a key and its value together, in bytes.
const MAX_LABEL: usize = 4096;

/// How much of an overlong key an error message shows, in characters.
const SHOWN_KEY: usize = 64;

/// Checks each label against containerd's limit.
pub(crate) fn validate(labels: &Labels) -> Result<(), Error> {
    let Some((key, value)) = labels.iter().find(|(key, value)| key.len() + value.len() > MAX_LABEL) else {
        return Ok(());
    };
    let shown: String = key.chars().take(SHOWN_KEY).collect();
    Err(Error::InvalidArgument(format!(
        "label key and value take {} bytes, more than {MAX_LABEL}: key {shown:?}",
        key.len() + value.len()
    )))
}

/// The labels as they are kept: without those that have no value, which is how containerd says "remove", and with
/// the mark of a remote snapshot exactly if it is one. The mark decides what happens to the directory, so an image
/// that carries it as an annotation must not be able to set it.
pub(crate) fn normalize(mut labels: Labels, remote: bool) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    if remote {
        labels.insert(REMOTE.to_owned(), REMOTE_VALUE.to_owned());
    } else {
        labels.remove(REMOTE);
    }
    labels
}
