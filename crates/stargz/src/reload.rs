//! SIGHUP: what a configuration file that was changed can change in a daemon that runs.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::config::{self, Config, Loaded, values};
use crate::daemon;
use crate::keychain::Keychains;
use crate::lazyfs::LazyFs;
use crate::logging::{self, LogLevel};

/// What a reload works on.
#[derive(Debug)]
pub struct Reload {
    /// The file, and whether it may be missing.
    pub file: (PathBuf, bool),
    /// Refuse unknown keys.
    pub strict: bool,
    /// How much to log if the file does not say.
    pub log_level: LogLevel,
    /// The values that are in force.
    pub values: values::Values,
    /// What does not change.
    pub keychains: Keychains,
    /// Obeys.
    pub fs: Arc<LazyFs>,
}

/// Reads a file as a daemon does.
///
/// # Errors
/// It can't be used.
pub fn load(file: &(PathBuf, bool), strict: bool) -> anyhow::Result<Loaded> {
    let loaded = config::load(&file.0, file.1)?;
    let loaded = if strict { loaded.strictly(&file.0)? } else { loaded };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

/// Obeys SIGHUP until the value is dropped.
///
/// # Errors
/// The signal can't be had.
pub fn on_hangup(mut reload: Reload) -> std::io::Result<JoinSet<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        while hangup.recv().await.is_some() {
            daemon::notify_reloading();
            if let Err(error) = reload.again() {
                let error = format!("{error:#}");
                tracing::error!(error, "the configuration stays as it was");
            }
            daemon::notify_ready();
        }
    });
    Ok(task)
}

impl Reload {
    /// All or nothing: what can be wrong is found before anything changes.
    fn again(&mut self) -> anyhow::Result<()> {
        let Loaded { config, values, .. } = load(&self.file, self.strict)?;
        let client = registry::Client::new(config.registry_options(), self.keychains.again(&config)?)?;
        let changes = values::changes(&self.values, &values);
        let policy = daemon::policy(&config);
        self.fs.obey(client, policy);
        logging::set_level(level(&config, self.log_level));
        if !changes.at_start.is_empty() {
            let keys = changes.at_start.join(", ");
            tracing::warn!(keys, "these keys have changed and take effect when the daemon is started again");
        }
        let keys = changes.live.join(", ");
        tracing::info!(file = %self.file.0.display(), changed = keys, "configuration reloaded");
        // What needs a restart stays owed: it is named again with the next reload.
        for key in changes.live {
            match values.get(&key) {
                Some(value) => drop(self.values.insert(key, value.clone())),
                None => drop(self.values.remove(&key)),
            }
        }
        Ok(())
    }
}

/// How much to log.
pub fn level(config: &Config, flag: LogLevel) -> LogLevel {
    config.log_level.unwrap_or(flag)
}
