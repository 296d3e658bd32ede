//! Where credentials come from, besides docker's configuration file.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::seconds;

/// `[kubeconfig_keychain]`: the image pull secrets of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Kubeconfig {
    /// Follow them.
    pub enable_keychain: bool,
    /// The kubeconfig. Empty: `$KUBECONFIG`, else `~/.kube/config`, else what a pod has.
    pub kubeconfig_path: PathBuf,
}

/// `[kubelet_credential_provider]`: the credential provider plugins of the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct KubeletPlugins {
    /// The kubelet's `--image-credential-provider-config`. Empty: no plugins.
    pub config_path: PathBuf,
    /// The kubelet's `--image-credential-provider-bin-dir`.
    pub bin_dir: PathBuf,
}

/// `[cri_keychain]`: what the kubelet tells the container runtime.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Cri {
    /// Stand between the kubelet and the image service of the container runtime.
    pub enable_keychain: bool,
    /// Socket of the container runtime. Empty: containerd's own.
    pub image_service_path: PathBuf,
    /// Socket to listen on. Empty: that of the snapshots service.
    pub listen_path: PathBuf,
    /// Keep what was learned over a restart, sealed with a key that only root can read.
    pub persist: bool,
    /// How long credentials are kept after their last use, seconds. 0 means 30 days.
    pub expire_after_sec: i64,
}

impl Cri {
    /// Socket of the container runtime.
    pub fn runtime(&self) -> PathBuf {
        match self.image_service_path.as_os_str().is_empty() {
            true => PathBuf::from("/run/containerd/containerd.sock"),
            false => self.image_service_path.clone(),
        }
    }

    /// How long credentials are kept after their last use.
    pub fn expire_after(&self) -> Duration {
        seconds(self.expire_after_sec, 30 * 24 * 3600)
    }
}
