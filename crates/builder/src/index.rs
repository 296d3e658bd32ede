//! What is in the source archive, and what of it a layer shows.
//!
//! An archive may name a path twice, put a file where a directory was, and link to a file before it is replaced.
//! Unpacking one member after the other gives each of these a meaning; a TOC has no order, so what was replaced must not
//! be in it. The index finds the *live* members. When a replaced file has other names, the first of those carries its
//! content.
//!
//! It holds about 100 bytes and the name for each member; headers are read again from the archive when they are needed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use format::FileRanges;
use hashbrown::HashTable;

use crate::attributes;
use crate::error::{BuildError, EntryProblem, excerpt};
use crate::names::{self, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, TOC, ancestors, clean};
use crate::tar::{Kind, Member, Records};

/// Position of a member in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub u32);

#[derive(Debug)]
struct Entry {
    header_at: u64,
    name: usize,
    name_len: u16,
    globals: u32,
    kind: Kind,
    live: bool,
    /// For a hard link, the member that it is another name of.
    target: Option<Id>,
    /// For a replaced member with other names, the one that carries its content.
    heir: Option<Id>,
}

/// The members of an archive.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    names: Vec<u8>,
    /// The last member of each name. Keyed hashing, since the names come from outside.
    last: HashTable<Id>,
    hasher: RandomState,
    globals: Vec<Arc<Records>>,
    /// The targets of hard links that were not there when they were linked to.
    pending: HashMap<Id, Vec<u8>>,
    /// When something that is not a directory was last replaced at a path.
    replaced: HashMap<Vec<u8>, Id>,
    lossless: bool,
}

impl Index {
    /// For a conversion that keeps the archive, or one that writes it anew.
    pub fn new(lossless: bool) -> Index {
        Index { lossless, ..Index::default() }
    }

    /// Adds the next member. `globals` are the global records in force.
    pub fn add(&mut self, member: &Member, globals: &Arc<Records>) -> Result<(), BuildError> {
        let fail = |problem| BuildError::entry(&member.name, problem);
        attributes::check(member).map_err(fail)?;
        let name = clean(&member.name);
        match name.as_slice() {
            TOC if self.lossless => return Err(fail(EntryProblem::LosslessToc)),
            TOC | PREFETCH_LANDMARK | NO_PREFETCH_LANDMARK if !self.lossless => return Ok(()),
            b"" if member.kind != Kind::Dir => return Err(fail(EntryProblem::RootNotDirectory)),
            _ => {}
        }
        if self.lossless && member.sparse.is_some() {
            return Err(fail(EntryProblem::LosslessSparse));
        }
        let id = Id(self.entries.len() as u32);
        let mut target = None;
        // Old layers have whiteouts that are links to each other; what removes a file is only ever its name.
        let kind = if names::is_whiteout(&name) { unlinked(member.kind) } else { member.kind };
        if kind == Kind::Hardlink {
            let link = clean(&member.link);
            match self.last(&link) {
                Some(_) if link == name => return Ok(()), // another name for itself
                Some(found) => target = Some(self.check_target(found, &link).map_err(fail)?),
                None => drop(self.pending.insert(id, link)),
            }
        }
        if let Some(old) = self.last(&name) {
            self.entries[old.0 as usize].live = false;
            if self.entry(old).kind != Kind::Dir {
                self.replaced.insert(name.clone(), id);
            }
        }
        if self.globals.last().is_none_or(|last| !Arc::ptr_eq(last, globals)) {
            self.globals.push(Arc::clone(globals));
        }
        self.entries.push(Entry {
            header_at: member.header_at,
            name: self.names.len(),
            name_len: name.len() as u16,
            globals: self.globals.len() as u32 - 1,
            kind,
            live: true,
            target,
            heir: None,
        });
        self.names.extend_from_slice(&name);
        self.set_last(&name, id);
        Ok(())
    }

    /// Settles what could not be said before the end of the archive.
    pub fn finish(&mut self) -> Result<(), BuildError> {
        self.link_pending()?;
        self.bury()?;
        self.find_heirs();
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.entries.len() as u32).map(Id)
    }

    /// Where a member's headers are, and the global records in force there.
    pub fn place(&self, id: Id) -> (u64, Arc<Records>) {
        let entry = self.entry(id);
        (entry.header_at, Arc::clone(&self.globals[entry.globals as usize]))
    }

    /// Its path in the layer.
    pub fn name(&self, id: Id) -> &[u8] {
        let entry = self.entry(id);
        &self.names[entry.name..][..usize::from(entry.name_len)]
    }

    /// Whether the layer shows it.
    pub fn is_live(&self, id: Id) -> bool {
        self.entry(id).live
    }

    /// The member with this path that the layer shows.
    pub fn find(&self, path: &[u8]) -> Option<Id> {
        self.last(path).filter(|id| self.is_live(*id))
    }

    /// The member with the attributes and the content of a live member: itself, except for a heir.
    pub fn source(&self, id: Id) -> Id {
        match self.entry(id).target {
            Some(target) if self.entry(target).heir == Some(id) => target,
            _ => id,
        }
    }

    /// The live member that shows the content stored with this one: itself, or its heir.
    pub fn shown_as(&self, id: Id) -> Option<Id> {
        match self.entry(id) {
            entry if !entry.live => entry.heir,
            _ => (self.source(id) == id).then_some(id),
        }
    }

    /// The live member that a live hard link has to name. `None` for all that are no hard links, or are not any more.
    pub fn carrier(&self, id: Id) -> Option<Id> {
        let target = self.entry(id).target?;
        match self.entry(target).heir {
            Some(heir) if heir == id => None,
            Some(heir) => Some(heir),
            None => Some(target),
        }
    }

    /// Whether a link to this path would be one to the same file as `carrier`.
    pub fn leads_to(&self, path: &[u8], carrier: Id) -> bool {
        self.find(path).is_some_and(|id| id == carrier || self.carrier(id) == Some(carrier))
    }

    fn entry(&self, id: Id) -> &Entry {
        &self.entries[id.0 as usize]
    }

    fn last(&self, name: &[u8]) -> Option<Id> {
        self.last.find(self.hasher.hash_one(name), |id| self.name(*id) == name).copied()
    }

    fn set_last(&mut self, name: &[u8], id: Id) {
        let hash = self.hasher.hash_one(name);
        let Index { entries, names, last, hasher, .. } = self;
        let name_of = |id: &Id| {
            let entry = &entries[id.0 as usize];
            &names[entry.name..][..usize::from(entry.name_len)]
        };
        match last.find_mut(hash, |other| name_of(other) == name) {
            Some(slot) => *slot = id,
            None => drop(last.insert_unique(hash, id, |other| hasher.hash_one(name_of(other)))),
        }
    }

    /// The file behind what a hard link names.
    fn check_target(&self, found: Id, link: &[u8]) -> Result<Id, EntryProblem> {
        match self.entry(found) {
            Entry { kind: Kind::Dir, .. } => Err(EntryProblem::LinkToDirectory(excerpt(link))),
            Entry { kind: Kind::Hardlink, target: Some(target), .. } => Ok(*target),
            _ => Ok(found),
        }
    }

    /// Hard links in front of their targets, which only some programs that unpack accept.
    fn link_pending(&mut self) -> Result<(), BuildError> {
        let mut pending: Vec<_> = self.pending.keys().copied().collect();
        pending.sort_unstable();
        for id in pending {
            let fail = |problem| BuildError::entry(self.name(id), problem);
            let mut link = &self.pending[&id];
            // Links to links are followed; more steps than there are links lead back to where they were.
            let mut steps = self.pending.len();
            let target = loop {
                let missing = || fail(EntryProblem::LinkTarget(excerpt(link)));
                let found = self.last(link).ok_or_else(missing)?;
                let target = self.check_target(found, link).map_err(fail)?;
                match self.pending.get(&target) {
                    Some(next) if self.entry(target).target.is_none() => link = next,
                    _ => break target,
                }
                steps = steps.checked_sub(1).ok_or_else(missing)?;
            };
            if target == id {
                return Err(fail(EntryProblem::LinkTarget(excerpt(link))));
            }
            self.entries[id.0 as usize].target = Some(target);
        }
        self.pending = HashMap::new();
        self.settle_chains();
        Ok(())
    }

    /// A link that was made to a link that was pending then.
    fn settle_chains(&mut self) {
        for position in 0..self.entries.len() {
            while let Some(next) = self.entries[position].target.and_then(|target| self.entry(target).target)
            {
                self.entries[position].target = Some(next);
            }
        }
    }

    /// What is below something that became another thing than a directory later is gone.
    fn bury(&mut self) -> Result<(), BuildError> {
        for id in self.ids() {
            if !self.is_live(id) {
                continue;
            }
            let name = self.name(id);
            // When something above was last made another thing than a directory, or was one and was replaced.
            let (mut cut, mut blocked) = (None, None);
            for ancestor in ancestors(name) {
                if let Some(last) = self.last(ancestor).filter(|last| self.entry(*last).kind != Kind::Dir) {
                    if last > id {
                        cut = cut.max(Some(last));
                    } else if Some(last) > cut {
                        blocked = Some(ancestor);
                    }
                }
                cut = cut.max(self.replaced.get(ancestor).copied());
            }
            let gone = cut > Some(id);
            if let Some(ancestor) = blocked.filter(|_| !gone) {
                return Err(BuildError::entry(name, EntryProblem::BelowNonDirectory(excerpt(ancestor))));
            }
            self.entries[id.0 as usize].live = !gone;
        }
        Ok(())
    }

    fn find_heirs(&mut self) {
        for id in self.ids() {
            let Some(target) = self.entry(id).target.filter(|_| self.is_live(id)) else { continue };
            let target = &mut self.entries[target.0 as usize];
            if !target.live && target.heir.is_none() {
                target.heir = Some(id);
            }
        }
    }
}

/// The order of the members of the new layer, and what is special in it.
#[derive(Debug)]
pub(crate) struct Order {
    pub ids: Vec<Id>,
    /// How many of them come before the landmark.
    pub prioritized: usize,
    /// What is wanted of files that do not come first.
    ranges: HashMap<Id, FileRanges>,
    /// Paths that something is wanted of, but that do not exist.
    pub missing: Vec<String>,
}

impl Order {
    /// The prioritized paths in their order, each after its parents and the target of its link; then the others as
    /// they are in the archive.
    pub fn new(index: &Index, prioritized: &[String], ranges: &BTreeMap<String, FileRanges>) -> Order {
        let ids = Vec::with_capacity(index.len());
        let mut order = Order { ids, prioritized: 0, ranges: HashMap::new(), missing: Vec::new() };
        let mut placed = vec![false; index.len()];
        for path in prioritized {
            let clean = clean(path.as_bytes());
            let Some(id) = index.find(&clean) else {
                order.missing.push(path.clone());
                continue;
            };
            order.place_with_parents(index, id, &mut placed);
        }
        order.prioritized = order.ids.len();
        for (path, ranges) in ranges {
            let Some(id) = index.find(&clean(path.as_bytes())) else {
                order.missing.push(path.clone());
                continue;
            };
            let id = index.carrier(id).unwrap_or(id);
            if !placed[id.0 as usize] {
                let both = order.ranges_of(id).union(ranges);
                order.ranges.insert(id, both);
            }
        }
        for id in index.ids().filter(|id| index.is_live(*id)) {
            if let Some(carrier) = index.carrier(id) {
                order.place(carrier, &mut placed);
            }
            order.place(id, &mut placed);
        }
        order
    }

    /// What is wanted of a live member with content.
    pub fn ranges_of(&self, id: Id) -> &FileRanges {
        const NOTHING: &FileRanges = &FileRanges::NONE;
        self.ranges.get(&id).unwrap_or(NOTHING)
    }

    fn place_with_parents(&mut self, index: &Index, id: Id, placed: &mut [bool]) {
        if let Some(carrier) = index.carrier(id) {
            self.place_with_parents(index, carrier, placed); // which is no link itself
        }
        for parent in ancestors(index.name(id)).filter_map(|parent| index.find(parent)) {
            self.place(parent, placed);
        }
        self.place(id, placed);
    }

    fn place(&mut self, id: Id, placed: &mut [bool]) {
        if !std::mem::replace(&mut placed[id.0 as usize], true) {
            self.ids.push(id);
        }
    }
}

/// What a link is when it is not one.
fn unlinked(kind: Kind) -> Kind {
    if kind == Kind::Hardlink { Kind::File } else { kind }
}

/// Gives a member the names that a live member is written with. `own` has that one's own headers.
pub(crate) fn rename(index: &Index, id: Id, own: &Member, member: &mut Member) {
    member.name = names::harmless(&own.name, own.kind == Kind::Dir);
    if names::is_whiteout(index.name(id)) && member.kind == Kind::Hardlink {
        member.kind = unlinked(member.kind);
        member.link.clear();
    }
    if let Some(carrier) = index.carrier(id)
        && (!index.leads_to(&clean(&member.link), carrier) || member.link.starts_with(b"/"))
    {
        member.link = index.name(carrier).to_vec();
    } else if member.kind == Kind::Hardlink {
        member.link = names::harmless(&member.link, false);
    }
}
