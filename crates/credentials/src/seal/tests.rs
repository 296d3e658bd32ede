use proptest::prelude::*;

use super::*;

fn sealed(dir: &Path) -> Sealed {
    Sealed::open(&dir.join("store"), &dir.join("key")).unwrap()
}

fn bytes(contents: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(contents.to_vec())
}

#[test]
fn files_are_the_owners_alone_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path());
    assert!(store.read().unwrap().is_none());
    store.write(bytes(b"hunter2")).unwrap();
    store.write(bytes(b"hunter2 again")).unwrap();
    assert_eq!(*sealed(dir.path()).read().unwrap().unwrap(), b"hunter2 again");
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["key", "store"]);
    for name in names {
        let mode = std::fs::metadata(dir.path().join(&name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name:?}");
    }
    let raw = std::fs::read(dir.path().join("store")).unwrap();
    assert!(!raw.windows(7).any(|window| window == b"hunter2"));
    assert!(!format!("{store:?}").contains("key"));
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    sealed(dir.path()).write(bytes(b"x")).unwrap();
    let key = dir.path().join("key");
    let refused = || Sealed::open(&dir.path().join("store"), &key).unwrap_err().to_string();
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    assert!(refused().contains("mode 640"), "{}", refused());
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&key, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &key).unwrap();
    assert!(refused().contains("cannot be opened"), "{}", refused());
    std::fs::remove_file(&key).unwrap();
    std::fs::write(&key, "short").unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    assert!(refused().contains("not a key of 32 bytes"), "{}", refused());
}

#[test]
fn another_key_does_not_open_it() {
    let dir = tempfile::tempdir().unwrap();
    sealed(dir.path()).write(bytes(b"x")).unwrap();
    std::fs::remove_file(dir.path().join("key")).unwrap();
    let error = sealed(dir.path()).read().unwrap_err().to_string();
    assert!(error.contains("not written with this key"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_is_unsealed(contents in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let store = sealed(dir.path());
        let sealed = store.seal(bytes(&contents)).unwrap();
        prop_assert_eq!(&*store.unseal(bytes(&sealed)).unwrap(), &contents);
        // The same contents never look the same.
        prop_assert_ne!(store.seal(bytes(&contents)).unwrap(), sealed);
    }

    #[test]
    fn what_was_changed_is_refused(
        contents in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = sealed(dir.path());
        let good = store.seal(bytes(&contents)).unwrap();
        let mut changed = good.clone();
        changed[at.index(good.len())] ^= 1 << bit;
        prop_assert!(store.unseal(bytes(&changed)).is_err());
        prop_assert!(store.unseal(bytes(&good[..cut.index(good.len())])).is_err());
        let longer = [&good[..], &[0]].concat();
        prop_assert!(store.unseal(bytes(&longer)).is_err());
    }
}
