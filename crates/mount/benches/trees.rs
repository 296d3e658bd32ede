//! A tree served through FUSE against the same tree on ext4, mounted as EROFS, and against a session that lets the kernel
//! keep nothing. Prints the medians of a few rounds, and ratios to ext4. Needs root and `mkfs.ext4`;
//! `cargo bench -p mount --bench trees`.
//!
//! Each round mounts anew, so that cold means: no entry, no inode and no page of the mount is in memory. The bytes of the
//! files behind (the image of the layer; the ext4 image on its loop device) are in the page cache ("chunks present").

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use erofs::{Attributes, Content, ImageWriter, Options};
use mount::{
    BoxFuture, Caching, Ending, ErofsOptions, Fetched, LayerTree, Root, Session, Source, Tree, TreeOptions,
    TreeServer, UnmountMode, mount_erofs, mount_erofs_loop, unmount,
};

const LARGE: usize = 256 << 20;
const DIRS: usize = 80;
const FILES: usize = 100;
const SMALL: usize = 4096;
const ROUNDS: usize = 5;

const STEPS: [&str; 8] =
    ["find cold", "find warm", "stat cold", "stat warm", "tar cold", "tar warm", "large cold", "large warm"];

/// Sessions: what the kernel may keep, and its readahead in KiB.
const SESSIONS: [(&str, Caching, u32); 3] = [
    ("fuse", Caching::Full, 128),
    ("fuse, 1 MiB ahead", Caching::Full, 1024),
    ("fuse, nothing kept", Caching::Off, 128),
];

#[derive(Debug)]
struct Local {
    file: File,
    start: u64,
    size: u64,
}

impl Source for Local {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.file.read_exact_at(buf, self.start + offset).map(|()| true)
    }

    fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async { Ok(Fetched::Stored) })
    }
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // `cargo test --benches` and the like pass no `--bench`.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let place = tempfile::tempdir()?;
    let (image, ext4) = (place.path().join("image.erofs"), place.path().join("ext4.img"));
    let source = make(place.path(), &image, &ext4)?;
    let target = place.path().join("mount");
    fs::create_dir(&target)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    let names = ["ext4", "erofs"].into_iter().chain(SESSIONS.map(|(name, ..)| name));
    let mut table: Vec<(&str, Vec<Vec<Duration>>)> = names.map(|name| (name, Vec::new())).collect();
    for _ in 0..ROUNDS {
        let mounted = Command::new("mount").args(["-o", "loop,ro"]).args([&ext4, &target]).status()?;
        assert!(mounted.success(), "cannot mount the ext4 image");
        table[0].1.push(measure(&target)?);
        unmount(&target, UnmountMode::Normal)?;
        let options = ErofsOptions::default();
        mount_erofs(&image, &target, &options).or_else(|_| mount_erofs_loop(&image, &target, &options))?;
        table[1].1.push(measure(&target)?);
        unmount(&target, UnmountMode::Normal)?;
        for (row, (_, caching, kib)) in (2..).zip(SESSIONS) {
            let options = TreeOptions { caching, read_ahead_kb: Some(kib), ..TreeOptions::default() };
            let session = Session::mount_trees(&target, &options)?;
            let layer = LayerTree::open(&image, Arc::clone(&source) as Arc<dyn Source>)?;
            let root = Root { number: 1, name: "x".to_owned(), tree: Tree::Layer(layer) };
            let server = TreeServer::start(session, &options, runtime.handle().clone(), vec![root])?;
            table[row].1.push(measure(&target.join("x"))?);
            server.shutdown(Ending::Unmount)?;
        }
    }
    report(&table);
    Ok(())
}

fn report(table: &[(&str, Vec<Vec<Duration>>)]) {
    let median = |rounds: &[Vec<Duration>], step: usize| {
        let mut times: Vec<_> = rounds.iter().map(|round| round[step]).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let cell = |text: String| format!("{text:>22}");
    let names: String = table.iter().map(|(name, _)| cell((*name).to_owned())).collect();
    eprintln!("{:12}{names}", "ms (× ext4)");
    for (step, name) in STEPS.iter().enumerate() {
        let native = median(&table[0].1, step);
        let cells: String = table
            .iter()
            .map(|(_, rounds)| {
                let time = median(rounds, step);
                cell(format!("{time:9.1} ({:5.2})", time / native))
            })
            .collect();
        eprintln!("{name:12}{cells}");
    }
}

/// The same tree as a layer and as an ext4 image; returns the bytes of the layer.
fn make(place: &Path, image: &Path, ext4: &Path) -> Result<Arc<Local>, Failure> {
    let mut state = 1_u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let words = (0..len / 8).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        });
        words.collect()
    };
    let tree = place.join("tree");
    fs::create_dir(&tree)?;
    let mut writer = ImageWriter::new(Options::default());
    let attributes = |mode| Attributes { mode, ..Attributes::default() };
    let mut data = noise(LARGE);
    fs::write(tree.join("large"), &data)?;
    let large = Content::File { size: LARGE as u64, data_offset: 0 };
    writer.add(writer.root(), b"large", attributes(0o644), large)?;
    let small = writer.add(writer.root(), b"small", attributes(0o755), Content::Directory)?;
    for dir in 0..DIRS {
        let name = format!("{dir}");
        let parent = writer.add(small, name.as_bytes(), attributes(0o755), Content::Directory)?;
        let at = tree.join("small").join(name);
        fs::create_dir_all(&at)?;
        for file in 0..FILES {
            let (name, bytes) = (format!("file-{file}"), noise(SMALL));
            fs::write(at.join(&name), &bytes)?;
            let content = Content::File { size: SMALL as u64, data_offset: data.len() as u64 };
            writer.add(parent, name.as_bytes(), attributes(0o644), content)?;
            data.extend(bytes);
        }
    }
    let mut bytes = Vec::new();
    let layout = writer.write(data.len() as u64, &mut bytes)?;
    bytes.extend(data);
    fs::write(image, bytes)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-d"]).arg(&tree).arg(ext4).arg(format!("{}M", (LARGE >> 20) + 128));
    assert!(mkfs.status()?.success(), "mkfs.ext4 failed");
    fs::remove_dir_all(tree)?;
    io::copy(&mut File::open(ext4)?, &mut io::sink())?;
    Ok(Arc::new(Local { file: File::open(image)?, start: layout.data_start, size: layout.data_len }))
}

fn measure(root: &Path) -> io::Result<Vec<Duration>> {
    let small = root.join("small");
    let time = |work: &dyn Fn() -> io::Result<()>| {
        let begin = Instant::now();
        work().map(|()| begin.elapsed())
    };
    Ok(vec![
        time(&|| walk(&small, &|_| Ok(())))?,
        time(&|| walk(&small, &|_| Ok(())))?,
        time(&|| walk(&small, &|path| fs::symlink_metadata(path).map(drop)))?,
        time(&|| walk(&small, &|path| fs::symlink_metadata(path).map(drop)))?,
        time(&|| walk(&small, &archive))?,
        time(&|| walk(&small, &archive))?,
        time(&|| read(&root.join("large")))?,
        time(&|| read(&root.join("large")))?,
    ])
}

fn walk(dir: &Path, each: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path: PathBuf = entry.path();
        each(&path)?;
        if entry.file_type()?.is_dir() {
            walk(&path, each)?;
        }
    }
    Ok(())
}

/// What an archiver does with an entry.
fn archive(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_file() { read(path) } else { Ok(()) }
}

fn read(path: &Path) -> io::Result<()> {
    let mut buf = vec![0; 128 << 10];
    let mut file = File::open(path)?;
    while file.read(&mut buf)? > 0 {}
    Ok(())
}
