//! Commands with a deadline.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::system::{kill, wait_until};

/// What a command that ended has said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not end in time; it is killed then.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Said {
    let running = Running::start(command);
    running.end(limit)
}

impl Said {
    /// Checks that it succeeded and was silent.
    #[track_caller]
    pub fn succeeded(self) -> Said {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:#?}");
        self
    }

    /// Checks that it failed with one line that has all of these in it.
    #[track_caller]
    pub fn failed_with(self, parts: &[&str]) -> Said {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:#?}");
        let line = self.stderr.strip_prefix("stargz: ").and_then(|text| text.strip_suffix('\n'));
        let line =
            line.filter(|line| !line.contains('\n')).unwrap_or_else(|| panic!("one line, not {self:#?}"));
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
        self
    }
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    stdout: Collected,
    stderr: Collected,
}

/// What comes out of a pipe, so far.
#[derive(Debug)]
struct Collected {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a command without input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Running {
        Running::start_with_input(command, Stdio::null())
    }

    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with_input(command: &mut Command, input: Stdio) -> Running {
        let command = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Collected::of(child.stdout.take().expect("it is piped"));
        let stderr = Collected::of(child.stderr.take().expect("it is piped"));
        Running { child, started: Instant::now(), stdout, stderr }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_some()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until standard output and error together hold `text`.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn wait_for(&self, text: &str, limit: Duration) {
        let found =
            wait_until(limit, || self.stdout.so_far().contains(text) || self.stderr.so_far().contains(text));
        assert!(found, "{text:?} did not appear; so far: {}{}", self.stdout.so_far(), self.stderr.so_far());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> Said {
        let status = self.status_within(limit);
        let took = self.started.elapsed();
        let Some(status) = status else {
            panic!("still running after {limit:?}; so far: {}{}", self.stdout.so_far(), self.stderr.so_far());
        };
        Said { code: status.code(), stdout: self.stdout.all(), stderr: self.stderr.all(), took }
    }

    fn status_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = self.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collected {
    fn of(pipe: impl Read + Send + 'static) -> Collected {
        let text = Arc::new(Mutex::new(String::new()));
        let into = text.clone();
        let reader = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                into.lock().expect("no panics under this lock").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Collected { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("no panics under this lock").clone()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.so_far()
    }
}
