//! Sources that are damaged, cut short, or made to hurt.

mod support;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use builder::tar::TarProblem;
use builder::{BuildError, Builder, EntryProblem, Limits, Options, Progress};
use support::{ESTARGZ, EXTERNAL, LOSSLESS, ZSTD, build, gzip, options, try_build};
use testkit::compare::Ignore;
use testkit::tarball::{self, Member, Type};
use testkit::tree::{Entry, Tree, content};

fn sample() -> Vec<u8> {
    let tree = Tree::new()
        .with("bin/sh", Entry::file(content(3, 50_000)))
        .with("etc/motd", Entry::file("hello\n").xattr("user.a", "b"))
        .with("lib", Entry::symlink("usr/lib"));
    tarball::write(&tree)
}

/// A root that is only implied has a time that nobody gave it.
fn any_time() -> Ignore {
    Ignore { mtime: true, ..Ignore::default() }
}

fn error(options: Options, source: &[u8]) -> BuildError {
    try_build(options, source).map(drop).expect_err("this source cannot be built")
}

#[test]
fn a_source_that_is_cut_short_is_said_to_be() {
    let tar = sample();
    let end = tar.len() - 1024;
    for cut in [100, 512 + 100, 3000, end - 100] {
        let error = error(options(ESTARGZ), &tar[..cut]);
        let what = matches!(error, BuildError::Tar { problem: TarProblem::Truncated(_), .. });
        assert!(what, "cut at {cut}: {error:?}");
    }
    for compressed in [gzip(&tar), zstd::encode_all(&tar[..], 3).unwrap()] {
        for cut in [20, compressed.len() / 2, compressed.len() - 3] {
            let error = error(options(ESTARGZ), &compressed[..cut]);
            assert!(matches!(error, BuildError::Decompress { .. }), "cut at {cut}: {error:?}");
        }
    }
}

#[test]
fn zeros_at_the_end_may_be_missing_or_many() {
    let tar = sample();
    let (expected, _) = build(options(ESTARGZ), &tar);
    let end = tar.len() - 1024;
    let many = [&tar[..], &[0; 9000]].concat();
    let garbage = [&tar[..], b"what is behind the end of an archive does not matter"].concat();
    for source in [&tar[..end], &tar[..end + 512], &many, &garbage] {
        assert_eq!(build(options(ESTARGZ), source).0.blob_digest, expected.blob_digest);
    }
    let (lossless, _) = build(options(LOSSLESS), &garbage);
    assert_eq!(lossless.diff_id, format::Digest::of(&garbage));
}

#[test]
fn an_empty_archive_is_a_layer() {
    for source in [&[][..], &[0; 1024]] {
        for format in [ESTARGZ, EXTERNAL, LOSSLESS, ZSTD] {
            let (built, blob) = build(options(format), source);
            support::assert_shows_but(&Tree::new(), &built, &blob, any_time());
        }
    }
}

#[test]
fn damage_never_panics_and_is_seen_where_it_can_be() {
    let tar = sample();
    for position in (0..tar.len()).step_by(61) {
        let mut damaged = tar.clone();
        damaged[position] ^= 0x55;
        let _ = try_build(options(LOSSLESS), &damaged);
    }
    let compressed = gzip(&tar);
    for position in (10..compressed.len()).step_by(997) {
        let mut damaged = compressed.clone();
        damaged[position] ^= 0x55;
        // The checksum of a member is checked at its end, whatever was read by then.
        assert!(try_build(options(ESTARGZ), &damaged).is_err(), "byte {position}");
    }
}

#[test]
fn a_header_with_another_checksum_is_refused_with_its_place() {
    let mut tar = sample();
    tar[512 + 20] ^= 1;
    match error(options(ESTARGZ), &tar) {
        BuildError::Tar { offset: 512, problem: TarProblem::Checksum } => {}
        other => panic!("{other:?}"),
    }
    let text = error(options(ESTARGZ), &b"just a text, no archive at all".repeat(40)).to_string();
    assert!(text.contains("not valid at byte 0"), "{text}");
}

#[test]
fn names_and_numbers_that_a_layer_cannot_have_are_refused() {
    let refused = |change: fn(&mut Member)| {
        let mut member = Member::new(Type::File, "file");
        change(&mut member);
        match error(options(ESTARGZ), &tarball::archive(&[member])) {
            BuildError::Entry { problem, .. } => problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|m| m.name = b"caf\xe9".to_vec()), EntryProblem::NotUtf8("the name"));
    assert!(matches!(refused(|m| m.name = vec![b'a'; 256]), EntryProblem::Name(_)));
    assert!(matches!(refused(|m| m.name = b"a/".repeat(3000)), EntryProblem::Name(_)));
    assert!(matches!(refused(|m| m.name = b"/".to_vec()), EntryProblem::RootNotDirectory));
    assert!(matches!(refused(|m| m.uid = u32::MAX), EntryProblem::OutOfRange { field: "uid", .. }));
    let link = |m: &mut Member, target: &str| (m.kind, m.link) = (Type::Hardlink, target.into());
    assert!(matches!(
        refused(|m| (m.kind, m.link) = (Type::Hardlink, b"gone".to_vec())),
        EntryProblem::LinkTarget(_)
    ));
    let mut member = Member::new(Type::File, "l");
    link(&mut member, ".");
    let tar = tarball::archive(&[Member::new(Type::Dir, "./"), member]);
    let problem = error(options(ESTARGZ), &tar);
    assert!(matches!(problem, BuildError::Entry { problem: EntryProblem::LinkToDirectory(_), .. }));
}

#[test]
fn links_that_go_in_circles_are_refused() {
    let link = |name: &str, target: &str| Member { link: target.into(), ..Member::new(Type::Hardlink, name) };
    for members in [
        vec![link("a", "b"), link("b", "a")],
        vec![link("a", "b"), link("b", "c"), link("c", "a")],
        vec![link("a", "a")],
    ] {
        let error = error(options(ESTARGZ), &tarball::archive(&members));
        assert!(matches!(error, BuildError::Entry { problem: EntryProblem::LinkTarget(_), .. }), "{error:?}");
    }
}

#[test]
fn names_that_climb_stay_in_the_layer() {
    let file = |name: &str| Member { content: name.to_owned().into(), ..Member::new(Type::File, name) };
    let tar = tarball::archive(&[file("/abs"), file("../../up"), file("a/../b"), file("./c")]);
    let (built, blob) = build(options(ESTARGZ), &tar);
    support::assert_shows_but(&tarball::tree(&tar), &built, &blob, any_time());
    for parsed in tarball::parse(&support::archive(&built, &blob)) {
        let name = String::from_utf8(parsed.member.name).unwrap();
        assert!(!name.starts_with('/') && !name.contains(".."), "{name}");
    }
}

#[test]
fn bombs_are_bounded() {
    let mut limited = options(ESTARGZ);
    limited.limits = Limits { uncompressed: 1 << 20, entries: 100 };
    let bomb = gzip(&vec![0; 50 << 20]);
    assert!(matches!(error(limited.clone(), &bomb), BuildError::Limit { what: "uncompressed bytes", .. }));
    let many: Vec<_> = (0..101).map(|i| Member::new(Type::Fifo, format!("f{i}"))).collect();
    assert!(matches!(error(limited, &tarball::archive(&many)), BuildError::Limit { what: "members", .. }));
}

#[test]
fn a_file_that_claims_to_be_huge_is_cut_short_at_once() {
    let mut tar = tarball::archive(&[Member::new(Type::File, "huge")]);
    // 2^63 - 1, in base 256.
    tar[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    let sum: u32 = tar[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(matches!(error(options(ESTARGZ), &tar), BuildError::Limit { .. } | BuildError::Tar { .. }));
}

#[test]
fn a_layer_with_a_table_cannot_keep_its_diff_id() {
    let (_, blob) = build(options(ESTARGZ), &sample());
    let error = error(options(LOSSLESS), &blob);
    assert!(matches!(error, BuildError::Entry { problem: EntryProblem::LosslessToc, .. }), "{error:?}");
}

#[test]
fn what_is_to_come_first_but_is_not_there_is_an_error_or_told() {
    let mut wanting = options(ESTARGZ);
    wanting.prioritized = vec!["etc/motd".to_owned(), "no/such".to_owned()];
    match error(wanting.clone(), &sample()) {
        BuildError::PrioritizedMissing(missing) => assert_eq!(missing, ["no/such"]),
        other => panic!("{other:?}"),
    }
    wanting.allow_missing = true;
    assert_eq!(build(wanting, &sample()).0.missing, ["no/such"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let mut lossless = options(LOSSLESS);
    lossless.prioritized.push("etc/motd".to_owned());
    let mut no_chunks = options(ESTARGZ);
    no_chunks.chunk_size = 0;
    for options in [lossless, no_chunks] {
        assert!(matches!(error(options, &sample()), BuildError::Options(_)));
    }
}

struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            got => Ok(got),
        }
    }
}

#[test]
fn a_source_that_breaks_off_is_not_called_damaged() {
    let tar = sample();
    for source in [&gzip(&tar)[..500], &tar[..5000], b""] {
        let result = Builder::new(options(ESTARGZ)).build(Failing(source), io::sink());
        assert!(matches!(result, Err(BuildError::Input(_))), "{result:?}");
    }
}

struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_build() {
    let tar = tarball::write(&Tree::new().with("big", Entry::file(content(3, 30 << 20))));
    for room in [0, 100_000, 20 << 20] {
        let result = Builder::new(options(ESTARGZ)).build(&tar[..], Full(room));
        assert!(matches!(result, Err(BuildError::Output(_))), "{result:?}");
    }
    let mut nowhere = options(ESTARGZ);
    nowhere.temporary = Some("/nonexistent".into());
    assert!(matches!(error(nowhere, &tar), BuildError::Temporary { .. }));
}

#[test]
fn a_build_can_be_watched_and_cancelled_in_both_passes() {
    let tar = tarball::write(&Tree::new().with("big", Entry::file(content(3, 20 << 20))));
    let (read, written) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let builder = Builder::new(options(ESTARGZ)).on_progress({
        let (read, written) = (Arc::clone(&read), Arc::clone(&written));
        move |progress| match progress {
            Progress::Reading { source } => read.store(source, Ordering::Relaxed),
            Progress::Writing { done, .. } => written.store(done, Ordering::Relaxed),
        }
    });
    builder.build(&tar[..], io::sink()).unwrap();
    assert_eq!(read.load(Ordering::Relaxed), tar.len() as u64);
    assert!(written.load(Ordering::Relaxed) > 20 << 20);
    for while_writing in [false, true] {
        let flag = Arc::new(AtomicBool::new(false));
        let builder =
            Builder::new(options(ESTARGZ)).cancel_by(Arc::clone(&flag)).on_progress(move |progress| {
                if matches!(progress, Progress::Writing { .. }) == while_writing {
                    flag.store(true, Ordering::Relaxed);
                }
            });
        assert!(matches!(builder.build(&tar[..], io::sink()), Err(BuildError::Cancelled)));
    }
}
