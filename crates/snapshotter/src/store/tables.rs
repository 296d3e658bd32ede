//! Rows of the tables as records, inside one transaction.

use std::ops::Bound;

use redb::{ReadableTable, Table, WriteTransaction};

use super::{CHILDREN, Kind, LAST_ID_KEY, Record, SNAPSHOTS, STATE, Snapshot};
use crate::Error;

/// Longest chain of parents; overlayfs ends long before.
const MAX_DEPTH: usize = 4096;

/// Read access to the snapshots table.
pub(super) struct Rows<'a, T>(pub(super) &'a T);

impl<T: ReadableTable<&'static str, &'static [u8]>> Rows<'_, T> {
    pub(super) fn get(&self, name: &str) -> Result<Option<Record>, Error> {
        match self.0.get(name).map_err(Error::db)? {
            Some(bytes) => Record::decode(name, bytes.value()).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn expect(&self, name: &str) -> Result<Record, Error> {
        self.get(name)?.ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    pub(super) fn expect_free(&self, name: &str) -> Result<(), Error> {
        match self.0.get(name).map_err(Error::db)? {
            None => Ok(()),
            Some(_) => Err(Error::AlreadyExists(format!("snapshot {name:?}"))),
        }
    }

    /// Calls `visit` for each record after `start` in the order of names, until it answers false.
    pub(super) fn each(
        &self,
        start: Bound<&str>,
        mut visit: impl FnMut(&str, Record) -> bool,
    ) -> Result<(), Error> {
        for row in self.0.range::<&str>((start, Bound::Unbounded)).map_err(Error::db)? {
            let (name, bytes) = row.map_err(Error::db)?;
            let record = Record::decode(name.value(), bytes.value())?;
            if !visit(name.value(), record) {
                break;
            }
        }
        Ok(())
    }

    /// Calls `visit` for `name` and then for each of its ancestors. An empty name has none.
    pub(super) fn walk_up(&self, name: &str, mut visit: impl FnMut(String, Record)) -> Result<(), Error> {
        let mut name = name.to_owned();
        for _ in 0..MAX_DEPTH {
            if name.is_empty() {
                return Ok(());
            }
            let record = self.expect(&name)?;
            let parent = record.parent.clone();
            visit(name, record);
            name = parent;
        }
        Err(Error::FailedPrecondition(format!(
            "snapshot {name:?} has more than {MAX_DEPTH} descendants in a row"
        )))
    }

    /// Numbers of `parent`, which must be committed, and of its ancestors.
    pub(super) fn lineage(&self, parent: &str) -> Result<Vec<u64>, Error> {
        let mut ids = Vec::new();
        let mut committed = true;
        self.walk_up(parent, |_, record| {
            ids.push(record.id);
            committed &= record.kind == Kind::Committed;
        })?;
        if !committed {
            return Err(Error::InvalidArgument(format!("parent {parent:?} is not a committed snapshot")));
        }
        Ok(ids)
    }
}

/// The tables of a write transaction.
pub(super) struct RowsMut<'txn> {
    snapshots: Table<'txn, &'static str, &'static [u8]>,
    children: Table<'txn, (u64, u64), ()>,
    state: Table<'txn, &'static str, u64>,
}

impl<'txn> RowsMut<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            snapshots: txn.open_table(SNAPSHOTS).map_err(Error::db)?,
            children: txn.open_table(CHILDREN).map_err(Error::db)?,
            state: txn.open_table(STATE).map_err(Error::db)?,
        })
    }

    pub(super) fn expect(&self, name: &str) -> Result<Record, Error> {
        Rows(&self.snapshots).expect(name)
    }

    pub(super) fn expect_free(&self, name: &str) -> Result<(), Error> {
        Rows(&self.snapshots).expect_free(name)
    }

    pub(super) fn lineage(&self, parent: &str) -> Result<Vec<u64>, Error> {
        Rows(&self.snapshots).lineage(parent)
    }

    pub(super) fn insert(&mut self, name: &str, record: &Record) -> Result<(), Error> {
        let bytes = record.encode(name)?;
        self.snapshots.insert(name, bytes.as_slice()).map_err(Error::db)?;
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.snapshots.remove(name).map_err(Error::db)?;
        Ok(())
    }

    /// Notes `snapshot` as a child of its parent, if it has one.
    pub(super) fn link(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if let Some(parent) = snapshot.parents.first() {
            self.children.insert((*parent, snapshot.id), ()).map_err(Error::db)?;
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, parent: u64, child: u64) -> Result<(), Error> {
        self.children.remove((parent, child)).map_err(Error::db)?;
        Ok(())
    }

    pub(super) fn has_children(&self, id: u64) -> Result<bool, Error> {
        let mut children = self.children.range((id, 0)..=(id, u64::MAX)).map_err(Error::db)?;
        Ok(children.next().transpose().map_err(Error::db)?.is_some())
    }

    pub(super) fn keep_last_id(&mut self, id: u64) -> Result<(), Error> {
        self.state.insert(LAST_ID_KEY, id).map_err(Error::db)?;
        Ok(())
    }
}
