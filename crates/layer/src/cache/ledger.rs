//! What each layer on disk takes, and when it was used last: plain data, from which follows what to give up first.

use std::collections::HashMap;

use format::Digest;

use crate::image::Taken;

/// One layer on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub taken: Taken,
    /// Seconds since 1970.
    pub used: u64,
}

/// All layers on disk.
#[derive(Debug, Default)]
pub(crate) struct Ledger(HashMap<Digest, Entry>);

impl Ledger {
    /// Notes what a layer takes. A use is never forgotten by an older one.
    pub fn note(&mut self, digest: Digest, taken: Taken, used: u64) {
        self.0.entry(digest).or_default();
        self.update(&digest, taken, used);
    }

    /// The same for a layer that may have gone meanwhile.
    pub fn update(&mut self, digest: &Digest, taken: Taken, used: u64) {
        if let Some(entry) = self.0.get_mut(digest) {
            *entry = Entry { taken, used: entry.used.max(used) };
        }
    }

    /// Notes that a layer is gone. Returns what it took.
    pub fn forget(&mut self, digest: &Digest) -> Taken {
        self.0.remove(digest).unwrap_or_default().taken
    }

    /// What all of them take together.
    pub fn total(&self) -> Taken {
        self.0.values().fold(Taken::default(), |sum, entry| Taken {
            bytes: sum.bytes + entry.taken.bytes,
            inodes: sum.inodes + entry.taken.inodes,
        })
    }

    /// The layers, least recently used first.
    pub fn by_age(&self) -> Vec<(Digest, Entry)> {
        let mut all: Vec<_> = self.0.iter().map(|(digest, entry)| (*digest, *entry)).collect();
        all.sort_unstable_by_key(|(digest, entry)| (entry.used, *digest));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_comes_first() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|name| Digest::of(name));
        let taken = |bytes| Taken { bytes, inodes: 5 };
        let mut ledger = Ledger::default();
        ledger.note(a, taken(10), 100);
        ledger.note(b, taken(20), 50);
        ledger.note(c, taken(30), 70);
        ledger.note(b, taken(25), 200);
        ledger.note(a, taken(11), 0);
        let order: Vec<_> = ledger.by_age().into_iter().map(|(digest, entry)| (digest, entry.used)).collect();
        assert_eq!(order, [(c, 70), (a, 100), (b, 200)]);
        assert_eq!(ledger.total(), Taken { bytes: 66, inodes: 15 });
        assert_eq!(ledger.forget(&c).bytes, 30);
        assert_eq!(ledger.forget(&c).bytes, 0);
        ledger.update(&c, taken(99), 300);
        assert_eq!(ledger.total().bytes, 36);
    }
}
