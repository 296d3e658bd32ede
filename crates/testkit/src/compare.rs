//! A directory on disk as a [`Tree`], and what differs between two trees, for people.

mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use crate::tree::{Entry, Kind, Tree, show};

pub use read::read;

/// What [`diff`] passes over. The default passes over nothing but SELinux labels.
#[derive(Clone, Debug)]
pub struct Ignore {
    /// Modification times.
    pub mtime: bool,
    /// Fractions of a second of modification times; whole seconds may then differ by rounding to the nearest.
    pub nanoseconds: bool,
    /// Owners and groups.
    pub owner: bool,
    /// Modes.
    pub mode: bool,
    /// Extended attributes whose name starts with one of these; `""` is all of them.
    pub xattrs: Vec<String>,
    /// Everything about the root directory but that it is one.
    pub root: bool,
    /// Which names share an inode, and how many.
    pub links: bool,
    /// Link counts of directories, which not all file systems keep (overlay and btrfs report 1).
    pub directory_links: bool,
}

impl Default for Ignore {
    fn default() -> Ignore {
        Ignore {
            mtime: false,
            nanoseconds: false,
            owner: false,
            mode: false,
            xattrs: vec!["security.selinux".to_owned()],
            root: false,
            links: false,
            directory_links: false,
        }
    }
}

/// The differences between two trees; shows the first 20.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences(Vec<String>);

impl Differences {
    /// Whether the trees are the same.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line for each difference.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        write!(f, "{} differences (expected, then actual):", self.0.len())?;
        for line in self.0.iter().take(SHOWN) {
            write!(f, "\n  {line}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Checks that two trees are the same.
///
/// # Panics
/// When they are not, with the first differences.
#[track_caller]
pub fn assert_same(expected: &Tree, actual: &Tree, ignore: &Ignore) {
    let differences = diff(expected, actual, ignore);
    assert!(differences.is_empty(), "{differences}");
}

/// What differs between two trees.
pub fn diff(expected: &Tree, actual: &Tree, ignore: &Ignore) -> Differences {
    let mut lines = Vec::new();
    let paths: BTreeSet<&[u8]> = expected.paths().into_iter().chain(actual.paths()).collect();
    for path in paths {
        let (left, right) = match (expected.get(path), actual.get(path)) {
            (Some(left), Some(right)) => (left, right),
            (Some(left), None) => {
                lines.push(format!("{}: {left:?} is missing", show(path)));
                continue;
            }
            (None, right) => {
                lines.push(format!(
                    "{}: {:?} should not be there",
                    show(path),
                    right.expect("one side has it")
                ));
                continue;
            }
        };
        if !ignore.links {
            let counts = (nlink(expected, path), nlink(actual, path));
            let primaries = (expected.primary(path), actual.primary(path));
            if primaries.0 != primaries.1 {
                let what = "shares its inode with";
                lines.push(format!("{} {what}: {} | {}", show(path), show(primaries.0), show(primaries.1)));
            } else if counts.0 != counts.1 && !(left.is_dir() && ignore.directory_links) {
                lines.push(format!("{}: link count: {} | {}", show(path), counts.0, counts.1));
            }
        }
        // Attributes of an inode that both trees reach from an earlier path are told there.
        let told = expected.primary(path) != path && expected.primary(path) == actual.primary(path);
        let ignored = path.is_empty() && ignore.root;
        if !told && !ignored {
            lines.extend(
                attributes(left, right, ignore).into_iter().map(|line| format!("{}: {line}", show(path))),
            );
        }
    }
    Differences(lines)
}

fn nlink(tree: &Tree, path: &[u8]) -> u64 {
    tree.get(path).and_then(|entry| entry.nlink).unwrap_or_else(|| tree.nlink(path))
}

fn attributes(left: &Entry, right: &Entry, ignore: &Ignore) -> Vec<String> {
    if left.kind == Kind::Whiteout && right.kind == Kind::Whiteout {
        return Vec::new();
    }
    let mut lines = Vec::new();
    match (&left.kind, &right.kind) {
        (Kind::File(left), Kind::File(right)) if left != right => lines.push(contents(left, right)),
        (left, right) if left != right => lines.push(format!("{left:?} | {right:?}")),
        _ => {}
    }
    if !ignore.mode && left.mode != right.mode {
        lines.push(format!("mode: {:04o} | {:04o}", left.mode, right.mode));
    }
    if !ignore.owner && (left.uid, left.gid) != (right.uid, right.gid) {
        lines.push(format!("owner: {}:{} | {}:{}", left.uid, left.gid, right.uid, right.gid));
    }
    if !ignore.mtime && !same_time(left, right, ignore) {
        let (a, b) = (left.mtime, right.mtime);
        lines.push(format!("mtime: {}.{:09} | {}.{:09}", a.secs, a.nanos, b.secs, b.nanos));
    }
    xattrs(left, right, ignore, &mut lines);
    lines
}

fn same_time(left: &Entry, right: &Entry, ignore: &Ignore) -> bool {
    let rounded = |entry: &Entry| entry.mtime.secs + i64::from(entry.mtime.nanos >= 500_000_000);
    left.mtime == right.mtime
        || ignore.nanoseconds && (left.mtime.secs == right.mtime.secs || rounded(left) == rounded(right))
}

fn xattrs(left: &Entry, right: &Entry, ignore: &Ignore, lines: &mut Vec<String>) {
    let names: BTreeSet<_> = left.xattrs.keys().chain(right.xattrs.keys()).collect();
    for name in names {
        if ignore.xattrs.iter().any(|prefix| name.starts_with(prefix.as_bytes())) {
            continue;
        }
        let (left, right) = (left.xattrs.get(name), right.xattrs.get(name));
        if left != right {
            let value = |value: Option<&Vec<u8>>| value.map_or("none".into(), |value| hex(value, 0));
            lines.push(format!(
                "xattr {}: {} | {}",
                String::from_utf8_lossy(name),
                value(left),
                value(right)
            ));
        }
    }
}

/// Where contents part, with some bytes of both from there on.
fn contents(left: &[u8], right: &[u8]) -> String {
    let at = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let (lengths, bytes) = ((left.len(), right.len()), (hex(left, at), hex(right, at)));
    format!("content: {} | {} bytes; at {at}: {} | {}", lengths.0, lengths.1, bytes.0, bytes.1)
}

fn hex(bytes: &[u8], from: usize) -> String {
    const SHOWN: usize = 12;
    let shown: String = bytes[from..].iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > from + SHOWN { "…" } else { "" };
    format!("[{shown}{more}]")
}
