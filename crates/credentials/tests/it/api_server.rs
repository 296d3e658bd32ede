//! An API server that knows secrets only, and how to be difficult.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::SECRET;

type Body = BoxBody<Bytes, Infallible>;

pub const JSON: &str = "kubernetes.io/dockerconfigjson";
pub const CFG: &str = "kubernetes.io/dockercfg";

/// What the server does and has seen. Changes are announced to the watches.
#[derive(Default)]
pub struct State {
    version: u64,
    /// Versions up to this one are no longer known to watches.
    compacted: u64,
    secrets: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
    /// Watches that are older than this are ended.
    generation: u64,
    /// The status of every answer, if not 200.
    pub refuse: Option<u16>,
    /// The one token that is accepted.
    pub token: Option<String>,
    /// Bytes that a page of a list has at least.
    pub padding: usize,
    pub lists: usize,
    pub watches: usize,
    /// The limit of the last list.
    pub limit: usize,
}

pub struct ApiServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl ApiServer {
    pub async fn start() -> ApiServer {
        ApiServer::start_with(None).await
    }

    pub async fn start_with(tls: Option<TlsAcceptor>) -> ApiServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { version: 1, ..State::default() }));
        let changed = watch::Sender::new(());
        let (shared, sender) = (Arc::clone(&state), changed.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, changed, tls) = (Arc::clone(&shared), sender.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, state, changed).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state, changed).await;
                            }
                        }
                    }
                });
            }
        });
        ApiServer { address, state, changed }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A kubeconfig for a user with these fields.
    pub fn kubeconfig(&self, cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: '{}://{}'{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
            if cluster.contains("certificate") || cluster.contains("insecure") { "https" } else { "http" },
            self.address
        )
    }

    /// Creates or changes a secret that has one user for one key.
    pub fn put(&self, kind: &str, name: &str, key: &str, user: &str) {
        let auths = json!({ key: { "auth": STANDARD.encode(format!("{user}:{SECRET}")) } });
        let (field, config) = if kind == JSON {
            (".dockerconfigjson", json!({ "auths": auths }))
        } else {
            (".dockercfg", auths)
        };
        let data = json!({ field: STANDARD.encode(config.to_string()) });
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind, "data": data,
            "metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
        });
        let is_new = state.secrets.insert(name.to_owned(), object.clone()).is_none();
        let event = json!({"type": if is_new { "ADDED" } else { "MODIFIED" }, "object": object});
        state.events.push((version, event));
        drop(state);
        self.changed.send_replace(());
    }

    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let mut object = state.secrets.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        state.events.push((version, json!({"type": "DELETED", "object": object})));
        drop(state);
        self.changed.send_replace(());
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.state().generation += 1;
        self.changed.send_replace(());
    }

    /// Forgets all events so far: watches that would need them are told that they are gone.
    pub fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.compacted = state.version;
        state.events.clear();
    }

    /// Tells watches of one type the version that they are at.
    pub fn bookmark(&self, kind: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let object =
            json!({"kind": "Secret", "type": kind, "metadata": {"resourceVersion": version.to_string()}});
        state.events.push((version, json!({"type": "BOOKMARK", "object": object})));
        drop(state);
        self.changed.send_replace(());
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &state, &changed);
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn answer(
    request: &Request<Incoming>,
    shared: &Arc<Mutex<State>>,
    changed: &watch::Sender<()>,
) -> Response<Body> {
    let mut state = shared.lock().unwrap();
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let want = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if want.is_some() && authorization != want.as_deref() {
        return status(401, "Unauthorized");
    }
    if let Some(code) = state.refuse {
        return status(code, "secrets is forbidden: User \"u\" cannot list resource \"secrets\"");
    }
    assert_eq!(request.uri().path(), "/api/v1/secrets");
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let kind = query["fieldSelector"].strip_prefix("type=").unwrap().to_owned();
    if !query.contains_key("watch") {
        return list(&mut state, &kind, &query);
    }
    state.watches += 1;
    assert_eq!(query["allowWatchBookmarks"], "true");
    let from: u64 = query["resourceVersion"].parse().unwrap();
    if from < state.compacted {
        return match from % 2 {
            // Both ways are in use.
            0 => status(410, "too old resource version"),
            _ => {
                let event =
                    json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}});
                Response::new(full(format!("{event}\n")))
            }
        };
    }
    let generation = state.generation;
    Response::new(watch_body(kind, from, generation, Arc::clone(shared), changed.subscribe()))
}

fn list(state: &mut State, kind: &str, query: &HashMap<String, String>) -> Response<Body> {
    state.lists += 1;
    let limit: usize = query["limit"].parse().unwrap();
    state.limit = limit;
    let from: usize = query.get("continue").map_or(0, |from| from.parse().unwrap());
    let all: Vec<_> = state.secrets.values().filter(|object| object["type"] == kind).collect();
    // Small pages, so that there are several.
    let page = all.iter().skip(from).take(limit.min(2)).collect::<Vec<_>>();
    let next = from + page.len();
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if next < all.len() {
        metadata["continue"] = next.to_string().into();
    }
    let padding = if limit > 10 { "x".repeat(state.padding) } else { String::new() };
    let body = json!({"kind": "SecretList", "metadata": metadata, "items": page, "padding": padding});
    Response::new(full(body.to_string()))
}

fn watch_body(
    kind: String,
    from: u64,
    generation: u64,
    shared: Arc<Mutex<State>>,
    mut changed: watch::Receiver<()>,
) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let mut sent = from;
        loop {
            let events: Vec<_> = {
                let state = shared.lock().unwrap();
                if state.generation != generation {
                    return;
                }
                let new = state.events.iter().filter(|(version, _)| *version > sent);
                let mine = new.filter(|(_, event)| event["object"]["type"] == kind.as_str());
                mine.map(|(version, event)| (*version, format!("{event}\n"))).collect()
            };
            for (version, text) in events {
                sent = version;
                // In two pieces, as a network may deliver it.
                let (head, tail) = text.split_at(text.len() / 2);
                for piece in [head.to_owned(), tail.to_owned()] {
                    if sender.send(Ok(Frame::data(Bytes::from(piece)))).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    });
    StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed()
}

fn status(code: u16, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "status": "Failure", "message": message, "code": code});
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}
