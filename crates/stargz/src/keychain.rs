//! Which credentials there are, in the order in which they are tried.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use credentials::{
    CriKeychain, CriOptions, HandedKeychain, KubeletOptions, KubeletPlugins, KubernetesOptions,
    KubernetesSecrets, PersistOptions,
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
    /// Those that come before all others, whatever the configuration says.
    first: Vec<Arc<dyn Keychain>>,
}

impl Keychains {
    /// The keychains of another configuration: files and plugins as it says; what has learned something by itself stays.
    ///
    /// # Errors
    /// The configuration says too little.
    pub fn again(&self, config: &Config) -> anyhow::Result<Vec<Arc<dyn Keychain>>> {
        let mut all = self.first.clone();
        all.extend(files(config));
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
    let cri = match config.cri_keychain.enable_keychain {
        true => Some(Arc::new(CriKeychain::open(cri_options(config, root)?).await)),
        false => None,
    };
    assemble(config, cri, Vec::new())
}

fn assemble(
    config: &Config,
    cri: Option<Arc<CriKeychain>>,
    first: Vec<Arc<dyn Keychain>>,
) -> anyhow::Result<Keychains> {
    let kubernetes = config.kubeconfig_keychain.enable_keychain.then(|| {
        let path = &config.kubeconfig_keychain.kubeconfig_path;
        let options = KubernetesOptions::from_environment(Some(path));
        Arc::new(KubernetesSecrets::start(options))
    });
    let mut keychains = Keychains { all: Vec::new(), cri, kubernetes, first };
    keychains.all = keychains.again(config)?;
    Ok(keychains)
}

/// What the layer store has: what container tools hand over, their files, and what is enabled. Must be called within a tokio
/// runtime.
///
/// # Errors
/// The configuration says too little.
pub fn of_store(config: &Config, handed: Arc<HandedKeychain>) -> anyhow::Result<Keychains> {
    let mut first: Vec<Arc<dyn Keychain>> = vec![handed];
    let containers = containers_files(|name| std::env::var_os(name));
    let containers = containers.into_iter().map(DockerConfig::containers);
    first.extend(containers.map(|file| Arc::new(file) as Arc<dyn Keychain>));
    assemble(config, None, first)
}

/// Where Podman and its kin have credentials, in their order: `$REGISTRY_AUTH_FILE` alone, or what logins write
/// (`${XDG_RUNTIME_DIR}/containers/auth.json`, for root `/run/containers/0/auth.json`), then what people write.
fn containers_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(only) = variable("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers"));
    let home = || variable("HOME").map(|home| home.join(".config"));
    let config = variable("XDG_CONFIG_HOME").or_else(home).map(|dir| dir.join("containers"));
    let own = PathBuf::from("/run/containers/0");
    runtime.into_iter().chain([own]).chain(config).map(|dir| dir.join("auth.json")).collect()
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

    #[test]
    fn the_files_of_container_tools_are_where_they_write_them() {
        let files = |variables: &[(&str, &str)]| {
            let found = containers_files(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            });
            found.iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let root = "/run/containers/0/auth.json";
        assert_eq!(files(&[("HOME", "/root")]), [root, "/root/.config/containers/auth.json"]);
        let user = [("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")];
        assert_eq!(files(&user), ["/run/user/7/containers/auth.json", root, "/c/containers/auth.json"]);
        assert_eq!(files(&[("REGISTRY_AUTH_FILE", "/a.json"), ("HOME", "/h")]), ["/a.json"]);
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
