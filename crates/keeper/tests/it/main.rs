//! Keepers as processes of their own: this test program, started once more.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::{Error, Keeping, Kept, Options, ServeOptions};

/// For what needs no waiting.
const SOON: Duration = Duration::from_secs(20);

/// Not a test by itself: the keeper. Gives up after a second.
#[test]
fn child() {
    let Some(address) = std::env::var_os("KEEPER_TEST_CHILD").and(std::env::args_os().next_back()) else {
        return;
    };
    let options = ServeOptions { address: PathBuf::from(address), deadline: Duration::from_secs(1) };
    keeper::run(&options).unwrap();
}

fn options(dir: &Path) -> Options {
    let address = dir.join("keeper.sock");
    // The test harness takes the last one for one more filter.
    let arguments = [
        "KEEPER_TEST_CHILD=1".into(),
        std::env::current_exe().unwrap().into(),
        "--exact".into(),
        "child".into(),
        "--".into(),
        address.clone().into(),
    ];
    // `env` sets the variable: this process must not, being one of many threads.
    Options {
        program: "/usr/bin/env".into(),
        arguments: arguments.into_iter().collect(),
        ..Options::new(address)
    }
}

fn file(text: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

fn text_of(kept: Kept) -> String {
    let mut file = File::from(kept.fd);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

#[track_caller]
fn within(limit: Duration, mut ask: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ask() {
        assert!(started.elapsed() < limit, "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn keepers(dir: &Path) -> Vec<i32> {
    let wanted = dir.join("keeper.sock");
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == wanted.as_os_str().as_encoded_bytes())
    };
    all.filter(is_ours).collect()
}

#[test]
fn a_successor_gets_what_was_stored_and_its_server_alone() {
    let dir = tempfile::tempdir().unwrap();
    let first = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    assert!(first.take("a").unwrap().is_none() && !first.keeps("a"));
    first.store("a", file("of the first").as_fd(), b"meta", None).unwrap();
    first.store("b", file("forgotten").as_fd(), b"", None).unwrap();
    first.forget("b");
    assert!(first.keeps("a") && !first.keeps("b"));

    let second = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    assert_eq!(keepers(dir.path()).len(), 1, "one keeper for one address");
    let busy = second.take("a").unwrap_err();
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    drop(first);
    let kept = second.take("a").unwrap().unwrap();
    assert_eq!(kept.meta, b"meta");
    assert_eq!(text_of(kept), "of the first");
    assert!(second.take("b").unwrap().is_none());
}

#[test]
fn what_nobody_serves_is_given_up_and_the_keeper_goes_away_then() {
    let dir = tempfile::tempdir().unwrap();
    let first = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    first.store("pipe", writer.as_fd(), b"", None).unwrap();
    drop(writer);
    drop(first);
    let started = Instant::now();
    // The end of the pipe says that the last copy was closed.
    let mut rest = [0; 1];
    assert_eq!(rustix::io::read(&reader, &mut rest), Ok(0));
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    within(SOON, || keepers(dir.path()).is_empty());
    assert!(!dir.path().join("keeper.sock").exists());
}

#[test]
fn a_keeper_that_is_killed_is_replaced_and_knows_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let keeping = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    keeping.store("a", file("kept").as_fd(), b"1", None).unwrap();
    let old = keepers(dir.path());
    assert_eq!(old.len(), 1);
    let pid = rustix::process::Pid::from_raw(old[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    within(SOON, || keepers(dir.path()).iter().any(|pid| *pid != old[0]) && keeping.keeps("a"));
    drop(keeping);
    let next = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    assert_eq!(text_of(next.take("a").unwrap().unwrap()), "kept");
}

#[test]
fn many_that_start_one_at_the_same_time_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<Keeping> = std::thread::scope(|scope| {
        let starting: Vec<_> =
            (0..6).map(|_| scope.spawn(|| Keeping::open(options(dir.path()), Vec::new()).unwrap())).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (number, keeping) in all.iter().enumerate() {
        keeping.store(&format!("of-{number}"), file("x").as_fd(), b"", None).unwrap();
    }
    within(SOON, || keepers(dir.path()).len() == 1);
}

#[test]
fn the_socket_is_its_users_alone() {
    let dir = tempfile::tempdir().unwrap();
    let _keeping = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    let socket = fs::metadata(dir.path().join("keeper.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keeping = Keeping::open(options(dir.path()), Vec::new()).unwrap();
    for (name, meta) in [("", 0), ("a/b", 0), ("a", keeper::META_MAX + 1)] {
        let error = keeping.store(name, file("x").as_fd(), &vec![0; meta], None).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    let nowhere = Options { program: "/bin/false".into(), ..Options::new(dir.path().join("other.sock")) };
    let error = Keeping::open(nowhere, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("other.sock"), "{error}");
}
