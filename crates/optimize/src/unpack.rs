//! An image's layers as snapshots.

use containerd::{Client, Descriptor, Error as Refused, Labels};
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// Snapshots of layers are named by chain IDs (OCI image specification, config.md, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let digest = Sha256::digest(format!("{below} {diff_id}"));
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha256:{hex}")
            }
        };
        chain.push(next);
    }
    chain
}

/// Unpacks what is not unpacked yet. Returns the name of the topmost snapshot. What is made belongs to the client's lease.
pub(crate) async fn unpack(
    client: &Client,
    snapshotter: &str,
    layers: &[Descriptor],
    diff_ids: &[String],
    own: &str,
) -> Result<String, Error> {
    if layers.len() != diff_ids.len() || layers.is_empty() {
        return Err(Error::Layers { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    let chain = chain_ids(diff_ids);
    let snapshots = client.snapshots(snapshotter);
    let mut done = 0;
    for number in (0..chain.len()).rev() {
        match snapshots.stat(&chain[number]).await {
            Ok(_) => {
                done = number + 1;
                break;
            }
            Err(error) if error.kind() == containerd::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    for number in done..chain.len() {
        let parent = number.checked_sub(1).map_or("", |below| chain[below].as_str());
        let key = format!("{own}-layer-{number}");
        let mounts = snapshots.prepare(&key, parent, &Labels::new()).await?;
        let applied = apply(client, &layers[number], mounts, &diff_ids[number]).await;
        let committed = match applied {
            Ok(()) => snapshots.commit(&chain[number], &key, &Labels::new()).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            // It goes with the lease in any case.
            if let Err(left) = snapshots.remove(&key).await {
                tracing::debug!(key, error = %left, "a snapshot is left to its lease");
            }
            // Somebody else unpacked the same meanwhile.
            if !matches!(&error, Error::Containerd(refused) if Refused::is_already_exists(refused)) {
                return Err(error);
            }
        }
    }
    Ok(chain.last().cloned().unwrap_or_default())
}

async fn apply(
    client: &Client,
    layer: &Descriptor,
    mounts: Vec<containerd::Mount>,
    expected: &str,
) -> Result<(), Error> {
    let applied = client.diff().apply(layer.clone(), mounts).await?;
    if applied.digest == expected {
        return Ok(());
    }
    let (digest, expected) = (layer.digest.clone(), expected.to_owned());
    Err(Error::DiffId { digest, found: applied.digest, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:a");
        // printf 'sha256:a sha256:b' | sha256sum
        assert_eq!(chain[1], "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8");
    }
}
