//! Node numbers: which tree, and which node of it.
//!
//! They are also the inode numbers that users see, and the kernel keeps both over the life of a process. So they must be
//! a function of what they name: of the number that the caller gave the tree, and of the node's place in its image.

use crate::wire::ROOT_NODE;

/// Bits of the node's number within its tree. Nodes of an image are numbered in steps of 32 bytes, so they last for
/// 128 GiB of metadata.
const INNER_BITS: u32 = 32;

/// The largest number of a tree. The upper 8 bits of inode numbers stay free, since overlayfs puts the number of a
/// lower filesystem there.
pub(crate) const MAX_TREE: u32 = (1 << 24) - 1;

/// A node of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The directory of all trees.
    Root,
    /// A node of the tree of this number, which is not 0.
    In { tree: u32, inner: u32 },
}

impl Node {
    /// `None` for numbers that no node has.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        let (tree, inner) = (u32::try_from(number >> INNER_BITS).ok()?, number as u32);
        match (tree, number) {
            (_, ROOT_NODE) => Some(Self::Root),
            (0, _) => None,
            _ => Some(Self::In { tree, inner }),
        }
    }

    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Root => ROOT_NODE,
            Self::In { tree, inner } => u64::from(tree) << INNER_BITS | u64::from(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_nodes() {
        for node in [
            Node::Root,
            Node::In { tree: 1, inner: 0 },
            Node::In { tree: 1, inner: u32::MAX },
            Node::In { tree: MAX_TREE, inner: 36 },
        ] {
            assert_eq!(Node::from_number(node.number()), Some(node));
            assert!(node.number() < 1 << 56);
        }
        assert_eq!(Node::from_number(0), None);
        assert_eq!(Node::from_number(2), None);
    }
}
