//! Files of a FUSE session, as a reader sees them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{Fetch, Local, Scripted, Served, can_mount, image, pattern_bytes};
use mount::{Ending, SessionOptions, mounts_below};

const MIB: usize = 1 << 20;
const EIO: Option<i32> = Some(5);
const ESTALE: Option<i32> = Some(116);

fn read(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let got = file.read_at(&mut buf, offset)?;
    buf.truncate(got);
    Ok(buf)
}

#[test]
fn bytes_that_are_present_are_read_in_requests_of_a_mebibyte() {
    if !can_mount() {
        return;
    }
    let source = Arc::new(Scripted::new(4 * MIB as u64, 4 * MIB as u64, Fetch::Panic));
    let served = Served::with(&source);
    let file = served.open("file");
    assert!(read(&file, 0, 4 * MIB).unwrap() == pattern_bytes(0, 4 * MIB));
    let largest = source.asked.lock().unwrap().iter().map(|&(_, len)| len).max();
    assert_eq!(largest, Some(MIB));
}

#[test]
fn any_offset_and_length_is_read_and_the_end_ends() {
    if !can_mount() {
        return;
    }
    let size = 100_000;
    let served = Served::with(&Arc::new(Scripted::new(size, size, Fetch::Panic)));
    let file = served.open("file");
    for (offset, len) in
        [(0, 1), (1, 4095), (4095, 2), (99_999, 1), (99_000, 5000), (100_000, 10), (1 << 40, 10)]
    {
        let expected = (size.saturating_sub(offset) as usize).min(len);
        assert!(read(&file, offset, len).unwrap() == pattern_bytes(offset, expected), "{offset}+{len}");
    }
    assert_eq!(file.metadata().unwrap().size(), size);
}

#[test]
fn missing_bytes_are_fetched_first() {
    if !can_mount() {
        return;
    }
    for fetch in [Fetch::Store, Fetch::HandOver] {
        let source = Arc::new(Scripted::new(4 * MIB as u64, 5000, fetch));
        let served = Served::with(&source);
        assert!(
            read(&served.open("file"), 100, 3 * MIB).unwrap() == pattern_bytes(100, 3 * MIB),
            "{fetch:?}"
        );
        assert_eq!(source.running.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn what_a_source_does_wrong_is_an_error_for_its_reader_alone() {
    if !can_mount() {
        return;
    }
    let rows = [
        (Fetch::Fail(28), Some(28)),
        (Fetch::FailPlainly, EIO),
        (Fetch::HandOverShort, EIO),
        (Fetch::Lie, EIO),
        (Fetch::Panic, EIO),
    ];
    for (fetch, errno) in rows {
        let bad = Arc::new(Scripted::new(8192, 0, fetch));
        let good = Arc::new(Scripted::new(8192, 8192, Fetch::Panic));
        let served =
            Served::new(SessionOptions::default(), vec![image(2, "bad", &bad), image(3, "good", &good)]);
        for _ in 0..5 {
            assert_eq!(read(&served.open("bad"), 0, 100).unwrap_err().raw_os_error(), errno, "{fetch:?}");
        }
        assert!(read(&served.open("good"), 0, 8192).unwrap() == pattern_bytes(0, 8192));
    }
}

#[test]
fn a_source_that_fails_or_panics_on_present_bytes_answers_eio() {
    if !can_mount() {
        return;
    }
    for local in [Local::Fail, Local::Panic] {
        let bad = Arc::new(Scripted { local, ..Scripted::new(8192, 0, Fetch::Store) });
        let served = Served::with(&bad);
        // More often than there are threads: none of them may be lost.
        for _ in 0..5 {
            assert_eq!(read(&served.open("file"), 0, 100).unwrap_err().raw_os_error(), EIO, "{local:?}");
        }
    }
}

#[test]
fn a_fetch_that_hangs_ends_at_the_deadline_and_holds_up_nobody() {
    if !can_mount() {
        return;
    }
    let slow = Arc::new(Scripted::new(1 << 30, 0, Fetch::Hang));
    let quick = Arc::new(Scripted::new(8192, 8192, Fetch::Panic));
    let options = SessionOptions { read_deadline: Duration::from_millis(1500), ..SessionOptions::default() };
    let served = Served::new(options, vec![image(2, "slow", &slow), image(3, "quick", &quick)]);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..40_u64)
            .map(|n| {
                let file = served.open("slow");
                scope.spawn(move || read(&file, n * MIB as u64, 10).unwrap_err().raw_os_error())
            })
            .collect();
        slow.wait_started(&served.runtime, 40);
        assert!(read(&served.open("quick"), 0, 8192).unwrap() == pattern_bytes(0, 8192));
        assert!(begin.elapsed() < options_deadline(), "waited for a file that hangs");
        for reader in readers {
            assert_eq!(reader.join().unwrap(), EIO);
        }
    });
    assert!(begin.elapsed() >= options_deadline());
    assert_eq!(slow.running.load(Ordering::SeqCst), 0, "a fetch outlived its deadline");
}

fn options_deadline() -> Duration {
    Duration::from_millis(1500)
}

#[test]
fn more_waiting_reads_than_allowed_queue_up_and_all_are_answered() {
    if !can_mount() {
        return;
    }
    let source = Arc::new(Scripted::new(64 * MIB as u64, 0, Fetch::HandOver));
    let options = SessionOptions { max_waiting: 2, max_buffers: 1, ..SessionOptions::default() };
    let served = Served::new(options, vec![image(2, "file", &source)]);
    std::thread::scope(|scope| {
        for n in 0..32_u64 {
            let file = served.open("file");
            let offset = n * 2 * MIB as u64;
            scope.spawn(move || {
                assert!(read(&file, offset, 100_000).unwrap() == pattern_bytes(offset, 100_000))
            });
        }
    });
}

#[test]
fn many_readers_get_each_their_own_bytes() {
    if !can_mount() {
        return;
    }
    let source = Arc::new(Scripted::new(16 * MIB as u64, 8 * MIB as u64, Fetch::Store));
    let served = Served::with(&source);
    std::thread::scope(|scope| {
        for n in 0..16_u64 {
            let served = &served;
            scope.spawn(move || {
                let file = served.open("file");
                for step in 0..20_u64 {
                    let offset = (n * 7919 + step * 1_000_003) % (15 * MIB as u64);
                    assert!(read(&file, offset, 30_000).unwrap() == pattern_bytes(offset, 30_000));
                }
            });
        }
    });
}

#[test]
fn a_file_is_found_from_the_moment_it_is_added_to_the_moment_it_is_removed() {
    if !can_mount() {
        return;
    }
    let source = Arc::new(Scripted::new(8192, 8192, Fetch::Panic));
    let served = Served::new(SessionOptions::default(), Vec::new());
    let path = served.target.join("late");
    for round in 0..3 {
        assert_eq!(fs::metadata(&path).unwrap_err().kind(), io::ErrorKind::NotFound, "round {round}");
        assert_eq!(fs::read_dir(&served.target).unwrap().count(), 0);
        served.server().add(image(9, "late", &source)).unwrap();
        assert!(served.server().add(image(9, "other", &source)).is_err());
        let file = served.open("late");
        assert_eq!((file.metadata().unwrap().ino(), file.metadata().unwrap().mode()), (9, 0o100_400));
        assert!(read(&file, 0, 8192).unwrap() == pattern_bytes(0, 8192));
        let names: Vec<_> = fs::read_dir(&served.target).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["late"]);
        assert!(served.server().remove(9) && !served.server().remove(9));
        assert_eq!(read(&file, 0, 10).unwrap_err().raw_os_error(), ESTALE);
    }
}

#[test]
fn the_directory_is_read_only_and_closed_to_others() {
    if !can_mount() {
        return;
    }
    let served = Served::with(&Arc::new(Scripted::new(1, 1, Fetch::Panic)));
    assert_eq!(
        File::create(served.target.join("new")).unwrap_err().kind(),
        io::ErrorKind::ReadOnlyFilesystem
    );
    assert_eq!(
        fs::remove_file(served.target.join("file")).unwrap_err().kind(),
        io::ErrorKind::ReadOnlyFilesystem
    );
    assert_eq!(fs::metadata(&served.target).unwrap().mode(), 0o040_500);
    let stat = rustix::fs::statvfs(&served.target).unwrap();
    assert_eq!((stat.f_files, stat.f_bsize, stat.f_namemax), (1, 4096, 255));
    // Operations that are not offered do not disturb.
    let file = served.open("file");
    assert!(rustix::fs::fgetxattr(&file, "user.x", &mut [0_u8; 8]).is_err());
    file.sync_all().ok();
    assert!(read(&file, 0, 1).unwrap() == pattern_bytes(0, 1));
}

#[test]
fn unmounting_fails_what_is_in_flight_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let source = Arc::new(Scripted::new(1 << 20, 0, Fetch::Hang));
    let mut served = Served::with(&source);
    std::thread::scope(|scope| {
        let file = served.open("file");
        let reader = scope.spawn(move || read(&file, 0, 10).unwrap_err().raw_os_error());
        source.wait_started(&served.runtime, 1);
        served.shutdown(Ending::Unmount);
        // EIO from us, or ECONNABORTED when the kernel was quicker.
        assert!(matches!(reader.join().unwrap(), Some(5 | 103)));
    });
    assert!(mounts_below(&served.target).unwrap().is_empty());
}

#[test]
fn sessions_leak_neither_threads_nor_descriptors() {
    if !can_mount() {
        return;
    }
    // In a process of its own: the other tests of this one open and close as they like.
    if std::env::var_os("LEAK_TEST_CHILD").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "images::sessions_leak_neither_threads_nor_descriptors", "--nocapture"])
            .env("LEAK_TEST_CHILD", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let count = |what| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let round = || {
        let source = Arc::new(Scripted::new(1 << 20, 4096, Fetch::Hang));
        let mut served = Served::with(&source);
        std::thread::scope(|scope| {
            let file = served.open("file");
            let reader = scope.spawn(move || read(&file, 8192, 10).is_err());
            source.wait_started(&served.runtime, 1);
            served.shutdown(Ending::Unmount);
            assert!(reader.join().unwrap());
        });
    };
    round();
    let before = (count("fd"), count("task"));
    for _ in 0..10 {
        round();
    }
    assert_eq!((count("fd"), count("task")), before);
}
