//! Configuration: checked, refused, reloaded.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::images::Model;
use crate::harness::{HASTY, run, scene};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_reload_obeys_what_can_change_and_names_what_cannot() {
    scene(60, |scene| {
        scene.write("config.toml", &format!("noprefetch = true\nno_background_fetch = true\n{HASTY}"));
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let daemon = scene.daemon();
        daemon.pull(&reference, Model::usual());
        scene.write(
            "config.toml",
            &format!("noprefetch = true\nlog_level = \"trace\"\n{HASTY}[cache]\nmax_bytes = 900000000\n"),
        );
        daemon.process.signal(Signal::HUP);
        daemon.process.wait_for("configuration reloaded", SOON);
        daemon.process.wait_for("\"keys\":\"cache.max_bytes\"", SOON);
        // Layers that are mounted already are completed from now on.
        daemon.process.wait_for("completed to fetch all layer data in background", SOON);

        scene.write("config.toml", "noprefetch = 7\n");
        daemon.process.signal(Signal::HUP);
        daemon.process.wait_for("the configuration stays as it was", SOON);
        scene.write("config.toml", HASTY);
        daemon.process.signal(Signal::HUP);
        daemon.process.wait_for("log_level, no", SOON);
        Model::usual().assert_at(&daemon.stack());
    });
}

#[test]
fn a_strict_daemon_refuses_unknown_keys_and_so_does_the_check() {
    scene(60, |scene| {
        let file = scene.write("config.toml", "prefetch_sise = 3\n[fuse]\npassthrough = true\n");
        let mut command = scene.called("containerd-stargz-grpc");
        command.arg("--root").arg(scene.path("root")).arg("--address").arg(scene.path("run/snapshots.sock"));
        command.arg("--config").arg(&file).args(["--strict-config", "--log-format=text"]);
        let said = run(&mut command, SOON);
        assert_eq!(said.code, Some(1), "{said:#?}");
        assert!(
            said.stderr.contains("refuses") && said.stderr.contains("did you mean prefetch_size?"),
            "{said:#?}"
        );

        let check =
            |flags: &[&str]| run(scene.stargz().args(["config", "check"]).arg(&file).args(flags), SOON);
        let said = check(&[]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        assert!(
            said.stderr.contains("config.toml:1: unknown key") && said.stderr.contains("fuse has no effect"),
            "{said:#?}"
        );
        assert_eq!(check(&["--strict"]).code, Some(1));
        let default = run(scene.stargz().args(["config", "default"]), SOON).succeeded().stdout;
        let file = scene.write("default.toml", &default);
        run(scene.stargz().args(["config", "check", "--strict"]).arg(file), SOON).succeeded();
    });
}
