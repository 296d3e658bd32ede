//! What becomes of readers while a registry is away, by image.

use std::time::{Duration, Instant};

use testkit::registry::{Fault, Rule};

use crate::harness::images::Model;
use crate::harness::{scene, wait_until};

const SOON: Duration = Duration::from_secs(30);
const KEYS: &str =
    "no_background_fetch = true\nnoprefetch = true\n[blob]\nmax_retries = 1\nmax_wait_msec = 100\n";

#[test]
fn a_read_fails_after_the_time_that_its_image_has() {
    scene(90, |scene| {
        let policy = "[[image_policy]]\nimages = \"*/app:*\"\nlost_network = \"error\"\nafter_sec = 1\n";
        scene.write("config.toml", &format!("{KEYS}{policy}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        let stack = daemon.stack();
        scene.registry.fault(Rule::new("/blobs/", Fault::Status(503)));
        let name =
            Model::usual().names().into_iter().find(|name| name.contains("tool")).expect("there is one");
        let begin = Instant::now();
        let verdict = scene.reader(&stack, Model::usual(), [name]).end(SOON);
        assert_eq!(verdict.failed_with_eio().len(), 1);
        // Without the policy it is five minutes.
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        scene.registry.clear_faults();
        // The kernel's own second try, which follows at once, is told the same.
        let again = || scene.reader(&stack, Model::usual(), [name]).end(SOON).unreadable.is_empty();
        assert!(wait_until(SOON, again));
    });
}

#[test]
fn an_image_that_must_be_complete_starts_when_it_is() {
    scene(90, |scene| {
        let policy = "[[image_policy]]\nimages = \"*\"\nlost_network = \"complete\"\n";
        scene.write("config.toml", &format!("{KEYS}fetching_timeout_sec = 2\n{policy}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        // Tables of contents come from the ends of blobs; what is asked for at their beginnings does not.
        scene.registry.set_distance(Duration::from_millis(1), 20_000_000);
        daemon.pull(&reference, Model::usual());
        let top = format!("sha256:chain-{}", Model::usual().blobs.len() - 1);
        daemon.view("container", &top).expect("the container starts");
        scene.registry.fault(Rule::new("/", Fault::Status(503)));
        Model::usual().assert_at(&daemon.stack());
    });
}
