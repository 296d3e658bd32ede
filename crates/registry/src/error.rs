//! The error of this crate: cheap to clone, so that everyone who waited for one request can have it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What went wrong, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The registry does not have the image or the blob.
    NotFound,
    /// The registry wants credentials, or other ones.
    Unauthorized,
    /// The registry knows who asks and refuses.
    Forbidden,
    /// The registry could not answer now (408, 429, 5xx), also after the retries.
    Unavailable,
    /// No progress within the request timeout, or the overall budget was spent.
    Timeout,
    /// The connection could not be made, was refused or broke; includes TLS.
    Network,
    /// The answer does not follow the distribution or HTTP specification, or is of a form not supported here.
    Protocol,
    /// The content does not have the digest or size it was asked by.
    Digest,
    /// The range asked for lies outside of the blob.
    RangeNotSatisfiable,
    /// The body ended before its promised length.
    ShortBody,
    /// A document is larger than the bound for its kind.
    TooLarge,
    /// A text is not an image reference.
    InvalidReference,
    /// An option is not usable; the text names it.
    InvalidOptions,
    /// The index has no manifest for the platform asked for.
    NoSuchPlatform,
}

/// A failure, with everything a person needs to act on it in its text: method, address (without query), host,
/// number of attempts. Never holds a credential.
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    message: Arc<str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<Arc<str>>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn append(mut self, note: &str) -> Error {
        self.message = format!("{}{note}", self.message).into();
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
