//! Credentials that a client of the additional layer store hands over before it pulls.
//!
//! containers/image runs a program (`additional-layer-store-auth-helper` in `registries.conf`) with a JSON object on its standard
//! input: by image reference, the credential with which it reached the image. The program passes it on as the one argument of the
//! gRPC method `/Controller/AddCredential`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::uri::PathAndQuery;
use http::{Request, Response};
use registry::{Credential, Keychain, KeychainError, Reference, Secret};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Endpoint, Server};
use tonic_prost::ProstCodec;
use tower_service::Service;
use zeroize::Zeroizing;

const METHOD: &str = "/Controller/AddCredential";
/// Most images whose credentials are kept; the one handed over longest ago goes first.
const IMAGES_MAX: usize = 1024;
/// Largest object that is taken, bytes.
const SIZE_MAX: usize = 1 << 20;
/// Longest time to hand over.
const DEADLINE: Duration = Duration::from_secs(10);

/// What was handed over, in memory.
///
/// A credential goes to the host that its reference names and to no other: to that of the image itself, or to a mirror that the
/// client was told to use. For the image that it came with it is the first choice, then for other tags of its repository, then,
/// at a mirror, for the repository whose name it ends with.
#[derive(Debug, Default)]
pub struct HandedKeychain {
    images: Mutex<HashMap<String, Handed>>,
}

#[derive(Debug)]
struct Handed {
    reference: Reference,
    credential: Credential,
    since: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Entry {
    username: String,
    password: Secret,
    identity_token: Secret,
}

impl HandedKeychain {
    fn images(&self) -> MutexGuard<'_, HashMap<String, Handed>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over an object of credentials by reference. An image that is said to need none loses what it has.
    ///
    /// # Errors
    /// It is no such object. Nothing of it is taken then.
    pub fn add(&self, json: &[u8]) -> Result<(), HandOverError> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        // The parser's own text may quote the object, which holds secrets.
        let entries: HashMap<String, Entry> = serde_json::from_slice(json)
            .map_err(|error| HandOverError::Malformed { line: error.line(), column: error.column() })?;
        let mut parsed = Vec::new();
        for (name, entry) in entries {
            let reference =
                Reference::parse(&name).map_err(|error| HandOverError::Reference(error.to_string()))?;
            parsed.push((name, reference, entry.credential()));
        }
        let mut images = self.images();
        for (name, reference, credential) in parsed {
            match credential {
                Some(credential) => {
                    tracing::debug!(reference = name, "a credential was handed over");
                    images.insert(name, Handed { reference, credential, since: Instant::now() });
                }
                None => drop(images.remove(&name)),
            }
        }
        while images.len() > IMAGES_MAX {
            let oldest = images.iter().min_by_key(|(_, handed)| handed.since).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            images.remove(&oldest);
        }
        Ok(())
    }
}

impl Entry {
    fn credential(self) -> Option<Credential> {
        if !self.identity_token.is_empty() {
            return Some(Credential::IdentityToken(self.identity_token));
        }
        (!self.username.is_empty()).then(|| Credential::password(self.username, self.password))
    }
}

/// How well something that came with `handed` suits `reference` at `host`, 0 being best.
fn rank(handed: &Reference, host: &str, reference: &Reference) -> Option<u8> {
    if handed.host() != host {
        return None;
    }
    let (theirs, ours) = (handed.repository(), reference.repository());
    if handed == reference {
        return Some(0);
    }
    if theirs == ours {
        return Some(1);
    }
    // A mirror has its images below a path of its own, or the images of one path at its root.
    let below = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('/'));
    (host != reference.host() && (below(theirs, ours) || below(ours, theirs))).then_some(2)
}

#[async_trait]
impl Keychain for HandedKeychain {
    fn name(&self) -> String {
        "what the container tool handed over".to_owned()
    }

    async fn credentials(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>, KeychainError> {
        let images = self.images();
        let mut suitable: Vec<_> = images
            .values()
            .filter_map(|handed| Some((rank(&handed.reference, host, reference)?, handed)))
            .collect();
        suitable.sort_by_key(|(rank, handed)| (*rank, std::cmp::Reverse(handed.since)));
        let mut found: Vec<Credential> = Vec::new();
        for (_, handed) in suitable {
            if !found.contains(&handed.credential) {
                found.push(handed.credential.clone());
            }
        }
        found.truncate(4);
        Ok(found)
    }
}

/// Why credentials were not handed over. No text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Not the object that it should be.
    #[error(
        "credentials are not valid at line {line}, column {column}: expected a JSON object by image reference"
    )]
    Malformed {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A name is none of an image.
    #[error("credentials are for something that is no image: {0}")]
    Reference(String),
    /// Nobody takes them.
    #[error("cannot reach the layer store at {}: {reason}; is it running, with this --addr?", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store does not take them.
    #[error("the layer store refused the credentials: {0}")]
    Refused(String),
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct AddCredentialRequest {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

impl std::fmt::Debug for AddCredentialRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddCredentialRequest(hidden)")
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct AddCredentialResponse {}

/// Takes credentials on `listener` until `shutdown` ends. Whoever may connect may hand over.
///
/// # Errors
/// The socket broke.
pub async fn serve_handed(
    keychain: Arc<HandedKeychain>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .timeout(DEADLINE)
        .serve_with_incoming_shutdown(Controller(keychain), UnixListenerStream::new(listener), shutdown)
        .await
}

#[derive(Clone, Debug)]
struct Controller(Arc<HandedKeychain>);

impl NamedService for Controller {
    const NAME: &'static str = "Controller";
}

impl Service<Request<Body>> for Controller {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Add(Arc::clone(&self.0));
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is AddCredential only").into_http());
            }
            let codec = ProstCodec::<AddCredentialResponse, AddCredentialRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(SIZE_MAX);
            Ok(grpc.unary(method, request).await)
        })
    }
}

struct Add(Arc<HandedKeychain>);

impl UnaryService<AddCredentialRequest> for Add {
    type Response = AddCredentialResponse;
    type Future = std::future::Ready<Result<tonic::Response<AddCredentialResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<AddCredentialRequest>) -> Self::Future {
        let data = Zeroizing::new(request.into_inner().data);
        let added = self.0.add(&data).map_err(|error| Status::invalid_argument(error.to_string()));
        std::future::ready(added.map(|()| tonic::Response::new(AddCredentialResponse {})))
    }
}

/// Hands an object of credentials over to whoever serves [`serve_handed`] at `socket`.
///
/// # Errors
/// Nobody does, or it was refused.
pub async fn hand_over(socket: &Path, json: Vec<u8>) -> Result<(), HandOverError> {
    let unreachable = |reason: String| HandOverError::Connect { socket: socket.to_owned(), reason };
    let connecting = async {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|error| unreachable(error.to_string()))?;
        let channel = endpoint.connect_timeout(DEADLINE).timeout(DEADLINE).connect().await;
        let channel = channel.map_err(|error| unreachable(cause_of(&error)))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| unreachable(cause_of(&error)))?;
        let codec = ProstCodec::<AddCredentialRequest, AddCredentialResponse>::default();
        let request = tonic::Request::new(AddCredentialRequest { data: json });
        let answer = client.unary(request, PathAndQuery::from_static(METHOD), codec).await;
        answer.map(drop).map_err(|status| HandOverError::Refused(status.message().to_owned()))
    };
    tokio::time::timeout(DEADLINE, connecting).await.unwrap_or_else(|_| Err(unreachable("no answer".into())))
}

/// The innermost cause: what is around it says only that something failed.
fn cause_of(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
