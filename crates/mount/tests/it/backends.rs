//! What holds whichever way a layer is shown.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;

use crate::common::shown::Stage;
use crate::common::{can_mount, unmount_idle};
use mount::{Backend, mount_overlay_ro, mounts_below};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use testkit::compare::{Ignore, assert_same, read};
use testkit::tree::{Entry, Kind, Options, Tree, trees};

const FILE_SIZE: usize = 3 << 20;

/// No block of it is like another.
fn large() -> Vec<u8> {
    (0..FILE_SIZE as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// A tree with a large file and many small ones.
fn plain(name: &str) -> Tree {
    let mut tree = Tree::new().with("large", Entry::file(large()));
    for n in 0..50 {
        tree.insert(format!("small-{n}").as_bytes(), Entry::file(format!("{name} {n}").into_bytes()));
    }
    tree.with(name, Entry::file(name.as_bytes().to_vec()))
}

/// Runs a test under each backend.
fn each(test: impl Fn(Stage)) {
    if !can_mount() {
        return;
    }
    for backend in Backend::ALL {
        eprintln!("backend {backend}");
        test(Stage::new(backend));
    }
}

/// The same random trees in each run.
fn samples(count: usize, options: Options) -> Vec<Tree> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| trees(options.clone()).new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn every_attribute_of_a_tree_is_shown() {
    each(|stage| {
        let options = Options { whiteouts: true, before_epoch: true, ..Options::default() };
        for (n, tree) in samples(60, options).into_iter().enumerate() {
            let layer = stage.layer(&format!("l{n}"), &tree);
            let target = stage.show(&format!("m{n}"), &layer);
            assert_same(&tree, &read(&target).unwrap(), &Ignore::default());
            // Once more, from what the kernel remembers.
            assert_same(&tree, &read(&target).unwrap(), &Ignore::default());
        }
    });
}

#[test]
fn large_directories_are_listed_and_searched() {
    each(|stage| {
        let mut tree = Tree::new();
        for n in 0..5000 {
            let name = format!("d/{}-{n}", "x".repeat(n % 200));
            tree.insert(name.as_bytes(), Entry::file(format!("{n}").into_bytes()));
        }
        let target = stage.show("m", &stage.layer("l", &tree));
        let listed = fs::read_dir(target.join("d")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut listed: Vec<_> = listed.collect();
        listed.sort();
        listed.dedup();
        assert_eq!(listed.len(), 5000);
        for n in (0..5000).step_by(37) {
            let name = format!("d/{}-{n}", "x".repeat(n % 200));
            assert_eq!(fs::read_to_string(target.join(name)).unwrap(), n.to_string());
            assert_eq!(fs::metadata(target.join(format!("d/{n}-"))).unwrap_err().raw_os_error(), Some(2));
        }
        let long = fs::metadata(target.join("n".repeat(256))).unwrap_err();
        assert_eq!(long.raw_os_error(), Some(36), "ENAMETOOLONG");
    });
}

#[test]
fn metadata_needs_no_data_and_a_failed_read_is_not_remembered() {
    each(|stage| {
        let layer = stage.layer("a", &plain("a"));
        let target = stage.show("m", &layer);
        layer.data.fails_from.store(0, Ordering::SeqCst);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 52);
        assert_eq!(fs::metadata(target.join("large")).unwrap().len(), FILE_SIZE as u64);
        assert_eq!(fs::read(target.join("small-1")).unwrap_err().raw_os_error(), Some(5));
        layer.data.fails_from.store(u64::MAX, Ordering::SeqCst);
        assert_eq!(fs::read(target.join("small-1")).unwrap(), b"a 1");
        assert!(fs::read(target.join("large")).unwrap() == large());
        // Other users see what the modes allow.
        let script = format!("cat '{}'", target.join("small-2").display());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(stage.place.path(""), open).unwrap();
        let output = Command::new("sh").args(["-c", &script]).uid(65534).gid(65534).output().unwrap();
        assert_eq!(output.stdout, b"a 2", "{}", String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
fn missing_bytes_are_fetched() {
    each(|stage| {
        let layer = stage.layer("a", &plain("a"));
        layer.data.missing_below.store(2 << 20, Ordering::SeqCst);
        let target = stage.show("m", &layer);
        assert!(fs::read(target.join("large")).unwrap() == large());
        assert!(layer.data.fetches.load(Ordering::SeqCst) > 0);
    });
}

#[test]
fn a_read_that_fails_half_way_never_shows_zeros() {
    each(|stage| {
        let expected = large();
        for (n, fails_from) in (0..FILE_SIZE as u64).step_by(700_000).enumerate() {
            let layer = stage.layer(&format!("l{n}"), &plain("a"));
            let target = stage.show(&format!("m{n}"), &layer);
            layer.data.fails_from.store(fails_from, Ordering::SeqCst);
            let file = File::open(target.join("large")).unwrap();
            let mut failed = 0;
            for offset in (0..FILE_SIZE).step_by(4096) {
                let mut block = [0; 4096];
                match file.read_exact_at(&mut block, offset as u64) {
                    Ok(()) => assert!(block == expected[offset..offset + 4096], "{fails_from} {offset}"),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(5));
                        failed += 1;
                    }
                }
            }
            assert!(failed > 0, "{fails_from}");
        }
    });
}

#[test]
fn layers_are_stacked() {
    each(|stage| {
        let opaque = Entry::new(Kind::Dir { opaque: true });
        let above = plain("b")
            .with("d", opaque)
            .with("d/new", Entry::file("n"))
            .with("small-3", Entry::new(Kind::Whiteout));
        let below = plain("a").with("d/old", Entry::file("o"));
        let a = stage.show("a", &stage.layer("la", &below));
        let b = stage.show("b", &stage.layer("lb", &above));
        let merged = stage.place.dir("merged");
        mount_overlay_ro(&[b, a], &merged).unwrap();
        assert_eq!(fs::read(merged.join("small-7")).unwrap(), b"b 7");
        assert_eq!(fs::read(merged.join("a")).unwrap(), b"a");
        assert_eq!(fs::read(merged.join("small-3")).unwrap_err().raw_os_error(), Some(2));
        let names: Vec<_> =
            fs::read_dir(merged.join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["new"]);
        assert!(fs::read(merged.join("large")).unwrap() == large());
        assert_eq!(fs::write(merged.join("a"), "").unwrap_err().raw_os_error(), Some(30));
    });
}

#[test]
fn readers_do_not_disturb_each_other() {
    each(|stage| {
        let layer = stage.layer("a", &plain("a"));
        layer.data.missing_below.store(1 << 20, Ordering::SeqCst);
        let target = stage.show("m", &layer);
        let expected = large();
        thread::scope(|scope| {
            for seed in 0..8_u64 {
                let (target, expected) = (&target, &expected);
                scope.spawn(move || {
                    let mut state = seed + 1;
                    for _ in 0..150 {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let offset = (state >> 33) as usize % FILE_SIZE;
                        let len = ((state >> 20) as usize % 50_000).min(FILE_SIZE - offset);
                        let file = File::open(target.join("large")).unwrap();
                        let mut buf = vec![0; len];
                        file.read_exact_at(&mut buf, offset as u64).unwrap();
                        assert!(buf == expected[offset..offset + len]);
                        let n = state % 50;
                        let small = fs::read_to_string(target.join(format!("small-{n}"))).unwrap();
                        assert_eq!(small, format!("a {n}"));
                        assert_eq!(fs::read_dir(target).unwrap().count(), 52);
                    }
                });
            }
        });
    });
}

#[test]
fn file_systems_have_a_size() {
    each(|stage| {
        let target = stage.show("m", &stage.layer("a", &plain("a")));
        let numbers = rustix::fs::statvfs(&target).unwrap();
        assert!(numbers.f_blocks * numbers.f_frsize >= FILE_SIZE as u64);
        assert_eq!(numbers.f_bfree, 0);
        assert!(numbers.f_files > 0 || stage.backend != Backend::Fuse);
        let empty = stage.show("n", &stage.layer("b", &Tree::new()));
        assert!(rustix::fs::statvfs(&empty).unwrap().f_blocks > 0);
    });
}

#[test]
fn what_is_cached_needs_no_server() {
    each(|mut stage| {
        let target = stage.show("m", &stage.layer("a", &plain("a")));
        assert_eq!(fs::read(target.join("small-1")).unwrap(), b"a 1");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 52);
        let mut open = File::open(target.join("small-1")).unwrap();
        fs::metadata(target.join("missing")).unwrap_err();
        stage.stop_serving();
        // Nothing of this asks anybody, or it would fail: that is what warm means.
        for _ in 0..2 {
            assert_eq!(fs::read_dir(&target).unwrap().count(), 52);
            assert_eq!(fs::metadata(target.join("small-1")).unwrap().size(), 3);
            assert_eq!(fs::metadata(target.join("missing")).unwrap_err().raw_os_error(), Some(2));
            assert_eq!(fs::read(target.join("small-1")).unwrap(), b"a 1");
        }
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a 1");
        // And what is not cached fails, and does not hang.
        let error = fs::read(target.join("large")).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(5 | 107)), "{error}");
        drop(open);
        unmount_idle(&target);
        assert!(mounts_below(&stage.place.path("")).unwrap().is_empty());
    });
}
