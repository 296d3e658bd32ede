//! Makes layers complete while nobody waits for anything.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::error::Kind;
use crate::layer::Layer;

/// Layers are filled a few at a time, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Background {
    permits: Arc<Semaphore>,
}

/// Waits between attempts: a registry that is away is not asked again and again.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Background {
    /// Fills at most `layers` layers at once.
    pub fn new(layers: usize) -> Background {
        Background { permits: Arc::new(Semaphore::new(layers.max(1))) }
    }

    /// Fills this layer, however often the network goes away, until it is complete, closed or dropped. Goes on where
    /// an earlier process stopped. Once is enough for a layer, however often it is called.
    ///
    /// Must be called within a tokio runtime.
    pub fn fill(&self, layer: &Arc<Layer>) {
        if layer.complete() || !layer.claim_background() {
            return;
        }
        let (permits, digest, layer) = (self.permits.clone(), layer.digest(), Arc::downgrade(layer));
        tokio::spawn(async move {
            let mut wait = FIRST_WAIT;
            loop {
                let Ok(permit) = permits.acquire().await else { return };
                let Some(held) = Weak::upgrade(&layer) else { return };
                let before = held.progress().missing;
                let result = held.fill_all().await;
                let after = held.progress().missing;
                // Others have their turn, and the layer may go away, while this one waits.
                drop((held, permit));
                match result {
                    Ok(()) if after == 0 => {
                        tracing::info!(layer = %digest, "completed to fetch all layer data in background");
                        return;
                    }
                    // Somebody else's fetch of a part failed in between.
                    Ok(()) => {}
                    Err(error) if error.kind() == Kind::Closed => return,
                    Err(error) => tracing::debug!(%error, "background fetch will go on later"),
                }
                wait = if after < before { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
                tokio::time::sleep(wait).await;
            }
        });
    }
}
