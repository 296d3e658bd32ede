//! The threads that read requests from the device.
//!
//! The descriptor is non-blocking and the threads wait in epoll, because `read(2)` on it could not be told to stop:
//! at a hand-over the filesystem stays mounted and no further request may come.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use tracing::{debug, error};

use crate::device::Device;
use crate::wire::REQUEST_BUFFER;

/// What is done with one message. The second argument is a buffer for the answer that belongs to the thread.
pub(crate) type Answer = Arc<dyn Fn(&[u8], &mut [u8]) + Send + Sync>;

/// The running threads. Dropping stops them and waits.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<Stop>,
}

/// Tells the threads to end: the flag for those that work, the descriptor for those that wait.
#[derive(Debug)]
struct Stop {
    stopped: AtomicBool,
    wake: OwnedFd,
}

const REQUESTS: u64 = 0;
const STOP: u64 = 1;

impl Workers {
    /// Starts `count` threads (at least one) with an answer buffer of `scratch` bytes each.
    pub(crate) fn start(
        device: &Arc<Device>,
        count: usize,
        scratch: usize,
        answer: &Answer,
    ) -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(Stop { stopped: AtomicBool::new(false), wake });
        let mut workers = Self { threads: Vec::new(), stop };
        for index in 0..count.max(1) {
            let worker = Worker {
                poll: watch(device, &workers.stop)?,
                device: Arc::clone(device),
                stop: Arc::clone(&workers.stop),
                answer: Arc::clone(answer),
            };
            let builder = std::thread::Builder::new().name(format!("fuse-{index}"));
            workers.threads.push(builder.spawn(move || worker.run(scratch))?);
        }
        Ok(workers)
    }
}

impl Workers {
    /// Tells the threads to end after the answer they are at, and waits for them. A second call does nothing.
    pub(crate) fn stop(&mut self) {
        self.stop.stopped.store(true, Ordering::Release);
        if let Err(errno) = rustix::io::write(&self.stop.wake, &1_u64.to_ne_bytes()) {
            debug!(%errno, "the stop event is already set");
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a thread that reads FUSE requests panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Both events in one epoll for each thread; `EXCLUSIVE` wakes one thread for one request, as a blocking read would.
fn watch(device: &Device, stop: &Stop) -> Result<OwnedFd, Errno> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let requests = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
    epoll::add(&poll, device.fd(), epoll::EventData::new_u64(REQUESTS), requests)?;
    epoll::add(&poll, &stop.wake, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
    Ok(poll)
}

struct Worker {
    device: Arc<Device>,
    poll: OwnedFd,
    stop: Arc<Stop>,
    answer: Answer,
}

impl Worker {
    fn run(self, scratch: usize) {
        let mut request = vec![0; REQUEST_BUFFER];
        let mut scratch = vec![0; scratch];
        while !self.stop.stopped.load(Ordering::Acquire) {
            match self.device.read(&mut request) {
                Ok(message) => self.answer(message, &mut scratch),
                Err(Errno::AGAIN) => self.wait(),
                // ENOENT: the request was taken back between being queued and being read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return debug!("FUSE filesystem is unmounted"),
                Err(errno) => return error!(%errno, "cannot read from /dev/fuse, this thread gives up"),
            }
        }
    }

    /// A panic must not take the thread away from all other files. The answer is sent by the dropped `Reply`.
    fn answer(&self, message: &[u8], scratch: &mut [u8]) {
        if catch_unwind(AssertUnwindSafe(|| (self.answer)(message, scratch))).is_err() {
            error!("answering a FUSE request panicked");
        }
    }

    fn wait(&self) {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 2];
        match epoll::wait(&self.poll, &mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                error!(%errno, "cannot wait for FUSE requests");
                // Not in a tight loop: the next read tells whether the device is gone.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}
