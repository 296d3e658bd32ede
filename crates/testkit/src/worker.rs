//! One thread with a runtime of its own, so that servers work in tests with and without async, and stop when dropped.

use std::net::{SocketAddr, TcpListener};
use std::thread;

use tokio::sync::oneshot;

/// Runs a future on a thread until dropped; dropping waits for the end of it and of all it has spawned.
#[derive(Debug)]
pub(crate) struct Worker {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread called `name` for the future that `make` makes there.
    pub(crate) fn spawn<F: Future>(name: &str, make: impl FnOnce() -> F + Send + 'static) -> Worker {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("an async runtime").block_on(async {
                tokio::select! {
                    _ = make() => {}
                    _ = stopped => {}
                }
            });
        });
        Worker { stop: Some(stop), thread: Some(thread.expect("a thread")) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("a server thread of the test panicked, see above");
        }
    }
}

/// A listener for a worker, and its address.
pub(crate) fn listen(at: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// Some free port of the loopback interface.
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
