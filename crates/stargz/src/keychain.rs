//! Which credentials there are, in the order in which they are tried.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use credentials::{
    CriKeychain, CriOptions, KubeletOptions, KubeletPlugins, KubernetesOptions, KubernetesSecrets,
    PersistOptions,
};
use registry::{CriConfigKeychain, DockerConfig, Keychain};

use crate::config::Config;

/// The keychains of the daemon.
#[derive(Debug)]
pub struct Keychains {
    /// All of them.
    pub all: Vec<Arc<dyn Keychain>>,
    /// The one that has to be taught, if it is enabled.
    pub cri: Option<Arc<CriKeychain>>,
    /// The one that follows a cluster, if it is enabled.
    kubernetes: Option<Arc<KubernetesSecrets>>,
}

impl Keychains {
    /// The keychains of another configuration: files and plugins as it says; what has learned something by itself stays.
    ///
    /// # Errors
    /// The configuration says too little.
    pub fn again(&self, config: &Config) -> anyhow::Result<Vec<Arc<dyn Keychain>>> {
        let mut all = files(config);
        all.extend(self.kubernetes.iter().map(|secrets| Arc::clone(secrets) as Arc<dyn Keychain>));
        all.extend(plugins(config)?);
        all.extend(self.cri.iter().map(|cri| Arc::clone(cri) as Arc<dyn Keychain>));
        Ok(all)
    }
}

/// Files and programs of this machine: what a command has that runs for a while and is gone.
///
/// # Errors
/// The configuration says too little.
pub fn of_machine(config: &Config) -> anyhow::Result<Vec<Arc<dyn Keychain>>> {
    let mut all = files(config);
    all.extend(plugins(config)?);
    Ok(all)
}

/// All that are enabled. Must be called within a tokio runtime.
///
/// # Errors
/// The configuration says too little, or the directory for what is to be kept cannot be made.
pub async fn of_daemon(config: &Config, root: &Path) -> anyhow::Result<Keychains> {
    let kubernetes = config.kubeconfig_keychain.enable_keychain.then(|| {
        let path = &config.kubeconfig_keychain.kubeconfig_path;
        let options = KubernetesOptions::from_environment(Some(path));
        Arc::new(KubernetesSecrets::start(options))
    });
    let cri = match config.cri_keychain.enable_keychain {
        true => Some(Arc::new(CriKeychain::open(cri_options(config, root)?).await)),
        false => None,
    };
    let mut keychains = Keychains { all: Vec::new(), cri, kubernetes };
    keychains.all = keychains.again(config)?;
    Ok(keychains)
}

/// Docker's configuration file (`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`) and our own.
fn files(config: &Config) -> Vec<Arc<dyn Keychain>> {
    let dir = match (std::env::var_os("DOCKER_CONFIG"), std::env::var_os("HOME")) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        (_, Some(home)) => PathBuf::from(home).join(".docker"),
        _ => PathBuf::from("/root/.docker"),
    };
    let docker = DockerConfig::new(dir.join("config.json"));
    vec![Arc::new(docker), Arc::new(CriConfigKeychain::new(&config.registry.cri()))]
}

fn plugins(config: &Config) -> anyhow::Result<Option<Arc<dyn Keychain>>> {
    let provider = &config.kubelet_credential_provider;
    let is_set = |path: &Path| !path.as_os_str().is_empty();
    match (is_set(&provider.config_path), is_set(&provider.bin_dir)) {
        (false, false) => Ok(None),
        (true, true) => {
            let options = KubeletOptions::new(&provider.config_path, &provider.bin_dir);
            Ok(Some(Arc::new(KubeletPlugins::new(options))))
        }
        _ => bail!("[kubelet_credential_provider] needs both config_path and bin_dir"),
    }
}

fn cri_options(config: &Config, root: &Path) -> anyhow::Result<CriOptions> {
    let mut options =
        CriOptions { expire_after: config.cri_keychain.expire_after(), ..CriOptions::default() };
    if config.cri_keychain.persist {
        let dir = root.join("credentials");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {} for credentials to be kept", dir.display()))?;
        options.persist = Some(PersistOptions { store: dir.join("sealed"), key: dir.join("key") });
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the keychains that a configuration enables for the daemon and for a command.
    async fn names(config: &str) -> [Vec<String>; 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, config).unwrap();
        let config = crate::config::load(&path, false).unwrap().config;
        let daemon = of_daemon(&config, dir.path()).await.unwrap();
        assert_eq!(daemon.cri.is_some(), config.cri_keychain.enable_keychain);
        let machine = of_machine(&config).unwrap();
        [daemon.all, machine].map(|all| all.iter().map(|keychain| keychain.name()).collect())
    }

    #[tokio::test]
    async fn keychains_are_in_their_order_and_off_by_default() {
        let [daemon, machine] = names("").await;
        assert_eq!((daemon.len(), &daemon), (2, &machine));
        let all = "[cri_keychain]\nenable_keychain = true\n[kubeconfig_keychain]\nenable_keychain = true\n\
            kubeconfig_path = \"/nonexistent\"\n[kubelet_credential_provider]\nconfig_path = \"/c\"\nbin_dir = \"/b\"\n";
        let [daemon, machine] = names(all).await;
        let expected =
            ["docker config", "the registry configuration", "kubernetes secrets", "plugins", "cri"];
        assert_eq!(daemon.len(), expected.len());
        assert!(daemon.iter().zip(expected).all(|(name, part)| name.contains(part)), "{daemon:?}");
        assert_eq!(machine, [&daemon[..2], &daemon[3..4]].concat());
    }
}
