//! What is kept about a snapshot.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Error, labels::Labels};

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Writable, cannot have children.
    Active,
    /// Read-only, cannot have children.
    View,
    /// Immutable, can have children.
    Committed,
}

impl Kind {
    /// The word that filters use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }
}

/// What a snapshot's own directory takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Description of a snapshot, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) name: String,
    /// Name of the parent; empty for none.
    pub(crate) parent: String,
    pub(crate) kind: Kind,
    pub(crate) created: SystemTime,
    pub(crate) updated: SystemTime,
    pub(crate) labels: Labels,
}

/// Value of one row of the snapshots table, stored as JSON; a change of its meaning needs a new schema number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Number of the directory; never used again.
    pub(super) id: u64,
    pub(super) kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) parent: String,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
    /// Whether the directory's content is a lazy mount.
    #[serde(default)]
    pub(super) remote: bool,
    #[serde(default)]
    pub(super) usage: Usage,
    #[serde(default)]
    pub(super) labels: Labels,
}

impl Record {
    /// A snapshot that is made now.
    pub(super) fn new(id: u64, kind: Kind, parent: String, labels: Labels) -> Self {
        let created = now();
        Self { id, kind, parent, created, updated: created, remote: false, usage: Usage::default(), labels }
    }

    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::Damaged(format!("record of snapshot {name:?}: {error}")))
    }

    pub(super) fn encode(&self, name: &str) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self)
            .map_err(|error| Error::Damaged(format!("record of snapshot {name:?}: {error}")))
    }

    pub(super) fn info(self, name: String) -> Info {
        let Self { kind, parent, created, updated, labels, .. } = self;
        Info { name, parent, kind, created, updated, labels }
    }
}

/// The time, never before 1970: an unset clock must not make snapshots impossible to store.
pub(super) fn now() -> SystemTime {
    SystemTime::now().max(SystemTime::UNIX_EPOCH)
}
