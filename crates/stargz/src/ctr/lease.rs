//! What is made belongs to a lease until the image has its name; a failure takes all of it away.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use containerd::{Client, Labels};

/// When the lease ends by itself, should this process be killed.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Does `work` under a lease, which is gone afterwards in any case, and with it what no image needs.
pub async fn under<T, F: Future<Output = anyhow::Result<T>>>(
    client: &Client,
    work: impl FnOnce(Client) -> F,
) -> anyhow::Result<T> {
    let id = unique("ctr-remote");
    client.leases().create(&id, LIFETIME, &Labels::new()).await?;
    let result = work(client.under(&id)?).await;
    match client.leases().delete(&id, true).await {
        Ok(()) => {}
        // Nor could a containerd that is gone be asked.
        Err(error) if result.is_err() => tracing::warn!(%error, lease = %id, "the lease stays for a day"),
        Err(error) => {
            return Err(error).context("the image is complete, but what was temporary stays for a day");
        }
    }
    result
}

/// A name that nobody else has.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{prefix}-{now}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
