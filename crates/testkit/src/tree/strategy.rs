//! Random trees for property tests.
//!
//! A tree is grown from a list of steps, each of which adds one entry to a directory that exists by then. Steps that
//! make no sense (a taken name, a link with nothing to link to) do nothing, so the list shrinks freely.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::Union;

use super::{Device, Entry, Kind, Time, Tree, join, parent};

/// What random trees may contain.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many steps a tree is grown in; it has at most as many entries besides the root.
    pub entries: RangeInclusive<usize>,
    /// Directories are nested at most this deep; keep below 15, as 16 names of 255 bytes exceed `PATH_MAX`.
    pub max_depth: usize,
    /// The chunk size that files will be cut by, in bytes: file sizes gather around its multiples.
    pub chunk_size: usize,
    /// The largest files are this many chunks (and a byte).
    pub max_chunks: usize,
    /// Spaces, quotes, controls, unicode, 255 bytes; else names are like `abc` and `.abc`.
    pub odd_names: bool,
    /// `user.*` and `security.capability` where Linux allows them, `trusted.*` everywhere.
    pub xattrs: bool,
    /// Extended attributes of symbolic links, devices and pipes too.
    pub special_xattrs: bool,
    /// Hard links.
    pub hardlinks: bool,
    /// Character and block devices and pipes; making them on disk needs root.
    pub devices: bool,
    /// Whiteouts and opaque directories.
    pub whiteouts: bool,
    /// Owners other than root, up to 4294967294.
    pub owners: bool,
    /// Modification times with a fraction of a second.
    pub nanoseconds: bool,
    /// Modification times before 1970, down to 1901 (what ext4 can hold).
    pub before_epoch: bool,
}

impl Default for Options {
    /// Everything a layer without whiteouts can have, small enough for hundreds of cases.
    fn default() -> Options {
        Options {
            entries: 0..=24,
            max_depth: 5,
            chunk_size: 16 << 10,
            max_chunks: 3,
            odd_names: true,
            xattrs: true,
            special_xattrs: true,
            hardlinks: true,
            devices: true,
            whiteouts: false,
            owners: true,
            nanoseconds: true,
            before_epoch: false,
        }
    }
}

/// Random trees within `options`.
pub fn trees(options: Options) -> impl Strategy<Value = Tree> {
    let max_depth = options.max_depth;
    let steps = vec(step(&options), options.entries.clone());
    (attributes(&options), steps).prop_map(move |(root, steps)| grow(root, steps, max_depth))
}

/// Content number `pattern` cut to `len` bytes. 0 is zeros, 1 repetitive text, the others do not compress.
pub fn content(pattern: u64, len: usize) -> Bytes {
    match pattern {
        0 => Bytes::from(vec![0; len]),
        1 => b"the same line again and again\n".iter().copied().cycle().take(len).collect(),
        seed => {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut bytes = Vec::with_capacity(len + 8);
            while bytes.len() < len {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
            }
            bytes.truncate(len);
            bytes.into()
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    parent: Index,
    name: String,
    what: What,
    attributes: Attributes,
}

#[derive(Clone, Debug)]
enum What {
    Kind(Kind),
    Link(Index),
}

#[derive(Clone, Debug)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    special_xattrs: bool,
}

fn grow(root: Attributes, steps: Vec<Step>, max_depth: usize) -> Tree {
    let mut tree = Tree::new();
    tree.insert(b"", root.of(Kind::Dir { opaque: false }));
    let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
    let mut linkable: Vec<Vec<u8>> = Vec::new();
    for Step { parent, name, what, attributes } in steps {
        let path = join(parent.get(&dirs).as_slice(), name.as_bytes());
        if tree.get(&path).is_some() || (path == name.as_bytes() && reserved(&name)) {
            continue;
        }
        match what {
            What::Link(_) if linkable.is_empty() => {}
            What::Link(target) => tree.link(&path, target.get(&linkable).as_slice()),
            What::Kind(Kind::Whiteout) if name.len() > 255 - ".wh.".len() => {}
            What::Kind(kind) => {
                match kind {
                    Kind::Dir { .. } if depth(&path) <= max_depth => dirs.push(path.clone()),
                    Kind::Dir { .. } | Kind::Whiteout => {}
                    _ => linkable.push(path.clone()),
                }
                tree.insert(&path, attributes.of(kind));
            }
        }
    }
    tree
}

/// Names that mean something to eStargz in the root of a layer.
fn reserved(name: &str) -> bool {
    matches!(name, "stargz.index.json" | ".prefetch.landmark" | ".no.prefetch.landmark")
}

fn depth(path: &[u8]) -> usize {
    std::iter::successors(Some(path), |path| parent(path)).count() - 1
}

impl Attributes {
    /// An entry with those of the attributes that Linux lets this kind have.
    fn of(&self, kind: Kind) -> Entry {
        let mode = match kind {
            Kind::Symlink(_) => 0o777,
            Kind::Whiteout => return Entry { mtime: self.mtime, ..Entry::new(kind) },
            _ => self.mode,
        };
        let allowed = |name: &[u8]| match kind {
            Kind::File(_) => true,
            Kind::Dir { .. } => name != b"security.capability",
            _ => self.special_xattrs && name.starts_with(b"trusted."),
        };
        let xattrs: BTreeMap<_, _> = self.xattrs.iter().filter(|(name, _)| allowed(name)).cloned().collect();
        Entry { kind, mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs, nlink: None }
    }
}

fn step(options: &Options) -> impl Strategy<Value = Step> + use<> {
    (any::<Index>(), name(options.odd_names), what(options), attributes(options))
        .prop_map(|(parent, name, what, attributes)| Step { parent, name, what, attributes })
}

fn what(options: &Options) -> impl Strategy<Value = What> + use<> {
    let device = || (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Device { major, minor });
    let target = prop_oneof![
        3 => "[a-z./]{1,20}",
        1 => "\\PC{1,60}",
        1 => "[a-z/]{1000,4095}",
    ];
    let mut kinds: Vec<(u32, BoxedStrategy<What>)> = vec![
        (6, file(options).prop_map(What::Kind).boxed()),
        (4, Just(What::Kind(Kind::Dir { opaque: false })).boxed()),
        (2, target.prop_map(|target| What::Kind(Kind::Symlink(target.into_bytes()))).boxed()),
    ];
    if options.hardlinks {
        kinds.push((2, any::<Index>().prop_map(What::Link).boxed()));
    }
    if options.devices {
        let char_device = device().prop_map(|device| match device {
            Device { major: 0, minor: 0 } => Kind::Char(Device { major: 1, minor: 3 }),
            device => Kind::Char(device),
        });
        let special = prop_oneof![char_device, device().prop_map(Kind::Block), Just(Kind::Fifo)];
        kinds.push((2, special.prop_map(What::Kind).boxed()));
    }
    if options.whiteouts {
        let marker = prop_oneof![Just(Kind::Whiteout), Just(Kind::Dir { opaque: true })];
        kinds.push((2, marker.prop_map(What::Kind).boxed()));
    }
    Union::new_weighted(kinds)
}

/// Regular files: few distinct contents, so that identical ones occur; sizes where off-by-one errors live.
fn file(options: &Options) -> impl Strategy<Value = Kind> + use<> {
    let (chunk, chunks) = (options.chunk_size, options.max_chunks);
    let near_boundary =
        (1..=chunks.max(1), 0usize..3).prop_map(move |(n, off)| (n * chunk + off).saturating_sub(1));
    let size = prop_oneof![
        2 => Just(0usize),
        3 => 1usize..200,
        2 => 4095usize..4098,
        3 => near_boundary,
        1 => 0..=chunk * chunks,
    ];
    (0u64..6, size).prop_map(|(pattern, size)| Kind::File(content(pattern, size)))
}

fn name(odd: bool) -> impl Strategy<Value = String> + use<> {
    let mut kinds: Vec<(u32, BoxedStrategy<String>)> =
        vec![(6, "[a-z]{1,3}".boxed()), (1, "\\.[a-z]{1,6}".boxed())];
    if odd {
        kinds.push((1, "[ -~\t\n&&[^/]]{1,12}".boxed()));
        kinds.push((1, "[^\0/]{1,20}".boxed()));
        kinds.push((1, "[a-z]{100,255}".boxed()));
        kinds.push((1, (120usize..=127).prop_map(|n| "é".repeat(n) + "x").boxed()));
        kinds.push((1, "(\\.\\.\\.|-rf|~|<&>|\\\\|a//?b| )".prop_map(|name| name.replace('/', "_")).boxed()));
    }
    Union::new_weighted(kinds).prop_filter("a usable file name", |name| {
        name.len() <= 255 && name != "." && name != ".." && !name.starts_with(".wh.")
    })
}

fn attributes(options: &Options) -> impl Strategy<Value = Attributes> + use<> {
    let special_xattrs = options.special_xattrs;
    let id = |on: bool| match on {
        true => prop_oneof![Just(0u32), 1u32..70_000, 0u32..=u32::MAX - 1].boxed(),
        false => Just(0).boxed(),
    };
    let secs = match options.before_epoch {
        true => prop_oneof![0i64..15_000_000_000, -(1i64 << 31) + 1..1].boxed(),
        false => prop_oneof![1i64..2_000_000_000, 1i64..15_000_000_000].boxed(),
    };
    let nanos = match options.nanoseconds {
        true => prop_oneof![Just(0u32), 0u32..1_000_000_000, Just(999_999_999)].boxed(),
        false => Just(0).boxed(),
    };
    let mode = prop_oneof![Just(0o644u32), Just(0o755), Just(0o4755), Just(0o1777), 0u32..0o10000];
    let xattrs = if options.xattrs { xattrs().boxed() } else { Just(Vec::new()).boxed() };
    (mode, id(options.owners), id(options.owners), secs, nanos, xattrs).prop_map(
        move |(mode, uid, gid, secs, nanos, xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime: Time { secs, nanos },
            xattrs,
            special_xattrs,
        },
    )
}

/// Few and small, as ext4 keeps all of them in the inode and one block.
fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let value = || prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 200..600)];
    let named = ("(user|trusted)\\.[a-zA-Z0-9_.-]{1,30}", value())
        .prop_map(|(name, value)| (name.into_bytes(), value));
    let capability = any::<[u32; 4]>().prop_map(|words| (b"security.capability".to_vec(), capability(words)));
    let one = prop_oneof![4 => named, 1 => capability];
    prop_oneof![3 => Just(Vec::new()), 2 => vec(one, 1..4)]
        .prop_filter("names that belong to the overlay file system", |xattrs| {
            !xattrs.iter().any(|(name, _)| name.starts_with(b"trusted.overlay"))
        })
}

/// `struct vfs_cap_data`, revision 2 (capability.h), with the effective flag: the kernel refuses anything less regular.
fn capability([permitted_low, inheritable_low, permitted_high, inheritable_high]: [u32; 4]) -> Vec<u8> {
    [0x0200_0001, permitted_low, inheritable_low, permitted_high, inheritable_high]
        .iter()
        .flat_map(|word: &u32| word.to_le_bytes())
        .collect()
}
