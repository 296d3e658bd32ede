//! Reads a large file and a tree of small ones through every path that the kernel offers, and prints rates, requests
//! and page cache. Needs root and `mkfs.erofs`; `cargo bench -p mount`.
//!
//! The bytes are in the page cache of the backing file throughout ("chunks present"); what is cold is the EROFS mount,
//! which each round mounts anew.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mount::{
    BoxFuture, Ending, ErofsOptions, Fetched, Image, ImageServer, Session, SessionOptions, Source,
    UnmountMode, mount_erofs, mount_overlay_ro, unmount,
};

const LARGE: u64 = 512 << 20;
const SMALL: usize = 8000;
const ROUNDS: usize = 3;

#[derive(Debug)]
struct Local {
    file: File,
    bytes: AtomicU64,
    sizes: Mutex<Vec<usize>>,
}

impl Source for Local {
    fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    fn read_local(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.sizes.lock().unwrap().push(buf.len());
        self.file.read_exact_at(buf, offset).map(|()| true)
    }

    fn fetch(&self, _: u64, _: usize) -> BoxFuture<'_, io::Result<Fetched>> {
        Box::pin(async { Ok(Fetched::Stored) })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` and the like pass no `--bench`.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let place = tempfile::tempdir()?;
    let dir = |name: &str| -> io::Result<_> {
        let path = place.path().join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let tree = dir("tree")?;
    make_tree(&tree)?;
    let (image, data) = (place.path().join("image"), place.path().join("data"));
    let blobdev = format!("--blobdev={}", data.display());
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args(["-x-1", &blobdev, "--chunksize=4096", "--quiet"]).args([&image, &tree]);
    assert!(mkfs.status()?.success(), "mkfs.erofs failed");
    io::copy(&mut File::open(&data)?, &mut io::sink())?;

    let fuse = dir("fuse")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let source =
        Arc::new(Local { file: File::open(&data)?, bytes: AtomicU64::new(0), sizes: Mutex::default() });
    let session = Session::mount(&fuse, SessionOptions::default())?;
    let served = Image { node: 2, name: "data".to_owned(), source: Arc::clone(&source) as Arc<dyn Source> };
    let server = ImageServer::start(session, runtime.handle().clone(), vec![served])?;

    report("ext4, cached", &tree, &source)?;
    let (target, lower, merged) = (dir("erofs")?, dir("lower")?, dir("merged")?);
    for (name, device, direct_io, read_ahead) in [
        ("local file, buffered", &data, false, None),
        ("local file, directio", &data, true, None),
        ("FUSE file, buffered", &fuse.join("data"), false, None),
        ("FUSE file, directio", &fuse.join("data"), true, None),
        ("FUSE file, directio, readahead 512 KiB", &fuse.join("data"), true, Some(512)),
        ("FUSE file, directio, readahead 1 MiB", &fuse.join("data"), true, Some(1024)),
        ("FUSE file, directio, readahead 4 MiB", &fuse.join("data"), true, Some(4096)),
    ] {
        for _ in 0..ROUNDS {
            let options = ErofsOptions {
                device: Some(device.clone()),
                direct_io,
                read_ahead_kb: read_ahead,
                ..ErofsOptions::default()
            };
            mount_erofs(&image, &target, &options)?;
            report(name, &target, &source)?;
            unmount(&target, UnmountMode::Normal)?;
        }
    }
    mount_erofs(
        &image,
        &target,
        &ErofsOptions { device: Some(fuse.join("data")), direct_io: true, ..ErofsOptions::default() },
    )?;
    mount_overlay_ro(&[target.clone(), lower], &merged)?;
    report("overlay on FUSE file, directio", &merged, &source)?;
    unmount(&merged, UnmountMode::Normal)?;
    unmount(&target, UnmountMode::Normal)?;
    Ok(server.shutdown(Ending::Unmount)?)
}

fn make_tree(tree: &Path) -> io::Result<()> {
    let mut state = 1_u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let words = (0..len / 8).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        });
        words.collect()
    };
    let large = noise(LARGE as usize);
    fs::write(tree.join("large"), large)?;
    for n in 0..SMALL {
        let dir = tree.join(format!("small/{}", n / 100));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("{n}")), noise(4096))?;
    }
    Ok(())
}

/// One line: the large file cold and warm, then the small ones cold and warm, in MB/s and files/s.
fn report(name: &str, tree: &Path, source: &Local) -> io::Result<()> {
    let cached = cached_mib();
    source.sizes.lock().unwrap().clear();
    source.bytes.store(0, Ordering::Relaxed);
    let cold = read_large(&tree.join("large"))?;
    let grown = cached_mib() - cached;
    let mut sizes = std::mem::take(&mut *source.sizes.lock().unwrap());
    sizes.sort_unstable();
    let fetched = source.bytes.swap(0, Ordering::Relaxed) >> 20;
    let warm = read_large(&tree.join("large"))?;
    let small_cold = read_small(&tree.join("small"))?;
    let small_fetched = source.bytes.swap(0, Ordering::Relaxed) >> 10;
    let small_requests = std::mem::take(&mut *source.sizes.lock().unwrap()).len();
    let small_warm = read_small(&tree.join("small"))?;
    eprintln!(
        "{name:40} large cold {cold:5.0} warm {warm:5.0} MB/s, {} requests (median {} KiB, largest {} KiB) {fetched} MiB, \
         cache +{grown} MiB | small cold {small_cold:6.0} warm {small_warm:6.0} files/s, {small_requests} requests {small_fetched} KiB",
        sizes.len(),
        sizes.get(sizes.len() / 2).unwrap_or(&0) / 1024,
        sizes.last().unwrap_or(&0) / 1024,
    );
    Ok(())
}

fn read_large(path: &Path) -> io::Result<f64> {
    let mut buf = vec![0; 1 << 20];
    let begin = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut buf)? > 0 {}
    Ok(LARGE as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

fn read_small(path: &Path) -> io::Result<f64> {
    let begin = Instant::now();
    for dir in fs::read_dir(path)? {
        for file in fs::read_dir(dir?.path())? {
            fs::read(file?.path())?;
        }
    }
    Ok(SMALL as f64 / begin.elapsed().as_secs_f64())
}

fn cached_mib() -> i64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Cached:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<i64>().unwrap_or(0) / 1024
}
