//! A process that serves a session is killed while a read hangs in it; another one goes on.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Fetch, Place, Scripted, can_mount, image, pattern_bytes, runtime};
use mount::{Ending, ImageServer, Negotiated, Session, SessionOptions, ToKeep, unmount};

const SIZE: u64 = 64 * 1024;
const CHILD: &str = "TAKE_OVER_CHILD";

fn options() -> SessionOptions {
    SessionOptions { read_deadline: Duration::from_secs(600), ..SessionOptions::default() }
}

/// Not a test by itself: the process that is killed. It gets the device as its standard input, says when it serves
/// and when it has taken the read, and never answers.
#[test]
fn child() {
    let Ok(handed) = std::env::var(CHILD) else { return };
    let mut words = handed.split(' ');
    let mut next = || words.next().unwrap();
    let target = std::path::PathBuf::from(next());
    let negotiated = Negotiated {
        major: next().parse().unwrap(),
        minor: next().parse().unwrap(),
        flags: next().parse().unwrap(),
        max_pages: next().parse().unwrap(),
        max_readahead: next().parse().unwrap(),
    };
    let fd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let session = Session::take_over(&target, fd, negotiated, options()).unwrap();
    let source = Arc::new(Scripted::new(SIZE, 0, Fetch::Hang));
    let runtime = runtime();
    let _server =
        ImageServer::start(session, runtime.handle().clone(), vec![image(7, "file", &source)]).unwrap();
    eprintln!("serving");
    source.wait_started(&runtime, 1);
    eprintln!("hanging");
    std::thread::park();
}

/// Aborts the session if the test takes too long. A read that nobody answers while somebody holds the device cannot be
/// killed, and neither can the process that waits for it.
struct Watchdog(Option<std::sync::mpsc::Sender<()>>);

impl Watchdog {
    fn start(target: &std::path::Path) -> Self {
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        let target = target.to_owned();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                eprintln!("take-over hangs, aborting the session");
                let _ = rustix::mount::unmount(&target, rustix::mount::UnmountFlags::FORCE);
            }
        });
        Self(Some(alive))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // The thread ends when the channel closes.
        self.0.take();
    }
}

struct Server {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Server {
    fn start(target: &std::path::Path, session: &Session) -> Self {
        let Negotiated { major, minor, flags, max_pages, max_readahead } = session.negotiated();
        let handed = format!("{} {major} {minor} {flags} {max_pages} {max_readahead}", target.display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "take_over::child", "--nocapture"])
            .env(CHILD, handed)
            .stdin(Stdio::from(session.fd().try_clone_to_owned().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, word: &str) {
        let found = self.lines.by_ref().map_while(Result::ok).find(|line| line == word);
        assert!(found.is_some(), "the child ended before it said {word:?}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_read_survives_the_death_of_two_servers() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let target = place.dir("fuse");
    let _watchdog = Watchdog::start(&target);
    let session = Session::mount(&target, options()).unwrap();
    let mut first = Server::start(&target, &session);
    first.wait_for("serving");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bytes = Vec::new();
            File::open(target.join("file")).unwrap().read_to_end(&mut bytes).map(|_| bytes)
        });
        first.wait_for("hanging");
        first.kill();
        // A second server is sent the same read once more, and dies the same death.
        let mut second = Server::start(&target, &session);
        second.wait_for("hanging");
        second.kill();
        assert!(!reader.is_finished());

        let fd = session.fd().try_clone_to_owned().unwrap();
        let session = Session::take_over(&target, fd, session.negotiated(), options()).unwrap();
        let source = Arc::new(Scripted::new(SIZE, SIZE, Fetch::Panic));
        let runtime = runtime();
        let server =
            ImageServer::start(session, runtime.handle().clone(), vec![image(7, "file", &source)]).unwrap();
        assert!(reader.join().unwrap().unwrap() == pattern_bytes(0, SIZE as usize));
        server.shutdown(Ending::Unmount).unwrap();
    });
}

#[test]
fn a_server_that_hands_over_leaves_its_reads_to_the_next() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let target = place.dir("fuse");
    let _watchdog = Watchdog::start(&target);
    let session = Session::mount(&target, options()).unwrap();
    let fd = session.fd().try_clone_to_owned().unwrap();
    let negotiated = session.negotiated();
    let runtime = runtime();
    let hanging = Arc::new(Scripted::new(SIZE, 0, Fetch::Hang));
    let old =
        ImageServer::start(session, runtime.handle().clone(), vec![image(7, "file", &hanging)]).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(target.join("file")));
        hanging.wait_started(&runtime, 1);
        old.shutdown(Ending::HandOver).unwrap();
        assert!(!reader.is_finished());

        let session = Session::take_over(&target, fd, negotiated, options()).unwrap();
        let source = Arc::new(Scripted::new(SIZE, SIZE, Fetch::Panic));
        let new =
            ImageServer::start(session, runtime.handle().clone(), vec![image(7, "file", &source)]).unwrap();
        assert!(reader.join().unwrap().unwrap() == pattern_bytes(0, SIZE as usize));
        new.shutdown(Ending::Unmount).unwrap();
    });
}

#[test]
fn only_a_fuse_device_can_be_taken_over() {
    let place = Place::new();
    let negotiated = Negotiated { major: 7, minor: 41, flags: 0, max_pages: 32, max_readahead: 0 };
    for path in ["/dev/null", "/proc/self/exe"] {
        let fd = File::open(path).unwrap().into();
        let error = Session::take_over(&place.dir("x"), fd, negotiated, options()).unwrap_err();
        assert!(error.to_string().contains("is not /dev/fuse"), "{error}");
    }
    unmount(&place.dir("x"), mount::UnmountMode::Normal).unwrap();
}

#[test]
fn what_is_kept_of_a_session_leads_to_that_session_only() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let (target, other) = (place.dir("fuse"), place.dir("other"));
    let _watchdog = Watchdog::start(&target);
    let session = Session::mount(&target, options()).unwrap();
    let Some(ToKeep { fd, meta, connection }) = session.to_keep().unwrap() else {
        eprintln!("SKIPPED: this kernel cannot send FUSE requests again");
        return;
    };
    let copy = || fd.try_clone().unwrap();
    drop(session);
    let taken = Session::take_over_kept(&target, copy(), &meta, options()).unwrap();
    let source = Arc::new(Scripted::new(SIZE, SIZE, Fetch::Panic));
    let runtime = runtime();
    let server =
        ImageServer::start(taken, runtime.handle().clone(), vec![image(7, "file", &source)]).unwrap();
    assert!(std::fs::read(target.join("file")).unwrap() == pattern_bytes(0, SIZE as usize));

    let refused = |target: &std::path::Path, meta: &[u8]| {
        Session::take_over_kept(target, copy(), meta, options()).unwrap_err().to_string()
    };
    assert!(refused(&other, &meta).contains("another filesystem"));
    let newer: Vec<u8> = meta.iter().enumerate().map(|(at, byte)| if at == 0 { 99 } else { *byte }).collect();
    assert!(refused(&target, &newer).contains("another version"));

    let control = format!("/sys/fs/fuse/connections/{connection}/abort");
    if std::fs::write(&control, "1").is_err() {
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::FORCE).unwrap();
    }
    let said = refused(&target, &meta);
    assert!(said.contains("was aborted") || said.contains("another filesystem"), "{said}");
    server.shutdown(Ending::Unmount).unwrap();
}
