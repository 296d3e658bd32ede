//! A directory to mount on, a session on it, and a source that does what a test tells it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod shown;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mount::{
    BoxFuture, Ending, Fetched, Image, ImageServer, Session, SessionOptions, Source, UnmountMode,
    mounts_below, unmount,
};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// Whether mounts can be made; says so loudly if not.
pub fn can_mount() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !able {
        eprintln!("SKIPPED: needs root and /dev/fuse");
    }
    able
}

/// A temporary directory whose mounts go with it.
#[derive(Debug)]
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for mount in mounts_below(self.0.path()).unwrap().iter().rev() {
            unmount(&mount.mount_point, UnmountMode::Lazy).unwrap();
        }
    }
}

/// Unmounts what nobody uses any more. Another test that starts a process right now lends its files to that process
/// until the new program begins, so `EBUSY` is tried again for a while.
#[track_caller]
pub fn unmount_idle(target: &Path) {
    let give_up = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match unmount(target, UnmountMode::Normal) {
            Err(error) if error.raw_os_error() == Some(16) && std::time::Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.unwrap(),
        }
    }
}

/// What `fetch` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Everything asked for is present afterwards.
    Store,
    /// The bytes are handed over.
    HandOver,
    /// One byte too few is handed over.
    HandOverShort,
    /// Never returns.
    Hang,
    /// Fails, with an errno.
    Fail(i32),
    /// Fails, without one.
    FailPlainly,
    /// Says that it stored the bytes and did not.
    Lie,
    /// Panics.
    Panic,
}

/// What `read_local` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Reads what is below the watermark or was fetched.
    Read,
    Fail,
    Panic,
}

/// A source over a generated pattern.
#[derive(Debug)]
pub struct Scripted {
    pub size: u64,
    pub local: Local,
    pub fetch: Fetch,
    /// Bytes below are present.
    pub present: u64,
    pub fetched: Mutex<Vec<(u64, u64)>>,
    /// Gets a permit when a fetch starts.
    pub started: Semaphore,
    /// How many fetches run.
    pub running: AtomicUsize,
    /// Ranges of `read_local`.
    pub asked: Mutex<Vec<(u64, usize)>>,
}

/// The byte at `offset` of every scripted source.
pub fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8 | 1
}

pub fn pattern_bytes(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(pattern).collect()
}

impl Scripted {
    pub fn new(size: u64, present: u64, fetch: Fetch) -> Self {
        Self {
            size,
            local: Local::Read,
            fetch,
            present,
            fetched: Mutex::default(),
            started: Semaphore::new(0),
            running: AtomicUsize::new(0),
            asked: Mutex::default(),
        }
    }

    /// Blocks until `count` fetches have started.
    pub fn wait_started(&self, runtime: &Runtime, count: u32) {
        let wait =
            async { tokio::time::timeout(Duration::from_secs(20), self.started.acquire_many(count)).await };
        runtime.block_on(wait).expect("no fetch started").unwrap().forget();
    }
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for Scripted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.asked.lock().unwrap().push((offset, buf.len()));
        match self.local {
            Local::Panic => panic!("read_local was told to panic"),
            Local::Fail => return Err(io::Error::from_raw_os_error(5)),
            Local::Read => {}
        }
        let end = offset + buf.len() as u64;
        assert!(end <= self.size, "asked beyond the end");
        let fetched = self.fetched.lock().unwrap().iter().any(|&(from, to)| from <= offset && end <= to);
        if end > self.present && !fetched {
            return Ok(false);
        }
        for (slot, at) in buf.iter_mut().zip(offset..) {
            *slot = pattern(at);
        }
        Ok(true)
    }

    fn fetch(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async move {
            self.running.fetch_add(1, Ordering::SeqCst);
            let _running = Running(&self.running);
            self.started.add_permits(1);
            match self.fetch {
                Fetch::Store => self.fetched.lock().unwrap().push((offset, offset + len as u64)),
                Fetch::HandOver => return Ok(Fetched::Unkept(Bytes::from(pattern_bytes(offset, len)))),
                Fetch::HandOverShort => {
                    return Ok(Fetched::Unkept(Bytes::from(pattern_bytes(offset, len - 1))));
                }
                Fetch::Hang => std::future::pending().await,
                Fetch::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Fetch::FailPlainly => return Err(io::Error::other("told to fail")),
                Fetch::Lie => {}
                Fetch::Panic => panic!("fetch was told to panic"),
            }
            Ok(Fetched::Stored)
        })
    }
}

pub fn image(node: u64, name: &str, source: &Arc<Scripted>) -> Image {
    Image { node, name: name.to_owned(), source: Arc::clone(source) as Arc<dyn Source> }
}

/// A session that is served; unmounted at the end.
pub struct Served {
    pub runtime: Runtime,
    server: Option<ImageServer>,
    pub target: PathBuf,
    pub place: Place,
}

impl Served {
    pub fn new(options: SessionOptions, images: Vec<Image>) -> Self {
        let place = Place::new();
        let target = place.dir("fuse");
        let runtime = runtime();
        let session = Session::mount(&target, options).unwrap();
        let server = ImageServer::start(session, runtime.handle().clone(), images).unwrap();
        Self { runtime, server: Some(server), target, place }
    }

    pub fn with(source: &Arc<Scripted>) -> Self {
        Self::new(SessionOptions::default(), vec![image(2, "file", source)])
    }

    pub fn server(&self) -> &ImageServer {
        self.server.as_ref().unwrap()
    }

    pub fn open(&self, name: &str) -> File {
        File::open(self.target.join(name)).unwrap()
    }

    pub fn shutdown(&mut self, ending: Ending) {
        self.server.take().unwrap().shutdown(ending).unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown(Ending::Unmount).unwrap();
        }
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
