//! One case: an image behind a line, mounted by a process of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use testkit::Registry;
use testkit::registry::Request;
use testkit::wan::{Link, Proxy};

use crate::harness::images::Model;
use crate::harness::{Scene, scene};

/// Cases that play at the same time. They wait most of their time.
const SIDE_BY_SIDE: usize = 8;
/// No case takes as long, also on a busy machine.
const CASE_LIMIT: u64 = 50;
/// No reader takes as long.
pub const READER_LIMIT: Duration = Duration::from_secs(40);

/// Plays all cases of a table, each in a scene of its own.
///
/// # Panics
/// When one fails, after all have ended, with the names of those that failed.
pub fn side_by_side<C: Send + Sync + Copy + 'static>(
    cases: &'static [C],
    name: fn(&C) -> &'static str,
    play: fn(&C, &Scene),
) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = catch_unwind(AssertUnwindSafe(|| {
                        scene(CASE_LIMIT, move |scene| play(&case, scene));
                    }));
                    if let Err(panic) = played {
                        failed
                            .lock()
                            .expect("no panics under this lock")
                            .push((name(&case), text_of(&*panic)));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panics under this lock");
    let texts: String = failed.iter().map(|(name, text)| format!("\n--- {name}: {text}")).collect();
    assert!(failed.is_empty(), "{} of {} cases failed{texts}", failed.len(), cases.len());
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// The usual image behind a line.
#[derive(Debug)]
pub struct Stage<'a> {
    pub scene: &'a Scene,
    pub line: Proxy,
    reference: String,
}

impl<'a> Stage<'a> {
    /// Pushes the image. Nothing is mounted yet.
    pub fn new(scene: &'a Scene, link: Link) -> Stage<'a> {
        scene.registry.push("app", "1", &Model::usual().image);
        let line = Proxy::start(scene.registry.addr(), link);
        let reference = format!("{}/app:1", line.addr());
        Stage { scene, line, reference }
    }

    /// The registry behind the line.
    pub fn registry(&self) -> &Registry {
        &self.scene.registry
    }

    /// The reference by which the image is pulled over the line.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Where the line begins, as references name it.
    pub fn addr(&self) -> SocketAddr {
        self.line.addr()
    }

    /// Mounts the image, and forgets the requests that this took.
    #[track_caller]
    pub fn mount(&self) -> Mounted<'_> {
        self.mount_with(&[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn mount_with(&self, flags: &[&str]) -> Mounted<'_> {
        let dir = self.scene.mount_point("mnt");
        self.scene.mount_at(&self.reference, &dir, flags);
        self.registry().clear_requests();
        let server = self.scene.server_of(&dir);
        Mounted { scene: self.scene, dir, server }
    }
}

/// An image that is mounted, and the process that serves it.
#[derive(Debug)]
pub struct Mounted<'a> {
    scene: &'a Scene,
    pub dir: PathBuf,
    pub server: u32,
}

impl Mounted<'_> {
    /// Reads everything by one process; all of it is right, and served by the process that was there from the start.
    #[track_caller]
    pub fn all_right(&self) -> Duration {
        let verdict = self.scene.read_all(&self.dir, Model::usual(), READER_LIMIT);
        let log = || self.scene.log_of(&self.dir);
        assert!(verdict.wrong.is_empty() && verdict.unreadable.is_empty(), "{verdict:#?}\n{}", log());
        assert_eq!(self.scene.server_of(&self.dir), self.server, "another process");
        verdict.took
    }
}

/// Where the content of a file begins in the blob of a layer.
pub fn offset_of(layer: usize, name: &str) -> u64 {
    let toc = Model::usual().blobs[layer].toc();
    let entries = toc["entries"].as_array().expect("a list");
    let entry = entries.iter().find(|entry| entry["name"] == name && entry["type"] == "reg");
    entry.expect("it is there")["offset"].as_u64().expect("a number")
}

/// The digest of a layer, as paths of requests have it.
pub fn digest_of(layer: usize) -> String {
    Model::usual().blobs[layer].digest.to_string()
}

/// Whether any byte of any blob was asked for more than once.
pub fn asked_again(requests: &[Request]) -> bool {
    let mut asked: HashMap<&Path, Vec<Range<u64>>> = HashMap::new();
    for request in requests {
        let name = Path::new(&request.path).file_name().map_or(Path::new(""), Path::new);
        asked.entry(name).or_default().extend(request.range().into_iter().flat_map(ranges));
    }
    asked.into_values().any(|mut ranges| {
        ranges.sort_by_key(|range| range.start);
        ranges.windows(2).any(|pair| pair[1].start < pair[0].end)
    })
}

/// The ranges of a header like `bytes=0-99,200-299`.
fn ranges(header: &str) -> Vec<Range<u64>> {
    let list = header.strip_prefix("bytes=").unwrap_or_default().split(',');
    let range = |text: &str| {
        let (first, last) = text.trim().split_once('-')?;
        Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
    };
    list.filter_map(range).collect()
}
