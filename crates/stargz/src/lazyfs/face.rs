//! The file system as the snapshotter sees it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use mount::IdMaps;
use snapshotter::{FileSystem, FsError, IdMap, IdRange, Usage};

use super::LazyFs;
use crate::labels;

/// The same, shared: what the snapshotter holds.
#[derive(Clone, Debug)]
pub struct SharedFs(pub Arc<LazyFs>);

#[async_trait]
impl FileSystem for SharedFs {
    async fn mount(&self, mountpoint: &Path, labels: &HashMap<String, String>) -> Result<(), FsError> {
        let fs = &self.0;
        let source = match labels::parse(labels) {
            Ok(source) => source,
            Err(error) => {
                let known = |part: &str| labels.iter().find(|(label, _)| label.ends_with(part));
                let named = |part: &str| known(part).map_or("", |(_, value)| value.as_str());
                fs.book.note_refusal(named("image-ref"), named("layer-digest"), &error.to_string());
                return Err(FsError::from_error(&error));
            }
        };
        fs.show(&source, mountpoint).await.map(drop)
    }

    async fn check(&self, mountpoint: &Path, _labels: &HashMap<String, String>) -> Result<(), FsError> {
        self.0.layers.starting();
        let Some(layer) = self.0.shelf.at(mountpoint) else {
            return Err(FsError::new(format!("no layer is mounted at {}", mountpoint.display())));
        };
        let policy = self.0.policy();
        if policy.profile.record {
            layer.record_for(policy.profile.window());
        }
        let image = self.0.sources().get(mountpoint).map(|from| from.reference.to_string());
        if image.is_some_and(|image| policy.starts_complete(&image)) && !layer.complete() {
            layer.prefetch(u64::MAX).await.map_err(|error| {
                FsError::new(format!("the image starts only when it is complete (image_policy): {error}"))
            })?;
        }
        if policy.check {
            layer.check().await.map_err(|error| FsError::from_error(&error))?;
        }
        let (Some(policy), Some(mut done)) =
            (policy.prefetch, self.0.prefetches().get(&layer.digest()).cloned())
        else {
            return Ok(());
        };
        // A layer whose prefetch is slow or fails can be read all the same.
        let _ = tokio::time::timeout(policy.wait, done.wait_for(|done| *done)).await;
        Ok(())
    }

    async fn unmount(&self, mountpoint: &Path) -> Result<(), FsError> {
        self.0.hide(mountpoint).await
    }

    fn survives(&self, mountpoint: &Path) -> bool {
        self.0.shelf.at(mountpoint).is_some()
    }

    fn usage(&self, mountpoint: &Path) -> Option<Usage> {
        let taken = self.0.shelf.at(mountpoint)?.usage().ok()?;
        Some(Usage { size: taken.bytes, inodes: taken.inodes })
    }

    fn below(&self, mountpoints: &[PathBuf]) -> Option<PathBuf> {
        self.0.shelf.state_below(mountpoints)
    }

    fn show_mapped(&self, source: &Path, target: &Path, map: &IdMap) -> Result<(), FsError> {
        let ranges = |ranges: &[IdRange]| {
            let range = |&IdRange { inside, outside, len }: &IdRange| mount::IdRange { inside, outside, len };
            ranges.iter().map(range).collect()
        };
        let maps = IdMaps { uids: ranges(&map.uids), gids: ranges(&map.gids) };
        self.0.shelf.show_mapped(source, target, &maps).map_err(|error| FsError::from_error(&error))
    }
}
