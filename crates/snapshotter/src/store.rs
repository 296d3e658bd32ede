//! Which snapshots there are: a small transactional database with the semantics of containerd's own metadata
//! store. It knows names, parents, labels and numbers, and nothing of files or mounts.
//!
//! Invariants: a parent exists and is committed; a name is used once, whatever its kind; a number is used once,
//! ever. Methods block on the disk: call them from blocking threads.

mod record;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs::OpenOptions,
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend,
};

pub use self::record::Usage;
pub(crate) use self::record::{Info, Kind};
use self::{
    record::{Record, now},
    tables::{Rows, RowsMut},
};
use crate::{
    Error,
    filter::Filters,
    labels::{self, Labels},
};

/// Name or key to [`Record`].
const SNAPSHOTS: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshots");
/// (number of parent, number of child), so that a parent knows whether it has children.
const CHILDREN: TableDefinition<(u64, u64), ()> = TableDefinition::new("children");
/// Numbers by the names below.
const STATE: TableDefinition<&str, u64> = TableDefinition::new("state");

const SCHEMA_KEY: &str = "schema";
const LAST_ID_KEY: &str = "last_id";
/// The highest number that was in use below the root when the database was made.
const FIRST_ID_KEY: &str = "first_id";

/// Raised whenever older programs would misread the tables.
const SCHEMA: u64 = 1;

/// A thousand snapshots fit; the default of the database would cost more memory than the rest of the daemon.
const CACHE_BYTES: usize = 1 << 20;

/// The database file.
#[derive(Debug)]
pub(crate) struct Store {
    db: Database,
    /// The highest number given out.
    last_id: AtomicU64,
    foreign_id: u64,
}

/// What is to be created.
#[derive(Debug, Clone)]
pub(crate) struct New {
    pub(crate) key: String,
    /// Name of the parent; empty for none.
    pub(crate) parent: String,
    pub(crate) labels: Labels,
}

/// What the mounts of an active snapshot or a view are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    /// Numbers of its ancestors, nearest first.
    pub(crate) parents: Vec<u64>,
}

/// A committed snapshot whose content is a lazy mount.
#[derive(Debug, Clone)]
pub(crate) struct RemoteLayer {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
}

/// How an active snapshot becomes a committed one.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) key: String,
    pub(crate) name: String,
    /// Given to a snapshot that has no parent yet; empty for none.
    pub(crate) parent: String,
    pub(crate) labels: Labels,
    pub(crate) usage: Usage,
}

/// What holds the name that a lazily mounted layer is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nothing.
    Free,
    /// That layer, on that parent.
    Ready,
    /// Something else.
    Other,
}

impl Store {
    /// Opens or creates the database. `used_id` is a number that must not be given out, nor any below it.
    pub(crate) fn open(path: &Path, used_id: u64) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(Error::io("open the snapshot database", path))?;
        let backend = FileBackend::new(file).map_err(Error::db)?;
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(Error::db)?;

        let txn = db.begin_write().map_err(Error::db)?;
        let (stored_id, foreign_id) = {
            let mut state = txn.open_table(STATE).map_err(Error::db)?;
            txn.open_table(SNAPSHOTS).map_err(Error::db)?;
            txn.open_table(CHILDREN).map_err(Error::db)?;
            let found = state.get(SCHEMA_KEY).map_err(Error::db)?.map(|number| number.value());
            match found {
                None => {
                    state.insert(SCHEMA_KEY, SCHEMA).map_err(Error::db)?;
                    state.insert(FIRST_ID_KEY, used_id).map_err(Error::db)?;
                }
                Some(SCHEMA) => {}
                Some(found) => {
                    return Err(Error::Schema { path: path.to_owned(), found, supported: SCHEMA });
                }
            }
            let number = |key| state.get(key).map(|number| number.map_or(0, |number| number.value()));
            (number(LAST_ID_KEY).map_err(Error::db)?, number(FIRST_ID_KEY).map_err(Error::db)?)
        };
        txn.commit().map_err(Error::db)?;
        Ok(Self { db, last_id: AtomicU64::new(stored_id.max(used_id)), foreign_id })
    }

    /// The highest number that another program's snapshot below the same root can have.
    pub(crate) fn foreign_id(&self) -> u64 {
        self.foreign_id
    }

    /// A number that nobody else gets.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds an active snapshot or a view. `place` makes its directory: a failure of it undoes everything, and no
    /// other change of the database happens meanwhile.
    pub(crate) fn create(
        &self,
        kind: Kind,
        new: New,
        place: impl FnOnce(&Snapshot) -> Result<(), Error>,
    ) -> Result<Snapshot, Error> {
        let New { key, parent, labels } = new;
        check_name(&key)?;
        labels::validate(&labels)?;
        self.write(|rows| {
            let parents = rows.lineage(&parent)?;
            rows.expect_free(&key)?;
            let snapshot = Snapshot { id: self.next_id(), kind, parents };
            rows.insert(&key, &Record::new(snapshot.id, kind, parent, labels::normalize(labels, false)))?;
            rows.link(&snapshot)?;
            place(&snapshot)?;
            Ok(snapshot)
        })
    }

    /// Tells whether a lazily mounted layer may be made for `new` under the name `target`.
    ///
    /// # Errors
    /// As [`Store::create`] for what is wrong with `new`.
    pub(crate) fn target(&self, new: &New, target: &str) -> Result<Target, Error> {
        check_name(&new.key)?;
        check_name(target)?;
        labels::validate(&new.labels)?;
        self.read(|rows| match rows.get(target)? {
            Some(record) if record.kind == Kind::Committed && record.parent == new.parent => {
                Ok(Target::Ready)
            }
            Some(_) => Ok(Target::Other),
            None => {
                rows.lineage(&new.parent)?;
                rows.expect_free(&new.key)?;
                Ok(Target::Free)
            }
        })
    }

    /// Adds a committed snapshot, the lazily mounted layer in directory `id`, under the name `target`.
    pub(crate) fn insert_remote(&self, id: u64, new: &New, target: &str) -> Result<(), Error> {
        self.write(|rows| {
            let parents = rows.lineage(&new.parent)?;
            rows.expect_free(target)?;
            let labels = labels::normalize(new.labels.clone(), true);
            let record = Record::new(id, Kind::Committed, new.parent.clone(), labels);
            rows.insert(target, &Record { remote: true, ..record })?;
            rows.link(&Snapshot { id, kind: Kind::Committed, parents })
        })
    }

    /// Renames an active snapshot to a committed one. Its labels are replaced.
    pub(crate) fn commit(&self, commit: Commit) -> Result<(), Error> {
        let Commit { key, name, parent, labels, usage } = commit;
        check_name(&name)?;
        labels::validate(&labels)?;
        self.write(|rows| {
            rows.expect_free(&name)?;
            let mut record = rows.expect(&key)?;
            if record.kind != Kind::Active {
                return Err(Error::FailedPrecondition(format!("snapshot {key:?} is not active")));
            }
            if record.parent.is_empty() {
                record.parent = parent;
            } else if !parent.is_empty() && parent != record.parent {
                return Err(Error::InvalidArgument(format!(
                    "cannot change the parent of active snapshot {key:?} from {:?} to {parent:?}",
                    record.parent
                )));
            }
            record.kind = Kind::Committed;
            record.created = now();
            record.updated = record.created;
            record.labels = labels::normalize(labels, false);
            record.usage = usage;
            rows.remove(&key)?;
            if !record.parent.is_empty() && rows.expect(&record.parent)?.kind != Kind::Committed {
                return Err(Error::FailedPrecondition(format!(
                    "parent {:?} of snapshot {key:?} is not committed",
                    record.parent
                )));
            }
            let parents = rows.lineage(&record.parent)?;
            rows.insert(&name, &record)?;
            rows.link(&Snapshot { id: record.id, kind: record.kind, parents })
        })
    }

    /// Forgets a snapshot; its directory then belongs to nobody.
    pub(crate) fn remove(&self, key: &str) -> Result<(), Error> {
        self.write(|rows| {
            let record = rows.expect(key)?;
            if rows.has_children(record.id)? {
                return Err(Error::FailedPrecondition(format!("cannot remove snapshot with child: {key:?}")));
            }
            if !record.parent.is_empty() {
                let parent = rows.expect(&record.parent)?;
                rows.unlink(parent.id, record.id)?;
            }
            rows.remove(key)
        })
    }

    /// Changes the fields that `paths` name, or all that may change if there is none. Only labels may.
    pub(crate) fn update(&self, name: &str, labels: &Labels, paths: &[String]) -> Result<Info, Error> {
        self.write(|rows| {
            let mut record = rows.expect(name)?;
            let mut changed = record.labels;
            if paths.is_empty() {
                changed.clone_from(labels);
            }
            for path in paths {
                if let Some(key) = path.strip_prefix("labels.") {
                    changed.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
                } else if path == "labels" {
                    changed.clone_from(labels);
                } else {
                    return Err(Error::InvalidArgument(format!(
                        "cannot update field {path:?} of snapshot {name:?}: only labels can change"
                    )));
                }
            }
            labels::validate(&changed)?;
            record.labels = labels::normalize(changed, record.remote);
            record.updated = now();
            rows.insert(name, &record)?;
            Ok(record.info(name.to_owned()))
        })
    }

    /// Describes a snapshot.
    pub(crate) fn info(&self, name: &str) -> Result<Info, Error> {
        self.read(|rows| Ok(rows.expect(name)?.info(name.to_owned())))
    }

    /// Number, kind and stored usage of a snapshot.
    pub(crate) fn usage(&self, name: &str) -> Result<(u64, Kind, Usage), Error> {
        self.read(|rows| rows.expect(name).map(|record| (record.id, record.kind, record.usage)))
    }

    /// What to mount for an active snapshot or a view.
    pub(crate) fn snapshot(&self, key: &str) -> Result<Snapshot, Error> {
        self.read(|rows| {
            let record = rows.expect(key)?;
            if record.kind == Kind::Committed {
                return Err(Error::FailedPrecondition(format!(
                    "snapshot {key:?} is committed: only active snapshots and views have mounts"
                )));
            }
            Ok(Snapshot { id: record.id, kind: record.kind, parents: rows.lineage(&record.parent)? })
        })
    }

    /// The lazily mounted layers among `name` and its ancestors; empty for an empty name.
    pub(crate) fn remote_chain(&self, name: &str) -> Result<Vec<RemoteLayer>, Error> {
        self.read(|rows| {
            let mut layers = Vec::new();
            rows.walk_up(name, |name, record| {
                if record.remote {
                    layers.push(RemoteLayer { id: record.id, name, labels: record.labels });
                }
            })?;
            Ok(layers)
        })
    }

    /// All lazily mounted layers.
    pub(crate) fn remotes(&self) -> Result<Vec<RemoteLayer>, Error> {
        let mut layers = Vec::new();
        self.read(|rows| {
            rows.each(Bound::Unbounded, |name, record| {
                if record.remote {
                    layers.push(RemoteLayer { id: record.id, name: name.to_owned(), labels: record.labels });
                }
                true
            })
        })?;
        Ok(layers)
    }

    /// Runs `look` with the numbers of all snapshots while nobody can add or remove one.
    pub(crate) fn frozen<T>(&self, look: impl FnOnce(&HashSet<u64>) -> Result<T, Error>) -> Result<T, Error> {
        let txn = self.db.begin_write().map_err(Error::db)?;
        let looked = {
            let mut ids = HashSet::new();
            Rows(&txn.open_table(SNAPSHOTS).map_err(Error::db)?).each(Bound::Unbounded, |_, record| {
                ids.insert(record.id);
                true
            })?;
            look(&ids)
        };
        txn.abort().map_err(Error::db)?;
        looked
    }

    /// A view of the database as it is now, for [`page`].
    pub(crate) fn view(&self) -> Result<ReadTransaction, Error> {
        self.db.begin_read().map_err(Error::db)
    }

    fn read<T>(
        &self,
        f: impl FnOnce(Rows<'_, redb::ReadOnlyTable<&'static str, &'static [u8]>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let table = self.view()?.open_table(SNAPSHOTS).map_err(Error::db)?;
        f(Rows(&table))
    }

    fn write<T>(&self, f: impl FnOnce(&mut RowsMut<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let txn = self.db.begin_write().map_err(Error::db)?;
        let done = {
            let mut rows = RowsMut::open(&txn)?;
            let done = f(&mut rows)?;
            rows.keep_last_id(self.last_id.load(Ordering::Relaxed))?;
            done
        };
        txn.commit().map_err(Error::db)?;
        Ok(done)
    }
}

/// The snapshots in `view` that match, in the order of their names, that come after `after`: at most `limit`, and
/// fewer only at the end.
pub(crate) fn page(
    view: &ReadTransaction,
    after: Option<&str>,
    limit: usize,
    filters: &Filters,
) -> Result<Vec<Info>, Error> {
    let table = view.open_table(SNAPSHOTS).map_err(Error::db)?;
    let mut infos = Vec::new();
    Rows(&table).each(after.map_or(Bound::Unbounded, Bound::Excluded), |name, record| {
        let info = record.info(name.to_owned());
        if filters.matches(&info) {
            infos.push(info);
        }
        infos.len() < limit
    })?;
    Ok(infos)
}

/// Longest name or key, in bytes: the limit of the database of containerd's own snapshotters.
const MAX_NAME: usize = 32 * 1024;

fn check_name(name: &str) -> Result<(), Error> {
    match name.len() {
        0 => Err(Error::InvalidArgument("the key or name of a snapshot must not be empty".to_owned())),
        1..=MAX_NAME => Ok(()),
        length => Err(Error::InvalidArgument(format!(
            "the key or name of a snapshot takes {length} bytes, more than {MAX_NAME}"
        ))),
    }
}
