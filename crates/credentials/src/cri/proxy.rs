//! The image service of the container runtime, as if it were ours.
//!
//! Calls are passed on as bytes, in both directions and as they come: methods, fields and streams that are not known
//! here are not lost. Only the requests of `PullImage` and `RemoveImage` are held until they are whole, and looked
//! into.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tower_service::Service;

use super::CriKeychain;
use super::messages::{self, Pull};
use super::observe::{End, observed};

/// The services that are passed on. The older one is still spoken by containerd 1.6.
const SERVICES: [&str; 2] = ["/runtime.v1.ImageService/", "/runtime.v1alpha2.ImageService/"];
/// Largest request that is held, in bytes: the limit that the kubelet and containerd have for messages.
const MAX_MESSAGE: usize = 16 << 20;
/// Longest wait for the whole of a request that is held.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a connection to the container runtime.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Passes calls on to the image service of the container runtime, and lets a [`CriKeychain`] learn from them.
///
/// A gRPC service for any tonic server; see [`Beside`] for one that has another service already. The connection
/// is made when it is needed, and made again when it is lost. Until the container runtime is there, calls end at
/// once, as unavailable.
#[derive(Clone, Debug)]
pub struct CriProxy {
    channel: Channel,
    socket: Arc<Path>,
    keychain: Arc<CriKeychain>,
}

impl CriProxy {
    /// A proxy for the image service at the unix socket `socket`, a path or a `unix://` URL. Must be called within a
    /// tokio runtime.
    pub fn new(socket: impl Into<PathBuf>, keychain: Arc<CriKeychain>) -> CriProxy {
        let socket: PathBuf = socket.into();
        let plain =
            socket.to_str().and_then(|text| text.strip_prefix("unix://").or(text.strip_prefix("unix:")));
        let socket: Arc<Path> = plain.map_or(socket.as_path(), Path::new).into();
        let connecting = Arc::clone(&socket);
        // The authority of the requests; nobody looks it up.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
        let channel = endpoint.connect_with_connector_lazy(Connector(connecting));
        CriProxy { channel, socket, keychain }
    }

    /// Serves on a socket of its own until `shutdown` ends; calls that are under way then are finished.
    ///
    /// # Errors
    /// If the server cannot go on.
    pub async fn serve(
        self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .serve_with_incoming_shutdown(self, UnixListenerStream::new(listener), shutdown)
            .await
    }

    /// Whether a request is for this service.
    fn is_for(path: &str) -> bool {
        SERVICES.iter().any(|service| path.starts_with(service))
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        let method = SERVICES.iter().find_map(|service| path.strip_prefix(service));
        let result = match method {
            Some("PullImage") => self.pull(request).await,
            Some("RemoveImage") => self.remove(request).await,
            Some(_) => self.forward(request).await,
            None => Err(Status::unimplemented(format!("{path} is not a method of the CRI image service"))),
        };
        result.unwrap_or_else(Status::into_http)
    }

    async fn pull(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (request, frames) = hold(request).await?;
        let Some(pull) = messages::only_message(&frames).and_then(Pull::decode) else {
            tracing::warn!("a PullImage request is not understood; it is passed on");
            return self.forward(request).await;
        };
        let keychain = Arc::clone(&self.keychain);
        let pulling = keychain.pulling(pull);
        let response = self.forward(request).await?;
        let Some(pulling) = pulling else { return Ok(response) };
        Ok(observed(response, move |end| {
            let id = match end {
                End::Done(frames) => {
                    messages::only_message(&frames).and_then(messages::pulled_image).or(Some(String::new()))
                }
                End::Failed => None,
            };
            keychain.pulled(&pulling, id);
        }))
    }

    async fn remove(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (request, frames) = hold(request).await?;
        let image = messages::only_message(&frames).and_then(messages::removed_image);
        let keychain = Arc::clone(&self.keychain);
        let response = self.forward(request).await?;
        let Some(image) = image else { return Ok(response) };
        Ok(observed(response, move |end| {
            if end != End::Failed {
                keychain.removed(&image);
            }
        }))
    }

    async fn forward(mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let ready = std::future::poll_fn(|cx| self.channel.poll_ready(cx)).await;
        let answer = match ready {
            Ok(()) => self.channel.call(request).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, error: tonic::transport::Error) -> Status {
        let cause = root_cause(&error);
        let status = Status::from_error(Box::new(error));
        let socket = self.socket.display();
        match status.code() {
            // What the transport has no word for is the connection that is not there, or broke.
            tonic::Code::Unavailable | tonic::Code::Unknown => Status::unavailable(format!(
                "the container runtime's image service at {socket} does not answer: {cause}"
            )),
            _ => status,
        }
    }
}

/// Waits for the whole of a request, and gives it twice.
async fn hold(request: Request<Body>) -> Result<(Request<Body>, bytes::Bytes), Status> {
    let (parts, body) = request.into_parts();
    let whole = Limited::new(body, MAX_MESSAGE + 5).collect();
    let whole = tokio::time::timeout(REQUEST_TIMEOUT, whole).await.map_err(|_| {
        Status::deadline_exceeded(format!("the request did not arrive within {REQUEST_TIMEOUT:?}"))
    })?;
    let bytes = whole
        .map_err(|error| match error.is::<LengthLimitError>() {
            true => Status::resource_exhausted(format!("the request is larger than {MAX_MESSAGE} bytes")),
            false => Status::from_error(error),
        })?
        .to_bytes();
    Ok((Request::from_parts(parts, Body::new(Full::new(bytes.clone()))), bytes))
}

fn root_cause(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl Service<Request<Body>> for CriProxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each call waits for the connection by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let answer = self.clone().answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// An answer under way.
type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl NamedService for CriProxy {
    const NAME: &'static str = "runtime.v1.ImageService";
}

/// A [`CriProxy`] and another service on the same server: what is not for the image service goes to the other one.
#[derive(Clone, Debug)]
pub struct Beside<S> {
    proxy: CriProxy,
    other: S,
}

impl<S> Beside<S> {
    /// Both as one service.
    pub fn new(proxy: CriProxy, other: S) -> Beside<S> {
        Beside { proxy, other }
    }

    /// Serves both as [`CriProxy::serve`] does.
    ///
    /// # Errors
    /// If the server cannot go on.
    pub async fn serve(
        self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Server::builder()
            .serve_with_incoming_shutdown(self, UnixListenerStream::new(listener), shutdown)
            .await
    }
}

impl<S> Service<Request<Body>> for Beside<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.other.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        match CriProxy::is_for(request.uri().path()) {
            true => self.proxy.call(request),
            false => Box::pin(self.other.call(request)),
        }
    }
}

/// Connects to a unix socket.
#[derive(Clone)]
struct Connector(Arc<Path>);

impl Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = Arc::clone(&self.0);
        Box::pin(async move { UnixStream::connect(&*socket).await.map(TokioIo::new) })
    }
}
