//! Why a layer cannot be resolved or a read of it cannot be answered.

use std::fmt;
use std::sync::Arc;

use format::Digest;

/// What a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The blob has no table of contents: an ordinary layer, to be pulled in the ordinary way.
    NotLazy,
    /// The blob, its footer or its table of contents breaks the rules of its format.
    Format,
    /// Bytes do not have the digest that pins them. They were thrown away.
    Integrity,
    /// The blob store failed or could not be reached; it may do better later.
    Source,
    /// The blob store refused for good, or broke the rules of its protocol.
    Refused,
    /// The answer did not arrive in time.
    Timeout,
    /// The local disk failed.
    Disk,
    /// The local disk has no room.
    DiskFull,
    /// The read was given up because the layer is being closed.
    Closed,
}

/// An error of this crate. Cheap to clone: everybody who waits for the same span gets the same error.
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    what: Arc<str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into().into(), source: None }
    }

    pub(crate) fn with_source(
        kind: Kind,
        what: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error { kind, what: what.into().into(), source: Some(Arc::new(source)) }
    }

    /// A failed operation on a local file.
    pub(crate) fn disk(what: impl Into<String>, source: std::io::Error) -> Error {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::DiskFull,
            _ => Kind::Disk,
        };
        Error::with_source(kind, what, source)
    }

    /// Puts the layer in front of the text.
    pub(crate) fn of_layer(self, digest: &Digest) -> Error {
        Error { what: format!("layer {digest}: {}", self.what).into(), ..self }
    }

    /// What a caller can act on.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    /// The whole chain on one line, so that a log line or a gRPC status says the cause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut last = self.what.to_string();
        let mut next: Option<&(dyn std::error::Error + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors repeat their cause in their own text.
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            next = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(Error::disk("write image", full).kind(), Kind::DiskFull);
        let broken = std::io::Error::from_raw_os_error(5);
        assert_eq!(Error::disk("write image", broken).kind(), Kind::Disk);
    }

    #[test]
    fn the_text_names_layer_operation_and_cause_once() {
        let error = Error::disk("write image", std::io::Error::other("no luck")).of_layer(&Digest::of(b""));
        let text = error.to_string();
        assert!(text.starts_with("layer sha256:e3b0"), "{text}");
        assert!(text.ends_with("write image: no luck"), "{text}");
    }
}
