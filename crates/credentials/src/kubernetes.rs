//! Image pull secrets of a cluster: `kubernetes.io/dockerconfigjson` and the older `kubernetes.io/dockercfg`, of all
//! namespaces, kept up to date by list and watch.
//!
//! Which pod a layer is read for is not known here, so all secrets that speak for an image are candidates.

mod api;
mod exec;
mod follow;
mod kubeconfig;
mod secrets;
mod timestamp;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use registry::{Credential, Keychain, KeychainError, Reference};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use url::Url;

use crate::Error;
use crate::files::{self, Stamp};
use api::{Api, ApiError};
use kubeconfig::{Cluster, User};
use secrets::{Kind, Secrets};

/// Where Kubernetes puts the service account of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Which cluster, and how patiently.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Kubeconfig files that count as one. They may appear later, and change.
    pub kubeconfig: Vec<PathBuf>,
    /// What to use as long as none of the files exists.
    pub in_cluster: Option<InCluster>,
    /// How often to look whether the files have changed.
    pub poll: Duration,
    /// Pauses between attempts to reach the API server: the first, and the longest.
    pub retry_pause: (Duration, Duration),
    /// Longest wait of a question for the first list, while nothing is known yet.
    pub first_wait: Duration,
}

/// The API server as a pod sees it.
#[derive(Clone, Debug)]
pub struct InCluster {
    /// The URL of the API server.
    pub server: Url,
    /// The directory that holds `token` and `ca.crt`.
    pub service_account: PathBuf,
}

impl KubernetesOptions {
    /// Options for the kubeconfig files `kubeconfig`.
    pub fn new(kubeconfig: Vec<PathBuf>) -> KubernetesOptions {
        KubernetesOptions {
            kubeconfig,
            in_cluster: None,
            poll: Duration::from_secs(10),
            retry_pause: (Duration::from_secs(1), Duration::from_secs(60)),
            first_wait: Duration::from_secs(5),
        }
    }

    /// Options as kubectl would choose them: the file that is `configured`; without one those of `$KUBECONFIG`, or
    /// else `~/.kube/config`; and in a pod the cluster that it runs in.
    pub fn from_environment(configured: Option<&Path>) -> KubernetesOptions {
        if let Some(path) = configured.filter(|path| !path.as_os_str().is_empty()) {
            return KubernetesOptions::new(vec![path.to_owned()]);
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let kubeconfig = match (variable("KUBECONFIG"), variable("HOME")) {
            (Some(list), _) => {
                std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect()
            }
            (None, Some(home)) => vec![Path::new(&home).join(".kube/config")],
            (None, None) => Vec::new(),
        };
        let in_cluster = || {
            let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
            let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            let server = Url::parse(&format!("https://{host}:{port}")).ok()?;
            Some(InCluster { server, service_account: SERVICE_ACCOUNT.into() })
        };
        KubernetesOptions { in_cluster: in_cluster(), ..KubernetesOptions::new(kubeconfig) }
    }
}

/// Credentials from the image pull secrets of a cluster. Stops to follow them when it is dropped.
#[derive(Debug)]
pub struct KubernetesSecrets {
    shared: Arc<Shared>,
    first_wait: Duration,
    supervisor: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    secrets: Mutex<Secrets>,
    health: watch::Sender<Health>,
    timing: Timing,
}

#[derive(Debug)]
struct Timing {
    min_pause: Duration,
    max_pause: Duration,
}

/// How the following goes, for each kind.
#[derive(Debug, Default)]
struct Health {
    /// No kubeconfig, or one that cannot be used: nothing is to be waited for.
    idle: bool,
    json: KindHealth,
    cfg: KindHealth,
}

#[derive(Debug, Default)]
struct KindHealth {
    listed: bool,
    /// What goes wrong now.
    trouble: Option<ApiError>,
}

impl Health {
    fn of(&mut self, kind: Kind) -> &mut KindHealth {
        match kind {
            Kind::DockerConfigJson => &mut self.json,
            Kind::DockerCfg => &mut self.cfg,
        }
    }

    /// Whether a first attempt has come to an end.
    fn is_settled(&self) -> bool {
        self.idle || [&self.json, &self.cfg].iter().all(|kind| kind.listed || kind.trouble.is_some())
    }

    /// The trouble of a kind of which nothing was ever listed.
    fn blindness(&self) -> Option<&ApiError> {
        [&self.json, &self.cfg].into_iter().filter(|kind| !kind.listed).find_map(|kind| kind.trouble.as_ref())
    }
}

impl Shared {
    fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self, kind: Kind) {
        self.health.send_modify(|health| {
            let health = health.of(kind);
            if health.trouble.take().is_some() {
                tracing::info!(kind = kind.name(), "image pull secrets are followed again");
            } else if !health.listed {
                tracing::info!(kind = kind.name(), "image pull secrets are followed");
            }
            health.listed = true;
        });
    }

    /// Logs a trouble once, until it is another one or over.
    fn failed(&self, kind: Kind, error: ApiError) {
        self.health.send_modify(|health| {
            let trouble = &mut health.of(kind).trouble;
            if trouble.as_ref().is_none_or(|known| !known.is_like(&error)) {
                tracing::warn!(kind = kind.name(), %error, "image pull secrets cannot be followed; trying again");
            }
            *trouble = Some(error);
        });
    }
}

impl KubernetesSecrets {
    /// Starts to follow the secrets of a cluster. Must be called within a tokio runtime.
    pub fn start(options: KubernetesOptions) -> KubernetesSecrets {
        let (min_pause, max_pause) = options.retry_pause;
        let shared = Arc::new(Shared {
            secrets: Mutex::default(),
            health: watch::Sender::default(),
            timing: Timing { min_pause, max_pause },
        });
        let first_wait = options.first_wait;
        let supervisor = tokio::spawn(supervise(options, Arc::clone(&shared))).abort_handle();
        KubernetesSecrets { shared, first_wait, supervisor }
    }
}

impl Drop for KubernetesSecrets {
    fn drop(&mut self) {
        // The followers belong to the supervisor's task and end with it.
        self.supervisor.abort();
    }
}

#[async_trait]
impl Keychain for KubernetesSecrets {
    fn name(&self) -> String {
        "kubernetes secrets".into()
    }

    async fn credentials(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError> {
        let mut health = self.shared.health.subscribe();
        // A first attempt that takes longer goes on: what is known by now is the answer.
        let _ = tokio::time::timeout(self.first_wait, health.wait_for(Health::is_settled)).await;
        let candidates = self.shared.secrets().candidates(host, reference.repository());
        match self.shared.health.borrow().blindness() {
            Some(trouble) if candidates.is_empty() => Err(Error::Kubernetes(trouble.to_string()).into()),
            _ => Ok(candidates),
        }
    }
}

/// Follows the cluster of the kubeconfig, and another one when the kubeconfig is another one. A kubeconfig that goes
/// away or becomes unusable leaves things as they are.
async fn supervise(options: KubernetesOptions, shared: Arc<Shared>) {
    let options = Arc::new(options);
    let mut followers = JoinSet::new();
    let mut source = Source::default();
    let mut said = None;
    loop {
        let looking = {
            let (options, source) = (Arc::clone(&options), std::mem::take(&mut source));
            tokio::task::spawn_blocking(move || source.look(&options))
        };
        let Ok((now, found)) = looking.await else { return };
        source = now;
        let remark = match found {
            Found::Same => None,
            Found::Cluster(cluster) => {
                tracing::info!(server = %cluster.server, "following the image pull secrets of the cluster");
                said = None;
                // Dropping the old followers ends them.
                followers = JoinSet::new();
                shared.health.send_modify(|health| health.idle = false);
                let api = Arc::new(Api::new(*cluster));
                for kind in Kind::ALL {
                    followers.spawn(follow::follow(Arc::clone(&api), kind, Arc::clone(&shared)));
                }
                None
            }
            Found::Nothing => Some(format!("there is no kubeconfig at {:?}", options.kubeconfig)),
            Found::Unusable(error) => Some(format!("the kubeconfig cannot be used: {error}")),
        };
        if remark.is_some() {
            shared.health.send_modify(|health| health.idle = followers.is_empty());
            if remark != said {
                let problem = remark.as_deref().unwrap_or_default();
                tracing::warn!(problem, "image pull secrets are not followed from there; looking again");
                said = remark;
            }
        }
        tokio::time::sleep(options.poll).await;
    }
}

/// The files that the cluster in use was read from, as they were.
#[derive(Default)]
struct Source {
    paths: Option<Stamp>,
    files: Vec<(PathBuf, Stamp)>,
}

enum Found {
    /// What was found before.
    Same,
    Cluster(Box<Cluster>),
    Nothing,
    Unusable(Error),
}

impl Source {
    /// Looks at the files. Where there was nothing to use, the next look is as good as the first: what is missing may
    /// be a file that the kubeconfig names.
    fn look(self, options: &KubernetesOptions) -> (Source, Found) {
        let paths = Stamp::of(options.kubeconfig.iter().map(PathBuf::as_path));
        let is_same = |(path, stamp): &(PathBuf, Stamp)| Stamp::of([path.as_path()]) == *stamp;
        if self.paths.as_ref() == Some(&paths) && self.files.iter().all(is_same) {
            return (self, Found::Same);
        }
        match options.load() {
            Ok(Some(mut cluster)) => {
                let files = std::mem::take(&mut cluster.files);
                (Source { paths: Some(paths), files }, Found::Cluster(Box::new(cluster)))
            }
            Ok(None) => (Source::default(), Found::Nothing),
            Err(error) => (Source::default(), Found::Unusable(error)),
        }
    }
}

impl KubernetesOptions {
    fn load(&self) -> Result<Option<Cluster>, Error> {
        if let Some(cluster) = kubeconfig::load(&self.kubeconfig)? {
            return Ok(Some(cluster));
        }
        let Some(InCluster { server, service_account }) = &self.in_cluster else { return Ok(None) };
        let (token, authorities) = (service_account.join("token"), service_account.join("ca.crt"));
        if !token.exists() {
            return Ok(None);
        }
        let stamp = Stamp::of([authorities.as_path()]);
        let mut server = server.clone();
        if !server.path().ends_with('/') {
            let path = format!("{}/", server.path());
            server.set_path(&path);
        }
        Ok(Some(Cluster {
            server,
            authorities: files::read(&authorities)?.map(|bytes| bytes.to_vec()),
            insecure: false,
            proxy: None,
            user: User { token_file: Some(token), ..User::default() },
            files: vec![(authorities, stamp)],
        }))
    }
}
