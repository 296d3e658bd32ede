//! The process that serves is killed in the middle of a faulty read, again and again. Nothing wrong is ever read, and what
//! is missing arrives at last.

use std::time::Duration;

use rustix::process::Signal;
use testkit::registry::{Fault, Rule};
use testkit::wan::{Link, Outage};

use super::stage::{READER_LIMIT, Stage};
use crate::harness::images::Model;
use crate::harness::{Reader, Scene, kill, scene, wait_until};

/// Silence is given up after a second; nothing else ends a read here.
const PATIENT: &str = "
[resolver]
request_timeout_sec = 1
[blob]
fetching_timeout_sec = 20
max_retries = 50
min_wait_msec = 10
max_wait_msec = 200
";
/// Slow enough to be in the middle for a while.
const LINE: Link =
    Link { rtt: Duration::from_millis(5), bits_per_second: 12_000_000, connection_bits_per_second: 0 };
/// For things that need no network.
const SOON: Duration = Duration::from_secs(5);

/// A slow line to a registry on which nothing goes well for long.
fn bad_network(stage: &Stage) {
    let faults = [
        (0, Fault::ResetAfter(50_000)),
        (1, Fault::Status(503)),
        (2, Fault::ShortBody(70_000)),
        (4, Fault::StallBody { after: 30_000, pause: Duration::from_millis(300) }),
        (5, Fault::Reset),
        (7, Fault::CorruptByte(90_000)),
    ];
    for (skip, fault) in faults {
        stage.registry().fault(Rule::new("/blobs/", fault).skip(skip).times(1));
    }
}

/// Kills the server after so many bytes of contents have come. Returns how many files were not read then; all others are
/// right.
fn read_and_kill(stage: &Stage, bytes: u64, mut reader: Reader, server: u32) -> usize {
    let before = stage.registry().body_bytes();
    let came =
        wait_until(READER_LIMIT, || reader.has_ended() || stage.registry().body_bytes() - before >= bytes);
    assert!(came, "nothing comes");
    kill(server, Signal::KILL);
    let failed = reader.end(SOON).failed_with_eio().len();
    assert!(failed > 0, "it was in the middle");
    failed
}

/// Mounts, reads, and kills the server after so many bytes of contents have come.
fn killed_after(stage: &Stage, bytes: u64, cache: &str) {
    let scene = stage.scene;
    let mounted = stage.mount_with(&["--cache", cache]);
    bad_network(stage);
    let reader = scene.reader(&mounted.dir, Model::usual(), Model::usual().names());
    let failed = read_and_kill(stage, bytes, reader, mounted.server);
    eprintln!("killed after {bytes} bytes: {failed} of {} files not read", Model::usual().names().len());
    scene.umount(&mounted.dir, &[]).succeeded();
    scene.assert_nothing_left(&mounted.dir);
    stage.registry().clear_faults();
}

#[test]
fn a_process_that_is_killed_in_the_middle_leaves_nothing_wrong_behind() {
    scene(50, |scene| {
        scene.write("config.toml", PATIENT);
        let stage = Stage::new(scene, LINE);
        let cache = scene.path("cache");
        let cache = cache.to_str().expect("the path is text");
        for bytes in [1, 100_000, 400_000, 700_000, 1_000_000] {
            killed_after(&stage, bytes, cache);
        }
        let mounted = stage.mount_with(&["--cache", cache]);
        bad_network(&stage);
        mounted.all_right();
        scene.umount(&mounted.dir, &[]).succeeded();
        assert_complete(scene, &stage, cache);
    });
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_goes_on_when_it_is_started_again() {
    scene(50, |scene| {
        let alone = "[fuse_manager]\nenable = false\n";
        scene.write(
            "config.toml",
            &format!("noprefetch = true\nno_background_fetch = true\n{alone}{PATIENT}"),
        );
        let stage = Stage::new(scene, LINE);
        let mut daemon = scene.daemon();
        daemon.pull(stage.reference(), Model::usual());
        for bytes in [100_000, 400_000, 700_000] {
            let dir = daemon.stack();
            bad_network(&stage);
            let reader = scene.reader(&dir, Model::usual(), Model::usual().names());
            let failed = read_and_kill(&stage, bytes, reader, daemon.process.pid());
            // Those that nobody serves any more go away with the next start.
            mount::unmount(&dir, mount::UnmountMode::Lazy).expect("it is mounted");
            eprintln!("killed after {bytes} bytes: {failed} files not read");
            stage.registry().clear_faults();
            daemon = scene.daemon();
        }
        bad_network(&stage);
        scene.read_all(&daemon.stack(), Model::usual(), READER_LIMIT).all_right();
    });
}

/// Everything is on disk, and read from there.
fn assert_complete(scene: &Scene, stage: &Stage, cache: &str) {
    let mounted = stage.mount_with(&["--cache", cache]);
    stage.line.outage(Outage::Refused, READER_LIMIT);
    mounted.all_right();
    assert_eq!(stage.registry().requests_to("/blobs/"), [], "contents were asked for");
    scene.umount(&mounted.dir, &[]).succeeded();
}
