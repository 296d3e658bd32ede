//! What containers read first is fetched ahead the next time.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::images::Model;
use crate::harness::{HASTY, Said, Scene, run, scene, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// A landmark would hide what a profile does.
const KEYS: &str = "no_background_fetch = true\nlog_file_access = true\n";

fn profile(scene: &Scene, args: &[&str]) -> Said {
    run(scene.stargz().arg("profile").args(args).arg("--root").arg(scene.path("root")), SOON)
}

fn listed(scene: &Scene) -> Vec<Value> {
    let text = profile(scene, &["ls", "--json"]).succeeded().stdout;
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

/// Requests for contents that the daemon has made.
fn waits(scene: &Scene) -> u64 {
    let args = ["status", "--json", "--root"];
    let said = run(scene.stargz().args(args).arg(scene.path("root")), SOON).succeeded();
    serde_json::from_str::<Value>(&said.stdout).unwrap()["daemon"]["waits"].as_u64().unwrap()
}

#[test]
fn the_second_cold_start_waits_for_nothing_that_the_first_has_read() {
    scene(120, |scene| {
        scene.write("config.toml", &format!("{KEYS}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let names = Model::usual().names();
        let some: Vec<&str> = names.iter().copied().step_by(3).collect();
        let read = |daemon: &crate::harness::containerd::Daemon<'_>| {
            let top = format!("sha256:chain-{}", Model::usual().blobs.len() - 1);
            daemon.view("container", &top).expect("the container starts");
            let stack = daemon.stack();
            let verdict = scene.reader(&stack, Model::usual(), some.iter().copied()).end(SOON);
            verdict.all_right();
        };

        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        read(&daemon);
        let cold = waits(scene);
        assert!(cold > 0);
        assert!(wait_until(SOON, || listed(scene).iter().any(|row| row["image"] == reference.as_str())));
        daemon.process.wait_for("file accessed: /", SOON);
        daemon.process.signal(Signal::INT);
        let unmounted = scene.path("container");
        mount::unmount(&unmounted, mount::UnmountMode::Lazy).unwrap();
        assert_eq!(daemon.process.end(SOON).code, Some(0));
        let exported = profile(scene, &["export", &reference]).succeeded().stdout;

        // Another node: nothing but the profile is there.
        fs::remove_dir_all(scene.path("root")).unwrap();
        let daemon = scene.daemon();
        let file = scene.write("profile.json", &exported);
        let said = profile(scene, &["apply", file.to_str().unwrap()]).succeeded();
        assert!(said.stdout.starts_with(&reference), "{}", said.stdout);
        daemon.pull(&reference, Model::usual());
        let prefetched = || {
            daemon
                .process
                .stderr()
                .lines()
                .filter(|line| line.contains("completed to prefetch") && line.contains("a profile"))
                .count()
        };
        let known = serde_json::from_str::<Value>(&exported).unwrap()["layers"].as_array().unwrap().len();
        assert!(wait_until(SOON, || prefetched() >= known), "{} of {known}", prefetched());
        read(&daemon);
        assert_eq!(waits(scene), 0, "everything was there");

        profile(scene, &["rm", &reference]).succeeded();
        profile(scene, &["rm", &reference]).failed_with(&["no profile of", &reference]);
        assert!(listed(scene).is_empty());
    });
}

#[test]
fn a_profile_of_lies_costs_a_fetch_at_most() {
    scene(60, |scene| {
        scene.write("config.toml", &format!("{KEYS}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        let digest = Model::usual().blobs[0].digest;
        let lies = format!(
            "{{\"version\":1,\"image\":\"{reference}\",\"recorded\":1,\"starts\":1,\"layers\":[{{\"digest\":\"{digest}\",\
             \"spans\":[18446744073709551615,0,1,0,7]}}]}}"
        );
        let file = scene.write("lies.json", &lies);
        profile(scene, &["apply", file.to_str().unwrap()]).succeeded();
        let file = scene.write("junk.json", "{\"version\":9}");
        profile(scene, &["apply", file.to_str().unwrap()]).failed_with(&["junk.json", "not a profile"]);
        daemon.pull(&reference, Model::usual());
        Model::usual().assert_at(&daemon.stack());
    });
}
