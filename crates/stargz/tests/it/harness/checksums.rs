//! A reader that verifies: `sha256sum --check`, with sums that come from the model and not from what is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use format::Digest;

use super::images::Model;
use super::process::{Running, Said};
use super::{Scene, state_of};

/// What the program says of a read that failed with EIO.
const EIO: &str = "Input/output error";
/// What the kernel says of a FUSE tree whose server is gone.
const ENOTCONN: &str = "Transport endpoint is not connected";

/// What a reader found. What it does not name is right.
#[derive(Debug)]
pub struct Verdict {
    /// Files that have other bytes than they should.
    pub wrong: BTreeSet<String>,
    /// Files that cannot be read to their end, and what the error is called.
    pub unreadable: BTreeMap<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// A reader at work.
#[derive(Debug)]
pub struct Reader(Running);

impl Scene {
    /// Starts one process that reads these files of what is mounted at `dir`, one after the other.
    pub fn reader<'a>(&self, dir: &Path, model: &Model, files: impl IntoIterator<Item = &'a str>) -> Reader {
        let mut sums = String::new();
        for name in files {
            let content = model.merged.get(name.as_bytes()).and_then(|entry| entry.content());
            let digest = Digest::of(content.unwrap_or_else(|| panic!("{name} is a file")));
            writeln!(sums, "{}  {name}", digest.hex()).expect("strings take everything");
        }
        let list = self.new_list(&sums);
        let mut command = Command::new("sha256sum");
        command.args(["--check", "--quiet"]).arg(list).current_dir(dir).env("LC_ALL", "C");
        Reader(Running::start(&mut command))
    }

    /// Reads every file of what is mounted at `dir` by one process.
    pub fn read_all(&self, dir: &Path, model: &Model, limit: Duration) -> Verdict {
        self.reader(dir, model, model.names()).end(limit)
    }

    /// Reads these files of what is mounted at `dir`, each by a process of its own, all at the same time.
    pub fn read_at_once(&self, dir: &Path, model: &Model, files: &[&str], limit: Duration) -> Verdict {
        let started = Instant::now();
        let readers: Vec<_> = files.iter().map(|&name| self.reader(dir, model, [name])).collect();
        let mut all = Verdict { wrong: BTreeSet::new(), unreadable: BTreeMap::new(), took: Duration::ZERO };
        for reader in readers {
            let one = reader.end(limit.saturating_sub(started.elapsed()));
            all.wrong.extend(one.wrong);
            all.unreadable.extend(one.unreadable);
            all.took = all.took.max(one.took);
        }
        all
    }

    fn new_list(&self, sums: &str) -> PathBuf {
        let name = format!("sums/{}", Digest::of(sums.as_bytes()).hex());
        self.write(&name, sums)
    }

    /// What the process that serves `dir` in the background has logged so far.
    pub fn log_of(&self, dir: &Path) -> String {
        std::fs::read_to_string(state_of(dir).with_extension("log")).unwrap_or_default()
    }
}

impl Reader {
    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time, or says what is not understood.
    #[track_caller]
    pub fn end(self, limit: Duration) -> Verdict {
        let said = self.0.end(limit);
        Verdict::of(&said).unwrap_or_else(|line| panic!("what does {line:?} mean? {said:#?}"))
    }
}

impl Verdict {
    fn of(said: &Said) -> Result<Verdict, String> {
        let mut verdict = Verdict { wrong: BTreeSet::new(), unreadable: BTreeMap::new(), took: said.took };
        for line in said.stderr.lines() {
            let rest = line.strip_prefix("sha256sum: ").ok_or(line)?;
            // A summary for people.
            if rest.starts_with("WARNING: ") {
                continue;
            }
            let (name, error) = rest.rsplit_once(": ").ok_or(line)?;
            verdict.unreadable.insert(name.to_owned(), error.to_owned());
        }
        for line in said.stdout.lines() {
            let (name, state) = line.rsplit_once(": ").ok_or(line)?;
            match state {
                "FAILED open or read" if verdict.unreadable.contains_key(name) => {}
                "FAILED" => drop(verdict.wrong.insert(name.to_owned())),
                _ => return Err(line.to_owned()),
            }
        }
        let failed = !verdict.wrong.is_empty() || !verdict.unreadable.is_empty();
        match said.code {
            Some(0) if !failed => Ok(verdict),
            Some(1) if failed => Ok(verdict),
            code => Err(format!("exit code {code:?}")),
        }
    }

    /// Checks that every file was read and is right.
    #[track_caller]
    pub fn all_right(&self) {
        assert!(self.wrong.is_empty() && self.unreadable.is_empty(), "{self:#?}");
    }

    /// The files whose reads ended in EIO. All others are right.
    ///
    /// # Panics
    /// When something is wrong, or a read ended in another error.
    #[track_caller]
    pub fn failed_with_eio(&self) -> BTreeSet<&str> {
        assert!(self.wrong.is_empty(), "other bytes than there should be: {:?}", self.wrong);
        let expected = |error: &String| error == EIO || (super::shows_trees() && error == ENOTCONN);
        assert!(self.unreadable.values().all(expected), "{:?}", self.unreadable);
        self.unreadable.keys().map(String::as_str).collect()
    }
}
