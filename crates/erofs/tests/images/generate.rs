//! Random trees.

use erofs::{Attributes, Content};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::model::Tree;

/// A valid ACL: version 2, then tag, permissions and id of each entry.
pub const ACL: &[u8] = &[
    2, 0, 0, 0, // version
    1, 0, 7, 0, 255, 255, 255, 255, // user::rwx
    2, 0, 5, 0, 0xe8, 3, 0, 0, // user:1000:r-x
    4, 0, 5, 0, 255, 255, 255, 255, // group::r-x
    16, 0, 5, 0, 255, 255, 255, 255, // mask::r-x
    32, 0, 1, 0, 255, 255, 255, 255, // other::--x
];

/// A valid file capability: revision 2, effective, `cap_net_raw`.
pub const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[derive(Clone, Debug)]
enum What {
    Directory,
    File(u64),
    SameContent(Index),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    HardLink(Index),
}

pub fn tree() -> impl Strategy<Value = Tree> {
    let steps = vec((any::<Index>(), name(), attributes(), what()), 0..60);
    (attributes(), steps).prop_map(|(root, steps)| {
        let mut tree = Tree { root: keep_applicable(root, &Content::Directory), ..Tree::new() };
        for (parent, name, attributes, what) in steps {
            step(&mut tree, parent, name, attributes, what);
        }
        tree
    })
}

/// The same `count` random trees in each run, for checks that are too slow to be varied and shrunk.
pub fn samples(count: usize) -> impl Iterator<Item = Tree> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(move |_| tree().new_tree(&mut runner).unwrap().current())
}

/// Adds one node or link; leaves the tree alone if the name is taken or there is nothing to link to.
fn step(tree: &mut Tree, parent: Index, name: Vec<u8>, attributes: Attributes, what: What) {
    let directories: Vec<_> = std::iter::once(None).chain(tree.directories().into_iter().map(Some)).collect();
    let parent = *parent.get(&directories);
    if tree.has(parent, &name) {
        return;
    }
    let content = match what {
        What::Directory => Content::Directory,
        What::File(size) => Content::File { size, data_offset: tree.data_len },
        What::Symlink(target) => Content::Symlink(target),
        What::Char(major, minor) => Content::CharDevice { major, minor },
        What::Block(major, minor) => Content::BlockDevice { major, minor },
        What::Fifo => Content::Fifo,
        What::Socket => Content::Socket,
        What::SameContent(index) => {
            let is_file = |content: &&Content| matches!(content, Content::File { .. });
            let files: Vec<_> = tree.nodes.iter().map(|node| &node.content).filter(is_file).collect();
            if files.is_empty() {
                return;
            }
            (*index.get(&files)).clone()
        }
        What::HardLink(index) => {
            let targets: Vec<_> =
                (0..tree.nodes.len()).filter(|&i| tree.nodes[i].content != Content::Directory).collect();
            if !targets.is_empty() {
                tree.nodes[*index.get(&targets)].names.push((parent, name));
            }
            return;
        }
    };
    tree.add(parent, &name, keep_applicable(attributes, &content), content);
}

/// Leaves out xattrs that Linux does not show on nodes of this kind, though the format has them.
fn keep_applicable(mut attributes: Attributes, content: &Content) -> Attributes {
    attributes.xattrs.retain(|(name, _)| match content {
        Content::Directory => true,
        Content::File { .. } => name != b"system.posix_acl_default",
        _ => !name.starts_with(b"user.") && !name.starts_with(b"system."),
    });
    attributes
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'!' } else { byte });
    let name = prop_oneof![
        8 => "[a-z.!-]{1,6}".prop_map(String::into_bytes),
        2 => vec(byte.clone(), 1..30),
        1 => vec(byte, 200..=255),
    ];
    name.prop_filter("not reserved", |name| name != b"." && name != b"..")
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let id = prop_oneof![Just(0), 0..70_000u32, Just(u32::MAX - 1)];
    // Up to where `time_t` is still sound in all of the kernel's arithmetic.
    let mtime = prop_oneof![Just(0), 0..2_000_000_000i64, -3_000_000_000..=8_000_000_000i64];
    (0..=0o7777u16, id.clone(), id, mtime, 0..1_000_000_000u32, xattrs()).prop_map(
        |(mode, uid, gid, mtime, mtime_nanos, xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime,
            mtime_nanos,
            xattrs,
        },
    )
}

fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let value = prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        2 => vec(any::<u8>(), 0..5000),
    ];
    let free = ("(user|trusted|security)\\.[a-z.]{1,20}", value)
        .prop_map(|(name, value)| (name.into_bytes(), value));
    let fixed = prop_oneof![
        Just((b"security.capability".to_vec(), CAPABILITY.to_vec())),
        Just((b"system.posix_acl_access".to_vec(), ACL.to_vec())),
        Just((b"system.posix_acl_default".to_vec(), ACL.to_vec())),
        Just((b"trusted.overlay.opaque".to_vec(), b"y".to_vec())),
    ];
    let some = vec(prop_oneof![2 => free, 1 => fixed], 0..5);
    prop_oneof![2 => Just(Vec::new()), 1 => some].prop_map(|mut xattrs| {
        xattrs.sort();
        xattrs.dedup_by(|a, b| a.0 == b.0);
        xattrs
    })
}

fn what() -> impl Strategy<Value = What> {
    let size = prop_oneof![Just(0), 1..100u64, 4095..=4097u64, 0..40_000u64];
    let len = prop_oneof![4 => 1..60usize, 1 => 3900..=4095usize];
    let target = len.prop_flat_map(|len| vec(1..=255u8, len));
    prop_oneof![
        4 => Just(What::Directory),
        5 => size.prop_map(What::File),
        1 => any::<Index>().prop_map(What::SameContent),
        3 => target.prop_map(What::Symlink),
        1 => (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => Just(What::Char(0, 0)),
        1 => (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| What::Block(major, minor)),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        2 => any::<Index>().prop_map(What::HardLink),
    ]
}
