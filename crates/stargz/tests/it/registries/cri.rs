//! Where the image service of the container runtime is shown. What passes through it is tested in `credentials`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

use crate::daemon::SOON;
use crate::harness::{Scene, scene};

/// Asks for the images at a socket.
fn list_images(socket: &Path) -> Result<(), Status> {
    let address = format!("unix://{}", socket.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel = Endpoint::new(address).expect("an address").connect().await.expect("somebody listens");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("the channel is open");
        let path = PathAndQuery::from_static("/runtime.v1.ImageService/ListImages");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        client.unary(Request::new(()), path, codec).await.map(|_| ())
    })
}

/// A configuration for a container runtime that does not run.
fn enabled(scene: &Scene, more: &str) -> String {
    let runtime = scene.path("runtime.sock");
    format!("[cri_keychain]\nenable_keychain = true\nimage_service_path = \"{}\"\n{more}", runtime.display())
}

#[track_caller]
fn assert_shown(scene: &Scene, socket: &str) {
    let status = list_images(&scene.path(socket)).expect_err("there is no container runtime");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("runtime.sock"), "{status}");
}

#[track_caller]
fn assert_not_shown(scene: &Scene, socket: &str) {
    let status = list_images(&scene.path(socket)).expect_err("nobody knows this service");
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}

#[test]
fn the_image_service_is_where_the_configuration_wants_it() {
    scene(40, |scene| {
        scene.write("config.toml", "");
        let daemon = scene.daemon();
        assert_not_shown(scene, "run/snapshots.sock");
        drop(daemon);

        scene.write("config.toml", &enabled(scene, ""));
        let daemon = scene.daemon();
        assert_shown(scene, "run/snapshots.sock");
        daemon.view("a view", "no such parent").expect_err("snapshots are served as well");
        drop(daemon);

        let own = format!("listen_path = \"{}\"\npersist = true\n", scene.path("cri/own.sock").display());
        scene.write("config.toml", &enabled(scene, &own));
        for _ in 0..2 {
            // The second one finds the socket of the first one, which was killed.
            let daemon = scene.daemon();
            assert_shown(scene, "cri/own.sock");
            assert_not_shown(scene, "run/snapshots.sock");
            drop(daemon);
        }
        let kept = fs::metadata(scene.path("root/credentials")).expect("it is made at the start");
        assert_eq!(kept.permissions().mode() & 0o777, 0o700);

        let daemon = scene.daemon();
        daemon.process.signal(Signal::INT);
        assert_eq!(daemon.process.end(SOON).code, Some(0));
        assert!(!scene.path("cri/own.sock").exists(), "nothing is left");
    });
}

#[test]
fn half_a_configuration_of_plugins_is_refused() {
    scene(20, |scene| {
        scene.write("config.toml", "[kubelet_credential_provider]\nbin_dir = \"/usr/libexec\"\n");
        let mut command = scene.called("containerd-stargz-grpc");
        command.arg("--root").arg(scene.path("root")).arg("--address").arg(scene.path("run/snapshots.sock"));
        let said = crate::harness::run(command.arg("--config").arg(scene.path("config.toml")), SOON);
        assert!(
            said.code == Some(1) && said.stderr.contains("needs both config_path and bin_dir"),
            "{said:#?}"
        );
    });
}
