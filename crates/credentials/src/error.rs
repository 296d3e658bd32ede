//! Why credentials could not be had.

use std::path::PathBuf;
use std::time::Duration;

/// Why a source of credentials could not answer. Holds no secret; cheap enough to give to all who wait for the same answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file cannot be used.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A plugin of the kubelet cannot be run, or what it says cannot be used.
    #[error("credential provider plugin {plugin:?}: {problem}")]
    Plugin {
        /// The plugin's name in the configuration.
        plugin: String,
        /// What went wrong.
        problem: ProgramError,
    },
    /// More questions wait for plugins than are allowed to.
    #[error("{0} runs of credential provider plugins are under way, no further one is started")]
    Busy(usize),
    /// The secrets of the cluster are not known.
    #[error("kubernetes secrets: {0}")]
    Kubernetes(String),
    /// A sealed store or its key cannot be used.
    #[error("{}: {problem}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<Error> for registry::KeychainError {
    fn from(error: Error) -> registry::KeychainError {
        registry::KeychainError(error.to_string())
    }
}

/// Why a helper program gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It does not run.
    #[error("cannot start {program}: {problem}")]
    Start {
        /// The path, or the name that was looked for.
        program: String,
        /// The system's words.
        problem: String,
    },
    /// It took too long and was killed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It says more than is read.
    #[error("it says more than {0} bytes")]
    TooLarge(u64),
    /// It ended with an error.
    #[error("failed ({status}){}{remark}", if remark.is_empty() { "" } else { ": " })]
    Failed {
        /// How it ended.
        status: String,
        /// The beginning of what it wrote to its standard error.
        remark: String,
    },
    /// Its answer is not what the protocol asks for.
    #[error("its answer {0}")]
    Answer(String),
    /// It wants something that only the kubelet has.
    #[error("{0}")]
    Unsupported(String),
}
