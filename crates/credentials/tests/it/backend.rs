//! A container runtime that answers everything, in its own way.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::body::Body;
use tower_service::Service;

use crate::grpc::{PullImageRequest, PullImageResponse, frame};

/// What it was asked.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Pulls of images whose name has `fail` in it fail; the ID of others is `sha256:` and the name. Methods that begin
/// with `Stream` give three messages. Others give the request's own frames.
#[derive(Clone, Default)]
pub struct Backend {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Backend {
    /// Serves at a socket until the handle is aborted.
    pub fn serve(&self, socket: &Path) -> JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let backend = self.clone();
        tokio::spawn(async move {
            tonic::transport::Server::builder().serve_with_incoming(backend, listener).await.unwrap();
        })
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Service<Request<Body>> for Backend {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let seen = Arc::clone(&self.seen);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let path = parts.uri.path().to_owned();
            let method = path.rsplit('/').next().unwrap().to_owned();
            seen.lock().unwrap().push(Seen { path, headers: parts.headers, body: body.to_vec() });
            let (status, pieces) = match method.as_str() {
                "PullImage" => {
                    let image = PullImageRequest::decode(&body[5..]).unwrap().image.unwrap().image;
                    let answer = PullImageResponse { image_ref: format!("sha256:{image}") };
                    match image.contains("fail") {
                        true => (2, Vec::new()),
                        false => (0, vec![frame(&answer.encode_to_vec())]),
                    }
                }
                "RemoveImage" if body.windows(4).any(|window| window == b"fail") => (2, Vec::new()),
                "Refuse" => {
                    // Without a body: the status is in the headers.
                    let mut response = Response::new(Body::empty());
                    let headers = response.headers_mut();
                    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
                    headers.insert("grpc-status", HeaderValue::from_static("5"));
                    headers.insert("grpc-message", HeaderValue::from_static("no%20such"));
                    return Ok(response);
                }
                name if name.starts_with("Stream") => {
                    (0, [b"1", b"2", b"3"].map(|byte| frame(byte)).to_vec())
                }
                _ => (0, vec![body.to_vec()]),
            };
            Ok(answer(status, pieces))
        })
    }
}

fn answer(status: u8, pieces: Vec<Vec<u8>>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    trailers.insert("x-trailer", HeaderValue::from_static("kept"));
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<_, Infallible>>(1);
    tokio::spawn(async move {
        for piece in pieces {
            let _ = sender.send(Ok(Frame::data(Bytes::from(piece)))).await;
        }
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let mut response = Response::new(Body::new(StreamBody::new(ReceiverStream::new(receiver))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
