//! What can go wrong, and how containerd hears of it.

use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tonic::{Code, Status};

use crate::FsError;

/// Why the snapshotter refused or failed.
///
/// The first five carry the meaning, and over gRPC the code, of the containerd error kinds of the same names.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such snapshot.
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    /// The name is taken. For a Prepare that names a target this says that the target is ready.
    #[error("{0}: already exists")]
    AlreadyExists(String),
    /// The request can never succeed as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// The snapshot is not in the state that the request needs.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A lazily mounted layer below the snapshot cannot be read now.
    #[error("layer {name:?} (snapshot {id}) unavailable")]
    Unavailable {
        /// Name of the committed snapshot.
        name: String,
        /// Its number, which names its directory.
        id: u64,
        /// What the filesystem said.
        source: FsError,
    },
    /// A file operation below the root failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The snapshot database failed.
    #[error("snapshot database failed")]
    Database(#[source] Box<redb::Error>),
    /// The snapshot database is in a format that this version does not know.
    #[error(
        "snapshot database {path} has format {found}, this version reads format {supported}: run the version that wrote it"
    )]
    Schema {
        /// The database file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format of this version.
        supported: u64,
    },
    /// The snapshot database holds something that this program does not write.
    #[error("snapshot database is damaged: {0}")]
    Damaged(String),
    /// Some lazily mounted layers could not be mounted again.
    #[error("cannot restore {}", list(.0))]
    Restore(Vec<FailedLayer>),
    /// The gRPC server failed.
    #[error("snapshot service failed")]
    Serve(#[source] tonic::transport::Error),
    /// The process is ending.
    #[error("the snapshotter is shutting down")]
    ShuttingDown,
}

/// A lazily mounted layer that could not be mounted again at start.
#[derive(Debug, Clone)]
pub struct FailedLayer {
    /// Name of the committed snapshot.
    pub name: String,
    /// Its number, which names its directory.
    pub id: u64,
    /// What the filesystem said.
    pub error: FsError,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Wraps any of the error types of the database's many calls.
    pub(crate) fn db(error: impl Into<redb::Error>) -> Self {
        Self::Database(Box::new(error.into()))
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::FailedPrecondition(_) => Code::FailedPrecondition,
            Self::Unavailable { .. } | Self::Restore(_) | Self::ShuttingDown => Code::Unavailable,
            Self::Io { .. } | Self::Database(_) | Self::Schema { .. } | Self::Damaged(_) | Self::Serve(_) => {
                Code::Internal
            }
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), Chain(&error).to_string())
    }
}

/// Shows an error with all reasons behind it on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

fn list(failed: &[FailedLayer]) -> String {
    let one = |layer: &FailedLayer| {
        format!("snapshot {:?} (number {}): {}", layer.name, layer.id, Chain(&layer.error))
    };
    failed.iter().map(one).collect::<Vec<_>>().join("; ")
}
