//! What an operator can see of a daemon that runs: state on the control socket, metrics and a look inside by HTTP.

pub mod book;
pub mod catalog;
mod files;
mod http;
mod page;
pub mod status;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use layer::Layers;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::files::Files;
use self::http::{Answer, Listener, Pages};
use self::status::{Question, STATUS};
use crate::cache_cli::Commands;
use crate::config::{Config, MetricsNetwork};
use crate::control::{Answers, Refusal};
use crate::lazyfs::LazyFs;
use crate::logging;

/// The last log lines, oldest first: a list of JSON objects as text.
pub const RECENT_LINES: &str = "log.recent";
/// The page of metrics, as text.
pub const METRICS: &str = "metrics";

/// Read profiles from the disk again. Answers how many there are.
pub const RELOAD_PROFILES: &str = "profile.reload";

/// How often what is due now and then is done.
const TICK: Duration = Duration::from_secs(2);

/// What there is to look at.
#[derive(Debug)]
pub struct Watch {
    /// The mounts.
    pub fs: Arc<LazyFs>,
    /// The layers.
    pub layers: Arc<Layers>,
    /// The state's directory.
    pub root: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// Bytes that layers may take.
    pub cache_limit: Option<u64>,
    /// Say which files are read.
    pub log_file_access: bool,
}

impl Watch {
    /// Bytes that layers take on disk, and how many there are. Blocks on the disk.
    fn cache(&self) -> (u64, u64) {
        let usage = self.layers.usage();
        (usage.total.bytes, usage.layers.len() as u64)
    }

    /// Does what is due now and then, until it is dropped.
    pub async fn housekeeping(self: Arc<Watch>) {
        let mut tick = tokio::time::interval(TICK);
        let mut files = Files::default();
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            logging::settle();
            let layers = self.layers.all();
            let fetched = layers.iter().map(|layer| (layer.digest(), layer.tally().fetched.get()));
            self.fs.book().sample(fetched, Instant::now());
            let watch = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                watch.fs.learn(false);
                if watch.log_file_access {
                    files.look(&layers);
                }
                files
            });
            files = looked.await.unwrap_or_else(|error| {
                tracing::error!(%error, "what is due now and then did not end well");
                Files::default()
            });
        }
    }

    /// Serves metrics and the look inside, where the configuration says, until the tasks are dropped.
    ///
    /// # Errors
    /// An address can't be used: what somebody counts on is not left out in silence.
    pub async fn serve_http(self: &Arc<Watch>, config: &Config) -> anyhow::Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        if !config.metrics_address.is_empty() && !config.no_prometheus {
            let address = &config.metrics_address;
            let listener = match config.metrics_network {
                MetricsNetwork::Tcp => Listener::tcp(address).await.map_err(anyhow::Error::from),
                MetricsNetwork::Unix => Listener::unix(Path::new(address)),
            };
            let listener =
                listener.with_context(|| format!("cannot serve metrics at {address} (metrics_address)"))?;
            tracing::info!(address = listener.address(), "serving metrics");
            tasks.spawn(http::serve(listener, self.pages(false)));
        }
        if !config.debug_address.as_os_str().is_empty() {
            let path = &config.debug_address;
            let listener = Listener::unix(path)
                .with_context(|| format!("cannot listen at {} (debug_address)", path.display()))?;
            tasks.spawn(http::serve(listener, self.pages(true)));
        }
        Ok(tasks)
    }

    fn pages(self: &Arc<Watch>, debug: bool) -> Pages {
        let watch = self.clone();
        let json = |body: String| Answer { status: "200 OK", kind: "application/json", body: body + "\n" };
        Arc::new(move |path| match (path, debug) {
            ("/metrics", _) => {
                Some(Answer { status: "200 OK", kind: metrics::CONTENT_TYPE, body: page::of(&watch) })
            }
            ("/debug/status", true) => Some(json(
                serde_json::to_string(&status::of(&watch, &Question::default())).unwrap_or_default(),
            )),
            ("/debug/vars", true) => {
                let status = status::of(&watch, &Question::default());
                let command: Vec<String> = std::env::args().collect();
                Some(json(json!({ "cmdline": command, "stargz": status }).to_string()))
            }
            (path, true) if path.starts_with("/debug/pprof") => Some(Answer {
                status: "501 Not Implemented",
                kind: "text/plain; charset=utf-8",
                body: "this program has no profiles of its own; use: perf record -g -p PID\n".to_owned(),
            }),
            _ => None,
        })
    }
}

/// Answers everything that the daemon can be asked on its control socket.
#[derive(Debug)]
pub struct Desk {
    /// About the layers on disk.
    pub cache: Commands,
    /// About everything else.
    pub watch: Arc<Watch>,
}

#[async_trait]
impl Answers for Desk {
    async fn answer(&self, command: &str, arguments: Value) -> Result<Value, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal::Failed(error.to_string());
        let watch = self.watch.clone();
        let work: Box<dyn FnOnce() -> serde_json::Result<Value> + Send> = match command {
            STATUS => {
                let question: Question = match arguments {
                    Value::Null => Question::default(),
                    arguments => serde_json::from_value(arguments).map_err(|error| failed(&error))?,
                };
                Box::new(move || serde_json::to_value(status::of(&watch, &question)))
            }
            RELOAD_PROFILES => Box::new(move || Ok(watch.fs.profiles().reload().into())),
            METRICS => Box::new(move || Ok(page::of(&watch).into())),
            RECENT_LINES => return Ok(logging::recent().into()),
            _ => return self.cache.answer(command, arguments).await,
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))?;
        done.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_metrics_in_the_documentation_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let start = text.find("<!-- metrics -->\n").expect("a marker") + "<!-- metrics -->\n".len();
        let end = start + text[start..].find("<!-- end -->").expect("a marker");
        let table = super::catalog::markdown();
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, format!("{}{table}{}", &text[..start], &text[end..])).unwrap();
        } else {
            assert!(text[start..end] == table, "docs/metrics.md differs; WRITE_DOCS=1 writes it");
        }
    }
}
