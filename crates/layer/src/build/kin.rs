//! Which files are likely to be wanted together: of one class, in directories that are near each other.
//!
//! A program that loads one module of a package soon loads others of the same kind (`.pyc`, `.so`, `.js`, `.class`),
//! from the same directory and those around it, and hardly the sources, headers and tests that the archive has between
//! them.

use format::{NodeId, NodeKind, Toc};

use crate::image::{Dir, NO_DIR};

/// The class and the directory of every file of a TOC.
#[derive(Debug)]
pub(super) struct Kin {
    /// The directories, numbered in the order of a walk.
    pub dirs: Vec<Dir>,
    places: Vec<Option<(u32, u32)>>,
}

impl Kin {
    /// Walks the tree once. Directories may be nested as deep as they like: nothing here recurses.
    pub fn of(toc: &Toc) -> Kin {
        let nodes = toc.nodes();
        let mut kin = Kin { dirs: vec![Dir { parent: NO_DIR, end: 1 }], places: vec![None; nodes.len()] };
        // Each level: the directory's number, whether tests are below it, and its subdirectories still to enter.
        let mut levels = vec![kin.enter(toc, NodeId::ROOT, 0, false)];
        while let Some(level) = levels.last_mut() {
            let Some((child, tests)) = level.subdirectories.pop() else {
                let number = level.number;
                levels.pop();
                kin.dirs[number as usize].end = kin.dirs.len() as u32;
                continue;
            };
            let parent = level.number;
            let number = kin.dirs.len() as u32;
            kin.dirs.push(Dir { parent, end: number + 1 });
            let entered = kin.enter(toc, child, number, tests);
            levels.push(entered);
        }
        kin
    }

    /// Class and directory of a file, by node number.
    pub fn place(&self, node: usize) -> Option<(u32, u32)> {
        self.places.get(node).copied().flatten()
    }

    fn enter(&mut self, toc: &Toc, id: NodeId, number: u32, tests: bool) -> Level {
        let mut subdirectories = Vec::new();
        for (name, child) in toc.children(id) {
            match toc.nodes().get(child.index()).map(|node| &node.kind) {
                Some(NodeKind::Directory { .. }) => {
                    subdirectories.push((child, tests || matches!(name, b"test" | b"tests" | b"testing")));
                }
                Some(NodeKind::File { .. }) => {
                    // The first name of a file with several speaks for it.
                    if let Some(place @ None) = self.places.get_mut(child.index()) {
                        *place = Some((class(name, tests), number));
                    }
                }
                _ => {}
            }
        }
        subdirectories.reverse();
        Level { number, subdirectories }
    }
}

struct Level {
    number: u32,
    subdirectories: Vec<(NodeId, bool)>,
}

/// The class of a file: what follows the last dot of its name, all versions of a shared library being one class, and
/// tests a class apart. Two classes that happen to get one number cost a little accuracy, nothing else.
fn class(name: &[u8], tests: bool) -> u32 {
    let library = name
        .windows(3)
        .enumerate()
        .any(|(at, part)| part == b".so" && matches!(name.get(at + 3), None | Some(b'.')));
    let suffix: &[u8] = if library {
        b"so"
    } else {
        name.iter().rposition(|&byte| byte == b'.').map_or(b"", |dot| &name[dot + 1..])
    };
    // FNV-1a.
    let hash =
        suffix.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash << 1 | u32::from(tests)
}

#[cfg(test)]
mod tests {
    use super::class;

    #[test]
    fn versions_of_libraries_are_one_class() {
        let library = class(b"libc.so", false);
        for name in [&b"libc.so.6"[..], b"libstdc++.so.6.0.30", b"_ctypes.cpython-311-x86_64-linux-gnu.so"] {
            assert_eq!(class(name, false), library);
        }
        for name in [&b"sources.sox"[..], b"so", b"a.py", b"ls", b""] {
            assert_ne!(class(name, false), library);
        }
    }

    #[test]
    fn tests_are_a_class_apart() {
        assert_eq!(class(b"a.pyc", false), class(b"b.c.pyc", false));
        assert_ne!(class(b"a.pyc", false), class(b"a.pyc", true));
        assert_ne!(class(b"a.pyc", false), class(b"a.py", false));
    }
}
