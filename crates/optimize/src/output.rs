//! What a workload writes: shown, and looked through for a line.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// The end of a line that is longer is looked through with the next part of it.
const LINE_MAX: usize = 64 << 10;

/// The pipes of a workload.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: (PathBuf, Receiver),
    stderr: Option<(PathBuf, Receiver)>,
    echo: bool,
}

impl Output {
    /// Makes pipes in a directory. A terminal is one pipe.
    pub fn new(directory: &Path, terminal: bool, echo: bool) -> io::Result<Output> {
        let pipe = |name: &str| {
            let path = directory.join(name);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)?;
            // Open for writing as well, so that it neither waits for the other side nor ends before it begins.
            let receiver = OpenOptions::new().read_write(true).open_receiver(&path)?;
            Ok::<_, io::Error>((path, receiver))
        };
        let stdout = pipe("stdout")?;
        let stderr = if terminal { None } else { Some(pipe("stderr")?) };
        Ok(Output { stdout, stderr, echo })
    }

    pub fn stdout_path(&self) -> &Path {
        &self.stdout.0
    }

    pub fn stderr_path(&self) -> Option<&Path> {
        self.stderr.as_ref().map(|(path, _)| path.as_path())
    }

    /// Passes on what comes, until a line of the standard output contains `wanted`; for ever without it.
    pub async fn watch(self, wanted: Option<&str>) {
        let Output { stdout: (_, mut stdout), stderr, echo } = self;
        let errors = async {
            if let Some((_, mut stderr)) = stderr {
                let mut buffer = vec![0; 8 << 10];
                while let Ok(got) = stderr.read(&mut buffer).await {
                    if echo {
                        shown(io::stderr().lock().write_all(&buffer[..got]));
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        let lines = async {
            let (mut buffer, mut line) = (vec![0; 8 << 10], Vec::new());
            while let Ok(got) = stdout.read(&mut buffer).await {
                if echo {
                    let mut out = io::stdout().lock();
                    shown(out.write_all(&buffer[..got]).and_then(|()| out.flush()));
                }
                let Some(wanted) = wanted else { continue };
                if found(&mut line, &buffer[..got], wanted.as_bytes()) {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = errors => {}
            () = lines => {}
        }
    }
}

/// A workload is watched although nobody looks at what it says.
fn shown(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "what the workload says cannot be shown");
    }
}

/// Whether a line contains `wanted`, now that `bytes` were added. `line` has the last one as far as it is there.
fn found(line: &mut Vec<u8>, bytes: &[u8], wanted: &[u8]) -> bool {
    for part in bytes.split_inclusive(|byte| *byte == b'\n') {
        line.extend_from_slice(part);
        let contains = wanted.is_empty() || line.windows(wanted.len()).any(|window| window == wanted);
        if contains {
            return true;
        }
        if part.ends_with(b"\n") {
            line.clear();
        } else if line.len() > LINE_MAX {
            line.drain(..line.len() - wanted.len().min(line.len()));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_however_it_arrives() {
        for (parts, expected) in [
            (&["server re", "ady on"][..], true),
            (&["server\nready"], false),
            (&["x\nserver ready\ny"], true),
            (&["server ", "\n", "ready"], false),
        ] {
            let mut line = Vec::new();
            let hit = parts.iter().any(|part| found(&mut line, part.as_bytes(), b"server ready"));
            assert_eq!(hit, expected, "{parts:?}");
        }
    }
}
