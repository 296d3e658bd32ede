//! Makes filled chunks durable in batches, off the read path.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::layers::Layers;

/// A crash loses at most the bits of this long; the chunks themselves are fetched again.
const DELAY: Duration = Duration::from_secs(2);

/// Runs until the layers are dropped.
pub(crate) async fn run(layers: Weak<Layers>, dirty: Arc<Notify>) {
    loop {
        dirty.notified().await;
        tokio::time::sleep(DELAY).await;
        let Some(layers) = layers.upgrade() else { return };
        layers.flush().await;
    }
}
