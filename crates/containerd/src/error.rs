//! What containerd answers when it does not do what is asked.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("connecting to containerd at {}: {reason}; is it running, and is this its address?", address.display())]
    Connect {
        /// The socket.
        address: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A namespace or a lease has a name that cannot be sent.
    #[error("{name:?} cannot be the name of a {what}")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// containerd refuses, or cannot.
    #[error("{action} {subject}: {}", reason(status))]
    Call {
        /// What was tried.
        action: &'static str,
        /// On what.
        subject: String,
        /// containerd's answer.
        status: Box<Status>,
    },
    /// There is no answer.
    #[error("{action} {subject}: no answer from containerd within {limit:?}")]
    Deadline {
        /// What was tried.
        action: &'static str,
        /// On what.
        subject: String,
        /// How long was waited.
        limit: Duration,
    },
    /// An answer that makes no sense.
    #[error("{action} {subject}: containerd's answer is not understood: {problem}")]
    Answer {
        /// What was tried.
        action: &'static str,
        /// On what.
        subject: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What to make of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// It is not in the state for that, or something else needs it.
    FailedPrecondition,
    /// Somebody else has it at the moment, or containerd has no answer of one of its plugins.
    Unavailable,
    /// The connection is gone: containerd ended, or was never there.
    Disconnected,
    /// There was no answer in time.
    Deadline,
    /// The answer, or what was asked, is not understood.
    Invalid,
    /// This containerd does not have it.
    Unimplemented,
    /// Anything else.
    Other,
}

impl Error {
    /// What to make of it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Connect { .. } => ErrorKind::Disconnected,
            Error::Deadline { .. } => ErrorKind::Deadline,
            Error::Name { .. } | Error::Answer { .. } => ErrorKind::Invalid,
            Error::Call { status, .. } if is_transport(status) => ErrorKind::Disconnected,
            Error::Call { status, .. } => match status.code() {
                Code::NotFound => ErrorKind::NotFound,
                Code::AlreadyExists => ErrorKind::AlreadyExists,
                Code::FailedPrecondition => ErrorKind::FailedPrecondition,
                Code::Unavailable => ErrorKind::Unavailable,
                Code::DeadlineExceeded => ErrorKind::Deadline,
                Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
                Code::Unimplemented => ErrorKind::Unimplemented,
                _ => ErrorKind::Other,
            },
        }
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether it is there already.
    pub fn is_already_exists(&self) -> bool {
        self.kind() == ErrorKind::AlreadyExists
    }
}

/// Whether it is our end of the connection that says so: containerd's own answers have no source.
fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// containerd's words, or what became of the connection.
fn reason(status: &Status) -> impl fmt::Display {
    if is_transport(status) {
        let mut cause: &dyn StdError = status;
        while let Some(source) = cause.source() {
            cause = source;
        }
        return format!("the connection to containerd is gone ({cause})");
    }
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}
