//! Containers go on while the daemon is killed, ended, replaced: what they read waits, and nothing fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::registry::{Fault, Rule};

use crate::harness::containerd::Daemon;
use crate::harness::images::Model;
use crate::harness::{HASTY, Scene, kill, mounts_below, processes_that_name, run, scene, wait_until};

/// For what waits for nobody.
const SOON: Duration = Duration::from_secs(10);

fn configure(scene: &Scene, deadline: u64) {
    let lazily = "noprefetch = true\nno_background_fetch = true\n";
    scene.write("config.toml", &format!("{lazily}[fuse_manager]\ndeadline_sec = {deadline}\n{HASTY}"));
}

/// The daemon with the usual image in it, and where a container sees that.
fn with_container(scene: &Scene) -> (Daemon<'_>, PathBuf) {
    let reference = scene.registry.push("app", "1", &Model::usual().image);
    let daemon = scene.daemon();
    daemon.pull(&reference, Model::usual());
    let container = daemon.stack();
    (daemon, container)
}

/// A reader of one file, in a thread of its own.
struct Reading(thread::JoinHandle<std::io::Result<Vec<u8>>>, &'static str);

impl Reading {
    fn start(dir: &Path, name: &'static str) -> Reading {
        let path = dir.join(name);
        Reading(thread::spawn(move || fs::read(path)), name)
    }

    #[track_caller]
    fn assert_waiting(&self) {
        thread::sleep(Duration::from_millis(200));
        assert!(!self.0.is_finished(), "{} is not waited for", self.1);
    }

    #[track_caller]
    fn assert_right(self) {
        assert!(wait_until(SOON, || self.0.is_finished()), "{} hangs", self.1);
        let bytes = self.0.join().unwrap().unwrap_or_else(|error| panic!("{}: {error}", self.1));
        let right = Model::usual().merged.get(self.1.as_bytes()).and_then(|entry| entry.content()).unwrap();
        assert!(bytes == *right, "{} has other bytes", self.1);
    }

    #[track_caller]
    fn assert_failed(self) {
        assert!(wait_until(SOON, || self.0.is_finished()), "{} hangs", self.1);
        assert!(self.0.join().unwrap().is_err(), "{} has nobody to come from", self.1);
    }
}

fn keepers(scene: &Scene) -> Vec<u32> {
    processes_that_name(&scene.path("root/keeper.sock"))
}

#[track_caller]
fn assert_nothing_left(scene: &Scene) {
    assert!(wait_until(SOON, || processes_that_name(&scene.path("root")).is_empty()), "{:?}", keepers(scene));
    assert_eq!(mounts_below(&scene.path("root")), Vec::<PathBuf>::new());
    assert!(!scene.path("root/keeper.sock").exists());
}

#[test]
fn a_read_in_flight_survives_kill_9_and_is_answered_by_the_next_daemon() {
    read_in_flight("auto");
}

#[test]
fn a_read_in_flight_survives_kill_9_with_a_fuse_tree() {
    read_in_flight("fuse");
}

#[test]
fn a_read_in_flight_survives_kill_9_through_a_loop_device() {
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: there are no loop devices");
        return;
    }
    read_in_flight("erofs-loop");
}

fn read_in_flight(backend: &'static str) {
    scene(60, move |scene| {
        configure(scene, 60);
        let config = fs::read_to_string(scene.path("config.toml")).unwrap();
        scene.write("config.toml", &format!("{config}[mount]\nbackend = \"{backend}\"\n"));
        let (daemon, container) = with_container(scene);
        let mounts = mounts_below(&scene.path("root"));
        // The kernel learns from the first file that is closed that closing needs no answer of ours. Otherwise the children of
        // this process, which hold its files for a moment, wait before they begin.
        Reading::start(&container, "etc/motd").assert_right();
        // In flight: the daemon has the read, and no answer of the registry.
        scene.registry.fault(Rule::new("/blobs/", Fault::StallHeaders(Duration::from_secs(60))));
        let in_flight = Reading::start(&container, "bin/tool");
        in_flight.assert_waiting();
        drop(daemon);
        let while_away = Reading::start(&container, "srv/large");
        in_flight.assert_waiting();
        while_away.assert_waiting();

        scene.registry.clear_faults();
        let second = scene.daemon();
        in_flight.assert_right();
        while_away.assert_right();
        assert_eq!(mounts_below(&scene.path("root")), mounts, "nothing was mounted again");
        Model::usual().assert_at(&container);

        mount::unmount(&container, mount::UnmountMode::Lazy).unwrap();
        second.process.signal(Signal::INT);
        assert_eq!(second.process.end(SOON).code, Some(0));
        assert_nothing_left(scene);
    });
}

#[test]
fn a_container_goes_on_over_many_ends_with_no_registry() {
    scene(90, |scene| {
        configure(scene, 60);
        let (mut daemon, container) = with_container(scene);
        scene.read_all(&container, Model::usual(), SOON).all_right();
        scene.registry.fault(Rule::new("/", Fault::Status(503)));
        // The first end is a clean one: what was filled in the last two seconds before a kill may have to come again.
        for signal in [Signal::TERM, Signal::KILL, Signal::KILL, Signal::TERM] {
            daemon.process.signal(signal);
            daemon.process.end(SOON);
            drop_caches();
            let waiting = Reading::start(&container, "opt/data");
            daemon = scene.daemon();
            waiting.assert_right();
            scene.read_all(&container, Model::usual(), SOON).all_right();
            // What is started now finds its layers as well.
            daemon.view(&format!("view-{signal:?}-{}", daemon.process.pid()), "sha256:chain-2").unwrap();
        }
        assert_eq!(keepers(scene).len(), 1);
    });
}

#[test]
fn a_program_is_replaced_in_the_same_process_while_containers_read() {
    scene(60, |scene| {
        configure(scene, 60);
        let (daemon, container) = with_container(scene);
        scene.registry.fault(Rule::new("/blobs/", Fault::StallHeaders(Duration::from_secs(60))));
        let in_flight = Reading::start(&container, "bin/tool");
        in_flight.assert_waiting();
        scene.registry.clear_faults();
        let said = run(scene.stargz().arg("upgrade").arg("--root").arg(scene.path("root")), SOON).succeeded();
        assert!(said.stdout.contains(" is now "), "{said:#?}");
        in_flight.assert_right();
        Model::usual().assert_at(&container);
        daemon.view("after", "sha256:chain-2").unwrap();

        // By signal as well.
        let serving = |text: String| text.matches("serving snapshots").count();
        assert_eq!(serving(daemon.process.stderr()), 2);
        daemon.process.signal(Signal::USR2);
        assert!(wait_until(SOON, || serving(daemon.process.stderr()) == 3), "{}", daemon.process.stderr());
        daemon.view("after-again", "sha256:chain-2").unwrap();
        Model::usual().assert_at(&container);
    });
}

#[test]
fn a_daemon_goes_on_where_it_cannot_be_replaced() {
    scene(40, |scene| {
        let root = scene.path("root");
        let upgrade = || run(scene.stargz().arg("upgrade").arg("--root").arg(&root), SOON);
        upgrade().failed_with(&["there is no daemon", root.to_str().unwrap()]);

        scene.write("config.toml", "[fuse_manager]\nenable = false\n");
        let daemon = scene.daemon();
        upgrade().failed_with(&["nobody keeps the mounts"]);
        drop(daemon);

        // A program that does not run is not gone on with.
        configure(scene, 60);
        fs::create_dir_all(scene.path("bin")).unwrap();
        let program = scene.path("bin/containerd-stargz-grpc");
        let _ = fs::remove_file(&program);
        fs::copy(crate::harness::STARGZ, &program).unwrap();
        let daemon = scene.daemon();
        fs::remove_file(&program).unwrap();
        upgrade().failed_with(&["cannot run", program.to_str().unwrap()]);
        std::os::unix::fs::symlink("/bin/false", &program).unwrap();
        upgrade().failed_with(&["--version failed"]);
        daemon.process.signal(Signal::USR2);
        daemon.process.wait_for("this program goes on", SOON);
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        daemon.pull(&reference, Model::usual());
        Model::usual().assert_at(&daemon.stack());
    });
}

/// Readers that nobody comes for get an error in the end: they would not even die otherwise.
#[test]
fn what_nobody_serves_fails_after_the_deadline() {
    scene(60, |scene| {
        configure(scene, 1);
        let (daemon, container) = with_container(scene);
        drop(daemon);
        let started = Instant::now();
        Reading::start(&container, "bin/tool").assert_failed();
        assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
        assert!(wait_until(SOON, || keepers(scene).is_empty()), "the keeper stays");
        mount::unmount(&container, mount::UnmountMode::Lazy).unwrap();

        // The next daemon begins anew.
        let second = scene.daemon();
        Model::usual().assert_at(&second.stack());
    });
}

#[test]
fn the_death_of_the_keeper_is_noticed_by_nobody() {
    scene(60, |scene| {
        configure(scene, 60);
        let (daemon, container) = with_container(scene);
        let first = keepers(scene);
        assert_eq!(first.len(), 1);
        kill(first[0], Signal::KILL);
        assert!(
            wait_until(SOON, || keepers(scene).iter().any(|pid| *pid != first[0])),
            "{}",
            daemon.process.stderr()
        );
        daemon.process.wait_for("a new one has taken its place", SOON);
        Reading::start(&container, "etc/passwd").assert_right();
        drop(daemon);
        let waiting = Reading::start(&container, "bin/tool");
        waiting.assert_waiting();
        let _second = scene.daemon();
        waiting.assert_right();
    });
}

/// A layer that was made anew has its contents elsewhere: what is mounted of the former one must not be shown those.
#[test]
fn a_layer_that_was_lost_from_the_disk_is_an_error_and_not_other_bytes() {
    scene(60, |scene| {
        configure(scene, 60);
        let (daemon, container) = with_container(scene);
        drop(daemon);
        let hex = Model::usual().blobs[0].digest.hex();
        fs::remove_dir_all(scene.path("root/layers/sha256").join(hex)).unwrap();
        let lost = Reading::start(&container, "bin/tool");
        let kept = Reading::start(&container, "opt/data");
        let second = scene.daemon();
        lost.assert_failed();
        kept.assert_right();
        mount::unmount(&container, mount::UnmountMode::Lazy).unwrap();
        Model::usual().assert_at(&second.stack());
    });
}

/// The keeper of a root that was taken away still holds the socket, for a daemon that never comes.
#[test]
fn a_daemon_with_another_root_takes_the_address_of_one_that_is_gone() {
    scene(60, |scene| {
        configure(scene, 60);
        let (daemon, container) = with_container(scene);
        drop(daemon);
        mount::unmount(&container, mount::UnmountMode::Lazy).unwrap();
        for mounted in mounts_below(&scene.path("root")).iter().rev() {
            mount::unmount(mounted, mount::UnmountMode::Lazy).unwrap();
        }
        fs::remove_dir_all(scene.path("root")).unwrap();
        let other = scene.daemon();
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        other.pull(&reference, Model::usual());
        Model::usual().assert_at(&other.stack());
    });
}

/// What the page cache has is not asked for again.
pub fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "1").expect("root may");
}
