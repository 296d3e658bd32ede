//! Requests to the API server: who we are, listing, watching.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use registry::Secret;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Identity, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::exec::{self, Login};
use super::kubeconfig::Cluster;
use super::secrets::Kind;
use crate::files;

/// Longest wait for a connection, and for the headers of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence within a list.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a session lasts at most: tokens in files are rotated, certificates too.
const SESSION: Duration = Duration::from_secs(60);
/// A login is renewed this long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(30);
/// Largest page of a list, in bytes.
const MAX_PAGE: usize = 32 << 20;
/// Largest event of a watch, in bytes: an object of the API is at most 1.5 MiB, and base64 makes more of it.
const MAX_EVENT: usize = 8 << 20;
/// Largest explanation of a refusal that is read, in bytes.
const MAX_STATUS: usize = 64 << 10;

/// Why the API server gave no answer. The texts hold no secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// We are not who we say, or nobody says who we are.
    Unauthorized(String),
    /// We may not read secrets.
    Forbidden(String),
    /// The version to go on from is too old: list again.
    Gone,
    /// A page of a list is too large: ask for a smaller one.
    TooLarge,
    /// It cannot be reached, or answers something else.
    Failed(String),
}

impl ApiError {
    /// Whether a log line about `other` also speaks of this one.
    pub fn is_like(&self, other: &ApiError) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApiError::Unauthorized(problem) => write!(f, "not authenticated: {problem}"),
            ApiError::Forbidden(problem) => write!(
                f,
                "not allowed: {problem}; grant \"list\" and \"watch\" on \"secrets\" in all namespaces (a ClusterRole)"
            ),
            ApiError::Gone => f.write_str("the list is out of date"),
            ApiError::TooLarge => f.write_str("the list of secrets is too large"),
            ApiError::Failed(problem) => f.write_str(problem),
        }
    }
}

/// An API server.
#[derive(Debug)]
pub(super) struct Api {
    cluster: Cluster,
    session: Mutex<Option<Arc<Session>>>,
}

/// A connection pool and who uses it.
#[derive(Debug)]
struct Session {
    http: reqwest::Client,
    authorization: Option<HeaderValue>,
    ends: Instant,
    expires: Option<SystemTime>,
}

/// `Status`, the API's explanation of a refusal.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub message: String,
    pub code: u16,
}

impl Api {
    pub fn new(cluster: Cluster) -> Api {
        Api { cluster, session: Mutex::default() }
    }

    /// A page of the list of secrets of a kind, as JSON.
    pub async fn list(&self, kind: Kind, limit: usize, from: &str) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let limit = limit.to_string();
        let mut response = self.get(kind, &[("limit", &limit), ("continue", from)]).await?;
        let mut page = Zeroizing::new(Vec::new());
        while let Some(piece) = next_piece(&mut response, BODY_TIMEOUT).await? {
            if page.len() + piece.len() > MAX_PAGE {
                return Err(ApiError::TooLarge);
            }
            append(&mut page, &piece);
        }
        Ok(page)
    }

    /// The changes of secrets of a kind since `version`. The server ends the answer after `lasts` or sooner.
    pub async fn watch(&self, kind: Kind, version: &str, lasts: Duration) -> Result<Events, ApiError> {
        let seconds = lasts.as_secs().to_string();
        let query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", &seconds),
        ];
        let response = self.get(kind, &query).await?;
        Ok(Events { response, silence: lasts + ANSWER_TIMEOUT, buffer: Zeroizing::default(), searched: 0 })
    }

    async fn get(&self, kind: Kind, query: &[(&str, &str)]) -> Result<Response, ApiError> {
        let session = self.session().await?;
        let mut url =
            self.cluster.server.join("api/v1/secrets").map_err(|error| failed(error.to_string()))?;
        url.query_pairs_mut()
            .append_pair("fieldSelector", &format!("type={}", kind.name()))
            .extend_pairs(query.iter().filter(|(_, value)| !value.is_empty()));
        let mut request = session.http.get(url).header(ACCEPT, "application/json");
        if let Some(authorization) = &session.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await {
            Ok(answer) => answer.map_err(|error| self.unreachable(error))?,
            Err(_) => {
                return Err(failed(format!("{}: no answer within {ANSWER_TIMEOUT:?}", self.cluster.server)));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            // Whoever logs us in has to do it again.
            *self.session.lock().await = None;
        }
        Err(refusal(status.as_u16(), explanation(response).await))
    }

    /// The session under way, or a new one.
    async fn session(&self) -> Result<Arc<Session>, ApiError> {
        let mut current = self.session.lock().await;
        if let Some(session) = current.as_ref().filter(|session| session.is_fresh()) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(self.log_in().await?);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn log_in(&self) -> Result<Session, ApiError> {
        let user = &self.cluster.user;
        let login = match &user.exec {
            Some(program) => exec::log_in(program).await.map_err(ApiError::Unauthorized)?,
            None => Login::default(),
        };
        let from_file = match &user.token_file {
            Some(path) => {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || files::read_text(&path));
                let text = reading.await.map_err(|_| failed("reading the token was cancelled".into()))?;
                let text = text.map_err(|error| ApiError::Unauthorized(error.to_string()))?;
                Some(Secret::new(text.trim().to_owned()))
            }
            None => None,
        };
        let authorization = match login.token.as_ref().or(from_file.as_ref()).or(user.token.as_ref()) {
            Some(token) => Some(bearer(token)?),
            None => None,
        };
        let http = self.client(login.identity.as_ref().or(user.identity.as_ref()))?;
        // What a program gave lasts until it expires: running it is not free.
        let lasts = match (&user.exec, login.expires) {
            (Some(_), _) => Duration::from_secs(24 * 3600),
            (None, _) => SESSION,
        };
        Ok(Session { http, authorization, ends: Instant::now() + lasts, expires: login.expires })
    }

    fn client(&self, identity: Option<&Secret>) -> Result<reqwest::Client, ApiError> {
        // Fails only if the process has chosen a provider already, which then is the one to use.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |what: &str, error: reqwest::Error| {
            failed(format!("the {what} of {} cannot be used: {}", self.cluster.server, root_cause(&error)))
        };
        let mut builder = reqwest::Client::builder()
            .user_agent("stargz")
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(ANSWER_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(15))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15));
        if let Some(pem) = &self.cluster.authorities {
            let bundle =
                Certificate::from_pem_bundle(pem).map_err(|error| wrong("certificate authority", error))?;
            builder = builder.tls_certs_only(bundle);
        }
        if self.cluster.insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some(identity) = identity {
            let identity = Identity::from_pem(identity.expose().as_bytes());
            builder = builder.identity(identity.map_err(|error| wrong("client certificate", error))?);
        }
        if is_loopback(&self.cluster.server) {
            // A proxy cannot reach this machine.
            builder = builder.no_proxy();
        } else if let Some(proxy) = &self.cluster.proxy {
            let proxy = reqwest::Proxy::all(proxy.expose()).map_err(|error| wrong("proxy", error))?;
            builder = builder.no_proxy().proxy(proxy);
        }
        builder.build().map_err(|error| wrong("TLS configuration", error))
    }

    fn unreachable(&self, error: reqwest::Error) -> ApiError {
        let error = error.without_url();
        failed(format!("{} cannot be reached: {}", self.cluster.server, root_cause(&error)))
    }
}

impl Session {
    fn is_fresh(&self) -> bool {
        let expires = self.expires.is_some_and(|expires| SystemTime::now() + RENEW_BEFORE >= expires);
        Instant::now() < self.ends && !expires
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, ApiError> {
    let text = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| ApiError::Unauthorized("the token has characters that no token has".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The lines of a watch.
#[derive(Debug)]
pub(super) struct Events {
    response: Response,
    silence: Duration,
    buffer: Zeroizing<Vec<u8>>,
    /// Bytes of the buffer that are known to hold no end of a line.
    searched: usize,
}

impl Events {
    /// The next event as JSON; None at the end.
    pub async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let rest = Zeroizing::new(self.buffer[self.searched + end + 1..].to_vec());
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(self.searched + end);
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match next_piece(&mut self.response, self.silence).await? {
                None => return Ok(None),
                Some(piece) if self.buffer.len() + piece.len() > MAX_EVENT => {
                    return Err(failed(format!("an event of the watch is larger than {MAX_EVENT} bytes")));
                }
                Some(piece) => append(&mut self.buffer, &piece),
            }
        }
    }
}

async fn next_piece(response: &mut Response, silence: Duration) -> Result<Option<bytes::Bytes>, ApiError> {
    match tokio::time::timeout(silence, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(failed(format!("the answer broke off: {}", root_cause(&error.without_url())))),
        Err(_) => Err(failed(format!("the answer stalled for {silence:?}"))),
    }
}

/// Appends without leaving a copy behind where the vector has moved from.
fn append(buffer: &mut Zeroizing<Vec<u8>>, piece: &[u8]) {
    if buffer.len() + piece.len() > buffer.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity((buffer.len() + piece.len()) * 2));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(piece);
}

/// What the server says about a refusal.
async fn explanation(mut response: Response) -> Status {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > MAX_STATUS {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    serde_json::from_slice(&body).unwrap_or_default()
}

/// The error for a status code, be it that of an answer or that of an event.
pub(super) fn refusal(code: u16, status: Status) -> ApiError {
    let text = if status.message.is_empty() { "no explanation" } else { &status.message };
    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    match code {
        401 => ApiError::Unauthorized(text),
        403 => ApiError::Forbidden(text),
        410 => ApiError::Gone,
        _ => failed(format!("the API server refuses with status {code}: {text}")),
    }
}

fn failed(problem: String) -> ApiError {
    ApiError::Failed(problem)
}

/// The text of the innermost error: outer ones only say that sending failed.
fn root_cause(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
