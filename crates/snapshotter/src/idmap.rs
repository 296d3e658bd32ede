//! Snapshots for containers in user namespaces: what is below them is shown with other owners, and nothing is copied.
//!
//! containerd says in two labels which ids a container's are outside of it, if it knows that the snapshotter can do this
//! (`remap-ids`). Each directory below such a snapshot gets a mount of its own that translates owners, in
//! `<snapshot>/lower/<n>`; its own directory belongs to the container's root from the start.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Error, FileSystem, error::Chain, labels::Labels, mountinfo};

const UID_LABEL: &str = "containerd.io/snapshot/uidmapping";
const GID_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// The most ranges that the kernel takes for one map (`user_namespaces(7)`).
const RANGES_MAX: usize = 340;

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id as the container has it, and the files.
    pub inside: u32,
    /// What it is outside of the container.
    pub outside: u32,
    /// How many ids, at least 1.
    pub len: u32,
}

/// Which ids of a container are which outside of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// What the labels of a snapshot say; `None` if they say nothing.
    pub(crate) fn of(labels: &Labels) -> Result<Option<Self>, Error> {
        match (labels.get(UID_LABEL), labels.get(GID_LABEL)) {
            (None, None) => Ok(None),
            (Some(uids), Some(gids)) => {
                Ok(Some(Self { uids: ranges(UID_LABEL, uids)?, gids: ranges(GID_LABEL, gids)? }))
            }
            _ => Err(Error::InvalidArgument(format!("labels {UID_LABEL} and {GID_LABEL} belong together"))),
        }
    }

    /// User and group outside of the container of its root.
    pub(crate) fn root(&self) -> Result<(u32, u32), Error> {
        let root =
            |ranges: &[IdRange]| ranges.iter().find(|range| range.inside == 0).map(|range| range.outside);
        root(&self.uids).zip(root(&self.gids)).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "labels {UID_LABEL} and {GID_LABEL} leave the container without a root"
            ))
        })
    }
}

/// Reads `inside:outside:len`, several separated by commas.
fn ranges(label: &str, text: &str) -> Result<Vec<IdRange>, Error> {
    let invalid = || Error::InvalidArgument(format!("label {label} holds {text:?}, not ranges of ids"));
    let range = |text: &str| {
        let mut fields = text.split(':').map(|field| field.parse::<u32>().ok());
        let (inside, outside, len) = (fields.next()??, fields.next()??, fields.next()??);
        let whole = fields.next().is_none() && len > 0;
        // The last id means "none" to the kernel.
        let fits = |first: u32| first.checked_add(len).is_some();
        (whole && fits(inside) && fits(outside)).then_some(IdRange { inside, outside, len })
    };
    let ranges: Option<Vec<_>> = text.split(',').take(RANGES_MAX + 1).map(range).collect();
    ranges.filter(|ranges| ranges.len() <= RANGES_MAX).ok_or_else(invalid)
}

/// The snapshots whose lower directories are mounted with other owners.
#[derive(Debug)]
pub(crate) struct Mapped {
    filesystem: Arc<dyn FileSystem>,
    /// Held while the kernel mounts, which waits for nobody else.
    ids: Mutex<HashSet<u64>>,
}

impl Mapped {
    pub(crate) fn new(filesystem: Arc<dyn FileSystem>) -> Self {
        Self { filesystem, ids: Mutex::default() }
    }

    /// The directories that show `lowers` as `map` says, below `dir`, the directory of snapshot `id`. Blocks.
    pub(crate) fn lowers(
        &self,
        id: u64,
        dir: &Path,
        lowers: &[PathBuf],
        map: &IdMap,
    ) -> Result<Vec<PathBuf>, Error> {
        let all = dir.join("lower");
        let targets: Vec<_> = (0..lowers.len()).map(|number| all.join(number.to_string())).collect();
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.contains(&id) {
            return Ok(targets);
        }
        // A failed attempt, or a former process, may have left some.
        mountinfo::detach_below(&all)?;
        for (source, target) in lowers.iter().zip(&targets) {
            fs::create_dir_all(target).map_err(Error::io("create directory", target))?;
            self.filesystem.show_mapped(source, target, map).map_err(|error| {
                Error::FailedPrecondition(format!(
                    "cannot show layers with the owners of a user namespace, without which (capability remap-ids) containerd \
                     would copy them: {}",
                    Chain(&error)
                ))
            })?;
        }
        ids.insert(id);
        Ok(targets)
    }

    /// The directory of snapshot `id` is about to go.
    pub(crate) fn forget(&self, id: u64) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(uids: &str, gids: &str) -> Result<Option<IdMap>, Error> {
        let labels = [(UID_LABEL, uids), (GID_LABEL, gids)];
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
        IdMap::of(&labels.map(|(label, value)| (label.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn labels_are_ranges_separated_by_commas() {
        assert_eq!(map("", "").unwrap(), None);
        let two = map("0:100000:1000,1000:500000:64536", "0:100000:65536").unwrap().unwrap();
        let range = |inside, outside, len| IdRange { inside, outside, len };
        assert_eq!(two.uids, [range(0, 100_000, 1000), range(1000, 500_000, 64536)]);
        assert_eq!(two.gids, [range(0, 100_000, 65536)]);
        assert_eq!(two.root().unwrap(), (100_000, 100_000));
    }

    #[test]
    fn labels_that_make_no_sense_are_refused() {
        let good = "0:100000:65536";
        for bad in [
            "0",
            "0:1",
            "0:1:0",
            "0:1:2:3",
            "a:b:c",
            "-1:-1:-2",
            "0:4294967295:2",
            "0:1:2,",
            "0:1:4294967295,",
        ] {
            assert!(map(bad, good).is_err(), "{bad}");
            assert!(map(good, bad).is_err(), "{bad}");
        }
        let many = vec!["0:1:1"; RANGES_MAX + 1].join(",");
        assert!(map(&many, good).is_err());
        assert!(map(good, "").is_err() && map("", good).is_err(), "one of two");
        assert!(map("1:100000:65536", good).unwrap().unwrap().root().is_err(), "no root");
    }
}
