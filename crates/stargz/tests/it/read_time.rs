//! What goes wrong after the image is mounted: what is read is right, or an error within the deadline and right later.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use testkit::registry::{Auth, Fault, Redirect, Rule};
use testkit::wan::Proxy;

use crate::harness::images::{CHUNK, Model, below};
use crate::harness::{Scene, scene, state_of};

const EIO: i32 = Errno::IO.raw_os_error();
/// What HASTY allows a read, and a little for a busy machine.
const READ_BOUND: Duration = Duration::from_secs(6);

/// What a read may take whose fetch hangs to the end: the kernel tries once more, without its read-ahead.
const STUCK_BOUND: Duration = Duration::from_secs(10);

/// Mounts the usual image, cold.
fn mounted(scene: &Scene) -> std::path::PathBuf {
    scene.mount(&scene.registry.push("app", "1", &Model::usual().image))
}

/// Checks everything, through the very process that was there before.
#[track_caller]
fn all_right(scene: &Scene, dir: &Path, server: u32) {
    Model::usual().assert_at(dir);
    assert_eq!(scene.server_of(dir), server);
}

/// Faults that pass by themselves, or that another request gets around, are never seen.
#[track_caller]
fn unseen(faults: &[Fault], times: u64) {
    let faults = faults.to_vec();
    scene(40, move |scene| {
        for fault in faults {
            let dir = mounted(scene);
            let server = scene.server_of(&dir);
            let (asked, started) = (scene.registry.requests().len(), Instant::now());
            scene.registry.fault(Rule::new("/blobs/", fault.clone()).times(times));
            all_right(scene, &dir, server);
            let asked = scene.registry.requests().len() - asked;
            eprintln!("{fault:?}: {asked} requests, {:?}", started.elapsed());
            assert!(asked as u64 > times.min(1_000_000) || times == u64::MAX, "the fault was met");
            scene.registry.clear_faults();
            scene.umount(&dir, &[]).succeeded();
            scene.assert_nothing_left(&dir);
        }
    });
}

#[test]
fn resets_and_short_bodies() {
    unseen(
        &[
            Fault::Reset,
            Fault::ResetAfter(20_000),
            Fault::ResetAfter(0),
            Fault::ShortBody(30_001),
            Fault::ShortBody(0),
        ],
        3,
    );
}

#[test]
fn bodies_that_always_break_off_but_bring_something() {
    unseen(&[Fault::ResetAfter(200_000), Fault::ShortBody(200_000)], u64::MAX);
}

#[test]
fn silence_in_the_middle() {
    let pause = Duration::from_secs(60);
    unseen(&[Fault::StallBody { after: 20_000, pause }, Fault::StallHeaders(pause)], 1);
}

#[test]
fn a_line_that_drips() {
    unseen(&[Fault::Drip(400_000)], 4);
}

#[test]
fn servers_that_are_unwell_for_a_while() {
    unseen(&[Fault::Status(500), Fault::Status(502), Fault::Status(503), Fault::Status(408)], 2);
}

#[test]
fn being_told_to_slow_down_is_obeyed() {
    scene(20, |scene| {
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        for status in [429, 503] {
            scene.registry.fault(Rule::new("/blobs/", Fault::RetryAfter { status, seconds: 1 }).times(1));
        }
        let started = Instant::now();
        all_right(scene, &dir, server);
        assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
    });
}

#[test]
fn a_registry_that_ignores_ranges() {
    unseen(&[Fault::IgnoreRange], 1);
    unseen(&[Fault::IgnoreRange], u64::MAX);
}

/// Answers about other bytes than were asked for are never shown, and do not last.
#[test]
fn answers_that_break_the_protocol() {
    scene(60, |scene| {
        for fault in [Fault::WrongContentRange, Fault::Status(416), Fault::Status(404), Fault::Status(403)] {
            let dir = mounted(scene);
            let server = scene.server_of(&dir);
            scene.registry.fault(Rule::new("/blobs/", fault.clone()));
            let started = Instant::now();
            let error = fs::read(dir.join("bin/tool")).expect_err("nothing right can be had");
            assert_eq!(error.raw_os_error(), Some(EIO), "{fault:?}");
            assert!(started.elapsed() < READ_BOUND, "{fault:?}: {:?}", started.elapsed());
            scene.registry.clear_faults();
            all_right(scene, &dir, server);
            scene.umount(&dir, &[]).succeeded();
        }
    });
}

#[test]
fn tokens_that_expire_and_are_revoked_in_the_middle() {
    scene(40, |scene| {
        let credentials = Some(("user".to_owned(), "right".to_owned()));
        let host = scene.registry.host();
        scene.write(
            "docker/config.json",
            &format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpyaWdodA=="}}}}}}"#),
        );
        scene.registry.set_auth(Auth::Bearer { credentials, ttl: Duration::from_millis(300) });
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        for path in Model::usual().files() {
            scene.registry.revoke_tokens();
            let right = Model::usual().merged.get(path).and_then(|entry| entry.content()).expect("a file");
            assert!(fs::read(below(&dir, path)).unwrap() == *right, "{}", String::from_utf8_lossy(path));
        }
        all_right(scene, &dir, server);
    });
}

#[test]
fn credentials_that_are_withdrawn_and_given_again() {
    scene(40, |scene| {
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        scene.registry.set_auth(Auth::Basic { user: "user".to_owned(), password: "right".to_owned() });
        let started = Instant::now();
        assert_eq!(fs::read(dir.join("srv/app")).unwrap_err().raw_os_error(), Some(EIO));
        assert!(started.elapsed() < READ_BOUND, "{:?}", started.elapsed());
        let log = fs::read_to_string(state_of(&dir).with_extension("log")).unwrap();
        assert!(log.contains("without credentials") && !log.contains("right"), "{log}");
        // Who logs in now need not mount again.
        let host = scene.registry.host();
        scene.write(
            "docker/config.json",
            &format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpyaWdodA=="}}}}}}"#),
        );
        all_right(scene, &dir, server);
    });
}

#[test]
fn redirected_locations_that_expire_in_the_middle() {
    scene(40, |scene| {
        scene.registry.set_redirect(Some(Redirect { ttl: Duration::from_secs(60), uses: 3 }));
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        for (number, path) in Model::usual().files().into_iter().enumerate() {
            if number % 3 == 0 {
                scene.registry.expire_redirects();
            }
            let right = Model::usual().merged.get(path).and_then(|entry| entry.content()).expect("a file");
            assert!(fs::read(below(&dir, path)).unwrap() == *right, "{}", String::from_utf8_lossy(path));
        }
        all_right(scene, &dir, server);
        let refused =
            scene.registry.requests_to("/cdn/").iter().filter(|request| request.status == 403).count();
        assert!(refused > 0, "no location expired");
    });
}

#[test]
fn a_store_behind_the_redirect_that_fails_for_a_while() {
    scene(40, |scene| {
        scene.registry.set_redirect(Some(Redirect { ttl: Duration::from_secs(60), uses: 0 }));
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        for fault in [Fault::Status(500), Fault::ResetAfter(10_000), Fault::ShortBody(9), Fault::Status(403)]
        {
            scene.registry.fault(Rule::new("/cdn/", fault).times(1));
        }
        all_right(scene, &dir, server);
    });
}

#[test]
fn a_byte_that_is_corrupted_once_is_never_seen() {
    scene(20, |scene| {
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        let layer = &Model::usual().blobs[1];
        let rule = Rule::new(layer.digest.to_string(), Fault::CorruptByte(chunk_offset("opt/data", 3) + 100));
        // As many requests as can be under way before it is asked for again.
        scene.registry.fault(rule.times(1));
        all_right(scene, &dir, server);
    });
}

/// Where chunk `number` of a file of the middle layer starts in the blob.
fn chunk_offset(name: &str, number: usize) -> u64 {
    let toc = Model::usual().blobs[1].toc();
    let entries = toc["entries"].as_array().expect("a list");
    let first = entries.iter().position(|entry| entry["name"] == name).expect("it is there");
    entries[first + number]["offset"].as_u64().expect("a number")
}

#[test]
fn a_byte_that_is_always_corrupted_fails_its_chunk_alone() {
    scene(40, |scene| {
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        let layer = &Model::usual().blobs[1];
        let rule = Rule::new(layer.digest.to_string(), Fault::CorruptByte(chunk_offset("opt/data", 3) + 100));
        scene.registry.fault(rule);

        let failed = Model::usual().unreadable_at(&dir);
        assert_eq!(failed.into_iter().collect::<Vec<_>>(), [("opt/data".to_owned(), EIO)]);
        // Of that file, the other chunks can be read, in blocks that the chunk does not touch.
        let file = fs::File::open(dir.join("opt/data")).unwrap();
        let right = Model::usual().merged.get(b"opt/data").and_then(|entry| entry.content()).expect("a file");
        for number in (0..right.len() / CHUNK).rev() {
            let mut block = vec![0; 4096];
            let at = number * CHUNK + CHUNK / 2;
            let read = file.read_exact_at(&mut block, at as u64).map_err(|error| error.raw_os_error());
            let expected = if number == 3 { Err(Some(EIO)) } else { Ok(()) };
            assert_eq!(read, expected, "chunk {number}");
            assert!(number == 3 || block == right[at..at + 4096], "chunk {number}");
        }
        let log = fs::read_to_string(state_of(&dir).with_extension("log")).unwrap();
        assert!(
            log.contains(&layer.digest.hex()) && log.contains("does not have its digest")
                || log.contains("decompress"),
            "{log}"
        );

        scene.registry.clear_faults();
        all_right(scene, &dir, server);
    });
}

/// As many readers as a layer has requests wait for an answer that does not come; the other layers are read meanwhile.
#[test]
fn a_layer_that_fails_does_not_hold_up_the_others() {
    scene(40, |scene| {
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        let silent = Fault::StallHeaders(Duration::from_secs(60));
        scene.registry.fault(Rule::new(Model::usual().blobs[1].digest.to_string(), silent));
        thread::scope(|scope| {
            let stuck: Vec<_> = (0..8)
                .map(|number| {
                    let file = fs::File::open(dir.join("opt/data")).unwrap();
                    scope.spawn(move || {
                        let started = Instant::now();
                        let read = file.read_exact_at(&mut [0; 4096], number * 150_000);
                        (read.map_err(|error| error.raw_os_error()), started.elapsed())
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(200));
            let started = Instant::now();
            for path in ["bin/tool", "srv/app", "lib/part-07"] {
                let right = Model::usual().merged.get(path.as_bytes()).and_then(|entry| entry.content());
                assert!(
                    Some(&fs::read(dir.join(path)).unwrap()[..]) == right.map(|right| &right[..]),
                    "{path}"
                );
            }
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
            assert!(
                !stuck.iter().all(|reader| reader.is_finished()),
                "the stuck readers were stuck meanwhile"
            );
            for reader in stuck {
                let (read, took) = reader.join().unwrap();
                assert_eq!(read, Err(Some(EIO)));
                eprintln!("a stuck reader waited {took:?}");
                assert!(took < STUCK_BOUND, "{took:?}");
            }
        });
        scene.registry.clear_faults();
        all_right(scene, &dir, server);
    });
}

#[test]
fn a_registry_that_goes_and_comes_back() {
    scene(40, |scene| {
        let reference = scene.registry.push("app", "1", &Model::usual().image);
        let way = testkit::wan_proxy(scene.registry.addr(), Duration::ZERO, 0);
        let at: SocketAddr = way.addr();
        let dir = scene.mount(&reference.replace(&scene.registry.host(), &at.to_string()));
        let server = scene.server_of(&dir);
        let read_before = fs::read(dir.join("srv/app")).unwrap();
        drop(way);

        let started = Instant::now();
        assert_eq!(fs::read(dir.join("bin/tool")).unwrap_err().raw_os_error(), Some(EIO));
        assert!(started.elapsed() < READ_BOUND, "{:?}", started.elapsed());
        assert!(fs::read(dir.join("srv/app")).unwrap() == read_before, "what is here stays readable");
        assert_eq!(fs::read_dir(dir.join("lib")).unwrap().count(), 40, "and so do all names");

        let _way = Proxy::listen(at, scene.registry.addr(), Duration::ZERO, 0).expect("the same port again");
        // A read that has failed a moment ago is tried anew a moment later.
        thread::sleep(Duration::from_millis(300));
        all_right(scene, &dir, server);
    });
}

#[test]
fn many_readers_of_a_cold_image_see_the_same_and_fetch_it_once() {
    scene(40, |scene| {
        const READERS: usize = 16;
        let model = Model::usual();
        scene.registry.set_distance(Duration::from_millis(5), 0);
        let dir = mounted(scene);
        let server = scene.server_of(&dir);
        let before = scene.registry.body_bytes();
        let together = Barrier::new(READERS);
        thread::scope(|scope| {
            for number in 0..READERS {
                let (dir, together) = (&dir, &together);
                scope.spawn(move || {
                    let mut paths = model.files();
                    let len = paths.len();
                    paths.rotate_left(number * 7 % len);
                    together.wait();
                    for path in paths {
                        let right = model.merged.get(path).and_then(|entry| entry.content()).expect("a file");
                        assert!(
                            fs::read(below(dir, path)).unwrap() == *right,
                            "{}",
                            String::from_utf8_lossy(path)
                        );
                    }
                });
            }
        });
        let sent = scene.registry.body_bytes() - before;
        let all: usize = model.blobs.iter().map(|blob| blob.bytes.len()).sum();
        eprintln!("{sent} bytes sent for blobs of {all}");
        assert!(sent <= all as u64, "{sent} bytes were sent for blobs of {all}");
        all_right(scene, &dir, server);
    });
}
