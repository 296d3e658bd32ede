//! The image service of the container runtime, shown to the kubelet by us.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use credentials::{Beside, CriKeychain, CriProxy};
use futures_util::FutureExt as _;
use snapshotter::Snapshotter;
use tokio::net::UnixListener;

use crate::config::Config;
use crate::socket;

/// What is shown, and where.
#[derive(Debug)]
pub struct Cri {
    proxy: CriProxy,
    keychain: Arc<CriKeychain>,
    /// A socket of its own; `None`: that of the snapshots service.
    own: Option<PathBuf>,
}

impl Cri {
    /// The image service as configured, for a daemon whose snapshots service is at `address`. Must be called within a
    /// tokio runtime.
    pub fn new(config: &Config, keychain: Arc<CriKeychain>, address: &Path) -> Cri {
        let settings = &config.cri_keychain;
        let proxy = CriProxy::new(settings.runtime(), Arc::clone(&keychain));
        let path = &settings.listen_path;
        let own = (!path.as_os_str().is_empty() && path != address).then(|| path.clone());
        Cri { proxy, keychain, own }
    }

    /// Makes sure that what was learned is on the disk, if it is to be kept at all.
    pub async fn flush(&self) {
        if let Err(error) = self.keychain.flush().await {
            tracing::warn!(%error, "credentials that were learned last are lost with this process");
        }
    }

    /// Takes the socket away, if there is one.
    pub fn remove_socket(&self) {
        if let Some(own) = &self.own
            && let Err(error) = std::fs::remove_file(own)
        {
            tracing::debug!(%error, "the socket of the image service is left behind");
        }
    }
}

/// What serves containerd on `listener`, and the kubelet there or on its own socket, until `shutdown` ends.
///
/// # Errors
/// The kubelet's socket cannot be used.
pub fn server<S: Future<Output = ()> + Send + 'static>(
    snapshotter: Arc<Snapshotter>,
    listener: UnixListener,
    cri: Option<&Cri>,
    shutdown: S,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<S>> {
    let shutdown = shutdown.shared();
    let own = match cri.and_then(|cri| cri.own.as_deref().map(|own| (own, cri.proxy.clone()))) {
        Some((path, proxy)) => Some((socket::listen_anew(path)?, proxy)),
        None => None,
    };
    let beside = cri.filter(|cri| cri.own.is_none()).map(|cri| cri.proxy.clone());
    let main = {
        let shutdown = shutdown.clone();
        async move {
            match beside {
                Some(proxy) => {
                    let both = Beside::new(proxy, snapshotter::service(snapshotter));
                    both.serve(listener, shutdown).await.context("cannot go on to serve snapshots")
                }
                None => Ok(snapshotter::serve(snapshotter, listener, shutdown).await?),
            }
        }
    };
    let kubelet = async move {
        match own {
            Some((listener, proxy)) => {
                proxy.serve(listener, shutdown).await.context("cannot go on to serve the kubelet")
            }
            None => Ok(()),
        }
    };
    Ok(async move { tokio::try_join!(main, kubelet).map(|_| ()) })
}
