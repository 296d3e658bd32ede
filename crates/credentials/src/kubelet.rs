//! Credential-provider plugins of the kubelet: programs that make short-lived credentials for cloud registries.
//!
//! The configuration is the file that the kubelet is given as `--image-credential-provider-config`, the programs are
//! in the directory of its `--image-credential-provider-bin-dir`, and the protocol is
//! `credentialprovider.kubelet.k8s.io`: a request on the standard input, an answer on the standard output, in JSON.

mod cache;
mod config;
mod protocol;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use registry::{Credential, Keychain, KeychainError, Reference};
use tokio::process::Command;
use tokio::sync::{Semaphore, watch};

use crate::credential::add_distinct;
use crate::files::Stamp;
use crate::program;
use crate::{Error, ProgramError};
use cache::{Cache, Outcome};
use config::{Config, Plugin};
use protocol::{CacheKey, Image};

/// Most candidates from all plugins.
const MAX_CANDIDATES: usize = 32;
/// Plugins that run at the same time; others wait.
const MAX_RUNNING: usize = 8;
/// Plugins that run or wait to.
const MAX_FLIGHTS: usize = 256;

/// Runs that are waited for until one is for the right image. Two are enough for a plugin that is of one mind.
const MAX_ROUNDS: usize = 4;

/// Where the plugins of the kubelet are, and how long they may take.
#[derive(Clone, Debug)]
pub struct KubeletOptions {
    /// The `CredentialProviderConfig`, in YAML or JSON, or a directory of such files (`.yaml`, `.yml`, `.json`),
    /// which are taken together in the order of their names. Read again when it has changed.
    pub config: PathBuf,
    /// The directory of the plugins.
    pub bin_dir: PathBuf,
    /// Longest time that a plugin may run.
    pub timeout: Duration,
    /// How long a plugin that failed is not asked again for what it failed at.
    pub failure_pause: Duration,
}

impl KubeletOptions {
    /// The kubelet's own limits: a plugin may run for a minute.
    pub fn new(config: impl Into<PathBuf>, bin_dir: impl Into<PathBuf>) -> KubeletOptions {
        KubeletOptions {
            config: config.into(),
            bin_dir: bin_dir.into(),
            timeout: Duration::from_secs(60),
            failure_pause: Duration::from_secs(10),
        }
    }
}

/// Credentials from the plugins of the kubelet. What they answer is kept for as long as they say.
///
/// A run of a plugin is a task of its own: it goes on when who asked has stopped to wait, and its answer is there
/// for the next one.
#[derive(Debug)]
pub struct KubeletPlugins {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: KubeletOptions,
    state: Mutex<State>,
    running: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    config: Option<(Stamp, Arc<Config>)>,
    cache: Cache,
    /// Who runs a plugin announces the outcome here.
    flights: HashMap<FlightKey, watch::Receiver<Option<Outcome>>>,
}

/// What one run of a plugin is expected to answer for: all of it, once it is known how it answers.
type FlightKey = (Arc<Plugin>, CacheKey);

impl KubeletPlugins {
    /// The plugins of a configuration. Nothing is read before the first question.
    pub fn new(options: KubeletOptions) -> KubeletPlugins {
        let running = Semaphore::new(MAX_RUNNING);
        KubeletPlugins { shared: Arc::new(Shared { options, state: Mutex::default(), running }) }
    }
}

#[async_trait]
impl Keychain for KubeletPlugins {
    fn name(&self) -> String {
        "kubelet credential provider plugins".into()
    }

    async fn credentials(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError> {
        let config = self.shared.config().await?;
        let image = Image::new(host, reference.repository());
        let plugins = config.plugins.iter().filter(|plugin| plugin.speaks_for(&image));
        let mut candidates = Vec::new();
        let mut failed = None;
        for outcome in join_all(plugins.map(|plugin| self.shared.ask(plugin, &image))).await {
            match outcome {
                Ok(answer) => add_distinct(&mut candidates, answer.candidates(&image), MAX_CANDIDATES),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if candidates.is_empty() => Err(error.into()),
            _ => Ok(candidates),
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration as it is now. What was cached under another one is dropped.
    async fn config(&self) -> Result<Arc<Config>, Error> {
        let path = self.options.config.clone();
        let known = self.state().config.clone();
        let loading = tokio::task::spawn_blocking(move || config::load(&path, known));
        let (stamp, config) = loading
            .await
            .map_err(|_| crate::files::unusable(&self.options.config, "reading it was cancelled".into()))??;
        let mut state = self.state();
        if state.config.as_ref().is_none_or(|(known, _)| *known != stamp) {
            state.cache = Cache::default();
            state.config = Some((stamp, Arc::clone(&config)));
        }
        Ok(config)
    }

    /// The answer of `plugin` for `image`: a cached one, that of a run under way, or that of a new run.
    async fn ask(self: &Arc<Shared>, plugin: &Arc<Plugin>, image: &Image) -> Outcome {
        for _ in 0..MAX_ROUNDS {
            let mut flight = {
                let mut state = self.state();
                if let Some(known) = state.cache.get(plugin, image, Instant::now()) {
                    return known;
                }
                self.flight(&mut state, plugin, image)?
            };
            // A run that died without a word is gone from the table as well: the next round starts another.
            let Ok(outcome) = flight.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) else {
                continue;
            };
            match outcome {
                Some(Ok(answer)) if !answer.covers(image) => {}
                Some(outcome) => return outcome,
                None => {}
            }
            // The run was for another image, as it turned out. Now that is known of this plugin, and the next
            // round waits for the right one.
        }
        let problem = ProgramError::Answer("changes its cacheKeyType from one image to the next".into());
        Err(Error::Plugin { plugin: plugin.name.clone(), problem })
    }

    /// The run under way that may answer for `image`, or a new one.
    fn flight(
        self: &Arc<Shared>,
        state: &mut State,
        plugin: &Arc<Plugin>,
        image: &Image,
    ) -> Result<watch::Receiver<Option<Outcome>>, Error> {
        let expected = state.cache.expected_key(plugin, image);
        let key = (Arc::clone(plugin), expected);
        if let Some(flight) = state.flights.get(&key).filter(|flight| flight.has_changed().is_ok()) {
            return Ok(flight.clone());
        }
        if state.flights.len() >= MAX_FLIGHTS {
            return Err(Error::Busy(MAX_FLIGHTS));
        }
        let (announce, flight) = watch::channel(None);
        state.flights.insert(key.clone(), flight.clone());
        let (shared, image) = (Arc::clone(self), image.clone());
        tokio::spawn(async move {
            let outcome = shared.run(&key.0, &image).await;
            let mut state = shared.state();
            state.flights.remove(&key);
            let pause = shared.options.failure_pause;
            state.cache.put(&key.0, &image, outcome.clone(), pause, Instant::now());
            drop(state);
            announce.send_replace(Some(outcome));
        });
        Ok(flight)
    }

    async fn run(&self, plugin: &Plugin, image: &Image) -> Outcome {
        let failed = |problem| Error::Plugin { plugin: plugin.name.clone(), problem };
        plugin.check().map_err(failed)?;
        let Ok(_permit) = self.running.acquire().await else { return Err(Error::Busy(MAX_RUNNING)) };
        let mut command = Command::new(self.options.bin_dir.join(&plugin.name));
        command.args(&plugin.args).envs(plugin.env.iter().map(|(name, value)| (name, value)));
        let request = protocol::request(&plugin.api_version, image);
        let said = program::run(command, &request, self.options.timeout).await.map_err(failed)?;
        let answer = protocol::answer(plugin, image, &said).map_err(failed)?;
        Ok(Arc::new(answer))
    }
}
