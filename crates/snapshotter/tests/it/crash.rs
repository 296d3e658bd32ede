//! What a process leaves that dies between two steps, and what the next one makes of it. Mounts are real.

use std::{fs, future::Future, path::Path, sync::Arc};

use crate::common::{Labels, Life, Play, Root, mountpoints, refused, shown};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use tempfile::TempDir;
use tonic::Code;

/// A root and the content of the layers that get mounted in it; nothing without the right to mount.
fn stage() -> Option<(Root, TempDir)> {
    let (root, layer) = (Root::new(), tempfile::tempdir().unwrap());
    fs::write(layer.path().join("file"), "content of the layer").unwrap();
    fs::create_dir_all(root.fs(0)).unwrap();
    let allowed =
        mount_bind(layer.path(), root.fs(0)).and_then(|()| unmount(root.fs(0), UnmountFlags::empty()));
    fs::remove_dir_all(root.path()).unwrap();
    if let Err(error) = allowed {
        eprintln!("SKIPPED: needs the right to mount: {error}");
        return None;
    }
    Some((root, layer))
}

/// Runs `life` in a process of its own, as far as tasks go, that dies when `life` ends.
fn process<F: Future<Output = ()>>(life: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(life());
}

/// The next process: what is there after its start is what belongs there, and the layers can be read.
fn next_process(root: &Root, layer: &Path, dirs: &[&str], mounted: &[u64]) {
    process(|| async {
        let play = Arc::new(Play::real(layer));
        let life = Life::begin(root, &play).await;
        life.snapshotter.restore().await.unwrap();
        assert_eq!(root.dirs(), dirs);
        let mut found = mountpoints(&root.snapshots());
        found.sort();
        assert_eq!(found, mounted.iter().map(|id| root.fs(*id)).collect::<Vec<_>>());
        for id in mounted {
            assert_eq!(fs::read_to_string(root.fs(*id).join("file")).unwrap(), "content of the layer");
        }
        // Numbers go on, and everything works.
        life.prepare("after", "", Labels::new()).await.unwrap();
        refused(
            life.prepare_target("later", "", "sha256:after").await,
            Code::AlreadyExists,
            "target snapshot",
        );
        life.snapshotter.close().await.unwrap();
        assert_eq!(mountpoints(&root.snapshots()), [""; 0].map(Path::new));
        life.end().await;
    });
    // A close, or a crash, never costs what is in a layer.
    assert_eq!(fs::read_to_string(layer.join("file")).unwrap(), "content of the layer");
}

#[test]
fn while_a_layer_is_being_mounted() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let play = Arc::new(Play::real(layer.path()));
        let life = Life::begin(&root, &play).await;
        play.hold();
        tokio::select! {
            answer = life.prepare_target("extract", "", "sha256:1") => panic!("{answer:?}"),
            () = play.mounts_begun(1) => {}
        }
        assert_eq!(mountpoints(&root.snapshots()), [root.fs(1)]);
    });
    assert_eq!(mountpoints(&root.snapshots()), [root.fs(1)]);
    next_process(&root, layer.path(), &[], &[]);
}

#[test]
fn after_a_layer_was_committed() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::real(layer.path()))).await;
        refused(life.prepare_target("extract", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
        life.prepare("run", "sha256:1", Labels::new()).await.unwrap();
    });
    assert_eq!(mountpoints(&root.snapshots()), [root.fs(1)]);
    next_process(&root, layer.path(), &["1", "2"], &[1]);
}

#[test]
fn after_a_layer_was_removed_but_not_cleaned_up() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::real(layer.path()))).await;
        refused(life.prepare_target("extract", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
        life.remove("sha256:1").await.unwrap();
    });
    assert_eq!(mountpoints(&root.snapshots()), [root.fs(1)]);
    next_process(&root, layer.path(), &[], &[]);
}

#[test]
fn while_a_directory_is_being_made() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::real(layer.path()))).await;
        life.prepare("run", "", Labels::new()).await.unwrap();
    });
    // Two that were being put together, and one that was whole before its snapshot was stored.
    fs::create_dir_all(root.snapshots().join("new-2")).unwrap();
    fs::create_dir_all(root.snapshots().join("new-3/fs")).unwrap();
    fs::create_dir_all(root.fs(4)).unwrap();
    fs::create_dir_all(root.snapshots().join("4/work")).unwrap();
    next_process(&root, layer.path(), &["1"], &[]);
    assert_eq!(root.dirs(), ["1", "5"], "a number that a directory had is not used again");
}

#[test]
fn while_the_layers_are_being_closed() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::real(layer.path()))).await;
        refused(life.prepare_target("1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
        refused(
            life.prepare_target("2", "sha256:1", "sha256:2").await,
            Code::AlreadyExists,
            "target snapshot",
        );
        refused(
            life.prepare_target("3", "sha256:2", "sha256:3").await,
            Code::AlreadyExists,
            "target snapshot",
        );
    });
    // The first is gone, the second is unmounted.
    unmount(root.fs(1), UnmountFlags::empty()).unwrap();
    fs::remove_dir_all(root.snapshots().join("1")).unwrap();
    unmount(root.fs(2), UnmountFlags::empty()).unwrap();
    next_process(&root, layer.path(), &["1", "2", "3"], &[1, 2, 3]);
}

#[test]
fn mounts_on_top_of_each_other_all_go() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::real(layer.path()))).await;
        refused(life.prepare_target("1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
    });
    fs::create_dir(layer.path().join("inner")).unwrap();
    mount_bind(layer.path(), root.fs(1)).unwrap();
    mount_bind(layer.path(), root.fs(1).join("inner")).unwrap();
    assert_eq!(mountpoints(&root.snapshots()).len(), 3);
    next_process(&root, layer.path(), &["1"], &[1]);
}

#[test]
fn a_mount_that_its_filesystem_forgot_does_not_lose_its_content() {
    let Some((root, layer)) = stage() else { return };
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::real(layer.path()))).await;
        refused(life.prepare_target("1", "", "sha256:1").await, Code::AlreadyExists, "target snapshot");
        // The filesystem takes away one of the two.
        mount_bind(layer.path(), root.fs(1)).unwrap();
        life.remove("sha256:1").await.unwrap();
        life.cleanup().await.unwrap();
        assert_eq!(root.dirs(), [""; 0]);
        life.end().await;
    });
    assert_eq!(mountpoints(&root.snapshots()), [""; 0].map(Path::new));
    assert_eq!(fs::read_to_string(layer.path().join("file")).unwrap(), "content of the layer");
}

#[test]
fn snapshots_of_the_former_snapshotter_are_left_alone_while_its_database_is_there() {
    let root = Root::new();
    let foreign = root.path().join("metadata.db");
    fs::create_dir_all(root.fs(7)).unwrap();
    fs::write(root.fs(7).join("file"), "somebody's container").unwrap();
    fs::create_dir_all(root.snapshots().join("new-12")).unwrap();
    fs::write(&foreign, "bolt").unwrap();
    for _ in 0..2 {
        process(|| async {
            let life = Life::begin(&root, &Arc::new(Play::default())).await;
            life.snapshotter.restore().await.unwrap();
            let mounts = life.prepare("run", "", Labels::new()).await.unwrap();
            assert_eq!(shown(&mounts, &root), format!("bind S/{}/fs rw,rbind", root.dirs()[0]));
            life.remove("run").await.unwrap();
            life.cleanup().await.unwrap();
            assert_eq!(root.dirs(), ["7", "new-12"]);
            life.end().await;
        });
    }
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "bolt");
    assert_eq!(fs::read_to_string(root.fs(7).join("file")).unwrap(), "somebody's container");
    fs::remove_file(&foreign).unwrap();
    process(|| async {
        let life = Life::begin(&root, &Arc::new(Play::default())).await;
        life.snapshotter.restore().await.unwrap();
        assert_eq!(root.dirs(), [""; 0]);
        life.end().await;
    });
}
