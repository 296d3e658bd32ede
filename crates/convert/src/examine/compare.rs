//! Whether two layers show the same: every entry with every attribute, and the bytes of every file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use builder::tar::{Kind, Member, Scanner};
use format::Digest;
use format::digest::{Algorithm, Hasher};

use super::ExamineError;
use crate::descriptor::Descriptor;
use crate::source::{Source, Verified};
use crate::stop::Stop;

/// What a converter adds to a layer.
const ADDED: [&[u8]; 3] = [b".prefetch.landmark", b".no.prefetch.landmark", b"stargz.index.json"];
/// Entries of one layer.
const ENTRIES_MAX: usize = 4_000_000;

/// Something that is not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path in the layer.
    pub path: String,
    /// What differs, with both values where they are short.
    pub what: String,
}

/// Compares two layers: what is missing in one of them, and what is different. The order does not matter, nor how they are
/// compressed and cut into chunks.
///
/// # Errors
/// When a layer cannot be read, or is not an archive.
pub fn compare_layers(
    left: (&dyn Source, &Descriptor),
    right: (&dyn Source, &Descriptor),
) -> Result<Vec<Difference>, ExamineError> {
    let (left, mut right) = (entries(left.0, left.1)?, entries(right.0, right.1)?);
    let mut differences = Vec::new();
    let mut note = |path: &[u8], what: String| {
        differences.push(Difference { path: String::from_utf8_lossy(path).into_owned(), what });
    };
    for (path, entry) in &left {
        match right.remove(path) {
            None => note(path, "only in the first".to_owned()),
            Some(other) if other != *entry => note(path, entry.differs(&other)),
            Some(_) => {}
        }
    }
    for path in right.keys() {
        note(path, "only in the second".to_owned());
    }
    Ok(differences)
}

/// All that an entry is.
#[derive(Debug, PartialEq)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: (i64, i64),
    mtime: format::Timestamp,
    link: Vec<u8>,
    device: (u32, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    size: u64,
    content: Option<Digest>,
}

impl Entry {
    fn new(member: &Member) -> Entry {
        let link = match member.kind {
            Kind::Hardlink => normal(&member.link),
            Kind::Symlink => member.link.clone(),
            _ => Vec::new(),
        };
        let device = match member.kind {
            Kind::Char | Kind::Block => (member.major, member.minor),
            _ => (0, 0),
        };
        Entry {
            kind: member.kind,
            mode: member.mode & 0o7777,
            owner: (member.uid, member.gid),
            mtime: member.mtime,
            link,
            device,
            xattrs: member.xattrs().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            size: if member.kind == Kind::File { member.size } else { 0 },
            content: None,
        }
    }

    fn differs(&self, other: &Entry) -> String {
        let mut texts = Vec::new();
        let mut compare = |name: &str, left: String, right: String| {
            if left != right {
                texts.push(format!("{name}: {left} and {right}"));
            }
        };
        compare("kind", format!("{:?}", self.kind), format!("{:?}", other.kind));
        compare("mode", format!("{:04o}", self.mode), format!("{:04o}", other.mode));
        let owner = |entry: &Entry| format!("{}:{}", entry.owner.0, entry.owner.1);
        compare("owner", owner(self), owner(other));
        compare("time", format!("{:?}", self.mtime), format!("{:?}", other.mtime));
        let link = |entry: &Entry| String::from_utf8_lossy(&entry.link).into_owned();
        compare("link", link(self), link(other));
        compare("device", format!("{:?}", self.device), format!("{:?}", other.device));
        compare("size", self.size.to_string(), other.size.to_string());
        if self.content != other.content {
            texts.push("content".to_owned());
        }
        if self.xattrs != other.xattrs {
            texts.push("extended attributes".to_owned());
        }
        texts.join(", ")
    }
}

/// The entries of a layer by their normal names; the last one of a name counts.
fn entries(source: &dyn Source, layer: &Descriptor) -> Result<BTreeMap<Vec<u8>, Entry>, ExamineError> {
    let stop = Stop::default();
    let mut blob = Verified::open(source, layer, &stop)?;
    let found = scan(&mut blob);
    // A damaged blob fails in many ways; that it is damaged says more.
    blob.finish()?;
    found.map_err(|problem| ExamineError::Archive { digest: Box::new(layer.digest), problem })
}

fn scan(blob: &mut Verified<'_>) -> Result<BTreeMap<Vec<u8>, Entry>, String> {
    let archive = crate::image::plain(blob).map_err(|error| error.to_string())?;
    let watch =
        Rc::new(RefCell::new(Watch { hasher: Hasher::new(Algorithm::Sha256), at: 0, wanted: (0, 0) }));
    let mut scanner = Scanner::new(Watched { source: archive, watch: Rc::clone(&watch) });
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let mut before: Option<(Vec<u8>, Entry)> = None;
    loop {
        let member = scanner.next_member().map_err(|error| error.to_string())?;
        // The scanner has passed over the content of the one before.
        if let Some((path, mut entry)) = before.take() {
            if entry.kind == Kind::File {
                entry.content = Some(watch.borrow_mut().take());
            }
            entries.insert(path, entry);
        }
        let Some(member) = member else { return Ok(entries) };
        if entries.len() >= ENTRIES_MAX {
            return Err(format!("it has more than {ENTRIES_MAX} entries"));
        }
        watch.borrow_mut().want(member.content_at, member.stored);
        let path = normal(&member.name);
        if !path.is_empty() && !ADDED.contains(&path.as_slice()) {
            before = Some((path, Entry::new(&member)));
        }
    }
}

/// Hashes a part of what passes.
struct Watch {
    hasher: Hasher,
    at: u64,
    /// From where, and how many bytes.
    wanted: (u64, u64),
}

impl Watch {
    fn want(&mut self, start: u64, length: u64) {
        self.wanted = (start, length);
        self.hasher = Hasher::new(Algorithm::Sha256);
    }

    fn pass(&mut self, bytes: &[u8]) {
        let (start, length) = self.wanted;
        let from = start.max(self.at);
        let to = start.saturating_add(length).min(self.at + bytes.len() as u64);
        if from < to {
            self.hasher.update(&bytes[(from - self.at) as usize..(to - self.at) as usize]);
        }
        self.at += bytes.len() as u64;
    }

    fn take(&mut self) -> Digest {
        std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256)).finish()
    }
}

struct Watched<R> {
    source: R,
    watch: Rc<RefCell<Watch>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.watch.borrow_mut().pass(&buffer[..got]);
        Ok(got)
    }
}

fn normal(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}
