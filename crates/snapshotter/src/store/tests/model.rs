//! containerd's metadata store in the plainest words: a map, searched from end to end.

use std::collections::BTreeMap;

use tonic::Code;

use crate::{
    labels::{self, Labels},
    store::Kind,
};

#[derive(Debug, Default)]
pub(super) struct Model(BTreeMap<String, Row>);

#[derive(Debug)]
struct Row {
    parent: String,
    kind: Kind,
    remote: bool,
    labels: Labels,
}

impl Row {
    fn new(parent: &str, kind: Kind, remote: bool, labels: &Labels) -> Self {
        Self { parent: parent.to_owned(), kind, remote, labels: kept(labels, remote) }
    }
}

fn kept(labels: &Labels, remote: bool) -> Labels {
    let mut kept: Labels =
        labels.iter().filter(|(_, value)| !value.is_empty()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if remote {
        kept.insert(labels::REMOTE.to_owned(), labels::REMOTE_VALUE.to_owned());
    }
    kept
}

impl Model {
    pub(super) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn get(&self, name: &str) -> (&str, Kind, &Labels) {
        let row = &self.0[name];
        (&row.parent, row.kind, &row.labels)
    }

    pub(super) fn ancestors(&self, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut parent = self.0[name].parent.clone();
        while !parent.is_empty() {
            let next = self.0[&parent].parent.clone();
            names.push(parent);
            parent = next;
        }
        names
    }

    fn check_new(&self, key: &str, parent: &str) -> Result<(), Code> {
        match self.0.get(parent) {
            _ if parent.is_empty() => {}
            None => return Err(Code::NotFound),
            Some(row) if row.kind != Kind::Committed => return Err(Code::InvalidArgument),
            Some(_) => {}
        }
        if self.0.contains_key(key) { Err(Code::AlreadyExists) } else { Ok(()) }
    }

    pub(super) fn create(
        &mut self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<(), Code> {
        if key.is_empty() {
            return Err(Code::InvalidArgument);
        }
        self.check_new(key, parent)?;
        self.0.insert(key.to_owned(), Row::new(parent, kind, false, labels));
        Ok(())
    }

    pub(super) fn insert_remote(&mut self, key: &str, parent: &str, target: &str) -> Result<(), Code> {
        if key.is_empty() || target.is_empty() {
            return Err(Code::InvalidArgument);
        }
        if self.0.contains_key(target) {
            return Err(Code::AlreadyExists);
        }
        self.check_new(key, parent)?;
        self.0.insert(target.to_owned(), Row::new(parent, Kind::Committed, true, &Labels::new()));
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        key: &str,
        name: &str,
        parent: &str,
        labels: &Labels,
    ) -> Result<(), Code> {
        if name.is_empty() {
            return Err(Code::InvalidArgument);
        }
        if self.0.contains_key(name) {
            return Err(Code::AlreadyExists);
        }
        let row = self.0.get(key).ok_or(Code::NotFound)?;
        if row.kind != Kind::Active {
            return Err(Code::FailedPrecondition);
        }
        if !row.parent.is_empty() && !parent.is_empty() && row.parent != parent {
            return Err(Code::InvalidArgument);
        }
        let parent = if row.parent.is_empty() { parent } else { &row.parent }.to_owned();
        if !parent.is_empty() {
            match self.0.get(&parent) {
                None => return Err(Code::NotFound),
                Some(_) if parent == key => return Err(Code::NotFound),
                Some(row) if row.kind != Kind::Committed => return Err(Code::FailedPrecondition),
                Some(_) => {}
            }
        }
        self.0.remove(key);
        self.0.insert(name.to_owned(), Row::new(&parent, Kind::Committed, false, labels));
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &str) -> Result<(), Code> {
        if !self.0.contains_key(key) {
            return Err(Code::NotFound);
        }
        if self.0.values().any(|row| row.parent == key) {
            return Err(Code::FailedPrecondition);
        }
        self.0.remove(key);
        Ok(())
    }

    pub(super) fn update(&mut self, name: &str, labels: &Labels, paths: &[String]) -> Result<(), Code> {
        let row = self.0.get_mut(name).ok_or(Code::NotFound)?;
        let mut changed = if paths.is_empty() { labels.clone() } else { row.labels.clone() };
        for path in paths {
            match path.split_once('.') {
                None if path == "labels" => changed = labels.clone(),
                Some(("labels", key)) => {
                    changed.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
                }
                _ => return Err(Code::InvalidArgument),
            }
        }
        row.labels = kept(&changed, row.remote);
        Ok(())
    }
}
