//! Extended attributes of a layer's nodes, in the two forms in which they are shown.
//!
//! The kernel does not say who asks for the list of names, and only some may read those in `trusted.`; other filesystems
//! list them to these alone, as copying programs stumble over a name that they cannot read. So a session for people without
//! rights lists none of them, one for containers, where an overlay stands between and sorts them out, lists them all.

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::layer::LayerTree;
use crate::reply::Reply;
use crate::wire::GetXattrOut;

/// Marks a directory whose namesakes in lower layers are hidden: the form of the layer.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// The form that an overlay mounted with `userxattr` looks for.
const USER_OPAQUE: &[u8] = b"user.overlay.opaque";

/// A node, and how its xattrs are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Xattrs<'t> {
    pub(super) layer: &'t LayerTree,
    pub(super) inner: u32,
    pub(super) form: XattrForm,
}

/// How the xattrs of a session are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrForm {
    /// Whether the mark of opaque directories has its second name.
    pub(super) user_opaque: bool,
    /// Whether names in `trusted.` are listed.
    pub(super) list_trusted: bool,
}

/// Answers GETXATTR; a node of `None` has no xattrs.
pub(super) fn get(node: Option<Xattrs<'_>>, name: &[u8], room: u32, reply: Reply) {
    let value = node.map_or(Ok(None), |Xattrs { layer, inner, form }| {
        let name = if form.user_opaque && name == USER_OPAQUE { OPAQUE } else { name };
        layer.xattr(inner, name)
    });
    match value {
        Ok(Some(value)) => answer(value, room, reply),
        Ok(None) => reply.error(Errno::NODATA),
        Err(errno) => reply.error(errno),
    }
}

/// Answers LISTXATTR: names, each with a zero behind it.
pub(super) fn list(node: Option<Xattrs<'_>>, room: u32, scratch: &mut [u8], reply: Reply) {
    match node.map_or(Ok(0), |node| names(node, scratch)) {
        Ok(used) => answer(scratch.get(..used).unwrap_or_default(), room, reply),
        Err(errno) => reply.error(errno),
    }
}

fn names(node: Xattrs<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut used = 0;
    let mut complete = true;
    let mut push = |parts: &[&[u8]]| {
        for part in parts.iter().copied().chain([&b"\0"[..]]) {
            match buf.get_mut(used..).and_then(|rest| rest.get_mut(..part.len())) {
                Some(slot) => {
                    slot.copy_from_slice(part);
                    used += part.len();
                }
                None => complete = false,
            }
        }
    };
    node.layer.xattr_names(node.inner, |[prefix, suffix]| {
        if node.form.list_trusted || prefix != b"trusted." {
            push(&[prefix, suffix]);
        }
        if node.form.user_opaque && OPAQUE.strip_prefix(prefix) == Some(suffix) {
            push(&[USER_OPAQUE]);
        }
    })?;
    // More than a mebibyte of names: no system call takes as much.
    if complete { Ok(used) } else { Err(Errno::TOOBIG) }
}

/// The bytes, or how many they are if there is no room for any.
fn answer(bytes: &[u8], room: u32, reply: Reply) {
    match room {
        0 => reply.data(GetXattrOut { size: bytes.len() as u32, padding: 0 }.as_bytes()),
        room if bytes.len() <= room as usize => reply.data(bytes),
        _ => reply.error(Errno::RANGE),
    }
}
