//! Kubeconfig files: which API server, and who we are to it.

use std::fmt;
use std::path::{Path, PathBuf};

use registry::Secret;
use serde::Deserialize;
use url::Url;

use crate::docker_auth::or_default;
use crate::files::{self, Stamp, unusable};
use crate::{Error, docker_auth, yaml};

/// An API server and who we are to it.
#[derive(Debug)]
pub(super) struct Cluster {
    /// The URL below which the API lies, with a slash at its end.
    pub server: Url,
    /// PEM of the authorities that are trusted instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Take any certificate.
    pub insecure: bool,
    /// The proxy on the way, instead of what the environment says.
    pub proxy: Option<Secret>,
    pub user: User,
    /// Other files that the configuration is made of, which may be rotated, as they were read.
    pub files: Vec<(PathBuf, Stamp)>,
}

/// Who we are. At most one kind of token is present.
#[derive(Debug, Default)]
pub(super) struct User {
    pub token: Option<Secret>,
    /// Read anew for each session: such tokens are rotated.
    pub token_file: Option<PathBuf>,
    /// PEM of a certificate chain and its key.
    pub identity: Option<Secret>,
    pub exec: Option<Exec>,
}

/// A program that says who we are.
pub(super) struct Exec {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub api_version: String,
    /// The text for `spec.cluster` of the request, if the program wants it.
    pub cluster: Option<serde_json::Value>,
    pub hint: String,
}

impl fmt::Debug for Exec {
    /// Arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Versions of the protocol of exec plugins; they differ in nothing that is used here.
const EXEC_VERSIONS: [&str; 2] = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    #[serde(deserialize_with = "or_default")]
    current_context: String,
    #[serde(deserialize_with = "or_default")]
    clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "or_default")]
    contexts: Vec<NamedContext>,
    #[serde(deserialize_with = "or_default")]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    user: UserEntry,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContextEntry {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct ClusterEntry {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct UserEntry {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: Secret,
    token: Secret,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    exec: Option<ExecEntry>,
    auth_provider: Option<serde::de::IgnoredAny>,
    #[serde(rename = "as")]
    impersonate: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecEntry {
    api_version: String,
    command: String,
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    env: Vec<Variable>,
    #[serde(default)]
    provide_cluster_info: bool,
    #[serde(default, deserialize_with = "or_default")]
    install_hint: String,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// Loads the current context of kubeconfig files that count as one: of what has the same name in several, the
/// first is taken. Missing files are passed over; None if none of them says anything of clusters.
pub(super) fn load(paths: &[PathBuf]) -> Result<Option<Cluster>, Error> {
    let mut merged = Merged::default();
    for path in paths {
        if let Some(bytes) = files::read(path)? {
            let text = std::str::from_utf8(&bytes).map_err(|_| unusable(path, "is not text".into()))?;
            let file: File = match text.trim().is_empty() {
                true => File::default(),
                false => yaml::parse(text).map_err(|problem| unusable(path, problem))?,
            };
            merged.add(path, file);
        }
    }
    let Some(path) = merged.path.clone() else { return Ok(None) };
    merged.resolve().map(Some).map_err(|error| match error {
        Problem::Here(problem) => unusable(path, problem),
        Problem::Elsewhere(error) => error,
    })
}

#[derive(Default)]
struct Merged {
    /// The file that names the context, or the first one that says something: errors speak of it.
    path: Option<PathBuf>,
    current: String,
    clusters: Vec<(PathBuf, NamedCluster)>,
    contexts: Vec<NamedContext>,
    users: Vec<(PathBuf, NamedUser)>,
}

/// What is wrong, with the configuration or with a file that it names.
enum Problem {
    Here(String),
    Elsewhere(Error),
}

impl From<String> for Problem {
    fn from(problem: String) -> Problem {
        Problem::Here(problem)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Elsewhere(error)
    }
}

impl Merged {
    fn add(&mut self, path: &Path, file: File) {
        if self.current.is_empty() && !file.current_context.is_empty() {
            self.current = file.current_context;
            self.path = Some(path.to_owned());
        } else if self.path.is_none() && !file.clusters.is_empty() {
            self.path = Some(path.to_owned());
        }
        let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
        self.clusters.extend(file.clusters.into_iter().map(|cluster| (dir.clone(), cluster)));
        self.contexts.extend(file.contexts);
        self.users.extend(file.users.into_iter().map(|user| (dir.clone(), user)));
    }

    fn resolve(self) -> Result<Cluster, Problem> {
        let current = &self.current;
        if current.is_empty() {
            return Err("has no current-context".to_owned().into());
        }
        let context = self.contexts.into_iter().find(|context| context.name == *current);
        let context = context
            .ok_or_else(|| format!("has no context {current:?}, which is its current-context"))?
            .context;
        let (dir, cluster) =
            self.clusters.into_iter().find(|(_, cluster)| cluster.name == context.cluster).ok_or_else(
                || format!("has no cluster {:?}, which context {current:?} names", context.cluster),
            )?;
        let mut resolved = cluster_of(&dir, cluster)?;
        if !context.user.is_empty() {
            let (dir, user) =
                self.users.into_iter().find(|(_, user)| user.name == context.user).ok_or_else(|| {
                    format!("has no user {:?}, which context {current:?} names", context.user)
                })?;
            resolved.user = user_of(&dir, user, &mut resolved)?;
        }
        Ok(resolved)
    }
}

fn cluster_of(dir: &Path, NamedCluster { name, cluster }: NamedCluster) -> Result<Cluster, Problem> {
    let wrong = |what: &str| Problem::Here(format!("cluster {name:?}: {what}"));
    if !cluster.tls_server_name.is_empty() {
        return Err(wrong(
            "tls-server-name is not supported; use the name in the certificate as the server's",
        ));
    }
    let mut server =
        parse_http_url(&cluster.server).ok_or_else(|| wrong("its server is not an http(s) URL"))?;
    if !server.username().is_empty() || server.password().is_some() {
        return Err(wrong("its server has a user in its URL; use a token or a certificate"));
    }
    if !server.path().ends_with('/') {
        let path = format!("{}/", server.path());
        server.set_path(&path);
    }
    let proxy = match cluster.proxy_url.as_str() {
        "" => None,
        // It may hold a password.
        text => match parse_http_url(text) {
            Some(url) => Some(Secret::new(url.into())),
            None => return Err(wrong("its proxy-url is not an http(s) URL")),
        },
    };
    let mut files = Vec::new();
    let authorities =
        bytes_or_file(dir, &cluster.certificate_authority_data, &cluster.certificate_authority, &mut files)
            .map_err(|problem| problem.about("certificate-authority-data", &name))?;
    Ok(Cluster {
        server,
        authorities: authorities.map(|bytes| bytes.to_vec()),
        insecure: cluster.insecure_skip_tls_verify,
        proxy,
        user: User::default(),
        files,
    })
}

fn parse_http_url(text: &str) -> Option<Url> {
    // Without a scheme it is a host, as kubectl takes it.
    let url = match text.contains("://") {
        true => Url::parse(text).ok()?,
        false => Url::parse(&format!("http://{text}")).ok()?,
    };
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn user_of(dir: &Path, NamedUser { name, user }: NamedUser, cluster: &mut Cluster) -> Result<User, Problem> {
    let wrong = |what: &str| Problem::Here(format!("user {name:?}: {what}"));
    if user.auth_provider.is_some() {
        return Err(wrong("auth-provider is no longer a part of Kubernetes; use exec"));
    }
    if !user.impersonate.is_empty() {
        return Err(wrong("impersonation (as) is not supported"));
    }
    if !user.username.is_empty() {
        return Err(wrong("user name and password are no longer a part of Kubernetes"));
    }
    let files = &mut cluster.files;
    let certificate = bytes_or_file(dir, &user.client_certificate_data, &user.client_certificate, files)
        .map_err(|problem| problem.about("client-certificate-data", &name))?;
    let key = bytes_or_file(dir, user.client_key_data.expose(), &user.client_key, files)
        .map_err(|problem| problem.about("client-key-data", &name))?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(pem_identity(&certificate, &key).map_err(wrong)?),
        (None, None) => None,
        _ => return Err(wrong("a client certificate and a client key go together, one of them is missing")),
    };
    let token_file = (!user.token_file.is_empty()).then(|| dir.join(&user.token_file));
    // The file goes before the text, as in kubectl: the text may be what the file once held.
    let token = Some(user.token).filter(|token| !token.is_empty() && token_file.is_none());
    let exec =
        user.exec.map(|entry| exec_of(dir, entry, cluster)).transpose().map_err(|problem| wrong(&problem))?;
    Ok(User { token, token_file, identity, exec })
}

/// One PEM text of a certificate chain and its key.
pub(super) fn pem_identity(certificate: &[u8], key: &[u8]) -> Result<Secret, &'static str> {
    let mut pem = Vec::with_capacity(certificate.len() + 1 + key.len());
    pem.extend_from_slice(certificate);
    pem.push(b'\n');
    pem.extend_from_slice(key);
    String::from_utf8(pem).map(Secret::new).map_err(|_| "the client certificate or its key is not PEM")
}

fn exec_of(dir: &Path, entry: ExecEntry, cluster: &Cluster) -> Result<Exec, String> {
    if !EXEC_VERSIONS.contains(&entry.api_version.as_str()) {
        return Err(format!("exec: apiVersion {:?} is not one of {EXEC_VERSIONS:?}", entry.api_version));
    }
    if entry.command.is_empty() {
        return Err("exec: no command".into());
    }
    let env: Vec<_> = entry.env.into_iter().map(|variable| (variable.name, variable.value)).collect();
    if env.iter().any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')) {
        return Err("exec: env has a name that is empty or has a \"=\"".into());
    }
    // A path is relative to the file that names it; a bare name is looked for on $PATH.
    let program =
        if entry.command.contains('/') { dir.join(&entry.command) } else { PathBuf::from(&entry.command) };
    let cluster = entry.provide_cluster_info.then(|| cluster_info(cluster));
    Ok(Exec {
        program,
        args: entry.args,
        env,
        api_version: entry.api_version,
        cluster,
        hint: entry.install_hint,
    })
}

fn cluster_info(cluster: &Cluster) -> serde_json::Value {
    use base64::Engine as _;
    let mut info = serde_json::json!({
        "server": cluster.server.as_str().trim_end_matches('/'),
        "insecure-skip-tls-verify": cluster.insecure,
    });
    if let Some(authorities) = &cluster.authorities {
        let encoded = base64::engine::general_purpose::STANDARD.encode(authorities);
        info["certificate-authority-data"] = encoded.into();
    }
    info
}

/// Why a field with bytes, or the file beside it, cannot be used.
enum BytesProblem {
    Field(&'static str),
    File(Error),
}

impl BytesProblem {
    fn about(self, field: &str, name: &str) -> Problem {
        match self {
            BytesProblem::Field(problem) => Problem::Here(format!("{field} of {name:?} {problem}")),
            BytesProblem::File(error) => Problem::Elsewhere(error),
        }
    }
}

/// The bytes of a `-data` field, or of the file that the field without it names.
fn bytes_or_file(
    dir: &Path,
    data: &str,
    file: &str,
    files: &mut Vec<(PathBuf, Stamp)>,
) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, BytesProblem> {
    if !data.is_empty() {
        return docker_auth::decode_bytes(data).map(Some).map_err(BytesProblem::Field);
    }
    if file.is_empty() {
        return Ok(None);
    }
    let path = dir.join(file);
    let stamp = Stamp::of([path.as_path()]);
    let bytes = files::read_existing(&path).map_err(BytesProblem::File)?;
    files.push((path, stamp));
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
