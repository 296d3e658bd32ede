//! The store against a naive model, and rules that the model does not show.

mod model;

use std::{collections::HashSet, path::PathBuf};

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

use self::model::Model;
use super::*;

fn open() -> (TempDir, PathBuf, Store) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshots.redb");
    let store = Store::open(&path, 0).unwrap();
    (dir, path, store)
}

fn new(key: &str, parent: &str) -> New {
    New { key: key.to_owned(), parent: parent.to_owned(), labels: Labels::new() }
}

fn create(store: &Store, kind: Kind, key: &str, parent: &str) -> Result<Snapshot, Error> {
    store.create(kind, new(key, parent), |_| Ok(()))
}

fn commit(store: &Store, key: &str, name: &str, parent: &str) -> Result<(), Error> {
    store.commit(Commit {
        key: key.to_owned(),
        name: name.to_owned(),
        parent: parent.to_owned(),
        labels: Labels::new(),
        usage: Usage { size: 7, inodes: 3 },
    })
}

fn names(store: &Store) -> Vec<String> {
    let infos = page(&store.view().unwrap(), None, usize::MAX, &Filters::parse(&[]).unwrap()).unwrap();
    infos.into_iter().map(|info| info.name).collect()
}

#[test]
fn a_database_survives_its_process() {
    let (_dir, path, store) = open();
    create(&store, Kind::Active, "a", "").unwrap();
    commit(&store, "a", "base", "").unwrap();
    create(&store, Kind::View, "v", "base").unwrap();
    drop(store);

    let store = Store::open(&path, 0).unwrap();
    assert_eq!(names(&store), ["base", "v"]);
    assert_eq!(store.usage("base").unwrap(), (1, Kind::Committed, Usage { size: 7, inodes: 3 }));
    assert_eq!(store.snapshot("v").unwrap(), Snapshot { id: 2, kind: Kind::View, parents: vec![1] });
}

#[test]
fn a_number_is_never_given_out_again() {
    let (_dir, path, store) = open();
    assert_eq!(create(&store, Kind::Active, "a", "").unwrap().id, 1);
    store.remove("a").unwrap();
    drop(store);
    let store = Store::open(&path, 0).unwrap();
    assert_eq!(create(&store, Kind::Active, "a", "").unwrap().id, 2);
    drop(store);
    // A directory that a crash left behind has a number, too.
    let store = Store::open(&path, 41).unwrap();
    assert_eq!(store.next_id(), 42);
    assert_eq!(create(&store, Kind::Active, "b", "").unwrap().id, 43);
}

#[test]
fn a_directory_that_cannot_be_made_leaves_no_snapshot() {
    let (_dir, _, store) = open();
    let failed = store.create(Kind::Active, new("a", ""), |_| Err(Error::ShuttingDown));
    assert!(matches!(failed, Err(Error::ShuttingDown)));
    assert_eq!(names(&store), [""; 0]);
}

#[test]
fn a_snapshot_without_parent_gets_one_when_committed() {
    let (_dir, _, store) = open();
    create(&store, Kind::Active, "a", "").unwrap();
    commit(&store, "a", "base", "").unwrap();
    create(&store, Kind::Active, "b", "").unwrap();
    commit(&store, "b", "top", "base").unwrap();
    assert_eq!(store.info("top").unwrap().parent, "base");
    assert!(matches!(store.remove("base"), Err(Error::FailedPrecondition(_))));

    create(&store, Kind::Active, "c", "base").unwrap();
    assert!(matches!(commit(&store, "c", "other", "top"), Err(Error::InvalidArgument(_))));
    create(&store, Kind::Active, "d", "").unwrap();
    assert!(matches!(commit(&store, "d", "other", "c"), Err(Error::FailedPrecondition(_))));
    assert!(matches!(commit(&store, "d", "other", "d"), Err(Error::NotFound(_))));
    assert_eq!(names(&store), ["base", "c", "d", "top"]);
}

#[test]
fn a_newer_format_is_refused() {
    let (_dir, path, store) = open();
    let txn = store.db.begin_write().unwrap();
    txn.open_table(STATE).unwrap().insert(SCHEMA_KEY, SCHEMA + 1).unwrap();
    txn.commit().unwrap();
    drop(store);
    let error = Store::open(&path, 0).unwrap_err();
    assert!(matches!(error, Error::Schema { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn a_second_process_is_refused() {
    let (_dir, path, _store) = open();
    assert!(matches!(Store::open(&path, 0), Err(Error::Database(_))));
}

#[test]
fn a_file_that_is_no_database_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshots.redb");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert!(matches!(Store::open(&path, 0), Err(Error::Database(_))));
}

#[test]
fn a_damaged_record_is_an_error() {
    let (_dir, _, store) = open();
    let txn = store.db.begin_write().unwrap();
    txn.open_table(SNAPSHOTS).unwrap().insert("bad", b"{".as_slice()).unwrap();
    txn.commit().unwrap();
    assert!(matches!(store.info("bad"), Err(Error::Damaged(_))));
}

#[test]
fn a_circle_of_parents_is_an_error() {
    let (_dir, _, store) = open();
    create(&store, Kind::Active, "a", "").unwrap();
    commit(&store, "a", "base", "").unwrap();
    store
        .write(|rows| {
            let mut record = rows.expect("base")?;
            record.parent = "base".to_owned();
            rows.insert("base", &record)
        })
        .unwrap();
    assert!(matches!(create(&store, Kind::Active, "b", "base"), Err(Error::FailedPrecondition(_))));
}

#[test]
fn the_mark_of_a_remote_snapshot_cannot_be_forged_or_lost() {
    let (_dir, _, store) = open();
    let forged = Labels::from([(labels::REMOTE.to_owned(), "x".to_owned())]);
    store.create(Kind::Active, New { labels: forged.clone(), ..new("a", "") }, |_| Ok(())).unwrap();
    assert_eq!(store.info("a").unwrap().labels, Labels::new());
    let commit = Commit {
        key: "a".to_owned(),
        name: "base".to_owned(),
        parent: String::new(),
        labels: forged.clone(),
        usage: Usage::default(),
    };
    store.commit(commit).unwrap();
    assert_eq!(store.update("base", &forged, &[]).unwrap().labels, Labels::new());
    assert!(store.remotes().unwrap().is_empty());

    store.insert_remote(store.next_id(), &new("key", "base"), "layer").unwrap();
    let marked = Labels::from([(labels::REMOTE.to_owned(), labels::REMOTE_VALUE.to_owned())]);
    assert_eq!(store.update("layer", &Labels::new(), &[]).unwrap().labels, marked);
    assert_eq!(store.remotes().unwrap().len(), 1);
    assert_eq!(store.remote_chain("layer").unwrap().len(), 1);
}

#[test]
fn pages_are_consistent_with_when_they_began() {
    let (_dir, _, store) = open();
    for number in 0..10 {
        create(&store, Kind::Active, &format!("a{number}"), "").unwrap();
    }
    let view = store.view().unwrap();
    let all = Filters::parse(&[]).unwrap();
    let first = page(&view, None, 4, &all).unwrap();
    store.remove("a5").unwrap();
    create(&store, Kind::Active, "a55", "").unwrap();
    let second = page(&view, Some(&first[3].name), 100, &all).unwrap();
    let names: Vec<_> = first.iter().chain(&second).map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"]);
}

/// One operation on few names, so that they collide.
#[derive(Debug, Clone)]
enum Op {
    Create(Kind, String, String, Labels),
    InsertRemote(String, String, String),
    Commit(String, String, String, Labels),
    Remove(String),
    Update(String, Labels, Vec<String>),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let name = || prop_oneof![9 => "[abcdef]", 1 => Just(String::new())];
    let labels = || proptest::collection::hash_map("[kl]", "[xy]?", 0..3);
    let kind = prop_oneof![Just(Kind::Active), Just(Kind::View)];
    let path = prop_oneof![4 => "labels(\\.[klm])?", 1 => Just("name".to_owned())];
    prop_oneof![
        4 => (kind, name(), name(), labels()).prop_map(|(kind, key, parent, labels)| Op::Create(kind, key, parent, labels)),
        2 => (name(), name(), name()).prop_map(|(key, parent, target)| Op::InsertRemote(key, parent, target)),
        4 => (name(), name(), prop_oneof![3 => Just(String::new()), 1 => name()], labels())
            .prop_map(|(key, name, parent, labels)| Op::Commit(key, name, parent, labels)),
        2 => name().prop_map(Op::Remove),
        2 => (name(), labels(), vec(path, 0..3)).prop_map(|(name, labels, paths)| Op::Update(name, labels, paths)),
        1 => Just(Op::Reopen),
    ]
}

/// The error's kind, since the words differ.
fn kind_of(error: Error) -> tonic::Code {
    tonic::Status::from(error).code()
}

fn apply(store: &Store, model: &mut Model, op: &Op) -> (Result<(), tonic::Code>, Result<(), tonic::Code>) {
    match op.clone() {
        Op::Create(kind, key, parent, labels) => {
            let theirs = model.create(kind, &key, &parent, &labels);
            let ours = store.create(kind, New { key, parent, labels }, |_| Ok(()));
            (ours.map(drop).map_err(kind_of), theirs)
        }
        Op::InsertRemote(key, parent, target) => {
            let new = new(&key, &parent);
            let ours = match store.target(&new, &target) {
                Ok(Target::Free) => store.insert_remote(store.next_id(), &new, &target),
                Ok(Target::Ready | Target::Other) => Err(Error::AlreadyExists(target.clone())),
                Err(error) => Err(error),
            };
            (ours.map_err(kind_of), model.insert_remote(&key, &parent, &target))
        }
        Op::Commit(key, name, parent, labels) => {
            let theirs = model.commit(&key, &name, &parent, &labels);
            let ours = store.commit(Commit { key, name, parent, labels, usage: Usage::default() });
            (ours.map_err(kind_of), theirs)
        }
        Op::Remove(key) => (store.remove(&key).map_err(kind_of), model.remove(&key)),
        Op::Update(name, labels, paths) => {
            let theirs = model.update(&name, &labels, &paths);
            (store.update(&name, &labels, &paths).map(drop).map_err(kind_of), theirs)
        }
        Op::Reopen => (Ok(()), Ok(())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_does_what_the_model_does(ops in vec(op(), 1..60)) {
        let (_dir, path, mut store) = open();
        let mut model = Model::default();
        let mut ids = HashSet::new();
        for op in &ops {
            if matches!(op, Op::Reopen) {
                drop(store);
                store = Store::open(&path, 0).unwrap();
            }
            let before: HashSet<_> = names(&store).into_iter().collect();
            let (ours, theirs) = apply(&store, &mut model, op);
            prop_assert_eq!(ours, theirs, "{:?} on {:?}", op, before);
            prop_assert_eq!(names(&store), model.names());
        }
        for name in model.names() {
            let info = store.info(&name).unwrap();
            let (parent, kind, labels) = model.get(&name);
            prop_assert_eq!((&*info.parent, info.kind, &info.labels), (parent, kind, labels));
            prop_assert!(info.created <= info.updated);
            prop_assert!(ids.insert(store.usage(&name).unwrap().0), "number used twice");
            let chain: Vec<_> = model.ancestors(&name).iter().map(|name| store.usage(name).unwrap().0).collect();
            match store.snapshot(&name) {
                Ok(snapshot) => prop_assert_eq!(snapshot.parents, chain),
                Err(error) => prop_assert!(kind == Kind::Committed, "{}", error),
            }
        }
        store.frozen(|known| { assert_eq!(*known, ids); Ok(()) }).unwrap();
    }
}
