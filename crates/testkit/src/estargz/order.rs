//! The order of members in a blob: prioritized files, the landmark, the rest.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{NO_PREFETCH_LANDMARK, Options, PREFETCH_LANDMARK, TOC_NAME};
use crate::tarball::{Member, Parsed, Type, clean};
use crate::tree::parent;

/// A member to write: one of the archive, or one of our own.
#[derive(Debug)]
pub(crate) enum Item {
    Archive(Parsed),
    Landmark(Member),
}

pub(crate) fn arrange(members: Vec<Parsed>, options: &Options) -> Vec<Item> {
    // By path, then by position: a later member of the same name replaces the earlier one.
    let mut by_path: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (position, parsed) in members.iter().enumerate() {
        by_path.insert(clean(&parsed.member.name), position);
    }
    for name in [TOC_NAME, PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK] {
        by_path.remove(name.as_bytes());
    }

    let mut first = Vec::new();
    for path in &options.prioritized {
        pick(&clean(path), &members, &by_path, &mut first);
    }
    let mut rest: Vec<usize> = by_path.into_values().filter(|position| !first.contains(position)).collect();
    rest.sort_unstable();

    let mut members: Vec<Option<Parsed>> = members.into_iter().map(Some).collect();
    let mut take = |position: usize| Item::Archive(members[position].take().expect("each position once"));
    let mut items: Vec<Item> = first.iter().map(|position| take(*position)).collect();
    if options.landmark {
        let name = if options.prioritized.is_empty() { NO_PREFETCH_LANDMARK } else { PREFETCH_LANDMARK };
        let content = Bytes::from_static(&[0xf]);
        items.push(Item::Landmark(Member { content, ..Member::new(Type::File, name) }));
    }
    items.extend(rest.into_iter().map(take));
    items
}

/// Adds what `path` needs (its parents, the target of its hard link), then `path`.
fn pick(path: &[u8], members: &[Parsed], by_path: &BTreeMap<Vec<u8>, usize>, picked: &mut Vec<usize>) {
    if let Some(parent) = parent(path)
        && by_path.contains_key(parent)
    {
        pick(parent, members, by_path, picked);
    }
    let position = *by_path
        .get(path)
        .unwrap_or_else(|| panic!("prioritized path {} is not in the archive", crate::tree::show(path)));
    if picked.contains(&position) {
        return;
    }
    let member = &members[position].member;
    if member.kind == Type::Hardlink {
        pick(&clean(&member.link), members, by_path, picked);
    }
    picked.push(position);
}
