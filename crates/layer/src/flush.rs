//! Looks after the disk, off the read path: makes filled chunks durable in batches, and keeps to the budget.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::layers::Layers;

/// How often the budget is looked after while something is being filled.
const TICK: Duration = Duration::from_millis(500);
/// A crash loses at most the bits of so many ticks; the chunks themselves are fetched again.
const FLUSH_AFTER: u32 = 4;
/// Waits before trying again to keep to a budget that is exceeded by what is in use.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// Runs until the layers are dropped. `dirty` says that something was filled, `full` that the disk has no room.
pub(crate) async fn run(layers: Weak<Layers>, dirty: Arc<Notify>, full: Arc<Notify>) {
    let mut wait = FIRST_WAIT;
    let mut exceeded = false;
    loop {
        tokio::select! {
            () = dirty.notified() => wait = FIRST_WAIT,
            () = full.notified() => {
                let Some(layers) = layers.upgrade() else { return };
                layers.relieve().await;
            }
            () = sleep(wait), if exceeded => wait = (wait * 2).min(LONGEST_WAIT),
        }
        for _ in 0..FLUSH_AFTER {
            let is_full = timeout(TICK, full.notified()).await.is_ok();
            let Some(layers) = layers.upgrade() else { return };
            if is_full {
                layers.relieve().await;
            }
            exceeded = !layers.keep_to_budget().await;
        }
        let Some(layers) = layers.upgrade() else { return };
        layers.flush().await;
    }
}
