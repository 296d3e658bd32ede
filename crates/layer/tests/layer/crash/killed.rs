//! A process that fills, reads and evicts is killed at any moment, over and over, on one root.

use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use layer::image::ImageFiles;
use layer::source::FileSource;
use layer::{CacheBudget, Layer, Layers, LayersOptions};
use testkit::estargz::{self, Blob, Options};
use testkit::tarball;
use testkit::tree::{Entry, Tree, content};

use crate::source::MemorySource;
use crate::{layers, resolve};

const KILLS: u64 = 200;
/// No life is longer, so that a busy machine does not make the test long.
const LIFE_MAX: Duration = Duration::from_millis(160);
/// In which directory a child lives; that it is set is what makes a child.
const STAGE: &str = "LAYER_TEST_STAGE";
const SEED: &str = "LAYER_TEST_SEED";
const NAME: &str = "crash::killed::a_process_that_is_killed_at_any_moment_never_leaves_a_wrong_byte";

/// Contents of all kinds: many small ones, chunks that share blocks and gzip members, a large one.
fn blob() -> Blob {
    let mut tree = Tree::new();
    for number in 0..60_u64 {
        tree = tree
            .with(format!("small/{number:02}"), Entry::file(content(number, 500 + 331 * number as usize)));
    }
    tree = tree.with("large", Entry::file(content(99, 3 << 20)));
    estargz::build(
        &tarball::write(&tree),
        &Options { chunk_size: 50_000, min_chunk_size: 70_000, ..Options::default() },
    )
}

/// A fixed sequence that looks random (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What parent and children share.
struct Stage(PathBuf);

impl Stage {
    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn truth(&self) -> Vec<u8> {
        std::fs::read(self.0.join("truth")).unwrap()
    }

    fn layers(&self) -> Arc<Layers> {
        let mut options = LayersOptions::new(self.root());
        options.cache = CacheBudget { max_bytes: Some(1 << 30), ..CacheBudget::default() };
        Layers::open(options).unwrap()
    }

    async fn resolve(&self, layers: &Arc<Layers>) -> Arc<Layer> {
        let digests = std::fs::read_to_string(self.0.join("digests")).unwrap();
        let (digest, toc) = digests.split_once(' ').unwrap();
        let toc = layer::Pin::Toc(toc.parse().unwrap());
        let source = FileSource::new(std::fs::File::open(self.0.join("blob")).unwrap()).unwrap();
        let resolved = layers.resolve(digest.parse().unwrap(), Some(toc), Arc::new(source)).await.unwrap();
        resolved.verify(&toc).unwrap()
    }

    /// Every chunk whose bit is set on disk, against the truth. Returns how many there are.
    fn check(&self) -> u64 {
        let truth = self.truth();
        let found = layer::cache::survey(&self.root()).unwrap();
        assert!(found.broken.is_empty(), "{found:?}");
        let Some(found) = found.layers.first() else { return 0 };
        let files = ImageFiles::open_to_read(&found.dir).unwrap();
        for number in (0..files.tables.chunk_count()).filter(|&number| files.filled.get(number)) {
            let place = files.tables.chunk(number).unwrap().data_range();
            let mut bytes = vec![0; (place.end - place.start) as usize];
            files.image.read_exact_at(&mut bytes, files.meta.data_start + place.start).unwrap();
            assert!(bytes == truth[place.start as usize..place.end as usize], "chunk {number} is wrong");
        }
        found.filled
    }
}

#[test]
fn a_process_that_is_killed_at_any_moment_never_leaves_a_wrong_byte() {
    if let Some(stage) = std::env::var_os(STAGE) {
        let seed = std::env::var(SEED).unwrap().parse().unwrap();
        live(&Stage(stage.into()), seed);
        unreachable!("a child lives until it is killed");
    }
    let dir = tempfile::tempdir().unwrap();
    let stage = prepare(dir.path());
    let mut dice = Dice(1);
    let (mut filled, mut least, mut most) = (0, u64::MAX, 0);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(STAGE, dir.path())
            .env(SEED, kill.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let life = Duration::from_micros(dice.below(LIFE_MAX.as_micros() as u64));
        let born = Instant::now();
        while born.elapsed() < life {
            if child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("child {kill} ended by itself: {said}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if kill % 5 == 0 {
            filled = stage.check();
            (least, most) = (least.min(filled), most.max(filled));
        }
    }
    assert!(most > least, "children neither filled nor evicted: {filled} chunks");

    stage.check();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let layers = stage.layers();
        let layer = stage.resolve(&layers).await;
        layer.fill_all().await.unwrap();
        let mut bytes = vec![0; layer.data_len() as usize];
        assert!(layer.read_local(0, &mut bytes).unwrap());
        assert!(bytes == stage.truth());
        layers.close().await;
    });
}

/// Writes the blob, and the data area that it has to become.
fn prepare(dir: &Path) -> Stage {
    let (stage, blob) = (Stage(dir.to_owned()), blob());
    std::fs::write(dir.join("blob"), &blob.bytes).unwrap();
    std::fs::write(dir.join("digests"), format!("{} {}", blob.digest, blob.toc_digest)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let apart = tempfile::tempdir().unwrap();
        let layers = layers(apart.path());
        let layer = resolve(&layers, &blob, Arc::new(MemorySource::new(blob.bytes.clone()))).await.unwrap();
        layer.fill_all().await.unwrap();
        let mut bytes = vec![0; layer.data_len() as usize];
        assert!(layer.read_local(0, &mut bytes).unwrap());
        std::fs::write(dir.join("truth"), bytes).unwrap();
    });
    stage
}

/// Reads here and there with several readers, evicts, flushes, and panics at the first wrong byte.
fn live(stage: &Stage, seed: u64) {
    // Nobody else is left to end this process.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async {
        let layers = stage.layers();
        let layer = stage.resolve(&layers).await;
        let truth = Arc::new(stage.truth());
        let mut tasks = tokio::task::JoinSet::new();
        for reader in 0..3 {
            let (layer, truth, mut dice) = (layer.clone(), truth.clone(), Dice(seed << 8 | reader));
            tasks.spawn(async move {
                loop {
                    let offset = dice.below(truth.len() as u64 - 1);
                    let len = (1 + dice.below(60_000)).min(truth.len() as u64 - offset) as usize;
                    let mut bytes = vec![0; len];
                    while !layer.read_local(offset, &mut bytes).unwrap() {
                        layer.fill(offset, len).await.unwrap();
                    }
                    let offset = offset as usize;
                    assert!(bytes == truth[offset..offset + len], "{len} bytes at {offset} are wrong");
                    tokio::time::sleep(Duration::from_micros(dice.below(2000))).await;
                }
            });
        }
        let mut dice = Dice(!seed);
        tasks.spawn(async move {
            loop {
                layers.make_room(1 + dice.below(300_000)).await;
                tokio::time::sleep(Duration::from_micros(dice.below(5000))).await;
                layers.flush().await;
            }
        });
        tasks.join_next().await.unwrap().unwrap();
    });
}
