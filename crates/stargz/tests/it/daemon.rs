//! `containerd-stargz-grpc`: flags and configuration of its forerunner, signals, and the socket that outlives it.

mod cache;
mod layers;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Running, Scene, mounts_below, run, scene};

const NAME: &str = "containerd-stargz-grpc";
/// For things that need no network and wait for nobody.
pub const SOON: Duration = Duration::from_secs(5);
/// What it says when it serves.
const SERVING: &str = "serving snapshots";

/// The daemon with everything of it in the scene.
fn daemon(scene: &Scene) -> Command {
    let mut command = scene.called(NAME);
    command.arg("--root").arg(scene.path("root")).arg("--address").arg(scene.path("run/snapshots.sock"));
    command.arg("--config").arg(scene.path("config.toml"));
    command
}

/// Starts it and waits until it serves.
fn serving(scene: &Scene) -> Running {
    let running = Running::start(&mut daemon(scene));
    running.wait_for(SERVING, SOON);
    running
}

/// A client of the socket; HTTP/2 (RFC 9113) is what gRPC speaks.
struct Client(UnixStream);

impl Client {
    /// Connects and sends what a client sends first.
    fn connect(scene: &Scene) -> Client {
        const PREFACE_AND_EMPTY_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let mut stream = UnixStream::connect(scene.path("run/snapshots.sock")).expect("somebody listens");
        stream.write_all(PREFACE_AND_EMPTY_SETTINGS).expect("it is taken");
        stream.set_read_timeout(Some(SOON)).expect("a timeout above 0");
        Client(stream)
    }

    /// Checks that the server answers with its settings.
    #[track_caller]
    fn assert_served(mut self) {
        const SETTINGS: u8 = 4;
        let mut frame = [0; 9];
        self.0.read_exact(&mut frame).expect("the server answers");
        assert_eq!(frame[3], SETTINGS, "{frame:?}");
    }
}

#[test]
fn flags_as_unit_files_have_them() {
    scene(20, |scene| {
        for flag in ["--version", "-version", "-V"] {
            let said = run(scene.called(NAME).arg(flag), SOON).succeeded();
            assert!(
                said.stdout.starts_with(&format!("{NAME} {}", env!("CARGO_PKG_VERSION"))),
                "{flag}: {said:#?}"
            );
        }
        for flag in ["--help", "-help", "-h"] {
            let said = run(scene.called(NAME).arg(flag), SOON).succeeded();
            let named = ["--address", "--config", "--log-level", "--root"]
                .iter()
                .all(|name| said.stdout.contains(name));
            assert!(named, "{flag}: {said:#?}");
        }
        let said = run(scene.called(NAME).arg("-no-such-flag=1"), SOON);
        assert!(said.code == Some(2) && said.stderr.contains("--no-such-flag"), "{said:#?}");
        let said = run(scene.called(NAME).arg("-log-level=loud"), SOON);
        assert!(
            said.code == Some(2) && said.stderr.contains("loud") && said.stderr.contains("debug"),
            "{said:#?}"
        );

        let running = Running::start(daemon(scene).arg("-log-level=debug"));
        running.wait_for(SERVING, SOON);
        running.signal(Signal::TERM);
        let said = running.end(SOON);
        assert_eq!(said.code, Some(0), "{said:#?}");
        for line in said.stderr.lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(
                line["msg"].is_string() && line["time"].is_string() && line["level"].is_string(),
                "{line}"
            );
        }
    });
}

#[test]
fn a_configuration_that_is_wrong_is_told_by_file_line_and_key() {
    scene(20, |scene| {
        let rows = [
            ("a = 1\n[blob]\nfetching_timeout_sec = true\n", "config.toml:3: blob.fetching_timeout_sec: "),
            ("prefetch_size = \n", "config.toml:1: prefetch_size: "),
            ("[[resolver.host.\"x\".mirrors]]\nhost = 5\n", "config.toml:2: "),
        ];
        for (text, named) in rows {
            let path = scene.write("config.toml", text);
            let said = run(&mut daemon(scene), SOON);
            assert!(said.code == Some(1) && said.stderr.contains(named), "{said:#?}");
            assert!(said.stderr.contains(path.to_str().unwrap()), "{said:#?}");
        }
        fs::remove_file(scene.path("config.toml")).unwrap();
        let said = run(&mut daemon(scene), SOON);
        assert!(said.code == Some(1) && said.stderr.contains("config.toml: No such file"), "{said:#?}");
        assert_eq!(mounts_below(&scene.path("root")), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn keys_that_do_nothing_are_told_and_do_no_harm() {
    scene(20, |scene| {
        scene.write("config.toml", "metadata_store = \"db\"\n\n[blob]\nfetching_timeout_secs = 5\n");
        let running = serving(scene);
        let said = running.stderr();
        assert!(said.contains("config.toml:1: metadata_store has no effect"), "{said}");
        assert!(
            said.contains("config.toml:4: unknown key")
                && said.contains("did you mean blob.fetching_timeout_sec?"),
            "{said}"
        );
        Client::connect(scene).assert_served();
    });
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused_and_harms_nothing() {
    scene(20, |scene| {
        let first = serving(scene);
        let said = run(&mut daemon(scene), SOON);
        assert!(said.code == Some(1) && said.stderr.contains("in use by another process"), "{said:#?}");
        assert!(said.stderr.contains(scene.path("root").to_str().unwrap()), "{said:#?}");
        Client::connect(scene).assert_served();
        first.signal(Signal::INT);
        assert_eq!(first.end(SOON).code, Some(0));
        // Nor does a process that was killed keep the root.
        drop(serving(scene));
        let _next = serving(scene);
        Client::connect(scene).assert_served();
    });
}

/// What a service manager is told, over the socket that it names: the listening socket to keep, that the daemon serves,
/// and that it stops.
#[test]
fn the_service_manager_is_told_when_it_serves_and_when_it_stops() {
    told_to_the_service_manager("[fuse_manager]\nenable = false\n", &["FDSTORE=1\nFDNAME=snapshots\n"]);
}

/// The same with a keeper: it is given a copy of everything that the keeper has, with all that has to be known of it.
#[test]
fn the_service_manager_is_given_copies_of_what_the_keeper_has() {
    told_to_the_service_manager(
        "",
        &[
            "FDSTORE=1\nFDNAME=stargz.images.",
            "FDSTORE=1\nFDNAME=stargz.trees.",
            "FDSTORE=1\nFDNAME=stargz.snapshots.0.\n",
        ],
    );
}

fn told_to_the_service_manager(keeper: &'static str, stored: &'static [&'static str]) {
    scene(20, move |scene| {
        scene.write("config.toml", keeper);
        let path = scene.path("notify.sock");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(SOON)).unwrap();
        let next = || {
            let mut message = [0; 4096];
            let len = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..len].to_vec()).unwrap()
        };
        let running = Running::start(daemon(scene).env("NOTIFY_SOCKET", &path));
        for begin in stored {
            let said = next();
            assert!(said.starts_with(begin), "{said}");
        }
        assert_eq!(next(), "READY=1\n");
        Client::connect(scene).assert_served();
        running.signal(Signal::TERM);
        assert_eq!(next(), "STOPPING=1\n");
        assert_eq!(running.end(SOON).code, Some(0));
    });
}

#[test]
fn an_address_that_is_taken_by_something_else_is_left_alone() {
    scene(20, |scene| {
        let file = scene.write("run/snapshots.sock", "precious");
        let said = run(&mut daemon(scene), SOON);
        assert!(said.code == Some(1) && said.stderr.contains("is no socket"), "{said:#?}");
        assert_eq!(fs::read_to_string(file).unwrap(), "precious");
        assert_eq!(mounts_below(&scene.path("root")), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn a_daemon_that_is_told_to_stop_does_so_at_once() {
    scene(30, |scene| {
        let socket = scene.path("run/snapshots.sock");
        for (signal, socket_stays) in [(Signal::TERM, true), (Signal::INT, false), (Signal::TERM, true)] {
            let running = serving(scene);
            Client::connect(scene).assert_served();
            running.signal(signal);
            let said = running.end(SOON);
            assert_eq!(said.code, Some(0), "{said:#?}");
            assert_eq!(mounts_below(&scene.path("root")), Vec::<std::path::PathBuf>::new(), "{signal:?}");
            assert_eq!(socket.exists(), socket_stays, "{signal:?}");
        }
    });
}

/// Starts the daemon with a listening socket as descriptor 3, as systemd does.
fn serving_on(scene: &Scene, listener: &UnixListener) -> Running {
    let script = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    let daemon = daemon(scene);
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(daemon.get_program()).args(daemon.get_args());
    let listener = listener.try_clone().expect("descriptors are to be had");
    let running = Running::start_with_input(&mut shell, Stdio::from(OwnedFd::from(listener)));
    running.wait_for(SERVING, SOON);
    running
}

#[test]
fn clients_that_connect_while_the_daemon_restarts_are_served() {
    scene(30, |scene| {
        let socket = scene.path("run/snapshots.sock");
        fs::create_dir_all(scene.path("run")).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let inode = fs::metadata(&socket).unwrap().ino();
        let first = serving_on(scene, &listener);
        Client::connect(scene).assert_served();
        first.signal(Signal::TERM);
        assert_eq!(first.end(SOON).code, Some(0));

        let between = Client::connect(scene);
        let second = serving_on(scene, &listener);
        between.assert_served();
        Client::connect(scene).assert_served();
        assert_eq!(fs::metadata(&socket).unwrap().ino(), inode, "the socket is the same one");

        // Also when there was no time to say anything.
        drop(second);
        let between = Client::connect(scene);
        let third = serving_on(scene, &listener);
        between.assert_served();

        third.signal(Signal::INT);
        assert_eq!(third.end(SOON).code, Some(0));
        assert!(!socket.exists());
        // A listener whose path is gone is of no use; a new one is made.
        let fourth = serving_on(scene, &listener);
        Client::connect(scene).assert_served();
        drop(fourth);
    });
}
