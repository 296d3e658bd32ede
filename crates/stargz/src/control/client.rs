//! The side of the command line.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ANSWER_MAX, Answer, Outcome, Request, VERSION, socket};

/// Why a daemon did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The connection broke, or no answer came in time.
    #[error("the daemon does not answer")]
    Io(#[from] io::Error),
    /// The answer makes no sense.
    #[error("the daemon's answer cannot be read; is it another version of this program?")]
    Answer(#[from] serde_json::Error),
    /// It says why itself.
    #[error("the daemon says: {0}")]
    Refused(String),
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon whose state is in `root`; `None` if there is none.
    ///
    /// # Errors
    /// The socket can't be used.
    pub fn connect(root: &Path) -> io::Result<Option<Client>> {
        match UnixStream::connect(socket(root)) {
            Ok(stream) => Ok(Some(Client { stream: BufReader::new(stream) })),
            // A daemon that was killed leaves its socket behind.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks, and waits for the answer for up to `patience`.
    ///
    /// # Errors
    /// There is no answer, or it is that it did not work.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: impl Serialize,
        patience: Duration,
    ) -> Result<T, ControlError> {
        let arguments = serde_json::to_value(arguments)?;
        let request = Request { version: VERSION, command: command.to_owned(), arguments };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(patience))?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&line)?;
        let mut line = Vec::new();
        self.stream.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_slice::<Answer>(&line)?.outcome {
            Outcome::Ok(value) => Ok(serde_json::from_value(value)?),
            Outcome::Error(text) => Err(ControlError::Refused(text)),
        }
    }
}
