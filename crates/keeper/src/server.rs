//! The keeper itself: one thread, one `poll`, bounded tables.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};

use crate::abort::abort;
use crate::table::{Entry, Table};
use crate::wire::{Answer, Operation, Request, Status, receive, send};

/// Connections at once: those of a few daemons, and of their successors.
const CLIENTS_MAX: usize = 32;
/// A keeper that nobody wants anything of goes away after this.
const IDLE: Duration = Duration::from_secs(5);

/// How a keeper behaves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Its socket, for its own user alone. A lock lies beside it, with `.lock` appended to the name.
    pub address: PathBuf,
    /// What nobody serves for so long is given up.
    pub deadline: Duration,
}

/// Keeps descriptors until nobody needs any: nothing is kept, and nobody is connected. Leaves the terminal and the
/// working directory of whoever started it. Returns at once, with success, where another keeper serves the address.
///
/// # Errors
/// The address cannot be used.
pub fn run(options: &ServeOptions) -> io::Result<()> {
    // Fails for a process that leads its group already, which has no terminal to lose.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    let Some(_lock) = lock(&options.address)? else { return Ok(()) };
    let listener = listen_at(&options.address)?;
    let own = inode(&options.address);
    let mut keeper = Keeper {
        listener,
        table: Table::new(options.deadline),
        clients: Vec::new(),
        next: 1,
        wanted: Instant::now(),
    };
    let ended = keeper.serve();
    // Before the lock goes: the next keeper has a socket of its own. It is there already where the directory was made anew
    // meanwhile, lock and all.
    if own.is_some() && inode(&options.address) == own {
        fs::remove_file(&options.address)?;
    }
    ended
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// There is one keeper for an address, whoever starts how many.
fn lock(address: &Path) -> io::Result<Option<File>> {
    if let Some(dir) = address.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut path = address.as_os_str().to_owned();
    path.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn listen_at(address: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(address) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::process::umask(Mode::from_raw_mode(0o177));
    bind(&socket, &SocketAddrUnix::new(address)?)?;
    listen(&socket, 16)?;
    Ok(socket)
}

struct Keeper {
    listener: OwnedFd,
    table: Table,
    clients: Vec<(u64, OwnedFd)>,
    /// The number of the next client.
    next: u64,
    /// When somebody last wanted something.
    wanted: Instant,
}

impl Keeper {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            for entry in self.table.expired(now) {
                give_up(entry);
            }
            let idle = self.table.is_empty() && self.clients.is_empty();
            let rest = IDLE.saturating_sub(now.saturating_duration_since(self.wanted));
            if idle && rest.is_zero() {
                return Ok(());
            }
            let patience = if idle { Some(rest) } else { self.table.patience(now) };
            self.wait(patience)?;
        }
    }

    fn wait(&mut self, patience: Option<Duration>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.clients.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)));
        // Rounded up, so that the time is over when it is said to be.
        let timeout = patience.map(|patience| patience + Duration::from_millis(1)).map(|patience| Timespec {
            tv_sec: patience.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: patience.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let numbers: Vec<u64> = self.clients.iter().map(|(number, _)| *number).collect();
        for (number, _) in numbers.into_iter().zip(ready.iter().skip(1)).filter(|(_, ready)| **ready) {
            self.wanted = Instant::now();
            if !self.talk(number) {
                self.clients.retain(|(known, _)| *known != number);
                self.table.gone(number, Instant::now());
            }
        }
        if ready.first() == Some(&true) {
            self.wanted = Instant::now();
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return;
        };
        let own = rustix::process::geteuid();
        let ours = sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own);
        // Whoever is not let in sees the end of the connection.
        if ours && self.clients.len() < CLIENTS_MAX {
            self.clients.push((self.next, socket));
            self.next += 1;
        }
    }

    /// Answers one request; false at the end of the connection.
    fn talk(&mut self, number: u64) -> bool {
        let Some(socket) = self.socket(number) else { return false };
        let (message, fd) = match receive(socket) {
            Ok((message, _)) if message.is_empty() => return false,
            Ok(received) => received,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let (answer, fd) = self.answer(number, &message, fd);
        let Some(socket) = self.socket(number) else { return false };
        // A client that does not read its answers is none.
        send(socket, &answer.encode(), fd.as_ref().map(AsFd::as_fd)).is_ok()
    }

    fn socket(&self, number: u64) -> Option<&OwnedFd> {
        self.clients.iter().find_map(|(known, socket)| (*known == number).then_some(socket))
    }

    fn answer(&mut self, client: u64, message: &[u8], fd: Option<OwnedFd>) -> (Answer, Option<OwnedFd>) {
        let now = Instant::now();
        let Some(Request { operation, name, connection, meta }) = Request::decode(message) else {
            return (Status::Malformed.into(), None);
        };
        let status = match (operation, fd) {
            (Operation::Keep { served }, Some(fd)) => {
                self.table.keep(client, Entry::new(name, fd, meta, connection), served, now)
            }
            (Operation::Keep { .. }, None) => Status::Malformed,
            (Operation::Forget, _) => self.table.forget(client, &name),
            (Operation::Take, _) => match self.table.take(client, &name) {
                Ok(entry) => {
                    let unserved_ms = u32::try_from(entry.unserved(now).as_millis()).unwrap_or(u32::MAX);
                    return match entry.fd.try_clone() {
                        Ok(fd) => {
                            (Answer { status: Status::Done, unserved_ms, meta: entry.meta.clone() }, Some(fd))
                        }
                        Err(_) => (Status::Full.into(), None),
                    };
                }
                Err(status) => status,
            },
        };
        (status.into(), None)
    }
}

/// Whoever waits for it gets an error. That an abort fails cannot be told to anybody; then closing has to do.
fn give_up(entry: Entry) {
    if entry.connection != 0 {
        let _ = abort(entry.connection);
    }
}
