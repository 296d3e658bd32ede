//! gRPC by hand: messages as bytes, in frames.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower_service::Service as _;

use crate::LONG;

/// A client of the gRPC server at a unix socket.
pub fn client(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

fn service_fn<F, T>(f: F) -> ServiceFn<F>
where
    F: FnMut(Uri) -> T,
{
    ServiceFn(f)
}

struct ServiceFn<F>(F);

impl<F, T, R> tower_service::Service<Uri> for ServiceFn<F>
where
    F: FnMut(Uri) -> T,
    T: Future<Output = std::io::Result<R>> + Send + 'static,
{
    type Response = R;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::io::Result<R>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin((self.0)(uri))
    }
}

/// The frame of a message.
pub fn frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// The messages in frames.
pub fn messages(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((header, rest)) = frames.split_at_checked(5) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let (message, rest) = rest.split_at(length);
        messages.push(message.to_vec());
        frames = rest;
    }
    messages
}

/// A call with one message: its answer's messages, and its trailers.
pub async fn call(
    channel: &Channel,
    path: &str,
    message: &[u8],
) -> Result<(Vec<Vec<u8>>, HeaderMap), Status> {
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-note", "kept")
        .body(Body::new(Full::new(Bytes::from(frame(message)))))
        .unwrap();
    let mut channel = channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let answer = channel.call(request).await.map_err(|error| Status::from_error(Box::new(error)))?;
    if let Some(status) = Status::from_header_map(answer.headers()).filter(|status| status.code() != Code::Ok)
    {
        return Err(status);
    }
    let body = answer.into_body().collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    match Status::from_header_map(&trailers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok((messages(&body.to_bytes()), trailers)),
    }
}

/// A call to the image service.
pub async fn image_service(channel: &Channel, method: &str, message: &[u8]) -> Result<Vec<u8>, Status> {
    let (mut messages, _) = call(channel, &format!("/runtime.v1.ImageService/{method}"), message).await?;
    Ok(messages.pop().unwrap_or_default())
}

/// Calls until the service is there.
pub async fn until_answered(channel: &Channel, method: &str) -> Vec<u8> {
    let started = Instant::now();
    loop {
        match image_service(channel, method, b"").await {
            Ok(answer) => return answer,
            Err(error) => assert!(started.elapsed() < LONG, "{method}: {error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct AuthConfig {
    #[prost(string, tag = "1")]
    pub username: String,
    #[prost(string, tag = "2")]
    pub password: String,
    #[prost(string, tag = "3")]
    pub auth: String,
    #[prost(string, tag = "4")]
    pub server_address: String,
    #[prost(string, tag = "5")]
    pub identity_token: String,
    #[prost(string, tag = "6")]
    pub registry_token: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    pub auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PullImageResponse {
    #[prost(string, tag = "1")]
    pub image_ref: String,
}

/// `RemoveImageRequest` and `ImageStatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
}

/// A request to pull.
pub fn pull(image: &str, auth: Option<AuthConfig>) -> Vec<u8> {
    PullImageRequest { image: Some(ImageSpec { image: image.into() }), auth }.encode_to_vec()
}

/// A request that names an image.
pub fn named(image: &str) -> Vec<u8> {
    ImageRequest { image: Some(ImageSpec { image: image.into() }) }.encode_to_vec()
}

/// The credential of a user with the secret of all tests.
pub fn auth(user: &str) -> AuthConfig {
    AuthConfig { username: user.into(), password: crate::SECRET.into(), ..AuthConfig::default() }
}
