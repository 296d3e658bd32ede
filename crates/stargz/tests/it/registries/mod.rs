//! Registries that have to be found and convinced: mirrors, private authorities, passwords, IPFS.

mod cri;
mod ipfs;
mod tls;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use testkit::registry::Auth;

use crate::daemon::SOON;
use crate::harness::images::{Model, below};
use crate::harness::{HASTY, Scene, run, scene};

const PASSWORDS: [&str; 2] = ["hunter2-the-first", "hunter2-the-second"];

/// The configuration of a scene whose directories of hosts are in `certs.d`.
fn with_hosts(scene: &Scene) -> String {
    format!("[registry]\nconfig_path = \"{}\"\n{HASTY}", scene.path("certs.d").display())
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

#[test]
fn the_first_mirror_of_hosts_toml_is_down_and_the_host_has_an_authority_of_its_own() {
    scene(40, |scene| {
        let model = Model::usual();
        scene.registry.push("app", "1", &model.image);
        let front = tls::Front::before(scene.registry.addr());
        scene.write("config.toml", &with_hosts(scene));
        let hosts = |rest: &str| {
            let text =
                format!("server = \"https://{}\"\n{rest}[host.\"http://{}\"]\n", front.host(), nobody());
            scene.write("certs.d/registry.example/hosts.toml", &text);
        };
        // Without its certificate the authority is nobody.
        hosts("");
        let dir = scene.mount_point("mnt");
        scene.try_mount("registry.example/app:1", &dir).failed_with(&["authority", &front.host()]);
        scene.write("certs.d/registry.example/own.pem", front.authority());
        hosts("ca = \"own.pem\"\n");
        scene.mount_at("registry.example/app:1", &dir, &[]);
        model.assert_at(&dir);
        let asked = scene.registry.requests();
        assert!(asked.iter().all(|request| request.query.contains("ns=registry.example")), "{asked:?}");
        assert_eq!(scene.umount(&dir, &[]).code, Some(0));
    });
}

#[test]
fn a_mirror_of_the_cri_settings_is_used_with_the_credential_beside_it() {
    scene(40, |scene| {
        scene.registry.push("app", "1", &Model::usual().image);
        scene.registry.set_auth(basic(PASSWORDS[0]));
        let host = scene.registry.host();
        let config = format!(
            "[registry.mirrors.\"registry.example\"]\nendpoint = [\"http://{}\", \"http://{host}\"]\n\
             [registry.configs.\"{host}\".auth]\nusername = \"user\"\npassword = \"{}\"\n{HASTY}",
            nobody(),
            PASSWORDS[0],
        );
        scene.write("config.toml", &config);
        Model::usual().assert_at(&scene.mount("registry.example/app:1"));
    });
}

#[test]
fn a_plugin_of_the_kubelet_gives_the_password() {
    scene(40, |scene| {
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        scene.registry.set_auth(basic(PASSWORDS[0]));
        let plugins = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  \
             apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: [\"{}\"]\n  \
             defaultCacheDuration: 1h\n",
            scene.registry.host(),
        );
        scene.write("kubelet/config.yaml", &plugins);
        let answer = format!(
            "{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\
             \"cacheKeyType\":\"Registry\",\"auth\":{{\"{}\":{{\"username\":\"user\",\"password\":\"{}\"}}}}}}",
            scene.registry.host(),
            PASSWORDS[0],
        );
        let script = format!("#!/bin/sh\ncat >/dev/null\necho '{answer}'\n");
        let text = scene.write("kubelet/bin/text", &script);
        // Written by another process: one that this process has open may not be run by a child that just starts.
        let mut install = Command::new("install");
        run(install.args(["-m", "755"]).arg(text).arg(scene.path("kubelet/bin/plugin")), SOON).succeeded();
        let config = format!(
            "[kubelet_credential_provider]\nconfig_path = \"{}\"\nbin_dir = \"{}\"\n{HASTY}",
            scene.path("kubelet/config.yaml").display(),
            scene.path("kubelet/bin").display(),
        );
        scene.write("config.toml", &config);
        Model::usual().assert_at(&scene.mount(&reference));
    });
}

#[test]
fn a_password_that_changes_while_the_image_is_mounted_is_read_again() {
    scene(40, |scene| {
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        scene.write("config.toml", &format!("noprefetch = true\nno_background_fetch = true\n{HASTY}"));
        rotate(scene, PASSWORDS[0]);
        let daemon = scene.daemon();
        daemon.pull(&reference, model);
        let container = daemon.stack();
        read(model, &container, "etc/motd");
        scene.registry.clear_requests();
        rotate(scene, PASSWORDS[1]);
        model.assert_at(&container);
        assert!(!scene.registry.requests().is_empty(), "something was still missing");
        let said = daemon.process.stderr();
        assert!(PASSWORDS.iter().all(|password| !said.contains(password)), "a password is in the log");
    });
}

#[test]
fn a_registry_that_is_gone_is_noticed_before_a_start_if_that_is_wanted() {
    scene(40, |scene| {
        let model = Model::usual();
        let reference = scene.registry.push("app", "1", &model.image);
        let on_demand = "noprefetch = true\nno_background_fetch = true\n";
        for (number, (blob, noticed)) in
            [("", false), ("check_always = true\n", true)].into_iter().enumerate()
        {
            scene.registry.set_auth(Auth::Anonymous);
            scene.write(
                "config.toml",
                &format!("{on_demand}{}", HASTY.replace("[blob]", &format!("[blob]\n{blob}"))),
            );
            let mut daemon = scene.daemon();
            if !noticed {
                daemon.pull(&reference, model);
            }
            daemon.view(&format!("good-{number}"), "sha256:chain-2").expect("all is well");
            scene.registry.set_auth(basic(PASSWORDS[0]));
            let answer = daemon.view(&format!("bad-{number}"), "sha256:chain-2");
            assert_eq!(answer.is_err(), noticed, "{answer:?}");
            daemon.process.signal(rustix::process::Signal::TERM);
            crate::harness::wait_until(SOON, || daemon.process.has_ended());
        }
    });
}

fn basic(password: &str) -> Auth {
    Auth::Basic { user: "user".to_owned(), password: password.to_owned() }
}

/// Gives the registry a password, and tells docker's configuration file.
fn rotate(scene: &Scene, password: &str) {
    scene.registry.set_auth(basic(password));
    let host = scene.registry.host();
    let text =
        format!("{{\"auths\": {{\"{host}\": {{\"username\": \"user\", \"password\": \"{password}\"}}}}}}");
    let new = scene.write("docker/config.json.new", &text);
    fs::rename(new, scene.path("docker/config.json")).expect("both are in one directory");
}

#[track_caller]
fn read(model: &Model, dir: &Path, path: &str) {
    let right = model.merged.get(path.as_bytes()).and_then(|entry| entry.content()).expect("a file");
    assert!(fs::read(below(dir, path.as_bytes())).expect("it can be read") == *right, "{path}");
}
