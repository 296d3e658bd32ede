//! The connection, and how every call is made.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::Error;

/// Where containerd listens by default.
pub const DEFAULT_ADDRESS: &str = "/run/containerd/containerd.sock";
/// The namespace of `ctr`.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Largest message that is taken, in bytes: containerd's own limit.
pub(crate) const MESSAGE_MAX: usize = 16 << 20;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long to wait for the socket to be taken.
    pub connect: Duration,
    /// How long to wait for the answer of an ordinary call.
    pub call: Duration,
}

impl Default for ConnectOptions {
    /// Ten seconds, and one minute.
    fn default() -> ConnectOptions {
        ConnectOptions { connect: Duration::from_secs(10), call: Duration::from_secs(60) }
    }
}

/// A connection to containerd, for one namespace. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    headers: Headers,
    namespace: String,
    pub(crate) deadline: Duration,
}

/// What is said with every call.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// Connects to the socket at `address`, for `namespace`.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody takes the connection in time; [`Error::Name`].
    pub async fn connect(
        address: impl AsRef<Path>,
        namespace: &str,
        options: ConnectOptions,
    ) -> Result<Client, Error> {
        let address = address.as_ref();
        let failed = |reason: String| Error::Connect { address: address.to_owned(), reason };
        // With the scheme, as in CONTAINERD_ADDRESS, or without it.
        let text = address.to_str().ok_or_else(|| failed("the path is not valid UTF-8".to_owned()))?;
        let path = PathBuf::from(text.strip_prefix("unix://").unwrap_or(text));
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))
            .map_err(|error| failed(error.to_string()))?;
        let headers = Headers { namespace: header("namespace", namespace)?, lease: None };
        let channel = match tokio::time::timeout(options.connect, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(failed(innermost(&error))),
            Err(_) => return Err(failed(format!("no answer within {:?}", options.connect))),
        };
        Ok(Client { channel, headers, namespace: namespace.to_owned(), deadline: options.call })
    }

    /// The same for what is done under a lease: new blobs, writes and snapshots belong to it from their beginning.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn under(&self, lease: &str) -> Result<Client, Error> {
        let mut client = self.clone();
        client.headers.lease = Some(header("lease", lease)?);
        Ok(client)
    }

    /// The lease under which it works, if any.
    pub fn lease(&self) -> Option<&str> {
        self.headers.lease.as_ref().and_then(|lease| lease.to_str().ok())
    }

    /// The namespace that it speaks for.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn transport(&self) -> (Channel, Headers) {
        (self.channel.clone(), self.headers.clone())
    }

    /// Awaits an ordinary call.
    pub(crate) async fn call<T>(
        &self,
        action: &'static str,
        subject: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        self.call_within(self.deadline, action, subject, answer).await
    }

    /// Awaits a call that may take its time.
    pub(crate) async fn call_within<T>(
        &self,
        limit: Duration,
        action: &'static str,
        subject: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refused(action, subject, status)),
            Err(_) => Err(Error::Deadline { action, subject: subject.to_owned(), limit }),
        }
    }
}

/// containerd's answer as an error.
pub(crate) fn refused(action: &'static str, subject: &str, status: Status) -> Error {
    Error::Call { action, subject: subject.to_owned(), status: Box::new(status) }
}

fn header(what: &'static str, name: &str) -> Result<MetadataValue<Ascii>, Error> {
    match MetadataValue::try_from(name) {
        Ok(value) if !name.is_empty() => Ok(value),
        _ => Err(Error::Name { what, name: name.to_owned() }),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The generated client of a service.
macro_rules! stub {
    ($client:expr, $module:ident :: $inner:ident :: $stub:ident) => {{
        let (channel, headers) = $client.transport();
        crate::proto::$module::$inner::$stub::with_interceptor(channel, headers)
            .max_decoding_message_size(crate::client::MESSAGE_MAX)
    }};
}
pub(crate) use stub;
