//! One connection to a keeper.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt, sockopt::Timeout,
};
use rustix::process::Pid;

use crate::wire::{Answer, Request, receive, send};

/// The keeper answers from memory; one that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection. While it is open, its owner serves what it has said to serve.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    /// The keeper's process.
    pub(crate) pid: Pid,
}

impl Link {
    /// Connects. An error of kind `NotFound` or `ConnectionRefused` says that there is no keeper.
    pub(crate) fn connect(address: &Path) -> io::Result<Link> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        connect(&socket, &SocketAddrUnix::new(address)?)?;
        let peer = sockopt::socket_peercred(&socket)?;
        // Whoever can write to the directory can put a socket there.
        if peer.uid != rustix::process::geteuid() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
        }
        Ok(Link { socket, pid: peer.pid })
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(
        &self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<(Answer, Option<OwnedFd>)> {
        send(&self.socket, &request.encode(), fd)?;
        let (message, fd) = receive(&self.socket)?;
        if message.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = Answer::decode(&message)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its answer makes no sense"))?;
        Ok((answer, fd))
    }

    /// A copy of the socket, to see when the keeper is gone.
    pub(crate) fn watch(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Clears away what is left of the keeper's process, if it was started by this one and has ended.
    pub(crate) fn reap(pid: Pid) {
        // ECHILD: it is somebody else's.
        let _: Result<_, Errno> = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}
