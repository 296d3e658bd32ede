//! Nobody reads, and the layers become complete all the same, whatever the network does meanwhile.

use std::time::Duration;

use testkit::registry::{Fault, Rule};
use testkit::wan::{Link, Outage};

use super::stage::{READER_LIMIT, Stage, digest_of, side_by_side};
use crate::harness::containerd::Daemon;
use crate::harness::images::Model;
use crate::harness::{Scene, scene, wait_until};

/// Nothing but the background fetches contents. Silence is given up after a second.
const UNREAD: &str = "
noprefetch = true
[resolver]
request_timeout_sec = 1
[blob]
fetching_timeout_sec = 2
max_retries = 2
min_wait_msec = 10
max_wait_msec = 200
";
/// The layers of the image, and those that are too large to come in a moment.
const ALL: [usize; 3] = [0, 1, 2];
const LARGE: [usize; 2] = [0, 1];
/// What is said of a layer that is complete.
const COMPLETE: &str = "completed to fetch all layer data in background";
/// In which an idle node begins.
const BEGIN: Duration = Duration::from_secs(10);
/// In which the rest of the image is fetched once nothing is wrong, the wait before the next try included.
const END: Duration = Duration::from_secs(20);
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

/// The image takes some 3 s over this line, so that it is under way when something happens.
const SLOW: Link =
    Link { rtt: Duration::from_millis(5), bits_per_second: 8_000_000, connection_bits_per_second: 0 };

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// What happens when a part of the contents has come.
    begin: fn(&Stage),
    /// For how long it lasts.
    lasts: Duration,
    end: fn(&Stage),
}

/// Answers that are under way break off, and all requests after that meet the fault.
fn registry_fault(stage: &Stage, fault: Fault) {
    stage.registry().fault(Rule::new("/blobs/", fault));
    stage.line.outage(Outage::Refused, Duration::from_millis(100));
}

fn end_of_outage(stage: &Stage) {
    stage.line.outage(Outage::Refused, Duration::ZERO);
}

fn end_of_faults(stage: &Stage) {
    stage.registry().clear_faults();
}

const LASTS: Duration = Duration::from_secs(3);

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "nothing", begin: |_| {}, lasts: Duration::ZERO, end: |_| {} },
    Case { name: "the registry goes away", begin: |s| s.line.outage(Outage::Refused, FOR_EVER), lasts: LASTS,
        end: end_of_outage },
    Case { name: "a black hole", begin: |s| s.line.outage(Outage::BlackHole, FOR_EVER), lasts: LASTS,
        end: end_of_outage },
    Case { name: "503", begin: |s| registry_fault(s, Fault::Status(503)), lasts: LASTS, end: end_of_faults },
    Case { name: "404", begin: |s| registry_fault(s, Fault::Status(404)), lasts: LASTS, end: end_of_faults },
    Case { name: "no answer", begin: |s| registry_fault(s, Fault::StallHeaders(FOR_EVER)), lasts: LASTS,
        end: end_of_faults },
];

#[test]
fn layers_become_complete_by_themselves_whatever_happens_meanwhile() {
    side_by_side(CASES, |case| case.name, play);
}

fn play(case: &Case, scene: &Scene) {
    scene.write("config.toml", UNREAD);
    let stage = Stage::new(scene, SLOW);
    let daemon = scene.daemon();
    daemon.pull(stage.reference(), Model::usual());
    wait_for_contents(&stage, &daemon, 400_000);
    (case.begin)(&stage);
    std::thread::sleep(case.lasts);
    assert!(complete(&daemon, &ALL) < ALL.len(), "it was in the middle");
    (case.end)(&stage);
    assert_completed(&stage, &daemon, &ALL);
}

/// Who is killed in the middle goes on where it was.
#[test]
fn a_daemon_that_is_killed_goes_on_when_it_is_started_again() {
    scene(50, |scene| {
        scene.write("config.toml", UNREAD);
        let stage = Stage::new(scene, Link::default());
        // Enough for tables of contents, and not for all of a large layer.
        stage.registry().fault(Rule::new("/blobs/", Fault::StallBody { after: 300_000, pause: FOR_EVER }));
        let daemon = scene.daemon();
        daemon.pull(stage.reference(), Model::usual());
        let asked = |layer| stage.registry().requests_to(&digest_of(layer)).len();
        // The first request for each is for its table of contents.
        let begun = wait_until(BEGIN, || LARGE.map(asked).into_iter().sum::<usize>() > LARGE.len());
        assert!(begun, "nothing is fetched in the background\n{}", daemon.process.stderr());
        assert_eq!(complete(&daemon, &LARGE), 0, "it was in the middle");
        // Killed.
        drop(daemon);
        stage.registry().clear_faults();
        let daemon = scene.daemon();
        assert_completed(&stage, &daemon, &LARGE);
    });
}

#[test]
fn nothing_is_fetched_in_the_background_where_the_configuration_says_so() {
    scene(30, |scene| {
        scene.write("config.toml", &format!("no_background_fetch = true\n{UNREAD}"));
        let stage = Stage::new(scene, Link::default());
        let daemon = scene.daemon();
        daemon.pull(stage.reference(), Model::usual());
        stage.registry().clear_requests();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(stage.registry().requests(), [], "somebody asked for contents");
        scene.read_all(&daemon.stack(), Model::usual(), READER_LIMIT).all_right();
    });
}

/// Waits until so many bytes have come since the layers were mounted.
#[track_caller]
fn wait_for_contents(stage: &Stage, daemon: &Daemon<'_>, bytes: u64) {
    let before = stage.line.stats().bytes_down;
    let came = wait_until(BEGIN, || stage.line.stats().bytes_down - before >= bytes);
    assert!(came, "nothing is fetched in the background\n{}", daemon.process.stderr());
}

/// How many of these layers this daemon has completed.
fn complete(daemon: &Daemon<'_>, layers: &[usize]) -> usize {
    let log = daemon.process.stderr();
    let said: Vec<_> = log.lines().filter(|line| line.contains(COMPLETE)).collect();
    let digests = layers.iter().map(|&layer| digest_of(layer));
    digests.filter(|digest| said.iter().any(|line| line.contains(digest))).count()
}

/// Waits until these layers are complete; then everything is right, and nothing of them is asked for.
#[track_caller]
fn assert_completed(stage: &Stage, daemon: &Daemon<'_>, layers: &[usize]) {
    let completed = wait_until(END, || complete(daemon, layers) == layers.len());
    let log = || daemon.process.stderr();
    assert!(completed, "{} of {layers:?} are complete\n{}", complete(daemon, layers), log());
    stage.registry().clear_requests();
    stage.scene.read_all(&daemon.stack(), Model::usual(), READER_LIMIT).all_right();
    for &layer in layers {
        assert_eq!(stage.registry().requests_to(&digest_of(layer)), [], "{}", log());
    }
}
