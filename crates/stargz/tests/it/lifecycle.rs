//! Mounting and unmounting around everything that people and machines do to processes and directories.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use testkit::registry::{Fault, Rule};

use crate::harness::images::Model;
use crate::harness::{
    Running, Scene, kill, mounts_below, processes_that_name, scene, shows_trees, state_of, wait_until,
};

/// For things that need no network and wait for nobody.
const SOON: Duration = Duration::from_secs(3);

fn push_usual(scene: &Scene) -> String {
    scene.registry.push("app", "1", &Model::usual().image)
}

/// Checks that nothing of a mount is left, at once or soon.
#[track_caller]
fn nothing_left_soon(scene: &Scene, dir: &Path) {
    wait_until(SOON, || processes_that_name(dir).is_empty() && mounts_below(dir).is_empty());
    scene.assert_nothing_left(dir);
}

#[test]
fn a_mount_in_use_is_not_taken_away_unless_lazily() {
    scene(40, |scene| {
        let dir = scene.mount(&push_usual(scene));
        let held = File::open(dir.join("opt/data")).unwrap();
        let right = Model::usual().merged.get(b"opt/data").and_then(|entry| entry.content()).expect("a file");
        let mut block = [0; 4096];
        held.read_exact_at(&mut block, 0).unwrap();

        scene.umount(&dir, &[]).failed_with(&["mnt is in use", "fuser -vm", "--lazy"]);
        assert!(fs::read(dir.join("srv/readme")).is_ok(), "it goes on");

        let said = scene.umount(&dir, &["--lazy"]).succeeded();
        assert!(said.took < SOON, "{said:#?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "it is out of sight");
        // Whoever still holds a file keeps what is local, and waits for nothing.
        held.read_exact_at(&mut block, 0).unwrap();
        assert!(block == right[..4096]);
        let started = Instant::now();
        match held.read_exact_at(&mut block, 1_400_000) {
            Ok(()) => assert!(block == right[1_400_000..1_404_096]),
            Err(error) => eprintln!("after --lazy, what was not read yet: {error}"),
        }
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        drop(held);
        nothing_left_soon(scene, &dir);
    });
}

#[test]
fn the_systems_own_umount_is_enough() {
    scene(20, |scene| {
        let dir = scene.mount(&push_usual(scene));
        Model::usual().assert_at(&dir);
        rustix::mount::unmount(&dir, UnmountFlags::empty()).unwrap();
        nothing_left_soon(scene, &dir);
    });
}

#[test]
fn a_signal_to_the_serving_process_unmounts_and_cleans_up() {
    scene(40, |scene| {
        let reference = push_usual(scene);
        for signal in [Signal::TERM, Signal::INT] {
            let dir = scene.mount(&reference);
            kill(scene.server_of(&dir), signal);
            nothing_left_soon(scene, &dir);

            // In the foreground its exit code can be seen; and somebody may be using the mount.
            let serving = scene.mount_in_foreground(&reference, &dir);
            serving.wait_for("ready", SOON);
            let held = File::open(dir.join("bin/tool")).unwrap();
            serving.signal(signal);
            let said = serving.end(SOON);
            assert_eq!(said.code, Some(0), "{said:#?}");
            nothing_left_soon(scene, &dir);
            let started = Instant::now();
            let _ = held.read_at(&mut [0; 4096], 600_000);
            assert!(started.elapsed() < SOON, "a held file hangs");
        }
    });
}

#[test]
fn a_signal_ends_a_mount_that_is_not_ready_yet() {
    scene(40, |scene| {
        let reference = push_usual(scene);
        scene.write("config.toml", "[resolver]\nrequest_timeout_sec = 60\n");
        let dir = scene.mount_point("mnt");
        for path in ["/manifests/", "/blobs/"] {
            scene.registry.fault(Rule::new(path, Fault::StallHeaders(Duration::from_secs(60))));
            scene.registry.clear_requests();
            let serving = scene.mount_in_foreground(&reference, &dir);
            assert!(
                scene.registry.wait_for(SOON, |seen| seen.iter().any(|request| request.path.contains(path)))
            );
            serving.signal(Signal::TERM);
            serving.end(SOON);
            nothing_left_soon(scene, &dir);

            // The command that waits in the terminal is interrupted: what it started must not mount later.
            scene.registry.clear_requests();
            let waiting = Running::start(&mut scene.mount_command(&reference, &dir));
            assert!(
                scene.registry.wait_for(SOON, |seen| seen.iter().any(|request| request.path.contains(path)))
            );
            // Not SIGINT, which a shell lets its background jobs ignore, and they their children.
            waiting.signal(Signal::TERM);
            waiting.end(SOON);
            scene.registry.clear_faults();
            nothing_left_soon(scene, &dir);
        }
    });
}

/// The serving process is gone without a chance to clean up.
fn killed(scene: &Scene) -> PathBuf {
    let dir = scene.mount(&push_usual(scene));
    assert!(fs::read(dir.join("srv/app")).is_ok());
    kill(scene.server_of(&dir), Signal::KILL);
    assert!(wait_until(SOON, || processes_that_name(&dir).is_empty()));
    dir
}

#[test]
fn reads_fail_and_do_not_hang_when_the_serving_process_is_killed() {
    scene(40, |scene| {
        let dir = scene.mount(&push_usual(scene));
        let warm = fs::read(dir.join("srv/app")).unwrap();
        scene.registry.fault(Rule::new("/blobs/", Fault::StallHeaders(Duration::from_secs(60))));
        let waiting = {
            let cold = File::open(dir.join("opt/data")).unwrap();
            thread::spawn(move || cold.read_exact_at(&mut [0; 4096], 0).map_err(|error| error.raw_os_error()))
        };
        thread::sleep(Duration::from_millis(200));
        kill(scene.server_of(&dir), Signal::KILL);
        let ended = wait_until(SOON, || waiting.is_finished());
        assert!(ended, "a reader that waited hangs");
        assert!(waiting.join().unwrap().is_err());
        let started = Instant::now();
        assert!(fs::read(dir.join("bin/tool")).is_err());
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        if shows_trees() {
            return;
        }
        assert!(fs::read(dir.join("srv/app")).unwrap() == warm, "what the kernel has stays readable");
        assert_eq!(fs::read_dir(dir.join("lib")).unwrap().count(), 40, "and so do all names");
    });
}

#[test]
fn umount_cleans_up_after_a_serving_process_that_was_killed() {
    scene(40, |scene| {
        let dir = killed(scene);
        scene.try_mount(&push_usual(scene), &dir).failed_with(&["mounted there already"]);
        let said = scene.umount(&dir, &[]).succeeded();
        assert!(said.took < SOON, "{said:#?}");
        scene.assert_nothing_left(&dir);
        scene.mount(&push_usual(scene));
        Model::usual().assert_at(&dir);
    });
}

#[test]
fn a_new_mount_takes_over_what_a_killed_process_left() {
    scene(40, |scene| {
        let dir = killed(scene);
        rustix::mount::unmount(&dir, UnmountFlags::DETACH).unwrap();
        scene.mount(&push_usual(scene));
        Model::usual().assert_at(&dir);
        scene.umount(&dir, &[]).succeeded();
        scene.assert_nothing_left(&dir);
    });
}

#[test]
fn one_image_at_two_directories() {
    scene(30, |scene| {
        let reference = push_usual(scene);
        let (one, two) = (scene.mount_point("one"), scene.mount_point("two words\nand a line"));
        scene.mount_at(&reference, &one, &[]);
        scene.mount_at(&reference, &two, &[]);
        scene.umount(&one, &[]).succeeded();
        scene.assert_nothing_left(&one);
        Model::usual().assert_at(&two);
        scene.umount(&two, &[]).succeeded();
        scene.assert_nothing_left(&two);
    });
}

/// As long as the manifest can be had, what was read once needs no blobs.
#[test]
fn a_cache_serves_what_was_read_without_the_registrys_blobs() {
    scene(40, |scene| {
        let reference = push_usual(scene);
        let cache = scene.path("cache");
        let flags = ["--cache", cache.to_str().unwrap()];
        let dir = scene.mount_point("mnt");
        scene.mount_at(&reference, &dir, &flags);
        let read = ["srv/app", "lib/part-03", "etc/passwd"];
        let before: Vec<_> = read.iter().map(|path| fs::read(dir.join(path)).unwrap()).collect();

        // One process at a time fills a cache.
        let other = scene.mount_point("other");
        let mut command = scene.mount_command(&reference, &other);
        let said = crate::harness::run(command.args(flags), Duration::from_secs(10));
        said.failed_with(&["cache", "in use by another process"]);
        scene.assert_nothing_left(&other);
        scene.umount(&dir, &[]).succeeded();
        scene.assert_nothing_left(&dir);

        for blob in &Model::usual().blobs {
            scene.registry.fault(Rule::new(blob.digest.to_string(), Fault::Status(503)));
        }
        scene.mount_at(&reference, &dir, &flags);
        for (path, before) in read.iter().zip(before) {
            assert!(fs::read(dir.join(path)).unwrap() == before, "{path}");
        }
        let started = Instant::now();
        assert!(fs::read(dir.join("opt/data")).is_err(), "it was never here");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        scene.registry.clear_faults();
        // What was given up just now is told to those who ask within a moment.
        std::thread::sleep(Duration::from_millis(500));
        Model::usual().assert_at(&dir);
        scene.umount(&dir, &[]).succeeded();

        // Now everything is here.
        for blob in &Model::usual().blobs {
            scene.registry.remove_blob(blob.digest);
        }
        scene.registry.clear_requests();
        scene.mount_at(&reference, &dir, &flags);
        Model::usual().assert_at(&dir);
        for blob in &Model::usual().blobs {
            assert_eq!(scene.registry.requests_to(&blob.digest.to_string()), Vec::new());
        }
        scene.umount(&dir, &[]).succeeded();
        scene.assert_nothing_left(&dir);
    });
}

/// What a killed process left in a cache is used as far as it can be trusted.
#[test]
fn a_cache_survives_the_death_of_its_process() {
    scene(40, |scene| {
        let reference = push_usual(scene);
        let cache = scene.path("cache");
        let flags = ["--cache", cache.to_str().unwrap()];
        let dir = scene.mount_point("mnt");
        for _ in 0..3 {
            scene.mount_at(&reference, &dir, &flags);
            let server = scene.server_of(&dir);
            let reader = {
                let dir = dir.clone();
                thread::spawn(move || fs::read(dir.join("opt/data")).is_ok())
            };
            thread::sleep(Duration::from_millis(30));
            kill(server, Signal::KILL);
            assert!(wait_until(SOON, || reader.is_finished()), "a reader hangs");
            assert!(wait_until(SOON, || processes_that_name(&dir).is_empty()));
            rustix::mount::unmount(&dir, UnmountFlags::DETACH).unwrap();
        }
        scene.mount_at(&reference, &dir, &flags);
        Model::usual().assert_at(&dir);
        scene.umount(&dir, &[]).succeeded();
        scene.assert_nothing_left(&dir);
    });
}

/// A file system of a few megabytes at a new directory; none where that takes tools or devices that are missing.
fn small_disk(scene: &Scene, mib: u64) -> Option<PathBuf> {
    let (image, dir) = (scene.path("disk.img"), scene.mount_point("disk"));
    File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image).status();
    let mounted = made.is_ok_and(|status| status.success())
        && Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&dir)
            .status()
            .is_ok_and(|status| status.success());
    mounted.then_some(dir)
}

#[test]
fn a_full_disk_costs_no_read() {
    scene(40, |scene| {
        let Some(disk) = small_disk(scene, 2) else {
            eprintln!("skipped: no small file system can be made here (mkfs.ext4, a loop device)");
            return;
        };
        let reference = push_usual(scene);
        let dir = scene.mount_point("mnt");
        let cache = disk.join("cache");
        scene.mount_at(&reference, &dir, &["--cache", cache.to_str().unwrap()]);
        let server = scene.server_of(&dir);
        let failed = Model::usual().unreadable_at(&dir);
        assert!(failed.is_empty(), "{failed:?}");
        let log = fs::read_to_string(state_of(&dir).with_extension("log")).unwrap();
        assert!(log.contains("the disk is full"), "{log}");
        assert_eq!(scene.server_of(&dir), server);
        scene.umount(&dir, &[]).succeeded();
        scene.assert_nothing_left(&dir);
    });
}

/// A frozen process, as one in a paused cgroup, is a pause for readers and nothing worse.
#[test]
fn a_serving_process_that_is_frozen_goes_on_where_it_was() {
    scene(30, |scene| {
        let dir = scene.mount(&push_usual(scene));
        let server = scene.server_of(&dir);
        kill(server, Signal::STOP);
        let reader = {
            let dir = dir.clone();
            thread::spawn(move || fs::read(dir.join("bin/tool")).map(|bytes| bytes.len()).ok())
        };
        thread::sleep(Duration::from_millis(300));
        assert!(!reader.is_finished(), "nobody could answer");
        kill(server, Signal::CONT);
        assert_eq!(reader.join().unwrap(), Some(700_000));
        Model::usual().assert_at(&dir);
    });
}

/// The promise that this test binary makes to the machine: whatever hangs is ended, and nothing stays mounted.
#[test]
fn a_test_that_hangs_is_ended_and_cleaned_up_after() {
    let (tell, told) = mpsc::channel();
    let ended = std::panic::catch_unwind(move || {
        scene(2, move |scene| {
            let dir = scene.mount(&push_usual(scene));
            tell.send(dir.clone()).unwrap();
            kill(scene.server_of(&dir), Signal::STOP);
            fs::read(dir.join("bin/tool")).unwrap();
        });
    });
    // Nothing is told where tests are skipped.
    if let Ok(dir) = told.try_recv() {
        assert!(ended.is_err());
        assert_eq!(processes_that_name(&dir), Vec::<u32>::new());
        assert_eq!((mounts_below(&dir), mounts_below(&state_of(&dir))), (Vec::new(), Vec::new()));
        assert!(!state_of(&dir).exists() && !dir.exists());
    }
}
