//! Archives by other programs are read, and ours by them. Skips, loudly, programs that are not installed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use builder::Options;
use support::{ESTARGZ, EXTERNAL, LOSSLESS, SHARED, ZSTD, archive, build, gzip, options};
use testkit::compare::Ignore;
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

/// Runs a program with this on its standard input. `None` when it is not installed.
fn run(program: &str, arguments: &[&str], directory: &Path, input: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // Programs may stop reading at the end of the archive.
        scope.spawn(move || drop(stdin.write_all(input)));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
        Some(output.stdout)
    })
}

/// Name, size and content of each regular file in an archive, as the `tar` crate reads it.
fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let name = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
    }
    for name in [".no.prefetch.landmark", "stargz.index.json"] {
        files.remove(name);
    }
    files
}

/// The same from a directory on disk.
fn files_on_disk(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut files, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

/// A directory with names and contents that each format has its own way to store.
fn make_directory(root: &Path) {
    let long = "directory-with-a-long-name/".repeat(6);
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("x".repeat(150)), "a long name").unwrap();
    fs::write(root.join("naïve.txt"), "not ASCII").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("large"), content(3, 100_000)).unwrap();
    for (name, holes) in [("holes", 5), ("many-holes", 40)] {
        // Data in every 32 KiB; the end is a hole.
        let file = fs::File::create(root.join(name)).unwrap();
        for i in 0..holes {
            std::os::unix::fs::FileExt::write_all_at(&file, &content(i + 2, 5000), i << 15).unwrap();
        }
        file.set_len((holes << 15) + 12_345).unwrap();
    }
}

fn check_archive_by(program: &str, arguments: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    make_directory(&root);
    let Some(tar) = run(program, arguments, &root, b"") else { return };
    let expected = files_on_disk(&root);
    for format in [ESTARGZ, SHARED, ZSTD] {
        let (built, blob) = build(options(format), &tar);
        let actual = files(&archive(&built, &blob));
        assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{arguments:?}");
        for (name, content) in &expected {
            assert!(actual[name] == *content, "{name} by {program} {arguments:?}");
        }
        let tree = support::lazy_tree(&built, &blob);
        for (name, content) in &expected {
            assert!(tree.get(name.as_bytes()).unwrap().content().unwrap() == content, "{name}");
        }
    }
}

#[test]
fn archives_by_gnu_tar_in_each_of_its_formats() {
    for format in ["--format=gnu", "--format=oldgnu", "--format=pax", "--format=posix"] {
        check_archive_by("tar", &[format, "-c", "."]);
    }
}

#[test]
fn sparse_files_by_gnu_tar_in_each_of_its_encodings() {
    for arguments in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        check_archive_by("tar", &[arguments, &["--sparse", "-c", "."]].concat());
    }
}

#[test]
fn archives_by_python_and_bsdtar() {
    let script = "import sys, tarfile\n\
        tar = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=getattr(tarfile, sys.argv[1] + '_FORMAT'), \
        pax_headers={'comment': 'all of them', 'uname': 'somebody'} if sys.argv[1] == 'PAX' else None)\n\
        tar.add('.')\ntar.close()\n";
    for format in ["PAX", "GNU"] {
        check_archive_by("python3", &["-c", script, format]);
    }
    for format in ["--format=pax", "--format=gnutar"] {
        check_archive_by("bsdtar", &[format, "-c", "-f", "-", "."]);
    }
}

#[test]
fn programs_that_unpack_read_what_is_built() {
    let directory = tempfile::tempdir().unwrap();
    let tree = Tree::new()
        .with("usr/bin/tool", Entry::file(content(3, 70_000)).mode(0o4755).mtime(1_700_000_000, 123_456_789))
        .with("usr/bin/alias", Entry::symlink("tool"))
        .with_link("usr/bin/other", "usr/bin/tool")
        .with("é".repeat(100), Entry::file("a name of 200 bytes").owner(3_000_000, 5))
        .with(format!("{}/file", "d".repeat(120)), Entry::file("a name with a prefix"));
    let source = tarball::write(&tree);
    let expected = files(&source);
    for (format, test, unpack) in [
        (ESTARGZ, ["gzip", "-t"], &["tar", "-xzf", "-"][..]),
        (SHARED, ["gzip", "-t"], &["tar", "-xzf", "-"]),
        (EXTERNAL, ["gzip", "-t"], &["tar", "-xzf", "-"]),
        (LOSSLESS, ["gzip", "-t"], &["tar", "-xzf", "-"]),
        (ZSTD, ["zstd", "-tq"], &["tar", "-x", "--zstd", "-f", "-"]),
    ] {
        let (built, blob) = build(options(format), &source);
        assert_eq!(files(&archive(&built, &blob)), expected);
        run(test[0], &test[1..], directory.path(), &blob);
        let root = tempfile::tempdir_in(&directory).unwrap();
        let mut arguments = unpack[1..].to_vec();
        arguments.extend([
            "--no-same-owner",
            "--exclude=stargz.index.json",
            "--exclude=.no.prefetch.landmark",
        ]);
        if run(unpack[0], &arguments, root.path(), &blob).is_some() {
            let mut unpacked = files_on_disk(root.path());
            // Links are files on disk, and links in the archive.
            unpacked.retain(|name, _| expected.contains_key(name));
            assert_eq!(unpacked, expected);
        }
    }
}

#[test]
fn layers_by_stargz_snapshotter_convert_again() {
    let source = include_bytes!("../../format/tests/golden/ctr-remote-0.12.esgz");
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(&source[..]).read_to_end(&mut tar).unwrap();
    let expected = support::without_steering(tarball::tree(&tar));
    for format in [ESTARGZ, SHARED, EXTERNAL] {
        let (built, blob) = build(options(format), source);
        // Directories that are only implied have a time that nobody gave them.
        support::assert_shows_but(&expected, &built, &blob, Ignore { mtime: true, ..Ignore::default() });
        assert_eq!(built.source_diff_id, format::Digest::of(&tar));
    }
}

/// The fields of the TOC are those that stargz-snapshotter's converter writes for the same layer.
#[test]
fn the_table_says_what_that_of_stargz_snapshotter_says() {
    let source = include_bytes!("../../format/tests/golden/ctr-remote-0.12.esgz");
    let theirs = toc_json(source);
    let chunk_size =
        theirs["entries"].as_array().unwrap().iter().find_map(|entry| entry["chunkSize"].as_u64());
    let mut options = Options { chunk_size: 4 << 20, ..options(ESTARGZ) };
    if let Some(chunk_size) = chunk_size {
        options.chunk_size = chunk_size as u32;
    }
    let ours = toc_json(&build(options, source).1);
    let without_offsets = |toc: &serde_json::Value| {
        let mut entries = toc["entries"].as_array().unwrap().clone();
        for entry in &mut entries {
            entry.as_object_mut().unwrap().remove("offset");
        }
        entries
    };
    assert_eq!(without_offsets(&ours), without_offsets(&theirs));
}

fn toc_json(blob: &[u8]) -> serde_json::Value {
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
    let members = tarball::parse(&tar);
    serde_json::from_slice(&members.last().unwrap().member.content).unwrap()
}

#[test]
fn a_plain_a_gzip_and_a_zstd_source_are_the_same() {
    let tar = tarball::write(&Tree::new().with("a", Entry::file(content(3, 300_000))));
    let (expected, _) = build(options(ESTARGZ), &tar);
    let two_members = [gzip(&tar[..1000]), gzip(&tar[1000..])].concat();
    let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
    let two_frames = [
        &skippable[..],
        &zstd::encode_all(&tar[..777], 1).unwrap(),
        skippable,
        &zstd::encode_all(&tar[777..], 19).unwrap(),
    ];
    for source in
        [two_members, two_frames.concat(), build(options(ZSTD), &tar).1, build(options(LOSSLESS), &tar).1]
    {
        assert_eq!(build(options(ESTARGZ), &source).0.blob_digest, expected.blob_digest);
    }
}
