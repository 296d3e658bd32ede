//! `stargz status`, `top` and `debug bundle` beside a running daemon.

use std::fs;
use std::process::Command;
use std::time::Duration;

use format::Digest;
use rustix::process::Signal;
use serde_json::Value;
use testkit::estargz::Blob;
use testkit::registry::{Fault, Rule};

use crate::harness::images::Model;
use crate::harness::{HASTY, Said, Scene, run, scene, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// Nothing is fetched that is not read.
pub const LAZY: &str = "noprefetch = true\nno_background_fetch = true\n";

fn stargz(scene: &Scene, args: &[&str]) -> Said {
    run(scene.stargz().args(args).arg("--root").arg(scene.path("root")), SOON)
}

fn status(scene: &Scene, args: &[&str]) -> Value {
    let said = stargz(scene, &[&["status", "--json"], args].concat()).succeeded();
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn a_layer_is_shown_with_how_far_it_is_and_who_uses_it() {
    scene(90, |scene| {
        scene.write("config.toml", &format!("{LAZY}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        let before = status(scene, &["--map"]);
        let layers = before["layers"].as_array().unwrap();
        assert_eq!(layers.len(), Model::usual().blobs.len());
        for layer in layers {
            assert_eq!((&layer["image"], &layer["format"]), (&reference.as_str().into(), &"estargz".into()));
            assert_eq!(layer["users"], 0, "{layer}");
        }
        assert!(layers.iter().any(|layer| layer["filled_percent"].as_f64() < Some(100.0)), "{before}");

        let stack = daemon.stack();
        Model::usual().assert_at(&stack);
        let after = status(scene, &["app", "--map"]);
        for layer in after["layers"].as_array().unwrap() {
            assert_eq!(
                (layer["filled_percent"].as_f64(), layer["users"].as_u64()),
                (Some(100.0), Some(1)),
                "{layer}"
            );
            assert!(
                layer["map"].as_array().unwrap().iter().all(|part| part.as_f64() == Some(1.0)),
                "{layer}"
            );
        }
        let facts = &after["daemon"];
        assert!(facts["waits"].as_u64() > Some(0) && facts["stall_seconds"].as_f64() > Some(0.0), "{facts}");
        assert_eq!((facts["failed"].as_u64(), facts["verification_failures"].as_u64()), (Some(0), Some(0)));
        assert_eq!(status(scene, &["no-such-image"])["layers"].as_array().unwrap().len(), 0);

        let table = stargz(scene, &["status", "--map"]).succeeded().stdout;
        assert!(table.contains("USED BY") && table.contains("100.0%") && table.contains('█'), "{table}");
        // What is no terminal gets one look.
        assert!(stargz(scene, &["top"]).succeeded().stdout.contains("100.0%"));
    });
}

#[test]
fn what_is_not_lazy_is_named_with_the_reason_and_the_last_error_with_its_layer() {
    scene(90, |scene| {
        scene.write("config.toml", &format!("{LAZY}{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        scene.registry.fault(Rule::new("/", Fault::Status(403)));
        let unknown = Blob { digest: Digest::of(b"not on this node"), ..Model::usual().blobs[0].clone() };
        assert!(daemon.refused("127.0.0.1:1/gone:1", &unknown));
        let stack = daemon.stack();
        assert!(!Model::usual().unreadable_at(&stack).is_empty());

        let now = status(scene, &[]);
        let refused = &now["refused"][0];
        assert_eq!(refused["image"], "127.0.0.1:1/gone:1", "{now}");
        assert!(refused["reason"].as_str().unwrap().len() > 10, "{refused}");
        let failed =
            now["layers"].as_array().unwrap().iter().find(|layer| !layer["last_error"].is_null()).unwrap();
        let error = failed["last_error"]["error"].as_str().unwrap();
        assert!(error.contains("403") && error.contains(failed["digest"].as_str().unwrap()), "{error}");
        assert!(now["daemon"]["failed"].as_u64() > Some(0));
        let table = stargz(scene, &["status"]).succeeded().stdout;
        assert!(table.contains("Not lazy") && table.contains("Last errors"), "{table}");
    });
}

#[test]
fn a_bundle_holds_what_helps_and_no_secret() {
    scene(60, |scene| {
        let secret = "[registry.configs.\"a.test\".auth]\nusername = \"u\"\npassword = \"topsecret\"\n";
        scene.write("config.toml", &format!("{LAZY}{HASTY}{secret}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        let file = scene.path("bundle.tar");
        let bundle = |file: &std::path::Path| {
            run(
                scene.stargz().args(["debug", "bundle"]).arg(file).arg("--root").arg(scene.path("root")),
                SOON,
            )
        };
        bundle(&file).succeeded();
        assert_eq!(bundle(&file).code, Some(1), "it is not overwritten");
        let bytes = fs::read(&file).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("topsecret"));
        let list = run(Command::new("tar").arg("-tf").arg(&file), SOON).succeeded().stdout;
        for name in
            ["config.toml", "status.json", "metrics.txt", "log.jsonl", "mountinfo.txt", "kernel/version.txt"]
        {
            assert!(list.contains(&format!("stargz-debug/{name}\n")), "{name}: {list}");
        }
        let of = |name: &str| {
            run(Command::new("tar").arg("-xOf").arg(&file).arg(format!("stargz-debug/{name}")), SOON)
                .succeeded()
                .stdout
        };
        assert!(
            of("config.toml").contains("(masked)") && of("log.jsonl").contains("remote-snapshot-prepared")
        );

        daemon.process.signal(Signal::INT);
        assert!(wait_until(SOON, || stargz(scene, &["status"]).code == Some(1)));
        stargz(scene, &["status"]).failed_with(&["no daemon runs", "--root"]);
        let alone = scene.path("alone.tar");
        bundle(&alone).succeeded();
    });
}
