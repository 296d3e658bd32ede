//! The side of the process that serves.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::Error;
use crate::client::Link;
use crate::manager::{self, Stored};
use crate::spawn::{connect_or_start, own_program};
use crate::wire::{Answer, META_MAX, NAME_MAX, Operation, Request, Status, is_name};

/// How long a process that was killed may take to close its connection.
const DYING: Duration = Duration::from_secs(2);
/// Between two attempts to replace a keeper that is gone.
const REPLACE_AGAIN: Duration = Duration::from_secs(5);

/// Where the keeper is, and how it is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its socket.
    pub address: PathBuf,
    /// The program to run as the keeper, which must call [`run`](crate::run).
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Options {
    /// A keeper at `address`, run by this program. Without further arguments.
    pub fn new(address: impl Into<PathBuf>) -> Options {
        Options { address: address.into(), program: own_program(), arguments: Vec::new() }
    }
}

/// A descriptor that was kept.
#[derive(Debug)]
pub struct Kept {
    /// A copy of it.
    pub fd: OwnedFd,
    /// What was stored with it.
    pub meta: Vec<u8>,
    /// For how long nobody has served it.
    pub unserved: Duration,
}

/// Has descriptors kept. What is stored is served by this process until it ends, however it ends.
///
/// A keeper that dies is replaced, and gets everything again: this process has copies, which end with it.
/// Methods block for moments, at most a few seconds.
#[derive(Debug)]
pub struct Keeping {
    shared: Arc<Shared>,
    watch: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    /// Held while the keeper is asked.
    state: Mutex<State>,
    /// Ends the thread that watches.
    stop: OwnedFd,
}

#[derive(Debug)]
struct State {
    link: Option<Link>,
    held: BTreeMap<String, Held>,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    meta: Vec<u8>,
    connection: u32,
}

impl Keeping {
    /// Connects to the keeper, which is started if there is none, and gives it what the service manager passed: from now
    /// on it is given up if nobody serves it.
    ///
    /// # Errors
    /// There is no keeper and none can be started. The service manager's copies are closed then, since nobody would give
    /// them up.
    pub fn open(options: Options, stored: Vec<Stored>) -> Result<Keeping, Error> {
        let failed = |action, source| Error::Io { action, address: options.address.clone(), source };
        let link = match connect_or_start(&options.address, &options.program, &options.arguments) {
            Ok(link) => link,
            Err(source) => {
                manager::let_go(stored);
                return Err(failed("reach", source));
            }
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("watch", errno.into()))?;
        let state = State { link: Some(link), held: BTreeMap::new(), closed: false };
        let shared = Arc::new(Shared { options: options.clone(), state: Mutex::new(state), stop });
        for Stored { name, connection, meta, fd } in stored {
            // The keeper's own copy is as good, and its clock is right.
            if !matches!(shared.take(&name), Ok(None)) {
                continue;
            }
            let kept = shared.keep(&name, fd.as_fd(), &meta, connection, false);
            if let Err(error) = kept {
                tracing::warn!(%error, "a descriptor of the service manager is let go");
                manager::forget(&name, connection, &meta);
            }
        }
        let watched = shared.clone();
        let watch = std::thread::Builder::new()
            .name("keeping".to_owned())
            .spawn(move || watched.watch())
            .map_err(|error| failed("watch", error))?;
        Ok(Keeping { shared, watch: Some(watch) })
    }

    /// As [`Keeping::open`], with a second way to start the keeper where the first fails.
    ///
    /// # Errors
    /// As of [`Keeping::open`], for the second way.
    pub fn open_or(options: Options, fallback: Options, stored: Vec<Stored>) -> Result<Keeping, Error> {
        match connect_or_start(&options.address, &options.program, &options.arguments) {
            Ok(_) => Keeping::open(options, stored),
            Err(error) => {
                let program = options.program.display();
                tracing::warn!(%program, %error, "cannot be run as the keeper, so this executable is");
                Keeping::open(fallback, stored)
            }
        }
    }

    /// A copy of what was stored as `name`, if it is still kept. It is to be served, and then stored again: until then the
    /// deadline goes on running. A process that serves it and was killed just now gets a moment to be gone.
    ///
    /// # Errors
    /// Another process serves it, or the keeper does not answer.
    pub fn take(&self, name: &str) -> Result<Option<Kept>, Error> {
        let started = std::time::Instant::now();
        loop {
            match self.shared.take(name) {
                Err(Error::Busy { .. }) if started.elapsed() < DYING => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    /// Has a copy of `fd` kept as `name` (letters, digits, `-`, `_`; at most [`NAME_MAX`] bytes) together with `meta` (at
    /// most [`META_MAX`] bytes). What was kept under that name is let go.
    ///
    /// For a FUSE device, `connection` is the number of its directory below `/sys/fs/fuse/connections`, by which
    /// it is aborted when it is given up.
    ///
    /// # Errors
    /// The keeper does not answer or has no room. The descriptor ends with this process then.
    pub fn store(
        &self,
        name: &str,
        fd: BorrowedFd<'_>,
        meta: &[u8],
        connection: Option<u32>,
    ) -> Result<(), Error> {
        let connection = connection.unwrap_or(0);
        self.shared.keep(name, fd, meta, connection, true)?;
        let copy = fd.try_clone_to_owned().map_err(|source| self.shared.failed("store with", source))?;
        let new = Held { fd: copy, meta: meta.to_vec(), connection };
        let old = self.shared.state().held.insert(name.to_owned(), new);
        if let Some(old) = old {
            manager::forget(name, old.connection, &old.meta);
        }
        manager::store(name, connection, meta, fd);
        Ok(())
    }

    /// Lets go of a descriptor: from now on it ends with its last user. That nothing is kept is fine.
    pub fn forget(&self, name: &str) {
        let held = self.shared.state().held.remove(name);
        if let Some(Held { meta, connection, .. }) = held {
            manager::forget(name, connection, &meta);
        }
        let request =
            Request { operation: Operation::Forget, name: name.to_owned(), connection: 0, meta: Vec::new() };
        if let Err(error) = self.shared.ask(&request, None) {
            tracing::debug!(name, %error, "the keeper could not be told to let go");
        }
    }

    /// Whether the keeper has it now, and so whether this process may end without an end of the descriptor.
    pub fn keeps(&self, name: &str) -> bool {
        let state = self.shared.state();
        state.link.is_some() && state.held.contains_key(name)
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        // Cannot fail: the counter is far from full.
        let _ = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        if let Some(watch) = self.watch.take() {
            // It has nothing to say.
            let _ = watch.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Entries are added and removed whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Io { action, address: self.options.address.clone(), source }
    }

    fn ask(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(Answer, Option<OwnedFd>), Error> {
        let mut state = self.state();
        let Some(link) = &state.link else {
            return Err(self.failed("ask", io::ErrorKind::NotConnected.into()));
        };
        link.ask(request, fd).map_err(|source| {
            // Out of step: an answer that comes late would be taken for that to the next request.
            state.link = None;
            self.failed("ask", source)
        })
    }

    fn take(&self, name: &str) -> Result<Option<Kept>, Error> {
        let request =
            Request { operation: Operation::Take, name: name.to_owned(), connection: 0, meta: Vec::new() };
        let (answer, fd) = self.ask(&request, None)?;
        match (answer.status, fd) {
            (Status::Unknown, _) => Ok(None),
            (Status::Done, Some(fd)) => {
                let unserved = Duration::from_millis(answer.unserved_ms.into());
                Ok(Some(Kept { fd, meta: answer.meta, unserved }))
            }
            (status, _) => Err(refused("give", name, status)),
        }
    }

    fn keep(
        &self,
        name: &str,
        fd: BorrowedFd<'_>,
        meta: &[u8],
        connection: u32,
        served: bool,
    ) -> Result<(), Error> {
        if !is_name(name) || meta.len() > META_MAX {
            let why = if is_name(name) { "too much is to be kept with it" } else { "not a name" };
            return Err(Error::Refused { action: "keep", name: name.to_owned(), why });
        }
        let operation = Operation::Keep { served };
        let request = Request { operation, name: name.to_owned(), connection, meta: meta.to_vec() };
        match self.ask(&request, Some(fd))?.0.status {
            Status::Done => Ok(()),
            status => Err(refused("keep", name, status)),
        }
    }

    /// Replaces the keeper when it is gone, until told to stop.
    fn watch(&self) {
        loop {
            let link = self.state().link.as_ref().map(|link| (link.watch(), link.pid));
            let (patience, pid) = match &link {
                Some((_, pid)) => (None, Some(*pid)),
                None => (Some(Timespec { tv_sec: REPLACE_AGAIN.as_secs() as i64, tv_nsec: 0 }), None),
            };
            let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
            if let Some((Ok(socket), _)) = &link {
                // The answers are not waited for here: only the end is.
                fds.push(PollFd::new(socket, PollFlags::RDHUP));
            }
            // An interrupted wait is as good as an event: everything is looked at again.
            let _ = poll(&mut fds, patience.as_ref());
            let gone = fds.get(1).is_none_or(|fd| !fd.revents().is_empty());
            let mut state = self.state();
            if state.closed {
                return;
            }
            if !gone && state.link.is_some() {
                continue;
            }
            state.link = None;
            if let Some(pid) = pid {
                Link::reap(pid);
            }
            match self.replace(&state.held) {
                Ok(link) => {
                    tracing::warn!("the keeper was gone, a new one has taken its place");
                    state.link = Some(link);
                }
                Err(error) => {
                    tracing::warn!(%error, "there is no keeper: what is served ends with this process")
                }
            }
        }
    }

    fn replace(&self, held: &BTreeMap<String, Held>) -> io::Result<Link> {
        let Options { address, program, arguments } = &self.options;
        let link = connect_or_start(address, program, arguments)?;
        for (name, Held { fd, meta, connection }) in held {
            let operation = Operation::Keep { served: true };
            let request =
                Request { operation, name: name.clone(), connection: *connection, meta: meta.clone() };
            let (answer, _) = link.ask(&request, Some(fd.as_fd()))?;
            if answer.status != Status::Done {
                return Err(io::Error::other(format!("it does not keep {name}")));
            }
        }
        Ok(link)
    }
}

fn refused(action: &'static str, name: &str, status: Status) -> Error {
    let name = name.to_owned();
    let why = match status {
        Status::Busy => return Error::Busy { name },
        Status::Full => "it has no room left",
        Status::Unknown => "there is none",
        Status::Malformed => "it does not understand; is it of another version?",
        Status::Done => "its answer has no descriptor",
    };
    Error::Refused { action, name, why }
}

const _: () = assert!("stargz.".len() + NAME_MAX + ".4294967295.".len() + 2 * META_MAX <= 255);
