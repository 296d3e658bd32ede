//! Lazily mounted layers: how they are made, when they can be used, and what failures leave.

use std::{sync::Arc, time::Duration};

use crate::common::{Labels, Life, Play, REMOTE, Root, TARGET, labels, refused, shown};
use snapshotter::{Options, Usage, proto::snapshots::Kind};
use tonic::Code;

async fn begin() -> (Root, Arc<Play>, Life) {
    let (root, play) = (Root::new(), Arc::new(Play::default()));
    let life = Life::begin(&root, &play).await;
    (root, play, life)
}

#[tokio::test]
async fn a_target_is_mounted_and_committed_at_once() {
    let (root, play, life) = begin().await;
    let asked = labels(&[(TARGET, "sha256:1"), ("containerd.io/snapshot/cri.image-ref", "example.com/a:1")]);
    let answer = life.prepare("extract 1", "", asked.clone()).await;
    refused(answer, Code::AlreadyExists, "target snapshot \"sha256:1\": already exists");
    assert_eq!(play.calls(), ["mount 1"]);
    assert_eq!(play.labels(), asked);

    let info = life.stat("sha256:1").await.unwrap();
    assert_eq!((info.kind(), info.parent.as_str()), (Kind::Committed, ""));
    let mut kept = asked;
    kept.insert(REMOTE.to_owned(), "remote snapshot".to_owned());
    assert_eq!(info.labels, kept);
    refused(life.stat("extract 1").await, Code::NotFound, "does not exist");
    let usage = life.usage("sha256:1").await.unwrap();
    assert_eq!((usage.size, usage.inodes), (0, 0));
    play.takes(Usage { size: 4096, inodes: 5 });
    let usage = life.usage("sha256:1").await.unwrap();
    assert_eq!((usage.size, usage.inodes), (4096, 5));
    // What containerd asks next.
    let filter = r#"labels."containerd.io/snapshot.ref"==sha256:1,parent=="""#;
    assert_eq!(life.names(&[filter]).await, ["sha256:1"]);

    refused(life.prepare_target("extract 2", "sha256:1", "sha256:2").await, Code::AlreadyExists, "sha256:2");
    let mounts = life.prepare("run", "sha256:2", Labels::new()).await.unwrap();
    assert_eq!(
        shown(&mounts, &root),
        "overlay overlay workdir=S/3/work,upperdir=S/3/fs,lowerdir=S/2/fs:S/1/fs"
    );
    let mut calls = play.calls();
    calls[1..].sort();
    assert_eq!(calls, ["mount 2", "check 1", "check 2"]);
}

#[tokio::test]
async fn a_target_that_is_ready_is_not_mounted_again() {
    let (root, play, life) = begin().await;
    for key in ["extract 1", "extract 2"] {
        refused(life.prepare_target(key, "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    }
    assert_eq!(play.calls(), ["mount 1"]);
    assert_eq!(root.dirs(), ["1"]);
}

#[tokio::test]
async fn a_target_that_is_taken_on_another_parent_is_unpacked() {
    let (_root, play, life) = begin().await;
    refused(life.prepare_target("extract 1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    life.committed("base", "").await;
    // "Already exists" would make containerd look for it on this parent, in vain.
    life.prepare_target("extract 2", "base", "sha256:1").await.unwrap();
    life.prepare_target("extract 3", "", "extract 2").await.unwrap();
    assert_eq!(play.calls(), ["mount 1"]);
    assert_eq!(life.stat("extract 2").await.unwrap().labels, labels(&[(TARGET, "sha256:1")]));
}

#[tokio::test]
async fn a_layer_that_cannot_be_mounted_is_unpacked() {
    let (root, play, life) = begin().await;
    refused(life.prepare_target("extract 1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    play.fail_mounts_of("sha256:2", true);
    let mounts = life.prepare_target("extract 2", "sha256:1", "sha256:2").await.unwrap();
    assert_eq!(shown(&mounts, &root), "overlay overlay workdir=S/3/work,upperdir=S/3/fs,lowerdir=S/1/fs");
    assert_eq!(root.dirs(), ["1", "3"]);
    assert_eq!(play.mounted(), ["1"]);
    // Chains may mix.
    life.commit("extract 2", "unpacked").await.unwrap();
    refused(
        life.prepare_target("extract 3", "unpacked", "sha256:3").await,
        Code::AlreadyExists,
        "target snapshot",
    );
    let mounts = life.view("look", "sha256:3").await.unwrap();
    assert_eq!(shown(&mounts, &root), "overlay overlay lowerdir=S/4/fs:S/3/fs:S/1/fs");
}

#[tokio::test]
async fn a_mount_that_takes_too_long_is_given_up() {
    let (root, play) = (Root::new(), Arc::new(Play::default()));
    let options = Options { mount_timeout: Duration::from_millis(50), ..root.options() };
    let life = Life::with_options(options, &play).await;
    play.hold();
    let mounts = life.prepare_target("extract 1", "", "sha256:1").await.unwrap();
    assert_eq!(shown(&mounts, &root), "bind S/2/fs rw,rbind");
    assert_eq!(play.calls(), ["mount 1", "unmount 1"]);
    assert_eq!((root.dirs(), play.mounted()), (vec!["2".to_owned()], vec![]));
}

#[tokio::test]
async fn mistakes_in_the_request_are_refused_without_a_mount() {
    let (root, play, life) = begin().await;
    life.prepare("run", "", Labels::new()).await.unwrap();
    refused(life.prepare_target("x", "nobody", "t").await, Code::NotFound, "\"nobody\"");
    refused(life.prepare_target("x", "run", "t").await, Code::InvalidArgument, "not a committed snapshot");
    refused(life.prepare_target("run", "", "t").await, Code::AlreadyExists, "\"run\"");
    refused(life.prepare_target("", "", "t").await, Code::InvalidArgument, "must not be empty");
    refused(
        life.prepare("x", "", labels(&[(TARGET, "t"), ("l", &"v".repeat(5000))])).await,
        Code::InvalidArgument,
        "bytes",
    );
    assert_eq!(play.calls(), [""; 0]);
    assert_eq!(root.dirs(), ["1"]);
}

#[tokio::test]
async fn two_clients_that_want_the_same_layer_both_get_it() {
    let (root, play, life) = begin().await;
    play.hold();
    let (first, second, ()) = tokio::join!(
        life.prepare_target("extract 1", "", "sha256:1"),
        life.prepare_target("extract 2", "", "sha256:1"),
        async {
            play.mounts_begun(2).await;
            play.let_go();
        }
    );
    refused(first, Code::AlreadyExists, "target snapshot");
    refused(second, Code::AlreadyExists, "target snapshot");
    assert_eq!((play.mounted().len(), root.dirs().len()), (1, 1));
    assert_eq!(play.mounted(), root.dirs());
    assert_eq!(life.names(&[]).await, ["sha256:1"]);
}

#[tokio::test]
async fn a_client_that_gives_up_does_not_stop_the_mount() {
    let (_root, play, life) = begin().await;
    play.hold();
    tokio::select! {
        answer = life.prepare_target("extract 1", "", "sha256:1") => panic!("{answer:?}"),
        () = play.mounts_begun(1) => {}
    }
    play.let_go();
    // The same call again finds the layer ready or on its way.
    refused(life.prepare_target("extract 2", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    assert_eq!(life.names(&[]).await, ["sha256:1"]);
}

#[tokio::test]
async fn cleanup_leaves_alone_what_is_being_made() {
    let (root, play, life) = begin().await;
    play.hold();
    let (answer, ()) = tokio::join!(life.prepare_target("extract 1", "", "sha256:1"), async {
        play.mounts_begun(1).await;
        life.cleanup().await.unwrap();
        assert_eq!(root.dirs(), ["1"]);
        play.let_go();
    });
    refused(answer, Code::AlreadyExists, "target snapshot");
    life.cleanup().await.unwrap();
    assert_eq!((play.mounted(), root.dirs()), (vec!["1".to_owned()], vec!["1".to_owned()]));
    life.remove("sha256:1").await.unwrap();
    assert_eq!(play.mounted(), ["1"]);
    life.cleanup().await.unwrap();
    assert!(play.mounted().is_empty() && root.dirs().is_empty());
}

#[tokio::test]
async fn nothing_starts_on_a_layer_that_cannot_be_read() {
    let (root, play, life) = begin().await;
    refused(life.prepare_target("extract 1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    life.prepare("run", "sha256:1", Labels::new()).await.unwrap();
    play.fail_checks(true);
    let words = "layer \"sha256:1\" (snapshot 1) unavailable: layer is gone";
    refused(life.mounts("run").await, Code::Unavailable, words);
    refused(life.prepare("x", "sha256:1", Labels::new()).await, Code::Unavailable, words);
    refused(life.view("x", "sha256:1").await, Code::Unavailable, words);
    assert_eq!(root.dirs(), ["1", "2"]);
    play.fail_checks(false);
    life.mounts("run").await.unwrap();
    life.view("x", "sha256:1").await.unwrap();
}

#[tokio::test]
async fn a_check_has_a_deadline() {
    let (root, play) = (Root::new(), Arc::new(Play::default()));
    let options = Options { check_timeout: Duration::from_millis(50), ..root.options() };
    let life = Life::with_options(options, &play).await;
    refused(life.prepare_target("extract 1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    play.stall_checks();
    refused(life.view("x", "sha256:1").await, Code::Unavailable, "check did not end within 50ms");
}

/// Three layers, each on the one before.
async fn chain(life: &Life) {
    for (key, parent, target) in
        [("1", "", "sha256:1"), ("2", "sha256:1", "sha256:2"), ("3", "sha256:2", "sha256:3")]
    {
        refused(life.prepare_target(key, parent, target).await, Code::AlreadyExists, "target snapshot");
    }
}

#[tokio::test]
async fn a_restart_mounts_everything_again() {
    let (root, _play, life) = begin().await;
    chain(&life).await;
    life.prepare("run", "sha256:3", Labels::new()).await.unwrap();
    life.end().await;

    let play = Arc::new(Play::default());
    let life = Life::begin(&root, &play).await;
    play.hold();
    // All are under way before the first ends.
    let (report, ()) = tokio::join!(life.snapshotter.restore(), async {
        play.mounts_begun(3).await;
        play.let_go();
    });
    let report = report.unwrap();
    assert_eq!((report.restored, report.failed.len()), (3, 0));
    assert_eq!(play.mounted(), ["1", "2", "3"]);
    assert_eq!(play.labels().get(REMOTE).map(String::as_str), Some("remote snapshot"));
    life.mounts("run").await.unwrap();
}

#[tokio::test]
async fn one_bad_layer_does_not_keep_the_others_from_being_restored() {
    let (root, _play, life) = begin().await;
    chain(&life).await;
    life.prepare("run", "sha256:3", Labels::new()).await.unwrap();
    life.prepare("below", "sha256:1", Labels::new()).await.unwrap();
    life.end().await;

    for allow in [false, true] {
        let play = Arc::new(Play::default());
        play.fail_mounts_of("sha256:2", true);
        let options = Options { allow_invalid_mounts_on_restart: allow, ..root.options() };
        let life = Life::with_options(options, &play).await;
        match life.snapshotter.restore().await {
            Ok(report) => {
                assert!(allow);
                assert_eq!(
                    (report.restored, report.failed[0].name.as_str(), report.failed[0].id),
                    (2, "sha256:2", 2)
                );
            }
            Err(error) => {
                assert!(!allow);
                let words = "snapshot \"sha256:2\" (number 2): cannot mount the layer: registry is away";
                assert!(error.to_string().contains(words), "{error}");
            }
        }
        assert_eq!(play.mounted(), ["1", "3"]);
        life.mounts("below").await.unwrap();
        let words = "layer \"sha256:2\" (snapshot 2) unavailable: cannot mount the layer: registry is away";
        refused(life.mounts("run").await, Code::Unavailable, words);
        // It is tried again, with success this time.
        play.fail_mounts_of("sha256:2", false);
        life.mounts("run").await.unwrap();
        assert_eq!(play.mounted(), ["1", "2", "3"]);
        life.end().await;
    }
}

#[tokio::test]
async fn whoever_needs_a_layer_at_once_shares_one_attempt() {
    let (root, _play, life) = begin().await;
    chain(&life).await;
    life.prepare("run", "sha256:1", Labels::new()).await.unwrap();
    life.end().await;

    let play = Arc::new(Play::default());
    let life = Life::begin(&root, &play).await;
    play.hold();
    play.fail_mounts_of("sha256:1", true);
    let all = futures_util::future::join_all((0..8).map(|_| life.mounts("run")));
    let (answers, ()) = tokio::join!(all, async {
        play.mounts_begun(1).await;
        // Time for the others to make attempts of their own, if they did.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(play.calls(), ["mount 1"]);
        play.let_go();
    });
    for answer in answers {
        refused(answer, Code::Unavailable, "registry is away");
    }
}

#[tokio::test]
async fn closing_unmounts_and_a_later_start_mounts_again() {
    let (root, play, life) = begin().await;
    chain(&life).await;
    life.prepare("run", "sha256:3", Labels::new()).await.unwrap();
    life.prepare("gone", "sha256:3", Labels::new()).await.unwrap();
    life.remove("gone").await.unwrap();
    let report = life.snapshotter.close().await.unwrap();
    assert_eq!((report.unmounted, report.failed), (3, 0));
    assert_eq!((play.mounted(), root.dirs()), (vec![], vec!["4".to_owned()]));
    // Nothing gets mounted any more.
    refused(life.mounts("run").await, Code::Unavailable, "shutting down");
    refused(life.prepare_target("4", "", "sha256:4").await, Code::Unavailable, "shutting down");
    life.end().await;

    let life = Life::begin(&root, &play).await;
    life.snapshotter.restore().await.unwrap();
    assert_eq!(
        (play.mounted(), root.dirs().len()),
        (vec!["1".to_owned(), "2".to_owned(), "3".to_owned()], 4)
    );
    life.mounts("run").await.unwrap();
}

#[tokio::test]
async fn closing_waits_for_what_is_being_made() {
    let (root, play, life) = begin().await;
    play.hold();
    let (answer, report) = tokio::join!(life.prepare_target("1", "", "sha256:1"), async {
        play.mounts_begun(1).await;
        let (report, ()) = tokio::join!(life.snapshotter.close(), async { play.let_go() });
        report.unwrap()
    });
    refused(answer, Code::AlreadyExists, "target snapshot");
    assert_eq!((report.unmounted, play.mounted(), root.dirs()), (1, vec![], vec![]));
}
