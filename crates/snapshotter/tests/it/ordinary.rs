//! What containerd expects of any snapshotter: every call and every refusal, over a real socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::common::{Labels, Life, Play, Root, labels, refused, shown};
use snapshotter::proto::snapshots::{CommitSnapshotRequest, Kind};
use tonic::Code;

async fn begin() -> (Root, Life) {
    let root = Root::new();
    let life = Life::begin(&root, &Arc::new(Play::default())).await;
    (root, life)
}

#[tokio::test]
async fn a_chain_grows_from_nothing() {
    let (root, life) = begin().await;
    let mounts = life.prepare("extract 1", "", Labels::new()).await.unwrap();
    assert_eq!(shown(&mounts, &root), "bind S/1/fs rw,rbind");
    assert_eq!(life.mounts("extract 1").await.unwrap(), mounts);
    life.commit("extract 1", "base").await.unwrap();

    let mounts = life.prepare("extract 2", "base", Labels::new()).await.unwrap();
    assert_eq!(shown(&mounts, &root), "overlay overlay workdir=S/2/work,upperdir=S/2/fs,lowerdir=S/1/fs");
    life.commit("extract 2", "top").await.unwrap();

    let mounts = life.prepare("run", "top", Labels::new()).await.unwrap();
    assert_eq!(
        shown(&mounts, &root),
        "overlay overlay workdir=S/3/work,upperdir=S/3/fs,lowerdir=S/2/fs:S/1/fs"
    );
    assert_eq!(shown(&life.view("low", "base").await.unwrap(), &root), "bind S/1/fs ro,rbind");
    assert_eq!(
        shown(&life.view("all", "top").await.unwrap(), &root),
        "overlay overlay lowerdir=S/2/fs:S/1/fs"
    );
    assert_eq!(shown(&life.view("none", "").await.unwrap(), &root), "bind S/6/fs ro,rbind");
    assert_eq!(shown(&life.mounts("all").await.unwrap(), &root), "overlay overlay lowerdir=S/2/fs:S/1/fs");
    assert_eq!(life.names(&[]).await, ["all", "base", "low", "none", "run", "top"]);
}

#[tokio::test]
async fn directories_have_the_modes_of_the_overlay_snapshotter() {
    let (root, life) = begin().await;
    life.prepare("run", "", Labels::new()).await.unwrap();
    life.view("look", "").await.unwrap();
    let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("snapshots"), 0o700);
    assert_eq!(mode("snapshots.redb"), 0o600);
    assert_eq!(mode("snapshots/1"), 0o700);
    assert_eq!(mode("snapshots/1/fs"), 0o755);
    assert_eq!(mode("snapshots/1/work"), 0o711);
    assert!(!root.path().join("snapshots/2/work").exists());
}

#[tokio::test]
async fn a_new_root_directory_belongs_to_the_owner_of_the_parents() {
    let (root, life) = begin().await;
    life.committed("base", "").await;
    if chown(root.fs(1), Some(1234), Some(567)).is_err() {
        eprintln!("SKIPPED: needs root to give a directory away");
        return;
    }
    life.prepare("run", "base", Labels::new()).await.unwrap();
    let made = fs::metadata(root.fs(2)).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 567));
}

#[tokio::test]
async fn stat_tells_what_is_known() {
    let (_root, life) = begin().await;
    life.committed("base", "").await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    life.prepare("run", "base", labels(&[("a", "b"), ("empty", "")])).await.unwrap();
    let info = life.stat("run").await.unwrap();
    assert_eq!((info.name.as_str(), info.parent.as_str(), info.kind()), ("run", "base", Kind::Active));
    assert_eq!(info.labels, labels(&[("a", "b")]));
    assert_eq!(info.created_at, info.updated_at);
    let created = u64::try_from(info.created_at.unwrap().seconds).unwrap();
    assert!((before..before + 60).contains(&created));
    assert_eq!(life.stat("base").await.unwrap().kind(), Kind::Committed);
    life.view("look", "base").await.unwrap();
    assert_eq!(life.stat("look").await.unwrap().kind(), Kind::View);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_code_that_containerd_knows() {
    let (root, life) = begin().await;
    life.committed("base", "").await;
    life.prepare("run", "base", Labels::new()).await.unwrap();
    life.view("look", "base").await.unwrap();

    let none = Labels::new;
    refused(life.prepare("x", "nobody", none()).await, Code::NotFound, "\"nobody\" does not exist");
    refused(life.prepare("x", "run", none()).await, Code::InvalidArgument, "not a committed snapshot");
    refused(life.prepare("run", "", none()).await, Code::AlreadyExists, "\"run\": already exists");
    refused(life.prepare("base", "", none()).await, Code::AlreadyExists, "already exists");
    refused(life.prepare("", "", none()).await, Code::InvalidArgument, "must not be empty");
    refused(life.prepare(&"x".repeat(40_000), "", none()).await, Code::InvalidArgument, "40000 bytes");
    let long = labels(&[("key", &"v".repeat(4094))]);
    refused(life.prepare("x", "", long.clone()).await, Code::InvalidArgument, "4097 bytes");
    refused(life.view("x", "look").await, Code::InvalidArgument, "not a committed snapshot");
    refused(life.view("look", "").await, Code::AlreadyExists, "already exists");

    refused(life.mounts("nobody").await, Code::NotFound, "does not exist");
    refused(life.mounts("base").await, Code::FailedPrecondition, "committed");

    refused(life.commit("nobody", "x").await, Code::NotFound, "\"nobody\" does not exist");
    refused(life.commit("run", "base").await, Code::AlreadyExists, "\"base\": already exists");
    refused(life.commit("look", "x").await, Code::FailedPrecondition, "not active");
    refused(life.commit("base", "x").await, Code::FailedPrecondition, "not active");
    refused(life.commit("run", "").await, Code::InvalidArgument, "must not be empty");
    let commit = CommitSnapshotRequest {
        key: "run".into(),
        name: "x".into(),
        labels: long.clone(),
        ..Default::default()
    };
    refused(life.commit_with(commit).await, Code::InvalidArgument, "4097 bytes");
    let commit = CommitSnapshotRequest {
        key: "run".into(),
        name: "x".into(),
        parent: "look".into(),
        ..Default::default()
    };
    refused(life.commit_with(commit).await, Code::InvalidArgument, "cannot change the parent");

    refused(life.remove("nobody").await, Code::NotFound, "does not exist");
    refused(life.remove("base").await, Code::FailedPrecondition, "cannot remove snapshot with child");
    refused(life.stat("nobody").await, Code::NotFound, "does not exist");
    refused(life.usage("nobody").await, Code::NotFound, "does not exist");
    refused(life.update("nobody", none(), &[]).await, Code::NotFound, "does not exist");
    refused(life.update("base", none(), &["parent"]).await, Code::InvalidArgument, "only labels can change");
    refused(life.update("base", long, &["labels"]).await, Code::InvalidArgument, "4097 bytes");
    refused(life.list(&["name==a,"]).await, Code::InvalidArgument, "cannot parse filter");

    // None of that left anything behind.
    assert_eq!(life.names(&[]).await, ["base", "look", "run"]);
    assert_eq!(root.dirs(), ["1", "2", "3"]);
}

#[tokio::test]
async fn labels_change_as_far_as_the_paths_say() {
    let (_root, life) = begin().await;
    life.prepare("run", "", labels(&[("a", "1"), ("b", "2")])).await.unwrap();
    let created = life.stat("run").await.unwrap().created_at;

    let info = life
        .update("run", labels(&[("a", "9"), ("c.d", "3"), ("ignored", "x")]), &["labels.a", "labels.c.d"])
        .await;
    assert_eq!(info.unwrap().labels, labels(&[("a", "9"), ("b", "2"), ("c.d", "3")]));
    let info = life.update("run", Labels::new(), &["labels.a"]).await;
    assert_eq!(info.unwrap().labels, labels(&[("b", "2"), ("c.d", "3")]));
    let info = life.update("run", labels(&[("x", "y"), ("empty", "")]), &["labels"]).await;
    assert_eq!(info.unwrap().labels, labels(&[("x", "y")]));
    let info = life.update("run", labels(&[("z", "0")]), &[]).await.unwrap();
    assert_eq!(info.labels, labels(&[("z", "0")]));
    assert_eq!(info, life.stat("run").await.unwrap());
    assert_eq!(info.created_at, created);
    let nanos = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
    assert!(nanos(info.updated_at) > nanos(info.created_at));
}

#[tokio::test]
async fn commit_replaces_labels_and_measures() {
    let (root, life) = begin().await;
    life.prepare("extract", "", labels(&[("a", "1")])).await.unwrap();
    let empty = life.usage("extract").await.unwrap();
    assert_eq!(empty.inodes, 1);
    fs::write(root.fs(1).join("file"), vec![1; 1 << 20]).unwrap();
    fs::File::open(root.fs(1).join("file")).unwrap().sync_all().unwrap();
    let used = life.usage("extract").await.unwrap();
    assert_eq!(used.inodes, 2);
    assert!(used.size >= 1 << 20);

    let labels = labels(&[("b", "2")]);
    let commit = CommitSnapshotRequest {
        key: "extract".into(),
        name: "base".into(),
        labels: labels.clone(),
        ..Default::default()
    };
    life.commit_with(commit).await.unwrap();
    assert_eq!(life.stat("base").await.unwrap().labels, labels);
    refused(life.stat("extract").await, Code::NotFound, "does not exist");
    // From now on it is what is stored that counts.
    fs::remove_file(root.fs(1).join("file")).unwrap();
    assert_eq!(life.usage("base").await.unwrap(), used);
    life.view("look", "base").await.unwrap();
    assert_eq!(life.usage("look").await.unwrap().inodes, 0);
}

#[tokio::test]
async fn a_parent_can_be_given_at_commit() {
    let (root, life) = begin().await;
    life.prepare("extract 2", "", Labels::new()).await.unwrap();
    life.committed("base", "").await;
    let commit = CommitSnapshotRequest {
        key: "extract 2".into(),
        name: "top".into(),
        parent: "base".into(),
        ..Default::default()
    };
    life.commit_with(commit).await.unwrap();
    assert_eq!(
        shown(&life.view("all", "top").await.unwrap(), &root),
        "overlay overlay lowerdir=S/1/fs:S/2/fs"
    );
}

#[tokio::test]
async fn a_list_comes_in_parts_and_filtered() {
    let (_root, life) = begin().await;
    life.committed("base", "").await;
    for number in 0..230 {
        life.prepare(&format!("run {number:03}"), "base", Labels::new()).await.unwrap();
    }
    let parts = life.list(&[]).await.unwrap();
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 31]);
    assert_eq!(life.names(&["kind==active,name~=9$"]).await.len(), 23);
    assert_eq!(life.names(&["name==base", r#"name=="run 007""#]).await, ["base", "run 007"]);
    assert_eq!(life.list(&["name==nobody"]).await.unwrap(), Vec::<Vec<_>>::new());
}

#[tokio::test]
async fn a_part_of_a_list_stays_small_although_labels_are_long() {
    let (_root, life) = begin().await;
    for number in 0..40 {
        let labels = (0..20).map(|label| (label.to_string(), "v".repeat(4000))).collect();
        life.prepare(&format!("run {number:02}"), "", labels).await.unwrap();
    }
    let parts = life.list(&[]).await.unwrap();
    assert!(parts.len() > 2, "{} parts", parts.len());
    let names: Vec<_> = parts.into_iter().flatten().map(|info| info.name).collect();
    assert_eq!(names, (0..40).map(|number| format!("run {number:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn cleanup_frees_what_remove_left() {
    let (root, life) = begin().await;
    life.committed("base", "").await;
    life.prepare("run", "base", Labels::new()).await.unwrap();
    fs::create_dir_all(root.fs(2).join("deep/er")).unwrap();
    fs::create_dir(root.snapshots().join("lost+found")).unwrap();
    life.remove("run").await.unwrap();
    assert_eq!(root.dirs(), ["1", "2", "lost+found"]);
    life.cleanup().await.unwrap();
    assert_eq!(root.dirs(), ["1", "lost+found"]);
    life.cleanup().await.unwrap();
    life.remove("base").await.unwrap();
    life.cleanup().await.unwrap();
    assert_eq!(root.dirs(), ["lost+found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_get_what_they_asked_for() {
    let (root, life) = begin().await;
    life.committed("base", "").await;
    let life = Arc::new(life);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32 {
        let life = life.clone();
        tasks.spawn(async move {
            let key = format!("run {number}");
            let mounts = life.prepare(&key, "base", Labels::new()).await.unwrap();
            assert_eq!(life.mounts(&key).await.unwrap(), mounts);
            life.cleanup().await.unwrap();
            if number % 2 == 0 {
                life.remove(&key).await.unwrap();
            }
            life.cleanup().await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(life.names(&["kind==active"]).await.len(), 16);
    assert_eq!(root.dirs().len(), 17);
}

#[tokio::test]
async fn a_root_that_overlays_cannot_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a:b", "a,b", "a\\b"] {
        let options = snapshotter::Options::new(dir.path().join(name));
        let error = snapshotter::Snapshotter::open(options, Arc::new(Play::default())).unwrap_err();
        assert!(error.to_string().contains("cannot be used in overlay mounts"), "{error}");
    }
    let options = snapshotter::Options::new("relative");
    assert!(snapshotter::Snapshotter::open(options, Arc::new(Play::default())).is_err());
}
