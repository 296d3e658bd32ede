//! What is kept, by whom it is served, and what is to be given up when. No clock and no I/O in here.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::wire::Status;

/// More than all programs of a node need together.
const ENTRIES_MAX: usize = 64;

/// The number of a connection to the keeper.
pub(crate) type Client = u64;

/// One descriptor.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
    pub(crate) meta: Vec<u8>,
    /// Number of the FUSE connection; 0 for none.
    pub(crate) connection: u32,
    service: Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    By(Client),
    NobodySince(Instant),
}

impl Entry {
    pub(crate) fn new(name: String, fd: OwnedFd, meta: Vec<u8>, connection: u32) -> Entry {
        Entry { name, fd, meta, connection, service: Service::By(0) }
    }

    /// For how long nobody has served it.
    pub(crate) fn unserved(&self, now: Instant) -> Duration {
        match self.service {
            Service::By(_) => Duration::ZERO,
            Service::NobodySince(since) => now.saturating_duration_since(since),
        }
    }
}

/// The descriptors of a keeper.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    deadline: Duration,
}

impl Table {
    /// A table that gives up what is not served for as long as `deadline`.
    pub(crate) fn new(deadline: Duration) -> Table {
        Table { entries: Vec::new(), deadline }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps a descriptor for `client`, in the place of the one that had the name. The time for which nobody has served
    /// that one counts on, unless `served` says that it is over.
    pub(crate) fn keep(&mut self, client: Client, mut entry: Entry, served: bool, now: Instant) -> Status {
        entry.service = if served { Service::By(client) } else { Service::NobodySince(now) };
        let full = self.entries.len() >= ENTRIES_MAX;
        match self.entries.iter_mut().find(|known| known.name == entry.name) {
            Some(known) => {
                match known.service {
                    Service::By(other) if other != client => return Status::Busy,
                    Service::NobodySince(_) if !served => entry.service = known.service,
                    _ => {}
                }
                *known = entry;
            }
            None if full => return Status::Full,
            None => self.entries.push(entry),
        }
        Status::Done
    }

    /// The descriptor of that name, unless somebody else serves it.
    pub(crate) fn take(&self, client: Client, name: &str) -> Result<&Entry, Status> {
        let entry = self.entries.iter().find(|entry| entry.name == name).ok_or(Status::Unknown)?;
        match entry.service {
            Service::By(other) if other != client => Err(Status::Busy),
            _ => Ok(entry),
        }
    }

    /// Lets go of a descriptor.
    pub(crate) fn forget(&mut self, client: Client, name: &str) -> Status {
        if let Err(status) = self.take(client, name) {
            return status;
        }
        self.entries.retain(|entry| entry.name != name);
        Status::Done
    }

    /// A connection has ended: nobody serves its descriptors from now on.
    pub(crate) fn gone(&mut self, client: Client, now: Instant) {
        for entry in &mut self.entries {
            if entry.service == Service::By(client) {
                entry.service = Service::NobodySince(now);
            }
        }
    }

    /// Takes out what has to be given up.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Entry> {
        let deadline = self.deadline;
        let late = |entry: &Entry| {
            matches!(entry.service, Service::NobodySince(_)) && entry.unserved(now) >= deadline
        };
        self.entries.extract_if(.., |entry| late(entry)).collect()
    }

    /// How long until something has to be given up; `None` if everything is served.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        let waiting = self.entries.iter().filter(|entry| matches!(entry.service, Service::NobodySince(_)));
        waiting.map(|entry| self.deadline.saturating_sub(entry.unserved(now))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn entry(name: &str) -> Entry {
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        Entry::new(name.to_owned(), fd, Vec::new(), 0)
    }

    #[test]
    fn what_its_server_left_is_given_up_at_the_deadline_and_not_before() {
        let mut table = Table::new(10 * SECOND);
        let start = Instant::now();
        assert_eq!(table.keep(1, entry("a"), true, start), Status::Done);
        assert_eq!(
            (table.patience(start + 99 * SECOND), table.expired(start + 99 * SECOND).len()),
            (None, 0)
        );
        table.gone(2, start);
        assert_eq!(table.patience(start), None);
        table.gone(1, start + 100 * SECOND);
        assert_eq!(table.patience(start + 103 * SECOND), Some(7 * SECOND));
        assert!(table.expired(start + 109 * SECOND).is_empty());
        assert_eq!(table.expired(start + 110 * SECOND)[0].name, "a");
        assert!(table.is_empty());
    }

    /// A successor that dies before it serves does not prolong the wait of the readers.
    #[test]
    fn taking_without_serving_does_not_stop_the_clock() {
        let mut table = Table::new(10 * SECOND);
        let start = Instant::now();
        table.keep(1, entry("a"), true, start);
        table.gone(1, start);
        let later = start + 8 * SECOND;
        assert_eq!(table.take(2, "a").unwrap().unserved(later), 8 * SECOND);
        table.gone(2, later);
        assert_eq!(table.keep(3, entry("a"), false, later), Status::Done);
        assert_eq!(table.patience(later), Some(2 * SECOND));
        assert_eq!(table.keep(3, entry("a"), true, later), Status::Done);
        assert_eq!(table.patience(later), None);
        table.gone(3, later);
        assert_eq!(table.patience(later), Some(10 * SECOND), "served in between: it begins anew");
    }

    #[test]
    fn nobody_gets_what_a_living_process_serves() {
        let mut table = Table::new(SECOND);
        let now = Instant::now();
        table.keep(1, entry("a"), true, now);
        assert_eq!(table.take(2, "a").unwrap_err(), Status::Busy);
        assert_eq!(table.keep(2, entry("a"), true, now), Status::Busy);
        assert_eq!(table.forget(2, "a"), Status::Busy);
        assert_eq!(table.forget(2, "b"), Status::Unknown);
        assert!(table.take(1, "a").is_ok());
        assert_eq!(table.keep(1, entry("a"), true, now), Status::Done, "its server may replace it");
        assert_eq!(table.forget(1, "a"), Status::Done);
        assert!(table.is_empty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut table = Table::new(SECOND);
        let now = Instant::now();
        for number in 0..ENTRIES_MAX {
            assert_eq!(table.keep(1, entry(&number.to_string()), true, now), Status::Done);
        }
        assert_eq!(table.keep(1, entry("one-more"), true, now), Status::Full);
        assert_eq!(table.keep(1, entry("3"), true, now), Status::Done, "a known name takes no room");
    }
}
