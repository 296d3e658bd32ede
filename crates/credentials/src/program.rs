//! Running a helper program that may do anything: hang, say nothing, or say too much.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::ProgramError;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Most of the standard error that is read, in bytes; the rest is read away.
const MAX_REMARK_READ: u64 = 4 << 10;
/// Longest explanation that is repeated in an error, in characters.
const MAX_REMARK: usize = 200;

/// Runs `command` with `input` on its standard input and gives what it wrote to its standard output.
///
/// The program gets a process group of its own, which is killed when the time is up, and when the future is
/// dropped.
///
/// # Errors
/// If it does not start, fails, takes longer than `limit`, or says more than 1 MiB.
pub(crate) async fn run(
    mut command: Command,
    input: &[u8],
    limit: Duration,
) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).process_group(0);
    let mut child = command.spawn().map_err(|error| ProgramError::Start {
        program: command.as_std().get_program().to_string_lossy().into_owned(),
        problem: error.to_string(),
    })?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading says why in its answer.
            let _ = stdin.write_all(input).await;
        }
        Ok(())
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let ((), answer, remark) = tokio::try_join!(feed, read_answer(stdout), read_remark(stderr))?;
        let status = child.wait().await.map_err(|error| failed(error.to_string(), String::new()))?;
        if status.success() { Ok(answer) } else { Err(failed(status.to_string(), remark)) }
    };
    let result = tokio::time::timeout(limit, whole).await.unwrap_or(Err(ProgramError::Timeout(limit)));
    if result.is_ok() {
        group.release();
    }
    result
}

/// Kills what the program has started, unless released.
struct Group(Option<Pid>);

impl Group {
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Nothing is left of the group if that fails.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn read_answer(pipe: Option<impl AsyncRead + Unpin>) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
    // Grown by hand, so that no copy of a secret stays behind where a vector has moved from.
    let mut answer = Zeroizing::new(Vec::with_capacity(16 << 10));
    let Some(mut pipe) = pipe else { return Ok(answer) };
    loop {
        if answer.len() == answer.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(answer.capacity() * 4));
            larger.extend_from_slice(&answer);
            answer = larger;
        }
        match pipe.read_buf(&mut *answer).await {
            Ok(0) => return Ok(answer),
            Ok(_) if answer.len() as u64 > MAX_ANSWER => return Err(ProgramError::TooLarge(MAX_ANSWER)),
            Ok(_) => {}
            Err(error) => return Err(failed(error.to_string(), String::new())),
        }
    }
}

async fn read_remark(pipe: Option<impl AsyncRead + Unpin>) -> Result<String, ProgramError> {
    let Some(mut pipe) = pipe else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    let reading = (&mut pipe).take(MAX_REMARK_READ).read_to_end(&mut bytes).await;
    if reading.is_ok() {
        // A full pipe would stop the program.
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REMARK).collect();
    Ok(text.trim().to_owned())
}

fn failed(status: String, remark: String) -> ProgramError {
    ProgramError::Failed { status, remark }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn answers_are_what_it_wrote() {
        let answer = run(shell("cat; echo remark >&2"), b"hello", LONG).await.unwrap();
        assert_eq!(*answer, b"hello");
        let large = vec![b'x'; 300_000];
        assert_eq!(*run(shell("cat"), &large, LONG).await.unwrap(), large);
        assert_eq!(*run(shell("true"), &large, LONG).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let error =
            run(shell("echo 'no role\tfound' >&2; echo hunter2; exit 3"), b"", LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "failed (exit status: 3): no role found");
        let error = run(Command::new("/no/such/program"), b"", LONG).await.unwrap_err();
        assert!(matches!(error, ProgramError::Start { .. }), "{error}");
        let error = run(shell("yes hunter2"), b"", LONG).await.unwrap_err();
        assert_eq!(error, ProgramError::TooLarge(MAX_ANSWER));
        let loud = run(shell("head -c 1000000 /dev/zero >&2; echo done"), b"", LONG).await.unwrap();
        assert_eq!(*loud, b"done\n");
    }

    #[tokio::test]
    async fn what_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let started = Instant::now();
        let limit = Duration::from_millis(1500);
        let error = run(shell(&script), b"", limit).await.unwrap_err();
        assert_eq!(error, ProgramError::Timeout(limit));
        assert!(started.elapsed() < LONG);
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')),
            Err(_) => true,
        };
        while !gone() {
            assert!(started.elapsed() < LONG, "process {pid} still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
