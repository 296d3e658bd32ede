//! Names in an archive, and what they mean in a layer.

use crate::error::EntryProblem;

/// Longest name of a file on every Linux file system (NAME_MAX).
const COMPONENT_MAX: usize = 255;
/// Longest path (PATH_MAX).
const PATH_MAX: usize = 4096;

/// In the root of a layer: where prefetching ends, that there is none, and the TOC.
pub(crate) const PREFETCH_LANDMARK: &[u8] = b".prefetch.landmark";
pub(crate) const NO_PREFETCH_LANDMARK: &[u8] = b".no.prefetch.landmark";
pub(crate) const TOC: &[u8] = b"stargz.index.json";

/// A stored name as the path that it is unpacked to: relative to the root, without leading or trailing slash, empty for
/// the root. Like everyone who unpacks layers, this keeps names that climb (`..`) inside of the root.
pub(crate) fn clean(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => path.truncate(parent(&path).map_or(0, <[u8]>::len)),
            component => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    path
}

/// The path that holds a clean path; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &path[..slash]))
}

/// Whether a clean path is one that removes what lower layers have.
pub(crate) fn is_whiteout(path: &[u8]) -> bool {
    path[parent(path).map_or(0, |parent| parent.len() + usize::from(!parent.is_empty()))..]
        .starts_with(b".wh.")
}

/// The parents of a clean path, the root first, without the path itself.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!path.is_empty()).then_some(&[][..]);
    let below = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(slash, _)| &path[..slash]);
    root.into_iter().chain(below)
}

/// The stored name if it is safe to be written again, else the clean path.
pub(crate) fn harmless(name: &[u8], directory: bool) -> Vec<u8> {
    let climbs = name.split(|byte| *byte == b'/').any(|component| component == b"..");
    let odd = name.is_empty() || name.starts_with(b"/") || (!directory && name.ends_with(b"/"));
    if !climbs && !odd {
        return name.to_vec();
    }
    let mut path = clean(name);
    if path.is_empty() {
        path.push(b'.');
    }
    if directory {
        path.push(b'/');
    }
    path
}

/// Checks that a layer can have this name: the TOC can hold it, and Linux.
pub(crate) fn check(what: &'static str, name: &[u8]) -> Result<(), EntryProblem> {
    if std::str::from_utf8(name).is_err() {
        return Err(EntryProblem::NotUtf8(what));
    }
    if name.contains(&0) {
        return Err(EntryProblem::Name("the name contains a NUL byte"));
    }
    if name.len() > PATH_MAX {
        return Err(EntryProblem::Name("the name is longer than 4096 bytes"));
    }
    if name.split(|byte| *byte == b'/').any(|component| component.len() > COMPONENT_MAX) {
        return Err(EntryProblem::Name("a component of the name is longer than 255 bytes"));
    }
    Ok(())
}
