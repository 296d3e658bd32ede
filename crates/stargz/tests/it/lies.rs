//! Blobs that lie: each is refused with its own text at the command line, or fails reads of the one file that it is
//! about, while a good layer of the same image goes on.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use testkit::compare::{self, Ignore};
use testkit::estargz::hostile::{self, Lie};

use crate::harness::images::{hostile_tree, with_honest_base};
use crate::harness::{HASTY, peak_memory, scene, state_of};

/// What the command says of a lie; none if the image can be mounted.
fn refusal(lie: Lie) -> Option<&'static str> {
    Some(match lie {
        Lie::Truncated | Lie::NoFooter => "footer",
        Lie::FooterOutside | Lie::FooterAtItself => "past the end",
        Lie::TocDigest => "digest",
        Lie::TocNotJson | Lie::TocShape => "not valid",
        Lie::ChunkDigest | Lie::ChunkBytes => return None,
        Lie::ClimbingName | Lie::DottedName => "`..`",
        Lie::AbsoluteName => "absolute",
        Lie::LongName => "255",
        Lie::NulName => "NUL",
        Lie::Duplicates | Lie::FileAsParent => "small",
        Lie::HardlinkCycle => "TOC entry \"x\"",
        Lie::HardlinkMissing => "nothing",
        Lie::HardlinkToDirectory => "directory",
        Lie::SizeNegative => "-1",
        Lie::SizeTooSmall
        | Lie::SizeTooLarge
        | Lie::OffsetOutside
        | Lie::InnerOffsetOutside
        | Lie::ChunksOverlap
        | Lie::ChunkGap
        | Lie::ChunkTooLarge => "victim",
        Lie::StrayChunk => "chunk",
    })
}

#[test]
fn every_lie_about_the_structure_is_refused_by_name() {
    scene(60, |scene| {
        let dir = scene.mount_point("mnt");
        for lie in Lie::ALL {
            let Some(said) = refusal(lie) else { continue };
            let blob = lie.blob();
            let reference = scene.registry.push("lies", &format!("{lie:?}"), &with_honest_base(&blob));
            eprintln!("{lie:?}");
            scene.try_mount(&reference, &dir).failed_with(&[said, &format!("layer {}", blob.digest)]);
            scene.assert_nothing_left(&dir);
        }
    });
}

#[test]
fn a_lie_about_contents_fails_reads_of_that_file_only() {
    scene(30, |scene| {
        for lie in [Lie::ChunkDigest, Lie::ChunkBytes] {
            let blob = lie.blob();
            let dir =
                scene.mount(&scene.registry.push("lies", &format!("{lie:?}"), &with_honest_base(&blob)));
            for _ in 0..2 {
                let error =
                    fs::read(dir.join("victim")).expect_err("its first chunk is not what its digest says");
                assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{lie:?}");
            }
            let model = hostile_tree();
            for path in ["dir/file", "small", "srv/app", "srv/readme"] {
                let right = model.get(path.as_bytes()).and_then(|entry| entry.content()).expect("a file");
                assert!(fs::read(dir.join(path)).unwrap() == *right, "{lie:?}: {path}");
            }
            let log = fs::read_to_string(state_of(&dir).with_extension("log")).unwrap();
            assert!(log.contains(&blob.digest.hex()), "the log names the layer: {log}");
            scene.umount(&dir, &[]).succeeded();
            scene.assert_nothing_left(&dir);
        }
    });
}

/// A gibibyte of zeros from a mebibyte: read whole, through a process that never has much of it in memory.
#[test]
fn a_zero_bomb_is_read_in_bounded_memory() {
    scene(180, |scene| {
        // To decompress and to verify a gibibyte takes a while on a busy machine.
        scene.write("config.toml", &HASTY.replace("fetching_timeout_sec = 4", "fetching_timeout_sec = 60"));
        let mut peaks = BTreeMap::new();
        for claimed in [hostile::CLAIMED_4_KIB, hostile::CLAIMED_ALL] {
            let bomb = hostile::zero_bomb(claimed);
            let dir =
                scene.mount(&scene.registry.push("bomb", &claimed.to_string(), &with_honest_base(&bomb)));
            let server = scene.server_of(&dir);
            let read = read_zeros(&dir.join("bomb"));
            peaks.insert(claimed, peak_memory(server) >> 20);
            assert_eq!(read, claimed);
            scene.umount(&dir, &[]).succeeded();
            scene.assert_nothing_left(&dir);
        }
        eprintln!("peak memory in MiB by bytes claimed: {peaks:?}");
        assert!(peaks.values().all(|mib| *mib < 100), "{peaks:?}");
    });
}

/// Reads the first, the last and some mebibytes between of a file of zeros. Returns its length.
fn read_zeros(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::FileExt as _;
    const PIECE: usize = 1 << 20;
    let file = fs::File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut buf = vec![1; PIECE.min(len as usize)];
    for offset in (0..len).step_by(64 << 20).chain([len - buf.len() as u64]) {
        file.read_exact_at(&mut buf, offset).unwrap();
        assert!(buf.iter().all(|byte| *byte == 0), "at {offset}");
    }
    len
}

/// A TOC that expands to a gibibyte costs neither memory nor the disk.
#[test]
fn a_toc_bomb_is_refused_soon() {
    scene(30, |scene| {
        let bomb = hostile::toc_bomb();
        let reference = scene.registry.push("bomb", "toc", &with_honest_base(&bomb));
        let dir = scene.mount_point("mnt");
        let said = scene.try_mount(&reference, &dir).failed_with(&[&format!("layer {}", bomb.digest)]);
        assert!(said.took < Duration::from_secs(10), "{said:#?}");
        scene.assert_nothing_left(&dir);
    });
}

#[test]
fn the_model_of_the_honest_part_is_what_an_honest_blob_shows() {
    scene(20, |scene| {
        let honest = hostile::draft().seal();
        let dir = scene.mount(&scene.registry.push("honest", "1", &with_honest_base(&honest)));
        let seen = compare::read(&dir).unwrap();
        let ignore = Ignore { directory_links: true, ..Ignore::default() };
        compare::assert_same(&hostile_tree(), &seen, &ignore);
    });
}
