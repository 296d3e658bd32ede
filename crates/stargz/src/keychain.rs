//! Which credentials there are.

use std::path::PathBuf;
use std::sync::Arc;

use registry::{DockerConfig, Keychain};

/// The docker configuration file: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub fn from_environment() -> Vec<Arc<dyn Keychain>> {
    let dir = match (std::env::var_os("DOCKER_CONFIG"), std::env::var_os("HOME")) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        (_, Some(home)) => PathBuf::from(home).join(".docker"),
        _ => PathBuf::from("/root/.docker"),
    };
    vec![Arc::new(DockerConfig::new(dir.join("config.json")))]
}
